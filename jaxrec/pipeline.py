"""The main job, end to end: data -> carve -> fit -> select -> refit on all of train -> tests, once -> a RUN folder.

    RUN/metrics.json      tests -> test -> arm -> metric, what was selected, comparisons, the trade-off, the claims
    RUN/history.jsonl     one line an epoch, of both fits
    RUN/frontier.json     every point that was tried on validation, by arm
    RUN/embeddings.npz    user [U, D], item [I, D], user_ids, item_ids; user_adjusted, item_adjusted
    RUN/ledger.npz        the gradient ledger of the refit
    RUN/per_user.npz      recall and ndcg of each test user, by test and arm, for paired tests
    RUN/readings.json     the two claims' readings by popularity
    RUN/lists.json        a few users' lists before and after
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import analysis, metrics, models, rank
from jaxrec import ledger as ledgers
from jaxrec import select as selection
from jaxrec.data import registry, splits
from jaxrec.data.interactions import Interactions, Split
from jaxrec.data.registry import Dataset
from jaxrec.ledger import GradientLedger
from jaxrec.metrics.popularity import popularity_groups
from jaxrec.presets import Settings, build
from jaxrec.train import Fit, fit
from jaxrec.transforms.adjustment import fold_bias
from jaxrec.types import Tables

KS = (10, 20, 50)
COMPARED = (("adjusted", "plain"), ("adjusted", "count_control"), ("adjusted", "tten"), ("count_control", "plain"))


def train(
    data: str,
    settings: Settings,
    out: Path | str,
    *,
    preset: str = "custom",
    seed: int = 0,
    selected: Path | str | None = None,
    resume: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Runs everything and writes the RUN folder; returns what `metrics.json` holds.

    Strengths and the number of epochs are selected on validation parts carved from the training interactions; the
    tests are ranked once per reported arm. With `selected`, both are taken from another RUN of the same data and
    settings (another seed of it), which saves the first of the two fits. With `resume`, an interrupted run goes on
    from its last checkpoint.
    """
    out = Path(out)
    if (out / "metrics.json").exists() and not resume:
        raise FileExistsError(f"{out} holds a finished run; choose another --out, or remove it")
    out.mkdir(parents=True, exist_ok=True)
    clock = _Clock()
    dataset = registry.load(data)
    meta = {"data": data, "seed": seed, "settings": asdict(settings)}
    if selected is None:
        choice = _select(dataset, settings, seed, out, meta, clock, resume, progress)
    else:
        choice = _read_choice(Path(selected), dataset, settings)
    points, chosen, best = choice.points, choice.chosen, choice.epochs
    with clock("refit"):
        refitted = _refit(dataset, settings, seed, best, out / "checkpoints" / "refit", meta, resume, progress)
    _stop_if_signalled(refitted, out)
    model, _, _ = build(settings, dataset.split.train)
    tables, ledger = models.embed(model, refitted.state.params), _present(refitted.state.ledger)
    arms = selection.arms(tables, ledger, dataset.split.train, seed=seed)
    adjusted = {"plain": tables} | {name: _apply(arms[name], chosen[name], tables, ledger) for name in arms}
    with clock("evaluate"):
        results = {name: evaluate(t, dataset.split) for name, t in adjusted.items()}
        tradeoff = _tradeoff(points, arms, tables, ledger, dataset.split, settings)
    found: dict[str, Any] = {
        "data": dataset.name,
        "source": data if data in registry.REGISTRY else str(Path(data).resolve()),
        "model": preset,
        "seed": seed,
        "selected": chosen["adjusted"].strengths,
        "selected_by_arm": {name: point.strengths for name, point in chosen.items()},
        "best_epoch": best,
        "tests": {t: {arm: r[t].summary for arm, r in results.items()} for t in dataset.split.tests},
        "validation": {"plain": points["adjusted"][0].metrics} | {n: p.metrics for n, p in chosen.items()},
        "comparisons": _comparisons(results, settings.k),
        "tradeoff": tradeoff,
        "claims": analysis.claims(tables, ledger, dataset.split.train.item_counts),
        "settings": asdict(settings),
        "notes": [*dataset.split.notes, *choice.notes],
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
        "seconds": clock.seconds,
    }
    _write_arrays(out, dataset, adjusted, ledger, results)
    _write_lists(out, dataset, adjusted)
    counts = dataset.split.train.item_counts
    readings = analysis.item_readings(tables, ledger)
    write_json(out / "readings.json", {n: analysis.by_popularity(v, counts, groups=20) for n, v in readings.items()})
    history = [{"fit": "carved", **r} for r in choice.history] + [{"fit": "all", **r} for r in refitted.history]
    (out / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history), encoding="utf-8")
    frontier = {name: [p._asdict() for p in found] for name, found in points.items()}
    write_json(out / "frontier.json", frontier)
    write_json(out / "metrics.json", found)  # last: its presence says that the run is whole
    return found


