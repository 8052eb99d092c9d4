"""Choosing strengths on validation data: arms, points, the frontier of natural against unbiased accuracy.

    arm        a family of adjustments with strengths in a box
    Problem    tables, ledger and validation parts, prepared once
    frontier   every point that was tried, with its metrics on each validation part
    select     the point that a rule prefers

An arm gets a given number of points: quasi-random ones over its box, then rounds of refinement near the best ones.
Tests are not seen here.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import ledger as ledgers
from jaxrec import rank
from jaxrec.brief import brief
from jaxrec.data.interactions import Interactions, Split, users_of
from jaxrec.ledger import GradientLedger
from jaxrec.metrics.accuracy import is_hit, ndcg_from_hits, recall_from_hits
from jaxrec.names import nearest, want_number
from jaxrec.rows import materialised, product
from jaxrec.transforms import adjustment as adj
from jaxrec.types import Array, Tables

AT_ONCE = 128  # points that share one computation of the scores, at most
CHANGES = 1 << 22  # and at most so many points x users or items, whichever are more, for the memory of what they change
MASKED = 1 << 22  # padded masks of so many entries, which take 40 ms to apply, all get the longest one's width
LOSSES = (0.05, 0.1, 0.2)  # shares of the natural metric that a trade-off is looked at
MAX_LOSS = 0.1  # the share that may be lost where none is given
Family = Literal["gradients", "exposure"]  # what the arm `adjusted` corrects by


class Arm(NamedTuple):
    """A family of adjustments: `adjust(strengths [S])`, each strength between its `low` and its `high`."""

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    adjust: Callable[[Array], adj.Adjustment]
    change: Callable[[Array], adj.ScoreChange] | None = None  # the same, as a change of scores
    shifts: tuple[Array, ...] = ()  # the item rows [I, D] that changes add with weights


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
    block: int  # users ranked at once
    users: list[np.ndarray]  # chunks of whole blocks [c]
    excluded: list[np.ndarray]  # [c, M]
    relevant: list[tuple[np.ndarray, ...]]  # a [c, T] each part, padded with -1

    def __repr__(self) -> str:
        return brief(self, "tables", "parts", "k", "block", users=sum(map(len, self.users)))


def prepare(
    tables: Tables,
    ledger: GradientLedger,
    train: Interactions,
    valid: Mapping[str, Interactions],
    *,
    k: int = 20,
    max_users: int | None = 8192,
    block: int | None = None,
    seed: int = 0,
) -> Problem:
    """Prepares the validation users, at most `max_users` of them drawn at random (None: all).

    `block` is how many users are ranked at once (None: as `rank.top_k` chooses). ValueError for tables, a ledger or
    parts of other users and items, a k that the catalogue can't have, and where no user has validation pairs.
    """
    if not valid:
        raise ValueError("selecting strengths wants validation parts; carve them from the training interactions")
    num_users, num_items = rank.check_tables(tables)
    rank.want_k(k, num_items)
    Split(train, dict(valid))  # refuses parts of other ids, and pairs that ranking would mask
    if (train.num_users, train.num_items) != (num_users, num_items):
        raise ValueError(
            f"train and the validation parts must cover the tables' {num_users} users and {num_items} items, got "
            f"{train.num_users} and {train.num_items}"
        )
    if len(ledger.users.pull.size) != num_users or len(ledger.items.pull.size) != num_items:
        raise ValueError(
            f"the ledger must cover the tables' {num_users} users and {num_items} items, got "
            f"{len(ledger.users.pull.size)} and {len(ledger.items.pull.size)}"
        )
    users = users_of(valid.values())
    if not len(users) or (max_users is not None and max_users < 1):
        raise ValueError(f"selecting wants users with validation pairs: {len(users)} have some, max_users={max_users}")
    if max_users is not None and len(users) > max_users:
        users = np.random.default_rng(seed).choice(users, max_users, replace=False)
    users = users[np.argsort(train.user_counts[users], kind="stable")].astype(np.int32)
    block = rank.block_rows(block, len(users), num_items)
    chunk = rank.chunk_rows(block, len(users))
    # One width of test lists for all chunks, so that few programs are compiled.
    widest = {name: max(1, int(part.user_counts[users].max(initial=0))) for name, part in valid.items()}
    longest = int(train.user_counts[users].max(initial=0))
    at_least = longest if len(users) * longest <= MASKED else 0
    padded, excluded, relevant = [], [], []
    for start in range(0, len(users), chunk):
        chosen = users[start : start + chunk]
        rows = np.concatenate([chosen, np.zeros(chunk - len(chosen), np.int32)])
        padded.append(rows)
        excluded.append(_widened(rank.pad_lists(train, rows, num_items), num_items, at_least))
        relevant.append(tuple(_relevant(valid[name], chosen, chunk, width) for name, width in widest.items()))
    return Problem(tables, ledger, tuple(valid), k, block, padded, excluded, relevant)


def _relevant(part: Interactions, users: np.ndarray, size: int, width: int) -> np.ndarray:
    """The items of each user, padded with -1 to [size, width]."""
    own = rank.pad_lists(part, users)
    return np.pad(own, ((0, size - len(users)), (0, width - own.shape[1])), constant_values=-1)


def _widened(lists: np.ndarray, fill: int, at_least: int) -> np.ndarray:
    width = rank.width_for(max(lists.shape[1], at_least))
    return np.pad(lists, ((0, 0), (0, width - lists.shape[1])), constant_values=fill)


def list_sums(items: Array, relevant: tuple[Array, ...], k: int) -> Array:
    """(Σ recall, Σ ndcg, number of users with relevant items) of a block's lists, for each part: [P, 3]."""
    sums = []
    for own in relevant:
        count = jnp.sum(own >= 0, axis=1)
        hits = is_hit(items, own)
        some = (count > 0).astype(jnp.float32)
        values = (recall_from_hits(hits, count) * some, ndcg_from_hits(hits, count, k) * some, some)
        sums.append(jnp.stack([jnp.sum(v) for v in values]))
    return jnp.stack(sums)


