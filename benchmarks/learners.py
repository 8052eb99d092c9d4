"""Who learns in `quality`, and the settings that its search tries: ours, and those of each peer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec import models, presets
from jaxrec.data import Interactions
from jaxrec.models import Model
from jaxrec.samplers import Sampler
from jaxrec.step import Step
from jaxrec.train import make_epoch


class Learner(NamedTuple):
    """Who learns: `module:function` of a learner, what its environment is taken from, and the settings searched."""

    call: str
    settings: tuple[dict[str, Any], ...]  # the first one is the best of the search
    peer: str = ""


LEARNERS: dict[str, Learner] = {
    "jaxrec spectral": Learner(
        "benchmarks.learners:our_spectral",
        tuple({"user_power": a, "item_power": b} for a, b in ((0.35, 0.35), (0.5, 0.5), (0.5, 0.25), (0.4, 0.35))),
    ),
    "jaxrec softmax-mf": Learner(
        "benchmarks.learners:our_softmax",
        (
            {"learning_rate": 0.05},
            {"learning_rate": 0.1},
            {"learning_rate": 0.2},
        ),
    ),
    "jaxrec BPR": Learner(
        "benchmarks.learners:our_bpr",
        (
            {"rate": 0.05, "l2": 0.002, "batch": 4096, "rows_per_user": 16},
            {"rate": 0.05, "l2": 0.002, "batch": 2048, "rows_per_user": 1},
            {"rate": 0.05, "l2": 0.002, "batch": 512, "rows_per_user": 16},
        ),
    ),
    "implicit ALS": Learner(
        "benchmarks.peers.implicit_:learn_als",
        (
            {"alpha": 40.0, "l2": 10.0},
            {"alpha": 40.0, "l2": 100.0},
            {"alpha": 100.0, "l2": 100.0},
            {"alpha": 20.0, "l2": 30.0},
            {"alpha": 10.0, "l2": 1.0},
            {"alpha": 1.0, "l2": 0.01},
        ),
        "implicit_",
    ),
    "implicit BPR": Learner(
        "benchmarks.peers.implicit_:learn_bpr",
        (
            {"rate": 0.05, "l2": 0.0001},
            {"rate": 0.1, "l2": 0.0001},
            {"rate": 0.2, "l2": 0.0001},
            {"rate": 0.2, "l2": 0.001},
            {"rate": 0.05, "l2": 0.0005},
            {"rate": 0.05, "l2": 0.002},
            {"rate": 0.05, "l2": 0.01},
            {"rate": 0.1, "l2": 0.01},
        ),
        "implicit_",
    ),
    "Cornac BPR": Learner(
        "benchmarks.peers.cornac_:learn_bpr",
        ({"rate": 0.05, "l2": 0.001}, {"rate": 0.05, "l2": 0.005}, {"rate": 0.1, "l2": 0.001}),
        "cornac_",
    ),
    "LightFM": Learner(
        "benchmarks.peers.lightfm_:learn",
        ({"loss": "warp", "rate": 0.05, "l2": 0.0}, {"loss": "bpr", "rate": 0.05, "l2": 0.0}),
        "lightfm_",
    ),
    "PyTorch MF": Learner("benchmarks.peers.torch_:learn", ({"layers": 0, "rate": 1e-3, "l2": 1e-4},), "torch_"),
    "PyTorch LightGCN": Learner("benchmarks.peers.torch_:learn", ({"layers": 3, "rate": 1e-3, "l2": 1e-4},), "torch_"),
}


def our_spectral(train: Interactions, setting: dict[str, Any]) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
    """The closed form, once, with arranging the graph; all is compiled before it says that it is ready."""
    from jaxrec.models.lightgcn import scaled_graph
    from jaxrec.models.spectral import leading_vectors

    def solve(seed: int) -> Any:
        graph = scaled_graph(train, setting["user_power"], setting["item_power"])
        start = jax.random.normal(jax.random.key(seed), (train.num_items, 64))
        return jax.block_until_ready(leading_vectors(graph, start, 0.5, rounds=2))

    solve(1)
    yield None
    tables = solve(0)
    yield np.asarray(tables.user), np.asarray(tables.item)


def our_softmax(train: Interactions, setting: dict[str, Any]) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
    """softmax-mf without the ledger, an epoch at a time; compiled before it says that it is ready."""
    model, sampler, step = presets.build(replace(presets.SOFTMAX_MF, **setting), train, observe=False)
    return _epochs(model, sampler, step)


def our_bpr(train: Interactions, setting: dict[str, Any]) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
    """BPR by SGD, known negatives left out, without a ledger, as the races of triplets have it; compiled before."""
    from benchmarks.ours import WIDTH, plain_bpr

    sampler, step = plain_bpr({"optimizer": "sgd", "reject": True, **setting}, train)
    return _epochs(models.mf(train.num_users, train.num_items, WIDTH), sampler, step)


def _epochs(model: Model, sampler: Sampler, step: Step) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
    epoch = make_epoch(step, sampler)
    jax.block_until_ready(epoch(step.init(jax.random.key(0))))
    state = step.init(jax.random.key(0))
    yield None
    while True:
        state, _ = epoch(state)
        tables = models.embed(model, state.params)
        yield np.asarray(tables.user), np.asarray(tables.item)
