"""The train step, the ranking and the adjustment lower for machines that are not here."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from conftest import random_interactions

from jaxrec import ledger as ledgers
from jaxrec import models, objectives, optim, rank, samplers
from jaxrec.step import make_step
from jaxrec.transforms import adjustment as adj
from jaxrec.types import Tables

PLATFORMS = ("cpu", "cuda", "tpu")
TABLES = Tables(jnp.ones((30, 8)), jnp.ones((20, 8)))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("optimizer", [optim.row_sgd(0.1), optim.row_adagrad(0.1, by_row=True), optim.row_adam(0.1)])
def test_the_step_with_its_sampler_lowers_everywhere(optimizer: optim.RowOptimizer, shared: bool) -> None:
    train = random_interactions()
    model = models.normalize(models.mf(30, 20, 8), temperature=0.1)
    sampler = samplers.sampler(train, batch_size=16, num_negatives=4, shared=shared, reject=True)
    step = make_step(model, objectives.softmax(), optimizer)
    state = step.init(jax.random.key(0))

    def run(params: object, data: object) -> jax.Array:
        batch = sampler.draw(data, jax.random.key(1), jnp.int32(0))
        return step.update(state._replace(params=params), batch)[0].params["item"]

    found = jax.export.export(jax.jit(run), platforms=PLATFORMS)(state.params, sampler.data)
    assert found.platforms == PLATFORMS
    assert found.out_avals[0].shape == (20, 8)


def test_ranking_and_adjustment_lower_everywhere() -> None:
    adjust = adj.chain(adj.remove_direction(0.5, spread=0.2), adj.offset_by_gradient(0.3, by="push"))

    def run(tables: Tables, ledger: ledgers.GradientLedger) -> jax.Array:
        users, excluded = jnp.arange(8), jnp.full((8, 3), 20)
        return rank.rank_block(adjust(tables, ledger), users, excluded, 5)[0]

    found = jax.export.export(jax.jit(run), platforms=PLATFORMS)(TABLES, ledgers.init(30, 20, 8))
    assert found.platforms == PLATFORMS
    assert found.out_avals[0].shape == (8, 5)
    same = found.call(TABLES, ledgers.init(30, 20, 8))
    assert same.tolist() == run(TABLES, ledgers.init(30, 20, 8)).tolist()
