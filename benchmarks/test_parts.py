"""The library's own parts under pytest-benchmark: `python -m pytest benchmarks/test_parts.py`.

To see what a change did: `--benchmark-save=before`, the change, then `--benchmark-compare`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import inputs, ours
from jaxrec import data, metrics, models, optim, rank, samplers, select
from jaxrec.data import Split
from jaxrec.ledger import init
from jaxrec.train import make_epoch
from jaxrec.types import Tables

pytest.importorskip("pytest_benchmark", reason="pip install -e '.[bench]'")
STEPS = 50


@pytest.fixture(scope="module")
def split() -> Split:
    return inputs.split(inputs.available())


@pytest.fixture(scope="module")
def tables(split: Split) -> Tables:
    model = models.mf(split.train.num_users, split.train.num_items, ours.WIDTH)
    return models.embed(model, model.init(jax.random.key(0)))


def steps(benchmark: Any, parts: str, options: dict[str, Any], split: Split) -> None:
    """Times `STEPS` steps in one compiled scan, from a state that is carried on."""
    sampler, step = ours.PARTS[parts](options, split.train)
    epoch = make_epoch(step, sampler._replace(num_batches=STEPS))
    state = step.init(jax.random.key(0))

    def run() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(epoch(state))

    benchmark.pedantic(run, rounds=7, warmup_rounds=1)


@pytest.mark.parametrize("ledger", ["off", "vectors", "totals"])
@pytest.mark.parametrize("preset", ["paper-mf", "softmax-mf"])
def test_step(benchmark: Any, split: Split, preset: str, ledger: str) -> None:
    steps(benchmark, "preset", {"preset": preset, "ledger": ledger}, split)


@pytest.mark.parametrize("reject", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adam"])
def test_bpr_step(benchmark: Any, split: Split, optimizer: str, reject: bool) -> None:
    steps(benchmark, "bpr", {"optimizer": optimizer, "reject": reject}, split)


@pytest.mark.parametrize(
    "options",
    [{}, {"reject": True}, {"num_negatives": 1024, "shared": True, "reject": True}, {"popularity": 0.75}],
    ids=["uniform", "rejected", "shared", "popular"],
)
def test_draw(benchmark: Any, split: Split, options: dict[str, Any]) -> None:
    sampler = samplers.sampler(split.train, batch_size=ours.BATCH, **options)
    draw = jax.jit(sampler.draw)
    key = jax.random.key(0)
    benchmark(lambda: jax.block_until_ready(draw(sampler.data, key, jnp.int32(0))))


@pytest.mark.parametrize("name", ["row_sgd", "row_adagrad", "row_adam"])
def test_row_update(benchmark: Any, tables: Tables, name: str) -> None:
    optimizer = getattr(optim, name)(0.05)
    update = jax.jit(optimizer.update, donate_argnums=(0, 1))
    ids = jnp.asarray(np.random.default_rng(0).integers(0, len(tables.item), 2 * ours.BATCH), jnp.int32)
    state = jnp.array(tables.item), optimizer.init(tables.item)
    gradient = jnp.ones((len(ids), ours.WIDTH))

    def run() -> None:
        nonlocal state
        state = jax.block_until_ready(update(*state, ids, gradient))

    benchmark(run)


def test_top_k(benchmark: Any, split: Split, tables: Tables) -> None:
    users = np.arange(min(4096, split.train.num_users))
    benchmark.pedantic(lambda: rank.top_k(tables, users, split.train, k=ours.K), rounds=5, warmup_rounds=1)


def test_metrics(benchmark: Any, split: Split, tables: Tables) -> None:
    ranking = rank.top_k(tables, np.arange(min(4096, split.train.num_users)), split.train, k=50)
    test = split.tests["natural"]
    benchmark.pedantic(lambda: metrics.evaluate(ranking, test, split.train, ks=(10, 20, 50)), rounds=5, warmup_rounds=1)


def test_measure(benchmark: Any, split: Split, tables: Tables) -> None:
    carved = data.carve(Split(split.train, {}, {}), seed=0)
    ledger = init(len(tables.user), len(tables.item), ours.WIDTH)
    problem = select.prepare(tables, ledger, carved.train, carved.valid, k=ours.K, max_users=2048)
    benchmark.pedantic(lambda: select.measure(problem, lambda t, _: t), rounds=5, warmup_rounds=1)


def test_read(benchmark: Any) -> None:
    benchmark.pedantic(lambda: inputs.split(inputs.available()), rounds=3, warmup_rounds=1)


def test_checkpoint(benchmark: Any, split: Split, tmp_path: Path) -> None:
    from jaxrec import checkpoint

    _, step = ours.PARTS["preset"]({"preset": "softmax-mf", "ledger": "vectors"}, split.train)
    state, number = step.init(jax.random.key(0)), 0

    def run() -> None:
        nonlocal number
        number += 1
        checkpoint.save(tmp_path, number, {"state": state}, meta={})

    benchmark.pedantic(run, rounds=3, warmup_rounds=1)
