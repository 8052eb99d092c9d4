"""The main job, end to end: data -> carve -> fit -> select -> refit on all of train -> tests, once -> a RUN folder.

`jaxrec.runs` says what a RUN folder holds.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec import analysis, checkpoint, explore, files, metrics, models, rank, runs, samplers
from jaxrec import ledger as ledgers
from jaxrec import select as selection
from jaxrec.data import registry, splits
from jaxrec.data.interactions import DataError, Interactions, Split, users_of
from jaxrec.data.registry import Dataset
from jaxrec.ledger import GradientLedger
from jaxrec.names import want_seed
from jaxrec.presets import Settings, build, want_tables
from jaxrec.step import TrainState
from jaxrec.track import JsonLines, Tracker, want_trackers
from jaxrec.train import Fit, fit
from jaxrec.types import Tables

KS = (10, 20, 50)
COMPARED = (("adjusted", "plain"), ("adjusted", "count_control"), ("adjusted", "tten"), ("count_control", "plain"))


class Clock:
    """Notes the seconds of each stage: `with clock("fit"): ...`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - begun, 2)


@dataclass(frozen=True)
class _Job:
    """What every stage of a run needs to know."""

    dataset: Dataset
    settings: Settings
    seed: int
    out: Path
    resume: bool
    progress: bool
    trackers: Sequence[Tracker] = ()
    clock: Clock = field(default_factory=Clock)

    def fit(self, name: str, train: Interactions, **options: Any) -> tuple[models.Model, Fit]:
        """Trains with checkpoints under `name`. KeyboardInterrupt where a signal stopped it, saved."""
        model, sampler, step = build(self.settings, train)
        meta: dict[str, Any] = {"data": self.dataset.name, "seed": self.seed, "settings": asdict(self.settings)}
        meta["fingerprint"] = train.fingerprint
        meta["epochs"] = options["epochs"]

        def follow(row: dict[str, Any], state: TrainState) -> None:
            for tracker in self.trackers:
                tracker.log({"fit": name, **row}, row["epoch"])

        fitted = fit(
            step,
            sampler,
            key=jax.random.key(self.seed),
            checkpoint=self.out / "checkpoints" / name,
            checkpoint_every=self.settings.evaluate_every,
            resume=self.resume,
            meta=meta,
            progress=self.progress,
            on_epoch=follow,
            **options,
        )
        if fitted.stopped == "signal":
            raise KeyboardInterrupt(f"stopped by a signal; go on with the same command and --resume (in {self.out})")
        return model, fitted


class _Choice(NamedTuple):
    """What validation decided."""

    points: dict[str, list[selection.Point]]
    epochs: int
    notes: tuple[str, ...]
    history: list[dict[str, Any]]
    grid: dict[str, Any] | None


