"""Files of embeddings and of ids: .npy, .npz, .safetensors, .parquet, text. A pickle is never loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxrec import files
from jaxrec.data.formats import StrPath, is_whole
from jaxrec.data.interactions import DataError, plain_ids
from jaxrec.data.lines import decode, text_lines

FORMATS = ("npy", "safetensors", "parquet")
_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".joblib", ".ckpt")


def read_matrix(path: StrPath, name: str, *, ids: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
    """An array [rows, ..] and its ids, where the file holds them.

    .npy; .npz and .safetensors, with `name` (like "user") or a single array; .parquet with columns `NAME_id` and
    `embedding`; .csv, .tsv, .txt of numbers. DataError for another format, a damaged file, and one that would load a
    pickle; where `ids` are wanted, also for a .parquet with further columns, but none named `NAME_id`.
    """
    path = Path(path)
    if path.suffix in _PICKLES:
        raise DataError(f"{path}: a pickle is never loaded; save the array with numpy.save(file, array), as .npy")
    if not path.exists():
        raise DataError(f"{path}: no such file")
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                return np.lib.format.read_array(file, allow_pickle=False), None
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                return _named(path, {k: found[k] for k in found.files}, name), found.get(f"{name}_ids")
        if path.suffix == ".safetensors":
            return _read_safetensors(path, name)
        if path.suffix == ".parquet":
            return _read_parquet(path, name, ids)
        if path.suffix in (".csv", ".tsv", ".txt"):
            separator = "," if path.suffix == ".csv" else None
            return np.loadtxt(path, np.float32, delimiter=separator, ndmin=2, encoding="utf-8-sig"), None
    except (DataError, MemoryError):
        raise
    except ValueError as error:
        if str(error).startswith("Object arrays"):
            raise DataError(
                f"{path}: it holds Python objects, as a pickle, which is never loaded; save ids as text with "
                "numpy.save(file, ids.astype(str)), numbers with their own dtype"
            ) from None
        raise _damaged(path, error) from None
    except Exception as error:  # each of these readers has exceptions of its own for damaged files
        raise _damaged(path, error) from None
    raise DataError(f"{path}: embeddings are read from .npy, .npz, .safetensors, .parquet, .csv, .tsv and .txt")


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: not a readable array of numbers ({error}); it may be cut off or of another format: write it again"
    )


def _named(path: Path, arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name in arrays:
        return arrays[name]
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    raise DataError(f"{path}: wanted an array {name!r} or only one array, got {sorted(arrays)}")


def _read_safetensors(path: Path, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    with _safetensors().safe_open(path, framework="np") as found:
        arrays = {key: found.get_tensor(key) for key in found.keys()}  # noqa: SIM118  (it is no dict)
        text = (found.metadata() or {}).get(f"{name}_ids")
    ids = arrays.get(f"{name}_ids") if text is None else np.array(json.loads(text), np.str_)
    return _named(path, arrays, name), ids


def _read_parquet(path: Path, name: str, want_ids: bool) -> tuple[np.ndarray, np.ndarray | None]:
    frame = _polars().read_parquet(path)
    lists = [c for c in frame.columns if frame[c].dtype.is_nested()]
    if len(lists) != 1:
        raise DataError(f"{path}: wanted one column of lists, the embeddings, got {lists} of {frame.columns}")
    rows = frame[lists[0]].to_list()
    if len({len(r) if r is not None else -1 for r in rows}) > 1:
        raise DataError(f"{path}: the embeddings in {lists[0]!r} are not equally long")
    others = [c for c in frame.columns if c not in lists]
    if want_ids and others and f"{name}_id" not in others:
        raise DataError(
            f"{path}: wanted the ids in a column {name + '_id'!r}, got {others}; rename the column of ids, or leave "
            "out these columns where ids are row numbers"
        )
    vectors = np.asarray(rows, np.float32)
    if not want_ids or f"{name}_id" not in others:
        return vectors, None
    try:
        return vectors, plain_ids(frame[f"{name}_id"].to_numpy(), name)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def read_ids(path: StrPath) -> np.ndarray:
    """Ids, in the order of the rows: .npy, or text with one id a line; whole numbers where all of them are."""
    path = Path(path)
    if path.suffix == ".npy":
        return read_matrix(path, "ids")[0]
    if not path.exists():
        raise DataError(f"{path}: no such file")
    lines = [line.strip(" \t") for line in text_lines(decode(path.read_bytes(), path))]
    for number, line in enumerate(lines, start=1):
        if not line:
            raise DataError(f"{path}:{number}: wanted an id a line, got an empty line")
    whole = all(is_whole(line) and len(line) <= 18 for line in lines)
    return np.array(lines, np.int64 if whole else np.str_)


def file_names(form: str, sides: Sequence[str] = ("user", "item")) -> list[str]:
    """The files that `write_embeddings` writes in a format. DataError for one that there is not.

    >>> file_names("npy"), file_names("parquet", ["user"])
    (['user.npy', 'item.npy', 'user_ids.npy', 'item_ids.npy'], ['user.parquet'])
    """
    names = {
        "npy": [f"{side}{end}.npy" for end in ("", "_ids") for side in sides],
        "safetensors": ["embeddings.safetensors"],
        "parquet": [f"{side}.parquet" for side in sides],
    }
    if form not in names:
        raise DataError(f"format must be one of {', '.join(FORMATS)} (npz is always written), got {form!r}")
    return names[form]


def write_embeddings(
    folder: StrPath,
    tables: Mapping[str, ArrayLike],
    ids: Mapping[str, ArrayLike],
    formats: Sequence[str],
) -> list[Path]:
    """Writes `user` and `item` rows with their ids into a folder, which is made, and returns the files.

    npy: user.npy, item.npy, user_ids.npy, item_ids.npy. safetensors: embeddings.safetensors with user, item and, where
    they are numbers, user_ids and item_ids; as JSON in its metadata where they are text. parquet: user.parquet and
    item.parquet with columns user_id or item_id, and embedding. Rows of bfloat16, which numpy's files and parquet
    don't have, are written in float32. DataError for ids that are neither whole numbers nor text.
    """
    folder, written = Path(folder), list[Path]()
    rows_of = {side: _held(np.asarray(rows)) for side, rows in tables.items()}
    ids_of = {side: plain_ids(values, side) for side, values in ids.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for form in formats:
        paths = [folder / name for name in file_names(form, list(rows_of))]
        if form == "npy":
            arrays = [*rows_of.values(), *(ids_of[side] for side in rows_of)]
            for path, array in zip(paths, arrays, strict=True):
                with files.whole(path) as partial, partial.open("wb") as out:  # given a name, numpy would append .npy
                    np.save(out, array, allow_pickle=False)
        elif form == "safetensors":
            _write_safetensors(paths[0], rows_of, ids_of)
        else:
            polars = _polars()
            for path, (side, rows) in zip(paths, rows_of.items(), strict=True):
                shape = polars.Array(polars.Float32, rows.shape[1])
                vectors = polars.Series("embedding", rows, dtype=shape)
                with files.whole(path) as partial:
                    polars.DataFrame({f"{side}_id": ids_of[side], "embedding": vectors}).write_parquet(partial)
        written += paths
    return written


def _held(rows: np.ndarray) -> np.ndarray:
    return rows.astype(np.float32) if rows.dtype.kind == "V" else rows  # as numpy has bfloat16


def _write_safetensors(path: Path, tables: dict[str, np.ndarray], ids: dict[str, np.ndarray]) -> None:
    arrays = {name: np.ascontiguousarray(rows) for name, rows in tables.items()}
    text = {}
    for side, values in ids.items():
        if values.dtype.kind == "U":
            text[f"{side}_ids"] = json.dumps(values.tolist(), ensure_ascii=False)
        else:
            arrays[f"{side}_ids"] = np.ascontiguousarray(values)
    with files.whole(path) as partial:
        _safetensors().numpy.save_file(arrays, partial, metadata=text or None)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise DataError("this file wants safetensors; pip install 'jaxrec[export]'") from None
    return safetensors


def _polars() -> Any:
    try:
        import polars
    except ImportError:
        raise DataError("this file wants polars; pip install 'jaxrec[data]'") from None
    return polars
