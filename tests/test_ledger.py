"""The ledger: its identity and conservation as properties, its readings against numpy loops."""

from __future__ import annotations

import functools
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import random_interactions

from jaxrec import ledger as ledgers
from jaxrec import models, objectives, optim, samplers, testing
from jaxrec.gradients import ScoredRows
from jaxrec.step import Observation, TrainState, make_row_step, make_step
from jaxrec.types import Array, Batch

OBJECTIVES = {"bpr": objectives.bpr(), "bce": objectives.bce(), "softmax": objectives.softmax(logq=True)}


def run(step, sampler, state: TrainState, steps: int) -> tuple[TrainState, list[Batch], list[TrainState]]:
    draw, update, batches, states = jax.jit(sampler.draw), jax.jit(step.update), [], []
    for i in range(steps):
        batch = draw(sampler.data, state.key, jnp.int32(i))
        batches.append(batch)
        states.append(state)
        state, _ = update(state, batch)
    return state, batches, states


def test_gradients_of_another_name_are_refused() -> None:
    model = models.mf(3, 3, 2)
    with pytest.raises(ValueError, match='must be "raw" or "corrected", got \'Raw\''):
        make_step(model, objectives.bpr(), optim.row_sgd(0.1), observation=Observation(gradients="Raw"))  # type: ignore[arg-type]


def test_events_of_another_shape_are_refused() -> None:
    ledger, some = ledgers.init(4, 4, 2), ledgers.Events(jnp.array([0, 1]), jnp.ones((2, 2)), jnp.ones(2))
    for change in ({"gradient": jnp.ones((2, 1))}, {"size": jnp.ones(())}, {"ids": some.ids[:1]}):
        bad = some._replace(**change)
        with pytest.raises(ValueError, match="events of a ledger of width 2 want gradients of shape"):
            ledgers.observe(ledger, item_pull=bad, item_push=some, user_pull=some, user_push=some)


@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_a_decay_is_looked_at_when_the_step_is_made(decay: float) -> None:
    with pytest.raises(ValueError, match=r"decay must be in \(0, 1\]"):
        make_step(models.mf(3, 3, 2), objectives.bpr(), optim.row_sgd(0.1), observation=Observation(decay=decay))


CASES = [  # log_q is for negatives that rows share
    (objective, kind, normalised)
    for objective in sorted(OBJECTIVES)
    for kind in ("own", "shared", "in_batch")
    for normalised in (False, True)
    if (objective, kind) != ("softmax", "own")
]


@pytest.mark.parametrize(("seed", "objective", "kind", "normalised"), [(n, *case) for n, case in enumerate(CASES)])
def test_identity_and_conservation(seed: int, objective: str, kind: str, normalised: bool) -> None:
    """v(T) = v(0) + η (P + N) for plain SGD; Σ p + Σ n⁻ = Σ |∂ℓ/∂s| ‖û‖; no event is lost."""
    train = random_interactions(seed)
    plain = models.mf(train.num_users, train.num_items, 5, scale=1.0)
    model = models.normalize(plain, temperature=0.5) if normalised else plain
    rate = 0.03
    sampler = samplers.sampler(
        train, batch_size=16, num_negatives=4, shared=kind == "shared", in_batch=kind == "in_batch"
    )
    step = make_step(model, OBJECTIVES[objective], optim.row_sgd(rate))
    first = step.init(jax.random.key(seed))
    last, batches, states = run(step, sampler, first, 6)
    ledger = last.ledger
    assert ledger is not None
    if normalised:  # users' rows are scored normalised, so only the items' side has the identity
        moved = last.params["item"] - first.params["item"]
        told = rate * (ledger.items.pull.vector + ledger.items.push.vector)
        np.testing.assert_allclose(moved, told, rtol=1e-3, atol=1e-5)
    else:
        assert testing.identity_error(first.params, last.params, ledger, rate) < 1e-4
    total, events, pulls = 0.0, 0.0, 0
    for batch, state in zip(batches, states, strict=True):
        user, positive = models.rows(model, state.params, batch.users, batch.positives)
        _, negative = models.rows(model, state.params, batch.users[:1], batch.negatives)
        objective_ = OBJECTIVES[objective]

        def loss(scores: tuple, f=objective_, b=batch) -> jax.Array:
            return jnp.sum(f(*scores, where=b.where, log_q=b.log_q))

        scores = models.pair_scores(user, positive), models.candidate_scores(user, negative)
        g = jax.grad(loss)(scores)
        length = np.linalg.norm(user, axis=1)
        total += float(np.sum(np.abs(g[0]) * length) + np.sum(np.abs(g[1]) * length[:, None]))
        events += float(np.sum(np.ones(g[1].shape) if batch.where is None else batch.where))
        pulls += len(batch.users)
    found = float(jnp.sum(ledger.items.pull.size) + jnp.sum(ledger.items.push.size))
    assert found == pytest.approx(total, rel=1e-4)
    assert float(jnp.sum(ledger.items.pull.events)) == pulls == float(jnp.sum(ledger.users.pull.events))
    assert float(jnp.sum(ledger.items.push.events)) == events