def train(
    data: str | Path | Dataset,
    settings: Settings,
    out: Path | str,
    *,
    preset: str = "custom",
    seed: int = 0,
    selected: Path | str | None = None,
    resume: bool = False,
    progress: bool = False,
    trackers: Sequence[Tracker] = (),
) -> dict[str, Any]:
    """Runs everything and writes the RUN folder; returns what `metrics.json` holds.

    data: what `data.load` takes, a name or path, or a `data.Dataset` of your own split with at least one test.

    Strengths and the number of epochs are selected on validation parts carved from the training interactions; the
    tests are ranked once per reported arm. With `selected`, both are taken from another RUN of the same data and
    settings (another seed of it), which saves the first of the two fits. With `resume`, an interrupted run goes on
    from its last checkpoint. `trackers` get every epoch's row beside `history.jsonl`, and are closed at the end.

    Raises ValueError for a backbone without tables, for settings that contradict each other or that the data don't
    allow, for data without tests, with an empty one or too small to carve, for a `selected` of other data or settings,
    and for a run of another command to resume; TypeError for what is no tracker or no whole seed; FileExistsError
    for a finished run, checkpoints of an interrupted one, or other files of the same names, without `resume`. Nothing
    is written then.
    """
    want_trackers(trackers)
    seed = operator.index(seed)  # as JSON holds it
    with ExitStack() as stack:
        for tracker in trackers:
            stack.callback(tracker.close)
        want_tables(settings)
        out = Path(out)
        files.want_folder(out)
        if not resume:
            _want_free(out)
        dataset = registry.load(data)
        if not dataset.split.tests:
            raise ValueError(f"a run reports on tests, and {dataset.name} has none; `data.five_way` makes some")
        for name, test in dataset.split.tests.items():
            if not len(test):
                cure = "leave it out" if isinstance(data, Dataset) else "give more pairs, or a split of your own"
                raise ValueError(f"a run reports on tests, and {dataset.name}'s test {name} has no pair; {cure}")
        decided: Split | _Choice
        if selected is None:
            decided = carve(settings, dataset.split, seed=seed)
        else:
            _want_possible(settings, dataset.split.train, seed)
            build(settings, dataset.split.train)
            decided = _read_choice(Path(selected), dataset, settings)
        named = dataset.name if isinstance(data, Dataset) else str(data)
        started = {"data": named, "preset": preset, "seed": seed, "settings": asdict(settings)}
        if resume and (out / "settings.json").exists():
            _want_same(out / "settings.json", started)
        elif resume and (held := runs.results_in(out)):
            raise ValueError(f"{out} holds {held[0]} of another command and no run to resume; choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        files.write_json(out / "settings.json", started)
        history = JsonLines(out / "history.jsonl", resume=resume)
        stack.callback(history.close)
        job = _Job(dataset, settings, seed, out, resume, progress, (history, *trackers))
        return _run(job, _source(data), preset, decided)


def _source(data: str | Path | Dataset) -> dict[str, str]:
    """Where the data can be read again, for `metrics.json`; nothing of those that were handed over in memory."""
    if isinstance(data, Dataset):
        return {}
    return {"source": data if data in registry.REGISTRY else str(Path(data).resolve())}


def _want_free(out: Path) -> None:
    """FileExistsError for a folder whose run, finished or interrupted, or whose other files would be lost."""
    if held := runs.results_in(out):
        what = "a finished run" if held[-1] == "metrics.json" else held[-1]
        raise FileExistsError(f"{out} holds {what}; choose another --out, or remove it")
    path = out / "settings.json"
    found = runs.read_json(path) if path.exists() else None
    for name in ("history.jsonl", "report.html") if found is None else ():
        if (out / name).exists():
            raise FileExistsError(f"{out / name} was not written by a run, and would be lost; choose another --out")
    if found is not None and not (isinstance(found, dict) and {"data", "preset", "seed", "settings"} <= set(found)):
        raise FileExistsError(f"{path} was not written by a run, and would be lost; choose another --out")
    if any(checkpoint.steps(part) for part in (out / "checkpoints").glob("*")):
        raise FileExistsError(
            f"{out} holds a run that was interrupted; go on with the same command and --resume, choose another --out, "
            "or remove it"
        )


def carve(settings: Settings, split: Split, *, seed: int) -> Split:
    """The split with validation parts carved from train, on which these settings can be trained.

    Raises ValueError otherwise, before anything is trained, for what would end a run afterwards.
    """
    _want_possible(settings, split.train, seed)
    carved = splits.carve(split, seed=seed)
    for name, part in carved.valid.items():
        if not len(part):
            raise DataError(
                f"the data are too small to carve validation parts from: of {len(split.train)} training pairs none can "
                f"go to the {name} part, as every user and item keeps one; give more pairs a user and an item, or "
                "train without selecting, with presets.build and train.fit"
            )
    build(settings, carved.train)
    return carved


def _want_possible(settings: Settings, train: Interactions, seed: int) -> None:
    want_seed(seed)
    rank.want_k(settings.k, train.num_items)
    if settings.reject and not (settings.shared or settings.in_batch):
        samplers.want_negatives(train)


def _want_same(path: Path, started: dict[str, Any]) -> None:
    """ValueError where `settings.json` of the run to resume says another thing than this start of it."""
    flat = lambda found: {n: v for n, v in found.items() if n != "settings"} | found["settings"]  # noqa: E731
    before, now = flat(runs.read_json(path)), flat(started)
    different = [n for n in now if before.get(n) != now[n]]
    if different:
        told = ", ".join(f"{n} {before.get(n)!r}, now {now[n]!r}" for n in different[:4])
        raise ValueError(
            f"{path.parent} holds another run: {told}; resume it as it was started, or choose another --out"
        )


def _run(job: _Job, source: dict[str, str], preset: str, decided: Split | _Choice) -> dict[str, Any]:
    """The stages one after the other, from what was carved or another run chose, and the files of the RUN folder."""
    settings, seed, out = job.settings, job.seed, job.out
    split = job.dataset.split
    choice = _select(job, decided) if isinstance(decided, Split) else decided
    chosen = {name: _choose(tried, settings) for name, tried in choice.points.items()}
    with job.clock("refit"):
        model, refitted = job.fit("refit", split.train, epochs=choice.epochs)
    tables, ledger = models.embed(model, refitted.state.params), _present(refitted.state.ledger)
    arms = selection.arms(tables, ledger, split.train, family=settings.family, seed=seed)
    adjusted = {"plain": tables}
    adjusted |= {name: selection.apply(arms[name], chosen[name].strengths, tables, ledger) for name in arms}
    with job.clock("evaluate"):
        ks = sorted({k for k in (*KS, settings.k) if k <= split.train.num_items})
        rankings = {name: rank_tests(t, split, k=max(ks)) for name, t in adjusted.items()}
        results = {name: _judge(ranking, split, ks) for name, ranking in rankings.items()}
        tradeoffs = tradeoff(choice.points, arms, tables, ledger, split, k=settings.k)
    found: dict[str, Any] = {
        "data": job.dataset.name,
        **source,
        "fingerprint": split.train.fingerprint,
        "test_fingerprints": {name: test.fingerprint for name, test in split.tests.items()},
        "model": preset,
        "seed": seed,
        "selected": chosen["adjusted"].strengths,
        "selected_by_arm": {name: point.strengths for name, point in chosen.items()},
        "best_epoch": choice.epochs,
        "tests": {t: {arm: r[t].summary for arm, r in results.items()} for t in split.tests},
        "validation": {"plain": choice.points["adjusted"][0].metrics} | {n: p.metrics for n, p in chosen.items()},
        "comparisons": comparisons(results, settings.k),
        "tradeoff": tradeoffs,
        "claims": analysis.claims(tables, ledger, split.train.item_counts),
        "settings": asdict(settings),
        "notes": [*split.notes, *choice.notes],
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
        "seconds": job.clock.seconds,
    }
    runs.save_tables(out, split.train, tables, adjusted["adjusted"])
    if not source:
        runs.save_seen(out, split.train)
    runs.save_ledger(out, ledger)
    runs.save_per_user(out, results)
    runs.write_readings(out, tables, ledger, split.train.item_counts)
    runs.write_lists(out, job.dataset, tables, adjusted["adjusted"])
    runs.write_exposure(out, job.dataset, rankings["plain"], rankings["adjusted"], k=settings.k)
    if choice.grid is not None:
        files.write_json(out / "grid.json", choice.grid, indent=None)
    rows = (("carved", choice.history), ("refit", refitted.history))
    files.write_lines(out / "history.jsonl", [{"fit": name, **row} for name, history in rows for row in history])
    files.write_json(out / "frontier.json", {n: [p._asdict() for p in tried] for n, tried in choice.points.items()})
    files.write_json(out / "metrics.json", found)  # last: its presence says that the run is whole
    return found


def _select(job: _Job, carved: Split) -> _Choice:
    """Trains without the validation parts, and tries the strengths of every arm on them."""
    settings, seed = job.settings, job.seed
    with job.clock("fit"):
        model, fitted = _fit(job, carved)
    tables, ledger = models.embed(model, fitted.best.params), _present(fitted.best.ledger)
    with job.clock("select"):
        problem = selection.prepare(
            tables, ledger, carved.train, carved.valid, k=settings.k, max_users=settings.select_users, seed=seed
        )
        arms = selection.arms(tables, ledger, carved.train, family=settings.family, seed=seed)
        points = {
            name: selection.frontier(problem, arm, budget=_budget(name, settings), seed=seed)
            for name, arm in arms.items()
        }
    with job.clock("explore"):
        strengths = _choose(points["adjusted"], settings).strengths
        names = job.dataset.item_names
        grid = explore.grid(
            problem, arms["adjusted"], carved.train, selected=strengths, tried=points["adjusted"], item_names=names
        )
    notes = carved.notes[len(job.dataset.split.notes) :]
    return _Choice(points, max(fitted.best_epoch, 1), notes, fitted.history, grid)


def _read_choice(run: Path, dataset: Dataset, settings: Settings) -> _Choice:
    """What another run's validation decided."""
    found = runs.read_metrics(run)
    if (found["data"], found["settings"]) != (dataset.name, asdict(settings)):
        raise ValueError(f"{run} is of other data or settings ({found['data']}); select from a run of the same ones")
    runs.want_fingerprint(run, found, dataset.split.train)
    frontier = runs.read_json(run / "frontier.json")
    points = {name: [selection.Point(**p) for p in tried] for name, tried in frontier.items()}
    grid = runs.read_json(run / "grid.json") if (run / "grid.json").exists() else None
    note = f"strengths and epochs as selected with seed {found['seed']}"
    return _Choice(points, found["best_epoch"], (note,), [], grid)


def _present(ledger: GradientLedger | None) -> GradientLedger:
    assert ledger is not None, "runs are always made with a ledger"
    return ledger


def _budget(arm: str, settings: Settings) -> int:
    return max(settings.budget // 4, 1) if arm == "tten" else settings.budget


def validation(
    model: models.Model, carved: Split, settings: Settings, *, seed: int
) -> Callable[[TrainState], dict[str, float]]:
    """What `fit` may evaluate by: state -> recall and NDCG on each validation part, like `natural/ndcg@20`."""
    empty = jax.jit(lambda: ledgers.init(model.num_users, model.num_items, model.width))()
    embed = jax.jit(lambda params: models.embed(model, params))
    tables = embed(model.init(jax.random.key(seed)))
    problem = selection.prepare(tables, empty, carved.train, carved.valid, k=settings.k, max_users=4096, seed=seed)

    def measure(problem: selection.Problem) -> selection.Metrics:
        return selection.measure(problem, lambda tables, ledger: tables)

    one_chunk = problem._replace(users=problem.users[:1], excluded=problem.excluded[:1], relevant=problem.relevant[:1])
    pool = ThreadPoolExecutor(1)
    ready = pool.submit(measure, one_chunk)  # so that it is compiled beside the epoch's program
    pool.shutdown(wait=False)

    def evaluate(state: TrainState) -> dict[str, float]:
        ready.result()
        found = measure(problem._replace(tables=embed(state.params)))
        return {f"{part}/{name}": value for part, values in found.items() for name, value in values.items()}

    return evaluate


def _fit(job: _Job, carved: Split) -> tuple[models.Model, Fit]:
    """Trains on what carving left, watched on the natural validation part."""
    settings, train = job.settings, carved.train
    model, _, _ = build(settings, train)
    measure = validation(model, carved, settings, seed=job.seed)
    embed = jax.jit(lambda params: models.embed(model, params))

    def watch(state: TrainState) -> dict[str, float]:
        reading = analysis.correlations(embed(state.params), _present(state.ledger), train.item_counts)
        return measure(state) | {f"claim/{name}": value for name, value in reading.items()}

    return job.fit(
        "carved",
        train,
        epochs=settings.epochs,
        evaluate=watch,
        evaluate_every=settings.evaluate_every,
        monitor=f"natural/ndcg@{settings.k}",
        patience=settings.patience,
    )


def _choose(points: list[selection.Point], settings: Settings) -> selection.Point:
    limit = selection.limit(settings.select, settings.max_loss)
    return selection.select(points, metric=f"ndcg@{settings.k}", max_loss=limit)


def evaluate(tables: Tables, split: Split, *, ks: Sequence[int] = KS) -> dict[str, metrics.Evaluation]:
    """Every metric on every test, from one ranking of the users that have test items; train and valid masked."""
    return _judge(rank_tests(tables, split, k=max(ks)), split, ks)


def rank_tests(tables: Tables, split: Split, *, k: int) -> rank.TopK:
    """The lists of all users that have test items; train and valid masked."""
    return rank.top_k(tables, users_of(split.tests.values()), [split.train, *split.valid.values()], k=k)


def _judge(ranking: rank.TopK, split: Split, ks: Sequence[int]) -> dict[str, metrics.Evaluation]:
    return {name: metrics.evaluate(ranking, test, split.train, ks=ks) for name, test in split.tests.items()}


def comparisons(results: dict[str, dict[str, metrics.Evaluation]], k: int) -> dict[str, Any]:
    """Paired over users: mean difference, 95 % bootstrap interval, p of the t test, by test, pair and metric."""
    found: dict[str, Any] = {}
    for test in results["plain"]:
        for a, b in (pair for pair in COMPARED if results.keys() >= set(pair)):
            for name in (f"recall@{k}", f"ndcg@{k}"):
                pair = metrics.compare(results[a][test].per_user[name], results[b][test].per_user[name])
                found.setdefault(test, {}).setdefault(f"{a} - {b}", {})[name] = pair._asdict()
    return found


def tradeoff(
    points: dict[str, list[selection.Point]],
    arms: dict[str, selection.Arm],
    tables: Tables,
    ledger: GradientLedger,
    split: Split,
    *,
    k: int,
) -> list[dict[str, Any]]:
    """At each natural loss allowed *on validation*: what each arm then does on the tests, and the paired p."""
    name = f"ndcg@{k}"
    rows = []
    for loss in selection.LOSSES:
        per_user: dict[str, dict[str, np.ndarray]] = {}
        row: dict[str, Any] = {"max_loss": loss, "arms": {}}
        for arm in ("adjusted", "count_control"):
            point = selection.select(points[arm], metric=name, max_loss=loss)
            found = evaluate(selection.apply(arms[arm], point.strengths, tables, ledger), split, ks=[k])
            per_user[arm] = {test: e.per_user[name] for test, e in found.items()}
            row["arms"][arm] = {
                "strengths": point.strengths,
                "validation": {part: values[name] for part, values in point.metrics.items()},
                "tests": {test: {n: e.summary[n] for n in (f"recall@{k}", name)} for test, e in found.items()},
            }
        row["adjusted - count_control"] = {
            test: metrics.compare(values, per_user["count_control"][test])._asdict()
            for test, values in per_user["adjusted"].items()
        }
        rows.append(row)
    return rows
