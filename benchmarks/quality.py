"""Time to quality: training seconds until NDCG@20 on validation reaches fixed levels, for us and for each peer.

`python -m benchmarks.quality` runs the search that chose each one's setting and prints what each setting reached.
Validation is the natural part carved from Gowalla's training interactions (seed 0); what is left is trained on. All are
judged by `jaxrec.metrics.evaluate` on the same users, outside of the time that counts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import inputs, report
from benchmarks.contest import Contender, Outcome, contest
from benchmarks.learners import LEARNERS
from benchmarks.plan import Case, Plan, no_row
from benchmarks.rows import Row, row
from benchmarks.timing import middle, spread
from benchmarks.worker import Reading, Run
from jaxrec.data import Split, carve

K = 20
LEVELS = (0.08, 0.09, 0.1)  # NDCG@20 on validation; the best peer of the search came to .0913
JUDGED = 4096  # validation users, drawn with seed 0
BUDGET = 120.0  # training seconds after which a learner is stopped
GROWTH = 1.15  # an evaluation whenever training took this much longer than at the last one


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
            tables = next(epochs, None)
            if tables is None:  # a closed form has one state only
                number -= 1
                break
            spent += time.perf_counter() - begun
            if spent >= due or spent >= options["budget"]:
                curve.append([spent, number, judge(*tables)])
                due = GROWTH * spent
                if curve[-1][2] >= options["level"] or spent >= options["budget"]:
                    break
        return {"seconds": spent, "work": number, "best": max(value for _, _, value in curve), "curve": curve}

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


def arrival(curve: Sequence[Sequence[float]], level: float) -> float | None:
    """The seconds at which a curve first is at a level; None where it never is.

    >>> arrival([[1.0, 1, 0.05], [2.0, 2, 0.09]], 0.08), arrival([[1.0, 1, 0.05]], 0.08)
    (2.0, None)
    """
    return next((seconds for seconds, _, value in curve if value >= level), None)


def time_to_quality(plan: Plan) -> list[Row]:
    """Seconds to each level, each learner in its best setting: our fastest against the fastest peer, and each peer."""
    budget = 20.0 if plan.quick else BUDGET
    found = {}
    for name, learner in LEARNERS.items():
        one = contender(name, learner.settings[0], plan.data, level=LEVELS[-1], budget=budget)
        turns = 1 if plan.quick else max(plan.repeats // 3, 1)
        outcome = contest([one], repeats=1, warm=0, patience=plan.patience + 4 * budget)[0]
        there = bool(outcome.readings) and outcome.readings[0]["seconds"] < budget
        if there and turns > 1:  # who takes the whole budget takes it once
            again = contest([one], repeats=turns - 1, warm=0, patience=plan.patience + 4 * budget)[0]
            outcome.readings.extend(again.readings)
        found[name] = outcome
    return [made for level in LEVELS for made in rows(found, level, plan, budget)]


def rows(found: Mapping[str, Outcome], level: float, plan: Plan, budget: float) -> list[Row]:
    """The rows of one level. Who did not come to it has no seconds, and the note says how far it came.

    Where no peer came to it, the first row takes the whole budget for their time: we are at least that much faster.
    """
    what = f"time to NDCG@{K} of {level} on validation"
    times = {name: times_to(outcome, level) for name, outcome in found.items()}
    mine = fastest(times, [name for name in found if not LEARNERS[name].peer])
    peers = [name for name in found if LEARNERS[name].peer]
    made: list[Row] = []
    first = fastest(times, peers)
    ran = [name for name in peers if found[name].readings]
    if times[mine] and not times[first] and ran:
        took, far = middle(times[mine]), "; ".join(_said(name, found[name], False, budget) for name in ran)
        far += "".join(f"; {name}: {found[name].reason}" for name in peers if name not in ran)
        kept = {"repeats": len(times[mine]), "data": plan.data, "spread": {"ours": spread(times[mine])}}
        peer = f"the best peer: none came to it in {budget:.0f} s, which is taken as its time"
        made.append(row(what, peer, took, budget, "s", target=2.0, kind="time", note=f"{mine}; {far}", **kept))
    for name in [first, *peers] if times[first] else peers:
        target = 2.0 if not made and times[first] else None
        peer = f"the best peer, {name}" if target else name
        if missing := no_row(what, peer, "s", target, "time", found[mine], found[name]):
            made.append(missing)
            continue
        sides = {"ours": mine, "theirs": name}
        values = {side: middle(times[who]) if times[who] else None for side, who in sides.items()}
        extra: dict[str, Any] = {
            "spread": {side: spread(times[who]) for side, who in sides.items() if times[who]},
            "repeats": len(times[mine]),
            "note": "; ".join(_said(who, found[who], bool(times[who]), budget) for who in sides.values()),
            "data": plan.data,
        }
        if level == LEVELS[-1] and target is None:
            extra["curves"] = {who: found[who].readings[0]["curve"] for who in sides.values()}
        made.append(row(what, peer, values["ours"], values["theirs"], "s", target=target, kind="time", **extra))
    return made


def times_to(outcome: Outcome, level: float) -> list[float]:
    """The seconds to a level of each reading; none where any of them did not come to it."""
    times = [arrival(reading["curve"], level) for reading in outcome.readings]
    return [] if None in times else [time for time in times if time is not None]


def fastest(times: Mapping[str, list[float]], names: Sequence[str]) -> str:
    """Who of them came to the level first; the first name if nobody did."""
    return min(names, key=lambda name: middle(times[name]) if times[name] else float("inf"))


def _said(name: str, outcome: Outcome, arrived: bool, budget: float) -> str:
    short = "" if arrived else f", came to {max(one['best'] for one in outcome.readings):.4f} in {budget:.0f} s"
    return f"{name} {LEARNERS[name].settings[0]}{short}"


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
            times = {level: arrival(reading["curve"], level) for level in LEVELS}
            when = ", ".join(f"{level} in {t:.1f} s" for level, t in times.items() if t is not None) or "no level"
            epochs = reading["work"]
            print(f"{name} {setting}: best {reading['best']:.4f} of {epochs} epochs; {when}", flush=True)
            found.append({"learner": name, "setting": setting, **reading})
    if out is not None:
        report.save(out, {"levels": LEVELS, "data": data, "search": found})


if __name__ == "__main__":
    tyro.cli(main)
