"""Readers and writers of files and frames: every way in ends in `from_pairs` or in row numbers as they are."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxrec import files
from jaxrec.data.interactions import DataError, Interactions, same_space
from jaxrec.data.lines import decode, read_bytes, read_lines, read_table, text_lines, write_lines
from jaxrec.data.pairs import from_pairs, seconds

StrPath = str | PathLike[str]

# The column names that are understood without being told, by role; matched without regard to case.
NAMES = {
    "user": ("user_id", "user", "userid", "uid", "reviewerid"),
    "item": ("item_id", "item", "itemid", "iid", "movie_id", "movieid", "asin", "artistid"),
    "rating": ("rating", "ratings", "score", "weight"),
    "time": ("timestamp", "time", "ts", "date"),
}
_TSV_BREAKS = frozenset("\t\r\n")
TABLES = (".csv", ".tsv", ".parquet")  # what columns are written as
SEPARATORS = {"u.data": "\t", "dat": "::", "csv": ",", "tsv": "\t", "inter": "\t"}  # between the fields of a line
FORMATS = ("lines", "u.data", "dat", "csv", "tsv", "inter", "parquet", "matrix")


def guess_format(path: StrPath) -> str:
    """The format that a file's name tells, `.gz` put aside.

    >>> guess_format("ratings.dat"), guess_format("ml-100k.inter.gz"), guess_format("train.txt")
    ('dat', 'inter', 'lines')
    """
    name = Path(path).name.removesuffix(".gz")
    if name == "u.data":
        return "u.data"
    known = {".txt": "lines", ".ascii": "matrix"} | {"." + f: f for f in FORMATS if f not in ("lines", "u.data")}
    suffix = Path(name).suffix.lower()
    if suffix not in known:
        raise DataError(f"{path}: no format is known for {suffix or 'a name without suffix'}; pass one of {FORMATS}")
    return known[suffix]


def read(
    path: StrPath,
    *,
    format: str | None = None,
    user: str | None = None,
    item: str | None = None,
    rating: str | None = None,
    time: str | None = None,
    separator: str | None = None,
    threshold: float | None = None,
) -> Interactions:
    """Reads one file, plain or gzip, in any format of `FORMATS`.

    lines: `user item item ...`, row numbers from 0. u.data: tab, no header, user item rating time.
    dat: `user::item::rating::time`. csv, tsv, inter, parquet: a header names the columns (`.inter` as `name:type`);
    columns not named by `user`, `item`, `rating`, `time` are found by their usual names, and "" in the place of the
    rating's or the time's leaves that out. matrix: rows of ratings, 0 where missing. Text in columns may have another
    `separator`. Times are numbers or ISO 8601 dates, which become seconds since 1970 (UTC where no offset is told).
    With a `threshold`, only pairs rated at least that much are interactions.

    Raises DataError, with file and line, for wrong columns (any that is named, for lines and matrix), ragged or
    non-numeric lines, negative ids, NaN ratings, empty or truncated files.
    """
    format = guess_format(path) if format is None else format
    if format not in FORMATS:
        raise DataError(f"format must be one of {FORMATS}, got {format!r}")
    source = str(path)
    if separator is not None and (format not in SEPARATORS or not separator.strip("\r\n")):
        raise DataError(f"{path}: a separator of text is for {', '.join(SEPARATORS)}, got {separator!r} for {format}")
    wanted = {"user": user, "item": item, "rating": rating, "time": time}
    named = [name for role, name in wanted.items() if name is not None and (name or role not in OPTIONAL)]
    if named and format in ("lines", "matrix"):
        raise DataError(f"{path}: there are no columns to name in {format}, got {', '.join(named)}; leave that out")
    if format == "lines":
        if threshold is not None:
            raise DataError(f"{path}: a threshold ({threshold:g}) needs ratings, and lines of items have none")
        return read_lines(path)
    if format == "matrix":
        return from_matrix(read_table(path), threshold=threshold, source=source)
    if format == "parquet":
        return _from_frame(_read_parquet(path), wanted, threshold, source, "file")
    rows = _split(path, separator or SEPARATORS[format], quotes=format == "csv")
    if format in ("u.data", "dat"):
        header = ["user_id", "item_id", "rating", "timestamp"]
    else:
        _, header = next(rows)
        if format == "inter":
            header = [name.split(":")[0] for name in header]
    lines, columns = _columns(path, rows, header)
    found = _find(header, wanted, source, "text")
    pick = {role: columns[header.index(name)] for role, name in found.items()}
    place = lambda row: f"{path}:{lines[row]}"  # noqa: E731
    for role in ("user", "item"):
        if "" in pick[role]:
            raise DataError(f"{place(pick[role].index(''))}: the {role} id is empty")
    return from_pairs(
        _ids(pick["user"]),
        _ids(pick["item"]),
        _floats(pick.get("rating"), "rating", place),
        _floats(pick.get("time"), "time", place),
        threshold=threshold,
        source=source,
    )


def _split(path: StrPath, separator: str, *, quotes: bool) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each line that is not blank."""
    text = decode(read_bytes(path), path)
    if len(separator) > 1:
        for number, line in enumerate(text_lines(text), start=1):
            if line.strip():
                yield number, line.strip().split(separator)
        return
    # A blank line at the end, which is one by itself unless a quote is open there and takes it in.
    lines = itertools.chain(io.StringIO(text, newline=""), [""])
    reader = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)
    last, began, ended = None, 0, 0
    try:
        for fields in reader:
            if last is not None:
                yield last
            last = (reader.line_num, fields) if fields else None
            began, ended = ended + 1, reader.line_num
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}") from None
    if last is not None:
        raise DataError(f"{path}:{began}: a quote that opens here is not closed before the end of the file; close it")


