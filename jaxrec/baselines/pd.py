"""PD and PDA: popularity as a factor of training that is left out, or injected, at test time.

Zhang et al. 2021, arXiv 2105.06067.

    f_ui  = ELU(s_ui) + 1, positive
    L     = BPR of f_ui · m_i^γ, m = n_i/max n (of the interaction's stage, where there are times)
    PD    ranks by f_ui, that is by s_ui: both rise together
    PDA   ranks by f_ui · m̃_i^γ̃, m̃ the popularity that is foretold; it is no inner product, and so a `Scorer`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import models, objectives, presets
from jaxrec.baselines.base import Method, known_strengths, want_objective
from jaxrec.baselines.parts import BPR, make_batch_step
from jaxrec.data.interactions import Interactions
from jaxrec.names import want_number
from jaxrec.objectives import Objective
from jaxrec.presets import Settings
from jaxrec.rows import product
from jaxrec.samplers import find_pairs
from jaxrec.types import Array, Batch, Params, Scorer, Tables

SETTINGS = BPR


class Popularity(NamedTuple):
    """m by stage, and the stage of every training interaction."""

    shares: Array  # [T, I] in (0, 1], of stages in their order: max(n, 1)/max n
    stages: Array | None = None  # [E] of interactions ordered by (user, item); None where there is one stage
    starts: Array | None = None  # [U+1]
    items: Array | None = None  # [E]

    def of(self, batch: Batch) -> tuple[Array, Array]:
        """m of positives [B] and of negatives [B, K] (shared ones, too) at the stage of the row's interaction."""
        negatives = jnp.broadcast_to(batch.negatives, (len(batch.users), batch.negatives.shape[-1]))
        if self.stages is None or self.starts is None or self.items is None:
            return self.shares[0][batch.positives], self.shares[0][negatives]
        where, _ = find_pairs(self.starts, self.items, batch.users, batch.positives[:, None])
        stage = self.stages[where[:, 0]]
        return self.shares[stage, batch.positives], self.shares[stage[:, None], negatives]


def popularity(train: Interactions, *, stages: int = 10) -> Popularity:
    """m by stage, time cut into `stages` of equal numbers of interactions; one stage where there are no times.

    Equal times share a stage, so stages may be fewer and of other sizes where many are equal. An item without
    interactions in a stage counts as one with one, so that m^γ never is 0; the authors' code (github.com/zyang1580/PDA)
    scales a stage to 0 to 1, where the least popular have 0 and so no gradient as negatives.
    """
    if stages < 1:
        raise ValueError(f"pd wants at least one stage, got {stages}; 10 is the source's")
    if train.times is None or stages == 1:
        return Popularity(_relative(train.item_counts[None, :]))
    order = np.argsort(train.keys, kind="stable")
    times = np.asarray(train.times)[order]
    when = np.searchsorted(np.sort(times), times)  # how many are earlier
    there, stage = np.unique(when * stages // max(len(train), 1), return_inverse=True)
    stage = stage.astype(np.int32)
    counts = np.zeros((len(there), train.num_items))
    np.add.at(counts, (stage, train.items[order]), 1)
    starts, items = train.csr()
    return Popularity(
        _relative(counts), jnp.asarray(stage), jnp.asarray(starts, jnp.int32), jnp.asarray(items, jnp.int32)
    )


def _relative(counts: np.ndarray) -> Array:
    """max(n, 1)/max n of each stage, [T, I]."""
    n = np.maximum(counts, 1)
    return jnp.asarray(n / n.max(axis=-1, keepdims=True), jnp.float32)


def foretold(found: Popularity, *, trend: float = 0.0) -> Array:
    """m̃ = m_T + trend · (m_T − m_{T−1}), [I], held above 0: the last stage's popularity and its change."""
    last = found.shares[-1]
    if not trend or len(found.shares) == 1:
        return last
    return jnp.maximum(last + trend * (last - found.shares[-2]), 1e-2 * jnp.min(found.shares))


def positive_part(scores: Array) -> Array:
    """f = ELU(s) + 1: e^s below 0, s + 1 above."""
    return jnp.where(scores > 0, scores + 1.0, jnp.exp(jnp.where(scores > 0, 0.0, scores)))


def objective(found: Popularity, *, gamma: float = 0.1) -> Callable[[Batch], Objective]:
    """ℓ = mean_j softplus(f_uj m_j^γ − f_ui m_i^γ); γ = 0 is BPR of f."""
    if gamma < 0:
        raise ValueError(f"pd wants gamma >= 0, got {gamma}; the source has about 0.02 to 0.2")
    bpr = objectives.bpr()

    def of(batch: Batch) -> Objective:
        m_i, m_j = found.of(batch)

        def loss(positive: Array, negative: Array, *, where: Array | None = None, log_q: Array | None = None) -> Array:
            return bpr(positive_part(positive) * m_i**gamma, positive_part(negative) * m_j**gamma, where=where)

        return loss

    return of


def scorer(tables: Tables, m: Array, gamma: float) -> Scorer:
    """f_ui · m_i^γ̃ of a block of users by all items."""
    weight = m**gamma

    @jax.jit
    def block(user: Array, item: Array) -> Array:
        return positive_part(product(user, item.T)) * weight[None, :]

    def scores(users: np.ndarray) -> Any:
        return block(tables.user[users], tables.item)

    return Scorer(tables.user.shape[0], tables.item.shape[0], scores)


def build(
    settings: Settings,
    train: Interactions,
    *,
    inject: bool = False,
    gamma: float = 0.1,
    test_gamma: float | None = None,
    stages: int = 10,
    trend: float = 0.0,
) -> Method:
    """PD, or PDA with `inject`, on any backbone. γ̃ = `test_gamma` (None: γ) is PDA's strength, tuned through `rank`.

    Its scores are no inner products, so PDA has no arm. γ̃ = 0 ranks as PD does.
    """
    want_objective("pd", settings, "bpr")
    found = popularity(train, stages=stages)
    assembly = presets.build(settings, train, objective=objective(found, gamma=gamma), make=make_batch_step)
    model, m = assembly[0], foretold(found, trend=trend)
    if test_gamma is not None:
        want_number("pda's test_gamma", test_gamma)
    strengths = {"gamma": gamma if test_gamma is None else test_gamma} if inject else {}

    def rank(params: Params, **given: float) -> Tables | Scorer:
        chosen = known_strengths(strengths, given)
        tables = models.embed(model, params)
        return scorer(tables, m, chosen["gamma"]) if inject else tables

    return Method(*assembly, rank, strengths)
