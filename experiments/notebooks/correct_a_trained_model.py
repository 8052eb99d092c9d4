# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Correct a model that was trained elsewhere
#
# Two tables of embeddings and the interactions they were trained on are enough. Here weighted alternating least squares,
# written in numpy, stands for the model of another library; objects of implicit, Cornac and LensKit and torch modules go
# into `jaxrec.adjust` as they are (`jaxrec.adapters` says what is read off each).

# %%
# On Colab only: SOURCE is a checkout of this repository, or whatever else pip can install jaxrec from.
import subprocess
import sys

SOURCE = "/content/jaxrec"
if "google.colab" in sys.modules:
    subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", SOURCE])

# %%
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import jaxrec
from jaxrec import adapters, data, pipeline, serve

split = data.synthetic(seed=0).split
held = data.hold_out_random(split.train, 0.1, seed=0)  # pairs that the model will not be trained on
seen, unseen = held.train, held.held

# %% [markdown]
# ## The model

# %%
def als(liked: np.ndarray, width: int = 8, weight: float = 20.0, ridge: float = 50.0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of users and items that minimise Σ c (r − ⟨u, v⟩)² + ridge (Σ‖u‖² + Σ‖v‖²), c = 1 + weight where r = 1."""
    user, item = np.zeros((liked.shape[0], width)), np.random.default_rng(0).normal(0, 0.1, (liked.shape[1], width))
    for _ in range(8):
        for rows, others, pairs in ((user, item, liked), (item, user, liked.T)):
            gram = others.T @ others + ridge * np.eye(width)
            for n, pair in enumerate(pairs):
                own = others[pair > 0]
                rows[n] = np.linalg.solve(gram + weight * own.T @ own, (1 + weight) * own.sum(axis=0))
    return user, item


two = adapters.from_arrays(*als(seen.to_scipy().toarray()), source="ALS in numpy")
print(two.tables.user.shape, two.tables.item.shape)

# %% [markdown]
# ## Read gradients off it, select strengths, correct
#
# Nothing is retrained. Gradients are observed in one pass over the interactions with the tables frozen; strengths are
# selected on the pairs that the model has not seen.

# %%
found = jaxrec.adjust(two, seen, unseen, budget=16)
print({name: round(value, 3) for name, value in found.strengths.items()})
print(f"temperature {found.temperature:.3g}; figures are about {found.reported_on}")
for part, arms in found.validation.items():
    for arm, metrics in arms.items():
        print(f"{part:9} {arm:14} ndcg@20 {metrics['ndcg@20']:.4f}  arp@20 {metrics['arp@20']:.1f}")
for note in found.notes:
    print("note:", note)

# %% [markdown]
# Without `unseen` the pairs to select on would be carved from what the model has seen; `notes` then warns that the
# figures are too good. Give pairs that were held out wherever there are some.
#
# ## On tests that nobody has looked at

# %%
judged = data.Split(seen, {"unseen": unseen}, split.tests)
plain, corrected = (pipeline.evaluate(tables, judged, ks=[20]) for tables in (found.plain, found.tables))
for test in split.tests:
    before, after = plain[test].summary, corrected[test].summary
    print(f"{test:9} ndcg@20 {before['ndcg@20']:.4f} -> {after['ndcg@20']:.4f}", end="   ")
    print(f"coverage@20 {before['coverage@20']:.2f} -> {after['coverage@20']:.2f}")

# %% [markdown]
# ## Serve it
#
# The corrected tables score by an inner product as the original ones did, so any index of vectors takes them. Filters and
# users that the model never saw work as well.

# %%
lists = serve.recommend(found.tables, [0, 1, 2], seen=seen, deny=[7], k=5)
with tempfile.TemporaryDirectory() as folder:
    written = serve.write_lists(Path(folder) / "lists.csv", lists, seen.user_ids, seen.item_ids)
print(lists.items, written)

how = serve.calibrate_fold_in(two.tables, seen)
new = serve.fold_in(two.tables.item, [[3, 14, 15]], score=how.score, ridge=how.ridge, weight=how.weight)
print(f"a new user's row {new.shape}; agreement with known users' own scores {how.agreement:.2f}")

# %%
assert corrected["unbiased"].summary["ndcg@20"] > plain["unbiased"].summary["ndcg@20"]
assert corrected["unbiased"].summary["coverage@20"] > plain["unbiased"].summary["coverage@20"]
assert 7 not in lists.items
assert written == lists.items.size
assert bool(jnp.isfinite(new).all())
