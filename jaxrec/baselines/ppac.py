"""PPAC: popularity among those alike in place of popularity among all (Ning et al. 2024, WWW, arXiv 2402.07425).

    f_ui = s_ui σ(⟨φ(u), φ(v_i)⟩) σ(ψ(v_i))
    L    = BPR(f) + λ/2 Σ over the positive and the mean negative [(σ(⟨φ(u), φ(v)⟩) − PP_u)² + (σ(ψ(v)) − GP)²]
    PP_u = how many of S_u have each item, S_u the users most similar to u by |I_u ∩ I_v|/|I_u ∪ I_v|, at length 1
    GP   = n at length 1
    test   f_ui + γ PP_ui + β GP_i, with γ > 0 and β < 0

φ and ψ are networks of one hidden layer that see the embeddings before any propagation. The gates learn to predict
personal and global popularity; at test time their direct effects are set anew. This is what the authors' code does
(github.com/Stevenn9981/PPAC).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import presets
from jaxrec.baselines.base import Method, known_strengths, want_objective, want_plain_rows
from jaxrec.data.interactions import Interactions
from jaxrec.gradients import RowObjective, ScoredRows
from jaxrec.models import Model, candidate_scores, pair_scores
from jaxrec.objectives import row_mean
from jaxrec.presets import Settings
from jaxrec.rows import product
from jaxrec.samplers import find_pairs
from jaxrec.step import make_row_step
from jaxrec.types import Array, Batch, Params, Scorer

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SETTINGS = Settings(
    objective="bpr", normalize_users=False, layers=3, reject=True, optimizer="adam", learning_rate=1e-3, l2=1e-4
)
"""BPR with one negative a row."""

BLOCK = 256  # users whose neighbours are sought at once


def similar_users(train: Interactions, *, neighbours: int = 30) -> csr_array:
    """S [U, U] sparse, a 1 at the `neighbours` users most similar to each, of equal ones the smaller ids.

    Users without a common item are no neighbours, and nobody is one's own.
    """
    from scipy.sparse import csr_array

    size, k = train.num_users, min(neighbours, train.num_users)
    by_user, by_item = train.to_scipy().tocsr(), train.to_scipy().T.tocsr()
    counts = train.user_counts.astype(np.float32)
    best = jax.jit(lambda found: jax.lax.top_k(found, k))
    rows, columns = [], []
    for start in range(0, size, BLOCK):
        block = np.arange(start, min(start + BLOCK, size))
        common = (by_user[block] @ by_item).toarray().astype(np.float32)
        similar = common / np.maximum(counts[block, None] + counts[None, :] - common, 1.0)
        similar[np.arange(len(block)), block] = 0.0
        found, where = map(np.asarray, best(jnp.asarray(similar)))
        kept = found > 0
        rows.append(np.repeat(block, kept.sum(axis=1)))
        columns.append(where[kept])
    pairs = (np.concatenate(rows), np.concatenate(columns))
    return csr_array((np.ones(len(pairs[0]), np.float32), pairs), shape=(size, size))


class Popularity(NamedTuple):
    """PP in CSR form with ids ascending in each row, and GP."""

    personal: csr_array  # [U, I]
    everywhere: np.ndarray  # [I]


def popularity(train: Interactions, *, neighbours: int = 30) -> Popularity:
    """PP and GP of a training set, rows of length 1; one that is empty stays so."""
    found = (similar_users(train, neighbours=neighbours) @ train.to_scipy()).tocsr().astype(np.float32)
    found.sort_indices()
    lengths = np.sqrt(found.multiply(found).sum(axis=1))
    found.data /= np.repeat(np.maximum(lengths, 1e-12), np.diff(found.indptr))
    counts = train.item_counts.astype(np.float32)
    return Popularity(found, counts / max(float(np.linalg.norm(counts)), 1e-12))


def gated(model: Model, *, hidden: int, leak: float) -> Model:
    """Scored rows with what the gates need: [u, φ(u), 0] and [v, φ(v), ψ(v)], of 2D + 1 columns.

    Parameters are {"base": the model's own, "pair": φ's layers, "item": ψ's}, each layer a matrix and a bias, drawn
    uniformly from ± 1/√inputs. `leak` is the slope of the hidden layer's rectifier below 0.
    """
    width = model.width
    inner = model.tables if model.penalized is None else model.penalized

    def init(key: Array) -> Params:
        base_key, *keys = jax.random.split(key, 9)
        draws = iter(keys)

        def layers(out: int) -> dict[str, Array]:
            sizes = {"first": (width, hidden), "first_bias": (1, hidden), "last": (hidden, out), "last_bias": (1, out)}
            bounds = (width, width, hidden, hidden)
            return {
                name: jax.random.uniform(next(draws), shape, minval=-(n**-0.5), maxval=n**-0.5)
                for (name, shape), n in zip(sizes.items(), bounds, strict=True)
            }

        return {"base": model.init(base_key), "pair": layers(width), "item": layers(1)}

    def network(layers: dict[str, Array], rows: Array) -> Array:
        seen = product(rows, layers["first"]) + layers["first_bias"]
        return product(jnp.where(seen > 0, seen, leak * seen), layers["last"]) + layers["last_bias"]

    def tables(params: Params) -> tuple[Array, Array]:
        (user, item), (u, v) = model.tables(params["base"]), inner(params["base"])
        pair, own = params["pair"], params["item"]
        users = jnp.concatenate([user, network(pair, u), jnp.zeros_like(u[:, :1])], axis=1)
        return users, jnp.concatenate([item, network(pair, v), network(own, v)], axis=1)

    return model._replace(
        width=2 * width + 1,
        vector_width=width,
        init=init,
        tables=tables,
        tables_are_params=False,
        penalized=lambda params: inner(params["base"]),
    )


def _parts(rows: Array) -> tuple[Array, Array, Array]:
    width = rows.shape[-1] // 2
    return rows[..., :width], rows[..., width:-1], rows[..., -1]


def objective(known: Popularity, *, weight: float = 1e-3) -> RowObjective:
    """The loss of a row of `gated`; λ = `weight` is that of the gates' errors."""
    if weight < 0:
        raise ValueError(f"ppac wants weight >= 0, got {weight}; the source has 1e-3")
    starts, items = (jnp.asarray(x, jnp.int32) for x in (known.personal.indptr, known.personal.indices))
    values, everywhere = jnp.asarray(known.personal.data), jnp.asarray(known.everywhere)

    def personal(users: Array, candidates: Array) -> Array:
        if not values.size:  # no two users have an item in common
            return jnp.zeros(candidates.shape, values.dtype)
        where, found = find_pairs(starts, items, users, candidates)
        return jnp.where(found, values.at[where].get(mode="fill", fill_value=0.0), 0.0)

    def loss(rows: ScoredRows, batch: Batch, epoch: Array) -> Array:
        (u, p, _), (w, q, _), (v, own, by_item), (others, theirs, by_others) = map(_parts, rows)
        gate, item_gate = jax.nn.sigmoid(pair_scores(p, own)), jax.nn.sigmoid(by_item)
        gates, item_gates = jax.nn.sigmoid(candidate_scores(q, theirs)), jax.nn.sigmoid(by_others)
        positive, negative = pair_scores(u, v) * gate * item_gate, candidate_scores(w, others) * gates * item_gates
        found = row_mean(jax.nn.softplus(negative - positive[:, None]), batch.where)
        if weight:
            wanted = personal(batch.users, jnp.concatenate([batch.positives[:, None], batch.negatives], axis=1))
            error = (gate - wanted[:, 0]) ** 2 + (item_gate - everywhere[batch.positives]) ** 2
            errors = (gates - wanted[:, 1:]) ** 2 + (item_gates - everywhere[batch.negatives]) ** 2
            found += weight / 2 * (error + row_mean(errors, batch.where))
        return found

    return loss


def scorer(
    user: Array, item: Array, train: Interactions, known: Popularity, *, gamma: float, beta: float
) -> Scorer:
    """f_ui + γ PP_ui + β GP_i of a block of users by all items, from the rows of `gated`."""
    everywhere = jnp.asarray(beta * known.everywhere)

    @jax.jit
    def block(user: Array, item: Array, personal: Array) -> Array:
        (u, p, _), (v, q, own) = _parts(user), _parts(item)
        scores = product(u, v.T) * jax.nn.sigmoid(product(p, q.T)) * jax.nn.sigmoid(own)[None, :]
        return scores + gamma * personal + everywhere[None, :]

    def scores(users: np.ndarray) -> Any:
        return block(user[users], item, jnp.asarray(known.personal[users].toarray()))

    return Scorer(train.num_users, train.num_items, scores)


def build(
    settings: Settings,
    train: Interactions,
    *,
    gamma: float = 64.0,
    beta: float = -32.0,
    neighbours: int = 30,
    weight: float = 1e-3,
) -> Method:
    """BPR of gated scores on any backbone, and PPAC's γ and β at test time; λ = `weight`.

    φ and ψ have D/2 hidden units with a leak of .01 on mf, 2D without one on lightgcn, as the authors' have. Their
    (γ, β) are (64, −32) for MF on ML-1M, (512, −1024) on Gowalla, and (16, −8) and (64, −512) for LightGCN there. PP
    is no inner product, so there is no arm: call `rank` with each pair of strengths to be tried. A row of PP has as
    many entries as its neighbours have items, 8 bytes each, in compiled steps.
    """
    want_objective("ppac", settings, "bpr")
    want_plain_rows("ppac", settings)
    if neighbours < 1:
        raise ValueError(f"ppac wants at least one neighbour, got {neighbours}")
    if settings.shared or settings.in_batch:
        raise ValueError("ppac wants negatives of each row's own; leave shared and in_batch at False")
    known = popularity(train, neighbours=neighbours)
    flat = settings.backbone == "mf"
    hidden, leak = (max(settings.width // 2, 1), 0.01) if flat else (2 * settings.width, 0.0)
    model, sampler, step = presets.build(
        settings,
        train,
        objective=objective(known, weight=weight),
        make=make_row_step,
        wrap=lambda model: gated(model, hidden=hidden, leak=leak),
    )
    strengths = {"gamma": gamma, "beta": beta}

    def rank(params: Params, **given: float) -> Scorer:
        user, item = model.tables(params)
        return scorer(user, item, train, known, **known_strengths(strengths, given))

    return Method(model, sampler, step, rank, strengths)
