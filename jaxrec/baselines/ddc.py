"""DDC: directional decomposition and correction of a trained model (Liu et al. 2026, arXiv 2512.10688).

    d    = unit(mean of popular items − mean of rare ones)
    p_u  = unit(mean of unit(v_i) over the user's own items of the highest scores)
    u′   = u + ‖u‖ (a_u d + b_u p_u)

The two scalars of each user are trained on a base that stays, by BPR whose positives see u + ‖u‖ b_u p_u and whose
negatives see u + ‖u‖ a_u d. This follows the authors' code (github.com/LingFeng-Liu-AI/DDC), but for what `directions`
and `fit` say.
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
from jaxrec.rows import norm
from jaxrec.select import Arm
from jaxrec.transforms.adjustment import Adjustment, Strength, fold_bias
from jaxrec.types import Array, Batch, Tables

FEWEST = 10  # items on either side, for a direction between the two
PAIRS = 1 << 18  # pairs whose rows are gathered at once


class Directions(NamedTuple):
    """Where users are moved: all along one direction, and each along one of its own."""

    popularity: Array  # [D], unit
    preference: Array  # [U, D], unit; 0 for a user without a history


class Scalars(NamedTuple):
    """How far each user is moved, in lengths of its own row."""

    popularity: Array  # [U] a_u
    preference: Array  # [U] b_u


def directions(
    tables: Tables, train: Interactions, *, rare: int = 5, popular: int = 100, share: float = 0.3
) -> Directions:
    """d from the items with at most `rare` and at least `popular` interactions, p_u from the best `share` of u's items.

    At least one item of a user counts, and no item without interactions. Where fewer than ten items are that rare or
    that popular, for which the source has no direction, the tenth of the items with fewest or with most interactions is
    taken on both sides. The source's figures are for Tmall; it leaves them to be set by hand. Its means are of as many
    items on both sides, drawn at random: four fifths of the shorter side; here they are of all.
    """
    if not 0 < share <= 1:
        raise ValueError(f"ddc wants a share of each user's items in (0, 1], got {share}; 0.3 is the source's")
    if not 0 < rare < popular:
        raise ValueError(f"ddc wants rare items to have fewer interactions than popular ones, got {rare} and {popular}")
    user, item, *_ = fold_bias(tables)
    low, high = _ends(train.item_counts, rare, popular)
    d = unit(jnp.mean(item[high], axis=0) - jnp.mean(item[low], axis=0))
    users, items = _best_pairs(np.asarray(user), np.asarray(item), train, share)
    total = jnp.zeros_like(user)
    for at in range(0, len(users), PAIRS):
        total = total.at[users[at : at + PAIRS]].add(unit(item[items[at : at + PAIRS]]))
    return Directions(d, unit(total))


def _ends(counts: np.ndarray, rare: int, popular: int) -> tuple[np.ndarray, np.ndarray]:
    """The rare and the popular items."""
    seen = np.flatnonzero(counts)
    low, high = seen[counts[seen] <= rare], seen[counts[seen] >= popular]
    if min(len(low), len(high)) < FEWEST:
        order = seen[np.argsort(counts[seen], kind="stable")]
        tenth = max(len(order) // 10, 1)
        low, high = order[:tenth], order[-tenth:]
    return low, high


def _best_pairs(user: np.ndarray, item: np.ndarray, train: Interactions, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of each user whose scores are among the best `share` of it, rounded down to at least one."""
    chunks = [slice(at, at + PAIRS) for at in range(0, len(train), PAIRS)]
    scores = [np.einsum("nd,nd->n", user[train.users[c]], item[train.items[c]]) for c in chunks]
    order = np.lexsort((-np.concatenate(scores), train.users))
    counts = np.asarray(train.user_counts)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)  # of a pair among its user's
    wanted = np.maximum((counts * share).astype(np.int64), 1)
    best = order[place < np.repeat(wanted, counts)]
    return train.users[best], train.items[best]


