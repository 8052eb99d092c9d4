"""Seeded splits: by user, last, by time, uniform over items; and the two that experiments use, five_way and carve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxrec.data.interactions import DataError, Interactions, Split, contains, want_same_space


class HoldOut(NamedTuple):
    """Two disjoint parts whose union is what was split."""

    train: Interactions
    held: Interactions
    notes: tuple[str, ...]


def hold_out_random(data: Interactions, fraction: float, *, seed: int) -> HoldOut:
    """Holds out `fraction` of each user's interactions at random: a natural test, as popular as the data.

    A user with n interactions gives floor or ceil of fraction * n, at most n - 1; the total is the
    fraction of all to within one, less what is kept back so that no user and no item is emptied (in notes).

    Raises:
        DataError: fraction is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise DataError(f"fraction: wanted 0 < fraction < 1, got {fraction}")
    rng = np.random.default_rng(seed)
    quota = np.floor(np.cumsum(data.user_counts * fraction) + rng.random()).astype(np.int64)
    quota = np.diff(quota, prepend=0)
    wanted = int(quota.sum())
    quota = np.minimum(quota, np.maximum(data.user_counts - 1, 0))
    held = _first_of_each(data.users, rng.random(len(data)), quota)
    returned = _one_of_each_emptied(data.items, held, data.num_items)
    held[returned] = False
    notes = [f"natural: held out {int(held.sum())} of {len(data)} interactions, {fraction:.0%} by user"]
    if wanted > held.sum():
        notes.append(f"natural: {wanted - int(held.sum())} fewer than wanted, to leave no user or item empty")
    return HoldOut(data.select(~held), data.select(held), tuple(notes))


def hold_out_uniform(data: Interactions, per_item: int, *, seed: int) -> HoldOut:
    """Holds out `per_item` interactions of every item, drawn uniformly: a test without popularity bias.

    No user and no item is emptied: an item with n interactions gives at most n - 1, and an interaction that
    is its user's last one is replaced by another of the item. Where none is left the shortfall is noted.
    (The protocol of Bonner and Vasile 2018, arXiv 1706.07639, and of MACR, Wei et al. 2021, arXiv 2010.15363.)

    Raises:
        DataError: per_item < 1.
    """
    if per_item < 1:
        raise DataError(f"per_item: wanted at least 1, got {per_item}")
    rng = np.random.default_rng(seed)
    priority = rng.random(len(data))
    target = np.minimum(per_item, np.maximum(data.item_counts - 1, 0))
    held = np.zeros(len(data), bool)
    open_ = np.ones(len(data), bool)  # not yet held, nor known to be its user's last
    while True:
        left = data.user_counts - np.bincount(data.users[held], minlength=data.num_users)
        missing = target - np.bincount(data.items[held], minlength=data.num_items)
        able = np.flatnonzero(open_ & (left[data.users] > 1) & (missing[data.items] > 0))
        if not able.size:
            break
        drawn = able[_first_of_each(data.items[able], priority[able], missing)]
        held[drawn], open_[drawn] = True, False
        # Only those drawn now can have emptied a user, so giving one of them back is enough.
        held[_one_of_each_emptied(data.users, held, data.num_users)] = False
    short = per_item - np.bincount(data.items[held], minlength=data.num_items)
    short = short[(data.item_counts > 0) & (short > 0)]
    notes = [f"unbiased: held out {int(held.sum())} of {len(data)} interactions, {per_item} an item"]
    if short.size:
        notes.append(f"unbiased: {short.size} items fell short by {int(short.sum())} in all, "
                     "to leave no user or item empty")
    return HoldOut(data.select(~held), data.select(held), tuple(notes))


