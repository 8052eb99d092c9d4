"""Settings of a run, and the named presets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_type_hints

from jaxrec import models, objectives, optim, samplers
from jaxrec.data.interactions import Interactions
from jaxrec.models import Model
from jaxrec.names import nearest
from jaxrec.samplers import Sampler
from jaxrec.step import Observation, Step, make_step


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run's numbers, beside the data and the seed."""

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
    optimizer: Literal["adagrad", "row_adagrad", "adam", "sgd"] = "row_adagrad"
    """Row-sparse optimiser; row_adagrad keeps one accumulator a row."""
    learning_rate: float = 0.05
    l2: float = 0.0
    """λ on the rows of a batch."""
    decay: float = 1.0
    """The ledger's decay a step; 1 keeps plain sums."""
    epochs: int = 30
    """At most this many; the best one on the natural validation part is kept."""
    patience: int | None = 3
    """Stop after this many evaluations without a better one."""
    evaluate_every: int = 5
    """Epochs from one evaluation to the next."""
    budget: int = 96
    """Points tried for each arm of adjustments; a quarter of them for TTEN, which has one strength only."""
    select_users: int | None = 8192
    """Validation users that strengths are selected on, drawn at random; None: all."""
    select: Literal["unbiased", "loss"] = "unbiased"
    """Take the best unbiased NDCG on validation, or the best that loses at most `max_loss` of the natural one."""
    max_loss: float = 0.1
    """For select=loss."""
    k: int = 20
    """The cut-off at which strengths are selected."""


PAPER_MF = Settings(objective="bpr", l2=1e-3, epochs=100, evaluate_every=10)
"""The paper's setting: BPR, one uniform negative, users normalised, nothing else; ledger; direction and magnitude.

Expected: adressa-macr unbiased recall@20 .114 ± .010 and ndcg@20 .052 ± .004 adjusted, .052 and .022 plain; a minute on
2 CPU cores. `jaxrec train adressa-macr --preset paper-mf --out runs/paper`
"""

SOFTMAX_MF = Settings(
    objective="softmax",
    normalize_items=True,
    temperature=0.1,
    negatives=1024,
    shared=True,
    logq=True,
    reject=True,
    batch_size=2048,
    epochs=60,
    evaluate_every=10,
)
"""The strongest matrix factorisation found: cosine scores at τ = .1, sampled softmax with corrected shared negatives.

Expected: adressa-macr unbiased recall@20 .147 ± .009 and ndcg@20 .069 ± .006 adjusted at 30 epochs, a minute and a half
on 2 CPU cores; Gowalla takes about ten minutes. `jaxrec train adressa-macr --epochs 30 --out runs/softmax`
"""

PRESETS: dict[str, Settings] = {"paper-mf": PAPER_MF, "softmax-mf": SOFTMAX_MF}


def override(base: Settings, changes: Mapping[str, Any], *, source: str) -> Settings:
    """Settings with some changed. ValueError for an unknown name, with the nearest one, or a value of a wrong kind.

    >>> override(SOFTMAX_MF, {"epochs": 10}, source="here").epochs
    10
    >>> override(SOFTMAX_MF, {"epoch": 10}, source="here")
    Traceback (most recent call last):
    ValueError: here: there is no setting 'epoch'; did you mean 'epochs'?
    """
    known, kinds = [f.name for f in fields(Settings)], get_type_hints(Settings)
    for name, value in changes.items():
        if name not in known:
            raise ValueError(f"{source}: there is no setting {name!r}{nearest(name, known)}")
        if not _suits(value, kinds[name]):
            raise ValueError(f"{source}: {name} wants {_wanted(kinds[name])}, got {value!r}")
    kept: dict[str, Any] = {name: float(value) if kinds[name] is float else value for name, value in changes.items()}
    return replace(base, **kept)


def _suits(value: Any, kind: Any) -> bool:
    if options := get_args(kind):  # Literal["a", "b"] or int | None
        return any(value == o if isinstance(o, str) else _suits(value, o) for o in options)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is kind


def _wanted(kind: Any) -> str:
    names = [repr(o) if isinstance(o, str) else "null" if o is NoneType else o.__name__ for o in get_args(kind)]
    return " or ".join(names) or str(kind.__name__)


def read_settings(path: Path | str) -> tuple[dict[str, Any], str | None]:
    """The settings in a JSON file, and the preset that it names.

    The file is an object of settings, all or some, or one that holds them as "settings" (and perhaps "preset"), as
    `settings.json` of a RUN and `best.json` of tuning do. ValueError for anything else.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as problem:
        raise ValueError(f"{path}:{problem.lineno}: this is no JSON ({problem.msg})") from None
    inner = found.get("settings", found) if isinstance(found, dict) else found
    if not isinstance(inner, dict):
        raise ValueError(f"{path} wants an object of settings, like {{\"epochs\": 20}}, got {type(inner).__name__}")
    preset = found.get("preset") if inner is not found else None
    return inner, preset if preset in PRESETS else None


def build(settings: Settings, train: Interactions, *, observe: bool = True) -> tuple[Model, Sampler, Step]:
    """The parts that settings name, for these interactions. ValueError where options contradict each other."""
    s = settings
    model = models.normalize(
        models.mf(train.num_users, train.num_items, s.width, scale=s.init_scale, biases=s.biases),
        users=s.normalize_users,
        items=s.normalize_items,
        temperature=s.temperature,
    )
    sampler = samplers.sampler(
        train,
        batch_size=s.batch_size,
        num_negatives=s.negatives,
        shared=s.shared,
        in_batch=s.in_batch,
        popularity=s.popularity,
        reject=s.reject,
        by=s.sample_by,
    )
    if s.logq and s.objective != "softmax":
        raise ValueError(f"logq corrects the softmax; objective {s.objective!r} does not read it")
    objective = {"bpr": objectives.bpr, "bce": objectives.bce}.get(s.objective, lambda: objectives.softmax(logq=s.logq))
    optimizer = {
        "sgd": optim.row_sgd,
        "adam": optim.row_adam,
        "adagrad": optim.row_adagrad,
        "row_adagrad": lambda rate: optim.row_adagrad(rate, by_row=True),
    }[s.optimizer](s.learning_rate)
    observation = Observation(decay=s.decay) if observe else None
    return model, sampler, make_step(model, objective(), optimizer, observation=observation, l2=s.l2)
