"""DAP: what graph convolutions amplify is taken off again, layer by layer (Chen et al. 2023, arXiv 2305.14886).

    e^(l) = D^-1/2 A D^-1/2 ẽ^(l−1),    ẽ^(0) = e^(0)
    ẽ_v^(l) = e_v^(l) − α cos(ẽ_v^(l−1), h_v) ĥ_v − β cos(ẽ_v^(l−1), t_v) t̂_v

h_v is the mean of e_j^(l) over the nodes j of v's cluster with more interactions than v, and t_v over those with fewer,
ĥ_v and t̂_v the same at length 1; 0 where there are none. The model ranks by the mean of ẽ^(0) .. ẽ^(L). It needs no
training of its own. The authors' code (github.com/MEICRS/DAP) differs twice. There k-means runs in each layer on the
rows e^(l), here on those of α = β = 0, so that strengths can be tried without new clusters. And there a node with the
most or the fewest interactions of its cluster keeps the last layer's h_v or t_v.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import presets
from jaxrec.baselines.base import Method, known_strengths, want_linear, want_objective, want_plain_rows
from jaxrec.data.interactions import Interactions
from jaxrec.models.lightgcn import Graph, normalized_graph
from jaxrec.models.wrappers import unit
from jaxrec.presets import Settings
from jaxrec.rows import product
from jaxrec.select import Arm
from jaxrec.transforms.adjustment import Adjustment, Strength
from jaxrec.types import Array, Params, Tables

SETTINGS = Settings(
    objective="bpr", normalize_users=False, layers=3, reject=True, optimizer="adam", learning_rate=1e-3, l2=1e-4
)
"""LightGCN by BPR; on mf, which has no convolution, DAP changes nothing."""


class Groups(NamedTuple):
    """The nodes (users, then items) in the order of their clusters and, in a cluster, of their degrees."""

    order: np.ndarray  # [N] nodes
    first: np.ndarray  # [N] whether a place of the order is its cluster's first
    last: np.ndarray  # [N] whether it is the last
    fewer: np.ndarray  # [N] of each node: the last place in its cluster of a smaller degree, or -1
    more: np.ndarray  # [N] the first place in its cluster of a larger degree, or -1


def kmeans(rows: Array, clusters: int, *, seed: int = 0, rounds: int = 20) -> np.ndarray:
    """The cluster of each row [N, D], by Lloyd's algorithm from `clusters` random rows: [N]."""
    rows = jnp.asarray(rows)
    chosen = np.random.default_rng(seed).choice(rows.shape[0], min(clusters, rows.shape[0]), replace=False)

    def nearest(centres: Array) -> Array:
        return jnp.argmin(jnp.sum(centres**2, axis=1)[None, :] - 2.0 * product(rows, centres.T), axis=1)

    def again(centres: Array, _: None) -> tuple[Array, None]:
        of = nearest(centres)
        total = jnp.zeros_like(centres).at[of].add(rows)
        number = jnp.zeros(len(centres)).at[of].add(1.0)[:, None]
        return jnp.where(number > 0, total / jnp.maximum(number, 1.0), centres), None

    settled, _ = jax.lax.scan(again, rows[chosen], None, length=rounds)
    return np.asarray(nearest(settled))


def groups(cluster: np.ndarray, degree: np.ndarray) -> Groups:
    """Puts nodes in order, by their cluster [N] and degree [N].

    >>> found = groups(np.array([0, 1, 0, 0]), np.array([5, 1, 2, 5]))
    >>> found.order.tolist(), found.fewer.tolist(), found.more.tolist()
    ([2, 0, 3, 1], [0, -1, -1, 0], [-1, -1, 1, -1])
    """
    order = np.lexsort((degree, cluster))
    placed = cluster[order]
    key = cluster.astype(np.int64) * (int(degree.max(initial=0)) + 1) + degree
    before = np.searchsorted(key[order], key, side="left") - 1
    after = np.searchsorted(key[order], key, side="right")
    inside = np.minimum(after, len(order) - 1)
    change = placed[1:] != placed[:-1]
    return Groups(
        order,
        np.concatenate([[True], change]),
        np.concatenate([change, [True]]),
        np.where((before >= 0) & (placed[before] == cluster), before, -1),
        np.where((after < len(order)) & (placed[inside] == cluster), after, -1),
    )


