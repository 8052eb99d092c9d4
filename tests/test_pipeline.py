"""Selection, the main job end to end, and the command line, on small data."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALL, random_interactions
from scipy import stats

import jaxrec
from jaxrec import (
    analysis,
    cli,
    data,
    frozen,
    models,
    objectives,
    optim,
    pipeline,
    rank,
    runs,
    samplers,
    select,
    testing,
)
from jaxrec import ledger as ledgers
from jaxrec.checkpoint import CheckpointError
from jaxrec.ledger import GradientLedger
from jaxrec.presets import PRESETS, Settings, build
from jaxrec.step import make_step
from jaxrec.train import fit
from jaxrec.transforms import adjustment as adj
from jaxrec.types import Tables


def test_a_run_holds_what_others_rely_on(run: Path) -> None:
    found = json.loads((run / "metrics.json").read_text())
    assert list(found["tests"]) == list(found["test_fingerprints"]) == ["test"]
    assert set(found["tests"]["test"]) == {"plain", "adjusted", "count_control", "tten"}
    assert {"direction", "magnitude"} <= set(found["selected"])
    for arm in found["tests"]["test"].values():
        assert 0 <= arm["recall@20"] <= 1
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in rows if r["fit"] == "carved"] == [1, 2, 3, 4]
    with np.load(run / "embeddings.npz", allow_pickle=False) as arrays:
        assert arrays["user"].shape[1] == arrays["item"].shape[1] == 8
        assert len(arrays["user_ids"]) == len(arrays["user"]) == len(arrays["user_adjusted"])
        assert arrays["user_adjusted"].shape[1] == arrays["item_adjusted"].shape[1]
    frontier = json.loads((run / "frontier.json").read_text())
    assert len(frontier["adjusted"]) == len(frontier["count_control"]) == 10
    assert not any(frontier["adjusted"][0]["strengths"].values())


def test_the_tables_of_a_run_give_its_metrics(run: Path, folder: Path) -> None:
    found = json.loads((run / "metrics.json").read_text())
    split = data.load(str(folder)).split
    saved = runs.load_tables(run)
    for arm, tables in (("plain", saved.plain), ("adjusted", saved.adjusted)):
        again = pipeline.evaluate(tables, split)["test"].summary
        assert again["recall@20"] == pytest.approx(found["tests"]["test"][arm]["recall@20"], abs=1e-9)


def test_a_run_may_be_named_by_text(run: Path) -> None:
    saved = runs.load_tables(str(run))
    assert runs.load_split(str(run)).train.num_users == len(saved.user_ids) == len(saved.plain.user)
    assert len(runs.load_seen(str(run), saved)) == len(runs.load_split(run).train)
    assert runs.load_ledger(str(run)).items.pull.vector.shape == saved.plain.item.shape
    assert runs.read_history(str(run)) == runs.read_history(run)


def test_the_keys_of_the_embeddings_are_those_that_the_pages_tell(tmp_path: Path) -> None:
    seen = random_interactions(0)
    plain, corrected = (Tables(jnp.full((30, 2), x), jnp.full((20, 2), x)) for x in (1.0, 2.0))
    for save, keys in ((runs.save_tables, ("", "_adjusted")), (runs.save_corrected, ("_plain", ""))):
        save(tmp_path, seen, plain, corrected)
        with np.load(tmp_path / "embeddings.npz") as arrays:
            assert [float(arrays[f"user{end}"].max()) for end in keys] == [1, 2]
            assert [float(arrays[f"item{end}"].max()) for end in keys] == [1, 2]
        saved = runs.load_tables(tmp_path)
        assert (saved.plain.user.max(), saved.adjusted.user.max()) == (1, 2)
    root = Path(__file__).parents[1]
    for page in ("README.md", "docs/howto.md"):
        assert "runs.load_tables" in (root / page).read_text(encoding="utf-8")


def test_the_report_is_one_file_without_network(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert page.count("<svg") == 6
    for outside in ('src="http', 'href="http', "@import", "<script src", "url(http"):
        assert outside not in page
    for words in ("claim (i)", "claim (ii)", "count control", "The trade-off", "before", "after"):
        assert words in page


def test_evaluate_recommend_and_report(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(run), "--adjust", "direction=1.0,magnitude=0.3", "--k", "5", "10"]) == 0
    assert "recall@5" in capsys.readouterr().out
    (tmp_path / "users.txt").write_text("3\n7\n")
    target = tmp_path / "recs.csv"
    few = ["--users", str(tmp_path / "users.txt"), "-k", "4"]
    assert cli.main(["recommend", str(run), *few, "--out", str(target)]) == 0
    rows = list(csv.DictReader(target.read_text().splitlines()))
    assert [r["user_id"] for r in rows] == ["3"] * 4 + ["7"] * 4
    assert cli.main(["report", str(run), str(run), "--out", str(tmp_path / "both.html")]) == 0
    assert (tmp_path / "both.html").read_text().count("<svg") == 1


def test_lists_to_serve_leave_out_what_is_in_the_tests(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = data.load(str(folder)).split
    (tmp_path / "new.txt").write_text("3 7\n9 1 5\n4 2\n6 8\n")

    def listed(*more: str) -> set[int]:
        assert cli.main(["recommend", str(run), "-k", "50", "--out", str(tmp_path / "all.csv"), *more]) == 0
        rows = csv.DictReader((tmp_path / "all.csv").read_text().splitlines())
        return {int(row["item_id"]) for row in rows if row["user_id"] == "3"}

    train, test = (set(part.items[part.users == 3].tolist()) for part in (split.train, split.tests["test"]))
    assert test
    assert listed() == set(range(50)) - train
    assert "users; what they have in the training part is left out\n" in capsys.readouterr().out
    assert listed("--without-tests") == set(range(50)) - train - test
    assert "what they have in the training part and the tests is left out\n" in capsys.readouterr().out
    assert listed("--without-tests", "--histories", str(tmp_path / "new.txt")) == set(range(50)) - train - test - {7}
    assert listed("--seen") == set(range(50))
    assert "nothing is left out" in capsys.readouterr().out
    assert cli.main(["recommend", str(run), "--seen", "--without-tests", "--out", str(tmp_path / "all.csv")]) == 1
    assert "choose one" in capsys.readouterr().err


def test_lists_may_be_made_with_other_strengths(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lists(*more: str) -> str:
        assert cli.main(["recommend", str(run), "-k", "5", "--out", str(tmp_path / "a.csv"), *more]) == 0
        return (tmp_path / "a.csv").read_text()

    (tmp_path / "new.txt").write_text("3 7\n9 1 5\n4 2\n6 8\n")
    chosen = ",".join(f"{name}={value}" for name, value in runs.read_metrics(run)["selected"].items())
    for who in ([], ["--histories", str(tmp_path / "new.txt")]):
        adjusted, plain = lists(*who), lists(*who, "--arm", "plain")
        assert lists(*who, "--adjust", chosen) == adjusted
        assert lists(*who, "--adjust", "direction=0") == plain
        assert lists(*who, "--adjust", "magnitude=2") not in {adjusted, plain}
    assert cli.main(["recommend", str(run), "--out", "a.csv", "--adjust", "pull=1", "--arm", "plain"]) == 1
    assert "--adjust corrects, --arm plain does not" in capsys.readouterr().err


def test_a_run_may_correct_by_exposure(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    few = ["--width", "8", "--epochs", "2", "--evaluate-every", "2", "--budget", "8", "--negatives", "16"]
    assert cli.main(["train", str(folder), *few, "--batch-size", "256", "--family", "exposure", "--out", str(out)]) == 0
    found = runs.read_metrics(out)
    assert set(found["selected"]) == {"exposure", "pull"}
    assert found["selected"] != {"exposure": 0, "pull": 0}
    assert "pushed away a lot while training" in (out / "report.html").read_text()
    saved, split = runs.load_tables(out), data.load(str(folder)).split
    arm = select.exposure_arm(saved.plain, runs.load_ledger(out), seed=0)
    wanted = select.apply(arm, found["selected"], saved.plain, runs.load_ledger(out))
    np.testing.assert_allclose(saved.adjusted.user @ saved.adjusted.item.T, wanted.user @ wanted.item.T, atol=1e-5)
    told = capsys.readouterr().out.splitlines()
    assert [line.removeprefix("note: ") for line in told if line.startswith("note: ")] == found["notes"] != []
    assert cli.main(["evaluate", str(out), "--adjust", "exposure=0,pull=0", "--k", "20"]) == 0
    plain = pipeline.evaluate(saved.plain, split, ks=[20])["test"].summary["recall@20"]
    assert capsys.readouterr().out.count(f"{plain:.4f}") == 2  # no strength, no change
    assert cli.main(["evaluate", str(out), "--adjust", "direction=1"]) == 1
    assert "the names are exposure, pull" in capsys.readouterr().err
    (tmp_path / "new.csv").write_text("user_id,item_id\nann,3\nann,5\nbob,1\ncy,2\ndee,8\n")
    new = ["--histories", str(tmp_path / "new.csv"), "-k", "3"]
    assert cli.main(["recommend", str(out), *new, "--out", str(tmp_path / "recs.csv")]) == 0
    assert len((tmp_path / "recs.csv").read_text().splitlines()) == 1 + 4 * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere", "--out", "OUT"], "no registered data set"),
        (["evaluate", "OUT"], "no finished run"),
        (["evaluate", "RUN", "--adjust", "direktion=1"], "no strength 'direktion'; did you mean 'direction'?"),
        (["evaluate", "RUN", "--adjust", "direction"], "wants name=number"),
        (["recommend", "RUN", "--out", "OUT.csv", "-k", "999"], "k must be between 1 and the 50 items"),
        (["recommend", "RUN", "--out", "OUT.csv", "-k", "0"], "k must be a whole number from 1, got 0"),
        (["recommend", "RUN", "--out", "OUT.what"], "'.what' can't be written; name it .csv, .tsv, .parquet, .trec or"),
        (["train", "FOLDER", "--out", "RUN"], "holds a finished run"),
        (["train", "FOLDER", "--out", "OUT", "--k", "51"], "k must be between 1 and the 50 items"),
        (["train", "FOLDER", "--out", "RUN", "--resume"], "holds another run"),
        (["adjust", "--user", "MODEL", "--item", "MODEL", "--interactions", "USERS", "--out", "RUN"], "a run already"),
        (["data", "convert", "USERS", "--to", "OUT.what"], "'.what' can't be written; name it .csv, .tsv, .parquet or"),
        (["data", "convert", "USERS", "--to", "csv"], "is a file that is read"),
        (["report", "RUN", "--out", "OUT"], "--out is for the page that compares several runs"),
        (["train", "FOLDER", "--out", "OUT", "--preset", "softmax"], "did you mean 'softmax-mf'?"),
        (["trian"], "did you mean 'train'"),
    ],
)
def test_mistakes_are_told_and_the_exit_code_is_not_zero(
    arguments: list[str], message: str, run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"RUN": str(run), "FOLDER": str(folder), "OUT": str(tmp_path / "out"), "OUT.csv": str(tmp_path / "o.csv")}
    known |= {"OUT.what": str(tmp_path / "o.what"), "USERS": str(tmp_path / "u.csv")}
    known["MODEL"] = str(run / "embeddings.npz")
    (tmp_path / "u.csv").write_text("user,item\n1,2\n")
    before = {path: path.read_bytes() for path in (*run.glob("*.*"), tmp_path / "u.csv")}
    assert cli.main([known.get(a, a) for a in arguments]) != 0
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


FEW = dataclasses.replace(SMALL, epochs=2, budget=4, k=5, reject=False)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with a file of 9 items and a run on it, and what the run found."""
    path = tmp_path_factory.mktemp("few")
    data.write(path / "few.csv", random_interactions(3, users=60, items=9, density=0.3))
    return path, pipeline.train(path / "few.csv", FEW, path / "run")


