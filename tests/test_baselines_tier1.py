"""Baselines of tier 1: each against a slow numpy reading of its formula, at its limits, and in a short fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import random_interactions

from jaxrec import baselines, models, objectives, optim, presets, samplers, select
from jaxrec.baselines import base, cause, dice, ips, macr, pd, samreg, strata
from jaxrec.baselines.parts import on_backbone
from jaxrec.data import Interactions
from jaxrec.data.synthetic import synthetic
from jaxrec.gradients import RowObjective, ScoredRows
from jaxrec.presets import Settings
from jaxrec.step import Step, make_row_step, make_step
from jaxrec.train import make_epoch
from jaxrec.transforms import adjustment as adj
from jaxrec.types import Batch, Scorer, Tables

USERS, ITEMS, D, B, K = 30, 20, 4, 6, 3
TRAIN = random_interactions()
COUNTS = TRAIN.item_counts
KNOWN = TRAIN.to_scipy().toarray() > 0
TIER1 = ("ips", "ips-c", "ips-cn", "ips-cnsr", "macr", "dice", "pd", "pda", "cause", "samreg")
EPOCH = jnp.int32(0)


def sigmoid(x: Any) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def softplus(x: Any) -> np.ndarray:
    return np.logaddexp(0, np.asarray(x, np.float64))


def batch_of(seed: int = 0, *, where: bool = True) -> Batch:
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(TRAIN), B)
    mask = rng.random((B, K)) < 0.7
    mask[:, 0] = True
    return Batch(
        jnp.asarray(TRAIN.users[chosen]), jnp.asarray(TRAIN.items[chosen]),
        jnp.asarray(rng.integers(0, ITEMS, (B, K)), jnp.int32), jnp.asarray(mask) if where else None,
    )  # fmt: skip


def rows_of(width: int, seed: int = 0) -> ScoredRows:
    rng = np.random.default_rng(seed)
    user, positive, negative = (jnp.asarray(rng.normal(size=(*n, width)), jnp.float32) for n in ((B,), (B,), (B, K)))
    return ScoredRows(user, user, positive, negative)


def slowly(x: Any) -> list[np.ndarray]:
    return [np.asarray(part, np.float64) for part in x]


def check_gradient(
    objective: RowObjective,
    slow: Callable[[list[np.ndarray]], float],
    rows: ScoredRows,
    batch: Batch | None = None,
    *,
    step: float = 1e-5,
    entries: int = 6,
    rtol: float = 2e-3,
    atol: float = 2e-4,
) -> jax.Array:
    """The losses; jax.grad of their sum is checked, at a few entries, against central differences of the slow loss (the
    user's roles summed)."""
    batch = batch_of() if batch is None else batch

    def total(rows: ScoredRows) -> tuple[jax.Array, jax.Array]:
        losses = objective(rows, batch, EPOCH)
        return jnp.sum(losses), losses

    (_, losses), found = jax.jit(jax.value_and_grad(total, has_aux=True))(rows)
    summed = [np.asarray(found.pull + found.push), np.asarray(found.positive), np.asarray(found.negative)]
    values = slowly((rows.pull, rows.positive, rows.negative))
    rng = np.random.default_rng(1)
    for part, gradient in enumerate(summed):
        for _ in range(entries):
            at = tuple(rng.integers(0, n) for n in gradient.shape)
            moved = [[x.copy() for x in values] for _ in range(2)]
            moved[0][part][at] += step
            moved[1][part][at] -= step
            wanted = (slow(moved[0]) - slow(moved[1])) / (2 * step)
            np.testing.assert_allclose(gradient[at], wanted, rtol=rtol, atol=atol)
    return losses


def row_mean(x: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.array([x[b][where[b]].mean() for b in range(len(x))])


def one_step(step: Step, params: Any, batch: Batch) -> tuple[Any, Any, float]:
    state = step.init(jax.random.key(0))._replace(params=params)
    after, info = step.update(state, batch)
    return after.params, after.ledger, float(info.loss)


# the seam


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_an_objective_of_rows_that_reads_scores_is_the_step_of_scores(shared: bool, sparse: bool) -> None:
    model = models.normalize(models.mf(USERS, ITEMS, D, scale=1.0), temperature=0.5)
    bpr = objectives.bpr()

    def by_rows(rows: ScoredRows, batch: Batch, epoch: jax.Array) -> jax.Array:
        scores = models.pair_scores(rows.pull, rows.positive), models.candidate_scores(rows.push, rows.negative)
        return bpr(*scores, where=batch.where)

    batch = batch_of()
    if shared:
        batch = batch._replace(negatives=batch.negatives[0])
    optimizer = optim.row_sgd(0.1) if sparse else optax.sgd(0.1)
    params = model.init(jax.random.key(3))
    wanted = one_step(make_step(model, bpr, optimizer, l2=0.01), params, batch)
    found = one_step(make_row_step(model, by_rows, optimizer, l2=0.01), params, batch)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_an_objective_of_rows_takes_no_transform_of_scores() -> None:
    model = models.mf(USERS, ITEMS, D)
    with pytest.raises(ValueError, match="no score gradients"):
        make_row_step(model, lambda rows, batch, epoch: rows.pull[:, 0], optax.sgd(0.1), transform=optax.identity())


def test_found_pairs_are_where_they_are() -> None:
    starts, items = (jnp.asarray(x, jnp.int32) for x in TRAIN.csr())
    where, found = samplers.find_pairs(starts, items, jnp.asarray(TRAIN.users), jnp.asarray(TRAIN.items)[:, None])
    assert bool(found.all())
    np.testing.assert_array_equal(np.sort(TRAIN.keys), TRAIN.keys[np.argsort(where[:, 0])])


# ips


def test_ips_weights_are_their_formulas() -> None:
    n = np.array([9, 4, 4, 1, 0])
    w = [9 / max(x, 1) for x in n]
    clipped = [min(max(x, 1), float(np.median(w))) for x in w]
    smooth = [x**0.5 for x in clipped]
    np.testing.assert_allclose(ips.weights(n, "ips"), w)
    np.testing.assert_allclose(ips.weights(n, "c"), clipped)
    np.testing.assert_allclose(ips.weights(n, "cn"), [x / max(clipped) for x in clipped])
    np.testing.assert_allclose(ips.weights(n, "cnsr"), [x / max(smooth) for x in smooth])
    np.testing.assert_array_equal(ips.weights(np.full(4, 7), "cnsr"), np.ones(4))
    with pytest.raises(ValueError, match="got 'clip'"):
        ips.weights(n, "clip")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ips.KINDS)
def test_a_step_of_ips_follows_the_weighted_loss(kind: ips.Kind) -> None:
    settings = dataclasses.replace(ips.SETTINGS, optimizer="sgd", learning_rate=0.1, width=D, l2=0.0, init_scale=1.0)
    method, batch = ips.build(settings, TRAIN, kind=kind), batch_of()
    params = method.model.init(jax.random.key(1))
    weight = jnp.asarray(ips.weights(COUNTS, kind), jnp.float32)[batch.positives]

    def loss(p: dict) -> jax.Array:
        u, i, j = p["user"][batch.users], p["item"][batch.positives], p["item"][batch.negatives]
        gap = jnp.sum(u * i, 1)[:, None] - jnp.einsum("bd,bkd->bk", u, j)
        there = jnp.asarray(batch.where, jnp.float32)
        mean = jnp.sum(-jax.nn.log_sigmoid(gap) * there, 1) / jnp.sum(there, 1)
        return jnp.sum(weight * mean)

    after, _, _ = one_step(method.step, params, batch)
    gradient = jax.grad(loss)(params)
    for side in ("user", "item"):
        np.testing.assert_allclose(after[side], params[side] - 0.1 * gradient[side], rtol=1e-4, atol=1e-5)


# macr


def slow_macr(values: list[np.ndarray], alpha: float, beta: float) -> np.ndarray:
    user, positive, negative = values
    where, found = np.asarray(batch_of().where), np.zeros(B)
    bce = lambda x, y: -(y * np.log(sigmoid(x)) + (1 - y) * np.log(1 - sigmoid(x)))  # noqa: E731
    for b in range(B):
        u, x = user[b, :-1], user[b, -1]

        def one(v: np.ndarray, label: int, u: np.ndarray = u, x: float = x) -> float:
            f = u @ v[:-1] * sigmoid(x) * sigmoid(v[-1])
            return float(bce(f, label) + alpha * bce(v[-1], label) + beta * bce(x, label))

        others = [one(negative[b, k], 0) for k in range(K) if where[b, k]]
        found[b] = one(positive[b], 1) + np.mean(others)
    return found


def test_macr_is_its_formula_with_its_gradients() -> None:
    rows, loss = rows_of(D + 1), macr.objective(alpha=0.3, beta=0.2)
    values = slowly((rows.pull, rows.positive, rows.negative))
    losses = check_gradient(loss, lambda v: float(slow_macr(v, 0.3, 0.2).sum()), rows)
    np.testing.assert_allclose(losses, slow_macr(values, 0.3, 0.2), rtol=1e-5)


def slow_macr_across(values: list[np.ndarray]) -> np.ndarray:
    """The branches of row r beside the scores of every row c; without the branches' own terms."""
    user, positive, negative = values
    where, found = np.asarray(batch_of().where), np.zeros(B)
    for r in range(B):
        pull = [softplus(-(user[c, :-1] @ positive[c, :-1]) * sigmoid(user[r, -1]) * sigmoid(positive[r, -1]))
                for c in range(B)]  # fmt: skip
        push = [softplus((user[c, :-1] @ negative[c, k, :-1]) * sigmoid(user[r, -1]) * sigmoid(negative[r, k, -1]))
                for c in range(B) for k in range(K) if where[c, k] and where[r, k]]  # fmt: skip
        found[r] = np.mean(pull) + np.mean(push)
    return found


def test_macr_across_rows_is_what_the_authors_code_computes() -> None:
    rows, loss = rows_of(D + 1), macr.objective(alpha=0.0, beta=0.0, across=True)
    values = slowly((rows.pull, rows.positive, rows.negative))
    losses = check_gradient(loss, lambda v: float(slow_macr_across(v).sum()), rows)
    np.testing.assert_allclose(losses, slow_macr_across(values), rtol=1e-5)
    both = jax.jit(macr.objective(alpha=0.3, beta=0.2, across=True))(rows, batch_of(), EPOCH)
    apart = macr.objective(alpha=0.3, beta=0.2)(rows, batch_of(), EPOCH)
    own = macr.objective(alpha=0.0, beta=0.0)(rows, batch_of(), EPOCH)
    np.testing.assert_allclose(both - slow_macr_across(values), apart - own, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("largest", [0.1, 5.0, 40.0, 100.0])
def test_macr_across_is_exact_for_scores_of_any_usual_size(largest: float) -> None:
    rng = np.random.default_rng(0)
    scores, others = largest * rng.uniform(-1, 1, 200), largest * rng.uniform(-1, 1, (200, 3))
    gate, gates = rng.uniform(0, 1, 200), rng.uniform(0, 1, (200, 3))
    gate[:2], gates[:2] = [0, 1], [[0], [1]]
    where = rng.random((200, 3)) < 0.8
    pull = softplus(-gate[:, None] * scores).mean(1)
    weight = where[:, None] & where[None]
    push = (weight * softplus(gates[:, None] * others[None])).sum((1, 2)) / np.maximum(weight.sum((1, 2)), 1)
    given = (jnp.asarray(x, jnp.float32) for x in (scores, others, gate, gates))
    found = jax.jit(macr._across)(*given, jnp.asarray(where))
    np.testing.assert_allclose(found, pull + push, rtol=1e-5, atol=1e-6)


def test_macr_of_one_row_is_the_same_across_and_not() -> None:
    rows = ScoredRows(*(x[:1] for x in rows_of(D + 1)))
    batch = batch_of()._replace(where=None)
    losses = [jax.jit(macr.objective(across=across))(rows, batch, EPOCH) for across in (False, True)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


@pytest.mark.parametrize("layers", [0, 2])
def test_a_step_of_macr_follows_the_gradient_of_the_whole_loss(layers: int) -> None:
    inner, batch = models.lightgcn(TRAIN, D, layers=layers, scale=1.0), batch_of()
    model = macr.branches(inner)
    step = make_row_step(model, macr.objective(alpha=0.3, beta=0.2), optax.sgd(0.1), l2=0.05)
    params = model.init(jax.random.key(2))

    def loss(p: dict) -> jax.Array:
        user, item = inner.tables(p["base"])
        u, i, j = user[batch.users], item[batch.positives], item[batch.negatives]
        a, b = p["user"], p["item"]
        gates = jax.nn.sigmoid(u @ a), jax.nn.sigmoid(i @ b), jax.nn.sigmoid(j @ b)
        f, g = jnp.sum(u * i, 1) * gates[0] * gates[1], jnp.einsum("bd,bkd->bk", u, j) * gates[0][:, None] * gates[2]
        bce = lambda x, y: jnp.where(y, -jax.nn.log_sigmoid(x), -jax.nn.log_sigmoid(-x))  # noqa: E731
        down = bce(g, False) + 0.3 * bce(j @ b, False) + 0.2 * bce(u @ a, False)[:, None]
        up = bce(f, True) + 0.3 * bce(i @ b, True) + 0.2 * bce(u @ a, True)
        e = p["base"]
        seen = e["user"][batch.users], e["item"][batch.positives], e["item"][batch.negatives]
        l2 = sum(jnp.sum(x * x) for x in seen)
        there = jnp.asarray(batch.where, jnp.float32)
        return jnp.sum(up + jnp.sum(down * there, 1) / jnp.sum(there, 1)) + 0.025 * l2

    after, _, _ = one_step(step, params, batch)
    wanted = jax.tree.map(lambda x, g: x - 0.1 * g, params, jax.grad(loss)(params))
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_macr_ranks_by_its_formula_and_its_arm_says_the_same() -> None:
    method = baselines.build("macr", TRAIN, width=D, init_scale=1.0, batch_size=64)
    state = method.step.init(jax.random.key(0))
    params = state.params
    user, item = slowly((params["base"]["user"], params["base"]["item"]))
    a, b = slowly((params["user"], params["item"]))
    c = 1.5
    wanted = (user @ item.T - c) * sigmoid(user @ a)[:, None] * sigmoid(item @ b)[None, :]
    found = method.rank(params, c=c)
    assert isinstance(found, Tables)
    scores = np.asarray(found.user @ found.item.T)
    np.testing.assert_allclose(scores * sigmoid(user @ a)[:, None], wanted, rtol=1e-3, atol=1e-4)
    arm, start = method.arm(params), baselines.start(method, params)  # type: ignore[misc]
    adjusted = select.apply(arm, {"c": c}, start, state.ledger)  # type: ignore[arg-type]
    np.testing.assert_allclose(adjusted.user @ adjusted.item.T, scores, rtol=1e-4, atol=1e-5)
    change = arm.change(jnp.array([c]))  # type: ignore[misc]
    by_change = change.apply(start.user @ start.item.T, jnp.arange(USERS))
    np.testing.assert_allclose(by_change, scores, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no strength 'd'"):
        method.rank(params, d=1.0)


def test_macr_without_branches_is_bce_of_a_quarter_of_the_score() -> None:
    rows = rows_of(D + 1)
    blank = ScoredRows(*(x.at[..., -1].set(0.0) for x in rows))
    found = macr.objective(alpha=0.0, beta=0.0)(blank, batch_of(), EPOCH)
    positive = models.pair_scores(rows.pull[:, :-1], rows.positive[:, :-1]) / 4
    negative = models.candidate_scores(rows.push[:, :-1], rows.negative[..., :-1]) / 4
    np.testing.assert_allclose(found, objectives.bce()(positive, negative, where=batch_of().where), rtol=1e-5)


# dice


def slow_dcor(x: np.ndarray, y: np.ndarray) -> float:
    def centred(z: np.ndarray) -> np.ndarray:
        a = np.linalg.norm(z[:, None] - z[None], axis=-1)
        return a - a.mean(0) - a.mean(1)[:, None] + a.mean()

    a, b = centred(x), centred(y)
    return float(np.sqrt((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean())))


def slow_dice(values: list[np.ndarray], alpha: float, beta: float, kind: str) -> np.ndarray:
    user, positive, negative = values
    batch, w = batch_of(), user.shape[1] // 2
    where = np.asarray(batch.where)
    found = np.zeros(B)
    for b in range(B):
        terms = []
        i, p = user[b, :w] @ positive[b, :w], user[b, w:] @ positive[b, w:]
        for k in range(K):
            j, q = user[b, :w] @ negative[b, k, :w], user[b, w:] @ negative[b, k, w:]
            n_i, n_j = COUNTS[batch.positives[b]], COUNTS[batch.negatives[b, k]]
            term = -np.log(sigmoid(i + p - j - q))
            if n_j > n_i:
                term += alpha * (-np.log(sigmoid(i - j)) - np.log(sigmoid(q - p)))
            elif n_j < n_i:
                term += alpha * -np.log(sigmoid(p - q))
            terms.append(term)
        found[b] = np.mean(np.array(terms)[where[b]])
    for rows in (user, np.concatenate([positive, negative[:, 0]])):
        x, y = rows[:, :w], rows[:, w:]
        found += beta * {"dcor": slow_dcor(x, y), "l1": -np.abs(x - y).mean(), "l2": -((x - y) ** 2).mean()}[kind]
    return found


@pytest.mark.parametrize("kind", ["dcor", "l1", "l2"])
def test_dice_is_its_formula_with_its_gradients(kind: dice.Discrepancy) -> None:
    rows, loss = rows_of(2 * D), dice.objective(COUNTS, alpha=0.3, beta=0.5, kind=kind)
    values = slowly((rows.pull, rows.positive, rows.negative))
    losses = check_gradient(loss, lambda v: float(slow_dice(v, 0.3, 0.5, kind).sum()), rows)
    np.testing.assert_allclose(losses, slow_dice(values, 0.3, 0.5, kind), rtol=1e-5, atol=1e-6)


def test_alpha_of_dice_shrinks_with_the_epochs() -> None:
    rows = rows_of(2 * D)
    values = slowly((rows.pull, rows.positive, rows.negative))
    found = dice.objective(COUNTS, alpha=0.3, beta=0.0, decay=0.5)(rows, batch_of(), jnp.int32(2))
    np.testing.assert_allclose(found, slow_dice(values, 0.3 / 4, 0.0, "l1"), rtol=1e-5)


def test_dice_without_its_terms_is_bpr() -> None:
    rows = rows_of(2 * D)
    scores = models.pair_scores(rows.pull, rows.positive), models.candidate_scores(rows.push, rows.negative)
    found = dice.objective(COUNTS, alpha=0.0, beta=0.0)(rows, batch_of(), EPOCH)
    np.testing.assert_allclose(found, objectives.bpr()(*scores, where=batch_of().where), rtol=1e-5)


def test_distance_correlation_of_alike_constant_and_repeated_rows() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(40, 3)), jnp.float32)
    np.testing.assert_allclose(dice.distance_correlation(x, 2.0 * x), 1.0, rtol=1e-4)
    assert dice.distance_correlation(x, jnp.ones_like(x)) == 0
    twice = jnp.concatenate([x, x])
    gradient = jax.grad(lambda z: dice.distance_correlation(z, twice[:, ::-1]))(twice)
    assert np.isfinite(gradient).all()


# negatives by popularity


@pytest.mark.parametrize("reject", [False, True])
def test_negatives_are_half_more_and_half_less_popular_by_the_margin(reject: bool) -> None:
    base_sampler = samplers.sampler(TRAIN, batch_size=len(TRAIN), num_negatives=1)
    drawn = strata.around(base_sampler, TRAIN, num_negatives=40, margin=4.0, decay=0.5, reject=reject)
    for epoch, margin in ((0, 4.0), (1, 2.0)):
        batch = drawn.draw(drawn.data, jax.random.key(epoch), jnp.int32(0), epoch=jnp.int32(epoch))
        n_i, n_j = COUNTS[np.asarray(batch.positives)][:, None], COUNTS[np.asarray(batch.negatives)]
        kept = np.ones_like(n_j, bool) if batch.where is None else np.asarray(batch.where)
        more, less = (n_i + margin < COUNTS.max()), (n_i - margin > COUNTS.min())
        suits = (n_j > n_i + margin) | (n_j < n_i - margin)
        assert (suits | ~(more | less))[kept].all()
        if reject:
            new = ~KNOWN[np.asarray(batch.users)]
            assert np.take_along_axis(new, np.asarray(batch.negatives), axis=1)[kept].all()
            more = (new & (n_i + margin < COUNTS)).any(axis=1, keepdims=True)  # of what the user has not
            less = (new & (n_i - margin > COUNTS)).any(axis=1, keepdims=True)
        assert kept[(more & less)[:, 0]].mean() > 0.99
        both = kept & more & less
        assert abs((n_j > n_i)[both].mean() - 0.5) < 0.03
    np.testing.assert_array_equal(np.sort(np.asarray(batch.users)), np.sort(TRAIN.users))


def test_a_small_pool_leaves_the_other_side_and_no_pool_leaves_all_items() -> None:
    base_sampler = samplers.sampler(TRAIN, batch_size=64)
    only = strata.around(base_sampler, TRAIN, num_negatives=30, pool=ITEMS)
    batch = only.draw(only.data, jax.random.key(0), jnp.int32(0))
    for i, row in zip(np.asarray(batch.positives), np.asarray(batch.negatives), strict=True):
        more, less = COUNTS[i] < COUNTS, COUNTS[i] > COUNTS
        assert (more if more.sum() > less.sum() else less)[row].all()
    nowhere = strata.around(base_sampler, TRAIN, num_negatives=30, margin=1e6)
    batch = nowhere.draw(nowhere.data, jax.random.key(0), jnp.int32(0))
    assert len(np.unique(batch.negatives)) == ITEMS
    with pytest.raises(ValueError, match="margin >= 0"):
        strata.around(base_sampler, TRAIN, margin=-1.0)


# pd and pda


def timed() -> Interactions:
    times = np.random.default_rng(0).permutation(len(TRAIN))
    return dataclasses.replace(TRAIN, times=times)


@pytest.mark.parametrize("stages", [1, 3])
def test_pd_is_its_formula_with_popularity_of_the_stage(stages: int) -> None:
    train, gamma, batch = timed(), 0.4, batch_of()
    rng = np.random.default_rng(2)
    positive, negative = rng.normal(size=B), rng.normal(size=(B, K))
    of = pd.objective(pd.popularity(train, stages=stages), gamma=gamma)
    args = jnp.asarray(positive, jnp.float32), jnp.asarray(negative, jnp.float32)
    stage = np.asarray(train.times) * stages // len(train)
    counts = np.array([[np.sum((stage == t) & (train.items == i)) for i in range(ITEMS)] for t in range(stages)])
    m = np.maximum(counts, 1) / counts.max(1, keepdims=True)
    elu = lambda x: (x if x > 0 else np.exp(x) - 1) + 1  # noqa: E731

    def slow(s: np.ndarray, others: np.ndarray) -> np.ndarray:
        found = np.zeros((B, K))
        for b in range(B):
            u, i = int(batch.users[b]), int(batch.positives[b])
            t = stage[np.flatnonzero((train.users == u) & (train.items == i))[0]]
            for k in range(K):
                j = int(batch.negatives[b, k])
                gap = elu(s[b]) * m[t, i] ** gamma - elu(others[b, k]) * m[t, j] ** gamma
                found[b, k] = -np.log(sigmoid(gap))
        return row_mean(found, np.asarray(batch.where))

    np.testing.assert_allclose(of(batch)(*args, where=batch.where), slow(positive, negative), rtol=1e-5)
    gradient = jax.grad(lambda p: jnp.sum(of(batch)(p, args[1], where=batch.where)))(args[0])
    step = 1e-5
    wanted = (slow(positive + step, negative) - slow(positive - step, negative)) / (2 * step)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-3, atol=1e-5)


def test_equal_times_share_a_stage_and_no_stage_is_empty() -> None:
    times = np.random.default_rng(0).integers(0, 6, len(TRAIN))
    found = pd.popularity(dataclasses.replace(TRAIN, times=times), stages=4)
    assert found.stages is not None
    by_pair = times[np.argsort(TRAIN.keys, kind="stable")]
    stage = {t: set(np.asarray(found.stages)[by_pair == t].tolist()) for t in range(6)}
    assert all(len(one) == 1 for one in stage.values())
    assert sorted(set.union(*stage.values())) == list(range(len(found.shares)))
    once = pd.popularity(dataclasses.replace(TRAIN, times=np.zeros(len(TRAIN))), stages=4)
    np.testing.assert_array_equal(once.shares, pd.popularity(TRAIN).shares)


def test_pd_at_gamma_0_is_bpr_of_the_positive_part_and_bpr_itself_above_0() -> None:
    batch, above = batch_of(), (jnp.linspace(0.1, 2.0, B), jnp.linspace(2.0, 0.1, B * K).reshape(B, K))
    found = pd.objective(pd.popularity(TRAIN), gamma=0.0)(batch)(*above, where=batch.where)
    np.testing.assert_allclose(found, objectives.bpr()(*above, where=batch.where), rtol=1e-5)
    gradient = jax.grad(lambda x: jnp.sum(pd.positive_part(x)))(jnp.array([-200.0, -1.0, 0.0, 3.0, 200.0]))
    np.testing.assert_allclose(gradient, [0.0, np.exp(-1), 1.0, 1.0, 1.0], rtol=1e-5, atol=1e-30)


def test_pda_ranks_by_its_formula_and_at_gamma_0_like_pd() -> None:
    injected, without = (baselines.build(name, TRAIN, width=D, init_scale=1.0) for name in ("pda", "pd"))
    params = without.model.init(jax.random.key(0))
    found = injected.rank(params, gamma=0.3)
    assert isinstance(found, Scorer)
    scores = np.asarray(params["user"], np.float64) @ np.asarray(params["item"], np.float64).T
    m = np.maximum(COUNTS, 1) / COUNTS.max()
    wanted = (np.where(scores > 0, scores, np.exp(scores) - 1) + 1) * m[None, :] ** 0.3
    np.testing.assert_allclose(found.block(np.arange(USERS)), wanted, rtol=1e-4)
    plain = baselines.top_k(without.rank(params), None, TRAIN, k=5)
    zero = baselines.top_k(injected.rank(params, gamma=0.0), None, TRAIN, k=5)
    np.testing.assert_array_equal(plain.items, zero.items)
    with pytest.raises(ValueError, match="no arm"):
        baselines.start(injected, params)


def test_popularity_that_is_foretold_follows_the_trend_and_stays_above_0() -> None:
    found = pd.Popularity(jnp.array([[0.5, 0.5], [0.7, 0.3]]))
    np.testing.assert_allclose(pd.foretold(found), [0.7, 0.3])
    np.testing.assert_allclose(pd.foretold(found, trend=0.5), [0.8, 0.2], rtol=1e-5)
    assert bool((pd.foretold(found, trend=9.0) > 0).all())


# cause


def slow_cause(values: list[np.ndarray], flags: dict[int, bool], distance: float) -> np.ndarray:
    user, positive, negative = values
    batch, w = batch_of(), user.shape[1] // 2
    where, found = np.asarray(batch.where), np.zeros(B)
    for b in range(B):
        part = slice(w, None) if flags[int(batch.users[b]) * ITEMS + int(batch.positives[b])] else slice(0, w)
        u, i = user[b, part], positive[b]
        gap = lambda v: np.mean((v[:w] - v[w:]) ** 2)  # noqa: E731
        terms = [
            -np.log(sigmoid(u @ i[part] - u @ negative[b, k, part])) + distance * gap(negative[b, k])
            for k in range(K) if where[b, k]
        ]  # fmt: skip
        found[b] = np.mean(terms) + distance * gap(i)
    return found


def test_cause_is_its_formula_with_its_gradients() -> None:
    flags = np.random.default_rng(0).random(len(TRAIN)) < 0.5
    by_key = dict(zip(np.sort(TRAIN.keys).tolist(), flags.tolist(), strict=True))
    rows, loss = rows_of(2 * D), cause.objective(TRAIN, flags, objectives.bpr(), distance=0.2)
    values = slowly((rows.pull, rows.positive, rows.negative))
    losses = check_gradient(loss, lambda v: float(slow_cause(v, by_key, 0.2).sum()), rows)
    np.testing.assert_allclose(losses, slow_cause(values, by_key, 0.2), rtol=1e-5)


@pytest.mark.parametrize("backbone", ["mf", "lightgcn"])
def test_cause_without_a_sample_and_a_tie_is_the_plain_model(backbone: Any) -> None:
    settings = dataclasses.replace(
        cause.SETTINGS, backbone=backbone, layers=2, width=D, optimizer="sgd", learning_rate=0.1, l2=0.02
    )
    method = cause.build(settings, TRAIN, part=0.0, distance=0.0)
    model, _, step = presets.build(settings, TRAIN)
    params, batch = method.model.init(jax.random.key(1)), batch_of()
    plain = {"user": params["user"], "item": params["item"][:, :D]}
    found, _, loss = one_step(method.step, params, batch)
    wanted, _, plain_loss = one_step(step, plain, batch)
    np.testing.assert_allclose(loss, plain_loss, rtol=1e-5)
    np.testing.assert_allclose(found["user"], wanted["user"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["item"][:, :D], wanted["item"], rtol=1e-4, atol=1e-6)
    ranked, tables = method.rank(found, treatment=0.0), models.embed(model, wanted)
    assert isinstance(ranked, Tables)
    np.testing.assert_allclose(ranked.user @ ranked.item.T, tables.user @ tables.item.T, rtol=1e-3, atol=1e-6)


def test_cause_mixes_its_tables_and_its_arm_says_the_same() -> None:
    method = baselines.build("cause", TRAIN, width=D, batch_size=64)
    state = method.step.init(jax.random.key(0))
    user, item = slowly((state.params["user"], state.params["item"]))
    wanted = user @ (0.7 * item[:, :D] + 0.3 * item[:, D:]).T
    found = method.rank(state.params, treatment=0.3)
    assert isinstance(found, Tables)
    np.testing.assert_allclose(found.user @ found.item.T, wanted, rtol=1e-3, atol=1e-7)
    arm = method.arm(state.params)  # type: ignore[misc]
    adjusted = select.apply(arm, {"treatment": 0.3}, baselines.start(method, state.params), state.ledger)  # type: ignore[arg-type]
    np.testing.assert_allclose(adjusted.user @ adjusted.item.T, wanted, rtol=1e-3, atol=1e-7)


def test_events_move_to_the_second_table_by_inverse_popularity() -> None:
    items = TRAIN.csr()[1]
    flags = np.mean([cause.treated(TRAIN, part=0.2, seed=seed) for seed in range(400)], axis=0)
    np.testing.assert_allclose(flags.mean(), 0.2, atol=0.01)
    chance = np.array([flags[items == i].mean() * COUNTS[i] for i in range(ITEMS)])
    c = np.median(chance)
    np.testing.assert_allclose(chance, np.minimum(c, COUNTS), rtol=0.2)  # no chance is above 1
    assert not cause.treated(TRAIN, part=0.0).any()


def test_cause_takes_a_sample_of_its_own() -> None:
    sample = Interactions([0, 1, 2], [3, 4, 5], USERS, ITEMS)
    both, flags = cause.with_sample(TRAIN, sample)
    assert set(both.keys[flags].tolist()) == set(sample.keys.tolist())
    assert set(both.keys.tolist()) == set(TRAIN.keys.tolist()) | set(sample.keys.tolist())
    with pytest.raises(ValueError, match="got 3 x 20"):
        cause.with_sample(TRAIN, Interactions([0], [0], 3, ITEMS))


# samreg


def test_samreg_is_its_formula_with_its_gradient() -> None:
    batch, weight = batch_of(), 0.3
    rng = np.random.default_rng(2)
    positive, negative = rng.normal(size=B), rng.normal(size=(B, K))
    of = samreg.objective(COUNTS, weight=weight)(batch)
    args = jnp.asarray(positive, jnp.float32), jnp.asarray(negative, jnp.float32)

    def slow(s: np.ndarray) -> np.ndarray:
        gap, where = s[:, None] - negative, np.asarray(batch.where)
        right = row_mean(sigmoid(gap), where)
        r = np.corrcoef(COUNTS[np.asarray(batch.positives)], right)[0, 1]
        return (1 - weight) * row_mean(softplus(-gap), where) + weight * r**2

    np.testing.assert_allclose(of(*args, where=batch.where), slow(positive), rtol=1e-4)
    gradient, step = jax.grad(lambda p: jnp.sum(of(p, args[1], where=batch.where)))(args[0]), 1e-5
    for b in range(B):
        moved = [positive.copy(), positive.copy()]
        moved[0][b] += step
        moved[1][b] -= step
        wanted = (slow(moved[0]).sum() - slow(moved[1]).sum()) / (2 * step)
        np.testing.assert_allclose(gradient[b], wanted, rtol=1e-3, atol=1e-4)


def test_samreg_without_weight_is_bpr_and_equal_popularity_has_no_correlation() -> None:
    batch, scores = batch_of(), (jnp.linspace(-1.0, 1.0, B), jnp.linspace(1.0, -1.0, B * K).reshape(B, K))
    plain = objectives.bpr()(*scores, where=batch.where)
    np.testing.assert_allclose(samreg.objective(COUNTS, weight=0.0)(batch)(*scores, where=batch.where), plain)
    alike = samreg.objective(np.full(ITEMS, 5), weight=0.5)(batch)
    np.testing.assert_allclose(alike(*scores, where=batch.where), plain / 2, rtol=1e-6)
    gradient = jax.grad(lambda p: jnp.sum(alike(p, scores[1], where=batch.where)))(scores[0])
    assert np.isfinite(gradient).all()


def test_samreg_takes_its_part_off_the_penalty() -> None:
    sgd = {"weight": 0.3, "optimizer": "sgd", "learning_rate": 0.1, "width": 4, "batch_size": 32}
    moved = []
    for l2 in (0.0, 0.2):
        method = baselines.build("samreg", TRAIN, l2=l2, **sgd)
        state = method.step.init(jax.random.key(0))
        batch = method.sampler.draw(method.sampler.data, jax.random.key(1), jnp.int32(0))
        moved.append((state.params["user"], method.step.update(state, batch)[0].params["user"]))
    times = np.bincount(np.asarray(batch.users), minlength=USERS)[:, None]
    wanted = -0.1 * (1 - 0.3) * 0.2 * times * np.asarray(moved[0][0])
    np.testing.assert_allclose(moved[1][1] - moved[0][1], wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["dice", "samreg"])
def test_negatives_that_the_user_knows_are_rejected_where_asked(name: str) -> None:
    known = set(TRAIN.keys.tolist())
    for reject in (False, True):
        sampler = baselines.build(name, TRAIN, reject=reject, negatives=8, batch_size=32).sampler
        extra = {"epoch": jnp.int32(0)} if sampler.by_epoch else {}
        batch = sampler.draw(sampler.data, jax.random.key(1), jnp.int32(0), **extra)
        keys = np.asarray(batch.users, np.int64)[:, None] * ITEMS + np.asarray(batch.negatives)
        kept = np.ones_like(keys, bool) if batch.where is None else np.asarray(batch.where)
        assert any(key in known for key in keys[kept].tolist()) != reject


# all of them


SPLIT = synthetic(num_users=60, num_items=50, random_per_user=20).split
WORLD, UNSEEN = SPLIT.train, SPLIT.tests["unbiased"]
# The kinds of ips differ by weights that are tested above; pda trains as pd does.
FITS = {
    "mf": [name for name in TIER1 if name not in ("ips", "ips-c", "ips-cn", "pda")],
    "lightgcn": [name for name in TIER1[3:] if name != "pd"],
}


@pytest.mark.parametrize(("name", "backbone"), [(name, backbone) for backbone in FITS for name in FITS[backbone]])
def test_a_short_fit_is_finite_learns_and_ranks(name: str, backbone: Any) -> None:
    method = baselines.build(name, WORLD, backbone, width=8, batch_size=64, learning_rate=0.02)
    fitted = baselines.fit_method(method, epochs=8)
    losses = [row["loss"] for row in fitted.history]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    state = fitted.best
    assert state.ledger is not None
    assert float(jnp.sum(state.ledger.items.pull.events)) > 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.ledger))
    ranking = baselines.top_k(method.rank(state.params), None, WORLD, k=5)
    assert ranking.items.shape == (60, 5)
    if method.arm is not None and backbone == "mf":
        problem = select.prepare(
            baselines.start(method, state.params), state.ledger, WORLD, {"unbiased": UNSEEN}, k=5
        )
        points = select.frontier(problem, method.arm(state.params), budget=3, rounds=0)
        assert set(points[-1].strengths) == set(method.strengths)


