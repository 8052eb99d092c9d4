"""`jaxrec adjust`: correct the embeddings of a model that was trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from jaxrec.adapters import TwoTower
    from jaxrec.correct import Adjusted
    from jaxrec.data.interactions import Interactions


def adjust(
    user: Path,
    item: Path,
    interactions: Path,
    out: Path,
    valid: Path | None = None,
    user_ids: Path | None = None,
    item_ids: Path | None = None,
    user_bias: Path | None = None,
    item_bias: Path | None = None,
    score: Literal["dot", "cosine"] = "dot",
    unknown: Literal["error", "drop"] = "error",
    family: Literal["gradients", "exposure"] = "gradients",
    select: Literal["unbiased", "loss"] = "unbiased",
    max_loss: float = 0.1,
    k: int = 20,
    budget: int = 24,
    select_users: int = 4096,
    per_item: int | None = None,
    leave_out: Literal["estimate", "none"] = "estimate",
    temperature: float | None = None,
    format: tuple[Literal["npy", "safetensors", "parquet"], ...] = (),
    seed: int = 0,
) -> None:
    """Corrects trained embeddings for popularity: reads gradients off them, selects strengths, writes them anew.

    OUT/embeddings.npz holds the corrected `user` and `item` rows, whose inner products are the scores, with `user_ids`
    and `item_ids`; OUT/adjust.json what was chosen and what it does; OUT/report.html the same to look at.
    `jaxrec recommend OUT` serves it.

    Args:
        user: User embeddings [U, D]: .npy, .npz, .safetensors, .parquet, or text; never a pickle.
        item: Item embeddings [I, D].
        interactions: What the model was trained on, in any format that `jaxrec data convert` reads.
        out: The folder to write.
        valid: Interactions that the model was NOT trained on; without them the figures are too good, see adjust.json.
        user_ids: The id of each user row, one a line or .npy; without it ids are row numbers.
        item_ids: The id of each item row.
        user_bias: A number for each user, added to the scores.
        item_bias: A number for each item, added to the scores.
        score: How the model scores: dot product, or cosine.
        unknown: What to do with interactions of users or items that have no row.
        family: What to correct by: direction, magnitude, pull and push of gradients, or exposure and pull.
        select: Take the best unbiased NDCG on validation, or the best that loses at most `max_loss` of the natural one.
        max_loss: For select=loss, and an error with another value without it.
        k: The cut-off at which strengths are selected.
        budget: Points tried for the adjustment, and as many for the count control.
        select_users: Validation users that strengths are selected on.
        per_item: Pairs of an item in the unbiased validation part, at most.
        leave_out: Without --valid: take the share of the carved pairs out of the tables by an estimate, or don't.
        temperature: Of the softmax that gradients are read with; fitted to the interactions if left out.
        format: Further files of the corrected embeddings.
        seed: Of everything random.
    """
    import time

    from jaxrec import correct, embeddings, files, runs
    from jaxrec.data import formats

    begun = time.perf_counter()
    files.want_folder(out)
    more = ("settings.json", "history.jsonl", "report.html")
    for name in (*runs.RESULTS, *more, *(name for form in format for name in embeddings.file_names(form))):
        if (out / name).exists():
            raise FileExistsError(f"{out} holds a model or a run already ({name}); choose another --out, or remove it")
    biases = {"user_bias": user_bias, "item_bias": item_bias}
    two = _read_model(user, item, {"user": user_ids, "item": item_ids}, biases, score)
    seen = to_rows(formats.read(interactions), two, unknown, interactions)
    unseen = None if valid is None else to_rows(formats.read(valid), two, unknown, valid)
    found = correct.adjust(
        two,
        seen,
        unseen,
        family=family,
        select=select,
        max_loss=max_loss,
        k=k,
        budget=budget,
        select_users=select_users,
        per_item=per_item,
        leave_out=leave_out,
        temperature="fit" if temperature is None else temperature,
        seed=seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"select": select, "max_loss": max_loss, "k": k, "budget": budget, "seed": seed}
    settings |= {"score": score, "leave_out": leave_out if valid is None else None, "select_users": select_users}
    settings["family"] = family
    given = {"user": user, "item": item, "interactions": interactions, "valid": valid}
    settings |= {name: None if path is None else path.name for name, path in given.items()}
    write(out, found, two, seen, settings=settings, formats=format)
    _tell(out, found, time.perf_counter() - begun)


def _read_model(
    user: Path, item: Path, ids: dict[str, Path | None], biases: dict[str, Path | None], score: Literal["dot", "cosine"]
) -> TwoTower:
    from jaxrec import adapters, embeddings

    options: dict[str, Any] = {}
    arrays = []
    for side, path in (("user", user), ("item", item)):
        given = ids[side]
        rows, own = embeddings.read_matrix(path, side, ids=given is None)
        arrays.append(rows)
        options[f"{side}_ids"] = own if given is None else embeddings.read_ids(given)
    for name, file in biases.items():
        options[name] = None if file is None else embeddings.read_matrix(file, name, ids=False)[0]
    return adapters.from_arrays(*arrays, score=score, source=user.name, **options)


def to_rows(data: Interactions, two: TwoTower, unknown: Literal["error", "drop"], source: Path) -> Interactions:
    """Interactions in the row numbers of a model. DataError, naming the file, for ids that have no row."""
    from dataclasses import replace

    import numpy as np

    from jaxrec.data.interactions import DataError
    from jaxrec.data.pairs import reindex

    user_ids, item_ids = two.user_ids, two.item_ids
    user_map, item_map = alike(user_ids, data.user_ids), alike(item_ids, data.item_ids)
    try:
        found = reindex(data, user_map, item_map, unknown=unknown)
    except DataError as error:
        shape = f"the model has {len(user_ids)} user rows and {len(item_ids)} item rows"
        cure = "give its ids with --user-ids and --item-ids (without them ids are row numbers)"
        if not any(np.array_equal(ids, np.arange(len(ids))) for ids in (user_ids, item_ids)):
            cure = f"its ids are like {user_ids[0]!s} and {item_ids[0]!s}: are they those of this file?"
        raise DataError(
            f"{source}: {str(error).split(';')[0]}; {shape}: {cure}, or leave such pairs out with --unknown drop"
        ) from None
    if not len(found):
        raise DataError(f"{source}: no pair has a user and an item with a row; are these the ids of this model?")
    return replace(found, user_ids=user_ids, item_ids=item_ids)


def alike(ids: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Ids as the kind that the others are, so that 7 and "7" are one."""
    import numpy as np

    from jaxrec.data.formats import is_whole

    if ids.dtype.kind == others.dtype.kind:
        return ids
    if others.dtype.kind == "U":
        return ids.astype(np.str_)
    whole = [is_whole(text) and len(text) <= 18 for text in ids.tolist()]
    # Ids that are no numbers can't be meant by numbers: each gets one that no id has.
    stand_in = -1 - np.arange(len(ids))
    return np.array([int(t) if w else n for t, w, n in zip(ids.tolist(), whole, stand_in.tolist(), strict=True)])


