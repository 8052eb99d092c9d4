"""Choosing strengths on validation data: arms, points, the frontier of natural against unbiased accuracy.

    arm        a family of adjustments with strengths in a box
    Problem    tables, ledger and validation parts, prepared once
    frontier   every point that was tried, with its metrics on each validation part
    select     the point that a rule prefers

Each arm gets the same number of points: quasi-random ones over its box, then rounds of refinement near the best
ones. Tests are not seen here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import rank
from jaxrec.data.interactions import Interactions
from jaxrec.ledger import GradientLedger
from jaxrec.metrics.accuracy import is_hit, ndcg_from_hits, recall_from_hits
from jaxrec.transforms import adjustment as adj
from jaxrec.types import Array, Tables

LOSSES = (0.05, 0.1, 0.2)  # shares of the natural metric that a trade-off is looked at


class Arm(NamedTuple):
    """A family of adjustments: `adjust(strengths [S])`, each strength between its `low` and its `high`."""

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    adjust: Callable[[Array], adj.Adjustment]


class Point(NamedTuple):
    """One setting of an arm's strengths, and its metrics `part -> name -> value`."""

    strengths: dict[str, float]
    metrics: dict[str, dict[str, float]]


class Problem(NamedTuple):
    """What strengths are chosen on: blocks of users with their masks and their relevant items of each part."""

    tables: Tables
    ledger: GradientLedger
    parts: tuple[str, ...]
    k: int
    users: list[np.ndarray]  # blocks [b]
    excluded: list[np.ndarray]  # [b, M]
    relevant: list[tuple[np.ndarray, ...]]  # a [b, T] each part, padded with -1


def prepare(
    tables: Tables,
    ledger: GradientLedger,
    train: Interactions,
    valid: Mapping[str, Interactions],
    *,
    k: int = 20,
    max_users: int | None = 8192,
    block: int = 128,
    seed: int = 0,
) -> Problem:
    """Prepares the validation users, at most `max_users` of them drawn at random (None: all)."""
    if not valid:
        raise ValueError("selecting strengths wants validation parts; carve them from the training interactions")
    _, num_items = rank.check_tables(tables)
    if not 1 <= k <= num_items:
        raise ValueError(f"k must be between 1 and the {num_items} items of the catalogue, got {k}; lower k")
    users = np.flatnonzero(np.sum([part.user_counts for part in valid.values()], axis=0) > 0)
    if max_users is not None and len(users) > max_users:
        users = np.random.default_rng(seed).choice(users, max_users, replace=False)
    users = users[np.argsort(train.user_counts[users], kind="stable")].astype(np.int32)
    blocks = [users[i : i + block] for i in range(0, len(users), block)]
    lists = {name: _widest(part, users) for name, part in valid.items()}
    padded, excluded, relevant = [], [], []
    for chosen in blocks:
        fill = np.zeros(block - len(chosen), np.int32)
        rows = np.concatenate([chosen, fill])
        padded.append(rows)
        excluded.append(_width(rank.pad_lists(train, rows, num_items), num_items))
        parts = []
        for name, part in valid.items():
            found = np.full((block, lists[name]), -1, np.int32)
            own = rank.pad_lists(part, chosen)
            found[: len(chosen), : own.shape[1]] = own
            parts.append(found)
        relevant.append(tuple(parts))
    return Problem(tables, ledger, tuple(valid), k, padded, excluded, relevant)


def _widest(part: Interactions, users: np.ndarray) -> int:
    return max(1, int(part.user_counts[users].max(initial=0)))


def _width(lists: np.ndarray, fill: int) -> np.ndarray:
    """Widened to a power of 4, so that few programs are compiled."""
    width = 16
    while width < lists.shape[1]:
        width *= 4
    return np.pad(lists, ((0, 0), (0, width - lists.shape[1])), constant_values=fill)


@jax.jit(static_argnames="k")
def _score_block(
    tables: Tables, users: Array, excluded: Array, relevant: tuple[Array, ...], k: int
) -> list[tuple[Array, Array, Array]]:
    """(Σ recall, Σ ndcg, number of users with relevant items) of a block, a triple for each part."""
    items, _ = rank.rank_block(tables, users, excluded, k)
    sums = []
    for own in relevant:
        count = jnp.sum(own >= 0, axis=1)
        hits = is_hit(items, own)
        some = (count > 0).astype(jnp.float32)
        sums.append(
            (
                jnp.sum(recall_from_hits(hits, count) * some),
                jnp.sum(ndcg_from_hits(hits, count, k) * some),
                jnp.sum(some),
            )
        )
    return sums


def measure(problem: Problem, adjust: Callable[[Tables, GradientLedger], Tables]) -> dict[str, dict[str, float]]:
    """recall@k and ndcg@k of the adjusted tables on each validation part, means over its users."""
    tables = adj.fold_bias(adjust(problem.tables, problem.ledger))
    results: list[np.ndarray] = [np.zeros(0)] * len(problem.users)

    def run(i: int) -> None:
        found = _score_block(tables, problem.users[i], problem.excluded[i], problem.relevant[i], problem.k)
        results[i] = np.array(found, np.float64)

    rank.run_all(run, range(len(problem.users)))
    total = np.sum(results, axis=0)
    return {
        part: {f"recall@{problem.k}": row[0] / max(row[2], 1), f"ndcg@{problem.k}": row[1] / max(row[2], 1)}
        for part, row in zip(problem.parts, total.tolist(), strict=True)
    }


