"""Samplers: what is drawn, how often, and that each epoch is a permutation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_interactions
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jaxrec import samplers
from jaxrec.data import Interactions
from jaxrec.types import Batch

KEY = jax.random.key(7)


@given(st.integers(1, 400), st.integers(0, 2**31))
def test_permuted_visits_everything_once(size: int, seed: int) -> None:
    found = np.asarray(samplers.permuted(jax.random.key(seed), jnp.arange(400) % size, size))[:size]  # one shape
    assert sorted(found.tolist()) == list(range(size))


def test_permutations_of_two_keys_differ_and_mix() -> None:
    one, two = (np.asarray(samplers.permuted(jax.random.key(s), jnp.arange(1000), 1000)) for s in (0, 1))
    assert (one == two).mean() < 0.02
    assert abs(stats.spearmanr(one, np.arange(1000)).statistic) < 0.12


@given(st.lists(st.floats(0, 10), min_size=1, max_size=20).filter(lambda w: sum(w) > 0.01))
def test_alias_table_holds_the_distribution(weights: list[float]) -> None:
    table = samplers.alias_table(np.array(weights))
    n = len(weights)
    mass = np.zeros(n)
    np.add.at(mass, np.arange(n), np.asarray(table.accept, np.float64) / n)
    np.add.at(mass, np.asarray(table.other), (1 - np.asarray(table.accept, np.float64)) / n)
    np.testing.assert_allclose(mass, np.array(weights) / sum(weights), atol=1e-6)


@pytest.mark.parametrize("weights", [[], [0.0], [-1.0, 2.0], [np.nan]])
def test_alias_table_refuses_what_is_no_distribution(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="finite numbers >= 0"):
        samplers.alias_table(np.array(weights))


def first_batches(sampler: samplers.Sampler, number: int) -> Batch:
    """The first batch of so many keys, 0 and on, one after the other along a leading axis."""
    keys = jax.vmap(jax.random.key)(jnp.arange(number))
    found = jax.jit(lambda keys: jax.lax.map(lambda key: sampler.draw(sampler.data, key, jnp.int32(0)), keys))(keys)
    return jax.tree.map(np.asarray, found)


def epoch(sampler: samplers.Sampler) -> list:
    draw = jax.jit(sampler.draw)
    return [draw(sampler.data, KEY, jnp.int32(i)) for i in range(sampler.num_batches)]


def test_an_epoch_by_interaction_sees_each_pair_once(interactions: Interactions) -> None:
    sampler = samplers.sampler(interactions, batch_size=16)
    batches = epoch(sampler)
    keys = np.concatenate([np.asarray(b.users) * interactions.num_items + np.asarray(b.positives) for b in batches])
    filled = sampler.num_batches * sampler.batch_size - len(interactions)
    assert 0 <= filled < sampler.num_batches
    assert sorted(keys[: len(interactions)].tolist()) == sorted(interactions.keys.tolist())


def test_sampling_by_user_draws_users_uniformly_and_their_own_items(interactions: Interactions) -> None:
    sampler = samplers.sampler(interactions, batch_size=4096, by="user")
    draw = jax.jit(sampler.draw)
    batches = [draw(sampler.data, KEY, jnp.int32(i)) for i in range(20)]
    users = np.concatenate([np.asarray(b.users) for b in batches])
    items = np.concatenate([np.asarray(b.positives) for b in batches])
    assert set(users * interactions.num_items + items) <= set(interactions.keys.tolist())
    assert stats.chisquare(np.bincount(users, minlength=interactions.num_users)).pvalue > 1e-4


@pytest.mark.parametrize("by", ["interaction", "user"])
def test_rows_that_share_a_user_are_drawn_as_often_as_rows_that_do_not(interactions: Interactions, by: str) -> None:
    options = {"by": by, "reject": True, "rows_per_user": 8}
    large = samplers.sampler(interactions, batch_size=4096, **options)  # type: ignore[arg-type]
    assert large.batch_size % 8 == 0
    assert 0 <= large.num_batches * large.batch_size - len(interactions) < 8 * large.num_batches
    sampler = samplers.sampler(interactions, batch_size=64, **options)  # type: ignore[arg-type]
    drawn = first_batches(sampler, 2000)
    assert drawn.users.shape == (2000, sampler.batch_size // 8)
    users = np.repeat(drawn.users, 8, axis=1).astype(np.int64) * interactions.num_items
    pairs = users + drawn.positives
    negatives = users + drawn.negatives[..., 0]
    assert not set(negatives.ravel()) & set(interactions.keys.tolist())
    keys, seen = np.unique(pairs, return_counts=True)
    np.testing.assert_array_equal(keys, np.sort(interactions.keys))
    runs = np.bincount(drawn.users.ravel())
    share = interactions.user_counts / len(interactions) if by == "interaction" else 1 / interactions.num_users
    assert stats.chisquare(runs, runs.sum() * np.broadcast_to(share, runs.shape)).pvalue > 1e-3
    each = np.repeat(8 * runs / interactions.user_counts, interactions.user_counts)  # keys are ordered by user
    assert stats.chisquare(seen, each, ddof=interactions.num_users - 1).pvalue > 1e-3


def test_rows_that_share_a_user_change_from_row_to_row_and_step_to_step(interactions: Interactions) -> None:
    sampler = samplers.sampler(interactions, batch_size=64, rows_per_user=8)
    one, two = (jax.jit(sampler.draw)(sampler.data, KEY, jnp.int32(i)) for i in (0, 1))
    assert (np.asarray(one.users) != np.asarray(two.users)).any()
    assert all(len(set(row)) > 1 for row in np.asarray(one.negatives).reshape(-1, 8).tolist())
    assert len(set(np.asarray(one.positives).tolist())) > 8
    assert (np.asarray(one.negatives) != np.asarray(two.negatives)).mean() > 0.5


def test_quick_bits_are_uniform_and_follow_their_key() -> None:
    shape = (4000, 16)
    found = np.asarray(jax.jit(samplers.quick_bits, static_argnums=1)(KEY, shape))
    assert found.shape == shape
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, samplers.quick_bits(KEY, shape))
    assert stats.chisquare(np.bincount((found % 37).ravel())).pvalue > 1e-3
    assert abs(np.corrcoef(found[:, 0], found[:, 1])[0, 1]) < 0.06
    ones = np.unpackbits(found.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 2e-3
    other = np.asarray(samplers.quick_bits(jax.random.key(8), shape))
    assert (found == other).mean() < 1e-3
    each = jax.vmap(lambda key: samplers.quick_bits(key, (6,)))(jax.random.split(KEY, 3))
    for key, row in zip(jax.random.split(KEY, 3), each, strict=True):
        np.testing.assert_array_equal(samplers.quick_bits(key, (6,)), row)


@pytest.mark.parametrize(("popularity", "shared"), [(0.0, False), (0.75, False), (0.75, True), (1.0, False)])
def test_negatives_follow_their_distribution_and_log_q(
    popularity: float, shared: bool, interactions: Interactions
) -> None:
    sampler = samplers.sampler(interactions, batch_size=64, num_negatives=64, popularity=popularity, shared=shared)
    draw = jax.jit(sampler.draw)
    batches = [draw(sampler.data, KEY, jnp.int32(i)) for i in range(60)]
    drawn = np.bincount(
        np.concatenate([np.asarray(b.negatives).ravel() for b in batches]), minlength=interactions.num_items
    )
    q = interactions.item_counts.astype(float) ** popularity
    q /= q.sum()
    assert stats.chisquare(drawn, q * drawn.sum()).pvalue > 1e-4
    if shared:
        first = batches[0]
        np.testing.assert_allclose(first.log_q, np.log(64 * q[np.asarray(first.negatives)]), rtol=1e-4)
        np.testing.assert_array_equal(
            first.where, np.asarray(first.negatives)[None] != np.asarray(first.positives)[:, None]
        )


def test_in_batch_negatives_are_the_batch(interactions: Interactions) -> None:
    batch = epoch(samplers.sampler(interactions, batch_size=16, in_batch=True))[0]
    np.testing.assert_array_equal(batch.negatives, batch.positives)
    assert not np.asarray(batch.where)[np.arange(len(batch.users)), np.arange(len(batch.users))].any()
    wanted = (len(batch.users) - 1) * interactions.item_counts[np.asarray(batch.positives)] / len(interactions)
    np.testing.assert_allclose(np.exp(batch.log_q), wanted, rtol=1e-4)


@pytest.mark.parametrize("by", ["interaction", "user"])
@pytest.mark.parametrize("rows_per_user", [1, 8])
def test_in_batch_log_q_tells_how_often_each_item_is_drawn(
    by: str, rows_per_user: int, interactions: Interactions
) -> None:
    sampler = samplers.sampler(interactions, batch_size=64, in_batch=True, by=by, rows_per_user=rows_per_user)  # type: ignore[arg-type]
    batches = first_batches(sampler, 2000)
    told = np.zeros(interactions.num_items)
    told[batches.negatives] = np.exp(np.asarray(batches.log_q))
    others = sampler.batch_size - rows_per_user
    assert told.sum() == pytest.approx(others, rel=1e-4)
    drawn = np.bincount(batches.negatives.ravel(), minlength=interactions.num_items) / 2000
    np.testing.assert_allclose(drawn * others / sampler.batch_size, told, rtol=0.1)


@pytest.mark.parametrize("by", ["interaction", "user"])
@pytest.mark.parametrize("rows_per_user", [1, 8])
def test_in_batch_negatives_weighed_by_log_q_stand_for_the_users_other_items_once_each(
    by: str, rows_per_user: int, interactions: Interactions
) -> None:
    """Σ_j 1 / (expected draws of j) over a row's negatives that its user has is their number, but for its positive."""
    sampler = samplers.sampler(interactions, batch_size=64, in_batch=True, by=by, rows_per_user=rows_per_user)  # type: ignore[arg-type]
    batches = first_batches(sampler, 2000)
    has = np.zeros((interactions.num_users, interactions.num_items), bool)
    has[interactions.users, interactions.items] = True
    found, wanted = 0.0, 0.0
    for users, negatives, where, log_q in zip(
        *(np.asarray(c) for c in (batches.users, batches.negatives, batches.where, batches.log_q)), strict=True
    ):
        rows = np.repeat(users, rows_per_user)
        found += float(np.sum((where & has[rows][:, negatives]) / np.exp(log_q)[None, :]))
        wanted += float(np.sum(has[rows].sum(axis=1) - 1))
    assert found == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("options", [{}, {"shared": True}, {"in_batch": True}, {"popularity": 0.5}])
