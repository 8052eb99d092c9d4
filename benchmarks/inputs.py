"""What every contender is given: interactions, by a name that travels between processes.

    gowalla-lightgcn   or any registered name: read as `jaxrec.data.load` does
    tail:U,I,E,SEED    a synthetic long tail of about E pairs
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from jaxrec import data
from jaxrec.data import DataError, Interactions, Split

GOWALLA = "gowalla-lightgcn"
LIKE_GOWALLA = "tail:29858,40981,810128,0"
CHUNK = 4_000_000  # pairs made at once, which bounds the memory of making them


def available() -> str:
    """Gowalla's name where its files are, otherwise that of a synthetic long tail of its size."""
    try:
        data.registry.find(GOWALLA, fetch=False)
    except DataError:
        return LIKE_GOWALLA
    return GOWALLA


def split(name: str) -> Split:
    """Training interactions and a natural test."""
    if not name.startswith("tail:"):
        return data.load(name).split
    users, items, pairs, seed = (int(part) for part in name.removeprefix("tail:").split(","))
    parts = data.hold_out_random(long_tail(users, items, pairs, seed=seed), 0.2, seed=seed)
    return Split(parts.train, {}, {"natural": parts.held}, parts.notes)


def train(name: str) -> Interactions:
    """The training interactions; all of a synthetic long tail, which is then not split."""
    if not name.startswith("tail:"):
        return split(name).train
    users, items, pairs, seed = (int(part) for part in name.removeprefix("tail:").split(","))
    return long_tail(users, items, pairs, seed=seed)


def long_tail(users: int, items: int, pairs: int, *, seed: int = 0, tail: float = 0.8) -> Interactions:
    """About `pairs` interactions, fewer by the repeats that are dropped: items ∝ rank^−tail, users log-normal.

    Ids are in no order of popularity. Pairs are made ordered by user, in chunks.
    """
    if not 0 < tail < 1:
        raise ValueError(f"tail must be between 0 and 1, got {tail}")
    rng = np.random.default_rng(seed)
    activity = rng.lognormal(sigma=1.0, size=users)
    counts = np.clip(np.round(activity * (pairs / activity.sum())), 1, max(items // 4, 1)).astype(np.int64)
    name = rng.permutation(items)
    keys = np.concatenate([_keys(rng, part, first, items, tail, name) for first, part in _chunks(counts)])
    return Interactions(keys // items, keys % items, users, items)


def _chunks(counts: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    ends = np.cumsum(counts)
    cuts = np.searchsorted(ends, np.arange(CHUNK, int(ends[-1]) + CHUNK, CHUNK), side="right")
    edges = np.unique(np.concatenate([[0], cuts, [len(counts)]]))
    for first, last in pairwise(edges):
        yield int(first), counts[first:last]


def _keys(
    rng: np.random.Generator, counts: np.ndarray, first: int, items: int, tail: float, name: np.ndarray
) -> np.ndarray:
    owners = np.repeat(np.arange(first, first + len(counts), dtype=np.int64), counts)
    uniform = rng.random(len(owners))
    rank = (1 + uniform * ((items + 1.0) ** (1 - tail) - 1)) ** (1 / (1 - tail)) - 1
    drawn = owners * items + name[np.minimum(rank.astype(np.int64), items - 1)]
    drawn.sort()
    return drawn[np.concatenate([[True], drawn[1:] != drawn[:-1]])]
