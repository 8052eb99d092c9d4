"""How much hangs on the way validation was carved: `python -m experiments.carving`, after `experiments.run methods`.

The comparison carves up to five interactions of each item for the unbiased part. Where the tests took theirs before,
and left no item without a few, what strengths are chosen on then has many rarer items than what they are applied to.
Here strengths of softmax's adjustments are chosen on parts carved in two ways, and applied to the same model of all
training interactions, whose test is ranked once for each choice. The second way was looked at because of the first
one's test, so this explains a result and is none itself. PC stands once with counts, as published, and once with the
size of an item's push in their place. Rows of results/carving.csv are not made again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import tyro

from experiments import contestants
from experiments.contest import NDCG, RULES, Contest, K, chosen_plain, fitter
from experiments.contestants import Base
from experiments.kept import append_rows, read_rows
from experiments.run import RESULTS
from jaxrec import ledger, pipeline
from jaxrec import select as selection
from jaxrec.baselines import pc
from jaxrec.data import registry, splits
from jaxrec.data.interactions import Interactions, Split
from jaxrec.select import Arm

DATA = ("gowalla-macr",)
WAYS: dict[str, int | None] = {"as compared": None, "one an item": 1}  # interactions of an item, at most
COLUMNS = ("data", "carved", "rarest", "arm", "rule", "natural kept", "unbiased", "test", NDCG)
FEW = 3  # interactions of a rare item


def fitted(data: str, train: Interactions) -> Base:
    """Softmax as the comparison chose it."""
    contest = Contest(data)
    chosen = chosen_plain(RESULTS, contest, "softmax")
    base: Base = fitter(contest, contestants.find("softmax", "mf"), chosen, train)(0)
    return base


def arms(base: Base, train: Interactions) -> dict[str, Arm]:
    """What is compared."""
    counts, push = train.item_counts, np.asarray(ledger.magnitude(base.ledger.items, "push"), np.float64)
    found = selection.arms(base.tables, base.ledger, train, seed=0)
    return {
        "adjusted": found["adjusted"],
        "exposure": selection.exposure_arm(base.tables, base.ledger, seed=0),
        "count control": found["count_control"],
        "PC": pc.arm(counts, as_coded=False),
        "PC by push": pc.arm(push * counts.mean() / push.mean(), as_coded=False),
    }


def measured(data: str) -> Iterator[dict[str, Any]]:
    """The rows of one data set."""
    split = registry.load(data).split
    whole = fitted(data, split.train)
    applied = arms(whole, split.train)
    for way, per_item in WAYS.items():
        carved = splits.carve(Split(split.train, {}, {}), seed=0, per_item=per_item)
        base = fitted(data, carved.train)
        problem = selection.prepare(*base, carved.train, carved.valid, k=K)
        start = {"data": data, "carved": way, "rarest": np.mean(carved.train.item_counts <= FEW)}
        for name, arm in arms(base, carved.train).items():
            points = selection.frontier(problem, arm)
            for rule, limit in RULES.items():
                chosen = selection.select(points, metric=NDCG, max_loss=limit)
                kept = chosen.metrics["natural"][NDCG] / points[0].metrics["natural"][NDCG]
                row = start | {"arm": name, "rule": rule, "natural kept": kept}
                row["unbiased"] = chosen.metrics["unbiased"][NDCG]
                tables = selection.apply(applied[name], chosen.strengths, *whole)
                for test, found in pipeline.evaluate(tables, split, ks=[K]).items():
                    yield row | {"test": test, NDCG: found.summary[NDCG]}


def table(rows: list[dict[str, str]]) -> str:
    """A line for each arm and rule, ways of carving across."""
    lines = ["# How much hangs on the way validation was carved", ""]
    lines += ["Made by `python -m experiments.carving`; one seed. NDCG@20; `kept` is the share of the natural one on"]
    lines += [f"validation. Beside a way: the share of items with at most {FEW} interactions left to train on."]
    for data, test in sorted({(row["data"], row["test"]) for row in rows}):
        found = [row for row in rows if (row["data"], row["test"]) == (data, test)]
        ways = {row["carved"]: f"{row['carved']} ({float(row['rarest']):.0%})" for row in found}
        lines += ["", f"## {data}, {test} test", ""]
        lines += ["| rule | arm | " + " | ".join(f"{way}: kept | validation | test" for way in ways.values()) + " |"]
        lines += ["|---" * (2 + 3 * len(ways)) + "|"]
        for rule, name in dict.fromkeys((row["rule"], row["arm"]) for row in found):
            cells = []
            for way in ways:
                (row,) = (r for r in found if (r["rule"], r["arm"], r["carved"]) == (rule, name, way))
                cells += [f"{float(row['natural kept']):.3f}", *(f"{float(row[of]):.4f}" for of in ("unbiased", NDCG))]
            lines.append(f"| {rule} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(data: tuple[str, ...] = DATA) -> None:
    """Makes the rows that are missing, then the page.

    Args:
        data: Data sets.
    """
    path = RESULTS / "carving.csv"
    for one in data:
        if not any(row["data"] == one for row in read_rows(path)):
            numbers = ("rarest", "natural kept", "unbiased", NDCG)
            append_rows(path, COLUMNS, [row | {n: f"{row[n]:.6g}" for n in numbers} for row in measured(one)])
            print(one, flush=True)
            jax.clear_caches()
    (RESULTS / "carving.md").write_text(table(read_rows(path)), encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main)