def events(seed: int, width: int = 3) -> dict[str, ledgers.Events]:
    rng = np.random.default_rng(seed)

    def some(n: int) -> ledgers.Events:
        gradient = jnp.asarray(rng.normal(size=(8, width)), jnp.float32)
        ids = jnp.asarray(rng.integers(0, n, 8), jnp.int32)
        return ledgers.Events(ids, gradient, jnp.linalg.norm(gradient, axis=1))

    return {"item_pull": some(5), "item_push": some(5), "user_pull": some(4), "user_push": some(4)}


def observe(seeds: list[int], **options: float) -> ledgers.GradientLedger:
    ledger = ledgers.init(4, 5, 3)
    for seed in seeds:
        ledger = ledgers.observe(ledger, **events(seed), **options)  # type: ignore[arg-type]
    return ledger


def test_merge_is_observing_both() -> None:
    both, merged = observe([1, 2]), ledgers.merge(observe([1]), observe([2]))
    for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(merged), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_merge_refuses_another_shape() -> None:
    with pytest.raises(ValueError, match="only ledgers of one shape"):
        ledgers.merge(ledgers.init(4, 5, 3), ledgers.init(4, 6, 3))


@pytest.mark.parametrize(("side", "number"), [("item", 5), ("user", 4)])
def test_merge_refuses_totals_of_other_weights(side: str, number: int) -> None:
    one, seven = (ledgers.init(4, 5, 3, **{f"{side}_weight": jnp.full(number, w)}) for w in (1.0, 7.0))
    assert getattr(ledgers.merge(one, one), f"{side}s").weight.tolist() == [1.0] * number
    with pytest.raises(ValueError, match="totals of the same weights"):
        ledgers.merge(one, seven)
    assert getattr(jax.jit(ledgers.merge)(one, one), f"{side}s").weight.tolist() == [1.0] * number


