"""Serving: folding in, filters, files, indexes and saved scorers."""

from __future__ import annotations

import csv
import dataclasses
import gzip
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_interactions

from jaxrec import cli, correct, data, frozen, models, rank, runs, serve
from jaxrec.commands.recommend import _of_users, _rows_of, strengths_in
from jaxrec.data import DataError, Interactions
from jaxrec.transforms.adjustment import fold_bias
from jaxrec.types import Tables

U, N, D = 30, 20, 4


@pytest.fixture
def tables() -> Tables:
    keys = jax.random.split(jax.random.key(1), 3)
    return Tables(*(jax.random.normal(k, s) for k, s in zip(keys, ((U, D), (N, D), (N,)), strict=True)))


def score_matrix(tables: Tables) -> np.ndarray:
    folded = fold_bias(tables)
    return np.asarray(folded.user) @ np.asarray(folded.item).T


def test_fold_in_is_its_formula(tables: Tables) -> None:
    histories = [[1, 2, 3], [], list(range(3, 20)), [5]]
    v, b = np.asarray(tables.item, np.float64), np.asarray(tables.item_bias, np.float64)
    found = serve.fold_in(tables.item, histories, item_bias=tables.item_bias, ridge=0.3, weight=7.0)
    for history, row in zip(histories, found, strict=True):
        c, p = np.ones(N), np.zeros(N)
        c[history], p[history] = 8.0, 1.0
        left = sum(c[i] * np.outer(v[i], v[i]) for i in range(N)) + 0.3 * np.sum(v**2) / D * np.eye(D)
        right = sum(c[i] * (p[i] - b[i]) * v[i] for i in range(N))
        wanted = np.linalg.solve(left, right) if history else np.zeros(D)
        np.testing.assert_allclose(row, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", [1e-20, 1e20])
def test_fold_in_takes_rows_of_any_size(size: float) -> None:
    histories = [[0, 2], [1]]
    item = jax.random.normal(jax.random.key(0), (4, 3))
    np.testing.assert_allclose(
        serve.fold_in(size * item, histories) * size, serve.fold_in(item, histories), rtol=1e-4, atol=1e-6
    )
    assert not serve.fold_in(jnp.zeros((3, 2)), [[0], []]).any()


@pytest.mark.parametrize("name", ["item", "item_bias"])
def test_fold_in_refuses_what_is_not_finite(name: str) -> None:
    parts = {"item": jnp.eye(3), "item_bias": jnp.ones(3)}
    parts[name] = parts[name].at[0].set(jnp.nan)
    with pytest.raises(ValueError, match=f"{name} must be finite"):
        serve.fold_in(parts["item"], [[0]], item_bias=parts["item_bias"])


def test_a_bias_counts_for_new_users_by_the_usual_strength() -> None:
    """b with a strength of 4 for everybody is 4 b."""
    from jaxrec import frozen

    known = random_interactions(2, 60, 40, density=0.3)
    keys = jax.random.split(jax.random.key(0))
    item, bias = jax.random.normal(keys[0], (40, 6)), 0.1 * jax.random.normal(keys[1], (40,))
    user = serve.fold_in(item, known, item_bias=4 * bias)
    new = Interactions([0, 0, 1], [1, 5, 7], 2, 40)
    found = []
    for tables in (Tables(user, item, 4 * bias), Tables(user, item, bias, jnp.full(60, 4.0))):
        how = serve.calibrate_fold_in(tables, known, users=20)
        ledger = frozen.observe(tables, known, num_negatives=64, batch_size=256)
        more, longer = serve.with_new_users(tables, ledger, new, how=how)
        found.append((how[1:], score_matrix(more), longer.users.pull.events, longer.users.pull.vector[:, :6]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_fold_in_by_cosine_is_the_mean_direction(tables: Tables) -> None:
    unit = np.asarray(tables.item) / np.linalg.norm(tables.item, axis=1, keepdims=True)
    wanted = unit[[2, 5, 7]].sum(axis=0)
    found = serve.fold_in(tables.item, [[7, 2, 5]], score="cosine")
    np.testing.assert_allclose(found[0], wanted / np.linalg.norm(wanted), rtol=1e-4, atol=1e-6)


def test_calibration_finds_how_known_users_were_made(tables: Tables) -> None:
    known = random_interactions(0, U, N)
    made = serve.fold_in(tables.item, known, ridge=0.1, weight=10.0)
    how = serve.calibrate_fold_in(Tables(made, tables.item), known)
    assert (how.score, how.ridge, how.weight) == ("dot", 0.1, 10.0)
    assert how.agreement == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(ValueError, match=r"items of a history must be in 0..19, got 0..20"):
        serve.fold_in(tables.item, [[0, 20]])
    with pytest.raises(ValueError, match="ridge must be positive"):
        serve.fold_in(tables.item, [[0]], ridge=0.0)


def test_filters_are_exact_and_act_before_the_cut(tables: Tables) -> None:
    seen = random_interactions(0, U, N)
    allow, deny = np.arange(2, 18), np.array([3, 4, 17])
    found = serve.recommend(tables, [4, 0], seen=seen, allow=allow, deny=deny, k=15)
    scores = score_matrix(tables)
    for row, user in enumerate([4, 0]):
        owned = set(seen.items[seen.users == user].tolist())
        left = [i for i in allow if i not in owned | set(deny.tolist())]
        wanted = sorted(left, key=lambda i: -scores[user, i])
        assert found.items[row].tolist() == wanted + [-1] * (15 - len(wanted))
        np.testing.assert_allclose(found.scores[row, : len(wanted)], scores[user, wanted], rtol=1e-4, atol=1e-5)
    whole = serve.recommend(tables, None, seen=seen, k=5)
    np.testing.assert_array_equal(whole.items, rank.top_k(tables, None, seen, k=5).items)


def test_filters_that_make_no_sense_are_told(tables: Tables) -> None:
    with pytest.raises(ValueError, match=r"deny must name items in 0..19, got 1..20"):
        serve.recommend(tables, deny=[1, 20])
    with pytest.raises(ValueError, match="leave no item"):
        serve.recommend(tables, allow=[1], deny=[1])
    with pytest.raises(ValueError, match="k must be between 1 and the 20 items"):
        serve.recommend(tables, allow=[1], k=21)
    with pytest.raises(ValueError, match=r"allow must name items by whole numbers, or be a mask of 20 bools"):
        serve.recommend(tables, allow=[2.7])
    other = Interactions([0], [20], len(tables.user), 21)
    with pytest.raises(ValueError, match="seen must be of the tables'"):
        serve.recommend(tables, allow=[1, 2], seen=other)


def test_a_mask_is_a_filter_too(tables: Tables) -> None:
    mask = np.zeros(20, bool)
    mask[[2, 3, 5, 7]] = True
    for masked, named in ((mask, [2, 3, 5, 7]), (mask.tolist(), [2, 3, 5, 7])):
        a, b = (serve.recommend(tables, allow=allow, k=3).items for allow in (masked, named))
        np.testing.assert_array_equal(a, b)
    assert not np.isin(serve.recommend(tables, deny=mask, k=16).items, [2, 3, 5, 7]).any()
    before = mask.copy()
    for allow in (mask, jnp.asarray(mask)):
        assert not (serve.recommend(tables, allow=allow, deny=[3], k=3).items == 3).any()
    np.testing.assert_array_equal(mask, before)  # it is the caller's


def test_calibration_finds_the_scale_of_known_users() -> None:
    """Of a model whose users are longer than folding in makes them, beside items' biases."""
    known = random_interactions(2, 60, 40, density=0.3)
    item, item_bias = jax.random.normal(jax.random.key(0), (40, 6)), jax.random.normal(jax.random.key(1), (40,))
    folded = serve.fold_in(item, known, item_bias=item_bias, ridge=0.1, weight=10.0)
    for longer in (1.0, 3.0):
        how = serve.calibrate_fold_in(Tables(longer * folded, item, item_bias), known)
        made = serve.fold_in(item, known, item_bias=item_bias, ridge=how.ridge, weight=how.weight)
        lengths = [np.median(np.std(rows @ item.T, axis=1)) for rows in (longer * folded, how.scale * made)]
        assert lengths[0] == pytest.approx(lengths[1], rel=1e-4)
        assert how.scale > 0.5 * longer


def test_the_scale_of_new_users_is_that_of_users_with_a_history() -> None:
    known = random_interactions(2, 60, 40, density=0.3)
    item = 0.01 * jax.random.normal(jax.random.key(0), (40, 6))
    user = serve.fold_in(item, known)
    ledger = frozen.observe(Tables(user, item), known, num_negatives=64, batch_size=256)
    new, how = Interactions([0, 0], [1, 2], 1, 40), serve.FoldIn("dot", 0.1, 10.0, 1.0)
    wanted = frozen.score_scale(serve.with_new_users(Tables(user, item), ledger, new, how=how)[0])[-1]
    cold = Tables(jnp.concatenate([user, jnp.zeros((200, 6))]), item)  # users whose scores are all 0
    found = frozen.score_scale(serve.with_new_users(cold, ledger, new, how=how)[0])[-1]
    assert float(found) == pytest.approx(float(wanted), rel=1e-4) == pytest.approx(frozen.usual_scale(cold), rel=1e-4)


def test_histories_are_whole_numbers(tables: Tables) -> None:
    with pytest.raises(ValueError, match="whole numbers, but history 1 holds float"):
        serve.fold_in(tables.item, [[1], [0.7]])
    assert serve.fold_in(tables.item, [[], []]).shape == (2, D)
    for flat in ([1, 2], np.array([1, 2])):
        with pytest.raises(ValueError, match=r"a list of items for each user, but number 0 has shape \(\)"):
            serve.fold_in(tables.item, flat)


def test_histories_are_of_the_models_items() -> None:
    known = random_interactions(2, 60, 40, density=0.3)
    names = np.array([f"i{n}" for n in range(40)])
    pop, named = models.most_popular(known), dataclasses.replace(known, item_ids=names)
    how, ledger = serve.FoldIn("dot", 0.1, 10.0, 1.0), frozen.observe(pop, known)
    for ids in (None, names):  # row numbers may be all that is known
        correct.appended(pop, ledger, named, Interactions([0], [1], 1, 40, None, ids), how=how)
    with pytest.raises(DataError, match="the item ids differ"):
        correct.appended(pop, ledger, named, Interactions([0], [1], 1, 40, None, names[::-1]), how=how)


def test_a_model_of_popularity_alone_takes_new_users() -> None:
    known = random_interactions(2, 60, 40, density=0.3)
    pop = models.most_popular(known)
    new = Interactions([0], [1], 1, 40)
    found = correct.for_new_users(pop, frozen.observe(pop, known), known, new, {"magnitude": 0.1})
    assert np.isfinite(np.asarray(found.user)).all()


@pytest.mark.parametrize("bias", [None, 2.0])
def test_new_users_are_treated_as_the_others(bias: float | None) -> None:
    """A user who is there already and is appended anew gets the same list, corrected or not, items' biases or not."""
    from jaxrec import correct, frozen

    known = random_interactions(2, 60, 40, density=0.3)
    item = jax.random.normal(jax.random.key(0), (40, 6))
    item_bias = None if bias is None else bias * jax.random.normal(jax.random.key(1), (40,))
    made = Tables(serve.fold_in(item, known, item_bias=item_bias), item, item_bias)
    same = known.select(known.users < 10)
    new = Interactions(same.users, same.items, 10, 40)
    how = serve.FoldIn("dot", 0.1, 10.0, 1.0)
    ledger = frozen.observe(made, known, num_negatives=64, batch_size=256)
    more, longer = serve.with_new_users(made, ledger, new, how=how)
    np.testing.assert_allclose(serve.fold_in(item, new, item_bias=item_bias), made.user[:10], rtol=1e-3, atol=1e-5)
    everybody = Interactions(
        np.concatenate([known.users, new.users + 60]), np.concatenate([known.items, new.items]), 70, 40
    )
    found = correct.correct(more, longer, everybody, {"direction": 0.5, "magnitude": 0.3})
    lists = serve.recommend(found, np.r_[0:10, 60:70], k=10).items
    assert np.mean(lists[:10] == lists[10:]) > 0.95


def test_lists_are_written_with_the_ids_that_came(tables: Tables, tmp_path: Path) -> None:
    ranking = serve.recommend(tables, [3, 1], allow=[4, 6], k=3)
    users, items = np.array([f"u{n}" for n in range(U)]), np.arange(N) + 100
    assert serve.write_lists(tmp_path / "out.run", ranking, users, items, tag="mine") == 4
    lines = [line.split() for line in (tmp_path / "out.run").read_text().splitlines()]
    assert [(x[0], x[1], x[3], x[5]) for x in lines] == [
        ("u3", "Q0", "1", "mine"), ("u3", "Q0", "2", "mine"), ("u1", "Q0", "1", "mine"), ("u1", "Q0", "2", "mine"),
    ]  # fmt: skip
    scores = score_matrix(tables)
    for user, _, item, _, score, _ in lines:
        assert float(score) == pytest.approx(scores[int(user[1:]), int(item) - 100], rel=1e-4)
    serve.write_lists(tmp_path / "out.csv", ranking, users, items)
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [r["item_id"] for r in rows] == [x[2] for x in lines]
    serve.write_lists(tmp_path / "out.parquet", ranking, users, items)
    import polars

    for name in ("out.TREC", "out.run.gz"):
        serve.write_lists(tmp_path / name, ranking, users, items, tag="mine")
        content = (tmp_path / name).read_bytes()
        content = gzip.decompress(content) if name.endswith("gz") else content
        assert content == (tmp_path / "out.run").read_bytes()
    with pytest.raises(DataError, match=r"'.json' can't be written; name it .csv, .tsv, .parquet, .trec or .run"):
        serve.write_lists(tmp_path / "out.json", ranking, users, items)
    assert polars.read_parquet(tmp_path / "out.parquet")["user_id"].to_list() == [x[0] for x in lines]
    with pytest.raises(DataError, match="can't hold white space, but user_id 'a b'"):
        serve.write_lists(tmp_path / "out.run", ranking, np.where(np.arange(U) == 5, "a b", users), items)


def test_a_trec_run_gives_the_metrics_of_this_library(tables: Tables, tmp_path: Path) -> None:
    import ir_measures

    from jaxrec import metrics

    held = data.hold_out_random(random_interactions(0, U, N, density=0.4), 0.3, seed=0)
    ranking = serve.recommend(tables, None, seen=held.train, k=5)
    serve.write_lists(tmp_path / "out.trec", ranking, held.held.user_ids, held.held.item_ids)
    pairs = zip(held.held.users, held.held.items, strict=True)
    judged = [ir_measures.Qrel(str(u), str(i), 1) for u, i in pairs]
    run = list(ir_measures.read_trec_run(str(tmp_path / "out.trec")))
    judge = ir_measures.calc_aggregate([ir_measures.R @ 5], judged, run)
    own = metrics.evaluate(ranking, held.held, held.train, ks=(5,)).summary["recall@5"]
    assert judge[ir_measures.R @ 5] == pytest.approx(own, abs=1e-6)


def test_an_l2_index_finds_the_best_by_score(tables: Tables) -> None:
    found = serve.for_l2_index(tables)
    distance = np.linalg.norm(np.asarray(found.user)[:, None] - np.asarray(found.item)[None], axis=2)
    np.testing.assert_array_equal(distance.argmin(axis=1), score_matrix(tables).argmax(axis=1))


@pytest.mark.filterwarnings("ignore")
def test_faiss_finds_what_top_k_finds(tables: Tables) -> None:
    faiss = pytest.importorskip("faiss", reason="faiss is not installed")
    folded = fold_bias(tables)
    index = faiss.IndexFlatIP(folded.item.shape[1])
    index.add(np.asarray(folded.item))
    scores, items = index.search(np.asarray(folded.user), 5)
    wanted = serve.recommend(tables, k=5)
    np.testing.assert_array_equal(items, wanted.items)
    np.testing.assert_allclose(scores, wanted.scores, rtol=1e-4, atol=1e-5)


def test_a_saved_scorer_is_the_ranking(tables: Tables, tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed")
    from jaxrec import export

    ids = np.array([f"i{n}" for n in range(N)])
    export.save_scorer(tmp_path / "scorer.npz", tables, k=5, item_ids=ids)
    saved = export.load_scorer(tmp_path / "scorer.npz")
    folded = fold_bias(tables)
    ranked = jax.jit(rank.rank_block, static_argnums=3)
    for users, excluded in ((np.arange(U), np.full((U, 1), N)), (np.array([7, 2]), np.array([[1, 2, N], [5, N, N]]))):
        items, scores = saved.rank(users, excluded)
        wanted = ranked(folded, jnp.asarray(users), jnp.asarray(excluded), 5)
        np.testing.assert_array_equal(items, wanted[0])
        np.testing.assert_allclose(scores, wanted[1], rtol=1e-6)
    assert saved.item_ids[3] == "i3"
    np.savez(tmp_path / "other.npz", user=np.ones(2))
    with pytest.raises(DataError, match=r"other\.npz is damaged or of another kind"):
        export.load_scorer(tmp_path / "other.npz")


def test_a_saved_scorer_answers_for_its_own_rows_only(tables: Tables, tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed")
    from jaxrec import export

    export.save_scorer(tmp_path / "scorer.npz", tables, k=N)
    ranked = export.load_scorer(tmp_path / "scorer.npz").rank
    users, seen = np.array([3, 1]), random_interactions()
    by_fill = [ranked(users, rank.pad_lists(seen, users, fill))[0] for fill in (-1, N)]
    np.testing.assert_array_equal(*by_fill)
    assert (N - 1 in by_fill[0][0]) == (N - 1 not in seen.items[seen.users == 3])
    whole = ranked(users, np.full((2, 1), N))[0]
    np.testing.assert_array_equal(ranked(users, np.zeros((2, 0), int))[0], whole)
    assert [found.shape for found in ranked(users[:0], np.zeros((0, 3), int))] == [(0, N), (0, N)]
    for rows in ([U], [-1]):
        with pytest.raises(ValueError, match=rf"users must be in 0..{U - 1}, got {rows[0]}"):
            ranked(np.array(rows), np.full((1, 1), N))
    for masks in ([[N + 1]], [[-2]]):
        with pytest.raises(ValueError, match=rf"excluded must name items in 0..{N - 1}, .* got {masks[0][0]}"):
            ranked(np.array([0]), np.array(masks))
    for shape in ((1, 3), (2,)):
        with pytest.raises(ValueError, match="excluded must hold a row of whole numbers for each of 2 users"):
            ranked(users, np.zeros(shape, int))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RUN folder of a small model with text ids."""
    path = tmp_path_factory.mktemp("serve")
    pairs = random_interactions(1, users=80, items=50, density=0.3)
    names = Interactions(
        pairs.users, pairs.items, 80, 50, np.array([f"u{n}" for n in range(80)]), np.array([f"i{n}" for n in range(50)])
    )
    data.write(path / "all.csv", names)
    small = ["--width", "8", "--epochs", "2", "--evaluate-every", "2", "--budget", "6", "--negatives", "16"]
    arguments = ["train", str(path / "all.csv"), "--out", str(path / "run"), "--batch-size", "256", *small]
    assert cli.main(arguments) == 0
    return path


def test_ids_with_blanks_around_them_can_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_text("a \n  b\n\nc\n")
    found = _rows_of(tmp_path / "users.txt", np.array(["c", "a ", "b"]), "user", tmp_path)
    assert found.tolist() == [1, 2, 0]
    (tmp_path / "users.txt").write_text("\n\n")
    with pytest.raises(ValueError, match=r"users.txt names no user; give one id a line"):
        _rows_of(tmp_path / "users.txt", np.array(["c", "a ", "b"]), "user", tmp_path)
    (tmp_path / "users.txt").write_text("c\na\n")
    with pytest.raises(ValueError, match=r"users.txt:2: user 'a' is unknown"):
        _rows_of(tmp_path / "users.txt", np.array(["c", "a ", "b"]), "user", tmp_path)


def test_lists_of_ids_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "deny.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\r\n")
    assert _rows_of(tmp_path / "deny.txt", np.array(["b", "a"]), "item", tmp_path).tolist() == [1, 0]
    (tmp_path / "deny.txt").write_bytes("\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"deny\.txt: not UTF-8 text"):
        _rows_of(tmp_path / "deny.txt", np.array(["b", "a"]), "item", tmp_path)


def test_recommend_filters_and_folds_in_by_the_command_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "allow.txt").write_text("\n".join(f"i{n}" for n in range(0, 50, 2)) + "\n")
    (run / "deny.txt").write_text("i4\n\n")
    new = "ann,i3\nann,i5\nann,i7\nabe,new\nbob,i1\nbob,i9\nbob,unheard\ncy,new\n"
    (run / "new.csv").write_text(f"user_id,item_id\n{new}")
    filters = ["--allow", str(run / "allow.txt"), "--deny", str(run / "deny.txt")]
    history = ["--histories", str(run / "new.csv")]
    for arm in ("adjusted", "plain"):
        out = run / f"{arm}.run"
        more = ["-k", "3", "--arm", arm, "--out", str(out)]
        assert cli.main(["recommend", str(run / "run"), *filters, *history, *more]) == 0
        rows = [line.split() for line in out.read_text().splitlines()]
        assert [r[0] for r in rows] == ["ann"] * 3 + ["bob"] * 3
        assert all(int(r[2][1:]) % 2 == 0 and r[2] != "i4" for r in rows)
    told = capsys.readouterr().out
    assert "3 pairs of unknown users or items left out" in told
    assert "2 users of whom no item is known left out, the first is abe" in told
    assert cli.main(["recommend", str(run / "run"), *history, "-k", "50", "--seen", "--out", str(run / "s.csv")]) == 0
    shown = [r["item_id"] for r in csv.DictReader((run / "s.csv").read_text().splitlines()) if r["user_id"] == "ann"]
    assert sorted(shown) == sorted(f"i{n}" for n in range(50))
    (run / "allow.txt").write_text("i1\nx\n")
    assert cli.main(["recommend", str(run / "run"), *filters, "--out", str(run / "s.csv")]) == 1
    assert "allow.txt:2: item 'x' is unknown" in capsys.readouterr().err


def test_a_known_user_with_a_history_is_not_told_what_the_run_knows_of_them(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = runs.load_split(run / "run")
    owned = set(split.train.item_ids[split.train.items[split.train.users == 0]].tolist())  # the first is u0
    (run / "more.csv").write_text("user_id,item_id\nu0,i3\nann,i3\nbob,i1\nbob,i9\ncy,i5\n")
    options = ["--histories", str(run / "more.csv"), "-k", "50", "--out", str(run / "more.run")]
    assert cli.main(["recommend", str(run / "run"), *options]) == 0
    assert "note: 1 users are known to" in capsys.readouterr().out
    rows = [line.split() for line in (run / "more.run").read_text().splitlines()]
    for user, left_out in (("u0", owned | {"i3"}), ("ann", {"i3"})):
        assert {r[2] for r in rows if r[0] == user} == {f"i{n}" for n in range(50)} - left_out
    for ids in (np.array([30, 10]), np.array(["30", "10"])):  # 7 and "7" are one
        found = _of_users(data.from_pairs([10, 20], [5, 6]), Interactions([0], [0], 2, 2, ids, np.array([6, 5])))
        assert (found.users.tolist(), found.items.tolist()) == ([1], [1])


def test_users_asked_for_twice_get_one_list(tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_text("c\na\nc\nb\na\n")
    assert _rows_of(tmp_path / "users.txt", np.array(["a", "b", "c"]), "user", tmp_path).tolist() == [2, 0, 1]


@pytest.mark.parametrize("option", ["users", "histories", "allow", "deny"])
def test_lists_never_replace_what_is_read(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.csv").write_text("mine")
    (tmp_path / "same.csv").symlink_to(tmp_path / "mine.csv")
    for out in ("mine.csv", "same.csv"):
        given = [f"--{option}", str(tmp_path / "mine.csv"), "--out", str(tmp_path / out)]
        assert cli.main(["recommend", str(tmp_path / "run"), *given]) == 1
        assert f"{out} is a file that is read, which would be lost" in capsys.readouterr().err
    assert (tmp_path / "mine.csv").read_text() == "mine"


def test_where_lists_go_is_looked_at_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = {"x.doc": "can't be written; name it", "nowhere/x.csv": "nowhere is no folder"}
    refused["x.parquet.gz"] = "parquet is compressed within and takes no .gz; leave that off"
    for out, message in refused.items():
        assert cli.main(["recommend", str(tmp_path / "no run"), "--out", str(tmp_path / out)]) == 1
        assert message in capsys.readouterr().err


def test_lists_are_written_with_ids_of_any_kind_of_list(tables: Tables, tmp_path: Path) -> None:
    found = serve.recommend(tables, np.array([1]), k=2)
    users, items = [f"u{n}" for n in range(len(tables.user))], list(range(len(tables.item)))
    serve.write_lists(tmp_path / "x.csv", found, users, items)  # type: ignore[arg-type]
    rows = list(csv.reader((tmp_path / "x.csv").read_text().splitlines()))
    assert [row[:2] for row in rows[1:]] == [["u1", str(item)] for item in found.items[0]]


@pytest.mark.parametrize("text", ["direction=nan", "direction=1e400", "direction=1,direction=2", "direction"])
def test_strengths_are_finite_and_given_once(text: str) -> None:
    assert strengths_in("direction=1, pull=-.5") == {"direction": 1.0, "pull": -0.5}
    with pytest.raises(ValueError, match=r"--adjust (wants name=number|names 'direction' twice)"):
        strengths_in(text)


def test_gradients_of_new_users_are_read_at_the_temperature_of_the_others(tables: Tables) -> None:
    known = random_interactions(0, U, N)
    ledger = frozen.observe(tables, known, temperature=4.0)
    how = serve.FoldIn("dot", 0.1, 10.0, 1.0, 1.0)
    more, joined, _ = correct.appended(tables, ledger, known, known, how=how, temperature=4.0)
    wanted = frozen.observe(Tables(more.user[U:], more.item, more.item_bias), known, temperature=4.0).users.pull
    np.testing.assert_allclose(joined.users.pull.size[U:], wanted.size, rtol=1e-6)
    other = serve.with_new_users(tables, ledger, known, how=how)[1].users.pull
    assert not np.allclose(joined.users.pull.size[U:], other.size[U:], rtol=1e-2)


@pytest.mark.parametrize("biased", [False, True])
def test_new_users_are_corrected_as_the_others_are(biased: bool) -> None:
    train = data.synthetic(seed=0, num_users=300, num_items=200).split.train
    tables = models.spectral(train, width=16)
    if biased:
        bias = 0.1 * jnp.std(tables.user @ tables.item.T) * jnp.log1p(jnp.asarray(train.item_counts, jnp.float32))
        tables = fold_bias(tables._replace(item_bias=bias))
    ledger = frozen.observe(tables, train)
    corrected = correct.correct(tables, ledger, train, {"magnitude": 1.0})
    again = train.select(train.users < 80)  # known users, as if they were new
    again = Interactions(again.users, again.items, 80, train.num_items)
    new = correct.for_new_users(tables, ledger, train, again, {"magnitude": 1.0})

    def popularity(found: Tables) -> float:
        return float(np.mean(train.item_counts[rank.top_k(found, np.arange(80), None, k=20).items]))

    plain, wanted, got = (popularity(found) for found in (tables, corrected, new))
    assert wanted < plain / 2  # the correction does something
    assert abs(got - wanted) < (plain - wanted) / 4
    pairs = zip(score_matrix(corrected)[:80], score_matrix(new), strict=True)
    assert np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs]) > 0.8
