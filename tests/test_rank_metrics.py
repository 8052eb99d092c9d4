"""Ranking against a plain sort; metrics against outside judges and slow readings of their formulas."""

from __future__ import annotations

import os
from typing import Any

import ir_measures
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_interactions
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import RR, P, R, Success, nDCG
from scipy import stats
from sklearn.metrics import ndcg_score

from jaxrec import metrics, rank
from jaxrec.data import Interactions, from_pairs, splits
from jaxrec.metrics import popularity as pop
from jaxrec.metrics.accuracy import hit_matrix
from jaxrec.types import Scorer, Tables


def tables_of(seed: int, users: int = 30, items: int = 20, width: int = 4, levels: int | None = None) -> Tables:
    keys = jax.random.split(jax.random.key(seed), 3)
    user, item = jax.random.normal(keys[0], (users, width)), jax.random.normal(keys[1], (items, width))
    if levels is not None:  # whole numbers, so that scores tie and are exact
        user, item = jnp.round(user * levels), jnp.round(item * levels)
    return Tables(user, item, jnp.round(jax.random.normal(keys[2], (items,)) * 2))


def by_sorting(tables: Tables, exclude: Interactions, k: int) -> np.ndarray:
    scores = np.asarray(tables.user @ tables.item.T + tables.item_bias[None, :], np.float64)  # type: ignore[index]
    scores[exclude.users, exclude.items] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.where(np.take_along_axis(scores, order, 1) > -np.inf, order, -1)


@given(st.integers(0, 1000), st.sampled_from([1, 2, 7, 20]), st.integers(1, 40))
def test_top_k_is_a_stable_sort_whatever_the_block(seed: int, k: int, block: int) -> None:
    train, tables = random_interactions(seed, density=0.4), tables_of(seed, levels=1)
    found = rank.top_k(tables, None, train, k=k, block=block)
    np.testing.assert_array_equal(found.items, by_sorting(tables, train, k))


@pytest.mark.parametrize("levels", [1, 2, 6, 300])
@pytest.mark.parametrize(("size", "k"), [(64 * 9 + 13, 3), (64 * 9, 3), (64 * 50 + 63, 20), (64 * 300, 1)])
def test_stages_equal_one_with_many_ties(size: int, k: int, levels: int) -> None:
    scores = jnp.asarray(np.random.default_rng(levels).integers(0, levels, (5, size)), jnp.float32)
    scores = scores.at[0, k - 1 :].set(-jnp.inf)  # fewer than k items are left
    values, items = rank._exact_top_k(scores.T, k)
    wanted_values, wanted = jax.lax.top_k(scores, k)
    np.testing.assert_array_equal(items, wanted)
    np.testing.assert_array_equal(values, wanted_values)


@pytest.mark.parametrize(("number", "block", "width"), [(30, 3, 4), (200, 3, 65), (200, 80, 4), (200, 150, 65)])
def test_order_of_users_and_block_change_no_bit(number: int, block: int, width: int) -> None:
    train, tables = random_interactions(users=number, items=90), tables_of(1, users=number, items=90, width=width)
    users = np.random.default_rng(0).permutation(number)
    one, other = rank.top_k(tables, None, train, k=7), rank.top_k(tables, users, train, k=7, block=block)
    np.testing.assert_array_equal(one.items[users], other.items)
    np.testing.assert_array_equal(one.scores[users], other.scores)


