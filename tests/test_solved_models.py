"""Models with a closed form or a solver of their own, against slow readings of their formulas."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
from conftest import random_interactions

from jaxrec import metrics, models, rank, testing
from jaxrec.data import Interactions
from jaxrec.models.ease import ease_weights
from jaxrec.models.ials import blocks, solve_side
from jaxrec.models.itemknn import item_neighbours
from jaxrec.models.lightgcn import normalized_graph
from jaxrec.types import Scorer, Tables

TRAIN = random_interactions(2, users=25, items=18, density=0.3)
GAPS = Interactions([0, 0, 2, 4], [1, 2, 1, 2], num_users=6, num_items=5)  # some users and items have nothing
BOTH = pytest.mark.parametrize("train", [TRAIN, GAPS], ids=["random", "gaps"])


def dense(train: Interactions) -> np.ndarray:
    x = np.zeros((train.num_users, train.num_items))
    x[train.users, train.items] = 1
    return x


def all_scores(scorer: Scorer) -> np.ndarray:
    return np.asarray(scorer.block(np.arange(scorer.num_users)))


def test_most_popular_ranks_by_count() -> None:
    found = rank.top_k(models.most_popular(TRAIN), None, None, k=18)
    order = np.argsort(-TRAIN.item_counts, kind="stable")
    np.testing.assert_array_equal(found.items, np.tile(order, (25, 1)))


@BOTH
@pytest.mark.parametrize("l2", [0.5, 50.0])
def test_ease_is_the_inverse_of_the_gram_matrix(train: Interactions, l2: float) -> None:
    x = dense(train)
    p = np.linalg.inv(x.T @ x + l2 * np.eye(train.num_items))
    wanted = -p / np.diag(p)[None, :]
    np.fill_diagonal(wanted, 0)
    np.testing.assert_allclose(ease_weights(train, l2=l2), wanted, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(all_scores(models.ease(train, l2=l2)), x @ wanted, rtol=1e-3, atol=1e-5)


def test_ease_solves_ridge_regression_of_each_item_on_the_others() -> None:
    x, l2 = dense(TRAIN), 3.0
    found = ease_weights(TRAIN, l2=l2)
    for j in range(TRAIN.num_items):
        others = np.delete(np.arange(TRAIN.num_items), j)
        a = x[:, others]
        wanted = np.linalg.solve(a.T @ a + l2 * np.eye(len(others)), a.T @ x[:, j])
        np.testing.assert_allclose(found[others, j], wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", [511, 513, 1100])
def test_ease_is_symmetrised_across_blocks(size: int) -> None:
    train = random_interactions(1, users=40, items=size, density=0.05)
    x = dense(train)
    p = np.linalg.inv(x.T @ x + 20.0 * np.eye(size))
    wanted = -p / np.diag(p)[None, :]
    np.fill_diagonal(wanted, 0)
    np.testing.assert_allclose(ease_weights(train, l2=20.0), wanted, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize(("train", "width", "rounds"), [(TRAIN, 18, 1), (TRAIN, 1, 400), (GAPS, 1, 60), (GAPS, 2, 1)])
@pytest.mark.parametrize("powers", [(0.0, 0.0, 1.0), (0.5, 0.5, 1.0), (0.35, 0.2, 0.5), (0.4, 0.3, 0.0)])
def test_spectral_scores_are_a_truncated_svd_of_the_scaled_interactions(
    train: Interactions, width: int, rounds: int, powers: tuple[float, float, float]
) -> None:
    """Against numpy's SVD; signs and turns of vectors cancel in scores. A range of full rank needs no rounds."""
    a, b, c = powers
    scaled = np.maximum(train.user_counts, 1.0)[:, None] ** -a * dense(train) * np.maximum(train.item_counts, 1.0) ** -b
    left, values, right = np.linalg.svd(scaled)
    wanted = left[:, :width] * values[:width] ** c @ right[:width]
    found = models.spectral(train, width, user_power=a, item_power=b, value_power=c, rounds=rounds)
    np.testing.assert_allclose(found.user @ found.item.T, wanted, atol=1e-3)
    np.testing.assert_allclose(found.item.T @ found.item, np.eye(width), atol=1e-4)


def test_spectral_is_finite_where_there_are_fewer_directions_than_asked_for() -> None:
    found = models.spectral(GAPS, 5)
    assert rank.check_tables(found) == (6, 5)


