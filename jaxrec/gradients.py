"""Gradients of a batch at its scored rows, and what the ledger is told of them.

    of scores    g = ∂ℓ/∂s, one number per (interaction, role), by jax.grad of the summed objective
    of rows      g pulled back to the scored rows by jax.vjp, a user's two roles apart; an objective of rows by jax.grad
    observe_*    both, added to the ledger

Rows are user [B, D], positive [B, D] and negative [B, K, D], or shared negatives [K, D]. Where R rows of a batch share
a user (`Batch.rows_per_user`), users are [B/R, D].
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxrec import ledger as ledgers
from jaxrec.models.base import Score, candidate_scores, pair_scores
from jaxrec.objectives import Objective
from jaxrec.rows import length, product
from jaxrec.types import Array, Batch, Params


class ScoreGradients(NamedTuple):
    """∂ℓ/∂s of each interaction of a batch: what train-time transforms re-weight."""

    positive: Array  # [B] = −w⁺
    negative: Array  # [B, K] = w⁻


class RowGradients(NamedTuple):
    """∂ℓ/∂row of each scored row; a user's two paths are kept apart."""

    user_pull: Array  # [B, D] through the positive's score; [B/R, D] where R rows share a user and are summed
    user_push: Array  # as user_pull, through the negatives' scores
    positive: Array  # [B, D]
    negative: Array  # [B, K, D], or [K, D] summed over the batch for shared negatives


class ScoredRows(NamedTuple):
    """The scored rows of a batch, as an objective of rows gets them; the user's comes twice, a role each."""

    pull: Array  # [B, D] the user's, for terms of the positive
    push: Array  # [B, D] the user's, for terms of the negatives
    positive: Array  # [B, D]
    negative: Array  # [B, K, D]


class RowObjective(Protocol):
    """(scored rows, batch, epoch [] int32) -> loss per row [B]."""

    def __call__(self, rows: ScoredRows, batch: Batch, epoch: Array) -> Array: ...


def score_gradients(
    objective: Objective, user: Array, positive: Array, negative: Array, batch: Batch
) -> tuple[Array, ScoreGradients]:
    """Loss per row [B] and its gradients by score, from scored rows; the loss is summed over rows."""
    batch.want_shapes()
    return _by_score(objective, pair_scores(user, positive), _other_scores(user, negative, len(positive)), batch)


