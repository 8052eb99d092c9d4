"""Contenders for the tests of the benchmarks: quick to start, with readings that are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.worker import need

Run = Callable[[], dict[str, float]]


def counter(options: dict[str, Any]) -> Run:
    """Claims to take `seconds` at its first turn, and as much more at each further one."""
    turn = 0

    def run() -> dict[str, float]:
        nonlocal turn
        turn += 1
        print("a library that prints")
        return {"seconds": options["seconds"] * turn, "work": 10, "steps": 5}

    return run


def missing(options: dict[str, Any]) -> Run:
    """Wants what is not installed."""
    need("no_such_package_of_anybody")
    raise AssertionError("it was found")


def broken(options: dict[str, Any]) -> Run:
    """Fails at its first turn."""

    def run() -> dict[str, float]:
        raise ArithmeticError("no such luck")

    return run
