"""Serving what was learned.

    recommend            the best items of users, of all items or an allowed part of them
    fold_in              rows for users that the model never saw, from their histories
    with_new_users       tables and ledger with such users appended, to be corrected as the others were
    write_lists          recommendations as .csv, .tsv, .parquet, or a TREC run
    for_l2_index         tables whose nearest neighbours are the best items, for indexes without inner products
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import files, frozen, rank
from jaxrec.data.formats import TABLES, want_writable, write_columns
from jaxrec.data.interactions import DataError, Interactions, plain_ids
from jaxrec.ledger import GradientLedger, Role, Side
from jaxrec.models.ials import Block, blocks
from jaxrec.models.wrappers import unit
from jaxrec.rows import power_of_two, product
from jaxrec.transforms.adjustment import fold_bias
from jaxrec.types import Array, Tables

Histories = Interactions | Sequence[Sequence[int]] | Sequence[np.ndarray]


def fold_in(
    item: Array,
    histories: Histories,
    *,
    item_bias: Array | None = None,
    score: Literal["dot", "cosine"] = "dot",
    ridge: float = 0.1,
    weight: float = 10.0,
) -> Array:
    """User rows [N, D] from histories alone, against item rows [I, D] that stay: for users the model never saw.

    dot: u = argmin Σ_i c_i (p_i − b_i − ⟨u, v_i⟩)² + λ‖u‖², with p_i = 1 and c_i = 1 + `weight` where i is in the
        history, p_i = 0 and c_i = 1 elsewhere, b_i the item bias, λ = `ridge` · Σ_i ‖v_i‖² / D (Hu, Koren, Volinsky
        2008, doi:10.1109/ICDM.2008.22). In closed form, (VᵀV + weight Σ_{i∈H} v_i v_iᵀ + λ1) u = rhs.
    cosine: the mean of the history's unit vectors, of length 1.

    `calibrate_fold_in` finds the ridge and the weight that give known users their own rows back. An empty history gives
    a zero row, with biases too, and so do items whose rows are all zero. Item rows are the model's own: for corrected
    ones see `correct.for_new_users`. ValueError for rows or biases that are not finite.

    >>> (2 * fold_in(jnp.eye(3), [[0, 1], []], score="cosine") ** 2).round().tolist()
    [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    if ridge <= 0 or weight < 0:
        raise ValueError(f"ridge must be positive and weight not negative, got {ridge} and {weight}")
    if score not in ("dot", "cosine"):
        raise ValueError(f"score must be 'dot' or 'cosine', got {score!r}")
    data = _interactions(histories, item.shape[0])
    out = jnp.zeros((data.num_users, item.shape[1]))
    bias = jnp.zeros(item.shape[0]) if item_bias is None else item_bias
    for name, given in (("item", item), ("item_bias", bias)):
        if not isinstance(given, jax.core.Tracer) and not bool(jnp.all(jnp.isfinite(given))):
            raise ValueError(f"{name} must be finite, but holds NaN or inf: training has diverged")
    even = power_of_two(jnp.max(jnp.abs(item), initial=0.0))  # squares neither vanish nor overflow
    rows = unit(item) if score == "cosine" else item * even
    gram = product(rows.T, rows)
    size = jnp.trace(gram)
    regular = gram + jnp.where(size > 0, ridge * size / item.shape[1], 1.0) * jnp.eye(item.shape[1])
    for part in blocks(data):
        if score == "cosine":
            out = _mean_rows(out, rows, part)
        else:
            out = _solve_rows(out, rows, bias, regular, part, jnp.float32(weight))
    return out if score == "cosine" else out * even


@jax.jit(donate_argnums=0)
def _mean_rows(out: Array, item: Array, part: Block) -> Array:
    own = item.at[part.history].get(mode="fill", fill_value=0.0)
    return out.at[part.rows].set(unit(jnp.sum(own, axis=1)), mode="drop")


@jax.jit(donate_argnums=0)
def _solve_rows(out: Array, item: Array, bias: Array, regular: Array, part: Block, weight: Array) -> Array:
    own = item.at[part.history].get(mode="fill", fill_value=0.0)  # [b, T, D]; rows beyond the history are 0
    own_bias = bias.at[part.history].get(mode="fill", fill_value=0.0)
    left = regular[None] + weight * jnp.einsum("btd,bte->bde", own, own, precision="highest")
    wanted = (1 + weight) * (1 - own_bias) + own_bias
    right = jnp.einsum("bt,btd->bd", wanted, own, precision="highest") - product(bias, item)[None]
    solved = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(left), True), right[..., None])
    return out.at[part.rows].set(solved[..., 0], mode="drop")