def _other_scores(user: Array, negative: Array, rows: int) -> Array:
    """`candidate_scores` [B, K] of users [B, D], or [B/R, D], whose scores of shared negatives are those of R rows."""
    found = candidate_scores(user, negative)
    return found if len(found) == rows else _spread(found, rows // len(user))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _spread(rows: Array, times: int) -> Array:
    """Each row [N, ..] times over, one after the other: [N R, ..]."""
    return jnp.repeat(rows, times, axis=0)


def _fold(rows: Array, times: int) -> Array:
    """[N R, ..] summed over each R neighbours, [N, ..], in one loop with what makes the rows."""
    parts = rows.reshape(-1, times, *rows.shape[1:])
    return functools.reduce(jnp.add, [parts[:, r] for r in range(times)])


_spread.defvjp(lambda rows, times: (_spread(rows, times), None), lambda times, _, g: (_fold(g, times),))


def _by_score(objective: Objective, positive: Array, negative: Array, batch: Batch) -> tuple[Array, ScoreGradients]:
    def total(positive_scores: Array, negative_scores: Array) -> tuple[Array, Array]:
        loss = objective(positive_scores, negative_scores, where=batch.where, log_q=batch.log_q)
        return _total(loss, len(positive)), loss

    gradients, loss = jax.grad(total, argnums=(0, 1), has_aux=True)(positive, negative)
    return loss, ScoreGradients(*gradients)


def _total(loss: Array, rows: int) -> Array:
    """The sum of a loss per row [B]; ValueError for another shape, whose gradients would be of another scale."""
    if loss.shape != (rows,):
        raise ValueError(f"an objective returns a loss per row, [{rows}], got shape {list(loss.shape)}; the step sums")
    return jnp.sum(loss)


def row_gradients(user: Array, positive: Array, negative: Array, g: ScoreGradients) -> RowGradients:
    """Pulls score gradients back to the scored rows with `jax.vjp`, one path a role.

    Users [B/R, D] of R rows each get the sums over these.
    """
    _, through_positive = jax.vjp(pair_scores, user, positive)
    _, through_negative = jax.vjp(lambda u, v: _other_scores(u, v, len(positive)), user, negative)
    user_pull, by_positive = through_positive(g.positive)
    user_push, by_negative = through_negative(g.negative)
    return RowGradients(user_pull, user_push, by_positive, by_negative)


PullBack = Callable[[ScoreGradients], tuple[RowGradients, Params | None]]


def network_gradients(
    score: Score, objective: Objective, params: Params, scored: tuple[Array, Array, Array], batch: Batch
) -> tuple[Array, ScoreGradients, PullBack]:
    """Loss per row [B], its gradients by score, and the way back from these: to the rows, and to what `score` reads.

    scored: user [B, D], positive [B, D] and negative [B, K, D], or shared ones [K, D], which are given to each row as
    its own, so their gradients are [B, K, D], too.
    """
    user, positive, negative = scored
    user = _row_users(user, positive)
    if negative.ndim == 2:
        negative = jnp.broadcast_to(negative[None], (user.shape[0], *negative.shape))
    pair, through_positive = jax.vjp(score, params, user, positive)
    others, through_negative = jax.vjp(lambda p, u, v: score(p, u[:, None, :], v), params, user, negative)
    loss, gradients = _by_score(objective, pair, others, batch)

    def pull_back(g: ScoreGradients) -> tuple[RowGradients, Params]:
        by_params, user_pull, by_positive = through_positive(g.positive)
        also, user_push, by_negative = through_negative(g.negative)
        return RowGradients(user_pull, user_push, by_positive, by_negative), jax.tree.map(jnp.add, by_params, also)

    return loss, gradients, pull_back


def observe_batch(
    ledger: ledgers.GradientLedger,
    batch: Batch,
    scored: tuple[Array, Array, Array],
    g: ScoreGradients,
    rows: RowGradients | None = None,
    *,
    decay: float = 1.0,
    times: int = 1,
) -> ledgers.GradientLedger:
    """Adds a batch's gradients to the ledger, `times` over; `scored` rows are what `score_gradients` got.

    rows: `row_gradients` of these, worked out here where None.

    For an inner product ‖∂ℓ/∂v_i‖ = |∂ℓ/∂s| ‖u‖, which gives the size of every event of a shared negative from one
    matrix-vector product. Negatives that `batch.where` leaves out are no events.
    """
    user, positive, negative = scored
    rows = row_gradients(*scored, g) if rows is None else rows
    by_user = jnp.repeat(length(user), batch.rows_per_user)
    shared = batch.negatives.ndim == 1
    if batch.rows_per_user == 1:
        pull_of_user, push_of_user = length(rows.user_pull), length(rows.user_push)
    else:  # the rows' own, which are not summed yet
        pull_of_user = jnp.abs(g.positive) * length(positive)
        each = "bk,kd->bd" if shared else "bk,bkd->bd"
        push_of_user = length(jnp.einsum(each, g.negative, negative, precision="highest"))
    present = jnp.ones(g.negative.shape, jnp.float32) if batch.where is None else batch.where.astype(jnp.float32)
    if shared:
        push_size, push_count = product(by_user, jnp.abs(g.negative)), jnp.sum(present, axis=0)
    else:
        push_size, push_count = (jnp.abs(g.negative) * by_user[:, None]).ravel(), present.ravel()
    return ledgers.observe(
        ledger,
        item_pull=ledgers.Events(batch.positives, rows.positive, jnp.abs(g.positive) * by_user),
        item_push=ledgers.Events(
            batch.negatives.ravel(), rows.negative.reshape(-1, rows.negative.shape[-1]), push_size, push_count
        ),
        user_pull=_by_user(batch, rows.user_pull, pull_of_user),
        user_push=_by_user(batch, rows.user_push, push_of_user),
        decay=decay,
        times=times,
    )


def _by_user(batch: Batch, gradient: Array, size: Array) -> ledgers.Events:
    """A role of the batch's users: an event a row, whose sizes are [B], the gradients those of `_summed`."""
    if batch.rows_per_user == 1:
        return ledgers.Events(batch.users, gradient, size)
    number = jnp.full(len(batch.users), batch.rows_per_user, size.dtype)
    return ledgers.Events(batch.users, gradient, _fold(size, batch.rows_per_user), number)


def _row_users(user: Array, positive: Array) -> Array:
    """Users of R rows each, [B/R, D], for each row, [B, D]."""
    return user if len(user) == len(positive) else _spread(user, len(positive) // len(user))


def row_objective_gradients(
    objective: RowObjective, user: Array, positive: Array, negative: Array, batch: Batch, epoch: Array
) -> tuple[Array, RowGradients]:
    """Loss per row [B] and its gradients by scored row, the user's two roles apart; the loss is summed over rows.

    Shared negatives [K, D] are given to each row as its own, so their gradients are [B, K, D], too.
    """
    user = _row_users(user, positive)
    if negative.ndim == 2:
        negative = jnp.broadcast_to(negative[None], (user.shape[0], *negative.shape))
        batch = batch._replace(negatives=jnp.broadcast_to(batch.negatives[None], negative.shape[:2]))

    def total(rows: ScoredRows) -> tuple[Array, Array]:
        loss = objective(rows, batch, epoch)
        return _total(loss, len(positive)), loss

    gradients, loss = jax.grad(total, has_aux=True)(ScoredRows(user, user, positive, negative))
    return loss, RowGradients(*gradients)


def observe_rows(
    ledger: ledgers.GradientLedger, batch: Batch, rows: RowGradients, *, decay: float = 1.0, times: int = 1
) -> ledgers.GradientLedger:
    """Adds a batch's gradients by row, `times` over; their own lengths are the sizes; negatives' are [B, K, D], shared
    or not."""
    size = RowGradients(*map(length, rows))
    rows = summed(rows, batch)
    present = jnp.ones(size.negative.shape, jnp.float32) if batch.where is None else batch.where.astype(jnp.float32)
    if batch.negatives.ndim == 1:
        push_size, push_count = jnp.sum(size.negative, axis=0), jnp.sum(present, axis=0)
    else:
        push_size, push_count = size.negative.ravel(), present.ravel()
    return ledgers.observe(
        ledger,
        item_pull=ledgers.Events(batch.positives, rows.positive, size.positive),
        item_push=ledgers.Events(
            batch.negatives.ravel(), rows.negative.reshape(-1, rows.negative.shape[-1]), push_size, push_count
        ),
        user_pull=_by_user(batch, rows.user_pull, size.user_pull),
        user_push=_by_user(batch, rows.user_push, size.user_push),
        decay=decay,
        times=times,
    )


def summed(rows: RowGradients, batch: Batch) -> RowGradients:
    """The gradients of shared negatives summed over the batch, and a user's over R rows, where each row had its own."""
    if batch.negatives.ndim == 1 and rows.negative.ndim == 3:
        rows = rows._replace(negative=jnp.sum(rows.negative, axis=0))
    if len(rows.user_pull) != len(batch.users):
        pull, push = (_fold(x, batch.rows_per_user) for x in (rows.user_pull, rows.user_push))
        rows = rows._replace(user_pull=pull, user_push=push)
    return rows
