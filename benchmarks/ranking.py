"""Cases of ranking: all users against implicit, every metric, a grid of adjustments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.contest import Contender, contest, once, rates, summary
from benchmarks.plan import Case, Plan, Share, Side, no_row, overheads, race
from benchmarks.rows import Row, row

POINTS = 100
K = 20


def tables(plan: Plan) -> str:
    """The path of trained tables and their ledger, made once a run."""
    path = plan.work / "tables.npz"
    if not path.exists():
        steps = 40 if plan.quick else 800
        once(Contender("benchmarks.ours:save_tables", {"data": plan.data, "steps": steps, "out": str(path)}))
    return str(path)


def ranking(plan: Plan) -> list[Row]:
    """Top 20 of all users with training masked, the same trained tables on both sides; also how far lists agree."""
    given = {"data": plan.data, "tables": tables(plan)}
    lists = [str(plan.work / f"lists.{side}.npy") for side in ("ours", "theirs")]
    ours = Contender("benchmarks.ours:ranking", {**given, "lists": lists[0]})
    theirs = peers.contender("implicit_:ranking", **given, lists=lists[1])
    with np.load(given["tables"]) as found:
        flops = 2.0 * found["item"].size
    side = Side(f"full ranking of all users, top {K}", ours, 2.0, cost=flops)
    share = Share("sgemm best, GFLOP/s", flops)
    rows = race(plan, "implicit recommend", [side], [theirs], "users/s", share=share)
    if rows[0]["ratio"] is not None:
        rows[0]["lists that agree"] = agreement(*lists)
    if plan.quick:
        return rows
    torch = peers.contender("torch_:ranking", **given, lists=lists[1])
    found = race(plan, "PyTorch, scores and topk", [side._replace(target=None)], [torch], "users/s", share=share)
    if found[0]["ratio"] is not None:
        found[0]["lists that agree"] = agreement(*lists)
    return rows + found


def agreement(ours: str | Path, theirs: str | Path) -> float:
    """The share of the items listed by one that the other lists, too; ties and rounding take some."""
    a, b = np.load(ours), np.load(theirs)
    return float(np.mean([len(np.intersect1d(x, y)) / len(x) for x, y in zip(a, b, strict=True)]))


def evaluation(plan: Plan) -> list[Row]:
    """Ranking and every metric over ranking alone, at one cut-off and at the three of the pipeline."""
    rows = []
    for ks in ([20], [10, 20, 50]):
        given = {"data": plan.data, "tables": tables(plan), "ks": ks}
        base, whole = (Contender("benchmarks.ours:evaluation", {**given, "metrics": on}) for on in (False, True))
        side = Side(f"and all metrics at {', '.join(map(str, ks))}", whole, 1.3)
        found = overheads(plan, "ranking", ("ranking alone", base), [side], unit="ms a user", per="work")
        rows += found
    return rows


def grid(plan: Plan) -> list[Row]:
    """Points a second; the separate ones are measured on a part of the points, and both must agree on NDCG."""
    points, part = (20, 4) if plan.quick else (POINTS, 10)
    given = {"data": plan.data, "tables": tables(plan), "users": 1024 if plan.quick else 8192, "points": points}
    turns: dict[str, Any] = {"repeats": max(plan.repeats // 2, 1), "patience": plan.patience}
    whole = Contender("benchmarks.grid:together", given)
    outcomes = contest([whole, Contender("benchmarks.grid:one_by_one", {**given, "part": part})], **turns)
    what, peer = f"a grid of {points} adjustments on {given['users']} users", f"{part} of them one by one"
    if missing := no_row(what, peer, "points/s", 3.0, "rate", *outcomes):
        return [missing]
    together, separate = (outcome.readings for outcome in outcomes)
    differ = np.abs(np.subtract(together[0]["ndcg"][:part], separate[0]["ndcg"])).max()
    note = f"NDCG differs by at most {differ:.1e} between the two"
    if differ > 1e-4:
        raise RuntimeError(f"the grid and the separate evaluations disagree, so their times mean nothing: {note}")
    found = summary(rates(together), rates(separate))
    return [row(what, peer, unit="points/s", target=3.0, note=note, data=plan.data, **found)]


CASES = {
    "ranking": Case(ranking, "full ranking against implicit", quick=True),
    "evaluation": Case(evaluation, "every metric over ranking alone"),
    "grid": Case(grid, "a grid of adjustments against one by one"),
}