def test_lists_never_replace_what_a_run_was_trained_on(
    few: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    source = few[0] / "few.csv"
    before = source.read_bytes()
    assert cli.main(["recommend", str(few[0] / "run"), "--out", str(source), "-k", "2"]) == 1
    assert "few.csv is a file that is read, which would be lost" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_any_cut_off_may_be_selected_at(few: tuple[Path, dict[str, Any]]) -> None:
    """One that is not among those reported, in a catalogue that is smaller than them all."""
    found = few[1]
    assert set(found["comparisons"]["natural"]["adjusted - plain"]) == {"recall@5", "ndcg@5"}
    assert "ndcg@5" in found["tests"]["unbiased"]["plain"]


def test_a_user_with_every_item_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    pairs = random_interactions(3, users=20, items=9, density=0.3)
    whole = data.Interactions(np.r_[pairs.users, [20] * 9], np.r_[pairs.items, np.arange(9)], 21, 9)
    data.write_lines(tmp_path / "train.txt", whole)
    left = np.setdiff1d(np.arange(9), pairs.items[pairs.users == 0])
    data.write_lines(tmp_path / "test.txt", data.Interactions([0], left[:1], 21, 9))
    own = dataclasses.replace(SMALL, shared=False, negatives=2, k=5)
    with pytest.raises(ValueError, match="user 20 has every item"):
        pipeline.train(str(tmp_path), own, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["embeddings.npz", "seen.npz", "adjust.json", "settings.json"])
def test_files_that_no_run_was_interrupted_at_stay(name: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"epochs": 3}')
    with pytest.raises(FileExistsError, match=rf"{name}.*choose another --out"):
        pipeline.train(str(folder), SMALL, tmp_path)
    if name != "settings.json":
        with pytest.raises(ValueError, match=f"holds {name} of another command and no run to resume"):
            pipeline.train(str(folder), SMALL, tmp_path, resume=True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, '{"epochs": 3}')]


