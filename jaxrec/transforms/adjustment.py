"""Test-time adjustment: transforms `(Tables, ledger) -> Tables`, closed under `chain`.

Strengths may be traced values, so a grid of them is one vmapped call; a strength of 0 leaves every score as it is, and
where it is the Python number 0 the tables come back bit for bit. Source of the idea: Ren et al. 2022 (arXiv
2211.01154) adjust embeddings at test time from accumulated gradients; the forms below are this library's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from jaxrec import ledger as ledgers
from jaxrec.ledger import GradientLedger, Role, Weighting
from jaxrec.models.wrappers import unit
from jaxrec.rows import evened, evening, norm, product, root, widened
from jaxrec.types import Array, Tables

Adjustment = Callable[[Tables, GradientLedger], Tables]
Strength = float | Array
FOLDED = 4  # columns that folding biases in, one by one, may have added to what a ledger was kept of


class ScoreChange(NamedTuple):
    """What an adjustment does to scores: s'_ui = scale_i s_ui + Σ_m weights_m ⟨u, x_mi⟩ + Σ_r left_ur right_ir.

    Many adjustments of one pair of tables can so be compared without computing the inner products again; the item rows
    x_m [I, D] are the same for all of them.
    """

    scale: Array  # [I], positive
    left: Array  # [U, R]
    right: Array  # [I, R]
    weights: Array  # [M]

    def apply(self, scores: Array, users: Array, others: Sequence[Array] = ()) -> Array:
        """Changes the scores of users [b] by all items: [b, I], and M times ⟨u, x_mi⟩ [b, I] -> [b, I]; -inf stays."""
        by_item = [other.T for other in others]
        return change_scores(scores.T, self.scale, self.left[users].T, self.right.T, self.weights, by_item).T


def change_scores(
    scores: Array, scale: Array, left: Array, right: Array, weights: Array, others: Sequence[Array] = ()
) -> Array:
    """`ScoreChange.apply` by item, [I, b], from the factors of the users [R, b] and items [R, I], each in one piece."""
    found = scores * scale[:, None]
    for m, other in enumerate(others):
        found = found + weights[m] * other
    for by_user, by_item in zip(left, right, strict=True):
        found = found + by_item[:, None] * by_user[None, :]
    return found


def identity() -> Adjustment:
    """Changes nothing."""
    return lambda tables, ledger: tables


def chain(*adjustments: Adjustment) -> Adjustment:
    """Applies adjustments one after the other; `chain()` is the identity.

    >>> from jaxrec import ledger
    >>> tables = Tables(jnp.ones((2, 3)), 2 * jnp.ones((4, 3)))
    >>> found = chain(unit_rows("item"), unit_rows("user"))(tables, ledger.init(2, 4, 3))
    >>> round(float(found.item[0, 0]), 4)
    0.5774
    """

    if odd := [one for one in adjustments if not _takes_two(one)]:
        raise TypeError(f"chain takes adjustments one by one, like chain(tten(0.5), unit_rows('user')), got {odd[0]!r}")

    def apply(tables: Tables, ledger: GradientLedger) -> Tables:
        for adjust in adjustments:
            tables = adjust(tables, ledger)
        return tables

    return apply


def _takes_two(one: Any) -> bool:
    """Whether it can be called with tables and a ledger, as what makes an adjustment can't."""
    try:
        inspect.signature(one).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # it does not tell
        pass
    return True


def is_zero(strength: Strength) -> bool:
    """Whether a strength is the Python number 0, for which tables come back as they are."""
    return isinstance(strength, (int, float)) and strength == 0


def fold_bias(tables: Tables) -> Tables:
    """The same scores as one inner product: [u, strength_u], [v, bias_i]; tables without a bias as they are."""
    if tables.item_bias is None:
        return tables
    ones = jnp.ones_like(tables.user[:, 0]) if tables.bias_strength is None else tables.bias_strength
    return Tables(
        jnp.concatenate([tables.user, ones[:, None]], axis=1),
        jnp.concatenate([tables.item, tables.item_bias[:, None]], axis=1),
    )


def _standardised(x: Array, where: Array) -> Array:
    """(x − mean)/sd over `where`; 0 elsewhere, and everywhere if all are the same but for rounding."""
    n = jnp.maximum(jnp.sum(where.astype(x.dtype)), 1.0)
    mean = jnp.sum(jnp.where(where, x, 0.0)) / n
    sd = root(jnp.sum(jnp.where(where, (x - mean) ** 2, 0.0)) / n)
    differ = sd > 1e-6 * jnp.max(jnp.abs(jnp.where(where, x, 0.0)), initial=0.0)
    return jnp.where(where & differ, (x - mean) / jnp.where(differ, sd, 1.0), 0.0)


