"""A RUN folder: what each file holds, written and read in one place. No pickle is written or loaded.

    metrics.json      tests -> test -> arm -> metric, what was selected, comparisons, the trade-off, the claims; and the
                      fingerprints of the training interactions and of each test, so that changed data are noticed
    settings.json     what the run was started with, from its start on
    history.jsonl     one line an epoch, of both fits, from its first epoch on
    frontier.json     every point that was tried on validation, by arm
    grid.json         a small grid over the strengths of the adjustment, on validation (`jaxrec.explore.grid`)
    embeddings.npz    user [U, D], item [I, D], user_ids, item_ids; user_adjusted, item_adjusted
    ledger.npz        the gradient ledger of the refit
    per_user.npz      recall and ndcg of each test user, by test and arm, for paired tests
    readings.json     the two claims' readings by popularity
    lists.json        a few users' lists before and after
    exposure.json     the items that gain and lose the most places in the lists of all test users

The folder that `jaxrec adjust` writes for a model trained elsewhere is one of these, but for

    adjust.json       what was chosen, what it does on validation, and what to know about it
    embeddings.npz    user, item are the *corrected* rows; user_plain, item_plain those that came; user_ids, item_ids
    seen.npz          the interactions that the model was trained on, as row numbers; also in the run of a split that
                      was handed over in Python, which nothing else could bring back
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import analysis, rank
from jaxrec import ledger as ledgers
from jaxrec.checkpoint import named_leaves
from jaxrec.data import registry
from jaxrec.data.formats import StrPath
from jaxrec.data.interactions import DataError, Interactions, Split
from jaxrec.data.registry import Dataset
from jaxrec.files import read_arrays, write_arrays, write_json
from jaxrec.ledger import GradientLedger
from jaxrec.metrics import Evaluation
from jaxrec.metrics.popularity import group_names, profile_popularity, recommendation_counts
from jaxrec.rank import TopK
from jaxrec.transforms.adjustment import fold_bias
from jaxrec.types import Tables

RESULTS = (
    "embeddings.npz", "seen.npz", "ledger.npz", "per_user.npz", "readings.json", "lists.json", "exposure.json",
    "grid.json", "frontier.json", "adjust.json", "metrics.json",
)  # fmt: skip
"""What a RUN folder holds when it is whole, and an interrupted one does not."""
AGAIN = "make the run again"


def results_in(run: Path) -> list[str]:
    """Which of `RESULTS` a folder holds, `metrics.json` of a whole run last."""
    return [name for name in RESULTS if (run / name).exists()]


class Saved(NamedTuple):
    """The tables of a RUN, whose inner products are the scores, and the ids of their rows."""

    plain: Tables
    adjusted: Tables
    user_ids: np.ndarray
    item_ids: np.ndarray


class PerUser(NamedTuple):
    """Metrics of one test, a number a user, by arm and name."""

    user_ids: np.ndarray  # [N]
    arms: dict[str, dict[str, np.ndarray]]  # arm -> metric -> [N]


def read_metrics(run: StrPath) -> dict[str, Any]:
    """`metrics.json` of a finished RUN. FileNotFoundError where there is none."""
    path = Path(run) / "metrics.json"
    if not path.exists():
        raise FileNotFoundError(f"{run} holds no metrics.json: no finished run is there; `jaxrec train` makes one")
    found: dict[str, Any] = read_json(path)
    if not isinstance(found, dict) or not found:
        raise DataError(f"{path} is no run's: it holds nothing by name; {AGAIN}")
    return found


def read_json(path: Path) -> Any:
    """What a JSON file holds. DataError for one that is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise DataError(f"{path} is damaged ({problem}); make it again") from problem


def want_fingerprint(run: StrPath, found: Mapping[str, Any], train: Interactions) -> None:
    """DataError where the training part is not that of the run with these metrics."""
    if found["fingerprint"] != train.fingerprint:
        source = found.get("source", found["data"])
        raise DataError(
            f"{run} was trained on other pairs or ids than {source} gives now: the data changed; "
            "train again, or bring back what it was"
        )


def want_tests(run: StrPath, found: Mapping[str, Any], tests: Mapping[str, Interactions]) -> None:
    """DataError where the tests are not those of the run with these metrics."""
    now = {name: test.fingerprint for name, test in tests.items()}
    before = found["test_fingerprints"]
    different = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if different:
        raise DataError(
            f"{run} was tested on other pairs than {found['source']} gives now in the test {different[0]!r}: the data "
            "changed; train again, or bring back what it was"
        )


def load_split(run: StrPath) -> Split:
    """The data of a RUN of `jaxrec train`, read again. DataError where they changed since."""
    found, split = _load(run)
    want_tests(run, found, split.tests)
    return split


