"""Two towers and NeuMF: their forward pass against loops, training against `jax.grad`, limits that are other models."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import DATA, random_interactions
from test_gradients import ITEMS, OBJECTIVES, USERS, B, D, K, batch_of

from jaxrec import cli, data, metrics, models, objectives, optim, pipeline, presets, rank, samplers, testing
from jaxrec.data.formats import read_table
from jaxrec.gradients import ScoredRows
from jaxrec.models import Model
from jaxrec.objectives import Objective
from jaxrec.presets import Settings
from jaxrec.step import Observation, Step, TrainState, make_row_step, make_step
from jaxrec.train import fit, make_epoch
from jaxrec.transforms import adjustment as adj
from jaxrec.transforms import training
from jaxrec.types import Array, Batch, Params

TRAIN = random_interactions(3, users=USERS, items=ITEMS)
X_USER = np.random.default_rng(1).random((USERS, 3)).astype(np.float32)
X_ITEM = np.random.default_rng(2).random((ITEMS, 2)).astype(np.float32)
FEATURES = {"user": X_USER, "item": X_ITEM}
SMALL = Settings(
    backbone="two-tower", objective="bpr", layers=1, width=16, negatives=4, reject=True, batch_size=512,
    optimizer="adam", learning_rate=5e-3, epochs=6, evaluate_every=3, budget=8,
)  # fmt: skip


def random_params(model: Model, seed: int = 1) -> Params:
    """Parameters of size 1 everywhere, biases included, so that none can hide."""
    leaves, tree = jax.tree.flatten(model.init(jax.random.key(0)))
    rng = np.random.default_rng(seed)
    return tree.unflatten([jnp.asarray(0.7 * rng.normal(size=x.shape), jnp.float32) for x in leaves])


def starting(step: Step, params: Params) -> TrainState:
    """A step's first state with other parameters; plain SGD keeps nothing of them."""
    return step.init(jax.random.key(1))._replace(params=params)


# --- the forward pass, a row and a unit at a time


def unit_by_unit(x: list[float], layer: dict) -> list[float]:
    kernel, bias = np.asarray(layer["kernel"], np.float64), layer.get("bias")
    return [
        sum(x[m] * kernel[m, n] for m in range(len(x))) + (0.0 if bias is None else float(bias[n]))
        for n in range(kernel.shape[1])
    ]


def relu(x: list[float]) -> list[float]:
    return [max(0.0, v) for v in x]


def tower_row(params: Params, side: str, row: int, features: np.ndarray | None, layers: int) -> list[float]:
    x = [float(v) for v in params[side][row]] + ([] if features is None else [float(v) for v in features[row]])
    for layer in range(layers):
        x = unit_by_unit(relu(x) if layer else x, params[f"{side}_tower"][f"layers_{2 * layer}"])
    return x


def neumf_score(params: Params, user: int, item: int, layers: int) -> float:
    network, width = params["network"], len(params["network"]["gmf"])
    p, q = ([float(v) for v in params[side][row]] for side, row in (("user", user), ("item", item)))
    score = sum(float(h) * a * b for h, a, b in zip(network["gmf"], p[:width], q[:width], strict=True))
    if layers == 0:
        return score
    both = {
        "kernel": np.concatenate([network["user"]["kernel"], network["item"]["kernel"]]),
        "bias": network["item"]["bias"],
    }
    z = relu(unit_by_unit(p[width:] + q[width:], both))
    for layer in range(1, layers):
        z = relu(unit_by_unit(z, network[f"layer_{layer}"]))
    return score + sum(float(h) * v for h, v in zip(network["mlp"], z, strict=True))


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("sides", [(), ("item",), ("user", "item")])
def test_towers_are_those_of_a_loop(layers: int, sides: tuple[str, ...]) -> None:
    given = {side: FEATURES[side] for side in sides}
    features = {f"{side}_features": x for side, x in given.items()}
    model = models.two_tower(USERS, ITEMS, D, layers=layers, **features)
    params = random_params(model)
    for side, found in zip(("user", "item"), model.tables(params), strict=True):
        wanted = [tower_row(params, side, n, given.get(side), layers) for n in range(len(params[side]))]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_scores_of_neumf_are_those_of_a_loop(layers: int) -> None:
    model = models.neumf(USERS, ITEMS, D, layers=layers)
    params, users = random_params(model), np.array([2, 0, 2, 6])
    wanted = [[neumf_score(params, u, i, layers) for i in range(ITEMS)] for u in users]
    np.testing.assert_allclose(models.scorer(model, params).block(users), wanted, rtol=1e-4, atol=1e-5)
    bias = jnp.linspace(-1.0, 2.0, ITEMS)
    offset = models.scorer(model, params, item_bias=bias).block(users)
    np.testing.assert_allclose(offset, np.array(wanted) + np.asarray(bias), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["neumf", "two-tower", "mf"])
