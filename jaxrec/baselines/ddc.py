"""DDC: directional decomposition and correction of a trained model (Liu et al. 2025, arXiv 2512.10688).

Two scalars a user are trained on a base that stays: a along the direction of popularity, b along the user's own
preference; positives move users along the second, negatives along the first. How the two directions are measured is
this library's reading of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec import objectives, samplers
from jaxrec.data.interactions import Interactions
from jaxrec.ledger import GradientLedger
from jaxrec.models.base import candidate_scores, pair_scores
from jaxrec.models.wrappers import unit
from jaxrec.rows import product
from jaxrec.select import Arm
from jaxrec.transforms.adjustment import Adjustment, Strength, fold_bias
from jaxrec.types import Array, Batch, Tables


class Directions(NamedTuple):
    """Where users are moved: all along one direction, and each along one of its own."""

    popularity: Array  # [D], unit
    preference: Array  # [U, D], unit and orthogonal to it; 0 for a user without a history


class Scalars(NamedTuple):
    """How far each user is moved."""

    popularity: Array  # [U] a_u
    preference: Array  # [U] b_u


def directions(tables: Tables, train: Interactions, *, head: float = 0.05) -> Directions:
    """d = unit(mean of the `head` share of items with most interactions − mean of the others), and p_u.

    p_u = unit(m_u − ⟨m_u, d⟩d) with m_u the mean of the user's own items.
    """
    if not 0 < head < 1:
        raise ValueError(f"ddc wants a share of popular items in (0, 1), got {head}; 0.05 is usual")
    item = fold_bias(tables).item
    order = np.argsort(-train.item_counts, kind="stable")
    cut = min(max(round(head * len(order)), 1), len(order) - 1)
    d = unit(jnp.mean(item[order[:cut]], axis=0) - jnp.mean(item[order[cut:]], axis=0))
    total = jnp.zeros((tables.user.shape[0], item.shape[1])).at[train.users].add(item[train.items])
    own = total / jnp.maximum(jnp.asarray(train.user_counts, jnp.float32), 1.0)[:, None]
    return Directions(d, unit(own - product(own, d)[:, None] * d[None, :]))


def loss(scalars: Scalars, tables: Tables, along: Directions, batch: Batch) -> Array:
    """ℓ = mean_j softplus(⟨u + a_u d, v_j⟩ − ⟨u + b_u p_u, v_i⟩), [B]: BPR, each role along a direction of its own.

    So b is moved by positives only and a by negatives only.
    """
    user = tables.user[batch.users]
    pulled = user + scalars.preference[batch.users][:, None] * along.preference[batch.users]
    pushed = user + scalars.popularity[batch.users][:, None] * along.popularity[None, :]
    positive = pair_scores(pulled, tables.item[batch.positives])
    negative = candidate_scores(pushed, tables.item[batch.negatives])
    return objectives.bpr()(positive, negative, where=batch.where)


def fit(
    tables: Tables,
    train: Interactions,
    *,
    key: Array,
    along: Directions | None = None,
    epochs: int = 5,
    learning_rate: float = 0.01,
    batch_size: int = 4096,
) -> Scalars:
    """Trains both scalars of every user from 0 by Adam on the mean loss, one uniform negative a row."""
    tables = fold_bias(tables)
    along = directions(tables, train) if along is None else along
    sampler = samplers.sampler(train, batch_size=batch_size)
    optimizer = optax.adam(learning_rate)
    Carry = tuple[Scalars, optax.OptState]

    @jax.jit
    def epoch(carry: Carry, key: Array, data: Any, tables: Tables, along: Directions) -> Carry:
        def update(carry: Carry, i: Array) -> tuple[Carry, None]:
            scalars, state = carry
            batch = sampler.draw(data, key, i)
            gradient = jax.grad(lambda s: jnp.mean(loss(s, tables, along, batch)))(scalars)
            with jax.numpy_dtype_promotion("standard"):  # optax raises floats to whole powers
                change, state = optimizer.update(gradient, state)
            return (optax.apply_updates(scalars, change), state), None

        return jax.lax.scan(update, carry, jnp.arange(sampler.num_batches, dtype=jnp.int32))[0]

    start = Scalars(jnp.zeros(train.num_users), jnp.zeros(train.num_users))
    carry = (start, optimizer.init(start))
    for number in range(epochs):
        carry = epoch(carry, jax.random.fold_in(key, number), sampler.data, tables, along)
    return carry[0]


def adjustment(
    scalars: Scalars, along: Directions, *, popularity: Strength = 1.0, preference: Strength = 1.0
) -> Adjustment:
    """u ← u + α a_u d + β b_u p_u; the source has α = β = 1, and with both 0 scores stay."""

    def apply(tables: Tables, ledger: GradientLedger) -> Tables:
        tables = fold_bias(tables)
        moved = (popularity * scalars.popularity)[:, None] * along.popularity[None, :]
        moved += (preference * scalars.preference)[:, None] * along.preference
        return tables._replace(user=tables.user + moved)

    return apply


def arm(scalars: Scalars, along: Directions) -> Arm:
    """How much of either trained correction is applied, in [0, 2], to be tuned like the library's own."""
    return Arm(
        ("popularity", "preference"),
        (0, 0),
        (2.0, 2.0),
        lambda s: adjustment(scalars, along, popularity=s[0], preference=s[1]),
    )