@BOTH
@pytest.mark.parametrize(("width", "low_pass", "sharpening"), [(1, 0.3, 0.0), (3, 0.2, 2.5), (2, 0.0, 1.0)])
def test_graph_filter_is_its_formula_on_dense_matrices(
    train: Interactions, width: int, low_pass: float, sharpening: float
) -> None:
    x, users, items = dense(train), np.maximum(train.user_counts, 1.0), np.maximum(train.item_counts, 1.0)
    scaled = users[:, None] ** -0.5 * x * items**-0.5
    _, _, right = np.linalg.svd(scaled)
    blur = scaled.T @ scaled
    low = np.diag(items**-0.5) @ right[:width].T @ right[:width] @ np.diag(items**0.5)
    steps = [np.linalg.matrix_power(-sharpening * blur, k) / math.factorial(k) for k in range(5)]
    wanted = x @ (blur + low_pass * low) @ sum(steps)
    filters = models.graph_filter(train, width=width, low_pass=low_pass, sharpening=sharpening, rounds=60)
    np.testing.assert_allclose(all_scores(filters), wanted, atol=1e-4)


def test_sharpening_is_one_step_of_runge_kutta() -> None:
    """As the source has it: dx/dt = -x P from 0 to T by the classical four stages."""
    blur = models.graph_filter(TRAIN, width=1, low_pass=0.0, sharpening=0.0, rounds=1)
    graph = normalized_graph(TRAIN)
    p, t = np.asarray(graph.to_items @ (graph.to_users @ np.eye(18, dtype=np.float32))), 1.5
    start = all_scores(blur)
    first = -start @ p
    second = -(start + t / 2 * first) @ p
    third = -(start + t / 2 * second) @ p
    fourth = -(start + t * third) @ p
    wanted = start + t / 6 * (first + 2 * second + 2 * third + fourth)
    found = all_scores(models.graph_filter(TRAIN, width=1, low_pass=0.0, sharpening=t, rounds=1))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_ease_refuses_what_does_not_fit_before_it_starts() -> None:
    with pytest.raises(MemoryError, match=r"EASE of 1000000 items takes about 3729\.\d GiB.*keep fewer items"):
        models.ease(Interactions([0], [0], num_users=1, num_items=1_000_000))


@BOTH
@pytest.mark.parametrize(("neighbours", "shrink"), [(3, 0.0), (5, 10.0), (100, 1.0)])
def test_itemknn_is_shrunk_cosine_of_the_nearest(train: Interactions, neighbours: int, shrink: float) -> None:
    x, n = dense(train), train.num_items
    wanted = np.zeros((n, n))
    for i in range(n):
        row = np.zeros(n)
        for j in range(n):
            if i != j and (common := x[:, i] @ x[:, j]):
                row[j] = common / (np.sqrt(x[:, i].sum() * x[:, j].sum()) + shrink)
        row = row.astype(np.float32)  # equal in float32 is what a tie is
        keep = np.argsort(-row, kind="stable")[:neighbours]
        wanted[i, keep] = row[keep]
    found = item_neighbours(train, neighbours=neighbours, shrink=shrink).toarray()
    np.testing.assert_allclose(np.sort(found, 1), np.sort(wanted, 1), rtol=1e-5)
    if neighbours >= n:
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert (found > 0).sum(1).max() <= neighbours
    scores = all_scores(models.itemknn(train, neighbours=neighbours, shrink=shrink))
    np.testing.assert_allclose(scores, x @ found.T, rtol=1e-4)


def ials_loss(train: Interactions, user: np.ndarray, item: np.ndarray, alpha: float, l2: float, nu: float) -> float:
    """The objective, one cell after the other."""
    x, total = dense(train), 0.0
    for u in range(train.num_users):
        for i in range(train.num_items):
            s = float(user[u] @ item[i])
            total += x[u, i] * (1 - s) ** 2 + alpha * s**2
    for rows, counts, other in ((user, x.sum(1), len(item)), (item, x.sum(0), len(user))):
        total += l2 * float(np.sum((counts + alpha * other) ** nu * np.sum(rows**2, axis=1)))
    return total


@BOTH
@pytest.mark.parametrize("nu", [0.0, 0.5, 1.0])
def test_a_side_of_ials_solves_the_normal_equations(train: Interactions, nu: float) -> None:
    alpha, l2, width = 0.2, 0.1, 4
    item = np.random.default_rng(0).normal(size=(train.num_items, width)).astype(np.float32)
    found = solve_side(jax.numpy.asarray(item), blocks(train), train.num_users, alpha=alpha, l2=l2, nu=nu)
    for u, own in enumerate(dense(train)):
        left = sum(own[i] * np.outer(item[i], item[i]) for i in range(len(item))) + alpha * item.T @ item
        left += l2 * (own.sum() + alpha * len(item)) ** nu * np.eye(width)
        wanted = np.linalg.solve(left, own @ item)
        np.testing.assert_allclose(found[u], wanted, rtol=1e-3, atol=1e-5)


