"""Row-sparse optimisers: update the rows that a batch touched, in place, and read no others.

Each is `RowOptimizer(init, update)`; `update(table, state, ids, gradients)` takes the gradient of every *occurrence*
of a row ([R] ids with repeats, [R, W] gradients), sums those of the same row, and updates that row once. So they
equal their dense namesakes wherever an untouched row would not move in the dense form: SGD and Adagrad always, Adam
when every row is touched in each step (`row_adam` is lazy: a row's moments and its bias correction advance only in
the steps that touch it).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.names import want_number
from jaxrec.rows import take
from jaxrec.types import Array

Rate = float | Callable[[Array], Any]  # a constant, or an optax schedule


class RowOptimizer(NamedTuple):
    """A pair of pure functions: `init(table)`, `update(table, state, ids, gradients) -> (table, state)`."""

    init: Callable[[Array], Any]
    update: Callable[[Array, Any, Array, Array], tuple[Array, Any]]


def _want_rate(rate: Rate) -> None:
    """ValueError for a constant that is no finite number from 0; schedules and traced rates are not looked at."""
    if not callable(rate) and not isinstance(rate, jax.core.Tracer):
        want_number("rate", rate, least=0.0)


def _rate(rate: Rate, step: Array) -> Array:
    return jnp.asarray(rate(step) if callable(rate) else rate, float)


def sum_by_row(slots: Array, ids: Array, gradients: Array) -> tuple[Array, Array, Array]:
    """Sums the gradients of each distinct row: -> (slots, target ids [R], sums [R, W]).

    `slots` [N] int32 is scratch of any content: every occurrence writes its position there, and whichever one is left
    stands for the row. Entries that stand for no row get the id N, which scatters drop. No sort, no pass over N.
    """
    positions = jnp.arange(ids.shape[0], dtype=jnp.int32)
    slots = slots.at[ids].set(positions)
    stands = slots[ids]
    sums = jnp.zeros_like(gradients).at[stands].add(gradients)
    return slots, jnp.where(stands == positions, ids, slots.shape[0]), sums


def _present(table: Array, target: Array) -> Array:
    """The rows that `sum_by_row` tells to update; the last row for its entries that stand for none."""
    return take(table, jnp.minimum(target, table.shape[0] - 1))


class SgdState(NamedTuple):
    """The step, for a schedule of rates."""

    step: Array  # []


def row_sgd(rate: Rate) -> RowOptimizer:
    """v ← v − η g. Equals `optax.sgd` on the dense gradient. ValueError for a rate that is no number from 0."""
    _want_rate(rate)

    def init(table: Array) -> SgdState:
        return SgdState(jnp.zeros((), jnp.int32))

    def update(table: Array, state: SgdState, ids: Array, gradients: Array) -> tuple[Array, SgdState]:
        change = -_rate(rate, state.step) * gradients
        return table.at[ids].add(change.astype(table.dtype)), SgdState(state.step + 1)

    return RowOptimizer(init, update)


class AdagradState(NamedTuple):
    """The accumulated squares of gradients."""

    step: Array  # []
    square: Array  # [N, W], or [N] by row
    slots: Array  # [N] scratch of `sum_by_row`


def row_adagrad(rate: Rate, *, by_row: bool = False, initial: float = 0.1, eps: float = 1e-7) -> RowOptimizer:
    """h ← h + g², v ← v − η g/√(h + ε) (Duchi et al. 2011). Equals `optax.adagrad` on the dense gradient.

    `by_row` keeps one h a row, h ← h + mean(g²): 1/W of the memory, and directions of gradients kept. ValueError for
    a rate, `initial` or ε that is no number from 0.
    """
    _want_rate(rate)
    want_number("initial", initial, least=0.0)
    want_number("eps", eps, least=0.0)

    def init(table: Array) -> AdagradState:
        shape = table.shape[:1] if by_row else table.shape
        return AdagradState(
            jnp.zeros((), jnp.int32), jnp.full(shape, initial), jnp.zeros(table.shape[0], jnp.int32)
        )

    def update(table: Array, state: AdagradState, ids: Array, gradients: Array) -> tuple[Array, AdagradState]:
        slots, target, grad = sum_by_row(state.slots, ids, gradients)
        fresh = jnp.mean(grad * grad, axis=-1) if by_row else grad * grad
        square = state.square.at[target].add(fresh, mode="drop")
        seen = _present(square, target)
        scale = jax.lax.rsqrt(seen + eps)
        if initial == 0.0:  # what has had no gradient yet is left where it is
            scale = jnp.where(seen > 0, scale, 0.0)
        change = -_rate(rate, state.step) * grad * (scale[:, None] if by_row else scale)
        table = table.at[target].add(change.astype(table.dtype), mode="drop")
        return table, AdagradState(state.step + 1, square, slots)

    return RowOptimizer(init, update)


class AdamState(NamedTuple):
    """The moments of gradients, and how often each row was touched."""

    step: Array  # []
    mean: Array  # [N, W]
    square: Array  # [N, W]
    touched: Array  # [N] steps that touched the row
    slots: Array  # [N] scratch of `sum_by_row`


def _bias_correction(b: float, count: Array) -> Array:
    """1 − bᵗ by way of an exponential: XLA would take a power, which costs more, for every element."""
    return -jnp.expm1(count * math.log(b)) if b > 0 else jnp.ones_like(count)


def row_adam(rate: Rate, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> RowOptimizer:
    """Lazy Adam (Kingma & Ba 2015, arXiv 1412.6980): moments of a row advance only when it is touched.

    The bias correction of a row counts the steps that touched it. Equals `optax.adam` when every step touches all rows.
    ValueError for a rate or ε that is no number from 0, and for b1 or b2 outside [0, 1).
    """
    _want_rate(rate)
    for name, value in (("b1", b1), ("b2", b2)):
        want_number(name, value, least=0.0, below=1.0)
    want_number("eps", eps, least=0.0)

    def init(table: Array) -> AdamState:
        n = table.shape[0]
        return AdamState(
            jnp.zeros((), jnp.int32),
            jnp.zeros_like(table),
            jnp.zeros_like(table),
            jnp.zeros(n, jnp.int32),
            jnp.zeros(n, jnp.int32),
        )

    def update(table: Array, state: AdamState, ids: Array, gradients: Array) -> tuple[Array, AdamState]:
        slots, target, grad = sum_by_row(state.slots, ids, gradients)
        touched = state.touched.at[target].add(1, mode="drop")
        count = _present(touched, target)[:, None].astype(float)
        mean = b1 * _present(state.mean, target) + (1 - b1) * grad
        square = b2 * _present(state.square, target) + (1 - b2) * grad * grad
        first, second = _bias_correction(b1, count), _bias_correction(b2, count)
        change = -_rate(rate, state.step) * (mean / first) / (jnp.sqrt(square / second) + eps)
        state = AdamState(
            state.step + 1,
            state.mean.at[target].set(mean, mode="drop"),
            state.square.at[target].set(square, mode="drop"),
            touched,
            slots,
        )
        return table.at[target].add(change.astype(table.dtype), mode="drop"), state

    return RowOptimizer(init, update)


def frozen() -> RowOptimizer:
    """Leaves the table as it is: for reading gradients off a trained model without training it."""

    def init(table: Array) -> tuple[()]:
        return ()

    def update(table: Array, state: tuple[()], ids: Array, gradients: Array) -> tuple[Array, tuple[()]]:
        return table, state

    return RowOptimizer(init, update)
