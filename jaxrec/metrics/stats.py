"""How sure a mean or a difference is: standard errors, bootstrap intervals, paired tests, Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ROUNDING = 1e-12  # of the values: less than that tells nothing


class Comparison(NamedTuple):
    """mean(a) − mean(b) over the same users, with its interval and its two-sided p."""

    difference: float
    low: float
    high: float
    p: float


def standard_error(values: np.ndarray) -> float:
    """s / √N with s² the unbiased variance; 0 for fewer than two values.

    >>> standard_error(np.array([0.0, 2.0]))
    1.0
    """
    values = _checked(values)
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def bootstrap_ci(
    values: np.ndarray, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of the mean over resampled users (Efron, 1979): values [N] -> (low, high)."""
    values = _checked(values)
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}; 0.95 is usual")
    rng = np.random.default_rng(seed)
    size = len(values)
    means = np.array([values[rng.integers(0, size, size)].mean() for _ in range(resamples)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_test(a: np.ndarray, b: np.ndarray, *, method: str = "t") -> float:
    """The two-sided p of paired samples [N], by Student's "t" or by "wilcoxon" (signed ranks, zeros left out).

    Differences are 0, or tie, where they do but for rounding. Differences that are all 0 give p = 1; differences all
    equal but not 0 give t's limit, p = 0. One pair alone shows nothing: p = 1.

    >>> paired_test(np.ones(5), np.ones(5))
    1.0
    """
    if method not in ("t", "wilcoxon"):
        raise ValueError(f'method must be "t" or "wilcoxon", got {method!r}')
    differences = _differences(a, b)
    if len(differences) < 2 or not differences.any():
        return 1.0
    from scipy import stats

    if method == "wilcoxon":
        unit = ROUNDING * max(np.abs(a).max(), np.abs(b).max())  # 1 - 2/3 and 2/3 - 1/3 are one size of two
        return float(stats.wilcoxon(np.round(differences[differences != 0] / unit)).pvalue)
    error = standard_error(differences)
    if error <= ROUNDING * np.abs(differences).max():  # equal up to rounding, where scipy would warn
        return 0.0
    return float(2 * stats.t.sf(abs(differences.mean()) / error, len(differences) - 1))


def holm(pvalues: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p (1979): sorted p_(j) -> max_{i≤j} min(1, (m − i + 1) p_(i)), in the order given.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    given = np.asarray(pvalues, np.float64)
    if np.any(~((given >= 0) & (given <= 1))):
        raise ValueError(f"p values must lie in 0..1, got {given[~((given >= 0) & (given <= 1))][0]}")
    order = np.argsort(given)
    adjusted = np.empty(len(given))
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(given), 0, -1) * given[order]))
    return adjusted


def compare(
    a: np.ndarray, b: np.ndarray, *, method: str = "t", level: float = 0.95, seed: int = 0
) -> Comparison:
    """Two methods on the same users, a, b [N]: mean(a − b), its bootstrap interval, and the paired test's p."""
    differences = _differences(a, b)
    low, high = bootstrap_ci(differences, level=level, seed=seed)
    return Comparison(float(differences.mean()), low, high, paired_test(a, b, method=method))


def _differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = _checked(a), _checked(b)
    if a.shape != b.shape:
        raise ValueError(f"paired samples must be of the same users, got {len(a)} and {len(b)} values")
    differences = a - b
    return np.where(np.abs(differences) > ROUNDING * np.maximum(np.abs(a), np.abs(b)), differences, 0.0)


def _checked(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"values must be a non-empty list of finite numbers, got shape {values.shape}; drop NaN users")
    return values
