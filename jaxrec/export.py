"""A scorer as one file: the ranking exported by `jax.export`, with the tables that it ranks. No pickle."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxrec import files, rank
from jaxrec.adapters import ids_of
from jaxrec.transforms.adjustment import fold_bias
from jaxrec.types import Array, Tables

PLATFORMS = ("cpu", "cuda", "tpu")


class SavedScorer(NamedTuple):
    """A scorer read from a file: `rank(users [b], excluded [b, M]) -> items, scores [b, k]`, any b and M.

    `excluded` holds item rows, padded with -1 or the number of items. ValueError for rows that the tables don't have,
    and for other shapes.
    """

    rank: Callable[[np.ndarray, np.ndarray], tuple[Array, Array]]
    user_ids: np.ndarray
    item_ids: np.ndarray
    k: int


def save_scorer(
    path: str | PathLike[str],
    tables: Tables,
    *,
    k: int = 10,
    user_ids: np.ndarray | None = None,
    item_ids: np.ndarray | None = None,
) -> None:
    """Writes one .npz with the tables, the ids, and `rank.rank_block` lowered by `jax.export` for CPU, CUDA and TPU.

    It is read without this library's code for ranking: what was exported is what runs. No pickle is written: ids are
    whole numbers or text, row numbers by default.

    Raises ValueError for k outside 1..I, tables that don't fit each other or are not finite, and ids of another length,
    of another kind, or with repeats.
    """
    export = _export()
    num_users, num_items = rank.check_tables(tables)
    rank.want_k(k, num_items)
    user_ids, item_ids = ids_of(user_ids, num_users, "user"), ids_of(item_ids, num_items, "item")
    folded = fold_bias(jax.tree.map(lambda part: part.astype(jnp.float32), tables))  # files hold no bfloat16
    b, m = export.symbolic_shape("b, m")
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (folded.user, folded.item)]
    ids = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((b,), (b, m))]

    def run(user: Array, item: Array, users: Array, excluded: Array) -> tuple[Array, Array]:
        return rank.rank_block(Tables(user, item), users, excluded, k)

    exported = export.export(jax.jit(run), platforms=PLATFORMS)(*shapes, *ids)
    arrays: dict[str, ArrayLike] = {"module": np.frombuffer(exported.serialize(), np.uint8), "k": k}
    arrays |= {"user": folded.user, "item": folded.item, "user_ids": user_ids, "item_ids": item_ids}
    files.write_arrays(Path(path), arrays)


def load_scorer(path: str | PathLike[str]) -> SavedScorer:
    """What `save_scorer` wrote. DataError where the file is no scorer or a damaged one."""
    export = _export()
    with files.read_arrays(Path(path), "`export.save_scorer` writes a scorer") as found:
        exported = export.deserialize(bytearray(found["module"].tobytes()))
        user, item = jnp.asarray(found["user"]), jnp.asarray(found["item"])
        ids, k = (found["user_ids"], found["item_ids"]), int(found["k"])

    def run(users: np.ndarray, excluded: np.ndarray) -> tuple[Array, Array]:
        rows = rank.check_users(users, len(user))
        masks = _masks(excluded, len(rows), len(item))
        if not len(rows):  # what is exported takes at least one
            return jnp.zeros((0, k), jnp.int32), jnp.zeros((0, k), jnp.float32)
        best: tuple[Array, Array] = exported.call(user, item, jnp.asarray(rows), jnp.asarray(masks))
        return best

    return SavedScorer(run, *ids, k)


def _masks(excluded: np.ndarray, num_users: int, num_items: int) -> np.ndarray:
    """Item rows [b, M], M at least 1, padded with the number of items: -1 would mean the last one."""
    given = np.asarray(excluded)
    if given.ndim != 2 or len(given) != num_users or (given.size and given.dtype.kind not in "iu"):
        shape = f"{given.dtype} of shape {given.shape}"
        raise ValueError(f"excluded must hold a row of whole numbers for each of {num_users} users, got {shape}")
    unknown = given[(given < -1) | (given > num_items)]
    if len(unknown):
        wanted = f"items in 0..{num_items - 1}, or pad with -1 or {num_items}"
        raise ValueError(f"excluded must name {wanted}, got {unknown[0]}")
    masks = np.full((num_users, max(1, given.shape[1])), num_items, np.int32)
    masks[:, : given.shape[1]][given >= 0] = given[given >= 0]
    return masks


def _export() -> Any:
    try:
        import flatbuffers  # noqa: F401  (jax.export writes and reads by it)
    except ImportError:
        raise ImportError("saved scorers want flatbuffers; pip install 'jaxrec[export]'") from None
    from jax import export

    return export
