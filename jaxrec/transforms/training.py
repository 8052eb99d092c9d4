"""Train-time transforms: optax transformations of score gradients, closed under `optax.chain`.

An update receives `ScoreGradients` (∂ℓ/∂s of a batch: positive [B], negative [B, K]) and as extra arguments the ids
`users` [B], `positives` [B], `negatives` [B, K] or [K], and `num_items`, the model's; it takes `**extra` for those that
it has no use for; there are no `params`, which `optax.add_decayed_weights` and its like want. In the paper's setting
none is used: it corrects at test time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec.types import Array


class Empty(NamedTuple):
    """No state."""


def weight_rows(weights: Array) -> optax.GradientTransformationExtraArgs:
    """Multiplies the score gradients of a row by the weight [I] of its positive item, as if its loss had it."""
    weights = jnp.asarray(weights, jnp.float32)
    known = not isinstance(weights, jax.core.Tracer)
    if weights.ndim != 1 or (known and not bool(jnp.all((weights >= 0) & (weights < jnp.inf)))):
        raise ValueError(f"weights must be one finite number from 0 for each item, got shape {weights.shape}")

    def init(params: Any) -> Empty:
        return Empty()

    def update(
        updates: Any,
        state: Empty,
        params: Any = None,
        *,
        positives: Array,
        num_items: int | None = None,
        **extra: Any,
    ) -> tuple[Any, Empty]:
        _want_items(len(weights), num_items)
        w = weights[positives].astype(updates.positive.dtype)
        scaled = updates._replace(positive=updates.positive * w, negative=updates.negative * w[:, None])
        return scaled, state

    return optax.GradientTransformationExtraArgs(init, update)


def propensity_weights(
    propensities: np.ndarray | Array, *, clip: float = np.inf
) -> optax.GradientTransformationExtraArgs:
    """Rows weighted by min(1/propensity, clip) of their item, propensities [I] in (0, 1] (Schnabel et al. 2016)."""
    p = np.asarray(propensities, np.float64)
    if not (np.all(p > 0) and np.all(p <= 1)):
        raise ValueError(f"propensities must be in (0, 1], got values from {p.min()} to {p.max()}")
    if not clip > 0:
        raise ValueError(f"clip must be above 0, got {clip}")
    return weight_rows(jnp.asarray(np.minimum(1 / p, clip), jnp.float32))


def count_weights(counts: np.ndarray | Array, *, power: float = 1.0) -> optax.GradientTransformationExtraArgs:
    """Rows weighted by (max n / max(n_i, 1))^power, divided by an interaction's mean weight, so that rates keep."""
    n = np.asarray(counts, np.float64)
    if not np.sum(n) > 0 or np.min(n) < 0:
        raise ValueError(f"counts must be from 0, some of them above, got {n}")
    weights = (n.max() / np.maximum(n, 1)) ** power
    return weight_rows(jnp.asarray(weights / (np.sum(weights * n) / np.sum(n)), jnp.float32))


def _want_items(own: int, num_items: int | None) -> None:
    """ValueError for a transform of another catalogue than the model's: ids would be clamped or dropped in silence."""
    if num_items not in (None, own):
        raise ValueError(f"the transform is of {own} items, the model has {num_items}; make it of the same data")


class EqualizeState(NamedTuple):
    """Accumulated |∂ℓ/∂s| by item and role."""

    pull: Array  # [I]
    push: Array  # [I]


def gradient_ratio_gate(
    *, slope: float = 12.0, middle: float = 0.8, gain: float = 4.0
) -> Callable[[Array], tuple[Array, Array]]:
    """r -> (weight of pulls 1 + gain·(1 − f), weight of pushes f), f(r) = σ(slope·(r − middle)) (Tan et al. 2021)."""

    def gate(r: Array) -> tuple[Array, Array]:
        f = jax.nn.sigmoid(slope * (r - middle))
        return 1.0 + gain * (1.0 - f), f

    return gate


def equalize(
    num_items: int,
    *,
    gate: Callable[[Array], tuple[Array, Array]] | None = None,
    weighted: bool = False,
    eps: float = 1e-12,
) -> optax.GradientTransformationExtraArgs:
    """Balances pull and push of each item by its accumulated gradient ratio r_i = pull_i / push_i.

    An item pushed more than it is pulled (small r) has its positives weighted up and its negatives weighted down.
    The ratio is read before the batch is added, and what is added are the gradients as they came, or with `weighted`
    as they leave: muted pushes then no longer count, so that r recovers. An item without events has r = 1. Source:
    Equalization Loss v2 (Tan et al. 2021, arXiv 2012.08548), moved from classes to items.
    """
    gate = gradient_ratio_gate() if gate is None else gate

    def init(params: Any) -> EqualizeState:
        return EqualizeState(jnp.zeros(num_items), jnp.zeros(num_items))

    def update(
        updates: Any,
        state: EqualizeState,
        params: Any = None,
        *,
        positives: Array,
        negatives: Array,
        num_items: int | None = None,
        **extra: Any,
    ) -> tuple[Any, EqualizeState]:
        _want_items(len(state.pull), num_items)
        r = (state.pull + eps) / (state.push + eps)
        up, down = (weight.astype(updates.positive.dtype) for weight in gate(r))
        push_weight = down[negatives] if negatives.ndim == 2 else down[negatives][None, :]
        scaled = updates._replace(positive=updates.positive * up[positives], negative=updates.negative * push_weight)
        pulled, size = (jnp.abs(g).astype(state.pull.dtype) for g in (scaled if weighted else updates))
        pushed = size if negatives.ndim == 2 else jnp.sum(size, axis=0)
        return scaled, EqualizeState(state.pull.at[positives].add(pulled), state.push.at[negatives].add(pushed))

    return optax.GradientTransformationExtraArgs(init, update)
