"""`report.html`: one file without network access, made from what a RUN folder holds."""

from __future__ import annotations

import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec import runs

ARMS = {"plain": "plain", "adjusted": "adjusted by gradients", "count_control": "count control", "tten": "TTEN"}
COLORS = {"plain": "#6b7280", "adjusted": "#2563eb", "count_control": "#d97706", "tten": "#059669"}
SHOWN = ("recall@20", "ndcg@20", "tail_recall@20", "arp@20", "coverage@20", "gini@20")
HIGHER = {"recall@20", "ndcg@20", "tail_recall@20", "coverage@20"}

STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.55 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin-bottom:.2rem} h2{font-size:1.2rem;margin-top:2.2rem}
.muted{opacity:.7} table{border-collapse:collapse;margin:.6rem 0;display:block;overflow-x:auto}
td,th{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #8884;white-space:nowrap}
td:first-child,th:first-child{text-align:left} .best{font-weight:700}
figure{margin:.6rem 0;background:#fff;border-radius:6px} figure svg{width:100%;height:auto}
.lists{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:1rem}
.lists ol{padding-left:1.4rem;margin:.2rem 0} .head{color:#dc2626} .mid{color:#b45309} .tail{color:#059669}
@media print{body{max-width:none}}
"""


def write_report(run: Path | str) -> Path:
    """Writes RUN/report.html and returns its path."""
    run = Path(run)
    found, history = runs.read_metrics(run), runs.read_history(run)
    frontier, readings, lists = (runs.read_json(run / f"{name}.json") for name in ("frontier", "readings", "lists"))
    parts = [
        _head(found),
        "<h2>Accuracy and popularity, natural and unbiased</h2>",
        *(_table(name, arms) for name, arms in found["tests"].items()),
        _comparisons(found),
        "<h2>What the gradients say about popularity</h2>",
        _claims(found),
        _figure(lambda axes: draw_claims(axes, readings), 2),
        _figure(lambda axes: _draw_epochs(axes, history), 2),
        "<h2>The trade-off</h2>",
        "<p>Each point is one setting of the strengths, measured on validation data; lines join the settings that no "
        "other one of the same arm beats on both sides.</p>",
        _figure(lambda axes: draw_frontier(axes[0], frontier), 1),
        _tradeoff(found),
        "<h2>Who is found: head, middle, tail</h2>",
        _figure(lambda axes: _draw_groups(axes, found), len(found["tests"])),
        "<h2>A few users, before and after</h2>",
        _lists(lists),
        "<h2>How this was made</h2>",
        _settings(found),
    ]
    body = "\n".join(parts)
    title = html.escape(f"jaxrec: {found['data']}, {found['model']}")
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body>{body}</body></html>\n"
    )
    target = run / "report.html"
    target.write_text(page, encoding="utf-8")
    return target


def _head(found: dict[str, Any]) -> str:
    sentences = []
    for name, arms in found["tests"].items():
        before, after = arms["plain"]["ndcg@20"], arms["adjusted"]["ndcg@20"]
        change = 100 * (after / before - 1) if before else 0.0
        moved = f"from {before:.4f} to {after:.4f} ({change:+.0f} %)"
        sentences.append(f"On the {name} test the correction moves NDCG@20 {moved}.")
    arp = [(a["plain"]["arp@20"], a["adjusted"]["arp@20"]) for a in found["tests"].values()]
    sentences.append(f"A recommended item has {arp[0][0]:.0f} training interactions before and {arp[0][1]:.0f} after.")
    return (
        f"<h1>Popularity bias in {html.escape(found['data'])}</h1>"
        f'<p class="muted">{html.escape(found["model"])}, seed {found["seed"]}, {found["best_epoch"]} epochs</p>'
        f"<p>{html.escape(' '.join(sentences))}</p>"
    )


def _rows(rows: list[list[str]], header: list[str]) -> str:
    top = "".join(f"<th>{h}</th>" for h in header)
    return f"<table><tr>{top}</tr>" + "".join("<tr>" + "".join(r) + "</tr>" for r in rows) + "</table>"


def _table(name: str, arms: dict[str, dict[str, float]]) -> str:
    shown = [m for m in SHOWN if all(m in values for values in arms.values())]
    best = {m: (max if m in HIGHER else min)(round(v[m], 4) for v in arms.values()) for m in shown}
    rows = []
    for arm, values in arms.items():
        cells = [f"<td>{ARMS.get(arm, arm)}</td>"]
        for m in shown:
            digits = 1 if m.startswith("arp") else 4
            mark = ' class="best"' if round(values[m], 4) == best[m] else ""
            cells.append(f"<td{mark}>{values[m]:.{digits}f}</td>")
        rows.append(cells)
    return f"<h3>Test: {html.escape(name)}</h3>" + _rows(rows, ["", *shown])


def _comparisons(found: dict[str, Any]) -> str:
    rows = []
    for test, pairs in found["comparisons"].items():
        for pair, names in pairs.items():
            for name, c in names.items():
                interval = f"{c['difference']:+.4f} [{c['low']:+.4f}, {c['high']:+.4f}]"
                label = html.escape(f"{test}: {pair}, {name}")
                rows.append([f"<td>{label}</td><td>{interval}</td><td>{c['p']:.2g}</td>"])
    return (
        "<details><summary>Paired differences over users</summary>"
        + _rows(rows, ["", "difference, 95 % interval", "p"])
        + "</details>"
    )


def _claims(found: dict[str, Any]) -> str:
    words = {
        "alignment": "claim (i): closeness of an item to the direction of positive interactions",
        "magnitude": "claim (ii): size of the positive gradients of an item",
        "magnitude_per_event": "the same for one positive event",
        "gradient_alignment": "share of the positive direction in all of an item's gradients",
        "ratio": "balance of pull and push",
    }
    rows = [
        [f"<td>{words[name]}</td><td>{c['spearman']:+.3f}</td><td>{c['p']:.1g}</td>"]
        for name, c in found["claims"].items()
        if name in words
    ]
    return _rows(rows, ["Spearman's correlation with popularity", "ρ", "p"])


def _figure(draw: Any, panels: int) -> str:
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "path", "font.size": 10, "axes.grid": True, "grid.alpha": 0.25}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.6 * max(panels, 1.4), 3.3), layout="constrained")
        axes = [figure.add_subplot(1, panels, n + 1) for n in range(panels)]
        draw(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return f"<figure>{text[text.index('<svg') :]}</figure>"


def draw_claims(axes: Any, readings: dict[str, list[dict[str, float]]]) -> None:
    """Alignment and magnitude against popularity on two axes: medians, with the middle half shaded."""
    for ax, name, label in (
        (axes[0], "alignment", "cos(item, positive direction)"),
        (axes[1], "magnitude", "Σ ‖positive gradients‖"),
    ):
        x, low, middle, high = (
            np.array([r[c] for r in readings[name]]) for c in ("popularity", "low", "median", "high")
        )
        ax.fill_between(x, low, high, alpha=0.2, color=COLORS["adjusted"], linewidth=0)
        ax.plot(x, middle, "o-", ms=3, color=COLORS["adjusted"])
        ax.set(xscale="log", xlabel="popularity (training count)", ylabel=label)
    axes[0].set_title("claim (i): alignment")
    axes[1].set_title("claim (ii): magnitude")
    if min(r["low"] for r in readings["magnitude"]) > 0:
        axes[1].set_yscale("log")


def _draw_epochs(axes: Any, history: list[dict[str, Any]]) -> None:
    rows = [r for r in history if "claim/alignment" in r]
    epochs = [r["epoch"] for r in rows]
    for name, color in (("alignment", "#2563eb"), ("magnitude", "#d97706"), ("magnitude_per_event", "#059669")):
        axes[0].plot(epochs, [r[f"claim/{name}"] for r in rows], "o-", ms=3, label=name, color=color)
    axes[0].set(xlabel="epoch", ylabel="Spearman with popularity", ylim=(-1.05, 1.05), title="the claims over training")
    for part in ("natural", "unbiased"):
        key = next((k for k in rows[0] if k.startswith(f"{part}/ndcg")), None) if rows else None
        if key:
            axes[1].plot(epochs, [r[key] for r in rows], "o-", ms=3, label=part)
    axes[1].set(xlabel="epoch", ylabel="validation NDCG", title="accuracy over training")
    for ax in axes:
        if ax.lines:
            ax.legend(frameon=False)


def draw_frontier(ax: Any, frontier: dict[str, list[dict[str, Any]]]) -> None:
    """Natural against unbiased NDCG on validation, every point tried, and the best of each arm joined."""
    for arm, points in frontier.items():
        name = next(n for n in points[0]["metrics"]["natural"] if n.startswith("ndcg"))
        xy = np.array([[p["metrics"][part][name] for part in ("natural", "unbiased")] for p in points])
        ax.scatter(*xy.T, s=7, alpha=0.35, color=COLORS.get(arm), linewidths=0)
        order = xy[np.argsort(-xy[:, 0])]
        front = order[order[:, 1] >= np.maximum.accumulate(order[:, 1])]
        ax.plot(*front.T, "-", color=COLORS.get(arm), label=ARMS.get(arm, arm))
        ax.set(xlabel=f"natural {name} (validation)", ylabel=f"unbiased {name} (validation)")
    plain = next(iter(frontier.values()))[0]["metrics"]
    ax.plot(plain["natural"][name], plain["unbiased"][name], "k*", ms=11, label="plain")
    ax.legend(frameon=False)


def _tradeoff(found: dict[str, Any]) -> str:
    rows = []
    for row in found["tradeoff"]:
        for test, c in row["adjusted - count_control"].items():
            name = next(n for n in next(iter(row["arms"].values()))["tests"][test] if n.startswith("ndcg"))
            values = [row["arms"][arm]["tests"][test][name] for arm in ("adjusted", "count_control")]
            rows.append(
                [
                    f"<td>{100 * row['max_loss']:.0f} %, {html.escape(test)} test</td>"
                    f"<td>{values[0]:.4f}</td><td>{values[1]:.4f}</td><td>{c['difference']:+.4f}</td><td>{c['p']:.2g}</td>"
                ]
            )
    header = ["natural loss allowed on validation", "adjusted", "count control", "difference", "paired p"]
    return "<p>NDCG on the tests, strengths chosen on validation:</p>" + _rows(rows, header)


def _draw_groups(axes: Any, found: dict[str, Any]) -> None:
    for ax, (test, arms) in zip(axes, found["tests"].items(), strict=True):
        for n, (arm, values) in enumerate(arms.items()):
            heights = [values.get(f"{g}_recall@20", 0.0) for g in ("head", "mid", "tail")]
            ax.bar(np.arange(3) + 0.2 * n, heights, 0.2, label=ARMS.get(arm, arm), color=COLORS.get(arm))
        ax.set_xticks(np.arange(3) + 0.3, ["head", "middle", "tail"])
        ax.set(title=f"{test} test", ylabel="recall@20")
    axes[0].legend(frameon=False)


def _lists(lists: dict[str, Any]) -> str:
    def items(rows: list[dict[str, Any]]) -> str:
        shown = (f'<li class="{r["group"]}">{html.escape(r["item"])} ({r["popularity"]})</li>' for r in rows)
        return "<ol>" + "".join(shown) + "</ol>"

    parts = ["<p>Numbers are training counts; <span class=head>head</span>, <span class=mid>middle</span>, "]
    parts.append("<span class=tail>tail</span>. Users are ordered from niche to mainstream.</p>")
    for user, changed in zip(lists["users"], lists["changed"], strict=True):
        known = ", ".join(html.escape(r["item"]) for r in user["profile"][:5])
        parts.append(
            f"<h3>User {html.escape(user['user'])}</h3><p class=muted>Knows {known}, … "
            f"The correction replaced {100 * changed:.0f} % of the list.</p><div class=lists>"
            f"<div>before{items(user['plain'])}</div><div>after{items(user['adjusted'])}</div></div>"
        )
    return "".join(parts)


def _settings(found: dict[str, Any]) -> str:
    chosen = {
        arm: ", ".join(f"{name} {value:.3g}" for name, value in strengths.items())
        for arm, strengths in found["selected_by_arm"].items()
    }
    rows = [[f"<td>{ARMS.get(a, a)}</td><td>{html.escape(t)}</td>"] for a, t in chosen.items()]
    notes = "".join(f"<li>{html.escape(n)}</li>" for n in found["notes"])
    rest = html.escape(json.dumps({k: found[k] for k in ("settings", "versions", "seconds")}, indent=1))
    return (
        _rows(rows, ["arm", "strengths selected on validation"])
        + f"<ul>{notes}</ul><details><summary>Settings, versions, seconds</summary><pre>{rest}</pre></details>"
    )
