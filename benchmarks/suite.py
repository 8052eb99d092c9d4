"""Everything that can be compared, by name."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from difflib import get_close_matches

from benchmarks import cold, memory, quality, ranking, scaling, training
from benchmarks.plan import Case, Plan
from benchmarks.rows import Row, check, row

CASES: dict[str, Case] = {
    **training.CASES,
    **ranking.CASES,
    **memory.CASES,
    **cold.CASES,
    **scaling.CASES,
    **quality.CASES,
}


def choose(only: Sequence[str], *, quick: bool) -> list[str]:
    """The names asked for, or all (with `quick` those that are quick). ValueError for an unknown name."""
    for name in only:
        if name not in CASES:
            near = get_close_matches(name, CASES, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"{name!r} is no case; {hint}there are {', '.join(CASES)}")
    return list(only) or [name for name, case in CASES.items() if case.quick or not quick]


def run(name: str, plan: Plan) -> list[Row]:
    """A case's rows. One that fails gives a row that says so, so that the others are not lost."""
    try:
        rows = CASES[name].run(plan)
    except Exception as problem:
        traceback.print_exc()
        rows = [row(CASES[name].says, name, None, None, "", note=f"failed: {problem}", failed=True)]
    return [check(found) | {"case": name} for found in rows]