def _columns(
    path: StrPath, rows: Iterator[tuple[int, list[str]]], header: Sequence[str]
) -> tuple[list[int], list[Sequence[str]]]:
    lines, table = [], []
    for number, fields in rows:
        if len(fields) != len(header):
            wanted = f"{len(header)} columns ({', '.join(header)})"
            raise DataError(f"{path}:{number}: wanted {wanted}, got {len(fields)}{_hint(header)}")
        lines.append(number)
        table.append(fields)
    if not table:
        raise DataError(f"{path}: there is no interaction after the header")
    return lines, list(zip(*table, strict=True))


OPTIONAL = ("rating", "time")  # roles that an interaction need not have
NO_HEADER = "; or is there no header? Then put a first line like user,item,rating on top"


Kind = Literal["text", "file", "frame"]  # where columns are from; text may have been taken apart wrongly


def _find(header: Sequence[str], wanted: dict[str, str | None], source: str, kind: Kind) -> dict[str, str]:
    """The column of each role that is there."""
    found = {}
    hint = _hint(header) if kind == "text" else ""
    for role, name in wanted.items():
        if name == "" and role in OPTIONAL:
            continue
        if name is not None and name not in header:
            raise DataError(
                f"{source}: there is no column {name!r} for the {role}; the columns are {list(header)}{hint}"
            )
        guesses = [h for n in NAMES[role] for h in header if h.lower() == n]
        if name is None and len(guesses) > 1 and role in ("user", "item"):
            raise DataError(
                f"{source}: {' and '.join(map(repr, guesses))} both look like the {role}; name one with {role}="
            )
        if name is not None or guesses:
            found[role] = name if name is not None else guesses[0]
            if (other := next((r for r in found if r != role and found[r] == found[role]), None)) is not None:
                raise DataError(f"{source}: the {other} and the {role} can't both be column {found[role]!r}")
        elif role in ("user", "item"):
            convert = f", or with `jaxrec data convert FILE --to NEW.csv --{role} NAME`" if kind != "frame" else ""
            if kind == "text" and not any(h.lower() in names for names in NAMES.values() for h in header):
                hint = hint or NO_HEADER
            raise DataError(
                f"{source}: no column looks like the {role}; name one of {list(header)} with {role}={convert}{hint}"
            )
    return found


def _hint(header: Sequence[str]) -> str:
    """What may be wrong with a header that does not fit."""
    other = next((s for s in ";\t|, " if len(header) == 1 and s in header[0]), None)
    if other is not None:
        shown = "$'\\t'" if other == "\t" else repr(other)  # as a shell takes a tab
        return f"; or is it separated by {other!r}? Then give that, too: separator={other!r}, or --separator {shown}"
    if any(np.isfinite(_float(name)) for name in header):
        return NO_HEADER
    return ""


def _ids(values: Sequence[str]) -> np.ndarray:
    """Whole numbers where all of them are, with a sign or without, or all written as 1.0, as frames write them where a
    column had gaps."""
    pointed = all(v.endswith(".0") for v in values)
    bare = [v.removesuffix(".0") for v in values] if pointed else values
    if all(is_whole(v.removeprefix("-")) and v != "-0" for v in bare) and max(map(len, bare)) <= 18:
        return np.array(bare, np.int64)
    return np.array(values, np.str_)


