"""The comparison of methods: equal tuning on validation parts, the tests ranked once a seed for what was chosen.

For each data set, backbone and contestant (`experiments.contestants`):

1. Validation parts are carved from the training interactions (seed 0). `trials` settings are tried, the source's own
   first (where it is outside what is searched, the nearest that is searched), the others by optuna. Each is trained
   with early stopping, and every evaluation of it is a candidate: NDCG@20 on the natural part and on the unbiased
   part. A method with strengths at test time has them tried on its best state. A base's best state (by natural NDCG)
   has each test-time adjustment tried on it, `points` strengths each; so have spectral tables, which nobody trains:
   their gradients are read off by one pass over the interactions.
2. Two candidates are chosen: `unbiased`, the best unbiased NDCG; `loss10`, the best unbiased NDCG among those that keep
   90 % of the natural NDCG of the best plain base on that data and backbone (where none does, the one that keeps most).
   A plain base is chosen by natural NDCG, and so are plain spectral tables. For the adjustments of softmax and of
   spectral tables there are also `loss2`, `loss5` and `loss20`, of which only NDCG is kept: `experiments.equal`
   compares methods at equal natural accuracy.
3. Each is trained again on all training interactions, with seeds 0, 1, ...; each test is ranked once. What a method
   makes before it is trained (the branch of BC loss and PopGo, CausE's split) is the same for all seeds.

    results/rows.csv       data,backbone,method,seed,test,metric,value; `METHOD@loss10` is the second choice
    results/chosen.jsonl   what was tried and chosen, one line a contestant; `tested`: which choice its rows are of
    RUNS/per_user/...      NDCG@20 of each test user, for paired tests; tables keep their means beside rows.csv

A contestant that has a line and rows for each seed is skipped, so the command goes on where it was stopped. Rows of a
choice that is no longer the one (a base was tuned later, and allows less) are dropped and made again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import contestants
from experiments.contestants import ARMS, BASES, Backbone, Base, Contestant
from experiments.kept import Kept
from jaxrec import baselines, metrics, models, tune
from jaxrec import ledger as ledgers
from jaxrec import select as selection
from jaxrec.baselines import Method
from jaxrec.data import registry, splits
from jaxrec.data.interactions import Interactions, Split, users_of
from jaxrec.rank import TopK
from jaxrec.select import Arm
from jaxrec.train import DivergenceError
from jaxrec.transforms.adjustment import identity
from jaxrec.types import Scorer, Tables

K = 20
NDCG = f"ndcg@{K}"
RULES: dict[str, float | None] = {"unbiased": None, "loss10": 0.1}
FINE: dict[str, float | None] = {"loss2": 0.02, "loss5": 0.05, "loss20": 0.2}  # for the adjustments of FINE_BASES
FINE_BASES = ("softmax", "spectral")
LOSSES = RULES | FINE
KEPT = tuple(f"{name}@{K}" for name in ("recall", "ndcg", "tail_recall", "arp", "coverage"))


@dataclass(frozen=True)
class Contest:
    """One data set and backbone, with who takes part."""

    data: str
    backbone: Backbone = "mf"
    methods: tuple[str, ...] = ()  # none: all
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    trials: int = 6
    points: int = 96  # strengths tried for each adjustment of a base; a quarter where it has one strength only
    epochs: int = 30
    evaluate_every: int = 5
    patience: int = 3
    max_users: int | None = 8192  # validation users


class Candidate(NamedTuple):
    """A setting of a contestant, and what validation says of it."""

    options: dict[str, Any]
    epochs: int
    strengths: dict[str, float]
    metrics: dict[str, dict[str, float]]  # part -> name -> value

    def value(self, part: str) -> float:
        return self.metrics[part][NDCG]


def run(contest: Contest, results: Path, work: Path, only: tuple[str, ...] = ()) -> None:
    """Runs one contest, or `only` some methods. The bases of the contest are tuned first in either case, since the
    second rule asks for their natural NDCG."""
    split = registry.load(contest.data).split
    carved = splits.carve(Split(split.train, {}, {}), seed=0)  # tuning has no tests to look at
    kept = Kept(results, contest.data, contest.backbone)
    everyone = contest.methods or tuple(contestants.names(contest.backbone))
    names = only or everyone
    bases = [name for name in BASES if name in everyone]
    for name in bases + [name for name in names if name not in bases]:
        found = contestants.find(name, contest.backbone)
        known = kept.line(name)
        begun = time.perf_counter()
        if known is None:
            line = _tune(contest, found, carved)
            line["seconds"] = round(time.perf_counter() - begun, 1)
            kept.note(line)
            print(f"{contest.data} {contest.backbone} {name}: tuned in {line['seconds']:.0f} s", flush=True)
        elif missing := _missing_arms(known, found):
            kept.replace(known, _with_arms(contest, found, known, missing, carved))
            spent = time.perf_counter() - begun
            print(f"{contest.data} {contest.backbone} {name}: tried {', '.join(missing)} in {spent:.0f} s", flush=True)
    lines = {name: kept.line(name) for name in BASES}  # asked for or not
    pools = {name: of["candidates"][name] for name, of in lines.items() if of}
    reference = best_plain({name: [Candidate(**c) for c in pool] for name, pool in pools.items()})
    for name in names:
        begun = time.perf_counter()
        line = kept.line(name) or {}
        wanted = choices(line, reference)
        _mark(kept, line, wanted)
        if _refit(contest, contestants.find(name, contest.backbone), wanted, split, kept, work):
            spent = time.perf_counter() - begun
            print(f"{contest.data} {contest.backbone} {name}: tested in {spent:.0f} s", flush=True)
        jax.clear_caches()


def best_plain(pools: Mapping[str, Iterable[Candidate]]) -> float:
    """The natural NDCG of the best plain base, on validation, which natural losses are measured against."""
    return max(c.value("natural") for name in BASES if name in pools for c in pools[name])


def label_of(name: str, rule: str) -> str:
    """What rows call a method chosen by a rule."""
    return name if rule == "unbiased" else f"{name}@{rule}"


def choose(candidates: Iterable[Candidate], rule: str, reference: float) -> tuple[Candidate, bool]:
    """The candidate that a rule prefers, and whether it keeps to the rule's natural loss."""
    tried, loss = list(candidates), LOSSES[rule]
    if loss is None:
        return max(tried, key=lambda c: c.value("unbiased")), True
    kept = [c for c in tried if c.value("natural") >= (1 - loss) * reference]
    if not kept:
        return max(tried, key=lambda c: c.value("natural")), False
    return max(kept, key=lambda c: c.value("unbiased")), True


