"""Two towers: a small network for users and one for items, which may also read features of theirs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.models.base import Model
from jaxrec.models.mf import mf
from jaxrec.types import Array, Params


def two_tower(
    num_users: int,
    num_items: int,
    width: int = 64,
    *,
    layers: int = 2,
    scale: float = 0.1,
    user_features: np.ndarray | Array | None = None,
    item_features: np.ndarray | Array | None = None,
) -> Model:
    """s_ui = <t([e_u, x_u]), t'([e_i, x_i])>: embeddings e [D] beside features x, each side through a tower of its own.

    A tower is `layers` dense layers of D, with ReLU between them and none after the last (Covington et al. 2016, DOI
    10.1145/2959100.2959190; Yi et al. 2019, DOI 10.1145/3298689.3346996). user_features [U, F] and item_features [I, G]
    are read as they are, so give them like scales, about 0 to 1. Embeddings start as in `mf`, and with no layers the
    model is `mf`. An L2 penalty looks at the batch's embeddings, never at the towers.

    Scores are inner products of `tables(params)`: ledger, transforms, adjustments and ranking are those of any such
    model, and the vectors of the ledger are gradients at the towers' outputs. Each row depends on all of its tower, so
    the model wants an optax optimiser.

    Cost: `tables` sends all rows through their towers in each step, (U + I) L D² multiplications and 4 (U + I) L D
    bytes of activations that the backward pass keeps. Where U + I is much larger than the rows B (2 + K) of a batch,
    most of that is wasted: sample larger batches, or train `mf`. Compiled steps hold features as constants.

    Raises ValueError for layers < 0, features without layers, features that are not [U, F], [I, G] or not finite.

    >>> model = two_tower(3, 5, 4, layers=1, item_features=np.eye(5))
    >>> params = model.init(jax.random.key(0))
    >>> params["item_tower"]["layers_0"]["kernel"].shape, [rows.shape for rows in model.tables(params)]
    ((9, 4), [(3, 4), (5, 4)])
    """
    if layers < 0:
        raise ValueError(f"layers must be at least 0, got {layers}; 1 to 3 are usual, 0 is matrix factorisation")
    features = {
        "user": _features("user_features", user_features, num_users, "user"),
        "item": _features("item_features", item_features, num_items, "item"),
    }
    flat = mf(num_users, num_items, width, scale=scale)
    if layers == 0:
        if any(x is not None for x in features.values()):
            raise ValueError("features want a tower that reads them, got layers=0; set layers to 1 or more")
        return flat
    tower = _tower(width, layers)

    def init(key: Array) -> Params:
        base_key, *keys = jax.random.split(key, 3)
        params = flat.init(base_key)
        towers = {
            f"{side}_tower": tower.init(k, _beside(params[side], x)[:1])["params"]
            for k, (side, x) in zip(keys, features.items(), strict=True)
        }
        return params | towers

    def rows(params: Params, side: str) -> Array:
        return tower.apply({"params": params[f"{side}_tower"]}, _beside(params[side], features[side]))

    def tables(params: Params) -> tuple[Array, Array]:
        return rows(params, "user"), rows(params, "item")

    return flat._replace(init=init, tables=tables, penalized=flat.tables, tables_are_params=False)


def _tower(width: int, layers: int) -> Any:
    """A flax module: rows [N, F] -> [N, D]."""
    from flax import linen as nn  # here, so that other models need not wait for it

    parts: list[Any] = [nn.Dense(width, precision="highest")]
    for _ in range(layers - 1):
        parts += [nn.relu, nn.Dense(width, precision="highest")]
    return nn.Sequential(parts)


def _beside(embeddings: Array, features: Array | None) -> Array:
    return embeddings if features is None else jnp.concatenate([embeddings, features], axis=1)


def _features(name: str, given: np.ndarray | Array | None, rows: int, of: str) -> Array | None:
    """Features as float32 [N, F], checked."""
    if given is None:
        return None
    found = np.asarray(given)
    if found.ndim != 2 or found.shape[0] != rows or found.shape[1] < 1:
        raise ValueError(f"{name} must have shape ({rows}, F), a row for each {of}, got {found.shape}")
    found = found.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(bad):
        raise ValueError(f"{name} must be finite, but {len(bad)} rows hold NaN or inf (first: {bad[0]}); fill them in")
    return jnp.asarray(found)
