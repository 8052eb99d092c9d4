"""Ranking the whole catalogue: blocked over users, masked, exact, ties to the smaller item id."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.names import want_whole
from jaxrec.rows import accelerated, product, widened
from jaxrec.types import Array, Scorer, Tables

if TYPE_CHECKING:
    from jaxrec.data.interactions import Interactions

EIGHTH = 8
GROUP = EIGHTH**2  # items per group in the top-k by stages
# A block's users are a multiple of the first: products of other widths take kernels that round otherwise, on CPUs with
# AVX-512 all but multiples of 64. Catalogues of more than VAST items get the second, for the memory.
ROWS, FEW, VAST = 64, 16, 1 << 20
CELLS = 2_600_000  # scores of an automatic block: 10 MB, so that those of two threads stay in a usual last-level cache
CHUNK = 1024  # users of one compiled call, which scans their blocks and so reuses the memory of one
# Accelerators have no such cache, and starting a kernel costs them as much as such a block: 256 MB of scores, of at
# most so many users, which are then a call's.
MANY_CELLS, MOST = 1 << 26, 4096


class TopK(NamedTuple):
    """Ranked lists, best first."""

    users: np.ndarray  # [N] int32
    items: np.ndarray  # [N, k] int32, -1 where fewer than k items are left
    scores: np.ndarray  # [N, k] float32, -inf there


def scores(tables: Tables, users: Array, items: Array) -> Array:
    """The scores of pairs, <user_u, item_i> + bias_strength_u * item_bias_i: users [..], items [..] -> [..].

    >>> tables = Tables(jnp.ones((2, 3)), jnp.ones((4, 3)), item_bias=jnp.arange(4.0))
    >>> scores(tables, jnp.array([0, 1]), jnp.array([0, 3])).tolist()
    [3.0, 6.0]
    """
    tables = _in_32_bits(tables)
    found = jnp.sum(tables.user[users] * tables.item[items], axis=-1)
    if tables.item_bias is None:
        return found
    bias = tables.item_bias[items]
    return found + (bias if tables.bias_strength is None else tables.bias_strength[users] * bias)


def masked_scores(tables: Tables, users: Array, excluded: Array) -> Array:
    """The scores of every item, -inf at the excluded: users [b], excluded [b, M] padded with I -> [b, I]."""
    return jax.lax.optimization_barrier(scores_by_item(tables, users, excluded)).T  # the same bits, so the same product


def scores_by_item(tables: Tables, users: Array, excluded: Array) -> Array:
    """`masked_scores` the other way round, [I, b]: on a CPU a product of this shape is up to 1.8 times as quick."""
    tables = _in_32_bits(tables)
    found = product(tables.item, tables.user[users].T)
    if tables.item_bias is not None:
        strength = 1.0 if tables.bias_strength is None else tables.bias_strength[users][None, :]
        found = found + strength * tables.item_bias[:, None]
    if tables.user.shape[1] == 1:  # of one product the sign stays; a sum starts from 0, and 0 + -0 is 0
        found = jnp.where(found == 0, 0.0, found)  # top_k holds -0 for less than 0
    columns = jnp.arange(users.shape[0])[:, None]
    return found.at[excluded, columns].set(-jnp.inf, mode="drop")


def _in_32_bits(tables: Tables) -> Tables:
    return jax.tree.map(widened, tables)


def rank_block(tables: Tables, users: Array, excluded: Array, k: int) -> tuple[Array, Array]:
    """The k best items of each user, pure: users [b], excluded [b, M] padded with I -> items, scores [b, k].

    Equal scores go to the smaller item id. Where fewer than k items are left: item -1, score -inf.
    """
    return best_of(scores_by_item(tables, users, excluded), k)


def best_of(found: Array, k: int) -> tuple[Array, Array]:
    """The k best of masked scores by item [I, b] -> items, scores [b, k], as `rank_block` gives them."""
    best, items = _exact_top_k(found, k)
    return jnp.where(best > -jnp.inf, items, -1).astype(jnp.int32), best


def _exact_top_k(found: Array, k: int) -> tuple[Array, Array]:
    """lax.top_k of [I, b] by column, in three stages: the k best groups of GROUP neighbouring items, the k best eighths
    of these, then the items of those and the ones that are left after the last whole group.

    Exact, ties included: say item x of group g is among the k best, and g is not among the k groups with the
    largest maxima (ties to the smaller group). Each of those k groups has a greater maximum than g, or an equal
    one and smaller ids; so each holds an item that comes before x, and x is not among the k best. The same holds
    of the eighths of those groups.
    """
    size, width = found.shape
    if size <= 2 * k * GROUP:
        return jax.lax.top_k(found.T, k)
    whole, columns = size // GROUP * GROUP, jnp.arange(width)[:, None]
    eighths = _eighth_maxima(found[:whole])
    groups = jax.lax.top_k(jnp.max(eighths.reshape(-1, EIGHTH, width), axis=1).T, k)[1]
    parts = _parts(groups)
    parts = jnp.take_along_axis(parts, jax.lax.top_k(eighths[parts, columns], k)[1], axis=1)
    rest = jnp.broadcast_to(jnp.arange(whole, size, dtype=parts.dtype)[None, :], (width, size - whole))
    ids = jnp.concatenate([_parts(parts), rest], axis=1)
    best, where = jax.lax.top_k(found[ids, columns], k)
    return best, jnp.take_along_axis(ids, where, axis=1)


def _parts(ids: Array) -> Array:
    """The EIGHTH parts of each: [b, k] -> [b, k * EIGHTH], ascending, since top_k keeps the first of equals."""
    ids = jnp.sort(ids, axis=-1)
    return (ids[:, :, None] * EIGHTH + jnp.arange(EIGHTH, dtype=ids.dtype)[None, None, :]).reshape(len(ids), -1)


def _eighth_maxima(found: Array) -> Array:
    """The largest of each EIGHTH neighbours of a column: [P * EIGHTH, b] -> [P, b].

    A chain of selections vectorises on CPUs where a maximum, which must pass NaN on, does not; scores are finite.
    """
    parts = found.reshape(-1, EIGHTH, found.shape[1])
    return functools.reduce(lambda a, b: jnp.where(a > b, a, b), [parts[:, n] for n in range(EIGHTH)])


def scan_blocks(rank_one: Callable[..., Any], block: int, *rows: Any) -> Any:
    """Applies `rank_one(*rows of a block)` to blocks of `block` rows one after the other and joins what comes back."""
    split = jax.tree.map(lambda x: jnp.reshape(x, (-1, block, *x.shape[1:])), rows)
    found = jax.lax.map(lambda x: rank_one(*x), split)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


@jax.jit(static_argnames=("k", "block"))
def _rank_chunk(tables: Tables, users: Array, excluded: Array, k: int, block: int) -> tuple[Array, Array]:
    found: tuple[Array, Array] = scan_blocks(lambda u, x: rank_block(tables, u, x, k), block, users, excluded)
    return found


def pad_lists(interactions: Interactions, users: np.ndarray, fill: int = -1) -> np.ndarray:
    """The items of each user, ascending, then `fill`: users [N] -> [N, T] int32, T the longest list (at least 1)."""
    pointers, items = interactions.csr()
    starts, counts = pointers[users], pointers[np.asarray(users) + 1] - pointers[users]
    width = max(1, int(counts.max(initial=0)))
    columns = np.arange(width)
    inside = columns < counts[:, None]
    padded = np.full(inside.shape, fill, np.int32)
    padded[inside] = items[(starts[:, None] + columns)[inside]]
    return padded


def top_k(
    tables: Tables,
    users: np.ndarray | Sequence[int] | None,
    exclude: Interactions | Sequence[Interactions] | None,
    *,
    k: int,
    block: int | None = None,
) -> TopK:
    """The k best items of each user among those not in `exclude`: exact, equal scores to the smaller item id.

    Memory is bounded by block x items; `block` is a number of users (chosen if None; rounded up to a multiple of
    64) and changes no bit of the result, nor does the order of `users` (None: all of them). With more than 2^20 items
    it is a multiple of 16, and on CPUs with AVX-512 a score's last bits may depend on it, as they may on accelerators.

    Raises:
        ValueError: k outside 1..I, unknown users, tables that are not finite or do not fit each other.
        MemoryError: the block would not fit into the memory that is free.
    """
    num_users, num_items = check_tables(tables)
    want_k(k, num_items)
    users = check_users(users, num_users)
    excludes = _as_list(exclude, num_users, num_items)
    block = block_rows(block, len(users), num_items)
    padded_rows, lengths = _masking(excludes, users, num_items)
    order = np.argsort(lengths, kind="stable")  # neighbours of like length share a narrow mask
    items = np.empty((len(users), k), np.int32)
    best = np.empty((len(users), k), np.float32)

    chunk = chunk_rows(block, len(users))

    def run(start: int) -> None:
        where = order[start : start + chunk]
        rows, masks = padded_rows(users[where], chunk)
        found, values = _rank_chunk(tables, rows, masks, k, block)
        items[where], best[where] = np.asarray(found)[: len(where)], np.asarray(values)[: len(where)]

    run_all(run, range(0, len(users), chunk))
    return TopK(users, items, best)


def positions(
    tables: Tables,
    users: np.ndarray,
    items: np.ndarray,
    exclude: Interactions | Sequence[Interactions] | None,
    *,
    block: int | None = None,
) -> np.ndarray:
    """The exact rank of item_n in the full ranking of user_n, 1 the best: users [N], items [N] -> [N] int64.

    Excluded items take no place, and an excluded item itself has the rank after all others that are not excluded
    or have a smaller id. Raises as `top_k` does, and ValueError for another number of items than users.
    """
    num_users, num_items = check_tables(tables)
    users, items = check_users(users, num_users), np.asarray(items, np.int32)
    if items.shape != users.shape:
        raise ValueError(f"positions wants one item a user, got {len(users)} users and items of shape {items.shape}")
    if len(items) and not 0 <= items.min() <= items.max() < num_items:
        raise ValueError(f"items must be in 0..{num_items - 1}, got {items.min()}..{items.max()}")
    excludes = _as_list(exclude, num_users, num_items)
    block = block_rows(block, len(users), num_items)
    found = np.empty(len(users), np.int64)
    padded_rows, lengths = _masking(excludes, users, num_items)
    order = np.argsort(lengths, kind="stable")

    chunk = chunk_rows(block, len(users))

    def run(start: int) -> None:
        where = order[start : start + chunk]
        rows, masks = padded_rows(users[where], chunk)
        wanted = np.zeros(chunk, np.int32)
        wanted[: len(where)] = items[where]
        found[where] = np.asarray(_positions_chunk(tables, rows, masks, wanted, block))[: len(where)]

    run_all(run, range(0, len(users), chunk))
    return found


@jax.jit(static_argnames="block")
def _positions_chunk(tables: Tables, users: Array, excluded: Array, items: Array, block: int) -> Array:
    def one(users: Array, excluded: Array, items: Array) -> Array:
        found = masked_scores(tables, users, excluded)
        own = jnp.take_along_axis(found, items[:, None], axis=1)
        before = jnp.arange(found.shape[1])[None, :] < items[:, None]
        return 1 + jnp.sum((found > own) | ((found == own) & before), axis=1)

    found: Array = scan_blocks(one, block, users, excluded, items)
    return found


def check_tables(tables: Tables) -> tuple[int, int]:
    """(U, I) of floating-point tables whose shapes fit and whose scores are finite; else a ValueError that says which.

    TypeError for what is no Tables, like the Scorer that some models give.
    """
    if not isinstance(tables, Tables):
        raise TypeError(f"Tables are wanted, got {type(tables).__name__}; a Scorer is ranked by `rank.top_k_scores`")
    (num_users, width), (num_items, item_width) = tables.user.shape, tables.item.shape
    if width != item_width:
        raise ValueError(f"user and item rows must be equally wide, got {width} and {item_width}")
    for name, wanted in (("item_bias", num_items), ("bias_strength", num_users)):
        part = getattr(tables, name)
        if part is not None and part.shape != (wanted,):
            raise ValueError(f"tables.{name} must have shape ({wanted},), got {part.shape}")
    parts = {name: part for name, part in tables._asdict().items() if part is not None}
    for name, part in parts.items():
        if not jnp.issubdtype(part.dtype, jnp.floating):
            raise ValueError(f"tables.{name} must be floating point, got {part.dtype}; give part.astype('float32')")
    with np.errstate(over="ignore"):  # of numbers that 64 bits hold and 32 don't, which is told below
        parts = {name: jnp.asarray(part) for name, part in parts.items()}
    largest = {name: float(value) for name, value in _largest(parts).items()}
    for name, part in parts.items():
        if not np.isfinite(largest[name]):
            bad = np.flatnonzero(~np.isfinite(np.asarray(part)).reshape(len(part), -1).all(axis=1))
            raise NotFiniteError(
                f"tables.{name} must be finite, but {len(bad)} rows hold NaN or inf (first: {bad[0]}); "
                "training has diverged or an adjustment divided by zero: rank the last good state"
            )
    bias, limit = largest.get("item_bias", 0.0) * largest.get("bias_strength", 1.0), float(np.finfo(np.float32).max)
    if width * largest["user"] * largest["item"] + bias > limit:
        told = ", ".join(f"tables.{name} up to {largest[name]:.3g}" for name in parts)
        raise NotFiniteError(
            f"scores must be finite, but with {told} at width {width} they may exceed {limit:.3g}; "
            "training has diverged, or divide the user rows (and strengths) by one number, which changes no ranking"
        )
    return num_users, num_items


class NotFiniteError(ValueError):
    """Tables of which rows or scores are not finite, as those of a training that diverged."""


@jax.jit
def _largest(parts: dict[str, Array]) -> dict[str, Array]:
    """The largest absolute value of each; NaN where one is NaN."""
    return {name: jnp.max(jnp.abs(part), initial=0) for name, part in parts.items()}


def want_k(k: int, num_items: int) -> None:
    """ValueError for a length of lists that the catalogue can't have."""
    want_whole("k", k)
    if k > num_items:
        raise ValueError(f"k must be between 1 and the {num_items} items of the catalogue, got {k}; lower k")