@jax.jit(static_argnames=("k", "block"))
def _score_chunk(
    tables: Tables, users: Array, excluded: Array, relevant: tuple[Array, ...], k: int, block: int
) -> Array:
    """`list_sums` of one pair of tables over the blocks of a chunk: [P, 3]."""

    def one(users: Array, excluded: Array, relevant: tuple[Array, ...]) -> Array:
        return list_sums(rank.rank_block(tables, users, excluded, k)[0], relevant, k)[None]

    return jnp.sum(rank.scan_blocks(one, block, users, excluded, relevant).reshape(-1, len(relevant), 3), axis=0)


@jax.jit(static_argnames=("k", "block"))
def _score_chunk_changed(
    tables: Tables,
    shifts: tuple[Array, ...],
    changes: adj.ScoreChange,
    count: Array,
    users: Array,
    excluded: Array,
    relevant: tuple[Array, ...],
    k: int,
    block: int,
) -> Array:
    """`list_sums` after the first `count` of G changes of one pair of tables: [G, P, 3], 0 beyond.

    The scores are computed once for all of them. `changes.right` is [G, R, I] here, each factor in one piece.
    """

    def one(users: Array, excluded: Array, relevant: tuple[Array, ...]) -> Array:
        found = rank.scores_by_item(tables, users, excluded)
        others = [product(rows, tables.user[users].T) for rows in shifts]

        mine = jnp.swapaxes(changes.left[:, users], 1, 2)  # [G, R, b]
        factors = (changes.scale, mine, changes.right, changes.weights)

        def changed(g: Array, sums: Array) -> Array:
            # In a branch of their own, or XLA fuses the slices of this loop into the pass over scores.
            scale, by_user, by_item, weights = materialised(jax.tree.map(lambda x: x[g], factors), users)
            items, _ = rank.best_of(adj.change_scores(found, scale, by_user, by_item, weights, others), k)
            return sums.at[g].set(list_sums(items, relevant, k))

        return jax.lax.fori_loop(0, count, changed, jnp.zeros((len(changes.scale), len(relevant), 3)))[None]

    shape = (-1, len(changes.scale), len(relevant), 3)
    return jnp.sum(rank.scan_blocks(one, block, users, excluded, relevant).reshape(shape), axis=0)


Metrics = dict[str, dict[str, float]]  # part -> name -> value


def _over_chunks(problem: Problem, score: Callable[..., Array]) -> np.ndarray:
    results: list[np.ndarray] = [np.zeros(0)] * len(problem.users)

    def run(i: int) -> None:
        results[i] = np.asarray(score(problem.users[i], problem.excluded[i], problem.relevant[i]), np.float64)

    rank.run_all(run, range(len(problem.users)))
    return np.sum(results, axis=0)


def _means(problem: Problem, sums: np.ndarray) -> Metrics:
    return {
        part: {f"recall@{problem.k}": row[0] / max(row[2], 1), f"ndcg@{problem.k}": row[1] / max(row[2], 1)}
        for part, row in zip(problem.parts, sums.tolist(), strict=True)
    }


