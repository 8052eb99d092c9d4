"""IPS: rows weighted by the inverse of their item's popularity, and its tamer forms C, CN and CNSR.

Inverse propensity scores: Schnabel et al. 2016, arXiv 1602.05352; clipping (C) and normalising (N): Bottou et al. 2013,
arXiv 1209.2355; smoothing (SR): Gruson et al. 2019, DOI 10.1145/3289600.3291027.
"""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
import numpy as np

from jaxrec import presets
from jaxrec.baselines.base import Method, plain
from jaxrec.baselines.parts import BPR
from jaxrec.data.interactions import Interactions
from jaxrec.presets import Settings
from jaxrec.transforms.training import weight_rows

SETTINGS = BPR

Kind = Literal["ips", "c", "cn", "cnsr"]
KINDS: tuple[Kind, ...] = ("ips", "c", "cn", "cnsr")


def weights(counts: np.ndarray, kind: Kind = "cnsr", *, smooth: float = 0.5) -> np.ndarray:
    """w_i = max n / max(n_i, 1), [I] -> [I]; c: clipped to [1, median w]; cn: that by its maximum; cnsr: that of w^ρ.

    `smooth` is ρ, in (0, 1], read by cnsr only.

    >>> weights(np.array([8, 4, 1]), "c").tolist(), weights(np.array([8, 4, 1]), "cn").tolist()
    ([1.0, 2.0, 2.0], [0.5, 1.0, 1.0])
    """
    if kind not in KINDS or not 0 < smooth <= 1:
        raise ValueError(f"ips wants a kind of {', '.join(KINDS)} and smooth in (0, 1], got {kind!r} and {smooth}")
    n = np.maximum(np.asarray(counts, np.float64), 1)
    w = n.max() / n
    if kind == "ips":
        return w
    w = np.clip(w, 1.0, np.median(w))
    if kind == "c":
        return w
    if kind == "cnsr":
        w = w**smooth
    return w / w.max()


def build(settings: Settings, train: Interactions, *, kind: Kind = "cnsr", smooth: float = 0.5) -> Method:
    """ℓ = w_i · (−log σ(s_ui − s_uj)), w of `weights`; the objective of the settings takes the place of BPR.

    The weights act on the score gradients, so the loss that is shown is the one without them, and so is what the
    ledger observes. Where all items are equally popular it is the plain model.
    """
    by = weights(train.item_counts, kind, smooth=smooth)
    return plain(presets.build(settings, train, transform=weight_rows(jnp.asarray(by, jnp.float32))))
