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
# # A study over seeds
#
# One run is an anecdote. This notebook runs the main job for a few seeds, says how much figures vary between them, and
# compares arms user by user. `python -m experiments.run STUDY` does the same for the data sets of the results.

# %%
# On Colab only: SOURCE is a checkout of this repository, or whatever else pip can install jaxrec from.
import subprocess
import sys

SOURCE = "/content/jaxrec"
if "google.colab" in sys.modules:
    subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", SOURCE])

# %%
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from jaxrec import metrics, pipeline, report, runs
from jaxrec.presets import PRESETS

SEEDS = (0, 1, 2)
settings = replace(
    PRESETS["paper-mf"],
    objective="bce", width=16, negatives=4, learning_rate=0.1, l2=0.01, batch_size=512, epochs=12, evaluate_every=6,
    budget=16, select_users=400,
)  # fmt: skip
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Run
#
# Each run carves its own validation parts, selects strengths on them, refits and tests once. The folder keeps all of it;
# no decision is taken from a test.

# %%
found = {}
for seed in SEEDS:
    found[seed] = pipeline.train("synthetic", settings, folder / f"seed{seed}", seed=seed)
    strengths = {name: round(value, 2) for name, value in found[seed]["selected"].items()}
    print(f"seed {seed}: {strengths}")

# %% [markdown]
# ## Spread over seeds

# %%
ARMS = ("plain", "adjusted", "count_control")


def values(test: str, arm: str, metric: str = "ndcg@20") -> np.ndarray:
    """A metric, one value a seed."""
    return np.array([found[seed]["tests"][test][arm][metric] for seed in SEEDS])


for test in ("natural", "unbiased"):
    for arm in ARMS:
        over = values(test, arm)
        print(f"{test:9} {arm:14} ndcg@20 {over.mean():.4f} ± {over.std(ddof=1):.4f}")

figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for ax, test in zip(axes, ("natural", "unbiased"), strict=True):
    for n, arm in enumerate(ARMS):
        ax.plot([n] * len(SEEDS), values(test, arm), "o")
    ax.set(title=test, ylabel="NDCG@20", xticks=range(len(ARMS)), xticklabels=[arm.replace("_", " ") for arm in ARMS])

# %% [markdown]
# ## Paired over users
#
# Within a seed the arms rank for the same users, so their difference is tested user by user. With several comparisons
# Holm's rule keeps the chance of any false alarm at the level of one.

# %%
pvalues, differences = [], []
for seed in SEEDS:
    with np.load(folder / f"seed{seed}" / "per_user.npz") as saved:
        adjusted, control = (saved[f"unbiased/{arm}/ndcg@20"] for arm in ("adjusted", "count_control"))
    pair = metrics.compare(adjusted.astype(np.float64), control.astype(np.float64))
    pvalues.append(pair.p)
    differences.append(pair.difference)
    print(f"seed {seed}: adjusted less count control {pair.difference:+.4f} [{pair.low:+.4f}, {pair.high:+.4f}]")
print("p by Holm:", np.round(metrics.holm(pvalues), 4))

# %% [markdown]
# ## A page of all runs

# %%
page = report.write_comparison([folder / f"seed{seed}" for seed in SEEDS], folder / "compare.html")
print(page.name, f"{page.stat().st_size / 1024:.0f} KiB; each run's own page is made by report.write_report(RUN)")

# %%
assert all(runs.read_metrics(folder / f"seed{seed}")["seed"] == seed for seed in SEEDS)
assert values("unbiased", "adjusted").mean() > values("unbiased", "plain").mean()
for seed, difference in zip(SEEDS, differences, strict=True):
    by_user = found[seed]["comparisons"]["unbiased"]["adjusted - count_control"]["ndcg@20"]["difference"]
    assert abs(by_user - difference) < 1e-6
