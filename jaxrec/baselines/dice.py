"""DICE: interest and conformity in embeddings of their own (Zheng et al. 2021, arXiv 2006.11011).

    s    = s_int + s_pop, rows [u_int, u_pop] and [v_int, v_pop]
    O1   negatives more popular than the positive, O2 less popular ones, half and half, by a margin
    L    = BPR(s) + α_t [ O1: BPR(s_int) + softplus(s_pop_i − s_pop_j);  O2: BPR(s_pop) ] + β · D(int, pop)

On O1 the choice shows interest, and conformity is reversed; on O2 it may be conformity alone. D is the distance
correlation, which is to be small, or minus an L1 or L2 distance, which is to be large.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import presets
from jaxrec.baselines.base import Method, plain, want_linear, want_objective, want_plain_rows
from jaxrec.baselines.strata import around, want_own
from jaxrec.data.interactions import Interactions
from jaxrec.gradients import RowObjective, ScoredRows
from jaxrec.models import candidate_scores, pair_scores
from jaxrec.names import want_whole
from jaxrec.objectives import row_mean
from jaxrec.presets import Settings
from jaxrec.rows import product
from jaxrec.step import make_row_step
from jaxrec.types import Array, Batch

SETTINGS = Settings(
    objective="bpr", normalize_users=False, layers=2, reject=True, optimizer="adam", learning_rate=1e-3, l2=1e-5
)
"""BPR; `width` is that of each of the two embeddings."""

Discrepancy = Literal["dcor", "l1", "l2"]


def distance_correlation(x: Array, y: Array) -> Array:
    """dCor of rows x, y [n, W] (Székely et al. 2007): √(dCov²(x, y)/√(dVar²(x) dVar²(y))), 0 if one is constant.

    O(n²) time and memory.
    """
    a, b = _centred(_distances(x)), _centred(_distances(y))
    covariance, spread = jnp.mean(a * b), jnp.mean(a * a) * jnp.mean(b * b)
    some = (spread > 1e-20) & (covariance > 0)
    return jnp.where(some, jnp.sqrt(jnp.where(some, covariance, 1.0) / jnp.sqrt(jnp.where(some, spread, 1.0))), 0.0)


def _distances(x: Array) -> Array:
    """‖x_i − x_j‖ [n, n], 0 without a gradient where two rows are alike to rounding."""
    square = jnp.sum(x * x, axis=1)
    both = square[:, None] + square[None, :]
    gap = both - 2.0 * product(x, x.T)
    apart = gap > 1e-6 * both
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, gap, 1.0)), 0.0)


def _centred(a: Array) -> Array:
    return a - jnp.mean(a, axis=0, keepdims=True) - jnp.mean(a, axis=1, keepdims=True) + jnp.mean(a)


def discrepancy(rows: Array, kind: Discrepancy = "dcor") -> Array:
    """D of the two halves of rows [n, 2W]: dCor; or minus their mean |difference|, or squared difference."""
    interest, conformity = jnp.split(rows, 2, axis=-1)
    if kind == "dcor":
        return distance_correlation(interest, conformity)
    gap = interest - conformity
    return -jnp.mean(jnp.abs(gap) if kind == "l1" else gap * gap)


def objective(
    counts: np.ndarray | Array,
    *,
    alpha: float = 0.1,
    beta: float = 0.01,
    decay: float = 0.9,
    kind: Discrepancy = "dcor",
    compared: int | None = 512,
) -> RowObjective:
    """The loss of a row; α_t = α · decay^epoch. α = β = 0 is BPR.

    D is taken over a batch, over its users and over its items, and the sum of both stands in every row, so that β is
    that of the mean loss. It looks at the first `compared` rows (None: all), because dCor costs O(B²). A negative as
    popular as the positive is neither in O1 nor in O2.
    """
    if compared is not None:
        want_whole("dice's compared", compared)
    if alpha < 0 or beta < 0 or not 0 < decay <= 1 or kind not in get_args(Discrepancy):
        wanted = f"alpha, beta >= 0, decay in (0, 1] and a kind of {', '.join(get_args(Discrepancy))}"
        raise ValueError(f"dice wants {wanted}; got {alpha}, {beta}, {decay} and {kind!r}")
    number = jnp.asarray(counts, jnp.float32)

    def loss(rows: ScoredRows, batch: Batch, epoch: Array) -> Array:
        parts = [jnp.split(x, 2, axis=-1) for x in rows]
        (i, j), (p, q) = (
            (pair_scores(pull, positive), candidate_scores(push, negative))
            for pull, push, positive, negative in zip(*parts, strict=True)
        )
        i, p = i[:, None], p[:, None]
        n_i, n_j = number[batch.positives][:, None], number[batch.negatives]
        more, less = (n_j > n_i).astype(i.dtype), (n_j < n_i).astype(i.dtype)
        causes = more * (jax.nn.softplus(j - i) + jax.nn.softplus(p - q)) + less * jax.nn.softplus(q - p)
        weight = alpha * jnp.float32(decay) ** epoch.astype(jnp.float32)
        found = row_mean(jax.nn.softplus(j + q - i - p) + weight * causes, batch.where)
        if not beta:
            return found
        users, positive, negative = rows.pull[:compared], rows.positive[:compared], rows.negative[:compared, 0]
        items = jnp.concatenate([positive, negative])
        return found + beta * (discrepancy(users, kind) + discrepancy(items, kind))

    return loss


def build(
    settings: Settings,
    train: Interactions,
    *,
    alpha: float = 0.1,
    beta: float = 0.01,
    margin: float = 40.0,
    shrink: float = 0.9,
    pool: int = 40,
    kind: Discrepancy = "dcor",
    compared: int | None = 512,
) -> Method:
    """DICE on a backbone of twice the width, which a linear backbone reads as two; it ranks by both parts.

    α and the margin are multiplied by `shrink` each epoch. Where fewer than `pool` items are more (less) popular by the
    margin only the others are drawn.
    """
    want_objective("dice", settings, "bpr")
    want_plain_rows("dice", settings)
    want_linear("dice", settings)
    want_own("dice", settings)
    loss = objective(train.item_counts, alpha=alpha, beta=beta, decay=shrink, kind=kind, compared=compared)
    draw = partial(
        around, train=train, num_negatives=settings.negatives, margin=margin, decay=shrink, pool=pool,
        reject=settings.reject,
    )  # fmt: skip
    # Each half starts at the length that the settings name.
    double = replace(settings, width=2 * settings.width, init_scale=settings.init_scale * 2**0.5, reject=False)
    return plain(presets.build(double, train, objective=loss, make=make_row_step, around=draw))
