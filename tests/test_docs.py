"""Every public name is documented, every module is in the reference, and what the pages tell people to type works."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import jaxrec

ROOT = Path(__file__).parents[1]
FOUND = [m.name for m in pkgutil.walk_packages(jaxrec.__path__, "jaxrec.")]
MODULES = ["jaxrec", *(name for name in FOUND if name != "jaxrec.__main__")]


def undocumented(name: str) -> list[str]:
    """The module, its public functions and classes, and their public methods, where they lack a docstring."""
    module = importlib.import_module(name)
    found = [] if module.__doc__ else [name]
    for key, value in vars(module).items():
        own = getattr(value, "__module__", None) == name and (inspect.isfunction(value) or inspect.isclass(value))
        if key.startswith("_") or not own:
            continue
        # A NamedTuple or dataclass without a docstring is given its signature for one.
        if not value.__doc__ or value.__doc__.startswith(f"{key}("):
            found.append(f"{name}.{key}")
        methods = vars(value).items() if inspect.isclass(value) else ()
        found += [
            f"{name}.{key}.{method}"
            for method, f in methods
            if inspect.isfunction(f) and f.__module__ == name and not method.startswith("_") and not f.__doc__
        ]
    return found


@pytest.mark.parametrize("name", MODULES)
def test_public_names_have_docstrings(name: str) -> None:
    assert undocumented(name) == []


def test_names_of_the_index_exist() -> None:
    assert all(getattr(jaxrec, name) is not None for name in jaxrec.__all__)


def test_every_module_is_in_the_reference_once() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    named = re.findall(r"automodule:: ([\w.]+)$", pages, re.MULTILINE)
    assert sorted(named) == sorted(MODULES)


@pytest.mark.parametrize("page", ["tutorial", "howto"])
def test_what_a_page_tells_to_type_works(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    space: dict[str, object] = {"__name__": page}
    for block in blocks:
        line = text[: block.start(1)].count("\n")  # so that an error names the page's line
        exec(compile("\n" * line + block[1], f"docs/{page}.md", "exec"), space)
    assert len(blocks) > 4
    assert capsys.readouterr().out
