"""Settings reach what they name."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_interactions

from jaxrec import presets
from jaxrec.presets import Settings
from jaxrec.step import TrainState

TRAIN = random_interactions(users=30, items=20, density=0.3)
BASE = Settings(objective="bpr", width=4, batch_size=32, negatives=3, epochs=2)
SHARED = replace(BASE, objective="softmax", shared=True, popularity=0.5)
GRAPH = replace(BASE, backbone="lightgcn", optimizer="adam", layers=1)
# What selecting and stopping read, not the parts that are built.
LATER = {"patience", "evaluate_every", "family", "budget", "select_users", "select", "max_loss", "k"}
CHANGES: dict[str, tuple[Settings, Any]] = {
    "backbone": (replace(BASE, optimizer="adam"), "lightgcn"),
    "layers": (GRAPH, 2),
    "objective": (BASE, "bce"),
    "width": (BASE, 5),
    "biases": (BASE, True),
    "normalize_users": (BASE, False),
    "normalize_items": (BASE, True),
    "temperature": (BASE, 0.5),
    "init_scale": (BASE, 0.2),
    "negatives": (BASE, 2),
    "shared": (replace(SHARED, shared=False), True),
    "in_batch": (replace(SHARED, shared=False, popularity=0.0), True),
    "popularity": (BASE, 1.0),
    "reject": (BASE, True),
    "logq": (SHARED, True),
    "sample_by": (BASE, "user"),
    "batch_size": (BASE, 16),
    "rows_per_user": (BASE, 2),
    "optimizer": (BASE, "sgd"),
    "learning_rate": (BASE, 0.1),
    "schedule": (BASE, "linear"),
    "l2": (BASE, 0.1),
    "decay": (BASE, 0.9),
    "observe_every": (BASE, 4),
    "epochs": (replace(BASE, schedule="linear"), 4),
}


@cache
def program(settings: Settings) -> tuple[str, ...]:
    """What the parts would compute, as text: how a state starts, an epoch of steps, and the data that it draws from."""
    _, sampler, step = presets.build(settings, TRAIN)
    key = jax.random.key(0)

    def epoch(state: TrainState, data: Any) -> Any:
        run = lambda state, i: step.update(state, sampler.draw(data, key, i))  # noqa: E731
        return jax.lax.scan(run, state, jnp.arange(sampler.num_batches))

    state = jax.eval_shape(step.init, key)
    texts = jax.make_jaxpr(step.init)(key), jax.make_jaxpr(epoch)(state, sampler.data)
    data = [np.asarray(x).tolist() for x in jax.tree.leaves(sampler.data)]
    return *(re.sub("0x[0-9a-f]+", "", str(text)) for text in texts), str(data)


def test_all_settings_are_looked_at() -> None:
    assert {field.name for field in fields(Settings)} == set(CHANGES) | LATER


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_changes_what_is_computed(name: str) -> None:
    base, value = CHANGES[name]
    assert program(replace(base, **{name: value})) != program(base)


def test_what_comes_later_changes_nothing_of_it() -> None:
    others = {"family": "exposure", "select": "loss", "max_loss": 0.2}
    changed = replace(BASE, **{name: others.get(name, 7) for name in LATER})
    assert changed != BASE
    assert program(changed) == program(BASE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "bprr"}, "objective wants 'bpr' or 'bce' or 'softmax', got 'bprr'"),
        ({"schedule": "cosine"}, "schedule wants 'constant' or 'linear'"),
        ({"select": "los"}, "select wants"),
        ({"width": 8.0}, "width wants int, got 8.0"),
        ({"epochs": True}, "epochs wants int, got True"),
        ({"l2": float("nan")}, "l2 must be finite"),
        ({"l2": -1.0}, "l2 must be at least 0"),
        ({"learning_rate": -1.0}, r"learning_rate must be positive, got -1\.0"),
        ({"temperature": 0}, "temperature must be positive"),
    ],
)
def test_settings_made_in_python_are_checked_as_files_are(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(BASE, **change)


def test_whole_numbers_and_none_are_settings_where_they_are_meant() -> None:
    assert replace(BASE, learning_rate=1, patience=None, select_users=None).learning_rate == 1
