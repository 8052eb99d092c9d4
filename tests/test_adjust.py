"""Correcting models that are trained already: the ledger off frozen tables, selection, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars
import pytest
from conftest import random_interactions

import jaxrec
from jaxrec import adapters, cli, correct, data, embeddings, frozen, models, objectives, runs, samplers, select, serve
from jaxrec import ledger as ledgers
from jaxrec.commands.adjust import alike
from jaxrec.data import DataError, Interactions
from jaxrec.report import compare
from jaxrec.transforms.adjustment import fold_bias
from jaxrec.types import Tables

U, N, D = 30, 20, 4


@pytest.fixture
def tables() -> Tables:
    keys = jax.random.split(jax.random.key(1), 3)
    return Tables(*(jax.random.normal(k, s) for k, s in zip(keys, ((U, D), (N, D), (N,)), strict=True)))


def test_observe_is_a_loop_over_the_interactions(tables: Tables, interactions: Interactions) -> None:
    """Every gradient of BPR with a negative of its own, by hand, for the very batches that the sampler draws."""
    key = jax.random.key(5)
    found = frozen.observe(
        tables, interactions, objectives.bpr(), num_negatives=1, shared=False, batch_size=16, temperature=0.5, key=key
    )
    sampler = samplers.sampler(interactions, batch_size=16, num_negatives=1, reject=True)
    epoch_key = jax.random.fold_in(jax.random.split(key)[1], 0)
    u = np.c_[np.asarray(tables.user, np.float64), np.ones(U)] / 0.5
    v = np.c_[np.asarray(tables.item, np.float64), np.asarray(tables.item_bias)]
    pull, push = np.zeros((2, N, D + 1))
    p, n = np.zeros((2, N))
    user_pull, user_push = np.zeros((2, U, D + 1))
    events = 0
    draw = jax.jit(sampler.draw)
    for step in range(sampler.num_batches):
        batch = draw(sampler.data, epoch_key, jnp.int32(step))
        for a, i, j in zip(*(np.asarray(x).ravel() for x in batch[:3]), strict=True):
            w = 1 / (1 + np.exp(u[a] @ (v[i] - v[j])))
            pull[i] += w * u[a]
            push[j] -= w * u[a]
            p[i] += w * np.linalg.norm(u[a])
            n[j] += w * np.linalg.norm(u[a])
            user_pull[a] += w * v[i]
            user_push[a] -= w * v[j]
            events += 1
    for role, vector in ((found.items.pull, pull), (found.items.push, push)):
        np.testing.assert_allclose(role.vector, vector, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.items.pull.size, p, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.items.push.size, n, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.users.pull.vector, user_pull, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.users.push.vector, user_push, rtol=1e-3, atol=1e-3)
    assert float(found.items.pull.events.sum()) == events == sampler.num_batches * sampler.batch_size
    assert bool(jnp.all(jnp.isfinite(tables.user)))  # the caller's tables were not given away


def test_own_and_shared_negatives_stand_for_the_same_softmax() -> None:
    """A pair's negatives, weighed by logQ, stand for all items that the user does not have: p_i ≈ that of them all."""
    known = random_interactions(4, 30, 200, density=0.05)
    rng = np.random.default_rng(0)
    tables = Tables(*(jnp.asarray(rng.normal(0, 1, (n, 3)), jnp.float32) for n in (30, 200)))
    score = np.asarray(tables.user, np.float64) @ np.asarray(tables.item, np.float64).T
    has = np.zeros((30, 200), bool)
    has[known.users, known.items] = True
    rest = np.where(has, 0, np.exp(score)).sum(1)
    weight = rest[known.users] / (rest[known.users] + np.exp(score[known.users, known.items]))  # 1 − p_i
    wanted = float(np.sum(weight * np.linalg.norm(np.asarray(tables.user), axis=1)[known.users]))
    for shared in (True, False):
        seen = frozen.observe(
            tables, known, passes=8, shared=shared, num_negatives=32, temperature=1.0, batch_size=len(known)
        )
        assert float(seen.items.pull.size.sum()) / 8 == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("bits", [jnp.bfloat16, jnp.float16])
def test_tables_of_16_bits_are_read_as_those_of_32(bits: Any, tables: Tables, interactions: Interactions) -> None:
    narrow = jax.tree.map(lambda rows: rows.astype(bits), tables)
    wide = jax.tree.map(lambda rows: rows.astype(jnp.float32), narrow)
    np.testing.assert_array_equal(frozen.score_scale(narrow), frozen.score_scale(wide))
    found, wanted = (frozen.observe(t, interactions, temperature=0.5) for t in (narrow, wide))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    many = Tables(jnp.ones((1, 2), bits), jnp.tile(jnp.asarray([[3.0, 1.0], [-3.0, 1.0]], bits), (100_000, 1)))
    assert frozen.score_scale(many).tolist() == pytest.approx([3.0], rel=1e-3)


def test_passes_add_up(tables: Tables, interactions: Interactions) -> None:
    found = frozen.observe(tables, interactions, passes=3, num_negatives=8, batch_size=len(interactions))
    np.testing.assert_array_equal(found.items.pull.events, 3 * interactions.item_counts)


