"""IPL: interactions in proportion to how many like an item (Liu et al. 2023, arXiv 2305.05204)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import objectives, presets
from jaxrec.baselines.base import want_own_objective
from jaxrec.baselines.parts import Assembly, make_batch_step, want_shared
from jaxrec.data.interactions import Interactions
from jaxrec.objectives import Objective
from jaxrec.presets import Settings
from jaxrec.types import Array, Batch

SETTINGS = Settings(
    objective="bpr", normalize_users=False, negatives=64, shared=True, optimizer="adam", learning_rate=1e-3, l2=1e-5
)
"""BPR with shared uniform negatives, which the estimate of c_i is made on."""


def expected_interactions(scores: Array, num_users: int) -> Array:
    """c_k = Σ_u σ(s_uk), estimated from the users of a batch as U/B · Σ_b σ(s_bk): [B, K] -> [K].

    Where a batch draws interactions, as samplers here do, its users are drawn by how many they have, so active users
    count for more in c_k than others.
    """
    return num_users * jnp.mean(jax.nn.sigmoid(scores), axis=0)


def penalty(scores: Array, counts: Array, num_users: int, *, gamma: float) -> Array:
    """std_k(c_k / n_k^{2−γ}) over the items of a batch: scores [B, K], counts [K] -> []; n_k < 1 counts as 1."""
    rate = expected_interactions(scores, num_users) / jnp.maximum(counts, 1.0) ** (2.0 - gamma)
    variance = jnp.var(rate)
    return jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)


def objective(
    counts: np.ndarray | Array, num_users: int, *, weight: float = 1e-3, gamma: float = 1.0
) -> Callable[[Batch], Objective]:
    """ℓ = BPR + λ · std_k(c_k / n_k^{2−γ}), the same second term in each row, so λ is that of the mean loss.

    The std is taken over the batch's shared negatives, uniform over items, and c_k over its users. λ and γ are tuned
    in the source; λ = 0 is BPR.
    """
    if weight < 0:
        raise ValueError(f"ipl wants a weight >= 0, got {weight}; 0 is plain BPR")
    number = jnp.asarray(counts, jnp.float32)
    bpr = objectives.bpr()

    def of(batch: Batch) -> Objective:
        def loss(positive: Array, negative: Array, *, where: Array | None = None, log_q: Array | None = None) -> Array:
            base = bpr(positive, negative, where=where)
            return base + weight * penalty(negative, number[batch.negatives], num_users, gamma=gamma)

        return loss

    return of


def build(settings: Settings, train: Interactions, *, weight: float = 1e-3, gamma: float = 1.0) -> Assembly:
    """Model, sampler and step of IPL; `settings` name shared uniform negatives, like `SETTINGS`."""
    want_own_objective("ipl", settings, SETTINGS)
    want_shared("ipl", settings)
    of = objective(train.item_counts, train.num_users, weight=weight, gamma=gamma)
    return presets.build(settings, train, objective=of, make=make_batch_step)
