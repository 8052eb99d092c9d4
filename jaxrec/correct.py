"""Correcting a model that is trained already: tables and interactions in, corrected tables out, nothing is retrained.

    model --adapters--> tables --frozen.observe--> ledger
    validation pairs --select--> strengths, for the gradients' adjustment and for the count control
    tables, ledger, strengths --> corrected tables, on the scale of the scores given

Strengths are right only where they are selected on pairs that the model was not trained on. Give such pairs as `valid`.
Without them pairs are carved from the interactions, which the model *has* seen: it scores them too well, those of rare
items most of all, and a selection on them corrects too much. `leave_out` estimates what the tables would be without
them, which takes away much of that, not all. `notes` says so wherever it was done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import adapters, explore, frozen, metrics, pipeline, rank, serve
from jaxrec import select as selection
from jaxrec.brief import brief
from jaxrec.data import splits
from jaxrec.data.interactions import DataError, Interactions, Split, contains, same_space, users_of
from jaxrec.ledger import GradientLedger
from jaxrec.names import want_seed, want_whole
from jaxrec.objectives import Objective
from jaxrec.select import Point
from jaxrec.transforms.adjustment import fold_bias
from jaxrec.types import Array, Tables

ARMS = ("adjusted", "count_control", "tten")
SEEN = (
    "no validation pairs were given: strengths were selected on pairs that the model was trained on, {how}; the "
    "validation figures are too good and the strengths may be too strong: give pairs held out of training as valid"
)
HOW = {
    "estimate": "with tables from which the share of those pairs was taken out by an estimate",
    "none": "with the tables as they are",
}


OTHERS = 500  # users that figures may be of who were not selected on


class Adjusted(NamedTuple):
    """A corrected model and how it came about. All tables have their biases folded in: scores are inner products."""

    tables: Tables  # corrected, scores on the scale of the model's own
    plain: Tables  # as given
    strengths: dict[str, float]  # of the gradients' adjustment
    validation: dict[str, dict[str, dict[str, float]]]  # part -> arm -> metric, see `reported_on`
    selected: dict[str, Point]  # arm -> strengths, and metrics on the users they were selected on
    frontier: dict[str, list[Point]]  # arm -> every point tried
    ledger: GradientLedger  # of the tables given over all interactions
    temperature: float  # of the softmax that the ledger was read with
    fingerprints: dict[str, str]  # of each part that `validation` is about
    reported_on: str  # which users `validation` is about
    results: dict[str, dict[str, metrics.Evaluation]]  # arm -> part -> metrics per user
    tradeoff: list[dict[str, Any]]  # what `pipeline.tradeoff` tells, on validation
    grid: dict[str, Any]  # what `explore.grid` tells of the users that strengths were selected on
    notes: tuple[str, ...]
    seconds: dict[str, float]

    def __repr__(self) -> str:
        selected = self.selected["adjusted"].metrics
        figures = {
            f"{part} {name}": {arm: values[name] for arm, values in arms.items()}
            for part, arms in self.validation.items()
            for name in selected.get(part, {})
            if name.startswith("ndcg@")
        }
        return brief(self, "tables", "strengths", **figures, reported_on=self.reported_on, notes=self.notes)


def adjust(
    model: Any,
    interactions: Interactions,
    valid: Interactions | None = None,
    *,
    family: selection.Family = "gradients",
    select: Literal["unbiased", "loss"] = "unbiased",
    max_loss: float = selection.MAX_LOSS,
    k: int = 20,
    budget: int = 24,
    select_users: int = 4096,
    per_item: int | None = None,
    leave_out: Literal["estimate", "none"] = "estimate",
    temperature: float | Literal["fit"] = "fit",
    objective: Objective | None = None,
    seed: int = 0,
) -> Adjusted:
    """Reads the ledger off a trained model, selects strengths on validation pairs, and corrects the tables.

    model: whatever `adapters.read` takes; interactions: what it was trained on, in its row numbers,
        with its ids where it has some.
    valid: natural pairs that it was not trained on. The unbiased part is drawn from them, at most `per_item` of each
        item (`uniform_part`). Without it, see the module's text.
    family: what to correct by, see `select.arms`.
    select: the best unbiased NDCG@k; or "loss", the best that loses at most `max_loss` of the natural one, which is
        an error with another value than its default without "loss".
    budget: points tried for each arm: the adjustment, and the count control and TTEN beside it.
    select_users: users they are tried on, drawn at random; the figures of `validation` are those of the other users
        where at least 500 are left.
    temperature, objective: see `frozen.observe`.

    Raises:
        TypeError: interactions or valid that are no `Interactions`.
        ValueError: interactions or valid of another id space than the model, nothing left to validate on, k or select
            that make no sense, and what `adapters.read` refuses.
    """
    limit = selection.limit(select, max_loss)
    if leave_out not in HOW:
        raise ValueError(f"leave_out must be one of {sorted(HOW)}, got {leave_out!r}")
    selection.want_family(family)
    want_whole("budget", budget)
    want_whole("select_users", select_users)
    want_seed(seed)
    if temperature != "fit":
        frozen.want_temperature(temperature)
    two, clock = adapters.read(model), pipeline.Clock()
    tables = two.tables
    rank.want_k(k, len(tables.item))
    _want_space(interactions, two, "interactions")
    with clock("hold out"):
        part, at_hand, notes = _validation(tables, interactions, valid, per_item, leave_out, seed)
    with clock("observe"):
        tau = frozen.fit_temperature(tables, interactions, seed=seed) if temperature == "fit" else float(temperature)
        ledger = frozen.observe(tables, interactions, objective, temperature=tau, key=jax.random.key(seed))
    with clock("observe without"):
        beside = ledger
        if at_hand is not tables:
            beside = frozen.observe(at_hand, part.train, objective, temperature=tau, key=jax.random.key(seed))
    chosen_users, other_users = _users(part, select_users, seed)
    with clock("select"):
        shown = _of_users(part.valid, chosen_users)
        problem, arms = _prepared(at_hand, beside, part.train, shown, family=family, k=k, seed=seed)
        points = {name: selection.frontier(problem, arms[name], budget=budget, seed=seed) for name in ARMS}
        chosen = {n: selection.select(tried, metric=f"ndcg@{k}", max_loss=limit) for n, tried in points.items()}
    with clock("report"):
        grid = explore.grid(
            problem, arms["adjusted"], part.train, selected=chosen["adjusted"].strengths, tried=points["adjusted"]
        )
        shown = _of_users(part.valid, other_users)
        results, tradeoff = _look(at_hand, beside, Split(part.train, {}, shown), points, chosen, family, k, seed)
    corrected = correct(tables, ledger, interactions, chosen["adjusted"].strengths, family=family, seed=seed)
    same = len(other_users) == len(chosen_users) and bool((other_users == chosen_users).all())
    return Adjusted(
        tables=corrected,
        plain=fold_bias(tables),
        strengths=chosen["adjusted"].strengths,
        validation={t: {arm: r[t].summary for arm, r in results.items()} for t in part.valid},
        selected=chosen,
        frontier=points,
        ledger=ledger,
        temperature=tau,
        fingerprints={part_name: pairs.fingerprint for part_name, pairs in part.valid.items()},
        reported_on=f"the {len(chosen_users)} users that strengths were selected on"
        if same
        else f"{len(other_users)} users that strengths were not selected on",
        results=results,
        tradeoff=tradeoff,
        grid=grid,
        notes=notes,
        seconds=clock.seconds,
    )


def frontiers(
    tables: Tables,
    ledger: GradientLedger,
    train: Interactions,
    valid: Mapping[str, Interactions],
    *,
    k: int = 20,
    budget: int = 24,
    arms: Sequence[str] = ARMS,
    seed: int = 0,
) -> dict[str, list[Point]]:
    """Every point tried for each arm, on parts `natural` and `unbiased` of pairs unseen."""
    problem, known = _prepared(tables, ledger, train, valid, family="gradients", k=k, seed=seed)
    return {name: selection.frontier(problem, known[name], budget=budget, seed=seed) for name in arms}


def _prepared(
    tables: Tables,
    ledger: GradientLedger,
    train: Interactions,
    valid: Mapping[str, Interactions],
    *,
    family: selection.Family,
    k: int,
    seed: int,
) -> tuple[selection.Problem, dict[str, selection.Arm]]:
    base, _ = frozen.standardize(tables)
    problem = selection.prepare(base, ledger, train, valid, k=k, max_users=None, seed=seed)
    return problem, selection.arms(base, ledger, train, family=family, seed=seed)


def _look(
    tables: Tables,
    ledger: GradientLedger,
    shown: Split,
    points: dict[str, list[Point]],
    chosen: dict[str, Point],
    family: selection.Family,
    k: int,
    seed: int,
) -> tuple[dict[str, dict[str, metrics.Evaluation]], list[dict[str, Any]]]:
    """What the arms do on the parts shown, and the trade-off there."""
    base, _ = frozen.standardize(tables)
    arms = selection.arms(base, ledger, shown.train, family=family, seed=seed)
    ks = sorted({c for c in (*pipeline.KS, k) if c <= tables.item.shape[0]})
    adjusted = {name: selection.apply(arms[name], chosen[name].strengths, base, ledger) for name in ARMS}
    results = {name: pipeline.evaluate(t, shown, ks=ks) for name, t in ({"plain": base} | adjusted).items()}
    return results, pipeline.tradeoff(points, arms, base, ledger, shown, k=k)


def correct(
    tables: Tables,
    ledger: GradientLedger,
    interactions: Interactions,
    strengths: Mapping[str, float],
    *,
    arm: str = "adjusted",
    family: selection.Family = "gradients",
    seed: int = 0,
) -> Tables:
    """The tables corrected with known strengths, biases folded in; strengths of 0 give `fold_bias(tables)` itself.

    Offsets are in units of the standard deviation of each user's scores, which is why the scores of all users are
    brought to 1 before and back to their own scale after. ValueError for strengths that the arm does not have.
    """
    base, scale = frozen.standardize(tables)
    arms = selection.arms(base, ledger, interactions, family=family, seed=seed)
    if arm not in arms:
        raise ValueError(f"there is no arm {arm!r}; there are {', '.join(arms)}")
    found = arms[arm]
    selection.want_strengths(found, strengths)
    if not any(strengths.values()):
        return fold_bias(tables)
    return frozen.scale_users(selection.apply(found, strengths, base, ledger), scale)


def for_new_users(
    tables: Tables,
    ledger: GradientLedger,
    interactions: Interactions,
    histories: Interactions,
    strengths: Mapping[str, float],
    *,
    how: serve.FoldIn | None = None,
    family: selection.Family = "gradients",
    temperature: float = 1.0,
    seed: int = 0,
) -> Tables:
    """Corrected tables of users that the model never saw, [N, D'], from their `histories` (of the model's items).

    tables, ledger, interactions: of the model as it was trained (`Adjusted.plain`, `Adjusted.ledger`), not corrected:
        what a correction adds to the tables is nothing that a history speaks of. Users are folded in against them and
        corrected as the others are, with the gradients that their histories have.
    how: what `serve.calibrate_fold_in` finds, which is asked if none is given.
    temperature: that the ledger was read with, `Adjusted.temperature`; 1 for the ledger of a training run.
    """
    more, joined, everybody = appended(tables, ledger, interactions, histories, how=how, temperature=temperature)
    found = correct(more, joined, everybody, strengths, family=family, seed=seed)
    return found._replace(user=found.user[interactions.num_users :])


def appended(
    tables: Tables,
    ledger: GradientLedger,
    interactions: Interactions,
    histories: Interactions,
    *,
    how: serve.FoldIn | None = None,
    temperature: float = 1.0,
) -> tuple[Tables, GradientLedger, Interactions]:
    """Tables, ledger and interactions with the users of `histories` appended, not corrected; as `for_new_users` says.

    Biases that the tables have folded in are taken out of them first. DataError where both know the items' ids, and
    they differ.
    """
    numbers = np.arange(interactions.num_items)
    named = all(not np.array_equal(data.item_ids, numbers) for data in (histories, interactions))
    if named and not np.array_equal(histories.item_ids, interactions.item_ids):
        raise DataError(
            "histories must have the items of the interactions in their order, but the item ids differ; "
            "`data.reindex(histories, histories.user_ids, interactions.item_ids)` moves them"
        )
    known = without_folded(tables, ledger.items.pull.vector.shape[1])
    how = serve.calibrate_fold_in(known, interactions) if how is None else how
    more, joined = serve.with_new_users(known, ledger, histories, how=how, temperature=temperature)
    everybody = Interactions(
        np.concatenate([interactions.users, histories.users + interactions.num_users]),
        np.concatenate([interactions.items, histories.items]),
        interactions.num_users + histories.num_users,
        interactions.num_items,
    )
    return more, joined, everybody


def without_folded(tables: Tables, width: int) -> Tables:
    """Tables of their ledger's `width`, without a column of users' own biases; a user column of ones is an item bias.

    >>> tables = fold_bias(Tables(jnp.zeros((1, 2)), jnp.ones((3, 2)), jnp.arange(3.0)))
    >>> found = without_folded(tables, 3)
    >>> found.user.shape, found.item.shape, found.item_bias.tolist()
    ((1, 2), (3, 2), [0.0, 1.0, 2.0])
    """
    user, item = tables.user[:, :width], tables.item[:, :width]
    if width > 1 and bool((user[:, -1] == 1).all()):
        return tables._replace(user=user[:, :-1], item=item[:, :-1], item_bias=item[:, -1])
    return tables._replace(user=user, item=item)


def uniform_part(data: Interactions, per_item: int | None = None, *, seed: int = 0) -> Interactions:
    """At most `per_item` pairs of each item, at random: as near to uniform over items as natural pairs allow.

    By default the median number of pairs of the items that occur, rounded down and at most 5, so mostly 1: an item with
    fewer pairs than that is underrepresented, and more pairs of the others would make that worse.

    >>> data = Interactions([0, 1, 2, 2], [0, 0, 0, 1], 3, 2)
    >>> uniform_part(data).item_counts.tolist()
    [2, 1]
    """
    if per_item is None:
        counts = data.item_counts[data.item_counts > 0]
        per_item = int(np.clip(np.median(counts) if len(counts) else 1, 1, 5))
    if per_item < 1:
        raise ValueError(f"per_item must be at least 1, got {per_item}")
    order = np.lexsort((np.random.default_rng(seed).random(len(data)), data.items))
    sorted_items = data.items[order]
    first = np.searchsorted(sorted_items, sorted_items)
    return data.select(np.sort(order[np.arange(len(data)) - first < per_item]))


def small_carve(interactions: Interactions, *, per_item: int | None = None, seed: int = 0) -> Split:
    """Validation parts half as large as those of `splits.carve`: 5 % natural, a twentieth of an item's mean count.

    How much correction is right depends on how well rare items were learned, and every pair taken from those that have
    five changes that: strengths selected after a larger carve are too weak for a model trained on all.
    """
    if per_item is None:
        items = max(int(np.count_nonzero(interactions.item_counts)), 1)
        per_item = int(np.clip(len(interactions) // (20 * items), 1, 5))
    return splits.carve(interactions, seed=seed, natural=0.05, per_item=per_item)


def leave_out(tables: Tables, interactions: Interactions, rest: Interactions) -> Tables:
    """What the tables would be, by estimate, had they been trained on `rest` and not on all `interactions`.

    Each user's row is shifted by s_u (f(rest_u) − f(all_u)), f the row that `serve.fold_in` gives for a history against
    the item rows, as calibrated on this model, and s_u the factor that brings f(all_u) nearest to the user's own row;
    likewise each item's row (and bias) against the user rows. Where the model is what `fold_in` computes (ALS), this is
    one half-step of training a side.
    """
    both = Tables(tables.user, tables.item, tables.item_bias)
    user = _shifted(both, interactions, rest)
    folded = fold_bias(both)
    item = _shifted(Tables(folded.item, folded.user), _turned(interactions), _turned(rest))
    if tables.item_bias is None:
        return tables._replace(user=user, item=item)
    return tables._replace(user=user, item=item[:, :-1], item_bias=item[:, -1])


def _shifted(tables: Tables, full: Interactions, rest: Interactions) -> Array:
    how = serve.calibrate_fold_in(tables, full)

    def rows(data: Interactions) -> Array:
        return serve.fold_in(
            tables.item, data, item_bias=tables.item_bias, score=how.score, ridge=how.ridge, weight=how.weight
        )

    before = rows(full)
    square = jnp.sum(before * before, axis=1)
    scale = jnp.where(square > 0, jnp.sum(before * tables.user, axis=1) / jnp.where(square > 0, square, 1.0), 0.0)
    return tables.user + scale[:, None] * (rows(rest) - before)


def _turned(data: Interactions) -> Interactions:
    order = np.argsort(data.items, kind="stable")
    return Interactions(data.items[order], data.users[order], data.num_items, data.num_users)


def _validation(
    tables: Tables,
    interactions: Interactions,
    valid: Interactions | None,
    per_item: int | None,
    how: Literal["estimate", "none"],
    seed: int,
) -> tuple[Split, Tables, tuple[str, ...]]:
    """A split with parts natural and unbiased, the tables to select with, and what people must know."""
    if valid is None:
        carved = small_carve(interactions, per_item=per_item, seed=seed)
        kept = leave_out(tables, interactions, carved.train) if how == "estimate" else tables
        # A copy, so that the caller sees that these are not the tables of all interactions.
        at_hand = kept._replace(user=jnp.array(kept.user))
        return carved, at_hand, (*interactions.notes, *carved.notes, SEEN.format(how=HOW[how]))
    _want_interactions(valid, "valid")
    if not same_space(valid, interactions):
        raise DataError(
            f"valid must have the rows and ids of the interactions, {interactions!r}, got {valid!r}; `data.reindex` "
            "brings both to the model's ids"
        )
    also = contains(interactions, valid.keys)
    natural = valid.select(~also)
    if not len(natural):
        raise DataError("no validation pair is left that is not also in the interactions; give pairs held out of them")
    unbiased = uniform_part(natural, per_item, seed=seed)
    notes = [*interactions.notes, *(f"valid: {note}" for note in valid.notes)]
    if also.any():
        notes.append(f"valid: {int(also.sum()):,} of {len(valid):,} pairs are also in the interactions, and left out")
    notes.append(
        f"valid: natural {len(natural):,} pairs; unbiased {len(unbiased):,} of them, at most "
        f"{unbiased.item_counts.max()} an item, of {np.count_nonzero(unbiased.item_counts):,} items"
    )
    return Split(interactions, {"natural": natural, "unbiased": unbiased}), tables, tuple(notes)


def _users(part: Split, wanted: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Users to select on, and users to report on: others where enough are left, else the same."""
    users = np.random.default_rng(seed).permutation(users_of(part.valid.values()))
    chosen, others = users[:wanted], users[wanted : wanted + max(wanted, OTHERS)]
    enough = len(others) >= OTHERS and all((p.user_counts[others] > 0).any() for p in part.valid.values())
    return np.sort(chosen), np.sort(others if enough else chosen)