@pytest.mark.parametrize("parts", [0, 1, 2])
def test_accelerators_mask_by_themselves_and_rank_the_same(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = tables_of(1, users=150, items=90, levels=1)
    known = [random_interactions(seed, users=150, items=90, density=0.05 + seed / 3) for seed in range(parts)]
    known += [Interactions([], [], 150, 90)] * (parts != 1)  # without a pair
    users = np.concatenate([np.random.default_rng(0).permutation(150), [3, 3]])
    asked = np.arange(len(users)) % 90
    scorer = Scorer(150, 90, lambda u: tables.user[u] @ tables.item.T)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")

    def ranked() -> list[np.ndarray]:
        lists = [rank.top_k(tables, users, known, k=9, block=64), rank.top_k_scores(scorer, users, known, k=9)]
        return [x for found in lists for x in found] + [rank.positions(tables, users, asked, known, block=64)]

    here = ranked()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(rank, "CHUNK", 64)  # so that there are chunks of several widths
    monkeypatch.setattr(rank, "pad_lists", lambda *_: pytest.fail("masks come from the host"))
    for mine, other in zip(ranked(), here, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_accelerators_are_not_sent_whole_histories_for_few_users(monkeypatch: pytest.MonkeyPatch) -> None:
    train, tables = random_interactions(users=150, items=90), tables_of(1, users=150, items=90)
    here = rank.top_k(tables, [7], train, k=5)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(rank, "_masks", lambda *_: pytest.fail("a whole history is sent"))
    np.testing.assert_array_equal(rank.top_k(tables, [7], train, k=5).items, here.items)


def test_blocks_are_larger_on_accelerators_as_their_own_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert rank.block_rows(None, 10**6, 40_000) == 128
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert rank.block_rows(None, 10**6, 40_000, on_host=True) == 128
    assert rank.block_rows(None, 10**6, 40_000) == 1728  # memory is not told by every device
    assert rank.block_rows(None, 10**6, 100) == rank.MOST

    class Device:
        def memory_stats(self) -> dict[str, int]:
            return {"bytes_limit": 2**31, "bytes_in_use": 2**30}

    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert rank.block_rows(None, 10**6, 40_000) == 256  # rounded up from an eighth of it, 32 bytes a score
    with pytest.raises(MemoryError, match=r"takes about 2\.\d GiB, 1\.0 GiB are free"):
        rank.block_rows(1728, 10**6, 40_000)


def test_positions_are_places_in_the_full_ranking() -> None:
    train, tables = random_interactions(), tables_of(2, levels=1)
    whole = by_sorting(tables, train, 20)
    users, items = np.divmod(np.arange(600), 20)
    free = ~np.isin(users * 20 + items, train.keys)
    found = rank.positions(tables, users[free], items[free], train)
    np.testing.assert_array_equal(whole[users[free], found - 1], items[free])
    with pytest.raises(ValueError, match="one item a user, got 2 users and items of shape"):
        rank.positions(tables, np.array([0, 1]), np.array([3]), train)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be a whole number from 1, got 0"),
        ({"k": 21}, ValueError, "k must be between 1 and the 20 items .* got 21; lower k"),
        ({"users": [30]}, ValueError, "users must be in 0..29, got 30"),
        ({"users": [0.5]}, ValueError, "whole numbers"),
        ({"block": 0}, ValueError, "block must be a positive"),
        ({"block": 10**13}, MemoryError, "pass a smaller block"),
        ({"exclude": random_interactions(items=21)}, ValueError, "use parts of one split"),
        ({"exclude": random_interactions(users=31)}, ValueError, "use parts of one split"),
    ],
)
def test_bad_requests_say_what_to_do(change: dict, error: type[Exception], message: str) -> None:
    request = {"users": None, "exclude": random_interactions(), "k": 3} | change
    users = request["users"]
    if request.get("block") == 10**13:  # as many users as the block, so that it is really asked for
        users = np.zeros(5_000_000_0, np.int8).astype(np.int32)
    with pytest.raises(error, match=message):
        rank.top_k(tables_of(0), users, request["exclude"], k=request["k"], block=request.get("block"))


def test_a_scorer_is_no_tables() -> None:
    with pytest.raises(TypeError, match=r"Tables are wanted, got Scorer; a Scorer is ranked by `rank\.top_k_scores`"):
        rank.top_k(Scorer(3, 4, lambda users: users), None, None, k=2)  # type: ignore[arg-type]


