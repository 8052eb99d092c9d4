"""ItemKNN: each item scored by the user's items among its nearest neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.types import Scorer

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from jaxrec.data.interactions import Interactions

BLOCK = 256  # items whose neighbours are sought at once


def item_neighbours(train: Interactions, *, neighbours: int = 100, shrink: float = 10.0) -> csr_array:
    """S [I, I] sparse: each row the `neighbours` most similar items, of equal ones (in float32) those with smaller ids.

    S_ij = |U_i ∩ U_j| / (√(n_i n_j) + h) for i ≠ j, h the shrinkage, which trusts a similarity less where it rests
    on few users (Sarwar et al. 2001, DOI 10.1145/371920.372071; shrinkage: Bell & Koren 2007, DOI
    10.1109/ICDM.2007.90). Items without a common user are no neighbours.

    Raises ValueError for neighbours < 1 or shrink < 0.
    """
    if neighbours < 1 or shrink < 0:
        raise ValueError(f"neighbours must be at least 1 and shrink at least 0, got {neighbours} and {shrink}")
    from scipy.sparse import csr_array

    size, k = train.num_items, min(neighbours, train.num_items)
    by_user = train.to_scipy()
    by_item = by_user.T.tocsr()
    length = np.sqrt(train.item_counts).astype(np.float32)
    best = jax.jit(lambda found: jax.lax.top_k(found, k))
    rows, columns, values = [], [], []
    for start in range(0, size, BLOCK):
        block = np.arange(start, min(start + BLOCK, size))
        common = (by_item[block] @ by_user).toarray()
        similar = common / np.maximum(length[block, None] * length[None, :] + np.float32(shrink), np.float32(1e-12))
        similar[np.arange(len(block)), block] = 0.0
        found, where = map(np.asarray, best(jnp.asarray(similar)))
        kept = found > 0
        rows.append(np.repeat(block, kept.sum(1)))
        columns.append(where[kept])
        values.append(found[kept])
    pairs = (np.concatenate(rows), np.concatenate(columns))
    return csr_array((np.concatenate(values), pairs), shape=(size, size))


def itemknn(train: Interactions, *, neighbours: int = 100, shrink: float = 10.0) -> Scorer:
    """s_ui = Σ_j S_ij over the user's training items j among the neighbours of i; rank by `rank.top_k_scores`.

    S is that of `item_neighbours`. Memory: 12 bytes a neighbour, and a block of items x items while they are sought.
    """
    to_item = item_neighbours(train, neighbours=neighbours, shrink=shrink).T.tocsr()
    history = train.to_scipy()
    return Scorer(train.num_users, train.num_items, lambda users: (history[users] @ to_item).toarray())
