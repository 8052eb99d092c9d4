"""The paper's two claims over training: `python -m experiments.claims`, for each data set, backbone and objective.

    (i)  alignment   cos(v_i, d): popular items lie along the common direction of positive gradients
    (ii) magnitude   p_i: the accumulated positive gradients of popular items are far larger

Each model is trained with the ledger, users normalised and not, and read every few epochs: medians by fifths of items
(by training count), Spearman's correlation with popularity, and magnitude by positive event, which takes out that
popular items simply have more events. No test is read. Where interactions are many, LightGCN is trained for fewer
epochs, and still for more steps than on any of the small sets (`LIGHTGCN_EPOCHS`).

    results/claims.json   every reading
    results/claims.md     the correlations at the last epoch, and where a claim does not hold
    results/claims.svg    the medians over epochs
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from experiments.run import RESULTS
from jaxrec import analysis, files, models, presets, runs
from jaxrec.data import registry
from jaxrec.data.interactions import Interactions
from jaxrec.presets import Settings
from jaxrec.train import fit

DATA = ("adressa-macr", "coat", "lastfm-both", "ml-100k", "ml-100k-temporal", "ml-1m", "gowalla-both", "synthetic")
BACKBONES: tuple[Literal["mf", "lightgcn"], ...] = ("mf", "lightgcn")
EPOCHS = 20
LIGHTGCN_EPOCHS = {"ml-1m": 5, "gowalla-both": 10}  # 2,200 and 3,900 steps; 20 epochs of Adressa are 1,100
GROUPS = 5
READ = ("alignment", "gradient_alignment", "magnitude", "magnitude_per_event", "ratio")
CLAIMS = {
    "alignment": "(i)",
    "gradient_alignment": "(i), of an item's own gradients",
    "magnitude": "(ii)",
    "magnitude_per_event": "(ii), by event",
}
BASE = Settings(normalize_users=False, reject=True, optimizer="adam", learning_rate=5e-3, l2=1e-4, init_scale=0.1)
OBJECTIVES: dict[str, dict[str, Any]] = {
    "bpr": {"objective": "bpr"},
    "bce": {"objective": "bce"},
    "softmax": {"objective": "softmax", "negatives": 256, "shared": True, "popularity": 0.5, "logq": True},
}


def settings_of(backbone: Any, objective: str, unit_users: bool) -> Settings:
    """One optimiser and start for all, so that objectives and backbones are all that differ."""
    return replace(BASE, backbone=backbone, normalize_users=unit_users, **OBJECTIVES[objective])


def follow(train: Interactions, settings: Settings, *, epochs: int, every: int) -> list[dict[str, Any]]:
    """A reading every so many epochs: the epoch, correlations, and medians by group, least popular first."""
    model, sampler, step = presets.build(settings, train)
    counts, found = train.item_counts, []

    def read(row: dict[str, Any], state: Any) -> None:
        if row["epoch"] % every and row["epoch"] not in (1, epochs):
            return
        tables = models.embed(model, state.params)
        values = analysis.claimed(tables, state.ledger)
        groups = {n: analysis.by_popularity(values[n], counts, groups=GROUPS) for n in READ}
        claims = analysis.claims(tables, state.ledger, counts)
        found.append(
            {
                "epoch": row["epoch"],
                "spearman": {n: round(claims[n]["spearman"], 4) for n in READ},
                "median": {n: [float(f"{g['median']:.4g}") for g in groups[n]] for n in READ},
            }
        )

    fit(step, sampler, epochs=epochs, key=jax.random.key(0), on_epoch=read)
    return found


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Correlations at the last epoch, and the median magnitude of the most popular fifth of items over that of the
    least popular one."""
    columns = ("data", "backbone", "objective", "users", "epochs", *READ, "magnitude, fifth 5 / fifth 1")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        last = row["readings"][-1]
        low, high = last["median"]["magnitude"][0], last["median"]["magnitude"][-1]
        cells = [f"{last['spearman'][n]:+.2f}" for n in READ]
        cells += [f"{high / low if low > 0 else float('inf'):.1f}"]
        which = (row["data"], row["backbone"], row["objective"], _users(row), str(last["epoch"]))
        lines.append(f"| {' | '.join((*which, *cells))} |")
    return lines


