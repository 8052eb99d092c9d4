"""Data sets by name: where they come from, how they are read, what their tests measure; and folders of one's own.

A name is looked for under $JAXREC_DATA, then in the cache, then fetched where its publisher allows it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxrec.data import formats, splits
from jaxrec.data.download import FetchError, download, download_wheel, extract
from jaxrec.data.interactions import DataError, Interactions, Split, union
from jaxrec.data.lines import read_bytes, read_lines_together, read_table
from jaxrec.data.pairs import from_pairs
from jaxrec.data.synthetic import synthetic
from jaxrec.names import nearest

_SUFFIXES = (".gz", ".txt", ".dat", ".data", ".inter", ".csv", ".ascii")  # of the files that hold data
GROUPLENS = "https://files.grouplens.org/datasets/movielens/"


@dataclass(frozen=True)
class Recipe:
    """How to make a split of a registered data set out of its folder."""

    summary: str
    source: str
    read: Callable[[Path], Split]
    folder: str | None = None  # None: needs no files
    fetch: Callable[[Path], None] | None = None
    names: Callable[[Path], dict[str, str]] | None = None  # raw item id -> what a person calls it


@dataclass(frozen=True)
class Dataset:
    """A split with tests named by what they measure (`natural`, `unbiased`; `test` for a folder), and item names."""

    name: str
    split: Split
    item_names: np.ndarray | None = None  # [I] text


def _given(kind: str) -> Callable[[Path], Split]:
    def read(folder: Path) -> Split:
        train, test = read_lines_together([_file(folder, "train.txt"), _file(folder, "test.txt")])
        return splits.given(train, {kind: test}, (*train.notes, *test.notes))

    return read


def _gowalla_both(folder: Path) -> Split:
    train, test = read_lines_together([_file(folder, "train.txt"), _file(folder, "test.txt")])
    return splits.five_way(union(train, test), seed=0, per_item=3)


def _both_tests(read: Callable[[Path], Interactions]) -> Callable[[Path], Split]:
    return lambda folder: splits.five_way(read(folder), seed=0)


def _ml_1m(folder: Path) -> Interactions:
    path = _file(folder, "ratings.dat", "fold1.csv")
    if path.name.startswith("ratings.dat"):
        return formats.read(path)
    table = np.concatenate([read_table(_file(folder, f"fold{n}.csv"), columns=3, separator=",") for n in range(1, 6)])
    return from_pairs(table[:, 0], table[:, 1], table[:, 2], source=str(folder))


def _ml_100k(folder: Path) -> Interactions:
    return formats.read(_file(folder, "u.data", "ml-100k.inter"))


def _ml_100k_names(folder: Path) -> dict[str, str]:
    path = _file(folder, "u.item", "ml-100k.item")
    if path.name.startswith("u.item"):
        lines = read_bytes(path).decode("latin-1").splitlines()
        return {line.split("|")[0]: line.split("|")[1] for line in lines}
    rows = [line.split("\t") for line in read_bytes(path).decode().splitlines()[1:]]
    return {row[0]: f"{row[1]} ({row[2]})" for row in rows}


def _coat(folder: Path) -> Split:
    """Ratings of 4 and 5 are interactions; the test was rated on items shown at random."""
    train, test = (
        formats.from_matrix(read_table(_file(folder, f"{part}.ascii")), threshold=4, source=f"{folder}, {part}")
        for part in ("train", "test")
    )
    return splits.given(train, {"unbiased": test}, (*train.notes, *test.notes))


def _lastfm_both(folder: Path) -> Split:
    given = _lastfm(folder)
    return splits.five_way(union(given.train, given.tests["natural"]), seed=0)


def _lastfm(folder: Path) -> Split:
    # Counts are written like 3.2466e+05, so these are no tables of whole numbers.
    tables = [np.loadtxt(_file(folder, f"{name}.txt"), ndmin=2) - [1, 1, 0] for name in ("data1", "test1")]
    users, items = (np.arange(max(int(t[:, column].max()) for t in tables) + 1) for column in (0, 1))
    train, test = (
        from_pairs(t[:, 0], t[:, 1], t[:, 2], user_ids=users, item_ids=items, source=str(folder)) for t in tables
    )
    return splits.given(train, {"natural": test}, (*train.notes, *test.notes))


def _fetch_ml_100k(folder: Path) -> None:
    """From the publisher; where only a package index can be reached, from a wheel that carries the same ratings."""
    try:
        archive = download(
            [GROUPLENS + "ml-100k.zip"],
            folder,
            "ml-100k.zip",
            "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        )
        members = {
            "ml-100k/u.item": ("u.item", "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701"),
            "ml-100k/u.data": ("u.data", "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"),
        }
    except FetchError as problem:
        try:
            archive = download_wheel("recbole==1.2.1", folder)
        except FetchError as second:
            raise FetchError(f"{problem}; {second}") from None
        at = "recbole/dataset_example/ml-100k/ml-100k."
        members = {
            at + "item": ("ml-100k.item", "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532"),
            at + "inter": ("ml-100k.inter", "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"),
        }
    extract(archive, members, folder)


def _fetch_ml_1m(folder: Path) -> None:
    sha256 = "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"
    archive = download([GROUPLENS + "ml-1m.zip"], folder, "ml-1m.zip", sha256)
    ratings = "506d64ca44484487c11dc2d9a28de5c54948213e6b96285e298afe28d6ea4e0f"
    extract(archive, {"ml-1m/ratings.dat": ("ratings.dat", ratings)}, folder)


_MACR = "the split of Wei et al. 2021, arXiv 2010.15363"
REGISTRY: dict[str, Recipe] = {
    "adressa-macr": Recipe(
        "news clicks, 13,485 x 744; given unbiased test, 4 an item", _MACR, _given("unbiased"), "adressa-macr"
    ),
    "gowalla-macr": Recipe(
        "check-ins, 29,858 x 40,981; given unbiased test, 5 an item", _MACR, _given("unbiased"), "gowalla-macr"
    ),
    "gowalla-lightgcn": Recipe(
        "check-ins, 29,858 x 40,981; given natural test",
        "the split of Wang et al. 2019, arXiv 1905.08108, and He et al. 2020, arXiv 2002.02126",
        _given("natural"),
        "gowalla-lightgcn",
    ),
    "gowalla-both": Recipe(
        "all interactions of gowalla-macr, split anew: one training set, natural and unbiased tests",
        _MACR + ", joined and split by this library (seed 0)",
        _gowalla_both,
        "gowalla-macr",
    ),
    "ml-1m": Recipe(
        "MovieLens-1M, 6,040 x 3,706, any rating; natural and unbiased tests of our own (seed 0)",
        "Harper and Konstan 2015, doi:10.1145/2827872",
        _both_tests(_ml_1m),
        "ml-1m",
        _fetch_ml_1m,
    ),
    "ml-100k": Recipe(
        "MovieLens-100K, 943 x 1,682, any rating; natural and unbiased tests of our own (seed 0)",
        "Harper and Konstan 2015, doi:10.1145/2827872",
        _both_tests(_ml_100k),
        "ml-100k",
        _fetch_ml_100k,
        _ml_100k_names,
    ),
    "ml-100k-temporal": Recipe(
        "MovieLens-100K; the natural test is each user's last 10, the unbiased one drawn from before (seed 0)",
        "Harper and Konstan 2015, doi:10.1145/2827872",
        lambda folder: splits.five_way(_ml_100k(folder), seed=0, last=10),
        "ml-100k",
        _fetch_ml_100k,
        _ml_100k_names,
    ),
    "coat": Recipe(
        "coats, 290 x 300, rated 4 or 5; self-selected train, random-exposure test",
        "Schnabel et al. 2016, arXiv 1602.05352",
        _coat,
        "coat",
    ),
    "lastfm-lightgcn": Recipe(
        "listening, 1,880 x 4,489; given natural test",
        "the split of He et al. 2020, arXiv 2002.02126",
        _lastfm,
        "lastfm-lightgcn",
    ),
    "lastfm-both": Recipe(
        "all interactions of lastfm-lightgcn, split anew: one training set, natural and unbiased tests",
        "the files of He et al. 2020, arXiv 2002.02126, joined and split by this library (seed 0)",
        _lastfm_both,
        "lastfm-lightgcn",
    ),
    "synthetic": Recipe(
        "800 x 500, known preferences and exposure; natural and unbiased tests (seed 0)",
        "generated by this library",
        lambda folder: synthetic(seed=0).split,
    ),
}


def cache_folder() -> Path:
    """Where fetched data is kept: $JAXREC_CACHE, or the system's cache folder."""
    import pooch

    return Path(os.environ.get("JAXREC_CACHE") or pooch.os_cache("jaxrec"))