def write(
    out: Path,
    found: Adjusted,
    two: TwoTower,
    seen: Interactions,
    *,
    settings: dict[str, Any],
    formats: tuple[str, ...] = (),
) -> None:
    """Writes the folder that `jaxrec.runs` describes."""
    import jax
    import numpy as np

    from jaxrec import analysis, embeddings, files, pipeline, runs
    from jaxrec.data.interactions import Split
    from jaxrec.data.registry import Dataset

    plain, corrected = (_with_user_bias(tables, two.user_bias) for tables in (found.plain, found.tables))
    runs.save_corrected(out, seen, plain, corrected)
    tables = {"user": np.asarray(corrected.user), "item": np.asarray(corrected.item)}
    embeddings.write_embeddings(out, tables, {"user": seen.user_ids, "item": seen.item_ids}, formats)
    runs.save_ledger(out, found.ledger)
    runs.save_per_user(out, {arm: of_validation(parts) for arm, parts in found.results.items()})
    runs.write_readings(out, found.plain, found.ledger, seen.item_counts)
    runs.write_lists(out, Dataset(two.source, Split(seen)), found.plain, found.tables)
    files.write_json(out / "frontier.json", {n: [p._asdict() for p in tried] for n, tried in found.frontier.items()})
    files.write_json(out / "grid.json", found.grid, indent=None)
    (out / "history.jsonl").write_text("", encoding="utf-8")  # nothing was trained here
    summary: dict[str, Any] = {
        "strengths": found.strengths,
        "strengths_by_arm": {name: point.strengths for name, point in found.selected.items()},
        "validation": found.validation,
        "validation_users": found.reported_on,
        "model_has_seen_validation": settings["valid"] is None,
        "temperature": found.temperature,
        "notes": list(found.notes),
        "settings": settings,
        "seconds": found.seconds,
    }
    files.write_json(out / "adjust.json", summary)
    page = {
        "data": settings["interactions"],
        "fingerprint": seen.fingerprint,
        "source": settings["interactions"],
        "model": two.source,
        "seed": settings["seed"],
        "selected": found.strengths,
        "selected_by_arm": summary["strengths_by_arm"],
        "best_epoch": 0,
        "tests": of_validation(found.validation),
        "test_fingerprints": of_validation(found.fingerprints),
        "validation": {name: point.metrics for name, point in found.selected.items()},
        "comparisons": of_validation(pipeline.comparisons(found.results, settings["k"])),
        "tradeoff": [
            row
            | {
                "arms": {arm: its | {"tests": of_validation(its["tests"])} for arm, its in row["arms"].items()},
                "adjusted - count_control": of_validation(row["adjusted - count_control"]),
            }
            for row in found.tradeoff
        ],
        "claims": analysis.claims(found.plain, found.ledger, seen.item_counts),
        "settings": settings,
        "notes": [f"figures are of validation, on {found.reported_on}", *found.notes],
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
        "seconds": found.seconds,
    }
    files.write_json(out / "metrics.json", page)


