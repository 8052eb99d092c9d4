"""Samplers: (data, key, step) -> Batch, drawn on the device inside the epoch's scan.

A sampler holds its arrays in `data`, so that they are arguments and not constants of a compiled epoch. Each batch is a
function of the epoch's key and the step alone: nothing is shuffled, stored or carried from step to step, but that
accelerators hold an epoch's order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.names import want_whole
from jaxrec.rows import materialised
from jaxrec.types import Array, Batch, want_batch

if TYPE_CHECKING:
    from jaxrec.data.interactions import Interactions

MAX_REDRAWS = 32
MAX_BITS = 2**30  # bytes of the table that rejected negatives are looked up in


class Sampler(NamedTuple):
    """`draw(data, epoch_key, step) -> Batch`; an epoch is steps 0 .. num_batches - 1.

    With `by_epoch` what is drawn changes with the epoch, and `draw` takes its number as `epoch` [] int32, too. `rows`
    are the U and I that ids are below, where they are known.
    """

    data: Any
    draw: Callable[..., Batch]
    num_batches: int
    batch_size: int
    by_epoch: bool = False
    rows: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class OrderedDraw:
    """A `Sampler.draw` that goes through an epoch in an order, which can be worked out before it, for the same bits.

    Walking the permutation step by step takes no memory, but a loop of unknown length in every step, and accelerators
    ask the host about each turn of such a loop. So there an epoch begins with `order`.
    """

    order: Callable[[Any, Array], Array]  # (data, epoch key) -> [E] int32, 4 bytes an interaction
    drawn: Callable[..., Batch]  # (data, epoch key, step, order), the order None to walk it

    def __call__(self, data: Any, key: Array, step: Array) -> Batch:
        return self.drawn(data, key, step, None)


def want_rows(batch: Batch, num_users: int, num_items: int) -> None:
    """ValueError for a batch whose arrays do not fit each other, or that names a user or an item that there is not,
    which scatters drop without a word.

    >>> want_rows(Batch(jnp.array([0]), jnp.array([3]), jnp.array([[1]])), 1, 3)
    Traceback (most recent call last):
        ...
    ValueError: the sampler's positives must be in [0, 3), got 3
    """
    want_batch(batch)
    sides = (("users", batch.users, num_users), ("positives", batch.positives, num_items))
    for name, ids, count in (*sides, ("negatives", batch.negatives, num_items)):
        found = np.asarray(ids)
        if (bad := found[(found < 0) | (found >= count)]).size:
            raise ValueError(f"the sampler's {name} must be in [0, {count}), got {bad[0]}")


def permuted(key: Array, positions: Array, size: int) -> Array:
    """Entries of a keyed pseudo-random permutation of 0 .. size-1, without building it.

    A Feistel network on the grid a x b >= size (Black & Rogaway 2002), walked until it lands below `size`: a few
    integer operations an entry where a shuffle needs a sort of everything.

    >>> sorted(permuted(jax.random.key(0), jnp.arange(7), 7).tolist())
    [0, 1, 2, 3, 4, 5, 6]
    """
    a = max(int(np.ceil(np.sqrt(size))), 1)
    b = max(-(-size // a), 1)
    rounds = jax.random.bits(key, (6,), jnp.uint32)

    def mix(x: Array, salt: Array) -> Array:
        x = (x ^ salt) * jnp.uint32(0x9E3779B1)
        x = (x ^ (x >> 15)) * jnp.uint32(0x85EBCA77)
        x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE3D)
        return x ^ (x >> 16)

    def scramble(x: Array) -> Array:
        left, right = x // jnp.uint32(b), x % jnp.uint32(b)
        for r in range(0, 6, 2):
            left = (left + mix(right, rounds[r]) % jnp.uint32(a)) % jnp.uint32(a)
            right = (right + mix(left, rounds[r + 1]) % jnp.uint32(b)) % jnp.uint32(b)
        return left * jnp.uint32(b) + right

    first = scramble(positions.astype(jnp.uint32))
    limit = jnp.uint32(size)
    last = jax.lax.while_loop(
        lambda x: jnp.any(x >= limit), lambda x: jnp.where(x >= limit, scramble(x), x), first
    )
    return last.astype(jnp.int32)


def quick_bits(key: Array, shape: tuple[int, ...]) -> Array:
    """Random bits [shape] uint32 by XLA's own Threefry; not the bits of `jax.random.bits`, in a fifth of its time.

    They are written out: fused into the loop of a gather, the generator would run element by element. Under `vmap` keys
    go one after the other, since the generator by itself would not keep to each one's own bits.
    """

    @jax.custom_batching.sequential_vmap
    def generate(words: Array) -> Array:
        bits: Array = jax.lax.rng_bit_generator(words, shape, algorithm=jax.lax.RandomAlgorithm.RNG_THREE_FRY)[1]
        return bits

    words = jnp.resize(jax.random.key_data(key).ravel(), (4,))
    written: Array = materialised(generate(words), (words[:1] >> 1).astype(jnp.int32))
    return written


def _bits(key: Array, shape: tuple[int, ...]) -> Array:
    return jax.random.bits(key, shape, jnp.uint32)


def uniform_ids(key: Array, shape: tuple[int, ...], size: int, bits: Callable[..., Array] = _bits) -> Array:
    """Ids of 0 .. size-1 drawn with replacement, from 32 random bits each.

    The bits are taken modulo `size`, so probabilities differ by a factor of at most 1 + size/2³²: half the work of
    `jax.random.randint`, which spends as many bits again on making that smaller.
    """
    return (bits(key, shape) % jnp.uint32(size)).astype(jnp.int32)


class AliasTable(NamedTuple):
    """Draws from a discrete distribution in constant time (Walker 1977; Vose 1991)."""

    accept: Array  # [I] probability of keeping the column
    other: Array  # [I] what is drawn otherwise
    log_q: Array  # [I] log probability


def alias_table(weights: np.ndarray) -> AliasTable:
    """Prepares draws with probability proportional to weights [I], which are finite, >= 0 and not all 0."""
    weights = np.asarray(weights, np.float64)
    valid = weights.ndim == 1 and np.all(np.isfinite(weights)) and np.all(weights >= 0) and weights.sum() > 0
    if not valid:
        raise ValueError("weights must be one axis of finite numbers >= 0, not all of them 0")
    q = weights / weights.sum()
    accept, other = q * len(q), np.arange(len(q))
    small, large = list(np.flatnonzero(accept < 1)), list(np.flatnonzero(accept >= 1))
    while small and large:
        low, high = small.pop(), large[-1]
        other[low] = high
        accept[high] -= 1.0 - accept[low]
        if accept[high] < 1:
            small.append(large.pop())
    accept[small] = 1.0  # what is left differs from 1 by rounding only
    accept[large] = 1.0
    with np.errstate(divide="ignore"):
        log_q = np.log(q)
    return AliasTable(
        jnp.asarray(accept, jnp.float32), jnp.asarray(other, jnp.int32), jnp.asarray(log_q, jnp.float32)
    )


def draw_alias(key: Array, table: AliasTable, shape: tuple[int, ...]) -> Array:
    """Ids [shape] drawn with replacement from an alias table."""
    column_key, coin_key = jax.random.split(key)
    column = uniform_ids(column_key, shape, table.other.shape[0])
    coin = jax.random.uniform(coin_key, shape)
    return jnp.where(coin < table.accept[column], column, table.other[column])


def find_pairs(starts: Array, items: Array, users: Array, candidates: Array) -> tuple[Array, Array]:
    """Where user b's candidate (b, k) is in the training data: users [B], candidates [B, K] -> positions, found [B, K].

    `starts` [U+1] and `items` [E] are the history in CSR form with ids ascending within each user; a binary search in
    the user's segment.
    """
    low = jnp.broadcast_to(starts[users][:, None], candidates.shape)
    end = jnp.broadcast_to(starts[users + 1][:, None], candidates.shape)

    # A loop on the device: unrolled, its nested selects took XLA minutes to compile on 800,000 interactions.
    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        below = (items.at[middle].get(mode="fill", fill_value=0) < candidates) & (low < high)
        return jnp.where(below, middle + 1, low), jnp.where(below | (low >= high), high, middle)

    low, _ = jax.lax.fori_loop(0, max(int(items.shape[0]).bit_length(), 1), halve, (low, end))
    return low, (low < end) & (items.at[low].get(mode="fill", fill_value=-1) == candidates)


def is_known(starts: Array, items: Array, users: Array, candidates: Array) -> Array:
    """Whether user b has candidate (b, k) in the training data, from `find_pairs`: [B], [B, K] -> bool [B, K]."""
    return find_pairs(starts, items, users, candidates)[1]


def known_bits(train: Interactions) -> np.ndarray:
    """Which items each user has, a bit each: [U, ceil(I/32)] uint32; item i is bit i % 32 of word i // 32."""
    bits = np.zeros((train.num_users, -(-train.num_items // 32)), np.uint32)
    np.bitwise_or.at(bits, (train.users, train.items >> 5), np.uint32(1) << (train.items & 31).astype(np.uint32))
    return bits


def has_bit(bits: Array, users: Array, items: Array) -> Array:
    """Whether user b has item k, by `known_bits`: users [B], items [K] or each row's own [B, K] -> bool [B, K]."""
    words = bits[users][:, items >> 5] if items.ndim == 1 else bits[users[:, None], items >> 5]
    place = (items & 31).astype(jnp.uint32)
    return (words >> jnp.broadcast_to(place, words.shape)) & 1 == 1


class _Data(NamedTuple):
    users: Array  # [E] ordered by user
    items: Array  # [E] ascending within each user
    starts: Array  # [U+1]
    active: Array  # users with a history
    alias: AliasTable | None
    bits: Array | None  # [U, I/32], where negatives are rejected


def want_negatives(train: Interactions) -> None:
    """ValueError where a user has every item, so that no negative of a row's own is left to draw."""
    if train.user_counts.max(initial=0) >= train.num_items:
        full = train.user_ids[train.user_counts.argmax()]
        raise ValueError(
            f"user {full} has every item: no negative is left to draw; leave such users out, or let a batch share its "
            "negatives"
        )


def sampler(
    train: Interactions,
    *,
    batch_size: int = 4096,
    num_negatives: int = 1,
    shared: bool = False,
    in_batch: bool = False,
    popularity: float = 0.0,
    reject: bool = False,
    by: Literal["interaction", "user"] = "interaction",
    rows_per_user: int = 1,
) -> Sampler:
    """Positives from the training interactions, negatives ∝ n_i^popularity (0: uniform over all items).

    by: "interaction" passes over a pseudo-random permutation of the interactions each epoch (the last batch is filled
        up from the permutation's beginning); "user" draws users uniformly, then one of their items.
    rows_per_user: R > 1 takes the user of an interaction, or a user, for R rows, each with an item of theirs drawn with
        replacement: interactions are as likely as before, and a user's row is read and written once for R of them.
    shared: one set of K negatives for the whole batch; a row's own positive among them is left out of its loss.
    in_batch: the batch's positives are the negatives, whatever num_negatives is, and log_q follows how those of the
        other B − R rows are drawn: q_i = n_i/E by interaction, and by user the mean of 1/n_u over users, 0 for those
        without i. The R rows that share a user with a row, itself among them, are left out of its loss, and so are
        repeats of its positive.
    reject: negatives that the user is known to like don't count. A row's own ones are drawn again, and one that keeps
        colliding (32 times) is left out of the loss through `Batch.where`; shared and in-batch ones are left out of
        the rows that they don't suit. Looked up in a table of U x I bits, or searched for where that takes over 1 GiB.

    Raises ValueError for contradicting options, an empty training set, and, where a row is to have negatives of its own
    that are rejected, a user that has every item.
    """
    if len(train) == 0:
        raise ValueError("no training interactions to sample from")
    sizes = {"batch_size": batch_size, "num_negatives": num_negatives, "rows_per_user": rows_per_user}
    for name, number in sizes.items():
        want_whole(name, number)
    if batch_size % rows_per_user:
        raise ValueError(f"batch_size must be a multiple of rows_per_user, got {batch_size} and {rows_per_user}")
    if by not in ("interaction", "user"):
        raise ValueError(f"by must be 'interaction' or 'user', got {by!r}")
    if in_batch and (shared or popularity != 0.0):
        raise ValueError(
            "in_batch takes a batch's positives for its negatives, so it wants shared=False and popularity=0, "
            f"got shared={shared} and popularity={popularity}"
        )
    if reject and not (shared or in_batch):
        want_negatives(train)
    num_batches = -(-len(train) // batch_size)
    users_a_batch = -(-len(train) // (num_batches * rows_per_user))  # as even as can be
    batch_size = users_a_batch * rows_per_user
    starts, items = train.csr()
    counts = train.item_counts
    with np.errstate(divide="ignore"):
        weights = np.where(counts > 0, counts.astype(np.float64) ** popularity, 0.0)
    use_bits = reject and train.num_users * train.num_items <= 8 * MAX_BITS
    data = _Data(
        users=jnp.asarray(np.repeat(np.arange(train.num_users, dtype=np.int32), np.diff(starts))),
        items=jnp.asarray(items, jnp.int32),
        starts=jnp.asarray(starts, jnp.int32),
        active=jnp.asarray(np.flatnonzero(np.diff(starts)), jnp.int32),
        alias=alias_table(weights) if popularity != 0.0 else None,
        bits=jnp.asarray(known_bits(train)) if use_bits else None,
    )
    frequency: np.ndarray
    if by == "user":
        share = 1.0 / (np.count_nonzero(train.user_counts) * train.user_counts[train.users])
        frequency = np.bincount(train.items, share, minlength=train.num_items)
    else:
        frequency = counts / len(train)
    log_frequency = jnp.asarray(np.log(np.where(counts > 0, frequency, 1.0)), jnp.float32)

    def positives(data: _Data, key: Array, step: Array, order: Array | None) -> tuple[Array, Array]:
        if by == "interaction":
            position = (step * users_a_batch + jnp.arange(users_a_batch)) % len(train)
            chosen = permuted(key, position, len(train)) if order is None else order[position]
            users = data.users[chosen]
            if rows_per_user == 1:
                return users, data.items[chosen]
            item_key = jax.random.fold_in(key, step)
        else:
            user_key, item_key = jax.random.split(jax.random.fold_in(key, step))
            users = data.active[uniform_ids(user_key, (users_a_batch,), data.active.shape[0])]
        low = data.starts[users]
        if rows_per_user == 1:
            return users, data.items[low + jax.random.randint(item_key, low.shape, 0, data.starts[users + 1] - low)]
        number = (data.starts[users + 1] - low).astype(jnp.uint32)[:, None]
        own = quick_bits(item_key, (users_a_batch, rows_per_user)) % number
        return users, data.items[low[:, None] + own.astype(jnp.int32)].ravel()

    def items_at_random(data: _Data, key: Array, shape: tuple[int, ...]) -> Array:
        if data.alias is not None:
            return draw_alias(key, data.alias, shape)
        return uniform_ids(key, shape, train.num_items, quick_bits if rows_per_user > 1 else _bits)

    def known_to(data: _Data, users: Array, items: Array) -> Array:
        """Whether the users [B] have the items, [K] or [B, K]: bool [B, K]."""
        if data.bits is not None:
            return has_bit(data.bits, users, items)
        return is_known(data.starts, data.items, users, jnp.broadcast_to(items, (len(users), items.shape[-1])))

    def unknown_items(data: _Data, key: Array, users: Array) -> tuple[Array, Array]:
        def again(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            tries, chosen, known = carry
            fresh = items_at_random(data, jax.random.fold_in(key, tries), chosen.shape)
            chosen = jnp.where(known, fresh, chosen)
            return tries + 1, chosen, known_to(data, users, chosen)

        shape = (batch_size, num_negatives)
        start = (jnp.int32(0), jnp.zeros(shape, jnp.int32), jnp.ones(shape, bool))
        _, chosen, known = jax.lax.while_loop(
            lambda carry: (carry[0] < MAX_REDRAWS) & jnp.any(carry[2]), again, start
        )
        return chosen, ~known

    def suits(data: _Data, users: Array, items: Array, negatives: Array) -> Array:
        where = negatives[None, :] != items[:, None]
        if not reject:
            return where
        return where & ~known_to(data, users, negatives)

    def order_of(data: _Data, key: Array) -> Array:
        return permuted(jax.random.split(key)[0], jnp.arange(len(train), dtype=jnp.int32), len(train))

    def drawn(data: _Data, key: Array, step: Array, order: Array | None = None) -> Batch:
        positive_key, negative_key = jax.random.split(key)
        negative_key = jax.random.fold_in(negative_key, step)
        users, items = positives(data, positive_key, step, order)
        by_row = jnp.repeat(users, rows_per_user)
        if in_batch:
            owner = jnp.arange(batch_size) // rows_per_user
            where = suits(data, by_row, items, items) & (owner[:, None] != owner[None, :])
            others = max(batch_size - rows_per_user, 1)
            return Batch(users, items, items, where, jnp.log(others * 1.0) + log_frequency[items])
        if reject and not shared:
            negatives, where = unknown_items(data, negative_key, by_row)
            return Batch(users, items, negatives, where)
        if not shared:
            return Batch(users, items, items_at_random(data, negative_key, (batch_size, num_negatives)))
        negatives = items_at_random(data, negative_key, (num_negatives,))
        if data.alias is not None:
            log_q = jnp.log(num_negatives * 1.0) + data.alias.log_q[negatives]
        else:
            log_q = jnp.full(num_negatives, np.log(num_negatives / train.num_items), jnp.float32)
        return Batch(users, items, negatives, suits(data, by_row, items, negatives), log_q)

    draw = OrderedDraw(order_of, drawn) if by == "interaction" else drawn
    return Sampler(data, draw, num_batches, batch_size, rows=(train.num_users, train.num_items))
