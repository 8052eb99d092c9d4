"""The command line: `jaxrec demo | data | train | tune | evaluate | adjust | recommend | report | doctor`."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxrec import __version__
from jaxrec.commands import configure
from jaxrec.commands.adjust import adjust
from jaxrec.commands.recommend import recommend
from jaxrec.names import nearest
from jaxrec.presets import PRESETS, Preset, Settings

if TYPE_CHECKING:
    from jaxrec.report.compare import Paired


@dataclasses.dataclass(frozen=True)
class Train:
    """Train, select strengths on validation data, refit on all training data, and test once."""

    data: tyro.conf.Positional[str]
    """A registered name (see `jaxrec data list`), a folder with train.txt and test.txt, or a file of interactions."""
    out: Path
    """The RUN folder to write."""
    preset: Preset = "softmax-mf"
    """Where the settings below get their defaults from."""
    seed: int = 0
    """Of carving, initial tables, batches and the points tried."""
    selected: Path | None = None
    """Another RUN of the same data and settings, whose selected strengths and epochs are used."""
    resume: bool = False
    """Go on with an interrupted run."""
    track: tuple[Literal["tensorboard"], ...] = ()
    """What follows the run beside history.jsonl; tensorboard writes RUN/tensorboard."""
    settings_file: Annotated[Path | None, tyro.conf.arg(name="settings")] = None
    """A JSON file of settings that replace the preset's, like best.json of `jaxrec tune`."""
    settings: tyro.conf.OmitArgPrefixes[Settings] = PRESETS["softmax-mf"]


def train(argv: Sequence[str]) -> None:
    """Parses `jaxrec train` and runs it; defaults come from the preset or the file of settings."""
    from jaxrec.track import TRACKERS

    args = configure.parse(Train, argv, "jaxrec train")
    more = {"selected": args.selected, "resume": args.resume}
    trackers = [TRACKERS[name](args.out) for name in args.track]
    _run(args.data, args.settings, args.out, preset=args.preset, seed=args.seed, trackers=trackers, **more)


def _run(data: str, settings: Settings, out: Path, *, preset: str, seed: int, **more: Any) -> None:
    from jaxrec import pipeline
    from jaxrec.report import write_report

    configure.announce(settings, preset, data=data, seed=seed, out=out)
    found = pipeline.train(data, settings, out, preset=preset, seed=seed, progress=sys.stderr.isatty(), **more)
    page = write_report(out)
    _print_tests(found["tests"], found["settings"]["k"])
    chosen = ", ".join(f"{name} {value:.3g}" for name, value in found["selected"].items())
    print(f"strengths selected on validation: {chosen}")
    _print_notes(found["notes"])
    print(f"{sum(found['seconds'].values()):.0f} s; numbers in {out / 'metrics.json'}, figures in {page}")


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"note: {note}")


def _tune(argv: Sequence[str]) -> None:
    from jaxrec.commands.tune import tune

    tune(argv)


