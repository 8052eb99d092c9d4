"""`jaxrec recommend`: lists for known users, or for new ones from their histories."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    import numpy as np

    from jaxrec.data.interactions import Interactions
    from jaxrec.ledger import GradientLedger
    from jaxrec.runs import Saved
    from jaxrec.types import Tables


def recommend(
    run: tyro.conf.Positional[Path],
    out: Path,
    users: Path | None = None,
    histories: Path | None = None,
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10,
    arm: Literal["adjusted", "plain"] = "adjusted",
    adjust: str | None = None,
    seen: bool = False,
    without_tests: bool = False,
    allow: Path | None = None,
    deny: Path | None = None,
    tag: str = "jaxrec",
) -> None:
    """Writes the k best items of users: columns user_id, item_id, rank, score; or a TREC run.

    Args:
        run: A finished RUN folder, or one of `jaxrec adjust`.
        out: A .parquet, .csv or .tsv file, or .trec or .run for lines `user Q0 item rank score tag`.
        users: A file with one user id a line; all users if left out.
        histories: Interactions of users that the model never saw, in any known format: they are folded in, and get
            the recommendations; users of whom no item is known are left out. Of a user who is known to RUN, what they
            have there counts as seen, too.
        k: Items for each user.
        arm: Corrected or plain tables.
        adjust: Strengths to use instead of the selected ones, as in `jaxrec evaluate`: those of another point of the
            trade-off, say.
        seen: Whether items that a user has in the training part, or in their history, may be recommended; only these
            are left out, not what they have in the tests.
        without_tests: Leave out what users have in the tests of a run of `jaxrec train`, too: for serving, not for
            judging the lists by these tests.
        allow: A file with one item id a line: no others are recommended.
        deny: A file with one item id a line: these are not recommended.
        tag: The last column of a TREC run.
    """
    import numpy as np

    from jaxrec import embeddings, files, runs, serve

    serve.want_lists(out)
    files.want_another(out, users, histories, allow, deny, *runs.data_files(run))
    held = [run / name for form in embeddings.FORMATS for name in embeddings.file_names(form)]
    if any(path.exists() and out.exists() and out.samefile(path) for path in held):
        raise ValueError(f"{out} holds embeddings of {run}, which would be lost; name another --out")
    saved = runs.load_tables(run)
    if adjust is not None and arm == "plain":
        raise ValueError("--adjust corrects, --arm plain does not; choose one")
    filters = {
        name: None if path is None else _rows_of(path, saved.item_ids, "item", run)
        for name, path in (("allow", allow), ("deny", deny))
    }
    user_ids = saved.user_ids
    if histories is not None and users is not None:
        raise ValueError("--users are known users, --histories are new ones; write them to two files")
    if seen and without_tests:
        raise ValueError("--seen keeps what users have, --without-tests leaves out more of it; choose one")
    trained_on = runs.load_seen(run, saved)
    strengths = None if adjust is None else strengths_in(adjust)
    parts = [trained_on, *(runs.load_split(run).tests.values() if without_tests else ())]
    if histories is None:
        rows = None if users is None else _rows_of(users, user_ids, "user", run)
        owned = parts
        tables = saved.adjusted if arm == "adjusted" else saved.plain
        if strengths is not None:
            tables = corrected(run, saved.plain, runs.load_ledger(run), trained_on, strengths)
    else:
        tables, new = new_users(run, saved, trained_on, histories, arm, strengths)
        rows, user_ids = np.flatnonzero(new.user_counts), new.user_ids
        owned = [new, *(_of_users(part, new) for part in parts)]
        known = np.intersect1d(rows, np.concatenate([part.users for part in owned[1:]]))
        if len(known) and not seen:
            first = f"the first is {user_ids[known[0]]}"
            print(f"note: {len(known):,} users are known to {run}: what they have there is left out, too; {first}")
    found = serve.recommend(tables, rows, seen=None if seen else owned, k=k, **filters)
    written = serve.write_lists(out, found, user_ids, saved.item_ids, tag=tag)
    left_out = ["their histories"] * (histories is not None) + ["the training part"] + ["the tests"] * without_tests
    told = "nothing is left out" if seen else f"what they have in {' and '.join(left_out)} is left out"
    print(f"{out}: {written:,} rows, {len(found.users):,} users; {told}")


def _rows_of(path: Path, ids: np.ndarray, what: str, run: Path) -> np.ndarray:
    import numpy as np

    from jaxrec.data.lines import decode, text_lines

    known = {str(i): n for n, i in enumerate(ids.tolist())}
    wanted = text_lines(decode(path.read_bytes(), path))
    found = []
    for number, line in enumerate(wanted, start=1):
        name = line if line in known else line.strip()  # an id may begin or end with a blank
        if name and name not in known:
            raise ValueError(f"{path}:{number}: {what} {name!r} is unknown to {run}; it has {len(known)} {what}s")
        if name:
            found.append(known[name])
    if not found:
        raise ValueError(f"{path} names no {what}; give one id a line, or leave the option out")
    return np.array(list(dict.fromkeys(found)), np.int32)  # each once


def _of_users(data: Interactions, new: Interactions) -> Interactions:
    """The pairs of users of a run who have a history, too, in the rows of the histories."""
    from jaxrec.commands.adjust import alike
    from jaxrec.data.pairs import reindex

    return reindex(data, alike(new.user_ids, data.user_ids), new.item_ids, unknown="drop")


def strengths_in(text: str) -> dict[str, float]:
    """The strengths in a text like "direction=1.0,magnitude=0.3".

    >>> strengths_in("direction=1.0, pull=0.5")
    {'direction': 1.0, 'pull': 0.5}
    """
    given: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"--adjust wants name=number, like direction=1.0,pull=0.5, got {part!r}")
        if name.strip() in given:
            raise ValueError(f"--adjust names {name.strip()!r} twice; give each strength once")
        given[name.strip()] = number
    return given


def corrected(
    run: Path, plain: Tables, ledger: GradientLedger, train: Interactions, strengths: Mapping[str, float]
) -> Tables:
    """Tables corrected in the way of a run, biases folded in. ValueError for a strength that it has not."""
    from jaxrec import correct, runs, select
    from jaxrec.transforms.adjustment import fold_bias

    found = runs.read_metrics(run)
    how = {"family": found["settings"]["family"], "seed": found["seed"]}
    if (run / "adjust.json").exists():
        return correct.correct(plain, ledger, train, strengths, **how)
    plain = fold_bias(plain)
    return select.apply(select.arms(plain, ledger, train, **how)["adjusted"], strengths, plain, ledger)


def new_users(
    run: Path,
    saved: Saved,
    trained_on: Interactions,
    histories: Path,
    arm: Literal["adjusted", "plain"],
    strengths: Mapping[str, float] | None = None,
) -> tuple[Tables, Interactions]:
    """Tables of the users of a file alone, corrected as the run's own or with other strengths, and their histories in
    its item rows."""
    from jaxrec import correct, runs
    from jaxrec.adapters import TwoTower
    from jaxrec.commands.adjust import to_rows
    from jaxrec.data import formats
    from jaxrec.transforms.adjustment import fold_bias

    data = formats.read(histories)
    two = TwoTower(saved.plain, data.user_ids, saved.item_ids)
    new = to_rows(data, two, "drop", histories)
    for note in new.notes:
        print(f"note: {note}")
    without = new.user_ids[new.user_counts == 0]
    if len(without):
        print(f"note: {len(without):,} users of whom no item is known left out, the first is {without[0]}")
    temperature = runs.ledger_temperature(run)
    more, joined, everybody = correct.appended(
        saved.plain, runs.load_ledger(run), trained_on, new, temperature=temperature
    )
    if arm == "plain":
        both = fold_bias(more)
    else:
        chosen = runs.read_metrics(run)["selected"] if strengths is None else strengths
        both = corrected(run, more, joined, everybody, chosen)
    return both._replace(user=both.user[trained_on.num_users :]), new
