"""What machine this is, and its limits, measured in the same run as everything that is set against them."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import fastest
from benchmarks.worker import THREADS, Reading, Run, accelerator

PACKAGES = (
    *("jaxrec", "jax", "jaxlib", "numpy", "scipy", "optax"),
    *("implicit", "cornac", "lightfm-next", "torch", "lenskit", "threadpoolctl"),
)
LARGE = 4096  # the side of a square product, large enough to reach the best rate
STEP = (2048, 64, 1024)  # B, D, K of the sampled softmax
BLOCK = (128, 64, 40_981)  # users, D, items of a ranked block
ROW = 64  # width of a gathered row, float32
SMALL, BIG = 40_981, 4_000_000  # rows of a table inside and outside of the cache: 10 MB and 1 GB
GIGA = 1e9


def describe() -> dict[str, Any]:
    """The processor, its cores, caches and memory, and the system, in words and numbers."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return {
        "cpu": _cpu_model(),
        "cores": len(cores),
        "threads used": THREADS,
        "caches": _caches(),
        "memory GiB": round(_memory() / 2**30, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """The versions of everything compared; "absent" where a package is not installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _caches() -> str:
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, size, kind = ((folder / name).read_text().strip() for name in ("level", "size", "type"))
        if kind != "Instruction":
            found.append(f"L{level} {size}")
    return ", ".join(found) or "unknown"


def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


def limits(options: dict[str, Any]) -> Run:
    """A contender whose reading is this machine's limits: GB/s of copies and gathers, GFLOP/s of products.

    Those of the accelerator where there is one: there all is float32, and rates of small shapes, which are those of
    starting a program, are left out.
    """

    def run() -> Reading:
        if accelerator():
            return {
                "device": _device(),
                "copy, GB/s": _device_copy(),
                f"gather of rows from {SMALL:,} x {ROW}, GB/s": _device_gather(SMALL),
                f"gather of rows from {BIG:,} x {ROW}, GB/s": _device_gather(BIG),
                "sgemm best, GFLOP/s": _sgemm("jax", LARGE, LARGE, LARGE),
            }
        rates = {
            f"sgemm {name} {'x'.join(map(str, shape))}, GFLOP/s": _sgemm(name, *shape)
            for name in ("jax", "numpy")
            for shape in ((LARGE, LARGE, LARGE), STEP, BLOCK)
        }
        return {
            "device": _device(),
            "copy, GB/s": _copy(),
            f"gather of rows from {SMALL:,} x {ROW}, GB/s": _gather(SMALL),
            f"gather of rows from {BIG:,} x {ROW}, GB/s": _gather(BIG),
            "sgemm best, GFLOP/s": max(rates.values()),
        } | rates

    return run


def sgemm(options: dict[str, Any]) -> Run:
    """A contender whose reading is the best rate of a large product, by jax or numpy on both threads, in GFLOP/s."""

    def run() -> Reading:
        names = ("jax",) if accelerator() else ("jax", "numpy")
        found = {name: _sgemm(name, LARGE, LARGE, LARGE, repeats=2) for name in names}
        step = {name: _sgemm(name, *STEP, repeats=20) for name in found}
        return {"rate": max(found.values()), "step_rate": max(step.values()), "large": found, "step": step}

    return run


def _device() -> str:
    import jax

    return str(jax.devices()[0].device_kind)


def _copy(size: int = 2**28) -> float:
    """GB/s read and written by a copy on all threads, of arrays that no cache holds."""
    source, target = np.ones(size // 4, np.float32), np.zeros(size // 4, np.float32)
    parts = np.array_split(np.arange(len(source)), THREADS)
    slices = [slice(int(part[0]), int(part[-1]) + 1) for part in parts]
    with ThreadPoolExecutor(THREADS) as pool:
        copy = lambda where: np.copyto(target[where], source[where])  # noqa: E731
        return 2 * source.nbytes / fastest(lambda: list(pool.map(copy, slices))) / GIGA


def _gather(rows: int, wanted: int = 400_000) -> float:
    """GB/s of rows read at random from a table on all threads; what is written is not counted."""
    table = np.ones((rows, ROW), np.float32)
    ids = np.random.default_rng(0).integers(0, rows, wanted)
    parts, room = np.array_split(ids, THREADS), np.array_split(np.empty((wanted, ROW), np.float32), THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        take = lambda part: np.take(table, parts[part], axis=0, out=room[part], mode="clip")  # noqa: E731
        return wanted * ROW * 4 / fastest(lambda: list(pool.map(take, range(THREADS)))) / GIGA


def _device_copy(size: int = 2**30) -> float:
    """GB/s read and written by the accelerator."""
    import jax
    import jax.numpy as jnp

    source, add = jnp.zeros(size // 4), jax.jit(lambda x: x + 1.0)
    return 2 * size / fastest(lambda: jax.block_until_ready(add(source))) / GIGA


def _device_gather(rows: int, wanted: int = 4_000_000) -> float:
    """GB/s of rows read at random from a table by the accelerator; what is written is not counted."""
    import jax
    import jax.numpy as jnp

    table, ids = jnp.ones((rows, ROW)), jnp.asarray(np.random.default_rng(0).integers(0, rows, wanted), jnp.int32)
    take = jax.jit(lambda table, ids: table[ids])
    return wanted * ROW * 4 / fastest(lambda: jax.block_until_ready(take(table, ids))) / GIGA


def _sgemm(library: str, m: int, k: int, n: int, *, repeats: int = 5) -> float:
    """GFLOP/s of [m, k] @ [k, n] in float32."""
    rng = np.random.default_rng(0)
    a, b = rng.random((m, k), np.float32), rng.random((k, n), np.float32)
    product = _product(library, a, b)
    return 2 * m * k * n / fastest(product, repeats=repeats) / GIGA


def _product(library: str, a: np.ndarray, b: np.ndarray) -> Callable[[], Any]:
    if library == "numpy":
        out = np.empty((a.shape[0], b.shape[1]), np.float32)
        return lambda: np.matmul(a, b, out=out)
    import jax

    multiply = jax.jit(lambda x, y: jax.numpy.matmul(x, y, precision=jax.lax.Precision.HIGHEST))
    left, right = jax.device_put(a), jax.device_put(b)
    return lambda: jax.block_until_ready(multiply(left, right))
