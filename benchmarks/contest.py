"""Contenders take turns, each warm and in a process of its own, so that what disturbs one disturbs all."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from benchmarks import timing
from benchmarks.rows import Absent
from benchmarks.worker import THREADS, Reading, accelerator

ROOT = Path(__file__).resolve().parents[1]
# The first two choose older kernels, which slows numpy's products; in the third are programs compiled before.
REMOVED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "JAX_COMPILATION_CACHE_DIR")
PATIENCE = 900.0  # seconds to wait for an answer
REST = 0.3  # seconds before a turn: pools of threads go on spinning for some time after their last work
POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Contender(NamedTuple):
    """What is measured: `module:function`, its options, and what its documentation wants in the environment."""

    call: str
    options: Mapping[str, Any] = {}
    environment: Mapping[str, str] = {}


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with the threads of every pool set, and without what would make figures others."""
    kept = {name: value for name, value in os.environ.items() if name not in REMOVED}
    path = os.pathsep.join(part for part in (str(ROOT), kept.get("PYTHONPATH")) if part)
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if accelerator() else {}  # contenders share the device's memory
    return kept | dict.fromkeys(POOLS, str(THREADS)) | shared | {"PYTHONPATH": path} | dict(extra or {})


class Process:
    """A contender's process; once `ready` and warm it waits for its turns."""

    def __init__(self, contender: Contender, *, patience: float = PATIENCE):
        command = [sys.executable, "-m", "benchmarks.worker", contender.call, json.dumps(dict(contender.options))]
        self.call, self.patience = contender.call, patience
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in `end`
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment(contender.environment),
        )

    def ready(self) -> None:
        """Waits until everything is prepared. `Absent` where what it wants is not installed."""
        if reason := self._answer().get("absent"):
            raise Absent(reason)

    def go(self) -> None:
        """Asks for a reading."""
        assert self._child.stdin is not None
        self._child.stdin.write("go\n")
        self._child.stdin.flush()

    def reading(self) -> Reading:
        """What was asked for. RuntimeError where the process ended, or did not answer within `patience` seconds."""
        found: Reading = self._answer()["reading"]
        return found

    def turn(self) -> Reading:
        """Asks for a reading and waits for it."""
        self.go()
        return self.reading()

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        ready, _, _ = select.select([self._child.stdout], [], [], self.patience)
        if not ready:
            raise RuntimeError(f"{self.call} gave no answer within {self.patience:.0f} s")
        line = self._child.stdout.readline()
        if not line:
            self._child.wait()
            self._errors.seek(0)
            raise RuntimeError(f"{self.call} ended with {self._child.returncode}: {self._errors.read()[-600:].strip()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        """Ends the process; what it still does is of no use."""
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout, self._errors):
            with suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]


class Outcome(NamedTuple):
    """What a contender did in a contest: its readings, or why there are none."""

    readings: list[Reading]
    reason: str | None = None
    failed: bool = False  # it is here, but did not work


def contest(
    contenders: Sequence[Contender], *, repeats: int, warm: int = 1, patience: float = PATIENCE
) -> list[Outcome]:
    """All prepare and warm up side by side, by `warm` turns that are thrown away; then each has `repeats` turns, one
    contender after the other, with a short rest before each.

    One that is absent or fails has no readings and a reason; the others go on.
    """
    running: dict[int, Process] = {}
    outcomes = [Outcome([]) for _ in contenders]

    def attempt(n: int, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except (Absent, RuntimeError, OSError) as problem:
            outcomes[n] = Outcome([], str(problem), not isinstance(problem, Absent))
            if n in running:
                running.pop(n).end()
            return None

    def each(action: Callable[[Process], Any]) -> dict[int, Any]:
        return {n: attempt(n, lambda p=process: action(p)) for n, process in list(running.items())}  # type: ignore[misc]

    try:
        for n, contender in enumerate(contenders):
            process = attempt(n, lambda c=contender: Process(c, patience=patience))  # type: ignore[misc]
            if process is not None:
                running[n] = process
        each(Process.ready)
        for _ in range(warm):
            each(Process.go)
            each(Process.reading)
        for _ in range(repeats):
            for n, reading in each(_rested_turn).items():
                if reading is not None:
                    outcomes[n].readings.append(reading)
    finally:
        for process in running.values():
            process.end()
    return outcomes


def _rested_turn(process: Process) -> Reading:
    time.sleep(REST)
    return process.turn()


def once(contender: Contender, *, patience: float = PATIENCE) -> Reading:
    """The first reading of a contender, cold."""
    process = Process(contender, patience=patience)
    try:
        process.ready()
        return process.turn()
    finally:
        process.end()


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
