"""Cold start: how long `jaxrec train` takes to its first result in a fresh process, beyond the work itself.

The time from starting the process to the first epoch's validation metrics, less that of the second epoch and its
validation, which is the same work with nothing to import or compile. Reading the data counts. No checkpoint is written,
which would fall between the two.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.contest import PATIENCE, environment
from benchmarks.plan import Case, Plan
from benchmarks.rows import Row, row
from benchmarks.timing import middle, spread
from benchmarks.worker import pin

LIMIT = 6.0  # seconds
DATA = "adressa-macr"
CACHE = {  # jax's persistent compilation cache, keeping everything
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def start(data: str, preset: str, cache: Path | None) -> dict[str, float]:
    """Starts `jaxrec train` afresh and stops it after its second epoch: seconds of its stages."""
    extra = {} if cache is None else {"JAX_COMPILATION_CACHE_DIR": str(cache), **CACHE}
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "times.json"
        command = [sys.executable, "-m", "benchmarks.cold", data, preset, folder, str(answer), repr(time.time())]
        done = subprocess.run(
            command, env=environment(extra), capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        if not answer.exists():
            raise RuntimeError(f"jaxrec train ended with {done.returncode}:\n{done.stderr[-1000:]}")
        found: dict[str, float] = json.loads(answer.read_text())
    return found | {"cold": found["first"] - found["second"]}


def child(data: str, preset: str, folder: str, answer: str, begun: str) -> None:
    """What the fresh process does: the command itself, with a clock at the end of each epoch of its first fit."""
    since = float(begun)
    pin()
    times: dict[str, float] = {"python": time.time() - since}
    from jaxrec import cli, pipeline

    times["import"] = time.time() - since
    fit = pipeline.fit

    def clocked(*args: Any, **options: Any) -> Any:
        def on_epoch(row: dict[str, Any], state: Any) -> None:
            now = time.time() - since
            if row["epoch"] == 1:
                times["first"] = now
                return
            times["second"] = now - times["first"]
            Path(answer).write_text(json.dumps(times))
            os._exit(0)  # the rest of the run is not asked for

        times["data and model"] = time.time() - since
        return fit(*args, **{**options, "on_epoch": on_epoch, "checkpoint": None, "resume": False})

    pipeline.fit = clocked
    short = ["--epochs", "2", "--evaluate-every", "1"]
    cli.main(["train", data, "--preset", preset, "--out", f"{folder}/run", *short])


def cold(plan: Plan) -> list[Row]:
    """Each preset without a cache, and with jax's persistent one once it is filled."""
    from benchmarks.rows import absent
    from jaxrec.data import DataError, registry

    data = DATA
    try:
        registry.find(data, fetch=False)
    except DataError:
        data = "synthetic"
    rows = []
    for preset in ("softmax-mf", "paper-mf"):
        with tempfile.TemporaryDirectory() as folder:
            for says, cache in (("no cache", None), ("persistent compilation cache", Path(folder))):
                what, peer = f"cold start of jaxrec train {data}, {preset}, {says}", f"limit of {LIMIT:.0f} s"
                try:
                    if cache is not None:
                        start(data, preset, cache)
                    found = [start(data, preset, cache) for _ in range(1 if plan.quick else max(plan.repeats // 2, 1))]
                except (RuntimeError, subprocess.TimeoutExpired) as problem:
                    failed = absent(what, peer, "s", str(problem), target=1.0, kind="overhead")
                    rows.append(failed | {"failed": True})
                    continue
                values = [one["cold"] for one in found]
                stages = {name: middle([one[name] for one in found]) for name in found[0]}
                note = "seconds: " + ", ".join(f"{name} {value:.2f}" for name, value in stages.items())
                more = {"spread": {"ours": spread(values)}, "repeats": len(values), "note": note}
                rows.append(row(what, peer, middle(values), LIMIT, "s", target=1.0, kind="overhead", **more))
    return rows


CASES = {"cold": Case(cold, "cold start of `jaxrec train`")}

if __name__ == "__main__":
    child(*sys.argv[1:])
