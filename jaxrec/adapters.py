"""Tables out of models that other libraries trained; none of them is imported, a model is known by its attributes.

    read(model)      implicit, Cornac, LensKit, a torch module, or a (user, item) pair of arrays
    from_arrays      embeddings and biases, dot product or cosine
    from_torch       a module's parameters by name

A `TwoTower` scores as its library does: s_ui = <user_u, item_i> + item_bias_i + user_bias_u. The last one changes no
ranking, so it is kept beside the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrec.data.interactions import plain_ids
from jaxrec.models.wrappers import unit
from jaxrec.transforms.adjustment import fold_bias
from jaxrec.types import Tables

Score = Literal["dot", "cosine"]


class TwoTower(NamedTuple):
    """A trained model as tables, with the ids of their rows."""

    tables: Tables
    user_ids: np.ndarray  # [U] int64 or text
    item_ids: np.ndarray  # [I]
    user_bias: np.ndarray | None = None  # [U] float32
    source: str = "arrays"


def from_arrays(
    user: Any,
    item: Any,
    *,
    user_bias: Any = None,
    item_bias: Any = None,
    user_ids: Any = None,
    item_ids: Any = None,
    score: Score = "dot",
    source: str = "arrays",
) -> TwoTower:
    """Embeddings [U, D], [I, D] and optional biases [U], [I] of numpy, jax, torch or cupy; ids default to row numbers.

    With `score="cosine"` the rows are divided by their norms. A last column of user rows that is 1 for everybody is a
    bias in disguise, and becomes `item_bias`.

    Raises ValueError for wrong shapes, NaN or inf, ids of another length or with repeats.

    >>> model = from_arrays(np.ones((2, 3)), np.ones((4, 3)), item_bias=np.arange(4))
    >>> model.tables.item.shape, model.item_ids.tolist()
    ((4, 3), [0, 1, 2, 3])
    """
    if score not in ("dot", "cosine"):
        raise ValueError(f"score must be 'dot' or 'cosine', got {score!r}")
    u, v = _matrix(user, "user embeddings"), _matrix(item, "item embeddings")
    if u.shape[1] != v.shape[1]:
        raise ValueError(
            f"user and item embeddings must be equally wide, got {u.shape} and {v.shape}; "
            "append biases through user_bias and item_bias"
        )
    bias = None if item_bias is None else _vector(item_bias, len(v), "item_bias")
    if bias is None and score == "dot" and u.shape[1] > 1 and len(u) > 1 and bool((u[:, -1] == 1).all()):
        u, v, bias = u[:, :-1], v[:, :-1], v[:, -1]
    tables = Tables(jnp.asarray(u), jnp.asarray(v), None if bias is None else jnp.asarray(bias))
    if score == "cosine":
        tables = tables._replace(user=unit(tables.user), item=unit(tables.item))
    return TwoTower(
        tables,
        ids_of(user_ids, len(u), "user"),
        ids_of(item_ids, len(v), "item"),
        None if user_bias is None else _vector(user_bias, len(u), "user_bias"),
        source,
    )


def read(model: Any, **options: Any) -> TwoTower:
    """The tables of a trained model, known by its attributes; options go to the function that reads it.

    user_factors, item_factors    implicit (ALS, BPR, LMF; on CPU or GPU)
    u_factors, i_factors          Cornac (MF, BPR, ..., and U, V of PMF and WMF), with ids from its maps
    user_embeddings, ...          LensKit (ImplicitMFScorer, BiasedMFScorer), with ids from its vocabularies; LightFM
    named_parameters              a torch module, see `from_torch`
    (user, item)                  a pair of arrays, see `from_arrays`

    Raises TypeError for anything else, and for options of a `TwoTower`, ValueError for a model that is not fitted or
    that does not score by an inner product.
    """
    if isinstance(model, TwoTower):
        if options:
            raise TypeError(f"a TwoTower has been read already, so that {', '.join(options)} would not be")
        return model
    if isinstance(model, Tables):
        two = from_arrays(model.user, model.item, item_bias=model.item_bias, **options)
        if model.item_bias is None or model.bias_strength is None:
            return two
        strength = jnp.asarray(_vector(model.bias_strength, len(model.user), "bias_strength"))
        return two._replace(tables=fold_bias(two.tables._replace(bias_strength=strength)))
    if isinstance(model, tuple) and len(model) == 2:
        return from_arrays(*model, **options)
    readers: tuple[tuple[str, Callable[..., TwoTower]], ...] = (
        ("user_factors", from_implicit),
        ("u_factors", from_cornac),
        ("user_embeddings", from_lenskit),
        ("named_parameters", from_torch),
    )
    for attribute, reader in readers:
        if hasattr(model, attribute):
            return reader(model, **options)
    if type(model).__module__.startswith("cornac.") and hasattr(model, "U"):
        return from_cornac(model, **options)
    raise TypeError(
        f"{type(model).__name__} is no model that is known; wanted one with {', '.join(a for a, _ in readers)}, "
        "or a pair of arrays (user [U, D], item [I, D])"
    )


def from_implicit(model: Any, **options: Any) -> TwoTower:
    """A fitted model of implicit. Its BPR keeps the item bias as last column, against a user column of ones."""
    _want_fitted(model, "user_factors", "item_factors")
    return from_arrays(model.user_factors, model.item_factors, **({"source": _name("implicit", model)} | options))


def from_cornac(model: Any, **options: Any) -> TwoTower:
    """A fitted model of Cornac: factors, the biases that it uses, raw ids from its maps. TypeError for one that scores
    by distance."""
    names = ("u_factors", "i_factors") if hasattr(model, "u_factors") else ("U", "V")  # of PMF and WMF
    _want_fitted(model, *names)
    if hasattr(model, "get_vector_measure") and "dot" not in (measure := model.get_vector_measure()):
        name = type(model).__name__
        raise TypeError(f"{name} of Cornac scores by {measure}; one that scores by dot product is wanted")
    if names[0] == "U" and hasattr(model, "get_user_vectors"):  # with what is scored beside U and V, as in VMF
        user, item = model.get_user_vectors(), model.get_item_vectors()
    else:
        user, item = (getattr(model, name) for name in names)
    found: dict[str, Any] = {"source": _name("Cornac", model)}
    for side, name, count in (("user", "uid_map", len(user)), ("item", "iid_map", len(item))):
        known = getattr(model, name, None)
        if known is not None and len(known) == count:
            found[f"{side}_ids"] = sorted(known, key=known.__getitem__)
    if getattr(model, "i_biases", None) is not None and getattr(model, "use_bias", True):
        found["item_bias"] = model.i_biases
    if getattr(model, "u_biases", None) is not None and getattr(model, "use_bias", True):
        mean = getattr(model, "global_mean", 0.0)
        found["user_bias"] = np.ravel(model.u_biases) + np.float32(0.0 if mean is None else mean)
    return from_arrays(user, item, **(found | options))


def from_lenskit(model: Any, **options: Any) -> TwoTower:
    """A trained ALS scorer of LensKit, with the biases and the ids that it holds (LightFM without features, too)."""
    _want_fitted(model, "user_embeddings", "item_embeddings")
    found: dict[str, Any] = {"source": _name("LensKit", model)} | _vocabularies(model)
    holder = getattr(model, "bias", model)
    for side in ("user", "item"):
        bias = getattr(holder, f"{side}_biases", None)
        if bias is not None:
            found[f"{side}_bias"] = bias
    if "user_bias" in found:
        found["user_bias"] = np.ravel(found["user_bias"]) + np.float32(getattr(holder, "global_bias", 0.0))
    return from_arrays(model.user_embeddings, model.item_embeddings, **(found | options))


def from_torch(
    module: Any,
    *,
    user: str | None = None,
    item: str | None = None,
    user_bias: str | None = None,
    item_bias: str | None = None,
    **options: Any,
) -> TwoTower:
    """A torch module that scores by an inner product of two embeddings, as they are: of a model that propagates or
    projects them first, pass the vectors that it scores to `from_arrays`.

    Names are those of `module.named_parameters()`, with or without `.weight`. Those that are not given are guessed from
    the words in them (user, u; item, i), where there is one of each; matrices of width 1 are biases.
    """
    parameters = {name: _numpy(p) for name, p in module.named_parameters()}
    vectors = {name: p for name, p in parameters.items() if p.ndim == 2 and p.shape[1] > 1}
    biases = {name: p for name, p in parameters.items() if p.ndim == 1 or (p.ndim == 2 and p.shape[1] == 1)}
    chosen = {
        "user": _parameter(parameters, user) if user else _guess(vectors, "user", parameters),
        "item": _parameter(parameters, item) if item else _guess(vectors, "item", parameters),
    }
    rows = {"user_bias": len(chosen["user"]), "item_bias": len(chosen["item"])}
    for name, given in (("user_bias", user_bias), ("item_bias", item_bias)):
        fit = {n: p for n, p in biases.items() if len(p) == rows[name] and _words(n) & _WORDS[name[:4]]}
        if given:
            chosen[name] = np.ravel(_parameter(parameters, given))
        elif len(fit) == 1:
            chosen[name] = np.ravel(next(iter(fit.values())))
    return from_arrays(
        chosen.pop("user"), chosen.pop("item"), **({"source": _name("torch", module)} | chosen | options)
    )


_WORDS = {"user": {"user", "users", "u", "uid"}, "item": {"item", "items", "i", "iid", "movie", "product"}}


def _words(name: str) -> set[str]:
    return set(name.lower().replace("_", ".").split("."))


def _guess(vectors: dict[str, np.ndarray], side: str, parameters: Iterable[str]) -> np.ndarray:
    fit = [name for name in vectors if _words(name) & _WORDS[side]]
    if len(fit) != 1:
        raise ValueError(
            f"one parameter should be the {side} embedding, but {fit or 'none'} look like it; "
            f"name it with {side}=, one of {list(parameters)}"
        )
    return vectors[fit[0]]


def _parameter(parameters: dict[str, np.ndarray], name: str) -> np.ndarray:
    for known in (name, f"{name}.weight"):
        if known in parameters:
            return parameters[known]
    raise ValueError(f"the module has no parameter {name!r}; it has {list(parameters)}")


def _vocabularies(model: Any) -> dict[str, Any]:
    found = {}
    for side in ("user", "item"):
        known = getattr(model, f"{side}s", None)
        if known is not None and hasattr(known, "ids"):
            found[f"{side}_ids"] = known.ids()
    return found


def _name(library: str, model: Any) -> str:
    return f"{library} {type(model).__name__}"


def _want_fitted(model: Any, *names: str) -> None:
    for name in names:
        if getattr(model, name, None) is None:
            raise ValueError(f"{type(model).__name__}.{name} is None: fit the model, and let it keep its embeddings")


def _numpy(x: Any) -> np.ndarray:
    """Arrays of any library on the host."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = x.float() if str(x.dtype) == "torch.bfloat16" else x  # numpy has no such type
    if hasattr(x, "to_numpy"):  # implicit's GPU matrices, polars
        x = x.to_numpy()
    if hasattr(x, "get") and not isinstance(x, dict):  # cupy
        x = x.get()
    return np.asarray(x)


