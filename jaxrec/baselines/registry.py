"""The trained methods by name, so that a study can loop over them."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxrec.baselines import (
    adap_tau,
    bc_loss,
    cause,
    ccl,
    dap,
    dice,
    eql,
    invcf,
    ipl,
    ips,
    macr,
    paac,
    pd,
    popgo,
    ppac,
    resn,
    samreg,
    ssm,
    zerosum,
)
from jaxrec.baselines.base import Method
from jaxrec.baselines.parts import on_backbone
from jaxrec.data.interactions import Interactions
from jaxrec.names import nearest
from jaxrec.presets import Settings, override
from jaxrec.train import Fit, fit


class Entry(NamedTuple):
    """A method's settings and how it is put together; called with settings and train, it gives the `Method`.

    `options` are those that its name fixes, `on_graph` defaults of its options that the source has for LightGCN,
    `unbounded` its options that may be infinite.
    """

    settings: Settings
    build: Callable[..., Method]  # (settings, train, **options)
    options: tuple[tuple[str, Any], ...] = ()
    on_graph: tuple[tuple[str, Any], ...] = ()
    unbounded: tuple[str, ...] = ()

    def defaults(self, backbone: str) -> dict[str, Any]:
        """Its options' defaults on a backbone that are not those of `build`."""
        return dict(self.on_graph) if backbone == "lightgcn" else {}

    def __call__(self, settings: Settings, train: Interactions, **options: Any) -> Method:
        options = self.defaults(settings.backbone) | options
        found = self.build(settings, train, **dict(self.options), **options)
        if not isinstance(found, Method):
            kind = type(found).__name__
            raise TypeError(f"a baseline's build must give a Method, got {kind}; `plain` makes one of a model's parts")
        return found


METHODS: dict[str, Entry] = {
    "ips": Entry(ips.SETTINGS, ips.build, (("kind", "ips"), ("smooth", 1.0))),  # which only cnsr reads
    "ips-c": Entry(ips.SETTINGS, ips.build, (("kind", "c"), ("smooth", 1.0))),
    "ips-cn": Entry(ips.SETTINGS, ips.build, (("kind", "cn"), ("smooth", 1.0))),
    "ips-cnsr": Entry(ips.SETTINGS, ips.build, (("kind", "cnsr"),)),
    "macr": Entry(macr.SETTINGS, macr.build, on_graph=(("alpha", 1e-2),)),
    "dice": Entry(dice.SETTINGS, dice.build),
    "pd": Entry(pd.SETTINGS, pd.build, (("inject", False), ("test_gamma", None), ("trend", 0.0))),  # PDA ranks by these
    "pda": Entry(pd.SETTINGS, pd.build, (("inject", True),)),
    "cause": Entry(cause.SETTINGS, cause.build),
    "samreg": Entry(samreg.SETTINGS, samreg.build),
    "ssm": Entry(ssm.SETTINGS, ssm.build),
    "ssm-in-batch": Entry(ssm.IN_BATCH, ssm.build),
    "logq": Entry(ssm.LOGQ, ssm.build),
    "ccl": Entry(ccl.SETTINGS, ccl.build),
    "zerosum": Entry(zerosum.SETTINGS, zerosum.build),
    "adap_tau": Entry(adap_tau.SETTINGS, adap_tau.build, unbounded=("beta",)),
    "eql": Entry(eql.SETTINGS, eql.build),
    "ipl": Entry(ipl.SETTINGS, ipl.build),
    "bc_loss": Entry(bc_loss.SETTINGS, bc_loss.build),
    "popgo": Entry(popgo.SETTINGS, popgo.build),
    "resn": Entry(resn.SETTINGS, resn.build),
    "invcf": Entry(invcf.SETTINGS, invcf.build),
    "paac": Entry(paac.SETTINGS, paac.build),
    "dap": Entry(dap.SETTINGS, dap.build),
    "ppac": Entry(ppac.SETTINGS, ppac.build),
}
"""`METHODS[name](settings, train, **options) -> Method`; `build` checks names and fills in the settings, also for an
`Entry` of your own that you put here under a name."""


def options(name: str) -> list[str]:
    """What `build` takes for a method beside the fields of `Settings`: its own options.

    >>> options("ips-cnsr")
    ['smooth']
    """
    entry = _entry(name)
    fixed = dict(entry.options)
    return [o for o in list(inspect.signature(entry.build).parameters)[2:] if o not in fixed]


def _entry(name: str) -> Entry:
    if name not in METHODS:
        raise ValueError(f"there is no baseline {name!r}{nearest(name, METHODS)}; there are {', '.join(METHODS)}")
    return METHODS[name]


def _want_kind(what: str, value: Any, usual: Any, unbounded: bool) -> None:
    """ValueError for a value of another kind than the default: a bool, a whole number, a number (finite, but where it
    is `unbounded`), a word. What is None by default is left to the method."""
    truth = isinstance(value, (bool, np.bool_))
    if isinstance(usual, bool):
        fits, kind = truth, "True or False"
    elif isinstance(usual, int):
        fits, kind = value is None or (isinstance(value, numbers.Integral) and not truth), "a whole number"
    elif isinstance(usual, float):
        fits = isinstance(value, numbers.Real) and not truth and not math.isnan(value)
        fits, kind = fits and (unbounded or math.isfinite(value)), "a number" if unbounded else "a finite number"
    else:
        fits, kind = not isinstance(usual, str) or isinstance(value, str), "a word"
    if not fits:
        raise ValueError(f"{what} must be {kind}, got {value!r}")


def build(name: str, train: Interactions, backbone: Literal["mf", "lightgcn"] = "mf", **given: Any) -> Method:
    """A method on a backbone, from its own settings; `given` are options of it, and fields of `Settings` to change.

    bc_loss and popgo train a branch first and take a `key` for it (jax.random.key(0) unless given). ValueError for an
    unknown name, with the nearest one, or a value that a method does not take.
    """
    entry, own = _entry(name), options(name)
    known = [f.name for f in fields(Settings)]
    for option in given:
        if option not in own and option not in known:
            near = nearest(option, [*own, *known])
            raise ValueError(f"{name} has no option {option!r}{near}; its own are {', '.join(own) or 'none'}")
    if "backbone" in given or backbone not in ("mf", "lightgcn"):
        raise ValueError(f"backbone must be 'mf' or 'lightgcn', got {given.get('backbone', backbone)!r}")
    settings = on_backbone(entry.settings, backbone)
    settings = override(settings, {n: v for n, v in given.items() if n not in own}, source=name)
    if settings.rows_per_user != 1:
        raise ValueError(f"{name} wants rows_per_user 1, a user a row, got {settings.rows_per_user}")
    usual = inspect.signature(entry.build).parameters
    for option in own:
        if option in given:
            _want_kind(f"{name}'s {option}", given[option], usual[option].default, option in entry.unbounded)
    if "key" in own:
        given = {"key": jax.random.key(0), **given}
    return entry(settings, train, **{n: v for n, v in given.items() if n in own})


def fit_method(method: Method, *, epochs: int, seed: int = 0, **given: Any) -> Fit:
    """Trains a method; `given` goes to `train.fit`. `method.rank(found.best.params)` then ranks."""
    return fit(method.step, method.sampler, epochs=epochs, key=jax.random.key(seed), **given)
