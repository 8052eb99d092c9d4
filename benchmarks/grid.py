"""A grid of adjustments on validation users: all at once by `jaxrec.select`, or one after the other as one would."""

from __future__ import annotations

import time
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks import inputs
from benchmarks.ours import K, read_tables
from benchmarks.worker import Reading, Run
from jaxrec import data, select
from jaxrec.select import Arm


def _prepare(options: dict[str, Any]) -> tuple[select.Problem, Arm, np.ndarray]:
    """The problem, the arm of the gradients, and `points` strengths spread over its box."""
    carved = data.carve(data.Split(inputs.split(options["data"]).train, {}, {}), seed=0)
    tables, ledger = read_tables(options["tables"])
    problem = select.prepare(tables, ledger, carved.train, carved.valid, k=K, max_users=options["users"])
    arm = select.arms(tables, ledger, carved.train)["adjusted"]
    box = np.random.default_rng(0).random((options["points"], len(arm.low)))
    return problem, arm, np.asarray(arm.low) + box * (np.asarray(arm.high) - np.asarray(arm.low))


def together(options: dict[str, Any]) -> Run:
    """Points a second of `select.measure_many`."""
    problem, arm, strengths = _prepare(options)

    def run() -> Reading:
        begun = time.perf_counter()
        found = select.measure_many(problem, arm, strengths)
        seconds = time.perf_counter() - begun
        values = [point["natural"][f"ndcg@{K}"] for point in found]
        return {"seconds": seconds, "work": len(strengths), "ndcg": values}

    return run


def one_by_one(options: dict[str, Any]) -> Run:
    """Points a second of `select.measure`, which adjusts, ranks and measures the same, for the first `part` points."""
    problem, arm, strengths = _prepare(options)

    def one(s: np.ndarray) -> float:
        return select.measure(problem, arm.adjust(jnp.asarray(s, jnp.float32)))["natural"][f"ndcg@{K}"]

    def run() -> Reading:
        begun = time.perf_counter()
        values = [one(s) for s in strengths[: options["part"]]]
        return {"seconds": time.perf_counter() - begun, "work": len(values), "ndcg": values}

    return run