def test_decay_weighs_earlier_batches_down() -> None:
    decayed, first, second = observe([1, 2], decay=0.5), observe([1]), observe([2])
    for a, b, c in zip(*(jax.tree.leaves(x) for x in (decayed, first, second)), strict=True):
        np.testing.assert_allclose(a, 0.5 * b + c, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_decay_must_be_a_share(decay: float) -> None:
    with pytest.raises(ValueError, match="decay must be in"):
        observe([1], decay=decay)


def test_totals_are_the_weighted_sums_of_vectors() -> None:
    weight = jnp.arange(1.0, 6.0)
    totals = ledgers.observe(ledgers.init(4, 5, 3, item_weight=weight), **events(1))
    full = observe([1])
    np.testing.assert_allclose(totals.items.pull.vector, weight @ full.items.pull.vector, rtol=1e-5)
    np.testing.assert_allclose(totals.items.pull.size, full.items.pull.size)
    np.testing.assert_allclose(
        ledgers.direction(totals.items),
        (weight @ full.items.pull.vector) / jnp.linalg.norm(weight @ full.items.pull.vector),
        rtol=1e-5,
    )
    with pytest.raises(ValueError, match="wants a ledger that keeps vectors"):
        ledgers.alignment(totals.items)
    with pytest.raises(ValueError, match="fixed its weights"):
        ledgers.direction(totals.items, "count")


def test_a_step_that_observes_with_decay_weighs_earlier_batches_down() -> None:
    train = random_interactions()
    sampler = samplers.sampler(train, batch_size=64)
    batch = sampler.draw(sampler.data, jax.random.key(0), jnp.int32(0))
    sizes = []
    for decay in (1.0, 0.5):
        observation = Observation(decay=decay)
        step = make_step(models.mf(30, 20, 4), objectives.bpr(), optim.row_sgd(0.0), observation=observation)
        state, update = step.init(jax.random.key(0)), jax.jit(step.update)
        for _ in range(2):
            state, _ = update(state, batch)
        sizes.append(float(state.ledger.items.pull.size.sum()))
    assert sizes[1] / sizes[0] == pytest.approx(0.75, rel=1e-4)


def _each_step(observation: Observation | None, steps: int, kind: str) -> list[TrainState]:
    """The states of some steps, the first one before any."""
    given: dict[str, Any] = {"observation": observation, "l2": 0.01}
    if kind == "network":
        step = make_step(models.neumf(30, 20, 4), objectives.bpr(), optax.sgd(0.1), **given)
    elif kind == "objective of rows":
        step = make_row_step(models.mf(30, 20, 4), _of_rows, optim.row_sgd(0.1), **given)
    else:
        model = models.normalize(models.mf(30, 20, 4), users=True)
        step = make_step(model, objectives.bpr(), optim.row_sgd(0.1), transform=damped(), **given)
    states, update = [step.init(jax.random.key(0))], jax.jit(step.update)
    for batch in _batches(kind)[:steps]:
        states.append(update(states[-1], batch)[0])
    return states


@functools.cache
def _batches(kind: str) -> list[Batch]:
    rows_per_user = 4 if kind == "rows share a user" else 1
    sampler = samplers.sampler(
        random_interactions(), batch_size=64, rows_per_user=rows_per_user, shared=kind == "shared"
    )
    draw = jax.jit(sampler.draw)
    return [draw(sampler.data, jax.random.key(1), jnp.int32(i)) for i in range(7)]


def _of_rows(rows: ScoredRows, batch: Batch, epoch: Array) -> Array:
    margins = jnp.sum(rows.pull * rows.positive, -1) - jnp.sum(rows.push[:, None] * rows.negative, -1).mean(-1)
    return jax.nn.softplus(-margins)


def damped() -> optax.GradientTransformation:
    return optax.scale(0.5)


KINDS = ("own negatives", "rows share a user", "shared", "network", "objective of rows")


@pytest.mark.parametrize(
    ("kind", "gradients", "weighted"),
    [  # each kind and both gradients with weights and without
        (kind, gradients, (n + (gradients == "raw")) % 2 == 1)
        for n, kind in enumerate(KINDS)
        for gradients in ("raw", "corrected")
    ],
)
def test_one_batch_of_several_is_counted_several_times(kind: str, gradients: Any, weighted: bool) -> None:
    weights = {"user_weight": jnp.arange(30.0), "item_weight": jnp.arange(20.0)} if weighted else {}
    full = Observation(gradients=gradients, **weights)
    each, some = _each_step(full, 7, kind), _each_step(full._replace(every=3), 7, kind)
    assert [int(state.step) for state in some] == list(range(8))
    for one, other in zip(jax.tree.leaves(each[-1].params), jax.tree.leaves(some[-1].params), strict=True):
        np.testing.assert_array_equal(one, other)  # what is observed changes nothing that is trained
    read = [0, 3, 6]
    leaves = [jax.tree.leaves(state.ledger) for state in each]
    names = [path for path, _ in jax.tree_util.tree_leaves_with_path(each[-1].ledger)]
    for n, (path, found) in enumerate(zip(names, jax.tree.leaves(some[-1].ledger), strict=True)):
        wanted = 3 * sum(np.asarray(leaves[t + 1][n], np.float64) - leaves[t][n] for t in read)
        if "weight" in jax.tree_util.keystr(path):
            wanted = np.asarray(leaves[0][n])
        assert np.abs(wanted).max() > 0
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_one_batch_of_several_decays_as_much_as_all() -> None:
    each, some = (_each_step(Observation(decay=0.5, every=n), 4, "own negatives")[-1].ledger for n in (1, 2))
    plain = [state.ledger.items.pull.size for state in _each_step(Observation(), 4, "own negatives")]
    gained = [np.asarray(b - a) for a, b in pairwise(plain)]
    wanted = 2 * (0.25 * gained[0] + gained[2])  # read at the first and the third step
    np.testing.assert_allclose(some.items.pull.size, wanted, rtol=1e-5)
    assert not np.allclose(each.items.pull.size, wanted)


def test_batches_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match=r"every, the number of batches .* a whole number from 1, got 0"):
        make_step(models.mf(3, 2, 4), objectives.bpr(), optim.row_sgd(0.1), observation=Observation(every=0))
    with pytest.raises(ValueError, match=r"a whole number from 1, got 2\.5"):
        make_step(models.mf(3, 2, 4), objectives.bpr(), optim.row_sgd(0.1), observation=Observation(every=2.5))  # type: ignore[arg-type]