def _load(run: StrPath) -> tuple[dict[str, Any], Split]:
    """The metrics of a RUN and its data, whose tests may be others. DataError where the training part changed since."""
    found = read_metrics(run)
    if (Path(run) / "adjust.json").exists():
        raise DataError(f"{run} is no run of `jaxrec train`, so it has no tests; its figures are in adjust.json")
    if "source" not in found:
        raise DataError(
            f"{run} was trained on {found['data']!r}, a split that was handed over in Python and can't be read again; "
            "its figures are in metrics.json, its training part in seen.npz"
        )
    try:
        split = registry.load(found["source"]).split
    except DataError as problem:
        raise DataError(f"{run} was trained on {found['source']}, which can't be read again: {problem}") from problem
    want_fingerprint(run, found, split.train)
    return found, split


def data_files(run: StrPath) -> list[Path]:
    """The files that `load_split` and `load_seen` read the data of a RUN from; none where it holds them itself."""
    path = Path(run) / "metrics.json"
    source = read_json(path).get("source") if path.exists() else None
    return [] if source is None else registry.files(source)


def read_history(run: StrPath) -> list[dict[str, Any]]:
    """The rows of `history.jsonl`. DataError, with file and line, for one that is damaged."""
    path, rows = Path(run) / "history.jsonl", []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as problem:
            raise DataError(f"{path}:{number} is damaged ({problem}); {AGAIN}") from problem
    return rows


def save_tables(run: Path, train: Interactions, plain: Tables, adjusted: Tables) -> None:
    """Writes `embeddings.npz`, biases folded in."""
    plain, adjusted = fold_bias(plain), fold_bias(adjusted)
    adjusted_rows = {"user_adjusted": adjusted.user, "item_adjusted": adjusted.item}
    write_arrays(run / "embeddings.npz", {"user": plain.user, "item": plain.item, **adjusted_rows, **_ids(train)})


def load_tables(run: StrPath) -> Saved:
    """What `save_tables` wrote. FileNotFoundError where the run is not finished."""
    path = Path(run) / "embeddings.npz"
    if not path.exists():
        raise FileNotFoundError(f"{run} holds no embeddings.npz: no finished run is there; `jaxrec train` makes one")
    with read_arrays(path, AGAIN) as found:
        ends = ("_plain", "") if "user_plain" in found else ("", "_adjusted")
        plain, adjusted = (Tables(jnp.asarray(found[f"user{e}"]), jnp.asarray(found[f"item{e}"])) for e in ends)
        return Saved(plain, adjusted, found["user_ids"], found["item_ids"])


def save_corrected(run: Path, seen: Interactions, plain: Tables, corrected: Tables) -> None:
    """Writes `embeddings.npz` and `seen.npz` of a model trained elsewhere, biases folded in."""
    plain, corrected = fold_bias(plain), fold_bias(corrected)
    plain_rows = {"user_plain": plain.user, "item_plain": plain.item}
    write_arrays(run / "embeddings.npz", {"user": corrected.user, "item": corrected.item, **plain_rows, **_ids(seen)})
    save_seen(run, seen)


def save_seen(run: Path, seen: Interactions) -> None:
    """Writes `seen.npz`, pairs that no file or name of a data set can bring back."""
    write_arrays(run / "seen.npz", {"users": seen.users, "items": seen.items}, compressed=True)


def _ids(of: Interactions) -> dict[str, np.ndarray]:
    return {"user_ids": of.user_ids, "item_ids": of.item_ids}


def load_seen(run: StrPath, saved: Saved) -> Interactions:
    """The interactions that the tables of a RUN were trained on."""
    seen = Path(run) / "seen.npz"
    if seen.exists():
        with read_arrays(seen, AGAIN) as found:
            sizes = len(saved.user_ids), len(saved.item_ids)
            return Interactions(found["users"], found["items"], *sizes, saved.user_ids, saved.item_ids)
    return _load(run)[1].train


def save_ledger(run: Path, ledger: GradientLedger) -> None:
    """Writes `ledger.npz`, arrays under names like `items.pull.size`."""
    arrays = {name: np.asarray(leaf) for name, leaf in named_leaves(ledger)[0].items()}
    write_arrays(run / "ledger.npz", arrays)


def load_ledger(run: StrPath) -> GradientLedger:
    """What `save_ledger` wrote, of a ledger that keeps vectors row by row."""
    with read_arrays(Path(run) / "ledger.npz", AGAIN) as found:
        num_items, width = found["items.pull.vector"].shape
        named, structure = named_leaves(ledgers.init(len(found["users.pull.vector"]), num_items, width))
        return jax.tree.unflatten(structure, [jnp.asarray(found[name]) for name in named])


