"""CCL: the cosine contrastive loss of SimpleX (Mao et al. 2021, arXiv 2109.12375)."""

from __future__ import annotations

import jax

from jaxrec import presets
from jaxrec.baselines.base import Method, plain, want_cosines, want_own_objective
from jaxrec.data.interactions import Interactions
from jaxrec.objectives import Objective, row_mean
from jaxrec.presets import Settings
from jaxrec.types import Array

SETTINGS = Settings(normalize_items=True, negatives=800, shared=True, optimizer="adam", learning_rate=1e-4)
"""The source's for Gowalla and Yelp; that a batch shares its negatives is this library's, for speed."""


def objective(*, margin: float = 0.9, weight: float = 150.0) -> Objective:
    """ℓ = (1 − s_ui) + w · mean_j max(0, s_uj − m), for scores that are cosines.

    So w⁺ = 1 whatever the score, and a negative pushes only while it is more similar than the margin m; w = 0 leaves
    the pull alone. The source's m and w for Gowalla and Yelp are the defaults, with K = 800.

    >>> import jax.numpy as jnp
    >>> loss = objective(margin=0.5, weight=2.0)(jnp.array([0.75]), jnp.array([[0.25, 1.0]]))
    >>> [round(float(x), 4) for x in loss]
    [0.75]
    """
    if not -1 <= margin <= 1 or weight < 0:
        raise ValueError(f"ccl wants a margin in [-1, 1] and a weight >= 0, got {margin} and {weight}")

    def loss(positive: Array, negative: Array, *, where: Array | None = None, log_q: Array | None = None) -> Array:
        return 1.0 - positive + weight * row_mean(jax.nn.relu(negative - margin), where)

    return loss


def build(settings: Settings, train: Interactions, *, margin: float = 0.9, weight: float = 150.0) -> Method:
    """CCL; `settings` name cosines, like `SETTINGS`.

    SimpleX also mixes the mean of the items that a user has into the user; this is its loss alone (MF + CCL).
    """
    want_own_objective("ccl", settings, SETTINGS)
    want_cosines("ccl", settings)
    if settings.logq:
        raise ValueError("ccl draws negatives as they come, got logq=True; leave it False")
    return plain(presets.build(settings, train, objective=objective(margin=margin, weight=weight)))
