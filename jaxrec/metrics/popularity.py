"""What a ranking does to popularity: whom it shows, whom it finds, and how concentrated it is.

Popularity n_i is always the number of *training* interactions of item i; ties of popularity go to the smaller id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxrec.data.interactions import same_space
from jaxrec.rank import TopK, positions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxrec.data.interactions import Interactions
    from jaxrec.types import Tables


def popularity_shares(counts: np.ndarray) -> np.ndarray:
    """The share of interactions that items more popular than item i hold: counts [I] -> [I] float64 in [0, 1]."""
    order = np.argsort(-counts, kind="stable")
    shares = np.empty(len(counts))
    shares[order] = (np.cumsum(counts[order]) - counts[order]) / max(counts.sum(), 1)
    return shares


def tail_items(counts: np.ndarray, share: float = 0.8) -> np.ndarray:
    """The complement of the smallest most-popular set holding `share` of the interactions: [I] -> [I] bool.

    >>> tail_items(np.array([1, 6, 2, 1])).tolist()
    [True, False, False, True]
    """
    return (popularity_shares(counts) >= share * (1 - 1e-12)) | (counts == 0)


def popularity_groups(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Masks [I]: head, mid and tail of equal interactions; top20 the most popular fifth of items, rest80 the rest."""
    third = np.minimum((popularity_shares(counts) * 3 + 1e-9).astype(int), 2)
    top = np.zeros(len(counts), bool)
    top[np.argsort(-counts, kind="stable")[: -(-len(counts) // 5)]] = True
    return {"head": third == 0, "mid": third == 1, "tail": third == 2, "top20": top, "rest80": ~top}


def group_names(counts: np.ndarray) -> np.ndarray:
    """head, mid or tail for each item, three groups of equal interactions: [I] -> [I] text.

    >>> group_names(np.array([1, 6, 4, 1])).tolist()
    ['tail', 'head', 'mid', 'tail']
    """
    groups = popularity_groups(counts)
    return np.select([groups["head"], groups["mid"]], ["head", "mid"], "tail")


def exposure(items: np.ndarray, counts: np.ndarray, profiles: np.ndarray, num_users: int) -> dict[str, np.ndarray]:
    """How popular the lists are: items [N, k] (-1: no item), counts [I], mean popularity of the profiles [N] -> [N].

    Means run over the items that the list has; an empty list scores 0, and so does the lift of an empty profile.
    Items without training interactions count once in novelty, which would be infinite.
    """
    there = items >= 0
    length = np.maximum(there.sum(axis=1), 1)
    surprise = -np.log2(np.maximum(counts, 1) / num_users)
    tail = np.sum(tail_items(counts)[items] & there, axis=1).astype(np.float64)
    arp = np.sum(np.where(there, counts[items], 0), axis=1) / length
    return {
        "arp": arp,
        "aplt": tail / length,
        "aclt": tail,
        "novelty": np.sum(np.where(there, surprise[items], 0.0), axis=1) / length,
        "lift": np.where(profiles > 0, arp / np.where(profiles > 0, profiles, 1.0) - 1.0, 0.0),
    }


def profile_popularity(train: Interactions) -> np.ndarray:
    """The mean popularity of what each user has in train, 0 for empty profiles: [U]."""
    total = np.bincount(train.users, train.item_counts[train.items], minlength=train.num_users)
    return total / np.maximum(train.user_counts, 1)


def concentration(recommended: np.ndarray) -> dict[str, float]:
    """Coverage, Gini and Shannon entropy (bits) of how often each item is recommended: [I].

    gini = Σ_j (2j − I − 1) x_(j) / (I Σ x), x_(j) ascending: 0 all alike, 1 − 1/I a single item.

    >>> concentration(np.array([0, 0, 0, 5]))
    {'coverage': 0.25, 'gini': 0.75, 'entropy': 0.0}
    """
    size, total = len(recommended), max(recommended.sum(), 1)
    shares = np.sort(recommended) / total
    some = shares[shares > 0]
    return {
        "coverage": len(some) / size,
        "gini": float(np.sum((2 * np.arange(1, size + 1) - size - 1) * shares) / size),
        "entropy": float(abs(np.sum(some * np.log2(some)))),
    }


def relative_deviation(rates: Sequence[float]) -> float:
    """std / mean, 0 where all rates are 0 or there is none: how unequal groups are treated."""
    mean = float(np.mean(rates)) if len(rates) else 0.0
    return float(np.std(rates)) / mean if mean > 0 else 0.0


def group_fairness(
    users: np.ndarray, items: np.ndarray, hits: np.ndarray, test: Interactions, train: Interactions
) -> dict[str, float]:
    """pop_reo and pop_rsp: std/mean over head and tail of true-positive and of recommendation rates (Zhu et al. 2020).

    True-positive rate of g: hits in g / test items in g. Recommendation rate of g: recommendations in g / pairs of
    an evaluated user and an item of g outside the user's training items. Head is the set holding 80 % of training. A
    group without test items, or without such pairs, says nothing about a rate and is left out of it.
    """
    tail = tail_items(train.item_counts)
    evaluated = np.zeros(train.num_users, bool)
    evaluated[users] = True
    hit_items, shown = items[hits], items[items >= 0]
    tested, trained = test.items[evaluated[test.users]], train.items[evaluated[train.users]]
    opportunity, parity = [], []
    for group in (~tail, tail):
        pairs = int(group.sum()) * int(evaluated.sum()) - int(group[trained].sum())
        opportunity += [group[hit_items].sum() / group[tested].sum()] if group[tested].any() else []
        parity += [group[shown].sum() / pairs] if pairs else []
    return {"pop_reo": relative_deviation(opportunity), "pop_rsp": relative_deviation(parity)}


def segment_ranks(values: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """The rank of each value within its segment, equal values sharing their mean rank: [E], [E] -> [E] float64.

    >>> segment_ranks(np.array([5.0, 1.0, 5.0, 9.0]), np.array([0, 0, 0, 1])).tolist()
    [2.5, 1.0, 2.5, 1.0]
    """
    order = np.lexsort((values, segments))
    v, s = values[order], segments[order]
    new_segment = np.r_[True, s[1:] != s[:-1]]
    new_value = new_segment | np.r_[True, v[1:] != v[:-1]]
    first = np.flatnonzero(new_value)
    last = np.r_[first[1:], len(v)]
    middle = ((first + last - 1) / 2)[np.cumsum(new_value) - 1]
    ranks = np.empty(len(v))
    ranks[order] = middle - np.flatnonzero(new_segment)[np.cumsum(new_segment) - 1] + 1
    return ranks


def segment_spearman(a: np.ndarray, b: np.ndarray, segments: np.ndarray, size: int) -> np.ndarray:
    """Spearman's correlation of a and b within each segment, NaN where one is constant: [E] x 3 -> [size]."""
    counts = np.maximum(np.bincount(segments, minlength=size), 1)

    def centred(values: np.ndarray) -> np.ndarray:
        ranks = segment_ranks(values, segments)
        return ranks - (np.bincount(segments, ranks, minlength=size) / counts)[segments]

    x, y = centred(a), centred(b)
    products, xx, yy = (np.bincount(segments, w, minlength=size) for w in (x * y, x * x, y * y))
    defined = (xx > 0) & (yy > 0)
    return np.where(defined, products / np.sqrt(np.where(defined, xx * yy, 1.0)), np.nan)


def want_one_space(test: Interactions, train: Interactions) -> None:
    """ValueError where a row means another user or item in test than in train."""
    if not same_space(test, train):
        raise ValueError(
            f"test and train must be parts of one split, with the same ids in the same rows, got {test!r} and "
            f"{train!r}; `data.reindex(test, train.user_ids, train.item_ids)` brings a test over"
        )


def rank_correlations(
    tables: Tables,
    test: Interactions,
    train: Interactions,
    exclude: Interactions | Sequence[Interactions] | None = None,
    *,
    block: int | None = None,
) -> dict[str, float]:
    """pru and pri, from the exact ranks of all test positives (Zhu et al. 2021, WSDM, doi:10.1145/3437963.3441820).

    pru = −mean_u Spearman(n_i, rank_u(i)) over the test items of u; pri = −Spearman(n_i, mean rank of i over the users
    who like it). Positive: popular items rank higher even among liked ones. Users whose items or ranks are all
    alike have no correlation and are left out; 0 where nothing has one. `exclude` is `train` unless given.

    Raises ValueError where test and train are parts of different ids.
    """
    want_one_space(test, train)
    ranks = positions(tables, test.users, test.items, train if exclude is None else exclude, block=block)
    ranks, popularity = ranks.astype(np.float64), train.item_counts[test.items]
    by_user = segment_spearman(popularity, ranks, test.users, test.num_users)
    tested = np.flatnonzero(test.item_counts)
    means = np.bincount(test.items, ranks, minlength=test.num_items)[tested] / test.item_counts[tested]
    by_item = segment_spearman(train.item_counts[tested], means, np.zeros(len(tested), np.int64), 1)
    return {
        name: float(-np.mean(found[~np.isnan(found)])) if not np.isnan(found).all() else 0.0
        for name, found in (("pru", by_user), ("pri", by_item))
    }


def recommendation_counts(ranking: TopK, num_items: int, k: int) -> np.ndarray:
    """How often each item is recommended within the first k: [I]."""
    shown = ranking.items[:, :k]
    return np.bincount(shown[shown >= 0], minlength=num_items)
