"""How results are shown: a table on the terminal, JSON, and a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import KEYS, Row
from jaxrec import files


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, without an exponent where that is short.

    >>> number(1234.5), number(0.0123), number(None)
    ('1,230', '0.0123', '–')
    """
    if value is None:
        return "–"
    if value != 0 and not 1e-4 <= abs(value) < 1e9:
        return f"{value:.{digits - 1}e}"
    whole = float(f"{value:.{digits}g}")
    return f"{whole:,.0f}" if abs(whole) >= 100 else f"{whole:.{digits}g}"


def cells(found: Row) -> tuple[str, ...]:
    """A row as text, in the order of `KEYS`."""
    met = {True: "yes", False: "no", None: "–"}[found["met"]]
    sign = "≤ " if found.get("kind") == "overhead" else "≥ "
    target = "–" if found["target"] is None else sign + number(found["target"])
    values = [number(found[key]) for key in ("ours", "theirs")]
    return (found["what"], found["peer"], *values, found["unit"], number(found["ratio"]), target, met)


def show(rows: list[Row]) -> None:
    """Prints the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in KEYS:
        table.add_column(heading, justify="right" if heading in ("ours", "theirs", "ratio", "target") else "left")
    for found in rows:
        table.add_row(*cells(found))
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(table)
    for found in rows:
        if found["ratio"] is None and found.get("note"):
            print(f"{found['what']} ({found['peer']}): {found['note']}")


def save(path: Path, results: dict[str, Any]) -> None:
    """Writes `{"machine", "versions", "rows", ...}` as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, results)


def markdown(results: dict[str, Any]) -> str:
    """The page: the table, the machine and its limits, versions, and what was noted of each row."""
    machine = dict(results["machine"])
    limits = machine.pop("limits", {})
    lines = ["# Comparison", "", *_lines(results.get("notes", [])), ""]
    lines += _table(KEYS, [cells(found) for found in results["rows"]])
    lines += ["", "Medians. A ratio above 1 means that we are faster; overheads (target ≤) are ours over theirs.", ""]
    lines += [f"![{found['what']}]({found['figure']})" for found in results["rows"] if found.get("figure")]
    lines += ["## Spread and notes", ""] + _lines([text for found in results["rows"] if (text := detail(found))])
    lines += ["", "## Machine", ""] + _table(("", ""), [(str(k), str(v)) for k, v in machine.items()])
    if limits:
        values = [(name, number(v) if isinstance(v, float) else str(v)) for name, v in limits.items()]
        lines += ["", "Its limits, measured in the same run:", ""] + _table(("", ""), values)
    lines += ["", "## Versions", ""] + _table(("", ""), [(str(k), str(v)) for k, v in results["versions"].items()])
    return "\n".join(lines) + "\n"


def detail(found: Row) -> str:
    """What else is known of a row: middle halves, shares of limits, notes."""
    parts = []
    if spread := found.get("spread"):
        halves = ", ".join(f"{side} {' to '.join(number(v) for v in spread[side])}" for side in spread)
        parts.append(f"middle half of {found['repeats']}: {halves}")
    if share := found.get("share"):
        sides = ", ".join(f"{side} {share[side]:.0%}" for side in ("ours", "theirs") if share.get(side) is not None)
        if sides:
            parts.append(f"share of {share['of'].partition(',')[0]}: {sides}")
    if "lists that agree" in found:
        parts.append(f"lists agree on {found['lists that agree']:.2%}")
    if found.get("note"):
        parts.append(found["note"])
    return f"**{found['what']}** ({found['peer']}): {'; '.join(parts)}" if parts else ""


def _lines(texts: list[str]) -> list[str]:
    return [f"- {text}" for text in texts]


def _table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    safe = [[cell.replace("|", "\\|") for cell in cells_] for cells_ in rows]
    return ["| " + " | ".join(cells_) + " |" for cells_ in (headings, ["---"] * len(headings), *safe)]
