"""`python -m benchmarks.compare`: everything side by side, as a table, JSON and a Markdown page."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from benchmarks import inputs, machine, report, suite
from benchmarks.contest import Contender, once
from benchmarks.plan import Plan
from benchmarks.worker import THREADS, accelerator
from jaxrec import files


def compare(
    only: tuple[str, ...] = (),
    *,
    quick: bool = False,
    repeats: int | None = None,
    data: str | None = None,
    figures: Path | None = None,
    after: Callable[[dict[str, Any]], None] = lambda found: None,
) -> dict[str, Any]:
    """Runs the cases and returns `{"machine", "versions", "rows", "cases", "notes", "seconds"}`.

    figures: the folder that pictures are written to, if any.
    after: is given what there is after each case, so that a run that is cut off leaves what it has.
    """
    names = suite.choose(only, quick=quick)
    data = data or inputs.available()
    begun = time.perf_counter()
    limits, problem = ({}, None) if quick and only else _limits()
    rows: list[dict[str, Any]] = []
    machines = machine.describe() | {"limits": limits}

    def so_far(done: Sequence[str]) -> dict[str, Any]:
        notes = [
            f"data: {data}, where a row names no other; at most {plan.repeats} turns each, alternating, after one to "
            f"warm up (memory, cold starts and time to quality: processes or runs of their own, fewer); {where}; D = 64"
        ]
        if problem is not None:
            notes.append(f"the machine's limits could not be measured: {problem}")
        if quick:
            notes.append("quick: fewer turns, shorter work and only rows with a target, so expect noise")
        if left := [name for name in suite.CASES if name not in done]:
            notes.append(f"not run: {', '.join(left)}")
        seconds = round(time.perf_counter() - begun, 1)
        parts = {"rows": rows, "cases": list(done), "notes": notes, "seconds": seconds}
        return {"machine": machines, "versions": machine.versions(), **parts}

    where = "on the device below" if accelerator() else f"{THREADS} threads"
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(data, Path(folder), repeats or (3 if quick else 7), quick, limits, figures=figures)
        for n, name in enumerate(names):
            started = time.perf_counter()
            rows += suite.run(name, plan)
            print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
            after(so_far(names[: n + 1]))
    return so_far(names)


def _limits() -> tuple[dict[str, Any], str | None]:
    """What `machine.limits` reads, or why it does not."""
    try:
        return once(Contender("benchmarks.machine:limits")), None
    except RuntimeError as problem:
        return {}, str(problem)


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

    def keep(results: dict[str, Any]) -> None:
        if out is not None:
            report.save(out, results)
        if page is not None:
            page.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(page, report.markdown(results))

    try:
        figures = next((file.parent for file in (page, out) if file is not None), None)
        results = compare(only, quick=quick, repeats=repeats, data=data, figures=figures, after=keep)
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 2
    report.show(results["rows"])
    for note in results["notes"]:
        print(note)
    return int(any(found.get("failed") for found in results["rows"]))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
