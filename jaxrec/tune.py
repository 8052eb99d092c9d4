"""Tuning a base model with optuna (extra `tune`): validation only, resumable, unpromising trials stopped early.

What is maximised is NDCG@k of the plain model on the natural validation part carved from the training interactions;
the strengths of the correction are selected afterwards, by `jaxrec train`. Tests are not read.

    DIR/study.log     optuna's journal: every trial, for `--resume`; lines of JSON, no pickle
    DIR/trials.jsonl  one line a trial: number, state, value, what was tried, seconds
    DIR/best.json     the best settings so far, for `jaxrec train --settings DIR/best.json`
"""

from __future__ import annotations

import dataclasses
import json
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from jaxrec import files, pipeline
from jaxrec.data import registry
from jaxrec.data.interactions import Split
from jaxrec.data.registry import Dataset
from jaxrec.names import nearest, want_seed
from jaxrec.presets import Settings, build, override, want_tables
from jaxrec.train import DivergenceError, fit

if TYPE_CHECKING:
    import optuna


class Real(NamedTuple):
    """A number between two bounds, tried evenly or by powers."""

    low: float
    high: float
    log: bool = False


class Options(NamedTuple):
    """One of a few values."""

    values: tuple[Any, ...]


Space = dict[str, Real | Options]


def space(base: Settings) -> Space:
    """What is searched: small, with the base's own values inside, and only what the base's parts read.

    >>> sorted(space(Settings(objective="bpr")))
    ['batch_size', 'l2', 'learning_rate', 'negatives', 'popularity']
    >>> space(Settings(l2=1.0))["l2"].values
    (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
    """
    found: Space = {
        "learning_rate": _around(base.learning_rate, 0.005, 0.5, log=True),
        "batch_size": _among(
            base.batch_size, *(n for n in (512, 1024, 2048, 4096, 8192) if n % base.rows_per_user == 0)
        ),
        "l2": _among(base.l2, 0.0, *(f * base.l2 for f in (0.1, 0.3, 3, 10)) if base.l2 else (1e-5, 1e-4, 1e-3, 1e-2)),
    }
    if base.normalize_items or (base.normalize_users and base.l2):  # else items set the scale of scores by themselves
        found["temperature"] = _around(base.temperature, 0.05, 0.5, log=True)
    if not base.in_batch:
        found["negatives"] = _among(base.negatives, *((256, 512, 1024, 2048) if base.shared else (1, 2, 4, 8)))
        found["popularity"] = _around(base.popularity, 0.0, 0.75)
    return found


def _around(value: float, low: float, high: float, *, log: bool = False) -> Real:
    return Real(min(low, value), max(high, value), log)


def _among(value: Any, *values: Any) -> Options:
    return Options(tuple(sorted({*values, value})))