def words(rows: list[dict[str, Any]]) -> list[str]:
    """What holds and what does not, counted."""
    said = []
    for name, claim in CLAIMS.items():
        against = [r for r in rows if r["readings"][-1]["spearman"][name] <= 0]
        said.append(f"- Claim {claim}, `{name}`: positive in {len(rows) - len(against)} of {len(rows)} models.")
        if 0 < len(against) < len(rows):
            few = 2 * len(against) < len(rows)
            named = against if few else [r for r in rows if r["readings"][-1]["spearman"][name] > 0]
            names = sorted(f"{r['data']} {r['backbone']} {r['objective']} {_users(r)}" for r in named)
            said[-1] += (" Not in: " if few else " Only in: ") + ", ".join(names) + "."
        least = min(rows, key=lambda row: row["readings"][-1]["spearman"][name])
        where = f"{least['data']} {least['backbone']} {least['objective']} {_users(least)}"
        said[-1] += f" Least: {least['readings'][-1]['spearman'][name]:+.2f} ({where})."
    for name in ("alignment", "gradient_alignment", "magnitude_per_event"):
        unit, free = (
            [r["readings"][-1]["spearman"][name] for r in rows if r["unit_users"] is wanted] for wanted in (True, False)
        )
        means = f"{np.mean(unit):+.2f} with users normalised, {np.mean(free):+.2f} without"
        said.append(f"- Mean correlation of `{name}`: {means}.")
    return said


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Medians of alignment and magnitude over epochs, by fifths of items: a column a data set, softmax, unit users."""
    from matplotlib.figure import Figure

    chosen = [r for r in rows if r["objective"] == "softmax" and r["unit_users"]]
    names = list(dict.fromkeys(r["data"] for r in chosen))
    kinds = [(b, n) for b in BACKBONES for n in ("alignment", "magnitude")]
    figure = Figure(figsize=(3.0 * len(names), 2.4 * len(kinds)), layout="constrained")
    axes = figure.subplots(len(kinds), len(names), squeeze=False)
    for column, data in enumerate(names):
        for line, (backbone, name) in enumerate(kinds):
            axis = axes[line][column]
            found = next((r for r in chosen if (r["data"], r["backbone"]) == (data, backbone)), None)
            if found is None:
                axis.set_axis_off()
                continue
            epochs = [reading["epoch"] for reading in found["readings"]]
            for group in range(GROUPS):
                values = [reading["median"][name][group] for reading in found["readings"]]
                label = {0: "least popular fifth", GROUPS - 1: "most popular fifth"}.get(group)
                axis.plot(epochs, values, color=(0.15 + 0.17 * group, 0.25, 0.75 - 0.16 * group), label=label)
            if name == "magnitude":
                axis.set_yscale("log")
            axis.set_title(f"{data}, {backbone}: {name}", fontsize=8)
            axis.tick_params(labelsize=7)
    axes[0][0].legend(fontsize=7)
    figure.savefig(path)


def main(
    only: tuple[str, ...] = (),
    epochs: int | None = None,
    every: int = 5,
    results: Path = RESULTS,
    backbones: tuple[Literal["mf", "lightgcn"], ...] = BACKBONES,
) -> None:
    """Trains and reads every model, then writes the three files; models that they have already and that are not asked
    for stay.

    Args:
        only: Only these data sets (LightGCN takes an hour on gowalla-both, on 2 CPU cores).
        epochs: Of each model; none: 20, or those of `LIGHTGCN_EPOCHS`.
        every: Epochs from one reading to the next.
        results: Where the files go.
        backbones: Only these.
    """
    kept = results / "claims.json"
    results.mkdir(parents=True, exist_ok=True)
    for data in only or DATA:
        train = registry.load(data).split.train
        for backbone in backbones:
            fewer = LIGHTGCN_EPOCHS.get(data, EPOCHS) if backbone == "lightgcn" else EPOCHS
            for objective in OBJECTIVES:
                for unit_users in (True, False):
                    settings = settings_of(backbone, objective, unit_users)
                    readings = follow(train, settings, epochs=epochs or fewer, every=every)
                    row: dict[str, Any] = {"data": data, "backbone": backbone, "objective": objective}
                    row |= {"unit_users": unit_users, "readings": readings}
                    others = [known for known in _read(kept) if _key(known) != _key(row)]
                    files.write_json(kept, sorted([*others, row], key=_place), indent=None)
                    print(data, backbone, objective, unit_users, readings[-1]["spearman"], flush=True)
    write_page(results)


def write_page(results: Path) -> None:
    """`claims.svg` and `claims.md` from `claims.json`."""
    rows = _read(results / "claims.json")
    draw(rows, results / "claims.svg")
    parts = [
        "# The two claims over training",
        "Made by `python -m experiments.claims`, one seed; Spearman's correlation with popularity at the last epoch. "
        "`experiments/claims.py` says what each reading is, and which models are trained for fewer than 20 epochs. "
        "Models are named by data, backbone, objective, and users `unit` (normalised) or `free`.",
        "\n".join(words(rows)),
        "![medians over epochs](claims.svg)",
        "\n".join(table(rows)),
    ]
    (results / "claims.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _users(row: dict[str, Any]) -> str:
    return "unit" if row["unit_users"] else "free"


def _read(path: Path) -> list[dict[str, Any]]:
    return list(runs.read_json(path)) if path.exists() else []


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("data", "backbone", "objective", "unit_users"))


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    """Where a row stands in the table: data sets as in `DATA`, others after them."""
    data, objectives = row["data"], list(OBJECTIVES)
    order = DATA.index(data) if data in DATA else len(DATA)
    return order, data, row["backbone"] != "mf", objectives.index(row["objective"]), not row["unit_users"]


if __name__ == "__main__":
    tyro.cli(main)
