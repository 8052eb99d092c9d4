"""PopGo: a softmax of cosines, each shrunk by what popularity alone foretells (Zhang et al. 2023, arXiv 2310.10696)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax

from jaxrec import objectives
from jaxrec.baselines.base import Method, want_own_objective
from jaxrec.baselines.branch import build_on
from jaxrec.baselines.parts import COSINES
from jaxrec.data.interactions import Interactions
from jaxrec.models.base import candidate_scores, pair_scores
from jaxrec.objectives import Objective
from jaxrec.presets import Settings
from jaxrec.types import Array, Batch, Tables

SETTINGS = COSINES


def objective(popularity: Tables, *, temperature: float = 0.07, logq: bool = False) -> Callable[[Batch], Objective]:
    """The softmax of cos_ui · σ(⟨u_pop, i_pop⟩)/τ, over the positive and the negatives; ranking is by cos_ui alone.

    `popularity` are the branch's frozen tables; where they are 0 this is the sampled softmax at 2τ.
    """
    if not temperature > 0:
        raise ValueError(f"popgo wants a temperature > 0, got {temperature}; 0.07 is the source's")
    softmax = objectives.softmax(logq=logq)

    def of(batch: Batch) -> Objective:
        user, item = popularity.user[batch.users], popularity.item
        near = jax.nn.sigmoid(pair_scores(user, item[batch.positives])) / temperature
        far = jax.nn.sigmoid(candidate_scores(user, item[batch.negatives])) / temperature

        def loss(positive: Array, negative: Array, *, where: Array | None = None, log_q: Array | None = None) -> Array:
            return softmax(positive * near, negative * far, where=where, log_q=log_q)

        return loss

    return of


def build(
    settings: Settings,
    train: Interactions,
    *,
    key: Array,
    branch_epochs: int = 5,
    branch_temperature: float = 0.1,
    temperature: float = 0.07,
) -> Method:
    """PopGo on a branch that is trained here; `settings` name cosines, like `SETTINGS`."""
    want_own_objective("popgo", settings, SETTINGS)
    of = functools.partial(objective, temperature=temperature, logq=settings.logq)
    return build_on("popgo", of, settings, train, key=key, epochs=branch_epochs, temperature=branch_temperature)
