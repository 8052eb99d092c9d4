"""Models, objectives and the cut at the scored rows, against `jax.grad` of the whole loss and numpy loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import random_interactions

from jaxrec import models, objectives, optim
from jaxrec.gradients import ScoredRows, row_gradients, score_gradients
from jaxrec.step import make_row_step, make_step
from jaxrec.transforms.training import count_weights
from jaxrec.types import Batch

USERS, ITEMS, D, B, K = 7, 9, 4, 6, 5


def sigmoid(x: np.ndarray | float) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def batch_of(shared: bool, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    negatives = rng.integers(0, ITEMS, K if shared else (B, K))
    positives = rng.integers(0, ITEMS, B)
    where = (negatives if not shared else negatives[None, :]) != positives[:, None]
    log_q = rng.normal(size=K) if shared else rng.normal(size=(B, K))
    return Batch(
        jnp.asarray(rng.integers(0, USERS, B), jnp.int32), jnp.asarray(positives, jnp.int32),
        jnp.asarray(negatives, jnp.int32), jnp.asarray(where), jnp.asarray(log_q, jnp.float32),
    )  # fmt: skip


OBJECTIVES = {
    "bpr": objectives.bpr(),
    "bce": objectives.bce(),
    "softmax": objectives.softmax(),
    "logq": objectives.softmax(logq=True),
}
MODELS = {
    "mf": models.mf(USERS, ITEMS, D, scale=1.0),
    "biased": models.mf(USERS, ITEMS, D, scale=1.0, biases=True),
    "users": models.normalize(models.mf(USERS, ITEMS, D, scale=1.0), temperature=0.5),
    "both": models.normalize(models.mf(USERS, ITEMS, D, scale=1.0, biases=True), items=True, temperature=0.2),
}


def total_loss(model: models.Model, objective: objectives.Objective, params: dict, batch: Batch) -> jax.Array:
    """The loss written down plainly, with no cut anywhere."""
    user, item = models.embed(model, params)[:2]
    negatives = jnp.broadcast_to(batch.negatives, (B, K))
    positive = jnp.sum(user[batch.users] * item[batch.positives], axis=-1)
    negative = jnp.sum(user[batch.users][:, None, :] * item[negatives], axis=-1)
    return jnp.sum(objective(positive, negative, where=batch.where, log_q=batch.log_q))


SGD_CASES = [  # each objective with each model, and with both kinds of negatives and of optimisers
    (name, list(OBJECTIVES)[(n + 2 * shared + rows) % len(OBJECTIVES)], shared, rows)
    for n, name in enumerate(MODELS)
    for shared in (False, True)
    for rows in (False, True)
]


@pytest.mark.parametrize(("name", "objective", "shared", "rows"), SGD_CASES)
def test_a_step_of_sgd_follows_the_gradient_of_the_whole_loss(
    name: str, objective: str, shared: bool, rows: bool
) -> None:
    model, loss, batch, rate = MODELS[name], OBJECTIVES[objective], batch_of(shared), 0.1
    optimizer = optim.row_sgd(rate) if rows else optax.sgd(rate)
    step = make_step(model, loss, optimizer)
    state = step.init(jax.random.key(1))
    value, wanted = jax.value_and_grad(lambda p: total_loss(model, loss, p, batch))(state.params)
    after, info = step.update(state, batch)
    for side in ("user", "item"):
        np.testing.assert_allclose(
            after.params[side], state.params[side] - rate * wanted[side], rtol=2e-4, atol=2e-5
        )
    np.testing.assert_allclose(info.loss * B, value, rtol=1e-5)


def test_weights_of_the_objectives_are_those_of_the_method() -> None:
    positive, negative = np.array([0.3, -1.0]), np.array([[0.5, -0.2], [2.0, 0.1]])
    args = (jnp.asarray(positive, jnp.float32), jnp.asarray(negative, jnp.float32))
    by_positive, by_negative = jax.grad(lambda p, n: jnp.sum(objectives.bpr()(p, n)), (0, 1))(*args)
    weight = sigmoid(negative - positive[:, None]) / 2
    np.testing.assert_allclose(-by_positive, weight.sum(1), rtol=1e-5)
    np.testing.assert_allclose(by_negative, weight, rtol=1e-5)
    by_positive, by_negative = jax.grad(lambda p, n: jnp.sum(objectives.bce()(p, n)), (0, 1))(*args)
    np.testing.assert_allclose(-by_positive, 1 - sigmoid(positive), rtol=1e-5)
    np.testing.assert_allclose(by_negative, sigmoid(negative) / 2, rtol=1e-5)
    by_positive, by_negative = jax.grad(lambda p, n: jnp.sum(objectives.softmax()(p, n)), (0, 1))(*args)
    logits = np.exp(np.concatenate([positive[:, None], negative], axis=1))
    share = logits / logits.sum(1, keepdims=True)
    np.testing.assert_allclose(-by_positive, 1 - share[:, 0], rtol=1e-5)
    np.testing.assert_allclose(by_negative, share[:, 1:], rtol=1e-5)


def test_left_out_negatives_take_no_gradient_and_change_no_loss() -> None:
    positive, negative = jnp.array([0.3]), jnp.array([[0.5, 9.0]])
    where = jnp.array([[True, False]])
    for objective in (objectives.bpr(), objectives.bce(), objectives.softmax()):
        alone = objective(positive, negative[:, :1])
        np.testing.assert_allclose(objective(positive, negative, where=where), alone, rtol=1e-6)
        gradient = jax.grad(lambda n, f=objective: jnp.sum(f(positive, n, where=where)))(negative)
        assert gradient[0, 1] == 0
        assert gradient[0, 0] > 0


def test_softmax_without_any_negative_is_zero_and_stays_finite() -> None:
    where = jnp.zeros((1, 2), bool)
    value, gradient = jax.value_and_grad(
        lambda p: jnp.sum(objectives.softmax()(p, jnp.ones((1, 2)), where=where))
    )(jnp.array([2.0]))
    assert value == 0
    assert gradient[0] == 0


def test_logq_makes_the_sampled_sum_unbiased() -> None:
    rng = np.random.default_rng(0)
    scores, q = rng.normal(size=50), rng.dirichlet(np.ones(50))
    draws = rng.choice(50, (20_000, 20), p=q)
    sums = np.exp(scores[draws] - np.log(20 * q[draws])).sum(1)
    np.testing.assert_allclose(sums.mean(), np.exp(scores).sum(), rtol=0.03)
    loss = objectives.softmax(logq=True)
    drawn, log_q = scores[draws[:1]], np.log(20 * q[draws[:1]])
    found = loss(jnp.zeros(1), jnp.asarray(drawn, jnp.float32), log_q=jnp.asarray(log_q, jnp.float32))
    np.testing.assert_allclose(found, np.log1p(sums[:1]), rtol=1e-5)


def test_logq_asks_for_log_q() -> None:
    with pytest.raises(ValueError, match="wants log_q"):
        objectives.softmax(logq=True)(jnp.zeros(1), jnp.zeros((1, 2)))


@pytest.mark.parametrize("shared", [False, True])
def test_row_gradients_are_user_direction_times_weight(shared: bool) -> None:
    rng, batch = np.random.default_rng(3), batch_of(shared)
    user, positive = rng.normal(size=(B, D)), rng.normal(size=(B, D))
    negative = rng.normal(size=(K, D) if shared else (B, K, D))
    args = [jnp.asarray(x, jnp.float32) for x in (user, positive, negative)]
    _, g = score_gradients(objectives.bce(), *args, batch)
    rows = row_gradients(*args, g)
    wide = np.broadcast_to(negative, (B, K, D))
    np.testing.assert_allclose(rows.positive, np.asarray(g.positive)[:, None] * user, rtol=1e-4, atol=1e-6)
    each = np.asarray(g.negative)[:, :, None] * user[:, None, :]
    np.testing.assert_allclose(rows.negative, each.sum(0) if shared else each, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rows.user_pull, np.asarray(g.positive)[:, None] * positive, rtol=1e-4, atol=1e-6)
    push = (np.asarray(g.negative)[:, :, None] * wide).sum(1)
    np.testing.assert_allclose(rows.user_push, push, rtol=1e-4, atol=1e-5)


def test_normalised_users_all_have_one_length_and_biases_are_left_alone() -> None:
    model = models.normalize(models.mf(USERS, ITEMS, D, scale=1.0, biases=True), users=True, temperature=0.25)
    params = model.init(jax.random.key(0))
    params["item"] = params["item"].at[:, -1].set(jnp.arange(ITEMS, dtype=jnp.float32))
    tables = models.embed(model, params)
    np.testing.assert_allclose(jnp.linalg.norm(tables.user[:, :D], axis=1), np.full(USERS, 4.0), rtol=1e-5)
    np.testing.assert_array_equal(tables.item[:, -1], np.arange(ITEMS))
    np.testing.assert_array_equal(tables.user[:, -1], np.ones(USERS))


def test_a_zero_row_normalises_to_zero_with_a_zero_gradient() -> None:
    assert jnp.all(models.unit(jnp.zeros(3)) == 0)
    assert jnp.all(jax.jacobian(models.unit)(jnp.zeros(3)) == 0)


def test_rows_and_scores_agree_with_tables() -> None:
    model = MODELS["biased"]
    params = model.init(jax.random.key(0))
    user, item = models.rows(model, params, jnp.array([1, 2]), jnp.array([3, 4]))
    tables = models.embed(model, params)
    np.testing.assert_array_equal(models.pair_scores(user, item), jnp.sum(tables.user[1:3] * tables.item[3:5], axis=1))


def test_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        models.normalize(MODELS["mf"], temperature=0.0)


ROWS_PER_USER = 3  # two users of three rows each
STEPS = {
    "sgd": (MODELS["biased"], optim.row_sgd(0.1)),
    "adagrad": (MODELS["users"], optim.row_adagrad(0.1)),
    "row_adagrad": (MODELS["both"], optim.row_adagrad(0.1, by_row=True)),
    "adam": (MODELS["mf"], optim.row_adam(0.1)),
    "optax": (MODELS["users"], optax.adam(0.1)),
    "graph": (models.lightgcn(random_interactions(0, USERS, ITEMS), D, layers=2, scale=1.0), optax.adam(0.1)),
    "network": (models.neumf(USERS, ITEMS, D, layers=1, scale=1.0), optax.adam(0.1)),
}


def _distances(rows: ScoredRows, batch: Batch, epoch: jax.Array) -> jax.Array:
    """An objective that no inner products tell: squared distances, the nearer the user's number the heavier."""
    near = jnp.sum((rows.pull - rows.positive) ** 2, axis=-1) * (1.0 + batch.users.astype(jnp.float32))
    return near - jnp.mean(jnp.sum((rows.push[:, None] - rows.negative) ** 2, axis=-1), axis=-1)


