"""Which adjustment holds on validation users that it was not chosen on: `python -m experiments.halves`.

No test is read. For each data set and seed, validation parts are carved from the training interactions, softmax-mf is
fitted without them, and the validation users are cut in two. The strengths of each arm are chosen on one half, by both
rules of the comparison, and measured on the other half; then the other way round. `ours` is one of our two arms,
whichever the choosing half prefers, so it has twice the points of the control. results/halves.csv has the means of both
ways, results/halves.md the table. What is there is not made again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro

from experiments.ablation import POINTS, TRAINING, only, trained
from experiments.contest import NDCG, RULES
from experiments.contest_tables import spread
from experiments.kept import append_rows, read_rows
from experiments.run import RESULTS
from jaxrec import select as selection
from jaxrec.data import registry, splits
from jaxrec.data.interactions import Interactions, Split
from jaxrec.ledger import GradientLedger
from jaxrec.presets import SOFTMAX_MF
from jaxrec.select import Arm, Problem
from jaxrec.types import Tables

OURS = ("adjusted", "exposure, pull")
DATA = ("adressa-macr", "lastfm-both", "ml-100k", "coat")
COLUMNS = ("data", "seed", "arm", "rule", "unbiased", "natural kept")


class Way(NamedTuple):
    """Strengths chosen on one half: unbiased NDCG there and on the other, and the natural share kept on the other."""

    here: float
    there: float
    kept: float


def preferred(arms: list[list[Way]]) -> list[Way]:
    """Of several arms, each way the one that is best on the half that chooses.

    >>> preferred([[Way(0.3, 0.1, 1.0), Way(0.1, 0.2, 1.0)], [Way(0.2, 0.4, 1.0), Way(0.2, 0.1, 1.0)]])
    [Way(here=0.3, there=0.1, kept=1.0), Way(here=0.2, there=0.1, kept=1.0)]
    """
    return [max(ways, key=lambda way: way.here) for ways in zip(*arms, strict=True)]


def half(problem: Problem, which: int) -> Problem:
    """The problem with the relevant items of one half of its users, 0 or 1; all users are ranked, so shapes stay."""
    everybody = np.concatenate(problem.users)
    order = np.random.default_rng(0).permutation(int(everybody.max()) + 1)
    relevant = [
        tuple(np.where((order[users] % 2 == which)[:, None], own, -1) for own in parts)
        for users, parts in zip(problem.users, problem.relevant, strict=True)
    ]
    return problem._replace(relevant=relevant)


def compared(tables: Tables, ledger: GradientLedger, train: Interactions, *, seed: int) -> dict[str, Arm]:
    """Both arms of ours, the offset of each by itself, and the count control."""
    arms = selection.arms(tables, ledger, train, seed=seed)
    exposure = selection.exposure_arm(tables, ledger, seed=seed)
    return {
        "adjusted": arms["adjusted"],
        "magnitude": only(arms["adjusted"], ("magnitude",)),
        "exposure, pull": exposure,
        "exposure": only(exposure, ("exposure",)),
        "count control": arms["count_control"],
    }


def measured(data: str, seed: int) -> Iterator[dict[str, Any]]:
    """The rows of one data set and seed."""
    carved = splits.carve(Split(registry.load(data).split.train, {}, {}), seed=seed)
    tables, ledger, _ = trained(TRAINING["softmax-mf"], SOFTMAX_MF, carved, seed)
    problem = selection.prepare(tables, ledger, carved.train, carved.valid, seed=seed)
    halves = [half(problem, which) for which in (0, 1)]
    found: dict[str, dict[str, list[Way]]] = {}  # arm -> rule -> both ways
    for name, arm in compared(tables, ledger, carved.train, seed=seed).items():
        found[name] = {rule: [] for rule in RULES}
        for here, there in (halves, halves[::-1]):
            points = selection.frontier(here, arm, budget=2 * POINTS, seed=seed)
            for rule, limit in RULES.items():
                chosen = selection.select(points, metric=NDCG, max_loss=limit)
                strengths = np.array([list(chosen.strengths.values()), [0.0] * len(arm.names)])
                with_it, without = selection.measure_many(there, arm, strengths)
                kept = with_it["natural"][NDCG] / without["natural"][NDCG]
                found[name][rule].append(Way(chosen.metrics["unbiased"][NDCG], with_it["unbiased"][NDCG], kept))
    found["ours"] = {rule: preferred([found[name][rule] for name in OURS]) for rule in RULES}
    for name, rules in found.items():
        for rule, ways in rules.items():
            _, unbiased, kept = np.mean(ways, axis=0)
            yield {"data": data, "seed": seed, "arm": name, "rule": rule, "unbiased": unbiased, "natural kept": kept}


def table(rows: list[dict[str, str]]) -> str:
    """A line for each data set and arm, the rules across; the best of each is bold."""
    values: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        values.setdefault((row["data"], row["rule"], row["arm"]), []).append(row)
    lines = ["# Chosen on one half of the validation users, measured on the other", ""]
    lines += ["Made by `python -m experiments.halves`; no test is read. Unbiased NDCG@20, mean ± sd over seeds"]
    lines += ["of the means of both ways, and the share of natural NDCG@20 that is kept.", ""]
    lines += ["| data (seeds) | arm | " + " | ".join(f"{rule} | kept" for rule in RULES) + " |"]
    lines += ["|---" * (2 + 2 * len(RULES)) + "|"]
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    for data in dict.fromkeys(row["data"] for row in rows):
        means = {k: float(np.mean([float(r["unbiased"]) for r in v])) for k, v in values.items() if k[0] == data}
        best = {rule: max(mean for k, mean in means.items() if k[1] == rule) for rule in RULES}
        for arm in arms:
            cells = []
            for rule in RULES:
                found = values[data, rule, arm]
                shown = spread([float(r["unbiased"]) for r in found])
                cells.append(f"**{shown}**" if means[data, rule, arm] == best[rule] else shown)
                cells.append(f"{np.mean([float(r['natural kept']) for r in found]):.3f}")
            lines.append(f"| {data} ({len(found)}) | {arm} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(data: tuple[str, ...] = DATA, seeds: tuple[int, ...] = (0, 1)) -> None:
    """Makes the rows that are missing, then the page.

    Args:
        data: Data sets.
        seeds: Seeds.
    """
    path: Path = RESULTS / "halves.csv"
    for one in data:
        for seed in seeds:
            if any((row["data"], row["seed"]) == (one, str(seed)) for row in read_rows(path)):
                continue
            rows = [row | {n: f"{row[n]:.6g}" for n in COLUMNS[-2:]} for row in measured(one, seed)]
            append_rows(path, COLUMNS, rows)
            print(one, seed, flush=True)
            jax.clear_caches()
    (RESULTS / "halves.md").write_text(table(read_rows(path)), encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main)
