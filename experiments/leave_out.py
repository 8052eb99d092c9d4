"""What it costs to have no validation pairs: `python -m experiments.leave_out`, after `experiments.correct_others`.

The models of that study that were trained on all of train are corrected with strengths selected on pairs that they have
seen, with the tables as they are ("none") and with those pairs taken out by an estimate ("estimate"). Both stand beside
the honest way of that study, in which the library trains without the validation pairs first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import tyro

from experiments import correct_others as study
from experiments.run import RESULTS
from jaxrec import correct, files, pipeline, runs
from jaxrec.data import registry

WAYS: tuple[Literal["none", "estimate"], ...] = ("none", "estimate")
JOBS = (("ml-100k", "implicit-als"), ("ml-100k", "cornac-bpr"), ("gowalla-macr", "implicit-als"))


def main(runs_folder: Path = Path("runs/correct_others")) -> None:
    """Writes results/leave_out.json and results/leave_out.md.

    Args:
        runs_folder: Where `experiments.correct_others` keeps its models.
    """
    target = RESULTS / "leave_out.json"
    found: dict[str, Any] = runs.read_json(target) if target.exists() else {}
    for data, name in JOBS:
        key = f"{data}, {name}"
        path = RESULTS / "correct_others" / f"{data}.{name}.json"
        if key not in found and path.exists():
            found[key] = _job(data, runs.read_json(path), runs_folder / f"{data}.{name}")
            files.write_json(target, found)
    target.with_suffix(".md").write_text("\n\n".join(_table(found)) + "\n", encoding="utf-8")
    print(target.with_suffix(".md"))


def _job(data: str, honest: dict[str, Any], folder: Path) -> dict[str, Any]:
    split = registry.load(data).split
    best = [row["settings"] for row in honest["settings_tried"]].index(honest["settings"])
    two = study.load(folder / f"all.{best}.npz")
    rows: dict[str, Any] = {
        "trained without": {
            "strengths": honest["strengths"]["adjusted, unbiased"],
            "validation": {arm: _ndcg(honest["validation"][arm]) for arm in ("plain", "adjusted, unbiased")},
            "tests": {t: arms["adjusted, unbiased"] for t, arms in honest["tests"].items()},
        }
    }
    points = study.POINTS["adjusted"]
    for way in WAYS:
        made = correct.adjust(two, split.train, leave_out=way, budget=points, select_users=study.USERS)
        tests = pipeline.evaluate(made.tables, split, ks=[20])
        rows[way] = {
            "strengths": made.strengths,
            "validation": {
                "plain": _ndcg(made.frontier["adjusted"][0].metrics),
                "adjusted, unbiased": _ndcg(made.selected["adjusted"].metrics),
            },
            "tests": {t: study.kept(e) for t, e in tests.items()},
        }
        print(data, way, rows[way], flush=True)
    plain = {t: arms["plain"] for t, arms in honest["tests"].items()}
    return {"plain": plain, "ways": rows}


def _ndcg(parts: dict[str, dict[str, float]]) -> dict[str, float]:
    return {part: round(values["ndcg@20"], 5) for part, values in parts.items()}


def _table(found: dict[str, Any]) -> list[str]:
    lines = [
        "| data, model | validation pairs | natural NDCG@20 on validation, plain | unbiased, plain → adjusted | "
        "test recall@20, natural | unbiased | strengths |",
        "|---" * 7 + "|",
    ]
    for key, job in found.items():
        lines.append(f"| {key} | not corrected | | | {_recalls(job['plain'])} | |")
        for way, row in job["ways"].items():
            before, after = (row["validation"][arm] for arm in ("plain", "adjusted, unbiased"))
            strengths = ", ".join(f"{name} {value:.2g}" for name, value in row["strengths"].items())
            lines.append(
                f"| {key} | {way} | {before['natural']:.4f} | {before['unbiased']:.4f} → {after['unbiased']:.4f} | "
                f"{_recalls(row['tests'])} | {strengths} |"
            )
    return [
        "# What it costs to have no validation pairs",
        "Made by `python -m experiments.leave_out`. *trained without*: the model was trained anew without the "
        "validation pairs, the only honest figures on validation; *none*: it has seen them; *estimate*: it has, and "
        "`correct.leave_out` took them out of its tables.",
        "\n".join(lines),
    ]


def _recalls(tests: dict[str, dict[str, float]]) -> str:
    return " | ".join(f"{tests[test]['recall@20']:.4f}" if test in tests else "–" for test in ("natural", "unbiased"))


if __name__ == "__main__":
    tyro.cli(main)