def test_totals_want_one_weight_a_row() -> None:
    with pytest.raises(ValueError, match="must have shape"):
        ledgers.init(4, 5, 3, item_weight=jnp.ones(4))


def test_readings_are_their_formulas() -> None:
    side = observe([1, 2, 3]).items
    pull, push = np.asarray(side.pull.vector), np.asarray(side.push.vector)
    p, n = np.asarray(side.pull.size), np.asarray(side.push.size)
    np.testing.assert_allclose(ledgers.ratio(side), p / (n + 1e-12), rtol=1e-5)
    np.testing.assert_allclose(ledgers.magnitude(side, "size"), p)
    np.testing.assert_allclose(ledgers.magnitude(side, "push"), n)
    np.testing.assert_allclose(ledgers.magnitude(side, "count"), side.pull.events)
    np.testing.assert_allclose(ledgers.magnitude(side, "ratio"), ledgers.ratio(side))
    np.testing.assert_allclose(ledgers.magnitude(side, "vector"), np.linalg.norm(pull, axis=1), rtol=1e-5)
    for weighting, weight in (("uniform", np.ones(5)), ("count", np.asarray(side.pull.events)), ("ratio", p / n)):
        total = weight @ pull
        np.testing.assert_allclose(
            ledgers.direction(side, weighting), total / np.linalg.norm(total), rtol=1e-4  # type: ignore[arg-type]
        )
    group = np.array([True, False, True, False, False])
    total = pull[group].sum(0)
    np.testing.assert_allclose(
        ledgers.direction(side, where=jnp.asarray(group)), total / np.linalg.norm(total), rtol=1e-4
    )
    for i in range(5):
        both = pull[i] + push[i]
        cosine = both @ pull[i] / np.linalg.norm(both) / np.linalg.norm(pull[i])
        np.testing.assert_allclose(ledgers.alignment(side)[i], cosine, rtol=1e-4)
    rows, d = np.arange(15.0, dtype=np.float32).reshape(5, 3), np.asarray(ledgers.direction(side))
    np.testing.assert_allclose(
        ledgers.alignment(side, jnp.asarray(rows)), rows @ d / np.linalg.norm(rows, axis=1), rtol=1e-4
    )


def test_alignment_does_not_depend_on_how_long_the_direction_is() -> None:
    side, rows = observe([1, 2, 3]).items, jnp.arange(15.0).reshape(5, 3)
    d = ledgers.direction(side)
    np.testing.assert_allclose(ledgers.alignment(side, rows, 3 * d), ledgers.alignment(side, rows, d), rtol=1e-5)


