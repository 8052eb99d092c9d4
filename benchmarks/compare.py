"""`python -m benchmarks.compare`: everything side by side, as a table, JSON and a Markdown page."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro

from benchmarks import inputs, machine, report, suite
from benchmarks.contest import Contender, once
from benchmarks.plan import Plan


def compare(
    only: tuple[str, ...] = (),
    *,
    quick: bool = False,
    repeats: int | None = None,
    data: str | None = None,
    figures: Path | None = None,
) -> dict[str, Any]:
    """Runs the cases and returns `{"machine", "versions", "rows", "cases", "notes", "seconds"}`.

    figures: the folder that pictures are written to, if any.
    """
    names = suite.choose(only, quick=quick)
    data = data or inputs.available()
    begun = time.perf_counter()
    limits = {} if quick and only else once(Contender("benchmarks.machine:limits"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(data, Path(folder), repeats or (3 if quick else 7), quick, limits, figures=figures)
        for name in names:
            started = time.perf_counter()
            rows += suite.run(name, plan)
            print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    left = [name for name in suite.CASES if name not in names]
    notes = [f"data: {data}; {plan.repeats} turns each, alternating, after one to warm up; 2 threads; D = 64"]
    if quick:
        notes.append("quick: fewer turns, shorter work and only rows with a target, so expect noise")
    if left:
        notes.append(f"not run: {', '.join(left)}")
    return {
        "machine": machine.describe() | {"limits": limits},
        "versions": machine.versions(),
        "rows": rows,
        "cases": names,
        "notes": notes,
        "seconds": round(time.perf_counter() - begun, 1),
    }


def main(
    only: tuple[str, ...] = (),
    quick: bool = False,
    repeats: int | None = None,
    data: str | None = None,
    out: Path | None = None,
    page: Path | None = None,
) -> int:
    """Compares this library with its peers on this machine.

    Args:
        only: Names of cases; all of them if none is given.
        quick: Two minutes: fewer turns, the quick cases, and of their rows only those with a target.
        repeats: Turns of each contender (7; quick 3).
        data: A registered name, or tail:USERS,ITEMS,PAIRS,SEED; Gowalla, or a synthetic long tail of its size.
        out: Where to write the results as JSON.
        page: Where to write them as Markdown; pictures go beside it.
    """
    try:
        figures = next((file.parent for file in (page, out) if file is not None), None)
        results = compare(only, quick=quick, repeats=repeats, data=data, figures=figures)
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 2
    report.show(results["rows"])
    for note in results["notes"]:
        print(note)
    if out is not None:
        report.save(out, results)
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(report.markdown(results))
    return int(any(found.get("failed") for found in results["rows"]))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
