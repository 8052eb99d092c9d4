"""Tables of the comparison of methods, from rows.csv, chosen.jsonl and the values by user.

    by data and backbone   every method and both rules: mean ± sd over seeds, the best bold, the second best italic
    paired                 ours against each, NDCG@20, chance among users and among seeds (`p_of`), Holm over all
                           methods that are not ours
    trade-off              on validation: hypervolume of each method's front, and its unbiased NDCG at natural losses

"Ours" is the base with one of our arms (`contestants.OURS`) whose chosen candidate has the best unbiased NDCG on
validation, so no test has a say in it.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from experiments.contest import LOSSES, NDCG, RULES, Candidate, best_plain, choices, choose, digest, label_of
from experiments.contestants import BASES, OURS
from jaxrec import metrics
from jaxrec.metrics.stats import standard_error

USERS = "users"  # beside the labels of values by user, the ids of the users
TRADED = (0.01, 0.05, 0.1)  # natural losses of the trade-off
SHOWN = (NDCG, "recall@20", "tail_recall@20", "arp@20", "coverage@20")


def is_ours(name: str) -> bool:
    """Whether a row's name, without a rule, is a base with one of our arms."""
    return "+" in name and name.split("+")[1] in OURS


class ByUser(NamedTuple):
    """NDCG@20 by user, means over seeds."""

    users: dict[str, np.ndarray]  # test -> ids [N]
    values: dict[str, dict[str, np.ndarray]]  # label -> test -> [N]


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
            f"adjustment of a base ({points // 4} where it has one only); {seeds} seeds."
        )

    def chosen(self, name: str, rule: str) -> tuple[Candidate, bool]:
        return choose(self.pools[name], rule, self.reference)

    def ours(self, rule: str, base: str | None = None) -> str:
        """The base, or this base, with one of our arms that validation prefers under a rule."""
        names = [n for n in self.pools if is_ours(n) and base in (None, n.split("+")[0])]

        def value(name: str) -> tuple[bool, float]:
            found, kept = self.chosen(name, rule)
            return kept, found.value("unbiased")

        return max(names, key=value)


def load(results: Path) -> list[Group]:
    """The groups in the order they were run. ValueError for rows of another choice than the one that is kept."""
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
        reference = best_plain(own)
        for line in lines[data, backbone]:
            _check_choices(line, reference, found)
        groups.append(Group(data, backbone, found, own, reference, lines[data, backbone]))
    return groups


def _check_choices(line: Mapping[str, Any], reference: float, labels: Iterable[str]) -> None:
    tested = line.get("tested", {})
    for label, chosen in choices(line, reference).items():
        if label in labels and tested.get(label) != digest(chosen):
            raise ValueError(
                f"{line['data']}, {line['backbone']}: rows of {label} are of another choice than chosen.jsonl's; run "
                f"`python -m experiments.run methods --only {line['data']} --backbone {line['backbone']} "
                f"--methods {line['method']}`"
            )


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
    ranked = sorted(labels, key=lambda label: (not keeps(group, label, rule), -mean_of(group, label, main, NDCG)))
    paired = pairs(group, values, ours, [label for label in ranked if not is_ours(label.split("@")[0])], main)
    heads = [f"{test} {metric}" for test in tests for metric in SHOWN]
    lines = ["| method | " + " | ".join(heads) + " | ours − it | p, Holm |", "|---" * (len(heads) + 3) + "|"]
    keeping = [label for label in ranked if keeps(group, label, rule)]
    for label in ranked:
        cells = []
        for test in tests:
            for metric in SHOWN:
                cells.append(_marked(group, keeping, label, test, metric))
        name = label.split("@")[0]
        shown = f"**{name}** (ours)" if label == ours else name
        pair = paired.get(label)
        cells += ["", ""] if pair is None else [f"{pair[0]:+.4f}", f"{pair[1]:.2g}"]
        lines.append(f"| {shown}{'' if label in keeping else ' †'} | " + " | ".join(cells) + " |")
    return lines


def pairs(
    group: Group, values: Mapping[str, Mapping[str, np.ndarray]], ours: str, others: Iterable[str], test: str
) -> dict[str, tuple[float, float]]:
    """Mean difference ours − other and its p after Holm, by label; those without values by user are left out."""
    if ours not in values:
        return {}
    found = {}
    for label in others:
        if label in values:
            a, b = values[ours][test], values[label][test]
            by_seed = seed_by_seed(*(group.rows[of][test][NDCG] for of in (ours, label)))
            found[label] = (float(np.mean(a - b)), p_of(float(np.mean(a - b)), standard_error(a - b), len(a), by_seed))
    return after_holm(found)


