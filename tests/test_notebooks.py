"""The notebooks run from the first cell to the last, and what each asserts at its end holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))
ALONE = "compose_a_transform"  # in an interpreter of its own, as people run them


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 6
    assert ALONE in {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_assertions_hold(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = path.read_text(encoding="utf-8")
    assert "# %%" in text
    assert "\nassert " in text
    if path.stem != ALONE:
        from matplotlib import pyplot

        matplotlib.use("Agg")
        monkeypatch.chdir(tmp_path)
        exec(compile(text, str(path), "exec"), {"__name__": "__main__"})
        pyplot.close("all")
        return
    run = subprocess.run(
        [sys.executable, str(path)],
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(FOLDER.parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
