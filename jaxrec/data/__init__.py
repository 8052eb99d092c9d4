"""Data: interactions, the readers that make them, splits, the registry of named sets and a generator."""

from __future__ import annotations

from jaxrec.data.interactions import DataError, Interactions, Split, contains, same_space, union
from jaxrec.data.pairs import compact, from_pairs, k_core, reindex

__all__ = [
    "DataError",
    "Interactions",
    "Split",
    "compact",
    "contains",
    "from_pairs",
    "k_core",
    "reindex",
    "same_space",
    "union",
]
