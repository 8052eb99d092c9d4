"""Figures by matplotlib, as inline SVG whose colours are the page's, so that they follow light and dark."""

from __future__ import annotations

import html
import io
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxrec.report.markup import ARMS, escape

COLORS = {"plain": "#6b7280", "adjusted": "#2563eb", "count_control": "#d97706", "tten": "#059669"}
MARKERS = {"plain": "*", "adjusted": "o", "count_control": "s", "tten": "^"}
LINES = {"adjusted": "-", "count_control": "--", "tten": ":"}
INK = "#010203"  # stands for the page's text colour
SERIES = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "jaxrec",
    "font.size": 11,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": f"cycler('color', {list(SERIES)})",
    **{name: INK for name in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")},
    "grid.color": INK,
}


def figures(draw: Callable[[list[Any]], None], *captions: str, width: float = 4.6, height: float = 3.2) -> str:
    """As many figures as captions, side by side where there is room; `draw` gets their axes. Captions are HTML."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        drawn = [Figure(figsize=(width, height), layout="constrained") for _ in captions]
        axes = [figure.add_subplot() for figure in drawn]
        draw(axes)
        for ax in axes:
            ax.set_title("")  # the caption says it
        texts = [_svg(figure, caption) for figure, caption in zip(drawn, captions, strict=True)]
    return f'<div class="figures">{"".join(texts)}</div>'


def _svg(figure: Any, caption: str) -> str:
    """A figure with its colours as CSS variables and its ids its own."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    for name, color in (*COLORS.items(), *((f"series-{n}", c) for n, c in enumerate(SERIES))):
        text = text.replace(color, f"var(--{name.replace('_', '-')})")
    words = re.sub(r"<[^>]*>", "", caption)
    own = f"{re.sub(r'[^a-z0-9]+', '-', words.lower())[:40].strip('-')}-{zlib.crc32(caption.encode()):08x}"
    text = re.sub(r'\bid="', f'id="{own}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{own}-", text)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt" ', "", text, count=1)
    label = escape(html.unescape(words))
    text = text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return f"<figure>{text}<figcaption>{caption}</figcaption></figure>"


def draw_claims(axes: Sequence[Any], readings: dict[str, list[dict[str, float]]]) -> None:
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


def draw_epochs(axes: Sequence[Any], rows: Sequence[dict[str, Any]]) -> None:
    """The claims and the accuracy on validation over training, from the history rows that hold them."""
    epochs = [r["epoch"] for r in rows]
    for n, name in enumerate(("alignment", "magnitude", "magnitude_per_event")):
        if f"claim/{name}" in rows[0]:
            values = [r[f"claim/{name}"] for r in rows]
            axes[0].plot(epochs, values, "os^"[n] + "-", ms=4, label=name.replace("_", " "))
    axes[0].set(xlabel="epoch", ylabel="Spearman with popularity", ylim=(-1.05, 1.05))
    for n, key in enumerate(k for k in rows[0] if "/ndcg@" in k):
        axes[1].plot(epochs, [r[key] for r in rows], "os^"[n % 3] + "-", ms=4, label=key.split("/")[0])
    axes[1].set(xlabel="epoch", ylabel="validation NDCG")
    for ax in axes:
        if ax.lines:
            ax.legend(frameon=False)


def draw_frontier(ax: Any, frontier: dict[str, list[dict[str, Any]]]) -> None:
    """Natural against unbiased NDCG on validation, every point tried, and the best of each arm joined."""
    for arm, points in frontier.items():
        name = next(n for n in points[0]["metrics"]["natural"] if n.startswith("ndcg"))
        xy = np.array([[p["metrics"][part][name] for part in ("natural", "unbiased")] for p in points])
        draw_front(ax, xy, label=ARMS.get(arm, arm), color=COLORS.get(arm), marker=MARKERS.get(arm, "o"), arm=arm)
        ax.set(xlabel=f"natural {name} (validation)", ylabel=f"unbiased {name} (validation)")
    plain = next(iter(frontier.values()))[0]["metrics"]
    ax.plot(plain["natural"][name], plain["unbiased"][name], "*", color=INK, ms=11, label="plain", linestyle="none")
    ax.legend(frameon=False)


def draw_front(
    ax: Any, xy: np.ndarray, *, label: str, color: str | None, marker: str = "o", arm: str = "adjusted"
) -> None:
    """Points [N, 2], and a line along those that no other one beats on both sides."""
    ax.scatter(*xy.T, s=9, alpha=0.35, color=color, marker=marker, linewidths=0)
    front = pareto(xy)
    ax.plot(*front.T, LINES.get(arm, "-"), color=color, marker=marker, ms=4, label=label)


def pareto(xy: np.ndarray) -> np.ndarray:
    """The points [N, 2] that no other one beats on both sides, by falling x.

    >>> pareto(np.array([[1, 1], [2, 0], [1, 2], [0, 1]])).tolist()
    [[2, 0], [1, 2]]
    """
    order = xy[np.lexsort((-xy[:, 1], -xy[:, 0]))]
    best = np.maximum.accumulate(order[:, 1])
    return order[np.r_[True, best[1:] > best[:-1]]]


def draw_groups(axes: Sequence[Any], tests: dict[str, dict[str, dict[str, float]]], k: int) -> None:
    """Recall of head, middle and tail items, a pair of axes a test, bars by arm."""
    hatches = ("", "//", "", "\\\\")
    for ax, arms in zip(axes, tests.values(), strict=True):
        for n, (arm, values) in enumerate(arms.items()):
            heights = [values.get(f"{g}_recall@{k}", 0.0) for g in ("head", "mid", "tail")]
            x = np.arange(3) + 0.8 / len(arms) * n
            face = {"color": COLORS.get(arm), "hatch": hatches[n % 4], "edgecolor": INK, "linewidth": 0.5}
            ax.bar(x, heights, 0.8 / len(arms), label=ARMS.get(arm, arm), **face)
        ax.set_xticks(np.arange(3) + 0.4 - 0.4 / len(arms), ["head", "middle", "tail"])
        ax.set(ylabel=f"recall@{k}")
        ax.legend(frameon=False)
