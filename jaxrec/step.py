"""One training step, cut at the scored rows so that per-item gradients pass through the ledger.

    rows    = heads(gather(tables(params)))                 vjp kept
    scores  = inner products of rows                        vjp kept
    g       = jax.grad of the summed objective by scores    one number per (interaction, role)
    g'      = transform(g)                                  an optax chain, the identity in the paper's setting
    ledger  = observe(gradients by row, from g or g')       explicit state out
    params  = optimiser(gradients by row from g', pulled back through the heads)

A model with a `score` of its own, a network of both rows, is cut at the same two places: at its scores, and at the rows
that the network gets. A loss that no scores tell (branches, several embeddings in a row) is an objective of rows, which
`make_row_step` cuts by jax.grad at the scored rows themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from jaxrec import ledger as ledgers
from jaxrec.models.base import Model, Score, candidate_scores, pair_scores
from jaxrec.objectives import Objective
from jaxrec.optim import RowOptimizer
from jaxrec.rows import length, product, take
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


class TrainState(NamedTuple):
    """All that the next step needs."""

    params: Params
    optimizer: Any
    transform: Any
    ledger: ledgers.GradientLedger | None
    key: Array  # typed key; epoch t draws from fold_in(key, t)
    epoch: Array  # [] int32


class Info(NamedTuple):
    """What a person looks at, one number a step."""

    loss: Array  # mean over rows
    pull: Array  # mean w⁺ over rows; of an objective of rows the mean ‖∂ℓ/∂v_i‖
    finite: Array  # bool


class Step(NamedTuple):
    """`init(key) -> TrainState` and `update(state, batch) -> (TrainState, Info)`, both pure."""

    init: Callable[[Array], TrainState]
    update: Callable[[TrainState, Batch], tuple[TrainState, Info]]


class Observation(NamedTuple):
    """What the ledger keeps. Weights [U], [I] turn a side's vectors into one weighted total to save memory."""

    decay: float = 1.0
    gradients: Literal["raw", "corrected"] = "raw"
    user_weight: Array | None = None
    item_weight: Array | None = None


def score_gradients(
    objective: Objective, user: Array, positive: Array, negative: Array, batch: Batch
) -> tuple[Array, ScoreGradients]:
    """Loss per row [B] and its gradients by score, from scored rows; the loss is summed over rows."""
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
        return jnp.sum(loss), loss

    gradients, loss = jax.grad(total, argnums=(0, 1), has_aux=True)(positive, negative)
    return loss, ScoreGradients(*gradients)


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
    rows: RowGradients,
    *,
    decay: float = 1.0,
) -> ledgers.GradientLedger:
    """Adds a batch's gradients to the ledger; `scored` rows are what `score_gradients` got.

    For an inner product ‖∂ℓ/∂v_i‖ = |∂ℓ/∂s| ‖u‖, which gives the size of every event of a shared negative from one
    matrix-vector product. Negatives that `batch.where` leaves out are no events.
    """
    user, positive, negative = scored
    by_user = jnp.repeat(length(user), batch.rows_per_user)
    shared = batch.negatives.ndim == 1
    if batch.rows_per_user == 1:
        pull_of_user, push_of_user = length(rows.user_pull), length(rows.user_push)
    else:  # the rows' own, which are not summed yet
        pull_of_user = jnp.abs(g.positive) * length(positive)
        each = "bk,kd->bd" if shared else "bk,bkd->bd"
        push_of_user = length(jnp.einsum(each, g.negative, negative, precision="highest"))
    present = jnp.ones_like(g.negative) if batch.where is None else batch.where.astype(g.negative.dtype)
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
        return jnp.sum(loss), loss

    gradients, loss = jax.grad(total, has_aux=True)(ScoredRows(user, user, positive, negative))
    return loss, RowGradients(*gradients)


def observe_rows(
    ledger: ledgers.GradientLedger, batch: Batch, rows: RowGradients, *, decay: float = 1.0
) -> ledgers.GradientLedger:
    """Adds a batch's gradients by row, whose own lengths are the sizes; negatives' are [B, K, D], shared or not."""
    size = RowGradients(*map(length, rows))
    rows = _summed(rows, batch)
    present = jnp.ones_like(size.negative) if batch.where is None else batch.where.astype(size.negative.dtype)
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
    )


class _Cut(NamedTuple):
    """What happens at the scored rows of one batch."""

    loss: Array  # [B]
    pull: Array  # [B] for `Info`
    rows: RowGradients  # what the parameters get
    ledger: ledgers.GradientLedger | None
    transform: Any
    direct: Params | None = None  # what the parameters get beside: by way of the model's own score


