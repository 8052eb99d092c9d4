"""Models of other libraries as tables: their own scores come back, and mistakes are told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_interactions

from jaxrec import adapters
from jaxrec.transforms.adjustment import fold_bias
from jaxrec.types import Tables

RNG = np.random.default_rng(0)
USER, ITEM = RNG.normal(size=(6, 4)).astype(np.float32), RNG.normal(size=(9, 4)).astype(np.float32)
USER_BIAS, ITEM_BIAS = RNG.normal(size=6).astype(np.float32), RNG.normal(size=9).astype(np.float32)

DIVERGED = np.where(np.arange(6)[:, None] == 2, np.nan, USER)


def scores(two: adapters.TwoTower) -> np.ndarray:
    tables = fold_bias(two.tables)
    found = np.asarray(tables.user @ tables.item.T)
    return found if two.user_bias is None else found + two.user_bias[:, None]


def test_arrays_score_by_dot_product_bias_and_cosine() -> None:
    two = adapters.from_arrays(USER, ITEM, user_bias=USER_BIAS, item_bias=ITEM_BIAS[:, None])
    np.testing.assert_allclose(scores(two), USER @ ITEM.T + USER_BIAS[:, None] + ITEM_BIAS, rtol=1e-5, atol=1e-6)
    lengths = np.linalg.norm(USER, axis=1)[:, None] * np.linalg.norm(ITEM, axis=1)
    cosine = adapters.from_arrays(USER.astype(np.float64), ITEM, score="cosine")
    np.testing.assert_allclose(scores(cosine), USER @ ITEM.T / lengths, rtol=1e-5, atol=1e-6)
    assert two.user_ids.tolist() == list(range(6))


def test_a_user_column_of_ones_is_an_item_bias() -> None:
    ones = np.concatenate([USER, np.ones((6, 1), np.float32)], axis=1)
    two = adapters.from_arrays(ones, np.concatenate([ITEM, ITEM_BIAS[:, None]], axis=1))
    np.testing.assert_array_equal(two.tables.item_bias, ITEM_BIAS)
    assert two.tables.user.shape == (6, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item": ITEM[:, :3]}, r"equally wide, got \(6, 4\) and \(9, 3\)"),
        ({"item": ITEM[0]}, r"item embeddings must be a matrix .* got shape \(4,\)"),
        ({"user": np.array([["a"]])}, "user embeddings must be a matrix .* of numbers"),
        ({"user": DIVERGED}, "1 of 6 rows hold NaN or inf, the first is row 2"),
        ({"item": ITEM.astype(np.float64) * 1e300}, "finite in 32 bits"),
        ({"item_bias": USER_BIAS}, "item_bias must hold one number for each of 9 rows, got 6"),
        ({"user_ids": [1, 2]}, "one for each of the 6 user rows"),
        ({"item_ids": list("aabcdefgh")}, "item ids must differ, but a is there 2 times"),
        ({"item_ids": [0.5] * 9}, "whole numbers or text"),
        ({"item_ids": np.arange(9, dtype=np.uint64) + 2**63}, r"item_ids must be below 2\*\*63"),
        ({"score": "l2"}, "score must be 'dot' or 'cosine'"),
    ],
)
def test_arrays_that_do_not_fit_are_told(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapters.from_arrays(**({"user": USER, "item": ITEM} | change))


def test_models_are_known_by_their_attributes() -> None:
    plain = USER @ ITEM.T
    found = adapters.read(SimpleNamespace(user_factors=USER, item_factors=ITEM))
    np.testing.assert_allclose(scores(found), plain, rtol=1e-4, atol=1e-5)
    cornac = SimpleNamespace(
        u_factors=USER, i_factors=ITEM, u_biases=USER_BIAS, i_biases=ITEM_BIAS, use_bias=True, global_mean=2.0,
        uid_map={f"u{n}": n for n in range(6)}, iid_map={f"i{n}": n for n in reversed(range(9))},
    )  # fmt: skip
    found = adapters.read(cornac)
    np.testing.assert_allclose(scores(found), plain + 2 + USER_BIAS[:, None] + ITEM_BIAS, rtol=1e-4, atol=1e-5)
    assert found.item_ids[3] == "i3"
    cornac.get_vector_measure = lambda: "l2 distance aka. Euclidean distance"
    with pytest.raises(TypeError, match=r"scores by l2 distance.*one that scores by dot product is wanted"):
        adapters.read(cornac)
    cornac.get_vector_measure = lambda: "dot product aka. inner product"
    cornac.use_bias = False
    np.testing.assert_allclose(scores(adapters.read(cornac)), plain, rtol=1e-4, atol=1e-5)
    assert adapters.read((USER, ITEM)).source == "arrays"
    assert adapters.read(found) is found
    np.testing.assert_allclose(scores(adapters.read(found.tables)), scores(found) - found.user_bias[:, None], atol=1e-5)


@pytest.mark.parametrize("score", ["dot", "cosine"])
def test_tables_keep_the_strengths_of_their_biases(score: str) -> None:
    strength = np.linspace(-1, 1, 6).astype(np.float32)
    tables = Tables(*map(jnp.asarray, (USER, ITEM, ITEM_BIAS, strength)))
    found = scores(adapters.read(tables, score=score))
    user, item = USER, ITEM
    if score == "cosine":
        user, item = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (USER, ITEM))
    np.testing.assert_allclose(found, user @ item.T + strength[:, None] * ITEM_BIAS, rtol=1e-4, atol=1e-5)
    flat = Tables(jnp.ones((2, 2)), jnp.zeros((5, 2)), jnp.arange(5.0), jnp.array([1.0, -1.0]))
    assert np.argsort(-scores(adapters.read(flat)), axis=1).tolist() == [[4, 3, 2, 1, 0], [0, 1, 2, 3, 4]]
    unread = tables._replace(item_bias=None)  # without a bias there is nothing to be strong
    np.testing.assert_array_equal(adapters.read(unread).tables.user, USER)


def test_what_is_no_model_or_is_not_fitted_is_told() -> None:
    with pytest.raises(TypeError, match="dict is no model that is known; wanted one with user_factors"):
        adapters.read({})
    with pytest.raises(ValueError, match="item_factors is None: fit the model"):
        adapters.read(SimpleNamespace(user_factors=USER, item_factors=None))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("als", "AlternatingLeastSquares"),
        ("bpr", "BayesianPersonalizedRanking"),
        ("lmf", "LogisticMatrixFactorization"),
    ],
)
def test_implicit_scores_as_itself(module: str, name: str) -> None:
    pytest.importorskip("implicit", reason="implicit is not installed")
    from importlib import import_module

    from scipy.sparse import csr_matrix

    matrix = csr_matrix(random_interactions().to_scipy())
    matrix = csr_matrix((matrix.data.copy(), matrix.indices.copy(), matrix.indptr.copy()), matrix.shape)
    model = getattr(import_module(f"implicit.{module}"), name)(factors=5, iterations=3, random_state=0, num_threads=1)
    model.fit(matrix, show_progress=False)
    found = scores(adapters.read(model))
    items, own = model.recommend(np.arange(30), matrix, N=20, filter_already_liked_items=False)
    np.testing.assert_allclose(np.take_along_axis(found, items, axis=1), own, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["MF", "BPR", "PMF"])
def test_cornac_scores_as_itself(name: str) -> None:
    pytest.importorskip("cornac", reason="Cornac is not installed")
    from cornac import models
    from cornac.data import Dataset

    data = random_interactions()
    triples = [(f"u{u}", f"i{i}", 1.0 + (u + i) % 5) for u, i in zip(data.users, data.items, strict=True)]
    train = Dataset.from_uir(triples, seed=0)
    own = {"variant": "linear"} if name == "PMF" else {"num_threads": 1}
    model = getattr(models, name)(k=5, max_iter=5, seed=0, **own).fit(train)
    two = adapters.read(model)
    found = scores(two)
    assert sorted(two.user_ids) == sorted(train.user_ids)
    for user in range(0, 30, 7):
        np.testing.assert_allclose(found[user], model.score(user), rtol=1e-4, atol=1e-5)
        assert train.uid_map[two.user_ids[user]] == user


def test_a_torch_module_scores_as_itself() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user_embedding, self.item_embedding = torch.nn.Embedding(6, 4), torch.nn.Embedding(9, 4)
            self.item_bias = torch.nn.Embedding(9, 1)
            self.other = torch.nn.Parameter(torch.zeros(3, 4))

    net = Net()
    wanted = (net.user_embedding.weight @ net.item_embedding.weight.T + net.item_bias.weight.T).detach().numpy()
    np.testing.assert_allclose(scores(adapters.read(net)), wanted, rtol=1e-5, atol=1e-6)
    named = adapters.from_torch(net, user="user_embedding", item="item_embedding.weight", item_bias="item_bias")
    np.testing.assert_allclose(scores(named), wanted, rtol=1e-5, atol=1e-6)
    guessed = adapters.from_torch(net, user="user_embedding", item="item_embedding")  # the bias is not dropped
    np.testing.assert_allclose(scores(guessed), wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="no parameter 'users'; it has"):
        adapters.from_torch(net, user="users", item="item_embedding")
    del net.user_embedding
    with pytest.raises(ValueError, match="should be the user embedding, but none look like it"):
        adapters.read(net)


@pytest.mark.filterwarnings("ignore")
def test_lenskit_scores_as_itself() -> None:
    pytest.importorskip("lenskit", reason="LensKit is not installed")
    import pandas as pd
    from lenskit.als import BiasedMFScorer, ImplicitMFScorer
    from lenskit.data import ItemList, RecQuery, from_interactions_df

    data = random_interactions()
    frame = pd.DataFrame({"user_id": data.users + 100, "item_id": data.items + 500, "rating": 1.0 + data.items % 5})
    train = from_interactions_df(frame)
    for model in (ImplicitMFScorer(embedding_size=4, epochs=2), BiasedMFScorer(embedding_size=4, epochs=2)):
        model.train(train)
        two = adapters.read(model)
        found = scores(two)
        row = int(np.flatnonzero(two.user_ids == 107)[0])
        own = model(RecQuery(user_id=107), ItemList(item_ids=two.item_ids)).scores("numpy")
        np.testing.assert_allclose(found[row], own, rtol=1e-3, atol=1e-3)


def test_device_arrays_are_taken() -> None:
    two = adapters.read((jnp.asarray(USER), jnp.asarray(ITEM)))
    np.testing.assert_array_equal(two.tables.user, USER)


def test_narrow_floats_are_taken() -> None:
    narrow = jnp.asarray(USER, jnp.bfloat16)
    two = adapters.read(Tables(narrow, jnp.asarray(ITEM, jnp.float16)))
    np.testing.assert_array_equal(two.tables.user, narrow.astype(jnp.float32))
    np.testing.assert_array_equal(two.tables.item, ITEM.astype(np.float16).astype(np.float32))


def test_options_of_what_has_been_read_are_refused() -> None:
    two = adapters.read((np.ones((2, 3)), np.ones((4, 3))))
    assert adapters.read(two) is two
    with pytest.raises(TypeError, match="has been read already, so that score would not be"):
        adapters.read(two, score="cosine")
