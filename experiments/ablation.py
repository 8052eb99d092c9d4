"""What each part of the correction does: `python -m experiments.ablation`, then read results/ablation.md.

For each data set, way of training and seed, validation parts are carved from train, the model is fitted without them,
and each adjustment below gets the same number of points there. The strengths chosen by each rule are applied to a model
that is fitted again on all of train, and each test is ranked once.

    training      the preset; users not normalised; a ledger that forgets; one of every sixteenth batch; one read off
                  trained tables afterwards; the same objective on LightGCN, with the settings that the comparison chose
                  for it by natural NDCG on validation
    adjustments   each strength of the gradients' adjustment alone, pairs of them, all; other readings of the ledger
                  (a factor instead of an offset, the ratio of pull and push, a strength for each user); counts
    rules         the best unbiased NDCG@20 on validation; the best that loses at most 10 % of the natural one there

Every figure is a row of results/ablation.csv; what is there is not made again. On ml-1m and Gowalla, where a seed of
one way takes a quarter of an hour, there is the preset alone: `--data ml-1m gowalla-both --training softmax-mf`, on
Gowalla with `--seeds 0 1`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments import contestants
from experiments.contest import NDCG, RULES, Contest, K, chosen_plain
from experiments.contest_tables import spread
from experiments.contestants import Backbone
from experiments.kept import append_rows, read_rows
from experiments.run import RESULTS
from jaxrec import frozen, models, pipeline
from jaxrec import select as selection
from jaxrec.data import registry, splits
from jaxrec.data.interactions import Interactions, Split
from jaxrec.ledger import GradientLedger
from jaxrec.presets import SOFTMAX_MF, Settings, build
from jaxrec.select import Arm
from jaxrec.train import fit
from jaxrec.transforms import adjustment as adj
from jaxrec.types import Array, Tables

DATA = ("adressa-macr", "lastfm-both", "ml-100k", "synthetic")
SEEDS = (0, 1, 2)
POINTS = 48  # of each adjustment
COLUMNS = ("data", "training", "adjustment", "rule", "seed", "test", NDCG)


class Training(NamedTuple):
    """A way to get tables and a ledger."""

    changes: Mapping[str, Any]  # of the preset's settings
    afterwards: bool = False  # the ledger is read off the tables that training left
    backbone: Backbone = "mf"  # another one than the preset's takes the comparison's choice of settings


TRAINING: dict[str, Training] = {
    "softmax-mf": Training({}),
    "users not normalised": Training({"normalize_users": False}),
    "ledger decays by .999 a step": Training({"decay": 0.999}),
    "ledger of one batch in 16": Training({"observe_every": 16}),
    "ledger of frozen tables": Training({}, afterwards=True),
    "LightGCN": Training({}, backbone="lightgcn"),
}
PARTS = ("direction", "magnitude", "pull", "push")
SUBSETS = (*((name,) for name in PARTS), ("direction", "magnitude"), ("pull", "push"), PARTS)


def only(arm: Arm, names: tuple[str, ...]) -> Arm:
    """The arm with some of its strengths, the others being 0."""
    at = [arm.names.index(name) for name in names]
    place = jnp.zeros((len(names), len(arm.names))).at[jnp.arange(len(at)), jnp.asarray(at)].set(1.0)
    change = arm.change
    return Arm(
        names,
        tuple(arm.low[n] for n in at),
        tuple(arm.high[n] for n in at),
        lambda s: arm.adjust(s @ place),
        None if change is None else lambda s: change(s @ place),
        arm.shifts,
    )


def adjustments(tables: Tables, ledger: GradientLedger, train: Interactions, *, seed: int) -> dict[str, Arm]:
    """What is compared; offsets reach as far as those of `select.arms` do."""
    arms = selection.arms(tables, ledger, train, seed=seed)
    whole = arms["adjusted"]
    far = whole.high[whole.names.index("magnitude")]
    found = {" + ".join(names) if len(names) < len(PARTS) else "all four": only(whole, names) for names in SUBSETS}
    found["magnitude as a factor"] = Arm(("factor",), (0,), (0.8,), lambda s: adj.rescale_by_gradient(s[0]))
    found["ratio"] = Arm(("ratio",), (-far,), (far,), lambda s: adj.offset_by_gradient(s[0], by="ratio"))
    found["size of push"] = Arm(("push size",), (0,), (far,), lambda s: adj.offset_by_gradient(s[0], by="push"))
    found["direction + magnitude, by user"] = Arm(
        ("direction", "magnitude", "spread"), (0, 0, -1), (2.5, far, 1), _by_user
    )
    return found | {"count control": arms["count_control"]}


def _by_user(s: Array) -> adj.Adjustment:
    return adj.chain(adj.remove_direction(s[0], spread=s[2]), adj.offset_by_gradient(s[1], spread=s[2]))


def trained(
    how: Training, settings: Settings, split: Split, seed: int, epochs: int | None = None
) -> tuple[Tables, GradientLedger, int]:
    """Tables, ledger and epochs: so many, or those that are best on the natural validation part of the split."""
    model, sampler, step = build(settings, split.train)
    watched: dict[str, Any] = {}
    if epochs is None:
        measure = pipeline.validation(model, split, settings, seed=seed)
        watched = {"evaluate": measure, "monitor": f"natural/{NDCG}", "patience": settings.patience}
        watched["evaluate_every"] = settings.evaluate_every
    last = settings.epochs if epochs is None else epochs
    fitted = fit(step, sampler, epochs=last, key=jax.random.key(seed), **watched)
    tables, ledger = models.embed(model, fitted.best.params), fitted.best.ledger
    if how.afterwards:
        ledger = frozen.observe(tables, split.train, temperature=1.0, key=jax.random.key(seed))
    assert ledger is not None
    return tables, ledger, fitted.best_epoch


def measured(data: str, name: str, seed: int) -> Iterator[dict[str, Any]]:
    """The rows of one data set, way of training and seed."""
    how, split = TRAINING[name], registry.load(data).split
    settings = replace(_settings(data, how.backbone, split.train), **how.changes)
    carved = splits.carve(split, seed=seed)
    tables, ledger, epochs = trained(how, settings, carved, seed)
    problem = selection.prepare(tables, ledger, carved.train, carved.valid, max_users=8192, seed=seed)
    points = {
        label: selection.frontier(problem, arm, budget=POINTS, seed=seed)
        for label, arm in adjustments(tables, ledger, carved.train, seed=seed).items()
    }
    tables, ledger, _ = trained(how, settings, split, seed, max(epochs, 1))
    arms = adjustments(tables, ledger, split.train, seed=seed)
    start = {"data": data, "training": name, "seed": seed}
    for test, value in _tested(tables, split).items():
        yield start | {"adjustment": "none", "rule": "", "test": test, NDCG: value}
    for label, tried in points.items():
        for rule, limit in RULES.items():
            chosen = selection.select(tried, metric=NDCG, max_loss=limit).strengths
            adjusted = selection.apply(arms[label], chosen, tables, ledger)
            for test, value in _tested(adjusted, split).items():
                yield start | {"adjustment": label, "rule": rule, "test": test, NDCG: value}


def _settings(data: str, backbone: Backbone, train: Interactions) -> Settings:
    if backbone == "mf":
        return SOFTMAX_MF
    contest = Contest(data, backbone)
    chosen = chosen_plain(RESULTS, contest, "softmax")
    settings = contestants.tuned("softmax", backbone, train, chosen.options, epochs=contest.epochs)
    return replace(settings, evaluate_every=contest.evaluate_every, patience=contest.patience)


def _tested(tables: Tables, split: Split) -> dict[str, float]:
    return {test: found.summary[NDCG] for test, found in pipeline.evaluate(tables, split, ks=[K]).items()}


def table(rows: list[dict[str, str]]) -> str:
    """For each data set and rule, adjustments down and ways of training across; the best of a column is bold."""
    values: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("data", "rule", "test", "training", "adjustment"))
        values.setdefault(key, []).append(float(row[NDCG]))
    made = "Made by `python -m experiments.ablation`, ml-1m and Gowalla with `--data DATA --training softmax-mf`."
    lines = ["# What each part of the correction does", "", made, ""]
    labels = list(dict.fromkeys(row["adjustment"] for row in rows if row["adjustment"] != "none"))
    for data, rule, test in sorted({key[:3] for key in values if key[1]}, key=lambda k: (k[0], k[2], k[1])):
        seeds = max(len(v) for key, v in values.items() if key[0] == data)
        trainings = [name for name in TRAINING if any((key[0], key[3]) == (data, name) for key in values)]
        wanted = "best unbiased on validation" if rule == "unbiased" else "at most 10 % natural loss on validation"
        over = f"mean ± sd over {seeds} seeds" if seeds > 1 else "one seed"
        lines += [f"## {data}, {test} test, {wanted}", "", f"NDCG@20, {over}.", ""]
        lines += [f"| adjustment | {' | '.join(trainings)} |", "|---" * (1 + len(trainings)) + "|"]
        keys = {label: rule if label != "none" else "" for label in ["none", *labels]}
        column = {t: {n: values.get((data, r, test, t, n), []) for n, r in keys.items()} for t in trainings}
        best = {t: max((float(np.mean(v)) for v in found.values() if v), default=0.0) for t, found in column.items()}
        for label in keys:
            cells = [_cell(column[t][label], best[t]) for t in trainings]
            lines.append(f"| {label} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(found: list[float], best: float) -> str:
    if not found:
        return "–"
    shown = spread(found)
    return f"**{shown}**" if np.mean(found) == best else shown


def main(data: tuple[str, ...] = DATA, seeds: tuple[int, ...] = SEEDS, training: tuple[str, ...] = ()) -> None:
    """Makes the rows that are missing, then the page.

    Args:
        data: Data sets.
        seeds: Seeds.
        training: Ways of training; all of them if none is given.
    """
    path = RESULTS / "ablation.csv"
    for one in data:
        for name in training or TRAINING:
            for seed in seeds:
                rows = read_rows(path)
                if any((r["data"], r["training"], r["seed"]) == (one, name, str(seed)) for r in rows):
                    continue
                fresh = [row | {NDCG: f"{row[NDCG]:.6g}"} for row in measured(one, name, seed)]
                append_rows(path, COLUMNS, fresh)
                print(one, name, seed, flush=True)
                jax.clear_caches()
    (RESULTS / "ablation.md").write_text(table(read_rows(path)), encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main)
