"""The comparison of methods at equal natural accuracy: each is mixed so that it keeps the same natural test NDCG.

Two rankings served to shares λ and 1 − λ of users, drawn at random, have the λ-weighted means of their metrics. A
method has a few choices made on validation, for natural losses of at most 2, 5, 10 and 20 % (where
`experiments.contest` has them) and for unbiased NDCG alone. They make a chain that begins at the best plain base. The
first two neighbours in it that the wanted natural NDCG lies between are mixed so that the mixture keeps exactly that. λ
looks at means on the natural test only, and nothing is chosen by an unbiased test. A method that keeps more with its
last choice is that choice, so that all keep at least what is wanted. Where one of two keeps more, their difference is
also taken with the other mixed to keep as much as it does.

The wanted natural NDCG is a share of the best plain base's on the natural test, which base being validation's choice.
Data sets without a natural test are left out.

λ is an estimate itself, from the same users' natural NDCG, so p takes it in: a user's part in a mixture's unbiased NDCG
is their own value, and what their natural NDCG does to it through λ (the delta method),

    x_u = U + (n/n_b) 1[u in unbiased] (b_u − U) − (n/n_a) 1[u in natural] (dU/dN) (a_u − w_u),

with b_u and a_u the mixture's values, w_u those of the wanted level, U the mean of b, dU/dN the slope between the two
parts of the mixture, n users in all, n_b and n_a of them in the tests. A mixture that keeps more than is wanted is
mixed further, which is what the last term takes off. Its mean is U, its standard error that of U.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from experiments.contest import LOSSES, NDCG, label_of
from experiments.contest_tables import ByUser, Group, after_holm, is_ours, pairs, spread
from experiments.contestants import BASES
from jaxrec import metrics

NATURAL, UNBIASED = "natural", "unbiased"
SHARES = {0.98: "loss2", 0.95: "loss5", 0.9: "loss10", 0.8: "loss20"}  # and the rule by which validation chooses ours
SHOWN = 0.9  # the one that every method was tuned for


class Mixture(NamedTuple):
    """What a method comes to at the wanted natural NDCG."""

    natural: list[float]  # by seed
    unbiased: list[float]  # by seed
    parts: tuple[str, str]  # what is mixed, the more natural one first
    share: float  # λ of the second
    by_user: np.ndarray | None  # x_u of all users, mean over seeds
    natural_by_user: np.ndarray | None  # a_u of the natural test's
    taken_in: bool  # whether x_u knows that λ is an estimate


class Level(NamedTuple):
    """A natural NDCG that is to be kept."""

    mean: float
    by_user: np.ndarray | None  # w_u


def applies(group: Group, share: float) -> bool:
    """Whether the data set has both tests, and ours all its seeds."""
    both = {NATURAL, UNBIASED} <= set(next(iter(group.rows.values())))
    return both and group.ours(SHARES[share]) in whole(group)


def plain(group: Group) -> str:
    """The plain base that validation finds most accurate."""
    present = [name for name in BASES if name in group.pools]
    return max(present, key=lambda name: max(c.value(NATURAL) for c in group.pools[name]))


def chain(group: Group, name: str) -> list[str]:
    """The rows that a method is mixed of, from the plain base to its choice by unbiased NDCG alone."""
    losses = sorted((loss, rule) for rule, loss in LOSSES.items() if loss is not None)
    labels = [label_of(name, rule) for _, rule in losses] + [name]
    return [plain(group)] + [label for label in labels if label in group.rows]


def level(group: Group, by_user: ByUser, share: float) -> Level:
    """That share of the plain base's natural NDCG."""
    values = by_user.values.get(plain(group), {}).get(NATURAL)
    return Level(share * natural(group, plain(group)), None if values is None else share * values)


