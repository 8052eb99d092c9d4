"""BC loss: a softmax of cosines with a margin by what popularity foretells (Zhang et al. 2022, arXiv 2210.11054)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrec import objectives
from jaxrec.baselines.base import Method, want_own_objective
from jaxrec.baselines.branch import build_on
from jaxrec.baselines.parts import COSINES
from jaxrec.data.interactions import Interactions
from jaxrec.models.base import pair_scores
from jaxrec.objectives import Objective
from jaxrec.presets import Settings
from jaxrec.types import Array, Batch, Tables

SETTINGS = COSINES


def margins(popularity: Tables, users: Array, items: Array) -> Array:
    """M = 1 − σ(⟨u_pop, i_pop⟩) of each pair, [B]: small where the branch expects the interaction anyway."""
    return 1.0 - jax.nn.sigmoid(pair_scores(popularity.user[users], popularity.item[items]))


def widen(cosine: Array, margin: Array) -> Array:
    """cos(min(θ + M, π)) with θ the angle of a cosine, [B]: a margin in [0, π/2] never turns past the opposite side."""
    sine = jnp.sqrt(jnp.maximum(1.0 - cosine**2, 1e-6))
    turned = cosine * jnp.cos(margin) - sine * jnp.sin(margin)
    return jnp.where(cosine < -jnp.cos(margin), -1.0, turned)


def objective(
    popularity: Tables, *, temperature: float = 0.07, mix: float = 0.5, logq: bool = False
) -> Callable[[Batch], Objective]:
    """ℓ = mix · (−log e^{cos(θ+M)/τ} / (e^{cos(θ+M)/τ} + Σ_j e^{cos θ_j/τ})) + (1 − mix) · the same with M = 0.

    So mix = 0 is the sampled softmax. `popularity` are the branch's frozen tables.
    """
    if not temperature > 0 or not 0 <= mix <= 1:
        raise ValueError(f"bc_loss wants a temperature > 0 and a mix in [0, 1], got {temperature} and {mix}")
    softmax = objectives.softmax(logq=logq)

    def of(batch: Batch) -> Objective:
        margin = margins(popularity, batch.users, batch.positives)

        def loss(positive: Array, negative: Array, *, where: Array | None = None, log_q: Array | None = None) -> Array:
            others = negative / temperature
            harder = softmax(widen(positive, margin) / temperature, others, where=where, log_q=log_q)
            return mix * harder + (1.0 - mix) * softmax(positive / temperature, others, where=where, log_q=log_q)

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
    mix: float = 0.5,
) -> Method:
    """BC loss on a branch that is trained here; `settings` name cosines, like `SETTINGS`."""
    want_own_objective("bc_loss", settings, SETTINGS)
    of = functools.partial(objective, temperature=temperature, mix=mix, logq=settings.logq)
    return build_on("bc_loss", of, settings, train, key=key, epochs=branch_epochs, temperature=branch_temperature)
