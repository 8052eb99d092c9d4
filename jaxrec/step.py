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

import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrec import ledger as ledgers
from jaxrec.gradients import (
    PullBack,
    RowGradients,
    RowObjective,
    ScoreGradients,
    network_gradients,
    observe_batch,
    observe_rows,
    row_gradients,
    row_objective_gradients,
    score_gradients,
    summed,
)
from jaxrec.models.base import Model
from jaxrec.names import want_whole
from jaxrec.objectives import Objective
from jaxrec.optim import RowOptimizer
from jaxrec.rows import take
from jaxrec.types import Array, Batch, Params, want_batch


class TrainState(NamedTuple):
    """All that the next step needs."""

    params: Params
    optimizer: Any
    transform: Any
    ledger: ledgers.GradientLedger | None
    key: Array  # typed key; epoch t draws from fold_in(key, t)
    epoch: Array  # [] int32
    step: Array  # [] int32, the batches so far


class Info(NamedTuple):
    """What a person looks at, one number a step."""

    loss: Array  # mean over rows
    pull: Array  # mean w⁺ over rows; of an objective of rows the mean ‖∂ℓ/∂v_i‖
    finite: Array  # bool


class Step(NamedTuple):
    """`init(key) -> TrainState` and `update(state, batch) -> (TrainState, Info)`, both pure.

    `rows` are the model's U and I, where they are known: a sampler of more is refused.
    """

    init: Callable[[Array], TrainState]
    update: Callable[[TrainState, Batch], tuple[TrainState, Info]]
    rows: tuple[int, int] | None = None


class Observation(NamedTuple):
    """What the ledger keeps.

    decay: β < 1 forgets, by so much a step.
    gradients: what the loss gave, or what a transform made of it.
    user_weight, item_weight: [U], [I] turn a side's vectors into one weighted total, to save memory.
    every: n > 1 reads one batch of n and counts it n times, to save time: sums and numbers of events are then estimates
        of the same, from a part of the events; where steps are cheap the ledger costs nearly n times less. Of N steps
        ⌈N/n⌉ are read, from the first on, so that the sums of a short run are as much too large as that is above N/n.
    """

    decay: float = 1.0
    gradients: Literal["raw", "corrected"] = "raw"
    user_weight: Array | None = None
    item_weight: Array | None = None
    every: int = 1


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
    """Joins the parts into one pure step. Its loss, and so its gradient, is a sum over rows; `Info` has means.

    A model with a `score` of its own takes B times the memory of shared negatives at the scored rows.

    optimizer: a `RowOptimizer` updates only touched rows, for models whose tables are their parameters; an optax
        optimiser takes the dense gradient of all parameters. One that wants the loss, too, as `optax.lbfgs` and
        `reduce_on_plateau` do, can't be used.
    transform: an optax transformation of `ScoreGradients`; its update is given users, positives, negatives
        and num_items, the model's.
    observation: what the ledger keeps; None trains without a ledger.
    l2: λ; each gathered raw row adds λ/2 ‖row‖² to the loss, once per occurrence (a row of `model.penalized` in its
        place where the model has that). The ledger does not see it.
    """
    _want_objective(objective)
    if transform is not None and not (hasattr(transform, "init") and hasattr(transform, "update")):
        raise TypeError(
            f"transform must be an optax transformation, like optax.clip(0.1), got {transform!r}; is it to "
            "be called first?"
        )
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
            num_items=model.num_items,
        )
        _want_same_shapes(state.transform, transform_state)
        applied, direct = pull_back(corrected)
        ledger = state.ledger
        if observation is not None and ledger is not None:
            seen = corrected if observation.gradients == "corrected" else g
            if model.score is None:
                # Rows' gradients are worked out anew: kept for a batch that is not read, they would cost it.
                ledger = _observe_some(observation, state.step, ledger, observe_batch, (batch, scored, seen))
            else:
                rows = applied if observation.gradients == "corrected" else pull_back(g)[0]
                ledger = _observe_some(observation, state.step, ledger, observe_rows, (batch, rows))
        return _Cut(loss, -g.positive, summed(applied, batch), ledger, transform_state, direct)

    blank = lambda: through.init(ScoreGradients(jnp.zeros(1), jnp.zeros((1, 1))))  # noqa: E731
    return _make(model, optimizer, cut, blank, observation=observation, l2=l2)


def _want_objective(objective: Any) -> None:
    """TypeError for what can't be called as an objective, like a factory that was not called."""
    try:
        inspect.signature(objective).bind(None, None, where=None, log_q=None)
    except TypeError:
        raise TypeError(
            f"objective must take (positive, negative, where=, log_q=), got {objective!r}; is it to be called first, "
            "like objectives.bpr()?"
        ) from None


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
            ledger = _observe_some(observation, state.step, ledger, observe_rows, (batch, rows))
        return _Cut(loss, jnp.linalg.norm(rows.positive, axis=-1), summed(rows, batch), ledger, state.transform)

    return _make(model, optimizer, cut, optax.EmptyState, observation=observation, l2=l2)


