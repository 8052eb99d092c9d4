"""PC: popularity compensation at test time (Zhu et al. 2021, WSDM, DOI 10.1145/3437963.3441820)."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxrec.ledger import GradientLedger
from jaxrec.rows import product, root
from jaxrec.select import Arm
from jaxrec.transforms.adjustment import Adjustment, Strength, fold_bias, identity, is_zero
from jaxrec.types import Array, Tables


def adjustment(
    strength: Strength, counts: Array | np.ndarray, *, beta: Strength = 0.5, as_coded: bool = False
) -> Adjustment:
    """s'_ui = s_ui + α C_ui ‖s_u‖/‖C_u‖ with C_ui = (β s_ui + 1 − β)/n_i; norms over all items, counts [I].

    `as_coded` takes what the authors' code has for it: C_ui = (β s_ui/r_u + 1 − β)/(n_i + 1), r_u the root mean square
    of s_u, so that β says the same of every user and model, and may exceed 1. (The code leaves what a user has out of
    the norms, which is not done here.) Without it an item that nobody has counts as n_i = 1.

    C is linear in s, so with κ_u = ‖s_u‖/‖C_u‖ the ranking still is an inner product, of [u, αβκ_u u/r_u] and
    [v_i, v_i/n_i] with the item bias α(1 − β)/n_i of strength κ_u: tables of twice the width, and every score exact.
    Both norms come from Σ_i v_i v_iᵀ and Σ_i v_i v_iᵀ/n_i², so that no U x I scores are made. Both strengths are tuned
    in the source.
    """
    if is_zero(strength):
        return identity()
    number = np.asarray(counts, np.float32)
    share = 1.0 / (number + 1.0 if as_coded else np.maximum(number, 1.0))

    def apply(tables: Tables, ledger: GradientLedger) -> Tables:
        user, item = fold_bias(tables)[:2]
        inverse = jnp.asarray(share, user.dtype)
        shrunk = item * inverse[:, None]  # [I, D]
        scores = _quadratic(user, product(item.T, item))
        own = beta
        if as_coded:
            mean = scores / len(share)
            own = beta * jnp.where(mean > 0, 1.0 / root(jnp.where(mean > 0, mean, 1.0)), 0.0)  # [U]
        mixed = own * product(user, product(inverse, shrunk))  # β/r_u Σ_i s_ui / n_i²
        square = own**2 * _quadratic(user, product(shrunk.T, shrunk)) + (1.0 - beta) * (
            2.0 * mixed + (1.0 - beta) * jnp.sum(inverse**2)
        )
        kappa = jnp.where(square > 0, root(scores / jnp.where(square > 0, square, 1.0)), 0.0)
        return Tables(
            jnp.concatenate([user, (strength * own * kappa)[:, None] * user], axis=1),
            jnp.concatenate([item, shrunk], axis=1),
            item_bias=strength * (1.0 - beta) * inverse,
            bias_strength=kappa,
        )

    return apply


def _quadratic(user: Array, gram: Array) -> Array:
    """uᵀ G u of each row, [U], held to be >= 0 against rounding."""
    return jnp.maximum(jnp.sum(product(user, gram) * user, axis=1), 0.0)


def arm(counts: Array | np.ndarray, *, as_coded: bool = True) -> Arm:
    """The strengths `mix` and β, to be tuned like the library's own; β up to 1, and as coded up to 1.5, since the
    authors' script has 1.2.

    `mix` is the share of C in (1 − mix) s + mix C ‖s‖/‖C‖, which ranks as α = mix/(1 − mix) does; up to .99.
    """

    def adjust(s: Array) -> Adjustment:
        return adjustment(s[0] / (1.0 - s[0]), counts, beta=s[1], as_coded=as_coded)

    return Arm(("mix", "beta"), (0, 0), (0.99, 1.5 if as_coded else 1.0), adjust)
