"""Reading gradients off tables that were trained elsewhere: one pass over the interactions, nothing is updated.

    tables --fold bias--> one inner product --/τ--> a softmax that fits the data --frozen steps--> GradientLedger

Scores of other libraries live on other scales: ALS has them near 0 to 1, BPR in logits, a cosine within 1. A loss read
at the wrong scale sees gradients that are all alike (scores too small) or gone (too large). Dividing by a positive
number changes no ranking, so the scale is free to choose: by default one temperature τ is fitted to the interactions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import objectives, optim, rank, samplers
from jaxrec.ledger import GradientLedger
from jaxrec.models.base import Model, candidate_scores, pair_scores
from jaxrec.names import want_number
from jaxrec.objectives import Objective
from jaxrec.rows import power_of_two, product, widened
from jaxrec.step import Observation, make_step
from jaxrec.train import make_epoch
from jaxrec.transforms.adjustment import fold_bias
from jaxrec.types import Array, Batch, Tables

if TYPE_CHECKING:
    from jaxrec.data.interactions import Interactions

TEMPERATURES = (1e-3, 1e3)  # what a fitted τ may be, in units of the median `score_scale` of users with a history


def frozen_model(tables: Tables) -> Model:
    """The tables as a `Model`, biases folded in: its parameters start as a copy of them.

    >>> model = frozen_model(Tables(jnp.ones((2, 3)), jnp.ones((4, 3)), item_bias=jnp.ones(4)))
    >>> model.num_users, model.num_items, model.width
    (2, 4, 4)
    """
    folded = _folded(tables)
    width = folded.user.shape[1]
    return Model(
        num_users=folded.user.shape[0],
        num_items=folded.item.shape[0],
        width=width,
        vector_width=width,
        # Copies, because an epoch is given its state to reuse, and the tables stay the caller's.
        init=lambda key: {"user": jnp.array(folded.user), "item": jnp.array(folded.item)},
        tables=lambda params: (params["user"], params["item"]),
        tables_are_params=True,
    )


def _folded(tables: Tables) -> Tables:
    """Tables without biases, in no less than 32 bits: in 16, sums over items overflow and gradients are rounded."""
    return fold_bias(jax.tree.map(widened, tables))


def score_scale(tables: Tables) -> Array:
    """The standard deviation of each user's scores over all items, [U]; 1 where all scores are equal.

    sd_u² = uᵀ C u with C [D, D] the covariance of the item rows: no score is computed.

    >>> score_scale(Tables(jnp.array([[2.0], [0.0]]), jnp.array([[1.0], [-1.0]]))).tolist()
    [2.0, 1.0]
    """
    spread = _spread(tables)
    return jnp.where(spread > 0, spread, 1.0)


def _spread(tables: Tables) -> Array:
    """`score_scale`, and 0 where all scores are equal."""
    folded = _folded(tables)
    of_user = power_of_two(jnp.max(jnp.abs(folded.user), axis=1))  # so that squares neither vanish nor overflow
    of_item = power_of_two(jnp.max(jnp.abs(folded.item)))
    user, item = folded.user * of_user[:, None], folded.item * of_item
    centred = item - jnp.mean(item, axis=0, keepdims=True)
    covariance = product(centred.T, centred) / len(item)
    square = jnp.sum(product(user, covariance) * user, axis=1)
    # Rounding alone leaves so much of a user whose scores are all equal.
    floor = 1e-12 * jnp.maximum(jnp.sum(user**2, axis=1) * jnp.trace(covariance), 1e-30)
    differ = square > floor
    return jnp.where(differ, jnp.sqrt(jnp.where(differ, square, 1.0)) / of_user / of_item, 0.0)


def usual_scale(tables: Tables) -> float:
    """The median of `score_scale` over the users whose scores differ; 1 where nobody's do.

    >>> usual_scale(Tables(jnp.array([[2.0], [0.0], [0.0]]), jnp.array([[1.0], [-1.0]])))
    2.0
    """
    spreads = np.asarray(_spread(tables))
    return float(np.median(spreads[spreads > 0])) if spreads.any() else 1.0


def scale_users(tables: Tables, factor: Array) -> Tables:
    """Every user's scores times a positive factor [U]; no ranking changes. Biases are folded in."""
    folded = _folded(tables)
    return folded._replace(user=folded.user * factor[:, None])


def standardize(tables: Tables) -> tuple[Tables, Array]:
    """Tables whose scores have a standard deviation of 1 for every user, and what that divided by, [U]."""
    scale = score_scale(tables)
    return scale_users(tables, 1.0 / scale), scale


def want_temperature(temperature: Any) -> None:
    """ValueError for what is no positive number."""
    want_number('a temperature, where it is not "fit",', temperature)
    if not temperature > 0:
        raise ValueError(f'temperature must be positive or "fit", got {temperature}')


