"""Baselines of tiers 2 and 3: the formula of each against a slow numpy reading of it, and at its limits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_interactions
from scipy.special import lambertw

from jaxrec import baselines, objectives, rank
from jaxrec import ledger as ledgers
from jaxrec.baselines import adap_tau, bc_loss, ccl, ddc, ipl, parts, pc, popgo, resn, tde, zerosum
from jaxrec.ledger import GradientLedger
from jaxrec.transforms import adjustment as adj
from jaxrec.types import Batch, Tables

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


@pytest.mark.parametrize("as_coded", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0, 1.3])
def test_pc_is_its_formula_and_what_the_authors_code(beta: float, bias: bool, as_coded: bool) -> None:
    tables = some_tables(bias=bias)
    before, n = all_scores(tables), COUNTS + 1 if as_coded else np.maximum(COUNTS, 1)
    wanted = np.zeros_like(before)
    for u in range(USERS):
        unit = np.sqrt(np.mean(before[u] ** 2)) if as_coded else 1.0
        c = np.array([(beta * before[u, i] / unit + 1 - beta) / n[i] for i in range(ITEMS)])
        wanted[u] = before[u] + 0.8 * c * np.linalg.norm(before[u]) / np.linalg.norm(c)
    found = pc.adjustment(0.8, COUNTS, beta=beta, as_coded=as_coded)(tables, empty_ledger())
    np.testing.assert_allclose(all_scores(found), wanted, rtol=2e-4, atol=1e-4)


def test_pc_as_coded_says_the_same_of_scores_on_any_scale() -> None:
    tables = some_tables(bias=False)
    louder = tables._replace(user=10.0 * tables.user)
    lists = [
        rank.top_k(pc.arm(COUNTS).adjust(jnp.array([0.5, 0.6]))(t, empty_ledger()), None, None, k=4).items
        for t in (tables, louder)
    ]
    np.testing.assert_array_equal(*lists)


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


def test_gradients_through_pc_and_ddc_are_finite_at_a_zero_row() -> None:
    tables = some_tables(bias=False)
    tables = Tables(tables.user.at[1].set(0.0), tables.item.at[2].set(0.0))
    scalars = ddc.Scalars(jnp.ones(USERS), jnp.ones(USERS))
    along = ddc.Directions(jnp.ones(tables.item.shape[1]), jnp.ones_like(tables.user))
    for make in (
        lambda a: pc.adjustment(a, COUNTS, beta=a),
        lambda a: pc.adjustment(a, COUNTS, beta=1.0),
        lambda a: pc.adjustment(a, COUNTS, beta=1.0, as_coded=True),
        lambda a: ddc.adjustment(scalars, along, popularity=a),
    ):

        def total(tables: Tables, strength: Any, make: Any = make) -> Any:
            found = adj.fold_bias(make(strength)(tables, empty_ledger()))
            return jnp.sum(jnp.sin(found.user @ found.item.T))

        for leaf in jax.tree.leaves(jax.grad(total, argnums=(0, 1))(tables, 0.3)):
            assert np.isfinite(leaf).all()


# adap_tau


def test_lambert_w_is_scipys() -> None:
    near = -np.exp(-1) + np.geomspace(1e-6, 0.3, 30)
    x = np.concatenate([near, np.linspace(-0.05, 0.05, 11), np.geomspace(0.1, 1e4)])
    np.testing.assert_allclose(adap_tau.lambert_w(jnp.asarray(x, jnp.float32)), lambertw(x).real, rtol=2e-3, atol=1e-6)
    away = x[30:]
    found = adap_tau.lambert_w(jnp.asarray(away, jnp.float32))
    np.testing.assert_allclose(found, lambertw(away).real, rtol=1e-5, atol=1e-7)
    assert adap_tau.lambert_w(jnp.array(-5.0)) == pytest.approx(-1, abs=1e-3)


def test_adap_tau_follows_a_slow_reading() -> None:
    rng, state = np.random.default_rng(0), adap_tau.init(USERS)
    running: dict[int, float] = {}
    near_by, far_by = adap_tau.GAP, 0.0
    counts = np.arange(1, USERS + 1)
    for _ in range(4):
        users, losses = rng.integers(0, USERS - 1, B), rng.uniform(0, 3, B)
        near, far = rng.uniform(0.5, 0.9, B), rng.uniform(-0.1, 0.1, B)
        counted = adap_tau.active(counts)[users]
        seen = [jnp.asarray(x, jnp.float32) for x in (losses, near, far)]
        state = adap_tau.observe(state, jnp.asarray(users), *seen, jnp.asarray(counted), momentum=0.7)
        for u in set(users.tolist()):
            mean = losses[users == u].mean()
            running[u] = 0.7 * running[u] + 0.3 * mean if u in running else mean
        if counted.any():
            near_by, far_by = 0.7 * near_by + 0.3 * near[counted].mean(), 0.7 * far_by + 0.3 * far[counted].mean()
    own = [n for n in counts if n > np.quantile(counts, 0.2)]
    c = np.log(len(own) * ITEMS / (2 * sum(own)))
    w0 = c / (near_by - far_by)
    assert adap_tau.contrast(counts, ITEMS) == pytest.approx(c)
    found_w0 = adap_tau.global_scale(state.positive - state.negative, c)
    np.testing.assert_allclose(found_w0, np.clip(w0, 1.0, 50.0), rtol=1e-5)
    average = np.mean(list(running.values()))
    wanted = np.full(USERS, 3.0)
    for u, value in running.items():
        x = (value - average) / 0.8
        wanted[u] = 3.0 * np.exp(-lambertw(x).real if x > -np.exp(-1) else 1.0)
    found = adap_tau.user_scales(state, jnp.arange(USERS), jnp.float32(3.0), beta=0.8)
    np.testing.assert_allclose(found, wanted, rtol=3e-3)
    assert found[USERS - 1] == pytest.approx(3.0, rel=1e-6)  # never seen


def test_adap_tau_has_one_scale_from_the_density_of_the_data() -> None:
    few, many = np.full(100, 5), np.full(100, 500)
    c = adap_tau.contrast(few, 1000)
    assert c == pytest.approx(np.log(1000 / 10))  # all users, since none has more than the fifth with the fewest
    assert adap_tau.global_scale(0.7, c) == pytest.approx(c / 0.7)
    assert adap_tau.global_scale(0.001, c) == pytest.approx(1 / adap_tau.LOW)
    assert adap_tau.contrast(many, 1000) == pytest.approx(0.0)
    assert adap_tau.global_scale(0.7, 0.0) == 1.0 / adap_tau.HIGH  # half of the cells are interactions


def test_a_wide_beta_keeps_one_temperature_for_all() -> None:
    state, w0 = adap_tau.init(USERS), jnp.float32(5.0)
    seen = state._replace(loss=jnp.arange(USERS, dtype=jnp.float32), seen=jnp.ones(USERS, bool))
    everybody = jnp.arange(USERS)
    same = adap_tau.user_scales(seen, everybody, w0, beta=np.inf)
    np.testing.assert_allclose(same, np.full(USERS, 5.0), rtol=1e-6)
    scales = adap_tau.user_scales(seen, everybody, w0)
    assert np.all(np.diff(scales) <= 0)  # the larger the loss, the larger the temperature
    assert scales[0] > 5 > scales[-1]


def test_adap_tau_scales_positives_by_w0_and_negatives_by_the_users_own() -> None:
    positive, negative, where = scores_of_a_batch()
    args = [jnp.asarray(x, jnp.float32) for x in (positive, negative)]
    scale = jnp.linspace(1.0, 3.0, B)
    found = adap_tau.scaled(objectives.softmax(), jnp.float32(2.0), scale)(*args, where=jnp.asarray(where))
    for b in range(B):
        others = [np.exp(float(scale[b]) * negative[b, k]) for k in range(K) if where[b, k]]
        own = np.exp(2.0 * positive[b])
        assert found[b] == pytest.approx(-np.log(own / (own + sum(others))), rel=1e-4)


@pytest.mark.parametrize("name", ["adap_tau", "ipl"])
def test_a_step_with_a_state_of_its_own_keeps_its_dtypes_in_float64(name: str) -> None:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        _, sampler, step = baselines.build(name, random_interactions(), width=4, batch_size=16)[:3]
        state = step.init(jax.random.key(0))
        batch = sampler.draw(sampler.data, state.key, jnp.int32(0))
        after = jax.eval_shape(step.update, state, batch)[0]
        assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)
        assert after.transform[1][0].dtype == jnp.float64


# ddc


def slow_preference(user: np.ndarray, item: np.ndarray, own: np.ndarray, share: float) -> np.ndarray:
    """The unit mean of the unit rows of the best-scored share of a user's items."""
    best = sorted(own, key=lambda i: -float(user @ item[i]))[: max(1, int(len(own) * share))]
    mean = np.mean([item[i] / np.linalg.norm(item[i]) for i in best], axis=0)
    return mean / np.linalg.norm(mean)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_the_directions_of_ddc_are_their_formulas(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ddc, "FEWEST", 2)
    monkeypatch.setattr(ddc, "PAIRS", 7)
    train = random_interactions(users=USERS, items=ITEMS)
    tables = some_tables()
    user, item = (np.asarray(x, np.float64) for x in tables[:2])
    rare, popular = np.sort(train.item_counts[train.item_counts > 0])[[2, -3]]
    low = (train.item_counts > 0) & (train.item_counts <= rare)
    d = item[train.item_counts >= popular].mean(0) - item[low].mean(0)
    along = ddc.directions(tables, train, rare=int(rare), popular=int(popular), share=share)
    np.testing.assert_allclose(along.popularity, d / np.linalg.norm(d), rtol=1e-4, atol=1e-5)
    for u in range(USERS):
        own = train.items[train.users == u]
        expected = slow_preference(user[u], item, own, share) if len(own) else np.zeros(user.shape[1])
        np.testing.assert_allclose(along.preference[u], expected, rtol=1e-4, atol=1e-5)


