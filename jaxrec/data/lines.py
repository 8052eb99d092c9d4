"""Whitespace files of whole numbers, plain or gzip: LightGCN/MACR lines, triples and matrices.

The line format, one user a line, both ids row numbers from 0:

    user item item ...
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrec import files
from jaxrec.data.interactions import MAX_ROW, DataError, Interactions
from jaxrec.data.pairs import merge_rows

_BLANK = b" \t\r\n\v\f"
TRIPLES = (
    "every line has three numbers and users repeat, like user item rating; each line was read as a user and two items: "
    "if the last one is a rating, put a line `user item rating` on top, and convert the file with --format csv "
    "--separator ' '"
)
_MAX_DIGITS = 18  # what surely fits int64


class _Numbers(NamedTuple):
    values: np.ndarray  # [N] int64, all numbers of the file in order
    lines: np.ndarray  # [L] number of each line that is not blank, from 1
    widths: np.ndarray  # [L] numbers on it, >= 1


def read_lines(path: str | PathLike[str]) -> Interactions:
    """Reads one file of LightGCN/MACR lines (Wang et al. 2019, arXiv 1905.08108); `.gz` is decompressed.

    A user line without items is legal and counted in the notes; so are repeated pairs, which are merged. Where the
    lines look like triples of user, item and rating, a note says so.

    Raises:
        DataError: naming file and line, where a token is no whole number or an id is negative or huge;
            or the file is missing, empty or truncated.
    """
    (data,) = read_lines_together([path])
    return data


def read_lines_together(paths: Sequence[str | PathLike[str]]) -> list[Interactions]:
    """Reads several files of lines into one id space, the largest id of all of them + 1."""
    parts = []
    for path in paths:
        numbers = _read_numbers(path)
        _check_ids(numbers, path)
        first = np.cumsum(numbers.widths) - numbers.widths
        is_item = np.ones(len(numbers.values), bool)
        is_item[first] = False
        users, items = numbers.values[first], numbers.values[is_item]
        if not items.size:
            raise DataError(f"{path}: wanted `user item item ...` lines, got {len(users)} users and no items")
        parts.append((Path(path).name, np.repeat(users, numbers.widths - 1), items, users, numbers.widths))
    num_users = max(int(lines.max()) for _, _, _, lines, _ in parts) + 1
    num_items = max(int(items.max()) for _, _, items, _, _ in parts) + 1
    read = []
    for name, users, items, lines, widths in parts:
        (rows, columns, _, _), merged = merge_rows(users, items, None, None, num_items=num_items)
        data = Interactions(rows, columns, num_users, num_items)
        alone = int(np.count_nonzero(widths == 1))
        notes = [f"{name}: {alone} user lines without items"] if alone else []
        notes += [f"{name}: {merged:,} repeated pairs merged"] if merged else []
        notes += [f"{name}: {TRIPLES}"] if (widths == 3).all() and len(np.unique(lines)) < len(lines) else []
        read.append(data.with_notes(*notes))
    return read


def write_lines(path: str | PathLike[str], data: Interactions) -> None:
    """Writes row numbers as `user item item ...`, every user a line, items ascending; gzip where `.gz`.

    Reading the file gives the same pairs and users; items after the last one that occurs are not in it.
    """
    indptr, items = data.csr()
    words = [str(item) for item in items.tolist()]
    ends = indptr.tolist()
    lines = (" ".join([str(u), *words[ends[u] : ends[u + 1]]]) for u in range(data.num_users))
    files.write_text(Path(path), "\n".join(lines) + "\n")


def read_table(path: str | PathLike[str], *, columns: int | None = None, separator: str = " ") -> np.ndarray:
    """A table of whole numbers, [rows, columns] int64: triples, matrices of ratings, csv without a header.

    Raises:
        DataError: naming file and line, where a line is longer or shorter than the others (or `columns`).
    """
    numbers = _read_numbers(path, separator)
    wanted = int(numbers.widths[0]) if columns is None else columns
    ragged = np.flatnonzero(numbers.widths != wanted)
    if ragged.size:
        line, got = numbers.lines[ragged[0]], numbers.widths[ragged[0]]
        raise DataError(f"{path}:{line}: wanted {wanted} columns, got {got}; {ragged.size} such lines")
    return numbers.values.reshape(-1, wanted)


def read_bytes(path: str | PathLike[str]) -> bytes:
    """The content of a file, decompressed where it starts as gzip does, whatever it is called.

    Raises:
        DataError: no such file, an empty one, or a gzip file that is truncated or corrupt.
    """
    try:
        content = Path(path).read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:  # gzip.BadGzipFile is one
        raise DataError(f"{path}: cannot be read ({error})") from None
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: truncated or corrupt gzip file ({error}); fetch it again") from None
    if not content.removeprefix(codecs.BOM_UTF8).strip():
        raise DataError(f"{path}: the file is empty")
    return content


def decode(content: bytes, path: str | PathLike[str]) -> str:
    """The text of a file, UTF-8 with or without a byte order mark. DataError, naming it, for another encoding."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error}); convert the file first") from None


