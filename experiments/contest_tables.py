"""Tables of the comparison of methods, from rows.csv, chosen.jsonl and the values by user.

    by data and backbone   every method and both rules: mean ± sd over seeds, the best bold, the second best italic
    paired                 ours against each, NDCG@20 by user (means over seeds), Student's t, Holm over the table
    trade-off              on validation: hypervolume of each method's front, and its unbiased NDCG at natural losses

"Ours" is the base with one of our arms (`contestants.OURS`) whose chosen candidate has the best unbiased NDCG on
validation, so no test has a say in it.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.contest import LOSSES, NDCG, RULES, Candidate, best_plain, choose, label_of
from experiments.contestants import BASES, OURS
from jaxrec import metrics

TRADED = (0.01, 0.05, 0.1)  # natural losses of the trade-off
SHOWN = (NDCG, "recall@20", "tail_recall@20", "arp@20", "coverage@20")


def is_ours(name: str) -> bool:
    """Whether a row's name, without a rule, is a base with one of our arms."""
    return "+" in name and name.split("+")[1] in OURS


class Group(NamedTuple):
    """What is known of one data set and backbone."""

    data: str
    backbone: str
    rows: dict[str, dict[str, dict[str, list[float]]]]  # label -> test -> metric -> values by seed
    pools: dict[str, list[Candidate]]  # row name without a rule -> front
    reference: float  # natural NDCG of the best plain base, on validation
    lines: list[dict[str, Any]]  # of chosen.jsonl, one a contestant

    def budget(self) -> str:
        """How many took part, and what was tried for each."""
        trials, points = max(len(one["trials"]) for one in self.lines), max(one["points"] for one in self.lines)
        seeds = max(len(values) for tests in self.rows.values() for by in tests.values() for values in by.values())
        return (
            f"{len(self.lines)} contestants; for each at most {trials} settings, and {points} strengths for an "
            f"adjustment of a base; {seeds} seeds."
        )

    def chosen(self, name: str, rule: str) -> tuple[Candidate, bool]:
        return choose(self.pools[name], rule, self.reference)

    def ours(self, rule: str) -> str:
        """The base with one of our arms that validation prefers under a rule."""
        names = [n for n in self.pools if is_ours(n)]

        def value(name: str) -> tuple[bool, float]:
            found, kept = self.chosen(name, rule)
            return kept, found.value("unbiased")

        return max(names, key=value)


