"""Test-time adjustments: identities bit for bit, formulas against numpy, strengths that trace."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import ledger as ledgers
from jaxrec import rank
from jaxrec.transforms import adjustment as adj
from jaxrec.types import Tables

U, N, D = 6, 8, 4


@pytest.fixture
def tables() -> Tables:
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (U, D), (N, D), (N,)
    return Tables(*(jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)))


@pytest.fixture
def ledger() -> ledgers.GradientLedger:
    rng = np.random.default_rng(0)

    def events(n: int) -> ledgers.Events:
        gradient = jnp.asarray(rng.normal(size=(60, D)) + 0.5, jnp.float32)
        ids = jnp.asarray(rng.integers(0, n, 60), jnp.int32)
        return ledgers.Events(ids, gradient, jnp.linalg.norm(gradient, axis=1))

    return ledgers.observe(
        ledgers.init(U, N, D), item_pull=events(N), item_push=events(N), user_pull=events(U), user_push=events(U)
    )


def score_matrix(tables: Tables) -> np.ndarray:
    users, items = np.divmod(np.arange(U * N), N)
    return np.asarray(rank.scores(tables, jnp.asarray(users), jnp.asarray(items))).reshape(U, N)


COUNTS = np.arange(1, N + 1)
FAMILIES = {
    "remove_direction": lambda s: adj.remove_direction(s),
    "equalised pull": lambda s: adj.add_gradients(s),
    "equalised push": lambda s: adj.add_gradients(0, s),
    "personal direction": lambda s: adj.remove_direction(s, spread=0.7),
    "rescale_by_gradient": lambda s: adj.rescale_by_gradient(s),
    "rescale by vector": lambda s: adj.rescale_by_gradient(s, by="vector"),
    "offset_by_gradient": lambda s: adj.offset_by_gradient(s),
    "personal offset": lambda s: adj.offset_by_gradient(s, spread=0.7, by="ratio"),
    "rescale_by_count": lambda s: adj.rescale_by_count(s, COUNTS),
    "offset_by_count": lambda s: adj.offset_by_count(s, COUNTS),
    "tten": lambda s: adj.tten(s),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_strength_zero_returns_the_tables_bit_for_bit(
    name: str, tables: Tables, ledger: ledgers.GradientLedger
) -> None:
    for part, same in zip(tables, FAMILIES[name](0.0)(tables, ledger), strict=True):
        assert part is same


@pytest.mark.parametrize("name", FAMILIES)
def test_a_traced_strength_of_zero_leaves_every_score(
    name: str, tables: Tables, ledger: ledgers.GradientLedger
) -> None:
    found = jax.jit(lambda s: FAMILIES[name](s)(tables, ledger))(jnp.float32(0))
    np.testing.assert_allclose(score_matrix(found), score_matrix(tables), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_grid_of_strengths_is_one_vmapped_call(name: str, tables: Tables, ledger: ledgers.GradientLedger) -> None:
    grid = jnp.array([0.3, 0.9])
    many = jax.jit(jax.vmap(lambda s: adj.fold_bias(FAMILIES[name](s)(tables, ledger))))(grid)
    for n, strength in enumerate(grid.tolist()):
        one = adj.fold_bias(FAMILIES[name](strength)(tables, ledger))
        np.testing.assert_allclose(many.user[n], one.user, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(many.item[n], one.item, rtol=1e-5, atol=1e-6)
        assert not np.allclose(score_matrix(one), score_matrix(tables))


def test_remove_direction_is_its_formula(tables: Tables, ledger: ledgers.GradientLedger) -> None:
    d = np.asarray(ledgers.direction(ledger.items))
    item = np.asarray(tables.item)
    wanted = np.asarray(tables.user) @ (item - 0.7 * np.outer(item @ d, d)).T + np.asarray(tables.item_bias)
    found = adj.remove_direction(0.7)(tables, ledger)
    np.testing.assert_allclose(score_matrix(found), wanted, rtol=1e-4, atol=1e-5)


def test_removing_the_whole_direction_makes_it_invisible(tables: Tables, ledger: ledgers.GradientLedger) -> None:
    found = adj.remove_direction(1.0)(tables, ledger)
    np.testing.assert_allclose(found.user @ ledgers.direction(ledger.items), np.zeros(U), atol=1e-5)


def test_the_direction_that_is_removed_is_weighed_as_asked(tables: Tables, ledger: ledgers.GradientLedger) -> None:
    d, other = (ledgers.direction(ledger.items, w) for w in ("count", "uniform"))  # type: ignore[arg-type]
    found = adj.remove_direction(1.0, weighting="count")(tables, ledger)
    np.testing.assert_allclose(found.user @ d, np.zeros(U), atol=1e-5)
    assert jnp.abs(found.user @ other).max() > 1e-3


def relative(g: np.ndarray) -> np.ndarray:
    return np.log(g) - np.log(g).mean()


def test_magnitude_and_count_are_their_formulas(tables: Tables, ledger: ledgers.GradientLedger) -> None:
    p = np.asarray(ledger.items.pull.size)
    before = score_matrix(tables)
    for family, g in ((adj.rescale_by_gradient(0.4), p), (adj.rescale_by_count(0.4, COUNTS), COUNTS)):
        np.testing.assert_allclose(
            score_matrix(family(tables, ledger)), before * np.exp(-0.4 * relative(g)), rtol=1e-4, atol=1e-5
        )
    push = np.asarray(ledger.items.push.size)
    offsets = (adj.offset_by_gradient(0.4), adj.offset_by_gradient(0.4, by="push"), adj.offset_by_count(0.4, COUNTS))
    for family, g in zip(offsets, (p, push, COUNTS), strict=True):
        np.testing.assert_allclose(
            score_matrix(family(tables, ledger)), before - 0.4 * relative(g), rtol=1e-4, atol=1e-5
        )


def test_strength_per_user_follows_the_users_ledger(tables: Tables, ledger: ledgers.GradientLedger) -> None:
    d = np.asarray(ledgers.direction(ledger.items))
    pull = np.asarray(ledger.users.pull.vector)
    cosine = pull @ d / np.linalg.norm(pull, axis=1)
    z = (cosine - cosine.mean()) / cosine.std()
    np.testing.assert_allclose(adj.mainstream(ledger), z, rtol=1e-3, atol=1e-4)
    wanted = score_matrix(tables) - 0.4 * np.exp(-0.5 * z)[:, None] * relative(np.asarray(ledger.items.pull.size))
    found = adj.offset_by_gradient(0.4, spread=0.5)(tables, ledger)
    np.testing.assert_allclose(score_matrix(found), wanted, rtol=1e-3, atol=1e-4)


def test_strengths_per_user_follow_readings_of_ones_own(tables: Tables, ledger: ledgers.GradientLedger) -> None:
    z = jnp.linspace(-1, 1, U)
    found = adj.offset_by_gradient(0.4, spread=0.5, z=z)(tables, ledger)
    shares = np.exp(-0.5 * np.asarray(z))[:, None]
    wanted = score_matrix(tables) - 0.4 * shares * relative(np.asarray(ledger.items.pull.size))
    np.testing.assert_allclose(score_matrix(found), wanted, rtol=1e-3, atol=1e-4)


def test_the_direction_that_users_are_read_by_is_weighed_as_asked(
    tables: Tables, ledger: ledgers.GradientLedger
) -> None:
    z = adj.mainstream(ledger, weighting="count")
    assert not np.allclose(z, adj.mainstream(ledger))
    found = adj.remove_direction(0.5, spread=1.0, weighting="count")(tables, ledger)
    wanted = adj.remove_direction(0.5, spread=1.0, weighting="count", z=z)(tables, ledger)
    np.testing.assert_allclose(found.user, wanted.user, rtol=1e-6)
    np.testing.assert_allclose(found.item, wanted.item, rtol=1e-6)


def test_popularity_of_a_profile_is_a_shrunk_mean_of_logs(ledger: ledgers.GradientLedger) -> None:
    users, items = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 3, 1, 5, 6, 7])
    logs = relative(np.asarray(ledger.items.pull.size))
    middle = np.mean([logs[i] for i in items])
    means = []
    for user in range(3):
        own = [logs[i] for u, i in zip(users, items, strict=True) if u == user]
        means.append((sum(own) + 5 * middle) / (len(own) + 5))
    z = (np.array(means) - np.mean(means)) / np.std(means)
    found = adj.mainstream_by_profile(ledger, jnp.asarray(users), jnp.asarray(items))
    np.testing.assert_allclose(found[:3], z, rtol=1e-3, atol=1e-4)
    assert jnp.all(found[3:] == 0)


@pytest.mark.parametrize("users", [7, 1000])
def test_users_who_are_alike_get_the_middle_strength(users: int) -> None:
    """The mean of equal numbers is not one of them in float32, and what is left is no spread."""
    z = adj._standardised(jnp.full(users, 0.1), jnp.ones(users, bool))
    np.testing.assert_array_equal(z, 0.0)
    few = adj._standardised(jnp.asarray([1.0, 1.001, 1.002]), jnp.asarray([True, True, True]))
    np.testing.assert_allclose(few, [-(1.5**0.5), 0, 1.5**0.5], atol=1e-3)


def test_totals_of_users_have_no_strength_of_each(tables: Tables) -> None:
    totals = ledgers.init(U, N, D, user_weight=jnp.ones(U), item_weight=jnp.ones(N))
    for change in (adj.remove_direction(0.5, spread=1.0), adj.offset_by_gradient(0.5, spread=1.0)):
        with pytest.raises(ValueError, match="this one keeps totals only"):
            change(tables, totals)


def test_a_ledger_of_folded_tables_wants_them_folded(tables: Tables) -> None:
    wide = ledgers.init(U, N, D + 1)
    for change in (adj.remove_direction(0.5), adj.add_gradients(0.5)):
        with pytest.raises(ValueError, match="give `fold_bias"):
            change(tables, wide)
        assert np.isfinite(score_matrix(change(adj.fold_bias(tables), wide))).all()


def test_users_without_events_get_the_middle_strength() -> None:
    assert jnp.all(adj.mainstream(ledgers.init(U, N, D)) == 0)


def test_a_user_without_events_does_not_move_the_middle(ledger: ledgers.GradientLedger) -> None:
    pull = ledger.users.pull
    pull = pull._replace(events=pull.events.at[0].set(0.0), vector=pull.vector.at[0].set(0.0))
    z = adj.mainstream(ledger._replace(users=ledger.users._replace(pull=pull)))
    assert z[0] == 0
    np.testing.assert_allclose(z[1:].mean(), 0, atol=1e-5)


def test_items_without_gradients_are_treated_like_the_least(tables: Tables, ledger: ledgers.GradientLedger) -> None:
    counts = np.array([0, 1, 2, 4, 4, 4, 4, 4])
    found = adj.offset_by_count(1.0, counts)(tables._replace(item_bias=None), ledger)
    assert found.item_bias is not None
    assert bool(jnp.all(jnp.isfinite(found.item_bias)))
    assert found.item_bias[0] == found.item_bias[1]


def test_fold_bias_keeps_the_scores(tables: Tables, ledger: ledgers.GradientLedger) -> None:
    strength = tables._replace(bias_strength=jnp.arange(1.0, U + 1))
    folded = adj.fold_bias(strength)
    assert folded.item_bias is None
    np.testing.assert_allclose(score_matrix(folded), score_matrix(strength), rtol=1e-5, atol=1e-6)
    assert adj.fold_bias(folded) is folded


def test_offsets_add_up_over_a_chain(tables: Tables, ledger: ledgers.GradientLedger) -> None:
    """A personal offset after a common bias, and a direction after a folded bias, keep their formulas."""
    d = np.asarray(ledgers.direction(ledger.items))
    z = np.asarray(adj.mainstream(ledger))
    p = np.asarray(ledger.items.pull.size)
    found = adj.chain(
        adj.offset_by_gradient(0.4, spread=0.5), adj.offset_by_count(0.2, COUNTS), adj.remove_direction(1.0)
    )(tables, ledger)
    wanted = (
        score_matrix(tables._replace(item_bias=None))
        - np.outer(np.asarray(tables.user) @ d, np.asarray(tables.item) @ d)
        + np.asarray(tables.item_bias)
        - 0.4 * np.exp(-0.5 * z)[:, None] * relative(p)
        - 0.2 * relative(COUNTS)
    )
    np.testing.assert_allclose(score_matrix(found), wanted, rtol=1e-3, atol=1e-4)


def test_an_offset_of_ones_own_leaves_earlier_ones_in_place(tables: Tables, ledger: ledgers.GradientLedger) -> None:
    first, second, by_user = (jax.random.normal(jax.random.key(n), (size,)) for n, size in ((1, N), (2, N), (3, U)))
    for scale in (None, by_user):
        found = adj.add_offset(adj.add_offset(tables, first, scale), second, by_user)
        factor = 1.0 if scale is None else np.asarray(scale)[:, None]
        wanted = score_matrix(tables) + factor * np.asarray(first) + np.outer(by_user, second)
        np.testing.assert_allclose(score_matrix(found), wanted, rtol=1e-4, atol=1e-4)


def test_a_bias_stays_one_whatever_kind_of_zero_a_power_is(ledger: ledgers.GradientLedger) -> None:
    """What follows in a chain must not depend on it: a column of ones that is folded in would be centred to 0."""
    tables = Tables(jnp.ones((2, 2)), jnp.arange(6.0).reshape(3, 2), jnp.array([9.0, 0.0, 0.0]))
    scores = []
    for power in (0.0, jnp.float32(0.0)):
        found = adj.fold_bias(adj.chain(adj.tten(power), adj.center("user"))(tables, ledger))
        scores.append(found.user @ found.item.T)
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-6)
    np.testing.assert_allclose(scores[0], [[9.0, 0.0, 0.0]] * 2, rtol=1e-6)
    spread = tables._replace(bias_strength=jnp.array([2.0, 0.5]))
    half, folded = (adj.fold_bias(adj.tten(0.5)(t, ledger)) for t in (spread, adj.fold_bias(spread)))
    np.testing.assert_allclose(half.user @ half.item.T, folded.user @ folded.item.T, rtol=1e-5)


def test_tten_of_one_makes_unit_items(tables: Tables, ledger: ledgers.GradientLedger) -> None:
    found = adj.tten(1.0)(tables._replace(item=tables.item.at[0].set(0.0), item_bias=None), ledger)
    np.testing.assert_allclose(jnp.linalg.norm(found.item, axis=1), [0.0] + [1.0] * (N - 1), rtol=1e-5)


def test_rows_of_16_bits_are_normalised_in_32(ledger: ledgers.GradientLedger) -> None:
    rows = jnp.array([[300.0, 0.0], [1e-4, 0.0]], jnp.float16)
    for adjust in (adj.tten(1.0), adj.unit_rows("item")):
        found = adjust(Tables(jnp.ones((1, 2), jnp.float16), rows), ledger).item
        np.testing.assert_allclose(found, [[1.0, 0.0], [1.0, 0.0]], rtol=1e-3)


def test_gradients_are_added_to_rows_of_16_bits_as_to_others(ledger: ledgers.GradientLedger) -> None:
    rows = jnp.tile(jnp.array([[300.0], [1e-4]]), (N // 2 + 1, D))[:N]
    narrow = adj.add_gradients(1.0)(Tables(jnp.ones((1, D), jnp.float16), rows.astype(jnp.float16)), ledger).item
    wide = adj.add_gradients(1.0)(Tables(jnp.ones((1, D)), rows.astype(jnp.float16).astype(jnp.float32)), ledger).item
    np.testing.assert_allclose(narrow.astype(jnp.float32), wide, rtol=2e-3)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_rows_of_16_bits_are_centred_in_32(dtype: jnp.dtype, ledger: ledgers.GradientLedger) -> None:
    column = [60000.0, -60000.0, -60000.0, -60000.0] if dtype == jnp.float16 else [100.0, 100.5, 101.0, 102.0]
    rows = jnp.array(column, dtype)[:, None]
    found = adj.center("item")(Tables(jnp.ones((1, 1), dtype), rows), ledger).item[:, 0]
    np.testing.assert_allclose(found, np.array(column) - np.mean(column), rtol=1e-6)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_tten_knows_the_lengths_of_tiny_and_huge_rows(size: float, ledger: ledgers.GradientLedger) -> None:
    rows = size * jnp.array([[3.0, 4.0], [0.0, 0.0]])
    found = adj.tten(1.0)(Tables(jnp.ones((1, 2)), rows), ledger).item
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-5)
    half = lambda rows: jnp.sum(adj.tten(0.5)(Tables(jnp.ones((1, 2)), rows), ledger).item)  # noqa: E731
    assert np.isfinite(jax.grad(half)(rows)).all()


def test_a_chain_takes_adjustments_one_by_one() -> None:
    with pytest.raises(TypeError, match="chain takes adjustments one by one"):
        adj.chain([adj.identity()])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"a number, got tables; call what makes the adjustment"):
        adj.chain(adj.add_gradients)(Tables(jnp.ones((1, 2)), jnp.ones((3, 2))), None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"chain takes adjustments one by one.*tten"):
        adj.chain(adj.tten)  # type: ignore[arg-type]


def test_strengths_of_users_are_not_taken_for_those_of_items(tables: Tables, ledger: ledgers.GradientLedger) -> None:
    each = jnp.ones(len(tables.item))
    for make in (adj.offset_by_gradient, adj.rescale_by_gradient, adj.add_gradients, adj.tten):
        with pytest.raises(ValueError, match=r"this strength must be one number, got shape \(\d+,\)"):
            make(each)
    for make in (adj.remove_direction, adj.offset_by_gradient):
        with pytest.raises(ValueError, match=r"z must be one number for each of \d+ users, got shape \(3,\)"):
            make(0.5, spread=0.1, z=jnp.ones(3))(tables, ledger)


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"tten"}))
def test_what_reads_items_wants_those_of_the_tables(
    name: str, tables: Tables, ledger: ledgers.GradientLedger
) -> None:
    fewer = tables._replace(item=tables.item[1:], item_bias=None, bias_strength=None)
    with pytest.raises(ValueError, match=f"one number for each of the {N - 1} items, got shape .{N},.*catalogue"):
        FAMILIES[name](0.5)(fewer, ledger)


def test_a_ledger_of_another_width_or_none_is_told(tables: Tables, ledger: ledgers.GradientLedger) -> None:
    wide = jax.tree.map(lambda x: jnp.tile(x, (1, 3)), tables._replace(item_bias=None, bias_strength=None))
    for make in (adj.remove_direction, adj.add_gradients):
        with pytest.raises(ValueError, match=r"vectors have width \d+, the tables \d+, more than biases"):
            make(0.5)(wide, ledger)
    for make in (adj.remove_direction, adj.add_gradients, adj.rescale_by_gradient, adj.offset_by_gradient):
        with pytest.raises(TypeError, match="wants a GradientLedger behind the tables, got NoneType; train with an"):
            make(0.5)(tables, None)  # type: ignore[arg-type]
        for strength in ("0.5", None):
            with pytest.raises(TypeError, match="this strength must be a number, got"):
                make(strength)  # type: ignore[arg-type]


def test_users_who_are_alike_have_a_finite_gradient(ledger: ledgers.GradientLedger) -> None:
    alike = jnp.ones_like(ledger.users.pull.vector)

    def total(vectors: jax.Array) -> jax.Array:
        pull = ledger.users.pull._replace(vector=vectors)
        return jnp.sum(adj.mainstream(ledger._replace(users=ledger.users._replace(pull=pull))))

    assert jnp.isfinite(jax.grad(total)(alike)).all()


def test_tten_takes_a_bias_as_it_takes_a_column(tables: Tables, ledger: ledgers.GradientLedger) -> None:
    wanted = score_matrix(adj.tten(0.7)(adj.fold_bias(tables), ledger))
    np.testing.assert_allclose(score_matrix(adj.tten(0.7)(tables, ledger)), wanted, rtol=1e-5, atol=1e-6)


def test_unit_rows_and_center(tables: Tables, ledger: ledgers.GradientLedger) -> None:
    both = adj.unit_rows("both")(tables, ledger)
    np.testing.assert_allclose(jnp.linalg.norm(both.user, axis=1), np.ones(U), rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(both.item, axis=1), np.ones(N), rtol=1e-5)
    assert adj.unit_rows("user")(tables, ledger).item is tables.item
    centred = adj.center("item")(tables, ledger)
    np.testing.assert_allclose(jnp.mean(centred.item, axis=0), np.zeros(D), atol=1e-6)
    assert centred.user is tables.user
    with pytest.raises(ValueError, match="side must be"):
        adj.center("rows")  # type: ignore[arg-type]


def test_chain_of_nothing_and_identity_are_the_identity(tables: Tables, ledger: ledgers.GradientLedger) -> None:
    assert adj.chain()(tables, ledger) is tables
    assert adj.chain(adj.identity(), adj.identity())(tables, ledger) is tables


def test_added_gradients_are_mean_gradients_by_their_size(tables: Tables, ledger: ledgers.GradientLedger) -> None:
    rng = np.random.default_rng(5)
    pull, push = ledger.items.pull, ledger.items.push
    found = adj.add_gradients(0.5, 0.25)(tables, ledger)
    wanted = np.array(tables.item, np.float64)
    length = np.linalg.norm(np.asarray(tables.item), axis=1).mean()
    for strength, role in ((0.5, pull), (0.25, push)):
        vector, size = np.asarray(role.vector, np.float64), np.asarray(role.size, np.float64)
        mean = np.array([v / p if p > 0 else 0 * v for v, p in zip(vector, size, strict=True)])
        wanted += strength * mean * length / np.linalg.norm(mean, axis=1).mean()
    np.testing.assert_allclose(found.item, wanted, rtol=1e-4, atol=1e-5)
    factor = jnp.asarray(rng.uniform(0.1, 9, N), jnp.float32)  # how many and how large the events were does not matter
    larger = ledger._replace(
        items=ledger.items._replace(pull=pull._replace(vector=pull.vector * factor[:, None], size=pull.size * factor))
    )
    np.testing.assert_allclose(adj.add_gradients(0.5, 0.25)(tables, larger).item, found.item, rtol=1e-4, atol=1e-5)


def test_added_gradients_are_the_same_before_and_after_offsets(tables: Tables, ledger: ledgers.GradientLedger) -> None:
    """Biases that offsets fold in are no part of the lengths that gradients are scaled to."""
    offsets = adj.offset_by_count(3.0, COUNTS), adj.offset_by_gradient(2.0, spread=0.5)
    add = adj.add_gradients(0.5, 0.25)
    before, after = adj.chain(add, *offsets)(tables, ledger), adj.chain(*offsets, add)(tables, ledger)
    np.testing.assert_allclose(score_matrix(after), score_matrix(before), rtol=1e-4, atol=1e-4)


def test_a_ledger_of_totals_has_no_gradients_to_add(tables: Tables) -> None:
    totals = ledgers.init(U, N, D, item_weight=jnp.ones(N))
    with pytest.raises(ValueError, match="keeps totals only"):
        adj.add_gradients(0.5)(tables, totals)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_by_the_tables_are_finite_where_rows_are_zero(
    name: str, tables: Tables, ledger: ledgers.GradientLedger
) -> None:
    some = Tables(tables.user.at[0].set(0.0), tables.item.at[0].set(0.0))

    def total(user: jax.Array, item: jax.Array) -> jax.Array:
        folded = adj.fold_bias(FAMILIES[name](0.5)(Tables(user, item), ledger))
        return jnp.sum((folded.user @ folded.item.T) ** 2)

    for gradient in jax.jit(jax.grad(total, argnums=(0, 1)))(some.user, some.item):
        assert jnp.isfinite(gradient).all()
