"""Runs a study, `python -m experiments.run STUDY`: every data set and seed in turn, finished ones skipped.

    main       this library's pipeline on every data set. RUN folders (large) go to `--runs`; what tables need goes to
               `experiments/results/main/DATA.PRESET.SEED.json`
    methods    published methods side by side, see `experiments.contest`
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import tyro

from experiments import contest, contestants
from experiments.contest import Contest
from jaxrec import files, pipeline
from jaxrec import runs as runs_
from jaxrec.presets import PRESETS, Preset, Settings
from jaxrec.report import write_report

RESULTS = Path(__file__).parent / "results"
KEPT = ("recall", "ndcg", "arp", "coverage", "gini", "head_recall", "mid_recall", "tail_recall", "novelty", "pop_reo")


@dataclass(frozen=True)
class Job:
    """One data set with one preset, over seeds. With `select_once` the first seed's selection serves the others."""

    data: str
    preset: str = "softmax-mf"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    select_once: bool = False
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def backbone(self) -> str:
        return self.settings().backbone

    def settings(self) -> Settings:
        return replace(PRESETS[self.preset], **self.changes)


# Gowalla and ml-1m have nearly a million interactions, eight times those of the others: three seeds, and strengths
# selected with the first seed only. The count control always has as many points as the adjustment.
LARGE: dict[str, Any] = {"seeds": (0, 1, 2), "select_once": True, "changes": {"select_users": 12288, "budget": 192}}

# InvCF and PAAC compare the rows of a batch with each other, which takes many times as long as the others' steps; they
# take part on the smallest sets.
SLOW = ("invcf", "paac")
LINEAR = tuple(name for name in contestants.names("mf") if name not in SLOW)

# On the synthetic world and on ml-100k; on Last.fm, the temporal split and Adressa without PPAC, the next slowest.
LINEAR_ON_GRAPHS = tuple(name for name in contestants.names("lightgcn") if name not in SLOW)
WITHOUT_PPAC = tuple(name for name in LINEAR_ON_GRAPHS if name != "ppac")

# On the two largest sets, Gowalla and ml-1m, half of the trials and three seeds; on ml-1m without DICE, which compares
# the rows of a batch with each other, too.
QUICK = tuple(name for name in LINEAR if name != "dice")

# On Gowalla the methods that came next to the first on the other sets, each kind of them at least once.
ON_LARGE: tuple[str, ...] = ("bpr", "bpr-unit-users", "softmax", "popgo", "bc_loss", "logq", "ssm", "pda", "macr")
ON_LARGE += ("ssm-in-batch", "ips-cnsr", "popular", "itemknn", "graph_filter", "ials", "spectral")

# Gowalla's two published splits have one test each: the best base's adjustments, beside methods that train little.
ON_ONE_TEST: tuple[str, ...] = ("softmax", "popular", "itemknn", "graph_filter", "ials")

