"""Names and numbers that people give: messages about those that can't be."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a message about an unknown name, or nothing where no known one is near.

    >>> nearest("epoch", ["width", "epochs"])
    "; did you mean 'epochs'?"
    """
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def want_number(name: str, value: Any, *, least: float = -math.inf, below: float = math.inf) -> None:
    """ValueError for what is no finite number from `least`, and less than `below`; an array [] is one.

    >>> want_number("rate", -0.1, least=0.0)
    Traceback (most recent call last):
        ...
    ValueError: rate must be a finite number from 0.0, got -0.1
    """
    single = isinstance(value, numbers.Real) or getattr(value, "shape", None) == ()
    fits = single and not isinstance(value, (bool, np.bool_)) and math.isfinite(value) and least <= value < below
    if not fits:
        start = f" from {least}" if least > -math.inf else ""
        end = f" to less than {below}" if below < math.inf else ""
        raise ValueError(f"{name} must be a finite number{start}{end}, got {value!r}")


def want_seed(seed: Any) -> None:
    """ValueError for what is no whole number from 0 to less than 2**32: where JAX counts in 32 bits, as it does unless
    told otherwise, the key of a larger one is that of its lower half."""
    want_whole("seed", seed, 0)
    if operator.index(seed) >= 2**32:
        raise ValueError(f"seed must be less than 2**32, got {seed}: a larger one repeats the draws of a smaller one")


def want_whole(name: str, value: Any, least: int = 1) -> None:
    """ValueError for what is no whole number from `least`, as an array's length is.

    >>> want_whole("width", 4.0)
    Traceback (most recent call last):
        ...
    ValueError: width must be a whole number from 1, got 4.0
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number from {least}, got {value!r}")
