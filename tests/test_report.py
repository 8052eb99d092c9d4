"""The grid behind the sliders, the page's optional sections, and the comparison of runs."""

from __future__ import annotations

import functools
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import random_interactions

from jaxrec import cli, data, explore, files, metrics, models, rank, report, runs, select
from jaxrec import ledger as ledgers
from jaxrec.ledger import GradientLedger
from jaxrec.metrics.popularity import recommendation_counts
from jaxrec.report import figures, words


@functools.cache
def problem() -> tuple[select.Problem, data.Split]:
    """Tables at random and a ledger in which popular items have larger gradients."""
    split = data.carve(random_interactions(3, users=80, items=50, density=0.3), seed=0)
    model = models.mf(80, 50, 8, scale=1.0)
    ledger = ledgers.init(80, 50, 8)
    size = jax.numpy.asarray(split.train.item_counts + 1.0, jax.numpy.float32)
    pull = ledger.items.pull._replace(size=size, vector=jax.random.normal(jax.random.key(2), (50, 8)))
    ledger = ledger._replace(items=ledger.items._replace(pull=pull))
    tables = models.embed(model, model.init(jax.random.key(0)))
    return select.prepare(tables, ledger, split.train, split.valid, k=10), split


def test_the_grid_measures_what_selection_measures() -> None:
    posed, split = problem()
    arm = select.arms(posed.tables, posed.ledger, split.train)["adjusted"]
    chosen = {name: (low + high) / 3 for name, low, high in zip(arm.names, arm.low, arm.high, strict=True)}
    found = explore.grid(posed, arm, split.train, selected=chosen, points=40)
    settings = np.array(np.meshgrid(*[s["levels"] for s in found["strengths"]], indexing="ij"))
    settings = settings.reshape(len(arm.names), -1).T
    assert len(settings) == len(found["values"]) == len(found["lists"]) <= 40
    assert not settings[found["plain"]].any()
    for n in (0, found["plain"], len(settings) - 1):
        wanted = select.measure(posed, arm.adjust(np.asarray(settings[n], np.float32)))
        row = dict(zip(found["metrics"], found["values"][n], strict=True))
        for part, values in wanted.items():
            for name, value in values.items():
                assert row[f"{part}/{name}"] == pytest.approx(value, rel=1e-3)
        assert row["head"] + row["mid"] + row["tail"] == pytest.approx(1, abs=1e-3)
    popularity = [row[found["metrics"].index("arp@10")] for row in found["values"]]
    assert min(popularity) < popularity[found["plain"]]


def test_the_lists_of_the_grid_are_the_rankings() -> None:
    posed, split = problem()
    arm = select.arms(posed.tables, posed.ledger, split.train)["count_control"]
    found = explore.grid(posed, arm, split.train, selected={"rescale": 0.3}, length=5, users=30)
    who = np.array([int(p["user"]) for p in found["people"]])
    ranking = rank.top_k(posed.tables, who, split.train, k=5)
    for row, items in zip(found["lists"][found["plain"]], ranking.items, strict=True):
        assert [int(found["items"][place]["item"]) for place in row] == items.tolist()
    liked = {int(found["items"][place]["item"]) for place in found["people"][0]["liked"]}
    held = [part.items[part.users == who[0]] for part in split.valid.values()]
    assert liked == set(np.concatenate(held).tolist())
    assert found["users"] == 30
    json.dumps(found, allow_nan=False)


def test_a_grid_has_the_points_that_its_users_and_items_leave_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    posed, split = problem()

    def levels(*given: object, most: int, **options: object) -> object:
        raise LookupError(f"{most} points")

    monkeypatch.setattr(explore, "levels", levels)
    arm = select.arms(posed.tables, posed.ledger, split.train)["adjusted"]
    for scores, points in ((0, 81), (100 * 30 * 50, 100), (300 * 30 * 50, 256)):
        monkeypatch.setattr(explore, "SCORES", scores)
        with pytest.raises(LookupError, match=f"^{points} points$"):
            explore.grid(posed, arm, split.train, selected={}, users=30)


