"""Sam&Reg: balanced negatives, and a penalty on popularity's correlation with being right.

Boratto, Fenu, Marras 2021, arXiv 2006.04275.

    L = (1 − λ)(BPR + L2) + λ · Pearson(n_i, σ(s_ui − s_uj))²

Negatives are drawn half from items more popular than i, half from less popular ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import objectives, presets
from jaxrec.baselines.base import Method, plain, want_objective
from jaxrec.baselines.parts import BPR, make_batch_step
from jaxrec.baselines.strata import around, want_own
from jaxrec.data.interactions import Interactions
from jaxrec.objectives import Objective, row_mean
from jaxrec.presets import Settings
from jaxrec.types import Array, Batch

SETTINGS = BPR


def pearson(x: Array, y: Array, where: Array | None = None) -> Array:
    """The correlation of x and y [B] over the rows of `where` [B] (None: all); 0 where one of them does not vary."""
    there = jnp.ones(x.shape[0]) if where is None else where.astype(x.dtype)
    number = jnp.maximum(jnp.sum(there), 1.0)
    x, y = ((values - jnp.sum(there * values) / number) * there for values in (x, y))
    spread = jnp.sum(x * x) * jnp.sum(y * y)
    return jnp.where(spread > 0, jnp.sum(x * y) * jax.lax.rsqrt(jnp.where(spread > 0, spread, 1.0)), 0.0)


def objective(counts: np.ndarray | Array, *, weight: float = 0.05) -> Callable[[Batch], Objective]:
    """ℓ = (1 − λ) BPR + λ Pearson², the second term over the batch and the same in each row; λ = 0 is BPR.

    With several negatives σ is their mean.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"samreg wants a weight in [0, 1], got {weight}; the source has 0.05")
    # Pearson knows no scale, so counts are made small before float32 squares them.
    number = jnp.asarray(np.asarray(counts, np.float64) / max(float(np.max(counts)), 1.0), jnp.float32)
    bpr = objectives.bpr()

    def of(batch: Batch) -> Objective:
        def loss(positive: Array, negative: Array, *, where: Array | None = None, log_q: Array | None = None) -> Array:
            right = row_mean(jax.nn.sigmoid(positive[:, None] - negative), where)
            some = None if where is None else jnp.any(where, axis=1)  # a row without negatives has no σ
            penalty = pearson(number[batch.positives], right, some) ** 2
            return (1.0 - weight) * bpr(positive, negative, where=where) + weight * penalty

        return loss

    return of


def build(settings: Settings, train: Interactions, *, weight: float = 0.05) -> Method:
    """Sam&Reg on any backbone; `weight` is λ, which takes its part off the settings' L2, too."""
    want_objective("samreg", settings, "bpr")
    want_own("samreg", settings)
    loss = objective(train.item_counts, weight=weight)
    draw = partial(around, train=train, num_negatives=settings.negatives, reject=settings.reject)
    less = replace(settings, l2=(1 - weight) * settings.l2, reject=False)
    return plain(presets.build(less, train, objective=loss, make=make_batch_step, around=draw))