class FoldIn(NamedTuple):
    """How to fold in, and how near that comes to the rows that a model has: the mean correlation of scores."""

    score: Literal["dot", "cosine"]
    ridge: float
    weight: float
    agreement: float
    scale: float = 1.0  # of the scores of known users over those of their folded-in rows, items' biases left out


def calibrate_fold_in(
    tables: Tables, interactions: Interactions, *, users: int = 256, seed: int = 0
) -> FoldIn:
    """The ridge and the weight of `fold_in` that give known users back what the model scores for them.

    Compared on users drawn at random, by the correlation over all items of the scores of the folded-in row with those
    of the user's own row; the mean of unit vectors (`score="cosine"`) is a candidate, too.
    """
    folded = fold_bias(tables)
    active = np.flatnonzero(interactions.user_counts > 0)
    chosen = np.sort(np.random.default_rng(seed).choice(active, min(users, len(active)), replace=False))
    starts, items = interactions.csr()
    histories = _interactions([items[starts[u] : starts[u + 1]] for u in chosen], interactions.num_items)
    centred = folded.item - jnp.mean(folded.item, axis=0, keepdims=True)
    covariance = product(centred.T, centred) / folded.item.shape[0]
    own = folded.user[chosen]
    constant = [] if tables.item_bias is None else [own[:, -1:]]

    def agreement(rows: Array) -> float:
        rows = jnp.concatenate([rows, *constant], axis=1)
        both = jnp.sum(product(rows, covariance) * own, axis=1)
        sizes = jnp.sum(product(rows, covariance) * rows, axis=1) * jnp.sum(product(own, covariance) * own, axis=1)
        return float(jnp.mean(both / jnp.sqrt(jnp.maximum(sizes, 1e-30))))

    bias = _usual_bias(tables)
    best = FoldIn("cosine", 1.0, 0.0, agreement(fold_in(tables.item, histories, score="cosine")))
    for weight in (1.0, 10.0, 100.0, 1000.0):
        for ridge in (1e-3, 1e-2, 1e-1, 1.0):
            rows = fold_in(tables.item, histories, item_bias=bias, ridge=ridge, weight=weight)
            found = FoldIn("dot", ridge, weight, agreement(rows))
            best = max(best, found, key=lambda f: f.agreement)
    bias = None if best.score == "cosine" else bias
    rows = fold_in(tables.item, histories, item_bias=bias, score=best.score, ridge=best.ridge, weight=best.weight)
    usual, folded_in = (frozen.score_scale(Tables(r, tables.item)) for r in (tables.user[chosen], rows))
    return best._replace(scale=float(jnp.median(usual) / jnp.median(folded_in)))


def _interactions(histories: Histories, num_items: int) -> Interactions:
    if isinstance(histories, Interactions):
        if histories.num_items != num_items:
            raise ValueError(f"histories must be of the {num_items} items of the table, got {histories.num_items}")
        return histories
    given = [np.asarray(h) for h in histories]
    if odd := [n for n, h in enumerate(given) if h.ndim != 1]:
        raise ValueError(
            f"histories must be a list of items for each user, but number {odd[0]} has shape {given[odd[0]].shape}; "
            "one user's is [[item, item, ...]]"
        )
    lists = [np.unique(h) for h in given]
    for number, own in enumerate(lists):
        if len(own) and own.dtype.kind not in "iu":
            raise ValueError(f"items of a history must be whole numbers, but history {number} holds {own.dtype}")
    lists = [own.astype(np.int64) for own in lists]
    items = np.concatenate([np.zeros(0, np.int64), *lists])
    if len(items) and not 0 <= items.min() <= items.max() < num_items:
        raise ValueError(f"items of a history must be in 0..{num_items - 1}, got {items.min()}..{items.max()}")
    return Interactions(np.repeat(np.arange(len(lists)), [len(h) for h in lists]), items, len(lists), num_items)