def text_lines(text: str) -> list[str]:
    r"""The lines of a text, which end in LF, CR LF or CR and nothing else: other breaks may be part of an id.

    >>> text_lines("a\u2028b\r\nc\n")
    ['a\u2028b', 'c']
    """
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n") if text else []


def _read_numbers(path: str | PathLike[str], separator: str = " ") -> _Numbers:
    content = read_bytes(path).removeprefix(codecs.BOM_UTF8)
    content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")  # lines may end in CR alone
    if separator.strip():
        content = content.replace(separator.encode(), b" ")
    if content.translate(None, b"0123456789" + _BLANK):
        _refuse(content, path)
    text = np.frombuffer(content, np.uint8)
    digit = text > 32  # all blanks are below, all digits above
    starts = np.flatnonzero(digit & ~np.concatenate([[False], digit[:-1]]))
    ends = np.flatnonzero(digit & ~np.concatenate([digit[1:], [False]]))
    if (ends - starts >= _MAX_DIGITS).any():
        _refuse(content, path)
    newlines = np.flatnonzero(text == ord("\n"))
    line_of = np.searchsorted(newlines, starts) + 1
    lines, widths = np.unique(line_of, return_counts=True)
    return _Numbers(np.fromstring(content, np.int64, sep=" "), lines, widths)


def _refuse(content: bytes, path: str | PathLike[str]) -> None:
    """Raises for the first token that is no whole number of a sane length; only bad files come here."""
    for number, line in enumerate(content.split(b"\n"), start=1):
        for token in line.split():
            if not token.isdigit() or len(token) > _MAX_DIGITS:
                shown = token[:40].decode(errors="replace")
                if token.isdigit():
                    what = f"the huge number {shown}"
                elif token[:1] == b"-" and token[1:].isdigit():
                    what = f"a negative number ({shown})"
                else:
                    what = repr(shown)
                raise DataError(f"{path}:{number}: wanted whole numbers >= 0, got {what}")


def _check_ids(numbers: _Numbers, path: str | PathLike[str]) -> None:
    """Row numbers far beyond the size of the file are labels, and would cost their value in memory."""
    limit = min(MAX_ROW, 16 * (len(numbers.values) + 2**20))
    huge = np.flatnonzero(numbers.values > limit)
    if huge.size:
        line = numbers.lines[np.searchsorted(np.cumsum(numbers.widths), huge[0], side="right")]
        value = numbers.values[huge[0]]
        cure = "renumber the ids from 0"
        if (numbers.widths == 4).all():
            cure = (
                "if every line is user item rating time, give --format u.data where tabs are between them, or put a "
                "line `user item rating time` on top and give --format csv --separator ' '"
            )
        raise DataError(f"{path}:{line}: wanted row numbers up to {limit}, got {value}; {cure}")