def load(results: Path) -> list[Group]:
    """The groups in the order they were run."""
    rows: dict[Any, Any] = defaultdict(lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(dict))))
    with (results / "rows.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            at = rows[row["data"], row["backbone"]][row["method"]][row["test"]][row["metric"]]
            at[int(row["seed"])] = float(row["value"])
    pools: dict[Any, dict[str, list[Candidate]]] = defaultdict(dict)
    lines: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for text in (results / "chosen.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        lines[line["data"], line["backbone"]].append(line)
        for name, front in line["candidates"].items():
            pools[line["data"], line["backbone"]][name] = [Candidate(**c) for c in front]
    groups = []
    for (data, backbone), labels in rows.items():
        found = {
            label: {test: {m: [v for _, v in sorted(by.items())] for m, by in ms.items()} for test, ms in tests.items()}
            for label, tests in labels.items()
        }
        own = pools[data, backbone]
        groups.append(Group(data, backbone, found, own, best_plain(own), lines[data, backbone]))
    return groups


def labels_of(group: Group, rule: str) -> list[str]:
    """The rows of a rule's table; a plain base is the same under both rules."""
    if rule == "unbiased":
        return [label for label in group.rows if "@" not in label]
    return [label for label in group.rows if label.endswith(f"@{rule}") or label in BASES]


def keeps(group: Group, label: str, rule: str) -> bool:
    """Whether a row keeps to its rule's natural loss, on validation; always where the rule has none."""
    if LOSSES[rule] is None:
        return True
    return group.chosen(label.split("@")[0], rule)[1]


def group_table(group: Group, rule: str, values: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    """One table: the methods that keep to the rule from the best down, then the others, by NDCG on the first test."""
    labels = labels_of(group, rule)
    tests = sorted(next(iter(group.rows.values())), reverse=True)  # unbiased first
    main = tests[0]
    ours = label_of(group.ours(rule), rule)
    ranked = sorted(labels, key=lambda label: (not keeps(group, label, rule), -_mean(group, label, main, NDCG)))
    paired = pairs(values, ours, [label for label in ranked if label != ours], main)
    heads = [f"{test} {metric}" for test in tests for metric in SHOWN]
    lines = ["| method | " + " | ".join(heads) + " | ours − it | p, Holm |", "|---" * (len(heads) + 3) + "|"]
    for label in ranked:
        cells = []
        for test in tests:
            for metric in SHOWN:
                cells.append(_marked(group, labels, label, test, metric))
        name = label.split("@")[0]
        kept = keeps(group, label, rule)
        shown = f"**{name}** (ours)" if label == ours else name
        pair = paired.get(label)
        cells += ["", ""] if pair is None else [f"{pair[0]:+.4f}", f"{pair[1]:.2g}"]
        lines.append(f"| {shown}{'' if kept else ' †'} | " + " | ".join(cells) + " |")
    return lines


def pairs(
    values: Mapping[str, Mapping[str, np.ndarray]], ours: str, others: Iterable[str], test: str
) -> dict[str, tuple[float, float]]:
    """Mean difference ours − other and its p after Holm, by label; those without values by user are left out."""
    if ours not in values:
        return {}
    found = {}
    for label in others:
        if label in values:
            a, b = values[ours][test], values[label][test]
            found[label] = (float(np.mean(a - b)), metrics.paired_test(a, b))
    return after_holm(found)


def after_holm(found: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Differences and their p, by label, with each p corrected for all of them."""
    adjusted = metrics.holm([p for _, p in found.values()]).tolist() if found else []
    return {label: (d, p) for (label, (d, _)), p in zip(found.items(), adjusted, strict=True)}


def tradeoff_table(group: Group) -> list[str]:
    """Hypervolume over (0, 0) of each front in units of the best plain base's, and unbiased NDCG at natural losses."""
    heads = [f"at {100 * loss:.0f} %" for loss in TRADED]
    lines = ["| method | hypervolume | " + " | ".join(heads) + " | best |", "|---" * (len(heads) + 3) + "|"]
    floor = max(hypervolume(group.pools[name]) for name in BASES if name in group.pools)
    for name in sorted(group.pools, key=lambda n: -hypervolume(group.pools[n])):
        pool = group.pools[name]
        cells = [f"{hypervolume(pool) / floor:.3f}"]
        for loss in TRADED:
            kept = [c.value("unbiased") for c in pool if c.value("natural") >= (1 - loss) * group.reference]
            cells.append(f"{max(kept):.4f}" if kept else "–")
        cells.append(f"{max(c.value('unbiased') for c in pool):.4f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def hypervolume(front: Iterable[Candidate]) -> float:
    """The area of points (natural, unbiased) that some candidate is at least as good as on both.

    >>> make = lambda n, u: Candidate({}, 0, {}, {"natural": {NDCG: n}, "unbiased": {NDCG: u}})
    >>> hypervolume([make(0.2, 0.1), make(0.1, 0.3)])
    0.04
    """
    area, height = 0.0, 0.0
    for c in sorted(front, key=lambda c: -c.value("natural")):
        if c.value("unbiased") > height:
            area += c.value("natural") * (c.value("unbiased") - height)
            height = c.value("unbiased")
    return round(area, 12)


def gather(group: Group, results: Path, work: Path | None) -> dict[str, dict[str, np.ndarray]]:
    """NDCG@20 by user on the first test, means over seeds: label -> test -> [N]. What is in `work` is kept beside
    rows.csv, next to what earlier runs left there."""
    kept = results / "per_user" / f"{group.data}.{group.backbone}.npz"
    found: dict[str, Any] = {}
    if kept.exists():
        with np.load(kept, allow_pickle=False) as stored:
            found = {key: stored[key] for key in stored.files}
    folder = None if work is None else work / "per_user" / f"{group.data}.{group.backbone}"
    if folder is not None and folder.is_dir():
        for label, tests in group.rows.items():
            seeds = [np.load(path) for path in sorted(folder.glob(f"{label}.*.npz")) if path.name.count(".") == 2]
            test = max(tests)  # the unbiased one where there are two, which is what is compared
            if seeds and len(seeds) == len(tests[test][NDCG]):  # of all seeds
                found[f"{label}|{test}"] = np.mean([s[test] for s in seeds], axis=0).astype(np.float16)
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(kept, **found)
    values: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for key, by_user in found.items():
        label, test = key.split("|")
        values[label][test] = by_user.astype(np.float64)
    return dict(values)


def page(groups: list[Group], by_user: list[dict[str, dict[str, np.ndarray]]]) -> str:
    """The whole page, as Markdown."""
    parts = [
        "# Study: methods",
        "Made by `python -m experiments.run methods` and `python -m experiments.tables methods`; "
        "`experiments/contest.py` says how methods are tuned and chosen. Mean ± sd over seeds (settings are "
        "chosen once). "
        "**Best**, _second best_. † keeps less than 90 % of the best plain base's natural NDCG on validation.",
        "`ours − it` is the difference in NDCG@20 on the first test of the table, paired by user; p by Student's t, "
        "corrected by Holm's method over the table.",
        "## Where ours stands",
        "Ours beside the best of all other methods that keep to the rule, our arms of other bases left out.",
        "\n".join(summary(groups, by_user)),
    ]
    for group, values in zip(groups, by_user, strict=True):
        parts += [f"## {group.data}, {group.backbone}", group.budget()]
        for rule, loss in RULES.items():
            kind = "chosen by unbiased NDCG" if loss is None else "chosen by unbiased NDCG at 10 % natural loss"
            parts += [f"### {group.data}, {group.backbone}: {kind}", "\n".join(group_table(group, rule, values))]
        parts += [f"### {group.data}, {group.backbone}: trade-off on validation", "\n".join(tradeoff_table(group))]
    return "\n\n".join(parts) + "\n"


def summary(groups: list[Group], by_user: list[dict[str, dict[str, np.ndarray]]]) -> list[str]:
    """A line for each group and rule: ours, the best other method that keeps to the rule, the difference."""
    lines = ["| data, backbone | rule | test | ours | NDCG@20 | best other | NDCG@20 | difference | p, Holm |"]
    lines.append("|---" * 9 + "|")
    for group, values in zip(groups, by_user, strict=True):
        for rule in RULES:
            tests = sorted(next(iter(group.rows.values())), reverse=True)
            ours = label_of(group.ours(rule), rule)
            others = [
                label
                for label in labels_of(group, rule)
                if keeps(group, label, rule) and not is_ours(label.split("@")[0])
            ]
            if ours not in group.rows or not others:
                continue
            best = max(others, key=lambda label: _mean(group, label, tests[0], NDCG))
            pair = pairs(values, ours, others, tests[0]).get(best)
            shown = ["", ""] if pair is None else [f"{pair[0]:+.4f}", f"{pair[1]:.2g}"]
            cells = [f"{group.data}, {group.backbone}", rule, tests[0], ours.split("@")[0]]
            cells += [spread(group.rows[ours][tests[0]][NDCG]), best.split("@")[0]]
            cells += [spread(group.rows[best][tests[0]][NDCG]), *shown]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def spread(values: list[float], digits: int = 4) -> str:
    """mean ± sd."""
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.{digits}f}"


def _mean(group: Group, label: str, test: str, metric: str) -> float:
    return float(np.mean(group.rows[label][test][metric]))


def _marked(group: Group, labels: list[str], label: str, test: str, metric: str) -> str:
    """A cell, bold where it is the best and italic where it is the second best; popularity of lists has no best."""
    if metric not in group.rows[label][test]:
        return ""
    text = spread(group.rows[label][test][metric], 1 if metric.startswith("arp") else 4)
    if metric.startswith("arp"):
        return text
    order = sorted((_mean(group, other, test, metric) for other in labels), reverse=True)
    place = order.index(_mean(group, label, test, metric))
    return f"**{text}**" if place == 0 else f"_{text}_" if place == 1 else text
