"""PyTorch, as the field writes it: dense embeddings, autograd over whole tables, Adam, `torch.sparse.mm` of a COO.

On the GPU where there is one, with all its arrays there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import inputs
from benchmarks.worker import THREADS, Reading, Run, accelerator, need
from jaxrec.data import Interactions

ENVIRONMENT: dict[str, str] = {}
WIDTH = 64
BATCH = 2048
BLOCK = 1024  # users ranked at once
K = 20


def _torch() -> Any:
    torch = need("torch")
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    if accelerator() and torch.cuda.is_available():
        torch.set_default_device("cuda")
    return torch


def _wait(torch: Any) -> None:
    """Until the device has done what it was told."""
    if torch.get_default_device().type == "cuda":
        torch.cuda.synchronize()


def adjacency(train: Interactions) -> Any:
    """D^-1/2 A D^-1/2 of the graph of users and items, a coalesced COO of U + I nodes (He et al. 2020)."""
    torch = _torch()
    weight = 1.0 / np.sqrt(train.user_counts[train.users] * train.item_counts[train.items])
    item = train.items + np.int64(train.num_users)
    rows, columns = np.concatenate([train.users, item]), np.concatenate([item, train.users])
    size = train.num_users + train.num_items
    values = torch.tensor(np.concatenate([weight, weight]), dtype=torch.float32)
    return torch.sparse_coo_tensor(torch.tensor(np.stack([rows, columns])), values, (size, size)).coalesce()


def _step(train: Interactions, *, layers: int, rate: float, l2: float) -> tuple[Any, Any, Callable[[Any], Any]]:
    """The two embeddings, the tables that are ranked, and a step on the rows whose numbers it is given."""
    torch = _torch()
    users, items = (torch.nn.Embedding(size, WIDTH) for size in (train.num_users, train.num_items))
    for table in (users, items):
        torch.nn.init.normal_(table.weight, std=0.1)
    optimizer = torch.optim.Adam([users.weight, items.weight], lr=rate)
    graph = adjacency(train) if layers else None
    pairs = torch.tensor(np.asarray(train.users, np.int64)), torch.tensor(np.asarray(train.items, np.int64))

    def tables() -> tuple[Any, Any]:
        if graph is None:
            return users.weight, items.weight
        layer = torch.cat([users.weight, items.weight])
        found = [layer]
        for _ in range(layers):
            layer = torch.sparse.mm(graph, layer)
            found.append(layer)
        mean = torch.stack(found, dim=1).mean(dim=1)
        return torch.split(mean, [train.num_users, train.num_items])

    def step(chosen: Any) -> Any:
        user, positive = pairs[0][chosen], pairs[1][chosen]
        negative = torch.randint(train.num_items, user.shape)
        if graph is None:
            u, i, j = users(user), items(positive), items(negative)
        else:
            all_users, all_items = tables()
            u, i, j = all_users[user], all_items[positive], all_items[negative]
        loss = torch.nn.functional.softplus((u * j).sum(1) - (u * i).sum(1)).mean()
        rows = (u, i, j) if graph is None else (users(user), items(positive), items(negative))
        loss = loss + l2 * sum(row.pow(2).sum() for row in rows) / (2 * len(user))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return tables, torch, step


def training(options: dict[str, Any]) -> Run:
    """Triplets a second of `steps` steps of matrix factorisation (`layers` 0) or LightGCN."""
    train = inputs.train(options["data"])
    _, torch, step = _step(train, layers=options["layers"], rate=1e-3, l2=1e-4)
    steps, batch = options["steps"], options.get("batch", BATCH)
    again = torch.arange(steps * batch) % len(train)  # more than there is begins once more

    def run() -> Reading:
        begun = time.perf_counter()
        order = torch.randperm(len(train))
        for chosen in torch.split(again, batch):
            loss = step(order[chosen])
        _wait(torch)
        if not bool(torch.isfinite(loss)):
            raise RuntimeError("the loss is not finite: the step that was timed is no step")
        return {"seconds": time.perf_counter() - begun, "work": steps * batch, "steps": steps}

    return run


def ranking(options: dict[str, Any]) -> Run:
    """Users a second: the K best items of all users from scores of a block, those in training at -inf."""
    torch = _torch()
    train = inputs.split(options["data"]).train
    with np.load(options["tables"]) as found:
        user, item = torch.tensor(found["user"]), torch.tensor(found["item"])
    pointers, items = train.csr()
    owners = torch.tensor(np.repeat(np.arange(train.num_users), np.diff(pointers)))
    known = torch.tensor(np.asarray(items, np.int64))

    def run() -> Reading:
        begun = time.perf_counter()
        lists = np.empty((train.num_users, K), np.int64)
        for start in range(0, train.num_users, BLOCK):
            end = min(start + BLOCK, train.num_users)
            scores = user[start:end] @ item.T
            inside = slice(int(pointers[start]), int(pointers[end]))
            scores[owners[inside] - start, known[inside]] = -torch.inf
            lists[start:end] = torch.topk(scores, K).indices.cpu().numpy()
        seconds = time.perf_counter() - begun
        np.save(options["lists"], lists)
        return {"seconds": seconds, "work": train.num_users}

    return run


def learn(train: Interactions, setting: dict[str, Any]) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
    """An epoch at a time, of matrix factorisation (`layers` 0) or LightGCN."""
    tables, torch, step = _step(train, layers=setting["layers"], rate=setting["rate"], l2=setting["l2"])
    batch = setting.get("batch", BATCH)
    yield None
    while True:
        for chosen in torch.split(torch.randperm(len(train)), batch):
            step(chosen)
        with torch.no_grad():
            user, item = tables()
            yield user.cpu().numpy().copy(), item.cpu().numpy().copy()