def of_validation(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Parts under the names that a page shows in the place of tests."""
    return {f"{part} validation": value for part, value in parts.items()}


def _with_user_bias(tables: Any, user_bias: Any) -> Any:
    """The same scores plus the user's bias, as a last column that is 1 for every item."""
    import jax.numpy as jnp

    if user_bias is None:
        return tables
    ones = jnp.ones((tables.item.shape[0], 1), tables.item.dtype)
    user = jnp.concatenate([tables.user, jnp.asarray(user_bias)[:, None]], axis=1)
    return tables._replace(user=user, item=jnp.concatenate([tables.item, ones], axis=1))


def _tell(out: Path, found: Adjusted, seconds: float) -> None:
    from jaxrec.report import write_report

    page = write_report(out)
    print(f"validation, on {found.reported_on}:")
    for part, arms in found.validation.items():
        for arm, values in arms.items():
            names = found.selected["adjusted"].metrics[part]  # at the cut-off that strengths were selected by
            shown = "  ".join(f"{name} {values[name]:.4f}" for name in names)
            print(f"  {part:9} {arm:14} {shown}")
    print("strengths: " + ", ".join(f"{name} {value:.3g}" for name, value in found.strengths.items()))
    for note in found.notes:
        print(f"{'WARNING' if note.startswith('no validation') else 'note'}: {note}")
    print(f"{seconds:.0f} s; corrected embeddings in {out / 'embeddings.npz'}, what was chosen in")
    print(f"{out / 'adjust.json'}, a page to look at is {page}")
