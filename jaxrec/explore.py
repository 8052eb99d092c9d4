"""A small grid over an arm's strengths, measured on validation data: what a page with a slider for each strength shows.

Each setting of the grid has the accuracy on every validation part, the popularity of what is recommended, and the
lists of a few users. Tests are not seen here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import rank
from jaxrec.data.interactions import Interactions
from jaxrec.metrics.popularity import group_names, popularity_groups, profile_popularity
from jaxrec.select import Arm, Point, Problem, list_sums
from jaxrec.transforms.adjustment import fold_bias
from jaxrec.types import Array, Tables

GROUPS = ("head", "mid", "tail")
SCORES = 3_000_000_000  # that a grid may take where nobody says how many points it has: seconds on 2 CPU cores


def reach(tried: Sequence[Point]) -> dict[str, float]:
    """The largest of each strength among the tried points that none beats by NDCG on all validation parts."""
    parts = [[values for part in p.metrics.values() for values in part.items()] for p in tried]
    ndcg = np.array([[value for name, value in values if name.startswith("ndcg")] for values in parts])
    beaten = [np.any(np.all(ndcg >= own, axis=1) & np.any(ndcg > own, axis=1)) for own in ndcg]
    best = [p.strengths for p, worse in zip(tried, beaten, strict=True) if not worse]
    return {name: max(strengths[name] for strengths in best) for name in best[0]}


def levels(
    arm: Arm, *, selected: Mapping[str, float], reach: Mapping[str, float] | None = None, most: int = 256
) -> list[list[float]]:
    """The levels of each strength, ascending, their product at most `most` points where two levels each allow that.

    0 is one of them wherever the box holds it, and so is the selected strength, unless it is too near to 0 to be told
    apart. Strengths that start at 0 are spaced by squares, denser near 0, up to 1.5 times their `reach` (the box where
    there is none); these get more levels than those that may be negative, at most 7 against 3.

    >>> arm = Arm(("a", "b"), (0, -1), (9, 1), lambda s: lambda tables, ledger: tables)
    >>> levels(arm, selected={"a": 4.0, "b": 0.0}, most=16)
    [[0.0, 0.5625, 2.25, 4.0, 9.0], [-1.0, 0.0, 1.0]]
    """
    wanted = [7 if low >= 0 else 3 for low in arm.low]
    counts = [2] * len(wanted)
    while True:
        room = [n for n, count in enumerate(counts) if count < wanted[n]]
        room = [n for n in room if np.prod(counts) // counts[n] * (counts[n] + 1) <= most]
        if not room:
            break
        counts[min(room, key=lambda n: (counts[n], -wanted[n], n))] += 1
    far = {} if reach is None else reach
    return [
        _spaced(low, high, min(high, 1.5 * max(far.get(name, high), 0.1 * high)), count, selected.get(name, 0.0))
        for name, low, high, count in zip(arm.names, arm.low, arm.high, counts, strict=True)
    ]


def _spaced(low: float, high: float, top: float, count: int, chosen: float) -> list[float]:
    where = np.linspace(0, 1, count)
    if low == 0:
        found = where**2 * top
    else:
        found = low + where * (high - low)
    zero = int(np.argmin(np.abs(found))) if low <= 0 <= high else -1
    if zero >= 0:
        found[zero] = 0.0
    if zero < 0 or abs(chosen) > 0.02 * max(np.abs(found)):
        # It takes the place of the level next to it, but not of 0, nor of an end where there is a level between.
        others = [n for n in range(count) if n != zero]
        inner = [n for n in others if 0 < n < count - 1 or abs(chosen) >= 0.95 * abs(found[n])]
        found[min(inner or others, key=lambda n: (found[n] * chosen < 0, abs(found[n] - chosen)))] = chosen
    return [_short(value) for value in np.unique(found)]


def grid(
    problem: Problem,
    arm: Arm,
    train: Interactions,
    *,
    selected: Mapping[str, float],
    tried: Sequence[Point] = (),
    item_names: np.ndarray | None = None,
    points: int | None = None,
    users: int = 512,
    listed: int = 4,
    length: int = 10,
) -> dict[str, Any]:
    """Measures every setting of `levels(arm)`, as JSON.

    `problem` holds tables, ledger and validation parts; at most `users` of its users are measured. `train` is what its
    tables were trained on, `item_names` [I] what a person calls the items, `selected` the strengths that selection
    chose among the points that it `tried`, which tell how far the grid reaches. Costs points x users rankings;
    `points` is chosen between 81 and 256 if None.

        strengths   name, levels, and which level is the selected one
        metrics     names of the columns of `values`: natural/ndcg@20, arp@20, ..., head, mid, tail (shares of places)
        values      a row for each setting, the last strength changing fastest; the row of strengths 0 is `plain`
        items       name, popularity and group of the items that occur below
        people      a few users from niche to mainstream: profile and `liked` (validation), as places in `items`
        lists       [setting][user], places in `items`, best first
    """
    few = _few(problem, users, train.num_items)
    if points is None:
        points = min(max(SCORES // (few.users.size * train.num_items), 81), 256)
    chosen_levels = levels(arm, selected=selected, reach=reach(tried) if tried else None, most=points)
    settings = list(product(*chosen_levels))
    run = jax.jit(lambda tables, ledger, s: fold_bias(arm.adjust(s)(tables, ledger)))
    rows = _listed_rows(few.users.ravel(), train, listed)
    group = np.argmax([popularity_groups(train.item_counts)[name] for name in GROUPS], axis=0)
    values: list[list[float]] = []
    lists: list[np.ndarray] = []
    for setting in settings:
        tables = run(problem.tables, problem.ledger, jnp.asarray(setting, jnp.float32))
        ranked, measured = _measure(problem, few, tables, train.item_counts, group)
        values.append([_short(value) for value in measured.values()])
        lists.append(ranked[rows, :length])
    who = few.users.ravel()[rows]
    profiles, liked = _histories(few, train, rows, who, length)
    known, places = _catalogue(train, item_names, [np.stack(lists).ravel(), *profiles, *liked])
    return {
        "k": problem.k,
        "parts": list(problem.parts),
        "users": int(few.users.size),
        "strengths": [
            {"name": name, "levels": found, "selected": _nearest(found, selected.get(name, 0.0))}
            for name, found in zip(arm.names, chosen_levels, strict=True)
        ],
        "metrics": list(measured),
        "values": values,
        "plain": int(np.argmin([np.abs(setting).sum() for setting in settings])),
        "items": known,
        "people": [
            {"user": str(train.user_ids[u]), "profile": places(p), "liked": places(q)}
            for u, p, q in zip(who, profiles, liked, strict=True)
        ],
        "lists": [[places(found) for found in setting] for setting in lists],
    }


class _Few(NamedTuple):
    """Some users of a Problem in blocks of equal size, ordered by activity."""

    users: np.ndarray  # [G, b]
    excluded: np.ndarray  # [G, b, M]
    relevant: tuple[np.ndarray, ...]  # a [G, b, T] each part, padded with -1


def _few(problem: Problem, most: int, num_items: int, block: int = 128) -> _Few:
    """Evenly chosen users, so that all kinds stay; less than a block's number of them is left over."""
    users = np.concatenate(problem.users)
    excluded = _joined(problem.excluded, num_items)
    relevant = [_joined([chunk[p] for chunk in problem.relevant], -1) for p in range(len(problem.parts))]
    real = np.flatnonzero(np.any([np.any(own >= 0, axis=1) for own in relevant], axis=0))  # others are padding
    chosen = real[np.linspace(0, len(real) - 1, min(most, len(real))).astype(int)]
    groups = -(-len(chosen) // block)
    chosen = chosen[: len(chosen) // groups * groups].reshape(groups, -1)
    return _Few(users[chosen], excluded[chosen], tuple(own[chosen] for own in relevant))


def _joined(lists: Sequence[np.ndarray], fill: int) -> np.ndarray:
    """Padded lists of different widths as one array."""
    width = max(part.shape[1] for part in lists)
    padded = [np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=fill) for p in map(np.asarray, lists)]
    return np.concatenate(padded)


@jax.jit(static_argnames="k")
def _rank_and_judge(
    tables: Tables, users: Array, excluded: Array, relevant: tuple[Array, ...], k: int
) -> tuple[Array, Array]:
    """Items [b, k], and `list_sums` of them."""
    items, _ = rank.rank_block(tables, users, excluded, k)
    return items, list_sums(items, relevant, k)


def _measure(
    problem: Problem, few: _Few, tables: Tables, counts: np.ndarray, group: np.ndarray
) -> tuple[np.ndarray, dict[str, float]]:
    """The lists [N, k] of the few users, and their metrics; `group` [I] is the place in GROUPS of each item."""
    found: list[Any] = [None] * len(few.users)

    def run(n: int) -> None:
        relevant = tuple(own[n] for own in few.relevant)
        found[n] = jax.device_get(_rank_and_judge(tables, few.users[n], few.excluded[n], relevant, problem.k))

    rank.run_all(run, range(len(few.users)))
    items = np.concatenate([block[0] for block in found])
    totals: list[list[float]] = np.array([block[1] for block in found], np.float64).sum(axis=0).tolist()
    measured: dict[str, float] = {}
    for part, sums in zip(problem.parts, totals, strict=True):
        measured[f"{part}/recall@{problem.k}"] = sums[0] / max(sums[2], 1)
        measured[f"{part}/ndcg@{problem.k}"] = sums[1] / max(sums[2], 1)
    there = items >= 0
    by_user = np.where(there, counts[items], 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    places = np.bincount(items[there], minlength=len(counts))
    measured[f"arp@{problem.k}"] = by_user.mean()
    measured[f"coverage@{problem.k}"] = np.count_nonzero(places) / len(counts)
    shares = np.bincount(group, places, minlength=len(GROUPS)) / max(places.sum(), 1)
    return items, measured | dict(zip(GROUPS, shares, strict=True))


def _listed_rows(users: np.ndarray, train: Interactions, listed: int) -> np.ndarray:
    """Rows of a few users, from niche to mainstream by the popularity of their profiles."""
    rows = np.flatnonzero(train.user_counts[users] >= min(5, train.user_counts[users].max()))
    rows = rows[np.argsort(profile_popularity(train)[users[rows]], kind="stable")]
    return rows[np.linspace(0, len(rows) - 1, min(listed, len(rows))).astype(int)]


def _histories(
    few: _Few, train: Interactions, rows: np.ndarray, who: np.ndarray, length: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The first items of each profile, and the validation items of all parts."""
    pointers, items = train.csr()
    tested = np.concatenate([own.reshape(few.users.size, -1) for own in few.relevant], axis=1)
    liked = [np.unique(own[own >= 0]) for own in tested[rows]]
    return [items[pointers[u] : pointers[u + 1]][:length] for u in who], liked


def _catalogue(train: Interactions, names: np.ndarray | None, used: Sequence[np.ndarray]) -> tuple[list[Any], Any]:
    """The items that occur, as JSON, and the function from items to places among them."""
    ids = np.unique(np.concatenate(used))
    ids = ids[ids >= 0]
    names = train.item_ids.astype(str) if names is None else names
    group = group_names(train.item_counts)
    known = [{"item": str(names[i]), "popularity": int(train.item_counts[i]), "group": str(group[i])} for i in ids]
    return known, lambda items: np.searchsorted(ids, items[items >= 0]).tolist()


def _nearest(found: Sequence[float], value: float) -> int:
    return int(np.argmin(np.abs(np.asarray(found) - value)))


def _short(value: float) -> float:
    """Five significant digits, which keep the file small."""
    return float(f"{value:.5g}")
