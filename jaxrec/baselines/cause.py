"""CausE: a second item table for what was shown at random, tied to the first (Bonner, Vasile 2018, arXiv 1706.07639).

    L = loss of S_c with ⟨u, v_i^c⟩ + loss of S_t with ⟨u, v_i^t⟩ + λ ‖v^c − v^t‖²/W

S_t is a small sample without popularity bias. Where there is none, S_t are training interactions taken with a
probability ∝ 1/n_i, and S_c is the rest.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np

from jaxrec import objectives, presets
from jaxrec.baselines.base import Method, known_strengths, want_linear, want_objective, want_plain_rows
from jaxrec.baselines.parts import BPR
from jaxrec.data.interactions import Interactions
from jaxrec.gradients import RowObjective, ScoredRows
from jaxrec.models import Model, candidate_scores, pair_scores
from jaxrec.objectives import Objective, row_mean
from jaxrec.presets import Settings
from jaxrec.samplers import find_pairs
from jaxrec.select import Arm
from jaxrec.step import make_row_step
from jaxrec.transforms.adjustment import Adjustment
from jaxrec.types import Array, Batch, Params, Tables

SETTINGS = BPR
"""`objective` may be bce."""


def treated(train: Interactions, *, part: float = 0.1, seed: int = 0) -> np.ndarray:
    """Which interactions go to S_t, [E] bool ordered by (user, item): each with min(1, c/n_i), E · part expected."""
    if not 0 <= part < 1:
        raise ValueError(f"cause wants a part of the interactions in [0, 1), got {part}; 0.1 is usual")
    chance = 1.0 / train.item_counts[train.csr()[1]]
    low, high = 0.0, float(train.item_counts.max())
    for _ in range(60):  # Σ min(1, c/n_i) rises with c
        c = (low + high) / 2
        low, high = (c, high) if np.minimum(1, c * chance).mean() < part else (low, c)
    drawn: np.ndarray = np.random.default_rng(seed).random(len(chance)) < np.minimum(1, high * chance)
    return drawn & (part > 0)


def with_sample(train: Interactions, sample: Interactions) -> tuple[Interactions, np.ndarray]:
    """Both sets as one, and which of its interactions are of the sample, [E] bool ordered by (user, item)."""
    if not isinstance(sample, Interactions):
        raise ValueError(f"cause's sample must be Interactions, got {sample!r}; the share of train is part")
    if (sample.num_users, sample.num_items) != (train.num_users, train.num_items):
        wanted, got = f"{train.num_users} x {train.num_items}", f"{sample.num_users} x {sample.num_items}"
        raise ValueError(f"cause wants a sample of the training set's {wanted} users and items, got {got}")
    keys = np.union1d(train.keys, sample.keys)
    both = Interactions(keys // train.num_items, keys % train.num_items, train.num_users, train.num_items)
    return both, np.isin(keys, sample.keys)


def twins(model: Model) -> Model:
    """A model of 2W columns with one user table [U, W] read twice: [u, u] and [v^c, v^t].

    A backbone that mixes rows linearly, column by column, mixes either half like a model of its own.
    """
    half = model.vector_width // 2

    def init(key: Array) -> Params:
        params = model.init(key)
        return {**params, "user": params["user"][:, :half]}

    def doubled(params: Params) -> Params:
        return {**params, "user": jnp.concatenate([params["user"], params["user"]], axis=1)}

    inner = model.tables if model.penalized is None else model.penalized

    def penalized(params: Params) -> tuple[Array, Array]:
        # λ/2 ‖u‖² once, although the row stands in both halves.
        user, item = inner(doubled(params))
        return user * 0.5**0.5, item

    return model._replace(
        init=init, tables=lambda params: model.tables(doubled(params)), tables_are_params=False, penalized=penalized
    )


def objective(
    train: Interactions, in_sample: np.ndarray, base: Objective, *, distance: float = 0.05
) -> RowObjective:
    """ℓ = base loss of the table that the interaction belongs to + λ (‖v_i^c − v_i^t‖² + mean_j ‖v_j^c − v_j^t‖²)/W.

    The distance is a mean over the W columns, as in the code of DICE and of RecBole-Debias, whose λ are .01 and .1.

    in_sample [E]: which interactions of `train`, ordered by (user, item), are S_t. With none of them and λ = 0 the
    first table is that of the plain model.
    """
    if distance < 0:
        raise ValueError(f"cause wants a distance weight >= 0, got {distance}; 0.05 is usual")
    starts, items = (jnp.asarray(x, jnp.int32) for x in train.csr())
    flags = jnp.asarray(in_sample, jnp.float32)

    def loss(rows: ScoredRows, batch: Batch, epoch: Array) -> Array:
        where, _ = find_pairs(starts, items, batch.users, batch.positives[:, None])
        t = flags[where]  # [B, 1]
        half = rows.pull.shape[-1] // 2
        mask = jnp.concatenate([jnp.repeat(1.0 - t, half, axis=1), jnp.repeat(t, half, axis=1)], axis=1)
        positive = pair_scores(rows.pull * mask, rows.positive)
        negative = candidate_scores(rows.push * mask, rows.negative)
        apart = _gap(rows.positive) + row_mean(_gap(rows.negative), batch.where)
        return base(positive, negative, where=batch.where) + distance * apart

    return loss


def _gap(rows: Array) -> Array:
    first, second = jnp.split(rows, 2, axis=-1)
    return jnp.mean((first - second) ** 2, axis=-1)


def build(
    settings: Settings,
    train: Interactions,
    *,
    sample: Interactions | None = None,
    part: float = 0.1,
    distance: float = 0.05,
    treatment: float = 0.0,
    split_seed: int = 0,
) -> Method:
    """CausE on a backbone of this library. λ = `distance`; it ranks by (1 − ω) v^c + ω v^t, ω = `treatment`.

    sample: unbiased interactions for S_t, drawn like the unbiased test and not of it; None takes `part` of the training
        interactions. Items that it adds to a user's are positives of training, so exclude them when ranking, too.
    """
    want_objective("cause", settings, "bpr", "bce")
    want_plain_rows("cause", settings)
    want_linear("cause", settings)
    both, flags = (train, treated(train, part=part, seed=split_seed)) if sample is None else with_sample(train, sample)
    base = objectives.bpr() if settings.objective == "bpr" else objectives.bce()
    double = replace(settings, width=2 * settings.width, init_scale=settings.init_scale * 2**0.5)
    loss = objective(both, flags, base, distance=distance)
    model, sampler, step = presets.build(double, both, objective=loss, make=make_row_step, wrap=twins)
    strengths = {"treatment": treatment}

    def rank(params: Params, **given: float) -> Tables:
        return _mixed(Tables(*model.tables(params)), known_strengths(strengths, given)["treatment"])

    return Method(model, sampler, step, rank, strengths, partial(arm, model))


def _mixed(tables: Tables, share: float | Array) -> Tables:
    first, second = jnp.split(tables.item, 2, axis=1)
    return tables._replace(item=jnp.concatenate([(1.0 - share) * first, share * second], axis=1))


def arm(model: Model, params: Params) -> Arm:
    """ω in [0, 1], on the tables of ω = 0."""
    item = model.tables(params)[1]

    def adjust(s: Array) -> Adjustment:
        return lambda tables, ledger: _mixed(tables._replace(item=item), s[0])

    return Arm(("treatment",), (0,), (1.0,), adjust)
