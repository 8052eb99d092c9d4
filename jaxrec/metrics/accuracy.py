"""How many of the test items a list finds, and how early: per user, from one matrix of hits.

`hits` [N, k] says which ranks are test items of the user, `relevant` [N] counts the user's test items (at least 1).
The functions on numpy arrays serve `evaluate`; `is_hit`, `recall_from_hits` and `ndcg_from_hits` are pure JAX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from jaxrec.types import Array

if TYPE_CHECKING:
    from jaxrec.data.interactions import Interactions


def is_hit(items: Array, relevant: Array) -> Array:
    """Which ranked items are relevant: items [b, k], relevant [b, T] padded with -1 -> [b, k] bool.

    >>> is_hit(jnp.array([[4, 2, -1]]), jnp.array([[2, 9, -1]])).tolist()
    [[False, True, False]]
    """
    return jnp.any(items[:, :, None] == relevant[:, None, :], axis=-1) & (items >= 0)


def recall_from_hits(hits: Array, num_relevant: Array) -> Array:
    """Σ hits / |T_u|, 0 for users without test items: hits [b, k], num_relevant [b] -> [b]."""
    total = jnp.maximum(num_relevant, 1).astype(jnp.float32)
    return jnp.sum(hits, axis=-1).astype(jnp.float32) / total


def ndcg_from_hits(hits: Array, num_relevant: Array, k: int) -> Array:
    """Σ_{r≤k} hit_r / log2(r+1) ÷ Σ_{r≤min(k,|T_u|)} 1/log2(r+1): hits [b, >=k], num_relevant [b] -> [b]."""
    discounts = 1.0 / jnp.log2(jnp.arange(2, k + 2, dtype=jnp.float32))
    ideal = jnp.cumsum(discounts)[jnp.clip(num_relevant, 1, k) - 1]
    return jnp.sum(jnp.where(hits[:, :k], discounts[None, :], 0.0), axis=-1) / ideal


def hit_matrix(users: np.ndarray, items: np.ndarray, test: Interactions) -> np.ndarray:
    """Which ranked items are test items of their user: users [N], items [N, k] -> [N, k] bool."""
    owners, tests = _sorted_pairs(test)
    keys = owners * np.int64(test.num_items) + tests
    wanted = users.astype(np.int64)[:, None] * test.num_items + items
    places = np.searchsorted(keys, wanted)
    return (keys[np.minimum(places, len(keys) - 1)] == wanted) & (items >= 0)


def accuracy(hits: np.ndarray, relevant: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """The accuracy metrics at cut-off k, each [N] float64; docs/metrics.md has their formulas."""
    found = hits[:, :k]
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    capped = np.minimum(relevant, k)
    so_far = np.cumsum(found, axis=1)
    total = so_far[:, -1].astype(np.float64)
    precisions = np.sum(np.where(found, so_far / np.arange(1, k + 1), 0.0), axis=1)
    return {
        "recall": total / relevant,
        "recall_capped": total / capped,
        "hit": (total > 0).astype(np.float64),
        "precision": total / k,
        "ndcg": found @ discounts / np.cumsum(discounts)[capped - 1],
        "mrr": np.where(total > 0, 1.0 / (np.argmax(found, axis=1) + 1), 0.0),
        "map": precisions / relevant,
        "map_capped": precisions / capped,
    }


def weighted_accuracy(
    users: np.ndarray, items: np.ndarray, hits: np.ndarray, test: Interactions, propensities: np.ndarray, k: int
) -> dict[str, np.ndarray]:
    """Accuracy with each test item i counted 1/p_i times, against missing not at random, each [N].

    recall_ips = Σ hits 1/p_i / |T_u|; ndcg_snips is the ndcg of the gains 1/p_i, its ideal list being the test
    items by falling 1/p_i, which normalises the weights by themselves. Equal propensities give recall / p and ndcg.
    (Yang et al. 2018, RecSys, doi:10.1145/3240323.3240355.)
    """
    weights = 1.0 / propensities
    gains = np.where(hits, weights[items], 0.0)[:, :k]
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    owners, tests = _sorted_pairs(test)
    order = np.lexsort((-weights[tests], owners))
    starts = np.cumsum(test.user_counts) - test.user_counts
    ranks = np.arange(len(owners)) - starts[owners]
    ideal_gains = np.where(ranks < k, weights[tests[order]] * discounts[np.minimum(ranks, k - 1)], 0.0)
    ideal = np.bincount(owners, ideal_gains, minlength=test.num_users)[users]
    return {
        "recall_ips": gains.sum(axis=1) / test.user_counts[users],
        "ndcg_snips": gains @ discounts / ideal,
    }


def _sorted_pairs(interactions: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """(users, items) as int64, ordered by user and then by item."""
    pointers, items = interactions.csr()
    return np.repeat(np.arange(len(pointers) - 1), np.diff(pointers)), items.astype(np.int64)
