"""LightFM (Cython, OpenMP; its maintained fork lightfm-next): BPR and WARP without features."""

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


def _model(loss: str, rate: float, alpha: float) -> Any:
    lightfm = need("lightfm")
    return lightfm.LightFM(
        no_components=WIDTH, loss=loss, learning_rate=rate, item_alpha=alpha, user_alpha=alpha, random_state=0
    )


def _matrix(train: Interactions) -> Any:
    from scipy.sparse import coo_matrix

    shape = (train.num_users, train.num_items)
    pairs = np.array(train.users), np.array(train.items)  # copies: ours are read-only, which its buffers refuse
    return coo_matrix((np.ones(len(train), np.float32), pairs), shape=shape)


def bpr(options: dict[str, Any]) -> Run:
    """Triplets a second: `epochs` passes with Adagrad, its default; it skips negatives that the user has."""
    model = _model("bpr", 0.05, 0.0)
    train = inputs.train(options["data"])
    found, epochs = _matrix(train), options.get("epochs", 1)

    def run() -> Reading:
        begun = time.perf_counter()
        model.fit_partial(found, epochs=epochs, num_threads=THREADS)
        return {"seconds": time.perf_counter() - begun, "work": epochs * len(train)}

    return run


def learn(train: Interactions, setting: dict[str, Any]) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
    """The loss that the setting names, an epoch at a time; an item's bias goes into a last column."""
    model = _model(setting["loss"], setting["rate"], setting["l2"])
    found = _matrix(train)
    yield None
    while True:
        model.fit_partial(found, epochs=1, num_threads=THREADS)
        ones = np.ones((train.num_users, 1), np.float32)
        item = np.concatenate([model.item_embeddings, model.item_biases[:, None]], axis=1)
        yield np.concatenate([model.user_embeddings, ones], axis=1), item
