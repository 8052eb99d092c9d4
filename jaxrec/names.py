"""Names that people type: the nearest known one, for error messages."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a message about an unknown name, or nothing where no known one is near.

    >>> nearest("epoch", ["width", "epochs"])
    "; did you mean 'epochs'?"
    """
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
