"""Everything a reader can copy runs: scripts of examples/, docstring examples, and the code of the documentation."""

import doctest
import importlib
import pkgutil
import re
import runpy
from pathlib import Path

import pytest
import torch

import multirate

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(multirate.__path__, "multirate.")
    if not info.name.startswith("multirate.lab")
)
CLASSES = sorted(name for name in multirate.__all__ if isinstance(getattr(multirate, name), type))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, capsys):
    pytest.importorskip("sklearn")
    accuracy = runpy.run_path(str(path))["main"](["--epochs", "2"])
    assert accuracy > 0.5
    assert "epoch  2" in capsys.readouterr().out


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0, "the report is above"


@pytest.mark.parametrize("name", CLASSES)
def test_public_class_has_a_tried_example(name):
    public = getattr(multirate, name)
    if public in (multirate.Transition, multirate.Wrapped):
        pytest.skip("shown by the optimizers that take it, or by wrap()")
    tests = doctest.DocTestFinder(recurse=False).find(public, name)
    assert any(test.examples for test in tests)


def blocks(page):
    """The Python blocks of a page, in order; those of one page share their names."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_of_the_documentation_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {}
    for number, code in enumerate(blocks(page), start=1):
        exec(compile(code, f"{page.name}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_the_documentation_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