def test_blocks_of_scores_rank_as_sorting_does(name: str) -> None:
    train = random_interactions()
    model = models.normalize(
        {
            "neumf": models.neumf(30, 20, D),
            "two-tower": models.two_tower(30, 20, D),
            "mf": models.mf(30, 20, D, biases=True),
        }[name]
    )
    params = random_params(model)
    scorer = models.scorer(model, params)
    found = rank.top_k_scores(scorer, None, train, k=4, block=7)
    scores = np.array(scorer.block(np.arange(30)))
    scores[train.users, train.items] = -np.inf
    np.testing.assert_array_equal(found.items, np.argsort(-scores, axis=1, kind="stable")[:, :4])
    if model.score is None:
        tables = rank.top_k(models.embed(model, params), None, train, k=4)
        np.testing.assert_array_equal(found.items, tables.items)


# --- gradients


def plain_tower(params: Params, side: str, layers: int, features: np.ndarray | None) -> Array:
    x = params[side] if features is None else jnp.concatenate([params[side], jnp.asarray(features)], axis=1)
    for layer in range(layers):
        part = params[f"{side}_tower"][f"layers_{2 * layer}"]
        x = (jnp.maximum(x, 0.0) if layer else x) @ part["kernel"] + part["bias"][None, :]
    return x


def plain_neumf(params: Params, users: Array, items: Array, layers: int, scored: bool) -> Array:
    """The scores of pairs [..], written down with one concatenation."""
    network, width = params["network"], len(params["network"]["gmf"])
    p, q = params["user"][users], params["item"][items]
    if scored:
        p = p / jnp.linalg.norm(p, axis=-1, keepdims=True)
    score = jnp.sum(network["gmf"][None, :] * (p[..., :width] * q[..., :width]).reshape(-1, width), axis=-1)
    z = jnp.concatenate([p[..., width:], q[..., width:]], axis=-1).reshape(-1, 2 * width)
    kernel = jnp.concatenate([network["user"]["kernel"], network["item"]["kernel"]])
    z = jnp.maximum(z @ kernel + network["item"]["bias"][None, :], 0.0)
    for layer in range(1, layers):
        part = network[f"layer_{layer}"]
        z = jnp.maximum(z @ part["kernel"] + part["bias"][None, :], 0.0)
    return (score + jnp.sum(z * network["mlp"][None, :], axis=-1)).reshape(users.shape) / (0.5 if scored else 1.0)


