"""InvCF: preferences that stay the same under another popularity (Zhang et al. 2023, WWW, arXiv 2302.05328).

    rows   preference û, v̂ of the backbone, and popularity p̂, q̂ of embeddings that know counts only; all of length 1
    L      = NCE(û, v̂) + λ₁ NCE(p̂, q̂) + λ₂ [dCor(û, p̂) + dCor(v̂, q̂)]
             + λ₃ [NCE(û ⊕ p̂, v̂ ⊕ q̂) + NCE(û ⊕ p̂', v̂ ⊕ q̂')]
    NCE    −log e^{cos_ui/τ} / (e^{cos_ui/τ} + Σ_j e^{cos_uj/τ})
    test   ⟨û, v̂⟩

a ⊕ b is [a, b]/√2, of length 1, too. p̂' and q̂' are those of another row of the batch, so that what û and v̂ say has
to hold whatever popularity comes with it; a negative keeps its own. On LightGCN the embeddings of counts are
propagated, too.

These are the terms and weights of the authors' code (github.com/anzhang314/InvCF), which shuffles the batch where
popularities are taken from the next row here. Two things of it look like slips and are left out: the halves of sampled
negatives are put together the other way round than those of positives, and its dCor compares parts of a row with each
other instead of preferences with popularities. Halves are not of length 1 there before ⊕.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import objectives, presets
from jaxrec.baselines.base import Method, known_strengths, want_cosines, want_linear, want_own_objective
from jaxrec.baselines.branch import popularity_model
from jaxrec.baselines.dice import discrepancy
from jaxrec.baselines.parts import COSINES
from jaxrec.data.interactions import Interactions
from jaxrec.gradients import RowObjective, ScoredRows
from jaxrec.models import Model, candidate_scores, embed, pair_scores
from jaxrec.models.wrappers import unit
from jaxrec.names import want_whole
from jaxrec.presets import Settings
from jaxrec.step import make_row_step
from jaxrec.types import Array, Batch, Params, Tables

SETTINGS = replace(COSINES, layers=2, negatives=64)
"""Cosines, with 64 negatives and two layers of LightGCN as in the authors' commands; τ is an option of its own."""


def beside(model: Model, train: Interactions, *, scale: float = 0.1) -> Model:
    """Scored rows [û, p̂] and [v̂, q̂] of twice the width: the model's own, and unit rows of `popularity_model`, which go
    through the model's `tables` as its own parameters do.

    Parameters are {"base": the model's own, "popularity": a row for each count}. L2 looks at the base only.
    """
    width = model.width
    counts = popularity_model(train, width, scale=scale)

    def init(key: Array) -> Params:
        base_key, own_key = jax.random.split(key)
        return {"base": model.init(base_key), "popularity": counts.init(own_key)}

    def tables(params: Params) -> tuple[Array, Array]:
        own = dict(zip(("user", "item"), counts.tables(params["popularity"]), strict=True))
        (user, item), (p, q) = model.tables(params["base"]), model.tables(own)
        return jnp.concatenate([user, p], axis=1), jnp.concatenate([item, q], axis=1)

    inner = model.tables if model.penalized is None else model.penalized
    return model._replace(
        width=2 * width,
        vector_width=2 * width,
        init=init,
        tables=tables,
        user_head=lambda rows: _heads(model.user_head, rows, width),
        item_head=lambda rows: _heads(model.item_head, rows, width),
        tables_are_params=False,
        penalized=lambda params: inner(params["base"]),
    )


def _heads(head: Callable[[Array], Array], rows: Array, width: int) -> Array:
    return jnp.concatenate([head(rows[..., :width]), unit(rows[..., width:])], axis=-1)


