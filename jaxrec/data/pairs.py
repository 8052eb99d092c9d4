"""From raw ids to `Interactions` and between id spaces: `from_pairs`, `reindex`, `compact`, `k_core`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from jaxrec.data.interactions import DataError, Interactions, plain_ids


def from_pairs(
    users: Any,
    items: Any,
    ratings: Any = None,
    times: Any = None,
    *,
    threshold: float | None = None,
    user_ids: np.ndarray | None = None,
    item_ids: np.ndarray | None = None,
    source: str = "the given pairs",
) -> Interactions:
    """Maps raw ids to row numbers, in sorted order, and merges repeated pairs; ordered by (user, item).

    A pair given several times keeps its highest rating and its latest time. With a `threshold` only pairs
    rated at least that much are interactions; without one every pair is, and where ratings differ a note says so.
    What went is counted in the `notes`.
    With `user_ids` or `item_ids` those maps are used, and an id outside them is an error (see `reindex`).

    Args:
      users, items: [E] whole numbers (not negative) or text; anything `np.asarray` takes.
      ratings, times: [E] finite numbers, or None; times of datetime64 become seconds since 1970.
      source: what an error calls this data.

    Raises `DataError` for empty data, unequal lengths, missing, fractional or negative ids, ratings or times
    that are NaN, a threshold without ratings, and a threshold that no pair reaches.

    >>> data = from_pairs(["b", "a", "b"], [30, 10, 30], ratings=[1, 5, 4])
    >>> data.user_ids.tolist(), data.item_ids.tolist(), data.ratings.tolist()
    (['a', 'b'], [10, 30], [5.0, 4.0])
    >>> for note in data.notes:
    ...     print(note)
    1 repeated pair merged
    ratings are from 1 to 5, and every pair is an interaction; a threshold would keep high ones only
    """
    raw_users, raw_items = _raw_ids(users, "user", source), _raw_ids(items, "item", source)
    if len(raw_users) != len(raw_items):
        raise DataError(
            f"{source}: {len(raw_users)} users but {len(raw_items)} items; a pair needs one of each"
        )
    if not len(raw_users):
        raise DataError(f"{source}: at least one interaction is wanted, none came")
    rating = _numbers(ratings, len(raw_users), "rating", source)
    time = _numbers(times, len(raw_users), "time", source)
    notes: list[str] = []
    if threshold is not None:
        keep = _reaches(rating, threshold, source)
        columns = (("users", raw_users, user_ids), ("items", raw_items, item_ids))
        lost = [
            f"{len(np.unique(raw)) - len(np.unique(raw[keep])):,} {what}" for what, raw, ids in columns if ids is None
        ]  # of those with an id map all stay in the id space
        if not keep.all():
            note = f"{int((~keep).sum()):,} of {len(keep):,} rows are rated below {threshold:g} and are no interactions"
            notes.append(note + (f"; {' and '.join(lost)} have none left and are not in the id space" if lost else ""))
        raw_users, raw_items = raw_users[keep], raw_items[keep]
        rating, time = (None if c is None else c[keep] for c in (rating, time))
    user_map, user_rows = _map_ids(raw_users, user_ids, "user", source)
    item_map, item_rows = _map_ids(raw_items, item_ids, "item", source)
    rows, merged = merge_rows(user_rows, item_rows, rating, time, num_items=len(item_map))
    if merged:
        notes.append(f"{merged:,} repeated pair{'s' * (merged > 1)} merged")
    if threshold is None and rating is not None and rating.min() < rating.max():
        notes.append(
            f"ratings are from {rating.min():g} to {rating.max():g}, and every pair is an interaction; "
            "a threshold would keep high ones only"
        )
    return Interactions(
        rows[0], rows[1], len(user_map), len(item_map), user_map, item_map,
        times=rows[3], ratings=rows[2], notes=tuple(notes),
    )  # fmt: skip


def merge_rows(
    users: np.ndarray,
    items: np.ndarray,
    ratings: np.ndarray | None,
    times: np.ndarray | None,
    *,
    num_items: int,
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None], int]:
    """Row-number pairs ordered by (user, item), each once (highest rating, latest time), and how many went.

    >>> merge_rows(np.array([1, 0, 1]), np.array([0, 2, 0]), None, None, num_items=3)
    ((array([0, 1]), array([2, 0]), None, None), 1)
    """
    keys = users.astype(np.int64) * num_items + items
    if len(keys) > 1 and bool((keys[1:] > keys[:-1]).all()):
        return (users, items, ratings, times), 0
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))

    def latest(column: np.ndarray | None) -> np.ndarray | None:
        return column if column is None or not len(first) else np.maximum.reduceat(column[order], first)

    pairs = users[order][first], items[order][first]
    return (*pairs, latest(ratings), latest(times)), len(keys) - len(first)


def reindex(
    data: Interactions,
    user_ids: np.ndarray,
    item_ids: np.ndarray,
    *,
    unknown: Literal["error", "drop"] = "error",
) -> Interactions:
    """The same pairs in another id space, such as that of a trained model.

    Pairs of a user or item that the maps do not hold are an error, or with `unknown="drop"` left out and
    counted.

    >>> data = from_pairs([7, 9], [1, 2])
    >>> reindex(data, np.array([9, 8, 7]), np.array([2, 1])).users.tolist()
    [0, 2]
    """
    user_ids, item_ids = plain_ids(user_ids, "user"), plain_ids(item_ids, "item")
    user_at, item_at = _positions(data.user_ids, user_ids), _positions(data.item_ids, item_ids)
    users, items = user_at[data.users], item_at[data.items]
    known = (users >= 0) & (items >= 0)
    missing = int((~known).sum())
    notes = data.notes
    if missing:
        bad = int(np.flatnonzero(~known)[0])
        what = f"user {data.user_ids[data.users[bad]]}, item {data.item_ids[data.items[bad]]}"
        if unknown != "drop":
            raise DataError(
                f"{missing} pairs have a user or item that the id maps do not hold, the first is {what}; "
                'pass unknown="drop" to leave them out'
            )
        notes = (*notes, f"{missing:,} pairs of unknown users or items left out, the first is {what}")
    order = np.flatnonzero(known)
    order = order[np.argsort(users[order].astype(np.int64) * len(item_ids) + items[order], kind="stable")]
    take = lambda column: None if column is None else column[order]  # noqa: E731
    return Interactions(
        users[order], items[order], len(user_ids), len(item_ids), user_ids, item_ids,
        times=take(data.times), ratings=take(data.ratings), notes=notes,
    )  # fmt: skip


def compact(data: Interactions) -> Interactions:
    """The same pairs without the rows of users and items that have none.

    >>> compact(Interactions([2], [1], 4, 3))
    Interactions(1 pairs, 1 users x 1 items, 1.0 a user, density 100%)
    """
    users, items = np.flatnonzero(data.user_counts), np.flatnonzero(data.item_counts)
    if (len(users), len(items)) == (data.num_users, data.num_items):
        return data
    return replace(
        data,
        users=np.searchsorted(users, data.users),
        items=np.searchsorted(items, data.items),
        num_users=len(users),
        num_items=len(items),
        user_ids=data.user_ids[users],
        item_ids=data.item_ids[items],
    )


def k_core(data: Interactions, k: int) -> Interactions:
    """The largest part in which every user and every item has at least `k` pairs; `notes` count what goes.

    Source: Seidman 1983, doi:10.1016/0378-8733(83)90028-X. Raises `DataError` where nothing is left.

    >>> chain = from_pairs([0, 0, 1, 1, 2], [0, 1, 0, 1, 1])
    >>> len(k_core(chain, 2)), k_core(chain, 2).notes
    (4, ('2-core: 1 pairs, 1 users and 0 items removed',))
    """
    if k < 1:
        raise DataError(f"k of a k-core must be at least 1, got {k}")
    keep = np.ones(len(data), bool)
    while True:
        few_users = np.bincount(data.users[keep], minlength=data.num_users) < k
        few_items = np.bincount(data.items[keep], minlength=data.num_items) < k
        gone = keep & (few_users[data.users] | few_items[data.items])
        if not gone.any():
            break
        keep &= ~gone
    if not keep.any():
        raise DataError(f"the {k}-core of {data!r} is empty; choose a smaller k")
    core = compact(data.select(keep))
    removed = (len(data) - len(core), data.num_users - core.num_users, data.num_items - core.num_items)
    line = f"{k}-core: {removed[0]:,} pairs, {removed[1]:,} users and {removed[2]:,} items removed"
    return replace(core, notes=(*data.notes, line))


def _raw_ids(ids: Any, what: str, source: str) -> np.ndarray:
    """Raw ids as int64 or text, every other form refused or converted without loss."""
    array = np.asarray(ids)
    if isinstance(ids, (list, tuple)) and array.ndim == 1:
        kinds = set(map(type, ids))  # numpy makes text of numbers among text, and numbers of True
        mixed = array.dtype.kind == "U" and not all(issubclass(kind, str) for kind in kinds)
        if mixed or (array.dtype.kind == "i" and kinds & {bool, np.bool_}):
            array = np.array(ids, object)
    if array.ndim != 1:
        raise DataError(f"{source}: {what}s must be one column, got shape {array.shape}")
    if not array.size:
        return array.astype(np.int64)
    if array.dtype.kind in "OT":
        return _object_ids(array, what, source)
    if array.dtype.kind == "f":
        whole = np.isfinite(array) & (array == np.floor(array)) & (np.abs(array) < 2**53)
        if not whole.all():
            at = int(np.flatnonzero(~whole)[0])
            bad = f"row {at} has {array[at]}"
            raise DataError(f"{source}: {what} ids must be whole numbers or text, but {bad}")
    if array.dtype.kind in "iuf":
        if array.min() < 0 or (array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max):
            at = int(np.flatnonzero((array < 0) | (array > np.iinfo(np.int64).max))[0])
            raise DataError(
                f"{source}: {what} ids must be in [0, 2**63), but row {at} has {array[at]}; a negative id often "
                "marks a missing value; where it is meant, give the ids as text"
            )
        return array.astype(np.int64)
    if array.dtype.kind != "U":
        raise DataError(f"{source}: {what} ids must be whole numbers or text, got {array.dtype}")
    if (array == "").any():
        raise DataError(f"{source}: the {what} id of row {int(np.flatnonzero(array == '')[0])} is empty")
    return array


def _object_ids(array: np.ndarray, what: str, source: str) -> np.ndarray:
    values = array.tolist()
    if all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        try:
            return _raw_ids(np.array(values, np.int64), what, source)
        except OverflowError:
            raise DataError(f"{source}: {what} ids must be in [0, 2**63); give larger ones as text") from None
    first = values[0] if isinstance(values[0], (int, str)) and not isinstance(values[0], bool) else ""
    kind: type = str if isinstance(first, str) else int
    for at, value in enumerate(values):
        if not isinstance(value, kind) or isinstance(value, bool):
            bad = f"row {at} has {value!r}" + (f" where row 0 has {first!r}" if at else "")
            raise DataError(f"{source}: {what} ids must be all text or all whole numbers, but {bad}")
    return _raw_ids(np.array(values, np.str_), what, source)


def _numbers(values: Any, length: int, what: str, source: str) -> np.ndarray | None:
    if values is None:
        return None
    try:
        array = seconds(values) if what == "time" else np.asarray(values)
        array = array if array.dtype.kind in "iu" else array.astype(np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{source}: {what}s must be numbers, got {np.asarray(values).dtype}") from None
    if array.shape != (length,):
        raise DataError(f"{source}: one {what} for each of {length} rows is wanted, got shape {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        at = int(np.flatnonzero(~np.isfinite(array))[0])
        raise DataError(f"{source}: {what}s must be finite, but row {at} has {array[at]}")
    return array


def seconds(times: Any) -> np.ndarray:
    """Dates of any unit as seconds since 1970, NaN where missing; all else as it is.

    >>> seconds(np.array(["1970-01-02", "NaT"], "datetime64[D]")).tolist()
    [86400.0, nan]
    """
    array = np.asarray(times)
    if array.dtype.kind != "M":
        return array
    return np.where(np.isnat(array), np.nan, array.astype("datetime64[us]").astype(np.int64) / 1e6)


def _reaches(ratings: np.ndarray | None, threshold: float, source: str) -> np.ndarray:
    if ratings is None:
        raise DataError(f"{source}: a threshold ({threshold:g}) needs a rating column, and there is none")
    with np.errstate(over="ignore"):  # as ratings are kept, so that a file written again has the same pairs
        keep = ratings.astype(np.float32) >= np.float32(threshold)
    if not keep.any():
        highest = f"the highest is {ratings.max():g}"
        raise DataError(f"{source}: no rating reaches the threshold {threshold:g}; {highest}")
    return keep


def _map_ids(
    raw: np.ndarray, ids: np.ndarray | None, what: str, source: str
) -> tuple[np.ndarray, np.ndarray]:
    if ids is None:
        unique, rows = np.unique(raw, return_inverse=True)
        return unique, rows
    ids = plain_ids(ids, what)
    rows = _positions(raw, ids)
    if (rows < 0).any():
        at = int(np.flatnonzero(rows < 0)[0])
        raise DataError(f"{source}: {what} {raw[at]} (row {at}) is not in the id map given")
    return ids, rows


def _positions(wanted: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Where each wanted id is in `ids`, -1 where it is not; text is never found among numbers."""
    if not len(ids) or (wanted.dtype.kind == "U") != (ids.dtype.kind == "U"):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(ids, kind="stable")
    at = np.minimum(np.searchsorted(ids[order], wanted), len(ids) - 1)
    return np.where(ids[order][at] == wanted, order[at], -1)
