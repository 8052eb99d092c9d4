"""The words of the library: the letters, and the arrays that travel between its parts.

Letters used in every docstring and field comment: U users, I items, E interactions, B rows of a batch,
K negatives a row, D width of a scored vector, k cut-off of a ranking.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.brief import brief

Array = jax.Array
Params = Any  # a pytree of arrays


class Batch(NamedTuple):
    """What one step of training sees; `negatives` is private to each row or shared by all of them.

    Users are [B], one a row, or [B/R], each with R rows one after the other, so that a user's row is read and written
    once for all of them.
    """

    users: Array  # [B] or [B/R] int32
    positives: Array  # [B] int32
    negatives: Array  # [B, K] own, or [K] shared, int32
    where: Array | None = None  # [B, K] bool, False where a negative must not count
    log_q: Array | None = None  # as negatives: log of the expected number of draws of each negative, a row

    @property
    def rows_per_user(self) -> int:
        """R, which the shapes tell."""
        return len(self.positives) // len(self.users)

    def want_shapes(self) -> None:
        """ValueError where the arrays do not fit each other, which would be broadcast or read as something else.

        >>> Batch(jnp.arange(2), jnp.arange(2), jnp.ones((2, 3), int), where=jnp.ones((2, 1), bool)).want_shapes()
        Traceback (most recent call last):
            ...
        ValueError: a batch of 2 rows and 3 negatives wants where of shape (2, 3), got (2, 1)
        """
        users, rows, own = (jnp.shape(ids) for ids in self[:3])
        if not (len(users) == len(rows) == 1 and users[0] and rows[0] and rows[0] % users[0] == 0):
            raise ValueError(f"a batch wants users [B] or [B/R] and positives [B], got shapes {users} and {rows}")
        number = own[-1] if own else 0
        if number < 1 or own not in ((number,), (*rows, number)):
            wanted = f"negatives [K] or [{rows[0]}, K], K >= 1"
            raise ValueError(f"a batch of {rows[0]} rows wants {wanted}, got shape {own}")
        told = f"a batch of {rows[0]} rows and {number} negatives wants"
        if self.where is not None and jnp.shape(self.where) != (*rows, number):
            raise ValueError(f"{told} where of shape {(*rows, number)}, got {jnp.shape(self.where)}")
        if self.where is not None and not jnp.issubdtype(jnp.result_type(self.where), jnp.bool_):
            raise ValueError(f"{told} where of bool, got {jnp.result_type(self.where)}")
        if self.log_q is not None and jnp.shape(self.log_q) != own:
            raise ValueError(f"{told} log_q of the negatives' shape {own}, got {jnp.shape(self.log_q)}")

    def by_row(self) -> Batch:
        """The batch with a user for each row, [B].

        >>> Batch(jnp.array([3, 1]), jnp.array([5, 6, 7, 8]), jnp.array([[2], [2], [4], [4]])).by_row().users.tolist()
        [3, 3, 1, 1]
        """
        return self if self.rows_per_user == 1 else self._replace(users=jnp.repeat(self.users, self.rows_per_user))


def want_batch(batch: Any) -> None:
    """TypeError for what is no `Batch`, such as a plain tuple; ValueError where its arrays do not fit each other.

    >>> want_batch(([0], [1], [2]))
    Traceback (most recent call last):
        ...
    TypeError: a sampler's draw must give a jaxrec.types.Batch, got a tuple
    """
    if not isinstance(batch, Batch):
        raise TypeError(f"a sampler's draw must give a jaxrec.types.Batch, got a {type(batch).__name__}")
    batch.want_shapes()


class Tables(NamedTuple):
    """What ranking ranks and what adjustments adjust.

    score(u, i) = <user_u, item_i> + bias_strength_u * item_bias_i, the bias left out where it is None and the
    strength 1 where it is None.

    >>> import jax.numpy as jnp
    >>> Tables(jnp.ones((2, 3)), jnp.ones((4, 3))).item.shape
    (4, 3)
    """

    user: Array  # [U, D]
    item: Array  # [I, D]
    item_bias: Array | None = None  # [I]
    bias_strength: Array | None = None  # [U]

    def __repr__(self) -> str:
        return brief(self)


class Scorer(NamedTuple):
    """What ranking ranks for models that don't score by tables: a function of a block of users.

    >>> import numpy as np
    >>> Scorer(2, 3, lambda users: np.ones((len(users), 3), np.float32)).block(np.array([1])).shape
    (1, 3)
    """

    num_users: int
    num_items: int
    block: Callable[[np.ndarray], Any]  # users [b] int32 -> scores [b, I] float32