def merged(rows: ScoredRows, *, exchange: bool = False) -> ScoredRows:
    """Rows [û ⊕ p̂] of rows [û, p̂]; with `exchange` users and positives get the popularity of the batch's next row."""

    def other(half: Array) -> Array:
        preference, popularity = jnp.split(half, 2, axis=-1)
        return jnp.concatenate([preference, jnp.roll(popularity, -1, axis=0)], axis=-1)

    if exchange:
        rows = ScoredRows(other(rows.pull), other(rows.push), other(rows.positive), rows.negative)
    return ScoredRows(*(x / jnp.float32(np.sqrt(2.0)) for x in rows))


def objective(
    *,
    temperature: float = 0.1,
    popularity: float = 1e-2,
    disentangle: float = 1e-6,
    invariance: float = 1e-2,
    compared: int | None = 512,
    logq: bool = False,
) -> RowObjective:
    """The loss of a row of `beside`: λ₁ = `popularity`, λ₂ = `disentangle`, λ₃ = `invariance`.

    With all of them 0 it is the sampled softmax of the preferences at τ. dCor is taken over a batch, over its users and
    over its positives, and the sum of both stands in every row, so that λ₂ is that of the mean loss. It looks at the
    first `compared` rows (None: all), because it costs O(B²).
    """
    if compared is not None:
        want_whole("invcf's compared", compared)
    weights = popularity, disentangle, invariance
    if not temperature > 0 or min(weights) < 0:
        got = ", ".join(map(str, (temperature, *weights)))
        raise ValueError(f"invcf wants a temperature > 0, and popularity, disentangle, invariance >= 0; got {got}")
    softmax = objectives.softmax(logq=logq)

    def nce(rows: ScoredRows, batch: Batch) -> Array:
        positive = pair_scores(rows.pull, rows.positive) / temperature
        negative = candidate_scores(rows.push, rows.negative) / temperature
        return softmax(positive, negative, where=batch.where, log_q=batch.log_q)

    def loss(rows: ScoredRows, batch: Batch, epoch: Array) -> Array:
        halves = [jnp.split(x, 2, axis=-1) for x in rows]
        found = nce(ScoredRows(*(first for first, _ in halves)), batch)
        if popularity:
            found += popularity * nce(ScoredRows(*(second for _, second in halves)), batch)
        if disentangle:
            found += disentangle * (discrepancy(rows.pull[:compared]) + discrepancy(rows.positive[:compared]))
        if invariance:
            found += invariance * (nce(merged(rows), batch) + nce(merged(rows, exchange=True), batch))
        return found

    return loss


def build(
    settings: Settings,
    train: Interactions,
    *,
    temperature: float = 0.1,
    second: float = 1e-2,
    disentangle: float = 1e-6,
    invariance: float = 1e-2,
    compared: int | None = 512,
) -> Method:
    """InvCF on mf or lightgcn; `settings` name cosines, like `SETTINGS`. It ranks by the preferences alone.

    λ₁, λ₂ and λ₃ are `second`, `disentangle` and `invariance`. The authors' commands have 1e-2, 1e-6, 1e-2 on one data
    set and 1, 1e-7, 1e-1 on another; τ is tuned. Shared negatives are given to each row as its own, so memory grows
    with B · K · 2W. What it ranks by is as wide as the ledger, with 0 for the popularities.
    """
    want_cosines("invcf", settings)
    want_linear("invcf", settings)
    want_own_objective("invcf", settings, SETTINGS)
    loss = objective(
        temperature=temperature, popularity=second, disentangle=disentangle, invariance=invariance,
        compared=compared, logq=settings.logq,
    )  # fmt: skip
    model, sampler, step = presets.build(
        settings,
        train,
        objective=loss,
        make=make_row_step,
        wrap=lambda model: beside(model, train, scale=settings.init_scale),
    )
    half = model.width // 2

    def rank(params: Params, **strengths: float) -> Tables:
        known_strengths({}, strengths)
        user, item = embed(model, params)[:2]
        return Tables(user.at[:, half:].set(0.0), item.at[:, half:].set(0.0))

    return Method(model, sampler, step, rank)
