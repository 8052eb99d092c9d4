"""`report.html`: one file without network access, made from what a RUN folder holds; and a page that compares runs.

    page       the sections of a run's page: each is there where the RUN folder holds what it shows
    explorer   the sliders over `grid.json`, drawn by script.js
    compare    several runs on one page
    figures    matplotlib figures as inline SVG in the page's colours
    markup     tables, sections, and the document with style.css and script.js inside
"""

from __future__ import annotations

from jaxrec.report.compare import paired, run_names, want_page, write_comparison
from jaxrec.report.figures import draw_claims, draw_frontier
from jaxrec.report.page import write_report

__all__ = ["draw_claims", "draw_frontier", "paired", "run_names", "want_page", "write_comparison", "write_report"]
