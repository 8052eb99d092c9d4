"""Cases of training: BPR against each peer, sampled softmax against sgemm, the ledger, LightGCN."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from benchmarks import peers
from benchmarks.contest import Contender, contest, rates, summary
from benchmarks.ours import BATCH, WIDTH
from benchmarks.plan import Case, Plan, Share, Side, no_row, overheads, race
from benchmarks.rows import Row, row
from benchmarks.timing import middle
from benchmarks.worker import accelerator

OURS = "benchmarks.ours:training"
ROW_BYTES = 2 * WIDTH * 4  # read and written
TRIPLET_BYTES = 3 * ROW_BYTES
PRODUCTS = 3  # of a sampled softmax: forward, and backward by each factor
NEGATIVES = 1024
SHARED: dict[str, Any] = {"batch": 2 * BATCH, "rows_per_user": 16}  # learns as much from a triplet, quicker
SMALL: dict[str, Any] = {**SHARED, "batch": 512}  # its rows stay in a core's second-level cache
ONE_THREAD = {"PJRT_NPROC": "1"}  # for XLA's pool; handing over to a second thread takes longer than so small a step
SOFTMAX = {"batch_size": BATCH, "negatives": NEGATIVES, "popularity": 0.0}  # the step that is counted, of softmax-mf


def _ours(plan: Plan, parts: str = "bpr", *, environment: Mapping[str, str] | None = None, **options: Any) -> Contender:
    return Contender(OURS, {"data": plan.data, "parts": parts, **options}, environment or {})


def _bpr(
    plan: Plan,
    *,
    optimizer: str = "sgd",
    reject: bool = False,
    target: float | None = None,
    against: int = 0,
    alone: int | None = None,
    small: bool = False,
) -> list[Side]:
    """Two contenders, the one that has the target first: rows that share a user, and a user for each row, which races
    against the peer's contender `alone` (as the first if None). With `small`, for peers without batches, the first one
    also in small batches on one thread, with the same target; not where quick, nor with an accelerator, which wants
    large ones."""
    alone = against if alone is None else alone
    what = f"BPR triplets, {optimizer}, {'known negatives left out' if reject else 'negatives unchecked'}"
    options: dict[str, Any] = {"optimizer": optimizer, "reject": reject}
    rows = SHARED["rows_per_user"]
    # Other optimisers move rows of their own, too, so that their share of a limit is not known.
    bytes_of = [(2 + 1 / rows) * ROW_BYTES, TRIPLET_BYTES] if optimizer == "sgd" else [None, None]
    shared = f"{what}, {rows} rows a user"
    sides = [Side(shared, _ours(plan, **options, **SHARED), target, against, bytes_of[0])]
    if small and not plan.quick and not accelerator():
        one = _ours(plan, **options, **SMALL, environment=ONE_THREAD)
        sides.append(Side(f"{shared}, batches of {SMALL['batch']} on one thread", one, target, against, bytes_of[0]))
    return [*sides, Side(what, _ours(plan, **options), None, alone, bytes_of[1])]


def _race(
    plan: Plan, peer: str, ours: list[Side], theirs: list[Contender], *, triplet: float | None = None
) -> list[Row]:
    """`triplet`: the bytes of rows that the peer moves for one."""
    share = Share("copy, GB/s", triplet)
    if plan.quick:
        ours = [side for side in ours if side.target is not None] or ours
    return race(plan, peer, ours, theirs, "M triplets/s", share=share, scale=1e-6)


def implicit(plan: Plan) -> list[Row]:
    """Unchecked negatives on both sides, and checked ones on both."""
    theirs = [peers.contender("implicit_:bpr", data=plan.data, reject=reject) for reject in (False, True)]
    ours = _bpr(plan, target=1.3, small=True) + _bpr(plan, reject=True, target=1.3, against=1, small=True)
    return _race(plan, "implicit BPR", ours, theirs, triplet=TRIPLET_BYTES)


def cornac(plan: Plan) -> list[Row]:
    """It always checks negatives, as our first sides do."""
    theirs = [peers.contender("cornac_:bpr", data=plan.data)]
    ours = _bpr(plan, reject=True, target=2.0, small=True) + _bpr(plan, small=True)
    return _race(plan, "Cornac BPR", ours, theirs, triplet=TRIPLET_BYTES)


def lightfm(plan: Plan) -> list[Row]:
    """It always checks negatives and runs Adagrad, as our first sides do."""
    theirs = [peers.contender("lightfm_:bpr", data=plan.data)]
    ours = _bpr(plan, optimizer="adagrad", reject=True, target=8.0, small=True) + _bpr(plan, small=True)
    return _race(plan, "LightFM BPR", ours, theirs)


def torch_mf(plan: Plan) -> list[Row]:
    """Adam on both sides, in batches of as many rows; theirs moves the whole table each step, ours the batch's rows."""
    steps = 10 if plan.quick else 60
    theirs = [
        peers.contender("torch_:training", data=plan.data, layers=0, steps=steps, batch=batch)
        for batch in (BATCH, SHARED["batch"])
    ]
    ours = _bpr(plan, optimizer="adam", target=60.0, against=1, alone=0) + _bpr(plan, against=1, alone=0)
    return _race(plan, "PyTorch MF, Adam", ours, theirs)


