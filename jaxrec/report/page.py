"""The page of one run. Each section is there where the RUN folder holds what it shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec import files, runs
from jaxrec.report import explorer, figures, words
from jaxrec.report.markup import arm_name, chance, details, document, escape, section, signed, table
from jaxrec.report.words import cut_off

SHOWN = ("recall", "ndcg", "tail_recall", "arp", "coverage", "gini")
HIGHER = ("recall", "ndcg", "tail_recall", "coverage")
GROUPS = {"head": "head", "mid": "middle", "tail": "tail"}
CLAIMS = {
    "alignment": "claim (i): closeness of an item to the direction of positive interactions",
    "magnitude": "claim (ii): size of the positive gradients of an item",
    "magnitude_per_event": "the same for one positive event",
    "gradient_alignment": "share of the positive direction in all of an item's gradients",
    "ratio": "balance of pull and push",
}


class Run(NamedTuple):
    """What a RUN folder holds, None or empty where it holds no such file."""

    found: dict[str, Any]
    history: list[dict[str, Any]]
    frontier: dict[str, list[dict[str, Any]]] | None
    grid: dict[str, Any] | None
    readings: dict[str, list[dict[str, float]]] | None
    lists: dict[str, Any] | None
    exposure: dict[str, Any] | None

    @property
    def tests(self) -> dict[str, dict[str, dict[str, float]]]:
        """test -> arm -> metric, the validation numbers where nothing was tested."""
        tests: dict[str, Any] = self.found.get("tests") or {}
        if tests:
            return tests
        by_part: dict[str, Any] = {}
        for arm, parts in (self.found.get("validation") or {}).items():
            for part, values in parts.items():
                by_part.setdefault(f"{part} validation", {})[arm] = values
        return by_part


def read(run: Path) -> Run:
    """Reads a RUN folder. FileNotFoundError where it has no `metrics.json`."""
    names = ("frontier", "grid", "readings", "lists", "exposure")
    files = {name: run / f"{name}.json" for name in names}
    more = {name: runs.read_json(path) if path.exists() else None for name, path in files.items()}
    history = runs.read_history(run) if (run / "history.jsonl").exists() else []
    return Run(runs.read_metrics(run), history, **more)


def write_report(run: Path | str) -> Path:
    """Writes RUN/report.html and returns its path."""
    run = Path(run)
    it = read(run)
    data = it.found.get("data", run.name)
    parts = [
        section("accuracy", "Accuracy and popularity", *_accuracy(it)),
        section("claims", "What the gradients say about popularity", *_claims(it)),
        section("tradeoff", "The trade-off", *_tradeoff(it)),
        section("groups", "Who is found, and what is shown", *_groups(it), *_exposure(it.exposure)),
        section("lists", "A few users, before and after", _lists(it.lists)),
        section("made", "How this was made", *_settings(it.found)),
    ]
    body = "\n".join([_head(data, it), *(part for part in parts if part)])
    target = run / "report.html"
    files.write_text(target, document(f"jaxrec: {data}, {it.found.get('model', 'given model')}", body))
    return target


def metric_cut(found: dict[str, Any]) -> int:
    """The cut-off that strengths were selected at."""
    return int((found.get("settings") or {}).get("k", 20))


def _head(data: str, it: Run) -> str:
    known = {"model": "{}", "seed": "seed {}"} | ({"best_epoch": "{} epochs"} if it.found.get("best_epoch") else {})
    facts = [escape(text.format(it.found[name])) for name, text in known.items() if name in it.found]
    k = metric_cut(it.found)
    sentences = [
        *words.accuracy(it.tests, it.found.get("comparisons") or {}, k),
        *words.popularity(it.tests, k),
        *words.claims(it.found.get("claims") or {}),
    ]
    return (
        f'<header><h1>Popularity bias in {escape(data)}</h1><p class="muted">{", ".join(facts)}</p>'
        f'<p class="lead">{" ".join(sentences)}</p></header>'
    )


def _accuracy(it: Run) -> list[str]:
    parts = [accuracy_table(test, arms, metric_cut(it.found)) for test, arms in it.tests.items()]
    rows = [
        [
            escape(f"{test}: {pair}, {name}"),
            f"{signed(c['difference'], 4)} [{signed(c['low'], 4)}, {signed(c['high'], 4)}]",
            chance(c["p"]),
        ]
        for test, pairs in (it.found.get("comparisons") or {}).items()
        for pair, names in pairs.items()
        for name, c in names.items()
    ]
    if rows:
        header = ["", "difference, 95 % interval", "p"]
        parts.append(details("Paired differences over users", table(header, rows, label="paired differences")))
    return parts


def accuracy_table(test: str, arms: dict[str, dict[str, float]], wanted: int) -> str:
    """Arms against metrics; the best of a column is bold and marked with a star."""
    if not arms:
        return ""
    k = cut_off(arms, wanted)
    shown = [m for m in SHOWN if all(f"{m}@{k}" in values for values in arms.values())]
    columns = {m: {arm: round(values[f"{m}@{k}"], 4) for arm, values in arms.items()} for m in shown}
    rows = []
    for arm in arms:
        cells = [arm_name(arm)]
        for m, column in columns.items():
            best = (max if m in HIGHER else min)(column.values())
            text = f"{column[arm]:.1f}" if m == "arp" else f"{column[arm]:.4f}"
            if column[arm] == best and len(set(column.values())) > 1:
                text = f'<strong>{text}<span class="star"> ★</span></strong>'
            cells.append(text)
        rows.append(cells)
    title = f"Test: {escape(test)}" if not test.endswith("validation") else escape(test)
    return f"<h3>{title}</h3>" + table(["", *(f"{m}@{k}" for m in shown)], rows, label=f"accuracy, {test}")


def _claims(it: Run) -> list[str]:
    parts = []
    claims = it.found.get("claims") or {}
    rows = [
        [text, signed(claims[name]["spearman"], 3), chance(claims[name]["p"], 1)]
        for name, text in CLAIMS.items()
        if name in claims
    ]
    if rows:
        header = ["Spearman’s correlation with popularity", "ρ", "p"]
        parts.append(table(header, rows, label="the claims as correlations"))
    if it.readings and {"alignment", "magnitude"} <= set(it.readings):
        readings = it.readings
        captions = (
            "Claim (i): how closely items point along the positive interactions, by popularity",
            "Claim (ii): size of the positive gradients, by popularity",
        )
        parts.append(figures.figures(lambda axes: figures.draw_claims(axes, readings), *captions))
        parts.append('<p class="muted">Medians of items of like popularity; their middle halves are shaded.</p>')
    rows_with_claims = [r for r in it.history if "claim/alignment" in r]
    if rows_with_claims:
        captions = ("The claims over training", "Accuracy on validation over training")
        parts.append(figures.figures(lambda axes: figures.draw_epochs(axes, rows_with_claims), *captions))
    return parts


def _tradeoff(it: Run) -> list[str]:
    parts = []
    frontier = it.frontier
    if frontier and all({"natural", "unbiased"} <= set(tried[0]["metrics"]) for tried in frontier.values()):
        parts.append(
            '<div id="static-frontier"><p>Each point is one setting of the strengths, measured on validation data; '
            "lines join the settings that no other one of the same arm beats on both sides.</p>"
        )
        caption = "The trade-off between the natural and the unbiased validation part"
        drawing = figures.figures(lambda axes: figures.draw_frontier(axes[0], frontier), caption, width=6.4)
        parts.append(drawing + "</div>")
    if it.grid:
        parts.append(explorer.explorer(it.grid, frontier))
    parts.append(_at_limits(it.found.get("tradeoff") or []))
    return parts


def _at_limits(tradeoff: Sequence[dict[str, Any]]) -> str:
    rows = []
    for row in tradeoff:
        for test, c in row.get("adjusted - count_control", {}).items():
            name = next(n for n in next(iter(row["arms"].values()))["tests"][test] if n.startswith("ndcg"))
            values = [row["arms"][arm]["tests"][test][name] for arm in ("adjusted", "count_control")]
            label = f"{100 * row['max_loss']:.0f} %, {words.test_name(test).removeprefix('the ')}"
            rows.append([label, *(f"{v:.4f}" for v in values), signed(c["difference"], 4), chance(c["p"])])
    if not rows:
        return ""
    header = ["natural loss allowed on validation", "adjusted", "count control", "difference", "paired p"]
    tests = all(test.endswith("validation") for row in tradeoff for test in row["adjusted - count_control"])
    where = "validation" if tests else "the tests"
    return f"<p>NDCG on {where}, strengths chosen on validation:</p>" + table(header, rows, label="NDCG at limits")


def _groups(it: Run) -> list[str]:
    cuts = {test: cut_off(arms, metric_cut(it.found)) for test, arms in it.tests.items() if arms}
    found = {test: it.tests[test] for test, k in cuts.items() if f"tail_recall@{k}" in it.tests[test].get("plain", {})}
    if not found:
        return []
    k = min(cuts[test] for test in found)
    captions = [f"Recall of head, middle and tail items, {words.test_name(test)}" for test in found]
    rows = [
        [
            f"{escape(test)}, {arm_name(arm)}",
            *(f"{values[n]:.4f}" if (n := f"{g}_recall@{k}") in values else "–" for g in GROUPS),
        ]
        for test, arms in found.items()
        for arm, values in arms.items()
    ]
    return [
        "<p>Head, middle and tail are items of falling popularity, each with a third of the training interactions.</p>",
        figures.figures(lambda axes: figures.draw_groups(axes, found, k), *captions),
        details("The same as numbers", table(["", *GROUPS.values()], rows, label="recall by group")),
    ]


def _exposure(exposure: dict[str, Any] | None) -> list[str]:
    if not exposure:
        return []
    users, total = exposure["users"], max(sum(before for before, _ in exposure["places"].values()), 1)
    shares = ", ".join(
        f"{GROUPS[name]} items ({exposure['items'][name]:,}) {100 * before / total:.0f} → {100 * after / total:.0f} %"
        for name, (before, after) in exposure["places"].items()
    )
    parts = [
        f"<h3>Which items gain and lose</h3><p>In the lists of {exposure['k']} items of all {users:,} test users, the "
        f"share of places changes: {shares}. The items whose places change the most:</p>"
    ]
    tables = []
    for key, title in (("gain", "gain the most"), ("lose", "lose the most")):
        rows = [
            [
                f'{escape(r["item"])} <small class="{r["group"]}">{GROUPS[r["group"]]}, {r["popularity"]:,}</small>',
                f"{100 * r['before'] / users:.1f} %",
                f"{100 * r['after'] / users:.1f} %",
            ]
            for r in exposure[key]
        ]
        if rows:
            header = [f"{title} <small>(group, training count)</small>", "in lists before", "after"]
            tables.append(table(header, rows, label=f"items that {title}"))
    return [*parts, f'<div class="pair">{"".join(tables)}</div>']


def _lists(lists: dict[str, Any] | None) -> str:
    if not lists or not lists.get("users"):
        return ""
    parts = [
        "<p>Each item with its group and training count; <b>new</b> marks what the correction brought in. "
        "Users are ordered from niche to mainstream.</p>"
    ]
    for user, changed in zip(lists["users"], lists["changed"], strict=True):
        known = ", ".join(escape(r["item"]) for r in user["profile"][:5])
        before = {_id(r) for r in user["plain"]}
        parts.append(
            f'<article><h3>User {escape(user["user"])}</h3><p class="muted">Knows {known}, … '
            f"The correction replaced {100 * changed:.0f} % of the list.</p>"
            f'<div class="pair"><div><h4>before</h4>{_ranked(user["plain"], before)}</div>'
            f"<div><h4>after</h4>{_ranked(user['adjusted'], before)}</div></div></article>"
        )
    return "".join(parts)


def _id(row: dict[str, Any]) -> str:
    """What tells an item from others of its name."""
    return str(row["id"])


def _ranked(rows: Sequence[dict[str, Any]], before: set[str]) -> str:
    shown = "".join(
        f'<li>{escape(r["item"])} <small class="{r["group"]}">{GROUPS[r["group"]]}, {r["popularity"]:,}</small>'
        + (" <b>new</b>" if _id(r) not in before else "")
        + "</li>"
        for r in rows
    )
    return f"<ol>{shown}</ol>"


def _settings(found: dict[str, Any]) -> list[str]:
    parts = []
    chosen = found.get("selected_by_arm") or ({"adjusted": found["selected"]} if found.get("selected") else {})
    rows = [
        [arm_name(arm), escape(", ".join(f"{name} {value:.3g}" for name, value in strengths.items()))]
        for arm, strengths in chosen.items()
    ]
    if rows:
        inner = "".join(f"<dt>{arm}</dt><dd>{text}</dd>" for arm, text in rows)
        parts.append(f"<h3>Strengths selected on validation</h3><dl>{inner}</dl>")
    if found.get("notes"):
        parts.append("<ul>" + "".join(f"<li>{escape(note)}</li>" for note in found["notes"]) + "</ul>")
    rest = {name: found[name] for name in ("settings", "versions", "seconds") if found.get(name)}
    if rest:
        parts.append(details("Settings, versions, seconds", f"<pre>{escape(json.dumps(rest, indent=1))}</pre>"))
    return parts
