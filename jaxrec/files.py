"""Files written whole or not at all, never over what is read, and arrays read without a pickle.

A file is written under its name with `.partial` behind, then put in place by one rename: what was there before stays
until then, and stays where writing fails.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxrec.data.interactions import DataError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Another name to write under, which becomes `path` at the end; what was written goes where an error ends it.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with whole(folder / "a.txt") as partial:
    ...     _ = partial.write_text("all of it")
    >>> [file.name for file in folder.iterdir()]
    ['a.txt']
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def want_another(path: Path, *read: Path | None) -> None:
    """ValueError where a file to write is one of those that are read, which would be lost."""
    for other in read:
        if other is not None and other.exists() and path.exists() and path.samefile(other):
            raise ValueError(f"{path} is a file that is read, which would be lost; name another one")


def want_folder(path: Path) -> None:
    """ValueError where there is no folder and none can be made, before the work whose results are to go there."""
    held = next(part for part in (path, *path.absolute().parents) if part.exists() or part.is_symlink())
    if not held.is_dir() or not os.access(held, os.W_OK):
        what = "is a file" if held.is_file() else "can't be written to"
        raise ValueError(f"{path} can't be a folder: {held} {what}; name another one")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8, as gzip where the name ends in .gz; its time stamp is fixed: the same text gives the same bytes."""
    content = text.encode()
    with whole(path) as partial:
        partial.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def write_json(path: Path, content: Any, *, indent: int | None = 1) -> None:
    """Writes JSON."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False) + "\n")


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a line of JSON for each row."""
    write_text(path, "".join(json.dumps(dict(row)) + "\n" for row in rows))


def write_arrays(path: Path, arrays: Mapping[str, ArrayLike], *, compressed: bool = False) -> None:
    """Writes arrays into an .npz file, whatever its name ends with. ValueError for what only a pickle could hold."""
    plain = {name: np.asarray(array) for name, array in arrays.items()}
    if pickled := [name for name, array in plain.items() if array.dtype.hasobject]:
        raise ValueError(f"{path}: no pickle is written, but {', '.join(pickled)} holds objects; give numbers or text")
    if odd := [name for name, array in plain.items() if array.dtype.kind == "V"]:
        raise ValueError(f"{path}: numpy files hold no {plain[odd[0]].dtype}, as {', '.join(odd)} is; give float32")
    with whole(path) as partial, partial.open("wb") as out:  # given a name, numpy would append .npz to it
        (np.savez_compressed if compressed else np.savez)(out, **plain)  # type: ignore[arg-type]


@contextmanager
def read_arrays(path: Path, remedy: str) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an .npz file, read when asked for.

    DataError, which ends with the remedy, for a file that is damaged or of another kind, or lacks an array that is
    asked for. FileNotFoundError where there is none.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            yield found
    except (DataError, OSError, MemoryError):
        raise
    except Exception as problem:  # numpy and zipfile have many kinds of their own for damaged files
        raise DataError(f"{path} is damaged or of another kind ({problem}); {remedy}") from problem
