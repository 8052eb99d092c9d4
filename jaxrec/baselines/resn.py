"""ReSN: a penalty on the scores' principal direction, which is popularity's (Lin et al. 2024, arXiv 2404.12008).

The authors' code has Y = σ of the scores of a batch's users with all items, each user once, on a squared loss; here
Y are the scores themselves, as in the formula, with a sample of items, a user as often as it has rows, on BPR.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec import objectives, presets
from jaxrec.baselines.base import Method, plain, want_own_objective, want_shared
from jaxrec.data.interactions import Interactions
from jaxrec.objectives import Objective
from jaxrec.presets import Settings
from jaxrec.rows import product
from jaxrec.types import Array

SETTINGS = Settings(
    objective="bpr", normalize_users=False, negatives=64, shared=True, optimizer="adam", learning_rate=1e-3, l2=1e-5
)
"""BPR with shared uniform negatives, which the penalty is estimated on."""


def spectral_rows(scores: Array, num_items: int) -> Array:
    """I/K · (Σ_k y_bk q_k)² of each row, [B], an estimate of (Y q)_u² over all items: scores y [B, K].

    q = Yᵀ1/‖Yᵀ1‖ over the batch, a step of the power method from the vector of ones; it takes no gradient.
    """
    total = jnp.sum(scores, axis=0)
    square = jnp.sum(total**2)
    q = jax.lax.stop_gradient(total * jnp.where(square > 0, jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)), 0.0))
    return num_items / scores.shape[-1] * product(scores, q) ** 2


def objective(base: Objective, num_items: int, *, weight: float = 1e-4) -> Objective:
    """ℓ = base + λ (Y q)_u², so that rows sum to λ‖Yq‖² over the batch's users; λ = 0 is the base.

    Y are the scores of the batch's shared negatives, uniform over items.
    """
    if weight < 0:
        raise ValueError(f"resn wants a weight >= 0, got {weight}; 0 is the base loss alone")

    def loss(positive: Array, negative: Array, *, where: Array | None = None, log_q: Array | None = None) -> Array:
        return base(positive, negative, where=where, log_q=log_q) + weight * spectral_rows(negative, num_items)

    return loss


def build(settings: Settings, train: Interactions, *, weight: float = 1e-4) -> Method:
    """ReSN on BPR; `settings` name shared uniform negatives, like `SETTINGS`."""
    want_own_objective("resn", settings, SETTINGS)
    want_shared("resn", settings)
    loss = objective(objectives.bpr(), train.num_items, weight=weight)
    return plain(presets.build(settings, train, objective=loss))
