"""Contenders take turns, each warm and in a process of its own, so that what disturbs one disturbs all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

from benchmarks import timing
from benchmarks.rows import Absent
from benchmarks.worker import THREADS, Reading

ROOT = Path(__file__).resolve().parents[1]
REMOVED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # they choose older kernels, which slows numpy's products
POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Contender(NamedTuple):
    """What is measured: `module:function`, its options, and what its documentation wants in the environment."""

    call: str
    options: Mapping[str, Any] = {}  # noqa: RUF012  never written to
    environment: Mapping[str, str] = {}  # noqa: RUF012

    def having(self, **options: Any) -> Contender:
        """The same with more options."""
        return self._replace(options={**self.options, **options})


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with the threads of every pool set, and settings that slow numpy left out."""
    kept = {name: value for name, value in os.environ.items() if name not in REMOVED}
    path = os.pathsep.join(part for part in (str(ROOT), kept.get("PYTHONPATH")) if part)
    return kept | dict.fromkeys(POOLS, str(THREADS)) | {"PYTHONPATH": path} | dict(extra or {})


class Process:
    """A contender's process, warm and waiting for its turn. `Absent` where what it wants is not installed."""

    def __init__(self, contender: Contender):
        command = [sys.executable, "-m", "benchmarks.worker", contender.call, json.dumps(dict(contender.options))]
        self.call = contender.call
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in __exit__
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment(contender.environment),
        )
        try:
            if reason := self._answer().get("absent"):
                raise Absent(reason)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def turn(self) -> Reading:
        """One reading."""
        assert self._child.stdin is not None
        self._child.stdin.write("go\n")
        self._child.stdin.flush()
        reading: Reading = self._answer()["reading"]
        return reading

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            self._child.wait()
            self._errors.seek(0)
            raise RuntimeError(
                f"{self.call} ended with {self._child.returncode}:\n{self._errors.read()[-2000:]}"
            )
        found: dict[str, Any] = json.loads(line)
        return found

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._child.stdin is not None and self._child.stdout is not None
        if kind is not None:
            self._child.kill()
        try:
            self._child.stdin.close()
        except BrokenPipeError:
            pass
        self._child.wait()
        self._child.stdout.close()
        self._errors.close()


def contest(contenders: Sequence[Contender], *, repeats: int, warm: int = 1) -> list[list[Reading]]:
    """Readings of each contender: `warm` turns that are thrown away, then `repeats` turns, one after the other."""
    with ExitStack() as stack:
        processes = [stack.enter_context(Process(contender)) for contender in contenders]
        for _ in range(warm):
            for process in processes:
                process.turn()
        readings: list[list[Reading]] = [[] for _ in processes]
        for _ in range(repeats):
            for process, found in zip(processes, readings, strict=True):
                found.append(process.turn())
    return readings


def once(contender: Contender) -> Reading:
    """The first reading of a contender, cold."""
    with Process(contender) as process:
        return process.turn()


def rates(readings: Sequence[Reading]) -> list[float]:
    """Work a second of each reading."""
    return [reading["work"] / reading["seconds"] for reading in readings]


def summary(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Medians and quartiles of both sides, in the words of a row."""
    return {
        "ours": timing.middle(ours),
        "theirs": timing.middle(theirs),
        "spread": {"ours": timing.spread(ours), "theirs": timing.spread(theirs)},
        "repeats": len(ours),
    }
