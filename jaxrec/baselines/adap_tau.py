"""Adap-τ: a softmax whose temperature is a user's own (Chen et al. 2023, arXiv 2302.04775).

    w_u = w0 · exp(−W((L_u − mean L)/β)),   s_ui = w_u cos(u, v_i),   w = 1/τ

W is Lambert's function, L_u the user's running loss at w0. A user whose loss is above the mean gets a larger τ, so that
what is noisy or hard is fitted less sharply. w0 is set from mean similarities: the average positive then weighs as much
as the K average negatives together, w0 = log K / (mean cos of positives − mean cos of negatives); that reading of the
source's rule is this library's. The state is explicit and no gradient passes through a temperature.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrec import objectives, presets
from jaxrec.baselines.base import want_own_objective
from jaxrec.baselines.parts import COSINES, Assembly, want_cosines
from jaxrec.data.interactions import Interactions
from jaxrec.models.base import Model, candidate_scores, pair_scores
from jaxrec.objectives import Objective, row_mean
from jaxrec.presets import Settings
from jaxrec.step import Info, Step, TrainState, make_step
from jaxrec.types import Array, Batch

SETTINGS = COSINES

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

    loss: Array  # [U] running loss of each user, at w0
    seen: Array  # [U] bool
    positive: Array  # [] running mean of cos(u, v_i)
    negative: Array  # [] running mean of cos(u, v_j)


def init(num_users: int, *, num_negatives: int, temperature: float = 0.1) -> State:
    """No user seen, and similarities for which w0 is 1/`temperature`."""
    if not LOW <= temperature <= HIGH or num_negatives < 2:
        raise ValueError(
            f"adap_tau wants a temperature from {LOW} to {HIGH}, between which it is held, and at least 2 negatives, "
            f"got {temperature} and {num_negatives}"
        )
    gap = jnp.asarray(temperature * np.log(num_negatives), float)
    return State(jnp.zeros(num_users), jnp.zeros(num_users, bool), gap, jnp.zeros(()))


def global_scale(state: State, *, num_negatives: int) -> Array:
    """w0 = 1/τ0 with τ0 = (mean cos⁺ − mean cos⁻)/log K, held between `LOW` and `HIGH`; []."""
    return 1.0 / jnp.clip((state.positive - state.negative) / np.log(num_negatives), LOW, HIGH)


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
    state: State, users: Array, losses: Array, positive: Array, negative: Array, *, momentum: float = 0.9
) -> State:
    """Adds a batch: losses [B] at w0 of users [B], and mean cosines [] of its positives and of its negatives.

    L_u ← ρ L_u + (1 − ρ)·(mean over the user's rows), the mean itself the first time. The similarities likewise.
    """
    count = jnp.zeros_like(state.loss).at[users].add(1.0)
    mean = jnp.zeros_like(state.loss).at[users].add(losses) / jnp.maximum(count, 1.0)
    mixed = jnp.where(state.seen, momentum * state.loss + (1.0 - momentum) * mean, mean)
    return State(
        jnp.where(count > 0, mixed, state.loss),
        state.seen | (count > 0),
        momentum * state.positive + (1.0 - momentum) * positive,
        momentum * state.negative + (1.0 - momentum) * negative,
    )


def scaled(objective: Objective, scale: Array) -> Objective:
    """The objective of scores times a factor for each row, [B]."""

    def loss(positive: Array, negative: Array, *, where: Array | None = None, log_q: Array | None = None) -> Array:
        return objective(positive * scale, negative * scale[:, None], where=where, log_q=log_q)

    return loss


def make_adaptive_step(
    model: Model,
    objective: Objective,
    optimizer: Any,
    *,
    num_negatives: int,
    temperature: float = 0.1,
    beta: float = 1.0,
    momentum: float = 0.9,
    **options: Any,
) -> Step:
    """`make_step` whose rows are scored with their users' w_u, for a model that scores by cosines.

    `TrainState.transform` holds (the transform's own state, `State`). What is observed are the rows as they were scored
    in the step, gathered a second time; so a model that propagates does it once more, forwards, where the compiler
    doesn't merge the two.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"adap_tau wants a momentum in [0, 1), got {momentum}; 0.9 is usual")
    plain = make_step(model, objective, optimizer, **options)

    def start(key: Array) -> TrainState:
        state = plain.init(key)
        own = init(model.num_users, num_negatives=num_negatives, temperature=temperature)
        return state._replace(transform=(state.transform, own))

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Info]:
        inner, own = state.transform
        w0 = global_scale(own, num_negatives=num_negatives)
        scale = user_scales(own, batch.users, w0, beta=beta)
        step = make_step(model, scaled(objective, scale), optimizer, **options)
        after, info = step.update(state._replace(transform=inner), batch)

        user, item = model.tables(state.params)
        by_user = model.user_head(user[batch.users])
        positive = pair_scores(by_user, model.item_head(item[batch.positives]))
        negative = candidate_scores(by_user, model.item_head(item[batch.negatives]))
        losses = objective(w0 * positive, w0 * negative, where=batch.where, log_q=batch.log_q)
        means = jnp.mean(positive), jnp.mean(row_mean(negative, batch.where))
        own = observe(own, batch.users, losses, *means, momentum=momentum)
        return after._replace(transform=(after.transform, own)), info

    return plain._replace(init=start, update=update)


def build(
    settings: Settings, train: Interactions, *, temperature: float = 0.1, beta: float = 1.0, momentum: float = 0.9
) -> Assembly:
    """Model, sampler and step of Adap-τ, which starts at `temperature`; `settings` name cosines, like `SETTINGS`.

    Users' temperatures change no ranking, so the model ranks by cosines. β = ∞ keeps one temperature for all.
    """
    want_own_objective("adap_tau", settings, SETTINGS)
    want_cosines("adap_tau", settings)
    number = min(settings.batch_size, len(train)) if settings.in_batch else settings.negatives

    def make(model: Model, objective: Objective, optimizer: Any, **options: Any) -> Step:
        own = {"temperature": temperature, "beta": beta, "momentum": momentum}
        return make_adaptive_step(model, objective, optimizer, num_negatives=number, **own, **options)

    objective = objectives.softmax(logq=settings.logq)
    return presets.build(settings, train, objective=objective, make=make)
