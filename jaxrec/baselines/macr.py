"""MACR: scores through a user and an item branch, whose own effect is taken off (Wei et al. 2021, arXiv 2010.15363).

    f_ui = s_ui σ(⟨u, a⟩) σ(⟨v_i, b⟩)
    L    = BCE(f) + α BCE(⟨v, b⟩) + β BCE(⟨u, a⟩), over positives with label 1 and negatives with label 0
    test   (s_ui − c) σ(⟨u, a⟩) σ(⟨v_i, b⟩)

The user's factor is positive and the same for all items, so it changes no ranking; the rest is an inner product,
[u, 1] by [σ_i v_i, −c σ_i].

The authors' code (github.com/weitianxin/MACR) trains something else: there scores have the shape [B] and the branches
[B, 1], so their product is [B, B], and the loss is the mean over all pairs of a score with the branches of *another*
row: f_rc = s_c σ(⟨u_r, a⟩) σ(⟨v_r, b⟩). Its published figures are of that; `across` does the same.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import objectives, presets
from jaxrec.baselines.base import Method, known_strengths, want_objective
from jaxrec.data.interactions import Interactions
from jaxrec.gradients import RowObjective, ScoredRows
from jaxrec.ledger import GradientLedger
from jaxrec.models import Model, candidate_scores, pair_scores
from jaxrec.models.base import identity
from jaxrec.presets import Settings
from jaxrec.rows import product
from jaxrec.select import Arm
from jaxrec.step import make_row_step
from jaxrec.transforms.adjustment import Adjustment, ScoreChange
from jaxrec.types import Array, Batch, Params, Tables

NODES = 64  # for `across`

SETTINGS = Settings(
    objective="bce", normalize_users=False, layers=2, reject=True, optimizer="adam", learning_rate=1e-3, l2=1e-5
)
"""The source's: D 64, Adam, two layers of LightGCN."""


def branches(model: Model, *, scale: float = 0.1) -> Model:
    """Scored rows with the branch's logit in a last column: [u, ⟨u, a⟩] and [v, ⟨v, b⟩], of D + 1 columns.

    Parameters are {"base": the model's own, "user": a [D], "item": b [D]}, a and b ~ N(0, scale²) at the start.
    """

    def init(key: Array) -> Params:
        base_key, *keys = jax.random.split(key, 3)
        a, b = (scale * jax.random.normal(k, (model.width,)) for k in keys)
        return {"base": model.init(base_key), "user": a, "item": b}

    def tables(params: Params) -> tuple[Array, Array]:
        user, item = model.tables(params["base"])
        return _beside(model.user_head(user), params["user"]), _beside(model.item_head(item), params["item"])

    inner = model.tables if model.penalized is None else model.penalized
    return model._replace(
        width=model.width + 1,
        vector_width=model.width,
        init=init,
        tables=tables,
        user_head=identity,
        item_head=identity,
        tables_are_params=False,
        penalized=lambda params: inner(params["base"]),
    )


def _beside(rows: Array, along: Array) -> Array:
    return jnp.concatenate([rows, product(rows, along)[:, None]], axis=1)


def objective(*, alpha: float = 1e-3, beta: float = 1e-3, across: bool = False) -> RowObjective:
    """ℓ = BCE(f) + α BCE of the items' branch + β BCE of the user's, on rows of `branches`.

    BCE = softplus(−x) of the positive + mean_j softplus(x_j) of the negatives; the user's branch has the same logit in
    both roles. With α = β = 0 and a = b = 0 it is BCE of s/4.

    across: BCE(f) of a row is the mean over the batch's scores, each with this row's branches, as the authors' code
        computes it.
    """
    if alpha < 0 or beta < 0:
        raise ValueError(f"macr wants alpha and beta >= 0, got {alpha} and {beta}; the source has 1e-3 for both")
    bce = objectives.bce()

    def loss(rows: ScoredRows, batch: Batch, epoch: Array) -> Array:
        (pull, by_pull), (push, by_push), (positive, by_item), (negative, by_others) = map(_apart, rows)
        gate = jax.nn.sigmoid(by_pull) * jax.nn.sigmoid(by_item)
        gates = jax.nn.sigmoid(by_push)[:, None] * jax.nn.sigmoid(by_others)
        scores, others = pair_scores(pull, positive), candidate_scores(push, negative)
        if across:
            whole = _across(scores, others, gate, gates, batch.where)
        else:
            whole = bce(scores * gate, others * gates, where=batch.where)
        items = bce(by_item, by_others, where=batch.where)
        users = bce(by_pull, jnp.broadcast_to(by_push[:, None], by_others.shape), where=batch.where)
        return whole + alpha * items + beta * users

    return loss


