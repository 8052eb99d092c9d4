"""LensKit (PyTorch): FlexMF with its BPR preset, and sparse gradients, which is the quicker of its two optimisers."""

from __future__ import annotations

import time
from typing import Any

from benchmarks import inputs
from benchmarks.worker import THREADS, Reading, Run, need
from jaxrec.data import Interactions

ENVIRONMENT: dict[str, str] = {}
WIDTH = 64


def _dataset(train: Interactions) -> Any:
    import pandas
    from lenskit.data import from_interactions_df

    return from_interactions_df(pandas.DataFrame({"user_id": train.users, "item_id": train.items}))


def bpr(options: dict[str, Any]) -> Run:
    """Triplets a second: `epochs` epochs of batches of 8192, its default; it draws known negatives again."""
    flexmf = need("lenskit.flexmf", "pip install lenskit, which wants pandas below 3")
    training = need("lenskit.training")
    torch = need("torch")
    torch.set_num_threads(THREADS)
    train, epochs = inputs.train(options["data"]), options.get("epochs", 1)
    config = flexmf.FlexMFImplicitConfig(preset="bpr", embedding_size=WIDTH, reg_method="L2")
    chosen = training.TrainingOptions(device="cpu", rng=0)
    trainer = flexmf.FlexMFImplicitScorer(config).create_trainer(_dataset(train), chosen)

    def run() -> Reading:
        begun = time.perf_counter()
        for _ in range(epochs):
            trainer.train_epoch()
        return {"seconds": time.perf_counter() - begun, "work": epochs * len(train)}

    return run