class _Choice(NamedTuple):
    """What validation decided."""

    points: dict[str, list[selection.Point]]
    chosen: dict[str, selection.Point]
    epochs: int
    notes: tuple[str, ...]
    history: list[dict[str, Any]]


def _select(
    dataset: Dataset,
    settings: Settings,
    seed: int,
    out: Path,
    meta: dict[str, Any],
    clock: _Clock,
    resume: bool,
    progress: bool,
) -> _Choice:
    """Carves validation parts, trains without them, and tries the strengths of every arm on them."""
    carved = splits.carve(dataset.split, seed=seed)
    with clock("fit"):
        model, fitted = _fit(carved, settings, seed, out / "checkpoints" / "carved", meta, resume, progress)
    _stop_if_signalled(fitted, out)
    tables, ledger = models.embed(model, fitted.best.params), _present(fitted.best.ledger)
    with clock("select"):
        problem = selection.prepare(
            tables, ledger, carved.train, carved.valid, k=settings.k, max_users=settings.select_users, seed=seed
        )
        points = {
            name: selection.frontier(problem, arm, budget=_budget(name, settings), seed=seed)
            for name, arm in selection.arms(tables, ledger, carved.train, seed=seed).items()
        }
    chosen = {name: _choose(found, settings) for name, found in points.items()}
    notes = carved.notes[len(dataset.split.notes) :]
    return _Choice(points, chosen, max(fitted.best_epoch, 1), notes, fitted.history)


def _read_choice(run: Path, dataset: Dataset, settings: Settings) -> _Choice:
    """What another run's validation decided."""
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    if (found["data"], found["settings"]) != (dataset.name, asdict(settings)):
        raise ValueError(f"{run} is of other data or settings ({found['data']}); select from a run of the same ones")
    frontier = json.loads((run / "frontier.json").read_text(encoding="utf-8"))
    points = {name: [selection.Point(**p) for p in tried] for name, tried in frontier.items()}
    chosen = {name: _choose(tried, settings) for name, tried in points.items()}
    note = f"strengths and epochs as selected with seed {found['seed']}"
    return _Choice(points, chosen, found["best_epoch"], (note,), [])


def _stop_if_signalled(fitted: Fit, out: Path) -> None:
    if fitted.stopped == "signal":
        raise KeyboardInterrupt(f"stopped by a signal; go on with the same command and --resume (saved in {out})")