def test_ddc_takes_a_tenth_at_either_end_where_few_items_are_rare_or_popular() -> None:
    counts = np.array([0, 0] + list(range(1, 41)))
    low, high = ddc._ends(counts, 5, 100)
    assert (low.tolist(), high.tolist()) == ([2, 3, 4, 5], [38, 39, 40, 41])
    low, high = ddc._ends(counts, 12, 30)
    assert (low.tolist(), high.tolist()) == (list(range(2, 14)), list(range(31, 42)))


@pytest.mark.parametrize("given", [{"share": 0.0}, {"share": 1.5}, {"rare": 100}, {"rare": 0}])
def test_ddc_says_what_its_directions_want(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="ddc wants"):
        ddc.directions(some_tables(), random_interactions(users=USERS, items=ITEMS), **given)


def test_the_loss_of_ddc_is_its_formula_and_each_scalar_has_its_role() -> None:
    train, tables, rng = random_interactions(users=USERS, items=ITEMS), some_tables(), np.random.default_rng(0)
    along = ddc.directions(tables, train)
    a, b = rng.normal(size=USERS), rng.normal(size=USERS)
    users, positives, negatives = rng.integers(0, USERS, B), rng.integers(0, ITEMS, B), rng.integers(0, ITEMS, (B, K))
    batch = Batch(*(jnp.asarray(x, jnp.int32) for x in (users, positives, negatives)))
    scalars = ddc.Scalars(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    found = ddc.loss(scalars, tables, along, batch, l2=0.25)
    user, item = (np.asarray(x, np.float64) for x in tables[:2])
    for n, (u, i) in enumerate(zip(users, positives, strict=True)):
        length = np.linalg.norm(user[u])
        pull = (user[u] + length * b[u] * np.asarray(along.preference[u])) @ item[i]
        push = [(user[u] + length * a[u] * np.asarray(along.popularity)) @ item[j] for j in negatives[n]]
        bpr = np.mean([np.log1p(np.exp(s - pull)) for s in push])
        np.testing.assert_allclose(found[n], bpr + 0.25 * (a[u] ** 2 + b[u] ** 2), rtol=1e-3, atol=1e-5)


def test_ddc_finds_the_least_of_its_loss_leaves_the_base_alone_and_is_plain_at_strength_zero() -> None:
    train = random_interactions(users=USERS, items=ITEMS)
    tables = some_tables()
    along = ddc.directions(tables, train)
    scalars = ddc.fit(tables, train, key=jax.random.key(0), along=along, l2=0.05, batch_size=64)
    # The same problem over all pairs and all their possible negatives, by Newton's method a scalar at a time.
    known = np.zeros((USERS, ITEMS), bool)
    known[train.users, train.items] = True
    users, positives, others = np.nonzero(known[:, :, None] & ~known[:, None, :])
    weight = 1 / (~known).sum(1)[users]
    user, item = (np.asarray(x, np.float64) for x in tables[:2])
    length, d, p = np.linalg.norm(user, axis=1), np.asarray(along.popularity), np.asarray(along.preference)
    gap = np.einsum("nd,nd->n", user[users], item[others] - item[positives])
    by_a, by_b = length[users] * (item[others] @ d), -length[users] * np.einsum("nd,nd->n", p[users], item[positives])
    a, b = np.zeros(USERS), np.zeros(USERS)
    for _ in range(200):
        for x, slope in ((a, by_a), (b, by_b)):
            s = 1 / (1 + np.exp(-(gap + a[users] * by_a + b[users] * by_b)))
            first = np.bincount(users, weight * s * slope, USERS) + 0.1 * train.user_counts * x
            second = np.bincount(users, weight * s * (1 - s) * slope**2, USERS) + 0.1 * train.user_counts
            x -= np.clip(first / np.maximum(second, 1e-12), -1, 1)
    seen = train.user_counts > 0
    moved = a[:, None] * d + b[:, None] * p
    found = np.outer(scalars.popularity, d) + np.asarray(scalars.preference)[:, None] * p
    assert np.linalg.norm((found - moved)[seen]) < 0.05 * np.linalg.norm(moved[seen])
    arm = ddc.arm(scalars, along)
    np.testing.assert_array_equal(arm.adjust(jnp.zeros(2))(tables, empty_ledger()).user, tables.user)
    expected = user + length[:, None] * found
    np.testing.assert_allclose(
        ddc.adjustment(scalars, along)(tables, empty_ledger()).user, expected, rtol=1e-4, atol=1e-5
    )


# ipl


def deviation_of_rates(c: jax.Array, counts: np.ndarray, gamma: float) -> jax.Array:
    """std_i(c_i / n_i^{2−γ}) over items that somebody has, with I − 1."""
    some = counts > 0
    return jnp.std(c[some] / counts[some] ** (2.0 - gamma), ddof=1)


@pytest.mark.parametrize("gamma", [1.0, 1.5, 2.0])
def test_ipls_slopes_are_those_of_the_deviation(gamma: float) -> None:
    counts = np.array([0.0, 1.0, 3.0, 7.0, 20.0])
    rate = jnp.asarray([0.5, 0.9, 0.8, 0.4, 0.7])
    c = rate * counts
    wanted, slope = jax.value_and_grad(deviation_of_rates)(c, counts, gamma)
    found = ipl.slopes(rate, jnp.asarray(counts), gamma=gamma)
    np.testing.assert_allclose(found, slope, rtol=1e-5, atol=1e-7)
    assert jnp.sum(found * c) == pytest.approx(float(wanted), rel=1e-5)


def test_the_mean_row_of_ipl_has_the_gradient_of_its_formula() -> None:
    data, rng = random_interactions(), np.random.default_rng(1)
    user, item = (jnp.asarray(rng.normal(size=(n, 3)), jnp.float32) for n in (data.num_users, data.num_items))
    users, items, counts = jnp.asarray(data.users), jnp.asarray(data.items), data.item_counts.astype(np.float32)

    def shown(user: jax.Array, item: jax.Array) -> jax.Array:
        return jnp.zeros(data.num_items).at[items].add(jax.nn.sigmoid(jnp.sum(user[users] * item[items], axis=1)))

    def formula(user: jax.Array, item: jax.Array) -> jax.Array:
        return 0.3 * deviation_of_rates(shown(user, item), counts, 1.5)

    rate = shown(user, item) / np.maximum(counts, 1)
    slope = 0.3 * len(data) * ipl.slopes(rate, jnp.asarray(counts), gamma=1.5)[items]

    def mean_row(user: jax.Array, item: jax.Array) -> jax.Array:
        nothing = ipl.penalized(lambda p, n, **o: 0.0 * p, slope)
        return jnp.mean(nothing(jnp.sum(user[users] * item[items], axis=1), jnp.zeros((len(users), 1))))

    value, wanted = jax.value_and_grad(formula, argnums=(0, 1))(user, item)
    found, slopes = jax.value_and_grad(mean_row, argnums=(0, 1))(user, item)
    assert found == pytest.approx(float(value), rel=1e-4)
    for a, b in zip(slopes, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-6)


def test_ipl_has_no_slope_where_all_rates_are_the_same() -> None:
    np.testing.assert_array_equal(ipl.slopes(jnp.full(K, 0.5), jnp.ones(K), gamma=1.0), np.zeros(K))


def test_running_means_are_a_loop() -> None:
    rng = np.random.default_rng(2)
    old, seen, wanted, known = jnp.full(6, 0.5), jnp.zeros(6, bool), np.full(6, 0.5), np.zeros(6, bool)
    for _ in range(3):
        ids, values = rng.integers(0, 5, 7), rng.normal(size=7)
        old, seen = parts.running_means(old, seen, jnp.asarray(ids), jnp.asarray(values, jnp.float32), 0.8)
        for row in set(ids.tolist()):
            mean = values[ids == row].mean()
            wanted[row] = 0.8 * wanted[row] + 0.2 * mean if known[row] else mean
            known[row] = True
    np.testing.assert_allclose(old, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(seen, known)


# bc_loss, popgo, resn


def batch_of_pairs(seed: int = 0) -> tuple[Batch, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    users, positives, negatives = rng.integers(0, USERS, B), rng.integers(0, ITEMS, B), rng.integers(0, ITEMS, K)
    where = rng.random((B, K)) < 0.7
    ids = (jnp.asarray(x, jnp.int32) for x in (users, positives, negatives))
    return Batch(*ids, jnp.asarray(where)), users, positives, negatives


def slow_softmax(own: float, others: list[float]) -> float:
    return float(-np.log(np.exp(own) / (np.exp(own) + sum(np.exp(others)))))


def test_bc_loss_is_its_formula() -> None:
    positive, negative, _ = scores_of_a_batch()
    positive[:2] = [-0.99, 0.999]
    batch, users, positives, _ = batch_of_pairs()
    pop, where = some_tables(1), np.asarray(batch.where)
    args = [jnp.asarray(x, jnp.float32) for x in (positive, negative)]
    found = bc_loss.objective(pop, temperature=0.2, mix=0.3)(batch)(*args, where=batch.where)
    expected = all_scores(pop)
    for b in range(B):
        margin = 1 - sigmoid(expected[users[b], positives[b]])
        wide = np.cos(min(np.arccos(positive[b]) + margin, np.pi))
        others = [s / 0.2 for s in negative[b][where[b]]]
        wanted = 0.3 * slow_softmax(wide / 0.2, others) + 0.7 * slow_softmax(positive[b] / 0.2, others)
        np.testing.assert_allclose(found[b], wanted, rtol=1e-4, atol=1e-6)


def test_a_margin_has_a_finite_slope_everywhere() -> None:
    cosines = jnp.array([-1.0, -0.999, 0.0, 0.5, 1.0])
    slope = jax.vmap(jax.grad(bc_loss.widen), (0, None))(cosines, 0.5)
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(slope[:2], [0.0, 0.0])
    np.testing.assert_allclose(bc_loss.widen(cosines, jnp.float32(0.0))[1:4], cosines[1:4], rtol=1e-6)


def test_popgo_is_its_formula() -> None:
    positive, negative, _ = scores_of_a_batch()
    batch, users, positives, negatives = batch_of_pairs()
    pop, where = some_tables(1), np.asarray(batch.where)
    args = [jnp.asarray(x, jnp.float32) for x in (positive, negative)]
    found = popgo.objective(pop, temperature=0.2)(batch)(*args, where=batch.where)
    share = sigmoid(all_scores(pop))
    for b, u in enumerate(users):
        others = [negative[b, k] * share[u, j] / 0.2 for k, j in enumerate(negatives) if where[b, k]]
        own = positive[b] * share[u, positives[b]] / 0.2
        np.testing.assert_allclose(found[b], slow_softmax(own, others), rtol=1e-4)
    blank = popgo.objective(Tables(0 * pop.user, 0 * pop.item), temperature=0.2)(batch)(*args)
    np.testing.assert_allclose(blank, objectives.softmax()(args[0] / 0.4, args[1] / 0.4), rtol=1e-5)


def test_resn_is_its_formula_and_over_all_items_the_squared_norm() -> None:
    _, negative, _ = scores_of_a_batch()
    q = np.array([sum(negative[b, k] for b in range(B)) for k in range(K)])
    q /= np.linalg.norm(q)
    wanted = [ITEMS / K * sum(negative[b, k] * q[k] for k in range(K)) ** 2 for b in range(B)]
    np.testing.assert_allclose(resn.spectral_rows(jnp.asarray(negative, jnp.float32), ITEMS), wanted, rtol=1e-4)
    whole = jnp.sum(resn.spectral_rows(jnp.asarray(negative, jnp.float32), K))
    np.testing.assert_allclose(whole, np.linalg.norm(negative @ q) ** 2, rtol=1e-4)
    blank = jax.grad(lambda y: jnp.sum(resn.spectral_rows(y, ITEMS)))(jnp.zeros((B, K)))
    np.testing.assert_array_equal(blank, np.zeros((B, K)))


def test_no_gradient_flows_through_the_direction_of_the_spectral_norm() -> None:
    y = np.random.default_rng(0).normal(size=(3, 2))
    q = y.sum(0) / np.linalg.norm(y.sum(0))
    gradient = jax.grad(lambda y: jnp.sum(resn.spectral_rows(y, 2)))(jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(gradient, 2 * np.outer(y @ q, q), rtol=1e-4)
