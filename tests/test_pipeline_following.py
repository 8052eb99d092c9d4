"""Following a run, settings from files, and tuning."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import SMALL, random_interactions

from jaxrec import cli, data, models, objectives, optim, pipeline, presets, runs, samplers, tune
from jaxrec.commands import configure
from jaxrec.data import DataError
from jaxrec.step import make_step
from jaxrec.track import JsonLines, TensorBoard
from jaxrec.train import DivergenceError, Fit, fit


class Kept:
    """A tracker of one's own."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.closed = 0

    def log(self, row: dict[str, Any], step: int) -> None:
        assert row["epoch"] == step
        self.rows.append(dict(row))

    def close(self) -> None:
        self.closed += 1


FEW = dataclasses.replace(SMALL, budget=2)


@pytest.fixture(scope="module")
def followed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Kept]:
    """A run with two trackers."""
    path, kept = tmp_path_factory.mktemp("followed"), Kept()
    pipeline.train(str(folder), FEW, path / "run", trackers=[kept, TensorBoard(path / "board")])
    return path, kept


def test_trackers_see_what_history_holds(followed: tuple[Path, Kept]) -> None:
    path, kept = followed
    assert kept.rows == runs.read_history(path / "run")
    assert kept.closed == 1
    assert [row["epoch"] for row in kept.rows if row["fit"] == "carved"] == [1, 2, 3, 4]
    assert json.loads((path / "run" / "settings.json").read_text())["settings"] == dataclasses.asdict(FEW)
    for name in ("carved", "refit"):
        (file,) = (path / "board" / name).glob("events*")
        assert file.stat().st_size > 200


def test_trackers_are_closed_where_a_run_is_refused(folder: Path, tmp_path: Path) -> None:
    kept = Kept()
    with pytest.raises(DataError):
        pipeline.train(str(tmp_path / "nothing"), FEW, tmp_path / "run", trackers=[kept])
    assert kept.closed == 1


@pytest.mark.parametrize("trackers", [[Kept], [object()], "board", Kept()], ids=["class", "other", "text", "one"])
def test_what_is_no_tracker_is_refused_first(trackers: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="tracker"):
        pipeline.train("synthetic", FEW, tmp_path / "run", trackers=trackers)
    assert not (tmp_path / "run").exists()


def test_a_damaged_history_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text('{"epoch": 1}\n{"epo')
    with pytest.raises(data.DataError, match=r"history\.jsonl:2 is damaged .*; make the run again"):
        runs.read_history(tmp_path)


