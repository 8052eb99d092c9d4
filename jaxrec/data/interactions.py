"""`Interactions`, the one form in which data travels through the library, and `Split`, several together.

Ids inside an `Interactions` are row numbers, validated once when it is made, because `segment_sum` and
scatters on the device drop an id that is out of range without a word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

MAX_ROW = 2**31 - 2  # the largest row number: ids are int32, and a row count must fit as well


class DataError(ValueError):
    """Data that cannot be used as given; the message says what was wanted, what came and what to do."""


@dataclass(frozen=True, eq=False, repr=False)
class Interactions:
    """E user-item pairs, each pair once, as host arrays that are never written to again.

    Users and items without a pair are allowed: they keep their row. `notes` are lines for people about what
    was merged, filtered or counted when these pairs were read.

    Raises `DataError` for unequal lengths, ids outside [0, num_users) or [0, num_items), a pair given twice,
    id maps of another length or with a repeated id, and NaN ratings or times.

    >>> data = Interactions(np.array([0, 0, 1]), np.array([2, 0, 1]), num_users=2, num_items=3)
    >>> data
    Interactions(3 pairs, 2 users x 3 items, 1.5 a user, density 50%)
    >>> data.item_counts
    array([1, 1, 1])
    """

    users: np.ndarray  # [E] int32
    items: np.ndarray  # [E] int32
    num_users: int
    num_items: int
    user_ids: np.ndarray = None  # type: ignore[assignment]  # [U] as in the file, int64 or str; None: row numbers
    item_ids: np.ndarray = None  # type: ignore[assignment]  # [I]
    times: np.ndarray | None = None  # [E] float64 or int64
    ratings: np.ndarray | None = None  # [E] float32
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  (the class is frozen)
        put("num_users", _row_count(self.num_users, "users"))
        put("num_items", _row_count(self.num_items, "items"))
        put("users", _rows(self.users, self.num_users, "user"))
        put("items", _rows(self.items, self.num_items, "item"))
        if len(self.users) != len(self.items):
            sizes = f"{len(self.users)} and {len(self.items)}"
            raise DataError(f"users and items must be equally long, got {sizes}")
        put("user_ids", _id_map(self.user_ids, self.num_users, "user"))
        put("item_ids", _id_map(self.item_ids, self.num_items, "item"))
        put("times", _column(self.times, len(self), "times", None))
        put("ratings", _column(self.ratings, len(self), "ratings", np.float32))
        _refuse_repeats(self.keys, self)

    def __len__(self) -> int:
        return len(self.users)

    def __repr__(self) -> str:
        e, u, i = len(self), self.num_users, self.num_items
        extra = "".join(f", with {n}" for n in ("times", "ratings") if getattr(self, n) is not None)
        shape = f"{e:,} pairs, {u:,} users x {i:,} items, {e / max(u, 1):.1f} a user"
        return f"Interactions({shape}, density {100 * e / max(u * i, 1):.3g}%{extra})"

    @cached_property
    def keys(self) -> np.ndarray:
        """[E] int64, `user * num_items + item`: one number a pair, ordered as (user, item)."""
        return _frozen(self.users.astype(np.int64) * self.num_items + self.items)

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits that tell whether two sets hold the same pairs, whatever their order, under the same ids."""
        digest = hashlib.sha256(f"{self.num_users} {self.num_items}".encode())
        for column in (np.sort(self.keys), self.user_ids, self.item_ids):
            if column.dtype.kind == "U":  # however wide its cells are
                column = np.array(column.tolist(), np.str_)
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()[:32]

    @cached_property
    def user_counts(self) -> np.ndarray:
        """[U] int64, pairs of each user."""
        return _frozen(np.bincount(self.users, minlength=self.num_users).astype(np.int64))

    @cached_property
    def item_counts(self) -> np.ndarray:
        """[I] int64, pairs of each item: its popularity n_i."""
        return _frozen(np.bincount(self.items, minlength=self.num_items).astype(np.int64))

    @cached_property
    def _csr(self) -> tuple[np.ndarray, np.ndarray]:
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.user_counts)])
        ordered = len(self) < 2 or bool((self.keys[1:] > self.keys[:-1]).all())
        items = self.items if ordered else self.items[np.argsort(self.keys)]
        return _frozen(indptr), _frozen(items)

    def csr(self) -> tuple[np.ndarray, np.ndarray]:
        """Row pointers [U+1] int64, and items [E] int32 ascending within each user.

        >>> Interactions([1, 1, 0], [2, 0, 1], 2, 3).csr()
        (array([0, 1, 3]), array([1, 0, 2], dtype=int32))
        """
        return self._csr

    def to_scipy(self) -> Any:
        """The pairs as `scipy.sparse.csr_array` [U, I] of ones, float32; its arrays are its own, and writable."""
        from scipy.sparse import csr_array

        indptr, items = self.csr()
        ones, shape = np.ones(len(items), np.float32), (self.num_users, self.num_items)
        return csr_array((ones, items, indptr), shape=shape, copy=True)

    def select(self, where: np.ndarray) -> Interactions:
        """Some of the pairs, by a mask [E] bool or an index without repeats, in the same id space.

        >>> Interactions([0, 1], [0, 1], 2, 2).select(np.array([False, True])).items
        array([1], dtype=int32)
        """
        where = np.asarray(where)
        if where.dtype == bool and len(where) != len(self):
            raise DataError(f"a mask must have one entry a pair ({len(self)}), got {len(where)}")
        take = lambda column: None if column is None else column[where]  # noqa: E731
        return replace(
            self, users=self.users[where], items=self.items[where], times=take(self.times),
            ratings=take(self.ratings), notes=(),
        )  # fmt: skip

    def with_notes(self, *notes: str) -> Interactions:
        """The same pairs with more lines for people."""
        return replace(self, notes=(*self.notes, *notes))