def mainstream(ledger: GradientLedger, *, weighting: Weighting = "uniform") -> Array:
    """How mainstream each user is, z_u [U]: cos(the user's pull, d), standardised over users with a history.

    The user's pull is the sum of gradients of the items that the user likes, so its cosine with the items' common
    direction d tells how much popularity there is in what pulled the user. Users without events get 0. ValueError for a
    ledger that keeps totals of users only.
    """
    ledgers.want_vectors(ledger.users)
    d = ledgers.direction(ledger.items, weighting)
    return _standardised(ledgers.alignment(ledger.users, ledger.users.pull.vector, d), ledger.users.pull.events > 0)


def mainstream_by_profile(ledger: GradientLedger, users: Array, items: Array) -> Array:
    """How mainstream each user is by what they have, z_u [U]: the mean of log p_i over their items, standardised.

    `users` and `items` [E] are the training interactions. Means of short profiles are shrunk towards m, the mean over
    all interactions: (Σ log p_i + 5 m) / (n_u + 5). Users without a history get 0.
    """
    number = ledger.users.pull.size.shape[0]
    logs = log_relative(ledgers.magnitude(ledger.items))[items]
    total = jnp.zeros(number).at[users].add(logs)
    count = jnp.zeros(number).at[users].add(1.0)
    return _standardised((total + 5.0 * jnp.mean(logs)) / (count + 5.0), count > 0)


def personal(strength: Strength, spread: Strength, z: Array) -> Array:
    """Strength per user [U]: strength · exp(−spread · z_u), so that niche users are corrected more."""
    return strength * jnp.exp(-spread * z)


def remove_along(tables: Tables, d: Array, strength: Strength) -> Tables:
    """u ← u − α⟨u, d⟩d for a unit d [D], so that s_ui loses α⟨u, d⟩⟨v_i, d⟩; α [] or [U]."""
    return tables._replace(user=tables.user - (strength * product(tables.user, d))[:, None] * d[None, :])


def remove_direction(
    strength: Strength, *, spread: Strength = 0.0, weighting: Weighting = "uniform", z: Array | None = None
) -> Adjustment:
    """v_i ← v_i − α⟨v_i, d⟩d, d the direction of positive interactions in the items' ledger.

    Since s_ui then loses α⟨u, d⟩⟨v_i, d⟩, it is done on the users' side, u ← u − α_u⟨u, d⟩d, which gives the same
    scores and allows α_u = α exp(−spread · z_u). `z` [U] defaults to `mainstream(ledger)`; the other measure is
    `mainstream_by_profile`. α may exceed 1.
    """
    if is_zero(_want_number(strength)):
        return identity()

    def apply(tables: Tables, ledger: GradientLedger) -> Tables:
        _want_each_item(tables, _items(ledger).pull.size)
        d = widen(ledgers.direction(ledger.items, weighting), tables.user.shape[1])
        alpha = strength
        if not is_zero(spread):
            own = mainstream(ledger, weighting=weighting) if z is None else z
            alpha = personal(strength, spread, _want_each_user(tables, own))
        return remove_along(tables, d, alpha)

    return apply


def widen(rows: Array, width: int) -> Array:
    """Pads a direction [D] or rows [.., D] for tables that an earlier step widened (a folded bias).

    ValueError for rows that are wider than the tables: their ledger was read off tables with the bias folded in; and
    for ones that lack more than `FOLDED` columns.
    """
    if rows.shape[-1] > width:
        raise ValueError(
            f"the ledger's vectors have width {rows.shape[-1]}, the tables {width}; if it was read off these tables "
            "with their item bias, give `fold_bias(tables)`"
        )
    if width - rows.shape[-1] > FOLDED:
        raise ValueError(
            f"the ledger's vectors have width {rows.shape[-1]}, the tables {width}, more than biases that were folded "
            "in make; is it the ledger of another model, or was an adjustment that widens tables applied before?"
        )
    return jnp.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, width - rows.shape[-1])])


def equalized(role: Role, rows: Array) -> Array:
    """The role's vectors divided by its sizes, P_i/p_i [I, D], and scaled to the mean length of `rows` [I, D].

    Further columns of the rows, a bias that an earlier step folded in, are left out of their length.
    What is left of an item's accumulated gradient is where it points to and how much its events agree (between 0 and
    1); how many and how large they were, which is popularity, is gone. Items without events get 0.
    """
    if role.vector.ndim != 2:
        raise ValueError("this adjustment wants a ledger that keeps vectors row by row; this one keeps totals only")
    mean = jnp.where(role.size > 0, 1 / jnp.where(role.size > 0, role.size, 1.0), 0.0)[:, None] * role.vector
    length = jnp.mean(norm(mean))
    return mean * (jnp.mean(norm(widened(rows[:, : mean.shape[1]]))) / jnp.where(length > 0, length, 1.0))


