"""Adap-τ: a softmax whose temperature is a user's own (Chen et al. 2023, arXiv 2302.04775).

    w_u = w0 · exp(−W(max((L_u − mean L)/β, −1/e))),   w = 1/τ
    w0  = log(U I / 2E) / (mean cos⁺ − mean cos⁻)

The positive is scored by w0 cos, negatives by w_u cos. W is Lambert's function, L_u the user's running loss of the bare
cosines (w = 1). A user whose loss is above the mean gets a larger τ, so that what is noisy or hard is fitted less
sharply. U, E and the means of w0 leave out the fifth of the users with the fewest interactions. No gradient passes
through a temperature.

These are the rules of the authors' code (github.com/junkangwu/Adap_tau), but for three things: it takes the losses and
means once an epoch, where here they are running means, leaves the positive out of the softmax's sum, and drops
embeddings out on some data. Like it, w0 has a gap of 0.7 in the place of the means for `warmup` epochs, and in the
first epoch all users have w0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrec import objectives, presets
from jaxrec.baselines.base import Method, plain, want_cosines, want_own_objective
from jaxrec.baselines.parts import COSINES, make_observing_step, running_means
from jaxrec.data.interactions import Interactions
from jaxrec.models.base import Model
from jaxrec.names import want_number, want_whole
from jaxrec.objectives import Objective, row_mean
from jaxrec.presets import Settings
from jaxrec.step import Step
from jaxrec.types import Array, Batch

SETTINGS = COSINES
GAP = 0.7  # of the mean cosines, before they are measured

BRANCH = -float(np.exp(-1.0))  # W is real from here on


def lambert_w(x: Array) -> Array:
    """W(x), the principal solution of W e^W = x, for x >= −1/e; smaller x are taken as −1/e.

    Halley's iteration, from a series at the branch point and from a logarithm elsewhere.

    >>> [round(float(w), 4) for w in lambert_w(jnp.array([0.0, 1.0, 2.718282]))]
    [0.0, 0.5671, 1.0]
    """
    x = jnp.maximum(x, BRANCH)
    root = jnp.sqrt(jnp.maximum(2.0 * (jnp.e * x + 1.0), 0.0))
    logs = jnp.log1p(jnp.maximum(x, 0.0))
    w = jnp.where(x < 0, -1.0 + root * (1.0 - root / 3.0 + 11.0 / 72.0 * root**2), logs)
    near = root < 1e-2  # the series is exact to rounding there, where the iteration divides by nothing
    for _ in range(8):
        e = jnp.exp(w)
        f = w * e - x
        slope = e * (w + 1.0) - (w + 2.0) * f / jnp.where(near, 1.0, 2.0 * w + 2.0)
        w = jnp.where(near, w, w - f / jnp.where(near, 1.0, slope))
    return w


LOW, HIGH = 0.02, 1.0  # between which the temperature τ0 = 1/w0 is held


class State(NamedTuple):
    """What has been seen of losses and similarities."""

    loss: Array  # [U] running loss of each user, of bare cosines
    seen: Array  # [U] bool
    positive: Array  # [] running mean of cos(u, v_i)
    negative: Array  # [] running mean of cos(u, v_j)


def init(num_users: int) -> State:
    """No user seen, and similarities that are `GAP` apart."""
    return State(jnp.zeros(num_users), jnp.zeros(num_users, bool), jnp.asarray(GAP, float), jnp.zeros(()))


def active(user_counts: np.ndarray) -> np.ndarray:
    """Users with more interactions than the fifth with the fewest, [U] bool; all where no user has more."""
    found: np.ndarray = user_counts > np.quantile(user_counts, 0.2)
    return found if found.any() else np.ones(len(user_counts), bool)


def contrast(user_counts: np.ndarray, num_items: int) -> float:
    """c = log(U I / 2E), of the active users."""
    own = user_counts[active(user_counts)]
    return float(np.log(len(own) * num_items / (2.0 * max(own.sum(), 1))))


def global_scale(gap: Array | float, c: float) -> Array:
    """w0 = 1/τ0 with τ0 = (mean cos⁺ − mean cos⁻)/c, held between `LOW` and `HIGH`; [].

    Where half of the cells are interactions, c is 0, and τ0 is `HIGH`.
    """
    return 1.0 / jnp.clip(gap / c, LOW, HIGH) if c > 0 else jnp.asarray(1.0 / HIGH, float)


def user_scales(state: State, users: Array, w0: Array, *, beta: float = 1.0) -> Array:
    """w_u = w0 · exp(−W(max((L_u − mean L)/β, −1/e))) of users [B]; at most e·w0.

    A user not yet seen has w0, and so has everybody at β = ∞. The mean is over the users that were seen.
    """
    if not beta > 0:
        raise ValueError(f"adap_tau wants beta > 0, got {beta}; inf gives everybody the same temperature")
    known = state.seen.astype(state.loss.dtype)
    mean = jnp.sum(state.loss * known) / jnp.maximum(jnp.sum(known), 1.0)
    return w0 * jnp.exp(-lambert_w(jnp.where(state.seen[users], (state.loss[users] - mean) / beta, 0.0)))


def observe(
    state: State,
    users: Array,
    losses: Array,
    positive: Array,
    negative: Array,
    counted: Array,
    *,
    momentum: float = 0.9,
) -> State:
    """Adds a batch: losses [B] of bare cosines, and cosines [B] of each row's positive and (mean) of its negatives.

    L_u ← ρ L_u + (1 − ρ)·(mean over the user's rows), the mean itself the first time. The similarities likewise, over
    the rows that are `counted` [B], those of active users.
    """
    loss, seen = running_means(state.loss, state.seen, users, losses, momentum)
    weight = counted.astype(losses.dtype)
    number = jnp.sum(weight)

    def mixed(old: Array, values: Array) -> Array:
        mean = jnp.sum(values * weight) / jnp.maximum(number, 1.0)
        return jnp.where(number > 0, momentum * old + (1.0 - momentum) * mean, old)

    return State(loss, seen, mixed(state.positive, positive), mixed(state.negative, negative))


def scaled(objective: Objective, w0: Array, scale: Array) -> Objective:
    """The objective of positives times w0 [] and of negatives times a factor for each row, [B]."""

    def loss(positive: Array, negative: Array, *, where: Array | None = None, log_q: Array | None = None) -> Array:
        return objective(positive * w0, negative * scale[:, None], where=where, log_q=log_q)

    return loss


def make_adaptive_step(
    model: Model,
    objective: Objective,
    optimizer: Any,
    *,
    user_counts: np.ndarray,
    beta: float = 1.0,
    momentum: float = 0.9,
    warmup: int = 100,
    **options: Any,
) -> Step:
    """`make_step` whose rows are scored with w0 and their users' w_u, for a model that scores by cosines.

    `TrainState.transform` holds (the transform's own state, `State`).
    """
    want_number("adap_tau's momentum", momentum, least=0.0, below=1.0)
    want_whole("adap_tau's warmup", warmup, least=0)
    c, counted = contrast(user_counts, model.num_items), jnp.asarray(active(user_counts))

    def of(own: State, batch: Batch, epoch: Array) -> Objective:
        w0 = global_scale(jnp.where(epoch < warmup, GAP, own.positive - own.negative), c)
        scale = jnp.where(epoch > 0, user_scales(own, batch.users, w0, beta=beta), w0)
        return scaled(objective, w0, scale)

    def see(own: State, batch: Batch, positive: Array, negative: Array) -> State:
        losses = objective(positive, negative, where=batch.where, log_q=batch.log_q)
        means = positive, row_mean(negative, batch.where)
        return observe(own, batch.users, losses, *means, counted[batch.users], momentum=momentum)

    return make_observing_step(model, lambda: init(model.num_users), of, see, optimizer, **options)


def build(
    settings: Settings, train: Interactions, *, beta: float = 1.0, momentum: float = 0.9, warmup: int = 100
) -> Method:
    """Adap-τ; `settings` name cosines, like `SETTINGS`.

    Users' temperatures change no ranking, so the model ranks by cosines. β = ∞ keeps one temperature for all. The
    source tunes β: 1 with MF on Yelp2018 and Amazon-Book, .6 and 1.5 with LightGCN on Gowalla and Yelp2018.
    """
    want_own_objective("adap_tau", settings, SETTINGS)
    want_cosines("adap_tau", settings)

    def make(model: Model, objective: Objective, optimizer: Any, **options: Any) -> Step:
        own: dict[str, Any] = {"beta": beta, "momentum": momentum, "warmup": warmup}
        return make_adaptive_step(model, objective, optimizer, user_counts=train.user_counts, **own, **options)

    objective = objectives.softmax(logq=settings.logq)
    return plain(presets.build(settings, train, objective=objective, make=make))
