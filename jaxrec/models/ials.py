"""iALS: matrix factorisation of all user-item cells by exact alternating least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.models.mf import mf
from jaxrec.types import Array, Tables

if TYPE_CHECKING:
    from jaxrec.data.interactions import Interactions

CELLS, ROWS = 1 << 15, 1 << 10  # of a block of histories at most: 8 MB of gathered rows, 16 MB of systems at D = 64
SHORTEST = 8


class Block(NamedTuple):
    """Rows of like history, which are solved together."""

    rows: Array  # [b] int32
    history: Array  # [b, T] ids of the other side, padded with its size


def ials(
    train: Interactions,
    width: int = 64,
    *,
    alpha: float = 0.1,
    l2: float = 3e-3,
    nu: float = 1.0,
    epochs: int = 16,
    scale: float = 0.1,
    seed: int = 0,
) -> Tables:
    """Minimises, a side at a time and exactly (Hu, Koren, Volinsky 2008, DOI 10.1109/ICDM.2008.22),

        Σ_{(u,i) seen} (1 − <u, v_i>)² + α Σ_{u,i} <u, v_i>² + λ (Σ_u (n_u + α I)^ν ‖u‖² + Σ_i (n_i + α U)^ν ‖v_i‖²)

    in the form of Rendle et al. 2021 (arXiv 2110.14037), with α for the weight of a cell that was not seen, and a
    penalty that grows with a row's frequency. Their start: N(0, scale²/D). A side costs (E D² + rows D³) operations an
    epoch. Rows without interactions are 0.

    Raises ValueError for alpha <= 0, l2 <= 0 or epochs < 1.
    """
    if not (alpha > 0 and l2 > 0 and epochs >= 1):
        raise ValueError(f"alpha and l2 must be positive and epochs >= 1, got {alpha}, {l2} and {epochs}")
    item = mf(train.num_users, train.num_items, width, scale=scale).init(jax.random.key(seed))["item"]
    by_user, by_item = blocks(train), blocks(train, items=True)
    for _ in range(epochs):
        user = solve_side(item, by_user, train.num_users, alpha=alpha, l2=l2, nu=nu)
        item = solve_side(user, by_item, train.num_items, alpha=alpha, l2=l2, nu=nu)
    return Tables(user, item)


def blocks(train: Interactions, *, items: bool = False) -> list[Block]:
    """The histories of users, or of items, in blocks of like length; T is a power of 2, so few programs are made."""
    matrix = train.to_scipy().T.tocsr() if items else train.to_scipy()
    counts, fill = np.diff(matrix.indptr), matrix.shape[1]
    widths = SHORTEST * 2 ** np.ceil(np.log2(np.maximum(counts, 1) / SHORTEST)).clip(0).astype(np.int64)
    found = []
    for width in np.unique(widths[counts > 0]):
        rows, height = np.flatnonzero((widths == width) & (counts > 0)), min(ROWS, max(1, CELLS // int(width)))
        for start in range(0, len(rows), height):
            chosen = rows[start : start + height]
            history = np.full((height, width), fill, np.int32)
            inside = np.arange(width)[None, :] < counts[chosen][:, None]
            history[: len(chosen)][inside] = matrix.indices[(matrix.indptr[chosen][:, None] + np.arange(width))[inside]]
            padded = np.concatenate([chosen, np.full(height - len(chosen), matrix.shape[0])])
            found.append(Block(jnp.asarray(padded, jnp.int32), jnp.asarray(history)))
    return found


def solve_side(other: Array, parts: list[Block], rows: int, *, alpha: float, l2: float, nu: float) -> Array:
    """The rows [rows, D] that are best against the other side's table [N, D]."""
    gram = alpha * jnp.einsum("nd,ne->de", other, other, precision="highest")
    found = jnp.zeros((rows, other.shape[1]))
    for part in parts:
        found = _solve_block(found, other, gram, part, jnp.float32(alpha), jnp.float32(l2), jnp.float32(nu))
    return found


@jax.jit(donate_argnums=0)
def _solve_block(
    found: Array, other: Array, gram: Array, part: Block, alpha: Array, l2: Array, nu: Array
) -> Array:
    """(Σ v vᵀ + α VᵀV + λ (n + α N)^ν) x = Σ v, over the v of each row's history."""
    size, width = other.shape
    seen = other.at[part.history].get(mode="fill", fill_value=0.0)  # [b, T, D], 0 where padded
    count = jnp.sum(part.history < size, axis=1).astype(jnp.float32)
    weight = l2 * (count + alpha * size) ** nu
    left = jnp.einsum("btd,bte->bde", seen, seen, precision="highest") + gram[None]
    left = left + weight[:, None, None] * jnp.eye(width)[None]
    solved = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(left), True), jnp.sum(seen, axis=1)[..., None])
    return found.at[part.rows].set(solved[..., 0], mode="drop")
