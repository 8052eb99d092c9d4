"""The train step, the ranking and the adjustment lower for machines that are not here, with products in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_interactions

from jaxrec import ledger as ledgers
from jaxrec import models, objectives, optim, rank, samplers
from jaxrec.data import DataError
from jaxrec.step import Observation, make_step
from jaxrec.train import make_epoch
from jaxrec.transforms import adjustment as adj
from jaxrec.types import Tables

PLATFORMS = ("cpu", "cuda", "tpu")
TABLES = Tables(jnp.ones((30, 8)), jnp.ones((20, 8)))


OPTIMIZERS = [optim.row_sgd(0.1), optim.row_adagrad(0.1, by_row=True), optim.row_adam(0.1)]


@pytest.mark.parametrize(
    ("optimizer", "shared", "rows_per_user"),
    [(o, shared, (1, 4)[(n + shared) % 2]) for n, o in enumerate(OPTIMIZERS) for shared in (False, True)],
)
def test_the_step_with_its_sampler_lowers_everywhere(
    optimizer: optim.RowOptimizer, shared: bool, rows_per_user: int
) -> None:
    train = random_interactions()
    model = models.normalize(models.mf(30, 20, 8), temperature=0.1)
    options = {"num_negatives": 4, "shared": shared, "rows_per_user": rows_per_user}
    sampler = samplers.sampler(train, batch_size=16, reject=True, **options)
    step = make_step(model, objectives.softmax(), optimizer)
    state = step.init(jax.random.key(0))

    def run(params: object, data: object) -> jax.Array:
        batch = sampler.draw(data, jax.random.key(1), jnp.int32(0))
        return step.update(state._replace(params=params), batch)[0].params["item"]

    found = jax.export.export(jax.jit(run), platforms=PLATFORMS)(state.params, sampler.data)
    assert found.platforms == PLATFORMS
    assert found.out_avals[0].shape == (20, 8)


def test_what_only_accelerators_run_lowers_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    train = random_interactions()
    sampler = samplers.sampler(train, batch_size=16)
    step = make_step(models.mf(30, 20, 8), objectives.bpr(), optim.row_sgd(0.1))

    def program(update: Callable[..., Any]) -> str:
        fresh = step._replace(update=lambda *given: update(*given))  # of which no program is kept
        epoch = jax.jit(lambda state: make_epoch(fresh, sampler)(state)[0].params)
        return str(jax.export.export(epoch, platforms=PLATFORMS)(step.init(jax.random.key(0))).mlir_module())

    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    order = f"tensor<{len(train)}xui32>"  # the whole permutation, which a walk never holds
    assert order not in program(step.update)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert order in program(step.update)

    rows, masks = rank._masking([train], np.arange(30), 20)[0](np.arange(8, dtype=np.int32), 16)
    assert masks.shape == (len(rows), 16)
    there = [tuple(jnp.asarray(part, jnp.int32) for part in train.csr())] * 2
    found = jax.export.export(jax.jit(lambda h, u: rank._masks(h, u, 16, 20)), platforms=PLATFORMS[1:])
    assert found(there, rows).out_avals[0].shape == (16, 32)


def adjusted_lists(tables: Tables, ledger: ledgers.GradientLedger) -> jax.Array:
    adjust = adj.chain(adj.remove_direction(0.5, spread=0.2), adj.offset_by_gradient(0.3, by="push"))
    return rank.rank_block(adjust(tables, ledger), jnp.arange(8), jnp.full((8, 3), 20), 5)[0]


def test_ranking_and_adjustment_lower_everywhere() -> None:
    found = jax.export.export(jax.jit(adjusted_lists), platforms=PLATFORMS)(TABLES, ledgers.init(30, 20, 8))
    assert found.platforms == PLATFORMS
    assert found.out_avals[0].shape == (8, 5)
    same = found.call(TABLES, ledgers.init(30, 20, 8))
    assert same.tolist() == adjusted_lists(TABLES, ledgers.init(30, 20, 8)).tolist()


def precisions(program: str) -> list[str]:
    """What each product of a lowered program asks for."""
    products = [line for line in program.splitlines() if "dot_general" in line]
    return [line.partition("precision = [")[2].partition("]")[0] for line in products]


@pytest.mark.parametrize(
    ("observed", "rows_per_user", "shared"), [(True, 1, True), (True, 4, False), (False, 1, False), (False, 4, True)]
)
def test_every_product_of_a_step_is_one_of_float32(observed: bool, rows_per_user: int, shared: bool) -> None:
    train = random_interactions()
    model = models.normalize(models.mf(30, 20, 8), temperature=0.1)
    options = {"num_negatives": 4, "shared": shared, "rows_per_user": rows_per_user}
    sampler = samplers.sampler(train, batch_size=16, **options)
    step = make_step(model, objectives.softmax(), optim.row_sgd(0.1), observation=Observation() if observed else None)
    state, batch = step.init(jax.random.key(0)), sampler.draw(sampler.data, jax.random.key(1), jnp.int32(0))
    found = precisions(jax.jit(step.update).lower(state, batch).as_text())
    assert len(found) >= 3  # scores, and the gradients of both factors
    assert set(found) == {"HIGHEST, HIGHEST"}


def test_every_product_of_a_ranking_is_one_of_float32() -> None:
    found = precisions(jax.jit(adjusted_lists).lower(TABLES, ledgers.init(30, 20, 8)).as_text())
    assert len(found) >= 2  # scores, and users along the direction
    assert set(found) == {"HIGHEST, HIGHEST"}


def test_a_scorer_is_written_where_told_and_never_with_a_pickle(tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed")
    from jaxrec import export

    names = [f"u{n}" for n in range(30)]
    export.save_scorer(tmp_path / "s.bin", TABLES, k=3, user_ids=np.array(names, dtype=object))
    assert [p.name for p in tmp_path.iterdir()] == ["s.bin"]
    found = export.load_scorer(tmp_path / "s.bin")
    assert found.user_ids.tolist() == names
    assert found.item_ids.tolist() == list(range(20))


def test_a_scorer_of_narrow_floats_is_read_again(tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed")
    from jaxrec import export

    narrow = jax.tree.map(lambda part: part.astype(jnp.bfloat16), TABLES)
    export.save_scorer(tmp_path / "s.npz", narrow, k=3)
    found, _ = export.load_scorer(tmp_path / "s.npz").rank(np.array([0, 1]), np.zeros((2, 0), np.int32))
    wide = jax.tree.map(lambda part: part.astype(jnp.float32), narrow)
    np.testing.assert_array_equal(found, rank.top_k(wide, [0, 1], None, k=3).items)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"user_ids": np.arange(29)}, r"user ids must be .* one for each of the 30 user rows, got shape \(29,\)"),
        ({"item_ids": np.array([None] * 20)}, "item ids must be whole numbers or text"),
        ({"item_ids": np.zeros(20, np.int64)}, "item ids must differ"),
    ],
)
def test_ids_that_do_not_fit_a_scorer_are_refused(ids: dict, message: str, tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed")
    from jaxrec import export

    with pytest.raises(ValueError, match=message):
        export.save_scorer(tmp_path / "s.npz", TABLES, k=3, **ids)
    assert not list(tmp_path.iterdir())


def test_what_is_no_scorer_is_told(tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed")
    from jaxrec import export

    path = tmp_path / "s.npz"
    export.save_scorer(path, TABLES, k=3)
    whole = path.read_bytes()
    np.save(tmp_path / "array.npy", np.ones(3))
    with np.load(path) as arrays:
        np.savez(tmp_path / "part.npz", **{name: arrays[name] for name in arrays.files if name != "item"})
        np.savez(tmp_path / "module.npz", **{**arrays, "module": np.zeros(9, np.uint8)})
    others = [(tmp_path / name).read_bytes() for name in ("array.npy", "part.npz", "module.npz")]
    for content in (b"", b"junk" * 99, whole[: len(whole) // 2], *others):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"s\.npz is damaged or of another kind .*save_scorer"):
            export.load_scorer(path)
