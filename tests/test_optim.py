"""Row-sparse optimisers against their dense namesakes and a numpy loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrec import optim

N, W = 8, 3


def steps(seed: int, *, all_rows: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(5):
        ids = rng.integers(0, N, 12)
        if all_rows:
            ids = np.concatenate([np.arange(N), ids])
        found.append((ids.astype(np.int32), rng.normal(size=(len(ids), W)).astype(np.float32)))
    return found


def run_rows(optimizer: optim.RowOptimizer, table: jax.Array, batches: list) -> jax.Array:
    state = optimizer.init(table)
    update = jax.jit(optimizer.update)
    for ids, gradients in batches:
        table, state = update(table, state, jnp.asarray(ids), jnp.asarray(gradients))
    return table


def run_dense(optimizer: optax.GradientTransformation, table: jax.Array, batches: list) -> jax.Array:
    """The dense form; optax itself promotes dtypes, so strictness is off here."""
    with jax.numpy_dtype_promotion("standard"):
        return _run_dense(optimizer, table, batches)


def _run_dense(optimizer: optax.GradientTransformation, table: jax.Array, batches: list) -> jax.Array:
    state = optimizer.init(table)
    for ids, gradients in batches:
        dense = jnp.zeros_like(table).at[ids].add(gradients)
        change, state = optimizer.update(dense, state, table)
        table = optax.apply_updates(table, change)
    return table


CASES: list[tuple[Callable[..., optim.RowOptimizer], Callable[..., optax.GradientTransformation], bool]] = [
    (optim.row_sgd, optax.sgd, False),
    (optim.row_adagrad, optax.adagrad, False),
    (optim.row_adam, optax.adam, True),
    (
        partial(optim.row_adagrad, initial=0.5, eps=0.01),
        partial(optax.adagrad, initial_accumulator_value=0.5, eps=0.01),
        False,
    ),
    (partial(optim.row_adam, b1=0.5, b2=0.9, eps=0.1), partial(optax.adam, b1=0.5, b2=0.9, eps=0.1), True),
]


@pytest.mark.parametrize(("rows", "dense", "all_rows"), CASES)
@pytest.mark.parametrize("schedule", [False, True])
def test_equals_the_dense_namesake(rows: Callable, dense: Callable, all_rows: bool, schedule: bool) -> None:
    rate = optax.exponential_decay(0.1, 1, 0.5) if schedule else 0.1
    table = jax.random.normal(jax.random.key(0), (N, W))
    batches = steps(1, all_rows=all_rows)
    found = run_rows(rows(rate), table, batches)
    np.testing.assert_allclose(found, run_dense(dense(rate), table, batches), rtol=1e-4, atol=1e-6)
    assert not np.allclose(found, table)


@pytest.mark.parametrize(("rows", "dense", "all_rows"), CASES)
def test_tables_of_float64_are_updated_in_float64(rows: Callable, dense: Callable, all_rows: bool) -> None:
    with jax.enable_x64(True):
        table = jax.random.normal(jax.random.key(0), (N, W))
        batches = [(ids, gradients.astype(np.float64)) for ids, gradients in steps(1, all_rows=all_rows)]
        found, wanted = run_rows(rows(0.1), table, batches), run_dense(dense(0.1), table, batches)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-12)


ADAGRAD = {by_row: optim.row_adagrad(0.1, by_row=by_row) for by_row in (False, True)}  # each is compiled once


@given(st.integers(0, 2**31), st.booleans())
def test_adagrad_equals_a_loop_over_rows(seed: int, by_row: bool) -> None:
    table = np.random.default_rng(seed).normal(size=(N, W)).astype(np.float32)
    batches = steps(seed, all_rows=False)
    wanted, square = table.astype(np.float64), np.full((N, 1 if by_row else W), 0.1)
    for ids, gradients in batches:
        for row in np.unique(ids):
            g = gradients[ids == row].astype(np.float64).sum(0)
            square[row] += (g * g).mean() if by_row else g * g
            wanted[row] -= 0.1 * g / np.sqrt(square[row] + 1e-7)
    found = run_rows(ADAGRAD[by_row], jnp.asarray(table), batches)
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)


def test_lazy_adam_equals_adam_that_only_sees_the_steps_that_touch_the_row() -> None:
    table = jax.random.normal(jax.random.key(0), (N, W))
    batches = steps(4, all_rows=False)
    found = run_rows(optim.row_adam(0.1), table, batches)
    for row in range(N):
        own = [(np.zeros(1, np.int32), g[ids == row].sum(0, keepdims=True)) for ids, g in batches if (ids == row).any()]
        alone = run_dense(optax.adam(0.1), table[row : row + 1], own)
        np.testing.assert_allclose(found[row], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [optim.row_adagrad, optim.row_adam])
def test_untouched_rows_keep_their_bits(make: Callable) -> None:
    table = jax.random.normal(jax.random.key(0), (N, W))
    found = run_rows(make(0.1), table, [(np.array([2, 2], np.int32), np.ones((2, W), np.float32))])
    np.testing.assert_array_equal(np.delete(found, 2, 0), np.delete(table, 2, 0))
    assert not np.array_equal(found[2], table[2])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "rows", [optim.row_sgd(0.1), optim.row_adagrad(0.1), optim.row_adagrad(0.1, by_row=True), optim.row_adam(0.1)]
)
def test_tables_of_bfloat16_take_changes_of_their_own_dtype(rows: optim.RowOptimizer) -> None:
    batches = [(ids, np.asarray(g, jnp.bfloat16)) for ids, g in steps(1, all_rows=True)]
    with jax.numpy_dtype_promotion("standard"):
        found = run_rows(rows, jnp.ones((N, W), jnp.bfloat16), batches)
    assert found.dtype == jnp.bfloat16
    assert np.isfinite(found.astype(jnp.float32)).all()


def test_frozen_changes_nothing() -> None:
    table = jnp.ones((N, W))
    np.testing.assert_array_equal(run_rows(optim.frozen(), table, steps(0, all_rows=True)), table)


def test_adagrad_that_starts_from_nothing_leaves_what_had_no_gradient() -> None:
    rows, table = optim.row_adagrad(0.1, initial=0.0, eps=0.0), jnp.ones((2, 2))
    found, _ = rows.update(table, rows.init(table), jnp.array([0]), jnp.array([[0.0, 3.0]]))
    np.testing.assert_allclose(found, [[1.0, 0.9], [1.0, 1.0]], rtol=1e-6)


def ids_of(size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, N - 1), min_size=size, max_size=size)


@given(st.sampled_from([1, 5, 30]).flatmap(ids_of), st.lists(st.integers(0, 99), min_size=N, max_size=N))
def test_sum_by_row_sums_each_row_once_whatever_is_in_the_slots(ids: list[int], scratch: list[int]) -> None:
    rows = jnp.asarray(ids, jnp.int32)
    gradients = jnp.arange(1.0, len(ids) + 1)[:, None]
    _, target, sums = optim.sum_by_row(jnp.asarray(scratch, jnp.int32), rows, gradients)
    kept = np.asarray(target) < N
    assert sorted(np.asarray(target)[kept].tolist()) == sorted(set(ids))
    found = dict(zip(np.asarray(target)[kept].tolist(), np.asarray(sums)[kept, 0].tolist(), strict=True))
    assert found == {row: sum(n + 1.0 for n, i in enumerate(ids) if i == row) for row in set(ids)}


@pytest.mark.parametrize("kind", [optim.row_sgd, optim.row_adagrad, optim.row_adam])
@pytest.mark.parametrize("rate", [-0.1, float("nan"), float("inf"), True, "x", None])
def test_a_rate_that_is_no_number_from_0_is_refused(kind: Callable[..., optim.RowOptimizer], rate: object) -> None:
    with pytest.raises(ValueError, match="rate must be a finite number from 0"):
        kind(rate)


@pytest.mark.parametrize("options", [{"b1": 1.0}, {"b2": -0.1}, {"eps": -1e-8}])
def test_moments_outside_their_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be a finite number from 0.0"):
        optim.row_adam(0.1, **options)


@pytest.mark.parametrize("options", [{"initial": -1.0}, {"eps": float("inf")}])
def test_squares_that_start_below_0_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be a finite number from 0.0"):
        optim.row_adagrad(0.1, **options)


def test_rates_may_be_arrays_schedules_and_traced() -> None:
    table, ids, gradients = jnp.ones((N, W)), jnp.array([1]), jnp.ones((1, W))

    def after(rate: optim.Rate) -> jax.Array:
        optimizer = optim.row_sgd(rate)
        return optimizer.update(table, optimizer.init(table), ids, gradients)[0][1, 0]

    rates = jnp.array([0.25, 0.5])
    np.testing.assert_array_equal(jax.vmap(after)(rates), 1 - rates)  # type: ignore[arg-type]
    assert after(rates[0]) == after(lambda step: 0.25) == 0.75  # type: ignore[arg-type]
