"""`jaxrec tune`: searches settings of the base model on validation data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from jaxrec.commands import configure
from jaxrec.presets import PRESETS, Preset, Settings


@dataclasses.dataclass(frozen=True)
class Tune:
    """Search settings of the base model for the best natural NDCG on validation data; tests are not read."""

    data: tyro.conf.Positional[str]
    """A registered name (see `jaxrec data list`), a folder with train.txt and test.txt, or a file of interactions."""
    out: Path
    """The folder of the study; its best.json is for `jaxrec train --settings`."""
    preset: Preset = "softmax-mf"
    """Where the settings below get their defaults from; these are the first trial."""
    trials: int = 30
    """How many trials are to be finished in all, those of an earlier start included."""
    search: tuple[str, ...] = ()
    """Which settings to search; all of the space if left out."""
    seed: int = 0
    """Of carving, initial tables, batches and what is tried."""
    resume: bool = False
    """Go on with a study."""
    settings_file: Annotated[Path | None, tyro.conf.arg(name="settings")] = None
    """A JSON file of settings that replace the preset's."""
    settings: tyro.conf.OmitArgPrefixes[Settings] = PRESETS["softmax-mf"]


def tune(argv: Sequence[str]) -> None:
    """Parses `jaxrec tune` and runs it."""
    from jaxrec import tune as tuning

    args = configure.parse(Tune, argv, "jaxrec tune")
    configure.announce(args.settings, args.preset, data=args.data, seed=args.seed, trials=args.trials, out=args.out)
    for name, of in tuning.space(args.settings).items():
        if not args.search or name in args.search:
            print(f"  searched: {name} {_range(of)}")
    found = tuning.tune(
        args.data,
        args.settings,
        args.out,
        trials=args.trials,
        seed=args.seed,
        search=args.search,
        preset=args.preset,
        resume=args.resume,
        tell=lambda line: print(line, flush=True),
    )
    print(f"best: trial {found['trial']}, {found['metric']} {found['value']:.4f} on validation")
    print(f"jaxrec train {args.data} --settings {args.out / 'best.json'} --out RUN")


def _range(of: object) -> str:
    from jaxrec.tune import Options, Real

    if isinstance(of, Options):
        return "one of " + ", ".join(f"{value:g}" for value in of.values)
    assert isinstance(of, Real)
    return f"{of.low:g} to {of.high:g}" + (", by powers" if of.log else "")
