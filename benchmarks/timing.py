"""Seconds of a call, and the middle and the spread of several readings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def seconds(call: Callable[[], Any]) -> float:
    """How long one call takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def fastest(call: Callable[[], Any], *, repeats: int = 5) -> float:
    """The least seconds of several calls after one to warm up: for a machine's limits, which noise only hides."""
    call()
    return min(seconds(call) for _ in range(repeats))


def middle(values: Sequence[float]) -> float:
    """The median."""
    return float(np.median(values))


def spread(values: Sequence[float]) -> list[float]:
    """The first and the third quartile.

    >>> spread([1.0, 2.0, 3.0])
    [1.5, 2.5]
    """
    return [float(q) for q in np.quantile(values, (0.25, 0.75))]
