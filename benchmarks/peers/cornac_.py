"""Cornac (Cython, OpenMP): BPR with two threads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import inputs
from benchmarks.worker import THREADS, Reading, Run, need
from jaxrec.data import Interactions

ENVIRONMENT: dict[str, str] = {}
WIDTH = 64


def _dataset(train: Interactions) -> Any:
    """Cornac's form of the interactions, with our row numbers kept as its own."""
    from collections import OrderedDict

    from cornac.data import Dataset

    users, items = (OrderedDict((n, n) for n in range(size)) for size in (train.num_users, train.num_items))
    ratings = (np.array(train.users), np.array(train.items), np.ones(len(train), np.float32))
    return Dataset(train.num_users, train.num_items, users, items, ratings, seed=0)


def _model(epochs: int, rate: float, l2: float) -> Any:
    cornac = need("cornac.models")
    model = cornac.BPR(k=WIDTH, max_iter=epochs, learning_rate=rate, lambda_reg=l2, num_threads=THREADS, verbose=False)
    model.num_threads = THREADS  # it takes all cores where as many as there are were asked for
    return model


def bpr(options: dict[str, Any]) -> Run:
    """Triplets a second: `epochs` passes of SGD; negatives that the user has are always skipped."""
    model = _model(options.get("epochs", 1), 0.05, 0.01)
    train = inputs.train(options["data"])
    found = _dataset(train)

    def run() -> Reading:
        begun = time.perf_counter()
        model.fit(found)
        return {"seconds": time.perf_counter() - begun, "work": options.get("epochs", 1) * len(train)}

    return run


def learn_bpr(train: Interactions, setting: dict[str, Any]) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
    """BPR, an epoch at a time."""
    model = _model(1, setting["rate"], setting["l2"])
    found = _dataset(train)
    yield None
    while True:
        model.fit(found)
        yield np.asarray(model.get_user_vectors()), np.asarray(model.get_item_vectors())