def make_step(
    model: Model,
    objective: Objective,
    optimizer: RowOptimizer | optax.GradientTransformation,
    *,
    transform: optax.GradientTransformation | None = None,
    observation: Observation | None = Observation(),  # noqa: B008  an immutable tuple
    l2: float = 0.0,
) -> Step:
    """Joins the parts into one pure step.

    A model with a `score` of its own takes B times the memory of shared negatives at the scored rows.

    optimizer: a `RowOptimizer` updates only touched rows, for models whose tables are their parameters; any optax
        optimiser takes the dense gradient of all parameters.
    transform: an optax transformation of `ScoreGradients`; its update is given users, positives and negatives.
    observation: what the ledger keeps; None trains without a ledger.
    l2: λ; each gathered raw row adds λ/2 ‖row‖² to the loss, once per occurrence (a row of `model.penalized` in its
        place where the model has that). The ledger does not see it.
    """
    through = optax.with_extra_args_support(optax.identity() if transform is None else transform)

    def read(
        scored: tuple[Array, Array, Array], params: Params, batch: Batch
    ) -> tuple[Array, ScoreGradients, PullBack]:
        if model.score is not None:
            return network_gradients(model.score, objective, params, scored, batch)
        return *score_gradients(objective, *scored, batch), lambda g: (row_gradients(*scored, g), None)

    def cut(scored: tuple[Array, Array, Array], state: TrainState, batch: Batch) -> _Cut:
        by_row = batch.by_row()
        loss, g, pull_back = read(scored, state.params, by_row)
        corrected, transform_state = through.update(
            g,
            state.transform,
            None,
            users=by_row.users,
            positives=batch.positives,
            negatives=batch.negatives,
        )
        applied, direct = pull_back(corrected)
        ledger = state.ledger
        if observation is not None and ledger is not None:
            seen, rows = corrected, applied
            if observation.gradients == "raw" and transform is not None:
                seen, rows = g, pull_back(g)[0]
            if model.score is None:
                ledger = observe_batch(ledger, batch, scored, seen, rows, decay=observation.decay)
            else:
                ledger = observe_rows(ledger, batch, rows, decay=observation.decay)
        return _Cut(loss, -g.positive, _summed(applied, batch), ledger, transform_state, direct)

    blank = lambda: through.init(ScoreGradients(jnp.zeros(1), jnp.zeros((1, 1))))  # noqa: E731
    return _make(model, optimizer, cut, blank, observation=observation, l2=l2)


def make_row_step(
    model: Model,
    objective: RowObjective,
    optimizer: RowOptimizer | optax.GradientTransformation,
    *,
    transform: optax.GradientTransformation | None = None,
    observation: Observation | None = Observation(),  # noqa: B008  an immutable tuple
    l2: float = 0.0,
) -> Step:
    """`make_step` for an objective of scored rows; the ledger sees every term of it.

    Shared negatives are given to each row as its own, which takes B times their memory at the scored rows. There are
    no score gradients, so a `transform` of them is refused with a ValueError, and so is a model with a `score` of its
    own, which such an objective would not use.
    """
    if model.score is not None:
        raise ValueError("an objective of rows does not use the model's own score; give the step one of scores")
    if transform is not None:
        raise ValueError("an objective of rows has no score gradients to transform; weigh its rows in the objective")

    def cut(scored: tuple[Array, Array, Array], state: TrainState, batch: Batch) -> _Cut:
        loss, rows = row_objective_gradients(objective, *scored, batch.by_row(), state.epoch)
        ledger = state.ledger
        if observation is not None and ledger is not None:
            ledger = observe_rows(ledger, batch, rows, decay=observation.decay)
        return _Cut(loss, jnp.linalg.norm(rows.positive, axis=-1), _summed(rows, batch), ledger, state.transform)

    return _make(model, optimizer, cut, optax.EmptyState, observation=observation, l2=l2)


def _summed(rows: RowGradients, batch: Batch) -> RowGradients:
    """The gradients of shared negatives summed over the batch, and a user's over R rows, where each row had its own."""
    if batch.negatives.ndim == 1 and rows.negative.ndim == 3:
        rows = rows._replace(negative=jnp.sum(rows.negative, axis=0))
    if len(rows.user_pull) != len(batch.users):
        pull, push = (_fold(x, batch.rows_per_user) for x in (rows.user_pull, rows.user_push))
        rows = rows._replace(user_pull=pull, user_push=push)
    return rows


