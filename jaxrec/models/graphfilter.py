"""Graph filters: a user's history smoothed over the items' graph in a closed form, with nothing to train."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import rows
from jaxrec.models.lightgcn import Graph, normalized_graph
from jaxrec.models.spectral import leading_vectors, want_width_and_rounds
from jaxrec.types import Array, Scorer

if TYPE_CHECKING:
    from jaxrec.data.interactions import Interactions

ORDER = 4  # of the sharpening's series: one step of a Runge-Kutta method of that order
SPARE = 64  # vectors beyond those kept, which make the last ones of a random range more exact


def graph_filter(
    train: Interactions,
    *,
    width: int = 448,
    low_pass: float = 0.2,
    sharpening: float = 2.5,
    rounds: int = 10,
    seed: int = 0,
) -> Scorer:
    """s_u = x_u (P + β L) Σ_{k ≤ 4} (−T P)^k / k!, x_u the user's row of R; rank by `rank.top_k_scores`.

    P = ÃᵀÃ [I, I] blurs, Ã = D_u^-1/2 R D_i^-1/2, and L = D_i^-1/2 V Vᵀ D_i^1/2 is an ideal low pass, V the `width`
    leading right singular vectors of Ã, β = `low_pass`. T = `sharpening` is how long the blurred row is sharpened: the
    sum is one step of a fourth-order method for dx/dt = −x P (BSPM, Choi et al. 2023, arXiv 2211.09324; the defaults
    are their code's for Gowalla). With T = 0, β = .3 and width 256 it is GF-CF (Shen et al. 2021, arXiv 2108.07567).

    V comes from a random range, improved `rounds` times, as in `spectral`. Memory: 16 bytes an interaction, 4 I width
    bytes, and a few blocks of users x items while it ranks.

    Raises ValueError for no interactions, a width above the number of users or items, low_pass or sharpening < 0, or
    rounds < 1.

    >>> from jaxrec.data import Interactions
    >>> scores = graph_filter(Interactions([0, 0, 1], [0, 1, 1], 2, 3), width=1, sharpening=0.0).block(np.array([1]))
    >>> scores.shape
    (1, 3)
    """
    want_width_and_rounds(train, width, rounds)
    if low_pass < 0 or sharpening < 0:
        raise ValueError(f"low_pass and sharpening must be at least 0, got {low_pass} and {sharpening}")
    graph = normalized_graph(train)
    wide = min(width + SPARE, train.num_users, train.num_items)
    start = jax.random.normal(jax.random.key(seed), (train.num_items, wide))
    basis = leading_vectors(graph, start, 1.0, rounds=rounds).item[:, :width]
    length = jnp.sqrt(jnp.maximum(jnp.asarray(train.item_counts, jnp.float32), 1.0))[:, None]
    history = train.to_scipy()

    def block(users: np.ndarray) -> Array:
        seen = jnp.asarray(history[users].toarray().T, jnp.float32)
        return filtered(graph, basis, length, seen, low_pass, sharpening, order=ORDER if sharpening else 0).T

    return Scorer(train.num_users, train.num_items, block)


@jax.jit(static_argnames="order")
def filtered(
    graph: Graph, basis: Array, length: Array, seen: Array, low_pass: float, sharpening: float, *, order: int
) -> Array:
    """The filter on columns: histories [I, b] -> scores [I, b]. P is never made: each product with it is two with Ã.

    basis [I, W] has orthonormal columns; length [I, 1] is √n_i; order is that of the series.
    """

    def blur(columns: Array) -> Array:
        return graph.to_items @ (graph.to_users @ columns)

    low = length * rows.product(basis, rows.product(basis.T, seen / length))
    term = total = blur(seen) + low_pass * low
    for k in range(1, order + 1):
        term = blur(term) * (-sharpening / k)
        total = total + term
    return total