def lenskit(plan: Plan) -> list[Row]:
    """FlexMF with a pairwise loss, where LensKit is installed."""
    theirs = [peers.contender("lenskit_:bpr", data=plan.data)]
    return _race(plan, "LensKit FlexMF BPR", _bpr(plan, optimizer="adam", reject=True), theirs)


def lightgcn(plan: Plan) -> list[Row]:
    """A step of 3 layers and dense Adam on both sides; the ledger is off in the first row."""
    few = 60 if accelerator() else 2 if plan.quick else 6
    ours = [
        Side(f"LightGCN step, ledger {kind}", _ours(plan, "lightgcn", ledger=kind, steps=4 * few), target)
        for kind, target in (("off", 8.0), ("vectors", None))
    ]
    theirs = [peers.contender("torch_:training", data=plan.data, layers=3, steps=few)]
    return race(plan, "PyTorch LightGCN, COO, Adam", ours, theirs, "triplets/s", batch=BATCH)


def softmax(plan: Plan) -> list[Row]:
    """GFLOP/s of the three products of a step, against the best rate of a large product taken in turn."""
    steps = 400 if accelerator() else 12 if plan.quick else 120
    sides = [
        ("ledger off, negatives unchecked", 0.6, {"reject": False}, "off"),
        ("ledger on, negatives unchecked", None, {"reject": False}, "vectors"),
        ("ledger on, known negatives left out", None, {}, "vectors"),
    ][: 1 if plan.quick else None]
    ours = [
        _ours(plan, "preset", preset="softmax-mf", changes=SOFTMAX | changes, ledger=ledger, steps=steps)
        for _, _, changes, ledger in sides
    ]
    machine = Contender("benchmarks.machine:sgemm")
    *outcomes, best = contest([*ours, machine], repeats=plan.repeats, patience=plan.patience)
    rows, peer, unit = [], "sgemm of this machine", "GFLOP/s"
    for (says, target, _, _), found in zip(sides, outcomes, strict=True):
        what = f"sampled softmax, {NEGATIVES} shared negatives, {says}"
        if missing := no_row(what, peer, unit, target, "rate", found, best):
            rows.append(missing)
            continue
        flops = PRODUCTS * 2 * NEGATIVES * WIDTH * 1e-9
        values = summary([flops * rate for rate in rates(found.readings)], [one["rate"] for one in best.readings])
        ms = 1e3 * middle([one["seconds"] / one["steps"] for one in found.readings])
        shapes = middle([one["step_rate"] for one in best.readings])
        note = f"{ms:.2f} ms a step; a product of the step's own shapes reaches {shapes:.0f} GFLOP/s"
        rows.append(row(what, peer, unit=unit, target=target, note=note, data=plan.data, **values))
    return rows


LEDGERS = (("vectors", 1.15), ("totals", 1.05))
EVERY = (1, 16)  # all batches read, one of so many


def ledger(plan: Plan) -> list[Row]:
    """A step with the ledger, of all batches and of one in 16, over the same step without."""
    steps = (400, 400, 400, 400 if accelerator() else 120)
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("BPR step, sgd", {"parts": "bpr", "optimizer": "sgd"}),
        (f"BPR step, sgd, {SHARED['rows_per_user']} rows a user", {"parts": "bpr", "optimizer": "sgd", **SHARED}),
        ("BPR step, paper-mf", {"parts": "preset", "preset": "paper-mf"}),
        ("softmax step, softmax-mf", {"parts": "preset", "preset": "softmax-mf", "changes": SOFTMAX}),
    ]
    rows = []
    for count, (what, options) in zip(steps, kinds, strict=True):
        options = {"data": plan.data, "steps": count // 4 if plan.quick else count, **options}
        more = [
            Side(
                f"ledger of {kind}" + (f", one batch in {every}" if every > 1 else ""),
                Contender(OURS, {**options, "ledger": kind, "every": every}),
                target,
            )
            for every, (kind, target) in itertools.product(EVERY[: 1 if plan.quick else None], LEDGERS)
        ]
        rows += overheads(plan, what, ("ledger off", Contender(OURS, {**options, "ledger": "off"})), more)
    return rows


CASES = {
    "implicit": Case(implicit, "BPR against implicit", quick=True),
    "cornac": Case(cornac, "BPR against Cornac", quick=True),
    "lightfm": Case(lightfm, "BPR against LightFM", quick=True),
    "torch-mf": Case(torch_mf, "BPR against plain PyTorch"),
    "lenskit": Case(lenskit, "BPR against LensKit"),
    "softmax": Case(softmax, "sampled softmax against sgemm", quick=True),
    "ledger": Case(ledger, "steps with the ledger on and off"),
    "lightgcn": Case(lightgcn, "a LightGCN step against plain PyTorch"),
}
