"""How much is measured and on what, and how several contenders become rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.contest import Contender, contest, rates, summary
from benchmarks.rows import Absent, Kind, Row, absent, row


class Plan(NamedTuple):
    """What all cases are told."""

    data: str
    work: Path  # a folder for what contenders share
    repeats: int = 7
    quick: bool = False
    limits: dict[str, Any] = {}  # noqa: RUF012  what `machine.limits` read; never written to


class Case(NamedTuple):
    """A question: what answers it, in a line, and whether the quick mode asks it."""

    run: Callable[[Plan], list[Row]]
    says: str
    quick: bool = False


class Side(NamedTuple):
    """One of our contenders in a race, and the row it makes."""

    what: str
    contender: Contender
    target: float | None = None
    against: int = 0  # which of the peer's contenders
    extra: dict[str, Any] = {}  # noqa: RUF012  never written to


class Share(NamedTuple):
    """A limit of the machine, by its name in `machine.limits`, and what a unit of work costs of it (bytes, flops)."""

    limit: str
    cost: float

    def of(self, rate: float, limits: dict[str, Any]) -> float | None:
        """The share of the limit that a rate is."""
        return rate * self.cost / (limits[self.limit] * 1e9) if limits.get(self.limit) else None


def race(
    plan: Plan,
    peer: str,
    ours: Sequence[Side],
    theirs: Sequence[Contender],
    unit: str,
    *,
    share: Share | None = None,
    scale: float = 1.0,
    **extra: Any,
) -> list[Row]:
    """All take turns; a row for each of our sides compares rates (times `scale`) with its peer's.

    Where a peer is absent, or one of ours is, its rows say so and hold no numbers.
    """
    try:
        readings = contest([side.contender for side in ours] + list(theirs), repeats=plan.repeats)
    except Absent as problem:
        return [absent(side.what, peer, unit, str(problem), target=side.target) for side in ours]
    found = []
    for side, mine in zip(ours, readings, strict=False):
        other = readings[len(ours) + side.against]
        values = summary([rate * scale for rate in rates(mine)], [rate * scale for rate in rates(other)])
        if share is not None:
            shares = {name: share.of(values[name] / scale, plan.limits) for name in ("ours", "theirs")}
            values["share"] = {"of": share.limit, **shares}
        values |= {"data": plan.data, "work": {"ours": mine[0]["work"], "theirs": other[0]["work"]}}
        found.append(row(side.what, peer, unit=unit, target=side.target, **values, **extra, **side.extra))
    return found


def overheads(
    plan: Plan, what: str, base: tuple[str, Contender], more: Sequence[Side], unit: str = "ms", per: str = "steps"
) -> list[Row]:
    """Milliseconds a `per` (an entry of the reading) of each side over those of the base, which they should not exceed
    by much."""
    kind: Kind = "overhead"
    name, contender = base
    try:
        readings = contest([contender, *(side.contender for side in more)], repeats=plan.repeats)
    except Absent as problem:
        return [absent(f"{what}: {side.what}", name, unit, str(problem), target=side.target, kind=kind) for side in more]
    cost = [[1e3 * reading["seconds"] / reading[per] for reading in found] for found in readings]
    return [
        row(
            f"{what}: {side.what}", name, unit=unit, target=side.target, kind=kind, data=plan.data,
            **summary(own, cost[0]), **side.extra,
        )
        for side, own in zip(more, cost[1:], strict=True)
    ]
