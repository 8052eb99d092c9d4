"""Training: a jitted, donated epoch (one trace, no host traffic inside), and the loop around it."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.brief import brief
from jaxrec.files import want_folder
from jaxrec.names import want_whole
from jaxrec.rank import NotFiniteError
from jaxrec.rows import accelerated
from jaxrec.samplers import OrderedDraw, Sampler, want_rows
from jaxrec.step import Info, Step, TrainState
from jaxrec.types import Array, Batch

Epoch = Callable[[TrainState], tuple[TrainState, Info]]
Evaluate = Callable[[TrainState], dict[str, float]]


class DivergenceError(RuntimeError):
    """Losses or tables stopped being finite; `state` is the last good one, as it was before the epoch that failed.

    Nobody keeps that state while training goes well. Asking for it trains up to that epoch once more, from the start
    or from the newest checkpoint.
    """

    def __init__(self, message: str, again: Callable[[], TrainState]):
        super().__init__(message)
        self._again = again

    @cached_property
    def state(self) -> TrainState:
        return self._again()


def make_epoch(step: Step, sampler: Sampler) -> Epoch:
    """Compiles a whole epoch, `state -> (state, Info [S])`; the state passed in is donated, so never use it again.

    One step and one sampler are compiled once, however often they are given here or to `fit`, as `jax.jit` compiles a
    function once: a value that they read and that changes later wants a new step. ValueError for a sampler of more
    users or items than the model has; of one that does not tell its `rows` the first batch is looked at
    (`testing.check_sampler` looks at all).
    """
    want_whole("the sampler's num_batches", sampler.num_batches)
    drawn, there = sampler.rows, step.rows
    if drawn is not None and there is not None and (drawn[0] > there[0] or drawn[1] > there[1]):
        raise ValueError(
            f"the sampler draws from {drawn[0]} users and {drawn[1]} items, the model has {there[0]} and {there[1]}; "
            "make both of the same interactions"
        )
    if drawn is None and there is not None:  # a sampler of one's own: what is out of range would vanish in a scatter
        number = {"epoch": jnp.int32(0)} if sampler.by_epoch else {}
        want_rows(jax.jit(sampler.draw)(sampler.data, jax.random.key(0), jnp.int32(0), **number), *there)

    compiled = _program(step.update, sampler.draw, sampler.num_batches, sampler.by_epoch)
    return lambda state: compiled(state, sampler.data)


@lru_cache(maxsize=8)  # what a step closes over, such as a graph, lives as long as its program
def _program(
    update: Callable[[TrainState, Batch], tuple[TrainState, Info]],
    draw: Callable[..., Batch],
    num_batches: int,
    by_epoch: bool,
) -> Callable[[TrainState, Any], tuple[TrainState, Info]]:
    def run(state: TrainState, data: Any) -> tuple[TrainState, Info]:
        key = jax.random.fold_in(state.key, state.epoch)
        number = {"epoch": state.epoch} if by_epoch else {}
        drawn: Callable[..., Batch] = draw
        if isinstance(draw, OrderedDraw) and accelerated():
            drawn = partial(draw.drawn, order=draw.order(data, key))

        def body(state: TrainState, i: Array) -> tuple[TrainState, Info]:
            return update(state, drawn(data, key, i, **number))

        state, info = jax.lax.scan(body, state, jnp.arange(num_batches, dtype=jnp.int32))
        return state._replace(epoch=state.epoch + 1), info

    return jax.jit(run, donate_argnums=0)


@jax.jit
def _copy(state: TrainState) -> TrainState:
    return jax.tree.map(jnp.copy, state)


@dataclass(frozen=True)
class Fit:
    """What training leaves: the last state, and the best one by the monitored metric (the last without a monitor)."""

    state: TrainState
    best: TrainState
    best_epoch: int
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = "epochs"  # or "patience", "signal"

    def __repr__(self) -> str:
        last = self.history[-1] if self.history else {}
        return brief(self, "best_epoch", "stopped", params=self.state.params, last=last)


@dataclass
class _Progress:
    """What the loop knows beside the state; saved with each checkpoint."""

    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = float("-inf")


def fit(
    step: Step,
    sampler: Sampler,
    *,
    epochs: int,
    key: Array | None = None,
    state: TrainState | None = None,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 1,
    monitor: str | None = None,
    patience: int | None = None,
    on_epoch: Callable[[dict[str, Any], TrainState], None] | None = None,
    checkpoint: Path | str | None = None,
    checkpoint_every: int = 1,
    resume: bool = False,
    meta: dict[str, Any] | None = None,
    progress: bool = False,
) -> Fit:
    """Trains from `step.init(key)`, or from `state`, which stays as it is, until `state.epoch == epochs`.

    `epochs` counts from the very start: to train a state for ten more, give `int(state.epoch) + 10`.

    Memory is that of one state, of another one with `monitor` (the best so far), of another one where `state` is given,
    and of a batch.

    evaluate: state -> metrics, called every `evaluate_every` epochs and after the last; added to the history.
    monitor, patience: the metric of `evaluate` that chooses the best state, the larger the better; stop after
        `patience` evaluations without a better one.
    on_epoch: called with each history row (epoch, loss, pull, seconds, metrics) and the state, whose memory the next
        epoch takes: copy what is to be kept, `jax.tree.map(jnp.copy, state)`.
    checkpoint: folder for checkpoints, one every `checkpoint_every` epochs and at a signal; `resume` goes on from the
        newest good one with the same bits as if never interrupted. What the sampler draws from, the key and `meta`
        must be the same as when it was saved, CheckpointError otherwise; a step can't be compared, so put its settings
        into `meta`. Without `resume` a new run takes the folder over: its first checkpoint replaces those there.

    Raises DivergenceError, which holds the last good state, where a loss is not finite. ValueError for a monitor that
    `evaluate` does not return or that is NaN, patience without a monitor, resume without a checkpoint folder, and a
    state or a checkpoint that is past `epochs`. SIGTERM and SIGINT end the run after the epoch, saved, with
    `stopped="signal"`.
    """
    if (key is None) == (state is None):
        raise ValueError("give fit either a key to start from or a state to go on from")
    if not hasattr(epochs, "__index__") or epochs < 0:
        raise ValueError(f"epochs must be a whole number from 0, got {epochs!r}")
    if key is not None and not hasattr(key, "dtype"):
        raise TypeError(f"key must be a key like jax.random.key(0), got {key!r}")
    if state is not None and not isinstance(state, TrainState):
        kind = type(state).__name__
        raise TypeError(f"state must be a TrainState, got {kind}; of a restored checkpoint it is .state")
    if (monitor is None) != (evaluate is None):
        raise ValueError("evaluate and monitor go together: evaluate gives metrics, monitor names the one that counts")
    if patience is not None and monitor is None:
        raise ValueError(f"patience={patience} wants a monitor to wait for; give fit evaluate and monitor, too")
    if checkpoint is not None:
        want_folder(Path(checkpoint))
        try:
            json.dumps(meta)
        except (TypeError, ValueError) as problem:
            raise TypeError(f"meta must hold what JSON can, to be saved beside a checkpoint: {problem}") from None
    if resume and checkpoint is None:
        raise ValueError("resume=True wants the checkpoint folder to go on from; give fit checkpoint, too")
    if min(evaluate_every, checkpoint_every) < 1:
        raise ValueError(
            f"evaluate_every and checkpoint_every count epochs, from 1, got {evaluate_every} and {checkpoint_every}"
        )

    def begin() -> TrainState:
        return step.init(key) if state is None else _copy(state)  # type: ignore[arg-type]

    current = begin()
    known = _Progress()
    best: TrainState | None = None  # none yet
    store = None if checkpoint is None else _Store(Path(checkpoint), meta or {}, _drawn(sampler, current.key))
    if store is not None and resume:
        current, best, known = store.restore(current, known)
        best = best if known.best_epoch else None
    if int(current.epoch) > epochs:
        resumed = store is not None and store.last is not None
        held, cure = (checkpoint, "nothing to resume") if resumed else ("state", "epochs counts from the very start")
        raise ValueError(f"{held} is at epoch {int(current.epoch)}, past epochs={epochs}: {cure}")
    epoch, stopped = make_epoch(step, sampler), "epochs"
    if patience is not None and known.history and _evaluations_since(known, monitor) > max(patience, 1):
        stopped = "patience"  # the run that is resumed had stopped already
    with ExitStack() as stack:
        stop = stack.enter_context(_signals(store is not None))
        rows = sampler.num_batches * sampler.batch_size
        bar = stack.enter_context(_bar(progress, epochs, int(current.epoch), len_rows=rows))
        while stopped == "epochs" and int(current.epoch) < epochs:
            begun = time.perf_counter()
            current, info = epoch(current)
            losses, number = np.asarray(info.loss), int(current.epoch)
            if not np.all(np.isfinite(losses)):
                del current  # free for the state that the error may be asked for
                raise DivergenceError(_divergence(losses, number), partial(_again, epoch, begin, store, number - 1))
            row: dict[str, Any] = {
                "epoch": number,
                "loss": float(losses.mean()),
                "pull": float(np.asarray(info.pull).mean()),
                "seconds": round(time.perf_counter() - begun, 4),
            }
            if evaluate is not None and (number % evaluate_every == 0 or number == epochs):
                try:
                    given = evaluate(current)
                    if not isinstance(given, Mapping):
                        raise TypeError(f"evaluate must return a dict of numbers by name, got {type(given).__name__}")
                    found = {name: float(value) for name, value in given.items()}
                except NotFiniteError as problem:  # the last update of an epoch has no loss after it
                    del current
                    why = _advice(f"after epoch {number}, whose losses are finite, {problem}")
                    raise DivergenceError(why, partial(_again, epoch, begin, store, number - 1)) from problem
                if monitor not in found:
                    raise ValueError(f"monitor {monitor!r} is not among the metrics of evaluate, {sorted(found)}")
                if taken := found.keys() & row.keys():
                    raise ValueError(f"evaluate gives {sorted(taken)[0]!r}, as training does; name it otherwise")
                row |= found
                if math.isnan(found[monitor]):
                    raise ValueError(f"monitor {monitor!r} is NaN after epoch {number}: no state can be chosen by it")
                if found[monitor] > known.best_value:
                    known.best_value, known.best_epoch = found[monitor], number
                    best = None  # its memory is free for the new one
                    best = _copy(current)
                elif patience is not None and _evaluations_since(known, monitor) >= patience:
                    stopped = "patience"
            known.history.append(row)
            if on_epoch is not None:
                on_epoch(row, current)
            bar(row)
            if stop():
                stopped = "signal"
            if store is not None and (number % checkpoint_every == 0 or number == epochs or stopped == "signal"):
                store.save(current, current if best is None else best, known)
    if best is None:
        best, known.best_epoch = current, int(current.epoch)
    return Fit(current, best, known.best_epoch, known.history, stopped)


def _divergence(losses: np.ndarray, epoch: int) -> str:
    first = int(np.flatnonzero(~np.isfinite(losses))[0])
    return _advice(f"the loss became {losses[first]} at step {first} of epoch {epoch}")


def _advice(what: str) -> str:
    return (
        f"{what}; lower the learning rate, or raise the temperature. "
        "This error's `state` is the state before that epoch, which is trained again when asked for"
    )


def _again(epoch: Epoch, begin: Callable[[], TrainState], store: _Store | None, number: int) -> TrainState:
    """The state after epoch `number`, trained once more from the start or from the newest checkpoint."""
    state = begin()
    if store is not None and store.last is not None:
        saved, _, _ = store.restore(state, _Progress())
        if int(saved.epoch) == store.last:  # not what another run left in the folder
            state = saved
    while int(state.epoch) < number:
        state, _ = epoch(state)
    return state


def _evaluations_since(known: _Progress, monitor: str | None) -> int:
    return 1 + sum(monitor in row and row["epoch"] > known.best_epoch for row in known.history)


def _drawn(sampler: Sampler, key: Array) -> str:
    """32 hex digits that tell whether two runs draw the same batches: the sampler's arrays and sizes, and the key."""
    digest = hashlib.sha256(f"{sampler.num_batches} {sampler.batch_size} {sampler.by_epoch} {sampler.rows}".encode())
    leaves, structure = jax.tree.flatten((sampler.data, jax.random.key_data(key)))
    digest.update(str(structure).encode())
    for leaf in map(np.asarray, leaves):
        digest.update(f"{leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:32]


class _Store:
    """Checkpoints of the state, the best state and the progress, under one fingerprint of the run."""

    def __init__(self, folder: Path, meta: dict[str, Any], drawn: str):
        self.folder, self.drawn = folder, drawn
        self.meta = json.loads(json.dumps(meta))  # as it comes back, tuples as lists
        self.last: int | None = None  # the epoch that this run saved last, or went on from

    def save(self, state: TrainState, best: TrainState, known: _Progress) -> None:
        from jaxrec import checkpoint

        number = int(state.epoch)
        meta = {"run": self.meta, "drawn": self.drawn, "progress": vars(known)}
        keep = 1 if self.last is None else 2  # at first, what another run left goes: a resume takes the newest
        checkpoint.save(self.folder, number, {"state": state, "best": best}, meta=meta, keep=keep)
        self.last = number

    def restore(self, state: TrainState, known: _Progress) -> tuple[TrainState, TrainState, _Progress]:
        from jaxrec import checkpoint

        if not checkpoint.steps(self.folder):
            return state, state, known
        found = checkpoint.restore(self.folder, {"state": state, "best": state}, check=self._want_same)
        if self.last is None:
            self.last = found.step
        return found.state["state"], found.state["best"], _Progress(**found.meta["progress"])

    def _want_same(self, meta: dict[str, Any]) -> None:
        from jaxrec.checkpoint import CheckpointError

        saved = meta["run"]
        different = sorted(n for n in saved.keys() | self.meta.keys() if saved.get(n) != self.meta.get(n))
        if different:
            told = ", ".join(f"{n} {saved.get(n)!r}, now {self.meta.get(n)!r}" for n in different)
            raise CheckpointError(
                f"{self.folder} holds another run: {told}; resume with what it was started with, or choose another "
                "folder"
            )
        if meta.get("drawn") != self.drawn:
            raise CheckpointError(
                f"{self.folder} holds a run of other interactions, another sampler or another key; resume with what "
                "it was started with, or choose another folder"
            )


@contextmanager
def _signals(wanted: bool) -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or SIGINT came, for runs that can save what they have; others keep the usual behaviour."""
    if not wanted:
        yield lambda: False
        return
    from jaxrec.checkpoint import graceful_stop

    with graceful_stop() as stop:
        yield lambda: bool(stop.requested)


@contextmanager
def _bar(wanted: bool, epochs: int, done: int, *, len_rows: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A progress bar with loss, rows a second and remaining time, or nothing."""
    if not wanted:
        yield lambda row: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    note = TextColumn("{task.fields[note]}")
    with Progress(TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), note, TimeRemainingColumn()) as shown:
        task = shown.add_task("train", total=epochs, completed=done, note="compiling")

        def update(row: dict[str, Any]) -> None:
            rate = len_rows / max(row["seconds"], 1e-9)
            shown.update(task, advance=1, note=f"loss {row['loss']:.4f}  {rate:,.0f} rows/s")

        yield update
