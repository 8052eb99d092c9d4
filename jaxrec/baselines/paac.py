"""PAAC: popularity-aware alignment and contrast (Cai et al. 2024, KDD, arXiv 2405.20718).

    L      = BPR + λ₁ L_sa + λ₂ (L_item + L_user) + L2
    L_sa   = mean ‖v_i/‖v_i‖ − v_j/‖v_j‖‖² over a user's pairs of i in pop_u and j in unpop_u, of all users in the batch
    L_item = γ L_pop + (1 − γ) L_unpop
    L_pop  = −Σ_{i in pop} log e_ii / (Σ_{j in pop} e_ij + β Σ_{j in unpop} e_ij), e_ij = exp(⟨v'_i, v''_j⟩/τ)

L_unpop has the groups exchanged, and L_user is the plain contrast of the batch's users. The batch's items, and a user's
in it, are halved by their counts. v' and v'' are two views of the same rows, with noise added as SimGCL does (Yu et al.
2022, arXiv 2112.08679).

Weights and means are those of the authors' code (github.com/miaomiao-cai2/KDD2024-PAAC), which departs from the paper:
unit rows and no 1/2. It takes a step of Adam for L_sa alone once an epoch, over all pairs, where here L_sa is part of
every batch's loss; and it adds the noise in each layer, where views here are of the final rows. What it calls popular
are the less popular half, so that its γ is the formula's 1 − γ; here γ is the formula's.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import objectives, presets
from jaxrec.baselines.base import Method, plain, want_objective, want_plain_rows
from jaxrec.data.interactions import Interactions
from jaxrec.gradients import RowObjective, ScoredRows
from jaxrec.models import candidate_scores, pair_scores
from jaxrec.models.wrappers import unit
from jaxrec.presets import Settings
from jaxrec.rows import product
from jaxrec.step import make_row_step
from jaxrec.types import Array, Batch

SETTINGS = Settings(
    objective="bpr", normalize_users=False, layers=6, reject=True, optimizer="adam", learning_rate=1e-3, l2=1e-4
)
"""The source's on Gowalla: D 64, Adam, six layers of LightGCN, batches of 2,048."""


def firsts(ids: Array) -> Array:
    """True at the first row of each id, [B] -> [B]; O(B²).

    >>> firsts(jnp.array([3, 1, 3])).tolist()
    [True, True, False]
    """
    return ~jnp.any(jnp.tril(ids[:, None] == ids[None, :], -1), axis=1)


def popular(number: Array, ids: Array, among: Array, *, ratio: float = 0.5) -> Array:
    """Whether row b is in the upper `ratio` of the rows that `among` [B, B] compares it with, by `number` [B]: [B].

    Of equal numbers the smaller id is the more popular.
    """
    tie = (number[None, :] == number[:, None]) & (ids[None, :] < ids[:, None])
    above = (number[None, :] > number[:, None]) | tie
    rank, size = (jnp.sum(x, axis=1).astype(jnp.float32) for x in (among & above, among))
    return rank < ratio * size


def alignment(rows: Array, batch: Batch, number: Array, *, ratio: float = 0.5) -> Array:
    """L_sa, [], of the items' rows [B, D]; `number` [B] is how often each item occurs in training. 0 without pairs."""
    rows = unit(rows)
    same = batch.users[:, None] == batch.users[None, :]
    again = same & (batch.positives[:, None] == batch.positives[None, :])
    new = ~jnp.any(jnp.tril(again, -1), axis=1)  # a pair that a batch has twice counts once
    among = same & new[None, :]
    up = popular(number, batch.positives, among, ratio=ratio)
    pairs = (among & new[:, None] & up[:, None] & ~up[None, :]).astype(rows.dtype)
    gap = 2.0 - 2.0 * product(rows, rows.T)
    return jnp.sum(pairs * gap) / jnp.maximum(jnp.sum(pairs), 1.0)


def view(rows: Array, key: Array, *, noise: float = 0.2) -> Array:
    """Unit rows of v + ε sign(v) ⊙ r/‖r‖, r ~ U(0, 1)^D: [B, D] -> [B, D]."""
    return unit(rows + noise * jnp.sign(rows) * unit(jax.random.uniform(key, rows.shape)))


def info_nce(first: Array, second: Array, ids: Array, group: Array, *, beta: float, temperature: float) -> Array:
    """The contrast of each row of two views [B, D] with the batch's other ids, [B].

    Ids of another `group` [B] count β times; an id that the batch has twice counts once.
    """
    logits = product(first, second.T) / temperature
    same = group[:, None] == group[None, :]
    where = firsts(ids)[None, :] & (ids[:, None] != ids[None, :])
    weight = jnp.where(same, 0.0, float(np.log(beta)) if beta else -np.inf)
    return objectives.softmax(logq=True)(jnp.diagonal(logits), logits, where=where, log_q=-weight)