def hold_out_last(data: Interactions, n: int = 1) -> HoldOut:
    """Holds out the last n interactions of each user by time, leaving each user at least one.

    Of equal times the higher item id counts as later. Items may be left without training interactions.

    Raises:
        DataError: n < 1 or no times.
    """
    if n < 1:
        raise DataError(f"n: wanted at least 1, got {n}")
    times = _times(data)
    order = np.lexsort((data.items, times, data.users))[::-1]  # turned round: of unsigned times -times would wrap
    quota = np.minimum(n, np.maximum(data.user_counts - 1, 0))
    held = np.zeros(len(data), bool)
    held[order] = _rank_in_runs(data.users[order]) < quota[data.users[order]]
    short = int(np.count_nonzero((quota < n) & (data.user_counts > 0)))
    notes = [f"last: held out {int(held.sum())} of {len(data)} interactions, {n} a user"]
    notes += [f"last: {short} users had no more than {n}, and keep one"] if short else []
    return _temporal(data, held, notes)


def hold_out_after(
    data: Interactions, time: float | None = None, quantile: float | None = None
) -> HoldOut:
    """Holds out all interactions later than one moment: `time`, or that quantile of the times.

    Users and items may be left without training interactions; they are counted in the notes.

    Raises:
        DataError: no times, not exactly one of `time` and `quantile`, or a part that is empty.
    """
    times = _times(data)
    if (time is None) == (quantile is None):
        raise DataError("hold_out_after: give exactly one of time and quantile")
    if quantile is not None and not 0 < quantile < 1:
        raise DataError(f"quantile: wanted 0 < quantile < 1, got {quantile}")
    moment = time if quantile is None else np.quantile(times, quantile, method="lower")
    held = times > moment
    if held.all() or not held.any():
        raise DataError(
            f"time {moment}: wanted one from {times.min()} to below {times.max()}, the last one, or a part is empty"
        )
    return _temporal(data, held, [f"time: held out {int(held.sum())} of {len(data)} interactions after {moment}"])


def given(train: Interactions, tests: Mapping[str, Interactions], notes: Sequence[str] = ()) -> Split:
    """A split as its publisher made it, cleaned: test pairs that are also in train leave the test.

    Users and items without a training interaction stay in the id space; all of it is counted in the notes.

    Raises:
        DataError: a test of another id space, or of which nothing is left.
    """
    lines = list(notes)
    kept = {}
    for name, test in tests.items():
        want_same_space(f"test {name}", test, train)
        also = contains(train, test.keys)
        if also.any():
            lines.append(f"{name}: dropped {int(also.sum())} of {len(test)} test pairs that are also in train")
            test = test.select(~also)
        if not len(test):
            raise DataError(f"test {name!r}: no pair is left that is not in train; give disjoint files")
        cold = int(np.count_nonzero((test.user_counts > 0) & (train.user_counts == 0)))
        if cold:
            lines.append(f"{name}: {cold} test users without training history")
        kept[name] = test
    for what, counts in (("users", train.user_counts), ("items", train.item_counts)):
        empty = int(np.count_nonzero(counts == 0))
        if empty:
            lines.append(f"train: {empty} of {len(counts)} {what} without a training interaction, kept as ids")
    return Split(train, {}, kept, tuple(lines))


def five_way(
    data: Interactions,
    *,
    seed: int,
    natural: float = 0.1,
    last: int | None = None,
    per_item: int | None = None,
    valid: bool = False,
) -> Split:
    """One training set with both tests, `natural` (by user) and `unbiased` (uniform over items).

    The natural test is drawn at random; with `last` it is the last so many interactions of each user by time, and the
    unbiased one is drawn from what comes before. `per_item` defaults to 3, or fewer where 3 would take more than a
    tenth of the interactions. With `valid` the two validation parts are carved from train as well, at random: five
    parts in one call. The notes of the data come first in those of the split.

    >>> from jaxrec.data.pairs import from_pairs
    >>> data = from_pairs(*np.divmod(np.arange(400), 20))
    >>> split = five_way(data, seed=0, valid=True)
    >>> len(split.train), {name: len(part) for name, part in split.tests.items()}
    (268, {'natural': 40, 'unbiased': 40})
    >>> sorted(split.valid)
    ['natural', 'unbiased']
    """
    per_item = _per_item(data, 3) if per_item is None else per_item
    first, second, notes = _both(data, seed, natural, per_item, "test", last=last)
    split = Split(second.train, {}, {"natural": first.held, "unbiased": second.held}, data.notes + notes)
    return carve(split, seed=seed) if valid else split


