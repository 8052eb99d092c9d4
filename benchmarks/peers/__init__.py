"""What researchers would use instead, a file a package: throughput contenders, and learners for time to quality.

A contender is `options -> run`, as in `benchmarks.worker`. A learner is `(train, setting) -> epochs`: the first item is
None, when all is prepared; each further one trains an epoch more and is the tables (users [U, D], items [I, D]).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from benchmarks.contest import Contender


def contender(call: str, **options: Any) -> Contender:
    """A peer's contender, `module:function` in this package, with the environment that the peer wants."""
    module = call.partition(":")[0]
    environment = import_module(f"{__name__}.{module}").ENVIRONMENT
    return Contender(f"{__name__}.{call}", options, environment)
