"""The paper's two claims as numbers and as curves (Ren et al. 2022, arXiv 2211.01154).

    (i)  alignment: the gradients of popular items point to the positive interactions
    (ii) magnitude: the positive gradients of popular items are far larger

Both are read off the items' side of a ledger and set against popularity n_i, the training count.
"""

from __future__ import annotations

import jax
import numpy as np

from jaxrec import ledger as ledgers
from jaxrec.ledger import GradientLedger
from jaxrec.types import Array, Tables


def spearman(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Spearman's rank correlation of [N], [N] and its two-sided p; (0, 1) where one of them is constant.

    >>> spearman(np.array([1, 2, 3, 4]), np.array([1, 4, 9, 16]))[0].__round__(6)
    1.0
    """
    from scipy.special import stdtr  # scipy.stats takes a second to import

    rho, freedom = rank_correlation(a, b), len(a) - 2
    if freedom < 1:
        return rho, 1.0
    with np.errstate(divide="ignore"):
        t = rho * np.sqrt(freedom / np.float64(1.0 - rho**2))
    return rho, float(2 * stdtr(freedom, -abs(t)))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation of [N], [N]; equal values share their mean rank; 0 where one of them is constant."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return min(max(float(np.corrcoef(_mean_ranks(a), _mean_ranks(b))[0, 1]), -1.0), 1.0)


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 on, those of equal values their mean."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]


def item_readings(tables: Tables, ledger: GradientLedger) -> dict[str, np.ndarray]:
    """What the claims are about, one value an item [I], named as in the figures.

    alignment: cos(v_i, d); gradient_alignment: cos(P_i + N_i, P_i); magnitude: p_i; vector: ‖P_i‖; ratio: p_i / n⁻_i.
    """
    return {name: np.asarray(values) for name, values in _read(tables.item, ledger.items).items()}


@jax.jit
def _read(rows: Array, items: ledgers.Side) -> dict[str, Array]:
    width = items.pull.vector.shape[-1]
    return {
        "alignment": ledgers.alignment(items, rows[:, :width]),
        "gradient_alignment": ledgers.alignment(items),
        "magnitude": ledgers.magnitude(items, "size"),
        "vector": ledgers.magnitude(items, "vector"),
        "ratio": ledgers.ratio(items),
    }


def claims(tables: Tables, ledger: GradientLedger, counts: np.ndarray) -> dict[str, dict[str, float]]:
    """Spearman's correlation of each reading with popularity, over the items that were trained on.

    Claim (i) says that `alignment` is positive, claim (ii) that `magnitude` is. Magnitude grows with the number of
    events by itself; `magnitude_per_event`, p_i divided by the positive events, tells what is left of it beyond that.
    """
    seen, found = counts > 0, {}
    for name, values in claimed(tables, ledger).items():
        rho, p = spearman(values[seen], counts[seen])
        found[name] = {"spearman": rho, "p": p}
    return found


def correlations(tables: Tables, ledger: GradientLedger, counts: np.ndarray) -> dict[str, float]:
    """The correlations of `claims` alone, to watch while training."""
    seen = counts > 0
    return {name: rank_correlation(x[seen], counts[seen]) for name, x in claimed(tables, ledger).items()}


def claimed(tables: Tables, ledger: GradientLedger) -> dict[str, np.ndarray]:
    """`item_readings`, and magnitude_per_event: p_i / events, 0 where there are none. A decayed ledger has parts of
    one."""
    readings, events = item_readings(tables, ledger), np.asarray(ledger.items.pull.events)
    return readings | {"magnitude_per_event": readings["magnitude"] / np.where(events > 0, events, 1)}


def by_popularity(values: np.ndarray, counts: np.ndarray, *, groups: int = 10) -> list[dict[str, float]]:
    """Quantiles of a reading in groups of items of equal size, least popular first; items without training left out."""
    seen = np.flatnonzero(counts > 0)
    order = seen[np.argsort(counts[seen], kind="stable")]
    rows = []
    for part in np.array_split(order, min(groups, len(order))):
        low, middle, high = np.quantile(values[part], [0.25, 0.5, 0.75])
        rows.append(
            dict(popularity=float(np.mean(counts[part])), low=float(low), median=float(middle), high=float(high))
        )
    return rows


def change_in_lists(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The share of each user's list [N, k] that an adjustment replaced: [N]; -1 is no item, and an empty list stays.

    >>> change_in_lists(np.array([[1, 2]]), np.array([[2, 3]])).tolist()
    [0.5]
    """
    kept = (before[:, :, None] == after[:, None, :]) & (before[:, :, None] >= 0)
    length = np.sum(before >= 0, axis=1)
    return np.where(length > 0, 1.0 - kept.any(axis=2).sum(axis=1) / np.maximum(length, 1), 0.0)