def test_a_run_that_ended_before_its_first_checkpoint_may_begin_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_run", stop)
    with pytest.raises(KeyboardInterrupt):
        pipeline.train(str(folder), SMALL, tmp_path)
    monkeypatch.setattr(pipeline, "_run", lambda *args, **options: {"began": True})
    assert pipeline.train(str(folder), SMALL, tmp_path) == {"began": True}


def test_a_metric_that_is_missing_leaves_its_place_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"recall@20": 0.1, "ndcg@20": 0.2, "arp@20": 55.0, "coverage@20": 0.3}
    cli._print_tests({"test": {"plain": values}}, 20)
    assert capsys.readouterr().out.split()[-7:] == ["test", "plain", "0.1000", "0.2000", "–", "55.0", "0.3000"]
    cli._print_tests({"test": {"plain": {name.replace("20", "5"): value for name, value in values.items()}}}, 20)
    out = capsys.readouterr().out
    assert "ndcg@5" in out
    assert "0.2000" in out


def test_lists_that_are_short_may_be_unchanged() -> None:
    before = np.array([[1, -1, -1], [-1, -1, -1], [1, 2, -1], [4, 5, 6]])
    after = np.array([[1, -1, -1], [-1, -1, -1], [2, 3, -1], [6, 5, 4]])
    np.testing.assert_allclose(analysis.change_in_lists(before, after), [0, 0, 0.5, 0])


@pytest.mark.parametrize(
    ("text", "change", "more", "message"),
    [
        (None, {"objective": "bpr"}, {}, "logq corrects the softmax"),
        (None, {"shared": False, "reject": False, "negatives": 2}, {}, "logq wants negatives that a batch shares"),
        (None, {"rows_per_user": 5}, {}, "batch_size must be a multiple of rows_per_user, got 256 and 5"),
        (None, {"backbone": "lightgcn"}, {}, "choose an optimizer of"),
        (None, {}, {"seed": -1}, "seed must be a whole number from 0, got -1"),
        (None, {}, {"seed": 2**32}, "seed must be less than .*, got 4294967296"),
        (None, {}, {"selected": "nowhere"}, "nowhere holds no metrics.json"),
        ("0 0 1 2 3\n", {}, {}, "too small to carve validation parts from: of 4 training pairs none"),
        ("0 0 1\n1 0 1\n", {}, {"seed": 2}, "of 4 training pairs none can go to the natural part"),
    ],
)
def test_what_is_refused_writes_nothing(
    text: str | None, change: dict, more: dict, message: str, folder: Path, tmp_path: Path
) -> None:
    source = folder if text is None else tmp_path / "own"
    if text is not None:
        source.mkdir()
        (source / "train.txt").write_text(text)
        (source / "test.txt").write_text("0 4\n")
    settings = dataclasses.replace(SMALL, k=2, **change)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        pipeline.train(str(source), settings, tmp_path / "run", **more)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["history.jsonl", "report.html"])
def test_a_run_takes_no_file_of_another_for_its_own(name: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"{name} was not written by a run, and would be lost"):
        pipeline.train(str(folder), SMALL, tmp_path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "mine")]


