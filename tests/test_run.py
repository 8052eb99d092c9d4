"""Studies: which of their jobs run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments import run as study
from experiments.contest import Contest
from experiments.run import Job

JOBS: tuple[Job | Contest, ...] = (Job("a"), Job("a", preset="softmax-mf-wide"), Job("b", preset="lightgcn"))
JOBS += (Contest("a"), Contest("b", "lightgcn"))


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, ["a softmax-mf", "a softmax-mf-wide", "b lightgcn", "a mf contest", "b lightgcn contest"]),
        ({"only": ("b",)}, ["b lightgcn", "b lightgcn contest"]),
        ({"preset": "softmax-mf-wide"}, ["a softmax-mf-wide"]),
        ({"preset": "softmax-mf", "only": ("b",)}, []),
        ({"backbone": "lightgcn"}, ["b lightgcn", "b lightgcn contest"]),
    ],
)
def test_only_the_jobs_that_are_asked_for_run(
    asked: dict[str, Any], wanted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setitem(study.STUDIES, "mine", JOBS)
    monkeypatch.setattr(study.jax.config, "update", lambda *_: None)  # leaves this process without a cache on disk
    monkeypatch.setattr(study, "_run_job", lambda name, job, runs, seeds: ran.append(f"{job.data} {job.preset}"))
    monkeypatch.setattr(study.contest, "run", lambda c, *_: ran.append(f"{c.data} {c.backbone} contest"))
    study.run("mine", runs=tmp_path, **asked)
    assert ran == wanted


def test_wide_is_the_same_model_but_for_its_width() -> None:
    narrow, wide = Job("a").settings(), Job("a", preset="softmax-mf-wide").settings()
    assert {f for f in vars(wide) if getattr(wide, f) != getattr(narrow, f)} == {"width"}
    assert wide.width == 256


def test_an_unknown_study_is_named() -> None:
    with pytest.raises(SystemExit, match="no study 'mian'; there are main, methods"):
        study.run("mian")
