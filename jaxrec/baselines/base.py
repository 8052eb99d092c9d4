"""A method as a study sees it: parts to train, a way to rank, and perhaps strengths at test time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np

from jaxrec import models, rank
from jaxrec.models import Model
from jaxrec.presets import Settings
from jaxrec.samplers import Sampler
from jaxrec.select import Arm
from jaxrec.step import Step
from jaxrec.types import Params, Scorer, Tables

if TYPE_CHECKING:
    from jaxrec.data.interactions import Interactions

NONE: Mapping[str, float] = MappingProxyType({})


class Rank(Protocol):
    """(params, strengths) -> what ranks; strengths that aren't given are the method's own."""

    def __call__(self, params: Params, **strengths: float) -> Tables | Scorer: ...


class Method(NamedTuple):
    """A published method, assembled for one training set.

    `rank` gives `Tables`, or a `Scorer` where scores are no inner product. `strengths` are what may be tuned at test
    time, with the source's values. `arm(params)`, where there is one, tunes them by `jaxrec.select` on the tables
    `start(method, params)` (every strength 0).
    """

    model: Model
    sampler: Sampler
    step: Step
    rank: Rank
    strengths: Mapping[str, float] = NONE
    arm: Callable[[Params], Arm] | None = None


def plain(parts: tuple[Model, Sampler, Step]) -> Method:
    """The method that is trained by these and ranks by its model's own tables."""
    model = parts[0]

    def by_model(params: Params, **strengths: float) -> Tables:
        known_strengths(NONE, strengths)
        return models.embed(model, params)

    return Method(*parts, by_model)


def known_strengths(defaults: Mapping[str, float], given: Mapping[str, float]) -> dict[str, float]:
    """The strengths with those given in their place; ValueError for one that the method has not."""
    for name in given:
        if name not in defaults:
            raise ValueError(f"there is no strength {name!r}; the method has {', '.join(defaults) or 'none'}")
    return {**defaults, **given}


def start(method: Method, params: Params) -> Tables:
    """The tables that the method's arm starts from: every strength 0. ValueError where it has no arm."""
    found = method.rank(params, **dict.fromkeys(method.strengths, 0.0))
    if method.arm is None or not isinstance(found, Tables):
        raise ValueError("the method has no arm of strengths on tables; call rank with each strength to be tried")
    return found


def top_k(
    found: Tables | Scorer,
    users: np.ndarray | Sequence[int] | None,
    exclude: Interactions | Sequence[Interactions] | None,
    *,
    k: int,
) -> rank.TopK:
    """The k best items of each user, of whatever a method ranks by: `rank.top_k` or `rank.top_k_scores`."""
    if isinstance(found, Scorer):
        return rank.top_k_scores(found, users, exclude, k=k)
    return rank.top_k(found, users, exclude, k=k)


def want_plain_rows(name: str, settings: Settings) -> None:
    """ValueError unless scores are inner products of the embeddings themselves."""
    s = settings
    if s.normalize_users or s.normalize_items or s.biases or s.temperature != 1.0:
        got = f"normalize_users={s.normalize_users}, normalize_items={s.normalize_items}, "
        got += f"biases={s.biases}, temperature={s.temperature}"
        raise ValueError(f"{name} wants embeddings as they are, got {got}; leave them at False, False, False and 1")


def want_linear(name: str, settings: Settings) -> None:
    """ValueError unless scored rows are linear in the embeddings, column by column, so that their halves stay apart."""
    if settings.backbone not in ("mf", "lightgcn"):
        got = settings.backbone
        raise ValueError(f"{name} wants backbone mf or lightgcn, whose layers keep columns apart; got {got!r}")


def want_own_objective(name: str, settings: Settings, defaults: Settings) -> None:
    """ValueError for settings that name an objective, where the method has one of its own."""
    if settings.objective != defaults.objective:
        raise ValueError(f"{name} has an objective of its own, got {settings.objective!r}; leave the setting out")


def want_objective(name: str, settings: Settings, *wanted: Literal["bpr", "bce", "softmax"]) -> None:
    """ValueError unless the objective is one that the method is made of."""
    if settings.objective not in wanted:
        raise ValueError(f"{name} wants objective {' or '.join(map(repr, wanted))}, got {settings.objective!r}")


def want_cosines(name: str, settings: Settings) -> None:
    """ValueError unless scores are plain cosines."""
    s = settings
    if not (s.normalize_users and s.normalize_items and s.temperature == 1.0) or s.biases or s.backbone == "neumf":
        got = f"normalize_users={s.normalize_users}, normalize_items={s.normalize_items}, "
        got += f"temperature={s.temperature}, biases={s.biases}, backbone={s.backbone}"
        raise ValueError(f"{name} wants scores that are cosines, got {got}; normalise both sides and nothing else")


def want_shared(name: str, settings: Settings) -> None:
    """ValueError unless a batch shares negatives that are drawn uniformly."""
    s = settings
    if not s.shared or s.in_batch or s.popularity != 0.0 or s.negatives < 2:
        got = f"shared={s.shared}, in_batch={s.in_batch}, popularity={s.popularity}, negatives={s.negatives}"
        raise ValueError(f"{name} wants uniform negatives that a batch shares, got {got}; set shared and popularity=0")
