"""The gradient ledger: accumulated gradients of items and users, kept as explicit state.

Gradients are taken at the scored rows (after propagation and normalisation). An *event* is an item, or a user, with a
role in one row of a batch. Per side (items, users) and role (pull: the positive, push: the negatives):

    pull_i = Σ −∂ℓ/∂v_i,   push_i = Σ −∂ℓ/∂v_i   (signed)        [N, D], or weighted totals [D]
    size of pull_i = Σ ‖∂ℓ/∂v_i‖,   size of push_i likewise       [N], in units of loss per unit of score times ‖û‖
    events of pull_i, events of push_i: how many                  [N]

For a user a row of a batch is one event in each role: its negatives push together. Source: Ren et al. 2022 (arXiv
2211.01154) record accumulated gradients of users and items; the decomposition by role is this library's reading of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.brief import brief
from jaxrec.rows import evened, norm, product
from jaxrec.types import Array

Weighting = Literal["uniform", "count", "ratio"]


class Role(NamedTuple):
    """What one role (pull or push) has gathered on one side."""

    vector: Array  # [N, D] Σ −∂ℓ/∂row; [D] Σ_n weight_n Σ −∂ℓ/∂row where only totals are kept
    size: Array  # [N] Σ ‖∂ℓ/∂row‖, a float32 as the vectors are: what is below 2⁻²⁴ of the sum is no longer added
    events: Array  # [N] their number, a float32: exact up to 2²⁴ of a row

    def __repr__(self) -> str:
        return brief(self)


class Side(NamedTuple):
    """The two roles of a side, and the weights of its totals (None where vectors are kept row by row)."""

    pull: Role
    push: Role
    weight: Array | None = None  # [N]

    def __repr__(self) -> str:
        return brief(self)


class GradientLedger(NamedTuple):
    """The accumulated gradients: a pytree that a training step takes and returns."""

    items: Side
    users: Side

    def __repr__(self) -> str:
        return brief(self)


class Events(NamedTuple):
    """Gradients of one role of one side in one batch; R events. Ids that the ledger has no row for are dropped."""

    ids: Array  # [R] int32
    gradient: Array  # [R, D] ∂ℓ/∂row, summed over the events that share an entry (shared negatives)
    size: Array  # [R] Σ ‖∂ℓ/∂row‖ over those events
    number: Array | None = None  # [R] how many events; 1 each where None


def init(
    num_users: int,
    num_items: int,
    width: int,
    *,
    user_weight: Array | None = None,
    item_weight: Array | None = None,
) -> GradientLedger:
    """An empty ledger. A side with a weight [N] keeps its vectors as one weighted total [D] to save memory.

    >>> init(3, 4, 2).items.pull.vector.shape
    (4, 2)
    """

    def side(n: int, weight: Array | None) -> Side:
        if weight is not None and weight.shape != (n,):
            raise ValueError(f"a ledger's weights must have shape ({n},), got {weight.shape}")
        shape = (n, width) if weight is None else (width,)

        def role() -> Role:
            return Role(jnp.zeros(shape), jnp.zeros(n), jnp.zeros(n))

        return Side(role(), role(), None if weight is None else jnp.array(weight, jnp.float32))

    return GradientLedger(side(num_items, item_weight), side(num_users, user_weight))


def _record(role: Role, events: Events, weight: Array | None, times: int) -> Role:
    count, width = len(events.ids), role.vector.shape[-1]
    if events.gradient.shape != (count, width) or events.size.shape != (count,):
        raise ValueError(
            f"{count} events of a ledger of width {width} want gradients of shape ({count}, {width}) and sizes of "
            f"shape ({count},), got {events.gradient.shape} and {events.size.shape}"
        )
    number = jnp.ones_like(events.size) if events.number is None else events.number
    if times != 1:
        events, number = events._replace(gradient=times * events.gradient, size=times * events.size), times * number
    if weight is None:
        vector = role.vector.at[events.ids].add(-events.gradient)
    else:
        vector = role.vector - product(weight[events.ids], events.gradient)
    return Role(vector, role.size.at[events.ids].add(events.size), role.events.at[events.ids].add(number))


def observe(
    ledger: GradientLedger,
    *,
    item_pull: Events,
    item_push: Events,
    user_pull: Events,
    user_push: Events,
    decay: float = 1.0,
    times: int = 1,
) -> GradientLedger:
    """Adds a batch, `times` over: every reading is first multiplied by `decay` (1 keeps plain sums, β < 1 averages per
    step)."""
    want_decay(decay)
    if decay != 1.0:
        ledger = _map_roles(lambda x: decay * x, ledger)
    return GradientLedger(
        ledger.items._replace(
            pull=_record(ledger.items.pull, item_pull, ledger.items.weight, times),
            push=_record(ledger.items.push, item_push, ledger.items.weight, times),
        ),
        ledger.users._replace(
            pull=_record(ledger.users.pull, user_pull, ledger.users.weight, times),
            push=_record(ledger.users.push, user_push, ledger.users.weight, times),
        ),
    )


def want_decay(decay: float) -> None:
    """ValueError for a decay outside (0, 1]."""
    if not 0.0 < decay <= 1.0:
        raise ValueError(f"decay must be in (0, 1], got {decay}")


def _map_roles(f: Callable[..., Array], *ledgers: GradientLedger) -> GradientLedger:
    """Maps over what was gathered, leaving the weights of totals alone."""

    def side(*sides: Side) -> Side:
        roles = [jax.tree.map(f, *(getattr(s, role) for s in sides)) for role in ("pull", "push")]
        return Side(roles[0], roles[1], sides[0].weight)

    return GradientLedger(side(*(x.items for x in ledgers)), side(*(x.users for x in ledgers)))


def merge(a: GradientLedger, b: GradientLedger) -> GradientLedger:
    """The ledger of both runs of events: sums, size by size and vector by vector.

    Raises ValueError where the two do not have the same shapes (or one keeps totals only), or keep totals of other
    weights; traced weights are taken to be the same.
    """
    shapes = [[x.shape for x in jax.tree.leaves(ledger)] for ledger in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"only ledgers of one shape can be merged, got {shapes[0]} and {shapes[1]}")
    for one, other in ((a.items.weight, b.items.weight), (a.users.weight, b.users.weight)):
        known = not isinstance(one, jax.core.Tracer) and not isinstance(other, jax.core.Tracer)
        if known and one is not None and not np.array_equal(np.asarray(one), np.asarray(other)):
            raise ValueError("only totals of the same weights can be merged; observe both with one Observation")
    return _map_roles(jnp.add, a, b)


def ratio(side: Side) -> Array:
    """r = size of pull / size of push: the balance of pull and push, [N].

    A row that nothing pushed counts as the least pushed of the others (1 where nothing was), for a ratio to next to
    nothing would outweigh those of all other rows together.
    """
    push = side.push.size
    least = jnp.min(jnp.where(push > 0, push, jnp.inf), initial=jnp.inf)
    return side.pull.size / jnp.where(push > 0, push, jnp.where(jnp.isfinite(least), least, 1.0))


def magnitude(side: Side, by: str = "size") -> Array:
    """How large the gradients of each row were, [N].

    `by`: "size" p = Σ‖∂ℓ/∂v‖ over positive events, "push" n⁻ the same over negative events; "vector" ‖P‖; "ratio" r;
    "count" the number of positive events.
    """
    if by == "size":
        return side.pull.size
    if by == "push":
        return side.push.size
    if by == "count":
        return side.pull.events
    if by == "ratio":
        return ratio(side)
    if by == "vector":
        want_vectors(side)
        return norm(side.pull.vector)
    raise ValueError(f"by must be one of size, push, vector, ratio, count; got {by!r}")


def direction(side: Side, weighting: Weighting = "uniform", *, where: Array | None = None) -> Array:
    """d = Σ_i ω_i P_i / ‖Σ_i ω_i P_i‖, [D]; the direction of positive interactions.

    ω is 1 ("uniform"), the number of positive events ("count") or r_i ("ratio"); `where` [N] keeps a popularity group.
    A side that keeps totals has its ω already: only "uniform" is left to ask for. A zero sum gives a zero direction.
    """
    if side.pull.vector.ndim == 1:
        if weighting != "uniform" or where is not None:
            raise ValueError("a ledger of totals fixed its weights when it was made; ask for weighting='uniform'")
        total = side.pull.vector
    else:
        weights = {"uniform": jnp.ones_like, "count": lambda _: side.pull.events, "ratio": lambda _: ratio(side)}
        if weighting not in weights:
            raise ValueError(f"weighting must be one of {sorted(weights)}, got {weighting!r}")
        weight = weights[weighting](side.pull.size)
        kept = weight if where is None else jnp.where(where, weight, 0.0)
        total = product(kept, side.pull.vector)
    total = evened(total)
    length = norm(total)
    return total / jnp.where(length > 0, length, 1.0)


def alignment(side: Side, rows: Array | None = None, d: Array | None = None) -> Array:
    """How close each row is to positive interactions, [N] cosines in [-1, 1]: claim (i) of the paper.

    With rows [N, D]: cos(v_i, d), d the side's `direction` unless given. Without: cos(P_i + N_i, P_i), the share of
    positive interactions in the direction that all of the row's gradients point to. Zero rows align to nothing: 0;
    rows of any other size have their cosine.
    """
    if rows is not None:
        rows, d = evened(rows), evened(direction(side) if d is None else d)
        return _cosine(product(rows, d), norm(rows) * norm(d))
    want_vectors(side)
    pull, both = evened(side.pull.vector), evened(side.pull.vector + side.push.vector)
    return _cosine(jnp.sum(pull * both, axis=-1), norm(pull) * norm(both))


def _cosine(products: Array, sizes: Array) -> Array:
    return products / jnp.where(sizes > 0, sizes, 1.0)


def want_vectors(side: Side) -> None:
    """ValueError where a side keeps totals only."""
    if side.pull.vector.ndim != 2:
        raise ValueError("this reading wants a ledger that keeps vectors row by row; this one keeps totals only")