def seed_by_seed(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    """Differences seed by seed, where both have the same number of them; none otherwise."""
    return np.subtract(ours, others).tolist() if len(ours) == len(others) else []


def p_of(difference: float, error: float, users: int, by_seed: Sequence[float]) -> float:
    """The two-sided p of a difference whose chance is of two kinds: among users, whose standard error is given, and
    among seeds, of which there are S ≥ 2, with d_s for each.

    t = d / sqrt(e² + s²), s² = var(d_s) / S, by Student's law with (e² + s²)² / (e⁴ / (U − 1) + s⁴ / (S − 1)) degrees
    of freedom (Welch 1947, doi:10.1093/biomet/34.1-2.28; Satterthwaite 1946, doi:10.2307/3002019). Chance of the one
    choice made on validation is in neither.

    >>> round(p_of(0.02, 0.01, 400, []), 4), round(p_of(0.02, 0.01, 400, [0.02, 0.02]), 4)
    (0.0462, 0.0462)
    >>> round(p_of(0.02, 0.01, 400, [0.01, 0.03]), 3)  # twice the variance, and few degrees of freedom
    0.295
    """
    of_users = error**2
    of_seeds = float(np.var(by_seed, ddof=1)) / len(by_seed) if len(by_seed) > 1 else 0.0
    both = of_users + of_seeds
    if both <= 1e-24:
        return 1.0 if abs(difference) <= 1e-12 else 0.0
    free = both**2 / (of_users**2 / (users - 1) + of_seeds**2 / max(len(by_seed) - 1, 1))
    return float(2 * special.stdtr(free, -abs(difference) / np.sqrt(both)))


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


def gather(group: Group, results: Path, work: Path | None) -> ByUser:
    """NDCG@20 by user. What is in `work` is kept beside rows.csv, next to what earlier runs left there.

    ValueError where the mean by user is not that of the rows.
    """
    kept = results / "per_user" / f"{group.data}.{group.backbone}.npz"
    found: dict[str, Any] = {}
    if kept.exists():
        with np.load(kept, allow_pickle=False) as stored:
            found = {key: stored[key] for key in stored.files}
    folder = None if work is None else work / "per_user" / f"{group.data}.{group.backbone}"
    if folder is not None and folder.is_dir():
        for label, tests in group.rows.items():
            seeds = [np.load(path) for path in sorted(folder.glob(f"{label}.*.npz")) if path.name.count(".") == 2]
            for test in tests:
                if seeds and len(seeds) == len(tests[test][NDCG]):  # of all seeds
                    found[f"{label}|{test}"] = np.mean([s[test] for s in seeds], axis=0).astype(np.float16)
                    found[f"{USERS}|{test}"] = seeds[0][f"{test}.users"]
    users: dict[str, np.ndarray] = {}
    values: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for key, by_user in found.items():
        label, test = key.split("|")
        if label != USERS and label not in group.rows:
            continue  # a choice that is no longer the one, or whose rows are being made again
        if label == USERS:
            users[test] = by_user
            continue
        values[label][test] = by_user.astype(np.float64)
        apart = abs(float(np.mean(values[label][test])) - mean_of(group, label, test, NDCG))
        if apart > 1e-4:  # what rounding to float16 may do
            raise ValueError(
                f"{group.data}, {group.backbone}: {label} is {apart:.4f} apart in {test} NDCG between {kept.name} and "
                "rows.csv; make the rows again, or give --runs the folder that they were made with"
            )
    if folder is not None and folder.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(kept, **found)
    return ByUser(users, dict(values))


def page(groups: list[Group], by_user: list[ByUser]) -> str:
    """The whole page, as Markdown."""
    parts = [
        "# Study: methods",
        "Made by `python -m experiments.run methods` and `python -m experiments.tables methods`; "
        "`experiments/contest.py` says how methods are tuned and chosen. Mean ± sd over seeds (settings are "
        "chosen once). "
        "**Best**, _second best_. † keeps less than 90 % of the best plain base's natural NDCG on validation.",
        "`ours − it` is the difference in NDCG@20 on the first test of the table, paired by user and by seed; p takes "
        "in chance among users and among seeds, and is corrected by Holm's method over all rows that are not ours. It "
        "does not know of the choice, which was made once.",
        "Every trial looks for unbiased NDCG, of a plain base and of spectral tables for natural; "
        "what keeps most of its natural NDCG is then "
        "taken from the epochs and strengths that were tried on the way. Adjustments of a base are tried where its "
        "natural NDCG is best, and refined at losses of 5, 10 and 20 %, so that at 10 % they have been looked for, "
        "where other methods have been found by the way.",
        "## Where ours stands",
        "Ours beside the best of all other methods that keep to the rule, our arms of other bases left out.",
        "\n".join(summary(groups, by_user)),
        "## Each model beside its own count control",
        "One of our arms, as validation chooses it, and the count control of the same model, where both keep to the "
        "rule; the first test, and beside it the natural one. p by Holm's method over this table.",
        "\n".join(controls(groups, by_user)),
    ]
    for group, (_, values) in zip(groups, by_user, strict=True):
        parts += [f"## {group.data}, {group.backbone}", group.budget()]
        for rule, loss in RULES.items():
            kind = "chosen by unbiased NDCG" if loss is None else "chosen by unbiased NDCG at 10 % natural loss"
            parts += [f"### {group.data}, {group.backbone}: {kind}", "\n".join(group_table(group, rule, values))]
        parts += [f"### {group.data}, {group.backbone}: trade-off on validation", "\n".join(tradeoff_table(group))]
    return "\n\n".join(parts) + "\n"


def summary(groups: list[Group], by_user: list[ByUser]) -> list[str]:
    """A line for each group and rule: ours, the best other method that keeps to the rule, the difference. Groups with
    a natural test only are left out: the plain model is first there."""
    lines = ["| data, backbone | rule | test | ours | NDCG@20 | best other | NDCG@20 | difference | p, Holm |"]
    lines.append("|---" * 9 + "|")
    for group, (_, values) in zip(groups, by_user, strict=True):
        for rule in RULES:
            tests = sorted(next(iter(group.rows.values())), reverse=True)
            if not tests[0].startswith("unbiased"):
                continue
            ours = label_of(group.ours(rule), rule)
            others = [label for label in labels_of(group, rule) if not is_ours(label.split("@")[0])]
            keeping = [label for label in others if keeps(group, label, rule)]
            if ours not in group.rows or not keeping:
                continue
            best = max(keeping, key=lambda label: mean_of(group, label, tests[0], NDCG))
            pair = pairs(group, values, ours, others, tests[0]).get(best)
            shown = ["", ""] if pair is None else [f"{pair[0]:+.4f}", f"{pair[1]:.2g}"]
            cells = [f"{group.data}, {group.backbone}", rule, tests[0], ours.split("@")[0]]
            cells += [spread(group.rows[ours][tests[0]][NDCG]), best.split("@")[0]]
            cells += [spread(group.rows[best][tests[0]][NDCG]), *shown]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def controls(groups: list[Group], by_user: list[ByUser]) -> list[str]:
    """A line for each model that was adjusted: ours on it, its count control, the difference, p over all lines."""
    cells: dict[str, list[str]] = {}
    found: dict[str, tuple[float, float]] = {}
    for group, (_, values) in zip(groups, by_user, strict=True):
        tests = sorted(next(iter(group.rows.values())), reverse=True)
        if not tests[0].startswith("unbiased"):
            continue
        for base in dict.fromkeys(name.split("+")[0] for name in group.pools if is_ours(name)):
            for rule in RULES:
                ours = label_of(group.ours(rule, base), rule)
                control = label_of(f"{base}+count_control", rule)
                there = all(label in group.rows and keeps(group, label, rule) for label in (ours, control))
                pair = pairs(group, values, ours, [control], tests[0]).get(control) if there else None
                if pair is None:
                    continue
                key = f"{group.data}, {group.backbone} | {base} | {rule}"
                rows = [group.rows[label] for label in (base, ours, control)]
                shown = [" / ".join(spread(row[test][NDCG]) for test in tests) for row in rows]
                cells[key], found[key] = [ours.split("+")[1].split("@")[0], *shown], pair
    lines = ["| data, backbone | model | rule | ours | plain | ours | count control | difference | p, Holm |"]
    lines.append("|---" * 9 + "|")
    for key, (difference, p) in after_holm(found).items():
        lines.append(f"| {key} | {' | '.join(cells[key])} | {difference:+.4f} | {p:.2g} |")
    return lines


def spread(values: list[float], digits: int = 4) -> str:
    """mean ± sd; one value has no spread.

    >>> spread([0.25, 0.35], 2), spread([0.25], 2)
    ('0.30 ± 0.07', '0.25')
    """
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


def mean_of(group: Group, label: str, test: str, metric: str) -> float:
    return float(np.mean(group.rows[label][test][metric]))


def _marked(group: Group, labels: list[str], label: str, test: str, metric: str) -> str:
    """A cell, bold where it is the best of those labels and italic where it is the second best; popularity of lists has
    no best, and a label that is not among them has no mark."""
    if metric not in group.rows[label][test]:
        return ""
    text = spread(group.rows[label][test][metric], 1 if metric.startswith("arp") else 4)
    if metric.startswith("arp") or label not in labels:
        return text
    order = sorted((mean_of(group, other, test, metric) for other in labels), reverse=True)
    place = order.index(mean_of(group, label, test, metric))
    return f"**{text}**" if place == 0 else f"_{text}_" if place == 1 else text
