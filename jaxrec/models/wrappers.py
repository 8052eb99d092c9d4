"""Wrappers `Model -> Model` that change how rows are scored."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrec.models.base import Model
from jaxrec.types import Array


def unit(x: Array) -> Array:
    """x / ‖x‖ along the last axis; a zero row stays zero, and so does its gradient.

    In float32, ‖x‖ is to be between 1.1e-19 and 1.8e19, whose squares are numbers; other rows become zero rows. Where
    some may be, give `rows.evened(x)`: the same bits in that range, at 3 to 12 % of the time of a training step.

    >>> round(float(unit(jnp.array([3.0, 4.0]))[0]), 4)
    0.6
    """
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jnp.where(square > 0, jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def normalize(model: Model, *, users: bool = True, items: bool = False, temperature: float = 1.0) -> Model:
    """Scores with û = u/(τ‖u‖), and with v̂ = v/‖v‖ where `items` is set (Ren et al. 2022: users only).

    Only the embedding is normalised, never a bias. With neither side normalised, τ still divides the users' rows. A
    model with a `score` of its own gets û = u/‖u‖, and that score is divided by τ.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}; 1.0 leaves scores as they are")
    cut, score = model.vector_width, model.score

    def before(head: Callable[[Array], Array], do: bool, divisor: float) -> Callable[[Array], Array]:
        def wrapped(rows: Array) -> Array:
            vectors = (unit(rows[..., :cut]) if do else rows[..., :cut]) / divisor
            return head(jnp.concatenate([vectors, rows[..., cut:]], axis=-1) if rows.shape[-1] > cut else vectors)

        return wrapped if do or divisor != 1.0 else head

    return model._replace(
        user_head=before(model.user_head, users, temperature if score is None else 1.0),
        item_head=before(model.item_head, items, 1.0),
        score=None if score is None else lambda params, u, v: score(params, u, v) / temperature,
    )
