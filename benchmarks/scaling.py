"""Cost a triplet as interactions and items grow: `python -m benchmarks.scaling --out FILE.svg`.

A synthetic long tail of 30 interactions a user; steps of BPR on batches of 2048, in two series: E with I = 1e5, and I
with E = 1e7. Larger tables leave the cache, and what that costs is measured beside each size: the same rows gathered
and scattered back, and nothing else.

    cost accounted for = cost − (cost of the memory here − cost of the memory at the smallest size)

ought to be flat.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import inputs, ours
from benchmarks.contest import Contender, contest
from benchmarks.plan import Case, Plan
from benchmarks.rows import Row, row
from benchmarks.worker import Reading, Run

PER_USER = 30
SERIES: dict[str, list[tuple[int, int]]] = {  # (E, I)
    "interactions": [(10**5, 10**5), (10**6, 10**5), (10**7, 10**5), (10**8, 10**5)],
    "items": [(10**7, 10**3), (10**7, 10**4), (10**7, 10**5), (10**7, 10**6), (10**7, 5 * 10**6)],
}
QUICK: dict[str, list[tuple[int, int]]] = {
    "interactions": [(10**5, 10**4), (10**6, 10**4)],
    "items": [(10**6, 10**3), (10**6, 10**4), (10**6, 10**5)],
}
TARGET = 1.5
STEPS = 200
LEDGERS = ("off", "vectors")
COPIES = {"off": (1, 1), "vectors": (3, 2)}  # rows of a user, of an item, that a triplet reads and writes


def size(options: dict[str, Any]) -> Run:
    """Seconds a triplet of training and of its memory traffic alone, with the ledger off and on, at one size."""
    import jax

    from jaxrec.train import make_epoch

    pairs, items = options["pairs"], options["items"]
    train = inputs.long_tail(max(pairs // PER_USER, 10), items, pairs)

    def cost(ledger: str) -> float:
        sampler, step = ours.plain_bpr({"optimizer": "sgd", "ledger": ledger}, train)
        epoch = make_epoch(step, sampler._replace(num_batches=options["steps"]))
        state, _ = jax.block_until_ready(epoch(jax.jit(step.init)(jax.random.key(0))))
        times = []
        for _ in range(options["repeats"]):
            begun = time.perf_counter()
            state, _ = jax.block_until_ready(epoch(state))
            times.append(time.perf_counter() - begun)
        return float(np.median(times)) / (options["steps"] * sampler.batch_size)

    def run() -> Reading:
        found = {kind: {"cost": cost(kind), "memory": memory(train, kind, options)} for kind in LEDGERS}
        return {"seconds": 1.0, "work": 1, "pairs": len(train), "users": train.num_users, "items": items, **found}

    return run


def memory(train: Any, ledger: str, options: dict[str, Any]) -> float:
    """Seconds a triplet of reading its pair and of gathering and scattering its rows, at random as training does."""
    import jax
    import jax.numpy as jnp

    of_user, of_item = COPIES[ledger]
    shape = (options["steps"], ours.BATCH)
    rng = np.random.default_rng(0)
    drawn = (jnp.asarray(rng.integers(0, size, shape), jnp.int32) for size in (len(train), train.num_items))
    pairs = jnp.asarray(train.users), jnp.asarray(train.items)
    user = [jnp.zeros((train.num_users, ours.WIDTH)) for _ in range(of_user)]
    item = [jnp.zeros((train.num_items, ours.WIDTH)) for _ in range(of_item)]

    def sweep(tables: Any, pairs: Any, drawn: Any) -> Any:
        def body(tables: Any, drawn: Any) -> Any:
            chosen, negatives = drawn
            ids = pairs[0][chosen], jnp.concatenate([pairs[1][chosen], negatives])
            return [[t.at[i].add(0.5 * t[i]) for t in side] for side, i in zip(tables, ids, strict=True)], None

        return jax.lax.scan(body, tables, drawn)[0]

    run, ids = jax.jit(sweep, donate_argnums=0), tuple(drawn)
    tables = jax.block_until_ready(run([user, item], pairs, ids))
    times = []
    for _ in range(options["repeats"]):
        begun = time.perf_counter()
        tables = jax.block_until_ready(run(tables, pairs, ids))
        times.append(time.perf_counter() - begun)
    return float(np.median(times)) / (shape[0] * shape[1])


def accounted(points: list[Reading], ledger: str) -> list[float]:
    """Cost a triplet less what the memory costs here beyond the smallest size, in nanoseconds.

    >>> accounted([{"off": {"cost": 3e-9, "memory": 1e-9}}, {"off": {"cost": 5e-9, "memory": 3e-9}}], "off")
    [3.0, 3.0]
    """
    least = points[0][ledger]["memory"]
    return [round(1e9 * (point[ledger]["cost"] - (point[ledger]["memory"] - least)), 6) for point in points]


def measure(
    series: dict[str, list[tuple[int, int]]], *, repeats: int, patience: float
) -> tuple[dict[str, list[Reading]], list[str]]:
    """Readings of each series, smallest first, and which sizes failed and why; a size that is in two series is measured
    once. RuntimeError where fewer than two of a series are left."""
    known: dict[tuple[int, int], Reading] = {}
    reasons = []
    for pairs, items in sorted({point for points in series.values() for point in points}):
        options = {"pairs": pairs, "items": items, "steps": STEPS, "repeats": repeats}
        outcome = contest([Contender("benchmarks.scaling:size", options)], repeats=1, warm=0, patience=patience)[0]
        if outcome.readings:
            known[pairs, items] = outcome.readings[0]
        else:
            reasons.append(f"E={pairs:.0e}, I={items:.0e}: {outcome.reason}")
    found = {name: [known[point] for point in points if point in known] for name, points in series.items()}
    if any(len(points) < 2 for points in found.values()):
        raise RuntimeError("too few sizes could be measured: " + "; ".join(reasons))
    return found, reasons


def rows(found: dict[str, list[Reading]], reasons: Sequence[str] = ()) -> list[Row]:
    """The largest over the smallest accounted cost of each series, with the ledger off and on; where a size failed, the
    rows say which, and meet no target."""
    made = []
    for name, points in found.items():
        for ledger in LEDGERS:
            flat = accounted(points, ledger)
            raw = [1e9 * point[ledger]["cost"] for point in points]
            ends = [(point["pairs"], point["items"]) for point in (points[0], points[-1])]
            sizes = ", ".join(f"{letter} {a:,} to {b:,}" for letter, a, b in zip("EI", *ends, strict=True))
            note = f"{sizes}; ns as measured: {', '.join(f'{value:.0f}' for value in raw)}"
            note += f"; accounted: {', '.join(f'{value:.0f}' for value in flat)}"
            what = f"cost a triplet as {name} grow, ledger {ledger}, cache accounted for: most over least"
            found_row = row(what, "itself", max(flat), min(flat), "ns", target=TARGET, kind="overhead", note=note)
            if reasons:
                found_row |= {"met": None, "failed": True, "note": f"{note}; failed: {'; '.join(reasons)}"}
            made.append(found_row)
    return made


def draw(found: dict[str, list[Reading]], path: Path) -> None:
    """Both series as a picture: as measured, the memory's part, and accounted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for n, (name, points) in enumerate(found.items()):
        axis = figure.add_subplot(1, 2, n + 1)
        x = [point["pairs" if name == "interactions" else "items"] for point in points]
        for ledger, colour in zip(LEDGERS, ("tab:blue", "tab:orange"), strict=True):
            cost, part = ([1e9 * point[ledger][key] for point in points] for key in ("cost", "memory"))
            axis.plot(x, cost, "o-", color=colour, label=f"ledger {ledger}")
            axis.plot(x, accounted(points, ledger), "--", color=colour, label="cache accounted for")
            axis.plot(x, part, ":", color=colour, label="rows moved, nothing else")
        axis.set(xscale="log", xlabel=name, ylabel="ns a triplet", ylim=(0, None))
        axis.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def scaling(plan: Plan) -> list[Row]:
    """Measures both series; draws them where the plan has a folder for figures."""
    found, reasons = measure(QUICK if plan.quick else SERIES, repeats=plan.repeats, patience=plan.patience)
    made = rows(found, reasons)
    if plan.figures is not None:
        draw(found, plan.figures / "scaling.svg")
        made[0]["figure"] = "scaling.svg"
    return made


CASES = {"scaling": Case(scaling, "cost a triplet as data grows")}


def main(out: Path = Path("scaling.svg"), quick: bool = False, repeats: int = 5) -> None:
    """Measures and draws the cost of a triplet.

    Args:
        out: The picture; its suffix says the format.
        quick: Small sizes only.
        repeats: Readings of each size.
    """
    found, reasons = measure(QUICK if quick else SERIES, repeats=repeats, patience=1800)
    draw(found, out)
    for made in rows(found, reasons):
        print(f"{made['what']}: {made['ratio']:.2f}; {made['note']}")


if __name__ == "__main__":
    tyro.cli(main)
