"""Who takes part in the comparison of methods, and what the tuner may change of each.

    bases     plain models; every test-time adjustment is tried on each (`ARMS`), and on spectral tables
    trained   the baselines that change training, `jaxrec.baselines.METHODS`
    solved    most popular, EASE, ItemKNN, graph filters, iALS, spectral tables: no training by steps

Every trained contestant has its learning rate and L2 searched, and at most two options that are its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax

from jaxrec import baselines, frozen, models, presets
from jaxrec import select as selection
from jaxrec.baselines import Method, ddc, pc, tde
from jaxrec.baselines.base import plain
from jaxrec.baselines.parts import on_backbone
from jaxrec.data.interactions import Interactions
from jaxrec.ledger import GradientLedger
from jaxrec.presets import PAPER_MF, SOFTMAX_MF, Settings
from jaxrec.select import Arm
from jaxrec.tune import Options, Real, Space
from jaxrec.types import Scorer, Tables

Backbone = Literal["mf", "lightgcn", "two-tower"]

ADAM: Space = {"learning_rate": Real(1e-3, 5e-2, log=True), "l2": Real(1e-6, 1e-1, log=True)}
SMALL = 5000  # items: below it, batches share 256 negatives and not 1024, for every method that shares them
SHARED = 256
LARGE = 300_000  # interactions: above it, batches on a graph have 16,384 rows for every method. A step propagates over
LARGE_BATCH = 16_384  # the whole graph, whatever its batch, and so an epoch has as many steps as of a set of 100,000

BASES: dict[str, tuple[Settings, Space]] = {
    "bpr": (replace(presets.LIGHTGCN, backbone="mf", init_scale=0.1, sample_by="interaction"), ADAM),
    "bpr-unit-users": (
        PAPER_MF,
        {"learning_rate": Real(5e-3, 0.5, log=True), "l2": Real(1e-4, 1.0, log=True)},
    ),
    "softmax": (
        SOFTMAX_MF,
        {
            "learning_rate": Real(1e-2, 0.3, log=True),
            "l2": Real(0.1, 10.0, log=True),
            "temperature": Real(0.05, 0.5, log=True),
        },
    ),
}
"""Plain models by name: BPR as it is usually done, BPR with users normalised (the paper's), softmax with users so."""

TRAINED: dict[str, Space] = {
    "ips": {},
    "ips-c": {},
    "ips-cn": {},
    "ips-cnsr": {"smooth": Real(0.1, 1.0)},
    "macr": {"alpha": Real(1e-4, 1e-1, log=True), "beta": Real(1e-4, 1e-1, log=True)},
    "dice": {"alpha": Real(1e-2, 1.0, log=True), "margin": Options((5.0, 10.0, 40.0))},
    "pd": {"gamma": Real(0.02, 0.5)},
    "pda": {"gamma": Real(0.02, 0.5)},
    "cause": {"distance": Real(1e-3, 1.0, log=True), "treatment": Real(0.0, 1.0)},
    "samreg": {"weight": Real(0.01, 0.9, log=True)},
    "ssm": {"temperature": Real(0.05, 0.5, log=True)},
    "ssm-in-batch": {"temperature": Real(0.05, 0.5, log=True)},
    "logq": {"temperature": Real(0.05, 0.5, log=True)},
    "ccl": {"margin": Real(0.0, 0.9), "weight": Real(1.0, 300.0, log=True)},
    "zerosum": {"weight": Real(0.1, 1.0)},
    "adap_tau": {"beta": Real(0.25, 2.0, log=True), "warmup": Options((0, 10, 100))},
    "eql": {"gain": Real(0.0, 8.0)},
    "ipl": {"weight": Real(1e-3, 10.0, log=True), "gamma": Real(1.0, 2.0)},
    "bc_loss": {"temperature": Real(0.05, 0.5, log=True), "mix": Real(0.0, 1.0)},
    "popgo": {"temperature": Real(0.05, 0.5, log=True)},
    "resn": {"weight": Real(1e-7, 1e-2, log=True)},
    "invcf": {"temperature": Real(0.05, 0.5, log=True), "invariance": Real(1e-3, 1.0, log=True)},
    "paac": {"align": Real(1e-2, 10.0, log=True), "contrast": Real(1e-2, 10.0, log=True)},
    "dap": {"clusters": Options((5, 10, 20))},
    "ppac": {"gamma": Real(1.0, 1024.0, log=True), "beta": Options((-8.0, -32.0, -128.0, -512.0))},
}
"""What is searched of a trained baseline beside the learning rate and L2."""

ON_A_GRAPH = ("dap",)  # methods that are plain BPR on mf

SOLVED: dict[str, tuple[Callable[..., Tables | Scorer], Space, Mapping[str, Any]]] = {
    "popular": (lambda train, seed: models.most_popular(train), {}, {}),
    "ease": (
        lambda train, seed, **o: models.ease(train, **o),
        {"l2": Real(10.0, 3000.0, log=True)},
        {"l2": 500.0},
    ),
    "itemknn": (
        lambda train, seed, **o: models.itemknn(train, **o),
        {"neighbours": Options((20, 50, 100, 200)), "shrink": Options((0.0, 1.0, 10.0, 100.0))},
        {"neighbours": 100, "shrink": 10.0},
    ),
    "graph_filter": (
        lambda train, seed, width=448, **o: models.graph_filter(
            train, width=min(width, train.num_users, train.num_items), seed=seed, **o
        ),
        {"width": Options((32, 64, 128, 256, 448)), "low_pass": Real(0.0, 1.0), "sharpening": Real(0.0, 3.0)},
        {"width": 448, "low_pass": 0.2, "sharpening": 2.5},
    ),
    "ials": (
        lambda train, seed, **o: models.ials(train, seed=seed, **o),
        {"alpha": Real(0.003, 1.0, log=True), "l2": Real(1e-4, 0.1, log=True)},
        {"alpha": 0.1, "l2": 3e-3},
    ),
    "spectral": (
        lambda train, seed, width=448, **o: models.spectral(
            train, width=min(width, train.num_users, train.num_items), seed=seed, **o
        ),
        {
            "width": Options((64, 128, 256, 448)),
            "user_power": Real(0.0, 0.5),
            "item_power": Real(0.0, 0.5),
            "value_power": Real(0.25, 1.0),
        },
        {"width": 448, "user_power": 0.35, "item_power": 0.35, "value_power": 0.5},
    ),
}
"""How a solved contestant is made, what is searched of it, and what is tried first: by its source or usually."""

CORRECTED = ("spectral",)  # solved ones that adjustments are tried on, too, by gradients read off their tables
OURS = ("adjusted", "exposure")
ARMS = (*OURS, "count_control", "tten", "pc", "tde", "ddc")


class Contestant(NamedTuple):
    """One that is tuned as a whole; what a base's arms give are rows of their own, `base+arm`."""

    name: str
    kind: Literal["base", "trained", "solved"]
    space: Space
    first: Mapping[str, Any]  # the source's own values, tried first

    @property
    def adjusted(self) -> bool:
        """Whether test-time adjustments are tried on it."""
        return self.kind == "base" or self.name in CORRECTED


def find(name: str, backbone: Backbone) -> Contestant:
    """The contestant of that name on a backbone. ValueError for an unknown one."""
    if name in BASES:
        settings, space = base(name, backbone)
        return Contestant(name, "base", space, {n: _within(of, getattr(settings, n)) for n, of in space.items()})
    if name in TRAINED and backbone != "two-tower":
        space = ADAM | TRAINED[name]
        return Contestant(name, "trained", space, {n: _within(of, _own(name, n, backbone)) for n, of in space.items()})
    if name in SOLVED:
        return Contestant(name, "solved", *SOLVED[name][1:])
    raise ValueError(f"no contestant {name!r}; there are {', '.join(names(backbone))}")


def names(backbone: Backbone) -> list[str]:
    """All contestants on a backbone, bases first; the solved ones count as mf, and two towers have bases only."""
    if backbone == "mf":
        return [*BASES, *(name for name in TRAINED if name not in ON_A_GRAPH), *SOLVED]
    return [*BASES, *TRAINED] if backbone == "lightgcn" else [*BASES]


def _own(name: str, option: str, backbone: Literal["mf", "lightgcn"]) -> Any:
    """The source's value of an option."""
    entry = baselines.METHODS[name]
    if option in (given := entry.defaults(backbone)):
        return given[option]
    if option in baselines.options(name):
        return inspect.signature(entry.build).parameters[option].default
    return getattr(entry.settings, option)


def _within(of: Real | Options, value: Any) -> Any:
    """The value, or the nearest one that is searched."""
    return min(max(value, of.low), of.high) if isinstance(of, Real) else value


def base(name: str, backbone: Backbone) -> tuple[Settings, Space]:
    """Settings of a plain model on a backbone, and what is searched of them."""
    settings, space = BASES[name]
    if backbone != "mf" and name != "bpr":  # Adam moves all rows; the rates are those of the other methods
        settings = replace(settings, optimizer="adam", learning_rate=1e-2, l2=1e-4, schedule="constant")
        space = space | ADAM
    elif backbone == "lightgcn":
        settings = replace(settings, init_scale=presets.LIGHTGCN.init_scale)
    return on_backbone(settings, backbone), space


def make(name: str, backbone: Backbone, train: Interactions, options: Mapping[str, Any], *, epochs: int) -> Method:
    """The method, assembled for a training set with the options given; `epochs` are those that schedules end at."""
    small = train.num_items < SMALL
    if name in BASES:
        return plain(presets.build(tuned(name, backbone, train, options, epochs=epochs), train))
    if backbone == "two-tower":
        raise ValueError(f"{name} is not made for two towers; there are {', '.join(names(backbone))}")
    shared = baselines.METHODS[name].settings
    fewer = {"negatives": SHARED} if shared.shared and small and shared.negatives > SHARED else {}
    return baselines.build(name, train, backbone, **fewer, **_batches(backbone, train), **options)


def tuned(
    name: str, backbone: Backbone, train: Interactions, options: Mapping[str, Any], *, epochs: int
) -> Settings:
    """Settings of a plain model, with what the tuner chose of them, for a training set."""
    settings = base(name, backbone)[0]
    fewer = {"negatives": SHARED} if settings.shared and train.num_items < SMALL else {}
    given = {**options, **fewer, **_batches(backbone, train), "epochs": epochs}
    return presets.override(settings, given, source=name)


def _batches(backbone: Backbone, train: Interactions) -> dict[str, Any]:
    """The size of batches, where it isn't a method's own."""
    return {"batch_size": LARGE_BATCH} if backbone == "lightgcn" and len(train) > LARGE else {}


class Base(NamedTuple):
    """What test-time adjustments start from."""

    tables: Tables
    ledger: GradientLedger


def read_off(tables: Tables, train: Interactions, *, seed: int) -> Base:
    """A base of tables that no gradient made: on the scale of a softmax of the data, with the gradients they have."""
    scaled = tables._replace(user=tables.user / frozen.fit_temperature(tables, train))
    return Base(scaled, frozen.observe(scaled, train, temperature=1.0, key=jax.random.key(seed)))


def arms(base: Base, train: Interactions, *, seed: int, wanted: Collection[str] = ARMS) -> dict[str, Arm]:
    """Test-time adjustments of a base, each with its strengths: those that are wanted, since DDC has to be trained."""
    tables, ledger = base
    found = selection.arms(tables, ledger, train, seed=seed)
    found["exposure"] = selection.exposure_arm(tables, ledger, seed=seed)
    found["pc"] = pc.arm(train.item_counts)
    found["tde"] = tde.arm(tables, ledger)
    if "ddc" in wanted:
        along = ddc.directions(tables, train)
        found["ddc"] = ddc.arm(ddc.fit(tables, train, key=jax.random.key(seed), along=along), along)
    return {name: found[name] for name in wanted}