def add_gradients(pull: Strength, push: Strength = 0.0) -> Adjustment:
    """v_i ← v_i + a P̂_i + b N̂_i: one more step along each item's own gradients, with their sizes `equalized`.

    P̂_i points to the users who like i, N̂_i away from those who were shown it in vain (both are −∂ℓ/∂v). In training
    popular items have by far the larger steps (claim ii of the paper); in this step all items have alike.
    """
    if is_zero(_want_one(pull)) and is_zero(_want_one(push)):
        return identity()

    def apply(tables: Tables, ledger: GradientLedger) -> Tables:
        _want_each_item(tables, _items(ledger).pull.size)
        item, width = widened(tables.item), tables.item.shape[1]
        for strength, role in ((pull, ledger.items.pull), (push, ledger.items.push)):
            if not is_zero(strength):
                item = item + strength * widen(equalized(role, tables.item), width)
        return tables._replace(item=item)

    return apply


def log_relative(g: Array) -> Array:
    """log g_i − mean log g; an item without any g counts as the smallest of the others."""
    seen = g > 0
    logs = jnp.log(jnp.where(seen, g, 1.0))
    smallest = jnp.min(jnp.where(seen, logs, jnp.inf))
    logs = jnp.where(seen, logs, jnp.where(jnp.any(seen), smallest, 0.0))
    return logs - jnp.mean(logs)


def _items(ledger: GradientLedger) -> ledgers.Side:
    """The items' side. TypeError for what is no ledger, as of a state that was trained without observation."""
    if not isinstance(ledger, GradientLedger):
        raise TypeError(
            f"this adjustment wants a GradientLedger behind the tables, got {type(ledger).__name__}; train with an "
            "observation, or read one off the tables: frozen.observe(tables, train)"
        )
    return ledger.items


def _want_each_item(tables: Tables, numbers: Array) -> None:
    """ValueError for numbers of other items than the tables'."""
    if numbers.shape != tables.item.shape[:1]:
        raise ValueError(
            f"an adjustment takes one number for each of the {tables.item.shape[0]} items, got shape {numbers.shape}; "
            "are they from the ledger or the counts of another catalogue?"
        )


def _want_each_user(tables: Tables, numbers: Array) -> Array:
    """ValueError for numbers of other users than the tables'."""
    if jnp.shape(numbers) != tables.user.shape[:1]:
        raise ValueError(f"z must be one number for each of {len(tables.user)} users, got shape {jnp.shape(numbers)}")
    return numbers


def _want_number(strength: Strength) -> Strength:
    """TypeError for what is no number: also for tables, which what makes an adjustment gets where it was not called
    first."""
    if isinstance(strength, Tables):
        raise TypeError("this strength must be a number, got tables; call what makes the adjustment, like tten(0.5)")
    if strength is None or isinstance(strength, (str, bytes)):
        raise TypeError(f"this strength must be a number, got {strength!r}")
    return strength


def _want_one(strength: Strength) -> Strength:
    """ValueError for several strengths where one is for all, which would be taken for the items'."""
    if jnp.ndim(_want_number(strength)) != 0:
        raise ValueError(
            f"this strength must be one number, got shape {jnp.shape(strength)}; `spread` and `z` make one for each "
            "user, and so does `add_offset`"
        )
    return strength


def _scaled(tables: Tables, g: Array, power: Strength) -> Tables:
    _want_each_item(tables, g)
    scale = jnp.exp(-power * log_relative(g))
    bias = None if tables.item_bias is None else tables.item_bias * scale
    return tables._replace(item=tables.item * scale[:, None], item_bias=bias)


def add_offset(tables: Tables, offset: Array, by_user: Array | None = None) -> Tables:
    """s_ui + κ_u o_i for offsets [I] and κ = `by_user` [U] (1 if None); what an adjustment of one's own may be made of.

    A bias that the tables have stays: the two are added up, or the older one is folded in where κ belongs to one only.

    >>> tables = Tables(jnp.zeros((2, 1)), jnp.zeros((2, 1)), item_bias=jnp.array([1.0, 0.0]))
    >>> fold_bias(add_offset(tables, jnp.array([0.0, 3.0]), jnp.array([1.0, 2.0]))).user.tolist()
    [[0.0, 1.0, 1.0], [0.0, 1.0, 2.0]]
    """
    _want_each_item(tables, offset)
    if tables.item_bias is not None and (tables.bias_strength is not None or by_user is not None):
        tables = fold_bias(tables)
    if tables.item_bias is not None:
        return tables._replace(item_bias=tables.item_bias + offset)
    return tables._replace(item_bias=offset, bias_strength=by_user)