@dataclass(frozen=True, eq=False)
class Split:
    """Parts of one data set over one id space: `train`, named `valid` and `tests` parts, notes for people.

    Raises `DataError` where a part lives in another id space, or a validation or test pair is also in train
    (such a pair is masked when ranking, so it could never be found), or a test pair is also in a valid part.
    """

    train: Interactions
    valid: dict[str, Interactions] = field(default_factory=dict)
    tests: dict[str, Interactions] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parts = [(f"valid {n}", p) for n, p in self.valid.items()]
        parts += [(f"test {n}", p) for n, p in self.tests.items()]
        for name, part in parts:
            want_same_space(name, part, self.train)
            _refuse_overlap(name, part, "train", self.train)
        for test_name, test in self.tests.items():
            for valid_name, valid in self.valid.items():
                _refuse_overlap(f"test {test_name}", test, f"valid {valid_name}", valid)

    def refit(self) -> Split:
        """The split to train on once strengths are chosen: the valid parts, which may overlap, put back into train."""
        train = self.train
        for part in self.valid.values():
            train = union(train, part.select(~contains(train, part.keys)))
        return replace(self, train=train, valid={})

    def with_notes(self, *notes: str) -> Split:
        """The same split with more lines for people."""
        return replace(self, notes=(*self.notes, *notes))


def same_space(a: Interactions, b: Interactions) -> bool:
    """True where two sets of pairs mean the same user and item by the same row numbers."""
    return (
        (a.num_users, a.num_items) == (b.num_users, b.num_items)
        and (a.user_ids is b.user_ids or np.array_equal(a.user_ids, b.user_ids))
        and (a.item_ids is b.item_ids or np.array_equal(a.item_ids, b.item_ids))
    )


def want_same_space(name: str, part: Interactions, train: Interactions) -> None:
    """DataError where a part is not in the id space of the training interactions."""
    if not same_space(part, train):
        raise DataError(
            f"{name} has another id space than train: {part!r}, train {train!r}; `data.reindex(part, train.user_ids, "
            'train.item_ids, unknown="drop")` moves it'
        )


def union(*parts: Interactions) -> Interactions:
    """All pairs of parts that share one id space and no pair, ordered by (user, item).

    A times or ratings column survives where every part has it.

    >>> union(Interactions([1], [0], 2, 2), Interactions([0], [1], 2, 2)).users
    array([0, 1], dtype=int32)
    """
    first = parts[0]
    for part in parts[1:]:
        if not same_space(part, first):
            raise DataError(f"a union needs one id space, got {first!r} and {part!r}")
    order = np.argsort(np.concatenate([p.keys for p in parts]), kind="stable")

    def join(name: str) -> np.ndarray | None:
        columns = [getattr(p, name) for p in parts]
        return None if any(c is None for c in columns) else np.concatenate(columns)[order]

    joined = {name: join(name) for name in ("users", "items", "times", "ratings")}
    return replace(first, **joined, notes=())  # type: ignore[arg-type]


