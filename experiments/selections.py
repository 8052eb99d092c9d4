"""How much hangs on the one selection that the comparison made: `python -m experiments.selections`, after
`experiments.run methods`.

The comparison carves validation parts once, chooses there, and trains what was chosen with five seeds, so its p know of
users and seeds and not of the choice. Here all of that is done anew for each seed, with the settings of softmax that
the comparison chose, and, where spectral tables are what ours corrects there, with those of these: parts are carved,
the model is trained without them, strengths of its adjustments are chosen there as in the comparison, and the model of
all training interactions is corrected and ranked. Each time ours (which base and which of our two arms, validation
says) and the others are set to keep 90 % of plain softmax's natural NDCG on the test, as `experiments.equal` does it.
Rows of results/selections.csv are not made again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import tyro
from scipy import stats

from experiments import contestants, equal
from experiments.contest import LOSSES, NDCG, Candidate, Contest, K, choose, chosen_plain, fitter, label_of
from experiments.contest_tables import ByUser, Group, is_ours
from experiments.kept import append_rows, read_rows
from experiments.run import RESULTS
from jaxrec import pipeline
from jaxrec import select as selection
from jaxrec.data import registry, splits
from jaxrec.data.interactions import Split

# How many selections are made: fewer on the largest set.
DATA = {"synthetic": 5, "lastfm-both": 5, "ml-100k": 5, "ml-100k-temporal": 5, "ml-1m": 5, "gowalla-both": 3}
BASE = "softmax"
MORE = {"gowalla-both": ("spectral",)}  # what else is corrected: what the comparison found ours to be of
ARMS = (*contestants.OURS, "count_control", "tten", "pc", "tde")
NUMBERS = ("valid natural", "valid unbiased", "natural", "unbiased")
COLUMNS = ("data", "seed", "label", *NUMBERS)


def measured(data: str, seed: int) -> Iterator[dict[str, Any]]:
    """The rows of one selection: the plain models, and each adjustment of each as each rule chooses it."""
    split = registry.load(data).split
    carved = splits.carve(Split(split.train, {}, {}), seed=seed)
    reference = 0.0
    for name in (BASE, *MORE.get(data, ())):
        for row in measured_on(data, name, split, carved, seed, reference):
            reference = reference or row["valid natural"]  # plain softmax comes first
            yield row


def measured_on(
    data: str, of: str, split: Split, carved: Split, seed: int, reference: float
) -> Iterator[dict[str, Any]]:
    """The rows of one base; `reference` is the natural NDCG on validation that losses are measured against, 0 for the
    base's own."""
    contest, who = Contest(data), contestants.find(of, "mf")
    plain = chosen_plain(RESULTS, contest, of)
    base = fitter(contest, who, plain, carved.train)(seed)
    problem = selection.prepare(
        base.tables, base.ledger, carved.train, carved.valid, k=K, max_users=contest.max_users, seed=seed
    )
    tried: dict[str, list[Candidate]] = {}
    for name, arm in contestants.arms(base, carved.train, seed=seed, wanted=ARMS).items():
        budget = contest.points if len(arm.names) > 1 else contest.points // 4
        points = selection.frontier(problem, arm, budget=budget, seed=seed)
        tried[name] = [Candidate({}, plain.epochs, p.strengths, p.metrics) for p in points]
    nothing = tried[ARMS[0]][0]  # strength 0
    whole = fitter(contest, who, plain, split.train)(seed)
    arms = contestants.arms(whole, split.train, seed=seed, wanted=ARMS)

    def row(label: str, chosen: Candidate, tables: Any) -> dict[str, Any]:
        found = pipeline.evaluate(tables, split, ks=[K])
        valid = {f"valid {part}": chosen.value(part) for part in ("natural", "unbiased")}
        tests = {test: found[test].summary[NDCG] for test in ("natural", "unbiased")}
        return {"data": data, "seed": seed, "label": label, **valid, **tests}

    yield row(of, nothing, whole.tables)
    for name in ARMS:
        for rule in LOSSES:
            chosen, _ = choose(tried[name], rule, reference or nothing.value("natural"))
            yield row(label_of(f"{of}+{name}", rule), chosen, selection.apply(arms[name], chosen.strengths, *whole))