def test_rejected_negatives_are_never_known_positives(options: dict, interactions: Interactions) -> None:
    known = set(interactions.keys.tolist())
    for batch in epoch(samplers.sampler(interactions, batch_size=32, num_negatives=8, reject=True, **options)):
        users = np.asarray(batch.users)[:, None]
        negatives = np.broadcast_to(np.asarray(batch.negatives), np.asarray(batch.where).shape)
        keys = users * interactions.num_items + negatives
        is_known = np.isin(keys, sorted(known))
        assert not (is_known & np.asarray(batch.where)).any()
        if options.get("shared") or options.get("in_batch"):
            np.testing.assert_array_equal(is_known, ~np.asarray(batch.where))
        else:
            assert np.asarray(batch.where).all()


def test_bits_and_binary_search_say_the_same(interactions: Interactions) -> None:
    starts, items = interactions.csr()
    users, candidates = jnp.arange(interactions.num_users), jnp.arange(interactions.num_items)
    wide = jnp.broadcast_to(candidates[None, :], (len(users), len(candidates)))
    dense = interactions.to_scipy().toarray() > 0
    searched = samplers.is_known(jnp.asarray(starts, jnp.int32), jnp.asarray(items), users, wide)
    np.testing.assert_array_equal(searched, dense)
    bits = jnp.asarray(samplers.known_bits(interactions))
    np.testing.assert_array_equal(samplers.has_bit(bits, users, candidates), dense)
    np.testing.assert_array_equal(samplers.has_bit(bits, users, wide[:, ::-1]), dense[:, ::-1])