def is_whole(text: str) -> bool:
    """Whether text is a whole number just as `str` writes it: 07, or 7 in another script, are ids of their own.

    >>> is_whole("7"), is_whole("07"), is_whole("\N{FULLWIDTH DIGIT SEVEN}")
    (True, False, False)
    """
    return text.isascii() and text.isdecimal() and (text == "0" or text[0] != "0")


def _floats(values: Sequence[Any] | None, what: str, place: Callable[[int], str]) -> np.ndarray | None:
    """Finite numbers; times also as dates. Otherwise a DataError that begins with the `place` of the bad value."""
    if values is None:
        return None
    try:
        found = np.array(values, np.float64)
    except (TypeError, ValueError):
        found = np.array([_float(v) for v in values])
    bad = np.flatnonzero(~np.isfinite(found))
    dates = what == "time" and len(bad) > 0 and np.isfinite(_seconds(values[bad[0]]))
    if dates:
        found = np.array([_seconds(v) for v in values])
        bad = np.flatnonzero(np.isnan(found))
    if len(bad):
        wanted = f"finite {what}" + " or an ISO 8601 date" * (what == "time")
        cure = f"repair it, or leave {what}s out: {what}='', or --{what} '' of `jaxrec data convert`"
        raise DataError(f"{place(int(bad[0]))}: wanted a {wanted}, got {values[bad[0]]!r}; {cure}")
    return found


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _seconds(value: Any) -> float:
    """Seconds since 1970 of ISO 8601 text, a date or a datetime, in UTC where it tells no offset; NaN of all else.

    >>> _seconds("1970-01-02"), _seconds("1970-01-01 01:00:00+01:00"), _seconds("soon")
    (86400.0, 0.0, nan)
    """
    try:
        found = datetime.fromisoformat(value.strip() if isinstance(value, str) else value.isoformat())
    except (AttributeError, ValueError):
        return float("nan")
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def from_matrix(ratings: Any, *, threshold: float | None = None, source: str = "the matrix") -> Interactions:
    """A matrix of ratings [U, I], 0 where missing; users and items keep their rows, with or without a rating.

    >>> from_matrix([[0, 5], [2, 0]], threshold=3).items.tolist()
    [1]
    """
    table = np.asarray(ratings)
    if table.ndim != 2 or table.dtype.kind not in "iufb":
        raise DataError(f"{source}: a matrix of numbers is wanted, got shape {table.shape} of {table.dtype}")
    users, items = np.nonzero(table)
    return from_pairs(
        users, items, table[users, items], threshold=threshold, source=source,
        user_ids=np.arange(table.shape[0]), item_ids=np.arange(table.shape[1]),
    )  # fmt: skip


def from_scipy(matrix: Any, *, threshold: float | None = None) -> Interactions:
    """Any scipy sparse matrix or array [U, I]; stored values are ratings, and stored zeros are no interactions."""
    coo = matrix.tocoo()
    keep = coo.data != 0
    return from_pairs(
        coo.row[keep].astype(np.int64), coo.col[keep].astype(np.int64), coo.data[keep], threshold=threshold,
        user_ids=np.arange(coo.shape[0]), item_ids=np.arange(coo.shape[1]), source="the sparse matrix",
    )  # fmt: skip


def from_frame(
    frame: Any,
    *,
    user: str | int | None = None,
    item: str | int | None = None,
    rating: str | int | None = None,
    time: str | int | None = None,
    threshold: float | None = None,
    source: str = "the frame",
) -> Interactions:
    """A polars or pandas frame, an arrow table, or a dict of columns; columns found, or left out, as by `read`.

    >>> from_frame({"user": [7, 7, 9], "item": ["a", "b", "a"]}).item_ids.tolist()
    ['a', 'b']
    """
    if type(frame).__name__ == "LazyFrame":
        frame = frame.collect()
    if not isinstance(frame, Mapping) and not hasattr(frame, "columns"):
        kind = type(frame).__name__
        raise DataError(f"{source}: wanted a DataFrame, an arrow table or a dict of columns, got a {kind}")
    given = {"user": user, "item": item, "rating": rating, "time": time}
    wanted = {role: None if name is None else str(name) for role, name in given.items()}  # numbers, in pandas
    return _from_frame(frame, wanted, threshold, source, "frame")


def _from_frame(
    frame: Any, wanted: dict[str, str | None], threshold: float | None, source: str, kind: Kind
) -> Interactions:
    named = frame.column_names if hasattr(frame, "column_names") else frame  # arrow tables iterate over columns
    labels = {str(name): name for name in (named.columns if hasattr(named, "columns") else named)}  # or numbers
    found = _find(list(labels), wanted, source, kind)
    pick = {role: _column(frame[labels[name]]) for role, name in found.items()}
    times = pick.get("time")
    if times is not None and times.dtype.kind in "OUT":  # text, or dates as Python's objects
        times = _floats(times.tolist(), "time", lambda row: f"{source}, row {row}")
    return from_pairs(pick["user"], pick["item"], pick.get("rating"), times, threshold=threshold, source=source)