def test_tables_that_are_not_finite_are_refused_with_the_row() -> None:
    tables = tables_of(0)
    with pytest.raises(ValueError, match=r"tables.item must be finite.*first: 4"):
        rank.top_k(tables._replace(item=tables.item.at[4, 0].set(jnp.nan)), None, None, k=3)
    wide = np.ones((6, 2))
    wide[2, 1] = 1e39  # finite in 64 bits only
    with pytest.raises(ValueError, match=r"tables.item must be finite, but 1 rows hold NaN or inf .first: 2"):
        rank.top_k(Tables(np.ones((3, 2)), wide), None, None, k=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_tables_of_16_bits_are_ranked_in_32(dtype: Any) -> None:
    """In their own precision the scores of float16 would overflow, and those of bfloat16 be equal in many places."""
    narrow = jax.tree.map(lambda part: (100 * part).astype(dtype), tables_of(0, items=200, width=64))
    wide = jax.tree.map(lambda part: part.astype(jnp.float32), narrow)
    found, wanted = (rank.top_k(tables, None, None, k=10) for tables in (narrow, wide))
    np.testing.assert_array_equal(found.items, wanted.items)
    np.testing.assert_array_equal(found.scores, wanted.scores)
    assert found.scores.max() > np.finfo(np.float16).max
    pairs = jnp.arange(30), jnp.arange(30)
    np.testing.assert_array_equal(rank.scores(narrow, *pairs), rank.scores(wide, *pairs))


@pytest.mark.parametrize("name", ["user", "item"])
def test_tables_of_whole_numbers_are_refused(name: str) -> None:
    """No whole number is smaller than all others, as the score of an excluded item must be."""
    tables = tables_of(0, levels=3)
    whole = tables._replace(**{name: getattr(tables, name).astype(jnp.int32)})
    with pytest.raises(ValueError, match=rf"tables\.{name} must be floating point, got int32"):
        rank.top_k(whole, None, None, k=3)


def test_what_is_no_interactions_is_not_excluded() -> None:
    with pytest.raises(TypeError, match=r"exclude must be Interactions, got ndarray; data.from_scipy"):
        rank.top_k(Tables(jnp.ones((2, 1)), jnp.ones((3, 1))), None, np.zeros((2, 3)), k=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [3, 4000])
@pytest.mark.parametrize("width", [1, 2, 64])
def test_zeros_of_both_signs_are_equal(size: int, width: int) -> None:
    item = jnp.tile(jnp.where(jnp.arange(size) % 3 == 0, -1.0, 1.0)[:, None], (1, width))
    for bias in (None, -jnp.zeros(size)):
        found = rank.top_k(Tables(jnp.zeros((1, width)), item, bias), None, None, k=3)
        assert found.items.tolist() == [[0, 1, 2]]
        assert not np.signbit(found.scores).any()


@pytest.mark.parametrize(
    "tables",
    [
        Tables(jnp.full((2, 1), 1e30), jnp.full((3, 1), -1e30)),
        Tables(jnp.full((2, 4), 1.5e19), jnp.full((3, 4), 1.5e19)),
        Tables(jnp.ones((2, 1)), jnp.ones((3, 1)), jnp.full(3, -1e30), jnp.full(2, 1e30)),
    ],
)
def test_tables_whose_scores_overflow_are_refused(tables: Tables) -> None:
    with pytest.raises(ValueError, match=r"scores must be finite, but with tables.user up to .* may exceed 3.4e\+38"):
        rank.top_k(tables, None, None, k=3)
    small = tables._replace(user=tables.user * 1e-25, bias_strength=None)
    assert np.isfinite(rank.top_k(small, None, None, k=3).scores).all()


@pytest.fixture(scope="module")
def case() -> tuple[rank.TopK, Interactions, Interactions]:
    held = splits.hold_out_random(random_interactions(5, users=60, items=40, density=0.4), 0.4, seed=0)
    return rank.top_k(tables_of(3, 60, 40), None, held.train, k=15), held.held, held.train


@pytest.mark.parametrize("k", [1, 5, 15])
def test_accuracy_agrees_with_ir_measures(case: tuple, k: int) -> None:
    ranking, test, train = case
    found = metrics.evaluate(ranking, test, train, ks=(k,))
    qrels = [ir_measures.Qrel(str(u), str(i), 1) for u, i in zip(test.users, test.items, strict=True)]
    run = [
        ir_measures.ScoredDoc(str(u), str(i), 100.0 - r)
        for u, row in zip(ranking.users, ranking.items, strict=True)
        for r, i in enumerate(row)
    ]
    names = {R @ k: "recall", P @ k: "precision", nDCG @ k: "ndcg", RR @ k: "mrr", Success @ k: "hit"}
    judged = {}
    for value in ir_measures.iter_calc(list(names), qrels, run):
        judged[names[value.measure], int(value.query_id)] = value.value
    for name in names.values():
        wanted = [judged[name, u] for u in found.users]
        np.testing.assert_allclose(found.per_user[f"{name}@{k}"], wanted, rtol=1e-6, atol=1e-9)


def test_ndcg_agrees_with_scikit_learn(case: tuple) -> None:
    ranking, test, train = case
    found = metrics.evaluate(ranking, test, train, ks=(10,))
    relevant = test.to_scipy().toarray()
    for n, user in enumerate(found.users):
        scores = np.full(40, -100.0)
        scores[ranking.items[user]] = -np.arange(15.0)
        wanted = ndcg_score(relevant[user][None], scores[None], k=10)
        np.testing.assert_allclose(found.per_user["ndcg@10"][n], wanted, rtol=1e-6)


def test_other_metrics_are_their_formulas(case: tuple) -> None:
    ranking, test, train = case
    k, n = 10, train.item_counts
    found = metrics.evaluate(ranking, test, train, ks=(k,))
    order = np.argsort(-n, kind="stable")
    head = set(order[: np.searchsorted(np.cumsum(n[order]), 0.8 * n.sum()) + 1].tolist())
    sums: dict[str, list[float]] = {}
    for u in found.users:
        shown = ranking.items[u, :k].tolist()
        liked = set(test.items[test.users == u].tolist())
        hits = [i in liked for i in shown]
        precisions = [sum(hits[: r + 1]) / (r + 1) * hit for r, hit in enumerate(hits)]
        profile = n[train.items[train.users == u]].mean()
        for name, value in {
            "recall_capped": sum(hits) / min(k, len(liked)),
            "map": sum(precisions) / len(liked),
            "map_capped": sum(precisions) / min(k, len(liked)),
            "arp": n[shown].mean(),
            "aplt": np.mean([i not in head for i in shown]),
            "aclt": sum(i not in head for i in shown),
            "novelty": np.mean(-np.log2(np.maximum(n[shown], 1) / train.num_users)),
            "lift": n[shown].mean() / profile - 1,
        }.items():
            sums.setdefault(name, []).append(float(value))
    for name, values in sums.items():
        np.testing.assert_allclose(found.per_user[f"{name}@{k}"], values, rtol=1e-6, atol=1e-9, err_msg=name)
    shares = np.bincount(ranking.items[found.users, :k].ravel(), minlength=40) / (k * len(found.users))
    assert found.summary[f"coverage@{k}"] == pytest.approx((shares > 0).mean())
    gini = np.abs(shares[:, None] - shares[None, :]).sum() / (2 * 40 * shares.sum())
    assert found.summary[f"gini@{k}"] == pytest.approx(gini)
    assert found.summary[f"entropy@{k}"] == pytest.approx(stats.entropy(shares, base=2))


def test_group_recalls_pool_hits(case: tuple) -> None:
    ranking, test, train = case
    found = metrics.evaluate(ranking, test, train, ks=(10,))
    groups = pop.popularity_groups(train.item_counts)
    assert (groups["head"].astype(int) + groups["mid"] + groups["tail"] == 1).all()
    for name, group in groups.items():
        hits = total = 0
        for u in found.users:
            liked = test.items[test.users == u]
            total += group[liked].sum()
            hits += np.isin(liked[group[liked]], ranking.items[u, :10]).sum()
        assert found.summary[f"{name}_recall@10"] == pytest.approx(hits / total)


def test_propensity_metrics_with_equal_propensities_are_the_plain_ones(case: tuple) -> None:
    ranking, test, train = case
    found = metrics.evaluate(ranking, test, train, ks=(10,), propensities=np.full(40, 0.5))
    np.testing.assert_allclose(found.per_user["ndcg_snips@10"], found.per_user["ndcg@10"])
    np.testing.assert_allclose(found.per_user["recall_ips@10"], 2 * found.per_user["recall@10"])


def test_metrics_of_ones_own_stand_beside_the_others(case: tuple) -> None:
    ranking, test, train = case
    own = {"found": lambda hits, relevant, items: hits.sum(axis=1) / relevant}
    found = metrics.evaluate(ranking, test, train, ks=[1, 5], own=own)
    for k in (1, 5):
        np.testing.assert_array_equal(found.per_user[f"found@{k}"], found.per_user[f"recall@{k}"])
        assert found.summary[f"found@{k}"] == found.summary[f"recall@{k}"]


    def forgetful(hits: np.ndarray, relevant: np.ndarray, items: np.ndarray) -> np.ndarray:
        hits[:, 0] = False
        return hits.mean(axis=1)

    with pytest.raises(ValueError, match="read-only"):  # or what comes after it would be of fewer hits
        metrics.evaluate(ranking, test, train, ks=[1, 5], own={"forgetful": forgetful})
    with pytest.raises(ValueError, match=r"one or several, like \[20\], got 5"):
        metrics.evaluate(ranking, test, train, ks=5)  # type: ignore[arg-type]
    for name, metric, message in [
        ("recall", own["found"], "called 'recall' already"),
        ("coverage", own["found"], "called 'coverage' already"),
        ("one", lambda hits, relevant, items: hits.mean(), r"one finite number for each of \d+ users, got shape \(\)"),
        ("odd", lambda hits, relevant, items: hits.sum(1) * np.nan, r"for each of (\d+) users; \1 are NaN or infinite"),
        ("bad", lambda hits, relevant, items: np.full(len(hits), np.nan), "one finite number"),
    ]:
        with pytest.raises(ValueError, match=message):
            metrics.evaluate(ranking, test, train, ks=[5], own={name: metric})


def test_the_ideal_list_of_a_propensity_metric_begins_with_the_rarest() -> None:
    test, train = Interactions([0, 0, 0], [0, 1, 2], 1, 4), Interactions([0], [3], 1, 4)
    best = rank.TopK(np.array([0], np.int32), np.array([[2, 1]], np.int32), np.zeros((1, 2), np.float32))
    found = metrics.evaluate(best, test, train, ks=(2,), propensities=np.array([1.0, 0.5, 0.1, 1.0]))
    assert found.per_user["ndcg_snips@2"][0] == pytest.approx(1)
    listed = metrics.evaluate(best, test, train, ks=(2,), propensities=[1.0, 0.5, 0.1, 1.0])
    assert listed.summary == found.summary


def test_rank_correlations_agree_with_scipy(case: tuple) -> None:
    _, test, train = case
    tables = tables_of(3, 60, 40)
    found = metrics.rank_correlations(tables, test, train)
    places = rank.positions(tables, test.users, test.items, train)
    by_user = []
    for u in range(60):
        own = test.users == u
        a, b = train.item_counts[test.items[own]], places[own]
        if own.sum() > 1 and np.ptp(a) > 0 and np.ptp(b) > 0:
            by_user.append(stats.spearmanr(a, b).statistic)
    assert found["pru"] == pytest.approx(-np.mean(by_user))
    tested = np.unique(test.items)
    means = [places[test.items == i].mean() for i in tested]
    assert found["pri"] == pytest.approx(-stats.spearmanr(train.item_counts[tested], means).statistic)


def test_a_popularity_oracle_has_the_largest_bias_and_a_perfect_one_full_recall(case: tuple) -> None:
    _, test, train = case
    popular = Tables(jnp.ones((60, 1)), jnp.asarray(train.item_counts, jnp.float32)[:, None])
    perfect = Tables(jnp.eye(60), jnp.asarray(test.to_scipy().toarray().T))
    k = int(test.user_counts.max())
    best = metrics.evaluate(rank.top_k(perfect, None, train, k=k), test, train, ks=(k,)).summary
    assert best[f"recall@{k}"] == 1
    assert best[f"ndcg@{k}"] == pytest.approx(1)
    biased = metrics.evaluate(rank.top_k(popular, None, train, k=10), test, train, ks=(10,)).summary
    random = metrics.evaluate(rank.top_k(tables_of(9, 60, 40), None, train, k=10), test, train, ks=(10,)).summary
    assert biased["arp@10"] > random["arp@10"]
    assert biased["gini@10"] > random["gini@10"]


@pytest.mark.parametrize(
    ("ks", "message"),
    [((16,), "at most the 15 ranked items, got 16; rank with k=16")]
    + [((k,), f"a cut-off must be a whole number from 1, got {k!r}") for k in (0, True, 1.5, "a")],
)
def test_cut_offs_are_checked(case: tuple, ks: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.evaluate(*case, ks=ks)


def test_a_test_of_other_ids_than_train_is_refused() -> None:
    train, test = (from_pairs([*users, users[0]], [0, 1, 2, 1]) for users in ("abc", "acd"))
    tables = Tables(jnp.eye(3), jnp.eye(3))
    with pytest.raises(ValueError, match=r"the same ids in the same rows.*data\.reindex"):
        metrics.evaluate(rank.top_k(tables, None, train, k=1), test, train, ks=(1,))
    with pytest.raises(ValueError, match=r"the same ids in the same rows.*data\.reindex"):
        metrics.rank_correlations(tables, test, train)


def test_users_without_test_items_are_left_out(case: tuple) -> None:
    ranking, test, train = case
    some = test.select(test.users < 10)
    assert set(metrics.evaluate(ranking, some, train, ks=(5,)).users) == set(some.users.tolist())
    with pytest.raises(ValueError, match="nothing to evaluate"):
        metrics.evaluate(ranking, test.select(np.zeros(len(test), bool)), train, ks=(5,))


def test_paired_tests_agree_with_scipy_and_holm_with_its_rule() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=50), rng.normal(size=50) + 0.2
    assert metrics.paired_test(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert metrics.paired_test(a, b, method="wilcoxon") == pytest.approx(stats.wilcoxon(a - b).pvalue)
    thirds = np.array([[3, 2], [2, 1], [1, 0], [2, 3], [1, 2], [3, 2], [0, 0]]) / 3
    thirds[-1] = 0.1 + 0.2, 0.3
    signs = 2 * stats.binom.sf(3, 6, 0.5)  # of six differences of one size, four or more up; the seventh is none
    assert metrics.paired_test(*thirds.T, method="wilcoxon") == pytest.approx(signs)
    noise = np.full(9, 0.3) * (1 + 1e-16 * np.arange(9))
    assert metrics.paired_test(noise, np.full(9, 0.1 + 0.2)) == 1.0
    found = metrics.compare(a, b)
    assert found.low < found.difference < found.high
    assert found.difference == pytest.approx((a - b).mean())
    np.testing.assert_allclose(metrics.holm([0.01, 0.02, 0.9]), [0.03, 0.04, 0.9])
    low, high = metrics.bootstrap_ci(a, resamples=4000)
    error = metrics.standard_error(a)
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)


def test_a_group_without_test_items_is_left_out_of_fairness() -> None:
    """Perfect lists of head items, where nobody has a tail item in the test, treat no group unfairly."""
    train = Interactions([0, 1, 2, 3, 0], [0, 0, 0, 0, 1], 5, 3)  # item 0 alone holds 80 %
    test = Interactions([4], [0], 5, 3)
    found = pop.group_fairness(np.array([4]), np.array([[0]]), np.array([[True]]), test, train)
    assert found["pop_reo"] == 0.0
    both = Interactions([4, 4], [0, 2], 5, 3)
    assert pop.group_fairness(np.array([4]), np.array([[0]]), np.array([[True]]), both, train)["pop_reo"] == 1.0


def test_exposure_is_a_mean_over_the_items_that_a_list_has() -> None:
    found = pop.exposure(np.array([[0, -1]]), np.array([4, 2]), np.array([4.0]), 4)
    assert (found["arp"][0], found["lift"][0]) == (4, 0)


def test_recommendation_rates_are_shares_of_pairs_outside_training() -> None:
    train = random_interactions(0)
    test = Interactions([0], [int(np.flatnonzero(train.to_scipy().toarray()[0] == 0)[0])], 30, 20)
    users = np.arange(10)  # the pairs of the other twenty do not count
    lists = np.argsort(train.to_scipy().toarray()[users] + np.random.default_rng(0).random((10, 20)) / 2, axis=1)[:, :2]
    lists[3, 1] = -1
    tail, known, rates = pop.tail_items(train.item_counts), train.to_scipy().toarray() > 0, []
    for group in (~tail, tail):
        pairs = sum(1 for u in users for i in np.flatnonzero(group) if not known[u, i])
        rates += [group[lists[lists >= 0]].sum() / pairs] if pairs else []
    found = pop.group_fairness(users, lists, np.zeros(lists.shape, bool), test, train)
    assert found["pop_rsp"] == pytest.approx(np.std(rates) / np.mean(rates))
    assert found["pop_rsp"] > 0.01


def test_intervals_are_of_the_level_and_the_seed_that_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=200), rng.normal(size=200)
    wide, narrow = (np.diff(metrics.bootstrap_ci(a, level=level))[0] for level in (0.95, 0.5))
    assert narrow == pytest.approx(wide * stats.norm.ppf(0.75) / stats.norm.ppf(0.975), rel=0.15)
    found = metrics.compare(a, b, seed=3)
    assert found[1:3] == metrics.bootstrap_ci(a - b, seed=3)
    assert found[1:3] != metrics.compare(a, b)[1:3]


