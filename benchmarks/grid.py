"""A grid of adjustments on validation users: all at once by `jaxrec.select`, or one after the other as one would."""

from __future__ import annotations

import time
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks import inputs
from benchmarks.ours import K, read_tables
from benchmarks.worker import Reading, Run
from jaxrec import data, metrics, rank, select
from jaxrec.select import Arm


def _prepare(options: dict[str, Any]) -> tuple[data.Split, select.Problem, Arm, np.ndarray]:
    """Validation parts, the problem, the arm of the gradients, and `points` strengths spread over its box."""
    carved = data.carve(data.Split(inputs.split(options["data"]).train, {}, {}), seed=0)
    tables, ledger = read_tables(options["tables"])
    problem = select.prepare(tables, ledger, carved.train, carved.valid, k=K, max_users=options["users"])
    arm = select.arms(tables, ledger, carved.train)["adjusted"]
    box = np.random.default_rng(0).random((options["points"], len(arm.low)))
    return carved, problem, arm, np.asarray(arm.low) + box * (np.asarray(arm.high) - np.asarray(arm.low))


def together(options: dict[str, Any]) -> Run:
    """Points a second of `select.measure_many`."""
    _, problem, arm, strengths = _prepare(options)

    def run() -> Reading:
        begun = time.perf_counter()
        found = select.measure_many(problem, arm, strengths)
        seconds = time.perf_counter() - begun
        values = [point["natural"][f"ndcg@{K}"] for point in found]
        return {"seconds": seconds, "work": len(strengths), "ndcg": values}

    return run


def one_by_one(options: dict[str, Any]) -> Run:
    """Points a second of adjusting, ranking and evaluating each validation part, for the first `part` points."""
    carved, problem, arm, strengths = _prepare(options)
    users = _chosen(carved, options["users"])

    def one(s: np.ndarray) -> float:
        adjusted = arm.adjust(jnp.asarray(s, jnp.float32))(problem.tables, problem.ledger)
        found = rank.top_k(adjusted, users, carved.train, k=K)
        values = {name: metrics.evaluate(found, part, carved.train, ks=(K,)) for name, part in carved.valid.items()}
        return values["natural"].summary[f"ndcg@{K}"]

    def run() -> Reading:
        begun = time.perf_counter()
        values = [one(s) for s in strengths[: options["part"]]]
        return {"seconds": time.perf_counter() - begun, "work": len(values), "ndcg": values}

    return run


def _chosen(carved: data.Split, most: int) -> np.ndarray:
    """The validation users that `select.prepare` draws with seed 0."""
    users = np.flatnonzero(np.sum([part.user_counts for part in carved.valid.values()], axis=0) > 0)
    return users if len(users) <= most else np.random.default_rng(0).choice(users, most, replace=False)
