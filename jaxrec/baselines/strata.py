"""Negatives more popular than the positive, and less popular ones, half and half: what DICE and Sam&Reg draw."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.data.interactions import Interactions
from jaxrec.presets import Settings
from jaxrec.samplers import MAX_REDRAWS, Sampler, is_known, want_negatives
from jaxrec.types import Array, Batch


class _Data(NamedTuple):
    base: Any
    order: Array  # [I] items, least popular first
    ascending: Array  # [I] their counts
    counts: Array  # [I]
    starts: Array  # [U+1]
    items: Array  # [E]


def want_own(name: str, settings: Settings) -> None:
    """ValueError unless each row draws its own negatives, which settings leave to the method."""
    s = settings
    if s.shared or s.in_batch or s.popularity != 0.0:
        got = f"shared={s.shared}, in_batch={s.in_batch}, popularity={s.popularity}"
        raise ValueError(f"{name} draws negatives of each row's own by their popularity, got {got}; leave all three")


def around(
    base: Sampler,
    train: Interactions,
    *,
    num_negatives: int = 1,
    margin: float = 0.0,
    decay: float = 1.0,
    pool: int = 1,
    reject: bool = False,
) -> Sampler:
    """The positives of `base`; each negative with probability 1/2 uniform over n_j > n_i + m, else over n_j < n_i − m.

    m = margin · decay^epoch. Where one of the two sets has fewer than `pool` items the other is drawn from, where both
    have fewer the larger one, and where both are empty all items. With `reject` a negative that the user has is drawn
    again from the same set, and left out through `Batch.where` if it keeps colliding.
    """
    if margin < 0 or not 0 < decay <= 1 or pool < 1:
        raise ValueError(f"wanted margin >= 0, decay in (0, 1] and pool >= 1, got {margin}, {decay} and {pool}")
    if reject:
        want_negatives(train)
    counts = train.item_counts
    order = np.argsort(counts, kind="stable")
    starts, items = train.csr()
    data = _Data(
        base.data,
        jnp.asarray(order, jnp.int32),
        jnp.asarray(counts[order], jnp.float32),
        jnp.asarray(counts, jnp.float32),
        jnp.asarray(starts, jnp.int32),
        jnp.asarray(items, jnp.int32),
    )
    number = train.num_items

    def draw(data: _Data, key: Array, step: Array, epoch: Array | int = 0) -> Batch:
        batch = base.draw(data.base, key, step)
        m = margin * jnp.float32(decay) ** jnp.asarray(epoch, jnp.float32)
        n = data.counts[batch.positives]
        more_from = jnp.searchsorted(data.ascending, n + m, side="right").astype(jnp.int32)
        less = jnp.searchsorted(data.ascending, n - m, side="left").astype(jnp.int32)  # items less popular: [0, less)
        more = number - more_from
        both, larger = (more >= pool) & (less >= pool), more > less
        only = jnp.where(more >= pool, True, jnp.where(less >= pool, False, larger))
        shape = (batch.users.shape[0], num_negatives)

        coin, own = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, step), 1))
        # Thrown once: a kind of which the user has much is redrawn, or it would come less often than the other.
        up = jnp.where(both[:, None], jax.random.bernoulli(coin, 0.5, shape), only[:, None])

        def once(key: Array) -> Array:
            size = jnp.where(up, more[:, None], less[:, None])
            first = jnp.where(up & (size > 0), more_from[:, None], 0)
            size = jnp.where(size > 0, size, number).astype(jnp.uint32)
            inside = (jax.random.bits(key, shape, jnp.uint32) % size).astype(jnp.int32)
            return data.order[first + inside]

        if not reject:
            return Batch(batch.users, batch.positives, once(own))

        def again(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            tries, chosen, known = carry
            chosen = jnp.where(known, once(jax.random.fold_in(own, tries)), chosen)
            return tries + 1, chosen, is_known(data.starts, data.items, batch.users, chosen)

        begun = (jnp.int32(0), jnp.zeros(shape, jnp.int32), jnp.ones(shape, bool))
        _, chosen, known = jax.lax.while_loop(lambda c: (c[0] < MAX_REDRAWS) & jnp.any(c[2]), again, begun)
        return Batch(batch.users, batch.positives, chosen, ~known)

    return base._replace(data=data, draw=draw, by_epoch=True)
