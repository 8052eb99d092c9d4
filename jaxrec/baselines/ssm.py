"""SSM, the sampled softmax loss, and logQ, which corrects it for how often a negative is drawn: existing parts only.

    SSM    −log e^{cos_ui/τ} / (e^{cos_ui/τ} + Σ_j e^{cos_uj/τ}) (Wu et al. 2022, arXiv 2201.02327), j uniform, or the
           batch's other positives as they come, q_j ∝ n_j, which is what the authors' code trains: popular items are
           pushed the more often, and the optimum is log p(i|u) − log n_i
    logQ   the same with cos_uj/τ − log q_j, negatives the batch's other positives, q_j ∝ n_j
           (Bengio & Senécal 2008; Yi et al. 2019, DOI 10.1145/3298689.3346996)

The authors rank by inner products of what they train by cosines; here cosines rank, too.
"""

from __future__ import annotations

from dataclasses import replace

from jaxrec import presets
from jaxrec.baselines.base import Method, plain
from jaxrec.data.interactions import Interactions
from jaxrec.presets import Settings

SETTINGS = Settings(
    objective="softmax",
    normalize_items=True,
    temperature=0.1,
    negatives=1024,
    shared=True,
    optimizer="adam",
    learning_rate=1e-3,
)
"""τ is tuned in the source, and .1 is usual."""

LOGQ = replace(SETTINGS, shared=False, negatives=1, in_batch=True, logq=True)
"""In-batch negatives, corrected."""

IN_BATCH = replace(LOGQ, logq=False)
"""In-batch negatives as they come."""


def build(settings: Settings, train: Interactions) -> Method:
    """SSM (`SETTINGS`, `IN_BATCH`) or logQ (`LOGQ`)."""
    if settings.objective != "softmax":
        raise ValueError(f"ssm is a softmax, got objective={settings.objective!r}; start from ssm.SETTINGS")
    return plain(presets.build(settings, train))
