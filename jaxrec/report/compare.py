"""Several runs on one page: tests side by side and paired, frontiers overlaid, and the settings that differ."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec import files, metrics
from jaxrec.report import figures
from jaxrec.report.markup import ARMS, arm_name, chance, document, escape, section, signed, table
from jaxrec.report.page import Run, accuracy_table, metric_cut, read
from jaxrec.report.words import cut_off
from jaxrec.runs import PerUser, load_per_user, read_metrics


class Pair(NamedTuple):
    """One arm of a run less the same arm of the first run, over the users of a test."""

    test: str
    run: str
    arm: str
    metric: str
    found: metrics.Comparison
    holm: float  # p after Holm's correction over all rows

    @property
    def difference(self) -> str:
        """The mean difference with its 95 % interval."""
        mean, low, high = (signed(value, 4) for value in self.found[:3])
        return f"{mean} [{low}, {high}]"


class Paired(NamedTuple):
    """Each later run against the first, and a sentence on each pair that cannot be made."""

    first: str
    rows: list[Pair]
    notes: list[str]


def paired(runs: Sequence[Path | str]) -> Paired:
    """Each later run against the first, user by user, on the tests that both have: recall and NDCG, plain and adjusted.

    The cut-off is that of the tables. Runs are paired where they are of the same data, and in tests of the same pairs
    and users.
    """
    folders = [Path(run) for run in runs]
    first, *others = run_names(runs)
    found = [read_metrics(folder) for folder in folders]
    users = [load_per_user(folder) for folder in folders]
    rows: list[Pair] = []
    notes = []
    for name, its, by_test in zip(others, found[1:], users[1:], strict=True):
        both = [users[0].keys(), by_test.keys(), found[0].get("tests", {}), its.get("tests", {})]
        tests = [test for test in users[0] if all(test in known for known in both)]
        if not tests:
            notes.append(f"{name} and {first} have no test in common whose users' metrics were kept.")
        elif not _same_data(its, found[0]):
            notes.append(f"{name} and {first} are of different data, so they are not paired.")
            continue
        for test in tests:
            one, other = by_test[test], users[0][test]
            if not _same(its.get("test_fingerprints", {}), found[0].get("test_fingerprints", {}), test):
                notes.append(f"{name} and {first} hold other pairs in the test {test!r}, so it is not paired.")
            elif np.array_equal(np.sort(one.user_ids), np.sort(other.user_ids)):
                arms = {name: its["tests"][test]["plain"], first: found[0]["tests"][test]["plain"]}
                rows += _pairs(test, name, one, other, cut_off(arms, metric_cut(found[0])))
            else:
                notes.append(f"{name} and {first} ranked different users in the test {test!r}, so it is not paired.")
    corrected = metrics.holm([row.found.p for row in rows])
    return Paired(first, [row._replace(holm=float(p)) for row, p in zip(rows, corrected, strict=True)], notes)


def _same_data(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """By the fingerprint of what they were trained on."""
    return bool(a.get("fingerprint") == b.get("fingerprint"))


def _same(a: dict[str, str], b: dict[str, str], test: str) -> bool:
    """Whether two runs have the same pairs in a test, as far as both tell."""
    return test not in a or test not in b or a[test] == b[test]


def _pairs(test: str, run: str, one: PerUser, other: PerUser, k: int) -> list[Pair]:
    order, its_order = (np.argsort(side.user_ids) for side in (one, other))
    return [
        Pair(test, run, arm, name, metrics.compare(one.arms[arm][name][order], other.arms[arm][name][its_order]), 1.0)
        for arm in ("plain", "adjusted")
        for name in (f"recall@{k}", f"ndcg@{k}")
        if all(name in side.arms.get(arm, {}) for side in (one, other))
    ]


def want_page(out: Path, runs: Sequence[Path]) -> None:
    """ValueError where a page can't be written, or would be put in the place of a file of these runs."""
    if out.is_dir():
        raise ValueError(f"{out} is a folder; name a file, like {out / 'compare.html'}")
    files.want_folder(out.parent)
    files.want_another(out, *(file for run in runs for file in run.iterdir()))


