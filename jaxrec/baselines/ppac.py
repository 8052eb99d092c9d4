"""PPAC: popularity among those alike in place of popularity among all (Ning et al. 2024, WWW, arXiv 2402.07425).

    PP_ui = share of S_u that has i, S_u the users most similar to u by Jaccard's |I_u ∩ I_v|/|I_u ∪ I_v|
    GP_i  = n_i/U
    s'_ui = s_ui + γ PP_ui + β GP_i, with γ > 0 and β < 0

The source sets the direct effects of personal and of global popularity at test time, and trains its base for that. Here
they are added to a base trained by BPR alone; this, and how PP is measured, are this library's reading of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import models, presets
from jaxrec.baselines.base import Method, known_strengths, want_objective
from jaxrec.data.interactions import Interactions
from jaxrec.ledger import GradientLedger
from jaxrec.presets import Settings
from jaxrec.transforms.adjustment import fold_bias
from jaxrec.types import Array, Params, Scorer, Tables

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SETTINGS = Settings(
    objective="bpr", normalize_users=False, layers=3, reject=True, optimizer="adam", learning_rate=1e-3, l2=1e-4
)
"""BPR with one negative a row."""

BLOCK = 256  # users whose neighbours are sought at once


def similar_users(train: Interactions, *, neighbours: int = 30) -> csr_array:
    """S [U, U] sparse, each row 1/|S_u| at the `neighbours` users most similar to u, of equal ones the smaller ids.

    Users without a common item are no neighbours, and nobody is one's own.
    """
    from scipy.sparse import csr_array

    size, k = train.num_users, min(neighbours, train.num_users)
    by_user, by_item = train.to_scipy().tocsr(), train.to_scipy().T.tocsr()
    counts = train.user_counts.astype(np.float32)
    best = jax.jit(lambda found: jax.lax.top_k(found, k))
    rows, columns, values = [], [], []
    for start in range(0, size, BLOCK):
        block = np.arange(start, min(start + BLOCK, size))
        common = (by_user[block] @ by_item).toarray().astype(np.float32)
        similar = common / np.maximum(counts[block, None] + counts[None, :] - common, 1.0)
        similar[np.arange(len(block)), block] = 0.0
        found, where = map(np.asarray, best(jnp.asarray(similar)))
        kept = found > 0
        number = kept.sum(axis=1)
        rows.append(np.repeat(block, number))
        columns.append(where[kept])
        values.append(np.repeat(1.0 / np.maximum(number, 1), number).astype(np.float32))
    pairs = (np.concatenate(rows), np.concatenate(columns))
    return csr_array((np.concatenate(values), pairs), shape=(size, size))


def scorer(tables: Tables, train: Interactions, similar: csr_array, *, gamma: float, beta: float) -> Scorer:
    """s_ui + γ PP_ui + β GP_i of a block of users by all items, PP from `similar_users`."""
    tables, history = fold_bias(tables), train.to_scipy().tocsr().astype(np.float32)
    everywhere = jnp.asarray(beta / train.num_users * train.item_counts, jnp.float32)

    @jax.jit
    def block(user: Array, item: Array, personal: Array) -> Array:
        return user @ item.T + gamma * personal + everywhere[None, :]

    def scores(users: np.ndarray) -> Any:
        return block(tables.user[users], tables.item, jnp.asarray((similar[users] @ history).toarray()))

    return Scorer(train.num_users, train.num_items, scores)


def build(
    settings: Settings, train: Interactions, *, gamma: float = 64.0, beta: float = -32.0, neighbours: int = 30
) -> Method:
    """BPR on any backbone, and PPAC's γ and β at test time; with both 0 it ranks as BPR does.

    The authors have (γ, β) = (64, −32) for MF on ML-1M, (512, −1024) on Gowalla, and (16, −8) and (64, −512) for
    LightGCN there. PP is no inner product, so there is no arm: call `rank` with each pair of strengths to be tried.
    """
    want_objective("ppac", settings, "bpr")
    if neighbours < 1:
        raise ValueError(f"ppac wants at least one neighbour, got {neighbours}")
    model, sampler, step = presets.build(settings, train)
    similar, strengths = similar_users(train, neighbours=neighbours), {"gamma": gamma, "beta": beta}

    def rank(params: Params, ledger: GradientLedger | None = None, **given: float) -> Tables | Scorer:
        return scorer(models.embed(model, params), train, similar, **known_strengths(strengths, given))

    return Method(model, sampler, step, rank, strengths)
