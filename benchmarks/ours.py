"""This library's contenders: each prepares, and returns a call that does the work once and gives a reading."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import inputs
from benchmarks.worker import Reading, Run
from jaxrec import ledger as ledgers
from jaxrec import metrics, models, objectives, optim, presets, rank, samplers
from jaxrec.data import Interactions
from jaxrec.samplers import Sampler
from jaxrec.step import Observation, Step, make_step
from jaxrec.train import make_epoch
from jaxrec.types import Tables

WIDTH = 64
BATCH = 2048
K = 20


def observation(options: dict[str, Any], train: Interactions) -> Observation | None:
    """What the `ledger` keeps, "off" (the default), "vectors" (a vector for each user and item), or "totals", of one
    batch in `every`."""
    kind, every = options.get("ledger", "off"), options.get("every", 1)
    if kind == "off":
        return None
    if kind == "vectors":
        return Observation(every=every)
    if kind == "totals":
        weights = jnp.ones(train.num_users), jnp.ones(train.num_items)
        return Observation(user_weight=weights[0], item_weight=weights[1], every=every)
    raise ValueError(f"ledger must be off, vectors or totals, got {kind!r}")


def plain_bpr(options: dict[str, Any], train: Interactions) -> tuple[Sampler, Step]:
    """Matrix factorisation and BPR with one uniform negative: `optimizer` sgd (what implicit and Cornac do), adagrad
    (LightFM) or adam; `reject` draws a negative that the user has again; `rows_per_user` rows share a user."""
    model = models.mf(train.num_users, train.num_items, WIDTH)
    sampler = samplers.sampler(
        train,
        batch_size=options.get("batch", BATCH),
        num_negatives=1,
        reject=options.get("reject", False),
        rows_per_user=options.get("rows_per_user", 1),
    )
    seen = observation(options, train)
    make = {"sgd": optim.row_sgd, "adagrad": optim.row_adagrad, "adam": optim.row_adam}[options["optimizer"]]
    optimizer, l2 = make(options.get("rate", 0.05)), options.get("l2", 0.01)
    return sampler, make_step(model, objectives.bpr(), optimizer, observation=seen, l2=l2)


def preset(options: dict[str, Any], train: Interactions) -> tuple[Sampler, Step]:
    """A preset's own parts (`preset`, `changes`), with the ledger as the options say."""
    settings = replace(presets.PRESETS[options["preset"]], **options.get("changes", {}))
    seen = observation(options, train)

    def make(*parts: Any, **more: Any) -> Step:
        return make_step(*parts, **(more | {"observation": seen}))

    _, sampler, step = presets.build(settings, train, make=make)
    return sampler, step


def light_gcn(options: dict[str, Any], train: Interactions) -> tuple[Sampler, Step]:
    """LightGCN of 3 layers, BPR, Adam on all parameters."""
    model = models.lightgcn(train, WIDTH, layers=3)
    sampler = samplers.sampler(train, batch_size=options.get("batch", BATCH), num_negatives=1)
    seen = observation(options, train)
    return sampler, make_step(model, objectives.bpr(), optax.adam(1e-3), observation=seen, l2=1e-4)


PARTS: dict[str, Callable[[dict[str, Any], Interactions], tuple[Sampler, Step]]] = {
    "bpr": plain_bpr,
    "preset": preset,
    "lightgcn": light_gcn,
}


def training(options: dict[str, Any]) -> Run:
    """Triplets a second of the parts named by `parts`: `steps` steps, or a whole epoch, in one compiled scan."""
    train = inputs.train(options["data"])
    sampler, step = PARTS[options["parts"]](options, train)
    steps = options.get("steps") or sampler.num_batches
    epoch = make_epoch(step, sampler._replace(num_batches=steps))
    state = step.init(jax.random.key(0))

    def run() -> Reading:
        nonlocal state
        begun = time.perf_counter()
        state, info = jax.block_until_ready(epoch(state))
        seconds = time.perf_counter() - begun
        if not bool(jnp.all(info.finite)):
            raise RuntimeError("the loss is not finite: the step that was timed is no step")
        return {"seconds": seconds, "work": steps * sampler.batch_size, "steps": steps}

    return run


def save_tables(options: dict[str, Any]) -> Run:
    """Trains softmax-mf for `steps` steps and writes tables and ledger to `out`, for rankings to share."""
    train = inputs.train(options["data"])

    def run() -> Reading:
        model, sampler, step = presets.build(presets.SOFTMAX_MF, train)
        epoch = make_epoch(step, sampler._replace(num_batches=options["steps"]))
        begun = time.perf_counter()
        state, _ = epoch(step.init(jax.random.key(0)))
        tables = models.embed(model, state.params)
        parts = jax.tree.leaves(state.ledger)
        leaves: dict[str, Any] = {f"ledger{n}": np.asarray(part) for n, part in enumerate(parts)}
        np.savez(options["out"], user=np.asarray(tables.user), item=np.asarray(tables.item), **leaves)
        return {"seconds": time.perf_counter() - begun, "work": options["steps"]}

    return run


def read_tables(path: str) -> tuple[Tables, ledgers.GradientLedger]:
    """What `save_tables` wrote."""
    found = np.load(path)
    tables = Tables(jnp.asarray(found["user"]), jnp.asarray(found["item"]))
    empty = ledgers.init(len(tables.user), len(tables.item), tables.user.shape[1])
    leaves, form = jax.tree.flatten(empty)
    return tables, jax.tree.unflatten(form, [jnp.asarray(found[f"ledger{n}"]) for n in range(len(leaves))])


def ranking(options: dict[str, Any]) -> Run:
    """Users a second: the K best items of all users, what they have in training left out. `lists` saves them."""
    train = inputs.split(options["data"]).train
    tables, _ = read_tables(options["tables"])

    def run() -> Reading:
        begun = time.perf_counter()
        found = rank.top_k(tables, None, train, k=K)
        seconds = time.perf_counter() - begun
        np.save(options["lists"], found.items)
        return {"seconds": seconds, "work": train.num_users}

    return run


def evaluation(options: dict[str, Any]) -> Run:
    """Seconds of ranking the users that have test items, and with `metrics` also of every metric at cut-offs `ks`."""
    split = inputs.split(options["data"])
    tables, _ = read_tables(options["tables"])
    test, ks = split.tests["natural"], options["ks"]
    users = np.flatnonzero(test.user_counts)

    def run() -> Reading:
        begun = time.perf_counter()
        found = rank.top_k(tables, users, split.train, k=max(ks))
        if options["metrics"]:
            metrics.evaluate(found, test, split.train, ks=ks)
        return {"seconds": time.perf_counter() - begun, "work": len(users)}

    return run