def carve(
    train: Interactions | Split, *, seed: int, natural: float = 0.1, per_item: int | None = None
) -> Split:
    """Validation parts drawn from train as the tests were: `natural` by user, `unbiased` uniform over items.

    `per_item` defaults to a tenth of the mean count of an item, between 1 and 5. A Split keeps its tests and
    notes; Interactions give a Split without tests. Refit on what was given, not on the train that is left.
    """
    whole = train if isinstance(train, Split) else Split(train, {}, {})
    if whole.valid:
        raise DataError(f"carve: the split has validation parts already, {sorted(whole.valid)}")
    per_item = _per_item(whole.train, 5) if per_item is None else per_item
    first, second, notes = _both(whole.train, seed, natural, per_item, "valid")
    parts = {"natural": first.held, "unbiased": second.held}
    return Split(second.train, parts, whole.tests, whole.notes + notes)


def _both(
    data: Interactions, seed: int, natural: float, per_item: int, part: str, last: int | None = None
) -> tuple[HoldOut, HoldOut, tuple[str, ...]]:
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise DataError(f"a split's seed must be a whole number from 0, got {seed!r}")
    # The seed is spawned by part, so that tests and validation of one seed are drawn independently.
    seeds = np.random.SeedSequence([seed, len(part)]).generate_state(2)
    first = hold_out_random(data, natural, seed=int(seeds[0])) if last is None else hold_out_last(data, last)
    second = hold_out_uniform(first.train, per_item, seed=int(seeds[1]))
    return first, second, tuple(f"{part} {note}" for note in first.notes + second.notes)


def _per_item(data: Interactions, most: int) -> int:
    items = int(np.count_nonzero(data.item_counts))
    return max(1, min(most, len(data) // (10 * max(items, 1))))


def _times(data: Interactions) -> np.ndarray:
    if data.times is None:
        raise DataError("this split needs times, and the interactions have none; read a file with a time column")
    return data.times


def _temporal(data: Interactions, held: np.ndarray, notes: list[str]) -> HoldOut:
    train, test = data.select(~held), data.select(held)
    for what in ("user_counts", "item_counts"):
        empty = int(np.count_nonzero((getattr(test, what) > 0) & (getattr(train, what) == 0)))
        if empty:
            notes.append(f"time: {empty} {what[:4]}s held out without a training interaction")
    return HoldOut(train, test, tuple(notes))


def _rank_in_runs(sorted_groups: np.ndarray) -> np.ndarray:
    """Position within each run of equal values: [3, 3, 5] -> [0, 1, 0]."""
    place = np.arange(len(sorted_groups))
    start = np.concatenate([[True], sorted_groups[1:] != sorted_groups[:-1]])[: len(place)]
    return place - np.maximum.accumulate(np.where(start, place, 0))


def _first_of_each(groups: np.ndarray, priority: np.ndarray, quota: np.ndarray) -> np.ndarray:
    """Bool [E]: the quota[g] members of each group g with the lowest priority."""
    order = np.lexsort((priority, groups))
    chosen = np.zeros(len(groups), bool)
    chosen[order] = _rank_in_runs(groups[order]) < quota[groups[order]]
    return chosen


def _one_of_each_emptied(groups: np.ndarray, held: np.ndarray, size: int) -> np.ndarray:
    """One held index for each group of which everything is held."""
    emptied = np.bincount(groups[~held], minlength=size) == 0
    inside = np.flatnonzero(held & emptied[groups])
    return inside[np.unique(groups[inside], return_index=True)[1]]
