"""DAP: what graph convolutions amplify is taken off again, layer by layer (Chen et al. 2023, arXiv 2305.14886).

    e^(l) = D^-1/2 A D^-1/2 ẽ^(l−1),    ẽ^(0) = e^(0)
    ẽ_v   = e_v − α cos(e_v, h_v) h_v − β cos(e_v, t_v) t_v

h_v is the mean of e_j over the nodes j of v's cluster with more interactions than v, weighted by how many they have,
and t_v over those with fewer; 0 where there are none. The model ranks by the mean of ẽ^(0) .. ẽ^(L). It needs no
training of its own. The source clusters nodes, estimates from popular neighbours what was amplified, and takes it off
in each layer. The forms of h_v and t_v, their weights by cosine, and clusters that are found once, by k-means of the
plain model's rows, are this library's reading of it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import models, presets
from jaxrec.baselines.base import Method, known_strengths, want_objective, want_plain_rows
from jaxrec.data.interactions import Interactions
from jaxrec.ledger import GradientLedger
from jaxrec.models.lightgcn import Graph, normalized_graph
from jaxrec.models.wrappers import unit
from jaxrec.presets import Settings
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
    degree: np.ndarray  # [N] of each node


def kmeans(rows: Array, clusters: int, *, seed: int = 0, rounds: int = 20) -> np.ndarray:
    """The cluster of each row [N, D], by Lloyd's algorithm from `clusters` random rows: [N]."""
    rows = jnp.asarray(rows)
    chosen = np.random.default_rng(seed).choice(rows.shape[0], min(clusters, rows.shape[0]), replace=False)

    def nearest(centres: Array) -> Array:
        return jnp.argmin(jnp.sum(centres**2, axis=1)[None, :] - 2.0 * rows @ centres.T, axis=1)

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
        degree.astype(np.float32),
    )


def neighbours(rows: Array, found: Groups) -> tuple[Array, Array]:
    """h and t of the rows e [N, D] of all nodes: [N, D] each."""
    weighted = jnp.concatenate([rows, jnp.ones_like(rows[:, :1])], axis=1) * jnp.asarray(found.degree)[:, None]
    weighted = weighted[found.order]

    def mean(opens: np.ndarray, at: np.ndarray, reverse: bool) -> Array:
        def add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
            return a[0] | b[0], jnp.where(b[0], b[1], a[1] + b[1])

        # Sums start anew in each cluster, so that small ones aren't lost in the rounding of large ones.
        sums = jax.lax.associative_scan(add, (jnp.asarray(opens)[:, None], weighted), reverse=reverse)[1]
        total = jnp.where(jnp.asarray(at >= 0)[:, None], sums[at], 0.0)
        return total[:, :-1] / jnp.maximum(total[:, -1:], 1.0)

    return mean(found.last, found.more, True), mean(found.first, found.fewer, False)


def corrected(rows: Array, found: Groups, alpha: Strength, beta: Strength) -> Array:
    """ẽ of the rows e [N, D] of all nodes."""
    high, low = neighbours(rows, found)
    along = lambda mean: jnp.sum(unit(rows) * unit(mean), axis=1, keepdims=True) * mean  # noqa: E731
    return rows - alpha * along(high) - beta * along(low)


def tables(params: Params, graph: Graph, found: Groups, *, layers: int, alpha: Strength, beta: Strength) -> Tables:
    """The mean of ẽ^(0) .. ẽ^(L); with α = β = 0 it is LightGCN."""
    user, item = params["user"], params["item"]
    users, items = user, item
    for _ in range(layers):
        rows = corrected(jnp.concatenate([graph.to_users @ item, graph.to_items @ user]), found, alpha, beta)
        user, item = rows[: len(users)], rows[len(users) :]
        users, items = users + user, items + item
    return Tables(users / (layers + 1), items / (layers + 1))


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
    if clusters < 1:
        raise ValueError(f"dap wants at least one cluster, got {clusters}")
    model, sampler, step = presets.build(settings, train)
    layers = settings.layers if settings.backbone == "lightgcn" else 0
    degree, strengths = np.concatenate([train.user_counts, train.item_counts]), {"alpha": alpha, "beta": beta}

    def at(params: Params) -> Any:
        graph = normalized_graph(train)
        found = groups(kmeans(jnp.concatenate(models.embed(model, params)[:2]), clusters, seed=seed), degree)
        return partial(tables, params, graph, found, layers=layers)

    def rank(params: Params, ledger: GradientLedger | None = None, **given: float) -> Tables:
        return at(params)(**known_strengths(strengths, given))

    def arm(params: Params) -> Arm:
        of = at(params)

        def adjust(s: Array) -> Adjustment:
            return lambda tables, ledger: of(alpha=s[0], beta=s[1])

        return Arm(("alpha", "beta"), (0, 0), (1.0, 1.0), adjust)

    return Method(model, sampler, step, rank, strengths, arm)
