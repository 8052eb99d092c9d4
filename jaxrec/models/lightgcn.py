"""LightGCN: matrix factorisation whose rows are smoothed over the graph of training interactions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.models.base import Model
from jaxrec.models.mf import mf
from jaxrec.rows import accelerated
from jaxrec.types import Array, Params

if TYPE_CHECKING:
    from jax.experimental import sparse
    from scipy.sparse import csr_array

    from jaxrec.data.interactions import Interactions


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Entries:
    """A sparse matrix [N, M] entry by entry, ordered by row: what accelerators multiply by.

    There BCSR takes 2.4 times as long, and half a minute to compile on Gowalla (H100, jax 0.11.2).
    """

    rows: Array  # [E] int32
    columns: Array  # [E] int32
    weights: Array  # [E]
    num_rows: int = field(metadata={"static": True})

    def __matmul__(self, table: Array) -> Array:
        """The product with table [M, W] -> [N, W]."""
        found = self.weights[:, None] * table[self.columns]
        return jax.ops.segment_sum(found, self.rows, self.num_rows, indices_are_sorted=True)


class Graph(NamedTuple):
    """The normalised interactions both ways, so that each product goes through rows in their order."""

    to_users: sparse.BCSR | Entries  # [U, I] = D_u^-1/2 R D_i^-1/2
    to_items: sparse.BCSR | Entries  # [I, U], its transpose


def normalized_graph(train: Interactions) -> Graph:
    """R_ui / √(n_u n_i) for each training interaction; users and items without one have an empty row.

    >>> from jaxrec.data import Interactions
    >>> (normalized_graph(Interactions([0, 0, 1], [0, 1, 1], 2, 3)).to_users @ jnp.eye(3)).round(3).tolist()
    [[0.7070000171661377, 0.5, 0.0], [0.0, 0.7070000171661377, 0.0]]
    """
    return scaled_graph(train, 0.5, 0.5)


def scaled_graph(train: Interactions, user_power: float, item_power: float) -> Graph:
    """R_ui / (n_u^user_power n_i^item_power) for each training interaction, both ways."""
    length = lambda counts, power: np.maximum(counts, 1.0) ** power  # noqa: E731
    counts = train.to_scipy()
    both = counts / length(train.user_counts, user_power)[:, None] / length(train.item_counts, item_power)[None, :]

    put = entries if accelerated() else bcsr
    return Graph(put(both.tocsr()), put(both.T.tocsr()))


def bcsr(matrix: csr_array) -> sparse.BCSR:
    """A scipy matrix as jax's own, whose product is quick on CPUs."""
    from jax.experimental import sparse  # imports scipy.sparse, which most runs have no use for

    data, indices = jnp.asarray(matrix.data, jnp.float32), jnp.asarray(matrix.indices, jnp.int32)
    return sparse.BCSR((data, indices, jnp.asarray(matrix.indptr, jnp.int32)), shape=matrix.shape)


def entries(matrix: csr_array) -> Entries:
    """A scipy matrix as `Entries`."""
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int32), np.diff(matrix.indptr))
    columns, weights = jnp.asarray(matrix.indices, jnp.int32), jnp.asarray(matrix.data, jnp.float32)
    return Entries(jnp.asarray(rows), columns, weights, matrix.shape[0])


def propagate(graph: Graph, user: Array, item: Array, *, layers: int) -> tuple[Array, Array]:
    """The mean of E^(0) .. E^(L), where E^(l+1) = D^-1/2 A D^-1/2 E^(l): user [U, W], item [I, W] -> the same shapes.

    A is bipartite, so a layer is two products of half the size: users from items, and items from users. The whole is
    a symmetric linear map (a polynomial in a symmetric matrix), so its transpose, which gradients need, is itself.
    """

    @jax.custom_vjp
    def smooth(user: Array, item: Array) -> tuple[Array, Array]:
        users, items = user, item
        for _ in range(layers):
            user, item = graph.to_users @ item, graph.to_items @ user
            users, items = users + user, items + item
        return users / (layers + 1), items / (layers + 1)

    smooth.defvjp(lambda user, item: (smooth(user, item), None), lambda _, by_rows: smooth(*by_rows))
    return smooth(user, item)


def lightgcn(train: Interactions, width: int = 64, *, layers: int = 3, scale: float = 0.1) -> Model:
    """s_ui = <u, v_i> of rows propagated over `layers` layers of the training graph (He et al. 2020, arXiv 2002.02126).

    Parameters are E^(0), as in `mf`, and with no layers the model is `mf`. `scale` is the length of a row at the start,
    so the authors' N(0, .1²) a coordinate is scale = .1 √W. An L2 penalty looks at E^(0), as theirs does. Each row
    depends on all parameters, so the model wants an optax optimiser.

    Memory: 16 bytes an interaction, which compiled steps hold as constants. Raises ValueError for layers < 0.
    """
    if layers < 0:
        raise ValueError(f"layers must be at least 0, got {layers}; 3 is usual, 0 is matrix factorisation")
    flat = mf(train.num_users, train.num_items, width, scale=scale)
    if layers == 0:
        return flat
    graph = normalized_graph(train)

    def tables(params: Params) -> tuple[Array, Array]:
        return propagate(graph, params["user"], params["item"], layers=layers)

    return flat._replace(tables=tables, penalized=flat.tables, tables_are_params=False)
