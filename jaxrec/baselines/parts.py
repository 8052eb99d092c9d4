"""What several baselines share: losses that know the batch or have a state, and settings on another backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import jax.numpy as jnp

from jaxrec.models import Model, candidate_scores, pair_scores
from jaxrec.objectives import Objective
from jaxrec.presets import Settings
from jaxrec.step import Info, Step, TrainState, make_step
from jaxrec.types import Array, Batch

BPR = Settings(objective="bpr", normalize_users=False, reject=True, optimizer="adam", learning_rate=1e-3, l2=1e-5)
"""BPR of free rows with one uniform negative, which the user has not."""
COSINES = Settings(normalize_items=True, negatives=1024, shared=True, optimizer="adam", learning_rate=1e-3)
"""Cosines and uniform negatives, for methods whose temperature is their own."""


def make_batch_step(model: Model, objective: Callable[[Batch], Objective], optimizer: Any, **options: Any) -> Step:
    """`make_step` for an objective that depends on who is in the batch: `objective(batch) -> Objective`.

    The inner step is put together while the outer one is traced, so that nothing of it runs in training.
    """

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Info]:
        return make_step(model, objective(batch), optimizer, **options).update(state, batch)

    # What a step starts from does not depend on its loss.
    return make_step(model, _never, optimizer, **options)._replace(update=update)


def make_observing_step(
    model: Model,
    start: Callable[[], Any],
    objective: Callable[[Any, Batch, Array], Objective],
    observe: Callable[[Any, Batch, Array, Array], Any],
    optimizer: Any,
    **options: Any,
) -> Step:
    """`make_step` for an objective with a state of its own, which sees the scores of each batch and has no gradient.

    `objective(own, batch, epoch)` is the loss of a batch, `observe(own, batch, positive [B], negative [B, K])` the
    state after it, by the scores as they were in the step. `TrainState.transform` holds (the transform's own, that
    state).
    The rows are gathered a second time for it; so a model that propagates does it once more, forwards, where the
    compiler doesn't merge the two.
    """
    plain = make_step(model, _never, optimizer, **options)

    def init(key: Array) -> TrainState:
        state = plain.init(key)
        return state._replace(transform=(state.transform, start()))

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Info]:
        inner, own = state.transform
        step = make_step(model, objective(own, batch, state.epoch), optimizer, **options)
        after, info = step.update(state._replace(transform=inner), batch)

        user, item = model.tables(state.params)
        by_user = model.user_head(user[batch.users])
        positive = pair_scores(by_user, model.item_head(item[batch.positives]))
        negative = candidate_scores(by_user, model.item_head(item[batch.negatives]))
        return after._replace(transform=(after.transform, observe(own, batch, positive, negative))), info

    return plain._replace(init=init, update=update)


def running_means(old: Array, seen: Array, ids: Array, values: Array, momentum: float) -> tuple[Array, Array]:
    """Running means by row [N] and whether a row was seen [N], after values [R] of ids [R]: ρ old + (1 − ρ)·(mean over
    the row's values), the mean itself the first time."""
    count = jnp.zeros_like(old).at[ids].add(1.0)
    mean = jnp.zeros_like(old).at[ids].add(values) / jnp.maximum(count, 1.0)
    mixed = jnp.where(seen, momentum * old + (1.0 - momentum) * mean, mean)
    return jnp.where(count > 0, mixed, old), seen | (count > 0)


def _never(*scores: Any, **options: Any) -> Any:
    raise AssertionError("a step that only starts has no loss")


def on_backbone(settings: Settings, backbone: Literal["mf", "lightgcn", "two-tower"]) -> Settings:
    """The same settings on another backbone; one that updates all rows takes Adagrad's dense form."""
    optimizer = settings.optimizer
    if backbone != "mf" and optimizer == "row_adagrad":
        optimizer = "adagrad"
    return replace(settings, backbone=backbone, optimizer=optimizer)
