"""Baselines of tiers 2 and 3 put together: the step of each at its limit, a short fit, and arms that are tuned."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_interactions
from scipy.special import expit

from jaxrec import baselines, metrics, models, objectives, presets, rank, select, testing, train
from jaxrec.baselines import (
    Method,
    adap_tau,
    base,
    bc_loss,
    branch,
    ccl,
    ddc,
    eql,
    ipl,
    parts,
    pc,
    popgo,
    resn,
    ssm,
    tde,
    zerosum,
)
from jaxrec.data import Interactions, contains
from jaxrec.presets import Settings
from jaxrec.transforms import adjustment as adj

Build = Callable[..., Method]
TRAINED: dict[str, tuple[Build, Settings]] = {
    "ssm": (ssm.build, ssm.SETTINGS),
    "ssm-in-batch": (ssm.build, ssm.IN_BATCH),
    "logq": (ssm.build, ssm.LOGQ),
    "ccl": (ccl.build, ccl.SETTINGS),
    "zerosum": (zerosum.build, zerosum.SETTINGS),
    "adap_tau": (adap_tau.build, adap_tau.SETTINGS),
    "eql": (eql.build, eql.SETTINGS),
    "ipl": (ipl.build, ipl.SETTINGS),
    "bc_loss": (functools.partial(bc_loss.build, key=jax.random.key(9), branch_epochs=1), bc_loss.SETTINGS),
    "popgo": (functools.partial(popgo.build, key=jax.random.key(9), branch_epochs=1), popgo.SETTINGS),
    "resn": (resn.build, resn.SETTINGS),
}


def small(settings: Settings, backbone: Literal["mf", "lightgcn"] = "mf") -> Settings:
    negatives = min(settings.negatives, 8)
    changed = dataclasses.replace(settings, width=8, batch_size=64, negatives=negatives, layers=1, learning_rate=0.02)
    return parts.on_backbone(changed, backbone)


def fitted(method: Method, *, epochs: int = 2) -> tuple[models.Model, train.Fit]:
    return method.model, baselines.fit_method(method, epochs=epochs)


def test_rows_that_share_a_user_are_refused() -> None:
    with pytest.raises(ValueError, match="ssm wants rows_per_user 1"):
        baselines.build("ssm", random_interactions(), rows_per_user=4)


def check_fit(model: models.Model, found: train.Fit, data: Interactions, *, k: int) -> rank.TopK:
    assert np.isfinite([row["loss"] for row in found.history]).all()
    ledger = found.state.ledger
    assert ledger is not None
    assert float(ledger.items.pull.events.sum()) > 0
    tables = models.embed(model, found.state.params)
    lists = rank.top_k(tables, np.arange(data.num_users), [data], k=k)
    assert np.isfinite(np.asarray(tables.user)).all()
    assert lists.items.shape == (data.num_users, k)
    return lists


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "logq"])
def test_each_trains_keeps_its_state_and_ranks(name: str) -> None:
    """On graphs; on mf each separates two groups below."""
    data = random_interactions()
    build, settings = TRAINED[name]
    model, found = fitted(build(small(settings, "lightgcn"), data))
    check_fit(model, found, data, k=3)


def one_step(method: Method) -> Any:
    sampler, step = method.sampler, method.step
    state = step.init(jax.random.key(3))
    return step.update(state, sampler.draw(sampler.data, jax.random.key(4), jnp.int32(0)))


def plain(settings: Settings, data: Interactions, objective: objectives.Objective | None = None) -> Method:
    return base.plain(presets.build(small(settings), data, objective=objective))


@pytest.mark.parametrize("name", ["ipl", "resn", "eql", "zerosum", "adap_tau", "bc_loss"])
def test_at_its_limit_each_makes_the_step_of_the_plain_model(name: str) -> None:
    data = random_interactions()
    build, settings = TRAINED[name]
    settings = dataclasses.replace(settings, optimizer="sgd")
    if name in ("ipl", "resn"):
        found, wanted = build(small(settings), data, weight=0.0), plain(settings, data, objectives.bpr())
    elif name == "eql":
        found, wanted = build(small(settings), data, gain=0.0, middle=-np.inf), plain(settings, data)
    elif name == "zerosum":
        found = build(small(settings), data, weight=1.0)
        wanted = plain(settings, data, lambda p, n, **o: objectives.bpr()(p, n, **o) / 2)
    else:
        limit = {"beta": np.inf} if name == "adap_tau" else {"mix": 0.0, "temperature": 0.1}
        found = build(small(settings), data, **limit)
        w0 = float(adap_tau.global_scale(adap_tau.GAP, adap_tau.contrast(data.user_counts, data.num_items)))
        w = w0 if name == "adap_tau" else 10.0
        wanted = plain(settings, data, lambda p, n, **o: objectives.softmax()(p * w, n * w, **o))
    (after, info), (plainly, told) = one_step(found), one_step(wanted)
    np.testing.assert_allclose(info.loss, told.loss, rtol=1e-5)
    for side in ("user", "item"):
        np.testing.assert_allclose(after.params[side], plainly.params[side], rtol=1e-4, atol=1e-6)


def test_ssm_has_the_loss_of_its_formula() -> None:
    data = random_interactions()
    model, sampler, step, *_ = ssm.build(small(ssm.SETTINGS), data)
    state = step.init(jax.random.key(3))
    batch = sampler.draw(sampler.data, jax.random.key(4), jnp.int32(0))
    user, item = (np.asarray(x, np.float64) for x in model.tables(state.params))
    user /= np.linalg.norm(user, axis=1, keepdims=True)
    item /= np.linalg.norm(item, axis=1, keepdims=True)
    losses = []
    for b, (u, i) in enumerate(zip(batch.users, batch.positives, strict=True)):
        others = [np.exp(user[u] @ item[j] / 0.1) for k, j in enumerate(batch.negatives) if batch.where[b, k]]
        own = np.exp(user[u] @ item[i] / 0.1)
        losses.append(-np.log(own / (own + sum(others))))
    np.testing.assert_allclose(step.update(state, batch)[1].loss, np.mean(losses), rtol=1e-4)


def test_ssm_in_batch_is_the_softmax_over_the_batchs_other_positives() -> None:
    data = random_interactions()
    method = ssm.build(small(ssm.IN_BATCH), data)
    state = method.step.init(jax.random.key(3))
    batch = method.sampler.draw(method.sampler.data, jax.random.key(4), jnp.int32(0))
    user, item = (np.asarray(x, np.float64) for x in method.model.tables(state.params))
    cosines = user @ item.T / np.linalg.norm(user, axis=1)[:, None] / np.linalg.norm(item, axis=1)
    losses = []
    for b, (u, i) in enumerate(zip(batch.users, batch.positives, strict=True)):
        others = [np.exp(cosines[u, j] / 0.1) for c, j in enumerate(batch.positives) if c != b and j != i]
        own = np.exp(cosines[u, i] / 0.1)
        losses.append(-np.log(own / (own + sum(others))))
    np.testing.assert_allclose(method.step.update(state, batch)[1].loss, np.mean(losses), rtol=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
def test_eql_weighs_the_second_batch_by_the_ratios_of_the_first(weighted: bool) -> None:
    data = random_interactions()
    settings = dataclasses.replace(small(eql.SETTINGS), optimizer="sgd", l2=0.0)
    model, sampler, step, *_ = eql.build(settings, data, weighted=weighted)
    pull, push = np.zeros(data.num_items), np.zeros(data.num_items)
    state = step.init(jax.random.key(3))
    for turn in range(2):
        batch = sampler.draw(sampler.data, jax.random.key(4), jnp.int32(turn))
        f = expit(12 * ((pull + 1e-12) / (push + 1e-12) - 0.8))
        user, item = (np.asarray(x, np.float64) for x in model.tables(state.params))
        moved = np.zeros_like(item)
        for b, (u, i) in enumerate(zip(batch.users, batch.positives, strict=True)):
            weight, size = 1 + 4 * (1 - f[i]), expit(-user[u] @ item[i])
            moved[i] += weight * size * user[u]
            pull[i] += (weight if weighted else 1) * size
            for j in batch.negatives[b]:
                size = expit(user[u] @ item[j])
                moved[j] -= f[j] * size * user[u]
                push[j] += (f[j] if weighted else 1) * size
        state, _ = step.update(state, batch)
        np.testing.assert_allclose(np.asarray(state.params["item"]) - item, 0.02 * moved, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(state.transform.pull, pull, rtol=1e-4)
    np.testing.assert_allclose(state.transform.push, push, rtol=1e-4, atol=1e-6)


def test_ipl_observes_the_rates_of_a_batch() -> None:
    data = random_interactions()
    model, sampler, step, *_ = ipl.build(small(ipl.SETTINGS), data)
    state = step.init(jax.random.key(3))
    batch = sampler.draw(sampler.data, jax.random.key(4), jnp.int32(0))
    _, own = step.update(state, batch)[0].transform
    tables = models.embed(model, state.params)
    i = int(batch.positives[0])
    users = np.asarray(batch.users)[np.asarray(batch.positives) == i]
    scores = np.asarray(tables.user)[users] @ np.asarray(tables.item)[i]
    assert own.rate[i] == pytest.approx(np.mean(1 / (1 + np.exp(-scores))), rel=1e-5)
    np.testing.assert_array_equal(np.flatnonzero(own.seen), np.unique(batch.positives))


def test_adap_tau_observes_losses_of_bare_cosines() -> None:
    data = random_interactions()
    model, sampler, step, *_ = adap_tau.build(small(adap_tau.SETTINGS), data)
    state = step.init(jax.random.key(3))
    batch = sampler.draw(sampler.data, jax.random.key(4), jnp.int32(0))
    _, own = step.update(state, batch)[0].transform
    tables = models.embed(model, state.params)
    cosines = np.asarray(tables.user) @ np.asarray(tables.item).T
    u = int(batch.users[0])
    losses = []
    for b in np.flatnonzero(np.asarray(batch.users) == u):
        others = [np.exp(cosines[u, j]) for k, j in enumerate(batch.negatives) if batch.where[b, k]]
        own_weight = np.exp(cosines[u, int(batch.positives[b])])
        losses.append(-np.log(own_weight / (own_weight + sum(others))))
    np.testing.assert_allclose(own.loss[u], np.mean(losses), rtol=1e-4)
    assert bool(own.seen[u])
    assert not bool(own.seen[np.setdiff1d(np.arange(data.num_users), batch.users)].any())


@pytest.mark.parametrize("name", ["adap_tau", "ipl"])
def test_an_interrupted_one_with_a_state_goes_on_with_the_same_bits(tmp_path: Path, name: str) -> None:
    data, (build, settings) = random_interactions(), TRAINED[name]
    _, sampler, step, *_ = build(small(settings), data)
    key = jax.random.key(0)
    whole = train.fit(step, sampler, epochs=2, key=key).state
    train.fit(step, sampler, epochs=1, key=key, checkpoint=tmp_path)
    resumed = train.fit(step, sampler, epochs=2, key=key, checkpoint=tmp_path, resume=True).state
    for a, b in zip(jax.tree.leaves(whole.transform), jax.tree.leaves(resumed.transform), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(whole.params["user"], resumed.params["user"])


@pytest.mark.parametrize("name", TRAINED)
def test_each_separates_two_groups(name: str) -> None:
    data, test = testing.two_groups()
    build, settings = TRAINED[name]
    model, found = fitted(build(small(settings), data), epochs=20)
    lists = check_fit(model, found, data, k=12)
    recall = metrics.evaluate(lists, test, data, ks=[12]).summary["recall@12"]
    assert recall > 0.75  # at random it is 0.375
    if name == "eql":
        assert found.history[-1]["loss"] < found.history[0]["loss"]


@pytest.mark.parametrize("name", ["bc_loss", "popgo"])
def test_the_correction_for_sampling_is_read_where_it_is_asked_for(name: str) -> None:
    data = random_interactions()
    build, settings = TRAINED[name]
    losses = [
        float(one_step(build(small(dataclasses.replace(settings, popularity=1.0, logq=logq)), data))[1].loss)
        for logq in (False, True)
    ]
    assert losses[0] != losses[1]


def test_settings_that_do_not_suit_are_refused() -> None:
    data = random_interactions()
    for module in (ccl, adap_tau):
        with pytest.raises(ValueError, match=r"wants scores that are cosines, got .*temperature=0.5"):
            module.build(dataclasses.replace(module.SETTINGS, temperature=0.5), data)
    with pytest.raises(ValueError, match="resn wants uniform negatives that a batch shares, got shared=False"):
        resn.build(dataclasses.replace(resn.SETTINGS, shared=False), data)
    with pytest.raises(ValueError, match="ipl has an objective of its own, got 'softmax'"):
        ipl.build(dataclasses.replace(ipl.SETTINGS, objective="softmax"), data)
    with pytest.raises(ValueError, match="ccl draws negatives as they come, got logq=True"):
        ccl.build(dataclasses.replace(ccl.SETTINGS, logq=True), data)
    with pytest.raises(ValueError, match="ssm is a softmax, got objective='bpr'"):
        ssm.build(dataclasses.replace(ssm.SETTINGS, objective="bpr"), data)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dice", {"compared": 0}, "dice's compared must be a whole number from 1, got 0"),
        ("dice", {"pool": float("nan")}, "dice's pool must be a whole number, got nan"),
        ("invcf", {"compared": -1}, "invcf's compared must be a whole number from 1, got -1"),
        ("macr", {"across": "no"}, "macr's across must be True or False, got 'no'"),
        ("macr", {"c": "x"}, "macr's c must be a finite number, got 'x'"),
        ("macr", {"alpha": float("nan")}, "macr's alpha must be a finite number, got nan"),
        ("macr", {"c": float("inf")}, "macr's c must be a finite number, got inf"),
        ("adap_tau", {"momentum": float("inf")}, "adap_tau's momentum must be a finite number, got inf"),
        ("adap_tau", {"momentum": 1.0}, r"momentum must be a finite number from 0.0 to less than 1.0, got 1\.0"),
        ("adap_tau", {"warmup": -1}, "adap_tau's warmup must be a whole number from 0, got -1"),
        ("ipl", {"weight": -1.0}, r"ipl's weight must be a finite number from 0.0, got -1\.0"),
        ("adap_tau", {"beta": float("nan")}, "adap_tau's beta must be a number, got nan"),
        ("pd", {"stages": 2.5}, r"pd's stages must be a whole number, got 2\.5"),
        ("dap", {"clusters": 1.5}, r"dap's clusters must be a whole number, got 1\.5"),
        ("eql", {"slope": -12.0}, r"eql wants slope, gain >= 0, got -12\.0"),
        ("ccl", {"weight": None}, "ccl's weight must be a finite number, got None"),
        ("cause", {"split_seed": 1.5}, "cause's split_seed must be a whole number"),
        ("cause", {"sample": 0.1}, "cause's sample must be Interactions, got 0.1; the share of train is part"),
        ("pda", {"test_gamma": "x"}, "pda's test_gamma must be a finite number, got 'x'"),
        ("pda", {"test_gamma": float("inf")}, "pda's test_gamma must be a finite number, got inf"),
    ],
)
def test_values_of_another_kind_are_refused_before_anything_is_trained(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        baselines.build(name, random_interactions(), **options)


def test_what_may_be_infinite_is_taken() -> None:
    method = baselines.build("adap_tau", random_interactions(), beta=float("inf"))
    assert isinstance(method, baselines.Method)


def test_arms_are_tuned_like_the_librarys_own() -> None:
    data = random_interactions()
    model, found = fitted(zerosum.build(small(zerosum.SETTINGS), data))
    tables, ledger = models.embed(model, found.state.params), found.state.ledger
    assert ledger is not None
    other = random_interactions(5)
    unseen = other.select(~contains(data, other.keys))
    problem = select.prepare(tables, ledger, data, {"natural": unseen}, k=3)
    along = ddc.directions(tables, data)
    scalars = ddc.fit(tables, data, key=jax.random.key(1), along=along, steps=10)
    for arm in (pc.arm(data.item_counts), tde.arm(tables, ledger), ddc.arm(scalars, along)):
        points = select.frontier(problem, arm, budget=6, rounds=1)
        assert len(points) == 6
        first = select.measure(problem, adj.identity())["natural"]
        assert points[0].metrics["natural"] == pytest.approx(first, abs=1e-6)


def test_the_branch_knows_counts_only() -> None:
    data = random_interactions()
    tables = branch.train_branch(small(bc_loss.SETTINGS), data, key=jax.random.key(0), epochs=2)
    assert np.ptp(np.linalg.norm(tables.item, axis=1)) > 0.01  # what it foretells are inner products, not cosines
    for rows, counts in ((tables.user, data.user_counts), (tables.item, data.item_counts)):
        for value in np.unique(counts):
            same = np.asarray(rows)[counts == value]
            np.testing.assert_array_equal(same, np.broadcast_to(same[0], same.shape))