def with_new_users(
    tables: Tables, ledger: GradientLedger, histories: Interactions, *, how: FoldIn, temperature: float = 1.0
) -> tuple[Tables, GradientLedger]:
    """The tables and their ledger with the users of `histories` appended: [U + N, D].

    Their rows are folded in and scaled so that their scores spread as those of the users who are there; or by
    `how.scale` where items have biases, whose weight a scale of one's own would change. Biases count for them as
    much as for the others on average. Their gradients are observed against the frozen items, at the
    `temperature` that the ledger's own were read with (1 while training). An adjustment of the result treats the new
    users as it treats the others.
    """
    item, strength = tables.item, tables.bias_strength
    bias = _usual_bias(tables)
    rows = fold_in(item, histories, item_bias=bias, score=how.score, ridge=how.ridge, weight=how.weight)
    if bias is None:
        rows = rows * (frozen.usual_scale(tables) / frozen.score_scale(Tables(rows, item)))[:, None]
    else:
        rows = rows * how.scale
    new = Tables(rows, item, tables.item_bias)
    more = tables._replace(user=jnp.concatenate([tables.user, rows]))
    if strength is not None:
        usual = jnp.full(len(rows), jnp.mean(strength))
        new, more = new._replace(bias_strength=usual), more._replace(bias_strength=jnp.concatenate([strength, usual]))
    seen = frozen.observe(new, histories, temperature=temperature)
    return more, ledger._replace(users=_joined(ledger.users, seen.users))


def _usual_bias(tables: Tables) -> Array | None:
    """What items' biases add to the scores of a user of mean strength, [I]."""
    if tables.item_bias is None or tables.bias_strength is None:
        return tables.item_bias
    return jnp.mean(tables.bias_strength) * tables.item_bias


def _joined(a: Side, b: Side) -> Side:
    if a.pull.vector.ndim != 2:
        raise ValueError("new users want a ledger that keeps its users' vectors row by row; this one keeps totals only")

    def role(x: Role, y: Role) -> Role:
        return Role(*(jnp.concatenate(pair) for pair in zip(x, y, strict=True)))

    return Side(role(a.pull, b.pull), role(a.push, b.push))


def recommend(
    tables: Tables,
    users: np.ndarray | Sequence[int] | None = None,
    *,
    seen: Interactions | Sequence[Interactions] | None = None,
    allow: np.ndarray | Sequence[int] | None = None,
    deny: np.ndarray | Sequence[int] | None = None,
    k: int = 10,
) -> rank.TopK:
    """The k best items of users (None: all) among those allowed, not denied and not `seen`: exact, as `rank.top_k`.

    Filters act before the k best are taken, by ranking only the rows that are left. Where fewer than k are left, the
    list ends with item -1 and score -inf. ValueError where a filter names an unknown item or leaves none.
    """
    _, num_items = rank.check_tables(tables)
    keep = np.ones(num_items, bool) if allow is None else _mask(allow, num_items, "allow")
    if deny is not None:
        keep = keep & ~_mask(deny, num_items, "deny")
    if not keep.any():
        raise ValueError("the filters leave no item to recommend; allow more, or deny less")
    rank.want_k(k, num_items)
    if keep.all():
        return rank.top_k(tables, users, seen, k=k)
    items = np.flatnonzero(keep)
    small = tables._replace(
        item=tables.item[items], item_bias=None if tables.item_bias is None else tables.item_bias[items]
    )
    parts = [] if seen is None else [seen] if isinstance(seen, Interactions) else list(seen)
    for part in parts:
        if (part.num_users, part.num_items) != (tables.user.shape[0], num_items):
            sizes = f"{tables.user.shape[0]} users and {num_items} items"
            raise ValueError(f"seen must be of the tables' {sizes}, got {part!r}")
    found = rank.top_k(small, users, [_of_items(part, items) for part in parts], k=min(k, len(items)))
    missing = ((0, 0), (0, k - found.items.shape[1]))
    rows = np.where(found.items >= 0, items[found.items], -1).astype(np.int32)
    return rank.TopK(
        found.users,
        np.pad(rows, missing, constant_values=-1),
        np.pad(found.scores, missing, constant_values=-np.inf),
    )


