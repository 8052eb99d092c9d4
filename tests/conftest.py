"""Strictness for every test, one folder of compiled programs, and the real data where it is present."""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import jax
import numpy as np
import pytest
from hypothesis import settings
from jax.experimental import sparse
from jax.extend.core.primitives import dot_general_p

import jaxrec
from jaxrec import cli, data, explore
from jaxrec.data import Interactions
from jaxrec.presets import PRESETS

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
if jax.default_backend() != "cpu":  # for the formulas of the tests; on CPUs the fixture below sees the library's own
    jax.config.update("jax_default_matmul_precision", "highest")
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=25, print_blob=True)
settings.load_profile("repeatable")

# A process and the commands that its tests start share what they compile; not two workers, which do not lock it.
COMPILED = tempfile.TemporaryDirectory(prefix="jaxrec-compiled-")
for name, value in {
    "jax_compilation_cache_dir": COMPILED.name,
    "jax_persistent_cache_min_compile_time_secs": 0.1,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)

SMALL = dataclasses.replace(
    PRESETS["softmax-mf"], width=8, epochs=4, evaluate_every=2, budget=10, negatives=16, batch_size=256
)
DATA = Path(os.environ.get("JAXREC_DATA", "/nonexistent"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Says which tests were left out because the real data sets, or a browser, are not here."""
    no_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are absent: set JAXREC_DATA")
    reason = "there is no chromium: apt-get install chromium"
    no_browser = pytest.mark.skipif(chromium.executable() is None, reason=reason)
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(no_data)
        if item.get_closest_marker("browser"):
            item.add_marker(no_browser)


LIBRARY, TESTS, SPARSE = (str(Path(module).resolve().parent) for module in (jaxrec.__file__, __file__, sparse.__file__))
FULL = (jax.lax.Precision.HIGHEST,) * 2


@pytest.fixture(scope="session", autouse=True)
def grids_are_coarse() -> Iterator[None]:
    """The grid behind a page's sliders has 81 points, and not 256, which take seconds for each run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explore, "SCORES", 0)
        yield


@pytest.fixture(scope="session", autouse=True)
def every_product_is_in_float32() -> Iterator[None]:
    """A product that the library asks for at the default precision fails here, where it makes no difference: GPUs would
    round its factors to 10 bits, TPUs to 7."""
    bind = dot_general_p.bind

    def checked(*arguments: Any, **options: Any) -> Any:
        if options["precision"] != FULL and _asked_by(sys._getframe(1)).startswith(LIBRARY):
            raise AssertionError(f"a product at the precision {options['precision']}: use jaxrec.rows.product")
        return bind(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dot_general_p, "bind", checked)
        yield


def _asked_by(frame: Any) -> str:
    """The file of the nearest caller: the library, a test, or jax's sparse matrices, which only CPUs are given and
    which trace a dense product to learn what to do."""
    while frame is not None and not frame.f_code.co_filename.startswith((LIBRARY, TESTS, SPARSE)):
        frame = frame.f_back
    return "" if frame is None else str(frame.f_code.co_filename)


def random_interactions(seed: int = 0, users: int = 30, items: int = 20, density: float = 0.2) -> Interactions:
    """A long-tailed random set in which every user and every item occurs."""
    rng = np.random.default_rng(seed)
    like = rng.random((users, items)) < density * 2 * np.linspace(1, 0.1, items)
    like[np.arange(users), rng.integers(0, items, users)] = True
    like[rng.integers(0, users, items), np.arange(items)] = True
    return Interactions(*np.nonzero(like), num_users=users, num_items=items)  # type: ignore[misc]


@pytest.fixture
def interactions() -> Interactions:
    return random_interactions()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one's own: train.txt and test.txt."""
    path = tmp_path_factory.mktemp("own")
    held = data.hold_out_random(random_interactions(1, users=80, items=50, density=0.3), 0.2, seed=0)
    data.write_lines(path / "train.txt.gz", held.train)
    data.write_lines(path / "test.txt", held.held)
    return path


@pytest.fixture(scope="session")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on it, which tests don't change."""
    out = tmp_path_factory.mktemp("runs") / "one"
    arguments = ["train", str(folder), "--preset", "softmax-mf", "--out", str(out), "--seed", "1"]
    small = ["--width", "8", "--epochs", "4", "--evaluate-every", "2", "--budget", "10", "--negatives", "16"]
    assert cli.main([*arguments, *small, "--batch-size", "256"]) == 0
    return out
