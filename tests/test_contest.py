"""The comparison of methods: rules of choice, equal tuning, resumable rows, tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_interactions
from scipy import stats

from experiments import contest, contest_tables, contestants, equal, kept, tables
from experiments.contest import NDCG, Candidate, Contest, choose, front
from jaxrec import baselines, frozen, ledger, models, rank
from jaxrec.baselines import ddc
from jaxrec.data import Dataset, Split, registry, splits, synthetic
from jaxrec.types import Scorer

pytest.importorskip("optuna")


@pytest.fixture(scope="module", autouse=True)
def studies_are_small() -> Iterator[None]:
    """`synthetic` is a small world, DDC's scalars are not trained, and programs stay compiled from one method to the
    next."""
    world = Dataset("synthetic", synthetic(seed=0, num_users=240, num_items=150).split)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contest.registry, "load", {"synthetic": world}.__getitem__)
        patch.setattr(ddc, "fit", lambda tables, *_, **__: ddc.Scalars(*(jnp.full(len(tables.user), 0.5),) * 2))
        patch.setattr(contest.jax, "clear_caches", lambda: None)
        yield


def candidate(natural: float, unbiased: float) -> Candidate:
    return Candidate({}, 1, {}, {"natural": {NDCG: natural}, "unbiased": {NDCG: unbiased}})


def test_rules_choose_by_unbiased_within_what_the_best_base_allows() -> None:
    tried = [candidate(0.30, 0.10), candidate(0.28, 0.15), candidate(0.20, 0.30)]
    assert choose(tried, "unbiased", 0.30) == (tried[2], True)
    assert choose(tried, "loss10", 0.30) == (tried[1], True)
    # Where nothing keeps enough, the one that keeps most is taken, and said to fall short.
    assert choose(tried, "loss10", 0.50) == (tried[0], False)


def test_a_front_holds_what_either_rule_may_choose() -> None:
    rng = np.random.default_rng(0)
    tried = [candidate(*pair) for pair in rng.random((40, 2))]
    kept = front(tried)
    assert len(kept) < len(tried)
    for reference in (0.2, 0.6, 0.9):
        for rule in contest.RULES:
            assert choose(kept, rule, reference) == choose(tried, rule, reference)
    pairs = [(c.value("natural"), c.value("unbiased")) for c in kept]
    assert pairs == sorted(pairs, key=lambda p: (-p[0], p[1]))


@pytest.mark.parametrize("backbone", ["mf", "lightgcn"])
def test_sources_values_come_first_and_lie_in_the_space(backbone: contestants.Backbone) -> None:
    for name in contestants.names(backbone):
        who = contestants.find(name, backbone)
        for option, value in who.first.items():
            of = who.space[option]
            inside = of.low <= value <= of.high if isinstance(of, contestants.Real) else value in of.values
            assert inside, (name, option, value)
    assert contestants.find("macr", backbone).first["alpha"] == {"mf": 1e-3, "lightgcn": 1e-2}[backbone]
    assert set(baselines.METHODS) == set(contestants.TRAINED)  # no baseline is left out
    assert set(contestants.TRAINED) - set(contestants.names(backbone)) == ({"dap"} if backbone == "mf" else set())


def test_unknown_contestants_are_named() -> None:
    with pytest.raises(ValueError, match="no contestant 'nobody'"):
        contestants.find("nobody", "mf")


@pytest.mark.parametrize("name", ["softmax", "macr"])
def test_batches_grow_with_the_training_set_on_graphs_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    train = random_interactions()
    monkeypatch.setattr(contestants, "LARGE_BATCH", 7)

    def size(backbone: contestants.Backbone, large: int) -> int:
        monkeypatch.setattr(contestants, "LARGE", large)
        return contestants.make(name, backbone, train, {}, epochs=1).sampler.batch_size

    assert size("lightgcn", len(train) - 1) == 7 != size("lightgcn", len(train))
    assert size("mf", len(train) - 1) == size("mf", len(train)) != 7


def test_two_towers_have_the_plain_bases_only() -> None:
    train = random_interactions()
    for name in contestants.names("two-tower"):
        who = contestants.find(name, "two-tower")
        assert who.kind == "base"
        method = contestants.make(name, "two-tower", train, who.first, epochs=1)
        assert "user_tower" in method.model.init(jax.random.key(0))
    with pytest.raises(ValueError, match="there are bpr, bpr-unit-users, softmax"):
        contestants.find("macr", "two-tower")
    with pytest.raises(ValueError, match="not made for two towers"):
        contestants.make("macr", "two-tower", train, {}, epochs=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    folder = tmp_path_factory.mktemp("contest")
    job = Contest(
        "synthetic", methods=("bpr", "softmax", "macr", "popular", "spectral"), seeds=(0, 1), trials=2, points=8,
        epochs=2, evaluate_every=1,
    )  # fmt: skip
    contest.run(job, folder / "results", folder / "runs")
    return job, folder


def test_rows_hold_every_method_seed_and_test(small: tuple) -> None:
    _job, folder = small
    with (folder / "results" / "rows.csv").open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames or ()) == kept.COLUMNS
        rows = list(reader)
    keys = [(r["method"], r["seed"], r["test"], r["metric"]) for r in rows]
    assert len(set(keys)) == len(keys)
    arms = [f"{base}+{arm}" for base in ("bpr", "softmax", "spectral") for arm in contestants.ARMS]
    labels = {"bpr", "softmax"} | {n + at for n in (*arms, "macr", "popular", "spectral") for at in ("", "@loss10")}
    fine = {f"{base}+{arm}@{rule}" for base in contest.FINE_BASES for arm in contestants.ARMS for rule in contest.FINE}
    assert {r["method"] for r in rows} == labels | fine
    assert {r["metric"] for r in rows if r["method"] in fine} == {NDCG}
    assert {r["seed"] for r in rows} == {"0", "1"}
    assert {r["test"] for r in rows} == {"natural", "unbiased"}
    assert all(0 <= float(r["value"]) <= 1 for r in rows if r["metric"] == NDCG)


def test_what_was_tried_is_kept_and_budgets_are_equal(small: tuple) -> None:
    _job, folder = small
    lines = [json.loads(t) for t in (folder / "results" / "chosen.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["method"] for line in lines] == ["bpr", "softmax", "macr", "popular", "spectral"]
    assert [len(line["trials"]) for line in lines] == [2, 2, 2, 1, 2]  # the most popular has nothing to tune


def test_gradients_are_read_off_solved_tables_at_the_scale_of_a_softmax() -> None:
    train = random_interactions(users=40, items=30)
    tables = models.spectral(train, 6)
    small, large = (
        contestants.read_off(tables._replace(user=tables.user * scale), train, seed=0) for scale in (1e-3, 1e3)
    )
    assert frozen.fit_temperature(small.tables, train) == pytest.approx(1.0, rel=1e-2)
    np.testing.assert_allclose(small.tables.user, large.tables.user, rtol=1e-2)
    before, after = (rank.top_k(t, None, train, k=5).items for t in (tables, small.tables))
    np.testing.assert_array_equal(before, after)
    sizes = [ledger.magnitude(base.ledger.items) for base in (small, large)]
    np.testing.assert_allclose(*sizes, rtol=1e-2)


def test_a_second_run_adds_nothing_and_a_torn_one_is_completed(small: tuple) -> None:
    job, folder = small
    path = folder / "results" / "rows.csv"
    whole = path.read_text(encoding="utf-8")
    contest.run(job, folder / "results", folder / "runs")
    assert path.read_text(encoding="utf-8") == whole
    lost = [line for line in whole.splitlines() if not line.startswith("synthetic,mf,macr,1,")]
    path.write_text("\n".join(lost) + "\n", encoding="utf-8")
    contest.run(job, folder / "results", folder / "runs")
    again = path.read_text(encoding="utf-8").splitlines()
    assert sorted(again) == sorted(whole.splitlines())  # trained again, the same figures


def test_an_arm_that_came_later_is_tried_on_the_base_that_was_chosen(small: tuple) -> None:
    job, folder = small
    path = folder / "results" / "chosen.jsonl"
    before = path.read_text(encoding="utf-8")
    lines = [json.loads(text) for text in before.splitlines()]
    lost = next(line for line in lines if line["method"] == "softmax")["candidates"].pop("softmax+exposure")
    assert lost
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    contest.run(job, folder / "results", folder / "runs")
    assert [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()] == [
        json.loads(text) for text in before.splitlines()
    ]


def test_lines_that_another_process_wrote_are_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    kept.append(path, ["a,1", "b,2"], first="name,value")
    kept.append(path, ["b,2", "c,3"], first="name,value")
    assert path.read_text(encoding="utf-8").splitlines() == ["name,value", "a,1", "b,2", "c,3"]


def test_a_contestant_that_another_process_tuned_is_not_noted_twice(tmp_path: Path) -> None:
    mine = kept.Kept(tmp_path, "synthetic", "mf")
    line = {"data": "synthetic", "backbone": "mf", "method": "bpr"}
    for seconds, name in enumerate(["bpr", "softmax", "bpr"]):
        mine.note(line | {"method": name, "seconds": seconds})
    found = [json.loads(text) for text in mine.lines.read_text().splitlines()]
    assert [(one["method"], one["seconds"]) for one in found] == [("bpr", 0), ("softmax", 1)]


def test_what_is_there_stays_where_a_change_fails(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    kept.append(path, ["a,1", "b,2"])
    with pytest.raises(ZeroDivisionError):
        kept.rewrite(path, lambda lines: lines[: 1 // 0])
    assert path.read_text() == "a,1\nb,2\n"
    kept.append(path, ["c,3"])  # the lock is free again
    assert path.read_text() == "a,1\nb,2\nc,3\n"
    assert [file.name for file in tmp_path.iterdir()] == ["rows.csv"]


def test_tables_and_scorers_are_measured_on_the_same_users() -> None:
    split = registry.load("synthetic").split
    carved = splits.carve(Split(split.train, {}, {}), seed=0)
    problem = contest._problem(Contest("synthetic", max_users=100), carved)
    tables = models.most_popular(carved.train)
    scores = np.asarray(tables.user @ tables.item.T)
    scorer = Scorer(*scores.shape, lambda users: scores[users])
    one, other = (contest._measure(found, carved, problem) for found in (scorer, tables))
    assert {part: one[part][NDCG] for part in one} == pytest.approx({p: other[p][NDCG] for p in other}, rel=1e-6)


def test_the_page_ranks_methods_and_tests_differences(small: tuple) -> None:
    _job, folder = small
    text = tables.contest_pages(folder / "results", folder / "runs")["methods"]
    assert "## synthetic, mf" in text
    assert "(ours)" in text
    assert "p, Holm" in text
    own = text.split("## Each model beside its own count control")[1].split("\n## ")[0]
    again = tables.contest_pages(folder / "results", None)["methods"]  # from the values kept beside the rows
    assert again == text
    (group,) = contest_tables.load(folder / "results")
    users, values = contest_tables.gather(group, folder / "results", None)
    assert {line.split(" | ")[1] for line in own.splitlines() if line.startswith("| synthetic")} == {
        "bpr", "softmax", "spectral"
    }  # fmt: skip
    arm = contest_tables.label_of(group.ours("unbiased", "spectral"), "unbiased")
    assert arm.startswith("spectral+")
    ahead = np.mean(values[arm]["unbiased"] - values["spectral+count_control"]["unbiased"])
    (line,) = (line for line in own.splitlines() if "| spectral | unbiased |" in line)
    assert line.split(" | ")[-2] == f"{ahead:+.4f}"
    for test in ("natural", "unbiased"):
        mean = np.mean([v for v in group.rows["macr"][test][NDCG]])
        assert np.mean(values["macr"][test]) == pytest.approx(mean, abs=1e-4)  # kept as float16
        assert users[test].shape == values["macr"][test].shape
    again = group.rows.pop("macr")  # its rows are being made again
    assert "macr" not in contest_tables.gather(group, folder / "results", None)[1]
    group.rows["macr"] = again
    group.rows["macr"]["natural"][NDCG] = [0.9, 0.9]
    with pytest.raises(ValueError, match="apart in natural NDCG between synthetic"):
        contest_tables.gather(group, folder / "results", None)


def test_rows_of_another_choice_are_refused_and_made_again(small: tuple) -> None:
    job, folder = small
    path, rows = folder / "results" / "chosen.jsonl", folder / "results" / "rows.csv"
    before, whole = path.read_text(encoding="utf-8"), rows.read_text(encoding="utf-8")
    lines = [json.loads(text) for text in before.splitlines()]
    macr = next(line for line in lines if line["method"] == "macr")
    macr["tested"]["macr@loss10"] = "another"  # as if rows had been made before a stronger base was tuned
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    rows.write_text(whole.replace(",macr@loss10,0,natural,ndcg@20,0.", ",macr@loss10,0,natural,ndcg@20,0.9"))
    with pytest.raises(ValueError, match="rows of macr@loss10 are of another choice"):
        contest_tables.load(folder / "results")
    contest.run(job, folder / "results", folder / "runs", only=("macr",))
    assert sorted(rows.read_text(encoding="utf-8").splitlines()) == sorted(whole.splitlines())
    assert path.read_text(encoding="utf-8") == before


def test_bases_are_tuned_first_whatever_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "_try_arms", lambda *given: {})
    job = Contest(
        "synthetic", methods=("bpr", "popular"), seeds=(0,), trials=1, points=4, epochs=1, evaluate_every=1
    )  # fmt: skip
    contest.run(job, tmp_path / "results", tmp_path / "runs", only=("popular",))
    lines = (tmp_path / "results" / "chosen.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["method"] for line in lines] == ["bpr", "popular"]
    (group,) = contest_tables.load(tmp_path / "results")
    assert set(group.rows) == {"popular", "popular@loss10"}  # tested is what was asked for


def group_of(points: dict[str, tuple[float, float]]) -> contest_tables.Group:
    """One whose rows have these (natural, unbiased) NDCG, of two seeds that differ by .02."""
    rows = {
        label: {test: {NDCG: [v - 0.01, v + 0.01]} for test, v in zip(("natural", "unbiased"), pair, strict=True)}
        for label, pair in points.items()
    }
    pools = {label: [candidate(*pair)] for label, pair in points.items() if "@" not in label}
    return contest_tables.Group("data", "mf", rows, pools, 0.4, [])


def at_level(natural: float) -> np.ndarray:
    return np.full(1 + equal.DRAWS, natural)


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal, "DRAWS", 20)
    monkeypatch.setattr(equal, "AT_ONCE", 10)


@pytest.mark.usefixtures("few_draws")
def test_a_mixture_keeps_the_natural_accuracy_that_is_wanted() -> None:
    points = {"softmax": (0.4, 0.1), "bpr": (0.3, 0.1)}
    points |= {"softmax+pc@loss5": (0.38, 0.12), "softmax+pc@loss10": (0.36, 0.2), "softmax+pc": (0.3, 0.26)}
    group = group_of(points)
    draws = equal.draw(group, contest_tables.ByUser({}, {}))
    assert equal.chain(group, "softmax+pc") == ["softmax", "softmax+pc@loss5", "softmax+pc@loss10", "softmax+pc"]
    for wanted, unbiased, parts, share in [
        (0.39, 0.11, ("softmax", "softmax+pc@loss5"), 0.5),
        (0.365, 0.18, ("softmax+pc@loss5", "softmax+pc@loss10"), 0.75),
        (0.345, 0.215, ("softmax+pc@loss10", "softmax+pc"), 0.25),
    ]:
        found = equal.mixture(group, draws, "softmax+pc", at_level(wanted))
        assert (found.parts, found.share) == (parts, pytest.approx(share))
        assert np.mean(found.natural) == pytest.approx(wanted) == found.natural_drawn[0]
        assert found.unbiased == pytest.approx([unbiased - 0.01, unbiased + 0.01])
        assert found.drawn == pytest.approx(np.full(21, unbiased))  # nothing is known by user
        assert not found.by_user
    least = equal.mixture(group, draws, "softmax+pc", at_level(0.2))  # nothing of it keeps as little
    assert (least.parts, np.mean(least.natural)) == (("softmax+pc", "softmax+pc"), pytest.approx(0.3))
    most = equal.mixture(group, draws, "softmax+pc", at_level(0.41))  # nor as much
    assert (most.parts, most.unbiased) == (("softmax", "softmax"), group.rows["softmax"]["unbiased"][NDCG])


@pytest.mark.usefixtures("few_draws")
def test_who_keeps_less_than_wanted_is_mixed_with_the_plain_base() -> None:
    group = group_of({"softmax": (0.4, 0.1), "macr@loss10": (0.2, 0.3), "macr": (0.1, 0.3)})
    found = equal.mixture(group, equal.draw(group, contest_tables.ByUser({}, {})), "macr", at_level(0.36))
    assert (found.parts, found.share) == (("softmax", "macr@loss10"), pytest.approx(0.2))
    assert np.mean(found.unbiased) == pytest.approx(0.14)


@pytest.mark.usefixtures("few_draws")
def test_two_methods_are_compared_where_both_keep_as_much() -> None:
    points = {"softmax": (0.4, 0.1), "softmax+adjusted": (0.3, 0.2), "softmax+pc": (0.38, 0.13), "macr": (0.2, 0.18)}
    points["ccl"] = (0.41, 0.1)  # more than the plain base, which no mixture of ours keeps
    group = group_of(points)
    noise = np.random.default_rng(0).normal(0, 0.01, 50)
    values = {label: {"unbiased": unbiased + noise} for label, (_, unbiased) in points.items()}
    users = {"natural": np.arange(50), "unbiased": np.arange(50)}
    draws, wanted = equal.draw(group, contest_tables.ByUser(users, values)), at_level(0.32)
    ranked = {name: equal.mixture(group, draws, name, wanted) for name in points}
    found = equal.as_natural(group, draws, "softmax+adjusted", ranked, wanted)
    assert sorted(found) == ["macr", "softmax+pc"]
    assert found["softmax+pc"][0] == pytest.approx(0.12 - 0.13)  # at .38, all that pc can lose
    assert found["macr"][0] == pytest.approx(0.18 - (0.1 + 0.08 * 0.4))  # at .32, as wanted


def test_the_error_of_a_difference_takes_in_that_mixtures_are_set_on_the_same_users() -> None:
    rng = np.random.default_rng(0)
    users = {"natural": np.arange(0, 400), "unbiased": np.arange(100, 420)}
    level = {"softmax": (0.4, 0.1), "softmax+adjusted": (0.25, 0.2), "macr": (0.3, 0.13)}
    taste = rng.normal(0, 0.2, 420)  # users differ, in both tests alike
    values = {}
    for label, means in level.items():
        suits = taste + rng.normal(0, 0.1, 420)  # whom a method suits, it suits in both tests
        noise = {t: rng.normal(0, 0.1, 420) for t in users}
        values[label] = {t: m + (suits + noise[t])[users[t]] for t, m in zip(users, means, strict=True)}
    mean = {label: {t: float(np.mean(v)) for t, v in tests.items()} for label, tests in values.items()}
    plain = mean["softmax"]

    def part(label: str, *, known: bool) -> tuple[float, np.ndarray]:
        """U and, by the delta method, what each of the 420 users has to do with it. U = b + λ (m − b), where λ =
        .1 N / (N − n) for natural NDCG of N (plain) and n: a user's part in N and n moves λ, too."""
        slope = (mean[label]["unbiased"] - plain["unbiased"]) / (plain["natural"] - mean[label]["natural"])
        share = 0.1 * plain["natural"] / (plain["natural"] - mean[label]["natural"])
        of = np.zeros(420)
        unbiased = values["softmax"]["unbiased"] + share * (values[label]["unbiased"] - values["softmax"]["unbiased"])
        of[users["unbiased"]] += (unbiased - unbiased.mean()) / 320
        if not known:
            lost = values["softmax"]["natural"] - values[label]["natural"]
            moved = slope * (0.1 * values["softmax"]["natural"] - share * lost)
            of[users["natural"]] += (moved - moved.mean()) / 400
        return float(unbiased.mean()), of

    points = {k: (v["natural"], v["unbiased"]) for k, v in mean.items()}
    group = group_of(points)
    for known in (False, True):
        kept = {k: {t: v[t] for t in ("unbiased", "natural")[: 1 if known else 2]} for k, v in values.items()}
        draws = equal.draw(group, contest_tables.ByUser(users, kept))
        wanted = 0.9 * draws.natural("softmax")
        one, other = (equal.mixture(group, draws, name, wanted) for name in ("softmax+adjusted", "macr"))
        (a, by_a), (b, by_b) = (part(name, known=known) for name in ("softmax+adjusted", "macr"))
        error = float(np.sqrt(np.sum((by_a - by_b) ** 2)))
        difference, p = equal.against(one, other, draws.users)
        assert difference == pytest.approx(a - b)
        assert np.std((one.drawn - other.drawn)[1:]) == pytest.approx(error, rel=0.1)
        assert p == pytest.approx(2 * stats.t.sf(abs(a - b) / error, 419), rel=0.5)
        assert one.taken_in == other.taken_in == (not known)
    assert equal.against(one, one, 420) == (0.0, 1.0)


