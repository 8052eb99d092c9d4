"""The form of a result: one row a question, whose `met` says whether the target was reached.

    rate      more is better      ratio = ours / theirs    met where ratio >= target
    time      less is better      ratio = theirs / ours    met where ratio >= target
    overhead  less is better      ratio = ours / theirs    met where ratio <= target

So a ratio above 1 means that we are faster, but for overheads, which are ours over theirs.
"""

from __future__ import annotations

from typing import Any, Literal

Kind = Literal["rate", "time", "overhead"]
Row = dict[str, Any]
KEYS = ("what", "peer", "ours", "theirs", "unit", "ratio", "target", "met")


class Absent(RuntimeError):
    """Something that a comparison wants is not on this machine; the message says what, and how to get it."""


def row(
    what: str,
    peer: str,
    ours: float | None,
    theirs: float | None,
    unit: str,
    *,
    target: float | None = None,
    kind: Kind = "rate",
    **extra: Any,
) -> Row:
    """A row with the `KEYS`, `kind` and whatever `extra` says (spread, share of a limit, note).

    ratio is None where a side was not measured, and met where there is no ratio or no target.

    >>> row("step", "off", 1.2, 1.0, "ms", target=1.15, kind="overhead")["met"]
    False
    >>> row("epoch", "peer", 1.0, 2.0, "s", target=2.0, kind="time")["met"]
    True
    """
    if kind not in ("rate", "time", "overhead"):
        raise ValueError(f"kind must be rate, time or overhead, got {kind!r}")
    ratio = None
    if ours is not None and theirs is not None:
        above, below = (theirs, ours) if kind == "time" else (ours, theirs)
        ratio = above / below if below > 0 else None  # a difference may come out as nothing, or less
    met = None
    if ratio is not None and target is not None:
        met = ratio <= target if kind == "overhead" else ratio >= target
    measured = {"what": what, "peer": peer, "ours": ours, "theirs": theirs, "unit": unit}
    return measured | {"ratio": ratio, "target": target, "met": met, "kind": kind} | extra


def absent(what: str, peer: str, unit: str, reason: str, *, target: float | None = None, kind: Kind = "rate") -> Row:
    """The row of a comparison that could not be made; it says why."""
    return row(what, peer, None, None, unit, target=target, kind=kind, note=reason)


def check(found: Row) -> Row:
    """The row itself, if it keeps the form; otherwise a ValueError that says what is missing."""
    missing = [key for key in KEYS if key not in found]
    if missing:
        raise ValueError(f"a row must have {', '.join(KEYS)}; {found.get('what')!r} lacks {', '.join(missing)}")
    return found