def mixture(group: Group, by_user: ByUser, name: str, wanted: Level) -> Mixture:
    """A method at a natural NDCG of `wanted`, which the plain base keeps at least."""
    labels = chain(group, name)
    for parts in pairwise(labels):
        more, less = (natural(group, label) for label in parts)
        if more >= wanted.mean >= less and more > less:
            share = (more - wanted.mean) / (more - less)
            break
    else:
        parts, share = (labels[-1], labels[-1]), 0.0

    def mixed(test: str) -> list[float]:
        first, second = (np.asarray(group.rows[label][test][NDCG]) for label in parts)
        found: list[float] = ((1 - share) * first + share * second).tolist()
        return found

    def values(test: str) -> np.ndarray | None:
        first, second = (by_user.values.get(label, {}).get(test) for label in parts)
        return None if first is None or second is None else (1 - share) * first + share * second

    unbiased, kept = values(UNBIASED), values(NATURAL)
    parted, off = None, None
    apart = natural(group, parts[0]) - natural(group, parts[1])
    if unbiased is not None:
        if apart and kept is not None and wanted.by_user is not None:
            off = -(_unbiased(group, parts[0]) - _unbiased(group, parts[1])) / apart * (kept - wanted.by_user)
        parted = _parts(by_user.users, unbiased, off)
    return Mixture(mixed(NATURAL), mixed(UNBIASED), parts, share, parted, kept, not apart or off is not None)


def _parts(users: Mapping[str, np.ndarray], unbiased: np.ndarray, off: np.ndarray | None) -> np.ndarray:
    """x_u from b_u and −(dU/dN) (a_u − w_u), over all users of both tests."""
    everyone = np.union1d(users[UNBIASED], users[NATURAL])
    found = np.full(len(everyone), unbiased.mean())
    at = np.searchsorted(everyone, users[UNBIASED])
    found[at] += len(everyone) / len(at) * (unbiased - unbiased.mean())
    if off is not None:
        at = np.searchsorted(everyone, users[NATURAL])
        found[at] += len(everyone) / len(at) * (off - off.mean())
    return found


def _unbiased(group: Group, label: str) -> float:
    return float(np.mean(group.rows[label][UNBIASED][NDCG]))


def natural(group: Group, label: str) -> float:
    """A row's natural NDCG, mean over seeds."""
    return float(np.mean(group.rows[label][NATURAL][NDCG]))


def whole(group: Group) -> list[str]:
    """The methods that have all their seeds; one whose run was stopped halfway takes no part."""
    seeds = {label: len(tests[UNBIASED][NDCG]) for label, tests in group.rows.items()}
    return [name for name in group.pools if all(seeds[at] == max(seeds.values()) for at in chain(group, name))]


def compare(
    group: Group, by_user: ByUser, share: float
) -> tuple[str, dict[str, Mixture], dict[str, tuple[float, float]]]:
    """Ours, by validation; all mixtures from the best down; difference ours − other and p after Holm."""
    wanted, ours = level(group, by_user, share), group.ours(SHARES[share])
    found = {name: mixture(group, by_user, name, wanted) for name in whole(group)}
    ranked = dict(sorted(found.items(), key=lambda one: -float(np.mean(one[1].unbiased))))
    values = {name: {UNBIASED: one.by_user} for name, one in ranked.items() if one.by_user is not None}
    others = [name for name in ranked if not is_ours(name)]
    return ours, ranked, pairs(values, ours, others, UNBIASED)


def as_natural(
    group: Group, by_user: ByUser, ours: str, ranked: Mapping[str, Mixture], wanted: Level
) -> dict[str, tuple[float, float]]:
    """Difference and p after Holm from each other method, both keeping as much as the one of the two that keeps more.

    The plain base is left out: whoever keeps as much as it does is mixed of nothing but it.
    """
    found: dict[str, tuple[float, float]] = {}
    for other in (name for name in ranked if not is_ours(name) and name != plain(group)):
        most = max((ranked[name] for name in (ours, other)), key=lambda one: float(np.mean(one.natural)))
        kept = float(np.mean(most.natural))
        at = Level(kept, most.natural_by_user) if kept > wanted.mean + 1e-9 else wanted
        mine, theirs = (mixture(group, by_user, name, at).by_user for name in (ours, other))
        if mine is not None and theirs is not None:
            found[other] = float(np.mean(mine - theirs)), metrics.paired_test(mine, theirs)
    return after_holm(found)