def write_comparison(runs: Sequence[Path | str], out: Path | str | None = None) -> Path:
    """Writes a page that compares runs and returns its path: `out`, or compare.html beside the first run.

    Frontiers are drawn as NDCG where all runs are of one data set, and in percent of each run's plain model otherwise.
    ValueError for fewer than two runs, and for an `out` that is a folder or a file of one of them.
    """
    folders = [Path(run) for run in runs]
    if len(folders) < 2:
        raise ValueError(f"comparing wants at least two runs, got {len(folders)}")
    target = folders[0].resolve().parent / "compare.html" if out is None else Path(out)
    want_page(target, folders)
    found = {name: read(folder) for name, folder in zip(run_names(runs), folders, strict=True)}
    links = [
        f'<a href="{escape(os.path.relpath(folder / "report.html", target.parent))}">{escape(name)}</a>'
        for name, folder in zip(found, folders, strict=True)
        if (folder / "report.html").exists()
    ]
    parts = [
        f"<header><h1>{len(found)} runs compared</h1><p>{', '.join(links)}</p></header>",
        section("tests", "The tests side by side", *_tests(found)),
        section("paired", "Against the first run, user by user", *_paired(paired(folders))),
        section("frontiers", "The frontiers", _frontiers(found)),
        section("differences", "What differs", _differences(found)),
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(target, document("jaxrec: " + ", ".join(found), "\n".join(filter(None, parts))))
    return target


def run_names(runs: Sequence[Path | str]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart; a number where a run is given twice."""
    paths = [Path(run).resolve().parts for run in runs]
    for depth in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-depth:]) for parts in paths]
        if len(set(names)) == len(set(paths)):
            break
    return [name if names.index(name) == n else f"{name} ({n + 1})" for n, name in enumerate(names)]


def _tests(found: dict[str, Run]) -> list[str]:
    """One table a test, or a test and a data set where these differ."""
    tests: dict[str, dict[str, dict[str, float]]] = {}
    wanted = metric_cut(next(iter(found.values())).found)
    several = len({run.found.get("data") for run in found.values()}) > 1
    for name, run in found.items():
        for test, arms in run.tests.items():
            title = f"{run.found.get('data')}, {test}" if several else test
            labels = {f"{name}: {ARMS.get(arm, arm)}": values for arm, values in arms.items()}
            tests.setdefault(title, {}).update(labels)
    return [accuracy_table(test, arms, wanted) for test, arms in tests.items()]


def _paired(found: Paired) -> list[str]:
    """Every pair as a row, and what could not be paired."""
    parts = [f"<p>{escape(note)}</p>" for note in found.notes]
    rows = [
        [
            f"{escape(f'{row.test}: {row.run} − {found.first}')}, {arm_name(row.arm)}, {escape(row.metric)}",
            row.difference,
            chance(row.found.p),
            chance(row.holm),
        ]
        for row in found.rows
    ]
    if rows:
        header = ["", "difference, 95 % interval", "paired p", f"after Holm’s correction over {len(rows)} rows"]
        parts.append(table(header, rows, label="paired differences between the runs"))
    return parts


def _frontiers(found: dict[str, Run]) -> str:
    """Every run's adjustment and count control, natural against unbiased NDCG on validation."""
    drawn = {
        name: {arm: _points(tried) for arm, tried in run.frontier.items() if arm in ("adjusted", "count_control")}
        for name, run in found.items()
        if run.frontier and all({"natural", "unbiased"} <= set(tried[0]["metrics"]) for tried in run.frontier.values())
    }
    if not drawn:
        return ""
    absolute = len({found[name].found.get("data") for name in drawn}) == 1

    def draw(axes: list[Any]) -> None:
        for n, (name, arms) in enumerate(drawn.items()):
            for arm, xy in arms.items():
                front = figures.pareto(xy if absolute else 100 * (xy / np.maximum(xy[0], 1e-12) - 1))
                style = {"color": figures.SERIES[n % 6], "linestyle": figures.LINES[arm]}
                label = f"\u200b{name}, {arm.replace('_', ' ')}".replace("$", r"\$")  # a first _ would leave it out
                axes[0].plot(*front.T, marker="os^Dv"[n % 5], ms=5, label=label, **style)
        unit = "NDCG" if absolute else "NDCG, change in %"
        axes[0].set(xlabel=f"natural {unit}", ylabel=f"unbiased {unit}")
        axes[0].legend(frameon=False, fontsize=8)

    against = "" if absolute else ", against each run’s plain model"
    caption = f"The best of the settings tried, on validation{against}; solid: by gradients, dashed: by counts"
    return figures.figures(draw, caption, width=6.4, height=4.2)


def _points(tried: list[dict[str, Any]]) -> np.ndarray:
    name = next(n for n in tried[0]["metrics"]["natural"] if n.startswith("ndcg"))
    return np.array([[p["metrics"][part][name] for part in ("natural", "unbiased")] for p in tried])


def _differences(found: dict[str, Run]) -> str:
    rows = []
    described = {name: _described(run.found) for name, run in found.items()}
    for key in dict.fromkeys(key for values in described.values() for key in values):
        cells = [values.get(key, "–") for values in described.values()]
        if len(set(cells)) > 1:
            rows.append([escape(key), *(escape(cell) for cell in cells)])
    if not rows:
        return "<p>Nothing: data, settings, selection and versions are the same.</p>"
    return table(["", *map(escape, found)], rows, label="what differs between the runs")


def _described(found: dict[str, Any]) -> dict[str, str]:
    """Everything that may differ, flat."""
    flat: dict[str, str] = {name: str(found[name]) for name in ("data", "model", "seed", "best_epoch") if name in found}
    for group, digits in (("settings", None), ("selected", 3), ("versions", None)):
        for name, value in (found.get(group) or {}).items():
            text = f"{value:.{digits}g}" if digits and isinstance(value, float) else str(value)
            flat[name if group == "settings" else f"{group} {name}"] = text
    if found.get("seconds"):
        flat["seconds in all"] = f"{sum(found['seconds'].values()):.0f}"
    return flat
