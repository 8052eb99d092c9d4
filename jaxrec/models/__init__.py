"""Models as pure functions, and wrappers around them."""

from jaxrec.models.base import Model, candidate_scores, embed, pair_scores, rows
from jaxrec.models.mf import mf
from jaxrec.models.wrappers import normalize, unit

__all__ = ["Model", "candidate_scores", "embed", "mf", "normalize", "pair_scores", "rows", "unit"]
