"""Models as pure functions, wrappers around them, and models with a closed form or a solver of their own."""

from jaxrec.models.base import Model, candidate_scores, embed, pair_scores, rows, scorer
from jaxrec.models.ease import ease
from jaxrec.models.graphfilter import graph_filter
from jaxrec.models.ials import ials
from jaxrec.models.itemknn import itemknn
from jaxrec.models.lightgcn import lightgcn
from jaxrec.models.mf import mf
from jaxrec.models.neumf import neumf
from jaxrec.models.popularity import most_popular
from jaxrec.models.spectral import spectral
from jaxrec.models.two_tower import two_tower
from jaxrec.models.wrappers import normalize, unit

__all__ = [
    "Model",
    "candidate_scores",
    "ease",
    "embed",
    "graph_filter",
    "ials",
    "itemknn",
    "lightgcn",
    "mf",
    "most_popular",
    "neumf",
    "normalize",
    "pair_scores",
    "rows",
    "scorer",
    "spectral",
    "two_tower",
    "unit",
]