def summary(groups: list[Group], by_user: list[ByUser]) -> list[str]:
    """A line for each group with both tests and each share: ours, the best other method, the difference, and the
    largest p against any other, which need not be that of the best one; and the least difference by `as_natural`."""
    columns = "data, backbone | natural kept | ours | NDCG@20 unbiased | best other | NDCG@20 unbiased"
    head = f"{columns} | difference | p, Holm | largest p, Holm | least, both as natural"
    lines = [f"| {head} |", "|---" * (head.count("|") + 1) + "|"]
    for group, values in zip(groups, by_user, strict=True):
        for share in (share for share in SHARES if applies(group, share)):
            ours, ranked, tested = compare(group, values, share)
            best = next(name for name in ranked if not is_ours(name))
            cells = [f"{group.data}, {group.backbone}", f"{share:.0%}", ours, spread(ranked[ours].unbiased)]
            cells += [best, spread(ranked[best].unbiased)]
            cells += _cells(tested, ranked, ours, best)
            least = max(tested, key=lambda name: tested[name][1], default=best)
            cells.append(f"{tested[least][1]:.2g} ({least})" if least in tested else "")
            equal = as_natural(group, values, ours, ranked, level(group, values, share))
            worst = min(equal, key=lambda name: equal[name][0], default=best)
            cells.append(f"{equal[worst][0]:+.4f}, {equal[worst][1]:.2g} ({worst})" if worst in equal else "")
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cells(
    tested: Mapping[str, tuple[float, float]], ranked: Mapping[str, Mixture], ours: str, other: str
) -> list[str]:
    """A difference and its p as they are shown, with a mark where p takes shares as known."""
    if other not in tested:
        return ["", ""]
    difference, p = tested[other]
    return [f"{difference:+.4f}", f"{p:.2g}" + ("" if ranked[ours].taken_in and ranked[other].taken_in else " ‡")]


def table(group: Group, values: ByUser, share: float) -> list[str]:
    """Every method of a group at one share, from the best down."""
    ours, ranked, tested = compare(group, values, share)
    lines = ["| method | unbiased ndcg@20 | natural ndcg@20 | mixed of | ours − it | p, Holm |", "|---" * 6 + "|"]
    for name, one in ranked.items():
        shown = f"**{name}** (ours)" if name == ours else name
        rules = [part.partition("@")[2] or ("plain" if part in BASES else "unbiased") for part in one.parts]
        how = rules[0] if not one.share else f"{1 - one.share:.2f} {rules[0]}, {one.share:.2f} {rules[1]}"
        cells = [shown, spread(one.unbiased), spread(one.natural), how, *_cells(tested, ranked, ours, name)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def page(groups: list[Group], by_user: list[ByUser]) -> str:
    """The whole page, as Markdown."""
    parts = [
        "# Methods at equal natural accuracy",
        "Made by `python -m experiments.tables methods` from the same rows as [methods](methods.md); "
        "`experiments/equal.py` says how methods are mixed. NDCG@20 on the tests, mean ± sd over seeds; differences "
        "are paired by user, p by Student's t, corrected by Holm's method over all other methods. It takes in that "
        "shares are set on the natural test's users, but for those with a ‡, where natural values by user of ours, of "
        "the other method or of the plain base are not kept; it does not know of the one choice made on validation. "
        "Adjustments of softmax and of spectral tables have choices for losses of 2, 5, 10 and 20 %, all other methods "
        f"for 10 % only, so {SHOWN:.0%} is the one level that all were asked for, if not with as many tries at it "
        "([methods](methods.md)); a method whose choice keeps less is mixed with the plain base.",
        "## Where ours stands",
        "\n".join(summary(groups, by_user)),
    ]
    for group, values in zip(groups, by_user, strict=True):
        if applies(group, SHOWN):
            parts += [f"## {group.data}, {group.backbone}: {SHOWN:.0%} of the plain base's natural NDCG"]
            parts += ["\n".join(table(group, values, SHOWN))]
    return "\n\n".join(parts) + "\n"
