"""Models as pure functions, and wrappers around them."""

from jaxrec.models.base import Model, candidate_scores, embed, pair_scores, rows
from jaxrec.models.lightgcn import lightgcn
from jaxrec.models.mf import mf
from jaxrec.models.wrappers import normalize, unit

__all__ = ["Model", "candidate_scores", "embed", "lightgcn", "mf", "normalize", "pair_scores", "rows", "unit"]
