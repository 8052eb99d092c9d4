"""Spectral embeddings: the leading singular vectors of the normalised interactions, in a closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxrec.models.lightgcn import Graph, scaled_graph
from jaxrec.rows import product
from jaxrec.types import Array, Tables

if TYPE_CHECKING:
    from jaxrec.data.interactions import Interactions

RIDGE = 1e-6  # of a Gram matrix's trace; what float32 rounds away is no direction


def spectral(
    train: Interactions,
    width: int = 64,
    *,
    user_power: float = 0.35,
    item_power: float = 0.35,
    value_power: float = 0.5,
    rounds: int = 2,
    seed: int = 0,
) -> Tables:
    """Tables in a few sparse products: u_u = (U Σ^c)_u and v_i = V_i, where D_u^-a R D_i^-b ≈ U Σ Vᵀ.

    R are the interactions [U, I], D the counts of users and items, a, b and c the powers. a = b = ½ and c = 1 rank by
    the leading vectors of LightGCN's own normalisation (Shen et al. 2021, arXiv 2108.07567); smaller a and b leave more
    of the counts in the vectors, a smaller c lifts the weaker ones. The vectors are those of a random range, improved
    `rounds` times (Halko, Martinsson, Tropp 2011, arXiv 0909.4061, algorithm 4.4). The defaults were chosen on a
    validation part of Gowalla, where few rounds, which leave the smaller singular vectors inexact, ranked better than
    exact ones.

    Raises ValueError for no interactions, a width above the number of users or items, or rounds < 1.

    >>> from jaxrec.data import Interactions
    >>> tables = spectral(Interactions([0, 0, 1, 2], [0, 1, 1, 2], 3, 3), 2)
    >>> tables.user.shape, tables.item.shape
    ((3, 2), (3, 2))
    """
    want_width_and_rounds(train, width, rounds)
    graph = scaled_graph(train, user_power, item_power)
    start = jax.random.normal(jax.random.key(seed), (train.num_items, width))
    return leading_vectors(graph, start, value_power, rounds=rounds)


def want_width_and_rounds(train: Interactions, width: int, rounds: int) -> None:
    """ValueError where there is nothing to decompose, there are not so many vectors, or nothing is improved."""
    if not len(train):
        raise ValueError("there are no interactions to decompose")
    if not 1 <= width <= min(train.num_users, train.num_items):
        raise ValueError(
            f"width must be between 1 and the smaller number of {train.num_users} users and {train.num_items} items, "
            f"got {width}"
        )
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")


@jax.jit(static_argnames="rounds")
def leading_vectors(graph: Graph, start: Array, value_power: float, *, rounds: int) -> Tables:
    """U Σ^c and V, the largest first, in the range of (AᵀA)^rounds `start` [I, W], A [U, I] the graph's matrix."""
    def improve(_: int, basis: Array) -> Array:
        return _orthonormal(graph.to_items @ (graph.to_users @ basis))

    basis = jax.lax.fori_loop(0, rounds, improve, _orthonormal(start))
    basis = _orthonormal(basis)  # once more, since the first time leaves what rounding does to narrow directions
    users = graph.to_users @ basis
    squares, turn = jnp.linalg.eigh(_gram(users))
    squares, turn = squares[::-1], turn[:, ::-1]
    values = jnp.sqrt(jnp.maximum(squares, RIDGE * squares[0]))
    return Tables(product(users, turn * values[None, :] ** (value_power - 1.0)), product(basis, turn))


def _gram(rows: Array) -> Array:
    return jnp.einsum("nd,ne->de", rows, rows, precision="highest")


def _orthonormal(rows: Array) -> Array:
    """Columns that span those of [N, D] and are orthonormal, by Cholesky of their Gram matrix: two passes, no QR."""
    gram = _gram(rows)
    factor = jnp.linalg.cholesky(gram + RIDGE * jnp.trace(gram) * jnp.eye(len(gram)))
    turn = jax.scipy.linalg.solve_triangular(factor, jnp.eye(len(gram)), lower=True)
    return product(rows, turn.T)