def contains(data: Interactions, keys: np.ndarray) -> np.ndarray:
    """For each pair key (`Interactions.keys`), whether the pair is in `data`; bool, as long as `keys`."""
    if not len(data):
        return np.zeros(len(keys), bool)
    ordered = np.sort(data.keys)
    at = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    return ordered[at] == keys


def users_of(parts: Iterable[Interactions]) -> np.ndarray:
    """The users that have a pair in any of the parts, ascending.

    >>> users_of([Interactions([2], [0], 4, 1), Interactions([0, 2], [0, 0], 4, 1)])
    array([0, 2])
    """
    return np.flatnonzero(np.sum([part.user_counts for part in parts], axis=0) > 0)


def _frozen(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def _row_count(count: int, what: str) -> int:
    if not 0 <= int(count) <= MAX_ROW + 1:
        raise DataError(f"the number of {what} must be in [0, {MAX_ROW + 1}], got {count}")
    return int(count)


def _rows(rows: Sequence[int] | np.ndarray, count: int, what: str) -> np.ndarray:
    """Validated row numbers as int32; refuses before narrowing, so that nothing can wrap around."""
    array = np.asarray(rows)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise DataError(f"{what}s must be one row of whole numbers, got shape {array.shape} of {array.dtype}")
    if array.size and (array.min() < 0 or array.max() >= count):
        bad = array[(array < 0) | (array >= count)][0]
        raise DataError(f"{what} rows must be in [0, {count}), got {bad}; map raw ids with `from_pairs`")
    return _frozen(np.ascontiguousarray(array, np.int32))


def plain_ids(ids: Any, what: str) -> np.ndarray:
    """Ids as int64 or text, also where pandas or numpy's StringDType hold them. DataError for anything else.

    >>> plain_ids(np.array(["ann", "bo"], dtype=object), "user")
    array(['ann', 'bo'], dtype='<U3')
    """
    array = np.asarray(ids)
    if array.dtype.kind in "OT":
        array = np.asarray(array.tolist())
    if array.dtype.kind not in "iuU" and array.size:
        raise DataError(f"{what}_ids must be whole numbers or text, got {array.dtype}")
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise DataError(f"{what}_ids must be below 2**63, got {array.max()}; give them as text")
    return array if array.dtype.kind == "U" else array.astype(np.int64, copy=False)


def _id_map(ids: Any, count: int, what: str) -> np.ndarray:
    if ids is None:
        return _frozen(np.arange(count, dtype=np.int64))
    array = plain_ids(ids, what)
    if array.shape != (count,):
        raise DataError(f"{what}_ids must hold one id for each of {count} {what}s, got shape {array.shape}")
    ordered = count < 2 or bool((array[1:] > array[:-1]).all())
    if not ordered and len(np.unique(array)) != count:
        raise DataError(f"{what}_ids must differ from each other, but some id is there twice")
    return _frozen(array)


def _column(values: Any, length: int, what: str, dtype: Any) -> np.ndarray | None:
    if values is None:
        return None
    array = np.asarray(values, dtype)
    if array.shape != (length,):
        raise DataError(f"{what} must hold one value for each of {length} pairs, got shape {array.shape}")
    if array.size and array.dtype.kind not in "iuf":
        raise DataError(f"{what} must be numbers, got {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array))[0])
        raise DataError(f"{what} must be finite, but pair {bad} has {array[bad]}; repair such rows first")
    return _frozen(np.ascontiguousarray(array))


def _refuse_repeats(keys: np.ndarray, data: Interactions) -> None:
    if len(keys) < 2 or bool((keys[1:] > keys[:-1]).all()):
        return
    ordered = np.sort(keys)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        user, item = divmod(int(twice[0]), data.num_items)
        raise DataError(
            f"each pair must be there once, but {len(twice)} are repeated, the first is user {user}, "
            f"item {item}; `from_pairs` merges repeats"
        )


def _refuse_overlap(name: str, part: Interactions, other_name: str, other: Interactions) -> None:
    shared = int(contains(other, part.keys).sum())
    if shared:
        raise DataError(f"{shared} pairs of {name} are also in {other_name}; remove and count them first")