def find(name: str, *, fetch: bool = True) -> Path | None:
    """The folder of a registered data set, fetched if need be and possible; None where it needs none.

    Raises DataError where it is nowhere, with what to do.
    """
    recipe = _recipe(name)
    if recipe.folder is None:
        return None
    roots = [Path(os.environ["JAXREC_DATA"])] if os.environ.get("JAXREC_DATA") else []
    cached = cache_folder() / recipe.folder
    for folder in [root / recipe.folder for root in roots] + [cached]:
        if folder.is_dir() and any(f.suffix in _SUFFIXES for f in folder.iterdir()):
            return folder
    if fetch and recipe.fetch is not None:
        cached.mkdir(parents=True, exist_ok=True)
        recipe.fetch(cached)
        return cached
    how = f"`jaxrec data fetch {name}`" if recipe.fetch else f"get {recipe.source}, and put its files"
    raise DataError(
        f"{name} is not on this machine: {how} into {cached}"
        + (", or set JAXREC_DATA to the folder that holds " + recipe.folder)
    )


def load(data: str | Path | Dataset) -> Dataset:
    """A registered name, or a folder holding train.txt and test.txt (plain or gzip), or one file of interactions.

    Given tests keep their kind as name; a folder's test is called `test`; a file is split into natural and unbiased
    tests (seed 0). A `Dataset`, a split of your own with a name, comes back as it is. Raises DataError for an unknown
    name, TypeError for a split without a name.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, Split):
        raise TypeError("a split wants a name here: give data.Dataset('mine', split)")
    if isinstance(data, str) and data in REGISTRY:
        recipe = REGISTRY[data]
        folder = find(data) or Path()  # of a set that is generated nothing is read
        split = recipe.read(folder)
        names = None
        if recipe.names is not None:
            known = recipe.names(folder)
            names = np.array([known.get(str(i), f"item {i}") for i in split.train.item_ids])
        return Dataset(data, split, names)
    path = Path(data)
    if path.is_dir():
        split = _given("test")(path)
        return Dataset(path.resolve().name, split)
    if path.is_file():
        return Dataset(path.name, splits.five_way(formats.read(path), seed=0))
    raise _unknown(data)


def files(data: str | Path) -> list[Path]:
    """The files that are there of a registered name, a folder or a file that `load` reads."""
    try:
        path = find(data, fetch=False) if isinstance(data, str) and data in REGISTRY else Path(data)
    except DataError:  # not on this machine
        return []
    if path is None:
        return []
    return sorted(path.iterdir()) if path.is_dir() else [path]


def _recipe(name: str) -> Recipe:
    if name in REGISTRY:
        return REGISTRY[name]
    raise _unknown(name)


def _unknown(data: str | Path) -> DataError:
    hint = nearest(data, REGISTRY) if isinstance(data, str) else ""
    return DataError(
        f"{str(data)!r} is no registered data set, file or folder{hint} "
        f"(registered: {', '.join(REGISTRY)}; a folder holds train.txt and test.txt, plain or .gz)"
    )


def _file(folder: Path, *names: str) -> Path:
    """The first of the files that is there, plain or gzip."""
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.exists():
                return path
    raise DataError(f"{folder} holds no {' and no '.join(names)}, plain or .gz; put such a file there")


__all__ = ["REGISTRY", "Dataset", "Recipe", "cache_folder", "files", "find", "load"]
