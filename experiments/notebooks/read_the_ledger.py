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
# # Read the ledger
#
# The ledger holds, for every item and every user, the gradients that it received as a positive (*pull*) and as, or from, a
# negative (*push*): their vector sum, the sum of their sizes, and how many there were. This notebook checks it against
# what training did, and reads from it.

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
import matplotlib.pyplot as plt
import numpy as np

from jaxrec import analysis, data, models, objectives, optim, samplers, testing
from jaxrec import ledger as ledgers
from jaxrec.step import Observation, TrainState, make_step
from jaxrec.train import fit
from jaxrec.transforms.adjustment import mainstream

train = data.synthetic(seed=0).split.train
sampler = samplers.sampler(train, batch_size=512, num_negatives=2)

# %% [markdown]
# ## Its own oracle
#
# With plain SGD at rate η, nothing normalised and no regulariser, a row moves by its gradients and by nothing else:
# v(T) = v(0) + η (P + N). So the ledger and the tables must tell the same story, to the rounding of 32 bits.

# %%
rate = 0.05
plain = models.mf(train.num_users, train.num_items, 16)
step = make_step(plain, objectives.bpr(), optim.row_sgd(rate))
before = step.init(jax.random.key(0))
after = fit(step, sampler, epochs=2, key=jax.random.key(0)).state
assert after.ledger is not None
error = testing.identity_error(before.params, after.params, after.ledger, rate)
print(f"relative error of v(T) = v(0) + η (P + N): {error:.1e}")
assert error < 1e-4

# %% [markdown]
# ## Claim (i) and claim (ii)
#
# Now the paper's setting: users normalised. Each item's readings against its popularity, in groups of items.

# %%
model = models.normalize(plain, users=True)


def trained(observation: Observation, epochs: int = 15) -> TrainState:
    """The state after training with this ledger."""
    step = make_step(model, objectives.bpr(), optim.row_adagrad(0.1), observation=observation)
    return fit(step, sampler, epochs=epochs, key=jax.random.key(0)).state


state = trained(Observation())
assert state.ledger is not None
tables, ledger = models.embed(model, state.params), state.ledger
counts = train.item_counts
readings = analysis.item_readings(tables, ledger)
figure, axes = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
for ax, name in zip(axes, ("alignment", "magnitude", "ratio"), strict=True):
    rows = analysis.by_popularity(readings[name], counts, groups=12)
    x = [row["popularity"] for row in rows]
    ax.plot(x, [row["median"] for row in rows], marker="o")
    ax.fill_between(x, [row["low"] for row in rows], [row["high"] for row in rows], alpha=0.2)
    ax.set(xscale="log", xlabel="training interactions", title=name)
claims = analysis.claims(tables, ledger, counts)
print({name: round(found["spearman"], 3) for name, found in claims.items()})

# %% [markdown]
# `magnitude` grows with popularity in part because popular items have more positive events. `magnitude_per_event` divides
# by them, and says what is left.
#
# ## How much is more than the count?

# %%
size, push = (np.asarray(ledgers.magnitude(ledger.items, by)) for by in ("size", "push"))
seen = (counts > 0) & (size > 0) & (push > 0)
for name, values in {"pull": size, "push": push, "ratio": np.asarray(ledgers.ratio(ledger.items))}.items():
    r = np.corrcoef(np.log(values[seen]), np.log(counts[seen]))[0, 1]
    print(f"correlation of log {name:5} with log count: {r:.4f}")

# %% [markdown]
# ## The users' side
#
# The pull on a user is the sum of what its items contributed. How well it points along the common direction of the items'
# pulls tells how mainstream the user is; adjustments may use it to correct niche users more.

# %%
z = np.asarray(mainstream(ledger))
taste = analysis.spearman(z, np.bincount(train.users, counts[train.items]) / np.maximum(train.user_counts, 1))[0]
print(f"Spearman of that measure with the mean popularity of the profile: {taste:.3f}")

# %% [markdown]
# ## What may be kept
#
# A decay below 1 turns sums into averages over recent steps; weights keep one total vector in place of one a row. Two
# ledgers of one shape can be merged.

# %%
recent = trained(Observation(decay=0.99)).ledger
small = trained(Observation(item_weight=jnp.ones(train.num_items), user_weight=jnp.ones(train.num_users))).ledger
assert recent is not None
assert small is not None
cosine = float(ledgers.direction(small.items) @ ledgers.direction(ledger.items))
print("vectors kept:", ledger.items.pull.vector.shape, "or", small.items.pull.vector.shape)
print(f"cosine of the two directions: {cosine:.6f}")
both = ledgers.merge(ledger, ledger)

# %%
assert claims["alignment"]["spearman"] > 0
assert claims["magnitude"]["spearman"] > 0.8
assert cosine > 0.999
np.testing.assert_allclose(both.items.pull.size, 2 * ledger.items.pull.size)
assert float(recent.items.pull.size.sum()) < float(ledger.items.pull.size.sum())