def _mask(items: np.ndarray | Sequence[int], num_items: int, what: str) -> np.ndarray:
    given = np.asarray(items).reshape(-1)
    if given.dtype == bool and len(given) == num_items:
        return given
    if len(given) and not np.issubdtype(given.dtype, np.integer):
        got = f"{given.dtype}[{len(given)}]"
        raise ValueError(f"{what} must name items by whole numbers, or be a mask of {num_items} bools; got {got}")
    given = given.astype(np.int64)
    if len(given) and not 0 <= given.min() <= given.max() < num_items:
        raise ValueError(f"{what} must name items in 0..{num_items - 1}, got {given.min()}..{given.max()}")
    mask = np.zeros(num_items, bool)
    mask[given] = True
    return mask


def _of_items(data: Interactions, items: np.ndarray) -> Interactions:
    """The pairs of some items, renumbered."""
    place = np.full(data.num_items, -1, np.int64)
    place[items] = np.arange(len(items))
    inside = place[data.items] >= 0
    return Interactions(data.users[inside], place[data.items[inside]], data.num_users, len(items))


def want_lists(path: str | PathLike[str]) -> str:
    """The kind of file that `write_lists` makes of a name. DataError where it makes none."""
    return want_writable(path, (*TABLES, ".trec", ".run"))


def write_lists(
    path: str | PathLike[str],
    ranking: rank.TopK,
    user_ids: np.ndarray,
    item_ids: np.ndarray,
    *,
    tag: str = "jaxrec",
) -> int:
    """Writes lists with the original ids, one recommendation a line; returns how many.

    .csv, .tsv, .parquet: columns user_id, item_id, rank from 1, score. .trec, .run: `user Q0 item rank score tag`, as
    trec_eval reads it. All of these but .parquet may end in .gz. A TREC run's ids can't hold white space (DataError).
    """
    path, k, kind = Path(path), ranking.items.shape[1], want_lists(path)
    user_ids, item_ids = plain_ids(user_ids, "user"), plain_ids(item_ids, "item")
    place = np.flatnonzero(ranking.items.ravel() >= 0)
    columns = {
        "user_id": user_ids[np.repeat(ranking.users, k)][place],
        "item_id": item_ids[ranking.items.ravel()[place]],
        "rank": np.tile(np.arange(1, k + 1), len(ranking.users))[place],
        "score": ranking.scores.ravel()[place],
    }
    if kind in TABLES:
        write_columns(path, columns)
        return len(place)
    for name, ids in (("user_id", user_ids), ("item_id", item_ids), ("tag", np.array([tag]))):
        odd = [i for i in ids.tolist() if len(str(i).split()) != 1]
        if odd:
            raise DataError(f"{path}: a TREC run can't hold white space, but {name} {odd[0]!r} has some; write .csv")
    rows = zip(*(c.tolist() for c in columns.values()), strict=True)
    text = (f"{user} Q0 {item} {position} {score!r} {tag}\n" for user, item, position, score in rows)
    files.write_text(path, "".join(text))
    return len(place)


def for_l2_index(tables: Tables) -> Tables:
    """Tables whose nearest items by Euclidean distance are the best by score: for indexes without inner products.

    [v, b_i] gets one column √(M² − ‖·‖²), M the longest row, and users a 0 there, so that ‖u − v‖² = ‖u‖² + M² − 2 s_ui
    (Bachrach et al. 2014, doi:10.1145/2645710.2645741). An index with inner products takes `fold_bias(tables)`:

        index = faiss.IndexFlatIP(item.shape[1]); index.add(item); scores, items = index.search(user, k)

    >>> found = for_l2_index(Tables(jnp.ones((1, 2)), jnp.array([[3.0, 4.0], [0.0, 1.0]])))
    >>> jnp.linalg.norm(found.item, axis=1).round(4).tolist()
    [5.0, 5.0]
    """
    folded = fold_bias(tables)
    square = jnp.sum(folded.item**2, axis=1, keepdims=True)
    rest = jnp.sqrt(jnp.maximum(jnp.max(square) - square, 0.0))
    return Tables(
        jnp.concatenate([folded.user, jnp.zeros_like(folded.user[:, :1])], axis=1),
        jnp.concatenate([folded.item, rest], axis=1),
    )
