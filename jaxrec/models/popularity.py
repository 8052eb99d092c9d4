"""The most popular items: the model that every other one has to pass, and a check of the evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxrec.types import Tables

if TYPE_CHECKING:
    from jaxrec.data.interactions import Interactions


def most_popular(train: Interactions) -> Tables:
    """s_ui = n_i, the number of training interactions of the item: user [U, 1] of ones, item [I, 1].

    >>> from jaxrec.data import Interactions
    >>> most_popular(Interactions([0, 0, 1], [0, 1, 1], 2, 3)).item.ravel().tolist()
    [1.0, 2.0, 0.0]
    """
    return Tables(jnp.ones((train.num_users, 1)), jnp.asarray(train.item_counts, jnp.float32)[:, None])
