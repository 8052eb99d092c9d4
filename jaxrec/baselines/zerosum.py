"""Zerosum: BPR with a pair's two scores held to a sum of 0 (Rhee, Cho, Suh 2022, DOI 10.1145/3523227.3546757)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import presets
from jaxrec.baselines.base import Method, plain, want_own_objective
from jaxrec.baselines.parts import BPR
from jaxrec.data.interactions import Interactions
from jaxrec.objectives import Objective, row_mean
from jaxrec.presets import Settings
from jaxrec.types import Array

SETTINGS = BPR


def objective(*, weight: float = 0.9) -> Objective:
    """ℓ = mean_j [ w/2 · softplus(s_uj − s_ui) + (1 − w)/2 · (−log(1 − tanh|s_ui + s_uj|)) ].

    The second term is softplus(2|x|) − log 2 with x = s_ui + s_uj, which is how it is computed. w = 1 is half of BPR.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"zerosum weighs BPR by w in [0, 1], got {weight}; the source has 0.9")

    def loss(positive: Array, negative: Array, *, where: Array | None = None, log_q: Array | None = None) -> Array:
        ranking = jax.nn.softplus(negative - positive[:, None])
        total = jax.nn.softplus(2.0 * jnp.abs(negative + positive[:, None])) - np.log(2.0)
        return row_mean(weight / 2.0 * ranking + (1.0 - weight) / 2.0 * total, where)

    return loss


def build(settings: Settings, train: Interactions, *, weight: float = 0.9) -> Method:
    """Zerosum, with the source's w."""
    want_own_objective("zerosum", settings, SETTINGS)
    return plain(presets.build(settings, train, objective=objective(weight=weight)))
