"""Models that others trained, corrected: `python -m experiments.correct_others`, then read results/correct_others.md.

For each data set and library:

1. Validation parts are carved from train (`correct.small_carve`), and the library trains on what is left with each of
   its candidate settings; the best natural NDCG@20 on validation wins.
2. Strengths of the gradients' adjustment and of the count control are selected for that model on those parts. The
   control has four times the points, so that it is not behind for want of tries.
3. The library trains again on all of train; the ledger is read off its frozen tables, the strengths are applied, and
   each test is ranked once an arm.

Models and finished parts are kept under `--runs`, so that the command goes on where it was stopped. Wants
`pip install -e '.[bench]'`, for implicit and Cornac.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.run import RESULTS
from jaxrec import adapters, correct, files, frozen, metrics, pipeline, runs
from jaxrec import ledger as ledgers
from jaxrec import select as selection
from jaxrec.adapters import TwoTower
from jaxrec.data import registry
from jaxrec.data.interactions import Interactions, Split, users_of

WIDTH = 64
USERS = 4096  # validation users that settings and strengths are selected on
POINTS = {"adjusted": 48, "count_control": 192, "tten": 48}
LOSS = 0.1  # of natural NDCG@20, allowed in the second selection
METRICS = ("recall@20", "ndcg@20", "arp@20", "coverage@20", "tail_recall@20")


def _matrix(train: Interactions) -> Any:
    from scipy.sparse import csr_matrix

    return csr_matrix(train.to_scipy())


def _implicit_als(train: Interactions, *, alpha: float, regularization: float) -> Any:
    from implicit.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        factors=WIDTH, alpha=alpha, regularization=regularization, iterations=15, num_threads=2, random_state=0
    )
    model.fit(_matrix(train), show_progress=False)
    return model


def _implicit_bpr(train: Interactions, *, learning_rate: float, regularization: float) -> Any:
    from implicit.bpr import BayesianPersonalizedRanking

    model = BayesianPersonalizedRanking(
        factors=WIDTH - 1,  # and a bias
        learning_rate=learning_rate,
        regularization=regularization,
        iterations=100,
        num_threads=2,
        random_state=0,
    )
    model.fit(_matrix(train), show_progress=False)
    return model


def _cornac_bpr(train: Interactions, *, learning_rate: float, lambda_reg: float) -> Any:
    from cornac.data import Dataset
    from cornac.models import BPR

    pairs = zip(train.users.tolist(), train.items.tolist(), [1.0] * len(train), strict=True)
    model = BPR(
        k=WIDTH, max_iter=100, learning_rate=learning_rate, lambda_reg=lambda_reg, num_threads=2, seed=0
    ).fit(Dataset.from_uir(pairs))
    return model


Trainer = Callable[..., Any]
MODELS: dict[str, tuple[Trainer, list[dict[str, float]]]] = {
    "implicit-als": (
        _implicit_als,
        [{"alpha": a, "regularization": r} for a, r in ((1.0, 1.0), (10.0, 1.0), (10.0, 10.0), (40.0, 10.0))],
    ),
    "implicit-bpr": (
        _implicit_bpr,
        [{"learning_rate": a, "regularization": r} for a, r in ((0.01, 0.01), (0.01, 0.05), (0.02, 0.003))],
    ),
    "cornac-bpr": (
        _cornac_bpr,
        [{"learning_rate": a, "lambda_reg": r} for a, r in ((0.02, 0.003), (0.05, 0.001), (0.05, 0.01))],
    ),
}
JOBS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ml-100k", ("implicit-als", "implicit-bpr", "cornac-bpr")),
    ("gowalla-macr", ("implicit-als", "implicit-bpr")),
    ("gowalla-both", ("implicit-als", "implicit-bpr")),
)


def main(
    runs_folder: Path = Path("runs/correct_others"), only: tuple[str, ...] = (), models: tuple[str, ...] = ()
) -> None:
    """Runs what is not finished, and writes the table.

    Args:
        runs_folder: Where models and finished parts are kept.
        only: Only these data sets.
        models: Only these models.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # implicit has threads of its own
    warnings.filterwarnings("ignore", message="OpenBLAS")
    for data, names in JOBS:
        for name in names:
            path = RESULTS / "correct_others" / f"{data}.{name}.json"
            chosen = (not only or data in only) and (not models or name in models)
            if chosen and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write_json(path, _job(data, name, runs_folder / f"{data}.{name}"))
                print(f"{data}, {name}: {path}", flush=True)
    _write_table()