def _print_tests(tests: dict[str, dict[str, dict[str, float]]], k: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from jaxrec.report.words import cut_off

    table = Table(box=None, pad_edge=False)
    k = min((cut_off(arms, k) for arms in tests.values()), default=k)
    names = [f"{n}@{k}" for n in ("recall", "ndcg", "tail_recall", "arp", "coverage")]
    for column in ("test", "arm"):
        table.add_column(column)
    for name in names:
        table.add_column(name, justify="right")
    for test, arms in tests.items():
        for arm, values in arms.items():
            forms = [".1f" if name.startswith("arp") else ".4f" for name in names]
            cells = [f"{values[n]:{form}}" if n in values else "–" for n, form in zip(names, forms, strict=True)]
            table.add_row(test, arm, *cells)
    Console(width=110 if not sys.stdout.isatty() else None).print(table)


def _print_pairs(found: Paired) -> None:
    from rich.console import Console
    from rich.table import Table

    from jaxrec.report.markup import chance

    table = Table(title=f"each run − {found.first}, paired by user", title_justify="left", box=None, pad_edge=False)
    for column in ("test", "run", "arm", "metric"):
        table.add_column(column)
    for column in ("difference, 95 % interval", "paired p", f"p, Holm over {len(found.rows)}"):
        table.add_column(column, justify="right")
    for row in found.rows:
        table.add_row(*row[:4], row.difference, chance(row.found.p), chance(row.holm))
    console = Console(width=110 if not sys.stdout.isatty() else None, markup=False)
    if found.rows:
        console.print(table)
    for note in found.notes:
        console.print(note)


def demo(out: Path = Path("runs/demo"), seed: int = 0, data: str = "ml-100k") -> None:
    """The main job on real data in a minute or two: MovieLens-100K, a table, and RUN/report.html.

    Args:
        out: The RUN folder to write; in runs/demo the run of an earlier demo is replaced, and no other.
        seed: Of everything random.
        data: A smaller or larger data set, if you like.
    """
    import shutil

    from jaxrec import pipeline, runs
    from jaxrec.data import registry

    preset, settings = "softmax-mf", dataclasses.replace(PRESETS["softmax-mf"], epochs=40, budget=64)
    pipeline.carve(settings, registry.load(data).split, seed=seed)  # what is refused costs nothing
    if out == Path("runs/demo") and (out / "settings.json").exists():
        before = runs.read_json(out / "settings.json")
        if before | {"preset": preset, "settings": dataclasses.asdict(settings)} != before:
            raise FileExistsError(f"{out} holds a run that is of no demo; choose another --out, or move it elsewhere")
        shutil.rmtree(out)
    _run(data, settings, out, preset=preset, seed=seed)


def data_list() -> None:
    """The registered data sets, and where each is on this machine."""
    from jaxrec.data import registry

    for name, recipe in registry.REGISTRY.items():
        try:
            where = str(registry.find(name, fetch=False) or "generated")
        except registry.DataError:
            where = "can be fetched" if recipe.fetch else "not here"
        print(f"{name:17} {recipe.summary}\n{'':17} {recipe.source}\n{'':17} {where}")


def data_describe(data: tyro.conf.Positional[str]) -> None:
    """Counts, popularity and notes of a data set, a folder or a file.

    Args:
        data: A registered name, a folder or a file.
    """
    import numpy as np

    from jaxrec.data import registry
    from jaxrec.metrics.popularity import tail_items

    split = registry.load(data).split
    for name, part in [("train", split.train), *split.tests.items()]:
        print(f"{name:10} {part!r}")
    counts = split.train.item_counts
    low, middle, high = np.quantile(counts, [0.25, 0.5, 0.75])
    print(f"popularity quartiles {low:.0f}, {middle:.0f}, {high:.0f}, largest {counts.max()}; ", end="")
    print(f"{100 * (1 - tail_items(counts).mean()):.1f} % of the items hold 80 % of the interactions")
    _print_notes(split.notes)


def data_fetch(data: tyro.conf.Positional[str]) -> None:
    """Fetches a registered data set into the cache, where its publisher allows that.

    Args:
        data: A registered name.
    """
    from jaxrec.data import registry

    print(registry.find(data) or f"{data} is generated, nothing to fetch")


def data_convert(
    file: tyro.conf.Positional[Path],
    to: Path,
    format: str | None = None,
    user: str | None = None,
    item: str | None = None,
    rating: str | None = None,
    time: str | None = None,
    separator: str | None = None,
    threshold: float | None = None,
    k_core: int | None = None,
) -> None:
    """Reads a file of interactions in any known format, and writes it in another, which must not exist yet.

    Args:
        file: What to read.
        to: What to write, .parquet, .csv, .tsv (.gz too), or .txt, which holds row numbers alone; or only a format's
            name, for a file beside the first.
        format: The format of FILE, where its name does not tell.
        user: The column of users, where its name is no usual one.
        item: The column of items.
        rating: The column of ratings.
        time: The column of times, numbers or ISO 8601 dates.
        separator: What is between the columns of FILE, like ";", where that is not as usual in its format.
        threshold: Only pairs rated at least this much.
        k_core: Keep users and items with at least this many pairs.
    """
    from jaxrec import data, files
    from jaxrec.data import formats

    if str(to) in ("parquet", "csv", "tsv", "txt"):
        to = file.with_name(f"{file.name.removesuffix('.gz').rsplit('.', 1)[0]}.{to}")
    files.want_another(to, file)
    if to.exists():
        raise FileExistsError(f"{to} is there already; name another --to, or remove it")
    columns = {"user": user, "item": item, "rating": rating, "time": time}
    pairs = data.read(file, format=format, **columns, separator=separator, threshold=threshold)
    if k_core is not None:
        pairs = data.k_core(pairs, k_core)
    pairs = formats.as_held(to, pairs)
    data.write(to, pairs)
    print(f"{to}: {pairs!r}")
    _print_notes(pairs.notes)


def evaluate(run: tyro.conf.Positional[Path], adjust: str | None = None, k: tuple[int, ...] = ()) -> None:
    """Ranks a run's tables again and prints their metrics on its tests.

    Args:
        run: A finished RUN folder.
        adjust: Strengths to use instead of the selected ones, like "direction=1.0,magnitude=0.3"; exposure and pull for
            a run by exposure.
        k: Cut-offs; 10, 20 and 50 if left out, as far as the catalogue goes.
    """
    from jaxrec import pipeline, runs
    from jaxrec.commands.recommend import corrected, strengths_in

    found, split = runs.read_metrics(run), runs.load_split(run)
    k = k or tuple(c for c in pipeline.KS if c <= split.train.num_items) or (found["settings"]["k"],)
    if max(k) > split.train.num_items:
        raise ValueError(f"k={max(k)} is larger than the catalogue of {split.train.num_items} items")
    saved = runs.load_tables(run)
    plain = saved.plain
    arms = {"plain": plain, "adjusted": saved.adjusted}
    if adjust is not None:
        strengths = strengths_in(adjust)
        arms["adjusted"] = corrected(run, plain, runs.load_ledger(run), split.train, strengths)
    results = {name: pipeline.evaluate(tables, split, ks=k) for name, tables in arms.items()}
    for cut in k:
        _print_tests({t: {a: r[t].summary for a, r in results.items()} for t in split.tests}, cut)


def report(runs: tyro.conf.Positional[tuple[Path, ...]], out: Path | None = None) -> None:
    """Writes RUN/report.html of each run; of several runs also a page that compares them, and prints their tests and
    how far each differs from the first, paired by user.

    Args:
        runs: Finished RUN folders.
        out: The page that compares several runs; compare.html beside the first one if left out.
    """
    from jaxrec.report import paired, run_names, want_page, write_comparison, write_report
    from jaxrec.runs import read_metrics

    if not runs:
        raise ValueError("report wants at least one RUN folder")
    if out is not None and len(runs) == 1:
        raise ValueError("--out is for the page that compares several runs; the page of one run is RUN/report.html")
    if out is not None:
        want_page(out, [run for run in runs if run.is_dir()])
    pages = [write_report(run) for run in runs]
    if len(runs) > 1:
        tests: dict[str, dict[str, dict[str, float]]] = {}
        for name, run in zip(run_names(runs), runs, strict=True):
            for test, arms in read_metrics(run).get("tests", {}).items():
                tests.setdefault(test, {}).update({f"{name}: {arm}": values for arm, values in arms.items()})
        _print_tests(tests, read_metrics(runs[0])["settings"]["k"])
        _print_pairs(paired(runs))
        pages.append(write_comparison(runs, out))
    for page in pages:
        print(page)


def doctor() -> None:
    """Checks this installation: versions, devices, data, and a ledger against its identity on a tiny model."""
    from importlib.metadata import version

    import jax

    from jaxrec import testing
    from jaxrec.data import registry

    for name in ("jaxrec", "jax", "jaxlib", "optax", "flax", "chex", "numpy", "scipy", "orbax-checkpoint"):
        print(f"{name:17} {version(name)}")
    print(f"{'devices':17} {', '.join(str(d) for d in jax.devices())}")
    if jax.default_backend() == "gpu" and version("jax") in ("0.10.2", "0.11.0"):
        print("warning: this version of jax compiles scatter-adds badly on GPUs; install 'jaxrec[cuda12]' or [cuda13]")
    print(f"{'data cache':17} {registry.cache_folder()}")
    error = testing.ledger_identity_error()
    print(f"{'ledger identity':17} relative error {error:.1e}")
    if error > 1e-4:
        raise RuntimeError(f"the ledger's identity holds to {error:.1e} only, wanted 1e-4: arithmetic is off here")
    print("all is well")


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "evaluate": evaluate,
    "adjust": adjust,
    "recommend": recommend,
    "report": report,
    "doctor": doctor,
}
OWN: dict[str, Callable[[Sequence[str]], None]] = {"train": train, "tune": _tune}  # they parse their arguments
DATA: dict[str, Callable[..., Any]] = {
    "list": data_list,
    "describe": data_describe,
    "fetch": data_fetch,
    "convert": data_convert,
}
USAGE = """usage: jaxrec COMMAND [options]

  demo                          the main job on real data: a table and a report, in minutes
  data list|describe|fetch|convert
  train D --preset NAME --out RUN
  tune D --preset NAME --trials N --out DIR
  evaluate RUN [--adjust "direction=1.0,magnitude=0.3"] [--k 10 20 50]
  adjust --user U.npy --item V.npy --interactions FILE [--valid FILE] --out DIR
  recommend RUN|DIR -k 10 --out recs.parquet [--histories FILE]
  report RUN... [--out compare.html]
  doctor

`jaxrec COMMAND --help` tells more, `jaxrec --version` which version this is."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; the exit code is 0 only where it did what was asked."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _dispatch(args)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # who reads the output, like `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that nothing is flushed there at exit
        return 141
    except KeyboardInterrupt as stop:
        print(f"jaxrec: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, MemoryError, ImportError) as error:
        print(f"jaxrec: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if args else 2
    if args[0] == "--version":
        print(f"jaxrec {__version__}")
        return 0
    name, rest = args[0], args[1:]
    if name in OWN:
        OWN[name](rest)
    elif name == "data":
        tyro.extras.subcommand_cli_from_dict(DATA, args=rest, prog="jaxrec data")
    elif name in COMMANDS:
        tyro.cli(COMMANDS[name], args=rest, prog=f"jaxrec {name}")
    else:
        hint = nearest(name, [*COMMANDS, *OWN, "data"])
        print(f"jaxrec: no command {name!r}{hint}\n\n{USAGE}", file=sys.stderr)
        return 2
    return 0
