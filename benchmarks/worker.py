"""A contender in a process of its own: `python -m benchmarks.worker MODULE:FUNCTION OPTIONS`.

The function takes the options, prepares everything, and returns a call that does the work once and gives a reading, a
dict with `seconds` and whatever else. The process answers each line of its input with one reading as JSON, so that it
stays warm while others take their turn. What libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, TextIO

THREADS = 2
DEVICES = ("/dev/nvidiactl", "/dev/accel0")  # of a GPU, of a TPU
Reading = dict[str, Any]
Run = Callable[[], Reading]


def need(module: str, how: str = "pip install -e '.[bench]'") -> Any:
    """Imports a peer. `Absent`, which says how to get it, where it is not installed."""
    from benchmarks.rows import Absent

    try:
        return import_module(module)
    except ImportError as problem:
        raise Absent(f"{module} is not installed ({problem}): {how}") from None


def accelerator() -> bool:
    """Whether this machine has a GPU or TPU that jax may use; told without starting jax."""
    allowed = os.environ.get("JAX_PLATFORMS", "") != "cpu"
    return allowed and any(os.path.exists(device) for device in DEVICES)


def pin(threads: int = THREADS) -> None:
    """Keeps this process, and every pool of threads it will start, on so many cores; not where those only feed a
    device."""
    if hasattr(os, "sched_setaffinity") and not accelerator():
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def bound_memory(share: float = 0.8) -> None:
    """Lets this process fail, rather than the machine, where it asks for more than a share of the memory.

    Not with an accelerator, whose driver reserves addresses far beyond the memory.
    """
    if accelerator():
        return
    try:
        import resource

        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (int(share * total), resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, AttributeError, ValueError, OSError):  # not every system has such limits
        return


def prepare(contender: str, options: dict[str, Any]) -> Run:
    """Finds MODULE:FUNCTION and calls it with the options."""
    module, _, function = contender.partition(":")
    run: Run = getattr(import_module(module), function)(options)
    return run


def serve(run: Run, requests: TextIO, answers: TextIO) -> None:
    """Answers each line with a reading, until the input ends."""
    for _ in requests:
        _say(answers, {"reading": run()})


def _say(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def main(contender: str, options: str) -> None:
    """Prepares the contender, says that it is ready or what is absent, and serves."""
    from benchmarks.rows import Absent

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints must not be read as a reading
    pin()
    bound_memory()
    try:
        run = prepare(contender, json.loads(options))
    except Absent as problem:
        _say(answers, {"absent": str(problem)})
        return
    _say(answers, {"ready": True})
    serve(run, sys.stdin, answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