def _make(
    model: Model,
    optimizer: RowOptimizer | optax.GradientTransformation,
    cut: Callable[[tuple[Array, Array, Array], TrainState, Batch], _Cut],
    blank: Callable[[], Any],
    *,
    observation: Observation | None,
    l2: float,
) -> Step:
    """What both kinds of steps share: the way to the scored rows and back."""
    if isinstance(optimizer, RowOptimizer) and not model.tables_are_params:
        raise ValueError("a row-sparse optimiser wants a model whose tables are its parameters; use an optax one")

    def init(key: Array) -> TrainState:
        init_key, state_key = jax.random.split(key)
        params = model.init(init_key)

        @jax.jit  # one small program instead of one for each array
        def rest(params: Params) -> tuple[Any, Any, ledgers.GradientLedger | None, Array]:
            sparse = isinstance(optimizer, RowOptimizer)
            optimizer_state = jax.tree.map(optimizer.init, params) if sparse else optimizer.init(params)
            ledger = None
            if observation is not None:
                ledger = ledgers.init(
                    model.num_users,
                    model.num_items,
                    model.width,
                    user_weight=observation.user_weight,
                    item_weight=observation.item_weight,
                )
            return optimizer_state, blank(), ledger, jnp.zeros((), jnp.int32)

        optimizer_state, transform, ledger, epoch = rest(params)
        return TrainState(params, optimizer_state, transform, ledger, state_key, epoch)

    def gather(params: Params, batch: Batch) -> tuple[Array, Array, Array]:
        return _take(model.tables(params), batch)

    def heads(user: Array, positive: Array, negative: Array) -> tuple[Array, Array, Array]:
        return model.user_head(user), model.item_head(positive), model.item_head(negative)

    @jax.default_matmul_precision("highest")  # float32 on accelerators, too, as on CPUs
    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Info]:
        raw, pull_to_params = jax.vjp(lambda params: gather(params, batch), state.params)
        scored, pull_to_raw = jax.vjp(heads, *raw)
        at = cut(scored, state, batch)
        applied = at.rows
        by_raw = pull_to_raw((applied.user_pull + applied.user_push, applied.positive, applied.negative))
        if l2 and model.penalized is None:
            times = (batch.rows_per_user, 1, 1)
            by_raw = tuple(grad + l2 * n * row for grad, n, row in zip(by_raw, times, raw, strict=True))
        if isinstance(optimizer, RowOptimizer):
            params, opt_state = _update_rows(optimizer, state, batch, by_raw)
        else:
            (gradient,) = pull_to_params(by_raw)
            if at.direct is not None:
                gradient = jax.tree.map(jnp.add, gradient, at.direct)
            if l2 and model.penalized is not None:
                gradient = jax.tree.map(jnp.add, gradient, _penalty_gradient(model.penalized, state.params, batch, l2))
            with jax.numpy_dtype_promotion("standard"):  # optax raises floats to whole powers
                change, opt_state = optimizer.update(gradient, state.optimizer, state.params)
            params = optax.apply_updates(state.params, change)
        mean_loss = jnp.mean(at.loss)
        info = Info(mean_loss, jnp.mean(at.pull), jnp.isfinite(mean_loss))
        return state._replace(params=params, optimizer=opt_state, transform=at.transform, ledger=at.ledger), info

    return Step(init, update)


def _take(tables: tuple[Array, Array], batch: Batch) -> tuple[Array, Array, Array]:
    user, item = tables
    return take(user, batch.users), take(item, batch.positives), take(item, batch.negatives)


def _penalty_gradient(
    penalized: Callable[[Params], tuple[Array, Array]], params: Params, batch: Batch, l2: float
) -> Params:
    rows, pull = jax.vjp(lambda params: _take(penalized(params), batch.by_row()), params)
    return pull(jax.tree.map(lambda row: l2 * row, rows))[0]


def _update_rows(
    optimizer: RowOptimizer, state: TrainState, batch: Batch, by_raw: tuple[Array, ...]
) -> tuple[Params, Any]:
    by_user, by_positive, by_negative = by_raw
    item_ids = jnp.concatenate([batch.positives, batch.negatives.ravel()])
    by_item = jnp.concatenate([by_positive, by_negative.reshape(-1, by_negative.shape[-1])])
    user, user_state = optimizer.update(state.params["user"], state.optimizer["user"], batch.users, by_user)
    item, item_state = optimizer.update(state.params["item"], state.optimizer["item"], item_ids, by_item)
    return {"user": user, "item": item}, {"user": user_state, "item": item_state}