def tune(
    data: str | Path | Dataset,
    base: Settings,
    out: Path | str,
    *,
    trials: int = 30,
    seed: int = 0,
    search: Sequence[str] = (),
    preset: str = "custom",
    resume: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Runs trials until `trials` of them are finished, the base itself the first; returns what `best.json` holds.

    data: what `data.load` takes, a name or path, or a `data.Dataset` of your own split.
    search: which of `space(base)` to search (empty: all). A trial is stopped where its validation NDCG is below the
    median of the earlier ones at the same epoch. With `resume`, a study goes on, and trials that were interrupted run
    again, those that an error ended once. `tell` gets a line after each trial.

    Raises FileExistsError for a study without `resume`; ValueError for an unknown name, no trials, a study of other
    data or settings, or a backbone without tables; ImportError without optuna; RuntimeError where no trial was
    finished. But for the last, no study is begun then.
    """
    try:
        import optuna
    except ImportError as problem:
        raise ImportError("tuning wants optuna: pip install 'jaxrec[tune]'") from problem
    want_tables(base)
    seed = operator.index(seed)  # as JSON holds it
    want_seed(seed)
    if operator.index(trials) < 1:
        raise ValueError(f"trials must be at least 1, got {trials}")
    out = Path(out)
    files.want_folder(out)
    if (out / "study.log").exists() and not resume:
        raise FileExistsError(f"{out} holds a study; go on with --resume, or choose another --out")
    for name in () if (out / "study.log").exists() else ("trials.jsonl", "best.json"):
        if (out / name).exists():
            raise FileExistsError(f"{out / name} was not written by a study, and would be lost; choose another --out")
    searched = _searched(base, search)
    dataset = registry.load(data)
    split = dataset.split
    named = dataset.name if isinstance(data, Dataset) else str(data)
    plan = {"data": named, "preset": preset, "seed": seed, "base": dataclasses.asdict(base), "space": _plain(searched)}
    plan["fingerprint"] = split.train.fingerprint  # of all that validation parts are carved from
    carved = pipeline.carve(base, dataclasses.replace(split, tests={}), seed=seed)  # tuning has no tests to look at
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    out.mkdir(parents=True, exist_ok=True)
    study = _open(out, plan, seed)

    def objective(trial: optuna.Trial) -> float:
        try:
            return _trial(trial, override(base, suggest(trial, searched), source="the search space"), carved, seed)
        except optuna.TrialPruned:
            raise
        except Exception as problem:
            trial.set_user_attr("error", f"{type(problem).__name__}: {problem}")
            raise

    def after(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        _write(out, study, base, plan)
        tell(_told(study, trial))

    left = trials - sum(_ended(trial) for trial in study.trials)
    if left > 0:
        study.optimize(objective, n_trials=left, callbacks=[after])
    found = _write(out, study, base, plan)
    if found is None:
        raise RuntimeError("no trial reached its end, for the loss diverged in each; lower learning_rate")
    return found


def _searched(base: Settings, search: Sequence[str]) -> Space:
    whole = space(base)
    for name in search:
        if name not in whole:
            raise ValueError(f"{name!r} is not searched for these settings{nearest(name, whole)} ({', '.join(whole)})")
    return {name: whole[name] for name in search} if search else whole


def _plain(searched: Space) -> dict[str, Any]:
    return {name: {"kind": type(of).__name__.lower(), **of._asdict()} for name, of in searched.items()}


def _other(known: dict[str, Any], plan: dict[str, Any]) -> str | None:
    """What a study was begun with that is another now, in words. The fingerprint tells data, by whatever name."""
    for name, value in sorted(plan.items(), key=lambda item: item[0] != "fingerprint"):
        before = known[name]
        if before == value or (name == "data" and "fingerprint" in known):
            continue
        if name == "fingerprint":
            return "other training pairs or ids"
        if name == "base":
            return ", ".join(f"{s}={before.get(s)} (now {v})" for s, v in value.items() if before.get(s) != v)
        return f"another {name}" + (f", {before} (now {value})" if name != "space" else "")
    return None


def _open(out: Path, plan: dict[str, Any], seed: int) -> optuna.Study:
    """The study of DIR, new or as it was left: the sampler goes on with other draws, interrupted trials are queued."""
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    log = (out / "study.log").resolve()  # optuna's lock is a link to it, which a relative path would not reach
    _end_at_a_line(log)
    storage = JournalStorage(JournalFileBackend(str(log)))
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4)
    study = optuna.create_study(
        storage=storage, study_name="jaxrec", direction="maximize", pruner=pruner, load_if_exists=True
    )
    known, plan = study.user_attrs.get("plan"), json.loads(json.dumps(plan))
    if known is None:
        study.set_user_attr("plan", plan)
        study.enqueue_trial({name: plan["base"][name] for name in plan["space"]})
    elif what := _other(known, plan):
        raise ValueError(f"{out} holds a study of {what}; resume it as it was, or choose another --out")
    requeued = {trial.user_attrs.get("again") for trial in study.trials}
    for trial in study.trials:
        if trial.state == optuna.trial.TrialState.RUNNING:  # its process was killed
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        elif trial.state != optuna.trial.TrialState.FAIL:
            continue
        if {"again", "error"} <= trial.user_attrs.keys():
            continue  # it failed twice, and would again
        if trial.params and trial.number not in requeued:
            study.enqueue_trial(trial.params, user_attrs={"again": trial.number})
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials), n_startup_trials=8)
    return study


def _end_at_a_line(path: Path) -> None:
    """Takes off what is left of a line whose writing was cut short, as by a full disk: optuna would write on in it."""
    content = path.read_bytes() if path.exists() else b""
    if not content.endswith(b"\n") and content:
        path.write_bytes(content[: content.rfind(b"\n") + 1])


def _ended(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial came to its end, by itself or by pruning; others failed because they were interrupted."""
    return trial.state.name in ("COMPLETE", "PRUNED")


def suggest(trial: optuna.Trial, searched: Space) -> dict[str, Any]:
    """The trial's values of what is searched, by name."""
    return {
        name: trial.suggest_float(name, of.low, of.high, log=of.log)
        if isinstance(of, Real)
        else trial.suggest_categorical(name, of.values)
        for name, of in searched.items()
    }


def _trial(trial: optuna.Trial, settings: Settings, carved: Split, seed: int) -> float:
    """The best natural validation NDCG of a fit. TrialPruned where it is stopped early, or diverges."""
    import optuna

    monitor, begun = f"natural/ndcg@{settings.k}", time.perf_counter()
    model, sampler, step = build(settings, carved.train, observe=False)

    def on_epoch(row: Mapping[str, Any], state: Any) -> None:
        if monitor in row:
            trial.report(row[monitor], row["epoch"])
            trial.set_user_attr("epoch", row["epoch"])
            trial.set_user_attr("seconds", round(time.perf_counter() - begun, 2))
            if trial.should_prune():
                raise optuna.TrialPruned

    try:
        fitted = fit(
            step,
            sampler,
            epochs=settings.epochs,
            key=jax.random.key(seed),
            evaluate=pipeline.validation(model, carved, settings, seed=seed),
            evaluate_every=settings.evaluate_every,
            monitor=monitor,
            patience=settings.patience,
            on_epoch=on_epoch,
        )
    except DivergenceError as problem:
        trial.set_user_attr("diverged", True)
        raise optuna.TrialPruned from problem
    trial.set_user_attr("best_epoch", fitted.best_epoch)
    return max(row[monitor] for row in fitted.history if monitor in row)


def _write(out: Path, study: optuna.Study, base: Settings, plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """Writes trials.jsonl, and best.json where a trial is complete; returns what the latter holds."""
    rows = [
        {"trial": t.number, "state": t.state.name.lower(), "value": t.value, **t.params, **t.user_attrs}
        for t in study.trials
        if t.state.is_finished()
    ]
    files.write_lines(out / "trials.jsonl", rows)
    if not any(row["state"] == "complete" for row in rows):
        return None
    best = study.best_trial
    found = {
        **{name: plan[name] for name in ("data", "preset", "seed")},
        "metric": f"natural/ndcg@{base.k}",
        "value": best.value,
        "trial": best.number,
        "best_epoch": best.user_attrs["best_epoch"],
        "settings": dataclasses.asdict(override(base, best.params, source="the search space")),
    }
    files.write_json(out / "best.json", found)
    return found


def _told(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> str:
    tried = ", ".join(f"{name} {value:.3g}" for name, value in trial.params.items())
    if trial.state.name == "COMPLETE":
        end = f"{trial.value:.4f}" + (", the best so far" if study.best_trial.number == trial.number else "")
    elif trial.user_attrs.get("diverged"):
        end = "diverged"
    else:
        end = f"stopped at epoch {trial.user_attrs['epoch']}"
    return f"trial {trial.number}: {end} ({tried})"