def test_a_difference_that_hangs_on_where_chains_bend_has_the_larger_error() -> None:
    """At a choice of its own a method may in some draws be mixed with the choice before, in others with that after."""
    rng = np.random.default_rng(0)
    points = {"softmax": (0.4, 0.1), "softmax+adjusted@loss10": (0.36, 0.2), "softmax+adjusted": (0.35, 0.1)}
    group = group_of(points | {"macr": (0.3, 0.18)})
    noise = rng.normal(0, 0.1, (5, 2, 300))
    values = {
        label: {t: m + noise[n, s] for s, (t, m) in enumerate(zip(("natural", "unbiased"), means, strict=True))}
        for n, (label, means) in enumerate(zip(group.rows, [*points.values(), (0.3, 0.18)], strict=True))
    }
    exact = {k: {t: v - v.mean() + np.mean(group.rows[k][t][NDCG]) for t, v in of.items()} for k, of in values.items()}
    users = {"natural": np.arange(300), "unbiased": np.arange(300)}
    draws = equal.draw(group, contest_tables.ByUser(users, exact))
    found = equal.mixture(group, draws, "softmax+adjusted", 0.9 * draws.natural("softmax"))
    assert (found.unbiased, found.natural) == (pytest.approx([0.19, 0.21]), pytest.approx([0.35, 0.37]))
    before, after = (draws.unbiased(n) for n in ("softmax+adjusted@loss10", "softmax+adjusted"))
    assert found.drawn[1:].mean() < before[1:].mean() - 0.01  # what lies beyond the bend is in it
    assert np.std(found.drawn[1:]) > 1.5 * max(np.std(before[1:]), np.std(after[1:]))


