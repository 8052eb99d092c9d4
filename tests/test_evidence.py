"""What experiments keep beside the studies: the claims over training, and published figures made again."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments import claims, references
from experiments.run import RESULTS


def test_claims_keep_the_models_that_were_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "OBJECTIVES", {"softmax": claims.OBJECTIVES["softmax"]})
    reading = {
        "epoch": 3,
        "spearman": dict.fromkeys(claims.READ, 0.25),
        "median": {name: [1.0, 2.0, 3.0, 4.0, 5.0] for name in claims.READ},
    }
    kept = {"backbone": "mf", "objective": "softmax", "unit_users": True, "readings": [reading]}
    (tmp_path / "claims.json").write_text(json.dumps([{"data": data, **kept} for data in ("synthetic", "coat")]))
    claims.main(only=("synthetic",), epochs=1, every=1, results=tmp_path, backbones=("mf",))
    rows = json.loads((tmp_path / "claims.json").read_text())
    assert [(r["data"], r["unit_users"]) for r in rows] == [("coat", True), ("synthetic", True), ("synthetic", False)]
    assert rows[0]["readings"] == [reading]
    assert rows[1]["readings"][-1]["epoch"] == 1
    page = (tmp_path / "claims.md").read_text()
    assert "| coat | mf | softmax | unit | 3 | +0.25 |" in page
    assert "| synthetic | mf | softmax | free | 1 |" in page
    assert (tmp_path / "claims.svg").read_text().count("<svg") == 1


def test_a_figure_made_again_has_its_spread_and_what_was_chosen(tmp_path: Path) -> None:
    (tmp_path / "references").mkdir()
    several = {"on test": [0.1, 0.05], "sd": [0.01, 0.002], "seeds": 2, "epochs": [20, 40], "c": [1.0, 30.0]}
    one = {"best": [0.1061, 0.0467], "seeds": 1, "epochs": 20, "c": 2.25}
    for name, found in (("macr-mf-adressa-on-test", several), ("macr-mf-adressa", one)):
        (tmp_path / "references" / f"{name}.json").write_text(json.dumps(found))
    lines = references.table(tmp_path)
    whole = next(line for line in lines if line.startswith("| macr-mf-adressa-on-test |"))
    assert "chosen on the test: epoch 20, 40; c 1.0, 30.0" in whole
    assert "| 0.1000 ± 0.0100 / 0.0500 ± 0.0020 | 0.94 / 1.07 |" in whole
    alone = next(line for line in lines if line.startswith("| macr-mf-adressa |"))
    assert "epoch 20; c 2.2 | 0.1061 / 0.0467 | 0.1061 / 0.0467 | 1.00 / 1.00 |" in alone
    assert "not reached here" in next(line for line in lines if line.startswith("| bspm-gowalla |"))


def test_the_readmes_count_the_models_as_the_page_does() -> None:
    """How many models are ahead of their own count control, beyond chance, level and behind, by the kept table."""
    page = (RESULTS / "methods.md").read_text().split("## Each model beside its own count control")[1].split("\n## ")[0]
    cells = [line.split("|") for line in page.splitlines() if line.startswith("| ")][1:]
    counts = {}
    for rule in ("loss10", "unbiased"):
        found = [(float(row[-3]), float(row[-2])) for row in cells if row[3].strip() == rule]
        sure = [difference for difference, p in found if p < 0.05]
        counts[rule] = len(found), sum(d > 0 for d in sure), sum(d < 0 for d in sure)
    assert min(count[0] for count in counts.values()) > 10
    (models, ahead, behind), (all_models, all_ahead, all_behind) = counts["loss10"], counts["unbiased"]
    words = {0: "none", 3: "three"}
    for path in (RESULTS / "README.md", Path(__file__).parents[1] / "README.md"):
        text = " ".join(path.read_text().split())
        assert f"ahead beyond chance for {ahead} of {models} models" in text
        assert f"ahead for {all_ahead} of {all_models}, " in text
        assert f"behind for {words[behind]}" in text
        assert f"behind for {words[all_behind]}" in text


def test_what_keeps_less_than_asked_for_is_not_marked_as_the_best() -> None:
    lines = (RESULTS / "methods.md").read_text().splitlines()
    short = [line for line in lines if line.removeprefix("| ").partition(" |")[0].endswith("†")]
    assert len(short) > 100
    assert not [line for line in short if "**0" in line or "| _0" in line]


def test_what_was_read_before_an_interruption_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(step: Any, sampler: Any, *, epochs: int, on_epoch: Any, **others: Any) -> None:
        for epoch in range(fit.done + 1, epochs + 1):  # type: ignore[attr-defined]
            on_epoch({"epoch": epoch}, None)
        fit.done = epochs  # type: ignore[attr-defined]

    fit.done = 0  # type: ignore[attr-defined]
    summary = {"recall@20": 0.25, "ndcg@20": 0.5}
    monkeypatch.setattr(references, "fit", fit)
    monkeypatch.setattr(references.registry, "load", lambda name: SimpleNamespace(split=SimpleNamespace(train=None)))
    monkeypatch.setattr(references.presets, "build", lambda *parts, **more: (None, None, None))
    monkeypatch.setattr(references.models, "embed", lambda model, params: None)
    found = SimpleNamespace(summary=summary)
    monkeypatch.setattr(references.pipeline, "evaluate", lambda *parts, **more: {"natural": found})
    with monkeypatch.context() as patched:
        patched.setattr(references, "READ", (1, 2))
        state = SimpleNamespace(params=None)
        patched.setattr(
            references, "fit", lambda *a, on_epoch, **m: fit(*a, on_epoch=lambda row, _: on_epoch(row, state), **m)
        )
        assert set(references.lightgcn_gowalla(1, tmp_path / "new")) == {"1", "device"}
        assert set(references.lightgcn_gowalla(2, tmp_path / "new")) == {"1", "2", "device"}
