"""Fetching: verified by SHA-256, resumed where the server allows it, extracted member by member."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from jaxrec.data.interactions import DataError

TIMEOUT = 30  # seconds without a byte


class FetchError(DataError):
    """Nothing could be fetched, or what came is not what was wanted."""


def download(urls: Sequence[str], folder: Path, name: str, sha256: str) -> Path:
    """The file FOLDER/NAME, fetched from the first of `urls` (a publisher, then mirrors) that gives the right bytes.

    What was begun and cut off is kept as NAME.part and resumed. A file already there is verified, not fetched again.
    """
    import pooch

    problems = []
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        for url in urls:
            try:
                return Path(
                    pooch.retrieve(url, f"sha256:{sha256}", fname=name, path=folder, downloader=_resume(folder, name))
                )
            except (OSError, ValueError) as error:
                problems.append(f"{url}: {error}")
    finally:
        logger.setLevel(level)
    raise FetchError(f"{name} could not be fetched; " + "; ".join(problems))


def _resume(folder: Path, name: str) -> Any:
    part = Path(folder) / f"{name}.part"

    def fetch(url: str, output_file: str, pooch: Any) -> None:
        done = part.stat().st_size if part.exists() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
        try:
            answer = urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code != 416:  # 416: nothing is left to send
                raise
        else:
            with answer, part.open("ab" if done and answer.status == 206 else "wb") as out:
                shutil.copyfileobj(answer, out)
                wanted = answer.headers.get("Content-Length")
                start = done if answer.status == 206 else 0
            if wanted is not None and part.stat().st_size - start < int(wanted):
                raise OSError(f"the connection closed after {part.stat().st_size} bytes; fetch again to resume")
        shutil.move(part, output_file)

    return fetch


def download_wheel(requirement: str, folder: Path) -> Path:
    """A wheel from the package index that pip is set up for."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(Path(folder).glob(requirement.split("==")[0] + "*.whl"))
    if done.returncode or not found:
        last = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise FetchError(f"pip could not download {requirement}: {last}")
    return found[0]


def extract(archive: Path, members: Mapping[str, tuple[str, str]], folder: Path) -> None:
    """Puts `members` (name in the zip -> (file name, SHA-256)) into `folder`, all of them or none.

    They get their names in this order: the last should be the one by which a folder is known to hold the data.

    Raises FetchError for a damaged archive, one with absolute or `../` names, a missing member, or wrong bytes.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            for entry in opened.infolist():
                path = PurePosixPath(entry.filename.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
                    raise FetchError(f"{archive} holds {entry.filename!r}, which points outside; not extracted")
            contents = {target: opened.read(name) for name, (target, _) in members.items()}
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise FetchError(f"{archive} is truncated or another archive ({error}); remove it and fetch again") from None
    for target, sha256 in members.values():
        got = hashlib.sha256(contents[target]).hexdigest()
        if got != sha256:
            raise FetchError(f"{archive}: {target} has SHA-256 {got}, wanted {sha256}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as partial:
        for target, content in contents.items():
            (Path(partial) / target).write_bytes(content)
        for target in contents:
            os.replace(Path(partial) / target, folder / target)