def _finite(x: Any, what: str, ndim: int) -> np.ndarray:
    array = _numpy(x)
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiu" or array.ndim != ndim or not array.size:
        wanted = "a matrix [rows, width]" if ndim == 2 else "one number a row"
        raise ValueError(f"{what} must be {wanted} of numbers, got shape {array.shape} of {array.dtype}")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, np.float32)
    bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{what} must be finite in 32 bits, but {len(bad)} of {len(array)} rows hold NaN or inf, the first is row "
            f"{bad[0]}; the model has diverged, or such rows were never trained: drop them, or set them to 0"
        )
    return array


def _matrix(x: Any, what: str) -> np.ndarray:
    return _finite(x, what, 2)


def _vector(x: Any, length: int, what: str) -> np.ndarray:
    array = _numpy(x)
    found = _finite(array.reshape(-1) if array.ndim == 2 and 1 in array.shape else array, what, 1)
    if len(found) != length:
        raise ValueError(f"{what} must hold one number for each of {length} rows, got {len(found)}")
    return found


def ids_of(ids: Any, count: int, side: str) -> np.ndarray:
    """Ids [count] as int64 or text, row numbers where None. ValueError for another length, or an id given twice."""
    if ids is None:
        return np.arange(count, dtype=np.int64)
    array = _numpy(ids)
    array = plain_ids(array, side) if array.dtype.kind in "iu" else np.asarray(array.tolist())
    if array.dtype.kind not in "iU" or array.shape != (count,):
        raise ValueError(
            f"{side} ids must be whole numbers or text, one for each of the {count} {side} rows, "
            f"got shape {array.shape} of {array.dtype}"
        )
    if len(np.unique(array)) != count:
        values, counts = np.unique(array, return_counts=True)
        raise ValueError(f"{side} ids must differ, but {values[counts > 1][0]!s} is there {counts.max()} times")
    return array
