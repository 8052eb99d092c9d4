"""Public checks of the library's contracts, for its own tests and for those who extend it."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import models, objectives, optim, samplers
from jaxrec.data.interactions import Interactions
from jaxrec.ledger import GradientLedger
from jaxrec.samplers import Sampler
from jaxrec.step import Observation, Step, TrainState, make_step
from jaxrec.types import Batch


def check_fixed_point(step: Step, state: TrainState, batch: Batch) -> None:
    """A state's update has the state's own structure, shapes and dtypes, so that `lax.scan` takes it."""
    after = jax.eval_shape(lambda s, b: step.update(s, b)[0], state, batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(lambda s: s, state), after)


def check_one_trace(step: Step, state: TrainState, batches: list[Batch]) -> None:
    """Batches of one shape compile once."""
    chex.clear_trace_counter()  # chex counts by name, so an earlier step would be counted too
    update = jax.jit(chex.assert_max_traces(step.update, n=1))
    for batch in batches:
        state, _ = update(state, batch)


def check_sampler(sampler: Sampler, num_users: int, num_items: int, *, epochs: int = 1) -> None:
    """Every batch of an epoch has the first one's shapes and dtypes, and names no user or item that there is not.

    AssertionError for the one, ValueError for the other.

    >>> train, _ = two_groups()
    >>> check_sampler(samplers.sampler(train, batch_size=32, num_negatives=3), train.num_users, train.num_items)
    """
    draw, first = jax.jit(sampler.draw), None
    for epoch in range(epochs):
        key = jax.random.fold_in(jax.random.key(0), epoch)
        number = {"epoch": jnp.int32(epoch)} if sampler.by_epoch else {}
        for i in range(sampler.num_batches):
            batch = draw(sampler.data, key, jnp.int32(i), **number)
            first = batch if first is None else first
            chex.assert_trees_all_equal_shapes_and_dtypes(first, batch)
            samplers.want_rows(batch, num_users, num_items)


def identity_error(before: Any, after: Any, ledger: GradientLedger, rate: float) -> float:
    """How far v(T) = v(0) + η (P + N) is from true, relative to how far the tables moved.

    Holds for tables that are scored as they are (nothing normalised), plain SGD, no decay and no regulariser.
    """
    worst = 0.0
    for name, side in (("user", ledger.users), ("item", ledger.items)):
        moved = np.asarray(after[name], np.float64) - np.asarray(before[name], np.float64)
        told = rate * (np.asarray(side.pull.vector, np.float64) + np.asarray(side.push.vector, np.float64))
        worst = max(worst, float(np.linalg.norm(moved - told)) / max(float(np.linalg.norm(moved)), 1e-30))
    return worst


def two_groups(users: int = 60, items: int = 40, *, each: int = 8, seed: int = 0) -> tuple[Interactions, Interactions]:
    """Known-answer data, (train, test): two groups of users, each of which likes one half of the items and no other.

    The best possible recall at k = items/2 − each is 1: everything unseen of a user's own half.
    """
    rng = np.random.default_rng(seed)
    half = items // 2
    train, test = [], []
    for user in range(users):
        own = rng.permutation(half) + half * (user % 2)
        train += [(user, i) for i in own[:each]]
        test += [(user, i) for i in own[each:]]
    (a, b), (c, d) = np.array(train).T, np.array(test).T
    return Interactions(a, b, users, items), Interactions(c, d, users, items)


def ledger_identity_error(*, steps: int = 50, seed: int = 0) -> float:
    """The ledger's identity on a small model trained for a few steps: a relative error, about float32's."""
    train, _ = two_groups(seed=seed)
    model, rate = models.mf(train.num_users, train.num_items, 8), 0.05
    sampler = samplers.sampler(train, batch_size=32, num_negatives=3)
    step = make_step(model, objectives.bpr(), optim.row_sgd(rate), observation=Observation())
    first = step.init(jax.random.key(seed))

    def body(state: TrainState, i: jax.Array) -> tuple[TrainState, None]:
        return step.update(state, sampler.draw(sampler.data, jax.random.key(seed), i))[0], None

    last, _ = jax.jit(lambda s: jax.lax.scan(body, s, jnp.arange(steps)))(first)
    assert last.ledger is not None
    return identity_error(first.params, last.params, last.ledger, rate)
