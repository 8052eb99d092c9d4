"""Tables of a study, `python -m experiments.tables main`: mean ± sd over seeds, from the files beside this one."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import tyro

from experiments import contest_tables, equal
from experiments.contest_tables import spread
from experiments.run import RESULTS

ARMS = ("plain", "adjusted", "count_control", "tten")
METRICS = ("recall@20", "ndcg@20", "head_recall@20", "tail_recall@20", "arp@20", "coverage@20", "gini@20")


def load(study: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The kept runs of a study, by data set and preset, in the order of seeds."""
    found = defaultdict(list)
    for path in sorted((RESULTS / study).glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        found[run["data"], run["model"]].append(run)
    if not found:
        raise SystemExit(f"no results of study {study!r}; python -m experiments.run {study} makes them")
    return dict(found)


def p_range(values: list[float]) -> str:
    """The range of p over seeds; seeds share users, so they are not combined."""
    low, high = min(values), max(values)
    return f"{low:.2g}" if low == high else f"{low:.2g} to {high:.2g}"


def tests_table(runs: dict[tuple[str, str], list[dict[str, Any]]]) -> list[str]:
    lines = ["| data, preset (seeds) | test | arm | " + " | ".join(METRICS) + " |", "|---" * (3 + len(METRICS)) + "|"]
    for (data, preset), group in runs.items():
        for test in group[0]["tests"]:
            for arm in ARMS:
                cells = []
                for name in METRICS:
                    values = [r["tests"][test][arm].get(name) for r in group]
                    digits = 1 if name.startswith("arp") else 4
                    cells.append("" if None in values else spread(values, digits))
                lines.append(f"| {data}, {preset} ({len(group)}) | {test} | {arm} | " + " | ".join(cells) + " |")
    return lines


def comparisons_table(runs: dict[tuple[str, str], list[dict[str, Any]]]) -> list[str]:
    lines = ["| data, preset | test | pair | ndcg@20 difference | paired p, by seed |", "|---|---|---|---|---|"]
    for (data, preset), group in runs.items():
        for test, pairs in group[0]["comparisons"].items():
            for pair in pairs:
                found = [r["comparisons"][test][pair]["ndcg@20"] for r in group]
                difference = spread([c["difference"] for c in found], 5)
                p = p_range([c["p"] for c in found])
                lines.append(f"| {data}, {preset} | {test} | {pair} | {difference} | {p} |")
    return lines


def tradeoff_table(runs: dict[tuple[str, str], list[dict[str, Any]]]) -> list[str]:
    lines = [
        "| data, preset | natural loss allowed | test | adjusted | count control | difference | paired p |",
        "|---|---|---|---|---|---|---|",
    ]
    for (data, preset), group in runs.items():
        for n, row in enumerate(group[0]["tradeoff"]):
            for test in row["adjusted - count_control"]:
                rows = [r["tradeoff"][n] for r in group]
                arms = [
                    spread([x["arms"][arm]["tests"][test]["ndcg@20"] for x in rows])
                    for arm in ("adjusted", "count_control")
                ]
                found = [x["adjusted - count_control"][test] for x in rows]
                lines.append(
                    f"| {data}, {preset} | {100 * row['max_loss']:.0f} % | {test} | {arms[0]} | {arms[1]} | "
                    f"{spread([c['difference'] for c in found], 5)} | {p_range([c['p'] for c in found])} |"
                )
    return lines


def claims_table(runs: dict[tuple[str, str], list[dict[str, Any]]]) -> list[str]:
    names = ("alignment", "gradient_alignment", "magnitude", "magnitude_per_event", "ratio")
    lines = ["| data, preset | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for (data, preset), group in runs.items():
        cells = [spread([r["claims"][name]["spearman"] for r in group], 3) for name in names]
        lines.append(f"| {data}, {preset} | " + " | ".join(cells) + " |")
    return lines


def main(study: tyro.conf.Positional[str] = "main", runs: Path = Path("runs")) -> None:
    """Writes results/STUDY.md, and results/equal.md beside methods.md.

    Args:
        study: Its name.
        runs: Where `experiments.run` put its RUN folders; values by user are read there, if it is there.
    """
    texts = {study: _page(study)} if study != "methods" else contest_pages(RESULTS, runs / study)
    for name, text in texts.items():
        target: Path = RESULTS / f"{name}.md"
        target.write_text(text, encoding="utf-8")
        print(target)


def contest_pages(results: Path, work: Path | None) -> dict[str, str]:
    """The pages of the comparison of methods."""
    groups = contest_tables.load(results)
    by_user = [contest_tables.gather(group, results, work) for group in groups]
    return {"methods": contest_tables.page(groups, by_user), "equal": equal.page(groups, by_user)}


def _page(study: str) -> str:
    runs = load(study)
    parts = [
        f"# Study: {study}",
        f"Made by `python -m experiments.run {study}` and `python -m experiments.tables {study}`.",
        "Mean ± sd over seeds.",
        "## Tests",
        "\n".join(tests_table(runs)),
        "## Differences in NDCG@20, paired over users",
        "\n".join(comparisons_table(runs)),
        "## The trade-off, strengths chosen on validation",
        "\n".join(tradeoff_table(runs)),
        "## The claims: Spearman's correlation with popularity",
        "\n".join(claims_table(runs)),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    tyro.cli(main)
