"""Strictness for every test, and the real data where it is present."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import settings

from jaxrec.data import Interactions

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=25, print_blob=True)
settings.load_profile("repeatable")

DATA = Path(os.environ.get("JAXREC_DATA", "/nonexistent"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Says which tests were left out because the real data sets are not here."""
    absent = pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are absent: set JAXREC_DATA")
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(absent)


def random_interactions(seed: int = 0, users: int = 30, items: int = 20, density: float = 0.2) -> Interactions:
    """A long-tailed random set in which every user and every item occurs."""
    rng = np.random.default_rng(seed)
    like = rng.random((users, items)) < density * 2 * np.linspace(1, 0.1, items)
    like[np.arange(users), rng.integers(0, items, users)] = True
    like[rng.integers(0, users, items), np.arange(items)] = True
    return Interactions(*np.nonzero(like), num_users=users, num_items=items)  # type: ignore[misc]


@pytest.fixture
def interactions() -> Interactions:
    return random_interactions()