def test_a_ratio_without_a_push_does_not_outweigh_all_others() -> None:
    side = observe([1, 2, 3]).items
    pushed = side._replace(push=side.push._replace(size=jnp.array([0.5, 0.25, 0.0, 2.0, 0.0])))
    wanted = side.pull.size / np.array([0.5, 0.25, 0.25, 2.0, 0.25])
    np.testing.assert_allclose(ledgers.ratio(pushed), wanted, rtol=1e-6)
    none = side._replace(push=side.push._replace(size=jnp.zeros(5)))
    np.testing.assert_array_equal(ledgers.ratio(none), side.pull.size)


def test_an_empty_ledger_reads_as_zeros() -> None:
    side = ledgers.init(4, 5, 3).items
    for reading in (ledgers.ratio(side), ledgers.direction(side), ledgers.alignment(side)):
        assert jnp.all(reading == 0)


@pytest.mark.parametrize("factor", [2.0**-100, 2.0**-24, 2.0**60])
def test_cosines_do_not_depend_on_the_size_of_gradients(factor: float) -> None:
    side = observe([1, 2, 3]).items
    role = lambda r: r._replace(vector=factor * r.vector)  # noqa: E731
    scaled = side._replace(pull=role(side.pull), push=role(side.push))
    np.testing.assert_array_equal(ledgers.direction(scaled), ledgers.direction(side))
    np.testing.assert_array_equal(ledgers.alignment(scaled), ledgers.alignment(side))
    d, rows = ledgers.direction(side), scaled.pull.vector.at[0].set(0.0)
    found, wanted = (ledgers.alignment(s, s.pull.vector, d) for s in (scaled, side))
    np.testing.assert_array_equal(found, wanted)
    assert ledgers.alignment(side, rows, d)[0] == 0 != wanted[0]


def test_readings_of_a_row_without_events_have_a_gradient_of_zero() -> None:
    ledger = observe([1])
    pull = ledger.items.pull._replace(vector=ledger.items.pull.vector.at[2].set(0.0))

    def total(vector: jax.Array) -> jax.Array:
        side = ledger.items._replace(pull=pull._replace(vector=vector), push=pull)
        rows = jax.lax.stop_gradient(vector)
        return jnp.sum(ledgers.alignment(side) + ledgers.alignment(side, rows) + ledgers.magnitude(side, "vector"))

    assert np.isfinite(jax.grad(total)(pull.vector)).all()
    assert np.isfinite(jax.grad(lambda rows: jnp.sum(ledgers.alignment(ledger.items, rows)))(pull.vector)).all()


@pytest.mark.parametrize("call", [lambda s: ledgers.magnitude(s, "mass"), lambda s: ledgers.direction(s, "mass")])
def test_unknown_readings_name_the_known_ones(call) -> None:
    with pytest.raises(ValueError, match=r"must be one of .*'mass'"):
        call(ledgers.init(4, 5, 3).items)


@pytest.mark.parametrize("which", ["raw", "corrected"])
def test_what_is_observed_with_a_transform(which: str) -> None:
    from jaxrec.transforms import training

    train = random_interactions()
    model = models.mf(train.num_users, train.num_items, 5, scale=1.0)
    sampler = samplers.sampler(train, batch_size=16, num_negatives=2)
    weights = jnp.full(train.num_items, 3.0)
    ledgers_ = {}
    for name, transform in (("plain", None), ("weighted", training.weight_rows(weights))):
        step = make_step(
            model, objectives.bpr(), optim.row_sgd(0.0), transform=transform,
            observation=Observation(gradients=which),  # type: ignore[arg-type]
        )  # fmt: skip
        ledgers_[name] = run(step, sampler, step.init(jax.random.key(0)), 3)[0].ledger
    factor = 1.0 if which == "raw" else 3.0
    np.testing.assert_allclose(
        ledgers_["weighted"].items.pull.size, factor * ledgers_["plain"].items.pull.size, rtol=1e-5
    )
    np.testing.assert_allclose(
        ledgers_["weighted"].users.push.vector, factor * ledgers_["plain"].users.push.vector, rtol=1e-4, atol=1e-5
    )
