"""Baselines of tiers 2 and 3: each against a slow numpy reading of its formula, at its limits, and in a short fit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import ledger as ledgers
from jaxrec import objectives, rank
from jaxrec.baselines import ccl, pc, tde, zerosum
from jaxrec.ledger import GradientLedger
from jaxrec.transforms import adjustment as adj
from jaxrec.types import Tables

USERS, ITEMS, D, B, K = 7, 9, 4, 6, 5


def sigmoid(x: np.ndarray | float) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def scores_of_a_batch(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, B), rng.uniform(-1, 1, (B, K)), rng.random((B, K)) < 0.7


def some_tables(seed: int = 0, *, bias: bool = False) -> Tables:
    rng = np.random.default_rng(seed)
    values = [jnp.asarray(rng.normal(0.3, 1, (n, D)), jnp.float32) for n in (USERS, ITEMS)]
    if not bias:
        return Tables(*values)
    return Tables(
        *values, jnp.asarray(rng.normal(size=ITEMS), jnp.float32), jnp.asarray(rng.random(USERS), jnp.float32)
    )


def all_scores(tables: Tables) -> np.ndarray:
    user, item = (np.asarray(x, np.float64) for x in adj.fold_bias(tables)[:2])
    return user @ item.T


def empty_ledger() -> GradientLedger:
    return ledgers.init(USERS, ITEMS, D)


COUNTS = np.array([50, 20, 9, 5, 3, 2, 1, 1, 0])


# ccl


def slow_ccl(s: float, others: np.ndarray, margin: float, weight: float) -> float:
    pushed = [max(0.0, x - margin) for x in others]
    return 1 - s + weight * (sum(pushed) / len(pushed) if pushed else 0.0)


def test_ccl_is_its_formula() -> None:
    positive, negative, where = scores_of_a_batch()
    args = (jnp.asarray(positive, jnp.float32), jnp.asarray(negative, jnp.float32))
    found = ccl.objective(margin=0.2, weight=3.0)(*args, where=jnp.asarray(where))
    wanted = [slow_ccl(positive[b], negative[b][where[b]], 0.2, 3.0) for b in range(B)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_ccl_without_weight_only_pulls() -> None:
    positive, negative, _ = scores_of_a_batch()
    found = ccl.objective(weight=0.0)(jnp.asarray(positive, jnp.float32), jnp.asarray(negative, jnp.float32))
    np.testing.assert_allclose(found, 1 - positive, rtol=1e-5)


@pytest.mark.parametrize("options", [{"margin": 2.0}, {"weight": -1.0}])
def test_ccl_says_what_it_wants(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="ccl wants a margin"):
        ccl.objective(**options)


# zerosum


def test_zerosum_is_its_formula() -> None:
    positive, negative, where = scores_of_a_batch()
    found = zerosum.objective(weight=0.7)(
        jnp.asarray(positive, jnp.float32), jnp.asarray(negative, jnp.float32), where=jnp.asarray(where)
    )
    for b in range(B):
        terms = [
            0.7 * -np.log(sigmoid(positive[b] - s)) / 2 + 0.3 * -np.log(1 - np.tanh(abs(positive[b] + s))) / 2
            for s in negative[b][where[b]]
        ]
        np.testing.assert_allclose(found[b], np.mean(terms), rtol=1e-5)


def test_zerosum_with_all_weight_on_bpr_is_half_of_it_and_far_scores_stay_finite() -> None:
    positive, negative, _ = (jnp.asarray(x, jnp.float32) for x in scores_of_a_batch())
    half = zerosum.objective(weight=1.0)(positive, negative)
    np.testing.assert_allclose(half, objectives.bpr()(positive, negative) / 2, rtol=1e-6)
    value, slope = jax.value_and_grad(lambda x: jnp.sum(zerosum.objective()(x, x[:, None])))(jnp.array([300.0]))
    assert np.isfinite(value)
    assert np.isfinite(slope).all()


def test_zerosum_says_what_it_wants() -> None:
    with pytest.raises(ValueError, match=r"w in \[0, 1\], got 1.5"):
        zerosum.objective(weight=1.5)


# pc


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_pc_is_its_formula(beta: float, bias: bool) -> None:
    tables = some_tables(bias=bias)
    before, n = all_scores(tables), np.maximum(COUNTS, 1)
    wanted = np.zeros_like(before)
    for u in range(USERS):
        c = np.array([(beta * before[u, i] + 1 - beta) / n[i] for i in range(ITEMS)])
        wanted[u] = before[u] + 0.8 * c * np.linalg.norm(before[u]) / np.linalg.norm(c)
    found = pc.adjustment(0.8, COUNTS, beta=beta)(tables, empty_ledger())
    np.testing.assert_allclose(all_scores(found), wanted, rtol=2e-4, atol=1e-4)


def test_pc_of_strength_zero_is_the_plain_model() -> None:
    tables = some_tables(bias=True)
    assert pc.adjustment(0, COUNTS)(tables, empty_ledger()) is tables
    arm = pc.arm(COUNTS)
    found = jax.jit(lambda s: arm.adjust(s)(tables, empty_ledger()))(jnp.array([0.0, 0.5]))
    np.testing.assert_allclose(all_scores(found), all_scores(tables), rtol=1e-5)


# tde


def test_tde_is_its_formula_and_its_arm_says_the_same() -> None:
    tables, ledger = some_tables(), empty_ledger()
    seen = np.array([3.0, 0, 1, 5, 2, 2, 9])
    pull = ledger.users.pull._replace(events=jnp.asarray(seen, jnp.float32))
    ledger = ledger._replace(users=ledger.users._replace(pull=pull))
    user, item = np.asarray(tables.user, np.float64), np.asarray(tables.item, np.float64)
    mean = sum(n * row for n, row in zip(seen, user, strict=True)) / seen.sum()
    d, before = mean / np.linalg.norm(mean), all_scores(tables)
    wanted = [[before[u, i] - 1.5 * (user[u] @ d) * (d @ item[i]) for i in range(ITEMS)] for u in range(USERS)]
    np.testing.assert_allclose(all_scores(tde.adjustment(1.5)(tables, ledger)), wanted, rtol=1e-4, atol=1e-5)
    arm = tde.arm(tables, ledger)
    assert arm.change is not None
    strengths = jnp.array([1.5])
    np.testing.assert_allclose(all_scores(arm.adjust(strengths)(tables, ledger)), wanted, rtol=1e-4, atol=1e-5)
    changed = arm.change(strengths).apply(jnp.asarray(before, jnp.float32), jnp.arange(USERS))
    np.testing.assert_allclose(changed, wanted, rtol=1e-4, atol=1e-5)


def test_tde_of_strength_zero_is_the_plain_model_and_a_blank_ledger_counts_everybody_once() -> None:
    tables = some_tables()
    assert tde.adjustment(0)(tables, empty_ledger()) is tables
    mean = np.asarray(tables.user).mean(0)
    np.testing.assert_allclose(tde.direction(tables, empty_ledger()), mean / np.linalg.norm(mean), rtol=1e-5)


def test_the_running_mean_of_settled_rows_tends_to_the_direction() -> None:
    rng, tables = np.random.default_rng(0), some_tables()
    mean = jnp.zeros(D)
    for _ in range(100):
        mean = tde.running_mean(mean, tables.user[rng.permutation(USERS)], momentum=0.9)
    d = np.asarray(mean) / np.linalg.norm(mean)
    np.testing.assert_allclose(d, tde.direction(tables, empty_ledger()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("adjust", [pc.adjustment(0.5, COUNTS), tde.adjustment(0.5)])
def test_adjusted_tables_rank(adjust: adj.Adjustment) -> None:
    lists = rank.top_k(adjust(some_tables(), empty_ledger()), np.arange(USERS), [], k=3)
    assert lists.items.shape == (USERS, 3)