def arms(tables: Tables, ledger: GradientLedger, train: Interactions, *, seed: int = 0) -> dict[str, Arm]:
    """The arms that are compared: the gradients' adjustment, the raw-count control, and TTEN.

    Offsets are added to scores, so their range is in units of the scores' own spread: up to twice what makes a
    standard deviation of log popularity weigh as much as one of the scores within a user.
    """
    unit = score_spread(tables, seed=seed)
    z = adj.mainstream(ledger)
    top = 2.0 * unit / max(_log_spread(np.asarray(ledger.items.pull.size)), 1e-6)
    top_count = 2.0 * unit / max(_log_spread(train.item_counts), 1e-6)
    counts = jnp.asarray(train.item_counts, jnp.float32)

    def gradients(s: Array) -> adj.Adjustment:
        return adj.chain(
            adj.remove_direction(s[0], spread=s[3], z=z),
            adj.rescale_by_gradient(s[1]),
            adj.offset_by_gradient(s[2], spread=s[3], z=z),
        )

    def count(s: Array) -> adj.Adjustment:
        return adj.chain(adj.rescale_by_count(s[0], counts), adj.offset_by_count(s[1], counts))

    return {
        "adjusted": Arm(
            ("direction", "magnitude", "offset", "spread"), (0, 0, 0, -0.5), (2.5, 0.8, top, 1.0), gradients
        ),
        "count_control": Arm(("rescale", "offset"), (0, 0), (0.8, top_count), count),
        "tten": Arm(("power",), (0,), (1.5,), lambda s: adj.tten(s[0])),
    }


def score_spread(tables: Tables, *, users: int = 256, seed: int = 0) -> float:
    """The mean over users of the standard deviation of their scores over all items."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(tables.user.shape[0], min(users, tables.user.shape[0]), replace=False)
    none = jnp.full((len(chosen), 1), tables.item.shape[0])
    return float(jnp.mean(jnp.std(rank.masked_scores(tables, jnp.asarray(chosen), none), axis=1)))


def _log_spread(g: np.ndarray) -> float:
    return float(np.std(np.log(g[g > 0]))) if (g > 0).any() else 0.0


def frontier(problem: Problem, arm: Arm, *, budget: int = 96, rounds: int = 4, seed: int = 0) -> list[Point]:
    """Tries `budget` points of the arm, the first being strength 0: a third over the box, the rest in `rounds` of ever
    smaller changes to the best points at each natural loss of `LOSSES` and without a limit.

    Strengths that start at 0 are spaced by squares, denser near 0.
    """
    from scipy.stats import qmc

    if budget < 1 or rounds < 0:
        raise ValueError(f"budget must be at least 1 and rounds at least 0, got {budget} and {rounds}")
    low, high = np.array(arm.low, np.float64), np.array(arm.high, np.float64)
    first = budget if rounds == 0 else -(-budget // 3)
    box = qmc.Sobol(len(low), seed=seed).random(2 ** int(np.ceil(np.log2(max(first, 2)))))[: first - 1]
    start = np.clip((0 - low) / np.where(high > low, high - low, 1.0), 0, 1)
    run = jax.jit(lambda tables, ledger, s: adj.fold_bias(arm.adjust(s)(tables, ledger)))

    def evaluate(where: np.ndarray) -> Point:
        s = low + np.where(low == 0, where**2, where) * (high - low)
        metrics = measure(problem, lambda tables, ledger: run(tables, ledger, jnp.asarray(s, jnp.float32)))
        return Point(dict(zip(arm.names, s.tolist(), strict=True)), metrics)

    tried = [start, *box]
    points = [evaluate(where) for where in tried]
    rng = np.random.default_rng(seed)
    for turn in range(rounds):
        parents = np.array([tried[points.index(point)] for point in _elite(points, problem.k)])
        left = (budget - len(points)) // (rounds - turn)
        parents = parents[np.arange(left) % len(parents)]
        fresh = np.clip(parents + rng.normal(0, 0.2 / 1.6**turn, parents.shape), 0, 1)
        tried += list(fresh)
        points += [evaluate(where) for where in fresh]
    return points


def _elite(points: Sequence[Point], k: int) -> list[Point]:
    """The best points at each of `LOSSES` allowed and without a limit, by the first part that is not natural."""
    parts = list(points[0].metrics)
    part = next((name for name in parts if name != "natural"), parts[0])
    limits: list[float | None] = [None] if "natural" not in parts else [*LOSSES, None]
    return [select(points, metric=f"ndcg@{k}", part=part, max_loss=limit) for limit in limits]


def select(
    points: Sequence[Point],
    *,
    metric: str = "ndcg@20",
    part: str = "unbiased",
    max_loss: float | None = None,
    against: str = "natural",
) -> Point:
    """The point with the best `metric` on `part`; with `max_loss`, among those that lose at most that share of the
    same metric on `against`, compared with the first point (strength 0).

    >>> points = [Point({"a": a}, {"natural": {"m": 1 - a}, "unbiased": {"m": a}}) for a in (0.0, 0.04, 0.5)]
    >>> select(points, metric="m").strengths, select(points, metric="m", max_loss=0.05).strengths
    ({'a': 0.5}, {'a': 0.04})
    """
    if not points:
        raise ValueError("there are no points to select from")
    for name in (part,) if max_loss is None else (part, against):
        if metric not in points[0].metrics.get(name, {}):
            raise ValueError(f"no {metric!r} was measured on {name!r}; there is {points[0].metrics}")
    if max_loss is None:
        allowed = list(points)
    else:
        floor = (1 - max_loss) * points[0].metrics[against][metric]
        allowed = [p for p in points if p.metrics[against][metric] >= floor]
    return max(allowed, key=lambda p: p.metrics[part][metric])