def _observe_some(
    observation: Observation,
    step: Array,
    ledger: ledgers.GradientLedger,
    observe: Callable[..., ledgers.GradientLedger],
    told: tuple[Any, ...],
) -> ledgers.GradientLedger:
    """The ledger with the batch in it, where it is one of those that are read: `observe(ledger, *told)`."""
    every = observation.every
    if every == 1:
        return observe(ledger, *told, decay=observation.decay)
    # A loop of no or one turn: where it has none the ledger stays in place, which a conditional would copy. What it
    # works out must seem to depend on the turn, or the compiler does it before the loop, in every step.
    turns = (step % every == 0).astype(jnp.int32)

    def turn(number: Array, ledger: ledgers.GradientLedger) -> ledgers.GradientLedger:
        _, now = jax.lax.optimization_barrier((number, told))
        return observe(ledger, *now, decay=observation.decay**every, times=every)

    return jax.lax.fori_loop(0, turns, turn, ledger)


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
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer must be one of jaxrec.optim or optax, like optim.row_adagrad(0.1), got {optimizer!r}; is it to "
            "be called first?"
        )
    if observation is not None and not isinstance(observation, Observation):
        raise TypeError(f"observation must be an Observation or None, got {observation!r}")
    if observation is not None and observation.gradients not in ("raw", "corrected"):
        raise ValueError(f'gradients must be "raw" or "corrected", got {observation.gradients!r}')
    if observation is not None:
        want_whole("every, the number of batches of which one is read,", observation.every)
        ledgers.want_decay(observation.decay)
    if not (l2 >= 0 and l2 < float("inf")):
        raise ValueError(f"l2 must be a number from 0, got {l2}")
    if isinstance(optimizer, RowOptimizer) and not model.tables_are_params:
        raise ValueError("a row-sparse optimiser wants a model whose tables are its parameters; use an optax one")
    if isinstance(optimizer, RowOptimizer) and l2 and model.penalized is not None:
        raise ValueError("a row-sparse optimiser penalises raw rows, not `penalized`; use an optax one, or l2=0")

    @jax.jit  # one small program instead of one for each array
    def rest(params: Params) -> tuple[Any, Any, ledgers.GradientLedger | None, Array, Array]:
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
        return optimizer_state, blank(), ledger, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)

    def init(key: Array) -> TrainState:
        init_key, state_key = jax.random.split(key)
        params = jax.tree.map(jnp.array, model.init(init_key))  # copies: the first epoch takes their memory
        _check_params(model, params, sparse=isinstance(optimizer, RowOptimizer))
        _check_sizes(model, params)
        optimizer_state, transform, ledger, epoch, steps = rest(params)
        return TrainState(params, optimizer_state, transform, ledger, state_key, epoch, steps)

    def gather(params: Params, batch: Batch) -> tuple[Array, Array, Array]:
        return _take(model.tables(params), batch)

    def heads(user: Array, positive: Array, negative: Array) -> tuple[Array, Array, Array]:
        return model.user_head(user), model.item_head(positive), model.item_head(negative)

    @jax.default_matmul_precision("highest")  # float32 on accelerators, too, as on CPUs
    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Info]:
        want_batch(batch)
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
        state = state._replace(params=params, optimizer=opt_state, transform=at.transform, ledger=at.ledger)
        return state._replace(step=state.step + 1), info

    return Step(init, update, (model.num_users, model.num_items))


def _want_same_shapes(before: Any, after: Any) -> None:
    """ValueError for a transform whose state is one entry a row of a batch, as that of momentum is."""
    shapes = [jax.tree.map(jnp.shape, state) for state in (before, after)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "a transform's state must keep its shapes, but this one keeps something of each score gradient, and the "
            "next step has those of other pairs; momentum and Adam go into the optimizer, and what is kept by user or "
            "item is sized by them, as in transforms.training.equalize"
        )


def _check_params(model: Model, params: Params, *, sparse: bool) -> None:
    """ValueError for parameters that can't be trained, or not as the model says."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"parameters must be floating point, but {jax.tree_util.keystr(path)} is {leaf.dtype}; what isn't "
                "trained goes into the model's functions, not its parameters"
            )
    if not model.tables_are_params:
        return
    if not isinstance(params, dict) or not {"user", "item"} <= set(params):
        raise ValueError(f"tables_are_params wants parameters 'user' and 'item', got {jax.tree.structure(params)}")
    user, item = model.tables(params)
    if user is not params["user"] or item is not params["item"]:
        raise ValueError(
            "tables_are_params says that tables(params) are params['user'] and params['item'] themselves, and they are "
            "not; say tables_are_params=False, and train with an optax optimiser"
        )
    if sparse and len(params) > 2:
        others = sorted(set(params) - {"user", "item"})
        raise ValueError(f"a row-sparse optimiser would not train {', '.join(others)}; use an optax one")


def _check_sizes(model: Model, params: Params) -> None:
    """ValueError where the tables are not of the sizes that the model says: gathers would clamp ids in silence."""
    user, item = jax.eval_shape(model.tables, params)
    scored = jax.eval_shape(model.user_head, user), jax.eval_shape(model.item_head, item)
    got = (len(user), len(item), *(rows.shape[-1] for rows in scored))
    wanted = (model.num_users, model.num_items, model.width, model.width)
    if got != wanted:
        raise ValueError(
            f"the model says num_users, num_items, width = {wanted[:3]}, but its tables have {got[0]} and {got[1]} "
            f"rows, and its heads give {got[2]} and {got[3]} columns; make them agree"
        )


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
