"""LightGCN: propagation against scipy and a dense matrix, training against `jax.grad` of the whole loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse as sp
from conftest import random_interactions
from test_gradients import OBJECTIVES, batch_of, total_loss

from jaxrec import metrics, models, objectives, optim, rank, samplers, testing
from jaxrec.data import Interactions
from jaxrec.models.lightgcn import bcsr, entries, normalized_graph, propagate
from jaxrec.step import make_step
from jaxrec.train import fit, make_epoch

ISOLATED = Interactions([0, 0, 2], [1, 2, 1], num_users=4, num_items=5)  # users 1 and 3, items 0, 3 and 4 have none
USERS, ITEMS, D = 7, 9, 4  # as the batches of test_gradients
TRAIN = random_interactions(3, users=USERS, items=ITEMS)


def adjacency(train: Interactions) -> sp.csr_matrix:
    """D^-1/2 A D^-1/2 of users then items, from the definition."""
    r = sp.coo_matrix((np.ones(len(train)), (train.users, train.items)), (train.num_users, train.num_items))
    a = sp.bmat([[None, r], [r.T, None]]).tocsr()
    degree = np.asarray(a.sum(1)).ravel()
    root = np.divide(1.0, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)
    return sp.diags(root) @ a @ sp.diags(root)


def smoothed(train: Interactions, rows: np.ndarray, layers: int) -> np.ndarray:
    """The mean over layers, one power of the matrix after the other."""
    found = [rows]
    for _ in range(layers):
        found.append(adjacency(train) @ found[-1])
    return np.mean(found, axis=0)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("train", [random_interactions(), ISOLATED], ids=["random", "isolated"])
def test_propagation_is_scipys(train: Interactions, layers: int) -> None:
    model = models.lightgcn(train, 6, layers=layers, scale=1.0)
    params = model.init(jax.random.key(0))
    rows = np.concatenate([params["user"], params["item"]]).astype(np.float64)
    user, item = model.tables(params)
    np.testing.assert_allclose(np.concatenate([user, item]), smoothed(train, rows, layers), rtol=1e-5, atol=1e-6)
    assert np.all(np.isfinite(user))
    assert np.all(np.isfinite(item))


@pytest.mark.parametrize("train", [random_interactions(), ISOLATED], ids=["random", "isolated"])
def test_both_ways_to_multiply_are_scipys(train: Interactions) -> None:
    matrix = sp.csr_array(train.to_scipy().multiply(np.arange(1.0, train.num_items + 1)[None, :]))
    table = np.random.default_rng(0).normal(size=(train.num_items, 5)).astype(np.float32)
    for put in (bcsr, entries):
        found = jax.jit(lambda table, m: m @ table)(table, put(matrix))
        np.testing.assert_allclose(found, matrix @ table, rtol=1e-5, atol=1e-5)


def test_a_row_without_interactions_keeps_its_share_of_itself() -> None:
    model = models.lightgcn(ISOLATED, 3, layers=3)
    params = model.init(jax.random.key(0))
    user, item = model.tables(params)
    np.testing.assert_allclose(user[3], params["user"][3] / 4, rtol=1e-6)
    np.testing.assert_allclose(item[0], params["item"][0] / 4, rtol=1e-6)
    slope = jax.grad(lambda p: jnp.sum(jnp.sin(model.tables(p)[1])))(params)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(slope))


@pytest.mark.parametrize("train", [random_interactions(), ISOLATED], ids=["random", "isolated"])
def test_its_gradient_is_autodiffs_through_a_dense_matrix(train: Interactions) -> None:
    dense, n = jnp.asarray(adjacency(train).toarray(), jnp.float32), train.num_users
    graph = normalized_graph(train)
    params = models.mf(n, train.num_items, 5, scale=2.0).init(jax.random.key(1))
    weights = jax.random.normal(jax.random.key(2), (n + train.num_items, 5))

    def by_graph(p: dict) -> jax.Array:
        rows = jnp.concatenate(propagate(graph, p["user"], p["item"], layers=3))
        return jnp.sum(jnp.sin(rows) * weights)

    def by_autodiff(p: dict) -> jax.Array:
        rows = [jnp.concatenate([p["user"], p["item"]])]
        for _ in range(3):
            rows.append(dense @ rows[-1])
        return jnp.sum(jnp.sin(sum(rows) / 4) * weights)

    found, wanted = jax.grad(by_graph)(params), jax.grad(by_autodiff)(params)
    for side in ("user", "item"):
        np.testing.assert_allclose(found[side], wanted[side], rtol=1e-4, atol=1e-5)


def test_propagation_batches_under_vmap() -> None:
    model = models.lightgcn(TRAIN, D)
    many = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 3))
    wanted = [model.tables(jax.tree.map(lambda x, i=i: x[i], many))[1] for i in range(3)]
    np.testing.assert_allclose(jax.vmap(model.tables)(many)[1], jnp.stack(wanted), rtol=1e-5, atol=1e-7)


def test_without_layers_it_is_matrix_factorisation_bit_for_bit() -> None:
    plain, flat = models.mf(30, 20, 6), models.lightgcn(random_interactions(), 6, layers=0)
    sampler = samplers.sampler(random_interactions(), batch_size=32)
    found = []
    for model in (plain, flat):
        step = make_step(model, objectives.bpr(), optax.adam(0.01), l2=1e-2)
        state, _ = make_epoch(step, sampler)(step.init(jax.random.key(0)))
        found.append(models.embed(model, state.params))
    np.testing.assert_array_equal(found[0].user, found[1].user)
    np.testing.assert_array_equal(found[0].item, found[1].item)


@pytest.mark.parametrize(
    ("objective", "shared", "normalised", "l2"),
    [  # each objective with both values of the others
        (list(OBJECTIVES)[2 * (shared ^ penalised) + (normalised ^ penalised)], shared, normalised, 0.3 * penalised)
        for shared in (False, True)
        for normalised in (False, True)
        for penalised in (False, True)
    ],
)
def test_a_step_of_sgd_follows_the_gradient_of_the_whole_loss(
    objective: str, shared: bool, normalised: bool, l2: float
) -> None:
    plain = models.lightgcn(TRAIN, D, layers=2, scale=1.0)
    model = models.normalize(plain, items=True, temperature=0.5) if normalised else plain
    loss, batch, rate = OBJECTIVES[objective], batch_of(shared), 0.1
    step = make_step(model, loss, optax.sgd(rate), l2=l2)
    state = step.init(jax.random.key(1))

    def whole(p: dict) -> jax.Array:
        rows = (p["user"][batch.users], p["item"][batch.positives], p["item"][batch.negatives])
        return total_loss(model, loss, p, batch) + l2 / 2 * sum(jnp.sum(x**2) for x in rows)

    wanted = jax.grad(whole)(state.params)
    after, _ = step.update(state, batch)
    for side in ("user", "item"):
        np.testing.assert_allclose(
            after.params[side], state.params[side] - rate * wanted[side], rtol=2e-4, atol=2e-5
        )


def test_the_ledger_loses_no_event() -> None:
    """Σ p + Σ n⁻ = Σ |∂ℓ/∂s| ‖u‖ over the scored, propagated rows."""
    train = random_interactions()
    model = models.lightgcn(train, 5, scale=1.0)
    sampler = samplers.sampler(train, batch_size=16, num_negatives=4)
    step = make_step(model, objectives.bce(), optax.adam(0.01))
    state, total, rows, draw = step.init(jax.random.key(0)), 0.0, 0, jax.jit(sampler.draw)
    for i in range(5):
        batch = draw(sampler.data, state.key, jnp.int32(i))
        user, positive = models.rows(model, state.params, batch.users, batch.positives)
        negative = models.rows(model, state.params, batch.users[:1], batch.negatives)[1]
        scores = models.pair_scores(user, positive), models.candidate_scores(user, negative)
        pull, push = jax.grad(lambda s: jnp.sum(objectives.bce()(*s)))(scores)
        length = jnp.linalg.norm(user, axis=1)
        total += float(jnp.sum(jnp.abs(pull) * length) + jnp.sum(jnp.abs(push) * length[:, None]))
        rows += len(batch.users)
        state, _ = step.update(state, batch)
    ledger = state.ledger
    assert ledger is not None
    assert float(ledger.items.pull.size.sum() + ledger.items.push.size.sum()) == pytest.approx(total, rel=1e-4)
    assert float(ledger.items.pull.events.sum()) == float(ledger.users.pull.events.sum()) == rows


def test_state_is_a_fixed_point_and_traces_once() -> None:
    sampler = samplers.sampler(TRAIN, batch_size=8, num_negatives=2)
    step = make_step(models.lightgcn(TRAIN, D), objectives.bpr(), optax.adam(0.01), l2=1e-4)
    state = step.init(jax.random.key(0))
    draw = jax.jit(sampler.draw)
    batches = [draw(sampler.data, jax.random.key(0), jnp.int32(i)) for i in range(3)]
    testing.check_fixed_point(step, state, batches[0])
    testing.check_one_trace(step, state, batches)


def test_known_answer_data_is_learned() -> None:
    train, test = testing.two_groups()
    model = models.lightgcn(train, 4, scale=0.2)
    step = make_step(model, objectives.bpr(), optax.adam(0.02))
    sampler = samplers.sampler(train, batch_size=64, reject=True)
    tables = models.embed(model, fit(step, sampler, epochs=30, key=jax.random.key(0)).state.params)
    found = metrics.evaluate(rank.top_k(tables, None, train, k=12), test, train, ks=(12,))
    assert found.summary["recall@12"] >= 0.9


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_a_step_of_training_lowers_for_each_platform_without_the_device(platform: str) -> None:
    sampler = samplers.sampler(TRAIN, batch_size=8, num_negatives=2)
    step = make_step(models.lightgcn(TRAIN, D), objectives.bpr(), optax.adam(0.01), l2=1e-4)
    state = step.init(jax.random.key(0))._replace(key=None)  # typed keys do not serialise
    batch = sampler.draw(sampler.data, jax.random.key(0), jnp.int32(0))
    # jax promises the sparse kernel of CPUs for this version only, and wants that said.
    kernel = jax.export.DisabledSafetyCheck.custom_call("cpu_csr_sparse_dense_ffi")
    exported = jax.export.export(jax.jit(step.update), platforms=[platform], disabled_checks=[kernel])(state, batch)
    assert exported.platforms == (platform,)


def test_bad_requests_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="layers must be at least 0"):
        models.lightgcn(TRAIN, layers=-1)
    with pytest.raises(ValueError, match="row-sparse optimiser wants"):
        make_step(models.lightgcn(TRAIN, D), objectives.bpr(), optim.row_sgd(0.1))
