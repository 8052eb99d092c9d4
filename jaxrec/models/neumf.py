"""NeuMF: neural matrix factorisation, whose score is a network of both rows and no inner product."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax

from jaxrec.models.base import Model
from jaxrec.models.mf import mf
from jaxrec.rows import product
from jaxrec.types import Array, Params


def neumf(num_users: int, num_items: int, width: int = 64, *, layers: int = 3, scale: float = 0.1) -> Model:
    """s_ui = <h, p_u ⊙ q_i> + <h', z_L>, z_0 = [p'_u, q'_i], z_l = ReLU(W_l z_{l−1} + b_l) (He et al. 2017, arXiv
    1708.05031).

    A row of the tables is [p, p'] of 2D columns: D for GMF, the first term, and D for the network of `layers` layers,
    which are D, D/2, D/4 ... wide. s is the logit of their σ(s). h starts at 1 and both parts of a row as in `mf`, so
    the first term starts as `mf`, and with no layers the model is GMF alone, of rows [D].

    What carries over from models that rank by inner products:

    steps: `make_step` with any objective of scores. The cut is at the scores and at the rows that the network gets. The
        network's own parameters get the sum of the batch's gradients, so the model wants an optax optimiser. An L2
        penalty looks at the batch's rows, never at the network.
    ledger: vectors −∂ℓ/∂v_i, sizes ‖∂ℓ/∂v_i‖, events and totals are those at the rows, and under plain SGD
        v_i(T) = v_i(0) + η (P_i + N_i) as ever. A size is |∂ℓ/∂s| ‖∂s/∂v_i‖, where ‖∂s/∂v_i‖ is no user's length.
    transforms: those of training, for they weigh score gradients before these are pulled back through the network.
    offsets: by gradient size or by count, a number of each item that is added to its scores; `item_bias` of
        `scorer(model, params, item_bias=...)` is then `-k * adjustment.log_relative(ledger.items.pull.size)`.
    normalize: the network gets unit rows, and its score is divided by the temperature.

    What does not: whatever changes tables because scores are inner products of them. `embed` raises ValueError, and
    with it go `rank.top_k`, `remove_direction`, `rescale_*`, `add_gradients`, `tten`, selection by arms, `jaxrec train`
    and objectives of rows (`make_row_step`).

    It ranks by `models.scorer` and `rank.top_k_scores`. Cost: B K pairs through the network in a step, U I to rank all;
    shared negatives save nothing, so take few of each row's own. Raises ValueError for layers < 0.

    >>> from jaxrec.models.base import scorer
    >>> model = neumf(3, 5, 4, layers=2)
    >>> params = model.init(jax.random.key(0))
    >>> params["item"].shape, scorer(model, params).block([0, 2]).shape
    ((5, 8), (2, 5))
    """
    if layers < 0:
        raise ValueError(f"layers must be at least 0, got {layers}; 3 are usual, 0 is GMF alone")
    parts = 2 if layers else 1
    flat = mf(num_users, num_items, parts * width, scale=parts**0.5 * scale)
    network = _network(width, layers)

    def init(key: Array) -> Params:
        base_key, network_key = jax.random.split(key)
        params = flat.init(base_key)
        return params | {"network": network.init(network_key, params["user"][:1], params["item"][:1])["params"]}

    def score(params: Params, users: Array, items: Array) -> Array:
        return network.apply({"params": params["network"]}, users, items)

    return flat._replace(init=init, tables_are_params=False, score=score)


def _network(width: int, layers: int) -> Any:
    """A flax module: rows [.., D or 2D] of both sides -> scores [..]."""
    from flax import linen as nn  # here, so that other models need not wait for it

    dense = partial(nn.Dense, precision="highest")
    half = nn.initializers.variance_scaling(0.5, "fan_in", "truncated_normal")  # two sums of D make one of 2D

    class NeuMF(nn.Module):
        @nn.compact
        def __call__(self, users: Array, items: Array) -> Array:
            gmf = self.param("gmf", nn.initializers.ones, (width,))
            score = product(users[..., :width] * items[..., :width], gmf)
            if layers == 0:
                return score
            # W_1 [p', q'] in two halves: each row is multiplied once, however many it is paired with.
            z = dense(width, use_bias=False, kernel_init=half, name="user")(users[..., width:])
            z = nn.relu(z + dense(width, kernel_init=half, name="item")(items[..., width:]))
            for layer in range(1, layers):
                z = nn.relu(dense(max(1, width >> layer), name=f"layer_{layer}")(z))
            return score + product(z, self.param("mlp", nn.initializers.normal(z.shape[-1] ** -0.5), z.shape[-1:]))

    return NeuMF()