def test_data_that_changed_since_a_run_are_told(
    few: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = few[0] / "few.csv", few[0] / "run"
    assert cli.main(["report", str(out), str(out)]) == 0
    assert "ndcg@5" in capsys.readouterr().out
    assert cli.main(["evaluate", str(out)]) == 0
    text = file.read_text()
    capsys.readouterr()
    try:
        file.write_text(text.replace("\n7,", "\n77,"))  # one user's id, and nothing else
        for arguments in (["evaluate", str(out)], ["recommend", str(out), "--out", str(tmp_path / "recs.csv")]):
            assert cli.main(arguments) == 1
            assert "was trained on other pairs or ids" in capsys.readouterr().err
        with pytest.raises(CheckpointError, match=r"holds another run: fingerprint '\w+', now '\w+'; resume"):
            pipeline.train(str(file), FEW, out, resume=True)
        file.write_text(text + "99,1\n")  # one more user, so that no array is as large as it was
        with pytest.raises(CheckpointError, match=r"holds another run: fingerprint '\w+', now '\w+'; resume"):
            pipeline.train(str(file), FEW, out, resume=True)
        with pytest.raises(data.DataError, match="other pairs or ids"):
            pipeline.train(str(file), FEW, tmp_path / "two", seed=1, selected=out)
    finally:
        file.write_text(text)


def test_a_test_that_changed_since_a_run_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, out = Path(shutil.copytree(folder, tmp_path / "own")), tmp_path / "run"
    split = data.load(str(own)).split
    kept = {"source": str(own), "fingerprint": split.train.fingerprint, "settings": {"k": 20}}
    kept["test_fingerprints"] = {"test": split.tests["test"].fingerprint}
    out.mkdir()
    (out / "metrics.json").write_text(json.dumps(kept))
    assert runs.load_split(out).tests["test"].fingerprint == split.tests["test"].fingerprint
    data.write_lines(own / "test.txt", split.tests["test"].select(np.arange(1, len(split.tests["test"]))))
    assert cli.main(["evaluate", str(out)]) == 1
    told = capsys.readouterr().err
    assert f"was tested on other pairs than {own} gives now in the test 'test': the data changed" in told
    tables = runs.Saved(None, None, split.train.user_ids, split.train.item_ids)  # type: ignore[arg-type]
    assert runs.load_seen(out, tables).fingerprint == split.train.fingerprint  # recommending needs no test


def test_fingerprints_tell_pairs_and_ids_apart_and_not_their_order() -> None:
    pairs = random_interactions(3)
    turned = data.Interactions(pairs.users[::-1], pairs.items[::-1], pairs.num_users, pairs.num_items)
    assert turned.fingerprint == pairs.fingerprint
    text = [f"u{n}" for n in range(pairs.num_users)]
    named = [dataclasses.replace(pairs, user_ids=np.array(text, f"U{width}")).fingerprint for width in (3, 9)]
    assert named[0] == named[1] != pairs.fingerprint
    others = [pairs.select(np.arange(1, len(pairs))), dataclasses.replace(pairs, user_ids=np.arange(1, 31))]
    others += [data.Interactions(pairs.users, pairs.items, pairs.num_users + 1, pairs.num_items)]
    others += [dataclasses.replace(pairs, item_ids=np.arange(1, pairs.num_items + 1))]
    assert len({pairs.fingerprint, *(other.fingerprint for other in others)}) == 5


@pytest.mark.parametrize("name", ["embeddings.npz", "ledger.npz", "metrics.json"])
def test_a_damaged_run_is_told_with_the_file(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = Path(shutil.copytree(run, tmp_path / "torn"))
    (torn / name).write_bytes((torn / name).read_bytes()[:-40])
    assert cli.main(["evaluate", str(torn), "--adjust", "direction=1"]) == 1
    message = capsys.readouterr().err
    assert "DataError" in message
    assert f"{torn / name} is damaged" in message


def test_the_run_of_an_earlier_demo_stays_where_the_new_one_cannot_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "settings.json").write_text("{}")
    assert cli.main(["demo", "--data", "nowhere"]) == 1
    assert (tmp_path / "runs" / "demo" / "settings.json").exists()


def test_the_demo_replaces_only_a_demo_and_only_where_it_can_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    begun: list[bool] = []
    old = tmp_path / "runs" / "demo"
    monkeypatch.setattr(cli, "_run", lambda *args, **options: begun.append(old.exists()))
    settings = dataclasses.replace(PRESETS["softmax-mf"], epochs=40, budget=64)
    demo = {"preset": "softmax-mf", "settings": dataclasses.asdict(settings)}
    old.mkdir(parents=True)
    (tmp_path / "one.csv").write_text("user,item\n1,1\n2,1\n3,1\n")
    for kept, arguments, message in (
        (demo | {"preset": "paper-mf"}, ["--data", "synthetic"], "is of no demo; choose another --out"),
        (demo | {"settings": {"epochs": 3}}, ["--data", "synthetic"], "holds a run that is of no demo"),
        ({}, ["--data", "synthetic"], "holds a run that is of no demo"),
        (demo, ["--data", "one.csv"], "k must be between 1 and the 1 items"),
    ):
        (old / "settings.json").write_text(json.dumps(kept))
        assert cli.main(["demo", *arguments]) == 1
        assert message in capsys.readouterr().err
        assert (old / "settings.json").exists()
    (old / "settings.json").write_text(json.dumps(demo | {"data": "ml-100k", "seed": 3}))
    assert cli.main(["demo", "--data", "synthetic"]) == 0
    assert begun == [False]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--width=0", "width must be at least 1, got 0"),
        ("--evaluate-every=0", "evaluate_every must be at least 1"),
        ("--select-users=0", "select_users must be at least 1"),
        ("--budget=0", "budget must be at least 1"),
        ("--max-loss=-1", "max_loss is the share"),
        ("--max-loss=0.05", "add select='loss' (--select loss)"),
    ],
)
def test_settings_that_no_run_can_have_are_errors(
    option: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(["train", "synthetic", "--out", str(tmp_path / "out"), option])
    assert error.value.code != 0
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_output_that_nobody_reads_ends_without_a_traceback() -> None:
    import os
    import subprocess
    import sys

    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "jaxrec", "data", "list"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"jaxrec {jaxrec.__version__}\n"


def test_unknown_options_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(["train", "synthetic", "--out", str(tmp_path), "--epoch", "3"])
    assert error.value.code != 0


def test_the_demo_ends_with_a_table_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole of `jaxrec demo` on the generated world, where the truth is known."""
    assert cli.main(["demo", "--data", "synthetic", "--out", str(tmp_path / "demo")]) == 0
    shown = capsys.readouterr().out
    for word in ("plain", "adjusted", "count_control", "natural", "unbiased", "report.html"):
        assert word in shown
    tests = json.loads((tmp_path / "demo" / "metrics.json").read_text())["tests"]
    assert tests["unbiased"]["adjusted"]["ndcg@20"] > tests["unbiased"]["plain"]["ndcg@20"]


def test_another_seed_may_use_the_selection_of_the_first(run: Path, folder: Path, tmp_path: Path) -> None:
    found = pipeline.train(str(folder), SMALL, tmp_path / "two", preset="softmax-mf", seed=2, selected=run)
    assert found["selected"] == json.loads((run / "metrics.json").read_text())["selected"]
    assert not np.array_equal(runs.load_tables(tmp_path / "two").plain.user, runs.load_tables(run).plain.user)
    with pytest.raises(ValueError, match="other data or settings"):
        pipeline.train("synthetic", SMALL, tmp_path / "three", selected=run)


@pytest.fixture(scope="module")
def overfitted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[data.Interactions]]:
    """A run that is best after its first epoch and may lose nothing natural, and what its models were built for."""
    out, trained_on = tmp_path_factory.mktemp("runs") / "overfitted", []
    settings = dataclasses.replace(SMALL, learning_rate=2.0, epochs=3, evaluate_every=1, select="loss", max_loss=0.0)

    def recording(settings: Settings, train: data.Interactions) -> Any:
        trained_on.append(train)
        return build(settings, train)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "build", recording)
        pipeline.train(str(folder), settings, out, seed=1)
    return out, trained_on


def test_what_is_validated_on_is_not_trained_on_before_the_refit(overfitted: tuple, folder: Path) -> None:
    split = data.load(str(folder)).split
    carved = data.carve(split, seed=1)
    *before, refit = overfitted[1]
    assert {train.fingerprint for train in before} == {carved.train.fingerprint}
    assert refit.fingerprint == split.train.fingerprint != carved.train.fingerprint


def test_strengths_and_epochs_are_those_of_the_best_state(overfitted: tuple) -> None:
    run = overfitted[0]
    rows = runs.read_history(run)
    watched = [row["natural/ndcg@20"] for row in rows if row["fit"] == "carved"]
    found = runs.read_metrics(run)
    assert found["best_epoch"] == 1 + int(np.argmax(watched)) < len(watched)
    assert [row["epoch"] for row in rows if row["fit"] == "refit"] == list(range(1, found["best_epoch"] + 1))
    plain = found["validation"]["plain"]["natural"]["ndcg@20"]
    assert plain == pytest.approx(max(watched), rel=1e-5)
    assert plain != pytest.approx(watched[-1], rel=1e-2)


def test_a_run_may_select_by_what_is_lost(overfitted: tuple) -> None:
    tried = json.loads((overfitted[0] / "frontier.json").read_text())["adjusted"]
    found = runs.read_metrics(overfitted[0])["validation"]
    assert found["adjusted"]["natural"]["ndcg@20"] >= found["plain"]["natural"]["ndcg@20"]
    freely = max(tried, key=lambda point: point["metrics"]["unbiased"]["ndcg@20"])["metrics"]
    assert freely["natural"]["ndcg@20"] < found["plain"]["natural"]["ndcg@20"]


def test_the_first_of_two_compared_arms_is_the_one_that_gains() -> None:
    pairs = data.five_way(random_interactions(3, users=60, items=15, density=0.4), seed=0)
    rows = {arm: jax.random.normal(jax.random.key(n), (15, 2)) for n, arm in enumerate(("plain", "adjusted", "tten"))}
    results = {arm: pipeline.evaluate(Tables(jnp.ones((60, 2)), item), pairs, ks=[5]) for arm, item in rows.items()}
    told = pipeline.comparisons(results, 5)
    for test in ("natural", "unbiased"):
        assert set(told[test]) == {"adjusted - plain", "adjusted - tten"}
        for pair, found in told[test].items():
            one, other = (results[arm][test].summary for arm in pair.split(" - "))
            for name in ("recall@5", "ndcg@5"):
                assert found[name]["difference"] == pytest.approx(one[name] - other[name]) != 0


def test_what_a_user_had_while_training_or_validating_is_not_recommended_in_tests() -> None:
    split = data.five_way(random_interactions(3, users=60, items=15, density=0.4), seed=0, valid=True)
    tables = Tables(jnp.ones((60, 2)), jax.random.normal(jax.random.key(0), (15, 2)))
    found = pipeline.rank_tests(tables, split, k=15)
    for part in (split.train, *split.valid.values()):
        had = part.to_scipy().toarray() > 0
        assert not any(had[user, row[row >= 0]].any() for user, row in zip(found.users, found.items, strict=True))


def test_a_frontier_is_repeatable() -> None:
    split, tables, ledger = trained()
    problem = select.prepare(tables, ledger, split.train, split.valid, k=5)
    arm = select.arms(tables, ledger, split.train)["count_control"]
    one, two, other = (select.frontier(problem, arm, budget=12, seed=seed) for seed in (0, 0, 1))
    assert one == two
    assert one != other


def test_a_run_on_lightgcn_is_the_same_run(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "graph"
    small = ["--width", "8", "--epochs", "2", "--evaluate-every", "1", "--budget", "4", "--batch-size", "256"]
    assert cli.main(["train", str(folder), "--preset", "lightgcn", "--out", str(out), *small]) == 0
    found = runs.read_metrics(out)
    assert found["settings"]["backbone"] == found["model"] == "lightgcn"
    assert set(found["tests"]["test"]) == {"plain", "adjusted", "count_control", "tten"}
    assert (out / "report.html").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"optimizer": "row_adagrad"}, "choose an optimizer of sgd, adagrad, adam"), ({"biases": True}, "belong to mf")],
)
def test_options_that_lightgcn_cannot_honour_are_errors(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(dataclasses.replace(PRESETS["lightgcn"], **change), random_interactions())


def test_without_layers_a_lightgcn_takes_row_sparse_optimisers() -> None:
    model, _, _ = build(dataclasses.replace(PRESETS["lightgcn"], layers=0), random_interactions())
    assert model.tables_are_params


def test_doctor_is_content(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    assert "all is well" in capsys.readouterr().out


def test_measure_agrees_with_evaluate() -> None:
    split = data.carve(random_interactions(3, users=80, items=50, density=0.3), seed=0)
    model = models.mf(80, 50, 8, scale=1.0)
    tables = models.embed(model, model.init(jax.random.key(0)))
    problem = select.prepare(tables, ledgers.init(80, 50, 8), split.train, split.valid, k=10, block=7)
    found = select.measure(problem, lambda tables, ledger: tables)
    ranking = rank.top_k(tables, None, split.train, k=10)
    from jaxrec import metrics

    for part, test in split.valid.items():
        wanted = metrics.evaluate(ranking, test, split.train, ks=(10,)).summary
        for name in ("recall@10", "ndcg@10"):
            assert found[part][name] == pytest.approx(wanted[name], rel=1e-5)


@functools.cache
def trained(items: int = 50) -> tuple[data.Split, Tables, GradientLedger]:
    split = data.carve(random_interactions(3, users=80, items=items, density=0.3), seed=0)
    model = models.normalize(models.mf(80, items, 8, scale=1.0), temperature=0.5)
    sampler = samplers.sampler(split.train, batch_size=64, num_negatives=20, shared=True)
    step = make_step(model, objectives.softmax(), optim.row_adagrad(0.1))
    state = fit(step, sampler, epochs=2, key=jax.random.key(0)).state
    assert state.ledger is not None
    return split, models.embed(model, state.params), state.ledger


@pytest.mark.parametrize(("items", "name", "value"), [(50, "AT_ONCE", 5), (700, "CHANGES", 3600)])
def test_points_measured_together_are_measured_as_one_by_one(
    items: int, name: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five points at once, whichever limit says so; 50 items are ranked by one stage, 700 by several, which two arms
    are enough to show."""
    monkeypatch.setattr(select, name, value)
    split, tables, ledger = trained(items=items)
    problem = select.prepare(tables, ledger, split.train, split.valid, k=5, block=16)
    rng = np.random.default_rng(0)
    arms = select.arms(tables, ledger, split.train)
    others = [arms["tten"], select.exposure_arm(tables, ledger)] if items == 50 else []
    for arm in (arms["adjusted"], arms["count_control"], *others):
        box = rng.uniform(arm.low, arm.high, (8, len(arm.low)))
        together = select.measure_many(problem, arm, box)
        assert len(together) == len(box)
        for s, found in zip(box, together, strict=True):
            one = select.measure(problem, arm.adjust(jnp.asarray(s, jnp.float32)))
            for part in split.valid:
                assert found[part] == pytest.approx(one[part], rel=1e-5)
        assert together[0] != together[1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_points_without_finite_scores_are_refused(bad: float) -> None:
    split, tables, ledger = trained()
    problem = select.prepare(tables, ledger, split.train, split.valid, k=5)
    arm = select.arms(tables, ledger, split.train)["count_control"]
    with pytest.raises(ValueError, match="scores must be finite"):
        select.measure_many(problem, arm, np.array([[0.0] * len(arm.names), [bad] * len(arm.names)]))


@pytest.mark.parametrize("arm", ["adjusted", "count_control", "exposure"])
def test_an_arms_change_of_scores_is_what_its_tables_score(arm: str) -> None:
    split, tables, ledger = trained()
    found = (select.arms(tables, ledger, split.train) | {"exposure": select.exposure_arm(tables, ledger)})[arm]
    assert found.change is not None
    users = jnp.arange(80)
    plain = rank.masked_scores(tables, users, jnp.full((80, 1), 50))
    for seed in range(3):
        s = jnp.asarray(np.random.default_rng(seed).uniform(found.low, found.high), jnp.float32)
        wanted = rank.masked_scores(found.adjust(s)(tables, ledger), users, jnp.full((80, 1), 50))
        others = [tables.user[users] @ rows.T for rows in found.shifts]
        np.testing.assert_allclose(found.change(s).apply(plain, users, others), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("low", "high"), [((0,), (1, 1)), ((0, 0), (1,)), ((0, 2), (1, 1))])
def test_an_arm_that_is_no_box_is_told(low: tuple, high: tuple) -> None:
    arm = select.Arm(("a", "b"), low, high, lambda s: lambda tables, ledger: tables)
    problem = select.Problem(*(None,) * 5, [], [], [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no low above its high; got names"):
        select.frontier(problem, arm)


@pytest.mark.parametrize("high", [float("inf"), float("nan"), True])
def test_a_box_that_has_no_end_is_told(high: float) -> None:
    arm = select.Arm(("a",), (0,), (high,), lambda s: lambda tables, ledger: tables)
    problem = select.Problem(*(None,) * 5, [], [], [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"a low or a high of an arm must be a finite number, got {high}"):
        select.frontier(problem, arm)


@pytest.mark.parametrize(("low", "high"), [((0, 0.5), (1, 1)), ((0, -2), (1, -1))])
def test_a_box_without_0_has_nothing_to_measure_losses_from(low: tuple, high: tuple) -> None:
    arm = select.Arm(("a", "b"), low, high, lambda s: lambda tables, ledger: tables)
    problem = select.Problem(*(None,) * 5, [], [], [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must hold 0, .*got \{'a': \(0, 1\), 'b'"):
        select.frontier(problem, arm)


def test_arms_want_tables_as_wide_as_their_ledger() -> None:
    split, tables, _ = trained()
    tables = tables._replace(item_bias=jnp.ones(50))
    wide = frozen.observe(tables, split.train, num_negatives=8)
    with pytest.raises(ValueError, match="give `fold_bias\\(tables\\)`"):
        select.arms(tables, wide, split.train)


def test_what_ranking_refuses_is_not_measured() -> None:
    split, tables, ledger = trained()
    problem = select.prepare(tables, ledger, split.train, split.valid, k=5)
    changes: list[tuple[Any, str]] = [
        (lambda t, _: t._replace(user=t.user[:5]), "keep the 80 users and 50 items, but this one leaves 5 and 50"),
        (lambda t, _: t._replace(item=t.item[:-5]), "leaves 80 and 45"),
        (lambda t, _: t._replace(item=t.item.at[3].set(jnp.inf)), "tables.item must be finite"),
    ]
    for adjust, message in changes:
        with pytest.raises(ValueError, match=message):
            select.measure(problem, adjust)


def test_validation_parts_that_could_not_be_found_are_refused() -> None:
    split, tables, ledger = trained()
    natural = split.valid["natural"]
    other = dataclasses.replace(natural, user_ids=np.arange(80)[::-1])
    for train, valid, message in (
        (split.refit().train, natural, "pairs of valid natural are also in train"),
        (split.train, other, "another id space than train"),
        (split.train, data.Interactions([80], [0], 81, 50), "another id space than train"),
    ):
        with pytest.raises(data.DataError, match=message):
            select.prepare(tables, ledger, train, {"natural": valid}, k=5)
    with pytest.raises(ValueError, match="cover the tables' 79 users and 50 items, got 80 and 50"):
        select.prepare(tables._replace(user=tables.user[1:]), ledger, split.train, split.valid, k=5)
    with pytest.raises(ValueError, match=r"ledger must cover .* got 7 and 50"):
        select.prepare(tables, ledgers.init(7, 50, 8), split.train, split.valid, k=5)


def test_a_split_of_ones_own_is_run_without_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = data.five_way(random_interactions(3, users=80, items=50, density=0.3), seed=0)
    settings = dataclasses.replace(SMALL, epochs=1, budget=3)
    mine = data.Dataset("mine", data.Split(split.train, tests={"a": split.tests["natural"]}))
    found = pipeline.train(mine, settings, tmp_path / "run")
    assert (found["data"], set(found["tests"])) == ("mine", {"a"})
    assert pipeline.train(mine, settings, tmp_path / "run", resume=True)["tests"] == found["tests"]
    pipeline.train(mine, settings, tmp_path / "second", seed=1, selected=tmp_path / "run")
    saved = runs.load_tables(tmp_path / "run")
    assert runs.load_seen(tmp_path / "run", saved).fingerprint == split.train.fingerprint
    assert cli.main(["recommend", str(tmp_path / "run"), "-k", "3", "--out", str(tmp_path / "lists.csv")]) == 0
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 1
    assert "'mine', a split that was handed over in Python and can't be read again" in capsys.readouterr().err
    with pytest.raises(TypeError, match=r"give data\.Dataset\('mine', split\)"):
        pipeline.train(split, settings, tmp_path / "other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reports on tests, and bare has none"):
        pipeline.train(data.Dataset("bare", data.Split(split.train)), settings, tmp_path / "other")
    empty = data.Split(split.train, tests=split.tests | {"late": split.train.select(np.zeros(0, int))})
    with pytest.raises(ValueError, match="mine's test late has no pair; leave it out"):
        pipeline.train(data.Dataset("mine", empty), settings, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("loss", [-1.0, 1.5])
def test_a_loss_that_is_no_share_is_told(loss: float) -> None:
    points = [select.Point({"a": 0.0}, {"natural": {"ndcg@20": 1.0}, "unbiased": {"ndcg@20": 0.5}})]
    with pytest.raises(ValueError, match="max_loss is the share of 'natural'"):
        select.select(points, max_loss=loss)


def test_select_takes_the_best_that_is_allowed() -> None:
    points = [
        select.Point({"a": a}, {"natural": {"ndcg@20": 1 - a}, "unbiased": {"ndcg@20": a}}) for a in (0.0, 0.04, 0.5)
    ]
    assert select.select(points).strengths == {"a": 0.5}
    assert select.select(points, max_loss=0.1).strengths == {"a": 0.04}
    with pytest.raises(ValueError, match="no 'mrr' was measured"):
        select.select(points, metric="mrr")


def test_a_point_that_loses_just_what_is_allowed_is_allowed() -> None:
    points = [select.Point({"a": a}, {"natural": {"m": 1 - a}, "unbiased": {"m": a}}) for a in (0.0, 0.5)]
    assert select.select(points, metric="m", max_loss=0.0).strengths == {"a": 0.0}
    assert select.select(points, metric="m", max_loss=0.5).strengths == {"a": 0.5}


def test_claims_are_spearman_of_readings_with_popularity() -> None:
    counts = np.array([1, 2, 3, 4, 0])
    ledger = ledgers.init(3, 5, 2)
    size, events = jnp.array([1.0, 3.0, 2.0, 9.0, 0.0]), jnp.array([1.0, 2.0, 3.0, 4.0, 0.0])
    pull = ledger.items.pull._replace(size=size, events=events)
    ledger = ledger._replace(items=ledger.items._replace(pull=pull))
    found = analysis.claims(models.embed(m := models.mf(3, 5, 2), m.init(jax.random.key(0))), ledger, counts)
    assert found["magnitude"]["spearman"] == pytest.approx(0.8)
    tables = models.embed(m, m.init(jax.random.key(0)))
    assert analysis.correlations(tables, ledger, counts) == {name: x["spearman"] for name, x in found.items()}


def test_magnitude_per_event_of_a_decayed_ledger_is_that_of_the_plain_one() -> None:
    size, events = jnp.array([3.0, 1.0, 0.0]), jnp.array([2.0, 1.0, 0.0])
    ledger, tables = ledgers.init(2, 3, 2), Tables(jnp.ones((2, 2)), jnp.ones((3, 2)))
    for factor in (1.0, 1e-3):
        pull = ledger.items.pull._replace(size=factor * size, events=factor * events)
        found = analysis.claimed(tables, ledger._replace(items=ledger.items._replace(pull=pull)))
        np.testing.assert_allclose(found["magnitude_per_event"], [1.5, 1.0, 0.0], rtol=1e-6)


def test_spearman_is_that_of_scipy_ties_included() -> None:
    rng = np.random.default_rng(0)
    for size, high in ((3, 9), (4, 3), (50, 5), (400, 10**6)):
        a, b = rng.integers(0, high, (2, size))
        wanted = stats.spearmanr(a, b)
        assert analysis.spearman(a, a + b)[0] == pytest.approx(stats.spearmanr(a, a + b).statistic)
        assert analysis.spearman(a, b) == pytest.approx((wanted.statistic, wanted.pvalue))
    assert analysis.spearman(np.arange(9), -np.arange(9)) == (-1.0, 0.0)
    assert analysis.spearman(np.arange(9), np.ones(9)) == (0.0, 1.0)


def test_the_ledgers_identity_holds_to_one_in_ten_thousand() -> None:
    assert testing.ledger_identity_error(steps=300) < 1e-4


def test_importing_jaxrec_is_quick_because_modules_load_when_used() -> None:
    import subprocess
    import sys

    heavy = ("matplotlib", "orbax", "tyro", "scipy.stats", "optax")
    code = f"import sys, jax, jaxrec; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_points_are_refined_around_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(problem: select.Problem, arm: select.Arm, strengths: np.ndarray) -> list[select.Metrics]:
        at = {"natural": lambda s: 1.0, "unbiased": lambda s: -((s - 0.6) ** 2)}
        return [{part: {"ndcg@5": value(s)} for part, value in at.items()} for (s,) in strengths.tolist()]

    monkeypatch.setattr(select, "measure_many", measured)
    problem = SimpleNamespace(k=5)
    arm = select.Arm(("a",), (0,), (1,), lambda s: adj.identity())
    points = [p.strengths["a"] for p in select.frontier(problem, arm, budget=30)]  # type: ignore[arg-type]
    assert points[0] == 0
    far = np.abs(np.array(points) - 0.6)
    assert far.min() < 0.02
    assert far[-8:].mean() < far[:10].mean() / 2
    assert np.median(points[:10]) < 0.4  # spaced by squares, denser near 0


def test_offsets_reach_twice_the_spread_of_scores() -> None:
    split, tables, ledger = trained()
    scores = np.asarray(tables.user @ tables.item.T)
    spread = select.score_spread(tables, users=len(tables.user))
    assert spread == pytest.approx(scores.std(axis=1).mean(), rel=1e-4)
    arm = select.arms(tables, ledger, split.train)["count_control"]
    logs = np.log(split.train.item_counts[split.train.item_counts > 0])
    assert (split.train.item_counts > 0).all()
    assert arm.high[arm.names.index("offset")] * logs.std() == pytest.approx(2 * select.score_spread(tables), rel=1e-4)


def test_users_to_select_on_are_drawn_by_the_seed() -> None:
    split, tables, ledger = trained()
    chosen = []
    for seed in (0, 0, 1):
        problem = select.prepare(tables, ledger, split.train, split.valid, k=5, max_users=10, seed=seed)
        some = [
            u for users, parts in zip(problem.users, problem.relevant, strict=True)
            for u, *own in zip(users.tolist(), *parts, strict=True) if any((part >= 0).any() for part in own)
        ]  # fmt: skip
        chosen.append(sorted(some))
    assert len(chosen[0]) == 10
    assert chosen[0] == chosen[1] != chosen[2]


def test_readings_by_popularity_leave_out_what_was_not_trained_on() -> None:
    counts, values = np.array([4, 0, 1, 2, 3]), np.array([40.0, 99.0, 10.0, 20.0, 30.0])
    found = analysis.by_popularity(values, counts, groups=2)
    assert [row["popularity"] for row in found] == [1.5, 3.5]
    assert [(row["low"], row["median"], row["high"]) for row in found] == [(12.5, 15.0, 17.5), (32.5, 35.0, 37.5)]