class _Clock:
    """Seconds of each named stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name, self._begun = "", 0.0

    def __call__(self, name: str) -> _Clock:
        self._name = name
        return self

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds[self._name] = round(time.perf_counter() - self._begun, 2)


def _present(ledger: GradientLedger | None) -> GradientLedger:
    assert ledger is not None, "runs are always made with a ledger"
    return ledger


def _budget(arm: str, settings: Settings) -> int:
    return max(settings.budget // 4, 1) if arm == "tten" else settings.budget


def _fit(
    carved: Split, settings: Settings, seed: int, folder: Path, meta: dict[str, Any], resume: bool, progress: bool
) -> tuple[models.Model, Fit]:
    """Trains on what carving left, watched on the natural validation part."""
    model, sampler, step = build(settings, carved.train)
    empty = ledgers.init(model.num_users, model.num_items, model.width)
    tables = models.embed(model, model.init(jax.random.key(seed)))
    problem = selection.prepare(tables, empty, carved.train, carved.valid, k=settings.k, max_users=4096, seed=seed)
    embed = jax.jit(lambda params: models.embed(model, params))

    def watch(state: Any) -> dict[str, float]:
        found = selection.measure(problem._replace(tables=embed(state.params)), lambda tables, ledger: tables)
        row = {f"{part}/{name}": value for part, values in found.items() for name, value in values.items()}
        reading = analysis.claims(embed(state.params), _present(state.ledger), carved.train.item_counts)
        return row | {f"claim/{name}": values["spearman"] for name, values in reading.items()}

    fitted = fit(
        step,
        sampler,
        epochs=settings.epochs,
        key=jax.random.key(seed),
        evaluate=watch,
        evaluate_every=settings.evaluate_every,
        monitor=f"natural/ndcg@{settings.k}",
        patience=settings.patience,
        checkpoint=folder,
        checkpoint_every=settings.evaluate_every,
        resume=resume,
        meta=meta,
        progress=progress,
    )
    return model, fitted


def _refit(
    dataset: Dataset,
    settings: Settings,
    seed: int,
    epochs: int,
    folder: Path,
    meta: dict[str, Any],
    resume: bool,
    progress: bool,
) -> Fit:
    _, sampler, step = build(settings, dataset.split.train)
    return fit(
        step,
        sampler,
        epochs=epochs,
        key=jax.random.key(seed),
        checkpoint=folder,
        checkpoint_every=max(settings.evaluate_every, epochs // 2),
        resume=resume,
        meta=meta | {"epochs": epochs},
        progress=progress,
    )


def _choose(points: list[selection.Point], settings: Settings) -> selection.Point:
    limit = settings.max_loss if settings.select == "loss" else None
    return selection.select(points, metric=f"ndcg@{settings.k}", max_loss=limit)


def _apply(arm: selection.Arm, point: selection.Point, tables: Tables, ledger: GradientLedger) -> Tables:
    strengths = jnp.asarray([point.strengths[name] for name in arm.names], jnp.float32)
    return fold_bias(arm.adjust(strengths)(tables, ledger))


def evaluate(tables: Tables, split: Split, *, ks: tuple[int, ...] = KS) -> dict[str, metrics.Evaluation]:
    """Every metric on every test, from one ranking of the users that have test items; train and valid masked."""
    ks = tuple(k for k in ks if k <= split.train.num_items)
    users = np.flatnonzero(np.sum([t.user_counts for t in split.tests.values()], axis=0) > 0)
    ranking = rank.top_k(tables, users, [split.train, *split.valid.values()], k=max(ks))
    return {name: metrics.evaluate(ranking, test, split.train, ks=ks) for name, test in split.tests.items()}


def _comparisons(results: dict[str, dict[str, metrics.Evaluation]], k: int) -> dict[str, Any]:
    """Paired over users: mean difference, 95 % bootstrap interval, p of the t test, by test, pair and metric."""
    found: dict[str, Any] = {}
    for test in results["plain"]:
        for a, b in COMPARED:
            for name in (f"recall@{k}", f"ndcg@{k}"):
                pair = metrics.compare(results[a][test].per_user[name], results[b][test].per_user[name])
                found.setdefault(test, {}).setdefault(f"{a} - {b}", {})[name] = pair._asdict()
    return found


def _tradeoff(
    points: dict[str, list[selection.Point]],
    arms: dict[str, selection.Arm],
    tables: Tables,
    ledger: GradientLedger,
    split: Split,
    settings: Settings,
) -> list[dict[str, Any]]:
    """At each natural loss allowed *on validation*: what each arm then does on the tests, and the paired p."""
    name = f"ndcg@{settings.k}"
    rows = []
    for loss in selection.LOSSES:
        per_user: dict[str, dict[str, np.ndarray]] = {}
        row: dict[str, Any] = {"max_loss": loss, "arms": {}}
        for arm in ("adjusted", "count_control"):
            point = selection.select(points[arm], metric=name, max_loss=loss)
            found = evaluate(_apply(arms[arm], point, tables, ledger), split, ks=(settings.k,))
            per_user[arm] = {test: e.per_user[name] for test, e in found.items()}
            row["arms"][arm] = {
                "strengths": point.strengths,
                "validation": {part: values[name] for part, values in point.metrics.items()},
                "tests": {test: {n: e.summary[n] for n in (f"recall@{settings.k}", name)} for test, e in found.items()},
            }
        row["adjusted - count_control"] = {
            test: metrics.compare(values, per_user["count_control"][test])._asdict()
            for test, values in per_user["adjusted"].items()
        }
        rows.append(row)
    return rows


def _write_arrays(
    out: Path,
    dataset: Dataset,
    adjusted: dict[str, Tables],
    ledger: GradientLedger,
    results: dict[str, dict[str, metrics.Evaluation]],
) -> None:
    train = dataset.split.train
    save_tables(out / "embeddings.npz", train, adjusted["plain"], adjusted["adjusted"])
    save_ledger(out / "ledger.npz", ledger)
    rows = {
        f"{test}/{arm}/{name}": values.astype(np.float32)
        for arm, found in results.items()
        for test, e in found.items()
        for name, values in e.per_user.items()
        if name.startswith(("recall@", "ndcg@"))
    }
    users = {f"{test}/users": e.users for test, e in results["plain"].items()}
    np.savez_compressed(out / "per_user.npz", **rows, **users)  # type: ignore[arg-type]


def save_tables(path: Path, train: Interactions, plain: Tables, adjusted: Tables) -> None:
    """`embeddings.npz`: tables whose inner products are the scores, before and after, with raw ids."""
    plain, adjusted = fold_bias(plain), fold_bias(adjusted)
    np.savez(
        path,
        user=np.asarray(plain.user),
        item=np.asarray(plain.item),
        user_adjusted=np.asarray(adjusted.user),
        item_adjusted=np.asarray(adjusted.item),
        user_ids=train.user_ids,
        item_ids=train.item_ids,
    )


def save_ledger(path: Path, ledger: GradientLedger) -> None:
    """A ledger's arrays under names like `items.pull.size`."""
    found, _ = jax.tree_util.tree_flatten_with_path(ledger)
    names = {jax.tree_util.keystr(p, simple=True, separator="."): np.asarray(x) for p, x in found}
    np.savez(path, **names)  # type: ignore[arg-type]


