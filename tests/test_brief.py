"""Records full of arrays print as a few lines, and stay the pytrees they are."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import correct, ledger, metrics, select, step, train
from jaxrec.types import Tables

USERS, ITEMS = 900, 700
TABLES = Tables(jnp.ones((USERS, 8)), jnp.ones((ITEMS, 8)))
LEDGER = ledger.init(USERS, ITEMS, 8)
SUMMARY = {"recall@20": 0.25, "ndcg@20": 0.125, "gini@20": 0.5}
EVALUATION = metrics.Evaluation(np.arange(USERS), {name: np.ones(USERS) for name in SUMMARY}, SUMMARY)
POINT = select.Point({"pull": 0.5}, {"natural": {"ndcg@20": 0.125}})
PARAMS, ZERO = {"user": TABLES.user, "item": TABLES.item}, jnp.zeros(())
STATE = step.TrainState(PARAMS, (), (), LEDGER, jax.random.key(0), ZERO, ZERO)
CHUNKS = [np.ones((USERS // 9, 50), int)] * 9
RECORDS: dict[str, tuple[Any, list[str]]] = {
    "tables": (TABLES, ["float32[900, 8]", "float32[700, 8]", "item_bias=None"]),
    "ledger": (LEDGER, ["items=Side(", "pull=Role(vector=float32[700, 8], size=float32[700], events=float32[700])"]),
    "evaluation": (EVALUATION, ["Evaluation(users=int64[900]", "recall@20: 0.25", "ndcg@20: 0.125", "and per_user"]),
    "problem": (
        select.Problem(TABLES, LEDGER, ("natural",), 20, 100, [c[:, 0] for c in CHUNKS], CHUNKS, [(CHUNKS[0],)]),
        ["Problem(", "k=20", "users=900", "and ledger, excluded, relevant"],
    ),
    "fit": (
        train.Fit(STATE, STATE, 40, [{"epoch": n, "loss": 0.5} for n in range(41)]),
        ["best_epoch=40", "user: float32[900, 8]", "last={epoch: 40, loss: 0.5}"],
    ),
    "adjusted": (
        correct.Adjusted(
            TABLES, TABLES, POINT.strengths, {"natural": {"plain": SUMMARY, "adjusted": SUMMARY}}, {"adjusted": POINT},
            {"adjusted": [POINT] * 99}, LEDGER, 1.0, {}, "the users", {"plain": {"natural": EVALUATION}}, [], {}, (),
            {},
        ),
        ["strengths={pull: 0.5}", "natural ndcg@20={plain: 0.125, adjusted: 0.125}", "and plain, validation,"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_prints_its_shapes_and_its_figures(name: str) -> None:
    record, wanted = RECORDS[name]
    text = repr(record)
    assert len(text) < 800
    for part in wanted:
        assert part in text


def test_a_record_is_a_pytree_as_before() -> None:
    doubled = jax.jit(lambda tables: jax.tree.map(lambda x: 2 * x, tables))(TABLES)
    assert isinstance(doubled, Tables)
    assert doubled.item.shape == TABLES.item.shape
    assert len(jax.tree.leaves(LEDGER)) == 12
    assert "user=float32[900, 8]" in repr(jax.eval_shape(lambda tables: tables, TABLES))
