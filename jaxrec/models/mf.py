"""Matrix factorisation: a vector for each user and item, and optional biases."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.models.base import Model, identity
from jaxrec.names import want_whole
from jaxrec.types import Array, Params


def mf(num_users: int, num_items: int, width: int = 64, *, scale: float = 0.1, biases: bool = False) -> Model:
    """s_ui = <u, v_i>, with `biases` + b_u + b_i (Koren, Bell, Volinsky, 2009, IEEE Computer 42(8)).

    Vectors start as N(0, scale²/W), so that a row's norm is about `scale`; biases start at 0 and live in a last column
    of the tables. The heads turn that column into a pair of columns, [u, b_u, 1] and [v, 1, b_i], so that a biased
    model still ranks by one inner product and every reading of gradients keeps its meaning.

    >>> model = mf(3, 5, 4, biases=True)
    >>> params = model.init(jax.random.key(0))
    >>> params["item"].shape, model.width
    ((5, 5), 6)
    """
    want_whole("width", width)
    extra = int(biases)

    def init(key: Array) -> Params:
        keys = jax.random.split(key, 2)
        tables = (
            jnp.pad(scale / width**0.5 * jax.random.normal(k, (n, width)), ((0, 0), (0, extra)))
            for k, n in zip(keys, (num_users, num_items), strict=True)
        )
        return dict(zip(("user", "item"), tables, strict=True))

    def user_head(rows: Array) -> Array:
        return jnp.concatenate([rows, jnp.ones_like(rows[..., :1])], axis=-1)

    def item_head(rows: Array) -> Array:
        return jnp.concatenate([rows[..., :-1], jnp.ones_like(rows[..., :1]), rows[..., -1:]], axis=-1)

    return Model(
        num_users=num_users,
        num_items=num_items,
        width=width + 2 * extra,
        vector_width=width,
        init=init,
        tables=lambda params: (params["user"], params["item"]),
        user_head=user_head if biases else identity,
        item_head=item_head if biases else identity,
        tables_are_params=True,
    )