def fit_temperature(
    tables: Tables,
    interactions: Interactions,
    *,
    rows: int = 8192,
    num_negatives: int = 1024,
    seed: int = 0,
) -> float:
    """The τ of P(i | u) ∝ exp(s_ui / τ) that makes the interactions most likely.

    The loss is that of a sampled softmax with uniform negatives and their logQ, on at most `rows` interactions drawn at
    random. It is convex in 1/τ, so the search on one axis finds the only minimum. Tables that rank no better than by
    chance have none, and get the largest τ of `TEMPERATURES`, which are in units of the scores' own spread.
    """
    from scipy.optimize import minimize_scalar

    folded = _folded(tables)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(interactions), min(rows, len(interactions)), replace=False)
    users, items = interactions.users[chosen], interactions.items[chosen]
    negatives = rng.integers(0, interactions.num_items, num_negatives)
    own = folded.user[users]
    positive = pair_scores(own, folded.item[items])
    negative = candidate_scores(own, folded.item[negatives])
    where = jnp.asarray(negatives[None, :] != items[:, None])
    log_q = jnp.full(num_negatives, np.log(num_negatives / interactions.num_items), jnp.float32)
    loss = objectives.softmax(logq=True)

    @jax.jit
    def at(log_inverse: Array) -> Array:
        inverse = jnp.exp(log_inverse)
        return jnp.mean(loss(inverse * positive, inverse * negative, where=where, log_q=log_q))

    spread = usual_scale(folded._replace(user=folded.user[np.flatnonzero(interactions.user_counts)]))
    low, high = (float(-np.log(t * spread)) for t in reversed(TEMPERATURES))
    best = minimize_scalar(lambda x: float(at(jnp.float32(x))), bounds=(low, high), method="bounded")
    return float(np.exp(-best.x))


def _with_log_q(draw: Callable[..., Batch], interactions: Interactions) -> Callable[..., Batch]:
    """Batches with the log of how often each of a row's own K negatives is expected: K / (I − n_u), as they are drawn
    from what the user does not have."""
    left = jnp.asarray(interactions.num_items - interactions.user_counts, jnp.float32)

    def drawn(data: Any, key: Array, step: Array) -> Batch:
        batch = draw(data, key, step)
        shape = batch.negatives.shape
        return batch._replace(log_q=jnp.broadcast_to(jnp.log(shape[1] / left[batch.users])[:, None], shape))

    return drawn


def observe(
    tables: Tables,
    interactions: Interactions,
    objective: Objective | None = None,
    *,
    passes: int = 1,
    batch_size: int = 2048,
    num_negatives: int = 1024,
    shared: bool = True,
    temperature: float | Literal["fit"] = "fit",
    standardized: bool = False,
    key: Array | None = None,
    observation: Observation = Observation(),  # noqa: B008  an immutable tuple
) -> GradientLedger:
    """The gradient ledger of tables that stay as they are, from `passes` over the interactions.

    objective: a sampled softmax with logQ by default; `objectives.bpr()` or `bce()` where the model was trained so.
    num_negatives, shared: uniform negatives, known positives left out; one set for a batch, or a set for each row.
    temperature: what scores are divided by; "fit" takes `fit_temperature`.
        With 1.0 the gradients are those of the tables as given, as for a model of this library.
    standardized: divide each user's scores by their own standard deviation first, so that users weigh alike.
    key: of order and negatives; `jax.random.key(0)` by default.

    Tables with biases are folded, so the ledger's vectors are as wide as `fold_bias(tables)`.

    Raises:
        ValueError: tables that don't fit each other or are not finite, interactions of another number of users or
            items, passes < 1, a temperature that is not positive; with a set of negatives for each row, a user that has
            every item.
    """
    num_users, num_items = rank.check_tables(tables)
    if (interactions.num_users, interactions.num_items) != (num_users, num_items):
        raise ValueError(
            f"interactions must cover the tables' {num_users} users and {num_items} items, got "
            f"{interactions.num_users} and {interactions.num_items}; `data.reindex` moves pairs to a model's ids"
        )
    if passes < 1:
        raise ValueError(f"passes must be at least 1, got {passes}")
    scaled = standardize(tables)[0] if standardized else _folded(tables)
    tau = fit_temperature(scaled, interactions) if temperature == "fit" else temperature
    want_temperature(tau)
    model = frozen_model(scaled._replace(user=scaled.user / tau))
    sampler = samplers.sampler(
        interactions,
        batch_size=batch_size,
        num_negatives=num_negatives,
        shared=shared,
        reject=True,
    )
    if not shared:
        sampler = sampler._replace(draw=_with_log_q(sampler.draw, interactions))
    step = make_step(
        model,
        objectives.softmax(logq=True) if objective is None else objective,
        optim.frozen(),
        observation=observation,
    )
    state, epoch = step.init(jax.random.key(0) if key is None else key), make_epoch(step, sampler)
    for _ in range(passes):
        state, _ = epoch(state)
    assert state.ledger is not None, "observation is never None here"
    return state.ledger
