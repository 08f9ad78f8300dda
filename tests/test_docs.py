"""The page of the public API: as the source is now, with every public name; and the examples of docs/ run."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import qvec
from qvec.client import AsyncCollection, AsyncDatabase, Collection, Database

DOCS = Path(__file__).parents[1] / "docs"
API = DOCS / "api.md"
DATABASES = [Database, Database, AsyncDatabase, AsyncDatabase]
COLLECTIONS = [Collection, Collection, AsyncCollection, AsyncCollection]


def chapter(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", API.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def entries(title: str) -> set[str]:
    return set(re.findall(r"^### `(\w+)`$", chapter(title), re.MULTILINE))


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    pytest.importorskip("griffe", reason="needs griffelib")
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module  # where its dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


def test_the_page_is_as_the_source(generate: ModuleType) -> None:
    assert generate.page(generate.load()) == API.read_text("utf-8"), "docs/api.md is out of date; run: make docs"


@pytest.mark.parametrize("name", ["qvec", "qvec.filters", "qvec.retrieval", "qvec.embedding", "qvec.training"])
def test_every_exported_name_is_there(name: str) -> None:
    assert entries(name) == set(importlib.import_module(name).__all__)


@pytest.mark.parametrize("framework", ["langchain", "llama_index", "haystack"])
def test_the_stores_of_frameworks_are_there(framework: str) -> None:
    """Read the source instead of importing it, since the framework may not be installed."""
    module = DOCS.parent / "qvec" / "integrations" / framework
    file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    exported = re.search(r"^__all__ = (\[.*\])$", file.read_text("utf-8"), re.MULTILINE)
    assert exported
    assert entries(f"qvec.integrations.{framework}") == set(ast.literal_eval(exported[1]))


def methods_for_users(kind: type) -> set[str]:
    """Public methods of a class's own and of retrieval; its other bases are what it shares with its twin."""
    bases = (base for base in kind.__mro__ if base is kind or base.__module__.startswith("qvec.retrieval"))
    names = (name for base in bases for name in vars(base) if not name.startswith("_"))
    return {name for name in names if callable(getattr(kind, name, None))}


@pytest.mark.parametrize(("title", "classes"), [("Databases", DATABASES), ("Collections", COLLECTIONS)])
def test_every_public_method_is_there_and_each_class_with_its_twin(title: str, classes: list[type]) -> None:
    methods = {name for kind in classes for name in methods_for_users(kind)}
    assert entries(title) == methods - {"open"}  # of the twins alone: what the constructor does otherwise
    for kind in classes:
        assert f"`{kind.__module__}.{kind.__name__}`" in chapter(title)


def test_every_class_and_function_says_what_it_is() -> None:
    parts = re.split(r"^### ", API.read_text("utf-8"), flags=re.MULTILINE)[1:]
    said = {part.splitlines()[0]: re.sub(r"```.*?```", "", part, flags=re.DOTALL).splitlines()[1:] for part in parts}
    constants = {part.splitlines()[0] for part in parts if re.search(r"```python\n\w+ = ", part)}
    assert [name for name, lines in said.items() if not "".join(lines).strip() and name not in constants] == []


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_examples_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testfile(str(path), module_relative=False, globs={"qvec": qvec})
    assert failed == 0
