"""Settings of a run, and the named presets."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_type_hints

import optax

from jaxrec import models, objectives, optim, samplers
from jaxrec import select as selection
from jaxrec.data.interactions import Interactions
from jaxrec.data.lines import decode
from jaxrec.models import Model
from jaxrec.names import nearest
from jaxrec.samplers import Sampler
from jaxrec.step import Observation, Step, make_step

_POSITIVE = ("temperature", "init_scale", "learning_rate", "decay")
_AT_LEAST_1: tuple[str, ...] = ("width", "negatives", "batch_size", "rows_per_user", "observe_every", "epochs")
_AT_LEAST_1 += ("evaluate_every", "budget", "k")


@cache
def _kinds() -> dict[str, Any]:
    """The type of each setting."""
    return get_type_hints(Settings)


def _suits(value: Any, kind: Any) -> bool:
    if options := get_args(kind):  # Literal["a", "b"] or int | None
        return any(value == o if isinstance(o, str) else _suits(value, o) for o in options)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is kind


def _wanted(kind: Any) -> str:
    names = [repr(o) if isinstance(o, str) else "null" if o is NoneType else o.__name__ for o in get_args(kind)]
    return " or ".join(names) or str(kind.__name__)


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run's numbers, beside the data and the seed."""

    backbone: Literal["mf", "lightgcn", "two-tower", "neumf"] = "mf"
    """The model of users and items; neumf, which has no tables to adjust, is for Python only."""
    layers: int = 3
    """L, layers of propagation for lightgcn, of each tower for two-tower, of the network for neumf."""
    objective: Literal["bpr", "bce", "softmax"] = "softmax"
    """The loss of a row."""
    width: int = 64
    """D, the width of the embeddings."""
    biases: bool = False
    """Whether users and items have biases."""
    normalize_users: bool = True
    """Whether each user embedding is normalised (the paper's setting)."""
    normalize_items: bool = False
    """Whether item embeddings are, too."""
    temperature: float = 1.0
    """τ, by which scores are divided."""
    init_scale: float = 0.1
    """The length of an embedding at the start."""
    negatives: int = 1
    """K, negatives of a row, or of a batch where they are shared."""
    shared: bool = False
    """Whether a batch shares its negatives."""
    in_batch: bool = False
    """Whether a batch's positives are its negatives."""
    popularity: float = 0.0
    """Negatives are drawn in proportion to n_i to this power."""
    reject: bool = False
    """Whether items that the user is known to like don't count as negatives."""
    logq: bool = False
    """Whether softmax corrects for how often a negative is drawn."""
    sample_by: Literal["interaction", "user"] = "interaction"
    """What an epoch passes over."""
    batch_size: int = 2048
    """B, rows of a batch."""
    rows_per_user: int = 1
    """R, rows of a batch that share a user, for speed: 16 makes a BPR step on CPUs 1.2 to 1.7 times as fast."""
    optimizer: Literal["adagrad", "row_adagrad", "adam", "sgd"] = "row_adagrad"
    """Row-sparse for mf, dense for the other backbones; row_adagrad keeps one accumulator a row, for mf only."""
    learning_rate: float = 0.05
    """η, at the start."""
    schedule: Literal["constant", "linear"] = "constant"
    """Whether the rate stays, or falls linearly to 0 over `epochs`."""
    l2: float = 0.0
    """λ on the rows of a batch."""
    decay: float = 1.0
    """The ledger's decay a step; 1 keeps plain sums."""
    observe_every: int = 1
    """The ledger reads one batch of so many, and counts it as many times, for speed."""
    epochs: int = 30
    """At most this many; the best one on the natural validation part is kept."""
    patience: int | None = 3
    """Stop after this many evaluations without a better one."""
    evaluate_every: int = 5
    """Epochs from one evaluation to the next."""
    family: Literal["gradients", "exposure"] = "gradients"
    """What the adjustment corrects by: direction, magnitude, pull and push of gradients, or exposure and pull."""
    budget: int = 96
    """Points tried for each arm of adjustments; a quarter of them for TTEN, which has one strength only."""
    select_users: int | None = 8192
    """Validation users that strengths are selected on, drawn at random; None: all."""
    select: Literal["unbiased", "loss"] = "unbiased"
    """Take the best unbiased NDCG on validation, or the best that loses at most `max_loss` of the natural one."""
    max_loss: float = selection.MAX_LOSS
    """For select=loss, and an error with another value without it."""
    k: int = 20
    """The cut-off at which strengths are selected."""

    def __post_init__(self) -> None:
        least = {"layers": 0, "patience": 0, "select_users": 1, "l2": 0} | dict.fromkeys(_AT_LEAST_1, 1)
        for name, kind in _kinds().items():
            value = getattr(self, name)
            if not _suits(value, kind):
                raise ValueError(f"{name} wants {_wanted(kind)}, got {value!r}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
            if value is not None and value < least.get(name, value):
                raise ValueError(f"{name} must be at least {least[name]}, got {value}")
            if name in _POSITIVE and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.decay > 1:
            raise ValueError(f"decay must be at most 1, got {self.decay}")
        selection.limit(self.select, self.max_loss)


PAPER_MF = Settings(objective="bpr", l2=1e-3, epochs=100, evaluate_every=10)
"""The paper's setting: BPR, one uniform negative, users normalised, nothing else; ledger.

Expected: adressa-macr unbiased recall@20 .052 and ndcg@20 .022 plain, .130 ± .006 and .060 ± .003 adjusted (by
direction and magnitude, and by our pull and push), 5 seeds; a minute on 2 CPU cores.
`jaxrec train adressa-macr --preset paper-mf --out runs/paper`
"""

SOFTMAX_MF = Settings(
    objective="softmax",
    temperature=0.1,
    negatives=1024,
    shared=True,
    popularity=0.5,
    logq=True,
    reject=True,
    batch_size=1024,
    schedule="linear",
    l2=1.2,
    epochs=24,
    evaluate_every=8,
)
"""The strongest matrix factorisation found: users normalised at τ = .1, items free but held by an L2 penalty, sampled
softmax with corrected shared negatives drawn by √n_i, a rate that falls to 0.

Expected: gowalla-lightgcn natural recall@20 .181 and ndcg@20 .149 plain, 3 seeds; about ten minutes on 2 CPU cores with
both fits and the selection.
`jaxrec train gowalla-lightgcn --out runs/softmax`
"""

SOFTMAX_MF_WIDE = replace(SOFTMAX_MF, width=256)
"""`softmax-mf` four times as wide. Of the L2 penalties .8, 1.2 and 2, its own was the best at this width, too, on
Gowalla's natural validation part.

Expected: gowalla-lightgcn natural recall@20 .189 and ndcg@20 .156 plain, 3 seeds; half an hour on 2 CPU cores.
`jaxrec train gowalla-lightgcn --preset softmax-mf-wide --out runs/wide`
"""

LIGHTGCN = Settings(
    backbone="lightgcn",
    objective="bpr",
    normalize_users=False,
    init_scale=0.8,
    reject=True,
    sample_by="user",
    optimizer="adam",
    learning_rate=1e-3,
    l2=1e-4,
    epochs=100,
    evaluate_every=10,
)
"""LightGCN with its authors' settings (He et al. 2020, arXiv 2002.02126): 3 layers, D 64, BPR, Adam; users are drawn
uniformly, then one of their items. The start is theirs, N(0, .1²) a coordinate, which is a length of .1 √64. They train
for 1,000 epochs; this preset stops at 100. `jaxrec train ml-100k --preset lightgcn --out runs/lightgcn`
"""

Preset = Literal["paper-mf", "softmax-mf", "softmax-mf-wide", "lightgcn"]
PRESETS: dict[str, Settings] = {
    "paper-mf": PAPER_MF,
    "softmax-mf": SOFTMAX_MF,
    "softmax-mf-wide": SOFTMAX_MF_WIDE,
    "lightgcn": LIGHTGCN,
}


def override(base: Settings, changes: Mapping[str, Any], *, source: str) -> Settings:
    """Settings with some changed. ValueError for an unknown name, with the nearest one, or a value of a wrong kind.

    >>> override(SOFTMAX_MF, {"epochs": 10}, source="here").epochs
    10
    >>> override(SOFTMAX_MF, {"epoch": 10}, source="here")
    Traceback (most recent call last):
    ValueError: here: there is no setting 'epoch'; did you mean 'epochs'?
    """
    kinds = _kinds()
    for name, value in changes.items():
        if name not in kinds:
            raise ValueError(f"{source}: there is no setting {name!r}{nearest(name, list(kinds))}")
        if not _suits(value, kinds[name]):
            raise ValueError(f"{source}: {name} wants {_wanted(kinds[name])}, got {value!r}")
    kept: dict[str, Any] = {name: float(value) if kinds[name] is float else value for name, value in changes.items()}
    return replace(base, **kept)


def read_settings(path: Path | str) -> tuple[dict[str, Any], str | None]:
    """The settings in a JSON file, and the preset that it names.

    The file is an object of settings, all or some, or one that holds them as "settings" (and perhaps "preset"), as
    `settings.json` of a RUN and `best.json` of tuning do. ValueError for anything else.
    """
    try:
        found = json.loads(decode(Path(path).read_bytes(), path))
    except json.JSONDecodeError as problem:
        raise ValueError(f"{path}:{problem.lineno}: this is no JSON ({problem.msg})") from None
    inner = found.get("settings", found) if isinstance(found, dict) else found
    if not isinstance(inner, dict):
        raise ValueError(f"{path} wants an object of settings, like {{\"epochs\": 20}}, got {type(inner).__name__}")
    preset = found.get("preset", "custom") if inner is not found else "custom"
    if preset == "custom":
        return inner, None
    if preset not in PRESETS:
        raise ValueError(f"{path}: no preset {preset!r}{nearest(str(preset), PRESETS)} ({', '.join(PRESETS)}, custom)")
    return inner, preset


def build(
    settings: Settings,
    train: Interactions,
    *,
    observe: bool = True,
    objective: Any = None,
    transform: optax.GradientTransformation | None = None,
    make: Callable[..., Step] = make_step,
    wrap: Callable[[Model], Model] | None = None,
    around: Callable[[Sampler], Sampler] | None = None,
) -> tuple[Model, Sampler, Step]:
    """The parts that settings name, for these interactions. ValueError where options contradict each other.

    objective: takes the place of the one that settings name; `transform` is one of score gradients.
    make: joins the parts in place of `make_step`, and is called as it is.
    wrap, around: change the model and the sampler before the parts are joined.
    """
    s = settings
    model = models.normalize(
        _backbone(s, train), users=s.normalize_users, items=s.normalize_items, temperature=s.temperature
    )
    if wrap is not None:
        model = wrap(model)
    sampler = samplers.sampler(
        train,
        batch_size=s.batch_size,
        num_negatives=s.negatives,
        shared=s.shared,
        in_batch=s.in_batch,
        popularity=s.popularity,
        reject=s.reject,
        by=s.sample_by,
        rows_per_user=s.rows_per_user,
    )
    if around is not None:
        sampler = around(sampler)
    if s.logq and s.objective != "softmax":
        raise ValueError(f"logq corrects the softmax; objective {s.objective!r} does not read it")
    if s.logq and not (s.shared or s.in_batch):
        raise ValueError("logq wants negatives that a batch shares; set shared or in_batch, or leave logq out")
    named = {"bpr": objectives.bpr, "bce": objectives.bce}.get(s.objective, lambda: objectives.softmax(logq=s.logq))
    loss = named() if objective is None else objective
    observation = Observation(decay=s.decay, every=s.observe_every) if observe else None
    rate: optim.Rate = s.learning_rate
    if s.schedule == "linear":
        rate = optax.linear_schedule(s.learning_rate, 0.0, s.epochs * sampler.num_batches)
    rows = model.tables_are_params
    optimizer = _row_optimizer(s, rate) if rows else _dense_optimizer(s, rate, sampler.batch_size)
    step = make(model, loss, optimizer, transform=transform, observation=observation, l2=s.l2)
    return model, sampler, step


def _backbone(s: Settings, train: Interactions) -> Model:
    if s.backbone == "mf":
        return models.mf(train.num_users, train.num_items, s.width, scale=s.init_scale, biases=s.biases)
    if s.biases:
        raise ValueError(f"biases belong to mf; {s.backbone} has none")
    if s.backbone == "lightgcn":
        return models.lightgcn(train, s.width, layers=s.layers, scale=s.init_scale)
    make = {"two-tower": models.two_tower, "neumf": models.neumf}[s.backbone]
    return make(train.num_users, train.num_items, s.width, layers=s.layers, scale=s.init_scale)


def want_tables(settings: Settings) -> None:
    """ValueError for a backbone without tables, which selecting and adjusting work on."""
    if settings.backbone == "neumf":
        raise ValueError(
            "neumf scores by a network, so it has no tables to select strengths for and to adjust; train it with "
            "presets.build and train.fit, rank by models.scorer and rank.top_k_scores, or choose backbone two-tower"
        )


def _row_optimizer(s: Settings, rate: optim.Rate) -> optim.RowOptimizer:
    return {
        "sgd": optim.row_sgd,
        "adam": optim.row_adam,
        "adagrad": optim.row_adagrad,
        "row_adagrad": lambda rate: optim.row_adagrad(rate, by_row=True),
    }[s.optimizer](rate)


def _dense_optimizer(s: Settings, rate: optim.Rate, batch_size: int) -> optax.GradientTransformation:
    """Losses are summed over rows, so Adam's ε grows with B: the steps are those of Adam on the mean loss."""
    dense = {"sgd": optax.sgd, "adagrad": optax.adagrad, "adam": lambda rate: optax.adam(rate, eps=1e-8 * batch_size)}
    if s.optimizer not in dense:
        names = ", ".join(dense)
        raise ValueError(f"{s.backbone} updates all rows, which {s.optimizer!r} cannot; choose an optimizer of {names}")
    return dense[s.optimizer](rate)
