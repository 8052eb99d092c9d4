"""How much is measured and on what, and how several contenders become rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.contest import PATIENCE, Contender, Outcome, contest, rates, summary
from benchmarks.rows import Kind, Row, absent, row


class Plan(NamedTuple):
    """What all cases are told."""

    data: str
    work: Path  # a folder for what contenders share
    repeats: int = 7
    quick: bool = False
    limits: Mapping[str, Any] = {}  # what `machine.limits` read
    patience: float = PATIENCE  # seconds to wait for a contender's answer
    figures: Path | None = None  # a folder for pictures


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
    cost: float | None = None  # of a unit of work (bytes, flops), where `race` is told a limit


class Share(NamedTuple):
    """A limit of the machine, by its name in `machine.limits`, and what a unit of the peer's work costs of it (bytes,
    flops), if that is known."""

    limit: str
    cost: float | None

    def of(self, rate: float, limits: Mapping[str, Any]) -> float | None:
        """The share of the limit that a rate is."""
        return rate * self.cost / (limits[self.limit] * 1e9) if self.cost and limits.get(self.limit) else None


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

    Where one of the two was absent or failed, the row says so and holds no numbers.
    """
    outcomes = contest([side.contender for side in ours] + list(theirs), repeats=plan.repeats, patience=plan.patience)
    found = []
    for side, mine in zip(ours, outcomes, strict=False):
        other = outcomes[len(ours) + side.against]
        if missing := no_row(side.what, peer, unit, side.target, "rate", mine, other):
            found.append(missing)
            continue
        values = summary(*([rate * scale for rate in rates(one.readings)] for one in (mine, other)))
        if share is not None:
            own = share._replace(cost=side.cost)
            shares = {name: of.of(values[name] / scale, plan.limits) for name, of in (("ours", own), ("theirs", share))}
            if any(shares.values()):
                values["share"] = {"of": share.limit, **shares}
        work = {name: one.readings[0]["work"] for name, one in (("ours", mine), ("theirs", other))}
        values |= {"data": plan.data, "work": work}
        found.append(row(side.what, peer, unit=unit, target=side.target, **values, **extra))
    return found


def overheads(
    plan: Plan, what: str, base: tuple[str, Contender], more: Sequence[Side], unit: str = "ms", per: str = "steps"
) -> list[Row]:
    """Milliseconds a `per` (an entry of the reading) of each side over those of the base."""
    name, contender = base
    outcomes = contest(
        [contender, *(side.contender for side in more)], repeats=plan.repeats, patience=plan.patience
    )
    found = []
    for side, own in zip(more, outcomes[1:], strict=True):
        title = f"{what}: {side.what}"
        if missing := no_row(title, name, unit, side.target, "overhead", own, outcomes[0]):
            found.append(missing)
            continue
        cost = [[1e3 * reading["seconds"] / reading[per] for reading in one.readings] for one in (own, outcomes[0])]
        values = summary(*cost) | {"data": plan.data}
        found.append(row(title, name, unit=unit, target=side.target, kind="overhead", **values))
    return found


def no_row(
    what: str, peer: str, unit: str, target: float | None, kind: Kind, *outcomes: Outcome
) -> Row | None:
    """The row that says what was absent or failed; None where nothing was."""
    for outcome in outcomes:
        if outcome.reason is not None:
            found = absent(what, peer, unit, outcome.reason, target=target, kind=kind)
            return found | ({"failed": True} if outcome.failed else {})
    return None
