"""jaxrec: see popularity bias in a recommender's gradients, and correct it, as pure JAX functions.

The index of public names. Modules load when first used, so that `import jaxrec` stays quick.

    data         Interactions, Split, readers, splits, the registry of named sets
    models       mf, lightgcn, two_tower, normalize; embed(model, params) -> Tables
                 neumf; scorer(model, params) -> Scorer
                 most_popular, ials, spectral -> Tables; ease, itemknn -> Scorer
    objectives   bpr, bce, softmax                       samplers    sampler
    optim        row-sparse SGD, Adagrad, Adam           step        make_step, Observation
    gradients    of a batch, at its scored rows          train       fit, make_epoch
    ledger       the gradient ledger and its readings    rows        take: of a table, as CPUs are quick at it
    transforms   training (optax), adjustment (test time)
    select       arms, frontier, select                  rank        top_k, top_k_scores
    metrics      evaluate, compare                       analysis    claims
    pipeline     the main job, end to end                runs        a RUN folder's files
                                                         files       written whole or not at all
    embeddings   tables as files, with their ids         testing     checks of a step or sampler of your own
    checkpoint   save, restore                           report      write_report, write_comparison
    explore      a grid over the strengths               track       Tracker, JsonLines, TensorBoard
    tune         settings of a base model                presets     PRESETS, Settings
    adapters     tables out of models that other libraries trained
    frozen       observe: a ledger off tables that stay      correct     adjust: correct a trained model
    serve        recommend, fold_in, write_lists             export      a scorer as one file
    baselines    other methods, one module each: macr, dice, ssm, ccl, ...; build(name, train)
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULES = (
    "adapters",
    "analysis",
    "baselines",
    "checkpoint",
    "correct",
    "data",
    "explore",
    "embeddings",
    "export",
    "files",
    "frozen",
    "gradients",
    "ledger",
    "metrics",
    "models",
    "objectives",
    "optim",
    "pipeline",
    "presets",
    "rank",
    "report",
    "rows",
    "runs",
    "samplers",
    "select",
    "serve",
    "step",
    "testing",
    "track",
    "train",
    "transforms",
    "tune",
)
_NAMES = {
    "Batch": "types",
    "Scorer": "types",
    "Tables": "types",
    "Interactions": "data",
    "Split": "data",
    "DataError": "data",
    "GradientLedger": "ledger",
    "Model": "models",
    "Observation": "step",
    "TrainState": "step",
    "adjust": "correct",
    "chain": "transforms.adjustment",
    "embed": "models",
    "evaluate": "metrics",
    "fit": "train",
    "lightgcn": "models",
    "load": "data",
    "make_step": "step",
    "mf": "models",
    "neumf": "models",
    "normalize": "models",
    "observe": "frozen",
    "sampler": "samplers",
    "top_k": "rank",
    "top_k_scores": "rank",
    "two_tower": "models",
}

__all__ = ["__version__", *sorted(_MODULES), *sorted(_NAMES)]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f"jaxrec.{_NAMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"jaxrec.{name}")
    raise AttributeError(f"jaxrec has no {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return list(__all__)
