"""implicit (C++): BPR, ALS and `recommend`, on two threads with OpenBLAS's own pool off, as its documentation wants."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import inputs
from benchmarks.worker import THREADS, Reading, Run, need
from jaxrec.data import Interactions

ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
WIDTH = 64


def matrix(train: Interactions) -> Any:
    """The interactions as the CSR matrix that implicit reads."""
    from scipy.sparse import csr_matrix

    return csr_matrix(train.to_scipy())


def bpr(options: dict[str, Any]) -> Run:
    """Triplets a second: `epochs` passes of SGD; with `reject` a negative that the user has is skipped."""
    implicit = need("implicit.cpu.bpr")
    train = inputs.train(options["data"])
    found, epochs = matrix(train), options.get("epochs", 1)
    model = implicit.BayesianPersonalizedRanking(
        WIDTH,
        learning_rate=0.05,
        regularization=0.01,
        iterations=epochs,
        num_threads=THREADS,
        verify_negative_samples=options.get("reject", False),
        random_state=np.random.default_rng(0),  # a number would draw the same triplets at each call
    )

    def run() -> Reading:
        begun = time.perf_counter()
        model.fit(found, show_progress=False)
        return {"seconds": time.perf_counter() - begun, "work": epochs * len(train)}

    return run


def ranking(options: dict[str, Any]) -> Run:
    """Users a second of `recommend` for all users at once, what they have in training left out."""
    implicit = need("implicit.cpu.als")
    train = inputs.split(options["data"]).train
    tables = np.load(options["tables"])
    model = implicit.AlternatingLeastSquares(tables["user"].shape[1], num_threads=THREADS)
    model.user_factors, model.item_factors = tables["user"], tables["item"]
    found, users = matrix(train), np.arange(train.num_users)

    def run() -> Reading:
        begun = time.perf_counter()
        items, _ = model.recommend(users, found, N=20, filter_already_liked_items=True)
        seconds = time.perf_counter() - begun
        np.save(options["lists"], items)
        return {"seconds": seconds, "work": len(users)}

    return run


def learn_bpr(train: Interactions, setting: dict[str, Any]) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
    """BPR, an epoch at a time; scores hold an item's bias, which its factors carry in a last column."""
    implicit = need("implicit.cpu.bpr")
    model = implicit.BayesianPersonalizedRanking(
        WIDTH, iterations=1, num_threads=THREADS,
        learning_rate=setting["rate"], regularization=setting["l2"],
        random_state=np.random.default_rng(0),  # a number would draw the same triplets in each epoch
    )
    found = matrix(train)
    yield None
    while True:
        model.fit(found, show_progress=False)
        yield model.user_factors, model.item_factors


def learn_als(train: Interactions, setting: dict[str, Any]) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
    """Alternating least squares with conjugate gradients, a sweep over users and items at a time."""
    implicit = need("implicit.cpu.als")
    model = implicit.AlternatingLeastSquares(
        WIDTH, iterations=1, num_threads=THREADS, random_state=0, regularization=setting["l2"], alpha=setting["alpha"]
    )
    found = matrix(train)
    yield None
    while True:
        model.fit(found, show_progress=False)
        yield model.user_factors, model.item_factors