def test_ials_only_ever_lowers_its_objective_and_ends_at_a_minimum() -> None:
    options = {"alpha": 0.2, "l2": 0.05, "nu": 1.0}
    losses = []
    for epochs in (1, 2, 4, 60):
        tables = models.ials(TRAIN, 3, epochs=epochs, **options)  # type: ignore[arg-type]
        losses.append(ials_loss(TRAIN, *map(np.asarray, tables[:2]), **options))  # type: ignore[arg-type]
    assert losses == sorted(losses, reverse=True)
    user, item = map(np.asarray, tables[:2])
    rng = np.random.default_rng(0)
    for _ in range(5):
        near = [x + 1e-2 * rng.normal(size=x.shape) for x in (user, item)]
        assert ials_loss(TRAIN, near[0], near[1], **options) > losses[-1]  # type: ignore[arg-type]


def test_histories_longer_than_a_block_and_of_every_length_are_whole() -> None:
    train = random_interactions(4, users=300, items=40, density=0.5)
    for items in (False, True):
        found = blocks(train, items=items)
        rows = np.concatenate([b.rows for b in found])
        size = (train.num_items, train.num_users)[not items]
        counts = train.item_counts if items else train.user_counts
        fill = train.num_users if items else train.num_items
        lengths = np.concatenate([(np.asarray(b.history) < fill).sum(1) for b in found])
        np.testing.assert_array_equal(np.sort(rows[rows < size]), np.flatnonzero(counts))
        np.testing.assert_array_equal(lengths[rows < size], counts[rows[rows < size]])


def test_known_answer_data_is_learned_by_each() -> None:
    train, test = testing.two_groups()
    ranked = {
        "ease": rank.top_k_scores(models.ease(train, l2=10.0), None, train, k=12),
        "itemknn": rank.top_k_scores(models.itemknn(train, neighbours=20, shrink=1.0), None, train, k=12),
        "graph_filter": rank.top_k_scores(models.graph_filter(train, width=2), None, train, k=12),
        "spectral": rank.top_k(models.spectral(train, 2), None, train, k=12),
        "ials": rank.top_k(models.ials(train, 4, alpha=0.1, l2=0.01), None, train, k=12),
    }
    for name, ranking in ranked.items():
        assert metrics.evaluate(ranking, test, train, ks=(12,)).summary["recall@12"] >= 0.9, name


@pytest.mark.parametrize("block", [None, 3, 16])
def test_ranking_by_scores_is_ranking_by_tables(block: int | None) -> None:
    rng = np.random.default_rng(0)
    user, item = rng.integers(-2, 3, (25, 3)), rng.integers(-2, 3, (18, 3))  # whole numbers, so that scores tie
    tables = Tables(*(jax.numpy.asarray(x, jax.numpy.float32) for x in (user, item)))
    scorer = Scorer(25, 18, lambda users: (user @ item.T)[users].astype(np.float32))
    users = rng.permutation(25)[:20]
    found, wanted = (f(x, users, TRAIN, k=7) for f, x in ((rank.top_k_scores, scorer), (rank.top_k, tables)))
    again = rank.top_k_scores(scorer, users, TRAIN, k=7, block=block)
    for other in (wanted, again):
        np.testing.assert_array_equal(found.items, other.items)
        np.testing.assert_array_equal(found.scores, other.scores)


def test_bad_requests_say_what_to_do() -> None:
    whole = lambda users: np.zeros((len(users), 18), np.float32)  # noqa: E731
    for request, message in (
        (lambda: models.ease(TRAIN, l2=0.0), "l2 must be positive"),
        (lambda: models.spectral(TRAIN, 19), "width must be between 1 and the smaller number of 25 users and 18 items"),
        (lambda: models.spectral(TRAIN, 4, rounds=0), "rounds must be at least 1"),
        (lambda: models.spectral(Interactions([], [], 2, 3), 1), "there are no interactions"),
        (lambda: models.graph_filter(Interactions([], [], 2, 3), width=1), "there are no interactions"),
        (lambda: models.graph_filter(TRAIN, width=19), "width must be between 1 and the smaller number of 25 users"),
        (lambda: models.graph_filter(TRAIN, width=4, low_pass=-1.0), "low_pass and sharpening must be at least 0"),
        (lambda: models.itemknn(TRAIN, neighbours=0), "neighbours must be at least 1"),
        (lambda: models.ials(TRAIN, alpha=0.0), "alpha and l2 must be positive"),
        (lambda: rank.top_k_scores(Scorer(25, 18, whole), None, None, k=19), "k must be between 1 and the 18 items"),
        (lambda: rank.top_k_scores(Scorer(25, 17, whole), None, None, k=3), "must have shape"),
        (lambda: rank.top_k_scores(Scorer(25, 18, lambda u: whole(u) / np.inf + np.nan), None, None, k=3), "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            request()
