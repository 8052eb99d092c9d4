"""Peak memory of training and of ranking, against what the README promises.

    training   tables + optimiser + ledger (the state) + interactions on the device + the rows of one batch
    ranking    tables + one block of users x items a thread + the lists

Resident memory above that of the same process after a small run of the same kind, so that code, and what compiling
leaves behind, are not counted. Two sizes tell what is left of both from what grows with the data.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import inputs
from benchmarks.contest import Contender, contest
from benchmarks.plan import Case, Plan, no_row
from benchmarks.rows import Absent, Row, row
from benchmarks.timing import middle, spread
from benchmarks.worker import Reading, Run

if TYPE_CHECKING:
    from jaxrec.data.interactions import Interactions

MEGA = 2**20
LARGE = "tail:300000,300000,3000000,0"
LARGER = "tail:1000000,1000000,10000000,0"
SMALL = "tail:300,300,3000,0"
TARGET = 1.1  # a tenth for what allocators keep
BLOCK = 128  # users ranked at once
RANKED = 2048
THREADS = 2  # that rank


def bytes_of(tree: Any) -> int:
    """The bytes of a pytree's arrays, or of their shapes. Keys of random numbers are a few bytes and left out."""
    import jax

    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf.dtype, "itemsize"))


def predict_training(step: Any, sampler: Any, *, width: int, negatives: int) -> dict[str, int]:
    """Bytes by part: tables, optimiser, ledger, interactions, and the rows of one batch."""
    import jax

    state = jax.eval_shape(step.init, jax.random.key(0))
    rows = (2 + negatives) * sampler.batch_size
    return {
        "tables": bytes_of(state.params),
        "optimiser": bytes_of(state.optimizer),
        "ledger": bytes_of(state.ledger),
        "interactions": bytes_of(sampler.data),
        "batch": 4 * rows * width,
    }


def predict_ranking(
    users: int, items: int, width: int, *, block: int, ranked: int, k: int, threads: int = THREADS
) -> dict[str, int]:
    """Bytes by part: tables, a block of scores a thread, the lists with their scores."""
    return {"tables": 4 * width * (users + items), "blocks": 4 * threads * block * items, "lists": 8 * ranked * k}


def resident() -> int:
    """Bytes of this process that are in memory now, after what nobody holds is given back to the system."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another libc; the reading is then less sharp
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _status("VmRSS")


def forget_peak() -> None:
    """Sets the peak of this process to what it holds now. `Absent` where the system has no such thing."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as problem:
        raise Absent(f"peak memory is read from /proc, which this system has not: {problem}") from None


def peak() -> int:
    """The most bytes in memory since `forget_peak`."""
    return _status("VmHWM")


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError as problem:
        raise Absent(f"memory is read from /proc, which this system has not: {problem}") from None
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name + ":")))


def training(options: dict[str, Any]) -> Run:
    """Peak and predicted bytes of two epochs of 20 steps: `loop` "fit" for `fit`, "epoch" for `make_epoch` alone."""
    from benchmarks import ours

    def train_on(train: Interactions) -> dict[str, int]:
        import jax

        from jaxrec.train import fit, make_epoch

        sampler, step = ours.PARTS[options["parts"]](options, train)
        sampler = sampler._replace(num_batches=20)
        if options["loop"] == "fit":
            fit(step, sampler, epochs=2, key=jax.random.key(0))
        else:
            epoch, state = make_epoch(step, sampler), step.init(jax.random.key(0))
            for _ in range(2):
                state, info = epoch(state)
            jax.block_until_ready(info)
        return predict_training(step, sampler, width=ours.WIDTH, negatives=1)

    def run() -> Reading:
        train_on(inputs.train(SMALL))
        train = inputs.train(options["data"])  # making it, and what was given, are not training's
        before = resident()
        forget_peak()
        predicted = train_on(train)
        return {"seconds": 1.0, "work": 1, "peak": peak() - before, "predicted": predicted}

    return run


def ranking(options: dict[str, Any]) -> Run:
    """Peak and predicted bytes of the best 20 items of some users."""
    import numpy as np

    from benchmarks.ours import WIDTH, K
    from jaxrec import rank
    from jaxrec.types import Tables

    def rank_on(train: Interactions) -> dict[str, int]:
        import jax

        keys = jax.random.split(jax.random.key(0))
        shapes = (train.num_users, WIDTH), (train.num_items, WIDTH)
        tables = Tables(*(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)))
        users = np.arange(min(RANKED, train.num_users))
        rank.top_k(tables, users, train, k=K, block=BLOCK)
        return predict_ranking(train.num_users, train.num_items, WIDTH, block=BLOCK, ranked=len(users), k=K)

    def run() -> Reading:
        rank_on(inputs.train(SMALL))
        train = inputs.train(options["data"])
        before = resident()
        forget_peak()
        predicted = rank_on(train)
        return {"seconds": 1.0, "work": 1, "peak": peak() - before, "predicted": predicted}

    return run


def memory(plan: Plan) -> list[Row]:
    """Each in a process of its own, once a process, since an allocator remembers."""
    asked = [
        ("training by fit, ledger of vectors", "training", {"loop": "fit", "ledger": "vectors"}),
        ("training by make_epoch, ledger of vectors", "training", {"loop": "epoch", "ledger": "vectors"}),
        (f"ranking in blocks of {BLOCK} users", "ranking", {}),
    ]
    rows = []
    for data, (says, call, more) in itertools.product([LARGE] if plan.quick else [LARGE, LARGER], asked):
        options = {"parts": "bpr", "optimizer": "adagrad", "data": data, **more}
        runs = [Contender(f"benchmarks.memory:{call}", options)] * (1 if plan.quick or data == LARGER else 3)
        outcomes = [contest([one], repeats=1, warm=0, patience=plan.patience)[0] for one in runs]
        users, items, pairs, _ = data.removeprefix("tail:").split(",")
        what, peer = f"peak memory of {says}, {int(users):,} x {int(items):,}", "what its parts take"
        if missing := no_row(what, peer, "MB", TARGET, "overhead", *outcomes):
            rows.append(missing)
            continue
        readings = [outcome.readings[0] for outcome in outcomes]
        parts = {name: size / MEGA for name, size in readings[0]["predicted"].items()}
        peaks = [reading["peak"] / MEGA for reading in readings]
        note = f"{int(pairs):,} interactions; MB of " + ", ".join(f"{name} {size:.0f}" for name, size in parts.items())
        values = {"spread": {"ours": spread(peaks)}, "repeats": len(peaks), "note": note}
        rows.append(row(what, peer, middle(peaks), sum(parts.values()), "MB", target=TARGET, kind="overhead", **values))
    return rows


CASES = {"memory": Case(memory, "peak memory of training and ranking")}
