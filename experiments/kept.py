"""The files that the comparison keeps, which several processes may read and write at once.

    rows.csv       data,backbone,method,seed,test,metric,value
    chosen.jsonl   what was tried and chosen, one line a contestant
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec import files

COLUMNS = ("data", "backbone", "method", "seed", "test", "metric", "value")


class Kept(NamedTuple):
    """What is kept of one data set and backbone in the folder `results`."""

    results: Path
    data: str
    backbone: str

    @property
    def rows(self) -> Path:
        return self.results / "rows.csv"

    @property
    def lines(self) -> Path:
        return self.results / "chosen.jsonl"

    def line(self, method: str) -> dict[str, Any] | None:
        """The line of a contestant, if it is tuned."""
        return self._of(self.lines.read_text(encoding="utf-8").splitlines(), method) if self.lines.exists() else None

    def note(self, line: Mapping[str, Any]) -> None:
        """Adds the line of a contestant, but where another process has tuned it meanwhile."""
        rewrite(self.lines, lambda there: there if self._of(there, line["method"]) else [*there, json.dumps(line)])

    def replace(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        """Puts a line in the place of another one."""
        rewrite(self.lines, lambda there: [json.dumps(new) if json.loads(text) == old else text for text in there])

    def done(self) -> set[tuple[str, int]]:
        """(method, seed) that have rows."""
        if not self.rows.exists():
            return set()
        with self.rows.open(encoding="utf-8", newline="") as file:
            return {
                (row["method"], int(row["seed"]))
                for row in csv.DictReader(file)
                if (row["data"], row["backbone"]) == self[1:]
            }

    def add(self, method: str, seed: int, values: Iterable[tuple[str, str, float]]) -> None:
        """Adds rows of (test, metric, value)."""
        start = f"{self.data},{self.backbone},{method},{seed}"
        append(self.rows, [f"{start},{test},{metric},{v:.6g}" for test, metric, v in values], first=",".join(COLUMNS))

    def drop(self, methods: Iterable[str]) -> None:
        """Takes the rows of these methods out."""
        starts = tuple(f"{self.data},{self.backbone},{method}," for method in methods)
        if self.rows.exists():
            rewrite(self.rows, lambda there: [text for text in there if not text.startswith(starts)])

    def _of(self, lines: Iterable[str], method: str) -> dict[str, Any] | None:
        for text in lines:
            line: dict[str, Any] = json.loads(text)
            if (line["data"], line["backbone"], line["method"]) == (*self[1:], method):
                return line
        return None


def append(path: Path, lines: Iterable[str], first: str | None = None) -> None:
    """Adds lines to a file; one that another process wrote already, once."""
    head = [] if first is None else [first]
    rewrite(path, lambda there: list(dict.fromkeys([*(there or head), *lines])))


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Adds rows to a table at once, so that all of them are there or none."""
    out = io.StringIO()
    csv.DictWriter(out, columns, lineterminator="\n").writerows(rows)
    append(path, out.getvalue().splitlines(), first=",".join(columns))


def rewrite(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Changes the lines of a file that several processes may write to: one at a time, and put in place whole, so that
    who reads it sees what was there before or all that is there now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        there = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        files.write_text(path, "".join(f"{line}\n" for line in change(there)))
    finally:
        os.close(folder)  # and the lock with it
