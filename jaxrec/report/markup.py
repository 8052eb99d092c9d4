"""HTML in small pieces. Text from data passes through `escape`, data for scripts through `embed`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape as _escape
from importlib import resources
from typing import Any

ARMS = {"plain": "plain", "adjusted": "adjusted by gradients", "count_control": "count control", "tten": "TTEN"}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def escape(text: object) -> str:
    """Text as HTML, in elements and in quoted attributes."""
    return _escape(str(text))


def arm_name(arm: str) -> str:
    """What a person calls an arm."""
    return escape(ARMS.get(arm, arm))


def signed(value: float, digits: int) -> str:
    """A difference, with its sign.

    >>> signed(-0.5, 3)
    '−0.500'
    """
    return f"{value:+.{digits}f}".replace("-", "−")


def chance(p: float, digits: int = 2) -> str:
    """A p value in few digits, or a bound where it is too small for a float.

    >>> chance(0.0), chance(0.012)
    ('< 1e-300', '0.012')
    """
    return f"{p:.{digits}g}" if p > 1e-300 else "< 1e-300"


def embed(name: str, content: Any) -> str:
    """JSON for a script, under an id; no text in it can end the element.

    >>> embed("data", {"a": "</script>"})
    '<script type="application/json" id="data">{"a":"\\\\u003c/script>"}</script>'
    """
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, label: str) -> str:
    """A table from cells of HTML, the first of each row its heading; it scrolls by itself where it is too wide."""
    top = "".join(f'<th scope="col">{h}</th>' for h in header)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    inner = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{inner}</div>'


def section(name: str, title: str, *parts: str) -> str:
    """A section with a heading, or nothing where all parts are empty."""
    body = "\n".join(part for part in parts if part)
    return f'<section id="{name}"><h2>{title}</h2>\n{body}\n</section>' if body else ""


def details(summary: str, body: str) -> str:
    """What opens on demand, or nothing where there is nothing."""
    return f"<details><summary>{summary}</summary>{body}</details>" if body else ""


def document(title: str, body: str) -> str:
    """The whole file: style and script inside, and a policy by which a browser refuses anything from outside."""
    files = resources.files("jaxrec.report")
    style, script = ((files / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{style}</style></head>\n<body><main>\n{body}\n</main>\n<script>\n{script}</script></body></html>\n"
    )
