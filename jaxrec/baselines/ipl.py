"""IPL: interactions in proportion to how many like an item (Liu et al. 2023, arXiv 2305.05204).

    L = BPR + λ std_i(r_i),   r_i = c_i / n_i^{2−γ},   c_i = Σ σ(s_ui) over the n_i users who have the item

c_i says how many of those who like an item would be shown it, and r_i is the same for all items where that is in
proportion to n_i^{2−γ}. The source, whose code (github.com/UnitDan/IPL) this follows, sums over all interactions in
each step, once an epoch, and starts from a trained BPR. Here c_i/n_i is a running mean over an item's rows, and a row
has the part of the penalty that is its own: λ E ∂std/∂c_i · σ(s_ui), whose mean over the E interactions is
λ std_i(r_i), and whose gradient is the gradient of that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import objectives, presets
from jaxrec.baselines.base import Method, plain, want_own_objective
from jaxrec.baselines.parts import BPR, make_observing_step, running_means
from jaxrec.data.interactions import Interactions
from jaxrec.models.base import Model
from jaxrec.names import want_number
from jaxrec.objectives import Objective
from jaxrec.presets import Settings
from jaxrec.step import Step
from jaxrec.types import Array, Batch

SETTINGS = BPR


class State(NamedTuple):
    """What has been seen of each item's scores."""

    rate: Array  # [I] running mean of σ(s_ui) over its rows
    seen: Array  # [I] bool


def init(num_items: int) -> State:
    """σ(0) of all items."""
    return State(jnp.full(num_items, 0.5), jnp.zeros(num_items, bool))


def slopes(rate: Array, counts: Array, *, gamma: float) -> Array:
    """∂std/∂c_i [I] of c_i = n_i · rate_i, so that Σ_i c_i ∂std/∂c_i is std_i(r_i), over the items with n_i > 0.

    The std is that of a sample, with I − 1; where all r_i are the same it has no slope.
    """
    known = (counts > 0).astype(rate.dtype)
    scale = jnp.where(counts > 0, jnp.maximum(counts, 1.0) ** (gamma - 2.0), 0.0)
    r = rate * counts * scale
    away = (r - jnp.sum(r) / jnp.sum(known)) * known
    spread = jnp.sqrt(jnp.sum(away * away) / jnp.maximum(jnp.sum(known) - 1.0, 1.0))
    own = away / jnp.maximum(jnp.sum(known) - 1.0, 1.0) * scale
    return jnp.where(spread > 0, own / jnp.where(spread > 0, spread, 1.0), 0.0)


def penalized(objective: Objective, slope: Array) -> Objective:
    """The objective, and in each row its part of the penalty, slope [B] · σ(positive)."""

    def loss(positive: Array, negative: Array, *, where: Array | None = None, log_q: Array | None = None) -> Array:
        return objective(positive, negative, where=where, log_q=log_q) + slope * jax.nn.sigmoid(positive)

    return loss


def make_proportional_step(
    model: Model,
    objective: Objective,
    optimizer: Any,
    *,
    item_counts: np.ndarray,
    weight: float = 0.1,
    gamma: float = 1.5,
    momentum: float = 0.9,
    **options: Any,
) -> Step:
    """`make_step` with the penalty; `TrainState.transform` holds (the transform's own state, `State`).

    The batch's rows are interactions, each drawn as often as the others.
    """
    want_number("ipl's weight", weight, least=0.0)
    want_number("ipl's momentum", momentum, least=0.0, below=1.0)
    counts = jnp.asarray(item_counts, float)
    size = weight * float(np.sum(item_counts))

    def of(own: State, batch: Batch, epoch: Array) -> Objective:
        return penalized(objective, size * slopes(own.rate, counts, gamma=gamma)[batch.positives])

    def see(own: State, batch: Batch, positive: Array, negative: Array) -> State:
        return State(*running_means(own.rate, own.seen, batch.positives, jax.nn.sigmoid(positive), momentum))

    return make_observing_step(model, lambda: init(model.num_items), of, see, optimizer, **options)


def build(
    settings: Settings, train: Interactions, *, weight: float = 0.1, gamma: float = 1.5, momentum: float = 0.9
) -> Method:
    """IPL; λ = `weight` is that of the mean loss, and 0 is BPR.

    The source has γ of 1.285 on Gowalla, 1.446 on Amazon, 1.552 on Yelp and 1.826 on MovieLens-1M, and tunes λ.
    """
    want_own_objective("ipl", settings, SETTINGS)

    def make(model: Model, objective: Objective, optimizer: Any, **options: Any) -> Step:
        own: dict[str, Any] = {"weight": weight, "gamma": gamma, "momentum": momentum}
        return make_proportional_step(model, objective, optimizer, item_counts=train.item_counts, **own, **options)

    return plain(presets.build(settings, train, objective=objectives.bpr(), make=make))
