"""A world where the true preferences and the exposure are known, so that bias is a fact and not a guess.

    preference  P(user u likes item i | seen)  = σ(4 ⟨x_u, y_i⟩ + quality_i − 2)
    exposure    P(user u sees item i)          = min(1, c · rank_i^−a), the same for all users: a long tail
    observed    = liked and seen

What is popular in the data is what was shown, hardly what is liked: `quality` is independent of exposure. Whether a
user likes an item is drawn once: what was shown and not taken is not liked. So of the items that a user does not have,
P(like) = p (1 − .9 e) / (1 − .9 e p) with p the preference and e the exposure, .1 of what is observed being the natural
test: the best ranking of them puts what was shown most a little lower than the preference does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxrec.data.interactions import DataError, Interactions, Split
from jaxrec.data.splits import hold_out_random


class Synthetic(NamedTuple):
    """A split with tests `natural` (observed) and `unbiased` (liked, seen at random), and the truth behind it."""

    split: Split
    preference: np.ndarray  # [U, I] P(like | seen)
    exposure: np.ndarray  # [I] P(seen)


def synthetic(
    *,
    seed: int = 0,
    num_users: int = 800,
    num_items: int = 500,
    rank: int = 6,
    tail: float = 1.0,
    seen: float = 0.15,
    quality: float = 0.5,
    random_per_user: int = 60,
) -> Synthetic:
    """Draws a world. `tail` is the exponent a of exposure, `seen` the mean share of items that a user sees.

    The unbiased test is drawn as Coat's was: each user sees `random_per_user` items uniformly at random, and those
    that are liked and not in train are the test.
    """
    if not 0 < seen < 1 or min(num_users, num_items, rank) < 1 or tail < 0 or random_per_user > num_items:
        raise DataError(
            "synthetic: wanted 0 < seen < 1, tail >= 0, a user, an item and a rank, random_per_user <= items; "
            f"got seen={seen}, tail={tail}, {num_users} users, {num_items} items, rank {rank}, {random_per_user}"
        )
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((num_users, rank)), rng.standard_normal((num_items, rank))
    x, y = x / np.linalg.norm(x, axis=1, keepdims=True), y / np.linalg.norm(y, axis=1, keepdims=True)
    logits = 4.0 * x @ y.T + quality * rng.standard_normal(num_items) - 2.0
    preference = 1.0 / (1.0 + np.exp(-logits))
    exposure = _exposure(num_items, tail, seen)[rng.permutation(num_items)]
    liked = rng.random((num_users, num_items)) < preference
    observed = liked & (rng.random((num_users, num_items)) < exposure)
    users, items = np.nonzero(observed)
    parts = hold_out_random(Interactions(users, items, num_users, num_items), 0.1, seed=seed)
    shown = np.argsort(rng.random((num_users, num_items)), axis=1)[:, :random_per_user]
    at_random = np.zeros_like(liked)
    np.put_along_axis(at_random, shown, True, axis=1)
    at_random &= liked
    at_random[parts.train.users, parts.train.items] = False
    users, items = np.nonzero(at_random)
    tests = {"natural": parts.held, "unbiased": Interactions(users, items, num_users, num_items)}
    return Synthetic(Split(parts.train, {}, tests, parts.notes), preference, exposure)


def _exposure(num_items: int, tail: float, seen: float) -> np.ndarray:
    """min(1, c · rank^−tail) with mean `seen`, c by bisection."""
    shape = np.arange(1, num_items + 1, dtype=np.float64) ** -tail
    low, high = 0.0, 1.0 / shape[-1]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(1.0, middle * shape).mean() < seen else (low, middle)
    return np.minimum(1.0, high * shape)
