"""Several runs on one page: tests side by side, frontiers overlaid, and the settings that differ."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.report import figures
from jaxrec.report.markup import ARMS, document, escape, section, table
from jaxrec.report.page import Run, accuracy_table, metric_cut, read


def write_comparison(runs: Sequence[Path | str], out: Path | str | None = None) -> Path:
    """Writes a page that compares runs and returns its path: `out`, or compare.html beside the first run.

    Frontiers are drawn as NDCG where all runs are of one data set, and in percent of each run's plain model otherwise.
    ValueError for fewer than two runs.
    """
    folders = [Path(run) for run in runs]
    if len(folders) < 2:
        raise ValueError(f"comparing wants at least two runs, got {len(folders)}")
    target = folders[0].resolve().parent / "compare.html" if out is None else Path(out)
    found = {name: read(folder) for name, folder in zip(_names(folders), folders, strict=True)}
    links = [
        f'<a href="{escape(os.path.relpath(folder / "report.html", target.parent))}">{escape(name)}</a>'
        for name, folder in zip(found, folders, strict=True)
        if (folder / "report.html").exists()
    ]
    parts = [
        f"<header><h1>{len(found)} runs compared</h1><p>{', '.join(links)}</p></header>",
        section("tests", "The tests side by side", *_tests(found)),
        section("frontiers", "The frontiers", _frontiers(found)),
        section("differences", "What differs", _differences(found)),
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(document("jaxrec: " + ", ".join(found), "\n".join(filter(None, parts))), encoding="utf-8")
    return target


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart; a number where a run is given twice."""
    paths = [folder.resolve().parts for folder in folders]
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