def test_a_method_without_all_its_seeds_takes_no_part_at_equal_accuracy() -> None:
    group = group_of({"softmax": (0.4, 0.1), "macr@loss10": (0.3, 0.3), "macr": (0.1, 0.3)})
    assert equal.whole(group) == ["softmax", "macr"]
    group.rows["macr@loss10"]["unbiased"][NDCG].pop()
    assert equal.whole(group) == ["softmax"]


def test_pairs_are_corrected_over_the_table() -> None:
    rng = np.random.default_rng(0)
    ours = rng.random(200)
    values = {"ours": {"t": ours}, "same": {"t": ours}, "near": {"t": ours + rng.normal(0.02, 0.1, 200)}}
    values["far"] = {"t": ours - 0.5 + rng.normal(0, 0.1, 200)}
    seeds = {"ours": [0.5, 0.5], "same": [0.5, 0.5], "near": [0.4, 0.4], "far": [0.1, 0.1]}
    group = contest_tables.Group("d", "mf", {k: {"t": {NDCG: v}} for k, v in seeds.items()}, {}, 0.5, [])
    found = contest_tables.pairs(group, values, "ours", ["same", "near", "far", "absent"], "t")
    assert set(found) == {"same", "near", "far"}
    assert found["same"] == (0.0, 1.0)
    assert found["far"][0] == pytest.approx(0.5, abs=0.05)
    assert found["far"][1] < 1e-20
    from jaxrec.metrics import paired_test

    assert found["near"][1] == pytest.approx(min(1.0, 2 * paired_test(ours, values["near"]["t"])))
    group.rows["far"]["t"][NDCG][:] = [0.2, -0.1]  # now seeds differ by more than users do
    assert contest_tables.pairs(group, values, "ours", ["far"], "t")["far"][1] == pytest.approx(0.19, abs=0.05)