def loss(scalars: Scalars, tables: Tables, along: Directions, batch: Batch, *, l2: float = 1e-4) -> Array:
    """ℓ = mean_j softplus(⟨u + ‖u‖ a_u d, v_j⟩ − ⟨u + ‖u‖ b_u p_u, v_i⟩) + λ (a_u² + b_u²), [B].

    BPR, each role along a direction of its own: b is moved by positives only and a by negatives only.
    """
    user = tables.user[batch.users]
    length = jnp.linalg.norm(user, axis=1, keepdims=True)
    a, b = scalars.popularity[batch.users], scalars.preference[batch.users]
    pulled = user + length * b[:, None] * along.preference[batch.users]
    pushed = user + length * a[:, None] * along.popularity[None, :]
    positive = pair_scores(pulled, tables.item[batch.positives])
    negative = candidate_scores(pushed, tables.item[batch.negatives])
    return objectives.bpr()(positive, negative, where=batch.where) + l2 * (a * a + b * b)


def fit(
    tables: Tables,
    train: Interactions,
    *,
    key: Array,
    along: Directions | None = None,
    steps: int = 2000,
    learning_rate: float = 0.01,
    l2: float = 1e-4,
    batch_size: int = 2048,
) -> Scalars:
    """Trains both scalars of every user by Adam on the mean loss, from uniform values in [-1/2, 1/2).

    A row has one uniform negative that is not among the user's own items. The problem is convex, so it is trained until
    little moves: at least `steps` steps, in whole epochs, at a rate that falls linearly to 0. The source has a rate of
    1e-3 and stops when validation no longer gains; here `arm` chooses on validation how much of it is applied.
    """
    tables = fold_bias(tables)
    along = directions(tables, train) if along is None else along
    sampler = samplers.sampler(train, batch_size=batch_size, reject=True)
    epochs = -(-steps // sampler.num_batches)
    optimizer = optax.adam(optax.linear_schedule(learning_rate, 0.0, epochs * sampler.num_batches))
    Carry = tuple[Scalars, optax.OptState]

    @jax.jit
    def epoch(carry: Carry, key: Array, data: Any, tables: Tables, along: Directions) -> Carry:
        def update(carry: Carry, i: Array) -> tuple[Carry, None]:
            scalars, state = carry
            batch = sampler.draw(data, key, i)
            gradient = jax.grad(lambda s: jnp.mean(loss(s, tables, along, batch, l2=l2)))(scalars)
            with jax.numpy_dtype_promotion("standard"):  # optax raises floats to whole powers
                change, state = optimizer.update(gradient, state)
            return (optax.apply_updates(scalars, change), state), None

        return jax.lax.scan(update, carry, jnp.arange(sampler.num_batches, dtype=jnp.int32))[0]

    begin, key = jax.random.split(key)
    start = Scalars(*jax.random.uniform(begin, (2, train.num_users), minval=-0.5, maxval=0.5))
    carry = (start, optimizer.init(start))
    for number in range(epochs):
        carry = epoch(carry, jax.random.fold_in(key, number), sampler.data, tables, along)
    return carry[0]


def adjustment(
    scalars: Scalars, along: Directions, *, popularity: Strength = 1.0, preference: Strength = 1.0
) -> Adjustment:
    """u ← u + ‖u‖ (α a_u d + β b_u p_u); the source has α = β = 1, and with both 0 scores stay."""

    def apply(tables: Tables, ledger: GradientLedger) -> Tables:
        tables = fold_bias(tables)
        moved = (popularity * scalars.popularity)[:, None] * along.popularity[None, :]
        moved += (preference * scalars.preference)[:, None] * along.preference
        return tables._replace(user=tables.user + norm(tables.user)[:, None] * moved)

    return apply


def arm(scalars: Scalars, along: Directions) -> Arm:
    """How much of either trained correction is applied, in [0, 2], to be tuned like the library's own."""
    return Arm(
        ("popularity", "preference"),
        (0, 0),
        (2.0, 2.0),
        lambda s: adjustment(scalars, along, popularity=s[0], preference=s[1]),
    )