def test_levels_hold_zero_and_what_was_selected() -> None:
    arm = select.Arm(("a", "b", "c"), (0, 0, -0.5), (2.5, 0.8, 1.0), lambda s: lambda tables, ledger: tables)
    found = explore.levels(arm, selected={"a": 0.7, "b": 1e-4, "c": -0.2}, reach={"a": 1.0, "b": 0.0}, most=200)
    assert all(0.0 in known for known in found)
    assert 0.7 in found[0]
    assert -0.2 in found[2]
    assert found[0][-1] == 1.5
    assert found[1][-1] == pytest.approx(0.12)
    assert np.prod([len(known) for known in found]) <= 200
    assert min(len(found[0]), len(found[1])) > len(found[2])


@pytest.mark.parametrize("count", [2, 3, 4, 7])
@pytest.mark.parametrize("chosen", [0.0, 0.1, 0.7, 0.98, 1.0])
def test_a_selected_strength_can_be_passed_on_both_sides(count: int, chosen: float) -> None:
    arm = select.Arm(("a",), (0,), (1,), lambda s: lambda tables, ledger: tables)
    (found,) = explore.levels(arm, selected={"a": chosen}, most=count)
    assert len(found) == count
    assert found[0] == 0
    assert chosen in found
    if count > 2:
        assert found[-1] == max(chosen, 1.0) or chosen == 0.98
    (signed,) = explore.levels(arm._replace(low=(-1,)), selected={"a": -chosen}, most=count)
    assert {0.0, -chosen} <= set(signed)


def test_the_reach_of_a_grid_is_that_of_the_best_points() -> None:
    points = [
        select.Point({"a": a}, {"natural": {"ndcg@20": n}, "unbiased": {"ndcg@20": u}})
        for a, n, u in ((0.0, 0.5, 0.1), (0.4, 0.4, 0.3), (2.0, 0.3, 0.2))
    ]
    assert explore.reach(points) == {"a": 0.4}


def test_an_arm_with_any_number_of_strengths_has_a_grid() -> None:
    posed, split = problem()

    def adjust(s: jax.Array) -> object:
        def apply(tables: data.Split, ledger: GradientLedger) -> object:
            return tables._replace(item=tables.item * (1 + s[0]))

        return apply

    one = select.Arm(("only",), (0,), (1,), adjust)
    assert len(explore.grid(posed, one, split.train, selected={})["values"]) == 7
    names = tuple("abcdefgh")
    many = select.Arm(names, (0,) * 8, (1,) * 8, adjust)
    assert len(explore.grid(posed, many, split.train, selected={}, points=300)["values"]) == 2**8


def test_exposure_counts_the_lists_that_an_item_is_in(run: Path, folder: Path) -> None:
    found, saved = json.loads((run / "exposure.json").read_text()), runs.load_tables(run)
    split = data.load(str(folder)).split
    users = np.flatnonzero(split.tests["test"].user_counts)
    before, after = (
        recommendation_counts(rank.top_k(t, users, split.train, k=20), 50, 20) for t in (saved.plain, saved.adjusted)
    )
    place = {str(item): n for n, item in enumerate(split.train.item_ids)}
    for row in (*found["gain"], *found["lose"]):
        n = place[row["item"]]
        assert (row["before"], row["after"]) == (before[n], after[n])
    assert all(row["after"] > row["before"] for row in found["gain"])
    assert sum(b for b, _ in found["places"].values()) == before.sum()
    assert found["users"] == len(users)


SECTIONS = ("accuracy", "claims", "tradeoff", "groups", "lists", "made")


def sections(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [name for name in SECTIONS if f'<section id="{name}">' in text]


def test_no_two_figures_share_an_id_and_their_labels_are_plain(run: Path, tmp_path: Path) -> None:
    two = Path(shutil.copytree(run, tmp_path / "two"))
    found = json.loads((two / "metrics.json").read_text())
    found["tests"] = {"natural": found["tests"]["test"], "a & <b>": found["tests"]["test"]}
    (two / "metrics.json").write_text(json.dumps(found))
    page = report.write_report(two).read_text()
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) > 100
    assert len(set(ids)) == len(ids)
    assert "&amp;amp;" not in page
    assert "&amp;lt;" not in page


