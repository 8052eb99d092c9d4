"""Short reprs of records whose arrays would fill a screen: shapes, and the figures that a person looks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

MOST = 6  # entries of a mapping that are shown
WIDE = 100  # characters of a line, beyond which each part gets one of its own


def brief(record: Any, *fields: str, **figures: Any) -> str:
    """The repr of a NamedTuple or a dataclass: these fields (all where none is named), figures, names of what is left.

    >>> import numpy as np
    >>> from jaxrec.types import Tables
    >>> brief(Tables(np.ones((2, 3)), np.ones((4, 3))), "item", users=2)
    'Tables(item=float64[4, 3], users=2, and user, item_bias, bias_strength)'
    """
    names = _names(record)
    chosen = {name: getattr(record, name) for name in fields or (() if figures else names)} | figures
    parts = [f"{name}={_short(value)}" for name, value in chosen.items()]
    if left := [name for name in names if name not in chosen]:
        parts.append(f"and {', '.join(left)}")
    return _joined(type(record).__name__, parts)


def _names(record: Any) -> tuple[str, ...]:
    if dataclasses.is_dataclass(record):
        return tuple(field.name for field in dataclasses.fields(record))
    return tuple(record._fields)


def _joined(name: str, parts: list[str]) -> str:
    line = f"{name}({', '.join(parts)})"
    if len(line) <= WIDE and "\n" not in line:
        return line
    return f"{name}(" + "".join("\n    " + part.replace("\n", "\n    ") + "," for part in parts).rstrip(",") + "\n)"


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        entries = [f"{name}: {_short(found)}" for name, found in list(value.items())[:MOST]]
        return "{" + ", ".join(entries + [f"{len(value) - MOST} more"] * (len(value) > MOST)) + "}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if getattr(value, "shape", ()):
        return f"{value.dtype}{list(value.shape)}"
    return repr(value)