def check_sgd(
    model: Model, loss: Objective, batch: Batch, plain: Callable[[Params], Array], *, l2: float = 0.0, **options: Any
) -> None:
    """A step of SGD moves every parameter by the gradient of a loss that is written down without a cut."""
    rate = 0.1
    step = make_step(model, loss, optax.sgd(rate), l2=l2, **options)
    state = starting(step, random_params(model))
    value, wanted = jax.jit(jax.value_and_grad(plain))(state.params)
    after, info = jax.jit(step.update)(state, batch)
    moved = jax.tree.map(lambda a, b: (a - b) / rate, state.params, after.params)
    for (path, found), (_, asked) in zip(*map(jax.tree.leaves_with_path, (moved, wanted)), strict=True):
        # BPR is blind to what adds a constant, as a bias behind a unit that is never off does.
        assert path[-1].key == "bias" or float(jnp.max(jnp.abs(asked))) > 0, path
        np.testing.assert_allclose(found, asked, rtol=1e-3, atol=2e-5 * max(1, float(jnp.max(jnp.abs(asked)))))
    if not l2 and not options:
        np.testing.assert_allclose(info.loss * B, value, rtol=1e-4)


def penalty(params: Params, batch: Batch, l2: float) -> Array:
    rows = (params["user"][batch.users], params["item"][batch.positives], params["item"][batch.negatives])
    return l2 / 2 * sum(jnp.sum(x**2) for x in rows)


SGD_CASES = [  # all pairs of their values
    ("bce", False, False, 0.0), ("logq", True, False, 0.0), ("bce", True, True, 0.3), ("logq", False, True, 0.3),
]  # fmt: skip


@pytest.mark.parametrize(("objective", "shared", "normalised", "l2"), SGD_CASES)
def test_a_step_on_two_towers_follows_the_gradient_of_the_whole_loss(
    objective: str, shared: bool, normalised: bool, l2: float
) -> None:
    model = models.two_tower(USERS, ITEMS, D, layers=2, user_features=X_USER, item_features=X_ITEM)
    model = models.normalize(model, items=True, temperature=0.5) if normalised else model
    loss, batch = OBJECTIVES[objective], batch_of(shared)

    def plain(params: Params) -> Array:
        user, item = (plain_tower(params, side, 2, FEATURES[side]) for side in ("user", "item"))
        if normalised:
            user = 2.0 * user / jnp.linalg.norm(user, axis=1, keepdims=True)
            item = item / jnp.linalg.norm(item, axis=1, keepdims=True)
        scores = user @ item.T
        negatives = jnp.broadcast_to(batch.negatives, (B, K))
        found = loss(
            scores[batch.users, batch.positives], scores[batch.users[:, None], negatives],
            where=batch.where, log_q=batch.log_q,
        )  # fmt: skip
        return jnp.sum(found) + penalty(params, batch, l2)

    check_sgd(model, loss, batch, plain, l2=l2)


def whole_neumf(
    params: Params, loss: Objective, batch: Batch, *, layers: int, scored: bool = False, weight: Array | None = None
) -> Array:
    users = jnp.broadcast_to(batch.users[:, None], (B, K))
    positive = plain_neumf(params, batch.users, batch.positives, layers, scored)
    negative = plain_neumf(params, users, jnp.broadcast_to(batch.negatives, (B, K)), layers, scored)
    found = loss(positive, negative, where=batch.where, log_q=batch.log_q)
    return jnp.sum(found if weight is None else found * weight[batch.positives])


@pytest.mark.parametrize(("objective", "shared", "normalised", "l2"), SGD_CASES)
def test_a_step_on_neumf_follows_the_gradient_of_the_whole_loss(
    objective: str, shared: bool, normalised: bool, l2: float
) -> None:
    model = models.neumf(USERS, ITEMS, D, layers=3)
    model = models.normalize(model, temperature=0.5) if normalised else model
    loss, batch = OBJECTIVES[objective], batch_of(shared)

    def plain(params: Params) -> Array:
        return whole_neumf(params, loss, batch, layers=3, scored=normalised) + penalty(params, batch, l2)

    check_sgd(model, loss, batch, plain, l2=l2)


@pytest.mark.parametrize("shared", [False, True])
def test_training_transforms_weigh_the_loss_of_neumf(shared: bool) -> None:
    model, batch, weight = models.neumf(USERS, ITEMS, D, layers=2), batch_of(shared), jnp.linspace(0.2, 3.0, ITEMS)
    loss = OBJECTIVES["bpr"]
    plain = lambda params: whole_neumf(params, loss, batch, layers=2, weight=weight)  # noqa: E731
    check_sgd(model, loss, batch, plain, transform=training.weight_rows(weight))