Measure = Literal["size", "push", "vector", "ratio"]


def rescale_by_gradient(strength: Strength, *, by: Measure = "size") -> Adjustment:
    """v_i ← v_i · (g_i / geometric mean g)^−γ, g = p_i ("size"), n⁻_i ("push"), ‖P_i‖ ("vector") or r_i ("ratio").

    The mean only fixes the scale, which no ranking sees; the geometric one keeps scores in their range. An item without
    any g is treated like the one with the smallest.
    """
    if is_zero(_want_one(strength)):
        return identity()
    return lambda tables, ledger: _scaled(tables, ledgers.magnitude(_items(ledger), by), strength)


def offset_by_gradient(
    strength: Strength, *, spread: Strength = 0.0, by: Measure = "size", z: Array | None = None
) -> Adjustment:
    """s_ui ← s_ui − κ_u (log g_i − mean log g): an item bias, where `rescale_by_gradient` is a factor.

    κ_u = κ exp(−spread · z_u) with `z` [U], by default `mainstream(ledger)`. In a softmax model the push of an item is
    Σ_u p(i|u) over what was trained on, times ‖û‖: the item's share in all that the model would recommend. So κ = 1 by
    "push" turns p(i|u) into a ranking by p(u|i), which is what a test uniform over items asks for.
    """
    if is_zero(_want_one(strength)):
        return identity()

    def apply(tables: Tables, ledger: GradientLedger) -> Tables:
        scale = None
        if not is_zero(spread):
            scale = personal(1.0, spread, _want_each_user(tables, mainstream(ledger) if z is None else z))
        return add_offset(tables, -strength * log_relative(ledgers.magnitude(_items(ledger), by)), scale)

    return apply


def rescale_by_count(strength: Strength, counts: Array) -> Adjustment:
    """The control: v_i ← v_i · (n_i / geometric mean n)^−γ, from raw training counts [I]; no gradient is read."""
    if is_zero(_want_one(strength)):
        return identity()
    return lambda tables, ledger: _scaled(tables, jnp.asarray(counts, jnp.float32), strength)


def offset_by_count(strength: Strength, counts: Array) -> Adjustment:
    """The additive control: s_ui ← s_ui − κ (log n_i − mean log n), from raw training counts [I]."""
    if is_zero(_want_one(strength)):
        return identity()
    return lambda tables, ledger: add_offset(tables, -strength * log_relative(jnp.asarray(counts, jnp.float32)))


def tten(power: Strength = 1.0) -> Adjustment:
    """v_i ← v_i / ‖v_i‖^ρ, test-time embedding normalisation (Kim et al. 2023, arXiv 2308.11288); ρ = 1 is the paper's.

    Zero rows stay zero. An item bias is part of the row, as if it were one more column.
    """
    if is_zero(_want_one(power)):
        return identity()

    def apply(tables: Tables, ledger: GradientLedger) -> Tables:
        item = widened(fold_bias(tables).item)
        scale = evening(item)
        even = item * scale  # whose lengths and their gradients are of usual sizes
        length = norm(even)[:, None]
        found = even * jnp.where(length > 0, length, 1.0) ** -power * scale ** (power - 1)
        if tables.item_bias is None:
            return tables._replace(item=found)
        return tables._replace(item=found[:, :-1], item_bias=found[:, -1])

    return apply


def unit_rows(side: Literal["user", "item", "both"]) -> Adjustment:
    """Rows divided by their norms; zero rows stay zero. A bias that is not folded in is no part of a row."""
    return _by_side(side, lambda rows: unit(evened(widened(rows))))


def center(side: Literal["user", "item", "both"]) -> Adjustment:
    """Rows less the mean row of their side. A bias that is folded in is a column like the others."""
    return _by_side(side, lambda rows: widened(rows) - jnp.mean(widened(rows), axis=0, keepdims=True))


def _by_side(side: str, change: Callable[[Array], Array]) -> Adjustment:
    if side not in ("user", "item", "both"):
        raise ValueError(f"side must be 'user', 'item' or 'both', got {side!r}")
    return lambda tables, ledger: tables._replace(
        user=change(tables.user) if side != "item" else tables.user,
        item=change(tables.item) if side != "user" else tables.item,
    )