def _across(scores: Array, others: Array, gate: Array, gates: Array, where: Array | None) -> Array:
    """BCE of each row's branches with the scores of all rows: [B], [B, K], [B], [B, K] -> [B]."""
    there = jnp.ones_like(others) if where is None else where.astype(others.dtype)
    pull = _summed_softplus(gate[:, None], -scores[:, None], jnp.full_like(scores[:, None], 1 / len(scores)))[:, 0]
    push = jnp.sum(there * _summed_softplus(gates, others, there), axis=1)
    return pull + push / jnp.maximum(product(there, jnp.sum(there, axis=0)), 1.0)


def _summed_softplus(gates: Array, scores: Array, weights: Array) -> Array:
    """Σ_c w_ck softplus(g_rk s_ck) for gates g in [0, 1], all [B, K] -> [B, K], without the B x B pairs.

    For each k it is a smooth function of the one number g, so its values at `NODES` Chebyshev nodes of [0, 1] give all
    others: the error is that of float32 where |s| is below 100.
    """
    angle = np.pi * (np.arange(NODES) + 0.5) / NODES
    nodes = jnp.asarray((1 + np.cos(angle)) / 2, scores.dtype)
    values = jnp.sum(weights[None] * jax.nn.softplus(nodes[:, None, None] * scores[None]), axis=1)
    turn = np.cos(np.arange(NODES)[:, None] * angle[None, :]) * 2 / NODES
    turn[0] /= 2
    terms = product(jnp.asarray(turn, scores.dtype), values)  # [NODES, K] of Chebyshev polynomials
    t = 2 * gates - 1
    last = before = jnp.zeros_like(t)  # Clenshaw's recurrence
    for k in range(NODES - 1, 0, -1):
        last, before = 2 * t * last - before + terms[k : k + 1], last
    return t * last - before + terms[:1]


def _apart(rows: Array) -> tuple[Array, Array]:
    return rows[..., :-1], rows[..., -1]


def build(
    settings: Settings,
    train: Interactions,
    *,
    alpha: float = 1e-3,
    beta: float = 1e-3,
    c: float = 40.0,
    across: bool = False,
) -> Method:
    """MACR on any backbone; α is the items' weight, β the users', and c the strength at test time.

    across: trains what the authors' code does in place of the paper's formula, see `objective`.

    The source tunes c, about 30 to 40, and has α 1e-3 or 1e-2 on MF by data set (1e-3 on Adressa) and 1e-2 on LightGCN,
    which `baselines.build` takes there. `arm` tunes c from 0 to 80.
    """
    want_objective("macr", settings, "bce")
    loss = objective(alpha=alpha, beta=beta, across=across)
    model, sampler, step = presets.build(settings, train, objective=loss, make=make_row_step, wrap=branches)
    strengths = {"c": c}

    def rank(params: Params, **given: float) -> Tables:
        return tables_at(model, params, known_strengths(strengths, given)["c"])

    return Method(model, sampler, step, rank, strengths, partial(arm, model))


def tables_at(model: Model, params: Params, c: float | Array) -> Tables:
    """[u, 1] and [σ_i v_i, −c σ_i] of a model of `branches`."""
    user, item = model.tables(params)
    gate = jax.nn.sigmoid(item[:, -1:])
    ones = jnp.ones_like(user[:, :1])
    return Tables(
        jnp.concatenate([user[:, :-1], ones], axis=1), jnp.concatenate([gate * item[:, :-1], -c * gate], axis=1)
    )


def arm(model: Model, params: Params, *, high: float = 80.0) -> Arm:
    """c in [0, high], on the tables of c = 0."""
    gate = jax.nn.sigmoid(model.tables(params)[1][:, -1])

    def adjust(s: Array) -> Adjustment:
        def apply(tables: Tables, ledger: GradientLedger) -> Tables:
            return tables._replace(item=tables.item.at[:, -1].add(-s[0] * gate))

        return apply

    def change(s: Array) -> ScoreChange:
        left = -s[0] * jnp.ones((model.num_users, 1))
        return ScoreChange(jnp.ones_like(gate), left, gate[:, None], jnp.zeros(0))

    return Arm(("c",), (0,), (high,), adjust, change)