def check_users(users: np.ndarray | Sequence[int] | None, num_users: int) -> np.ndarray:
    """Users as int32 [N], None meaning all; a ValueError where one is unknown."""
    if users is None:
        return np.arange(num_users, dtype=np.int32)
    given = np.asarray(users)
    if given.size == 0:
        return np.empty(0, np.int32)
    if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"users must be a list of whole numbers, got {given.dtype} of shape {given.shape}")
    unknown = given[(given < 0) | (given >= num_users)]
    if len(unknown):
        raise ValueError(f"users must be in 0..{num_users - 1}, got {unknown[0]} ({len(unknown)} unknown users)")
    return given.astype(np.int32)


def run_all(run: Callable[[int], None], starts: Iterable[int]) -> None:
    """Runs blocks on two threads, so that one's single-threaded stages overlap with the other's product."""
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        for _ in pool.map(run, starts):
            pass


def _as_list(
    exclude: Interactions | Sequence[Interactions] | None, num_users: int, num_items: int
) -> list[Interactions]:
    found: list[Any] = [] if exclude is None else list(exclude) if isinstance(exclude, (list, tuple)) else [exclude]
    for part in found:
        if not hasattr(part, "num_users"):
            raise TypeError(
                f"what to exclude must be Interactions, got {type(part).__name__}; data.from_scipy makes them of a "
                "sparse matrix, data.from_pairs of users and items"
            )
        if (part.num_users, part.num_items) != (num_users, num_items):
            raise ValueError(
                f"excluded interactions must cover the tables' {num_users} users and {num_items} items, "
                f"got {part.num_users} and {part.num_items}; use parts of one split"
            )
    return found


