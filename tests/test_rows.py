"""`rows.take` is `table[ids]` to the bit, and so are its gradient and what `materialised` leaves as it is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import rows

IDS = jnp.array([[3, 0], [3, 3], [1, 4]], jnp.int32)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int32])
@pytest.mark.parametrize("shape", [(5, 4), (5,)])
def test_take_has_the_bits_of_indexing(shape: tuple[int, ...], dtype: jnp.dtype, jit: bool) -> None:
    table = (1e3 * jax.random.normal(jax.random.key(0), shape)).astype(dtype)
    take = jax.jit(rows.take) if jit else rows.take
    found = take(table, IDS)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.asarray(table)[np.asarray(IDS)])


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.uint32, jnp.int8])
def test_ids_of_any_integers_are_ids(dtype: jnp.dtype) -> None:
    table, ids = jax.random.normal(jax.random.key(0), (5, 4)), jnp.array([0, 3, 0]).astype(dtype)
    np.testing.assert_array_equal(rows.take(table, ids), np.asarray(table)[[0, 3, 0]])
    np.testing.assert_array_equal(rows.materialised(table, ids), table)


def test_take_of_nothing_is_empty() -> None:
    assert rows.take(jnp.ones((5, 4)), jnp.zeros(0, jnp.int32)).shape == (0, 4)


def test_values_that_are_no_numbers_pass_through() -> None:
    table = jnp.array([[jnp.nan, jnp.inf], [-jnp.inf, -0.0]])
    found = np.asarray(jax.jit(rows.take)(table, jnp.array([1, 0])))
    np.testing.assert_array_equal(found, np.asarray(table)[[1, 0]])
    assert np.signbit(found[0, 1])


def test_the_gradient_adds_up_rows_that_repeat() -> None:
    table, by_rows = jnp.ones((5, 4)), jax.random.normal(jax.random.key(1), (3, 2, 4))
    found = jax.jit(jax.grad(lambda t: jnp.sum(rows.take(t, IDS) * by_rows)))(table)
    wanted = np.zeros((5, 4), np.float32)
    np.add.at(wanted, np.asarray(IDS), np.asarray(by_rows))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_materialised_arrays_keep_their_bits_and_form() -> None:
    arrays = {"a": jax.random.normal(jax.random.key(2), (7,)), "b": (jnp.arange(3), jnp.array([-jnp.inf]))}
    found = jax.jit(rows.materialised)(arrays, IDS)
    assert jax.tree.structure(found) == jax.tree.structure(arrays)
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(arrays), strict=True):
        np.testing.assert_array_equal(left, right)