STUDIES: dict[str, tuple[Job | Contest, ...]] = {
    "main": (
        Job("gowalla-lightgcn", **LARGE),
        Job("gowalla-both", **LARGE),
        Job("gowalla-macr", **LARGE),
        Job("adressa-macr"),
        Job("coat"),
        Job("ml-100k"),
        Job("ml-1m", seeds=(0, 1, 2), select_once=True),
        Job("adressa-macr", preset="paper-mf"),
        Job("gowalla-lightgcn", preset="softmax-mf-wide", **LARGE),
        Job("gowalla-macr", preset="softmax-mf-wide", **LARGE),
        Job("adressa-macr", preset="softmax-mf-wide"),
        Job("ml-100k-temporal"),
    ),
    "methods": (
        Contest("coat"),
        Contest("synthetic"),
        Contest("adressa-macr", methods=LINEAR),
        Contest("lastfm-both", methods=LINEAR),
        Contest("ml-100k", methods=LINEAR),
        Contest("ml-100k-temporal", methods=LINEAR),
        Contest("ml-1m", methods=QUICK, seeds=(0, 1, 2), trials=3),
        Contest("gowalla-both", methods=ON_LARGE, seeds=(0, 1, 2), trials=3),
        Contest("gowalla-macr", methods=ON_ONE_TEST, seeds=(0, 1, 2), trials=3),
        Contest("gowalla-lightgcn", methods=ON_ONE_TEST, seeds=(0, 1, 2), trials=3),
        Contest("coat", "lightgcn"),
        Contest("adressa-macr", "lightgcn", methods=WITHOUT_PPAC),
        Contest("ml-100k", "lightgcn", methods=LINEAR_ON_GRAPHS),
        Contest("synthetic", "lightgcn", methods=LINEAR_ON_GRAPHS),
        Contest("lastfm-both", "lightgcn", methods=WITHOUT_PPAC),
        Contest("ml-100k-temporal", "lightgcn", methods=WITHOUT_PPAC),
        Contest("ml-1m", "lightgcn", methods=("softmax",), seeds=(0, 1, 2), trials=3),
        Contest("gowalla-both", "lightgcn", methods=("softmax",), seeds=(0, 1, 2), trials=3),
        Contest("coat", "two-tower"),
        Contest("ml-100k", "two-tower"),
    ),
}


def run(
    study: tyro.conf.Positional[str],
    runs: Path = Path("runs"),
    only: tuple[str, ...] = (),
    seeds: tuple[int, ...] | None = None,
    backbone: contestants.Backbone | None = None,
    methods: tuple[str, ...] = (),
    preset: Preset | None = None,
) -> None:
    """Runs a study.

    Args:
        study: Its name.
        runs: Where the RUN folders go.
        only: Only jobs of these data sets.
        seeds: Only these seeds.
        backbone: Only jobs of this backbone.
        methods: Only these contestants of a comparison.
        preset: Only jobs of this preset.
    """
    if study not in STUDIES:
        raise SystemExit(f"no study {study!r}; there are {', '.join(STUDIES)}")
    # Seeds of one setting are the same program: it is compiled once and kept.
    jax.config.update("jax_compilation_cache_dir", str((runs / "compiled").resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    for job in STUDIES[study]:
        if (only and job.data not in only) or (backbone is not None and job.backbone != backbone):
            continue
        if preset is not None and (isinstance(job, Contest) or job.preset != preset):
            continue
        if isinstance(job, Contest):
            part = replace(job, seeds=job.seeds if seeds is None else seeds)
            contest.run(part, RESULTS, runs / study, methods)
        else:
            _run_job(study, job, runs, seeds)


def _run_job(study: str, job: Job, runs: Path, seeds: tuple[int, ...] | None) -> None:
    first = runs / study / f"{job.data}.{job.preset}.{job.seeds[0]}"
    for seed in job.seeds if seeds is None else [s for s in job.seeds if s in seeds]:
        name = f"{job.data}.{job.preset}.{seed}"
        out = runs / study / name
        chosen = first if job.select_once and seed != job.seeds[0] else None
        if not (out / "metrics.json").exists():
            found = pipeline.train(
                job.data, job.settings(), out, preset=job.preset, seed=seed, selected=chosen, resume=True
            )
            write_report(out)
            print(f"{name}: {sum(found['seconds'].values()):.0f} s", flush=True)
        keep(study, name, out)


def keep(study: str, name: str, out: Path) -> None:
    """Copies what tables need out of a RUN folder."""
    found = runs_.read_metrics(out)
    found["tests"] = {
        test: {arm: {m: v for m, v in values.items() if m.split("@")[0] in KEPT} for arm, values in arms.items()}
        for test, arms in found["tests"].items()
    }
    found.pop("source")
    folder = RESULTS / study
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / f"{name}.json", _rounded(found))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value


if __name__ == "__main__":
    tyro.cli(run)