def load_ledger(path: Path) -> GradientLedger:
    """What `save_ledger` wrote, with vectors kept row by row."""
    with np.load(path, allow_pickle=False) as found:
        shape = found["users.pull.vector"].shape[0], *found["items.pull.vector"].shape
        empty = ledgers.init(*shape)
        paths, structure = jax.tree_util.tree_flatten_with_path(empty)
        names = [jax.tree_util.keystr(p, simple=True, separator=".") for p, _ in paths]
        return jax.tree.unflatten(structure, [jnp.asarray(found[name]) for name in names])


def _write_lists(out: Path, dataset: Dataset, adjusted: dict[str, Tables], *, users: int = 4, k: int = 10) -> None:
    """The lists of a few users, from niche to mainstream by the popularity of their profile."""
    train = dataset.split.train
    active = np.flatnonzero(train.user_counts >= min(5, train.user_counts.max()))
    taste = np.bincount(train.users, train.item_counts[train.items], minlength=train.num_users)
    active = active[np.argsort((taste / np.maximum(train.user_counts, 1))[active], kind="stable")]
    chosen = active[np.linspace(0, len(active) - 1, min(users, len(active))).astype(int)]
    names = train.item_ids.astype(str) if dataset.item_names is None else dataset.item_names
    k = min(k, train.num_items)
    lists = {arm: rank.top_k(adjusted[arm], chosen, train, k=k).items for arm in ("plain", "adjusted")}
    groups = popularity_groups(train.item_counts)
    group = np.select([groups["head"], groups["mid"]], ["head", "mid"], "tail")

    def rows(items: np.ndarray) -> list[dict[str, Any]]:
        return [
            {"item": str(names[i]), "popularity": int(train.item_counts[i]), "group": str(group[i])}
            for i in items[items >= 0]
        ]

    indptr, owned = train.csr()
    found = [
        {
            "user": str(train.user_ids[u]),
            "profile": rows(owned[indptr[u] : indptr[u + 1]][:10]),
            **{arm: rows(items[n]) for arm, items in lists.items()},
        }
        for n, u in enumerate(chosen)
    ]
    changed = analysis.change_in_lists(lists["plain"], lists["adjusted"])
    write_json(out / "lists.json", {"users": found, "changed": [float(c) for c in changed]})


def write_json(path: Path, content: Any) -> None:
    """Writes JSON whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