def choices(line: Mapping[str, Any], reference: float) -> dict[str, Candidate]:
    """What is tested of a line of chosen.jsonl, by label; a plain base by one rule only."""
    found = {}
    for name, pool in line["candidates"].items():
        fine = "+" in name and name.split("+")[0] in FINE_BASES
        for rule in LOSSES if fine else RULES:
            if rule == "unbiased" or name not in BASES:
                found[label_of(name, rule)], _ = choose([Candidate(**c) for c in pool], rule, reference)
    return found


def digest(chosen: Candidate) -> str:
    """A short name of what a choice is trained and ranked with.

    >>> digest(Candidate({"l2": 0.1}, 5, {}, {})) == digest(Candidate({"l2": 0.1}, 5, {}, {"natural": {NDCG: 0.3}}))
    True
    >>> digest(Candidate({"l2": 0.1}, 5, {}, {})) == digest(Candidate({"l2": 0.1}, 10, {}, {}))
    False
    """
    text = json.dumps([chosen.options, chosen.epochs, chosen.strengths], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def front(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Those that no other one beats on both parts, by natural NDCG from the best down."""
    best, kept = float("-inf"), []
    for c in sorted(candidates, key=lambda c: (-c.value("natural"), -c.value("unbiased"))):
        if c.value("unbiased") > best:
            best = c.value("unbiased")
            kept.append(c)
    return kept


def _tune(contest: Contest, who: Contestant, carved: Split) -> dict[str, Any]:
    """Tries `trials` settings; the line of chosen.jsonl, where candidates are kept as fronts of each row's name."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=max(contest.trials // 2, 1))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    if who.first:
        study.enqueue_trial(dict(who.first), skip_if_exists=False)
    problem = _problem(contest, carved)
    part = "natural" if who.adjusted else "unbiased"
    tried: list[Candidate] = []
    values: list[dict[str, Any]] = []
    best: tuple[float, Any] = (float("-inf"), None)
    for _ in range(contest.trials if who.space else 1):
        trial = study.ask()
        options = tune.suggest(trial, who.space)
        try:
            found, state = _trial(contest, who, options, carved, problem)
        except DivergenceError:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            values.append({**_short(options), "diverged": True})
            continue
        value = max(c.value(part) for c in found)
        study.tell(trial, value)
        tried += found
        values.append({**_short(options), part: round(value, 5)})
        if value > best[0]:
            best = value, (options, state)
    if not tried:
        raise RuntimeError(f"{who.name} diverged in each of {contest.trials} trials on {contest.data}")
    pools = {who.name: tried}
    if who.adjusted:
        # A plain base is what natural accuracy prefers, whatever the rule; so are spectral tables.
        pools[who.name] = [max(tried, key=lambda c: c.value("natural"))]
        options, (base, epoch) = best[1]
        pools |= _try_arms(contest, who, options, epoch, base, carved, problem)
    return {
        "data": contest.data,
        "backbone": contest.backbone,
        "method": who.name,
        "trials": values,
        "points": contest.points,
        "candidates": {name: [_plain(c) for c in front(pool)] for name, pool in pools.items()},
    }


def _trial(
    contest: Contest, who: Contestant, options: Mapping[str, Any], carved: Split, problem: selection.Problem
) -> tuple[list[Candidate], Any]:
    """One setting: a candidate for each evaluation of it, and, for its adjustments, the base and its epoch."""
    train = carved.train
    if who.kind == "solved":
        ranked = contestants.SOLVED[who.name][0](train, 0, **options)
        base = contestants.read_off(ranked, train, seed=0) if isinstance(ranked, Tables) and who.adjusted else None
        return [Candidate(dict(options), 0, {}, _measure(ranked, carved, problem))], (base, 0)
    method = contestants.make(who.name, contest.backbone, train, options, epochs=contest.epochs)
    part = "natural" if who.kind == "base" else "unbiased"

    def evaluate(state: Any) -> dict[str, float]:
        found = _measure(method.rank(state.params), carved, problem)
        return {f"{part}/{name}": value for part, values in found.items() for name, value in values.items()}

    fitted = baselines.fit_method(
        method,
        epochs=contest.epochs,
        evaluate=evaluate,
        evaluate_every=contest.evaluate_every,
        monitor=f"{part}/{NDCG}",
        patience=contest.patience,
    )
    found = [
        Candidate(dict(options), row["epoch"], {}, {p: {NDCG: row[f"{p}/{NDCG}"]} for p in problem.parts})
        for row in fitted.history
        if f"{part}/{NDCG}" in row
    ]
    for strengths, measured in _own_strengths(contest, method, fitted.best, carved, problem):
        found.append(Candidate(dict(options), fitted.best_epoch, strengths, measured))
    return found, (_base(method, fitted.best) if who.adjusted else None, fitted.best_epoch)


def _base(method: Method, state: Any) -> Base:
    assert state.ledger is not None, "bases are made with a ledger"
    return Base(models.embed(method.model, state.params), state.ledger)


def _own_strengths(
    contest: Contest, method: Method, state: Any, carved: Split, problem: selection.Problem
) -> list[tuple[dict[str, float], dict[str, dict[str, float]]]]:
    """A trained method's own strengths at test time: a quarter of an adjustment's points where it is one itself, else
    at most nine of each strength, the others as they are."""
    number = max(contest.points // 4, 1)
    if method.arm is not None:
        tables = baselines.start(method, state.params)
        at = problem._replace(tables=tables)
        points = selection.frontier(at, method.arm(state.params), budget=number)
        return [(p.strengths, p.metrics) for p in points]
    found = []
    for name, own in method.strengths.items():
        for value in np.linspace(0.0, 4.0 * own, min(number, 9)).tolist():
            ranked = method.rank(state.params, **{name: value})
            found.append(({name: value}, _measure(ranked, carved, problem)))
    return found


def _measure(found: Tables | Scorer, carved: Split, problem: selection.Problem) -> dict[str, dict[str, float]]:
    if isinstance(found, Tables):
        return selection.measure(problem._replace(tables=found), identity())
    chunks = zip(problem.users, problem.relevant, strict=True)  # padded by users that have nothing to find
    users = np.sort(np.concatenate([u[np.any([(p >= 0).any(1) for p in parts], axis=0)] for u, parts in chunks]))
    ranking = baselines.top_k(found, users, carved.train, k=K)
    summaries = {p: metrics.evaluate(ranking, part, carved.train, ks=[K]).summary for p, part in carved.valid.items()}
    return {part: {NDCG: summary[NDCG]} for part, summary in summaries.items()}


def _missing_arms(line: Mapping[str, Any], who: Contestant) -> tuple[str, ...]:
    """The adjustments that a base has not been tried with, since they came after it was tuned."""
    return tuple(arm for arm in ARMS if who.adjusted and f"{who.name}+{arm}" not in line["candidates"])


def _with_arms(
    contest: Contest, who: Contestant, line: Mapping[str, Any], missing: tuple[str, ...], carved: Split
) -> dict[str, Any]:
    """The line of a base with candidates of the adjustments that are missing: what was chosen is trained again."""
    plain = Candidate(**line["candidates"][who.name][0])
    base = fitter(contest, who, plain, carved.train)(0)
    problem = _problem(contest, carved)
    pools = _try_arms(contest, who, plain.options, plain.epochs, base, carved, problem, missing)
    more = {name: [_plain(c) for c in front(pool)] for name, pool in pools.items()}
    return {**line, "candidates": line["candidates"] | more}


def _problem(contest: Contest, carved: Split) -> selection.Problem:
    """The validation users and parts that all are compared on."""
    tables = models.most_popular(carved.train)
    empty = ledgers.init(carved.train.num_users, carved.train.num_items, 1)
    return selection.prepare(tables, empty, carved.train, carved.valid, k=K, max_users=contest.max_users)


def _try_arms(
    contest: Contest,
    who: Contestant,
    options: dict[str, Any],
    epoch: int,
    base: Base,
    carved: Split,
    problem: selection.Problem,
    wanted: tuple[str, ...] = ARMS,
) -> dict[str, list[Candidate]]:
    """Candidates of test-time adjustments of a base, under `base+arm`."""
    at = problem._replace(tables=base.tables, ledger=base.ledger)
    found = {}
    for name, arm in contestants.arms(base, carved.train, seed=0, wanted=wanted).items():
        budget = contest.points if len(arm.names) > 1 else max(contest.points // 4, 1)
        points = selection.frontier(at, arm, budget=budget)
        found[f"{who.name}+{name}"] = [Candidate(dict(options), epoch, p.strengths, p.metrics) for p in points]
    return found


def _mark(kept: Kept, line: Mapping[str, Any], wanted: Mapping[str, Candidate]) -> None:
    """Drops rows that were made of another choice, then notes in the line which choices its rows are of."""
    tested = {label: digest(chosen) for label, chosen in wanted.items()}
    old = line.get("tested", {})
    if old == tested:
        return
    kept.drop({label for label in tested if old.get(label) != tested[label]})
    kept.replace(line, {**line, "tested": tested})


def _refit(
    contest: Contest,
    who: Contestant,
    wanted: Mapping[str, Candidate],
    split: Split,
    kept: Kept,
    work: Path,
) -> bool:
    """Trains what was chosen on all training interactions, and writes its rows; False where all are there."""
    alike: dict[str, dict[str, Candidate]] = {}  # what one training serves
    for label, chosen in wanted.items():
        alike.setdefault(json.dumps([chosen.options, chosen.epochs]), {})[label] = chosen
    done, made = kept.done(), False
    for group in alike.values():
        fit = fitter(contest, who, next(iter(group.values())), split.train)
        for seed in contest.seeds:
            left = {label: chosen for label, chosen in group.items() if (label, seed) not in done}
            fitted = fit(seed) if left else None
            tried = {label.split("@")[0].split("+")[1] for label in left if "+" in label}
            arms = contestants.arms(fitted, split.train, seed=seed, wanted=tried) if isinstance(fitted, Base) else {}
            ranking: dict[str, TopK] = {}
            for label, chosen in left.items():
                same = json.dumps([label.split("@")[0], chosen.strengths])
                if same not in ranking:  # rules that agree are ranked once
                    ranking = {same: _top_k(_ranked(label.split("@")[0], chosen, fitted, arms), split)}
                _write(label, seed, ranking[same], split, kept, work)
                made = True
    return made


def fitter(contest: Contest, who: Contestant, chosen: Candidate, train: Interactions) -> Callable[[int], Any]:
    """From a seed to a `Base`, to (method, state) after the chosen epochs, or to what a solved contestant ranks by.
    A method is made, and compiled, once for all seeds."""
    if who.kind == "solved":
        solve = contestants.SOLVED[who.name][0]

        def solved(seed: int) -> Tables | Scorer | Base:
            found = solve(train, seed, **chosen.options)
            if who.adjusted and isinstance(found, Tables):
                return contestants.read_off(found, train, seed=seed)
            return found

        return solved

    @cache
    def method() -> Method:
        return contestants.make(who.name, contest.backbone, train, chosen.options, epochs=contest.epochs)

    def fit(seed: int) -> Base | tuple[Method, Any]:
        state = baselines.fit_method(method(), epochs=chosen.epochs, seed=seed).state
        return _base(method(), state) if who.adjusted else (method(), state)

    return fit


def _ranked(name: str, chosen: Candidate, fitted: Any, arms: Mapping[str, Arm]) -> Tables | Scorer:
    """What a choice ranks by, from what `fitter` gave."""
    if isinstance(fitted, Base):
        if "+" not in name:
            return fitted.tables
        return selection.apply(arms[name.split("+")[1]], chosen.strengths, fitted.tables, fitted.ledger)
    if isinstance(fitted, (Tables, Scorer)):
        return fitted
    method, state = fitted
    ranked: Tables | Scorer = method.rank(state.params, **chosen.strengths)
    return ranked


def _top_k(ranked: Tables | Scorer, split: Split) -> TopK:
    """The lists of the users that have something in a test."""
    return baselines.top_k(ranked, users_of(split.tests.values()), split.train, k=K)


def _write(label: str, seed: int, ranking: TopK, split: Split, kept: Kept, work: Path) -> None:
    """The rows of one seed, after its values by user."""
    rows: list[tuple[str, str, float]] = []
    names = (NDCG,) if label.rpartition("@")[2] in FINE else KEPT
    by_user: dict[str, Any] = {}
    for test, part in split.tests.items():
        found = metrics.evaluate(ranking, part, split.train, ks=[K])
        by_user |= {test: found.per_user[NDCG].astype(np.float32), f"{test}.users": found.users}
        rows += [(test, name, found.summary[name]) for name in names if name in found.summary]
    folder = work / "per_user" / f"{kept.data}.{kept.backbone}"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{label}.{seed}.npz", **by_user)
    kept.add(label, seed, rows)


def chosen_plain(results: Path, contest: Contest, name: str) -> Candidate:
    """What the comparison chose for a plain base. ValueError for one that it has not tuned."""
    if (line := Kept(results, contest.data, contest.backbone).line(name)) is None:
        raise ValueError(f"{name} is not tuned on {contest.data}, {contest.backbone}; run the comparison there first")
    return Candidate(**line["candidates"][name][0])


def _short(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: float(f"{v:.4g}") if isinstance(v, float) else v for name, v in options.items()}


def _plain(c: Candidate) -> dict[str, Any]:
    """As JSON holds it; options and strengths whole, since the refit reads them from there."""
    rounded = {part: {NDCG: round(values[NDCG], 5)} for part, values in c.metrics.items()}
    return {"options": c.options, "epochs": c.epochs, "strengths": c.strengths, "metrics": rounded}