def measure(problem: Problem, adjust: adj.Adjustment) -> Metrics:
    """recall@k and ndcg@k of the adjusted tables on each validation part, means over its users.

    ValueError for an adjustment that leaves other users or items, or scores that are not finite.
    """
    tables = adj.fold_bias(adjust(problem.tables, problem.ledger))
    before, after = (len(problem.tables.user), len(problem.tables.item)), rank.check_tables(tables)
    if after != before:
        raise ValueError(
            f"an adjustment must keep the {before[0]} users and {before[1]} items, but this one leaves {after[0]} and "
            f"{after[1]}"
        )
    score = functools.partial(_score_chunk, tables, k=problem.k, block=problem.block)
    return _means(problem, _over_chunks(problem, score))


def measure_many(problem: Problem, arm: Arm, strengths: np.ndarray) -> list[Metrics]:
    """`measure` of each row of strengths [N, S].

    An arm that tells what it does to scores (`Arm.change`) has them computed once for all its points; another one is
    ranked from its tables point by point.
    """
    if arm.change is None:
        return [measure(problem, arm.adjust(s)) for s in jnp.asarray(strengths, jnp.float32)]
    # Not jitted, here and above: an arm is made anew for each problem, and would be compiled anew at each call.
    change, tables = jax.vmap(arm.change), adj.fold_bias(problem.tables)
    found: list[Metrics] = []
    block = _divisor(problem.block, 2 * problem.block // (1 + len(arm.shifts)))
    size = max(1, min(AT_ONCE, CHANGES // max(len(tables.user), len(tables.item))))
    while len(found) < len(strengths):
        some = np.asarray(strengths[len(found) : len(found) + size], np.float32)
        whole = np.concatenate([some, np.repeat(some[-1:], size - len(some), axis=0)])  # one program for all
        changes, count = change(jnp.asarray(whole)), np.int32(len(some))
        if not all(bool(jnp.all(jnp.isfinite(part))) for part in jax.tree.leaves((whole, changes))):
            raise ValueError(f"scores must be finite, but strengths {some.tolist()} make some that are not")
        changes = changes._replace(right=jnp.swapaxes(changes.right, 1, 2))
        score = functools.partial(_score_chunk_changed, tables, arm.shifts, changes, count, k=problem.k, block=block)
        found += [_means(problem, sums) for sums in _over_chunks(problem, score)[: len(some)]]
    return found


def _divisor(block: int, most: int) -> int:
    """The largest multiple of `rank.FEW` that divides a block's users and is at most `most`: scores stay in cache."""
    sizes = [n for n in range(rank.FEW, block + 1, rank.FEW) if block % n == 0]
    return max((n for n in sizes if n <= most), default=sizes[0])


def want_strengths(arm: Arm, strengths: Mapping[str, float]) -> None:
    """ValueError for a strength that an arm has not, with the nearest name."""
    unknown = sorted(set(strengths) - set(arm.names))
    if unknown:
        hint = nearest(unknown[0], arm.names)
        raise ValueError(f"there is no strength {unknown[0]!r}{hint}; the names are {', '.join(arm.names)}")


def apply(arm: Arm, strengths: Mapping[str, float], tables: Tables, ledger: GradientLedger) -> Tables:
    """The tables as an arm's strengths, by name, make them, biases folded in; strengths not named are 0."""
    want_strengths(arm, strengths)
    values = jnp.asarray([strengths.get(name, 0.0) for name in arm.names], jnp.float32)
    return adj.fold_bias(arm.adjust(values)(tables, ledger))


def want_family(family: str) -> None:
    """ValueError for what is no `Family`."""
    if family not in get_args(Family):
        raise ValueError(f"family must be 'gradients' or 'exposure', got {family!r}")


def arms(
    tables: Tables, ledger: GradientLedger, train: Interactions, *, family: Family = "gradients", seed: int = 0
) -> dict[str, Arm]:
    """The arms that are compared: the adjustment (`adjusted`), the raw-count control, and TTEN.

    The adjustment by "gradients" removes the direction of positive gradients (`direction`), takes off the logarithm of
    an item's accumulated gradient (`magnitude`), and adds the item's gradients with their sizes equalised (`pull`,
    `push`). That by "exposure" is `exposure_arm`.

    Offsets are added to scores, so their range is in units of the scores' own spread: up to twice what makes a
    standard deviation of log popularity weigh as much as one of the scores within a user. What is added of gradients
    is in units of the items' mean length. A ledger of totals has no gradients by item to add.
    """
    want_family(family)
    unit = score_spread(tables, seed=seed)
    counts = jnp.asarray(train.item_counts, jnp.float32)
    number = adj.log_relative(counts)

    def count(s: Array) -> adj.Adjustment:
        return adj.chain(adj.rescale_by_count(s[0], counts), adj.offset_by_count(s[1], counts))

    def count_change(s: Array) -> adj.ScoreChange:
        left = -s[1] * jnp.ones((tables.user.shape[0], 1))
        return adj.ScoreChange(jnp.exp(-s[0] * number), left, number[:, None], jnp.zeros(0))

    by_gradients = family == "gradients"
    return {
        "adjusted": _gradient_arm(tables, ledger, unit) if by_gradients else exposure_arm(tables, ledger, seed=seed),
        "count_control": Arm(("rescale", "offset"), (0, 0), (0.8, _top(unit, number)), count, count_change),
        "tten": Arm(("power",), (0,), (1.5,), lambda s: adj.tten(s[0])),
    }


def _gradient_arm(tables: Tables, ledger: GradientLedger, unit: float) -> Arm:
    size = adj.log_relative(ledgers.magnitude(ledger.items))
    d = ledgers.direction(ledger.items)
    width = len(d)
    adj.widen(d, tables.user.shape[1])  # refuses a ledger that is wider than the tables
    user, item = tables.user[:, :width], tables.item[:, :width]
    shifts: tuple[Array, ...] = ()
    if ledger.items.pull.vector.ndim == 2:
        shifts = (adj.equalized(ledger.items.pull, tables.item), adj.equalized(ledger.items.push, tables.item))
    names, high = ("direction", "magnitude", "pull", "push"), (2.5, _top(unit, size), 1.5, 0.8)
    number = 2 + len(shifts)
    along_user, along_item = product(user, d), jnp.stack([product(rows, d) for rows in (item, *shifts)], axis=1)

    def adjust(s: Array) -> adj.Adjustment:
        add = adj.add_gradients(s[2], s[3]) if shifts else adj.identity()
        return adj.chain(add, adj.remove_direction(s[0]), adj.offset_by_gradient(s[1]))

    def change(s: Array) -> adj.ScoreChange:
        along = product(along_item, jnp.concatenate([jnp.ones(1), s[2:]]))
        left = jnp.stack([-s[0] * along_user, -jnp.ones(len(user))], axis=1)
        return adj.ScoreChange(jnp.ones_like(size), left, jnp.stack([along, s[1] * size], axis=1), s[2:])

    folded = tuple(adj.widen(rows, tables.item.shape[1] + (tables.item_bias is not None)) for rows in shifts)
    return Arm(names[:number], (0,) * number, high[:number], adjust, change, folded)


def exposure_arm(tables: Tables, ledger: GradientLedger, *, seed: int = 0) -> Arm:
    """Takes off the logarithm of what the model itself recommended of each item, and adds what its own gradients say.

    `exposure` offsets scores by the size of an item's push, which in a softmax model is Σ_u p(i|u): see
    `transforms.adjustment.offset_by_gradient`. `pull` is that of the arm `adjusted`. As many strengths as the count
    control has. Raises ValueError for a ledger of totals.
    """
    if ledger.items.pull.vector.ndim != 2:
        raise ValueError("the exposure arm adds gradients by item; this ledger keeps totals only")
    size = adj.log_relative(ledgers.magnitude(ledger.items, "push"))
    shift = adj.equalized(ledger.items.pull, tables.item)

    def adjust(s: Array) -> adj.Adjustment:
        return adj.chain(adj.add_gradients(s[1]), adj.offset_by_gradient(s[0], by="push"))

    def change(s: Array) -> adj.ScoreChange:
        left = -jnp.ones((tables.user.shape[0], 1))
        return adj.ScoreChange(jnp.ones_like(size), left, s[0] * size[:, None], s[1:])

    folded = adj.widen(shift, tables.item.shape[1] + (tables.item_bias is not None))
    high = (_top(score_spread(tables, seed=seed), size), 1.5)
    return Arm(("exposure", "pull"), (0, 0), high, adjust, change, (folded,))


def _top(unit: float, logs: Array) -> float:
    """The largest offset worth trying, where a standard deviation of it is twice the scores' own."""
    return 2.0 * unit / max(float(jnp.std(logs)), 1e-6)


def score_spread(tables: Tables, *, users: int = 256, seed: int = 0) -> float:
    """The mean over users of the standard deviation of their scores over all items."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(tables.user.shape[0], min(users, tables.user.shape[0]), replace=False)
    none = jnp.full((len(chosen), 1), tables.item.shape[0])
    return float(jnp.mean(jnp.std(rank.masked_scores(tables, jnp.asarray(chosen), none), axis=1)))


def frontier(problem: Problem, arm: Arm, *, budget: int = 96, rounds: int = 6, seed: int = 0) -> list[Point]:
    """Tries `budget` points of the arm, the first being strength 0: a third over the box, the rest in `rounds` of ever
    smaller changes to the best points at each natural loss of `LOSSES` and without a limit.

    Strengths that start at 0 are spaced by squares, denser near 0. ValueError for an arm that is no box.
    """
    from scipy.stats import qmc

    if budget < 1 or rounds < 0:
        raise ValueError(f"budget must be at least 1 and rounds at least 0, got {budget} and {rounds}")
    for number in (*arm.low, *arm.high):
        want_number("a low or a high of an arm", number)
    if not len(arm.names) == len(arm.low) == len(arm.high) or any(map(operator.gt, arm.low, arm.high)):
        box = f"names {arm.names}, low {arm.low}, high {arm.high}"
        raise ValueError(f"an arm wants a low and a high for each name, no low above its high; got {box}")
    low, high = np.array(arm.low, np.float64), np.array(arm.high, np.float64)
    if (low > 0).any() or (high < 0).any():
        raise ValueError(
            f"an arm's box must hold 0, which changes no score and is what losses are measured from; got "
            f"{dict(zip(arm.names, zip(arm.low, arm.high, strict=True), strict=True))}"
        )
    first = budget if rounds == 0 else -(-budget // 3)
    start = np.clip((0 - low) / np.where(high > low, high - low, 1.0), 0, 1)
    box = qmc.Sobol(len(low), seed=seed).random(2 ** int(np.ceil(np.log2(max(first, 2)))))[: first - 1]

    def evaluate(where: np.ndarray) -> list[Point]:
        strengths = low + np.where(low == 0, where**2, where) * (high - low)
        measured = measure_many(problem, arm, strengths)
        return [
            Point(dict(zip(arm.names, s.tolist(), strict=True)), m) for s, m in zip(strengths, measured, strict=True)
        ]

    tried = np.concatenate([start[None], box])
    points = evaluate(tried)
    rng = np.random.default_rng(seed)
    for turn in range(rounds):
        left = (budget - len(points)) // (rounds - turn)
        elite = _elite(points, problem.k)
        parents = tried[elite[np.arange(left) % len(elite)]]
        fresh = np.clip(parents + rng.normal(0, 0.2 / 1.6**turn, parents.shape), 0, 1)
        tried = np.concatenate([tried, fresh])
        points += evaluate(fresh)
    return points


def _elite(points: Sequence[Point], k: int, *, each: int = 3) -> np.ndarray:
    """Where the `each` best points are at each of `LOSSES` allowed and without a limit, by the first part that is not
    natural: the best of all levels first. What a point loses beyond a level counts three times against it.
    """
    name = f"ndcg@{k}"
    parts = list(points[0].metrics)
    part = next((p for p in parts if p != "natural"), parts[0])
    value = np.array([p.metrics[part][name] for p in points])
    if "natural" not in parts:
        return np.argsort(-value, kind="stable")[:each]
    natural = np.array([p.metrics["natural"][name] for p in points])
    over = [np.maximum((1 - loss) * natural[0] - natural, 0) for loss in LOSSES] + [np.zeros(len(points))]
    return np.stack([np.argsort(-(value - 3 * lost), kind="stable")[:each] for lost in over], axis=1).ravel()


def limit(how: str, max_loss: float) -> float | None:
    """The `max_loss` that `select` is given: none for "unbiased". ValueError for one that would not be read.

    >>> limit("loss", 0.05), limit("unbiased", MAX_LOSS)
    (0.05, None)
    """
    if how not in ("unbiased", "loss"):
        raise ValueError(f"select must be 'unbiased' or 'loss', got {how!r}")
    if not 0 <= max_loss <= 1:
        raise ValueError(f"max_loss is the share of the natural NDCG that may be lost, 0 to 1, got {max_loss}")
    if how == "unbiased" and max_loss != MAX_LOSS:
        raise ValueError(
            f"max_loss {max_loss} is read with select='loss' only, and select is 'unbiased': add select='loss' "
            "(--select loss), or leave max_loss out"
        )
    return max_loss if how == "loss" else None


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
    if max_loss is not None and not 0 <= max_loss <= 1:
        raise ValueError(f"max_loss is the share of {against!r} that may be lost, 0 to 1, got {max_loss}")
    if max_loss is None:
        allowed = list(points)
    else:
        floor = (1 - max_loss) * points[0].metrics[against][metric]
        allowed = [p for p in points if p.metrics[against][metric] >= floor]
    return max(allowed, key=lambda p: p.metrics[part][metric])
