"""Time to quality: training seconds until NDCG@20 on validation reaches a fixed level, for us and for each peer.

`python -m benchmarks.quality` runs the search that chose each one's setting and prints what each setting reached.
Validation is the natural part carved from Gowalla's training interactions (seed 0); what is left is trained on. All are
judged by `jaxrec.metrics.evaluate` on the same users, outside of the time that counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from benchmarks import inputs, report
from benchmarks.contest import Contender, Outcome, contest
from benchmarks.plan import Case, Plan, no_row
from benchmarks.rows import Row, row
from benchmarks.timing import middle, spread
from benchmarks.worker import Reading, Run
from jaxrec.data import Interactions, Split, carve

K = 20
LEVEL = 0.09  # NDCG@20 on validation
JUDGED = 4096  # validation users, drawn with seed 0
BUDGET = 300.0  # training seconds after which a learner is stopped
GROWTH = 1.15  # an evaluation whenever training took this much longer than at the last one


class Learner(NamedTuple):
    """Who learns: `module:function` of a learner, what its environment is taken from, and the settings searched."""

    call: str
    settings: tuple[dict[str, Any], ...]  # the first one is the best of the search
    peer: str = ""


LEARNERS: dict[str, Learner] = {
    "jaxrec softmax-mf": Learner(
        "benchmarks.quality:ours",
        (
            {"learning_rate": 0.1},
            {"learning_rate": 0.05},
            {"learning_rate": 0.2},
        ),
    ),
    "implicit ALS": Learner(
        "benchmarks.peers.implicit_:learn_als",
        (
            {"alpha": 10.0, "l2": 1.0},
            {"alpha": 1.0, "l2": 0.01},
            {"alpha": 10.0, "l2": 10.0},
            {"alpha": 40.0, "l2": 10.0},
        ),
        "implicit_",
    ),
    "implicit BPR": Learner(
        "benchmarks.peers.implicit_:learn_bpr",
        ({"rate": 0.05, "l2": 0.01}, {"rate": 0.1, "l2": 0.01}, {"rate": 0.05, "l2": 0.002}),
        "implicit_",
    ),
    "Cornac BPR": Learner(
        "benchmarks.peers.cornac_:learn_bpr",
        ({"rate": 0.05, "l2": 0.01}, {"rate": 0.1, "l2": 0.01}),
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


def ours(train: Interactions, setting: dict[str, Any]) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
    """softmax-mf without the ledger, an epoch at a time; compiled before it says that it is ready."""
    from dataclasses import replace

    import jax

    from jaxrec import models, presets
    from jaxrec.train import make_epoch

    model, sampler, step = presets.build(replace(presets.SOFTMAX_MF, **setting), train, observe=False)
    epoch = make_epoch(step, sampler)
    jax.block_until_ready(epoch(step.init(jax.random.key(0))))
    state = step.init(jax.random.key(0))
    yield None
    while True:
        state, _ = epoch(state)
        tables = models.embed(model, state.params)
        yield np.asarray(tables.user), np.asarray(tables.item)


def learning(options: dict[str, Any]) -> Run:
    """A contender whose reading is a learning curve: seconds, epochs and NDCG, until the level or the budget."""
    module, _, function = options["call"].partition(":")
    parts = validation(options["data"])
    judge = Judge(parts)

    def run() -> Reading:
        epochs = getattr(import_module(module), function)(parts.train, options["setting"])
        next(epochs)
        spent, due, curve = 0.0, 0.0, []
        for number in range(1, 100_000):
            begun = time.perf_counter()
            tables = next(epochs)
            spent += time.perf_counter() - begun
            if spent >= due or spent >= options["budget"]:
                curve.append([spent, number, judge(*tables)])
                due = GROWTH * spent
                if curve[-1][2] >= options["level"] or spent >= options["budget"]:
                    break
        reached = curve[-1][2] >= options["level"]
        best = max(value for _, _, value in curve)
        return {"seconds": spent, "work": number, "reached": reached, "best": best, "curve": curve}

    return run


def validation(data: str) -> Split:
    """What is trained on, and the natural validation part."""
    return carve(Split(inputs.split(data).train, {}, {}), seed=0)


class Judge:
    """NDCG@20 of tables on validation users: `judge(user, item)`, what was trained on left out."""

    def __init__(self, parts: Split):
        self.parts = parts
        users = np.flatnonzero(parts.valid["natural"].user_counts)
        self.users = np.random.default_rng(0).permutation(users)[:JUDGED]

    def __call__(self, user: np.ndarray, item: np.ndarray) -> float:
        import jax.numpy as jnp

        from jaxrec import metrics, rank
        from jaxrec.types import Tables

        tables = Tables(jnp.asarray(user, jnp.float32), jnp.asarray(item, jnp.float32))
        found = rank.top_k(tables, self.users, self.parts.train, k=K)
        return metrics.evaluate(found, self.parts.valid["natural"], self.parts.train, ks=(K,)).summary[f"ndcg@{K}"]


def contender(name: str, setting: dict[str, Any], data: str, *, level: float, budget: float) -> Contender:
    """The contender that learns as `name` does with a setting."""
    learner = LEARNERS[name]
    given = {"call": learner.call, "setting": setting, "data": data, "level": level, "budget": budget}
    wanted = import_module(f"benchmarks.peers.{learner.peer}").ENVIRONMENT if learner.peer else {}
    return Contender("benchmarks.quality:learning", given, wanted)


def time_to_quality(plan: Plan) -> list[Row]:
    """Seconds to the level, each in its best setting; against the best of the peers, and against each."""
    budget = 20.0 if plan.quick else BUDGET
    names = list(LEARNERS)
    everyone = [contender(name, LEARNERS[name].settings[0], plan.data, level=LEVEL, budget=budget) for name in names]
    repeats = max(plan.repeats // 3, 1)
    mine, *others = contest(everyone, repeats=repeats, warm=0, patience=plan.patience + 4 * budget)
    rows = [against(name, mine, other, plan, budget) for name, other in zip(names[1:], others, strict=True)]
    return best_peer(rows) + rows


def against(name: str, mine: Outcome, other: Outcome, plan: Plan, budget: float) -> Row:
    """The row of one peer. Who never came to the level has no seconds, and the note says how far it came."""
    what, unit = f"time to NDCG@{K} of {LEVEL} on validation", "s"
    if missing := no_row(what, name, unit, None, "time", mine, other):
        return missing
    note, values, found = "best settings of the search", {}, {"ours": mine.readings, "theirs": other.readings}
    for (side, readings), who in zip(found.items(), (next(iter(LEARNERS)), name), strict=True):
        note += f"; {side} {LEARNERS[who].settings[0]}"
        if all(reading["reached"] for reading in readings):
            values[side] = middle([reading["seconds"] for reading in readings])
        else:
            note += f" came to {max(reading['best'] for reading in readings):.4f} in {budget:.0f} s"
    extra: dict[str, Any] = {
        "spread": {side: spread([reading["seconds"] for reading in readings]) for side, readings in found.items()},
        "curves": {side: readings[0]["curve"] for side, readings in found.items()},
        "repeats": len(mine.readings),
        "data": plan.data,
    }
    return row(what, name, values.get("ours"), values.get("theirs"), unit, kind="time", note=note, **extra)


def best_peer(rows: list[Row]) -> list[Row]:
    """The row that the target is for: the fastest of those that came to the level; none if nobody did."""
    arrived = [found for found in rows if found["theirs"] is not None]
    if not arrived:
        return []
    best = min(arrived, key=lambda found: float(found["theirs"]))
    extra = {key: best[key] for key in ("spread", "repeats", "note", "data")}
    name = f"the best peer, {best['peer']}"
    return [row(best["what"], name, best["ours"], best["theirs"], "s", target=2.0, kind="time", **extra)]


CASES = {"quality": Case(time_to_quality, "time to quality against every peer")}


def main(only: tuple[str, ...] = (), budget: float = 60.0, out: Path | None = None) -> None:
    """Tries every setting of the search and prints what each reached.

    Args:
        only: Names of learners; all of them if none is given.
        budget: Training seconds of each.
        out: Where to write the curves as JSON.
    """
    data, found = inputs.available(), []
    for name in only or LEARNERS:
        for setting in LEARNERS[name].settings:
            outcome = contest([contender(name, setting, data, level=1.0, budget=budget)], repeats=1, warm=0)[0]
            if outcome.reason:
                print(f"{name} {setting}: {outcome.reason}", flush=True)
                continue
            reading = outcome.readings[0]
            arrived = next((point for point in reading["curve"] if point[2] >= LEVEL), None)
            when = f"{arrived[0]:.1f} s, {arrived[1]} epochs" if arrived else "not reached"
            print(f"{name} {setting}: best {reading['best']:.4f}; {LEVEL}: {when}", flush=True)
            found.append({"learner": name, "setting": setting, **reading})
    if out is not None:
        report.save(out, {"level": LEVEL, "data": data, "search": found})


if __name__ == "__main__":
    tyro.cli(main)
