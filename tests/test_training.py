"""Steps, epochs, checkpoints, transforms: the contracts, and runs that are interrupted."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import random_interactions

from jaxrec import checkpoint, metrics, models, objectives, optim, rank, samplers, testing
from jaxrec.baselines import strata
from jaxrec.gradients import ScoreGradients, score_gradients
from jaxrec.step import Info, TrainState, make_step
from jaxrec.train import DivergenceError, fit, make_epoch
from jaxrec.transforms import training
from jaxrec.types import Batch, Tables

TRAIN = random_interactions(users=40, items=30)


def parts(**options):
    return _default_parts() if not options else _parts(**options)


@functools.cache
def _default_parts():  # of one program
    return _parts()


def _parts(**options):
    model = models.normalize(models.mf(40, 30, 6), temperature=0.5)
    sampler = samplers.sampler(TRAIN, batch_size=32, num_negatives=3)
    return sampler, make_step(model, objectives.bpr(), options.pop("optimizer", optim.row_adagrad(0.1)), **options)


def same(a: object, b: object) -> bool:
    plain = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    leaves = [[np.asarray(plain(x)) for x in jax.tree.leaves(tree)] for tree in (a, b)]
    return all(np.array_equal(x, y) for x, y in zip(*leaves, strict=True))


@pytest.mark.parametrize(
    ("optimizer", "transform"),
    [
        (optim.row_sgd(0.1), None),
        (optim.row_adagrad(0.1), training.equalize(30)),
        (optim.row_adam(0.1), None),
        (optim.frozen(), training.equalize(30)),
    ],
)
def test_state_is_a_fixed_point_and_traces_once(optimizer: object, transform: object) -> None:
    sampler, step = parts(optimizer=optimizer, transform=transform)
    state = step.init(jax.random.key(0))
    draw = jax.jit(sampler.draw)
    batches = [draw(sampler.data, jax.random.key(0), jnp.int32(i)) for i in range(3)]
    testing.check_fixed_point(step, state, batches[0])
    testing.check_one_trace(step, state, batches)


def test_fits_of_one_step_and_sampler_are_traced_once() -> None:
    sampler, step = parts()
    traced = []

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Info]:
        traced.append(batch.users.shape)
        return step.update(state, batch)

    counted = step._replace(update=update)
    states = [fit(counted, sampler, epochs=2, key=jax.random.key(seed)).state for seed in (0, 0, 1)]
    assert len(traced) == 1
    assert same(states[0], states[1])
    assert not same(states[0].params, states[2].params)
    # Another number of steps, data of another shape, and another step are other programs.
    fit(counted, sampler._replace(num_batches=sampler.num_batches - 1), epochs=1, key=jax.random.key(0))
    other = samplers.sampler(TRAIN, batch_size=16, num_negatives=3)
    fit(counted, other, epochs=1, key=jax.random.key(0))
    assert traced[1:] == [(sampler.batch_size,), (other.batch_size,)]


def test_the_identity_transform_changes_no_bit() -> None:
    states = []
    for transform in (None, optax.identity(), optax.chain(optax.identity(), training.weight_rows(jnp.ones(30)))):
        sampler, step = parts(transform=transform)
        states.append(make_epoch(step, sampler)(step.init(jax.random.key(0)))[0])
    assert same(states[0].params, states[1].params)
    assert same(states[0].ledger, states[1].ledger)
    np.testing.assert_allclose(states[0].params["item"], states[2].params["item"], rtol=1e-5, atol=1e-6)


def test_same_seed_same_bits_and_the_ledger_observes_without_acting() -> None:
    runs = []
    for observation in ({}, {}, {"observation": None}):
        sampler, step = parts(**observation)
        runs.append(fit(step, sampler, epochs=3, key=jax.random.key(1)).state)
    assert same(runs[0], runs[1])
    assert same(runs[0].params, runs[2].params)


@pytest.mark.parametrize(
    ("objective", "options", "temperature"),
    [
        (objectives.bpr(), {"num_negatives": 4, "reject": True}, 0.5),
        (objectives.bce(), {"num_negatives": 4}, 0.5),
        (objectives.softmax(logq=True), {"num_negatives": 40, "shared": True, "reject": True}, 0.5),
        (objectives.softmax(logq=True), {"in_batch": True, "reject": True}, 0.5),
    ],
)
def test_known_answer_data_is_learned(objective: objectives.Objective, options: dict, temperature: float) -> None:
    train, test = testing.two_groups()
    model = models.normalize(models.mf(60, 40, 4), items=True, temperature=temperature)
    sampler = samplers.sampler(train, batch_size=64, **options)
    step = make_step(model, objective, optim.row_adagrad(0.1))
    tables = models.embed(model, fit(step, sampler, epochs=30, key=jax.random.key(0)).state.params)
    found = metrics.evaluate(rank.top_k(tables, None, train, k=12), test, train, ks=(12,))
    assert found.summary["recall@12"] >= 0.9


def test_the_last_epoch_is_evaluated_and_of_equal_ones_the_first_is_the_best() -> None:
    sampler, step = parts()
    more: dict[str, Any] = {"evaluate": lambda state: {"m": 0.5}, "monitor": "m", "evaluate_every": 2}
    found = fit(step, sampler, epochs=5, key=jax.random.key(0), **more)
    assert [row["epoch"] for row in found.history if "m" in row] == [2, 4, 5]
    assert found.best_epoch == 2


def test_checkpoints_are_saved_as_often_as_asked(tmp_path: Path) -> None:
    sampler, step = parts()
    seen: list[list[int]] = []
    more: dict[str, Any] = {"checkpoint": tmp_path, "checkpoint_every": 2}
    more["on_epoch"] = lambda *_: seen.append(checkpoint.steps(tmp_path))
    fit(step, sampler, epochs=5, key=jax.random.key(0), **more)
    assert seen == [[], [], [2], [2], [2, 4]]  # asked before the epoch's own is saved
    assert checkpoint.steps(tmp_path) == [4, 5]


def test_epochs_draw_other_batches() -> None:
    sampler, step = parts(optimizer=optim.frozen())
    epoch = make_epoch(step, sampler)
    states = [step.init(jax.random.key(0))]
    for _ in range(2):
        states.append(epoch(jax.tree.map(jnp.copy, states[-1]))[0])
    sizes = [np.asarray(state.ledger.items.push.size) for state in states]
    assert not np.allclose(sizes[1] - sizes[0], sizes[2] - sizes[1], rtol=1e-3)


def test_early_stopping_keeps_the_best_state() -> None:
    sampler, step = parts()
    values = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.9])
    found = fit(
        step, sampler, epochs=6, key=jax.random.key(0), evaluate=lambda s: {"m": next(values)}, monitor="m", patience=2
    )
    assert (found.best_epoch, found.stopped, len(found.history)) == (2, "patience", 4)
    assert same(found.best, fit(step, sampler, epochs=2, key=jax.random.key(0)).state)


def test_divergence_is_named_and_the_last_good_state_kept() -> None:
    sampler, step = parts(optimizer=optim.row_sgd(1.0))
    state = fit(step, sampler, epochs=1, key=jax.random.key(0)).state
    bad = state._replace(params=jax.tree.map(lambda x: x.at[0].set(jnp.nan), state.params))
    with pytest.raises(DivergenceError, match="the loss became nan at step") as error:
        fit(step, sampler, epochs=3, state=bad)
    assert int(error.value.state.epoch) == 1
    np.testing.assert_array_equal(error.value.state.params["item"], bad.params["item"])  # as given, and still there


def test_tables_that_the_last_update_of_an_epoch_made_infinite_are_a_divergence() -> None:
    """Losses are those before each update, so they are finite; what ranks the tables refuses them."""
    sampler, step = parts()
    told: list[int] = []

    def evaluate(state: TrainState) -> dict[str, float]:
        told.append(int(state.epoch))
        bad = jnp.where(state.epoch == 2, jnp.inf, 1.0)
        rank.check_tables(Tables(state.params["user"] * bad, state.params["item"]))
        return {"m": 1.0}

    with pytest.raises(DivergenceError, match=r"after epoch 2, whose losses are finite, tables\.user") as error:
        fit(step, sampler, epochs=3, key=jax.random.key(0), evaluate=evaluate, evaluate_every=1, monitor="m")
    assert told == [1, 2]
    assert same(error.value.state, fit(step, sampler, epochs=1, key=jax.random.key(0)).state)


@pytest.mark.parametrize("checkpointed", [False, True, "over another run's"])
def test_the_state_before_a_divergence_is_trained_again_to_the_same_bits(
    checkpointed: bool | str, tmp_path: Path
) -> None:
    """The loss is made infinite in the third epoch; with checkpoints every two epochs the second one is read."""
    sampler, step = parts()
    if isinstance(checkpointed, str):
        fit(step, sampler, epochs=4, key=jax.random.key(1), checkpoint=tmp_path)

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Info]:
        state, info = step.update(state, batch)
        return state, info._replace(loss=jnp.where(state.epoch == 2, jnp.inf, info.loss))

    more = {"checkpoint": tmp_path, "checkpoint_every": 2} if checkpointed else {}
    with pytest.raises(DivergenceError, match="the loss became inf at step 0 of epoch 3") as error:
        fit(step._replace(update=update), sampler, epochs=5, key=jax.random.key(0), **more)  # type: ignore[arg-type]
    assert same(error.value.state, fit(step, sampler, epochs=2, key=jax.random.key(0)).state)


def test_a_state_that_is_given_stays_usable() -> None:
    sampler, step = parts()
    state = fit(step, sampler, epochs=1, key=jax.random.key(0)).state
    once, again = (fit(step, sampler, epochs=2, state=state).state for _ in range(2))
    assert same(once, again)


def test_a_checkpoint_before_the_first_evaluation_holds_the_state_itself(tmp_path: Path) -> None:
    sampler, step = parts()
    options: dict[str, Any] = {"key": jax.random.key(0), "evaluate_every": 3, "monitor": "m", "checkpoint": tmp_path}
    whole = fit(step, sampler, epochs=3, evaluate=lambda s: {"m": 1.0}, **options)
    assert (whole.best_epoch, same(whole.best, whole.state)) == (3, True)


def test_a_resumed_fit_keeps_the_best_state_of_before(tmp_path: Path) -> None:
    sampler, step = parts()
    options: dict[str, Any] = {"epochs": 2, "key": jax.random.key(0), "monitor": "m", "checkpoint": tmp_path}
    values = iter([1.0, 0.5])
    whole = fit(step, sampler, evaluate=lambda s: {"m": next(values)}, **options)
    resumed = fit(step, sampler, evaluate=lambda s: {"m": 0.0}, resume=True, **options)
    assert (whole.best_epoch, resumed.best_epoch) == (1, 1)
    assert same(resumed.best, whole.best)
    assert not same(resumed.best, resumed.state)


def test_fit_refuses_half_of_a_request() -> None:
    sampler, step = parts()
    with pytest.raises(ValueError, match="either a key"):
        fit(step, sampler, epochs=1)
    with pytest.raises(ValueError, match="go together"):
        fit(step, sampler, epochs=1, key=jax.random.key(0), monitor="m")
    with pytest.raises(ValueError, match="patience=2 wants a monitor"):
        fit(step, sampler, epochs=1, key=jax.random.key(0), patience=2)
    with pytest.raises(ValueError, match="not among the metrics"):
        fit(step, sampler, epochs=1, key=jax.random.key(0), monitor="m", evaluate=lambda s: {"n": 1.0})
    with pytest.raises(ValueError, match="'loss' is not among the metrics of evaluate"):  # larger would be better
        fit(step, sampler, epochs=1, key=jax.random.key(0), monitor="loss", evaluate=lambda s: {"n": 1.0})
    with pytest.raises(ValueError, match="evaluate gives 'loss', as training does"):
        fit(step, sampler, epochs=1, key=jax.random.key(0), monitor="loss", evaluate=lambda s: {"loss": 1.0})
    with pytest.raises(ValueError, match="monitor 'm' is NaN after epoch 1"):
        fit(step, sampler, epochs=1, key=jax.random.key(0), monitor="m", evaluate=lambda s: {"m": float("nan")})
    with pytest.raises(TypeError, match="evaluate must return a dict of numbers by name, got NoneType"):
        fit(step, sampler, epochs=1, key=jax.random.key(0), monitor="m", evaluate=lambda s: None)  # type: ignore[arg-type, return-value]
    for epochs in (-1, 2.5):
        with pytest.raises(ValueError, match=f"epochs must be a whole number from 0, got {epochs}"):
            fit(step, sampler, epochs=epochs, key=jax.random.key(0))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"key must be a key like jax.random.key\(0\), got 0"):
        fit(step, sampler, epochs=1, key=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="row-sparse optimiser wants"):
        make_step(models.mf(4, 4, 2)._replace(tables_are_params=False), objectives.bpr(), optim.row_sgd(0.1))
    for l2 in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="l2 must be a number from 0"):
            make_step(models.mf(4, 4, 2), objectives.bpr(), optim.row_sgd(0.1), l2=l2)


def test_epochs_count_from_the_very_start() -> None:
    sampler, step = parts()
    state = fit(step, sampler, epochs=2, key=jax.random.key(0)).state
    assert int(fit(step, sampler, epochs=3, state=state).state.epoch) == 3
    with pytest.raises(ValueError, match="state is at epoch 2, past epochs=1: epochs counts from the very start"):
        fit(step, sampler, epochs=1, state=state)


def test_what_on_epoch_adds_to_a_row_is_no_evaluation() -> None:
    sampler, step = parts()
    values = iter([1.0, 0.9, 1.1, 0.5])
    found = fit(
        step,
        sampler,
        epochs=8,
        key=jax.random.key(0),
        evaluate=lambda state: {"m": next(values)},
        evaluate_every=2,
        monitor="m",
        patience=2,
        on_epoch=lambda row, state: row.update(rate=0.1),
    )
    assert (found.best_epoch, found.stopped, len(found.history)) == (6, "epochs", 8)


FLAT = models.mf(40, 30, 4)


@pytest.mark.parametrize(
    ("change", "optimizer", "message"),
    [
        ({"tables": lambda p: (0.5 * p["user"], p["item"])}, optax.sgd(0.1), "tables_are_params says .* they are not"),
        ({"init": lambda key: {"table": jnp.ones((70, 4))}}, optax.sgd(0.1), "wants parameters 'user' and 'item', got"),
        ({"init": lambda key: FLAT.init(key) | {"g": jnp.ones(3)}}, optim.row_sgd(0.1), "would not train g"),
        ({"init": lambda key: FLAT.init(key) | {"kind": jnp.arange(3)}}, optax.sgd(0.1), r"\['kind'\] is int32"),
    ],
)
def test_parameters_that_could_not_be_trained_are_refused(change: dict, optimizer: Any, message: str) -> None:
    step = make_step(FLAT._replace(**change), objectives.bpr(), optimizer)
    with pytest.raises(ValueError, match=message):
        step.init(jax.random.key(0))


def test_further_parameters_are_trained_by_optax() -> None:
    model = FLAT._replace(
        init=lambda key: FLAT.init(key) | {"scale": jnp.ones(4)},
        tables=lambda p: (p["user"] * p["scale"][None, :], p["item"]),
        tables_are_params=False,
    )
    sampler, _ = parts()
    state = fit(make_step(model, objectives.bpr(), optax.sgd(0.1)), sampler, epochs=1, key=jax.random.key(0)).state
    assert not np.array_equal(state.params["scale"], np.ones(4))


def test_embeddings_that_training_starts_from_stay_the_callers() -> None:
    """Also where both tables are one array: an epoch takes the memory of its own copies only."""
    warm = jax.random.normal(jax.random.key(3), (30, 4))
    model = models.mf(30, 30, 4)._replace(init=lambda key: {"user": warm, "item": warm})
    sampler = samplers.sampler(random_interactions(users=30, items=30), batch_size=32)
    for seed in (0, 1):
        found = fit(make_step(model, objectives.bpr(), optax.sgd(0.1)), sampler, epochs=1, key=jax.random.key(seed))
        assert not same(found.state.params["user"], warm)
    assert np.isfinite(np.asarray(warm)).all()


def test_a_transform_that_keeps_something_of_each_row_is_refused() -> None:
    sampler, step = parts(transform=optax.trace(0.9))
    with pytest.raises(ValueError, match="momentum and Adam go into the optimizer"):
        fit(step, sampler, epochs=1, key=jax.random.key(0))


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
import jax
from test_training import parts
from jaxrec.train import fit
sampler, step = parts()
found = fit(step, sampler, epochs=12, key=jax.random.key(3), checkpoint={folder!r}, resume=True,
            on_epoch=lambda row, state: (print(row["epoch"], flush=True), time.sleep(0.15)))
print(found.stopped)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(how: signal.Signals, tmp_path: Path) -> None:
    sampler, step = parts()
    whole = fit(step, sampler, epochs=12, key=jax.random.key(3)).state
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "run"))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "4":
                time.sleep(0.05)
                process.send_signal(how)
                break
        rest = process.stdout.read()
    if how == signal.SIGTERM:
        assert "signal" in rest
        assert process.returncode == 0
    assert 3 <= checkpoint.steps(tmp_path / "run")[-1] < 12
    resumed = fit(step, sampler, epochs=12, key=jax.random.key(3), checkpoint=tmp_path / "run", resume=True)
    assert same(resumed.state, whole)
    assert [row["epoch"] for row in resumed.history] == list(range(1, 13))


def test_a_step_is_never_removed_by_its_own_saving(tmp_path: Path) -> None:
    for n in (32, 40, 8):
        assert checkpoint.save(tmp_path, n, {"a": jnp.arange(3)}).is_dir()
    assert checkpoint.steps(tmp_path) == [8, 40]
    (tmp_path / "step_00000040").rename(tmp_path / "step_00000040.bak")
    assert checkpoint.steps(tmp_path) == [8]


def test_a_new_run_in_the_folder_of_another_one_can_be_resumed(tmp_path: Path) -> None:
    sampler, step = parts()
    more: dict[str, Any] = {"key": jax.random.key(3), "checkpoint": tmp_path}
    fit(step, sampler, epochs=6, meta={"run": "a"}, **more)

    def stop(row: dict[str, Any], state: TrainState) -> None:
        if row["epoch"] == 3:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fit(step, sampler, epochs=4, meta={"run": "b"}, on_epoch=stop, **more)
    assert checkpoint.steps(tmp_path) == [1, 2]
    resumed = fit(step, sampler, epochs=4, meta={"run": "b"}, resume=True, **more)
    assert [row["epoch"] for row in resumed.history] == [1, 2, 3, 4]


def test_what_could_not_be_saved_is_refused_before_training(tmp_path: Path) -> None:
    sampler, step = parts()
    (tmp_path / "file").write_text("mine")
    seen: list[Any] = []
    given: dict[str, Any] = {"epochs": 1, "key": jax.random.key(0), "on_epoch": lambda *row: seen.append(row)}
    with pytest.raises(ValueError, match="file can't be a folder"):
        fit(step, sampler, checkpoint=tmp_path / "file", **given)
    with pytest.raises(TypeError, match=r"meta must hold what JSON can.*float32"):
        fit(step, sampler, checkpoint=tmp_path / "new", meta={"a": np.float32(1)}, **given)
    assert not seen


def test_a_damaged_checkpoint_is_passed_over_and_another_runs_refused(tmp_path: Path) -> None:
    state = {"a": jnp.arange(3), "key": jax.random.key(3), "none": None}
    for n in (1, 2, 3):
        checkpoint.save(tmp_path, n, state | {"a": jnp.arange(3) + n}, meta={"n": n})
    assert checkpoint.steps(tmp_path) == [2, 3]
    found = checkpoint.restore(tmp_path, state)
    assert (found.step, found.meta, found.state["a"].tolist()) == (3, {"n": 3}, [3, 4, 5])
    assert same(found.state["key"], state["key"])
    largest = max((p for p in (tmp_path / "step_00000003").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    with pytest.warns(checkpoint.CheckpointWarning, match="is damaged"):
        assert checkpoint.restore(tmp_path, state).step == 2
    others = (state | {"b": jnp.ones(1)}, "names differ"), (state | {"a": jnp.ones(3)}, "wanted float32")
    for other, message in others:
        with pytest.warns(checkpoint.CheckpointWarning), pytest.raises(checkpoint.CheckpointError, match=message):
            checkpoint.restore(tmp_path, other)
    with pytest.raises(checkpoint.CheckpointError, match="no usable checkpoint"):
        checkpoint.restore(tmp_path / "none", state)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    sampler, step = parts()
    fit(step, sampler, epochs=1, key=jax.random.key(0), checkpoint=tmp_path, meta={"seed": 0})
    with pytest.raises(checkpoint.CheckpointError, match="holds another run"):
        fit(step, sampler, epochs=2, key=jax.random.key(0), checkpoint=tmp_path, resume=True, meta={"seed": 1})


def test_metrics_and_meta_of_any_kind_are_saved(tmp_path: Path) -> None:
    sampler, step = parts()
    more: dict[str, Any] = {"checkpoint": tmp_path, "meta": {"sizes": (64, 32)}, "monitor": "m"}
    more["key"] = jax.random.key(0)
    fit(step, sampler, epochs=1, evaluate=lambda state: {"m": np.float32(0.5)}, **more)
    found = fit(step, sampler, epochs=2, evaluate=lambda state: {"m": jnp.ones(())}, resume=True, **more)
    assert [row["m"] for row in found.history] == [0.5, 1.0]
    with pytest.raises(TypeError, match="not JSON serializable"):
        fit(step, sampler, epochs=1, key=jax.random.key(0), checkpoint=tmp_path / "b", meta={"of": object()})
    assert not (tmp_path / "b").exists()


def test_leaves_come_back_as_what_they_were(tmp_path: Path) -> None:
    state = {"wide": np.array([2**40 + 3]), "real": np.array([0.1]), "own": jnp.ones(2)}
    checkpoint.save(tmp_path, 1, state)
    found = checkpoint.restore(tmp_path, state).state
    assert (found["wide"].dtype, found["wide"].tolist(), found["real"].tolist()) == (np.int64, [2**40 + 3], [0.1])
    assert isinstance(found["own"], jax.Array)
    with pytest.raises(ValueError, match=r"two leaves have one name, .* a\.b"):
        checkpoint.save(tmp_path / "other", 1, {"a.b": jnp.ones(1), "a": {"b": jnp.ones(2)}})
    with pytest.raises(TypeError, match=r"holds arrays, but a is 1\.0"):
        checkpoint.save(tmp_path / "other", 1, {"a": 1.0})
    with pytest.raises(ValueError, match="step must be a whole number from 0, got -1"):
        checkpoint.save(tmp_path / "other", -1, state)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["users", "positives", "negatives"])
@pytest.mark.parametrize("bad", [-1, 60])
def test_a_sampler_of_ones_own_may_not_leave_the_tables(name: str, bad: int) -> None:
    _, step = parts()
    whole = Batch(jnp.array([3, 4]), jnp.array([5, 6]), jnp.array([[7], [8]]))
    testing.check_sampler(samplers.Sampler(None, lambda data, key, i: whole, 2, 2), 40, 30)

    def drawn(at: Any, key: Any, i: Any) -> Batch:
        odd = whole._replace(**{name: getattr(whole, name).at[0].set(bad)})
        return jax.tree.map(lambda a, b: jnp.where(i == at, a, b), odd, whole)

    for at in (0, 1):
        own = samplers.Sampler(jnp.int32(at), drawn, 2, 2)
        with pytest.raises(ValueError, match=rf"the sampler's {name} must be in \[0, ..\), got {bad}"):
            testing.check_sampler(own, 40, 30)
    with pytest.raises(ValueError, match=f"the sampler's {name} must be in"):
        fit(step, own._replace(data=jnp.int32(0)), epochs=1, key=jax.random.key(0))


def test_a_checkpoint_of_other_batches_is_refused(tmp_path: Path) -> None:
    sampler, step = parts()
    more: dict[str, Any] = {"checkpoint": tmp_path, "resume": True}
    fit(step, sampler, epochs=2, key=jax.random.key(0), **more)
    fewer = TRAIN.select(np.arange(len(TRAIN)) > 0)
    others = (
        (samplers.sampler(fewer, batch_size=32, num_negatives=3), 0),
        (samplers.sampler(TRAIN, batch_size=16, num_negatives=3), 0),
        (sampler, 1),
    )
    for other, seed in others:
        with pytest.raises(checkpoint.CheckpointError, match="of other interactions, another sampler or another key"):
            fit(step, other, epochs=3, key=jax.random.key(seed), **more)
    with pytest.raises(ValueError, match="at epoch 2, past epochs=1"):
        fit(step, sampler, epochs=1, key=jax.random.key(0), **more)
    assert [row["epoch"] for row in fit(step, sampler, epochs=3, key=jax.random.key(0), **more).history] == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume": True}, "wants the checkpoint folder"),
        ({"evaluate_every": 0}, "count epochs, from 1, got 0 and 1"),
        ({"checkpoint_every": 0}, "count epochs, from 1, got 1 and 0"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options: dict[str, Any], message: str) -> None:
    sampler, step = parts()
    with pytest.raises(ValueError, match=message):
        fit(step, sampler, epochs=1, key=jax.random.key(0), **options)


# Train-time transforms


def gradients(dtype: str = "float32") -> ScoreGradients:
    negative = jnp.array([[0.5, 0.25], [0.125, 0.5], [1.0, 2.0]], dtype)
    return ScoreGradients(-jnp.array([0.5, 0.25, 0.125], dtype), negative)


IDS = {
    "users": jnp.array([0, 1, 2]),
    "positives": jnp.array([0, 1, 1]),
    "negatives": jnp.array([[2, 3], [3, 0], [2, 2]]),
}
TRANSFORMS = {
    "weight_rows": lambda: training.weight_rows(jnp.array([1.0, 2.0, 3.0, 4.0])),
    "propensity": lambda: training.propensity_weights(np.array([1.0, 0.5, 0.25, 0.1]), clip=3.0),
    "count": lambda: training.count_weights(np.array([8, 4, 2, 1])),
    "equalize": lambda: training.equalize(4),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_pass_the_contract_that_optax_ships_for_its_own(name: str) -> None:
    """optax's `TransformTest.test_scalers`, run on our transforms with the ids bound as its extra arguments are."""
    from optax._src.transform_test import TransformTest

    def bound() -> optax.GradientTransformationExtraArgs:
        inner = TRANSFORMS[name]()
        return optax.GradientTransformationExtraArgs(inner.init, lambda u, s, p=None, **_: inner.update(u, s, p, **IDS))

    case = TransformTest()
    case.init_params = case.per_step_updates = gradients()
    TransformTest.test_scalers_adam.__wrapped__(case, bound)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_keep_shapes_and_dtypes_and_chain(name: str, dtype: str) -> None:
    transform = optax.chain(optax.identity(), TRANSFORMS[name](), optax.scale(2.0))
    state = transform.init(gradients(dtype))
    found, after = jax.jit(transform.update)(gradients(dtype), state, None, **IDS)
    for a, b in zip(jax.tree.leaves((found, after)), jax.tree.leaves((gradients(dtype), state)), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_transforms_are_their_formulas() -> None:
    g = jax.tree.map(np.asarray, gradients())
    positives, negatives = np.asarray(IDS["positives"]), np.asarray(IDS["negatives"])
    found, _ = TRANSFORMS["weight_rows"]().update(gradients(), (), None, **IDS)
    np.testing.assert_allclose(found.positive, g.positive * [1, 2, 2])
    np.testing.assert_allclose(found.negative, g.negative * np.array([[1], [2], [2]]))
    found, _ = TRANSFORMS["propensity"]().update(gradients(), (), None, **IDS)
    np.testing.assert_allclose(found.positive, g.positive * [1, 2, 2])
    found, _ = TRANSFORMS["propensity"]().update(gradients(), (), None, **IDS | {"positives": jnp.array([1, 2, 3])})
    np.testing.assert_allclose(found.positive, g.positive * [2, 3, 3])  # of 2, 4, 10, clipped at 3
    counts = np.array([8, 4, 2, 1])
    weights = (8 / counts) / ((8 / counts) @ counts / counts.sum())
    found, _ = TRANSFORMS["count"]().update(gradients(), (), None, **IDS)
    np.testing.assert_allclose(found.positive, g.positive * weights[positives], rtol=1e-5)
    transform = TRANSFORMS["equalize"]()
    _, state = transform.update(gradients(), transform.init(gradients()), None, **IDS)
    np.testing.assert_allclose(state.pull, [0.5, 0.375, 0, 0])
    np.testing.assert_allclose(state.push, [0.5, 0, 3.5, 0.375])
    found, _ = transform.update(gradients(), state, None, **IDS)
    ratio = (np.asarray(state.pull) + 1e-12) / (np.asarray(state.push) + 1e-12)
    gate = 1 / (1 + np.exp(-12 * (np.minimum(ratio, 10) - 0.8)))
    np.testing.assert_allclose(found.positive, g.positive * (1 + 4 * (1 - gate))[positives], rtol=1e-4)
    np.testing.assert_allclose(found.negative, g.negative * gate[negatives], rtol=1e-4, atol=1e-7)


def test_count_weights_follow_their_power() -> None:
    g = ScoreGradients(-jnp.ones(2), jnp.ones((2, 1)))
    found, _ = training.count_weights(np.array([4, 1]), power=0.5).update(g, (), None, positives=jnp.array([0, 1]))
    assert float(found.positive[1] / found.positive[0]) == pytest.approx(2.0)


def test_equalize_counts_each_row_of_shared_negatives() -> None:
    transform, g = training.equalize(4), ScoreGradients(-jnp.ones(3), jnp.full((3, 2), 0.5))
    ids = {"positives": jnp.array([0, 1, 1]), "negatives": jnp.array([2, 3])}
    _, state = transform.update(g, transform.init(g), None, **ids)
    np.testing.assert_allclose(state.push, [0, 0, 1.5, 1.5])
    found, _ = transform.update(g, state, None, **ids)
    _, down = training.gradient_ratio_gate()((state.pull + 1e-12) / (state.push + 1e-12))
    np.testing.assert_allclose(found.negative, g.negative * down[ids["negatives"]][None], rtol=1e-6)


def test_the_gate_is_its_formula() -> None:
    up, down = training.gradient_ratio_gate(slope=1.0, middle=0.0, gain=2.0)(jnp.array([0.0, 1.0]))
    f = 1 / (1 + np.exp(-np.array([0.0, 1.0])))
    np.testing.assert_allclose(up, 1 + 2 * (1 - f), rtol=1e-6)
    np.testing.assert_allclose(down, f, rtol=1e-6)


@pytest.mark.parametrize("size", [29, 31])
@pytest.mark.parametrize("kind", ["equalize", "weights"])
def test_transforms_of_another_catalogue_are_refused(kind: str, size: int) -> None:
    made = training.equalize(size) if kind == "equalize" else training.weight_rows(jnp.ones(size))
    sampler, step = parts(transform=optax.chain(optax.identity(), made))
    with pytest.raises(ValueError, match=f"the transform is of {size} items, the model has 30"):
        fit(step, sampler, epochs=1, key=jax.random.key(0))


def test_counts_that_weigh_nothing_are_refused() -> None:
    for counts in ([0, 0], [3, -1]):
        with pytest.raises(ValueError, match="counts must be from 0, some of them above"):
            training.count_weights(np.array(counts))


def test_propensities_must_be_probabilities() -> None:
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]"):
        training.propensity_weights(np.array([0.0, 1.0]))