def _mean(x: Array, where: Array) -> Array:
    return jnp.sum(jnp.where(where, x, 0.0)) / jnp.maximum(jnp.sum(where.astype(x.dtype)), 1.0)


def objective(
    counts: np.ndarray | Array,
    *,
    align: float = 1.0,
    contrast: float = 0.2,
    gamma: float = 0.8,
    beta: float = 0.2,
    ratio: float = 0.5,
    temperature: float = 0.2,
    noise: float = 0.2,
) -> RowObjective:
    """The loss of a row; λ₁ = `align`, λ₂ = `contrast`. Both 0 is BPR.

    L_sa and the contrasts are of the batch, and stand in every row, so that their weights are those of the mean loss.
    Their noise is a function of the epoch and of who is in the batch. Time and memory are O(B²).
    """
    if min(align, contrast, noise) < 0 or not temperature > 0:
        got = f"{align}, {contrast}, {noise} and {temperature}"
        raise ValueError(f"paac wants align, contrast and noise >= 0 and a temperature > 0; got {got}")
    if not (0 <= gamma <= 1 and 0 <= beta <= 1 and 0 < ratio < 1):
        raise ValueError(f"paac wants gamma, beta in [0, 1] and a ratio in (0, 1); got {gamma}, {beta} and {ratio}")
    number_of, bpr = jnp.asarray(counts, jnp.float32), objectives.bpr()

    def contrasts(rows: ScoredRows, batch: Batch, number: Array, epoch: Array) -> Array:
        keys = jax.random.split(batch_key(batch, epoch), 4)
        user, other_user = (view(rows.pull, key, noise=noise) for key in keys[:2])
        item, other_item = (view(rows.positive, key, noise=noise) for key in keys[2:])
        new = firsts(batch.positives)
        among = jnp.broadcast_to(new[None, :], (len(new), len(new)))
        up = popular(number, batch.positives, among, ratio=ratio)
        by_item = info_nce(item, other_item, batch.positives, up, beta=beta, temperature=temperature)
        by_user = info_nce(user, other_user, batch.users, jnp.ones_like(up), beta=1.0, temperature=temperature)
        items = gamma * _mean(by_item, new & up) + (1.0 - gamma) * _mean(by_item, new & ~up)
        return items + _mean(by_user, firsts(batch.users))

    def loss(rows: ScoredRows, batch: Batch, epoch: Array) -> Array:
        scores = pair_scores(rows.pull, rows.positive), candidate_scores(rows.push, rows.negative)
        found, number = bpr(*scores, where=batch.where), number_of[batch.positives]
        if align:
            found += align * alignment(rows.positive, batch, number, ratio=ratio)
        if contrast:
            found += contrast * contrasts(rows, batch, number, epoch)
        return found

    return loss


def batch_key(batch: Batch, epoch: Array) -> Array:
    """A key that is a function of the epoch and of the batch's users and positives."""
    place = jnp.arange(batch.users.shape[0], dtype=jnp.uint32) * jnp.uint32(2654435761) + jnp.uint32(1)
    mixed = batch.users.astype(jnp.uint32) * jnp.uint32(2246822519) + batch.positives.astype(jnp.uint32)
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(0), epoch), jnp.sum(mixed * place, dtype=jnp.uint32))


def build(
    settings: Settings,
    train: Interactions,
    *,
    align: float = 1.0,
    contrast: float = 0.2,
    gamma: float = 0.8,
    beta: float = 0.2,
    ratio: float = 0.5,
    temperature: float = 0.2,
    noise: float = 0.2,
) -> Method:
    """PAAC on any backbone; the source has it on LightGCN, with six layers on Gowalla.

    λ₂, β, γ, τ and the noise are the defaults of its code; it tunes λ₁ in {1, 5, 10, 50, 100 .. 500}, which Adam's step
    for L_sa alone leaves without effect there, λ₂ in {.1, 1, 5, 10, 20}, and γ and β from 0 to 1.
    """
    want_objective("paac", settings, "bpr")
    want_plain_rows("paac", settings)
    loss = objective(
        train.item_counts, align=align, contrast=contrast, gamma=gamma, beta=beta, ratio=ratio,
        temperature=temperature, noise=noise,
    )  # fmt: skip
    return plain(presets.build(settings, train, objective=loss, make=make_row_step))
