"""TDE: the total direct effect at test time (Tang, Huang, Zhang 2020, arXiv 2009.12991), moved from images to users.

The feature x of an image is the user here, and the classifier's weights are the items.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxrec.ledger import GradientLedger
from jaxrec.models.wrappers import unit
from jaxrec.rows import product
from jaxrec.select import Arm
from jaxrec.transforms.adjustment import (
    Adjustment,
    ScoreChange,
    Strength,
    fold_bias,
    identity,
    is_zero,
    remove_along,
)
from jaxrec.types import Array, Tables


def running_mean(mean: Array, rows: Array, *, momentum: float = 0.9) -> Array:
    """x̄ ← μ x̄ + mean of a batch's rows [B, D]: the source's running mean, up to the factor 1/(1 − μ); [D] -> [D]."""
    return momentum * mean + jnp.mean(rows, axis=0)


def direction(tables: Tables, ledger: GradientLedger) -> Array:
    """d = x̄/‖x̄‖, x̄ = Σ_u n_u u_u / Σ_u n_u, [D]: what the running mean tends to when rows have settled.

    n_u counts how often the ledger saw the user as a row of a batch; one that saw nobody counts everybody once.
    """
    seen = ledger.users.pull.events
    weight = jnp.where(jnp.any(seen > 0), seen, jnp.ones_like(seen)).astype(tables.user.dtype)
    return unit(product(weight, tables.user) / jnp.sum(weight))


def adjustment(strength: Strength, *, d: Array | None = None) -> Adjustment:
    """s'_ui = s_ui − α⟨u, d⟩⟨d, v_i⟩, done on the users' side: u ← u − α⟨u, d⟩d. d defaults to `direction`.

    It has the form of `remove_direction`, whose d comes from the gradients of positives and not from the users
    themselves. The source has α = 3 with its own normalisation and tunes it between 1 and 3; it classifies by several
    heads, of which this is one.
    """
    if is_zero(strength):
        return identity()

    def apply(tables: Tables, ledger: GradientLedger) -> Tables:
        tables = fold_bias(tables)
        return remove_along(tables, direction(tables, ledger) if d is None else d, strength)

    return apply


def arm(tables: Tables, ledger: GradientLedger) -> Arm:
    """The strength α in [0, 6], to be tuned like the library's own: twice the source's 3, since spectral tables of two
    data sets stood at that end."""
    folded = fold_bias(tables)
    d = direction(folded, ledger)
    left, right = product(folded.user, d)[:, None], product(folded.item, d)[:, None]  # [U, 1], [I, 1]
    ones = jnp.ones_like(right[:, 0])

    def change(s: Array) -> ScoreChange:
        return ScoreChange(ones, -s[0] * left, right, jnp.zeros(0))

    return Arm(("alpha",), (0,), (6.0,), lambda s: adjustment(s[0], d=d), change)