def test_weights_that_would_train_uphill_are_refused() -> None:
    for weights in (-jnp.ones(3), jnp.ones((3, 1)), jnp.full(3, jnp.nan)):
        with pytest.raises(ValueError, match="weights must be one finite number from 0 for each item"):
            training.weight_rows(weights)
    with pytest.raises(ValueError, match="clip must be above 0, got -3"):
        training.propensity_weights(np.ones(3), clip=-3)


def test_parts_that_were_not_called_are_told() -> None:
    model = models.mf(4, 5, 2)
    for objective, optimizer, more, message in [
        (objectives.bpr, optim.row_sgd(0.1), {}, r"objective must take .* like objectives\.bpr\(\)"),
        (objectives.bpr(), optim.row_sgd, {}, "optimizer must be one of .* is it to be called first"),
        (objectives.bpr(), optax.adam, {}, "optimizer must be one of"),
        (objectives.bpr(), optim.row_sgd(0.1), {"transform": optax.clip}, "transform must be .* called first"),
        (objectives.bpr(), optim.row_sgd(0.1), {"observation": True}, "observation must be an Observation or None"),
    ]:
        with pytest.raises(TypeError, match=message):
            make_step(model, objective, optimizer, **more)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"width must be a whole number from 1, got 4\.0"):
        models.mf(4, 5, 4.0)  # type: ignore[arg-type]
    sampler, step = parts()
    state = step.init(jax.random.key(0))
    with pytest.raises(TypeError, match=r"state must be a TrainState, got Restored; .* it is \.state"):
        fit(step, sampler, epochs=1, state=checkpoint.Restored(1, state, {}))  # type: ignore[arg-type]
    tuples = sampler._replace(draw=lambda data, key, i: tuple(sampler.draw(data, key, i)[:3]))
    for rows in (None, sampler.rows):  # looked at before, or met in the step
        with pytest.raises(TypeError, match=r"draw must give a jaxrec\.types\.Batch, got a tuple"):
            fit(step, tuples._replace(rows=rows), epochs=1, state=state)
    with pytest.raises(ValueError, match="num_batches must be a whole number from 1, got 0"):
        fit(step, sampler._replace(num_batches=0), epochs=1, state=state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"where": jnp.ones((2, 2))}, "where of bool, got float32"),
        ({"where": jnp.ones((2, 1), bool)}, r"where of shape \(2, 2\), got \(2, 1\)"),
        ({"log_q": jnp.ones(2)}, r"log_q of the negatives' shape \(2, 2\), got \(2,\)"),
        ({"positives": jnp.arange(3)}, r"users \[B\] or \[B/R\] and positives \[B\], got shapes \(2,\) and \(3,\)"),
        ({"negatives": jnp.ones((3, 2), int)}, r"negatives \[K\] or \[2, K\], K >= 1, got shape \(3, 2\)"),
        ({"negatives": jnp.ones((2, 0), int)}, r"got shape \(2, 0\)"),
    ],
)
def test_arrays_of_a_batch_fit_each_other(change: dict[str, Any], message: str) -> None:
    batch = Batch(jnp.arange(2), jnp.arange(2), jnp.ones((2, 2), int))._replace(**change)
    with pytest.raises(ValueError, match=message):
        score_gradients(objectives.bpr(), jnp.ones((2, 2)), jnp.ones((2, 2)), jnp.ones((2, 2, 2)), batch)
    _, step = parts()
    with pytest.raises(ValueError, match=message):
        step.update(step.init(jax.random.key(0)), batch)
    with pytest.raises(ValueError, match=message):
        samplers.want_rows(batch, 40, 30)