# --- limits


def test_without_layers_two_towers_are_matrix_factorisation_bit_for_bit() -> None:
    sampler = samplers.sampler(random_interactions(), batch_size=32)
    found = []
    for model in (models.mf(30, 20, 6), models.two_tower(30, 20, 6, layers=0)):
        step = make_step(model, objectives.bpr(), optim.row_adagrad(0.05), l2=1e-2)
        state, _ = make_epoch(step, sampler)(step.init(jax.random.key(0)))
        found.append(models.embed(model, state.params))
    np.testing.assert_array_equal(found[0].user, found[1].user)
    np.testing.assert_array_equal(found[0].item, found[1].item)


def test_towers_of_identities_are_matrix_factorisation() -> None:
    model, flat, batch = models.two_tower(USERS, ITEMS, D, layers=1), models.mf(USERS, ITEMS, D), batch_of(False)
    start = flat.init(jax.random.key(4))
    same = {"layers_0": {"kernel": jnp.eye(D), "bias": jnp.zeros(D)}}
    ledgers = []
    for m, params in ((model, start | {"user_tower": same, "item_tower": same}), (flat, start)):
        step = make_step(m, objectives.bpr(), optax.sgd(0.1))
        ledgers.append(step.update(starting(step, params), batch)[0].ledger)
        for found, wanted in zip(models.embed(m, params)[:2], (start["user"], start["item"]), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-6)
    for a, b in zip(*map(jax.tree.leaves, ledgers), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_without_a_say_of_its_network_neumf_is_a_weighted_inner_product() -> None:
    model = models.neumf(USERS, ITEMS, D, layers=3)
    params = random_params(model)
    assert not np.allclose(
        *(models.scorer(model, params | {"network": params["network"] | {"mlp": h}}).block(np.arange(USERS))
          for h in (jnp.zeros(D // 4), jnp.ones(D // 4)))
    )  # fmt: skip
    params["network"]["mlp"] = jnp.zeros(D // 4)
    wanted = (params["user"][:, :D] * params["network"]["gmf"][None, :]) @ params["item"][:, :D].T
    found = models.scorer(model, params).block(np.arange(USERS))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_gmf_starts_as_matrix_factorisation_ledger_included(shared: bool) -> None:
    """With h = 1 the step reads the same gradients by its network as by inner products."""
    batch, loss = batch_of(shared), OBJECTIVES["softmax"]
    found = []
    for model in (models.neumf(USERS, ITEMS, D, layers=0, scale=1.0), models.mf(USERS, ITEMS, D, scale=1.0)):
        step = make_step(model, loss, optax.sgd(0.1))
        start = step.init(jax.random.key(1))
        tables = models.mf(USERS, ITEMS, D, scale=1.0).init(jax.random.key(2))
        state, info = step.update(start._replace(params=start.params | tables), batch)
        found.append((state.ledger, info, {side: state.params[side] for side in ("user", "item")}))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


# --- the ledger


def test_the_ledger_identity_holds_for_neumf() -> None:
    """Rows move by η (P + N) while the network, which the ledger does not see, moves beside them."""
    train, rate = random_interactions(), 0.05
    sampler = samplers.sampler(train, batch_size=32, num_negatives=3)
    step = make_step(models.neumf(30, 20, 8, scale=1.0), objectives.bce(), optax.sgd(rate))
    first = step.init(jax.random.key(0))
    last = first
    draw, update = jax.jit(sampler.draw), jax.jit(step.update)
    for i in range(30):
        last, _ = update(last, draw(sampler.data, jax.random.key(0), jnp.int32(i)))
    assert last.ledger is not None
    assert testing.identity_error(first.params, last.params, last.ledger, rate) < 1e-4
    moved = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), first.params["network"], last.params["network"])
    assert min(jax.tree.leaves(moved)) > 0


@pytest.mark.parametrize("shared", [False, True])
def test_two_towers_move_by_the_ledgers_gradients_pulled_back(shared: bool) -> None:
    model, rate = models.two_tower(USERS, ITEMS, D, layers=2, item_features=X_ITEM), 0.1
    step = make_step(model, OBJECTIVES["bpr"], optax.sgd(rate))
    first = starting(step, random_params(model))
    last, _ = step.update(first, batch_of(shared))
    assert last.ledger is not None
    _, back = jax.vjp(model.tables, first.params)
    sides = (last.ledger.users, last.ledger.items)
    (told,) = back(tuple(side.pull.vector + side.push.vector for side in sides))
    moved = jax.tree.map(lambda a, b: (b - a) / rate, first.params, last.params)
    for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(told), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shared", [False, True])
def test_sizes_of_neumf_are_those_of_each_event(shared: bool) -> None:
    """Σ‖∂ℓ/∂v‖ by item and role, an event at a time: jax.grad of the row's loss by its own copy of the item's row."""
    model, batch, loss = models.neumf(USERS, ITEMS, D, layers=2), batch_of(shared), objectives.bce()
    params = random_params(model)
    step = make_step(model, loss, optax.sgd(0.1))
    ledger = step.update(starting(step, params), batch)[0].ledger
    assert ledger is not None
    pull, push, users = np.zeros(ITEMS), np.zeros(ITEMS), np.zeros(USERS)
    negatives = np.broadcast_to(batch.negatives, (B, K))

    def row(own: Array, others: Array, user: Array, where: Array) -> Array:
        # The copies become a table of their own, which the plain score reads.
        table = params | {"user": user[None], "item": jnp.concatenate([own[None], others])}
        zeros = jnp.zeros(K, jnp.int32)
        at = plain_neumf(table, zeros[:1], zeros[:1], 2, False)
        far = plain_neumf(table, zeros, 1 + jnp.arange(K), 2, False)
        return jnp.sum(loss(at, far[None], where=where[None]))

    by = jax.jit(jax.grad(row, argnums=(0, 1)))
    assert batch.where is not None
    for b in range(B):
        own, others = params["item"][batch.positives[b]], params["item"][negatives[b]]
        by_own, by_others = by(own, others, params["user"][batch.users[b]], batch.where[b])
        pull[int(batch.positives[b])] += float(jnp.linalg.norm(by_own))
        users[int(batch.users[b])] += 1
        for k in range(K):
            push[negatives[b, k]] += float(jnp.linalg.norm(by_others[k]))
    np.testing.assert_allclose(ledger.items.pull.size, pull, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ledger.items.push.size, push, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(ledger.users.pull.events, users)
    assert float(ledger.items.push.events.sum()) == float(batch.where.sum())


def test_raw_gradients_and_totals_of_neumf() -> None:
    """A transform is seen by "corrected" only; a side that keeps totals keeps the weighted sum of its vectors."""
    model, batch, weight = models.neumf(USERS, ITEMS, D, layers=2), batch_of(True), jnp.linspace(1.0, 2.0, ITEMS)
    params, found = random_params(model), []
    for observation in (
        Observation(), Observation(gradients="corrected"), Observation(item_weight=weight),
    ):  # fmt: skip
        double = training.weight_rows(jnp.full(ITEMS, 2.0))
        step = make_step(model, objectives.bpr(), optax.sgd(0.1), transform=double, observation=observation)
        ledger = step.update(starting(step, params), batch)[0].ledger
        assert ledger is not None
        found.append(ledger.items.pull)
    np.testing.assert_allclose(2 * found[0].vector, found[1].vector, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(2 * found[0].size, found[1].size, rtol=1e-5)
    np.testing.assert_allclose(weight @ found[0].vector, found[2].vector, rtol=1e-4, atol=1e-6)


# --- training


@pytest.mark.parametrize("model", [models.two_tower(USERS, ITEMS, D), models.neumf(USERS, ITEMS, D)], ids=["2", "n"])
def test_state_is_a_fixed_point_and_traces_once(model: Model) -> None:
    sampler = samplers.sampler(TRAIN, batch_size=8, num_negatives=2)
    step = make_step(model, objectives.bpr(), optax.adam(0.01), l2=1e-4)
    state = step.init(jax.random.key(0))
    draw = jax.jit(sampler.draw)
    batches = [draw(sampler.data, jax.random.key(0), jnp.int32(i)) for i in range(3)]
    testing.check_fixed_point(step, state, batches[0])
    testing.check_one_trace(step, state, batches)


@pytest.mark.parametrize("name", ["two-tower", "neumf"])
def test_known_answer_data_is_learned(name: str) -> None:
    train, test = testing.two_groups()
    make = {"two-tower": models.two_tower, "neumf": models.neumf}[name]
    model = make(train.num_users, train.num_items, 8, layers=2, scale=0.5)
    step = make_step(model, objectives.bpr(), optax.adam(0.01), l2=0.1)
    sampler = samplers.sampler(train, batch_size=64, num_negatives=2, reject=True)
    params = fit(step, sampler, epochs=20, key=jax.random.key(0)).state.params
    ranking = rank.top_k_scores(models.scorer(model, params), None, train, k=12)
    assert metrics.evaluate(ranking, test, train, ks=(12,)).summary["recall@12"] >= 0.9


@pytest.mark.parametrize("backbone", ["two-tower", "neumf"])
def test_settings_build_a_backbone_that_learns(backbone: str) -> None:
    """The loss falls, and the lists are far better than random ones: on the generated world, from settings."""
    split = data.synthetic(num_users=300, num_items=200).split
    settings = dataclasses.replace(SMALL, backbone=backbone, layers=2)
    model, sampler, step = presets.build(settings, split.train)
    start = step.init(jax.random.key(0)).params
    found = fit(step, sampler, epochs=15, key=jax.random.key(0))
    losses = [row["loss"] for row in found.history]
    assert losses[-1] < 0.8 * losses[0]

    def ndcg(params: Params) -> float:
        ranking = rank.top_k_scores(models.scorer(model, params), None, split.train, k=20)
        return metrics.evaluate(ranking, split.tests["natural"], split.train).summary["ndcg@20"]

    assert ndcg(found.state.params) > 2 * ndcg(start)
    assert found.state.ledger is not None
    size = np.asarray(found.state.ledger.items.pull.size)
    assert np.corrcoef(np.log1p(size), np.log1p(split.train.item_counts))[0, 1] > 0.8


def test_an_offset_by_gradient_size_moves_lists_of_neumf_to_the_tail() -> None:
    split = data.synthetic(num_users=300, num_items=200).split
    settings = dataclasses.replace(SMALL, backbone="neumf", layers=2)
    model, sampler, step = presets.build(settings, split.train)
    state = fit(step, sampler, epochs=10, key=jax.random.key(0)).state
    assert state.ledger is not None
    number = adj.log_relative(state.ledger.items.pull.size)
    shown = []
    for strength in (0.0, 1.0):
        scorer = models.scorer(model, state.params, item_bias=-strength * number)
        ranking = rank.top_k_scores(scorer, None, split.train, k=20)
        shown.append(metrics.evaluate(ranking, split.tests["unbiased"], split.train).summary)
    assert shown[1]["arp@20"] < 0.9 * shown[0]["arp@20"]
    assert shown[1]["ndcg@20"] > shown[0]["ndcg@20"]


def test_a_run_on_two_towers_is_the_same_run(folder: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, width=8, batch_size=256)
    found = pipeline.train(str(folder), settings, tmp_path / "run")
    assert found["settings"]["backbone"] == "two-tower"
    (test,) = found["tests"].values()
    assert set(test) == {"plain", "adjusted", "count_control", "tten"}


def test_neumf_is_refused_before_a_run_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--backbone", "neumf", "--optimizer", "adam", "--no-shared", "--negatives", "1", "--no-logq"]
    for command in ("train", "tune"):
        assert cli.main([command, "synthetic", "--out", str(tmp_path / "out"), *settings]) != 0
        assert "neumf scores by a network, so it has no tables" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.data
def test_features_of_coat_are_read_by_the_towers() -> None:
    """With all embeddings at 0 the towers know users and items by their features alone, and still beat chance."""
    x = [read_table(DATA / "coat" / f"{side}_features.ascii.gz") for side in ("user", "item")]
    split = data.load("coat").split
    model = models.two_tower(
        split.train.num_users, split.train.num_items, 16, user_features=x[0], item_features=x[1], scale=0.0
    )
    step = make_step(model, objectives.bpr(), optax.adam(5e-3))
    sampler = samplers.sampler(split.train, batch_size=256, reject=True)
    params = fit(step, sampler, epochs=20, key=jax.random.key(0)).state.params
    blank = params | {side: jnp.zeros_like(params[side]) for side in ("user", "item")}
    found = []
    for shown in (blank, random_params(model)):
        ranking = rank.top_k(models.embed(model, shown), None, split.train, k=20)
        found.append(metrics.evaluate(ranking, split.tests["unbiased"], split.train).summary["ndcg@20"])
    assert found[0] > 1.3 * found[1]


# --- mistakes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": -1}, "layers must be at least 0"),
        ({"layers": 0, "item_features": X_ITEM}, "features want a tower that reads them"),
        ({"user_features": X_USER[:-1]}, r"user_features must have shape \(7, F\), a row for each user, got \(6, 3\)"),
        ({"item_features": X_USER}, r"item_features must have shape \(9, F\), a row for each item, got \(7, 3\)"),
        ({"item_features": X_ITEM[:, 0]}, r"must have shape \(9, F\).*got \(9,\)"),
        ({"item_features": X_ITEM[:, :0]}, r"must have shape \(9, F\).*got \(9, 0\)"),
        ({"user_features": np.where(X_USER[4, 1] == X_USER, np.nan, X_USER)}, r"1 rows hold NaN or inf \(first: 4\)"),
    ],
)
def test_bad_towers_say_what_to_do(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.two_tower(USERS, ITEMS, D, **given)


def test_what_needs_tables_refuses_neumf() -> None:
    model, batch = models.neumf(USERS, ITEMS, D), batch_of(False)
    params = model.init(jax.random.key(0))
    with pytest.raises(ValueError, match="no inner products, so it has no tables"):
        models.embed(model, params)
    with pytest.raises(ValueError, match="row-sparse optimiser wants"):
        make_step(model, objectives.bpr(), optim.row_sgd(0.1))

    def loss(rows: ScoredRows, batch: Batch, epoch: Array) -> Array:
        return models.pair_scores(rows.pull, rows.positive)

    with pytest.raises(ValueError, match="does not use the model's own score"):
        make_row_step(model, loss, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"item_bias must have shape \(9,\)"):
        models.scorer(model, params, item_bias=jnp.zeros(USERS))
    with pytest.raises(ValueError, match="layers must be at least 0"):
        models.neumf(USERS, ITEMS, layers=-1)
    assert batch.users.shape == (B,)


@pytest.mark.parametrize("backbone", ["two-tower", "neumf"])
@pytest.mark.parametrize(
    ("change", "message"),
    [({"optimizer": "row_adagrad"}, "choose an optimizer of sgd, adagrad, adam"), ({"biases": True}, "belong to mf")],
)
def test_settings_that_the_backbones_cannot_honour_are_errors(backbone: str, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        presets.build(dataclasses.replace(SMALL, backbone=backbone, **change), TRAIN)


def test_models_load_without_flax() -> None:
    code = "import sys, jaxrec.models; sys.exit('flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