def test_macr_on_a_graph_has_its_sources_larger_alpha(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []
    plain = macr.objective

    def objective(**given: Any) -> Any:
        taken.append(given["alpha"])
        return plain(**given)

    monkeypatch.setattr(macr, "objective", objective)
    for backbone, given in (("mf", {}), ("lightgcn", {}), ("lightgcn", {"alpha": 0.5})):
        baselines.build("macr", TRAIN, backbone, **given)
    assert taken == [1e-3, 1e-2, 0.5]


def test_unknown_names_and_options_are_told_the_nearest() -> None:
    with pytest.raises(ValueError, match="no baseline 'macer'; did you mean 'macr'"):
        baselines.build("macer", TRAIN)
    with pytest.raises(ValueError, match="macr has no option 'alpa'; did you mean 'alpha'"):
        baselines.build("macr", TRAIN, alpa=0.1)
    with pytest.raises(ValueError, match="backbone must be 'mf' or 'lightgcn', got 'ease'"):
        baselines.build("macr", TRAIN, "ease")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="width wants int"):
        baselines.build("dice", TRAIN, width=2.5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dice", {"normalize_users": True}, "embeddings as they are"),
        ("dice", {"objective": "bce"}, "objective 'bpr'"),
        ("dice", {"kind": "l3"}, "a kind of dcor, l1, l2"),
        ("samreg", {"shared": True}, "leave all three"),
        ("macr", {"objective": "bpr"}, "objective 'bce'"),
        ("macr", {"alpha": -1.0}, "alpha and beta >= 0"),
        ("cause", {"part": 1.0}, r"in \[0, 1\)"),
        ("cause", {"biases": True}, "embeddings as they are"),
        ("pd", {"gamma": -0.1}, "gamma >= 0"),
        ("pda", {"stages": 0}, "at least one stage"),
        ("samreg", {"weight": 1.5}, r"weight in \[0, 1\]"),
    ],
)
def test_methods_say_what_they_want(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        baselines.build(name, TRAIN, **options)


def test_every_registered_method_is_built_on_mf() -> None:
    for name in baselines.METHODS:
        if "key" not in baselines.options(name):  # those train a branch first
            method = baselines.build(name, TRAIN, width=D, batch_size=64)
            assert isinstance(method, base.Method)


def test_no_option_of_a_method_has_the_name_of_a_setting() -> None:
    settings = {f.name for f in dataclasses.fields(Settings)}
    shared = {name: settings & set(baselines.options(name)) for name in baselines.METHODS}
    shared = {name: found for name, found in shared.items() if found}
    assert set().union(*shared.values()) <= {"temperature"}  # of the loss, where cosines have none


@pytest.mark.parametrize("name", ["dap", "cause", "dice", "invcf"])
@pytest.mark.parametrize("backbone", ["two-tower", "neumf"])
def test_methods_of_rows_want_backbones_that_are_linear(name: str, backbone: Any) -> None:
    settings = on_backbone(baselines.METHODS[name].settings, backbone)
    with pytest.raises(ValueError, match="wants"):
        baselines.METHODS[name](settings, TRAIN)


@pytest.mark.parametrize("name", ["ccl", "zerosum", "ipl", "resn", "adap_tau", "bc_loss", "popgo", "invcf"])
def test_an_objective_that_would_not_be_read_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has an objective of its own, got 'bce'"):
        baselines.build(name, TRAIN, objective="bce")


def test_a_sampler_of_more_than_the_model_of_adap_tau_has_is_refused() -> None:
    method = baselines.build("adap_tau", TRAIN, width=D, batch_size=32, negatives=8)
    more = Interactions(TRAIN.users, TRAIN.items, USERS + 1, ITEMS)
    with pytest.raises(ValueError, match=f"the sampler draws from {USERS + 1} users"):
        make_epoch(method.step, samplers.sampler(more, batch_size=32, num_negatives=8, shared=True))


def test_rows_without_negatives_have_no_part_in_samreg() -> None:
    batch = batch_of()
    rng = np.random.default_rng(2)
    positive, negative = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((B,), (B, K)))
    where = jnp.ones((B, K), bool).at[B - 1].set(False)
    of = samreg.objective(COUNTS, weight=0.3)
    fewer = batch._replace(**{name: getattr(batch, name)[:-1] for name in ("users", "positives", "negatives")})
    wanted = of(fewer)(positive[:-1], negative[:-1], where=where[:-1])
    np.testing.assert_allclose(of(batch)(positive, negative, where=where)[:-1], wanted, rtol=1e-5)