def test_the_spread_of_scores_is_taken_from_the_covariance(tables: Tables) -> None:
    folded = fold_bias(tables)
    wanted = np.std(np.asarray(folded.user @ folded.item.T), axis=1)
    np.testing.assert_allclose(frozen.score_scale(tables), wanted, rtol=1e-4)
    even, scale = frozen.standardize(tables)
    np.testing.assert_allclose(np.std(np.asarray(even.user @ even.item.T), axis=1), np.ones(U), rtol=1e-4)
    np.testing.assert_allclose(frozen.scale_users(even, scale).user, folded.user, rtol=1e-5)


def softmax_world(temperature: float, seed: int = 0) -> tuple[Tables, Interactions]:
    """Pairs drawn from P(i | u) ∝ exp(s_ui / temperature)."""
    rng = np.random.default_rng(seed)
    user, item = rng.normal(size=(200, 6)), rng.normal(size=(80, 6))
    logits = user @ item.T / temperature
    chosen = np.argsort(-(logits + rng.gumbel(size=logits.shape)), axis=1)[:, 0]
    tables = Tables(jnp.asarray(user, jnp.float32), jnp.asarray(item, jnp.float32))
    return tables, Interactions(np.arange(200), chosen, 200, 80)


def test_the_temperature_is_found_again_and_follows_the_scale() -> None:
    tables, pairs = softmax_world(2.0)
    found = frozen.fit_temperature(tables, pairs)
    assert found == pytest.approx(2.0, rel=0.25)
    small = frozen.scale_users(tables, jnp.full(200, 0.01))
    assert frozen.fit_temperature(small, pairs) == pytest.approx(0.01 * found, rel=1e-2)
    for scale in (2.0**-20, 2.0**20):  # in whatever units the scores are
        other = frozen.fit_temperature(tables._replace(user=scale * tables.user), pairs)
        assert other == pytest.approx(scale * found, rel=1e-3)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_users_without_scores_or_interactions_do_not_move_the_temperature(scale: float) -> None:
    tables, pairs = softmax_world(2.0)
    found = frozen.fit_temperature(tables, pairs)
    rng = np.random.default_rng(1)
    for rows in (np.zeros((1000, 6)), 1e6 * rng.normal(size=(1000, 6))):
        user = jnp.concatenate([tables.user, jnp.asarray(rows, jnp.float32)])
        more = Interactions(pairs.users, pairs.items, 1200, 80)
        other = frozen.fit_temperature(tables._replace(user=scale * user), more)
        assert other == pytest.approx(scale * found, rel=1e-3)
    nothing = tables._replace(user=jnp.zeros_like(tables.user))
    assert frozen.fit_temperature(nothing, pairs) > 0


def test_a_fitted_temperature_reads_gradients_where_scores_are_small() -> None:
    """At the wrong scale every gradient is alike, and magnitudes tell the count; at a fitted one they tell more."""
    tables, pairs = softmax_world(0.5)
    small = frozen.scale_users(tables, jnp.full(200, 1e-3))

    def spread(temperature: float | str) -> float:
        found = frozen.observe(small, pairs, temperature=temperature, num_negatives=32, batch_size=64)  # type: ignore[arg-type]
        weight = found.users.pull.size / jnp.maximum(found.users.pull.events, 1.0)
        own = jnp.linalg.norm(small.item[pairs.items], axis=1)[jnp.argsort(jnp.asarray(pairs.users))]
        return float(jnp.std(weight / own) / jnp.mean(weight / own))

    assert spread(1.0) < 0.01
    assert spread("fit") > 0.3


def test_known_positives_are_left_out_though_one_user_has_every_item() -> None:
    pairs = random_interactions(users=30, items=30)
    like = pairs.to_scipy().toarray() > 0
    like[4] = True
    full = Interactions(*np.nonzero(like), num_users=30, num_items=30)  # type: ignore[misc]
    keys = jax.random.split(jax.random.key(1))
    tables = Tables(*(jax.random.normal(k, (30, D)) for k in keys))
    found = frozen.observe(tables, full, num_negatives=64)
    assert np.flatnonzero(found.users.push.size == 0).tolist() == [4]
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(found))
    before = frozen.observe(tables, pairs, num_negatives=64)
    assert float(found.items.push.events.sum()) < 1.1 * float(before.items.push.events.sum())
    with pytest.raises(ValueError, match="user 4 has every item"):
        frozen.observe(tables, full, objectives.bpr(), num_negatives=1, shared=False)


def test_observe_tells_what_does_not_fit(tables: Tables, interactions: Interactions) -> None:
    with pytest.raises(ValueError, match=r"interactions must cover the tables' 30 users and 20 items, got 2 and 2"):
        frozen.observe(tables, Interactions([0], [1], 2, 2))
    with pytest.raises(ValueError, match="passes must be at least 1"):
        frozen.observe(tables, interactions, passes=0)
    with pytest.raises(ValueError, match='temperature must be positive or "fit"'):
        frozen.observe(tables, interactions, temperature=0.0)


