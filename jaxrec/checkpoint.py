"""Checkpoints: arrays by orbax, under a manifest of SHA-256 sums, put in place by one rename; never a pickle.

    FOLDER/step_00000012/manifest.json     meta, and the size and SHA-256 of every other file
    FOLDER/step_00000012/arrays/           orbax

A step appears whole or not at all. One whose files do not match its manifest (torn by a full disk, corrupt) is named in
a `CheckpointWarning`, and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np

from jaxrec.names import want_whole

PREFIX, MANIFEST, ARRAYS = "step_", "manifest.json", "arrays"


class CheckpointError(RuntimeError):
    """No usable checkpoint, or one of something else; the message says which and what to do."""


class CheckpointWarning(UserWarning):
    """A checkpoint was found damaged and passed over."""


@dataclass(frozen=True)
class Restored:
    """What a checkpoint held: its step, the tree of arrays, and the JSON that was saved beside it."""

    step: int
    state: Any
    meta: dict[str, Any]


def save(folder: Path | str, step: int, state: Any, *, meta: dict[str, Any] | None = None, keep: int = 2) -> Path:
    """Saves a pytree of arrays (typed keys too) and JSON `meta` as `step`, then removes all but it and the `keep` - 1
    newest others. Raises TypeError for a leaf that is no array, ValueError for a step below 0."""
    import orbax.checkpoint as ocp

    want_whole("step", step, 0)
    named, _ = named_leaves(state)
    for name, leaf in named.items():
        if not hasattr(leaf, "dtype") or _plain(leaf).dtype.kind in "OU":
            raise TypeError(f"a checkpoint holds arrays, but {name} is {leaf!r}; give jnp.asarray of a number")
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".partial-*"):  # of a process that was killed while saving
        shutil.rmtree(left, ignore_errors=True)
    partial, final = folder / f".partial-{step:08d}", folder / f"{PREFIX}{step:08d}"
    partial.mkdir()
    with ocp.StandardCheckpointer() as writer:
        writer.save(partial / ARRAYS, {name: np.asarray(_plain(leaf)) for name, leaf in named.items()})
    manifest = {"meta": meta or {}, "names": sorted(named), "files": _sums(partial)}
    with (partial / MANIFEST).open("w", encoding="utf-8") as out:
        json.dump(manifest, out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    others = [old for old in steps(folder) if old != step]
    for old in others[: max(len(others) - keep + 1, 0)]:
        shutil.rmtree(folder / f"{PREFIX}{old:08d}", ignore_errors=True)
    return final


def steps(folder: Path | str) -> list[int]:
    """The saved steps, ascending; [] where there is no such folder."""
    found = {p.name.removeprefix(PREFIX) for p in Path(folder).glob(PREFIX + "*") if p.is_dir()}
    return sorted(int(number) for number in found if number.isdecimal())


def restore(folder: Path | str, like: Any, *, check: Callable[[dict[str, Any]], None] | None = None) -> Restored:
    """The newest undamaged checkpoint, as a tree with the structure, shapes and dtypes of `like`.

    check: called with the `meta` saved beside it, before its arrays are looked at, to refuse it for a better reason.

    Raises CheckpointError where there is none, or where it does not fit `like` (another model or optimiser).
    """
    folder = Path(folder).resolve()
    for step in reversed(steps(folder)):
        path = folder / f"{PREFIX}{step:08d}"
        problem = _damage(path)
        if problem is None:
            return _read(path, step, like, check)
        warnings.warn(f"{path} is damaged ({problem}); using the one before it", CheckpointWarning, stacklevel=2)
    raise CheckpointError(f"{folder} holds no usable checkpoint; start without resuming")


def _read(path: Path, step: int, like: Any, check: Callable[[dict[str, Any]], None] | None) -> Restored:
    import orbax.checkpoint as ocp

    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    if check is not None:
        check(manifest["meta"])
    named, structure = named_leaves(like)
    if manifest["names"] != sorted(named):
        extra = sorted(set(manifest["names"]) ^ set(named))
        raise CheckpointError(f"{path} is of another model or optimiser: {len(extra)} names differ, as {extra[:4]}")
    with ocp.StandardCheckpointer() as reader:
        found = reader.restore(path / ARRAYS)
    leaves = []
    for name, wanted in named.items():
        got, plain = np.asarray(found[name]), _plain(wanted)
        if got.shape != plain.shape or got.dtype != plain.dtype:
            raise CheckpointError(
                f"{path} is of another model: {name} is {got.dtype}{list(got.shape)} there, "
                f"wanted {plain.dtype}{list(plain.shape)}"
            )
        leaves.append(_typed(got, wanted))
    return Restored(step, jax.tree.unflatten(structure, leaves), manifest["meta"])


def named_leaves(tree: Any) -> tuple[dict[str, Any], Any]:
    """A pytree's leaves under names like `items.pull.size`, in order, and its structure."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    found = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}
    if len(found) < len(paths):
        raise ValueError(f"two leaves have one name, joined by dots, among {', '.join(sorted(found))}; rename one")
    return found, structure


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _typed(found: np.ndarray, like: Any) -> Any:
    if isinstance(like, (np.ndarray, np.generic)):  # jax would cut 64 bits to 32
        return found
    array = jax.numpy.asarray(found)
    if isinstance(like, jax.Array) and not _is_key(like) and len(like.sharding.device_set) > 1:
        return jax.device_put(array, like.sharding)
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(like)) if _is_key(like) else array


def _sums(folder: Path) -> dict[str, list[Any]]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {
        p.relative_to(folder).as_posix(): [p.stat().st_size, hashlib.sha256(p.read_bytes()).hexdigest()] for p in files
    }


def _damage(path: Path) -> str | None:
    try:
        listed = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its manifest can't be read: {error}"
    found = _sums(path)
    wrong = sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name))
    return f"{wrong[0]} does not match its SHA-256" if wrong else None


class Stop:
    """Whether a signal asked the process to stop."""

    requested = False


@contextmanager
def graceful_stop() -> Iterator[Stop]:
    """Turns the first SIGTERM or SIGINT into `stop.requested`; a second one acts as usual. Main thread only."""
    stop = Stop()
    previous: dict[int, Any] = {}

    def request(number: int, frame: FrameType | None) -> None:
        stop.requested = True
        for known, handler in previous.items():
            signal.signal(known, handler)

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, request)
    except ValueError:  # not the main thread: signals can't be caught here, so they keep their usual effect
        previous.clear()
    try:
        yield stop
    finally:
        for known, handler in previous.items():
            signal.signal(known, handler)
