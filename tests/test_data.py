"""Interactions, id maps, k-core and splits, as properties."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import random_interactions
from hypothesis import given
from hypothesis import strategies as st

from jaxrec.data import (
    DataError,
    Interactions,
    Split,
    carve,
    five_way,
    from_pairs,
    hold_out_after,
    hold_out_last,
    hold_out_random,
    hold_out_uniform,
    k_core,
    reindex,
    synthetic,
    union,
)
from jaxrec.data import splits as splits_module

pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 7)), min_size=1, max_size=60)


@pytest.mark.parametrize("seed", [None, -1, 0.5])
def test_the_seed_of_a_split_is_a_whole_number(seed: object) -> None:
    with pytest.raises(DataError, match="a split's seed must be a whole number from 0, got"):
        carve(random_interactions(), seed=seed)  # type: ignore[arg-type]


@given(pairs)
def test_from_pairs_keeps_each_pair_once_and_its_ids(raw: list[tuple[int, int]]) -> None:
    users, items = zip(*raw, strict=True)
    data = from_pairs([100 + u for u in users], [f"i{i}" for i in items])
    found = set(zip(data.user_ids[data.users].tolist(), data.item_ids[data.items].tolist(), strict=True))
    assert found == {(100 + u, f"i{i}") for u, i in raw}
    assert len(data) == len(set(raw))
    assert data.item_counts.sum() == data.user_counts.sum() == len(data)
    if len(raw) > len(set(raw)):
        assert "merged" in data.notes[0]


def test_repeated_pairs_keep_the_highest_rating_and_the_latest_time() -> None:
    data = from_pairs([1, 1, 1], [2, 2, 2], [3.0, 5.0, 1.0], [10, 5, 7])
    assert data.ratings is not None
    assert data.times is not None
    assert (data.ratings.tolist(), data.times.tolist()) == ([5.0], [10])


def test_threshold_is_counted() -> None:
    data = from_pairs([1, 1, 2], [1, 2, 2], [5, 2, 1], threshold=4)
    assert len(data) == 1
    assert "2 of 3 rows are rated below 4" in data.notes[0]
    assert "1 users and 1 items have none left" in data.notes[0]
    kept = from_pairs([1, 1, 2], [1, 2, 2], [5, 2, 1], threshold=4, user_ids=np.arange(3), item_ids=np.arange(3))
    assert kept.notes == ("2 of 3 rows are rated below 4 and are no interactions",)
    every = from_pairs(["a", "b", "c"], [1, 2, 3], ratings=[1, 5, 3])
    assert len(every) == 3
    assert every.notes == (
        "ratings are from 1 to 5, and every pair is an interaction; a threshold would keep high ones only",
    )
    assert from_pairs(["a", "b"], [1, 2], ratings=[1, 1]).notes == ()
    mixed = from_pairs([1, 1, 2], [1, 2, 2], [5, 2, 1], threshold=4, user_ids=np.arange(3))
    assert mixed.notes[0].endswith("interactions; 1 items have none left and are not in the id space")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "at least one interaction"),
        (([1], [1, 2]), "1 users but 2 items"),
        (([-1], [1]), r"row 0 has -1"),
        (([1.5], [1]), r"whole numbers or text, but row 0 has 1.5"),
        (([float("nan")], [1]), "whole numbers or text"),
        (([1], [""]), "item id of row 0 is empty"),
        (([2**70], [1]), r"2\*\*63"),
        (([1], [1], [float("nan")]), "ratings must be finite, but row 0"),
        (([1], [None]), "all text or all whole numbers"),
        (([1, None], [1, 2]), "row 1 has None where row 0 has 1"),
        (([1, float("nan"), "a"], [1, 2, 3]), "row 1 has nan where row 0 has 1"),
        (([1.5, "a"], [1, 2]), "all text or all whole numbers, but row 0 has 1.5"),
        ((["a", "b", True], [1, 2, 3]), "row 2 has True where row 0 has 'a'"),
        (([3, True], [1, 2]), "row 1 has True where row 0 has 3"),
        (([1, 2], [1, 2], None, np.array(["2020-12-11", "NaT"], "M8[s]")), "times must be finite, but row 1"),
    ],
)
def test_bad_pairs_are_refused_with_the_row(arguments: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_pairs(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0], [3], 1, 3), r"item rows must be in \[0, 3\), got 3"),
        (([-1], [0], 1, 3), r"user rows must be in \[0, 1\), got -1"),
        (([0, 0], [1, 1], 1, 3), "each pair must be there once"),
        (([0.0], [1.0], 1, 3), "whole numbers"),
        (([2**40], [0], 2**41, 1), "number of users must be in"),
        (([0], [0], 1, 1, [1, 2]), "one id for each of 1 users"),
    ],
)
def test_bad_rows_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Interactions(*arguments)


def test_interactions_can_not_be_written_to(interactions: Interactions) -> None:
    with pytest.raises(ValueError, match="read-only"):
        interactions.users[0] = 1


@pytest.mark.parametrize("ordered", [True, False])
def test_a_scipy_matrix_is_the_callers_own(ordered: bool) -> None:
    data = Interactions(*([0, 1, 1], [2, 0, 1]) if ordered else ([1, 1, 0], [1, 0, 2]), 2, 3)
    matrix = data.to_scipy()
    for array in (matrix.data, matrix.indices, matrix.indptr):
        assert array.flags.writeable  # Cython buffers, such as implicit's, want that
        array[:] = 0
    assert data.to_scipy().toarray().tolist() == [[0, 0, 1], [1, 1, 0]]
    assert [part.tolist() for part in data.csr()] == [[0, 1, 3], [2, 0, 1]]


@given(st.integers(0, 200), st.integers(1, 4))
def test_k_core_is_the_largest_part_of_its_kind(seed: int, k: int) -> None:
    data = random_interactions(seed, density=0.15)
    try:
        core = k_core(data, k)
    except DataError:
        core = None
    keep = np.ones(len(data), bool)
    for _ in range(200):
        users = np.bincount(data.users[keep], minlength=data.num_users)
        items = np.bincount(data.items[keep], minlength=data.num_items)
        keep &= (users[data.users] >= k) & (items[data.items] >= k)
    assert (0 if core is None else len(core)) == keep.sum()
    if core is not None:
        assert min(core.user_counts.min(), core.item_counts.min()) >= k


@pytest.mark.parametrize("of", [object, np.dtypes.StringDType(), np.str_])
def test_ids_are_found_however_their_text_is_held(of: type | np.dtype) -> None:
    users, items = np.array(["ann", "bo"], dtype=of), np.array(["x", "y"], dtype=of)
    pairs = from_pairs(["bo", "ann"], ["x", "y"], user_ids=users, item_ids=items)
    moved = reindex(pairs, users[::-1], items)
    assert (pairs.users.tolist(), moved.users.tolist()) == ([0, 1], [0, 1])
    assert (pairs.user_ids[pairs.users].tolist(), moved.user_ids.tolist()) == (["ann", "bo"], ["bo", "ann"])
    assert Interactions([0], [1], 2, 2, users, items).item_ids.tolist() == ["x", "y"]


def test_ids_that_int64_does_not_hold_are_refused() -> None:
    with pytest.raises(DataError, match=r"user_ids must be below 2\*\*63, got 9223372036854775808"):
        Interactions([0], [0], 1, 1, np.array([2**63], np.uint64))


def test_reindex_moves_pairs_into_another_id_space() -> None:
    data = from_pairs([7, 9, 7], [1, 1, 5])
    moved = reindex(data, np.array([9, 8, 7]), np.array([5, 1]))
    ids = set(zip(moved.user_ids[moved.users].tolist(), moved.item_ids[moved.items].tolist(), strict=True))
    assert ids == {(7, 1), (9, 1), (7, 5)}
    with pytest.raises(DataError, match="do not hold, the first is user 9"):
        reindex(data, np.array([7]), np.array([5, 1]))
    assert "1 pairs of unknown" in reindex(data, np.array([7]), np.array([5, 1]), unknown="drop").notes[0]


def check_parts(whole: Interactions, *parts: Interactions) -> None:
    """Disjoint, nothing lost, nothing added."""
    keys = np.concatenate([p.keys for p in parts])
    assert sorted(keys.tolist()) == sorted(whole.keys.tolist())


def check_hold_out(whole: Interactions, found: splits_module.HoldOut) -> None:
    """A partition that leaves no user and no item without training interactions."""
    check_parts(whole, found.train, found.held)
    assert found.train.user_counts.min() >= 1
    assert found.train.item_counts.min() >= 1


@given(st.integers(0, 300), st.floats(0.05, 0.9))
def test_random_hold_out_is_a_partition_that_empties_nobody(seed: int, fraction: float) -> None:
    data = random_interactions(seed)
    found = hold_out_random(data, fraction, seed=seed)
    check_hold_out(data, found)
    again = hold_out_random(data, fraction, seed=seed)
    np.testing.assert_array_equal(again.held.keys, found.held.keys)
    assert len(found.held) <= np.ceil(fraction * len(data))


@given(st.integers(0, 300), st.integers(1, 5))
def test_uniform_hold_out_is_uniform_over_items_and_empties_nobody(seed: int, per_item: int) -> None:
    data = random_interactions(seed)
    found = hold_out_uniform(data, per_item, seed=seed)
    check_hold_out(data, found)
    assert found.held.item_counts.max() <= per_item
    short = (per_item - found.held.item_counts).sum()
    assert ("fell short" in " ".join(found.notes)) == bool(short)


def test_uniform_hold_out_gives_each_item_what_was_asked_where_there_is_enough() -> None:
    rng = np.random.default_rng(0)
    like = rng.random((200, 15)) < 0.5
    data = Interactions(*np.nonzero(like), 200, 15)  # type: ignore[arg-type]
    assert set(hold_out_uniform(data, 5, seed=1).held.item_counts.tolist()) == {5}


@pytest.mark.parametrize("how", ["uniform hold-out", "five-way split"])
def test_another_seed_holds_out_other_pairs(how: str) -> None:
    if how == "uniform hold-out":
        data = random_interactions(0, users=200, items=20, density=0.4)
        one, two = (hold_out_uniform(data, 5, seed=s).held for s in (0, 1))
    else:
        data = random_interactions(0, users=60, items=15, density=0.4)
        one, two = (five_way(data, seed=s).tests["natural"] for s in (0, 1))
    assert len(np.intersect1d(one.keys, two.keys)) < 0.5 * len(one)


def test_random_hold_out_takes_the_same_share_of_each_user() -> None:
    data = random_interactions(0, users=60, items=40, density=0.4)
    held = hold_out_random(data, 0.3, seed=0).held
    assert (np.abs(held.user_counts - 0.3 * data.user_counts) < 1.001).mean() > 0.9


def timed(seed: int) -> Interactions:
    data = random_interactions(seed)
    times = np.random.default_rng(seed).integers(0, 50, len(data))
    return Interactions(data.users, data.items, data.num_users, data.num_items, times=times)


@given(st.integers(0, 100), st.integers(1, 3))
def test_last_hold_out_takes_the_latest_of_each_user(seed: int, n: int) -> None:
    data = timed(seed)
    found = hold_out_last(data, n)
    check_parts(data, found.train, found.held)
    assert found.train.user_counts.min() >= 1
    for user in range(data.num_users):
        before = found.train.times[found.train.users == user]  # type: ignore[index]
        after = found.held.times[found.held.users == user]  # type: ignore[index]
        assert len(after) == min(n, data.user_counts[user] - 1)
        if len(after):
            assert before.max() <= after.min()


@pytest.mark.parametrize("kind", [np.uint8, np.uint32, np.uint64, np.int8, np.int64, np.float32])
def test_last_hold_out_does_not_depend_on_the_kind_of_times(kind: type) -> None:
    data, least = timed(0), 0 if kind == np.float32 else np.iinfo(kind).min
    wanted = hold_out_last(data, 2).held
    times = data.times.astype(kind)  # type: ignore[union-attr]
    times[times == 0] = least  # whose negative does not fit
    changed = Interactions(data.users, data.items, data.num_users, data.num_items, times=times)
    np.testing.assert_array_equal(hold_out_last(changed, 2).held.keys, wanted.keys)


def test_hold_out_after_a_moment() -> None:
    data = timed(3)
    found = hold_out_after(data, quantile=0.8)
    check_parts(data, found.train, found.held)
    assert found.train.times.max() < found.held.times.min()  # type: ignore[union-attr]
    with pytest.raises(DataError, match="needs times"):
        hold_out_after(random_interactions(), time=1)
    with pytest.raises(DataError, match="exactly one"):
        hold_out_after(data)
    with pytest.raises(DataError, match=r"wanted one from .* to below .*, the last one, or a part is empty"):
        hold_out_after(data, time=1e9)


def test_what_happened_at_the_moment_itself_stays_in_train() -> None:
    data = Interactions([0, 0, 1], [0, 1, 0], 2, 2, times=np.array([1, 2, 3]))
    held = hold_out_after(data, time=2).held
    assert held.times is not None
    assert held.times.tolist() == [3]


@given(st.integers(0, 60))
def test_five_way_and_carve_partition_everything(seed: int) -> None:
    data = random_interactions(seed, users=60, items=15, density=0.4)
    split = five_way(data, seed=seed, valid=True)
    check_parts(data, split.train, *split.valid.values(), *split.tests.values())
    assert set(split.valid) == set(split.tests) == {"natural", "unbiased"}
    refit = split.refit()
    check_parts(data, refit.train, *split.tests.values())
    assert refit.train.item_counts.min() >= 1


@given(st.integers(0, 60))
def test_a_temporal_five_way_tests_what_each_user_did_last(seed: int) -> None:
    data = timed(seed)
    split = five_way(data, seed=seed, last=2, per_item=1, valid=True)
    check_parts(data, split.train, *split.valid.values(), *split.tests.values())
    wanted = hold_out_last(data, 2).held
    np.testing.assert_array_equal(np.sort(split.tests["natural"].keys), np.sort(wanted.keys))
    natural = split.tests["natural"]
    for part in (split.train, *split.valid.values(), split.tests["unbiased"]):
        assert part.times is not None
        assert natural.times is not None
        for user in np.intersect1d(natural.users, part.users):
            assert part.times[part.users == user].max() <= natural.times[natural.users == user].min()


def test_natural_part_is_as_popular_as_the_data_and_the_unbiased_one_is_not() -> None:
    data = random_interactions(0, users=400, items=60, density=0.3)
    split = five_way(data, seed=0)
    mean = {n: data.item_counts[p.items].mean() for n, p in split.tests.items()}
    whole = data.item_counts[data.items].mean()
    assert mean["natural"] == pytest.approx(whole, rel=0.05)
    assert mean["unbiased"] < 0.9 * whole


def test_the_order_within_a_large_group_is_that_of_its_priorities() -> None:
    groups = np.array([1000001, 1000001, 1000000, 1000001, 1000001])
    priority = np.array([0, 0, 1 - 2.0**-40, 0.1, 0.2])  # which added to its group would be the next one's
    quota = np.zeros(1000002, np.int64)
    quota[1000000:] = 1, 2
    found = splits_module._first_of_each(groups, priority, quota)
    assert found.tolist() == [True, True, True, False, False]


def test_given_removes_and_counts_test_pairs_that_are_in_train() -> None:
    train, test = Interactions([0, 1], [0, 1], 3, 3), Interactions([0, 0, 2], [0, 1, 2], 3, 3)
    split = splits_module.given(train, {"test": test})
    assert len(split.tests["test"]) == 2
    notes = " ".join(split.notes)
    for words in ("dropped 1 of 3", "1 test users without training history", "1 of 3 items without a training"):
        assert words in notes
    with pytest.raises(DataError, match="no pair is left"):
        splits_module.given(train, {"test": Interactions([0], [0], 3, 3)})
    with pytest.raises(DataError, match=r"test own has another id space than train.*reindex"):
        splits_module.given(train, {"own": Interactions([0], [0], 9, 3)})


def test_a_split_refuses_overlap_and_other_id_spaces() -> None:
    train = Interactions([0], [0], 2, 2)
    with pytest.raises(DataError, match="also in train"):
        Split(train, {}, {"test": train})
    with pytest.raises(DataError, match="another id space"):
        Split(train, {}, {"test": Interactions([0], [1], 3, 2)})
    with pytest.raises(DataError, match="validation parts already"):
        carve(Split(train, {"natural": Interactions([1], [1], 2, 2)}), seed=0)
    with pytest.raises(DataError, match="repeated"):
        union(train, train)


def test_refit_takes_pairs_of_several_validation_parts_once() -> None:
    part = Interactions([0, 0, 1], [1, 2, 2], 2, 3, times=np.array([5, 7, 9]))
    train = Interactions([0], [0], 2, 3, times=np.array([1]))
    whole = Split(train, {"all": part, "some": part.select(np.array([1, 2]))}).refit().train
    assert (whole.users.tolist(), whole.items.tolist()) == ([0, 0, 0, 1], [0, 1, 2, 2])
    assert whole.times.tolist() == [1, 5, 7, 9]


@pytest.mark.parametrize("unit", ["D", "s", "ns"])
def test_dates_of_any_unit_are_seconds(unit: str) -> None:
    dates = np.array(["1970-01-02", "2020-12-11"], f"M8[{unit}]")
    assert from_pairs([1, 2], [1, 2], times=dates).times.tolist() == [86400.0, 1607644800.0]


def test_the_synthetic_world_is_biased_by_exposure_and_not_by_preference() -> None:
    world = synthetic(seed=1)
    counts = world.split.train.item_counts
    assert np.corrcoef(counts, world.exposure)[0, 1] > 0.8
    assert abs(np.corrcoef(world.preference.mean(0), world.exposure)[0, 1]) < 0.15
    tests = world.split.tests
    assert np.corrcoef(tests["natural"].item_counts, world.exposure)[0, 1] > 0.6
    # What was exposed is more often in train already, so that less of it is left for a test of all items alike.
    assert np.corrcoef(tests["unbiased"].item_counts, world.exposure)[0, 1] < 0
    assert world.exposure.mean() == pytest.approx(0.15, rel=0.01)
    with pytest.raises(DataError, match="0 < seen < 1"):
        synthetic(seen=2.0)


def test_of_equal_times_the_higher_item_is_the_later_one() -> None:
    pairs = Interactions([0, 0, 0], [0, 1, 2], 1, 3, times=np.zeros(3))
    assert hold_out_last(pairs, 1).held.items.tolist() == [2]


def test_tests_and_validation_of_one_seed_are_drawn_apart() -> None:
    pairs = random_interactions(0, 60, 40, density=0.5)
    test = five_way(pairs, seed=0).tests["natural"]
    valid = carve(Split(pairs, {}, {}), seed=0).valid["natural"]
    assert len(np.intersect1d(test.keys, valid.keys)) < 0.5 * min(len(test), len(valid))


def test_the_moment_is_the_quantile_that_is_asked_for() -> None:
    data = Interactions([0] * 5, range(5), 1, 5, times=np.arange(5))
    assert len(splits_module.hold_out_after(data, quantile=0.2).held) == 4


def test_times_and_ratings_go_with_their_pairs() -> None:
    pairs = Interactions([0, 0], [0, 1], 1, 2, times=np.array([5, 7]))
    moved = reindex(pairs, np.array([0]), np.array([1, 0]))
    assert (moved.items.tolist(), moved.times.tolist()) == ([0, 1], [7, 5])
    assert from_pairs([1, 2], [1, 2], [1.0, 5.0], [10, 20], threshold=4).times.tolist() == [20]


def test_parts_have_the_sizes_that_are_asked_for() -> None:
    data = random_interactions(0, 60, 15, density=0.4)
    found = splits_module.five_way(data, seed=0, natural=0.3)
    assert len(found.tests["natural"]) == pytest.approx(0.3 * len(data), rel=0.1)
    assert splits_module.carve(Split(data, {}, {}), seed=0, per_item=2).valid["unbiased"].item_counts.max() == 2
