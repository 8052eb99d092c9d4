"""InvCF, PAAC, DAP and PPAC: each against a slow numpy reading of its formula, at its limit, and in a short fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_baselines_tier1
from conftest import random_interactions

from jaxrec import baselines, metrics, models, objectives, presets, testing
from jaxrec.baselines import dap, invcf, paac, ppac
from jaxrec.baselines.branch import popularity_model
from jaxrec.baselines.parts import on_backbone
from jaxrec.data import Interactions
from jaxrec.gradients import RowObjective, ScoredRows
from jaxrec.presets import Settings
from jaxrec.step import Step
from jaxrec.types import Batch, Scorer, Tables

USERS, ITEMS, D, B, K = 30, 20, 4, 9, 3
TRAIN = random_interactions()
COUNTS = TRAIN.item_counts
EPOCH = jnp.int32(0)
ALL = ("invcf", "paac", "dap", "ppac")
Backbone = Literal["mf", "lightgcn"]


def batch_of(seed: int = 0) -> Batch:
    """Rows in which users and items come back, one pair even twice."""
    rng = np.random.default_rng(seed)
    users = np.array([1, 2, 1, 3, 1, 2, 4, 1, 1])
    positives = np.array([0, 0, 5, 7, 9, 12, 5, 5, 19])
    mask = rng.random((B, K)) < 0.7
    mask[:, 0] = True
    ids = (users, positives, rng.integers(0, ITEMS, (B, K)))
    return Batch(*(jnp.asarray(x, jnp.int32) for x in ids), jnp.asarray(mask))


def rows_of(width: int, seed: int = 0, *, halves: bool = False) -> ScoredRows:
    """Random rows; with `halves` both halves of each have length 1."""
    rng = np.random.default_rng(seed)
    found = []
    for shape in ((B, width), (B, width), (B, K, width)):
        x = rng.normal(size=shape)
        if halves:
            x = np.concatenate([unit(x[..., : width // 2]), unit(x[..., width // 2 :])], axis=-1)
        found.append(jnp.asarray(x, jnp.float32))
    return ScoredRows(found[0], *found)


def unit(x: Any) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def check_gradient(objective: RowObjective, slow: Callable[..., float], rows: ScoredRows, *, step: float) -> jax.Array:
    """That of the first tier, on the batches here, by larger steps."""
    at = {"step": step, "entries": 8, "rtol": 5e-3, "atol": 1e-3}
    return test_baselines_tier1.check_gradient(objective, lambda v: slow(*v), rows, batch_of(), **at)  # type: ignore[arg-type]


def one_step(step: Step, params: Any, batch: Batch) -> tuple[Any, float]:
    state = step.init(jax.random.key(0))._replace(params=params)
    after, info = step.update(state, batch)
    return after.params, float(info.loss)


def plainly(settings: Settings, backbone: Backbone) -> Settings:
    return on_backbone(
        dataclasses.replace(
            settings, width=D, layers=2, batch_size=16, negatives=4, optimizer="sgd", learning_rate=0.1, init_scale=1.0
        ),
        backbone,
    )


# invcf


def slow_dcor(x: np.ndarray, y: np.ndarray) -> float:
    def centred(z: np.ndarray) -> np.ndarray:
        a = np.linalg.norm(z[:, None] - z[None], axis=-1)
        return a - a.mean(0) - a.mean(1)[:, None] + a.mean()

    a, b = centred(x), centred(y)
    return float(np.sqrt((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean())))


def slow_nce(user: np.ndarray, positive: np.ndarray, negative: np.ndarray, temperature: float) -> np.ndarray:
    where, found = np.asarray(batch_of().where), np.zeros(B)
    for b in range(B):
        own = np.exp(user[b] @ positive[b] / temperature)
        others = [np.exp(user[b] @ negative[b, k] / temperature) for k in range(K) if where[b, k]]
        found[b] = -np.log(own / (own + sum(others)))
    return found


def slow_invcf(
    user: np.ndarray, positive: np.ndarray, negative: np.ndarray, weights: tuple[float, float, float], tau: float
) -> np.ndarray:
    u, v, w = (x[..., :D] for x in (user, positive, negative))
    p, q, r = (x[..., D:] for x in (user, positive, negative))
    found = slow_nce(u, v, w, tau) + weights[0] * slow_nce(p, q, r, tau)
    found += weights[1] * (slow_dcor(u, p) + slow_dcor(v, q))
    join = lambda a, b: np.concatenate([a, b]) / np.sqrt(2)  # noqa: E731
    for shift in (0, 1):
        pairs = [(b, (b + shift) % B) for b in range(B)]
        users, items = (np.array([join(x[b], y[other]) for b, other in pairs]) for x, y in ((u, p), (v, q)))
        others = np.array([[join(w[b, k], r[b, k]) for k in range(K)] for b in range(B)])
        found += weights[2] * slow_nce(users, items, others, tau)
    return found


WEIGHTS = (0.4, 0.7, 0.6)


def test_invcf_is_its_formula_with_its_gradients() -> None:
    rows = rows_of(2 * D, halves=True)
    loss = invcf.objective(temperature=0.3, popularity=0.4, disentangle=0.7, invariance=0.6)
    values = [np.asarray(x, np.float64) for x in (rows.pull, rows.positive, rows.negative)]
    losses = check_gradient(loss, lambda *v: float(slow_invcf(*v, WEIGHTS, 0.3).sum()), rows, step=1e-4)
    np.testing.assert_allclose(losses, slow_invcf(*values, WEIGHTS, 0.3), rtol=1e-4)


@pytest.mark.parametrize("name", ["popularity", "disentangle", "invariance"])
def test_each_weight_of_invcf_has_a_term_of_its_own(name: str) -> None:
    rows, off = rows_of(2 * D, halves=True), dict.fromkeys(("popularity", "disentangle", "invariance"), 0.0)
    values = [np.asarray(x, np.float64) for x in (rows.pull, rows.positive, rows.negative)]
    weights = tuple(0.5 if other == name else 0.0 for other in off)
    found = invcf.objective(temperature=0.3, **{**off, name: 0.5})(rows, batch_of(), EPOCH)
    np.testing.assert_allclose(found, slow_invcf(*values, weights, 0.3), rtol=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("backbone", ["mf", "lightgcn"])
def test_invcf_without_its_terms_is_the_softmax_of_cosines(backbone: Backbone) -> None:
    settings = dataclasses.replace(plainly(invcf.SETTINGS, backbone), l2=0.03)
    method = invcf.build(settings, TRAIN, temperature=0.2, second=0.0, disentangle=0.0, invariance=0.0)
    softmax = objectives.softmax()
    model, sampler, step = presets.build(settings, TRAIN, objective=lambda p, n, **o: softmax(p / 0.2, n / 0.2, **o))
    params, batch = method.model.init(jax.random.key(1)), sampler.draw(sampler.data, jax.random.key(4), jnp.int32(0))
    found, loss = one_step(method.step, params, batch)
    wanted, told = one_step(step, params["base"], batch)
    np.testing.assert_allclose(loss, told, rtol=1e-5)
    for side in ("user", "item"):
        np.testing.assert_allclose(found["base"][side], wanted[side], rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(found["popularity"][side], params["popularity"][side])
    ranked, tables = method.rank(found), models.embed(model, wanted)
    assert isinstance(ranked, Tables)
    np.testing.assert_allclose(ranked.user @ ranked.item.T, tables.user @ tables.item.T, rtol=1e-3, atol=1e-5)


def test_popularity_rows_are_told_by_counts_and_have_length_1() -> None:
    model = baselines.build("invcf", TRAIN, width=D).model
    user, item = models.embed(model, model.init(jax.random.key(0)))[:2]
    assert user.shape == (USERS, 2 * D)
    for rows, counts in ((user, TRAIN.user_counts), (item, COUNTS)):
        own = np.asarray(rows)[:, D:]
        np.testing.assert_allclose(np.linalg.norm(own, axis=1), np.ones(len(own)), rtol=1e-5)
        for count in np.unique(counts):
            same = own[counts == count]
            np.testing.assert_array_equal(same, np.broadcast_to(same[0], same.shape))
        assert len(np.unique(own, axis=0)) == len(np.unique(counts))


def test_popularities_of_invcf_are_propagated_as_preferences_are() -> None:
    method = baselines.build("invcf", TRAIN, "lightgcn", width=D, layers=2)
    params = method.model.init(jax.random.key(0))
    flat = popularity_model(TRAIN, D).tables(params["popularity"])
    plain = models.lightgcn(TRAIN, D, layers=2).tables({"user": flat[0], "item": flat[1]})
    for found, wanted in zip(models.embed(method.model, params)[:2], plain, strict=True):
        np.testing.assert_allclose(found[:, D:], unit(wanted), rtol=1e-4, atol=1e-6)


# paac


def slow_align(rows: np.ndarray, ratio: float) -> float:
    batch = batch_of()
    users, items = np.asarray(batch.users), np.asarray(batch.positives)
    rows, gaps = unit(rows), []
    for u in set(users.tolist()):
        at = {int(items[b]): b for b in range(B)[::-1] if users[b] == u}
        order = sorted(at, key=lambda i: (-COUNTS[i], i))
        up = [i for n, i in enumerate(order) if n < ratio * len(order)]
        gaps += [np.sum((rows[at[i]] - rows[at[j]]) ** 2) for i in up for j in order if j not in up]
    return float(np.mean(gaps))


def slow_contrast(
    first: np.ndarray, second: np.ndarray, ids: np.ndarray, up: list[int], beta: float, tau: float
) -> dict[bool, list[float]]:
    at = {int(i): b for b, i in reversed(list(enumerate(ids)))}
    losses: dict[bool, list[float]] = {True: [], False: []}
    for i, b in at.items():
        e = {j: np.exp(first[b] @ second[c] / tau) for j, c in at.items()}
        total = sum(x if (j in up) == (i in up) else beta * x for j, x in e.items())
        losses[i in up].append(-np.log(e[i] / total))
    return losses


def slow_paac(
    user: np.ndarray, positive: np.ndarray, negative: np.ndarray, *,
    align: float, contrast: float, gamma: float, beta: float, ratio: float, tau: float,
) -> np.ndarray:  # fmt: skip
    """Without noise, so that both views are the unit rows."""
    batch = batch_of()
    where, users, items = (np.asarray(x) for x in (batch.where, batch.users, batch.positives))
    found = np.zeros(B)
    for b in range(B):
        gaps = [user[b] @ (positive[b] - negative[b, k]) for k in range(K) if where[b, k]]
        found[b] = np.mean(np.log1p(np.exp(-np.array(gaps))))
    order = sorted(set(items.tolist()), key=lambda i: (-COUNTS[i], i))
    up = [i for n, i in enumerate(order) if n < ratio * len(order)]
    by_item = slow_contrast(unit(positive), unit(positive), items, up, beta, tau)
    by_user = slow_contrast(unit(user), unit(user), users, [], 1.0, tau)[False]
    item = gamma * np.mean(by_item[True]) + (1 - gamma) * np.mean(by_item[False])
    return found + align * slow_align(positive, ratio) + contrast * (item + np.mean(by_user))


@pytest.mark.parametrize(
    "given",
    [
        {"align": 0.7, "contrast": 0.0, "gamma": 0.5, "beta": 0.5, "ratio": 0.5},
        {"align": 0.0, "contrast": 0.8, "gamma": 0.3, "beta": 0.4, "ratio": 0.5},
        {"align": 0.0, "contrast": 0.8, "gamma": 1.0, "beta": 0.0, "ratio": 0.3},
        {"align": 0.2, "contrast": 0.8, "gamma": 0.0, "beta": 1.0, "ratio": 0.7},
    ],
)
def test_paac_is_its_formula_with_its_gradients(given: dict[str, float]) -> None:
    rows, loss = rows_of(D), paac.objective(COUNTS, temperature=0.5, noise=0.0, **given)
    values = [np.asarray(x, np.float64) for x in (rows.pull, rows.positive, rows.negative)]
    # What belongs to a user or an item that comes back is read at its first row.
    for part, ids in ((0, batch_of().users), (1, batch_of().positives)):
        for b, i in enumerate(np.asarray(ids)):
            values[part][b] = values[part][np.flatnonzero(np.asarray(ids) == i)[0]]
    rows = ScoredRows(*(jnp.asarray(values[n], jnp.float32) for n in (0, 0, 1, 2)))
    slow = lambda *v: slow_paac(*v, tau=0.5, **given)  # noqa: E731
    losses = check_gradient(loss, lambda *v: float(slow(*v).sum()), rows, step=1e-4)
    np.testing.assert_allclose(losses, slow(*values), rtol=1e-4)


@pytest.mark.parametrize("backbone", ["mf", "lightgcn"])
def test_paac_without_its_terms_is_bpr(backbone: Backbone) -> None:
    settings = plainly(paac.SETTINGS, backbone)
    method = paac.build(settings, TRAIN, align=0.0, contrast=0.0)
    _, sampler, step = presets.build(settings, TRAIN)
    params, batch = method.model.init(jax.random.key(1)), sampler.draw(sampler.data, jax.random.key(4), jnp.int32(0))
    (found, loss), (wanted, told) = one_step(method.step, params, batch), one_step(step, params, batch)
    np.testing.assert_allclose(loss, told, rtol=1e-5)
    for side in ("user", "item"):
        np.testing.assert_allclose(found[side], wanted[side], rtol=1e-4, atol=1e-6)


def test_a_view_moves_rows_by_the_noise_and_keeps_their_signs() -> None:
    rows, keys = rows_of(D).pull, jax.random.split(jax.random.key(0))
    one, other = (paac.view(rows, key, noise=0.1) for key in keys)
    np.testing.assert_allclose(paac.view(rows, keys[0], noise=0.0), unit(rows), rtol=1e-5)
    assert float(jnp.abs(one - other).max()) > 1e-3
    np.testing.assert_array_equal(np.sign(one), np.sign(rows))
    noise = 0.1 * np.sign(rows) * unit(jax.random.uniform(keys[0], rows.shape))
    np.testing.assert_allclose(np.linalg.norm(noise, axis=1), np.full(B, 0.1), rtol=1e-5)
    np.testing.assert_allclose(one, unit(np.asarray(rows) + noise), rtol=1e-4, atol=1e-6)


def test_noise_is_new_with_each_batch_and_each_epoch_and_the_same_when_drawn_again() -> None:
    batch = batch_of()
    swapped = batch._replace(users=batch.users[::-1], positives=batch.positives[::-1])
    keys = [paac.batch_key(b, jnp.int32(e)) for b, e in ((batch, 0), (batch, 1), (swapped, 0), (batch, 0))]
    words = [tuple(jax.random.key_data(key).tolist()) for key in keys]
    assert words[0] == words[3]
    assert len(set(words)) == 3


# dap


def slow_dap(params: Any, clusters: list[np.ndarray], alpha: float, beta: float) -> np.ndarray:
    user, item = (np.asarray(params[side], np.float64) for side in ("user", "item"))
    degree = np.concatenate([TRAIN.user_counts, COUNTS])
    e, total = np.concatenate([user, item]), np.concatenate([user, item])
    for cluster in clusters:
        before, e = e, edges() @ e
        after = e.copy()
        for v in range(len(e)):
            for strength, side in ((alpha, degree > degree[v]), (beta, degree < degree[v])):
                near = np.flatnonzero(side & (cluster == cluster[v]))
                if len(near):
                    mean = unit(np.mean([e[j] for j in near], axis=0))
                    after[v] -= strength * (unit(before[v]) @ mean) * mean
        e = after
        total += e
    return total / (len(clusters) + 1)


def edges() -> np.ndarray:
    degree = np.concatenate([TRAIN.user_counts, COUNTS])
    found = np.zeros((USERS + ITEMS, USERS + ITEMS))
    for u, i in zip(TRAIN.users, TRAIN.items, strict=True):
        found[u, USERS + i] = found[USERS + i, u] = 1 / np.sqrt(degree[u] * degree[USERS + i])
    return found


def test_dap_is_its_formula_and_its_arm_says_the_same() -> None:
    method = baselines.build("dap", TRAIN, "lightgcn", width=D, layers=2, clusters=3, alpha=0.6, beta=0.3)
    state = method.step.init(jax.random.key(0))
    plain = models.embed(method.model, state.params)
    start_rows = np.concatenate([state.params["user"], state.params["item"]])
    layers = [edges() @ start_rows, edges() @ edges() @ start_rows]
    clusters = [dap.kmeans(jnp.asarray(rows, jnp.float32), 3) for rows in layers]
    assert all(set(cluster.tolist()) == {0, 1, 2} for cluster in clusters)
    found = method.rank(state.params)
    assert isinstance(found, Tables)
    rows = np.concatenate(found[:2])
    np.testing.assert_allclose(rows, slow_dap(state.params, clusters, 0.6, 0.3), rtol=1e-3, atol=1e-6)
    assert float(np.abs(rows - np.concatenate(plain[:2])).max()) > 1e-3
    start = baselines.start(method, state.params)
    np.testing.assert_allclose(start.user, plain.user, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(start.item, plain.item, rtol=1e-4, atol=1e-7)
    arm = method.arm(state.params)  # type: ignore[misc]
    moved = jax.jit(lambda s: arm.adjust(s)(start, state.ledger))(jnp.array([0.6, 0.3]))  # type: ignore[arg-type]
    np.testing.assert_allclose(np.concatenate(moved[:2]), rows, rtol=1e-4, atol=1e-6)


def test_dap_on_mf_is_mf() -> None:
    method = baselines.build("dap", TRAIN, "mf", width=D)
    params = method.model.init(jax.random.key(0))
    found = method.rank(params)
    assert isinstance(found, Tables)
    np.testing.assert_array_equal(found.user, params["user"])
    np.testing.assert_array_equal(found.item, params["item"])


def test_kmeans_finds_clusters_that_are_apart() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(4.0 * side, 0.1, (20, 2)) for side in (-1, 1)])
    found = dap.kmeans(jnp.asarray(rows, jnp.float32), 2, seed=1)
    assert len(set(found[:20].tolist())) == len(set(found[20:].tolist())) == 1
    assert found[0] != found[-1]


# ppac


def slow_popularity(neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    own = [set(TRAIN.items[TRAIN.users == u].tolist()) for u in range(USERS)]
    personal = np.zeros((USERS, ITEMS))
    for u in range(USERS):
        alike = [(-len(own[u] & own[v]) / len(own[u] | own[v]), v) for v in range(USERS) if v != u and own[u] & own[v]]
        near = [v for _, v in sorted(alike)[:neighbours]]
        personal[u] = [sum(i in own[v] for v in near) for i in range(ITEMS)]
        if near:
            personal[u] = unit(personal[u])
    return personal, unit(COUNTS)


def slow_ppac(
    user: np.ndarray, positive: np.ndarray, negative: np.ndarray, weight: float, neighbours: int
) -> np.ndarray:
    """From rows [u, φ(u), 0] and [v, φ(v), ψ(v)], one by one."""
    batch, found = batch_of(), np.zeros(B)
    users, items, others, where = (np.asarray(x) for x in batch[:4])
    personal, everywhere = slow_popularity(neighbours)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731

    def row(u: np.ndarray, v: np.ndarray, at: int, i: int) -> tuple[float, float]:
        pair, item = sigmoid(u[D:-1] @ v[D:-1]), sigmoid(v[-1])
        return (u[:D] @ v[:D]) * pair * item, (pair - personal[at, i]) ** 2 + (item - everywhere[i]) ** 2

    for b in range(B):
        score, error = row(user[b], positive[b], users[b], items[b])
        rows = [row(user[b], negative[b, k], users[b], others[b, k]) for k in range(K) if where[b, k]]
        found[b] = np.mean([np.log1p(np.exp(s - score)) for s, _ in rows])
        found[b] += weight / 2 * (error + np.mean([e for _, e in rows]))
    return found


def test_ppac_where_no_two_users_share_an_item_has_only_global_popularity() -> None:
    apart = Interactions([0, 1, 2], [0, 1, 2], 3, 4)
    method = baselines.build("ppac", apart, width=D, batch_size=4)
    found = baselines.fit_method(method, epochs=1)
    assert np.isfinite(found.history[-1]["loss"])
    assert np.isfinite(method.rank(found.state.params).block(np.arange(3))).all()


@pytest.mark.parametrize("weight", [0.0, 0.8])
def test_ppac_is_its_formula_with_its_gradients(weight: float) -> None:
    rows, loss = rows_of(2 * D + 1), ppac.objective(ppac.popularity(TRAIN, neighbours=4), weight=weight)
    values = [np.asarray(x, np.float64) for x in (rows.pull, rows.positive, rows.negative)]
    losses = check_gradient(loss, lambda *v: float(slow_ppac(*v, weight, 4).sum()), rows, step=1e-4)
    np.testing.assert_allclose(losses, slow_ppac(*values, weight, 4), rtol=1e-4)


@pytest.mark.parametrize("backbone", ["mf", "lightgcn"])
def test_ppac_ranks_by_its_formula(backbone: Backbone) -> None:
    method = baselines.build("ppac", TRAIN, backbone, width=D, neighbours=4)
    params = method.model.init(jax.random.key(0))
    user, item = (np.asarray(x, np.float64) for x in method.model.tables(params))
    personal, everywhere = slow_popularity(4)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    plain = (user[:, :D] @ item[:, :D].T) * sigmoid(user[:, D:-1] @ item[:, D:-1].T) * sigmoid(item[:, -1])
    found = method.rank(params, gamma=1.5, beta=-0.7)
    assert isinstance(found, Scorer)
    wanted = plain + 1.5 * personal - 0.7 * everywhere
    np.testing.assert_allclose(found.block(np.arange(USERS)), wanted, rtol=1e-4, atol=1e-5)
    zero = method.rank(params, gamma=0.0, beta=0.0)
    assert isinstance(zero, Scorer)
    np.testing.assert_allclose(zero.block(np.arange(4, 9)), plain[4:9], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backbone", ["mf", "lightgcn"])
def test_ppac_without_its_networks_is_a_quarter_of_its_base(backbone: Backbone) -> None:
    """Where φ and ψ are 0 both gates are 1/2, so that without its terms it is BPR of s/4."""
    method = baselines.build("ppac", TRAIN, backbone, width=D, weight=0.0)
    params = method.model.init(jax.random.key(0))
    params |= {name: jax.tree.map(jnp.zeros_like, params[name]) for name in ("pair", "item")}
    base = presets.build(dataclasses.replace(on_backbone(ppac.SETTINGS, backbone), width=D), TRAIN)[0]
    tables = models.embed(base, params["base"])
    ranked = method.rank(params, gamma=0.0, beta=0.0)
    assert isinstance(ranked, Scorer)
    scores = np.asarray(tables.user @ tables.item.T)
    np.testing.assert_allclose(4 * np.asarray(ranked.block(np.arange(USERS))), scores, rtol=1e-4, atol=1e-6)
    batch = batch_of()
    user, item = method.model.tables(params)
    rows = ScoredRows(*(user[batch.users],) * 2, item[batch.positives], item[batch.negatives])
    loss = ppac.objective(ppac.popularity(TRAIN), weight=0.0)(rows, batch, EPOCH)
    u, i, j = (np.asarray(x)[..., :D] / 2 for x in (rows.pull, rows.positive, rows.negative))
    wanted = objectives.bpr()(
        jnp.asarray((u * i).sum(1)), jnp.asarray(np.einsum("bd,bkd->bk", u, j)), where=batch.where
    )
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)


def test_the_networks_of_ppac_see_rows_before_they_are_propagated() -> None:
    method = baselines.build("ppac", TRAIN, "lightgcn", width=D)
    params = method.model.init(jax.random.key(0))
    item, layers = np.asarray(params["base"]["item"], np.float64), jax.tree.map(np.asarray, params["item"])
    seen = np.maximum(item @ layers["first"] + layers["first_bias"], 0)
    wanted = seen @ layers["last"] + layers["last_bias"]
    np.testing.assert_allclose(method.model.tables(params)[1][:, -1:], wanted, rtol=1e-4, atol=1e-6)


# all of them


# Without dap on mf, which is mf.
FITS = [(name, backbone) for name in ALL for backbone in ("mf", "lightgcn") if (name, backbone) != ("dap", "mf")]


@pytest.mark.parametrize(("name", "backbone"), FITS)
def test_a_short_fit_lowers_the_loss_and_ranks_better_than_at_random(name: str, backbone: Backbone) -> None:
    train, test = testing.two_groups()
    # So few items want weights far below those for large data, where a batch seldom has a user twice.
    own = {"invcf": {"negatives": 8}, "paac": {"align": 0.5, "contrast": 0.05}}.get(name, {})
    method = baselines.build(name, train, backbone, width=8, layers=1, batch_size=64, learning_rate=0.02, **own)
    fitted = baselines.fit_method(method, epochs=15)
    losses = [row["loss"] for row in fitted.history]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    state = fitted.best
    assert state.ledger is not None
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.ledger))
    ranked = method.rank(state.params)
    assert isinstance(ranked, Scorer if name == "ppac" else Tables)
    if isinstance(ranked, Tables):
        assert ranked.item.shape[1] == state.ledger.items.pull.vector.shape[1]
    lists = baselines.top_k(ranked, np.arange(train.num_users), train, k=12)
    recall = metrics.evaluate(lists, test, train, ks=[12]).summary["recall@12"]
    assert recall > 0.7  # at random it is 0.375


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("invcf", {"temperature": 0.0}, "invcf wants a temperature > 0"),
        ("invcf", {"invariance": -1.0}, "popularity, disentangle, invariance >= 0; got 0.1, 0.01, 1e-06, -1.0"),
        ("invcf", {"normalize_items": False}, "invcf wants scores that are cosines"),
        ("invcf", {"lambda": 1.0}, "invcf has no option 'lambda'"),
        ("paac", {"align": -1.0}, "paac wants align, contrast and noise >= 0"),
        ("paac", {"temperature": 0.0}, "a temperature > 0; got 1.0, 0.2, 0.2 and 0.0"),
        ("paac", {"gamma": 1.5}, r"gamma, beta in \[0, 1\] and a ratio in \(0, 1\); got 1.5, 0.2 and 0.5"),
        ("paac", {"ratio": 1.0}, r"a ratio in \(0, 1\)"),
        ("paac", {"objective": "bce"}, "paac wants objective 'bpr', got 'bce'"),
        ("paac", {"normalize_users": True}, "paac wants embeddings as they are"),
        ("dap", {"clusters": 0}, "dap wants at least one cluster, got 0"),
        ("dap", {"biases": True}, "dap wants embeddings as they are"),
        ("dap", {"objective": "bce"}, "dap wants objective 'bpr'"),
        ("ppac", {"neighbours": 0}, "ppac wants at least one neighbour, got 0"),
        ("ppac", {"objective": "bce"}, "ppac wants objective 'bpr'"),
        ("ppac", {"weight": -1.0}, "ppac wants weight >= 0, got -1.0"),
        ("ppac", {"shared": True, "negatives": 8}, "ppac wants negatives of each row's own"),
    ],
)
def test_they_say_what_they_want(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        baselines.build(name, TRAIN, **options)


def test_invcf_has_no_strengths() -> None:
    method = baselines.build("invcf", TRAIN, width=D)
    with pytest.raises(ValueError, match="there is no strength 'alpha'"):
        method.rank(method.model.init(jax.random.key(0)), alpha=1.0)