def ledger_temperature(run: StrPath) -> float:
    """What the scores were divided by that a folder's ledger was read with: 1 while training."""
    path = Path(run) / "adjust.json"
    return float(read_json(path)["temperature"]) if path.exists() else 1.0


def save_per_user(run: Path, results: Mapping[str, Mapping[str, Evaluation]]) -> None:
    """Writes `per_user.npz` from arm -> test -> Evaluation."""
    rows = {
        f"{test}/{arm}/{name}": values.astype(np.float32)
        for arm, found in results.items()
        for test, e in found.items()
        for name, values in e.per_user.items()
        if name.startswith(("recall@", "ndcg@"))
    }
    users = {f"{test}/users": e.users for test, e in results["plain"].items()}
    write_arrays(run / "per_user.npz", rows | users, compressed=True)


def load_per_user(run: StrPath) -> dict[str, PerUser]:
    """What `save_per_user` wrote, by test; nothing where the run has no such file."""
    run = Path(run)
    if not (run / "per_user.npz").exists():
        return {}
    with read_arrays(run / "embeddings.npz", AGAIN) as tables:
        ids = tables["user_ids"]
    with read_arrays(run / "per_user.npz", AGAIN) as found:
        ends = "/users"
        tests = {n.removesuffix(ends): PerUser(ids[found[n]], {}) for n in found if n.endswith(ends)}
        for key in found:
            if not key.endswith(ends):
                test, arm, name = key.rsplit("/", 2)
                tests[test].arms.setdefault(arm, {})[name] = found[key]
        return tests


def write_readings(run: Path, tables: Tables, ledger: GradientLedger, counts: np.ndarray) -> None:
    """Writes `readings.json`: quantiles of what the claims are about in groups of popularity."""
    readings = analysis.item_readings(tables, ledger)
    write_json(run / "readings.json", {n: analysis.by_popularity(v, counts, groups=20) for n, v in readings.items()})


def write_lists(run: Path, dataset: Dataset, plain: Tables, adjusted: Tables, *, users: int = 4, k: int = 10) -> None:
    """Writes `lists.json`: the lists of a few users, from niche to mainstream by the popularity of their profile."""
    train = dataset.split.train
    active = np.flatnonzero(train.user_counts >= min(5, train.user_counts.max()))
    active = active[np.argsort(profile_popularity(train)[active], kind="stable")]
    chosen = active[np.linspace(0, len(active) - 1, min(users, len(active))).astype(int)]
    names = train.item_ids.astype(str) if dataset.item_names is None else dataset.item_names
    k = min(k, train.num_items)
    lists = {name: rank.top_k(t, chosen, train, k=k).items for name, t in (("plain", plain), ("adjusted", adjusted))}
    group = group_names(train.item_counts)

    def rows(items: np.ndarray) -> list[dict[str, Any]]:
        def row(i: int) -> dict[str, Any]:
            named = {"id": str(train.item_ids[i]), "item": str(names[i])}
            return named | {"popularity": int(train.item_counts[i]), "group": str(group[i])}

        return [row(i) for i in items[items >= 0]]

    indptr, owned = train.csr()
    found = [
        {
            "user": str(train.user_ids[u]),
            "profile": rows(owned[indptr[u] : indptr[u + 1]][:10]),
            **{arm: rows(items[n]) for arm, items in lists.items()},
        }
        for n, u in enumerate(chosen)
    ]
    changed = analysis.change_in_lists(lists["plain"], lists["adjusted"])
    write_json(run / "lists.json", {"users": found, "changed": [float(c) for c in changed]})


def write_exposure(run: Path, dataset: Dataset, plain: TopK, adjusted: TopK, *, k: int = 20, most: int = 12) -> None:
    """Writes `exposure.json`: in how many lists of k items each item is, before and after, for those that move most."""
    train = dataset.split.train
    before, after = (recommendation_counts(ranking, train.num_items, k) for ranking in (plain, adjusted))
    names = train.item_ids.astype(str) if dataset.item_names is None else dataset.item_names
    group = group_names(train.item_counts)

    def row(i: int) -> dict[str, Any]:
        known = {"item": str(names[i]), "popularity": int(train.item_counts[i]), "group": str(group[i])}
        return known | {"before": int(before[i]), "after": int(after[i])}

    change = after - before
    order = np.argsort(-change, kind="stable")
    places = {
        name: [int(counts[group == name].sum()) for counts in (before, after)] for name in ("head", "mid", "tail")
    }
    found = {
        "k": k,
        "users": len(plain.users),
        "items": {name: int(np.sum(group == name)) for name in places},
        "places": places,
        "gain": [row(i) for i in order[:most] if change[i] > 0],
        "lose": [row(i) for i in order[::-1][:most] if change[i] < 0],
    }
    write_json(run / "exposure.json", found)
