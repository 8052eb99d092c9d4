"""Serving what was learned: new users folded in, filters, files of recommendations, tables for an index, a saved scorer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.data.interactions import Interactions
from jaxrec.models.wrappers import unit
from jaxrec.transforms.adjustment import fold_bias
from jaxrec.types import Array, Tables

CELLS = 4_000_000  # numbers of a block of gathered rows: 16 MB


def fold_in(
    item: Array,
    histories: Interactions | Sequence[Sequence[int]],
    *,
    item_bias: Array | None = None,
    score: Literal["dot", "cosine"] = "dot",
    ridge: float = 0.1,
    weight: float = 10.0,
) -> Array:
    """User rows [N, D] from histories alone, against item rows [I, D] that stay: for users the model never saw.

    dot: u = argmin Σ_i c_i (p_i − b_i − ⟨u, v_i⟩)² + λ‖u‖², with p_i = 1 and c_i = 1 + `weight` where i is in the
        history, p_i = 0 and c_i = 1 elsewhere, b_i the item bias, λ = `ridge` · Σ_i ‖v_i‖² / D (Hu, Koren, Volinsky
        2008, doi:10.1109/ICDM.2008.22). In closed form, (VᵀV + weight Σ_{i∈H} v_i v_iᵀ + λ1) u = rhs.
    cosine: the mean of the history's unit vectors, of length 1.

    `calibrate_fold_in` finds the ridge and the weight that give known users their own rows back. An empty history gives
    a zero row (without a bias).

    >>> fold_in(jnp.eye(3), [[0, 1], []], score="cosine").round(4).tolist()
    [[0.7071, 0.7071, 0.0], [0.0, 0.0, 0.0]]
    """
    if ridge <= 0 or weight < 0:
        raise ValueError(f"ridge must be positive and weight not negative, got {ridge} and {weight}")
    starts, items = _csr(histories, item.shape[0])
    out = np.zeros((len(starts) - 1, item.shape[1]), np.float32)
    if score == "cosine":
        rows = unit(item)
        for users, padded in _padded(starts, items, item.shape[1]):
            out[users] = np.asarray(_mean_rows(rows, padded))[: len(users)]
        return jnp.asarray(out)
    if score != "dot":
        raise ValueError(f"score must be 'dot' or 'cosine', got {score!r}")
    bias = jnp.zeros(item.shape[0]) if item_bias is None else item_bias
    gram = item.T @ item
    regular = gram + ridge * jnp.trace(gram) / item.shape[1] * jnp.eye(item.shape[1])
    for users, padded in _padded(starts, items, item.shape[1]):
        out[users] = np.asarray(_solve_rows(item, bias, regular, padded, jnp.float32(weight)))[: len(users)]
    return jnp.asarray(out)


class FoldIn(NamedTuple):
    """How to fold in, and how near that comes to the rows that a model has: the mean correlation of scores."""

    score: Literal["dot", "cosine"]
    ridge: float
    weight: float
    agreement: float


def calibrate_fold_in(
    tables: Tables, interactions: Interactions, *, users: int = 256, seed: int = 0
) -> FoldIn:
    """The ridge and the weight of `fold_in` that give known users back what the model scores for them.

    Compared on users drawn at random, by the correlation over all items of the scores of the folded-in row with those
    of the user's own row; the mean of unit vectors (`score="cosine"`) is a candidate, too.
    """
    folded = fold_bias(tables)
    active = np.flatnonzero(interactions.user_counts > 0)
    chosen = np.sort(np.random.default_rng(seed).choice(active, min(users, len(active)), replace=False))
    starts, items = interactions.csr()
    histories = [items[starts[u] : starts[u + 1]] for u in chosen]
    centred = folded.item - jnp.mean(folded.item, axis=0, keepdims=True)
    covariance = centred.T @ centred / folded.item.shape[0]
    own = folded.user[chosen]
    constant = [] if tables.item_bias is None else [own[:, -1:]]

    def agreement(rows: Array) -> float:
        rows = jnp.concatenate([rows, *constant], axis=1)
        both = jnp.sum((rows @ covariance) * own, axis=1)
        sizes = jnp.sum((rows @ covariance) * rows, axis=1) * jnp.sum((own @ covariance) * own, axis=1)
        return float(jnp.mean(both / jnp.sqrt(jnp.maximum(sizes, 1e-30))))

    best = FoldIn("cosine", 1.0, 0.0, agreement(fold_in(tables.item, histories, score="cosine")))
    for weight in (1.0, 10.0, 100.0, 1000.0):
        for ridge in (1e-3, 1e-2, 1e-1, 1.0):
            rows = fold_in(tables.item, histories, item_bias=tables.item_bias, ridge=ridge, weight=weight)
            found = FoldIn("dot", ridge, weight, agreement(rows))
            best = max(best, found, key=lambda f: f.agreement)
    return best


@jax.jit
def _mean_rows(item: Array, padded: Array) -> Array:
    own = item.at[padded].get(mode="fill", fill_value=0.0)
    return unit(jnp.sum(own, axis=1))


@jax.jit
def _solve_rows(item: Array, bias: Array, regular: Array, padded: Array, weight: Array) -> Array:
    own = item.at[padded].get(mode="fill", fill_value=0.0)  # [b, T, D]; rows beyond the history are 0
    own_bias = bias.at[padded].get(mode="fill", fill_value=0.0)
    left = regular[None] + weight * jnp.einsum("btd,bte->bde", own, own)
    right = jnp.einsum("bt,btd->bd", (1 + weight) * (1 - own_bias) + own_bias, own) - (bias @ item)[None]
    return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(left), True), right[..., None])[..., 0]


def _csr(histories: Interactions | Sequence[Sequence[int]], num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Row pointers [N+1] and items [E], validated."""
    if isinstance(histories, Interactions):
        if histories.num_items != num_items:
            raise ValueError(f"histories must be of the {num_items} items of the table, got {histories.num_items}")
        return histories.csr()
    lists = [np.asarray(h, np.int64).reshape(-1) for h in histories]
    items = np.concatenate([np.zeros(0, np.int64), *lists])
    if len(items) and not 0 <= items.min() <= items.max() < num_items:
        raise ValueError(f"items of a history must be in 0..{num_items - 1}, got {items.min()}..{items.max()}")
    return np.cumsum([0, *map(len, lists)]), items.astype(np.int32)


def _padded(starts: np.ndarray, items: np.ndarray, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of users of like history length, with their items padded by an id out of range."""
    lengths = np.diff(starts)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    at = 0
    while at < len(order):
        wide = 8
        while wide < lengths[order[at]]:
            wide *= 4
        block = max(1, min(1024, CELLS // (max(wide, width) * width)))
        users = order[at : at + block]
        users = users[lengths[users] <= wide]
        columns = np.arange(wide)
        inside = columns < lengths[users][:, None]
        padded = np.full((block, wide), np.iinfo(np.int32).max, np.int32)
        padded[: len(users)][inside] = items[(starts[users][:, None] + columns)[inside]]
        yield users, padded
        at += len(users)
