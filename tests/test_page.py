"""The page in headless Chromium: sliders, phones, light and dark, print, and nothing from outside."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import chromium
import pytest
from chromium import Page

from jaxrec import files, report, runs

pytestmark = pytest.mark.browser
NASTY = "</script><img src=x onerror=alert(1)>\u2028&amp;"
VISIBLE = "(e) => e.getClientRects().length && getComputedStyle(e).visibility === 'visible'"
# Every element with text of its own, with the contrast of that text against the nearest background (WCAG 2.1).
CONTRASTS = """(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [.2126, .7152, .0722][n], 0);
  const back = (e) => { for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; }
    return [255, 255, 255, 255]; };
  const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  return [...document.body.querySelectorAll('*')].filter((e) => own(e) && !['SCRIPT', 'NOSCRIPT'].includes(e.tagName))
    .filter(%s).map((e) => {
      const style = getComputedStyle(e), svg = e instanceof SVGElement;
      const [a, b] = [light(rgb(svg ? style.fill : style.color)), light(back(e))].sort((x, y) => y - x);
      return [(a + .05) / (b + .05), e.tagName + ' ' + e.className + ': ' + e.textContent.slice(0, 30)]; });
})()""" % VISIBLE  # noqa: UP031


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    path = chromium.executable()
    assert path is not None
    with chromium.chromium(path) as page:
        yield page


@pytest.fixture(scope="module")
def written(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run in which items and users have names that try to leave their place."""
    folder = tmp_path_factory.mktemp("page") / "run"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints"))
    grid, lists = (runs.read_json(folder / f"{name}.json") for name in ("grid", "lists"))
    for row in (*grid["items"], *lists["users"][0]["plain"]):
        row["item"] += NASTY
    grid["people"][0]["user"] += NASTY
    for name, content in (("grid", grid), ("lists", lists)):
        files.write_json(folder / f"{name}.json", content)
    return report.write_report(folder)


@pytest.fixture
def page(browser: Page, written: Path) -> Page:
    browser.media(prefers_color_scheme="light")
    browser.size(1200)
    browser.open(written)
    return browser


def shown(page: Page) -> dict[str, str]:
    names = ("said", "numbers", "shares", "list-here", "chart")
    return {name: page.run(f"document.getElementById('{name}').innerHTML") for name in names}


def test_a_moved_slider_moves_the_point_the_numbers_and_the_lists(page: Page, written: Path) -> None:
    grid = json.loads((written.parent / "grid.json").read_text())
    before = shown(page)
    page.run("document.getElementById('strength-0').focus()")
    page.press("Home", 36)
    page.run("document.getElementById('strength-1').focus()")
    page.press("End", 35)
    after = shown(page)
    for name in before:
        assert before[name] != after[name], name
    sizes = [len(s["levels"]) for s in grid["strengths"]]
    at = [s["selected"] for s in grid["strengths"]]
    at[0], at[1] = 0, sizes[1] - 1
    place = 0
    for level, size in zip(at, sizes, strict=True):
        place = place * size + level
    cell = page.run("document.querySelector('#numbers tbody tr:nth-child(2) td:nth-child(3)').textContent")
    assert float(cell.replace("−", "-")) == pytest.approx(grid["values"][place][1], rel=0.01)
    person = int(page.run("document.getElementById('person').value"))
    first = page.run("document.querySelector('#list-here li').textContent")
    assert first.startswith(grid["items"][grid["lists"][place][person][0]]["item"])
    page.run("document.getElementById('to-selected').click()")
    assert shown(page)["said"] == before["said"]
    page.run("document.getElementById('to-plain').click()")
    assert page.run("document.getElementById('said').textContent").count("±0 %") == 2
    assert page.problems() == []


def test_another_user_can_be_looked_at(page: Page) -> None:
    before = shown(page)["list-here"]
    other = "const e = document.getElementById('person'); e.value = String((Number(e.value) + 1) % e.options.length);"
    page.run(f"(() => {{ {other} e.dispatchEvent(new Event('change')); }})()")
    assert shown(page)["list-here"] != before
    assert page.problems() == []


def test_names_stay_text(page: Page) -> None:
    assert page.run("document.images.length") == 0
    assert NASTY in page.run("document.getElementById('list-here').textContent")
    assert NASTY in page.run("document.getElementById('lists').textContent")
    assert page.problems() == []


@pytest.mark.parametrize("width", [320, 375, 768, 1200])
def test_nothing_is_wider_than_the_screen(page: Page, written: Path, width: int) -> None:
    page.size(width, 700, mobile=width < 700)
    page.open(written)
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("innerWidth") == width
    assert page.problems() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(page: Page, written: Path, scheme: str) -> None:
    page.media(prefers_color_scheme=scheme)
    page.open(written)
    page.run("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    light = page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    found = page.run(CONTRASTS)
    assert len(found) > 150
    assert [what for ratio, what in found if ratio < 4.5] == []


def test_print_is_light_and_fits_the_paper(page: Page, written: Path) -> None:
    page.media("print", prefers_color_scheme="dark")
    page.size(718)  # A4 less margins
    page.open(written)
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.run("document.documentElement.scrollWidth") <= 718
    assert page.run("document.querySelector('.buttons').getClientRects().length") == 0
    assert [what for ratio, what in page.run(CONTRASTS) if ratio < 4.5] == []
    page.media()
    assert base64.b64decode(page.send("Page.printToPDF")["data"]).startswith(b"%PDF")
    assert page.run("[...document.querySelectorAll('details')].every((d) => d.open)")


def test_without_scripts_figures_and_tables_are_there(page: Page, written: Path) -> None:
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(written)
        assert page.run("document.getElementById('explorer').getClientRects().length") == 0
        assert page.run("document.querySelectorAll('#static-frontier svg')[0].getClientRects().length") > 0
        assert page.run("document.querySelectorAll('table').length") >= 5
    finally:
        page.send("Emulation.setScriptExecutionDisabled", value=False)


def test_controls_have_names_and_show_their_focus(page: Page) -> None:
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    roles = ("slider", "button", "combobox", "image", "region")
    controls = [n for n in nodes if n.get("role", {}).get("value") in roles]
    assert len(controls) >= 10
    assert [n for n in controls if not n["name"].get("value")] == []
    page.run("document.getElementById('strength-0').focus()")
    page.press("Tab", 9)
    focused = page.run("[document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]")
    assert focused == ["strength-1", "solid"]
    levels = page.run("[...document.querySelectorAll('h1, h2, h3, h4')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    ids = page.run("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_less_motion_where_that_is_wished(page: Page, written: Path) -> None:
    assert page.run("getComputedStyle(document.getElementById('here')).transitionDuration") != "0s"
    page.media(prefers_reduced_motion="reduce")
    page.open(written)
    assert page.run("getComputedStyle(document.getElementById('here')).transitionDuration") == "0s"


def test_the_comparison_of_runs(page: Page, written: Path, run: Path) -> None:
    target = report.write_comparison([run, written.parent], written.parent / "compare.html")
    for width in (375, 1200):
        page.size(width, 700, mobile=width < 700)
        page.open(target)
        assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("document.querySelectorAll('svg').length") == 1
    assert page.problems() == []
