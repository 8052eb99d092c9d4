"""Objectives: (positive scores [B], negative scores [B, K]) -> loss per row [B].

All share one signature, `objective(positive, negative, *, where=None, log_q=None)`. `where` [B, K] leaves negatives
out; `log_q` ([K] or [B, K], log of how often a negative is expected to be drawn) is read by `softmax(logq=True)` only.
The step owns the reduction, a sum over rows, so that gradients are in units of loss per unit of score.
"""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp

from jaxrec.types import Array


class Objective(Protocol):
    """The signature that all objectives share."""

    def __call__(
        self, positive: Array, negative: Array, *, where: Array | None = None, log_q: Array | None = None
    ) -> Array: ...


def row_mean(x: Array, where: Array | None) -> Array:
    """The mean of each row [B, K] over the negatives that count; 0 for a row without any."""
    if where is None:
        return jnp.mean(x, axis=-1)
    weight = where.astype(x.dtype)
    if x.shape[-1] == 1:
        return (x * weight)[..., 0]  # a sum over one negative would be a loop of its own
    return jnp.sum(x * weight, axis=-1) / jnp.maximum(jnp.sum(weight, axis=-1), 1.0)


def bpr() -> Objective:
    """ℓ = mean_j softplus(s_uj − s_ui), so that w⁺ = mean_j σ(s_uj − s_ui) (Rendle et al. 2009, arXiv 1205.2618).

    >>> [round(float(x), 4) for x in bpr()(jnp.array([1.0]), jnp.array([[1.0, 1.0]]))]
    [0.6931]
    """

    def loss(positive: Array, negative: Array, *, where: Array | None = None, log_q: Array | None = None) -> Array:
        return row_mean(jax.nn.softplus(negative - positive[:, None]), where)

    return loss


def bce() -> Objective:
    """ℓ = softplus(−s_ui) + mean_j softplus(s_uj), so that w⁺ = 1 − σ(s_ui)."""

    def loss(positive: Array, negative: Array, *, where: Array | None = None, log_q: Array | None = None) -> Array:
        return jax.nn.softplus(-positive) + row_mean(jax.nn.softplus(negative), where)

    return loss


def softmax(*, logq: bool = False) -> Objective:
    """ℓ = −log(e^{s_ui} / (e^{s_ui} + Σ_j e^{s_uj})), so that w⁺ = 1 − p_i; the temperature lives in the model.

    With `logq` the negatives' logits lose `log_q` (Bengio & Senécal 2008; Yi et al. 2019), so that the sum over
    sampled negatives estimates, without bias, the sum over all items.
    """

    def loss(positive: Array, negative: Array, *, where: Array | None = None, log_q: Array | None = None) -> Array:
        if logq:
            if log_q is None:
                raise ValueError("softmax(logq=True) wants log_q in the batch; use a sampler that provides it")
            negative = negative - (log_q if log_q.ndim == 2 else log_q[None, :])
        if where is not None:
            negative = jnp.where(where, negative, -jnp.inf)
        # The maximum is only a shift, so it takes no gradient.
        shift = jax.lax.stop_gradient(jnp.maximum(positive, jnp.max(negative, axis=-1)))
        total = jnp.exp(positive - shift) + jnp.sum(jnp.exp(negative - shift[:, None]), axis=-1)
        return jnp.log(total) + shift - positive

    return loss
