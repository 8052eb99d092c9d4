"""Following a run while it trains: `history.jsonl` always, TensorBoard by the extra `track`, or one's own tracker."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jaxrec import files


class Tracker(Protocol):
    """What `pipeline.train(trackers=...)` calls.

    A row holds `fit` ("carved", "refit": which of the two fits), `epoch`, `loss`, `pull`, `seconds` and, after an
    evaluation, metrics named like `natural/ndcg@20`. A run that is resumed may log a step again that it lost.
    """

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """Called after each epoch, `step` being its number within its fit."""

    def close(self) -> None:
        """Called once, at the end or at an error."""


def want_trackers(trackers: Sequence[Tracker]) -> None:
    """TypeError for what is no sequence of trackers, as a class that was not called."""
    if isinstance(trackers, str) or not isinstance(trackers, Sequence):
        raise TypeError(f"trackers are a sequence, like [tracker], got {trackers!r}")
    for one in trackers:
        if isinstance(one, type) or not all(callable(getattr(one, name, None)) for name in ("log", "close")):
            raise TypeError(f"a tracker is an object with log(row, step) and close(), got {one!r}; call a class first")


class JsonLines:
    """A line of JSON an epoch, on disk as soon as the epoch is over; a resumed fit replaces the lines it repeats."""

    def __init__(self, path: Path | str, *, resume: bool = False):
        self.path = Path(path)
        self._begun: set[str] = set()
        if not resume or not self.path.exists():
            self.path.write_text("", encoding="utf-8")

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """Appends a row."""
        fit = row.get("fit", "")
        if fit not in self._begun:
            self._begun.add(fit)
            self._forget(fit, step)
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(dict(row)) + "\n")

    def _forget(self, fit: str, step: int) -> None:
        """Drops what a killed process wrote after its last checkpoint, and the line it was writing."""
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if row.get("fit", "") != fit or row["epoch"] < step:
                kept.append(line + "\n")
        files.write_text(self.path, "".join(kept))

    def close(self) -> None:
        """Nothing is open."""


class TensorBoard:
    """Scalars in FOLDER/<fit>, for `tensorboard --logdir FOLDER`. ImportError without the extra `track`."""

    def __init__(self, folder: Path | str):
        try:
            import tensorboardX
        except ImportError as problem:
            raise ImportError("TensorBoard wants tensorboardX: pip install 'jaxrec[track]'") from problem
        self._folder, self._make = Path(folder), tensorboardX.SummaryWriter
        self._writers: dict[str, Any] = {}

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """Writes every number of a row; TensorBoard hides what an interrupted run wrote for this step and later."""
        fit = str(row.get("fit", ""))
        if fit not in self._writers:
            self._writers[fit] = self._make(str(self._folder / fit), purge_step=step)
        for name, value in row.items():
            if name != "epoch" and isinstance(value, (int, float)):
                self._writers[fit].add_scalar(name, value, step)
        self._writers[fit].flush()

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            writer.close()


TRACKERS = {"tensorboard": lambda run: TensorBoard(Path(run) / "tensorboard")}
"""Trackers by name: a RUN folder -> Tracker."""
