"""Published figures made again: `python -m experiments.references`, one by one with `--only NAME`.

    lightgcn-gowalla         He et al. 2020 (arXiv 2002.02126), 3 layers, BPR, their settings; natural test; ten epochs,
                             or --epochs 1000, theirs (330 s on an H100, ten hours on two CPU cores)
    gf-cf-gowalla            Shen et al. 2021 (arXiv 2108.07567), their settings; natural test, nothing to train
    bspm-gowalla             Choi et al. 2023 (arXiv 2211.09324), the same
    macr-mf-adressa          Wei et al. 2021 (arXiv 2010.15363), their settings; epochs and c chosen on validation
    macr-lightgcn-adressa    the same on LightGCN of 2 layers, α as on MF
    macr-mf-adressa-across   what their code trains in place of their formula (`baselines.macr.objective`), and users
                             drawn uniformly, as there
    macr-lightgcn-adressa-across  the same on LightGCN, with the α of 1e-2 that their commands have there
    macr-mf-adressa-on-test, macr-lightgcn-adressa-on-test
                             that with their commands' c = 30, stopped where the hit rate on the test itself is best,
                             as there, by each seed for itself: checks, not results

The first is read at the epochs of the authors' log, and the two filters have no epochs, so nothing is selected here
(what their authors selected their settings on is not known here). For the next four, validation parts are
carved from the training interactions, the epoch and c that are best there by unbiased NDCG@20 are taken, and the model
is trained again on all of them.

    results/references/NAME.json   what was reached, beside what was published
    results/references.md          the table
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from experiments.contest import NDCG
from experiments.run import RESULTS
from jaxrec import baselines, files, metrics, models, pipeline, presets, runs
from jaxrec import select as selection
from jaxrec.data import registry, splits
from jaxrec.data.interactions import Split
from jaxrec.step import TrainState
from jaxrec.train import fit

PUBLISHED = {
    "lightgcn-gowalla": {"5": (0.1071, 0.0894), "1000": (0.1830, 0.1554)},
    "gf-cf-gowalla": {"whole": (0.1849, 0.1518)},
    "bspm-gowalla": {"whole": (0.1920, 0.1597)},
    "macr-mf-adressa": {"best": (0.1061, 0.0467)},
    "macr-lightgcn-adressa": {"best": (0.1297, 0.0607)},
    "macr-mf-adressa-across": {"best": (0.1061, 0.0467)},
    "macr-lightgcn-adressa-across": {"best": (0.1297, 0.0607)},
    "macr-mf-adressa-on-test": {"on test": (0.1061, 0.0467)},
    "macr-lightgcn-adressa-on-test": {"on test": (0.1297, 0.0607)},
}
READ = (5, 10, 20, 50)  # epochs; and every hundredth
KEYS = {"whole": "nothing to train", "best": "chosen on validation", "on test": "chosen on the test"}

AS_THEIRS: dict[str, Any] = {"across": True, "sample_by": "user"}  # what MACR's authors' code does


def lightgcn_gowalla(epochs: int, out: Path) -> dict[str, Any]:
    """Recall and NDCG on the natural test at the epochs READ; checkpoints under `out`, to go on from.

    SIGTERM ends it after the epoch, and what was read until then is kept.
    """
    split = registry.load("gowalla-lightgcn").split
    model, sampler, step = presets.build(presets.LIGHTGCN, split.train, observe=False)
    path = out / "lightgcn.json"  # beside the checkpoints, for a run that goes on from one
    found: dict[str, Any] = (runs.read_json(path) if path.exists() else {}) | {"device": jax.devices()[0].device_kind}
    begun = time.perf_counter()

    def read(row: dict[str, Any], state: Any) -> None:
        if row["epoch"] in READ or row["epoch"] % 100 == 0:
            summary = pipeline.evaluate(models.embed(model, state.params), split, ks=[20])["natural"].summary
            found[str(row["epoch"])] = [summary["recall@20"], summary[NDCG]]
            out.mkdir(parents=True, exist_ok=True)
            files.write_json(path, found)
            print(row["epoch"], found[str(row["epoch"])], f"{time.perf_counter() - begun:.0f} s", flush=True)

    kept: dict[str, Any] = {"checkpoint": out / "lightgcn", "checkpoint_every": 50, "resume": True}
    fit(step, sampler, epochs=epochs, key=jax.random.key(0), on_epoch=read, **kept)
    return found


def filter_gowalla(**options: Any) -> dict[str, Any]:
    """Recall and NDCG of `models.graph_filter` on the natural test."""
    split = registry.load("gowalla-lightgcn").split
    begun = time.perf_counter()
    ranking = baselines.top_k(models.graph_filter(split.train, **options), None, split.train, k=20)
    summary = metrics.evaluate(ranking, split.tests["natural"], split.train).summary
    print(options, summary["recall@20"], summary[NDCG], f"{time.perf_counter() - begun:.0f} s", flush=True)
    return {"whole": [summary["recall@20"], summary[NDCG]]}


def macr_adressa(backbone: Any, epochs: int, seeds: int, **options: Any) -> dict[str, Any]:
    """The unbiased test over seeds, with c and epochs from validation (seed 0); options are those of the method."""
    split = registry.load("adressa-macr").split
    carved = splits.carve(Split(split.train, {}, {}), seed=0)
    method = baselines.build("macr", carved.train, backbone, batch_size=1024, **options)
    begin = method.step.init(jax.random.key(0))
    assert begin.ledger is not None
    assert method.arm is not None
    tune = method.arm
    problem = selection.prepare(baselines.start(method, begin.params), begin.ledger, carved.train, carved.valid)
    tried: list[tuple[float, int, float]] = []

    def read(row: dict[str, Any], state: Any) -> None:
        if row["epoch"] % 5:
            return
        at = problem._replace(tables=baselines.start(method, state.params))
        for point in selection.frontier(at, tune(state.params), budget=16, rounds=1):
            tried.append((point.metrics["unbiased"][NDCG], row["epoch"], point.strengths["c"]))
        if row["epoch"] % 20 == 0:
            print(backbone, "epoch", row["epoch"], "best so far", max(tried), flush=True)

    baselines.fit_method(method, epochs=epochs, on_epoch=read)
    value, best, c = max(tried)
    rows = []
    for seed in range(seeds):
        whole = baselines.build("macr", split.train, backbone, batch_size=1024, **options)
        state = baselines.fit_method(whole, epochs=best, seed=seed).state
        ranking = baselines.top_k(whole.rank(state.params, c=c), None, split.train, k=20)
        summary = metrics.evaluate(ranking, split.tests["unbiased"], split.train).summary
        rows.append([summary["recall@20"], summary[NDCG]])
        print(backbone, seed, rows[-1], flush=True)
    mean, sd = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1)
    return {"best": mean.tolist(), "sd": sd.tolist(), "seeds": seeds, "epochs": best, "c": c, "validation": value}


def macr_on_test(backbone: Any, epochs: int, seeds: int, *, c: float = 30.0) -> dict[str, Any]:
    """The unbiased test at that tenth epoch whose hit rate there is best, for each seed; ten worse ones end it."""
    split = registry.load("adressa-macr").split
    method = baselines.build("macr", split.train, backbone, batch_size=1024, **AS_THEIRS)

    def test(state: TrainState) -> dict[str, float]:
        ranking = baselines.top_k(method.rank(state.params, c=c), None, split.train, k=20)
        return metrics.evaluate(ranking, split.tests["unbiased"], split.train).summary

    chosen = []
    for seed in range(seeds):
        watched: dict[str, Any] = {"evaluate": test, "evaluate_every": 10, "monitor": "hit@20", "patience": 10}
        found = baselines.fit_method(method, epochs=epochs, seed=seed, **watched)
        at = next(row for row in found.history if row["epoch"] == found.best_epoch)
        chosen.append((at["recall@20"], at[NDCG], found.best_epoch))
        print(backbone, seed, chosen[-1], found.stopped, flush=True)
    recall, ndcg, best = np.asarray(chosen).T
    both = np.stack([recall, ndcg])
    mean, sd = both.mean(axis=1).tolist(), both.std(axis=1, ddof=1).tolist()
    return {"on test": mean, "sd": sd, "seeds": seeds, "epochs": best.astype(int).tolist(), "c": c}


NAMES: dict[str, Callable[..., dict[str, Any]]] = {
    "lightgcn-gowalla": lambda epochs, out: lightgcn_gowalla(epochs or 10, out),
    "gf-cf-gowalla": lambda epochs, out: filter_gowalla(width=256, low_pass=0.3, sharpening=0.0),
    "bspm-gowalla": lambda epochs, out: filter_gowalla(width=448, low_pass=0.2, sharpening=2.5),
    "macr-mf-adressa": lambda epochs, out: macr_adressa("mf", epochs or 600, 5),
    "macr-lightgcn-adressa": lambda epochs, out: macr_adressa("lightgcn", epochs or 200, 3, alpha=1e-3),
    "macr-mf-adressa-across": lambda epochs, out: macr_adressa("mf", epochs or 500, 3, **AS_THEIRS),
    "macr-lightgcn-adressa-across": lambda epochs, out: macr_adressa("lightgcn", epochs or 400, 3, **AS_THEIRS),
    "macr-mf-adressa-on-test": lambda epochs, out: macr_on_test("mf", epochs or 2000, 2),
    "macr-lightgcn-adressa-on-test": lambda epochs, out: macr_on_test("lightgcn", epochs or 2000, 2),
}


def table(results: Path) -> list[str]:
    """What was published, what was reached, and the ratio."""
    lines = ["| figure | at | published recall@20 / ndcg@20 | reached | ratio |", "|---|---|---|---|---|"]
    for name, at in PUBLISHED.items():
        path = results / "references" / f"{name}.json"
        found = runs.read_json(path) if path.exists() else {}
        for key in sorted({*at, *(k for k in found if k.isdigit() or k in KEYS)}, key=lambda k: (len(k), k)):
            how = _how(found) if key in found and "c" in found else ""
            cells = [name, f"epoch {key}" if key.isdigit() else KEYS[key] + how]
            cells.append(" / ".join(f"{v:.4f}" for v in at[key]) if key in at else "")
            spread = [f" ± {sd:.4f}" for sd in found.get("sd", ())] or ["", ""]
            reached = [f"{v:.4f}{sd}" for v, sd in zip(found.get(key, ()), spread, strict=False)]
            cells.append(" / ".join(reached) or "not reached here")
            both = key in at and key in found
            cells.append(" / ".join(f"{b / a:.2f}" for a, b in zip(at[key], found[key], strict=True)) if both else "")
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _how(found: dict[str, Any]) -> str:
    """The epoch and c that were chosen, or each seed's."""
    epochs, c = np.atleast_1d(found["epochs"]), np.atleast_1d(found["c"])
    return f": epoch {', '.join(map(str, epochs))}; c {', '.join(f'{value:.1f}' for value in c)}"


def main(
    only: tuple[str, ...] = (), epochs: int | None = None, work: Path = Path("runs"), results: Path = RESULTS
) -> None:
    """Makes the figures, and the table of all that there are.

    Args:
        only: Only these figures.
        epochs: Of training, at most.
        work: Where checkpoints go.
        results: Where the figures go.
    """
    for name in only or NAMES:
        found = NAMES[name](epochs, work / "references")
        (results / "references").mkdir(parents=True, exist_ok=True)
        files.write_json(results / "references" / f"{name}.json", found)
    head = "# Published figures made again\n\nMade by `python -m experiments.references`, lightgcn-gowalla with "
    head += "`--epochs 1000`. Mean ± sd where there are seeds.\n\n"
    (results / "references.md").write_text(head + "\n".join(table(results)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main)