def test_a_section_is_there_where_its_data_is(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    assert sections(report.write_report(folder)) == list(SECTIONS)
    for name in ("readings.json", "history.jsonl", "frontier.json", "grid.json", "lists.json", "exposure.json"):
        (folder / name).unlink()
        report.write_report(folder)
    assert sections(folder / "report.html") == ["accuracy", "claims", "tradeoff", "groups", "made"]
    assert "<script type" not in (folder / "report.html").read_text()


def test_numbers_of_validation_alone_make_a_page(tmp_path: Path) -> None:
    """What a model of one's own, corrected without a test, leaves."""
    values = {"plain": {"valid": {"ndcg@20": 0.2}}, "adjusted": {"valid": {"ndcg@20": 0.25}}}
    files.write_json(tmp_path / "metrics.json", {"validation": values, "selected": {"direction": 0.5}})
    page = report.write_report(tmp_path)
    assert sections(page) == ["accuracy", "made"]
    assert "NDCG@20 rises from 0.2000 to 0.2500 (+25 %)" in page.read_text()
    files.write_json(tmp_path / "metrics.json", {"data": "mine"})
    assert sections(report.write_report(tmp_path)) == []


def test_a_grid_of_one_part_is_drawn_against_popularity(tmp_path: Path) -> None:
    posed, split = problem()
    lone = posed._replace(parts=("natural",), relevant=[(chunk[0],) for chunk in posed.relevant])
    arm = select.arms(posed.tables, posed.ledger, split.train)["adjusted"]
    files.write_json(tmp_path / "grid.json", explore.grid(lone, arm, split.train, selected={}, points=20))
    files.write_json(tmp_path / "metrics.json", {"data": "mine"})
    text = report.write_report(tmp_path).read_text()
    assert '"axes":[1,2]' in text
    assert '"arp@10"' in text


def test_comparing_says_what_differs(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "b" / run.name
    shutil.copytree(run, other)
    found = runs.read_metrics(other)
    files.write_json(other / "metrics.json", found | {"seed": 5, "settings": found["settings"] | {"width": 9}})
    page = report.write_comparison([run, other])
    assert page == run.resolve().parent / "compare.html"
    text = page.read_text()
    page.unlink()
    table = text[text.index("What differs") :]
    for words_ in ("seed", "width", ">9<", ">8<", f"b/{run.name}"):
        assert words_ in table
    assert "learning_rate" not in table
    with pytest.raises(ValueError, match="at least two runs"):
        report.write_comparison([run])


def test_a_page_is_not_put_in_the_place_of_a_runs_files(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "b"))
    before = (other / "metrics.json").read_bytes()
    for out, message in ((other / "metrics.json", "is a file that is read, which would be lost"), (other, "a folder")):
        assert cli.main(["report", str(run), str(other), "--out", str(out)]) == 1
        assert message in capsys.readouterr().err
    assert (other / "metrics.json").read_bytes() == before


@pytest.mark.parametrize("text", ["[]", "{}"])
def test_metrics_of_no_run_are_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(data.DataError, match=r"metrics.json is no run's.*make the run again"):
        runs.read_metrics(tmp_path)


def _with_users(run: Path, to: Path, change: dict[str, np.ndarray]) -> Path:
    """A copy of a run whose per_user.npz has some arrays replaced."""
    shutil.copytree(run, to)
    with np.load(run / "per_user.npz") as found:
        np.savez(to / "per_user.npz", **{**found, **change})
    return to


def test_later_runs_are_paired_with_the_first(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(run / "per_user.npz") as found:
        kept = dict(found)
    key = "test/adjusted/ndcg@20"
    better = kept[key] + np.random.default_rng(0).normal(0.05, 0.02, kept[key].shape).astype(np.float32)
    turned = {name: values[::-1] for name, values in (kept | {key: better}).items()}  # users in another order
    other = _with_users(run, tmp_path / "other", turned)
    same = _with_users(run, tmp_path / "same", {})
    found_pairs = report.paired([run, other, same])
    assert not found_pairs.notes
    names = {(row.arm, row.metric) for row in found_pairs.rows}
    assert names == {(arm, name) for arm in ("plain", "adjusted") for name in ("recall@20", "ndcg@20")}
    assert [row.run for row in found_pairs.rows] == ["other"] * 4 + ["same"] * 4
    (moved,) = (row for row in found_pairs.rows if row.found.p < 1)
    assert moved[:4] == ("test", "other", "adjusted", "ndcg@20")
    assert moved.found == metrics.compare(better, kept[key])
    assert moved.holm == pytest.approx(8 * moved.found.p)
    assert cli.main(["report", str(run), str(other), str(same), "--out", str(tmp_path / "page.html")]) == 0
    printed, page = capsys.readouterr().out, (tmp_path / "page.html").read_text()
    for text in (printed, page):
        assert moved.difference in text
        assert f"{moved.found.p:.2g}" in text
    assert "paired by user" in printed
    assert "over 8 rows" in page


def test_runs_whose_folders_are_named_alike_are_all_in_the_table(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copies = [Path(shutil.copytree(run, tmp_path / name / "run")) for name in ("a", "b")]
    assert cli.main(["report", *map(str, copies)]) == 0
    shown = capsys.readouterr().out
    for name in ("a/run: plain", "a/run: adjusted", "b/run: plain", "b/run: adjusted"):
        assert name in shown


def test_runs_of_other_users_or_data_are_not_paired(run: Path, tmp_path: Path) -> None:
    with np.load(run / "per_user.npz") as found:
        fewer = {name: values[1:] for name, values in found.items()}
    other = _with_users(run, tmp_path / "other", fewer)
    note = f"other and {run.name} ranked different users in the test 'test', so it is not paired."
    assert report.paired([run, other])[1:] == ([], [note])
    assert "ranked different users" in report.write_comparison([run, other], tmp_path / "page.html").read_text()
    changed = _with_users(run, tmp_path / "changed", {})
    files.write_json(changed / "metrics.json", runs.read_metrics(changed) | {"fingerprint": "0"})
    note = f"changed and {run.name} are of different data, so they are not paired."
    assert report.paired([run, changed])[1:] == ([], [note])
    retested = _with_users(run, tmp_path / "retested", {})
    files.write_json(retested / "metrics.json", runs.read_metrics(retested) | {"test_fingerprints": {"test": "0"}})
    note = f"retested and {run.name} hold other pairs in the test 'test', so it is not paired."
    assert report.paired([run, retested])[1:] == ([], [note])
    (changed / "per_user.npz").unlink()
    note = f"changed and {run.name} have no test in common whose users' metrics were kept."
    assert report.paired([run, changed]).notes == [note]


def test_an_item_of_the_same_name_as_another_is_new(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "named"
    shutil.copytree(run, other)
    row = {"item": "Twice (1997)", "popularity": 3, "group": "tail"}
    user = {"user": "7", "profile": [row], "plain": [row | {"id": "246"}], "adjusted": [row | {"id": "268"}]}
    files.write_json(other / "lists.json", {"users": [user], "changed": [1.0]})
    assert report.write_report(other).read_text().count("<b>new</b></li>") == 1


def test_the_front_holds_what_nothing_beats() -> None:
    xy = np.random.default_rng(0).random((40, 2))
    found = {tuple(p) for p in figures.pareto(xy)}
    for own in xy:
        beaten = np.any(np.all(xy >= own, axis=1) & np.any(xy > own, axis=1))
        assert (tuple(own) in found) != beaten


def test_words_doubt_where_chance_may_explain() -> None:
    arms = {"plain": {"ndcg@20": 0.2}, "adjusted": {"ndcg@20": 0.1}}
    pair = {"natural": {"adjusted - count_control": {"ndcg@20": {"difference": -0.01, "p": 0.4}}}}
    first, second = words.accuracy({"natural": arms}, pair, 20)
    assert first == "On the natural test, NDCG@20 falls from 0.2000 to 0.1000 (−50 %)."
    assert "may be chance" in second
    strong = {"spearman": 0.9, "p": 1e-9}
    assert words.claims({"alignment": strong, "magnitude": strong})[0].startswith("Both claims hold")
    assert words.claims({"alignment": {"spearman": 0.9, "p": 0.5}, "magnitude": strong})[0].startswith("One of the two")