@pytest.mark.parametrize("options", [{}, {"shared": True}, {"in_batch": True}])
def test_batches_do_not_depend_on_how_known_items_are_found(
    options: dict, interactions: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"batch_size": 32, "num_negatives": 8, "reject": True, **options}
    by_table = samplers.sampler(interactions, **given)
    monkeypatch.setattr(samplers, "MAX_BITS", 0)
    by_search = samplers.sampler(interactions, **given)
    assert by_table.data.bits is not None
    assert by_search.data.bits is None
    for a, b in zip(jax.tree.leaves(epoch(by_table)), jax.tree.leaves(epoch(by_search)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_same_key_same_batches() -> None:
    train = random_interactions()
    one, two = (epoch(samplers.sampler(train, batch_size=16, num_negatives=3)) for _ in range(2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number from 1, got 0"),
        ({"batch_size": 32, "rows_per_user": 5}, "multiple of rows_per_user, got 32 and 5"),
        ({"rows_per_user": 0}, "rows_per_user must be a whole number from 1, got 0"),
        ({"num_negatives": 2.0}, r"num_negatives must be a whole number from 1, got 2\.0"),
        ({"by": "item"}, "by must be"),
        ({"in_batch": True, "shared": True}, "wants shared=False and popularity=0, got shared=True and popularity=0"),
        ({"in_batch": True, "popularity": 0.5}, "wants shared=False and popularity=0, got .* popularity=0.5"),
    ],
)
def test_contradicting_options_are_refused(options: dict, message: str, interactions: Interactions) -> None:
    with pytest.raises(ValueError, match=message):
        samplers.sampler(interactions, **options)


def test_nothing_to_draw_from_is_refused() -> None:
    with pytest.raises(ValueError, match="no training interactions"):
        samplers.sampler(Interactions([], [], 2, 2))
    with pytest.raises(ValueError, match="has every item"):
        samplers.sampler(Interactions([0, 0], [0, 1], 2, 2), reject=True)


@pytest.mark.parametrize("options", [{"shared": True, "num_negatives": 8}, {"in_batch": True}])
def test_a_user_that_has_every_item_has_no_negative_among_shared_ones(
    options: dict, interactions: Interactions
) -> None:
    like = interactions.to_scipy().toarray() > 0
    like[3] = True
    full = Interactions(*np.nonzero(like), num_users=30, num_items=20)  # type: ignore[misc]
    for batch in epoch(samplers.sampler(full, batch_size=32, reject=True, **options)):
        where, users = np.asarray(batch.where), np.asarray(batch.users)
        np.testing.assert_array_equal(where, ~like[users][:, np.asarray(batch.negatives)])


def test_a_negative_that_keeps_being_known_is_left_out() -> None:
    """One user lacks one item of 2,000: 32 draws seldom find it, and what they find instead does not count."""
    items = np.delete(np.arange(2000), 7)
    train = Interactions(np.zeros(len(items), int), items, 1, 2000)
    sampler = samplers.sampler(train, batch_size=1999, num_negatives=1, reject=True)
    batch = sampler.draw(sampler.data, KEY, jnp.int32(0))
    where, negatives = np.asarray(batch.where), np.asarray(batch.negatives)
    assert 0 < where.sum() < 200
    assert set(negatives[where].tolist()) == {7}
    assert not (negatives[~where] == 7).any()


COLD = Interactions([1, 1, 3], [0, 2, 1], 5, 4)  # users 0, 2 and 4 and item 3 have nothing


@pytest.mark.parametrize("in_batch", [False, True])
def test_users_and_items_without_interactions_are_not_drawn(in_batch: bool) -> None:
    sampler = samplers.sampler(COLD, batch_size=3, by="user", in_batch=in_batch)
    drawn = first_batches(sampler, 50)
    assert set(np.asarray(drawn.users).ravel().tolist()) == {1, 3}
    if in_batch:  # 2 others a row; of users drawn alike each has its items in equal shares
        wanted = 2 * np.array([0.25, 0.5, 0.25])
        np.testing.assert_allclose(np.exp(drawn.log_q), wanted[np.asarray(drawn.negatives)], rtol=1e-5)


@pytest.mark.parametrize("popularity", [0.75, -0.5])
def test_negatives_by_popularity_are_items_that_somebody_has(popularity: float) -> None:
    drawn = first_batches(samplers.sampler(COLD, batch_size=3, num_negatives=50, popularity=popularity), 10)
    assert set(np.asarray(drawn.negatives).ravel().tolist()) == {0, 1, 2}


def test_items_of_rows_that_share_a_user_are_drawn_anew_in_each_step() -> None:
    data = Interactions(np.zeros(64, int), range(64), 1, 64)
    sampler = samplers.sampler(data, batch_size=8, rows_per_user=8)
    one, two = (sampler.draw(sampler.data, KEY, jnp.int32(step)).positives for step in (0, 1))
    assert one.tolist() != two.tolist()