def test_novelty_counts_an_item_without_interactions_as_one_with_one() -> None:
    """−log2(1/4) = 2, of four interactions."""
    assert pop.exposure(np.array([[1]]), np.array([4, 0]), np.ones(1), 4)["novelty"][0] == pytest.approx(2.0)


def test_correlations_leave_out_all_that_is_excluded() -> None:
    train = random_interactions(0)
    more = Interactions(*np.nonzero(random_interactions(1).to_scipy().toarray() > train.to_scipy().toarray()), 30, 20)
    test = Interactions(*np.nonzero(random_interactions(2).to_scipy().toarray() > 0), 30, 20)
    tables = Tables(*(jax.random.normal(jax.random.key(n), (size, 4)) for n, size in enumerate((30, 20))))
    found = metrics.rank_correlations(tables, test, train, exclude=[train, more])
    assert found != metrics.rank_correlations(tables, test, train)


@pytest.mark.parametrize(("size", "most_popular"), [(5, 1), (7, 2), (11, 3)])
def test_the_top_fifth_is_rounded_up(size: int, most_popular: int) -> None:
    assert pop.popularity_groups(np.arange(1, size + 1))["top20"].sum() == most_popular


def test_a_scorers_minus_zero_is_zero_and_its_nan_is_refused() -> None:
    row = np.float32([-0.0, 0.0, -1.0, -2.0])
    scorer = Scorer(64, 4, lambda users: np.tile(row, (len(users), 1)))
    assert rank.top_k_scores(scorer, [0], None, k=2).items.tolist() == [[0, 1]]
    row[3] = np.nan
    with pytest.raises(ValueError, match="a block of users has NaN"):
        rank.top_k_scores(scorer, [0], None, k=2)