def _of_users(parts: Mapping[str, Interactions], users: np.ndarray) -> dict[str, Interactions]:
    found = {name: part.select(np.isin(part.users, users)) for name, part in parts.items()}
    empty = [name for name, part in found.items() if not len(part)]
    if empty:
        raise DataError(f"the {empty[0]} validation part has no pair of the {len(users)} users to select on; give more")
    return found


def _want_space(data: Interactions, model: adapters.TwoTower, what: str) -> None:
    """That rows mean the same users and items: where a model does not know ids, row numbers are all there is."""
    _want_interactions(data, what)
    cure = "`data.reindex(data, model.user_ids, model.item_ids)` moves them"
    for side, given in (("user", data.user_ids), ("item", data.item_ids)):
        own = getattr(model, f"{side}_ids")
        if len(given) != len(own):
            raise DataError(
                f"{what} must be in the model's row numbers, {len(model.user_ids)} users x {len(model.item_ids)} "
                f"items, got {data.num_users} x {data.num_items}; {cure}"
            )
        if not np.array_equal(own, np.arange(len(own))) and not np.array_equal(own, given):
            at = int(np.flatnonzero(own != given)[0]) if own.dtype.kind == given.dtype.kind else 0
            raise DataError(
                f"{what} must have the model's {side} ids, but {side} row {at} is {given[at]!s}, the model's "
                f"{own[at]!s}; {cure}, text ids to text ids"
            )


def _want_interactions(data: Interactions, what: str) -> None:
    if not isinstance(data, Interactions):
        raise TypeError(
            f"{what} must be Interactions, got {type(data).__name__}; data.from_scipy makes them of a sparse matrix, "
            "data.from_pairs of users and items"
        )
