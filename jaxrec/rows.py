"""What XLA's compilers are slow or coarse at, written so that it is not: gathers and slices, in a branch of their own,
which ends every fusion on CPUs; lengths of rows, by a product; products, whose factors accelerators would round; and
whether there is an accelerator, for what is another program there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.types import Array


def accelerated() -> bool:
    """Whether arrays are made on a GPU or TPU, where large blocks pay and whatever the host takes part in costs."""
    return jax.default_backend() != "cpu"


def take(table: Array, ids: Array) -> Array:
    """`table[ids]`, the same bits: table [N, W], ids [..] int32 in 0 .. N-1 -> [.., W].

    XLA's CPU compiler works out the place of each element of a gather anew where several readers share the rows, 60 to
    100 ns for a row of 64 floats. A gather that only a multiplication in the same loop reads takes 10 to 15. So on a
    CPU the rows are multiplied by a 1 that the compiler doesn't know to be one, in a branch that it can't fuse with
    what comes after.

    >>> take(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1, 1, 0])).tolist()
    [[3.0, 4.0], [3.0, 4.0], [1.0, 2.0]]
    """
    if not ids.size:
        return table[ids]
    rows: Array = jax.lax.platform_dependent(table, ids, cpu=_take_apart, default=lambda table, ids: table[ids])
    return rows


def _take_apart(table: Array, ids: Array) -> Array:
    return _apart(lambda table, ids, one: table[ids] * one.astype(table.dtype), ids, table, ids)


def product(a: Array, b: Array) -> Array:
    """a @ b in float32 on every platform: GPUs would take factors of 10 bits (TF32), and TPUs of 7 (bfloat16).

    >>> product(jnp.array([[1.0, 2.0]]), jnp.array([3.0, 4.0])).tolist()
    [11.0]
    """
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def length(rows: Array) -> Array:
    """‖row‖ along the last axis, [.., W] -> [..], for reading: a zero row has no finite gradient.

    By a product with ones, since XLA's CPU compiler does not vectorise a sum over the last axis.

    >>> length(jnp.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [5.0, 0.0]
    """
    ones = jnp.ones(rows.shape[-1], rows.dtype)
    return jnp.sqrt(product(rows * rows, ones))


def root(squares: Array) -> Array:
    """√x of x >= 0, whose gradient at 0 is 0 where that of `jnp.sqrt` is infinite.

    >>> jax.vmap(jax.value_and_grad(root))(jnp.array([4.0, 0.0]))[1].tolist()
    [0.25, 0.0]
    """
    none = squares == 0
    return jnp.where(none, 0.0, jnp.sqrt(jnp.where(none, 1.0, squares)))


@jax.jit
def norm(rows: Array) -> Array:
    """‖row‖ along the last axis, [.., W] -> [..]; the gradient of a zero row is 0."""
    return root(jnp.sum(rows * rows, axis=-1))


def evened(rows: Array) -> Array:
    """Rows times powers of two, [.., W], so that the largest element of each is in [2, 4): squares neither vanish nor
    overflow, and what only reads directions has the bits that it had.

    >>> evened(jnp.array([[3.0, 4.0], [3e-30, 0.0], [0.0, 0.0]]))[0].tolist()
    [1.5, 2.0]
    """
    return rows * evening(rows)


def evening(rows: Array) -> Array:
    """What `evened` multiplies rows [.., W] by, [.., 1]; no gradient goes through it."""
    return power_of_two(jax.lax.stop_gradient(jnp.max(jnp.abs(rows), axis=-1, keepdims=True)))


def power_of_two(largest: Array) -> Array:
    """The power of two that brings sizes >= 0 to 2 .. 4; 1 for 0, for less than normal numbers, and for inf and NaN.

    >>> power_of_two(jnp.array([3.0, 12.0, 0.3, 0.0])).tolist()
    [1.0, 0.25, 8.0, 1.0]
    """
    some = (largest >= jnp.finfo(largest.dtype).tiny) & jnp.isfinite(largest)
    mantissa, _ = jnp.frexp(jnp.where(some, largest, 1.0))
    return jnp.where(some, 4.0 * mantissa / jnp.where(some, largest, 1.0), 1.0)  # the quotient is exact


def widened(rows: Array) -> Array:
    """Rows of 16 bits in float32, others as they are: sums in 16 bits overflow, and make different numbers equal."""
    return rows.astype(jnp.float32) if rows.dtype.itemsize < 4 else rows


def materialised(arrays: Any, ids: Array) -> Any:
    """The arrays as they are, on a CPU written out, so that what made them is not fused into what reads them.

    `ids` are some ids in 0 .. 2³¹ - 1 that are not known when this is compiled.
    """
    leaves, form = jax.tree.flatten(arrays)

    def apart(ids: Array, *leaves: Array) -> tuple[Array, ...]:
        return _apart(lambda *given: tuple(x * given[-1].astype(x.dtype) for x in given[:-1]), ids, *leaves)

    found = jax.lax.platform_dependent(ids, *leaves, cpu=apart, default=lambda ids, *leaves: leaves)
    return jax.tree.unflatten(form, found)


def _apart(function: Callable[..., Any], ids: Array, *operands: Array) -> Any:
    """function(*operands, one) in a branch; the compiler knows neither which one is taken nor that one is 1."""
    never = ids.ravel()[0].astype(jnp.int32) == jnp.iinfo(jnp.int32).min  # 0 is the least of unsigned ids
    one = jnp.where(never, 0.0, 1.0).astype(jnp.float32)
    shapes = jax.eval_shape(function, *operands, one)

    def nothing(*_: Array) -> Any:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    return jax.lax.cond(never, nothing, function, *operands, one)
