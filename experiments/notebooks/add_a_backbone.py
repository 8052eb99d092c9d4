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
# # Add a backbone
#
# A model is a NamedTuple of pure functions. Whatever its parameters are, `tables(params)` gives one row a user and one row
# an item, and scores are inner products of rows. The step takes gradients at those rows, so the ledger, the adjustments
# and the ranking need no change.
#
# The example has no user parameters: a user is the mean of a second vector of each item in the user's history (an
# asymmetric factorisation, as in NSVD and FISM).

# %%
# On Colab only: SOURCE is a checkout of this repository, or whatever else pip can install jaxrec from.
import subprocess
import sys

SOURCE = "/content/jaxrec"
if "google.colab" in sys.modules:
    subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", SOURCE])

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import sparse

from jaxrec import analysis, data, metrics, models, objectives, rank, samplers, testing
from jaxrec.data import Interactions
from jaxrec.models import Model
from jaxrec.step import make_step
from jaxrec.train import fit
from jaxrec.types import Array, Params


# %%
def asymmetric(train: Interactions, width: int = 32, *, scale: float = 0.1) -> Model:
    """s_ui = <mean of q_j over the user's items j, v_i>: no parameter belongs to a user."""
    counts = np.maximum(train.user_counts, 1)
    mean = sparse.BCSR.from_scipy_sparse((train.to_scipy() / counts[:, None]).tocsr())
    mean = sparse.BCSR((mean.data.astype(jnp.float32), mean.indices, mean.indptr), shape=mean.shape)

    def init(key: Array) -> Params:
        keys = jax.random.split(key, 2)
        draw = [scale / width**0.5 * jax.random.normal(k, (train.num_items, width)) for k in keys]
        return {"history": draw[0], "item": draw[1]}

    def tables(params: Params) -> tuple[Array, Array]:
        return mean @ params["history"], params["item"]

    return Model(train.num_users, train.num_items, width, width, init, tables)


# %% [markdown]
# Two fields matter beside the functions. `tables_are_params` stays False, for a user's row depends on many parameters;
# such a model takes an optax optimiser. `width` is that of a scored row. Wrappers such as `normalize` apply as they are.
#
# ## The contracts
#
# `jaxrec.testing` holds the checks that the library's own models pass: a state's update has the state's structure, batches
# of one shape compile once, and on data with a known answer (two groups with disjoint tastes) the best recall is reached.

# %%
train, test = testing.two_groups()
model = models.normalize(asymmetric(train, 16), users=True)
sampler = samplers.sampler(train, batch_size=64, num_negatives=4, reject=True)
step = make_step(model, objectives.bpr(), optax.adam(0.02))
start = step.init(jax.random.key(0))
batches = [sampler.draw(sampler.data, jax.random.key(0), jnp.int32(i)) for i in range(3)]
testing.check_fixed_point(step, start, batches[0])
testing.check_one_trace(step, start, batches)

state = fit(step, sampler, epochs=10, key=jax.random.key(0)).state
k = train.num_items // 2 - 8
ranking = rank.top_k(models.embed(model, state.params), None, train, k=k)
reached = metrics.evaluate(ranking, test, train, ks=[k]).summary[f"recall@{k}"]
print(f"recall@{k} on data whose best is 1: {reached:.3f}")
assert reached > 0.9

# %% [markdown]
# ## The same parts on the long tail

# %%
split = data.synthetic(seed=0).split
model = models.normalize(asymmetric(split.train), users=True)
sampler = samplers.sampler(split.train, batch_size=1024, num_negatives=4, reject=True)
step = make_step(model, objectives.bpr(), optax.adam(0.01))
state = fit(step, sampler, epochs=15, key=jax.random.key(0)).state
tables, ledger = models.embed(model, state.params), state.ledger
claims = analysis.claims(tables, ledger, split.train.item_counts)
for test_name, part in split.tests.items():
    for name, shown in (("most popular", models.most_popular(split.train)), ("asymmetric", tables)):
        found = metrics.evaluate(rank.top_k(shown, None, split.train, k=20), part, split.train).summary
        print(f"{test_name:9} {name:13} ndcg@20 {found['ndcg@20']:.3f}")
print({name: round(value["spearman"], 3) for name, value in claims.items()})

# %%
ours = rank.top_k(tables, None, split.train, k=20)
popular = rank.top_k(models.most_popular(split.train), None, split.train, k=20)
natural = split.tests["natural"]
assert (
    metrics.evaluate(ours, natural, split.train).summary["ndcg@20"]
    > metrics.evaluate(popular, natural, split.train).summary["ndcg@20"]
)
assert claims["magnitude"]["spearman"] > 0.5