def neighbours(rows: Array, found: Groups) -> tuple[Array, Array]:
    """h and t of the rows e [N, D] of all nodes: [N, D] each."""
    counted = jnp.concatenate([rows, jnp.ones_like(rows[:, :1])], axis=1)[found.order]

    def mean(opens: np.ndarray, at: np.ndarray, reverse: bool) -> Array:
        def add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
            return a[0] | b[0], jnp.where(b[0], b[1], a[1] + b[1])

        # Sums start anew in each cluster, so that small ones aren't lost in the rounding of large ones.
        sums = jax.lax.associative_scan(add, (jnp.asarray(opens)[:, None], counted), reverse=reverse)[1]
        total = jnp.where(jnp.asarray(at >= 0)[:, None], sums[at], 0.0)
        return total[:, :-1] / jnp.maximum(total[:, -1:], 1.0)

    return mean(found.last, found.more, True), mean(found.first, found.fewer, False)


def corrected(rows: Array, before: Array, found: Groups, alpha: Strength, beta: Strength) -> Array:
    """ẽ^(l) from the rows e^(l) and ẽ^(l−1), both [N, D], of all nodes."""
    high, low = map(unit, neighbours(rows, found))
    along = lambda mean: jnp.sum(unit(before) * mean, axis=1, keepdims=True) * mean  # noqa: E731
    return rows - alpha * along(high) - beta * along(low)


def propagated(graph: Graph, rows: Array, users: int) -> Array:
    """A layer: D^-1/2 A D^-1/2 of the rows [N, D] of users, then items."""
    user, item = rows[:users], rows[users:]
    return jnp.concatenate([graph.to_users @ item, graph.to_items @ user])


def tables(params: Params, graph: Graph, found: Sequence[Groups], *, alpha: Strength, beta: Strength) -> Tables:
    """The mean of ẽ^(0) .. ẽ^(L), `found` being the groups of each layer; with α = β = 0 it is LightGCN."""
    users = params["user"].shape[0]
    total = rows = jnp.concatenate([params["user"], params["item"]])
    for groups_of_layer in found:
        rows = corrected(propagated(graph, rows, users), rows, groups_of_layer, alpha, beta)
        total = total + rows
    total = total / (len(found) + 1)
    return Tables(total[:users], total[users:])


def build(
    settings: Settings,
    train: Interactions,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    clusters: int = 10,
    seed: int = 0,
) -> Method:
    """LightGCN by BPR, and DAP's strengths α and β at test time; all three numbers are to be tuned.

    `arm` tunes α and β in [0, 1]. On mf both are without effect.
    """
    want_objective("dap", settings, "bpr")
    want_plain_rows("dap", settings)
    want_linear("dap", settings)
    if clusters < 1:
        raise ValueError(f"dap wants at least one cluster, got {clusters}")
    model, sampler, step = presets.build(settings, train)
    layers = settings.layers if settings.backbone == "lightgcn" else 0
    degree, strengths = np.concatenate([train.user_counts, train.item_counts]), {"alpha": alpha, "beta": beta}

    def at(params: Params) -> Any:
        graph, rows, found = normalized_graph(train), jnp.concatenate([params["user"], params["item"]]), []
        for _ in range(layers):
            rows = propagated(graph, rows, train.num_users)
            found.append(groups(kmeans(rows, clusters, seed=seed), degree))
        return partial(tables, params, graph, found)

    def rank(params: Params, **given: float) -> Tables:
        return at(params)(**known_strengths(strengths, given))

    def arm(params: Params) -> Arm:
        of = at(params)

        def adjust(s: Array) -> Adjustment:
            return lambda tables, ledger: of(alpha=s[0], beta=s[1])

        return Arm(("alpha", "beta"), (0, 0), (1.0, 1.0), adjust)

    return Method(model, sampler, step, rank, strengths, arm)