@pytest.mark.parametrize("name", ["dice", "samreg"])
def test_a_user_with_every_item_is_told_where_negatives_are_drawn_by_popularity(name: str) -> None:
    full = Interactions([0] * 6 + [1], [*range(6), 0], 2, 6)
    with pytest.raises(ValueError, match="user 0 has every item"):
        baselines.build(name, full, width=D, batch_size=4, reject=True)


def test_a_method_of_ones_own_is_built_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = baselines.Entry(dice.SETTINGS, lambda settings, train: (None, None, None))  # type: ignore[arg-type, return-value]
    monkeypatch.setitem(baselines.METHODS, "mine", parts)
    with pytest.raises(TypeError, match="build must give a Method, got tuple; `plain` makes one"):
        baselines.build("mine", TRAIN)
    monkeypatch.setitem(baselines.METHODS, "mine", baselines.Entry(dice.SETTINGS, dice.build, (("kind", "l2"),)))
    method = baselines.build("mine", TRAIN, width=D, batch_size=64, margin=2.0)
    assert isinstance(method, base.Method)
    assert baselines.options("ips-cn") == []  # cnsr alone reads `smooth`, and PDA what ranking takes
    assert baselines.options("pd") == ["gamma", "stages"]
    assert baselines.options("mine") == [name for name in baselines.options("dice") if name != "kind"]
    with pytest.raises(ValueError, match="mine has no option 'margn'; did you mean 'margin'"):
        baselines.build("mine", TRAIN, margn=2.0)


def test_the_identity_of_tables_is_kept_by_folding() -> None:
    method = baselines.build("ips", TRAIN, width=D)
    params = method.model.init(jax.random.key(0))
    found = method.rank(params)
    assert isinstance(found, Tables)
    assert adj.fold_bias(found) is found
