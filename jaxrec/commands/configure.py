"""Where a command's settings come from: the preset, then a file, then options; and how they are printed."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from jaxrec.names import nearest
from jaxrec.presets import PRESETS, Settings, override, read_settings

Args = TypeVar("Args")


def defaults(argv: Sequence[str]) -> tuple[str, Settings]:
    """The preset's name and the settings that options start from: of `--preset`, changed by the file of `--settings`.

    A file that names its preset counts as `--preset` where that is not given. ValueError for an unknown preset or an
    unknown setting, with the nearest name.
    """
    file = _option(argv, "--settings")
    changes, of_file = ({}, None) if file is None else read_settings(file)
    preset = _option(argv, "--preset") or of_file or "softmax-mf"
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}{nearest(preset, PRESETS)} (there is {', '.join(PRESETS)})")
    rule = _option(argv, "--select")
    if rule is not None and "max_loss" in changes:  # which is read with one of the rules only
        changes = {"select": rule} | changes
    return preset, override(PRESETS[preset], changes, source=str(file))


def parse(command: type[Args], argv: Sequence[str], prog: str) -> Args:
    """The arguments of a command that has data, out, preset and settings, whose defaults are `defaults(argv)`."""
    preset, settings = defaults(argv)
    make: Callable[..., Args] = command
    default = make(data=tyro.MISSING, out=tyro.MISSING, preset=preset, settings=settings)
    return tyro.cli(command, args=list(argv), default=default, prog=prog)


def _option(argv: Sequence[str], name: str) -> str | None:
    """The value of an option: the last one where it is given several times, as for all other options."""
    found = None
    for n, word in enumerate(argv):
        if word == name and n + 1 < len(argv):
            found = argv[n + 1]
        if word.startswith(name + "="):
            found = word.partition("=")[2]
    return found


def announce(settings: Settings, preset: str, **facts: object) -> None:
    """Prints what a run is about to do: the facts, every setting, and which of them are not the preset's."""
    print(", ".join(f"{name} {value}" for name, value in {**facts, "preset": preset}.items()))
    base = dataclasses.asdict(PRESETS[preset]) if preset in PRESETS else {}
    values = dataclasses.asdict(settings)
    words = [f"{name}={value}".replace(" ", "") for name, value in values.items()]
    print(_lines(" ".join(words)))
    changed = [f"{name}={value} (not {base[name]})" for name, value in values.items() if base and base[name] != value]
    if changed:
        print(_lines("not as in the preset: " + ", ".join(changed)), flush=True)


def _lines(text: str) -> str:
    return textwrap.fill(text, 110, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
