"""Metrics of a ranking: a value per user first, summaries second, every cut-off from one top-k pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxrec.brief import brief
from jaxrec.metrics import popularity as pop
from jaxrec.metrics.accuracy import (
    accuracy,
    hit_matrix,
    is_hit,
    ndcg_from_hits,
    recall_from_hits,
    weighted_accuracy,
)
from jaxrec.metrics.popularity import rank_correlations
from jaxrec.metrics.stats import Comparison, bootstrap_ci, compare, holm, paired_test, standard_error
from jaxrec.names import want_whole
from jaxrec.rank import TopK

if TYPE_CHECKING:
    from jaxrec.data.interactions import Interactions

__all__ = [
    "Comparison",
    "Evaluation",
    "Metric",
    "bootstrap_ci",
    "compare",
    "evaluate",
    "holm",
    "is_hit",
    "ndcg_from_hits",
    "paired_test",
    "rank_correlations",
    "recall_from_hits",
    "standard_error",
]


Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""hits [N, k] bool, the number of each user's test items [N], items [N, k] (-1 where a list is short) -> [N]."""


class Evaluation(NamedTuple):
    """Metrics named like `recall@20`."""

    users: np.ndarray  # [N] int32, the ranked users that have test items
    per_user: dict[str, np.ndarray]  # each [N] float64, never NaN
    summary: dict[str, float]  # means of per_user, and the metrics that belong to all lists together

    def __repr__(self) -> str:
        accuracy = {name: value for name, value in self.summary.items() if name.startswith(("recall@", "ndcg@"))}
        return brief(self, "users", summary=accuracy)


def evaluate(
    ranking: TopK,
    test: Interactions,
    train: Interactions,
    *,
    ks: Sequence[int] = (20,),
    propensities: ArrayLike | None = None,
    own: Mapping[str, Metric] | None = None,
) -> Evaluation:
    """Every metric at every cut-off, over the ranked users that have test items.

    Group recalls (head, mid, tail, top20, rest80) pool hits and test items over users; their per-user value is
    N · hits_u in g / Σ_u test items in g, so that the mean is the pooled recall. A group without test items is left
    out. `propensities` [I] in (0, 1] add recall_ips and ndcg_snips. Metrics count only users with test items.

    `own` adds metrics of one's own at every cut-off, functions of the first k ranks:

    >>> from jaxrec import data, models, rank
    >>> split = data.synthetic(seed=0).split
    >>> ranking = rank.top_k(models.most_popular(split.train), None, split.train, k=5)
    >>> first = {"first": lambda hits, relevant, items: hits[:, 0]}
    >>> found = evaluate(ranking, split.tests["natural"], split.train, ks=[1, 5], own=first).summary
    >>> found["first@5"] == found["precision@1"]
    True

    Raises:
        ValueError: no ranked user has test items, a cut-off outside 1..k, parts of different ids,
            a user ranked twice, propensities outside (0, 1], an own metric with the name of another one, or
            without one finite number a user.
    """
    propensities = None if propensities is None else np.asarray(propensities)
    _check(ranking, test, train, ks, propensities)
    keep = test.user_counts[ranking.users] > 0
    if not keep.any():
        raise ValueError("no ranked user has test items: nothing to evaluate; rank the users of this test")
    users, items = ranking.users[keep], ranking.items[keep]
    relevant = test.user_counts[users]
    hits = hit_matrix(users, items, test)
    for array in (items, relevant, hits):
        array.flags.writeable = False  # own metrics get views of them
    profiles = pop.profile_popularity(train)[users]
    groups = pop.popularity_groups(train.item_counts)
    evaluated = np.zeros(test.num_users, bool)
    evaluated[users] = True
    tested = test.items[evaluated[test.users]]
    per_user: dict[str, np.ndarray] = {}
    whole: dict[str, float] = {}
    for k in ks:
        shown, found = items[:, :k], hits[:, :k]
        values = accuracy(found, relevant, k)
        values |= pop.exposure(shown, train.item_counts, profiles, train.num_users)
        for name, group in groups.items():
            if total := int(group[tested].sum()):
                values[f"{name}_recall"] = len(users) * np.sum(group[shown] & found, axis=1) / total
        if propensities is not None:
            values |= weighted_accuracy(users, shown, found, test, propensities, k)
        counts = np.bincount(shown[shown >= 0], minlength=train.num_items)
        together = pop.concentration(counts) | pop.group_fairness(users, shown, found, test, train)
        for name, metric in (own or {}).items():
            if name in values | together:
                raise ValueError(f"a metric is called {name!r} already; give your own another name")
            values[name] = _one_each(metric(found, relevant, shown), len(users), name)
        per_user |= {f"{name}@{k}": value for name, value in values.items()}
        whole |= {f"{name}@{k}": value for name, value in together.items()}
    summary = {name: float(np.mean(value)) for name, value in per_user.items()} | whole
    return Evaluation(users, per_user, summary)


def _one_each(values: np.ndarray, count: int, name: str) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.shape != (count,):
        raise ValueError(f"{name} must give one finite number for each of {count} users, got shape {array.shape}")
    if odd := int(np.sum(~np.isfinite(array))):
        raise ValueError(f"{name} must give one finite number for each of {count} users; {odd} are NaN or infinite")
    return array


def _check(
    ranking: TopK, test: Interactions, train: Interactions, ks: Sequence[int], propensities: np.ndarray | None
) -> None:
    width = ranking.items.shape[1]
    if isinstance(ks, int):
        raise ValueError(f"ks are the cut-offs, one or several, like [20], got {ks}")
    for k in ks:
        want_whole("a cut-off", k)
        if k > width:
            raise ValueError(f"a cut-off must be at most the {width} ranked items, got {k}; rank with k={k}")
    pop.want_one_space(test, train)
    if len(ranking.users) and (ranking.users.max() >= test.num_users or ranking.items.max() >= test.num_items):
        raise ValueError("the ranking holds users or items unknown to the test; rank tables of the same split")
    if len(np.unique(ranking.users)) != len(ranking.users):
        raise ValueError("a user is ranked twice; pass each user once to top_k")
    if propensities is not None and not (
        propensities.shape == (test.num_items,) and np.all((propensities > 0) & (propensities <= 1))
    ):
        raise ValueError(f"propensities must be [{test.num_items}] values in (0, 1]; clip them from below")