def block_rows(block: int | None, wanted: int, num_items: int, *, on_host: bool = False) -> int:
    """A multiple of ROWS, so that the product takes the same kernel whatever the block; of FEW above VAST items.

    `on_host` blocks are of a size for CPUs and ask for their memory, even where there is an accelerator.
    """
    if block is not None and block < 1:
        raise ValueError(f"block must be a positive number of users, got {block}")
    cells, most, cell = CELLS, CHUNK, min(2, os.cpu_count() or 1) * 4 * 4  # bytes of a score, for all threads
    if on_host or not accelerated():
        free = _free_memory()
    else:
        told = jax.local_devices()[0].memory_stats() or {}
        whole = told.get("bytes_limit")
        free = None if whole is None else whole - told.get("bytes_in_use", 0)
        # Of what the device has, not of what is free now, so that all calls are one program.
        cells, most = MANY_CELLS if whole is None else min(MANY_CELLS, whole // (8 * cell)), MOST
    rows = min(min(max(1, cells // num_items), most) if block is None else block, max(wanted, 1))
    unit = ROWS if num_items <= VAST else FEW
    rows = -(-rows // unit) * unit
    need = cell * rows * num_items
    if free is not None and need > free:
        raise MemoryError(
            f"ranking {rows} users x {num_items} items at once takes about {need / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB are free; pass a smaller block (None chooses one)"
        )
    return rows


def chunk_rows(block: int, wanted: int) -> int:
    """How many users one compiled call takes: whole blocks, and no more than there are."""
    return block * max(1, min(CHUNK // block, -(-wanted // block)))


def _free_memory() -> int | None:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return None


def _masking(
    excludes: list[Interactions], users: np.ndarray, num_items: int
) -> tuple[Callable[[np.ndarray, int], tuple[np.ndarray, Any]], np.ndarray]:
    """How many items are excluded for each of the users, [N], and what makes a chunk: (some of them, size) -> rows
    [size], filled up with user 0, and masks [size, M] padded with I.

    M is by `width_for`. Accelerators make the masks themselves, each set's beside the others', from histories that they
    get once, where the users have a fair part of these.
    """
    excludes = [part for part in excludes if len(part)]
    lengths = np.sum([np.zeros(len(users)), *(part.user_counts[users] for part in excludes)], axis=0)
    there = None
    if excludes and accelerated() and 4 * lengths.sum() >= sum(map(len, excludes)):
        there = [tuple(jnp.asarray(part, jnp.int32) for part in one.csr()) for one in excludes]

    def padded_rows(users: np.ndarray, size: int) -> tuple[np.ndarray, Any]:
        rows = np.concatenate([users, np.zeros(size - len(users), np.int32)])
        if there is not None:
            longest = max(int(part.user_counts[users].max()) for part in excludes)
            return rows, _masks(there, rows, min(width_for(longest), num_items), num_items)
        lists = [pad_lists(part, users, num_items) for part in excludes]
        width = sum(part.shape[1] for part in lists)
        masks = np.full((size, width_for(width)), num_items, np.int32)
        if lists:
            masks[: len(users), :width] = np.concatenate(lists, axis=1)
        return rows, masks

    return padded_rows, lengths


def width_for(longest: int) -> int:
    """The width of padded lists: 16 times a power of 4, so that few programs are compiled."""
    wide = 16
    while wide < longest:
        wide *= 4
    return wide


@jax.jit(static_argnames=("width", "num_items"))
def _masks(histories: list[tuple[Array, Array]], users: Array, width: int, num_items: int) -> Array:
    """`pad_lists` of H histories, `width` of each side by side: pointers [U+1] and items [E], E > 0; users [b] ->
    [b, H * width]."""
    lists = []
    for pointers, items in histories:
        place = pointers[users][:, None] + jnp.arange(width, dtype=jnp.int32)[None, :]
        inside = place < pointers[users + 1][:, None]
        lists.append(jnp.where(inside, items.at[place].get(mode="fill", fill_value=num_items), num_items))
    return jnp.concatenate(lists, axis=1)


def top_k_scores(
    scorer: Scorer,
    users: np.ndarray | Sequence[int] | None,
    exclude: Interactions | Sequence[Interactions] | None,
    *,
    k: int,
    block: int | None = None,
) -> TopK:
    """`top_k` for models that score a block of users in their own way: as exact, ties to the smaller item id.

    Raises as `top_k` does, and ValueError where scores have another shape than [b, I] or are not finite.
    """
    num_items = scorer.num_items
    want_k(k, num_items)
    users = check_users(users, scorer.num_users)
    excludes = _as_list(exclude, scorer.num_users, num_items)
    block = block_rows(block, len(users), num_items, on_host=True)  # where some models make their scores
    padded_rows, lengths = _masking(excludes, users, num_items)
    order = np.argsort(lengths, kind="stable")
    items = np.empty((len(users), k), np.int32)
    best = np.empty((len(users), k), np.float32)

    def run(start: int) -> None:
        where = order[start : start + block]
        rows, masks = padded_rows(users[where], block)
        found, values, finite = _rank_scores(_want_scores(scorer.block(rows), block, num_items), masks, k)
        if not finite:
            raise ValueError("scores must be finite, but a block of users has NaN or inf: the model is not usable")
        items[where], best[where] = np.asarray(found)[: len(where)], np.asarray(values)[: len(where)]

    run_all(run, range(0, len(users), block))
    return TopK(users, items, best)


def _want_scores(scores: Any, rows: int, num_items: int) -> Array:
    if scores.shape != (rows, num_items):
        raise ValueError(f"a block's scores must have shape ({rows}, {num_items}), got {scores.shape}")
    return jnp.asarray(scores, jnp.float32)


@jax.jit(static_argnames="k")
def _rank_scores(scores: Array, excluded: Array, k: int) -> tuple[Array, Array, Array]:
    scores = jnp.where(scores == 0, 0.0, scores)  # top_k holds -0 for less than 0
    masked = scores.at[jnp.arange(scores.shape[0])[:, None], excluded].set(-jnp.inf, mode="drop")
    return *best_of(masked.T, k), jnp.all(jnp.isfinite(scores))


def want_memory(need: int, what: str, cure: str) -> None:
    """MemoryError where more than the free memory is needed, in bytes, and the system tells how much is free."""
    free = _free_memory()
    if free is not None and need > free:
        raise MemoryError(f"{what} takes about {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; {cure}")
