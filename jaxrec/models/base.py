"""A recommender as pure functions, cut so that its gradients can be read at the scored rows.

    params --tables--> user [U, W], item [I, W] --gather--> rows --heads--> scored rows [.., D] --inner product--> s

`tables` may mix all rows (propagation over a graph); the heads act on each row alone (normalising, appending biases).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.types import Array, Params, Tables


def identity(rows: Array) -> Array:
    """Returns the rows as they are."""
    return rows


class Model(NamedTuple):
    """A model that ranks by inner products, as pure functions of explicit parameters.

    `width` is D, the width of a *scored* row, of whose raw row the first `vector_width` columns are the embedding (the
    rest are biases, which wrappers leave alone). `tables_are_params` promises that `tables(params)` is
    `(params["user"], params["item"])`, which lets a step update only the rows that it touched. An L2 penalty looks at
    the batch's rows of `penalized(params)`, or of `tables(params)` where that is None.
    """

    num_users: int
    num_items: int
    width: int
    vector_width: int
    init: Callable[[Array], Params]  # typed key -> params
    tables: Callable[[Params], tuple[Array, Array]]  # -> [U, W], [I, W]
    user_head: Callable[[Array], Array] = identity  # [.., W] -> [.., D]
    item_head: Callable[[Array], Array] = identity
    tables_are_params: bool = False
    penalized: Callable[[Params], tuple[Array, Array]] | None = None  # -> [U, W], [I, W]


def rows(model: Model, params: Params, users: Array, items: Array) -> tuple[Array, Array]:
    """The scored rows of users [..] and items [..]: ([.., D], [.., D])."""
    user, item = model.tables(params)
    return model.user_head(user[users]), model.item_head(item[items])


def embed(model: Model, params: Params) -> Tables:
    """The scored rows of everybody: what ranking ranks."""
    user, item = model.tables(params)
    return Tables(model.user_head(user), model.item_head(item))


def pair_scores(users: Array, items: Array) -> Array:
    """<u_b, v_b>: [B, D], [B, D] -> [B]."""
    return jnp.sum(users * items, axis=-1)


def candidate_scores(users: Array, items: Array) -> Array:
    """<u_b, v_k>: users [B, D] with shared items [K, D], or with items of their own [B, K, D] -> [B, K]."""
    if items.ndim == 2:
        return _shared_scores(users, items)
    return jnp.einsum("bd,bkd->bk", users, items)


@jax.custom_vjp
def _shared_scores(users: Array, items: Array) -> Array:
    return users @ items.T


def _shared_forward(users: Array, items: Array) -> tuple[Array, tuple[Array, Array]]:
    return users @ items.T, (users, items)


def _shared_backward(rows: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    users, items = rows
    # The tall transposed product gᵀ u takes a slow path on CPUs, three times that of uᵀ g; the barrier keeps the
    # compiler from turning one into the other.
    by_item = jax.lax.optimization_barrier(jnp.einsum("bd,bk->dk", users, g)).T
    return g @ items, by_item


_shared_scores.defvjp(_shared_forward, _shared_backward)
