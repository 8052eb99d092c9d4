"""EQL v2: equalization of pull and push by item, while training (Tan et al. 2021, arXiv 2012.08548)."""

from __future__ import annotations

from jaxrec import presets
from jaxrec.baselines.base import Method, plain
from jaxrec.data.interactions import Interactions
from jaxrec.presets import Settings
from jaxrec.transforms.training import equalize, gradient_ratio_gate

SETTINGS = Settings(objective="bce", normalize_users=False, optimizer="adam", learning_rate=1e-3, l2=1e-5)
"""Binary cross-entropy, which is what the source re-weights."""


def build(
    settings: Settings,
    train: Interactions,
    *,
    slope: float = 12.0,
    middle: float = 0.8,
    gain: float = 4.0,
    weighted: bool = True,
) -> Method:
    """Score gradients times f(r_j) for negatives and 1 + gain·(1 − f(r_i)) for positives, f(r) = σ(slope·(r − middle)).

    r is an item's accumulated pull by its push (`transforms.training.equalize`), and the defaults are the source's.
    With gain = 0 and middle = −∞ nothing is changed. `weighted` accumulates what the weights left of the gradients;
    without it an item whose pushes are muted is counted as pushed all the same, and its scores may rise without end.
    """
    if not (slope >= 0 and gain >= 0):
        raise ValueError(f"eql wants slope, gain >= 0, got {slope} and {gain}")
    gate = gradient_ratio_gate(slope=slope, middle=middle, gain=gain)
    return plain(presets.build(settings, train, transform=equalize(train.num_items, gate=gate, weighted=weighted)))