def test_the_top_fifth_holds_the_most_popular_items() -> None:
    groups = pop.popularity_groups(np.array([1, 9, 2, 1, 3]))
    assert groups["top20"].tolist() == [False, True, False, False, False]


def test_short_lists_and_new_users_have_no_exposure() -> None:
    found = pop.exposure(np.array([[0, -1]]), np.array([9, 1]), np.array([0.0]), 10)
    assert (found["aclt"][0], found["aplt"][0], found["lift"][0]) == (0, 0, 0)
    assert found["novelty"][0] == pytest.approx(-np.log2(0.9))


def test_group_fairness_is_that_of_the_users_who_were_ranked() -> None:
    train = Interactions([0, 1, 2, 3, 0], [0, 0, 0, 0, 1], 6, 3)  # item 0 is the head
    test = Interactions([4, 5, 4, 4, 3], [0, 0, 1, 2, 2], 6, 3)  # user 3 is not ranked
    hits = np.array([[True, True], [False, True]])
    found = pop.group_fairness(np.array([4, 5]), np.array([[0, 1], [1, 0]]), hits, test, train)
    assert found["pop_reo"] == pytest.approx(1 / 3)  # 2 of 2 of the head, 1 of 2 of the others


def test_recall_of_the_tail_is_that_of_the_users_who_were_ranked() -> None:
    test, train = Interactions([0, 0, 1], [0, 2, 0], 2, 3), Interactions([0, 1], [1, 1], 2, 3)
    ranking = rank.TopK(np.array([0], np.int32), np.array([[0]], np.int32), np.zeros((1, 1), np.float32))
    assert metrics.evaluate(ranking, test, train, ks=(1,)).summary["tail_recall@1"] == 0.5


def test_a_place_that_is_not_filled_is_no_hit() -> None:
    assert not hit_matrix(np.array([1]), np.array([[-1]]), Interactions([0, 1], [2, 0], 2, 3)).any()


def test_compare_takes_the_test_and_the_level_that_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(40), rng.random(40)
    found = metrics.compare(a, b, method="wilcoxon", level=0.5)
    assert found.p == metrics.paired_test(a, b, method="wilcoxon")
    assert found[1:3] == metrics.bootstrap_ci(a - b, level=0.5)


def test_a_users_strength_of_the_bias_counts_in_rankings() -> None:
    tables = Tables(jnp.zeros((2, 1)), jnp.zeros((2, 1)), jnp.array([1.0, 2.0]), jnp.array([1.0, -1.0]))
    assert rank.top_k(tables, None, None, k=2).items.tolist() == [[1, 0], [0, 1]]
    assert rank.positions(tables, np.array([0, 1]), np.array([0, 0]), None).tolist() == [2, 1]