def _column(values: Any) -> np.ndarray:
    """One column as numpy; dates become seconds since 1970, NaN where missing."""
    return seconds(values.to_numpy() if hasattr(values, "to_numpy") else values)


def _read_parquet(path: StrPath) -> Any:
    try:
        import polars
    except ImportError:
        raise DataError(f"{path}: reading parquet wants polars; pip install 'jaxrec[data]'") from None
    try:
        return polars.read_parquet(Path(path))
    except (OSError, polars.exceptions.PolarsError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from None


def write(path: StrPath, data: Interactions) -> None:
    """Writes raw ids: `.csv`, `.tsv` (`.gz` too), `.parquet`; `.txt` as lines of row numbers.

    Raises DataError where a `.tsv` would have to hold an id with a tab or a line end.
    """
    if want_writable(path, (*TABLES, ".txt")) == ".txt":
        return write_lines(path, data)
    columns: dict[str, np.ndarray] = {"user_id": data.user_ids[data.users], "item_id": data.item_ids[data.items]}
    if data.ratings is not None:
        columns["rating"] = data.ratings
    if data.times is not None:
        columns["timestamp"] = data.times
    return write_columns(path, columns)


def as_held(path: StrPath, data: Interactions) -> Interactions:
    """The pairs as a file of that name holds them; a note says what `.txt` leaves out.

    >>> as_held("x.txt", from_pairs(["a"], [7], [5.0])).notes
    ('lines hold row numbers alone: ids and ratings are left out; .csv, .tsv and .parquet have them',)
    """
    if want_writable(path, (*TABLES, ".txt")) != ".txt":
        return data
    numbered = Interactions(data.users, data.items, data.num_users, data.num_items, notes=data.notes)
    lost = [] if same_space(data, numbered) else ["ids"]
    lost += [name for name in ("ratings", "times") if getattr(data, name) is not None]
    if not lost:
        return data
    what = " and ".join([", ".join(lost[:-1]), lost[-1]] if lost[1:] else lost)
    return numbered.with_notes(f"lines hold row numbers alone: {what} are left out; .csv, .tsv and .parquet have them")


def want_writable(path: StrPath, known: Sequence[str]) -> str:
    """The suffix of a file to write, `.gz` put aside. DataError where it is not `known`, or has no folder."""
    folder = Path(path).parent
    if not folder.is_dir():
        raise DataError(f"{path}: {folder} is no folder; make it, or name another file")
    suffix = Path(Path(path).name.removesuffix(".gz")).suffix.lower()
    if suffix not in known:
        raise DataError(f"{path}: {suffix!r} can't be written; name it {', '.join(known[:-1])} or {known[-1]}")
    if suffix == ".parquet" and Path(path).suffix == ".gz":
        raise DataError(f"{path}: parquet is compressed within and takes no .gz; leave that off")
    return suffix


def write_columns(path: StrPath, columns: Mapping[str, np.ndarray]) -> None:
    """Writes equally long columns as `.parquet` (wants polars), `.csv` or `.tsv` (`.gz` too)."""
    suffix = want_writable(path, TABLES)
    if suffix == ".parquet":
        try:
            import polars
        except ImportError:
            raise DataError(f"{path}: writing parquet wants polars; pip install 'jaxrec[data]'") from None
        with files.whole(Path(path)) as partial:
            polars.DataFrame(dict(columns)).write_parquet(partial)
    else:
        out = io.StringIO()
        if suffix == ".csv":
            # Before 3.13 a line end of its own kind is the only one that Python quotes by itself.
            returns = any("\r" in v for c in columns.values() if c.dtype.kind == "U" for v in c.tolist())
            rows = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
        else:  # without quotes, as it is read
            rows = csv.writer(out, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
            for name, column in columns.items():
                odd = [v for v in column.tolist() if isinstance(v, str) and not _TSV_BREAKS.isdisjoint(v)]
                if odd:
                    raise DataError(
                        f"{path}: a .tsv can't hold tabs and line ends, but {name} {odd[0]!r} has one; write .csv or "
                        ".parquet"
                    )
        rows.writerow(columns)
        rows.writerows(zip(*(c.tolist() for c in columns.values()), strict=True))
        files.write_text(Path(path), out.getvalue())


__all__ = ["FORMATS", "from_frame", "from_matrix", "from_scipy", "guess_format", "read", "write", "write_columns"]