def _job(data: str, name: str, folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    split = registry.load(data).split
    carved = correct.small_carve(split.train)
    seconds: dict[str, float] = {}
    tried: list[dict[str, Any]] = []
    for n, settings in enumerate(MODELS[name][1]):
        two = _trained(name, carved.train, settings, folder / f"carved.{n}.npz", seconds)
        tried.append({"settings": settings, "natural ndcg@20": _natural(two, carved)})
        print(f"{data}, {name}: {tried[-1]}", flush=True)
    best = int(np.argmax([row["natural ndcg@20"] for row in tried]))
    settings = MODELS[name][1][best]

    begun = time.perf_counter()
    two = load(folder / f"carved.{best}.npz")
    users = np.random.default_rng(0).permutation(users_of(carved.valid.values()))[:USERS]
    valid = {part: pairs.select(np.isin(pairs.users, users)) for part, pairs in carved.valid.items()}
    ledger = frozen.observe(two.tables, carved.train)
    points: dict[str, list[selection.Point]] = {}
    for arm, budget in POINTS.items():
        points |= correct.frontiers(two.tables, ledger, carved.train, valid, budget=budget, arms=(arm,))
    seconds["select"] = round(time.perf_counter() - begun, 1)

    two = _trained(name, split.train, settings, folder / f"all.{best}.npz", seconds)
    begun = time.perf_counter()
    ledger = frozen.observe(two.tables, split.train)
    seconds["observe"] = round(time.perf_counter() - begun, 1)
    results = {"plain": pipeline.evaluate(two.tables, split, ks=[20])}
    strengths, on_validation = {}, {}
    for rule, limit in (("unbiased", None), ("loss", LOSS)):
        for arm, tried_points in points.items():
            point = selection.select(tried_points, max_loss=limit)
            key = f"{arm}, {rule}"
            strengths[key], on_validation[key] = point.strengths, point.metrics
            tables = correct.correct(two.tables, ledger, split.train, point.strengths, arm=arm)
            results[key] = pipeline.evaluate(tables, split, ks=[20])
    return {
        "data": data,
        "model": name,
        "settings": settings,
        "settings_tried": tried,
        "strengths": strengths,
        "validation": {"plain": points["adjusted"][0].metrics} | on_validation,
        "tests": {t: {key: kept(r[t]) for key, r in results.items()} for t in split.tests},
        "paired": _paired(results, list(split.tests)),
        "seconds": seconds,
    }


def _natural(two: TwoTower, carved: Split) -> float:
    shape = (*(len(x) for x in two.tables[:2]), two.tables.user.shape[1])
    parts = {"natural": carved.valid["natural"]}
    problem = selection.prepare(two.tables, ledgers.init(*shape), carved.train, parts, max_users=USERS)
    return round(selection.measure(problem, lambda tables, ledger: tables)["natural"]["ndcg@20"], 5)


def _trained(
    name: str, train: Interactions, settings: dict[str, float], path: Path, seconds: dict[str, float]
) -> TwoTower:
    """A library's model, trained once and kept as arrays."""
    if not path.exists():
        begun = time.perf_counter()
        two = adapters.read(MODELS[name][0](train, **settings))
        seconds[f"train {path.stem}"] = round(time.perf_counter() - begun, 1)
        # Cornac numbers users and items as it meets them.
        by_user, by_item = np.argsort(two.user_ids), np.argsort(two.item_ids)
        arrays = {"user": two.tables.user[by_user], "item": two.tables.item[by_item]}
        if two.tables.item_bias is not None:
            arrays["item_bias"] = two.tables.item_bias[by_item]
        np.savez(path, **{k: np.asarray(v) for k, v in arrays.items()})  # type: ignore[arg-type]
    return load(path)


def load(path: Path) -> TwoTower:
    """A model that was kept."""
    with np.load(path, allow_pickle=False) as found:
        return adapters.from_arrays(found["user"], found["item"], item_bias=found.get("item_bias"))


def kept(found: metrics.Evaluation) -> dict[str, float]:
    """What the table and its readers need of an evaluation."""
    return {name: float(f"{found.summary[name]:.6g}") for name in METRICS if name in found.summary}


def _paired(results: dict[str, dict[str, metrics.Evaluation]], tests: list[str]) -> dict[str, Any]:
    """Differences of recall@20 and ndcg@20 over users, by test, rule and pair."""
    found: dict[str, Any] = {}
    for test in tests:
        for rule in ("unbiased", "loss"):
            ours, control = results[f"adjusted, {rule}"][test], results[f"count_control, {rule}"][test]
            for other, against in (("plain", results["plain"][test]), ("count_control", control)):
                for name in ("recall@20", "ndcg@20"):
                    pair = metrics.compare(ours.per_user[name], against.per_user[name])
                    found.setdefault(test, {}).setdefault(f"{rule}: adjusted - {other}", {})[name] = {
                        key: float(f"{value:.4g}") for key, value in pair._asdict().items()
                    }
    return found


def _write_table() -> None:
    rows = [
        "| data | model | selected for | test | plain | adjusted | count control | TTEN | adjusted / plain | "
        "adjusted − count control | p | p to plain |",
        "|---" * 12 + "|",
    ]
    settings = ["| data | model | settings | strengths (selected for unbiased) | seconds |", "|---" * 5 + "|"]
    for data, names in JOBS:
        for name in names:
            path = RESULTS / "correct_others" / f"{data}.{name}.json"
            if not path.exists():
                continue
            found = runs.read_json(path)
            rows += _rows(found)
            shown = [", ".join(f"{k} {v:.3g}" for k, v in found[key].items()) for key in ("settings", "seconds")]
            strengths = ", ".join(f"{k} {v:.2g}" for k, v in found["strengths"]["adjusted, unbiased"].items())
            settings.append(f"| {data} | {name} | {shown[0]} | {strengths} | {shown[1]} |")
    text = [
        "# Models that others trained, corrected",
        "Made by `python -m experiments.correct_others`; one seed. recall@20 / ndcg@20 on tests that were ranked once.",
        "Strengths are selected on validation carved from train, for the best unbiased NDCG@20, or for the best that "
        f"loses at most {100 * LOSS:.0f} % of the natural one there; {POINTS['adjusted']} points for the adjustment, "
        f"{POINTS['count_control']} for the count control, {POINTS['tten']} for TTEN. p: paired t over "
        "users, on recall@20.",
        "\n".join(rows),
        "## Settings",
        "\n".join(settings),
    ]
    target = RESULTS / "correct_others.md"
    target.write_text("\n\n".join(text) + "\n", encoding="utf-8")
    print(target)


def _rows(found: dict[str, Any]) -> list[str]:
    rows = []
    for rule, label in (("unbiased", "unbiased"), ("loss", f"natural −{100 * LOSS:.0f} %")):
        for test, arms in found["tests"].items():
            shown = [arms[key] for key in ("plain", *(f"{arm}, {rule}" for arm in POINTS))]
            cells = [f"{values['recall@20']:.4f} / {values['ndcg@20']:.4f}" for values in shown]
            ratio = shown[1]["recall@20"] / max(shown[0]["recall@20"], 1e-9)
            pairs = found["paired"][test]
            control = pairs[f"{rule}: adjusted - count_control"]["recall@20"]
            plain = pairs[f"{rule}: adjusted - plain"]["recall@20"]
            rows.append(
                f"| {found['data']} | {found['model']} | {label} | {test} | " + " | ".join(cells)
                + f" | {ratio:.2f} | {control['difference']:+.4f} | {control['p']:.2g} | {plain['p']:.2g} |"
            )
    return rows


if __name__ == "__main__":
    tyro.cli(main)
