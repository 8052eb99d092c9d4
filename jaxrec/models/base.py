"""A recommender as pure functions, cut so that its gradients can be read at the scored rows.

    params --tables--> user [U, W], item [I, W] --gather--> rows --heads--> scored rows [.., D] --inner product--> s

`tables` may mix all rows (propagation over a graph); the heads act on each row alone (normalising, appending biases).
A model with a `score` of its own (a network of both rows) has that in the inner product's place, and no tables to rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.rows import product
from jaxrec.types import Array, Params, Scorer, Tables

PAIRS = 1 << 17  # of a block that `scorer` scores at once: 32 MB a layer that is 64 wide

Score = Callable[[Params, Array, Array], Array]


def identity(rows: Array) -> Array:
    """Returns the rows as they are."""
    return rows


class Model(NamedTuple):
    """A model as pure functions of explicit parameters; it ranks by inner products unless it has a `score`.

    `width` is D, the width of a *scored* row, of whose raw row the first `vector_width` columns are the embedding (the
    rest are biases, which wrappers leave alone). `tables_are_params` promises that `tables(params)` is
    `(params["user"], params["item"])`, which lets a step update only the rows that it touched. An L2 penalty looks at
    the batch's rows of `penalized(params)`, or of `tables(params)` where that is None.

    `score(params, users [.., D], items [.., D]) -> [..]` takes scored rows of equal rank and broadcasts over all axes
    but the last. What it reads of `params` gets a dense gradient, so `tables_are_params` stays False.
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
    score: Score | None = None  # None: the inner product


def rows(model: Model, params: Params, users: Array, items: Array) -> tuple[Array, Array]:
    """The scored rows of users [..] and items [..]: ([.., D], [.., D])."""
    user, item = model.tables(params)
    return model.user_head(user[users]), model.item_head(item[items])


def embed(model: Model, params: Params) -> Tables:
    """The scored rows of everybody: what ranking ranks. ValueError for a model with a `score` of its own."""
    if model.score is not None:
        raise ValueError(
            "this model's scores are no inner products, so it has no tables to rank or adjust; "
            "rank by models.scorer(model, params) and rank.top_k_scores"
        )
    return Tables(*_scored(model, params))


def scorer(model: Model, params: Params, *, item_bias: Array | None = None) -> Scorer:
    """s_ui + bias_i of any model, a block of users at a time, for `rank.top_k_scores`; `item_bias` [I] is 0 if None.

    Each user's row meets all items, which takes I times the width of the model's hidden layers in operations.

    >>> model = Model(2, 3, 1, 1, lambda key: {}, lambda params: (jnp.ones((2, 1)), jnp.ones((3, 1))))
    >>> scorer(model, {}, item_bias=jnp.arange(3.0)).block(jnp.array([1])).tolist()
    [[1.0, 2.0, 3.0]]
    """
    if item_bias is not None and item_bias.shape != (model.num_items,):
        raise ValueError(f"item_bias must have shape ({model.num_items},), a number an item, got {item_bias.shape}")
    score = _inner_product if model.score is None else model.score

    @jax.jit
    def block(params: Params, user: Array, item: Array, bias: Array | None, users: Array) -> Array:
        at_once = max(1, min(PAIRS // model.num_items, users.shape[0]))
        found = jax.lax.map(lambda row: score(params, row[None, :], item), user[users], batch_size=at_once)
        return found if bias is None else found + bias[None, :]

    tables = _scored(model, params)
    return Scorer(model.num_users, model.num_items, lambda users: block(params, *tables, item_bias, jnp.asarray(users)))


def _scored(model: Model, params: Params) -> tuple[Array, Array]:
    user, item = model.tables(params)
    return model.user_head(user), model.item_head(item)


def _inner_product(params: Params, users: Array, items: Array) -> Array:
    return jnp.sum(users * items, axis=-1)


def pair_scores(users: Array, items: Array) -> Array:
    """<u_b, v_b>: [B, D], [B, D] -> [B]; users may be [B/R, D], with R items each, one after the other."""
    if len(users) != len(items):
        return _own_scores(users, items)
    return jnp.sum(users * items, axis=-1)


def candidate_scores(users: Array, items: Array) -> Array:
    """<u_b, v_k>: users [B, D] with shared items [K, D], or with items of their own [B, K, D] -> [B, K].

    Users with items of their own may be [B/R, D], with R rows of items each.
    """
    if items.ndim == 2:
        return _shared_scores(users, items)
    if len(users) != len(items):
        return _own_scores(users, items.reshape(-1, items.shape[-1])).reshape(items.shape[:2])
    return jnp.einsum("bd,bkd->bk", users, items, precision="highest")


def _own_scores(users: Array, items: Array) -> Array:
    """Each user by as many items: [G, D], [G N, D] -> [G N], a small product a user."""
    by_user = items.reshape(len(users), -1, items.shape[-1])
    return jnp.einsum("gd,gnd->gn", users, by_user, precision="highest").ravel()


@jax.custom_vjp
def _shared_scores(users: Array, items: Array) -> Array:
    return product(users, items.T)


def _shared_forward(users: Array, items: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(users, items.T), (users, items)


def _shared_backward(rows: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    users, items = rows
    # The tall transposed product gᵀ u takes a slow path on CPUs, three times that of uᵀ g; the barrier keeps the
    # compiler from turning one into the other.
    by_item = jax.lax.optimization_barrier(jnp.einsum("bd,bk->dk", users, g, precision="highest")).T
    return product(g, items), by_item


_shared_scores.defvjp(_shared_forward, _shared_backward)