@pytest.mark.parametrize(
    ("kind", "name", "shared"),
    [  # each kind and each step with both kinds of negatives
        (kind, name, (k + n) % 2 == 1)
        for k, kind in enumerate(("scores", "transformed", "rows"))
        for n, name in enumerate(STEPS)
        if (kind, name) != ("rows", "network")
    ],
)
def test_rows_that_share_a_user_make_the_step_of_as_many_rows_with_the_user_each(
    kind: str, name: str, shared: bool
) -> None:
    model, optimizer = STEPS[name]
    batch = batch_of(shared)
    batch = batch._replace(users=batch.users[: B // ROWS_PER_USER])
    if kind == "rows":
        step = make_row_step(model, _distances, optimizer, l2=0.3)
    else:
        transform = count_weights(np.arange(1, ITEMS + 1), power=0.5) if kind == "transformed" else None
        step = make_step(model, objectives.bpr(), optimizer, transform=transform, l2=0.3)
    state = step.init(jax.random.key(1))
    assert batch.rows_per_user == ROWS_PER_USER
    found, info = step.update(state, batch)
    wanted, plain = step.update(state, batch.by_row())
    assert wanted.params.keys() == found.params.keys()
    kept = [(s.params, s.optimizer, s.ledger) for s in (found, wanted)]
    for a, b in zip(*map(jax.tree.leaves, kept), strict=True):
        if a.shape[:1] != (USERS,) or not jnp.issubdtype(a.dtype, jnp.integer):  # slots are scratch
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(info.loss, plain.loss, rtol=1e-6)
    assert float(found.ledger.users.pull.events.sum()) == B


@pytest.mark.parametrize("network", [False, True])
def test_a_loss_that_is_none_per_row_is_refused(network: bool) -> None:
    model = MODELS["mf"]
    if network:
        model = model._replace(tables_are_params=False, score=lambda params, u, v: jnp.sum(u * v, axis=-1))
    for wrong, shape in ((jnp.mean, r"\[\]"), (lambda x: x, rf"\[{B}, {K}\]")):

        def objective(positive, negative, *, where=None, log_q=None, wrong=wrong):
            return wrong(jax.nn.softplus(negative - positive[:, None]))

        step = make_step(model, objective, optax.sgd(0.1))
        with pytest.raises(ValueError, match=rf"a loss per row, \[{B}\], got shape {shape}; the step sums"):
            step.update(step.init(jax.random.key(0)), batch_of(False))
    rows = make_row_step(MODELS["mf"], lambda rows, batch, epoch: jnp.sum(rows.positive), optax.sgd(0.1))
    with pytest.raises(ValueError, match="a loss per row"):
        rows.update(rows.init(jax.random.key(0)), batch_of(False))


def test_sizes_that_the_tables_do_not_have_are_refused() -> None:
    model = MODELS["biased"]
    for wrong in ({"num_users": USERS + 1}, {"num_items": ITEMS - 1}, {"width": D}):
        step = make_step(model._replace(**wrong), objectives.bpr(), optax.sgd(0.1))
        with pytest.raises(ValueError, match=f"its tables have {USERS} and {ITEMS} rows"):
            step.init(jax.random.key(0))


def test_a_row_sparse_optimiser_refuses_to_leave_a_penalty_out() -> None:
    model = MODELS["mf"]._replace(penalized=lambda params: (params["user"][:, :1], params["item"][:, :1]))
    with pytest.raises(ValueError, match="penalises raw rows"):
        make_step(model, objectives.bpr(), optim.row_sgd(0.1), l2=1.0)
    make_step(model, objectives.bpr(), optax.sgd(0.1), l2=1.0)
    make_step(model, objectives.bpr(), optim.row_sgd(0.1))


def test_a_negative_alone_that_is_left_out_adds_no_loss() -> None:
    loss = objectives.bpr()(jnp.array([0.3]), jnp.array([[9.0]]), where=jnp.array([[False]]))
    assert loss.tolist() == [0.0]


def test_negatives_that_are_left_out_are_no_events() -> None:
    batch = batch_of(shared=False)._replace(log_q=None)
    step = make_step(MODELS["mf"], objectives.bpr(), optim.row_sgd(0.1))
    state, _ = step.update(step.init(jax.random.key(0)), batch)
    assert batch.where is not None
    assert int(batch.where.sum()) < B * K
    assert int(state.ledger.items.push.events.sum()) == int(batch.where.sum())  # type: ignore[union-attr]


def test_a_steps_information_is_of_its_batch() -> None:
    batch = batch_of(shared=False)._replace(log_q=None)
    step = make_step(MODELS["mf"], objectives.bpr(), optim.row_sgd(0.1))
    state = step.init(jax.random.key(0))
    user, item = models.embed(MODELS["mf"], state.params)[:2]
    positive = jnp.sum(user[batch.users] * item[batch.positives], axis=-1)
    negative = jnp.sum(user[batch.users][:, None, :] * item[batch.negatives], axis=-1)
    slope = jax.grad(lambda s: jnp.sum(objectives.bpr()(s, negative, where=batch.where)))(positive)
    np.testing.assert_allclose(step.update(state, batch)[1].pull, jnp.mean(-slope), rtol=1e-5)
