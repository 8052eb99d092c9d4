"""Data: interactions, the readers that make them, splits, the registry of named sets and a generator."""

from __future__ import annotations

from jaxrec.data.formats import from_frame, from_matrix, from_scipy, read, write
from jaxrec.data.interactions import DataError, Interactions, Split, contains, same_space, union
from jaxrec.data.lines import read_lines, read_lines_together, write_lines
from jaxrec.data.pairs import compact, from_pairs, k_core, reindex
from jaxrec.data.registry import REGISTRY, Dataset, load
from jaxrec.data.splits import (
    carve,
    five_way,
    given,
    hold_out_after,
    hold_out_last,
    hold_out_random,
    hold_out_uniform,
)
from jaxrec.data.synthetic import synthetic

__all__ = [
    "REGISTRY",
    "DataError",
    "Dataset",
    "Interactions",
    "Split",
    "carve",
    "compact",
    "contains",
    "five_way",
    "from_frame",
    "from_matrix",
    "from_pairs",
    "from_scipy",
    "given",
    "hold_out_after",
    "hold_out_last",
    "hold_out_random",
    "hold_out_uniform",
    "k_core",
    "load",
    "read",
    "read_lines",
    "read_lines_together",
    "reindex",
    "same_space",
    "synthetic",
    "union",
    "write",
    "write_lines",
]
