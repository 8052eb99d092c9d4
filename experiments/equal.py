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

How far chance among users may have made a difference is the spread of it over users drawn anew (a bootstrap, one and
the same for both tests): each time the plain base's natural NDCG, the neighbours in each chain and λ are found again,
so that p takes in that all of them are estimates. The natural mean of a row without values by user is taken to move as
the plain base's does, and where those are not known, none moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from experiments.contest import FINE, LOSSES, NDCG, label_of
from experiments.contest_tables import ByUser, Group, after_holm, is_ours, keeps, mean_of, p_of, seed_by_seed, spread
from experiments.contestants import BASES

NATURAL, UNBIASED = "natural", "unbiased"
SHARES = {0.98: "loss2", 0.95: "loss5", 0.9: "loss10", 0.8: "loss20"}  # and the rule by which validation chooses ours
SHOWN = 0.9  # the one that every method was tuned for
DRAWS, AT_ONCE = 4000, 200


class Drawn(NamedTuple):
    """A row's mean NDCG in a test: what it is at place 0, then for users drawn anew."""

    means: np.ndarray  # [1 + DRAWS]
    known: bool  # whether these are of its values by user


class Draws(NamedTuple):
    """What users drawn anew make of the rows of a group."""

    rows: Mapping[str, Mapping[str, Drawn]]  # test -> label
    users: int

    def natural(self, label: str) -> np.ndarray:
        return self.rows[NATURAL][label].means

    def unbiased(self, label: str) -> np.ndarray:
        return self.rows[UNBIASED][label].means


class Mixture(NamedTuple):
    """What a method comes to at the wanted natural NDCG."""

    natural: list[float]  # by seed
    unbiased: list[float]  # by seed
    parts: tuple[str, str]  # what is mixed, the more natural one first
    share: float  # λ of the second
    drawn: np.ndarray  # [1 + DRAWS] unbiased, mean over seeds
    natural_drawn: np.ndarray
    by_user: bool  # whether the unbiased values of its parts are known by user
    taken_in: bool  # whether the natural ones of all that any draw mixes and of the plain base are, too


def applies(group: Group, share: float) -> bool:
    """Whether the data set has both tests, and ours all its seeds."""
    return has_both(group) and group.ours(SHARES[share]) in whole(group)


def has_both(group: Group) -> bool:
    return {NATURAL, UNBIASED} <= set(next(iter(group.rows.values())))


def plain(group: Group) -> str:
    """The plain base that validation finds most accurate."""
    present = [name for name in BASES if name in group.pools]
    return max(present, key=lambda name: max(c.value(NATURAL) for c in group.pools[name]))


def chain(group: Group, name: str, first: str | None = None) -> list[str]:
    """The rows that a method is mixed of, from the best plain base, or another `first`, to its choice by unbiased NDCG
    alone."""
    losses = sorted((loss, rule) for rule, loss in LOSSES.items() if loss is not None)
    labels = [label_of(name, rule) for _, rule in losses] + [name]
    return [first or plain(group)] + [label for label in labels if label in group.rows]


