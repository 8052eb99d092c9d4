"""Settings of the documentation: `python -m sphinx -W -b html docs docs/_build`.

Results and notebooks have their home in `experiments`; what is shown of them is written to `docs/generated` first.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
from pathlib import Path

import jupytext

from jaxrec import __version__

HERE = Path(__file__).parent
EXPERIMENTS = HERE.parent / "experiments"
GENERATED = HERE / "generated"

project = "jaxrec"
release = version = __version__
copyright = "the authors of jaxrec; Apache-2.0"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "jupyter_execute"]
html_theme = "furo"
html_title = "jaxrec"

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
smartquotes = False  # docstrings hold code and formulas
nb_execution_mode = "off"  # tests/test_notebooks.py runs them

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": True}
autodoc_preserve_defaults = True
suppress_warnings = ["ref.python"]  # two fields of one name in signatures, which link to neither
viewcode_line_numbers = True


def generate() -> None:
    """Copies the tables of results, and writes the notebooks as .ipynb, into `docs/generated`."""
    shutil.rmtree(GENERATED, ignore_errors=True)
    for name in ("results", "notebooks"):
        (GENERATED / name).mkdir(parents=True)
    for page in sorted((EXPERIMENTS / "results").glob("*.md")):
        shutil.copy(page, GENERATED / "results")
    for figure in sorted((EXPERIMENTS / "results").glob("*.svg")):
        shutil.copy(figure, GENERATED / "results")
    shutil.copy(HERE.parent / "benchmarks" / "NOTES.md", GENERATED / "benchmarks.md")
    for script in sorted((EXPERIMENTS / "notebooks").glob("*.py")):
        jupytext.write(jupytext.read(script), GENERATED / "notebooks" / f"{script.stem}.ipynb")


LABEL = re.compile(r"[a-z_]\w*(, [a-z_]\w*)*: \S", re.IGNORECASE)
FIELD = re.compile(r"\s+(\w+): [^#]*#\s*(.*)")


def docstring(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Turns a docstring, which is plain text for a terminal, into reStructuredText."""
    if what in ("attribute", "property") and (not "".join(lines) or lines[0].startswith("Alias for field number")):
        lines[:] = [field_comment(name)]
    lines[:] = [line for part in paragraphs(lines) for line in (*markup(part), "")]


def field_comment(name: str) -> str:
    """What the comment beside a field says: the shape of an array, mostly."""
    module, _, rest = name.rpartition(".")[0].rpartition(".")
    try:
        source = inspect.getsource(getattr(importlib.import_module(module), rest))
    except (ImportError, AttributeError, TypeError, OSError):
        return ""
    found = {m[1]: m[2] for m in map(FIELD.match, source.splitlines()) if m}
    return found.get(name.rpartition(".")[2], "").partition("# type:")[0]


def paragraphs(lines: list[str]) -> list[list[str]]:
    """Runs of lines between blank ones; a doctest begins a run of its own."""
    found: list[list[str]] = [[]]
    for line in lines:
        if not line.strip():
            found.append([])
            continue
        if line.startswith(">>>") and not (found[-1] and found[-1][0].startswith(">>>")):
            found.append([])
        found[-1].append(line)
    return [part for part in found if part]


def markup(part: list[str]) -> list[str]:
    """A paragraph: a doctest and an indented block stay as they are, `name: text` becomes an item of a list."""
    if part[0].startswith(">>>"):
        return part
    if part[0].startswith(" ") or sum("   " in line.strip() for line in part) > 1:  # indented, or in columns
        return ["::", "", *(f"    {line}" for line in part)]
    found: list[str] = []
    inside, listed = False, False
    for n, line in enumerate(part):
        text = escaped(line.strip())
        indented = line.startswith(" ")
        if indented and part[n - 1].endswith(":") and not LABEL.match(line.strip()):
            return [*found, "", "::", "", *(f"    {rest}" for rest in part[n:])]
        listed = listed or (indented and part[n - 1].endswith(":"))
        if LABEL.match(line.strip()) and (listed or line[0].islower()):
            found += ["", f"* {text}"]
            inside = True
        elif indented and inside:
            found.append(f"  {text}")
        else:
            found += ["", text] if inside else [text]
            inside = False
    return found


def escaped(line: str) -> str:
    """A line of text: what is between backquotes is code, everything else stands for itself."""
    parts = line.split("`")
    if len(parts) % 2 == 0:
        return re.sub(r"([\\*|_`])", r"\\\1", line)
    return "".join(f"``{p}``" if n % 2 else re.sub(r"([\\*|_])", r"\\\1", p) for n, p in enumerate(parts))


def setup(app: object) -> None:
    """Writes the generated pages before sources are read."""
    generate()
    app.connect("autodoc-process-docstring", docstring)  # type: ignore[attr-defined]
