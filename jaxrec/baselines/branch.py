"""The popularity branch of BC loss and PopGo: a model that knows users and items by their counts only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import optax

from jaxrec import models, objectives, presets
from jaxrec.baselines.base import Method, plain, want_cosines
from jaxrec.baselines.parts import make_batch_step
from jaxrec.data.interactions import Interactions
from jaxrec.models import Model
from jaxrec.objectives import Objective
from jaxrec.presets import Settings
from jaxrec.step import make_step
from jaxrec.train import fit
from jaxrec.types import Array, Batch, Params, Tables


def popularity_model(train: Interactions, width: int = 64, *, scale: float = 0.1) -> Model:
    """MF over counts: users with the same number of interactions share a vector, and so do items.

    >>> import jax
    >>> model = popularity_model(Interactions([0, 1, 2, 2], [0, 0, 0, 1], 3, 2), 4)
    >>> model.init(jax.random.key(0))["user"].shape  # users of one, and of two interactions
    (2, 4)
    """
    user_values, user_of = np.unique(train.user_counts, return_inverse=True)
    item_values, item_of = np.unique(train.item_counts, return_inverse=True)
    flat = models.mf(len(user_values), len(item_values), width, scale=scale)

    def tables(params: Params) -> tuple[Array, Array]:
        return params["user"][user_of], params["item"][item_of]

    return flat._replace(
        num_users=train.num_users, num_items=train.num_items, tables=tables, penalized=None, tables_are_params=False
    )


def train_branch(
    settings: Settings, train: Interactions, *, key: Array, epochs: int = 5, temperature: float = 0.1
) -> Tables:
    """Trains the branch by a softmax of cosines on the sampler that settings name, and freezes it.

    Its rows keep the lengths that they come to: what it foretells of a pair is read as their inner product. Adam moves
    it, at the settings' rate, whichever optimiser they name for the model.
    """
    flat = popularity_model(train, settings.width, scale=settings.init_scale)
    model = models.normalize(flat, items=True, temperature=temperature)
    _, sampler, _ = presets.build(settings, train, observe=False)
    optimizer = optax.adam(settings.learning_rate, eps=1e-8 * sampler.batch_size)
    step = make_step(model, objectives.softmax(logq=settings.logq), optimizer, observation=None)
    found = fit(step, sampler, epochs=epochs, key=key)
    return models.embed(flat, found.state.params)


def build_on(
    name: str,
    objective: Callable[[Tables], Callable[[Batch], Objective]],
    settings: Settings,
    train: Interactions,
    *,
    key: Array,
    epochs: int,
    temperature: float,
) -> Method:
    """Trains the branch, and puts the method together that makes its objective from the tables."""
    want_cosines(name, settings)
    branch = train_branch(settings, train, key=key, epochs=epochs, temperature=temperature)
    return plain(presets.build(settings, train, objective=objective(branch), make=make_batch_step))