def test_chance_among_seeds_and_users_is_that_of_a_model_with_both() -> None:
    """Of differences that are nothing but chance, of users and of seeds, a share of .05 has p < .05, about."""
    rng, below, naive = np.random.default_rng(0), 0, 0
    for _ in range(400):
        users, seeds = rng.normal(0, 1.0, 100), rng.normal(0, 0.15, 5)
        seen = users[:, None] + seeds[None, :]
        by_user, by_seed = seen.mean(axis=1), seen.mean(axis=0)
        error = float(np.std(by_user, ddof=1)) / 10
        below += contest_tables.p_of(float(seen.mean()), error, 100, by_seed.tolist()) < 0.05
        naive += contest_tables.p_of(float(seen.mean()), error, 100, []) < 0.05
    assert 8 <= below <= 32 < naive


@pytest.mark.usefixtures("few_draws")
def test_a_model_and_its_control_are_compared_where_both_keep_as_much() -> None:
    points = {"softmax": (0.4, 0.1), "bpr": (0.41, 0.1)}
    points |= {"bpr+adjusted@loss10": (0.38, 0.2), "bpr+adjusted": (0.38, 0.2)}
    points |= {"bpr+count_control@loss10": (0.40, 0.16), "bpr+count_control": (0.37, 0.25)}
    points |= {"softmax+adjusted@loss10": (0.42, 0.2), "softmax+count_control@loss10": (0.36, 0.1)}
    group = group_of(points | {"softmax+adjusted": (0.42, 0.2), "softmax+count_control": (0.36, 0.1)})
    values = {label: {"unbiased": np.full(50, np.mean(group.rows[label]["unbiased"][NDCG]))} for label in group.rows}
    users = {"natural": np.arange(50), "unbiased": np.arange(50)}
    lines = equal.controls([(group, equal.draw(group, contest_tables.ByUser(users, values)))])
    assert len(lines) == 3  # ours of softmax keeps more than softmax does
    # The control keeps .40; ours, mixed of the model itself (.41) and its choice (.38), a third of the latter.
    assert lines[2].startswith("| data, mf | bpr | adjusted | 0.927 / 0.976 | 0.1333 ± 0.0141 | 0.1600 ± 0.0141 |")
    assert "| -0.0267 |" in lines[2]
