"""Trains and ranks with rows over two devices and on one, for `test_training`, and prints what differs as JSON."""

from __future__ import annotations

import json
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
from conftest import random_interactions
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrec import checkpoint, models, objectives, optim, rank, samplers
from jaxrec.step import make_step
from jaxrec.train import fit
from jaxrec.transforms import adjustment as adj

USERS, ITEMS = 40, 32


def main() -> None:
    train = random_interactions(users=USERS, items=ITEMS)
    mesh = Mesh(jax.devices(), ("rows",))
    model = models.normalize(models.mf(USERS, ITEMS, 8), temperature=0.2)
    step = make_step(model, objectives.bpr(), optim.row_adagrad(0.1), l2=1e-3)
    sampler = samplers.sampler(train, batch_size=32, num_negatives=3, reject=True)

    def by_rows(leaf: jax.Array) -> jax.Array:
        spec = PartitionSpec("rows") if leaf.ndim and leaf.shape[0] in (USERS, ITEMS) else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    start = step.init(jax.random.key(0))
    states = [fit(step, sampler, epochs=2, state=s).state for s in (start, jax.tree.map(by_rows, start))]
    with tempfile.TemporaryDirectory() as folder:  # a checkpoint comes back to where its rows were
        checkpoint.save(folder, 2, states[1])
        back = checkpoint.restore(folder, states[1]).state
    adjust = adj.chain(adj.remove_direction(0.5), adj.offset_by_gradient(0.3))
    tables: list[Any] = [adjust(models.embed(model, s.params), s.ledger) for s in states]
    lists = [rank.top_k(t, None, train, k=5) for t in tables]
    leaves = [jax.tree.leaves((s.params, s.optimizer, s.ledger)) for s in states]
    told = {
        "devices": [len(s.params["user"].sharding.device_set) for s in states],
        "devices after a checkpoint": len(back.params["user"].sharding.device_set),
        "restored": bool((back.params["user"] == states[1].params["user"]).all()),
        "largest difference": max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(*leaves, strict=True)),
        "moved": float(jnp.max(jnp.abs(states[0].params["user"] - start.params["user"]))),
        "lists that differ": int((lists[0].items != lists[1].items).sum()),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
