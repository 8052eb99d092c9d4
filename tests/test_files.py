"""Files appear whole or not at all; no pickle is written or read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import data, embeddings, files, serve
from jaxrec.data.interactions import DataError
from jaxrec.rank import TopK


def test_what_was_there_stays_where_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        files.write_json(path, {"new": object()})
    with pytest.raises(RuntimeError, match="no space left"):
        _write_half(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def _lists(path: Path, users: int) -> None:
    ranking = TopK(np.arange(users), np.zeros((users, 1), np.int32), np.ones((users, 1), np.float32))
    serve.write_lists(path, ranking, np.arange(users), np.array([7]))


def _pairs(path: Path, users: int) -> None:
    data.write(path, data.Interactions(np.arange(users), np.zeros(users, np.int64), users, 1))


def _rows(path: Path, users: int) -> None:
    form = path.suffix.removeprefix(".")
    tables = {"user": np.ones((users, 2), np.float32)}
    embeddings.write_embeddings(path.parent, tables, {"user": np.arange(users)}, [form])


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.csv", _lists), ("a.tsv.gz", _lists), ("a.run", _lists), ("a.trec.gz", _lists), ("a.parquet", _lists),
        ("a.txt", _pairs), ("a.txt.gz", _pairs), ("user.npy", _rows), ("embeddings.safetensors", _rows),
        ("user.parquet", _rows),
    ],
)  # fmt: skip
def test_a_full_disk_leaves_what_was_there(
    name: str, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    write(path, 3)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    write(path, 3)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before  # the same content, the same bytes

    def full(self: Path, target: Path) -> Path:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        write(path, 4)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_come_back_as_they_were(compressed: bool, tmp_path: Path) -> None:
    arrays = {"rows": np.arange(6, dtype=np.float32).reshape(2, 3), "ids": np.array(["a", "ü"]), "k": np.array(3)}
    files.write_arrays(tmp_path / "a.scorer", arrays, compressed=compressed)
    with files.read_arrays(tmp_path / "a.scorer", "write it again") as found:
        assert set(found) == set(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


def _write_half(path: Path) -> None:
    with files.whole(path) as partial:
        partial.write_text("half of")
        raise RuntimeError("no space left")


def _take(path: Path, name: str) -> np.ndarray:
    with files.read_arrays(path, "write it again") as found:
        return found[name]


def test_no_pickle_is_written_or_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pickle is written, but ids holds objects"):
        files.write_arrays(tmp_path / "a.npz", {"ids": np.array([None, "a"])})
    assert not list(tmp_path.iterdir())
    np.savez(tmp_path / "b.npz", ids=np.array([None, "a"]))
    with pytest.raises(DataError, match=r"b\.npz is damaged or of another kind"):
        _take(tmp_path / "b.npz", "ids")


def test_floats_that_numpy_has_not_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="numpy files hold no bfloat16, as rows is; give float32"):
        files.write_arrays(tmp_path / "a.npz", {"rows": jnp.ones(3, jnp.bfloat16)})
    assert not list(tmp_path.iterdir())


def test_damage_and_what_is_missing_are_told_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    files.write_arrays(path, {"rows": np.ones((20, 20))})
    with pytest.raises(DataError, match=r"users is not a file.*; write it again"):
        _take(path, "users")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"a\.npz is damaged .*; write it again"):
        _take(path, "rows")
    with pytest.raises(FileNotFoundError):
        _take(tmp_path / "none.npz", "rows")
