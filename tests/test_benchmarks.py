"""The harness of the benchmarks: the form of results, what `met` means, absence, failure; no timings."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import (
    compare,
    contest,
    inputs,
    memory,
    ours,
    quality,
    ranking,
    report,
    rows,
    scaling,
    suite,
    training,
    worker,
)
from benchmarks.contest import Contender
from benchmarks.plan import Case, Plan, Share, Side, overheads, race

TINY = "tail:60,50,900,0"


@pytest.fixture(autouse=True)
def found_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def fake(name: str, **options: Any) -> Contender:
    return Contender(f"fake_contenders:{name}", options)


@pytest.mark.parametrize(
    ("kind", "ours", "theirs", "target", "ratio", "met"),
    [
        ("rate", 3.0, 2.0, 1.5, 1.5, True),
        ("rate", 2.9, 2.0, 1.5, 1.45, False),
        ("time", 2.0, 4.0, 2.0, 2.0, True),
        ("time", 2.1, 4.0, 2.0, 4 / 2.1, False),
        ("overhead", 1.1, 1.0, 1.15, 1.1, True),
        ("overhead", 1.2, 1.0, 1.15, 1.2, False),
        ("rate", 3.0, 2.0, None, 1.5, None),
        ("rate", None, 2.0, 1.5, None, None),
    ],
)
def test_met_follows_the_kind(kind: Any, ours: Any, theirs: Any, target: Any, ratio: Any, met: Any) -> None:
    found = rows.row("what", "peer", ours, theirs, "unit", target=target, kind=kind)
    assert found["ratio"] == (None if ratio is None else pytest.approx(ratio))
    assert found["met"] is met


def test_a_row_without_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks target, met"):
        rows.check({key: None for key in rows.KEYS[:6]})


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system does not list a process's threads")
def test_one_thread_is_one_thread_of_xla() -> None:
    """The setting of small batches says so by a variable that XLA reads; another release may call it otherwise."""
    look = (
        "import pathlib, jax; jax.numpy.ones(3).block_until_ready(); "
        "print(sum('XLAEigen' in t.read_text() for t in pathlib.Path('/proc/self/task').glob('*/comm')))"
    )
    environment = contest.environment(training.ONE_THREAD)
    found = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["1"]


def test_small_batches_on_one_thread_race_with_the_same_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "accelerator", lambda: False)
    shared, small, alone = training._bpr(Plan(TINY, Path()), target=1.3, small=True)
    assert (shared.target, small.target, alone.target) == (1.3, 1.3, None)
    assert (small.contender.options["batch"], small.contender.environment) == (512, training.ONE_THREAD)
    assert not shared.contender.environment
    assert len(training._bpr(Plan(TINY, Path()))) == 2
    monkeypatch.setattr(training, "accelerator", lambda: True)
    assert len(training._bpr(Plan(TINY, Path()), small=True)) == 2


def test_contenders_take_turns_and_the_first_turn_is_thrown_away() -> None:
    a, b = contest.contest([fake("counter", seconds=1.0), fake("counter", seconds=2.0)], repeats=3)
    assert [reading["seconds"] for reading in a.readings] == [2.0, 3.0, 4.0]
    assert contest.rates(b.readings) == [10 / 4, 10 / 6, 10 / 8]


def test_who_is_absent_or_fails_drops_out_alone(tmp_path: Path) -> None:
    plan = Plan(TINY, tmp_path, repeats=2)
    sides = [Side("good", fake("counter", seconds=1.0), 1.3), Side("bad", fake("broken"), 1.3)]
    good, bad = race(plan, "peer", sides, [fake("counter", seconds=2.0)], "work/s")
    assert (good["ratio"], good["met"]) == (2.0, True)
    assert bad["met"] is None
    assert bad["failed"]
    assert "no such luck" in bad["note"]
    (absent,) = race(plan, "peer", sides[:1], [fake("missing")], "work/s")
    assert (absent["ours"], absent["theirs"], absent["ratio"], absent["met"]) == (None,) * 4
    assert "not installed" in absent["note"]
    assert "failed" not in absent


def test_overheads_are_ours_over_the_base(tmp_path: Path) -> None:
    plan = Plan(TINY, tmp_path, repeats=1)
    side = Side("with more", fake("counter", seconds=3.0), 1.4)
    (found,) = overheads(plan, "step", ("without", fake("counter", seconds=2.0)), [side])
    assert (found["ours"], found["theirs"], found["ratio"], found["met"]) == (1200.0, 800.0, 1.5, False)


def test_a_share_of_a_limit_is_in_the_limits_units() -> None:
    assert Share("copy, GB/s", 1536).of(1e6, {"copy, GB/s": 15.36}) == pytest.approx(0.1)
    assert Share("copy, GB/s", 1536).of(1e6, {}) is None
    assert Share("copy, GB/s", None).of(1e6, {"copy, GB/s": 15.36}) is None


def test_each_side_of_a_race_has_the_share_of_its_own_cost(tmp_path: Path) -> None:
    plan = Plan(TINY, tmp_path, repeats=1, limits={"copy, GB/s": 1e-9})
    sides = [Side("some", fake("counter", seconds=1.0), cost=cost) for cost in (0.5, None)]
    share = Share("copy, GB/s", 0.25)
    first, second = race(plan, "it", sides, [fake("counter", seconds=1.0)], "a second", share=share)
    assert first["share"]["ours"] == pytest.approx(0.5 * first["ours"])
    assert first["share"]["theirs"] == pytest.approx(0.25 * first["theirs"])
    assert second["share"]["ours"] is None


def test_a_comparison_goes_on_where_limits_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def once(contender: Contender) -> Any:
        raise RuntimeError("no limits here")

    monkeypatch.setattr(compare, "once", once)
    monkeypatch.setattr(suite, "CASES", {"one": Case(lambda plan: [], "one")})
    found = compare.compare(("one",), data=TINY)
    assert found["machine"]["limits"] == {}
    assert any("no limits here" in note for note in found["notes"])


def test_a_series_that_lacks_a_size_meets_no_target() -> None:
    points = [
        {"pairs": n, "items": 5, **{name: {"cost": 1e-9, "memory": 0.0} for name in scaling.LEDGERS}} for n in (1, 2)
    ]
    assert {made["met"] for made in scaling.rows({"interactions": points})} == {True}
    for made in scaling.rows({"interactions": points}, ["E=1e+08: out of memory"]):
        assert made["met"] is None
        assert made["failed"]
        assert "out of memory" in made["note"]


def test_a_level_that_nobody_came_to_has_its_target_where_a_peer_is_missing(tmp_path: Path) -> None:
    found = {name: outcome([[9.0, 1, 0.01]]) for name in quality.LEARNERS}
    found["jaxrec spectral"] = outcome([[2.0, 1, 0.08]])
    found["LightFM"] = contest.Outcome([], reason="not installed")
    first, *_ = quality.rows(found, 0.08, Plan(TINY, tmp_path), 10.0)
    assert (first["theirs"], first["target"], first["met"]) == (10.0, 2.0, True)
    assert "LightFM: not installed" in first["note"]


def test_steps_of_pytorch_beyond_the_data_begin_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from benchmarks.peers import torch_

    taken: list[int] = []

    def step(chosen: Any) -> Any:
        taken.append(len(chosen))
        return torch.tensor(0.0)

    monkeypatch.setattr(torch_, "_step", lambda train, **given: (None, torch, step))
    reading = torch_.training({"data": TINY, "layers": 0, "steps": 5, "batch": 512})()
    assert taken == [512] * 5
    assert reading["work"] == sum(taken)


def test_triplets_of_implicit_differ_from_epoch_to_epoch() -> None:
    pytest.importorskip("implicit")
    from benchmarks.peers import implicit_

    learn = implicit_.learn_bpr(inputs.train("tail:300,5000,900,0"), {"rate": 0.05, "l2": 0.01})
    next(learn)
    states = [np.array(next(learn)[1]) for _ in range(3)]  # type: ignore[index]
    moved = [np.abs(after - before).max(axis=1) > 0 for before, after in pairwise(states)]
    assert (moved[0] != moved[1]).any()


def test_settings_that_slow_numpy_do_not_reach_a_contender(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in contest.REMOVED:
        monkeypatch.setenv(name, "1")
    found = contest.environment({"OPENBLAS_NUM_THREADS": "1"})
    assert not set(contest.REMOVED) & set(found)
    assert (found["OPENBLAS_NUM_THREADS"], found["OMP_NUM_THREADS"]) == ("1", "2")


def test_results_keep_their_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one(plan: Plan) -> list[rows.Row]:
        side = Side("work", fake("counter", seconds=1.0), 2.5)
        return race(plan, "peer", [side], [fake("counter", seconds=2.0)], "work/s")

    def dead(plan: Plan) -> list[rows.Row]:
        raise OSError("no disk")

    monkeypatch.setattr(suite, "CASES", {"one": Case(one, "one", quick=True), "dead": Case(dead, "dead")})
    out, page = tmp_path / "sub" / "out.json", tmp_path / "page.md"
    assert compare.main(only=("one", "dead"), quick=True, data=TINY, out=out, page=page) == 1
    found = json.loads(out.read_text())
    assert {"machine", "versions", "rows"} <= set(found)
    assert all(set(rows.KEYS) <= set(each) for each in found["rows"])
    assert [(each["ratio"], each["met"]) for each in found["rows"]] == [(2.0, False), (None, None)]
    assert "| work | peer |" in page.read_text()
    assert "no disk" in page.read_text()
    assert compare.main(only=("on",), data=TINY) == 2


def test_what_there_is_is_kept_after_each_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def first(plan: Plan) -> list[rows.Row]:
        side = Side("work", fake("counter", seconds=1.0))
        return race(plan, "peer", [side], [fake("counter", seconds=2.0)], "work/s")

    def cut_off(plan: Plan) -> list[rows.Row]:
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "CASES", {"first": Case(first, "first"), "second": Case(cut_off, "second")})
    monkeypatch.setattr(compare, "_limits", lambda: ({}, None))
    out = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        compare.main(only=("first", "second"), data=TINY, out=out)
    found = json.loads(out.read_text())
    assert (found["cases"], len(found["rows"])) == (["first"], 1)
    assert "not run: second" in found["notes"]


@pytest.mark.parametrize(("allowed", "device", "wanted"), [("", True, True), ("cpu", True, False), ("", False, False)])
def test_contenders_share_an_accelerator_where_there_is_one(
    allowed: str, device: bool, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", allowed)
    monkeypatch.setattr(worker, "DEVICES", (__file__ if device else "/dev/no such device",))
    assert worker.accelerator() is wanted
    assert ("XLA_PYTHON_CLIENT_PREALLOCATE" in contest.environment()) is wanted


def test_quick_names_what_it_leaves_out() -> None:
    quick = suite.choose((), quick=True)
    assert set(quick) < set(suite.CASES)
    with pytest.raises(ValueError, match="did you mean 'implicit'"):
        suite.choose(("implict",), quick=False)


@pytest.mark.parametrize("options", [{"parts": "bpr", "optimizer": "adagrad"}, {"parts": "bpr", "optimizer": "sgd"}])
@pytest.mark.parametrize("ledger", ["off", "vectors", "totals"])
def test_predicted_memory_is_that_of_the_arrays(options: dict[str, Any], ledger: str) -> None:
    train = inputs.train(TINY)
    sampler, step = ours.PARTS[options["parts"]](options | {"ledger": ledger, "batch": 100}, train)
    found = memory.predict_training(step, sampler, width=ours.WIDTH, negatives=1)
    state = step.init(jax.random.key(0))
    u, i, d = train.num_users, train.num_items, ours.WIDTH
    assert found["tables"] == 4 * d * (u + i)
    assert found["optimiser"] == sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state.optimizer))
    vectors = {"off": 0, "vectors": 2 * 4 * d * (u + i), "totals": 2 * 2 * 4 * d}[ledger]
    numbers = {"off": 0, "vectors": 2 * 2 * 4 * (u + i), "totals": 5 * 4 * (u + i)}[ledger]
    assert found["ledger"] == vectors + numbers
    assert found["batch"] == 4 * 3 * sampler.batch_size * d
    assert found["interactions"] >= 2 * 4 * len(train)


def test_predicted_memory_of_ranking_grows_with_the_block() -> None:
    found = memory.predict_ranking(10, 20, 4, block=8, ranked=5, k=3, threads=2)
    assert found == {"tables": 4 * 4 * 30, "blocks": 4 * 2 * 8 * 20, "lists": 8 * 5 * 3}


def test_a_peak_is_forgotten_and_found_again() -> None:
    try:
        memory.forget_peak()
    except rows.Absent as problem:
        pytest.skip(str(problem))
    before = memory.resident()
    memory.forget_peak()
    held = np.ones(2**25, np.uint8)
    del held
    assert memory.peak() - before > 2**24


def test_the_long_tail_is_long_and_repeats() -> None:
    first, second = (inputs.long_tail(2000, 1000, 20_000, seed=1) for _ in range(2))
    np.testing.assert_array_equal(first.keys, second.keys)
    assert 14_000 < len(first) <= 21_000
    counts = np.sort(first.item_counts)[::-1]
    assert counts[:100].sum() > 0.3 * len(first)
    assert first.user_counts.min() >= 1
    assert abs(np.corrcoef(first.item_counts, np.arange(1000))[0, 1]) < 0.2


def test_lists_agree_by_what_they_hold(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1, 2], [3, 4]]))
    np.save(tmp_path / "b.npy", np.array([[2, 1], [3, 5]]))
    assert ranking.agreement(tmp_path / "a.npy", tmp_path / "b.npy") == 0.75


def test_cost_accounted_leaves_out_what_memory_costs() -> None:
    points = [{"off": {"cost": c * 1e-9, "memory": m * 1e-9}} for c, m in ((10, 2), (14, 6), (30, 7))]
    assert scaling.accounted(points, "off") == [10.0, 10.0, 25.0]


def outcome(*curves: list[list[float]]) -> contest.Outcome:
    return contest.Outcome([{"curve": curve, "best": max(c[2] for c in curve), "seconds": 1.0} for curve in curves])


def test_the_best_peer_is_the_first_to_arrive(tmp_path: Path) -> None:
    found = {name: outcome([[9.0, 1, 0.01]]) for name in quality.LEARNERS}
    found["jaxrec spectral"] = outcome([[1.0, 1, 0.02], [2.0, 2, 0.08]], [[4.0, 1, 0.08]])
    found["implicit ALS"] = outcome([[6.0, 1, 0.08]])
    found["LightFM"] = outcome([[8.0, 1, 0.09]])
    best, *others = quality.rows(found, 0.08, Plan(TINY, tmp_path), 10.0)
    assert best["peer"] == "the best peer, implicit ALS"
    assert (best["ours"], best["theirs"], best["ratio"], best["met"]) == (3.0, 6.0, 2.0, True)
    by_name = {each["peer"]: each for each in others}
    assert (by_name["LightFM"]["theirs"], by_name["LightFM"]["target"]) == (8.0, None)
    assert by_name["Cornac BPR"]["theirs"] is None
    assert "came to 0.0100" in by_name["Cornac BPR"]["note"]
    none = found | {name: outcome([[9.0, 1, 0.01]]) for name in ("implicit ALS", "LightFM")}
    none_came = quality.rows(none, 0.08, Plan(TINY, tmp_path), 10.0)[0]
    assert none_came["peer"].startswith("the best peer: none")
    assert (none_came["ours"], none_came["theirs"], none_came["met"]) == (3.0, 10.0, True)


def test_a_page_escapes_what_would_break_its_table() -> None:
    found = rows.row("a | b", "peer", 1.0, 2.0, "s", note="x") | {"case": "c"}
    text = report.markdown({"machine": {"cpu": "x"}, "versions": {}, "rows": [found]})
    assert "a \\| b" in text
