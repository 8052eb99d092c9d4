"""What experiments keep beside the studies: the claims over training, and published figures made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import claims, references


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
