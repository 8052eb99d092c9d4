"""LightGCN: matrix factorisation whose rows are smoothed over the graph of training interactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.models.base import Model
from jaxrec.models.mf import mf
from jaxrec.types import Array, Params

if TYPE_CHECKING:
    from jax.experimental import sparse
    from scipy.sparse import csr_array

    from jaxrec.data.interactions import Interactions


class Graph(NamedTuple):
    """The normalised interactions both ways, so that each product reads rows in their order and scatters nothing."""

    to_users: sparse.BCSR  # [U, I] = D_u^-1/2 R D_i^-1/2
    to_items: sparse.BCSR  # [I, U], its transpose


def normalized_graph(train: Interactions) -> Graph:
    """R_ui / √(n_u n_i) for each training interaction; users and items without one have an empty row.

    >>> from jaxrec.data import Interactions
    >>> normalized_graph(Interactions([0, 0, 1], [0, 1, 1], 2, 3)).to_users.todense().round(3).tolist()
    [[0.7070000171661377, 0.5, 0.0], [0.0, 0.7070000171661377, 0.0]]
    """
    return scaled_graph(train, 0.5, 0.5)


def scaled_graph(train: Interactions, user_power: float, item_power: float) -> Graph:
    """R_ui / (n_u^user_power n_i^item_power) for each training interaction, both ways."""
    from jax.experimental import sparse  # imports scipy.sparse, which most runs have no use for

    length = lambda counts, power: np.maximum(counts, 1.0) ** power  # noqa: E731
    counts = train.to_scipy()
    both = counts / length(train.user_counts, user_power)[:, None] / length(train.item_counts, item_power)[None, :]

    def device(matrix: csr_array) -> sparse.BCSR:
        data, indices = jnp.asarray(matrix.data, jnp.float32), jnp.asarray(matrix.indices, jnp.int32)
        return sparse.BCSR((data, indices, jnp.asarray(matrix.indptr, jnp.int32)), shape=matrix.shape)

    return Graph(device(both.tocsr()), device(both.T.tocsr()))


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