def test_a_sampler_of_more_than_the_model_has_is_refused() -> None:
    whole = random_interactions(users=30, items=20)
    sampler = samplers.sampler(whole, batch_size=8)
    for users, items in ((29, 20), (30, 19)):
        step = make_step(models.mf(users, items, 4), objectives.bpr(), optim.row_sgd(0.1))
        with pytest.raises(ValueError, match=r"draws from 30 users and 20 items, the model has"):
            fit(step, sampler, epochs=1, key=jax.random.key(0))
    larger = make_step(models.mf(40, 20, 4), objectives.bpr(), optim.row_sgd(0.1))
    assert fit(larger, sampler, epochs=1, key=jax.random.key(0)).best_epoch == 1


@pytest.mark.parametrize("rows_per_user", [1, 4])
def test_accelerators_lay_an_epoch_out_before_it_and_draw_the_same(
    rows_per_user: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = samplers.sampler(TRAIN, batch_size=32, num_negatives=2, reject=True, rows_per_user=rows_per_user)
    step = make_step(models.mf(40, 30, 6), objectives.bpr(), optim.row_adagrad(0.1))
    key, walked = jax.random.key(3), []
    permuted = samplers.permuted

    def spied(key: jax.Array, positions: jax.Array, size: int) -> jax.Array:
        walked.append(len(positions))
        return permuted(key, positions, size)

    monkeypatch.setattr(samplers, "permuted", spied)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    here = fit(step, sampler, epochs=2, key=key)
    assert walked == [sampler.batch_size // rows_per_user]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    there = fit(step._replace(update=lambda *given: step.update(*given)), sampler, epochs=2, key=key)
    assert walked[1:] == [len(TRAIN)]
    assert same(here.state, there.state)


def test_a_state_sharded_by_rows_trains_and_ranks_the_same() -> None:
    two = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(Path(__file__).with_name("sharded.py"))]
    found = json.loads(subprocess.run(command, env=two, check=True, capture_output=True, text=True).stdout)
    assert found["devices"] == [1, 2]
    assert (found["devices after a checkpoint"], found["restored"]) == (2, True)
    assert found["moved"] > 0.01
    assert found["largest difference"] < 1e-5
    assert found["lists that differ"] == 0


def test_a_sampler_that_changes_by_epoch_is_told_the_epoch() -> None:
    seen: list[set[str]] = []
    sampler, step = parts()
    drawn = strata.around(sampler, TRAIN, margin=4.0, decay=0.5)

    def draw(data: Any, key: jax.Array, number: jax.Array, **options: Any) -> Batch:
        seen.append(set(options))
        return drawn.draw(data, key, number, **options)

    fit(step, drawn._replace(draw=draw), epochs=1, key=jax.random.key(0))
    assert seen[0] == {"epoch"}