def test_tensorboard_is_read_back(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    board = TensorBoard(tmp_path)
    board.log({"fit": "carved", "epoch": 3, "loss": 0.5, "note": "text"}, 3)
    board.close()
    (file,) = (tmp_path / "carved").glob("events*")
    content, events = file.read_bytes(), []
    while content:  # length, its CRC, the event, its CRC
        size = int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    scalars = [(event.step, v.tag, v.simple_value) for event in events for v in event.summary.value]
    assert scalars == [(3, "loss", 0.5)]


def test_history_goes_on_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    first = JsonLines(path)
    for epoch in (1, 2, 3):
        first.log({"fit": "carved", "epoch": epoch, "loss": 1.0}, epoch)
    with path.open("a") as out:
        out.write('{"fit": "carved", "epo')  # killed within a line, the last checkpoint at epoch 1
    again = JsonLines(path, resume=True)
    for epoch in (2, 3, 4):
        again.log({"fit": "carved", "epoch": epoch, "loss": 2.0}, epoch)
    again.log({"fit": "refit", "epoch": 1, "loss": 3.0}, 1)
    rows = runs.read_history(tmp_path)
    assert [(r["fit"], r["epoch"], r["loss"]) for r in rows] == [
        ("carved", 1, 1.0), ("carved", 2, 2.0), ("carved", 3, 2.0), ("carved", 4, 2.0), ("refit", 1, 3.0)
    ]  # fmt: skip
    JsonLines(path)
    assert path.read_text() == ""


class Killed(RuntimeError):
    """What stops the run below."""


class Bomb(Kept):
    """Ends a run at an epoch of its refit, as a kill would: without a word to anybody."""

    def log(self, row: dict[str, Any], step: int) -> None:
        if row["fit"] == "refit" and step == 2:
            raise Killed


def test_a_run_resumed_continues_its_history(
    followed: tuple[Path, Kept], folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        pipeline.train(str(folder), FEW, tmp_path, trackers=[Bomb()])
    before = runs.read_history(tmp_path)
    assert [(r["fit"], r["epoch"]) for r in before][:4] == [("carved", n) for n in (1, 2, 3, 4)]
    with pytest.raises(FileExistsError, match=r"was interrupted; go on with .* --resume, choose another --out"):
        pipeline.train(str(folder), FEW, tmp_path)
    assert runs.read_history(tmp_path) == before
    whole = followed[0] / "run"
    found = pipeline.train(str(folder), FEW, tmp_path, resume=True)
    assert found["tests"] == runs.read_metrics(whole)["tests"]
    told = [[{n: v for n, v in r.items() if n != "seconds"} for r in runs.read_history(p)] for p in (tmp_path, whole)]
    assert told[0] == told[1]


def test_a_fit_that_lost_patience_stays_stopped_when_resumed(tmp_path: Path) -> None:
    train = random_interactions(0)
    step = make_step(models.mf(train.num_users, train.num_items, 4), objectives.bpr(), optim.row_sgd(0.1))
    sampler = samplers.sampler(train, batch_size=64)

    def run(values: list[float], **options: Any) -> Any:
        left = iter(values)
        evaluate = {"evaluate": lambda state: {"m": next(left)}, "monitor": "m", "patience": 2}
        return fit(step, sampler, epochs=9, key=jax.random.key(0), checkpoint=tmp_path / "c", **evaluate, **options)

    first = run([1.0, 3.0, 2.0, 2.5])
    again = run([9.0] * 9, resume=True)
    assert (first.stopped, first.best_epoch, len(first.history)) == ("patience", 2, 4)
    assert (again.stopped, again.best_epoch, again.history) == ("patience", 2, first.history)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"epoch": 3}', "no setting 'epoch'; did you mean 'epochs'?"),
        ('{"settings": {"learning_rat": 3}}', "did you mean 'learning_rate'?"),
        ('{"epochs": 2.5}', "epochs wants int, got 2.5"),
        ('{"epochs": true}', "epochs wants int, got True"),
        ('{"optimizer": "adamw"}', "optimizer wants 'adagrad' or 'row_adagrad' or 'adam' or 'sgd', got 'adamw'"),
        ('{"patience": "3"}', "patience wants int or null, got '3'"),
        ("[1]", "wants an object of settings"),
        ('{"epochs": 3,\n}', ":2: this is no JSON"),
    ],
)
def test_a_settings_file_is_read_strictly(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.json").write_text(content)
    given = ["--settings", str(tmp_path / "s.json"), "--out", str(tmp_path / "run")]
    assert cli.main(["train", "synthetic", *given]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_settings_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_bytes(b'\xef\xbb\xbf{"epochs": 3}')
    assert presets.read_settings(tmp_path / "s.json") == ({"epochs": 3}, None)
    (tmp_path / "s.json").write_bytes('{"\xe9": 3}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"s\.json: not UTF-8 text"):
        presets.read_settings(tmp_path / "s.json")


def test_a_preset_that_a_file_names_is_one_of_those_there_are(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    for preset, wanted in (("paper-mf", "paper-mf"), ("custom", None)):
        path.write_text(json.dumps({"preset": preset, "settings": {"epochs": 3}}))
        assert presets.read_settings(path) == ({"epochs": 3}, wanted)
    path.write_text('{"preset": "paper_mf", "settings": {"epochs": 3}}')
    with pytest.raises(ValueError, match=r"s\.json: no preset 'paper_mf'; did you mean 'paper-mf'\?"):
        presets.read_settings(path)


def test_a_largest_loss_in_a_file_goes_with_an_option_of_its_rule(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"max_loss": 0.05}')
    given = ["--settings", str(tmp_path / "s.json")]
    for option in (["--select", "loss"], ["--select=loss"]):
        assert configure.defaults([*given, *option])[1].max_loss == 0.05
    with pytest.raises(ValueError, match="add select='loss'"):
        configure.defaults(given)


def test_options_go_before_the_file_and_the_file_before_the_preset(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"width": 4, "epochs": 1, "budget": 1, "batch_size": 512, "patience": None, "learning_rate": 1}
    (tmp_path / "s.json").write_text(json.dumps({"preset": "paper-mf", "settings": few}))
    out = tmp_path / "run"
    options = ["--out", str(out), "--width", "8", "--track", "tensorboard"]
    assert cli.main(["train", str(folder), "--settings", str(tmp_path / "s.json"), *options]) == 0
    assert list((out / "tensorboard" / "carved").glob("events*"))
    found, shown = runs.read_metrics(out), capsys.readouterr().out
    assert found["model"] == "paper-mf"
    assert found["settings"] == dataclasses.asdict(
        dataclasses.replace(presets.PAPER_MF, **{**few, "width": 8, "learning_rate": 1.0})
    )
    assert shown.startswith(f"data {folder}, seed 0, out {out}, preset paper-mf\n")
    for words in ("objective=bpr", "width=8 (not 64)", "patience=None (not 3)"):
        assert words in " ".join(shown.split())
    for source in ("settings.json", "metrics.json"):  # what a run leaves can be given to another one
        assert presets.read_settings(out / source)[0] == found["settings"]


def test_the_last_of_two_presets_counts() -> None:
    for argv in (["--preset", "paper-mf", "--preset", "lightgcn"], ["--preset=paper-mf", "--preset=lightgcn"]):
        assert configure.defaults(argv) == ("lightgcn", presets.PRESETS["lightgcn"])


def test_unknown_options_name_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train", "tune"):
        with pytest.raises(SystemExit):
            cli.main([command, "synthetic", "--out", str(tmp_path), "--learning-rat", "3"])
        assert "--learning-rate" in "".join(capsys.readouterr())


TINY = dataclasses.replace(SMALL, epochs=2, evaluate_every=1)


def test_tuning_writes_the_best_settings_for_training(folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "study"
    search = ["--trials", "3", "--search", "learning_rate", "l2"]
    small = ["--width", "8", "--epochs", "2", "--evaluate-every", "1", "--negatives", "16", "--batch-size", "256"]
    small += ["--budget", "1"]
    assert cli.main(["tune", str(folder), "--out", str(out), *search, *small]) == 0
    shown = capsys.readouterr().out
    searched = "searched: learning_rate 0.005 to 0.5, by powers"
    for words in (searched, "trial 2:", "jaxrec train", "not as in the preset"):
        assert words in shown
    best = json.loads((out / "best.json").read_text())
    rows = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    assert [row["trial"] for row in rows] == [0, 1, 2]
    assert rows[0]["learning_rate"] == presets.SOFTMAX_MF.learning_rate  # the preset's own come first
    assert best["value"] == max(row["value"] for row in rows if row["state"] == "complete")
    assert best["settings"]["width"] == 8
    preset, settings = configure.defaults(["--settings", str(out / "best.json")])
    assert (preset, dataclasses.asdict(settings)) == (best["preset"], best["settings"])


def test_a_study_is_resumed_and_only_as_it_was(folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    by_another_name = f"{folder.parent}/./{folder.name}"  # the same pairs, so the same study
    for name, trials, resume in ((str(folder), 1, False), (by_another_name, 3, True), (str(folder), 3, True)):
        tune.tune(name, TINY, tmp_path, trials=trials, search=["l2"], resume=resume, tell=told.append)
    assert len(told) == 3
    with pytest.raises(FileExistsError, match="--resume"):
        tune.tune(str(folder), TINY, tmp_path, trials=4)
    other = dataclasses.replace(TINY, width=5)
    with pytest.raises(ValueError, match=r"holds a study of width=8 \(now 5\); resume it as it was"):
        tune.tune(str(folder), other, tmp_path, trials=4, search=["l2"], resume=True)
    with pytest.raises(ValueError, match=r"holds a study of another seed, 0 \(now 3\)"):
        tune.tune(str(folder), TINY, tmp_path, trials=4, search=["l2"], seed=3, resume=True)
    with pytest.raises(ValueError, match="holds a study of another space"):
        tune.tune(str(folder), TINY, tmp_path, trials=4, search=["learning_rate"], resume=True)
    with pytest.raises(ValueError, match="did you mean 'learning_rate'"):
        tune.tune(str(folder), TINY, tmp_path / "x", search=["learning_rat"])


def test_a_study_goes_on_with_the_same_data_only(folder: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    tune.tune(str(own), TINY, tmp_path / "study", trials=1, search=["l2"])
    train = data.load(str(own)).split.train
    data.write_lines(own / "train.txt.gz", train.select(np.arange(1, len(train))))
    with pytest.raises(ValueError, match="holds a study of other training pairs or ids; resume it as it was"):
        tune.tune(str(own), TINY, tmp_path / "study", trials=2, search=["l2"], resume=True)
    assert len((tmp_path / "study" / "trials.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nope", {}, "'nope' is no registered data set"),
        ("synthetic", {"search": ["learning_rat"]}, "did you mean 'learning_rate'"),
        ("synthetic", {"trials": 0}, "trials must be at least 1, got 0"),
        ("synthetic", {"trials": -1}, "trials must be at least 1, got -1"),
        ("synthetic", {"seed": -1}, "seed must be a whole number from 0, got -1"),
    ],
)
def test_what_is_refused_begins_no_study(name: str, options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        tune.tune(name, TINY, tmp_path / "study", **options)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("name", ["best.json", "trials.jsonl"])
def test_a_study_takes_no_file_of_another_for_its_own(name: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"{name} was not written by a study, and would be lost"):
        tune.tune(str(folder), TINY, tmp_path, trials=1, search=["l2"])
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "mine")]


def test_a_study_whose_last_line_is_cut_goes_on(folder: Path, tmp_path: Path) -> None:
    tune.tune(str(folder), TINY, tmp_path, trials=2, search=["l2"])
    log = tmp_path / "study.log"
    log.write_bytes(log.read_bytes()[:-10])
    assert tune.tune(str(folder), TINY, tmp_path, trials=3, search=["l2"], resume=True)["value"] > 0
    states = [json.loads(line)["state"] for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert states.count("complete") + states.count("pruned") == 3


def test_a_lock_left_behind_can_be_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna frees the lock of a process that was killed where the link that it is leads to the journal."""
    monkeypatch.chdir(tmp_path)
    seen = []
    real = os.symlink
    monkeypatch.setattr(os, "symlink", lambda to, lock: (real(to, lock), seen.append(os.path.exists(lock))))
    Path("study").mkdir()
    tune._open(Path("study"), {"base": {"l2": 0.0}, "space": {"l2": {}}}, 0)
    assert seen
    assert all(seen)


def test_an_interrupted_trial_runs_again(folder: Path, tmp_path: Path) -> None:
    """A process killed within its second trial leaves it running in the journal."""
    code = f"""
import os, dataclasses
from jaxrec import presets, tune
base = presets.Settings(**{dataclasses.asdict(TINY)!r})
real, count = tune._trial, []
def trial(trial, *rest):
    count.append(trial)
    if len(count) == 2:
        os._exit(9)
    return real(trial, *rest)
tune._trial = trial
tune.tune({str(folder)!r}, base, {str(tmp_path)!r}, trials=3, search=["learning_rate"])
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 9, done.stderr
    tune.tune(str(folder), TINY, tmp_path, trials=3, search=["learning_rate"], resume=True)
    rows = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [row["state"] for row in rows].count("fail") == 1
    assert sum(row["state"] in ("complete", "pruned") for row in rows) == 3
    assert rows[2]["again"] == 1
    assert rows[2]["learning_rate"] == rows[1]["learning_rate"]


def test_a_trial_that_fails_twice_is_left(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once more, since memory may have been short by chance; then the study goes on with other settings."""
    tried: list[float] = []

    def scripted(trial: Any, settings: presets.Settings, *rest: Any) -> float:
        tried.append(settings.l2)
        trial.set_user_attr("best_epoch", 1)
        if settings.l2 == TINY.l2:
            raise MemoryError("no room for it")
        return 0.5

    monkeypatch.setattr(tune, "_trial", scripted)
    for resume in (False, True):
        with pytest.raises(MemoryError, match="no room"):
            tune.tune(str(folder), TINY, tmp_path, trials=2, search=["l2"], resume=resume)
    assert tune.tune(str(folder), TINY, tmp_path, trials=2, search=["l2"], resume=True)["value"] == 0.5
    assert tried[:2] == [TINY.l2] * 2
    assert len(tried) == 4
    rows = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [row.get("error") for row in rows] == ["MemoryError: no room for it"] * 2 + [None] * 2


def test_tuning_reads_no_test(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = data.splits.carve
    monkeypatch.setattr(data.splits, "carve", lambda split, **o: seen.append(split.tests) or real(split, **o))
    monkeypatch.setattr(pipeline, "rank_tests", None)
    tune.tune(str(folder), TINY, tmp_path, trials=1)
    assert seen == [{}]


def test_a_split_of_ones_own_is_tuned_on(folder: Path, tmp_path: Path) -> None:
    own = data.Dataset("own", data.load(str(folder)).split)
    found = tune.tune(own, TINY, tmp_path / "a", trials=1, seed=np.int64(0))  # type: ignore[arg-type]
    assert found["data"] == "own"
    assert found["value"] == tune.tune(str(folder), TINY, tmp_path / "b", trials=1)["value"]


def test_poor_trials_are_pruned_and_diverging_ones_left(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Fits that only say what they reach: the fifth is below the median of the four before it, the sixth diverges."""
    reached = iter([0.4, 0.5, 0.6, 0.7, 0.3, None, 0.9])

    def scripted(*arguments: Any, on_epoch: Any, **options: Any) -> Any:
        value = next(reached)
        if value is None:
            raise DivergenceError("the loss became nan", None)  # type: ignore[arg-type]
        rows = [{"epoch": epoch, "natural/ndcg@20": value} for epoch in (1, 2)]
        for row in rows:
            on_epoch(row, None)
        return Fit(None, None, 2, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(tune, "fit", scripted)
    told: list[str] = []
    found = tune.tune(str(folder), TINY, tmp_path, trials=7, tell=told.append)
    rows = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [row["state"] for row in rows] == ["complete"] * 4 + ["pruned"] * 2 + ["complete"]
    assert "stopped at epoch 1" in told[4]
    assert "diverged" in told[5]
    assert (found["trial"], found["value"]) == (6, 0.9)


def test_the_space_has_batches_that_the_base_can_use() -> None:
    base = dataclasses.replace(presets.PAPER_MF, batch_size=96, rows_per_user=3)
    assert tune.space(base)["batch_size"] == tune.Options((96,))
    twos = dataclasses.replace(base, batch_size=2048, rows_per_user=1024)
    assert tune.space(twos)["batch_size"] == tune.Options((1024, 2048, 4096, 8192))


@pytest.mark.parametrize("preset", sorted(presets.PRESETS))
def test_the_space_holds_the_preset_and_suits_it(preset: str) -> None:
    base = presets.PRESETS[preset]
    for name, of in tune.space(base).items():
        value = getattr(base, name)
        if isinstance(of, tune.Options):
            assert value in of.values
            for option in of.values:
                assert getattr(presets.override(base, {name: option}, source=""), name) == option
        else:
            assert of.low <= value <= of.high
