"""The sliders over `grid.json`: plain HTML that script.js fills, moves and shows; hidden where scripts don't run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxrec.report.markup import ARMS, details, embed, escape, table

MEANING = {
    "direction": "how much of the common direction of positive interactions is removed",
    "magnitude": "what is subtracted from the scores of items with large gradients",
    "exposure": "what is subtracted from the scores of items that were pushed away a lot while training",
    "pull": "how far items move towards the users who like them, all items alike",
    "push": "how far items move away from the users who were shown them in vain, all items alike",
}


def explorer(grid: dict[str, Any], frontier: dict[str, list[dict[str, Any]]] | None) -> str:
    """Sliders, chart, numbers and lists for the settings of a grid, and the data that they follow."""
    axes = axis_metrics(grid)
    clouds = {} if frontier is None else {ARMS.get(arm, arm): _cloud(tried, axes) for arm, tried in frontier.items()}
    data = grid | {"axes": axes, "clouds": {arm: cloud for arm, cloud in clouds.items() if cloud}}
    sliders = "".join(_slider(n, strength) for n, strength in enumerate(grid["strengths"]))
    shown = _most_changed(grid)
    people = "".join(
        f'<option value="{n}"{" selected" * (n == shown)}>{escape(p["user"])}</option>'
        for n, p in enumerate(grid["people"])
    )
    return f"""<div id="explorer" hidden>
<p>Move the strengths: the point, the numbers and the lists follow. Measured on {grid["users"]:,} validation users, for
{len(grid["values"]):,} settings; change is relative to the plain model. The lines may be of more
users, so that the point may lie a little off them.</p>
<form id="sliders" autocomplete="off">{sliders}<p class="buttons">
<button type="button" id="to-selected">Selected strengths</button>
<button type="button" id="to-plain">No correction</button></p></form>
<figure><div id="chart"></div><figcaption id="legend"></figcaption></figure>
<p id="said" role="status"></p>
<div class="pair"><div id="numbers"></div>
<div><h3>Share of places by popularity group</h3><div id="shares"></div></div></div>
<div id="listing"><p><label for="person">Lists of user</label> <select id="person">{people}</select>
<span id="profile" class="muted"></span></p>
<div class="pair"><div><h3>before</h3><ol id="list-plain"></ol></div>
<div><h3>with these strengths</h3><ol id="list-here"></ol></div></div>
</div></div>
<noscript>{details("The grid of strengths as numbers", _numbers(grid))}</noscript>
{embed("grid", data)}"""


def axis_metrics(grid: dict[str, Any]) -> list[int]:
    """Columns of the chart's axes: natural against unbiased NDCG, or one part's NDCG against popularity."""
    names = list(grid["metrics"])
    ndcg = [n for n, name in enumerate(names) if "/ndcg@" in name]
    ndcg.sort(key=lambda n: not names[n].startswith("natural/"))
    if len(ndcg) > 1:
        return ndcg[:2]
    return [ndcg[0], next(n for n, name in enumerate(names) if name.startswith("arp@"))]


def _cloud(tried: list[dict[str, Any]], axes: list[int]) -> list[list[float]]:
    """Percent of change against the first point, strength 0, on the two axes; [] for others than two parts."""
    parts = sorted(tried[0]["metrics"], key=lambda part: part != "natural")[:2]
    if len(parts) < 2:
        return []
    name = next(n for n in tried[0]["metrics"][parts[0]] if n.startswith("ndcg"))
    zero = [tried[0]["metrics"][part][name] for part in parts]
    if not all(zero):
        return []
    return [
        [round(100 * (point["metrics"][part][name] / z - 1), 2) for part, z in zip(parts, zero, strict=True)]
        for point in tried
    ]


def _slider(n: int, strength: dict[str, Any]) -> str:
    meaning = MEANING.get(strength["name"], "")
    hint = f'<small id="hint-{n}" class="muted">{meaning}</small>' if meaning else ""
    described = f' aria-describedby="hint-{n}"' if meaning else ""
    return (
        f'<div class="slider"><label for="strength-{n}">{escape(strength["name"])}</label>'
        f'<output id="value-{n}" for="strength-{n}"></output>'
        f'<input type="range" id="strength-{n}" min="0" max="{len(strength["levels"]) - 1}" step="1" '
        f'value="{strength["selected"]}"{described}>{hint}</div>'
    )


def _place(grid: dict[str, Any], at: Sequence[int]) -> int:
    """The row of a setting from its levels, the last strength changing fastest."""
    place = 0
    for level, strength in zip(at, grid["strengths"], strict=True):
        place = place * len(strength["levels"]) + level
    return place


def _most_changed(grid: dict[str, Any]) -> int:
    """The user whose list the selected strengths change the most."""
    before, after = (grid["lists"][n] for n in (grid["plain"], _place(grid, _chosen(grid))))
    fresh = [len(set(b) - set(a)) for a, b in zip(before, after, strict=True)]
    return fresh.index(max(fresh)) if fresh else 0


def _chosen(grid: dict[str, Any]) -> list[int]:
    return [s["selected"] for s in grid["strengths"]]


def _numbers(grid: dict[str, Any]) -> str:
    """A setting of one strength at a time, the others as selected: what the sliders show, for those without scripts."""
    chosen = _chosen(grid)
    rows = []
    for n, strength in enumerate(grid["strengths"]):
        for level, value in enumerate(strength["levels"]):
            place = _place(grid, [level if m == n else other for m, other in enumerate(chosen)])
            cells = (f"{v:.4g}" for v in grid["values"][place])
            rows.append([f"{escape(strength['name'])} {value:.3g}", *cells])
    return table(["", *map(escape, grid["metrics"])], rows, label="one strength at a time")