def group_of(rows: list[dict[str, str]]) -> Group:
    """One selection as a group of the comparison, with one seed."""
    tests: dict[str, dict[str, dict[str, list[float]]]] = {}
    pools: dict[str, list[Candidate]] = {}
    for row in rows:
        tests[row["label"]] = {test: {NDCG: [float(row[test])]} for test in ("natural", "unbiased")}
        valid = {part: {NDCG: float(row[f"valid {part}"])} for part in ("natural", "unbiased")}
        pools.setdefault(row["label"].partition("@")[0], []).append(Candidate({}, 0, {}, valid))
    return Group(rows[0]["data"], "mf", tests, pools, pools[BASE][0].value("natural"), [])


def against(rows: list[dict[str, str]]) -> tuple[str, float, float]:
    """Of one selection: what ours is, and by how much it is ahead of the same base's control and of the best other."""
    group = group_of(rows)
    ours, ranked, _ = equal.compare(group, equal.draw(group, ByUser({}, {})), equal.SHOWN)
    unbiased = {name: one.unbiased[0] for name, one in ranked.items()}
    best = max(value for name, value in unbiased.items() if not is_ours(name))
    base, _, arm = ours.partition("+")
    shown = arm if base == BASE else f"{arm} of {base}"
    return shown, unbiased[ours] - unbiased[f"{base}+count_control"], unbiased[ours] - best


def table(rows: list[dict[str, str]]) -> str:
    """A line for each data set: the differences selection by selection, and their mean."""
    lines = ["# Selected anew", ""]
    lines += ["Made by `python -m experiments.selections`; `experiments/selections.py` says how. Softmax with MF at"]
    lines += [f"{equal.SHOWN:.0%} of its natural NDCG@20 on the test: unbiased NDCG@20 of ours less that of the count"]
    lines += ["control, and less that of the best other correction of the same models (that control, TTEN, PC, TDE),"]
    lines += ["for selections and models of seeds 0, 1, ...; mean ± sd, p by Student's t over these. On Gowalla"]
    lines += ["spectral tables are corrected beside softmax, by ours and by the others.", ""]
    lines += ["| data | ours | ours − count control, by selection | mean ± sd | p | ours − best other | p |"]
    lines += ["|---" * 7 + "|"]
    for data in dict.fromkeys(row["data"] for row in rows):
        own = [row for row in rows if row["data"] == data]
        found = [against([r for r in own if r["seed"] == seed]) for seed in dict.fromkeys(r["seed"] for r in own)]
        arms = [name for name, _, _ in found]
        cells = [data, ", ".join(f"{name} {arms.count(name)}" for name in dict.fromkeys(arms))]
        cells.append(", ".join(f"{control:+.4f}" for _, control, _ in found))
        for values in zip(*((control, best) for _, control, best in found), strict=True):
            several = len(values) > 1  # one alone tells nothing of chance
            cells.append(f"{np.mean(values):+.4f}" + (f" ± {np.std(values, ddof=1):.4f}" if several else ""))
            cells.append(f"{stats.ttest_1samp(values, 0.0).pvalue:.2g}" if several else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(data: tuple[str, ...] = tuple(DATA)) -> None:
    """Makes the rows that are missing, then the page.

    Args:
        data: Data sets.
    """
    path = RESULTS / "selections.csv"
    for one in data:
        for seed in range(DATA[one]):  # of carving, training and the points tried
            if not any((row["data"], row["seed"]) == (one, str(seed)) for row in read_rows(path)):
                append_rows(path, COLUMNS, [row | {n: f"{row[n]:.6g}" for n in NUMBERS} for row in measured(one, seed)])
                print(one, seed, flush=True)
                jax.clear_caches()
    (RESULTS / "selections.md").write_text(table(read_rows(path)), encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main)
