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
# # Compose a transform of your own
#
# There are two places to correct: the *tables* at test time, `(Tables, ledger) -> Tables`, and the *score gradients*
# while training, an optax transformation. Both kinds are closed under their `chain`, so a part of your own stands beside
# the library's.

# %%
# On Colab only: SOURCE is a checkout of this repository, or whatever else pip can install jaxrec from.
import subprocess
import sys

SOURCE = "/content/jaxrec"
if "google.colab" in sys.modules:
    subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", SOURCE])

# %%
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec import data, models, objectives, optim, rank, samplers
from jaxrec import ledger as ledgers
from jaxrec.step import make_step
from jaxrec.train import fit
from jaxrec.transforms import adjustment as adj
from jaxrec.transforms import training
from jaxrec.types import Array, Tables

split = data.synthetic(seed=0).split
train_part = split.train


def train(transform: optax.GradientTransformation | None = None) -> tuple:
    """Tables and ledger after a few epochs, with or without a transform of the score gradients."""
    model = models.normalize(models.mf(train_part.num_users, train_part.num_items, 16), users=True)
    sampler = samplers.sampler(train_part, batch_size=512, num_negatives=4, reject=True)
    step = make_step(model, objectives.bpr(), optim.row_adagrad(0.1), transform=transform)
    state = fit(step, sampler, epochs=8, key=jax.random.key(0)).state
    return models.embed(model, state.params), state.ledger


def popularity(tables: Tables) -> float:
    """The mean training count of what is recommended (ARP)."""
    lists = rank.top_k(tables, None, train_part, k=20).items
    return float(train_part.item_counts[lists].mean())


tables, ledger = train()

# %% [markdown]
# ## At test time
#
# An adjustment is a function of tables and ledger. This one adds an offset for items that training pushed down more than
# it pulled them up: s_ui ← s_ui + λ max(0, log n⁻_i − log p_i), with p and n⁻ the sizes of pull and push.

# %%


def lift_pushed(strength: adj.Strength) -> adj.Adjustment:
    """Adds λ max(0, log push − log pull) to each item's scores; a strength of 0 changes no score."""

    def apply(tables: Tables, ledger: ledgers.GradientLedger) -> Tables:
        gap = jnp.log(ledgers.magnitude(ledger.items, "push") + 1) - jnp.log(ledgers.magnitude(ledger.items) + 1)
        return adj.add_offset(tables, strength * jnp.maximum(gap, 0.0))  # beside a bias that the tables may have

    return apply


mine = adj.chain(adj.remove_direction(0.5), lift_pushed(0.3))
print(f"popularity of the lists: {popularity(tables):.1f} plain, {popularity(mine(tables, ledger)):.1f} corrected")

# %% [markdown]
# Three properties make it fit the rest of the library. They are worth checking for any adjustment.
#
# 1. A strength of 0 is the identity on scores.
# 2. The strength may be a traced value, so that many of them are one `vmap`.
# 3. `chain` is associative: chains of chains are chains.

# %%
users = np.arange(50)


def scores(tables: Tables) -> Array:
    """All scores of some users."""
    return rank.masked_scores(tables, jnp.asarray(users), jnp.full((len(users), 1), train_part.num_items))


np.testing.assert_array_equal(scores(lift_pushed(0.0)(tables, ledger)), scores(tables))

strengths = jnp.array([0.0, 0.1, 0.3])
many = jax.vmap(lambda s: scores(lift_pushed(s)(tables, ledger)))(strengths)
np.testing.assert_allclose(many[2], scores(lift_pushed(0.3)(tables, ledger)), rtol=1e-5, atol=1e-5)

a, b, c = adj.remove_direction(0.5), lift_pushed(0.3), adj.rescale_by_gradient(0.1)
left, right = adj.chain(adj.chain(a, b), c), adj.chain(a, adj.chain(b, c))
np.testing.assert_array_equal(scores(left(tables, ledger)), scores(right(tables, ledger)))

# %% [markdown]
# ## While training
#
# A train-time transform re-weights ∂ℓ/∂s of a batch. Its update is given the ids of the batch. This one caps the
# positive gradient of each row; it keeps no state.

# %%


def cap_pull(most: float) -> optax.GradientTransformationExtraArgs:
    """Positive score gradients no larger than `most` in size."""

    def init(params: Any) -> optax.EmptyState:
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None, **ids: Any) -> tuple[Any, Any]:
        return updates._replace(positive=jnp.maximum(updates.positive, -most)), state

    return optax.GradientTransformationExtraArgs(init, update)


both = optax.chain(training.count_weights(train_part.item_counts, power=0.5), cap_pull(1.0))
weighted, _ = train(both)
print(f"popularity of the lists: {popularity(tables):.1f} plain, {popularity(weighted):.1f} trained with the transform")

# %% [markdown]
# By default the ledger sees the gradients as the loss gave them; `Observation(gradients="corrected")` shows it what the
# transform made of them.

# %%
assert popularity(mine(tables, ledger)) < popularity(tables)
assert popularity(weighted) < popularity(tables)