def test_the_scale_of_a_user_is_their_own() -> None:
    """Also beside one whose scores are a million times as large."""
    item = jax.random.normal(jax.random.key(0), (50, 3))
    user = jnp.array([[4e6, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    found = frozen.score_scale(Tables(user, item))
    np.testing.assert_allclose(found, [4e6 * jnp.std(item[:, 0]), 3 * jnp.std(item[:, 1]), 1], rtol=1e-4)


def test_names_that_an_arm_has_not_are_told(tables: Tables, interactions: Interactions) -> None:
    ledger = frozen.observe(tables, interactions, temperature=1.0, num_negatives=8)
    with pytest.raises(ValueError, match="there is no arm 'nope'; there are adjusted, count_control, tten"):
        correct.correct(tables, ledger, interactions, {"direction": 0.5}, arm="nope")
    with pytest.raises(ValueError, match="there is no strength 'bogus'"):
        correct.correct(tables, ledger, interactions, {"bogus": 0.0})


def test_strengths_of_zero_give_the_tables_bit_for_bit(tables: Tables, interactions: Interactions) -> None:
    ledger = ledgers.init(U, N, D)
    plain = tables._replace(item_bias=None)
    found = correct.correct(plain, ledger, interactions, {"direction": 0.0, "magnitude": 0.0})
    assert found.user is plain.user
    assert found.item is plain.item
    folded = correct.correct(tables, ledger, interactions, {})
    np.testing.assert_array_equal(folded.user[:, :D], tables.user)
    np.testing.assert_array_equal(folded.item[:, D], tables.item_bias)


def test_corrected_scores_are_on_the_scale_of_the_models_own(interactions: Interactions) -> None:
    """The scale of a user's scores changes nothing but the scale of the result, whatever the offset."""
    keys = jax.random.split(jax.random.key(1))
    tables = Tables(jax.random.normal(keys[0], (U, D)), jax.random.normal(keys[1], (N, D)))
    ledger = frozen.observe(tables, interactions, num_negatives=8, batch_size=32, temperature=1.0)
    factor = jnp.linspace(0.1, 5.0, U)
    strengths = {"direction": 0.4, "magnitude": 0.2, "pull": 0.3, "push": 0.2}
    once = correct.correct(tables, ledger, interactions, strengths)
    scaled = correct.correct(frozen.scale_users(tables, factor), ledger, interactions, strengths)
    np.testing.assert_allclose(
        scaled.user @ scaled.item.T, factor[:, None] * (once.user @ once.item.T), rtol=1e-3, atol=1e-3
    )
    with pytest.raises(ValueError, match="there is no strength 'mass'"):
        correct.correct(tables, ledger, interactions, {"mass": 1.0})


def test_leaving_out_refits_the_users_of_a_model_that_fold_in_made() -> None:
    known = random_interactions(3, 60, 40, density=0.3)
    item = jax.random.normal(jax.random.key(0), (40, 6))
    made = Tables(serve.fold_in(item, known), item)
    rest = data.hold_out_random(known, 0.2, seed=0).train
    found = correct.leave_out(made, known, rest)
    np.testing.assert_allclose(found.user, serve.fold_in(item, rest), rtol=1e-2, atol=1e-3)
    assert not np.allclose(found.item, item)


def test_the_uniform_part_takes_a_few_of_each_item() -> None:
    pairs = random_interactions(0, U, N, density=0.5)
    part = correct.uniform_part(pairs, 2, seed=1)
    np.testing.assert_array_equal(part.item_counts, np.minimum(pairs.item_counts, 2))
    assert data.contains(pairs, part.keys).all()
    assert not np.array_equal(part.keys, correct.uniform_part(pairs, 2, seed=0).keys)
    skewed = Interactions(np.arange(10), [0] * 8 + [1, 2], 10, 3)  # by default as many as the median item has
    assert correct.uniform_part(skewed).item_counts.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="per_item must be at least 1"):
        correct.uniform_part(pairs, 0)


@pytest.fixture(scope="module")
def world() -> tuple[data.Split, Tables]:
    """A world of known preferences, and a model that was trained on it without a word of popularity."""
    held = correct.small_carve(data.synthetic(seed=0, num_users=800, num_items=300, seen=0.2).split.train)
    return held, models.ials(held.train, 16, epochs=4)


def unseen(held: data.Split) -> Interactions:
    return data.union(*held.valid.values())


def test_adjust_selects_and_corrects(world: tuple[data.Split, Tables]) -> None:
    held, tables = world
    found = jaxrec.adjust(tables, held.train, unseen(held), budget=12, k=10, per_item=2)
    tried = [point.metrics["unbiased"]["ndcg@10"] for point in found.frontier["adjusted"]]
    assert found.selected["adjusted"].metrics["unbiased"]["ndcg@10"] == max(tried) > min(tried)
    assert set(found.validation["unbiased"]) == {"plain", "adjusted", "count_control", "tten"}
    assert {arm: len(points) for arm, points in found.frontier.items()} == dict.fromkeys(correct.ARMS, 12)
    assert "natural" in found.notes[-1]
    np.testing.assert_array_equal(found.plain.user, tables.user)
    scores = found.tables.user @ found.tables.item.T
    assert scores.shape == (800, 300)
    assert bool(jnp.all(jnp.isfinite(scores)))


def test_adjust_by_exposure(world: tuple[data.Split, Tables]) -> None:
    held, tables = world
    found = jaxrec.adjust(tables, held.train, unseen(held), family="exposure", budget=8, k=10)
    assert set(found.strengths) == {"exposure", "pull"}
    assert found.validation["unbiased"]["adjusted"] != found.validation["unbiased"]["plain"]
    again = correct.correct(tables, found.ledger, held.train, found.strengths, family="exposure")
    np.testing.assert_array_equal(again.item, found.tables.item)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> dict[str, list]:
    """`adjust` with points that were measured beforehand; what it observed, selected on and reported on."""
    seen: dict[str, list] = {"observed": [], "selected": [], "reported": []}
    arm = select.Arm(("a",), (0.0,), (1.0,), lambda s: lambda tables, ledger: tables)

    def observe(tables: Tables, interactions: Interactions, *args: Any, **options: Any) -> Any:
        seen["observed"].append(interactions.fingerprint)

    def prepared(tables: Tables, ledger: Any, train: Any, valid: Any, **options: Any) -> tuple[None, dict]:
        seen["selected"] += [user for part in valid.values() for user in part.users]
        return None, dict.fromkeys(correct.ARMS, arm)

    def look(tables: Tables, ledger: Any, shown: data.Split, *others: Any) -> tuple[dict, list]:
        seen["reported"] += [user for part in shown.tests.values() for user in part.users]
        return {}, []

    measured = [select.Point({"a": s}, {"natural": {"ndcg@5": 1 - s}, "unbiased": {"ndcg@5": s}}) for s in (0, 0.1, 1)]
    monkeypatch.setattr(frozen, "observe", observe)
    monkeypatch.setattr(select, "frontier", lambda *args, **options: measured)
    monkeypatch.setattr(correct, "_prepared", prepared)
    monkeypatch.setattr(correct, "_look", look)
    monkeypatch.setattr(correct.explore, "grid", lambda *args, **options: {})
    monkeypatch.setattr(correct, "correct", lambda tables, *args, **options: tables)
    return seen


def test_adjust_may_select_by_what_is_lost(quick: dict[str, list], tables: Tables) -> None:
    held = data.carve(random_interactions(0, U, N, density=0.5), seed=0)
    for how, loss, strength in (("loss", 0.25, 0.1), ("unbiased", 0.1, 1)):
        options: dict[str, Any] = {"select": how, "max_loss": loss, "k": 5, "temperature": 1.0}
        assert jaxrec.adjust(tables, held.train, unseen(held), **options).strengths == {"a": strength}


@pytest.mark.parametrize(("users", "others"), [(900, 500), (599, 0)])
def test_few_users_to_select_on_leave_others_to_report_on(users: int, others: int) -> None:
    valid = Interactions(np.arange(users), np.ones(users, int), users, 2)
    part = data.Split(Interactions([0], [0], users, 2), valid={"natural": valid})
    chosen, told = correct._users(part, 100, 0)
    assert len(chosen) == 100
    assert len(set(told.tolist()) - set(chosen.tolist())) == others


def test_without_validation_pairs_those_held_out_are_not_observed_and_others_reported_on(
    quick: dict[str, list],
) -> None:
    whole = random_interactions(3, 3000, 40, density=0.3)
    tables = Tables(jnp.ones((3000, D)), jnp.ones((40, D)))
    jaxrec.adjust(tables, whole, select_users=500, k=5, temperature=1.0, leave_out="none")
    assert quick["observed"] == [whole.fingerprint, correct.small_carve(whole, seed=0).train.fingerprint]
    assert not set(quick["reported"]) & set(quick["selected"])
    assert len(set(quick["reported"])) >= 500


def test_adjust_wants_interactions(tables: Tables, interactions: Interactions) -> None:
    with pytest.raises(TypeError, match=r"interactions must be Interactions, got csr_array; data\.from_scipy makes"):
        jaxrec.adjust(tables, interactions.to_scipy())
    with pytest.raises(TypeError, match=r"valid must be Interactions, got dict; data\.from_scipy makes"):
        jaxrec.adjust(tables, interactions, {"natural": interactions})  # type: ignore[arg-type]


def test_adjust_tells_what_does_not_fit(world: tuple[data.Split, Tables]) -> None:
    held, tables = world
    with pytest.raises(DataError, match=r"valid must have the rows and ids of the interactions.*got .*1 users x"):
        correct.adjust(tables, held.train, Interactions([0], [0], 1, 1), budget=1)
    with pytest.raises(DataError, match="no validation pair is left"):
        correct.adjust(tables, held.train, held.train, budget=1)
    with pytest.raises(ValueError, match="family must be 'gradients' or 'exposure', got 'pushes'"):
        correct.adjust(tables, held.train, unseen(held), family="pushes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="select must be 'unbiased' or 'loss'"):
        correct.adjust(tables, held.train, select="both")  # type: ignore[arg-type]
    for loss, message in ((3.0, "0 to 1, got 3.0"), (0.05, "max_loss 0.05 is read with select='loss' only")):
        with pytest.raises(ValueError, match=message):
            correct.adjust(tables, held.train, max_loss=loss)
    with pytest.raises(ValueError, match=r"leave_out must be one of \['estimate', 'none'\]"):
        correct.adjust(tables, held.train, leave_out="all")  # type: ignore[arg-type]


@pytest.mark.parametrize("side", ["user_ids", "item_ids"])
def test_interactions_must_mean_the_models_rows(
    quick: dict[str, list], world: tuple[data.Split, Tables], side: str
) -> None:
    """A model that knows its ids, as those of Cornac do, and interactions that were read by themselves."""
    held, tables = world
    size = getattr(held.train, side.replace("_ids", "s")).max() + 1
    model = adapters.from_arrays(tables.user, tables.item, **{side: np.arange(size)[::-1]})
    with pytest.raises(DataError, match=rf"{side[:4]} ids, but {side[:4]} row 0 is 0, the model's {size - 1}"):
        correct.adjust(model, held.train, budget=1)
    text = adapters.from_arrays(tables.user, tables.item, **{side: np.arange(size).astype(str)})
    with pytest.raises(DataError, match="text ids to text ids"):
        correct.adjust(text, held.train, budget=1)
    moved = data.reindex(held.train, model.user_ids, model.item_ids)
    again = data.reindex(unseen(held), model.user_ids, model.item_ids)
    assert correct.adjust(model, moved, again, k=5, temperature=1.0).strengths
    assert quick["observed"] == [moved.fingerprint]
    with pytest.raises(DataError, match="valid must have the rows and ids of the interactions"):
        correct.adjust(model, moved, unseen(held), budget=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, world: tuple[data.Split, Tables]) -> Path:
    """Files of a model: embeddings, biases, text ids, interactions and validation pairs."""
    path = tmp_path_factory.mktemp("model")
    held, tables = world
    np.save(path / "U.npy", np.asarray(tables.user))
    np.save(path / "V.npy", np.asarray(tables.item))
    np.save(path / "b.npy", np.linspace(-0.1, 0.1, 300))
    np.savetxt(path / "c.txt", np.linspace(-1, 1, 800))
    users, items = np.array([f"u{n}" for n in range(800)]), np.array([f"i{n}" for n in range(300)])
    (path / "users.txt").write_text("\n".join(users) + "\n")
    np.save(path / "items.npy", items)
    for name, part in (("train", held.train), ("valid", unseen(held))):
        data.write(path / f"{name}.csv", Interactions(part.users, part.items, 800, 300, users, items))
        data.write(path / f"{name}.parquet", part)
    return path


def command(folder: Path, out: str, *more: str, train: str = "train.csv", ids: bool = True) -> list[str]:
    given = ["--user-ids", str(folder / "users.txt"), "--item-ids", str(folder / "items.npy")] if ids else []
    files = ["--user", str(folder / "U.npy"), "--item", str(folder / "V.npy"), "--interactions", str(folder / train)]
    return ["adjust", *files, *given, "--out", str(folder / out), "--budget", "4", "--per-item", "2", *more]


def test_the_command_writes_what_others_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    biases = ["--item-bias", str(folder / "b.npy"), "--user-bias", str(folder / "c.txt")]
    formats = ["--format", "npy", "safetensors", "parquet"]
    assert cli.main(command(folder, "out", "--valid", str(folder / "valid.csv"), *biases, *formats)) == 0
    assert "validation, on the" in capsys.readouterr().out
    out = folder / "out"
    further = [name for form in formats[1:] for name in embeddings.file_names(form)]
    written = {*runs.RESULTS, "history.jsonl", "report.html", *further} - {"exposure.json"}
    assert {path.name for path in out.iterdir()} == written
    found = json.loads((out / "adjust.json").read_text())
    assert found["model_has_seen_validation"] is False
    assert set(found["validation"]["unbiased"]) == {"plain", "adjusted", "count_control", "tten"}
    saved = runs.load_tables(out)
    plain = np.load(folder / "U.npy") @ np.load(folder / "V.npy").T
    wanted = plain + np.load(folder / "b.npy") + np.linspace(-1, 1, 800)[:, None]
    np.testing.assert_allclose(saved.plain.user @ saved.plain.item.T, wanted, rtol=1e-4, atol=1e-5)
    for name in ("user", "item"):
        with np.load(out / "embeddings.npz", allow_pickle=False) as arrays:
            rows, ids = arrays[name], arrays[f"{name}_ids"]
        np.testing.assert_array_equal(embeddings.read_matrix(out / f"{name}.npy", name)[0], rows)
        for file in (f"{name}.parquet", "embeddings.safetensors"):
            again, own = embeddings.read_matrix(out / file, name)
            np.testing.assert_array_equal(again, rows)
            assert own is not None
            assert own.tolist() == ids.tolist()
        assert ids[7] == f"{name[0]}7"
    assert cli.main(["recommend", str(out), "--out", str(out / "user.parquet")]) == 1
    assert "holds embeddings of" in capsys.readouterr().err
    assert embeddings.read_matrix(out / "user.parquet", "user")[1] is not None
    page = (out / "report.html").read_text()
    assert "unbiased validation" in page
    grid = json.loads((out / "grid.json").read_text())
    assert [s["name"] for s in grid["strengths"]] == list(found["strengths"])
    assert 'type="range"' in page
    assert grid["items"][0]["item"].startswith("i")
    assert cli.main(["recommend", str(out), "-k", "3", "--out", str(folder / "recs.run")]) == 0
    rows = [line.split() for line in (folder / "recs.run").read_text().splitlines()]
    chosen = ",".join(f"{name}={value}" for name, value in found["strengths"].items())
    again = ["--adjust", chosen, "-k", "3", "--out", str(folder / "again.run")]
    assert cli.main(["recommend", str(out), *again]) == 0
    assert [line.split()[:4] for line in (folder / "again.run").read_text().splitlines()] == [r[:4] for r in rows]
    assert rows[0][0] == "u0"
    assert not any("unknown" in note for note in found["notes"])
    owned = {line for line in (folder / "train.csv").read_text().splitlines()}
    assert not any(f"{r[0]},{r[2]}" in owned for r in rows)
    assert cli.main(command(folder, "out")) == 1
    assert "holds a model or a run already (embeddings.npz)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["user.npy", "item_ids.npy", "user.parquet", "embeddings.safetensors", "report.html"])
def test_no_file_of_the_users_is_overwritten(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine")
    formats = ["--format", "npy", "safetensors", "parquet"]
    assert cli.main(command(folder, str(tmp_path), "--interactions", "nowhere.csv", *formats)) == 1
    assert f"FileExistsError: {tmp_path} holds a model or a run already ({name})" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_without_validation_pairs_the_command_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = random_interactions(users=80, items=40, density=0.2)
    for name, rows in zip("UV", models.spectral(train, 4)[:2], strict=True):
        np.save(tmp_path / f"{name}.npy", rows)
    data.write(tmp_path / "train.parquet", train)
    assert cli.main(command(tmp_path, "carved", train="train.parquet", ids=False)) == 0
    assert "WARNING: no validation pairs were given" in capsys.readouterr().out
    found = json.loads((tmp_path / "carved" / "adjust.json").read_text())
    assert found["model_has_seen_validation"] is True
    assert any("too good" in note for note in found["notes"])
    with np.load(tmp_path / "carved" / "embeddings.npz") as arrays:
        assert arrays["user_ids"].tolist() == list(range(80))


def test_the_command_corrects_by_exposure_and_so_do_new_users_get_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "more.csv").write_text((folder / "valid.csv").read_text() + "nobody,i3\n")
    (folder / "twice.csv").write_text((folder / "train.csv").read_text() + "nobody,i3\nnobody,i3\nnobody,i4\n")
    more = ["--valid", str(folder / "more.csv"), "--family", "exposure", "--unknown", "drop"]
    assert cli.main(command(folder, "exposed", *more, train="twice.csv")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "note: 1 repeated pair merged" in lines
    assert "note: 2 pairs of unknown users or items left out, the first is user nobody, item i3" in lines
    assert "note: valid: 1 pairs of unknown users or items left out, the first is user nobody, item i3" in lines
    found = json.loads((folder / "exposed" / "metrics.json").read_text())
    assert set(found["selected"]) == {"exposure", "pull"}
    (folder / "new.csv").write_text("user_id,item_id\nann,i3\nann,i5\nann,i9\n")
    new = ["--histories", str(folder / "new.csv"), "-k", "3", "--out", str(folder / "new.run")]
    assert cli.main(["recommend", str(folder / "exposed"), *new]) == 0
    assert len((folder / "new.run").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--user", "model.pt"], "a pickle is never loaded; save the array with numpy.save"),
        (["--user", "nowhere.npy"], "no such file"),
        (["--user", "V.npy"], "one for each of the 300 user rows, got shape (800,)"),
        (["--item", "nan.npy"], "item embeddings must be finite in 32 bits, but 1 of 300 rows hold NaN"),
        (["--interactions", "train.parquet"], "its ids are like u0 and i0: are they those of this file?"),
        (["--item-ids", "gap.txt"], "gap.txt:2: wanted an id a line, got an empty line"),
    ],
)
def test_mistakes_are_told(more: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = np.load(folder / "V.npy")
    bad[3, 1] = np.nan
    np.save(folder / "nan.npy", bad)
    (folder / "model.pt").write_bytes(b"\x80\x04N.")
    (folder / "gap.txt").write_text("a\n\nb\n")
    assert cli.main(command(folder, "never", more[0], str(folder / more[1]))) == 1
    assert message in capsys.readouterr().err
    assert not (folder / "never").exists()


def test_ids_that_were_not_given_are_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(folder, "never", ids=False)) == 1
    assert "give its ids with --user-ids and --item-ids (without them ids are row numbers)" in capsys.readouterr().err


def test_an_out_that_is_no_folder_is_told_before_the_work(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(correct, "adjust", lambda *given, **more: pytest.fail("has begun"))
    (folder / "taken").write_text("mine")
    for out in ("taken", "taken/below"):
        assert cli.main(command(folder, out)) == 1
        assert "taken is a file; name another one" in capsys.readouterr().err


def test_models_of_other_libraries_are_corrected_directly(world: tuple[data.Split, Tables]) -> None:
    from types import SimpleNamespace

    held, tables = world
    model = SimpleNamespace(user_factors=np.asarray(tables.user), item_factors=np.asarray(tables.item))
    two = adapters.read(model)
    np.testing.assert_array_equal(two.tables.user, tables.user)
    ledger = jaxrec.observe(two.tables, held.train, num_negatives=64)
    assert ledger.items.pull.vector.shape == (300, 16)


@pytest.mark.parametrize("form", ["npz", "safetensors", "parquet"])
@pytest.mark.parametrize("ids", [[7, 3, 5], ["a", "\u00fc", '"']])
def test_embeddings_are_read_with_their_ids(form: str, ids: list, tmp_path: Path) -> None:
    rows, own = np.arange(6, dtype=np.float32).reshape(3, 2), np.array(ids)
    files = {side: tmp_path / f"{side}.parquet" for side in ("user", "item")}
    if form == "npz":
        files = dict.fromkeys(files, tmp_path / "all.npz")
        np.savez(files["user"], user=rows, item=rows[:2], user_ids=own, item_ids=own[:2])
    else:
        written = embeddings.write_embeddings(
            tmp_path, {"user": rows, "item": rows[:2]}, {"user": own, "item": own[:2]}, [form]
        )
        files = files if form == "parquet" else dict.fromkeys(files, written[0])
    for side, count in (("user", 3), ("item", 2)):
        found, known = embeddings.read_matrix(files[side], side)
        np.testing.assert_array_equal(found, rows[:count])
        assert known is not None
        assert known.tolist() == ids[:count]


@pytest.mark.parametrize("form", ["npy", "safetensors", "parquet"])
def test_embeddings_are_written_from_jax_arrays_into_a_new_folder_named_by_text(form: str, tmp_path: Path) -> None:
    rows, folder = jnp.arange(6.0).reshape(3, 2), str(tmp_path / "new" / "folder")
    written = embeddings.write_embeddings(folder, {"user": rows}, {"user": jnp.arange(3)}, [form])
    found, _ = embeddings.read_matrix(str(written[0]), "user")
    np.testing.assert_array_equal(found, rows)
    (tmp_path / "ids.txt").write_text("a\nb\n")
    assert embeddings.read_ids(str(tmp_path / "ids.txt")).tolist() == ["a", "b"]


@pytest.mark.parametrize("shape", [(1, 3), (4, 1)])
def test_text_keeps_the_shape_of_a_matrix(shape: tuple[int, int], tmp_path: Path) -> None:
    rows = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    for name, separator in (("x.csv", ","), ("x.txt", " ")):
        np.savetxt(tmp_path / name, rows, delimiter=separator)
        np.testing.assert_array_equal(embeddings.read_matrix(tmp_path / name, "user")[0], rows)


def test_long_numbers_as_text_are_no_ids_of_whole_numbers() -> None:
    found = alike(np.array(["7", "99999999999999999999", "9300000000000000000"]), np.array([7, 8]))
    assert found.dtype == np.int64
    assert found.tolist() == [7, -2, -3]


def test_folders_of_adjust_are_paired_and_speak_of_validation(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--budget` differs, so that strengths may."""
    runs_ = [folder / "first", folder / "second"]
    for out, points in zip(runs_, ("3", "9"), strict=True):
        more = ["--valid", str(folder / "valid.csv"), "--budget", points, "--k", "10"]
        assert cli.main(command(folder, out.name, *more)) == 0
    assert "ndcg@10 0." in capsys.readouterr().out
    assert cli.main(["report", *map(str, runs_)]) == 0
    assert "natural validation" in capsys.readouterr().out
    paired = compare.paired(runs_)
    assert paired.notes == []
    assert {row.test for row in paired.rows} == {"natural validation", "unbiased validation"}
    told = runs.read_metrics(runs_[0])["test_fingerprints"]
    assert told.keys() == {"natural validation", "unbiased validation"}
    assert told == runs.read_metrics(runs_[1])["test_fingerprints"]
    page = (runs_[0] / "report.html").read_text()
    assert "NDCG on validation, strengths chosen on validation" in page
    assert "natural test" not in page


def test_ids_with_a_byte_order_mark_and_in_other_encodings(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbf7\r\n9\r\n")
    assert embeddings.read_ids(tmp_path / "ids.txt").tolist() == [7, 9]
    (tmp_path / "ids.txt").write_bytes("\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"ids\.txt: not UTF-8 text"):
        embeddings.read_ids(tmp_path / "ids.txt")


def test_only_line_ends_end_an_id(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_bytes("a\u2028b\r\nn\u00a0\rc \n".encode())
    assert embeddings.read_ids(tmp_path / "ids.txt").tolist() == ["a\u2028b", "n\u00a0", "c"]


@pytest.mark.parametrize("form", ["npy", "safetensors", "parquet"])
def test_narrow_floats_and_objects_for_ids_are_written(form: str, tmp_path: Path) -> None:
    rows = jnp.array([[1.5, -2.0], [0.25, 3.0]], jnp.bfloat16)
    ids = np.array(["a", "b c"], object)
    written = embeddings.write_embeddings(tmp_path, {"user": rows}, {"user": ids}, [form])
    found, own = embeddings.read_matrix(written[0], "user")
    np.testing.assert_array_equal(found.astype(np.float32), rows.astype(jnp.float32))
    own = embeddings.read_ids(written[1]) if own is None else own
    assert (own.dtype.kind, own.tolist()) == ("U", ["a", "b c"])
    again = embeddings.write_embeddings(tmp_path / "again", {"user": found}, {"user": own}, [form])
    np.testing.assert_array_equal(embeddings.read_matrix(again[0], "user")[0], found)
    with pytest.raises(DataError, match="user_ids must be whole numbers or text"):
        embeddings.write_embeddings(tmp_path / "never", {"user": rows}, {"user": [0.5, 1.5]}, [form])
    assert not (tmp_path / "never").exists()


def test_ids_of_a_table_are_looked_at_where_they_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / "u.parquet"
    polars.DataFrame({"user_id": [1.0, None], "embedding": [[1.0, 2.0], [3.0, 4.0]]}).write_parquet(path)
    assert embeddings.read_matrix(path, "user", ids=False)[1] is None
    with pytest.raises(DataError, match=r"u\.parquet: user_ids must be whole numbers or text, got float64"):
        embeddings.read_matrix(path, "user")


def test_a_table_of_text_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "user.csv").write_bytes(b"\xef\xbb\xbf0.5,1\n2,3\n")
    assert embeddings.read_matrix(tmp_path / "user.csv", "user")[0].tolist() == [[0.5, 1.0], [2.0, 3.0]]


def test_ids_saved_as_objects_are_told_how_to_be_saved(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.array(["a", "b"], object))
    with pytest.raises(data.DataError, match=r"ids\.npy: it holds Python objects.*ids\.astype\(str\)"):
        embeddings.read_ids(tmp_path / "ids.npy")


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors", "parquet"])
@pytest.mark.parametrize("kept", [0, 9, 600, None])
def test_a_damaged_file_of_embeddings_is_told(suffix: str, kept: int | None, tmp_path: Path) -> None:
    rows, ids = np.arange(600, dtype=np.float32).reshape(300, 2), np.arange(300)
    embeddings.write_embeddings(tmp_path, {"user": rows}, {"user": ids}, ["npy", "safetensors", "parquet"])
    np.savez(tmp_path / "user.npz", user=rows)
    path = tmp_path / ("embeddings.safetensors" if suffix == "safetensors" else f"user.{suffix}")
    path.write_bytes(b"junk" * 50 if kept is None else path.read_bytes()[:kept])
    with pytest.raises(DataError, match=f"{path.name}: not a readable array of numbers .* write it again"):
        embeddings.read_matrix(path, "user")


def test_ids_under_another_name_are_not_taken_for_row_numbers(tmp_path: Path) -> None:
    import polars

    path, rows = tmp_path / "u.parquet", [[1.0, 2.0], [3.0, 4.0]]
    polars.DataFrame({"user": ["b", "a"], "age": [7, 8], "embedding": rows}).write_parquet(path)
    with pytest.raises(DataError, match=r"u\.parquet: wanted the ids in a column 'user_id', got \['user', 'age'\]"):
        embeddings.read_matrix(path, "user")
    assert embeddings.read_matrix(path, "user", ids=False)[1] is None
    polars.DataFrame({"embedding": rows}).write_parquet(path)
    assert embeddings.read_matrix(path, "user")[1] is None


def test_standardized_gradients_are_those_of_standardized_tables() -> None:
    pairs = random_interactions(0, U, N, density=0.5)
    keys = jax.random.split(jax.random.key(0))
    tables = Tables(3.0 * jax.random.normal(keys[0], (U, 4)), jax.random.normal(keys[1], (N, 4)))
    more: dict[str, Any] = {"temperature": 1.0, "num_negatives": 16, "batch_size": 32}
    found = frozen.observe(tables, pairs, standardized=True, **more)
    wanted = frozen.observe(frozen.standardize(tables)[0], pairs, **more)
    plain = frozen.observe(tables, pairs, **more)
    np.testing.assert_allclose(found.items.push.size, wanted.items.push.size, rtol=1e-5)
    assert not np.allclose(found.items.push.size, plain.items.push.size, rtol=0.1)