def draw(group: Group, by_user: ByUser) -> Draws:
    """The rows' means over users drawn anew, each time those of both tests together (with weights by Poisson's law)."""
    rng, tests = np.random.default_rng(0), [test for test in (NATURAL, UNBIASED) if test in by_user.users]
    everyone = np.unique(np.concatenate([by_user.users[test] for test in tests] or [np.zeros(0, np.int64)]))
    known = {test: [label for label in group.rows if test in by_user.values.get(label, {})] for test in tests}
    moved: dict[str, list[np.ndarray]] = {test: [] for test in tests}
    for _ in range(DRAWS // AT_ONCE):
        weights = rng.poisson(1.0, (AT_ONCE, len(everyone))).astype(np.float32)
        for test in (test for test in tests if known[test]):
            of = weights[:, np.searchsorted(everyone, by_user.users[test])]
            values = np.stack([by_user.values[label][test] for label in known[test]], axis=1)
            apart = (values - values.mean(axis=0)).astype(np.float32)
            moved[test].append(of @ apart / of.sum(axis=1, keepdims=True))

    tables = {test: np.concatenate(parts) for test, parts in moved.items() if parts}

    base, still = plain(group), np.zeros(DRAWS)
    moves = base in known.get(NATURAL, [])
    as_base = tables[NATURAL][:, known[NATURAL].index(base)] / mean_of(group, base, NATURAL, NDCG) if moves else still

    def drawn(test: str, label: str) -> Drawn:
        mean = mean_of(group, label, test, NDCG)
        there = label in known.get(test, []) and (moves or test == UNBIASED)
        elsewhere = as_base * mean if test == NATURAL else still
        by = tables[test][:, known[test].index(label)] if there else elsewhere
        return Drawn(np.concatenate([[mean], mean + by]), there)

    return Draws({t: {label: drawn(t, label) for label in group.rows} for t in (NATURAL, UNBIASED)}, len(everyone))


def mixture(group: Group, draws: Draws, name: str, wanted: np.ndarray, first: str | None = None) -> Mixture:
    """A method at a natural NDCG of `wanted` [1 + DRAWS], which the plain base, or `first`, keeps at least."""
    labels = chain(group, name, first)
    naturals = np.stack([draws.natural(label) for label in labels])
    unbiased = np.stack([draws.unbiased(label) for label in labels])
    last = len(labels) - 1
    # Where all keep more, the last one; where a draw has none that keeps as much, the plain base.
    at, share = np.where(naturals[0] >= wanted, last, 0), np.zeros(wanted.shape)
    for place in reversed(range(last)):
        more, less = naturals[place], naturals[place + 1]
        between = (more >= wanted) & (wanted >= less) & (more > less)
        at = np.where(between, place, at)
        share = np.where(between, (more - wanted) / np.where(more > less, more - less, 1.0), share)
    after, places = np.where(share > 0, np.minimum(at + 1, last), at), np.arange(len(wanted))

    def mixed(values: np.ndarray) -> np.ndarray:
        found: np.ndarray = (1 - share) * values[at, places] + share * values[after, places]
        return found

    parts = labels[at[0]], labels[after[0]]

    def by_seed(test: str) -> list[float]:
        more, less = (np.asarray(group.rows[label][test][NDCG]) for label in parts)
        found: list[float] = ((1 - share[0]) * more + share[0] * less).tolist()
        return found

    by_user = all(draws.rows[UNBIASED][label].known for label in parts)
    looked_at = [labels[0], *(labels[n] for n in np.unique([at[share > 0], after[share > 0]]))]
    taken_in = all(draws.rows[NATURAL][label].known for label in looked_at)
    return Mixture(
        by_seed(NATURAL), by_seed(UNBIASED), parts, float(share[0]), mixed(unbiased), mixed(naturals), by_user, taken_in
    )


def against(ours: Mixture, other: Mixture, users: int) -> tuple[float, float]:
    """The difference ours − other and its p, of chance among users, its spread among the draws, and among seeds."""
    drawn = ours.drawn - other.drawn
    by_seed = seed_by_seed(ours.unbiased, other.unbiased)
    return float(drawn[0]), p_of(float(drawn[0]), float(np.std(drawn[1:])), users, by_seed)


def whole(group: Group) -> list[str]:
    """The methods that have all their seeds; one whose run was stopped halfway takes no part."""
    seeds = {label: len(tests[UNBIASED][NDCG]) for label, tests in group.rows.items()}
    return [name for name in group.pools if all(seeds[at] == max(seeds.values()) for at in chain(group, name))]


def compare(
    group: Group, draws: Draws, share: float
) -> tuple[str, dict[str, Mixture], dict[str, tuple[float, float]]]:
    """Ours, by validation; all mixtures from the best down; difference ours − other and p after Holm."""
    wanted, ours = share * draws.natural(plain(group)), group.ours(SHARES[share])
    found = {name: mixture(group, draws, name, wanted) for name in whole(group)}
    ranked = dict(sorted(found.items(), key=lambda one: -float(np.mean(one[1].unbiased))))
    known = [name for name in ranked if not is_ours(name) and ranked[name].by_user and ranked[ours].by_user]
    return ours, ranked, after_holm({name: against(ranked[ours], ranked[name], draws.users) for name in known})


def as_natural(
    group: Group, draws: Draws, ours: str, ranked: Mapping[str, Mixture], wanted: np.ndarray
) -> dict[str, tuple[float, float]]:
    """Difference and p after Holm from each other method, both keeping as much as the one of the two that keeps more.

    The plain base is left out, and who keeps more than it does: to keep as much, ours is mixed of nothing but it.
    """
    found: dict[str, tuple[float, float]] = {}
    all_of_it = draws.natural(plain(group))[0]
    for other in (name for name in ranked if not is_ours(name) and name != plain(group)):
        most = max((ranked[name].natural_drawn for name in (ours, other)), key=lambda drawn: float(drawn[0]))
        at = most if most[0] > wanted[0] + 1e-9 else wanted
        mine, theirs = (mixture(group, draws, name, at) for name in (ours, other))
        if mine.by_user and theirs.by_user and at[0] < all_of_it:
            found[other] = against(mine, theirs, draws.users)
    return after_holm(found)


def controls(groups: list[tuple[Group, Draws]]) -> list[str]:
    """A line for each model: one of our arms, as validation chooses it for a loss of 10 %, and its count control, both
    set to keep as much natural NDCG as the one of the two that keeps more; p over all lines."""
    rule, cells = "loss10", dict[str, list[str]]()
    found: dict[str, tuple[float, float]] = {}
    for group, draws in groups:
        there = whole(group)
        for base in dict.fromkeys(name.split("+")[0] for name in group.pools if is_ours(name)):
            two = group.ours(rule, base), f"{base}+count_control"
            labels = [label_of(name, rule) for name in two]
            if not all(label in group.rows and name in there for label, name in zip(labels, two, strict=True)):
                continue
            natural = [draws.natural(label) for label in labels]
            wanted = max(natural, key=lambda drawn: float(drawn[0]))
            if not all(keeps(group, label, rule) for label in labels) or wanted[0] >= draws.natural(base)[0]:
                continue
            ours, control = (mixture(group, draws, name, wanted, base) for name in two)
            if ours.by_user and control.by_user:
                key = f"{group.data}, {group.backbone} | {base}"
                kept = " / ".join(f"{one[0] / draws.natural(base)[0]:.3f}" for one in natural)
                cells[key] = [two[0].split("+")[1], kept, spread(ours.unbiased), spread(control.unbiased)]
                found[key] = against(ours, control, draws.users)
    lines = ["| data, backbone | model | ours | kept, ours / control | ours | count control | difference | p, Holm |"]
    lines.append("|---" * 8 + "|")
    for key, (difference, p) in after_holm(found).items():
        lines.append(f"| {key} | {' | '.join(cells[key])} | {difference:+.4f} | {p:.2g} |")
    return lines


def summary(groups: list[tuple[Group, Draws]]) -> list[str]:
    """A line for each group with both tests and each share: ours, the best other method, the difference, and the
    largest p against any other, which need not be that of the best one; and the least difference by `as_natural`."""
    columns = "data, backbone | natural kept | ours | NDCG@20 unbiased | best other | NDCG@20 unbiased"
    head = f"{columns} | difference | p, Holm | largest p, Holm | least, both as natural"
    lines = [f"| {head} |", "|---" * (head.count("|") + 1) + "|"]
    for group, of in groups:
        for share in (share for share in SHARES if applies(group, share)):
            ours, ranked, tested = compare(group, of, share)
            best = next(name for name in ranked if not is_ours(name))
            cells = [f"{group.data}, {group.backbone}", f"{share:.0%}", ours, spread(ranked[ours].unbiased)]
            cells += [best, spread(ranked[best].unbiased)]
            cells += _cells(tested, ranked, ours, best)
            least = max(tested, key=lambda name: tested[name][1], default=best)
            cells.append(f"{tested[least][1]:.2g} ({least})" if least in tested else "")
            equal = as_natural(group, of, ours, ranked, share * of.natural(plain(group)))
            worst = min(equal, key=lambda name: equal[name][0], default=best)
            cells.append(f"{equal[worst][0]:+.4f}, {equal[worst][1]:.2g} ({worst})" if worst in equal else "")
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def two_choices(groups: list[tuple[Group, Draws]]) -> list[str]:
    """A line for each group at `SHOWN`, with what every method has alone: its choices for 10 % and by unbiased NDCG."""
    lines = ["| data, backbone | ours | NDCG@20 unbiased | best other | NDCG@20 unbiased | difference | p, Holm |"]
    lines.append("|---" * 7 + "|")
    for full, of in groups:
        group = full._replace(rows={label: v for label, v in full.rows.items() if label.rpartition("@")[2] not in FINE})
        if applies(group, SHOWN):
            ours, ranked, tested = compare(group, of, SHOWN)
            best = next(name for name in ranked if not is_ours(name))
            cells = [f"{group.data}, {group.backbone}", ours, spread(ranked[ours].unbiased), best]
            cells += [spread(ranked[best].unbiased), *_cells(tested, ranked, ours, best)]
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


def table(group: Group, draws: Draws, share: float) -> list[str]:
    """Every method of a group at one share, from the best down."""
    ours, ranked, tested = compare(group, draws, share)
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
    both = [(group, draw(group, values)) for group, values in zip(groups, by_user, strict=True) if has_both(group)]
    parts = [
        "# Methods at equal natural accuracy",
        "Made by `python -m experiments.tables methods` from the same rows as [methods](methods.md); "
        "`experiments/equal.py` says how methods are mixed. NDCG@20 on the tests, mean ± sd over seeds; differences "
        f"are paired by user and by seed, p of the difference over its spread among {DRAWS:,} draws of the users and "
        "among seeds, corrected by Holm's method over all other methods. It takes in that mixtures are set on the "
        "natural test's users, but for those with a ‡, where some natural values by user of ours, of the other method "
        "or of the plain base are not kept; it does not know of the one choice made on validation. "
        "Adjustments of softmax and of spectral tables have choices for losses of 2, 5, 10 and 20 %, all other methods "
        f"for 10 % only, so {SHOWN:.0%} is the one level that all were asked for, if not with as many tries at it "
        "([methods](methods.md)); a method whose choice keeps less is mixed with the plain base.",
        "## Where ours stands",
        "\n".join(summary(both)),
        "### With two choices a method",
        f"The same at {SHOWN:.0%} without the choices for losses of 2, 5 and 20 %, which only some adjustments have.",
        "\n".join(two_choices(both)),
        "## Each model beside its own count control",
        "As on [methods](methods.md) at a natural loss of 10 % on validation, with both set to keep as much natural "
        "NDCG on the test as the one of the two that keeps more; the other is mixed with choices of its own that keep "
        "more, or with the model as it is. Left out are models of which one keeps more than the model itself. p by "
        "Holm's method over this table.",
        "\n".join(controls(both)),
    ]
    for group, of in both:
        if applies(group, SHOWN):
            parts += [f"## {group.data}, {group.backbone}: {SHOWN:.0%} of the plain base's natural NDCG"]
            parts += ["\n".join(table(group, of, SHOWN))]
    return "\n\n".join(parts) + "\n"
