"""The documentation: its examples run, its API reference is complete, its links have targets, and it builds."""

from __future__ import annotations

import ast
import importlib
import inspect
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from example_pages import MODELS, PAGES, README, ROOT, Block, blocks, make_files, run, run_python, run_shell

from qvec.client import Collection, Database

DOCS = ROOT / "docs"
ROOT_PAGES = [README, *(ROOT / f"{name}.md" for name in ("ARCHITECTURE", "CONTRIBUTING", "CHANGELOG", "SECURITY"))]
TESTED_ELSEWHERE = {"integrations.md", "train.md", "get-started.md"}
PYTHON_PAGES = [page for page in PAGES if page.name not in TESTED_ELSEWHERE and blocks(page, "python")]
COMMANDS_BEFORE = {
    "measure.md": ["qvec ingest vectors.parquet --collection docs"],
    "filters.md": ["qvec ingest vectors.parquet --collection docs"],
    "load.md": [],
    "concepts.md": [],
    "qdrant.md": ["qvec ingest vectors.parquet --collection docs --no-index"],
    "recalibrate.md": ["qvec ingest vectors.parquet --collection docs --rescore float16"],
    "sql.md": [],
    "postgres.md": ["qvec sql install"],
    "cli.md": [],
}
"""The pages whose commands run, and the commands that must run before."""
NOT_RUN = re.compile(r"http://|qdrants?://|zcat ")
"""Matches commands that do not run here, because they need a server or files that `make_files` does not write."""


# Examples


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow if page.name == "python.md" else []) for page in PYTHON_PAGES]
)
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    if page.name == "python.md" and not MODELS:
        pytest.skip("needs qvec[demo]")
    run_python(blocks(page, "python"), tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not MODELS, reason="needs qvec[demo]")
def test_get_started_page(tmp_path: Path) -> None:
    for block in blocks(DOCS / "get-started.md", "python", "sh"):
        if block.kind == "sh":
            run_shell(block, tmp_path)
        else:
            run_python([block], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS_BEFORE)
def test_shell_blocks_run(name: str, tmp_path: Path) -> None:
    make_files(tmp_path)
    for command in COMMANDS_BEFORE[name]:
        run(["sh", "-c", command], tmp_path)
    try:
        for block in blocks(DOCS / name, "sh"):
            lines = [line for line in block.text.splitlines() if not NOT_RUN.search(line)]
            if MODELS or "--model" not in block.text:
                run_shell(Block("sh", "\n".join(lines)), tmp_path)
    finally:
        run(["qvec", "db", "stop"], tmp_path)


def test_every_page_with_commands_is_tested() -> None:
    with_commands = {page.name for page in PAGES if blocks(page, "sh")}
    assert with_commands - COMMANDS_BEFORE.keys() <= {*TESTED_ELSEWHERE, "adapt.md", "quality.md"}


# References


def documented_names() -> set[str]:
    """Return the qualified names that the API reference documents."""
    return {name for page in (DOCS / "api").glob("*.md") for name in documented_by_page(page.read_text("utf-8"))}


def documented_by_page(text: str) -> Iterator[str]:
    module = ""
    for kind, name in re.findall(r"^\.\. ([\w:]+):: ([\w.]+)$", text, re.MULTILINE):
        if kind == "currentmodule":
            module = name
        elif kind == "automodule":
            yield from (f"{name}.{exported}" for exported in exported_names(name))
        elif kind.startswith("auto"):
            yield f"{module}.{name}"
        elif kind == "py:data":
            yield name


def exported_names(module: str) -> list[str]:
    """Return the names in `__all__`, read from the source: the module may need a package that is not installed."""
    path = ROOT.joinpath(*module.split("."))
    package = path / "__init__.py"
    source = package if package.exists() else path.with_suffix(".py")
    found = re.search(r"^__all__ = (\[[^]]*\])", source.read_text("utf-8"), re.MULTILINE)
    names: list[str] = ast.literal_eval(found[1]) if found else []
    return names


def import_name(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize(
    "module",
    ["qvec", "qvec.client", "qvec.filters", "qvec.embedding", "qvec.training"]
    + [f"qvec.integrations.{framework}" for framework in ("langchain", "llama_index", "haystack")],
)
def test_every_exported_name_is_in_reference(module: str) -> None:
    names = {f"{module}.{name}" for name in exported_names(module)}
    assert names
    assert names <= documented_names()


def test_everything_in_reference_has_a_docstring() -> None:
    methods = [method for kind in (Database, Collection) for method in vars(kind).values()]
    public = [method for method in methods if inspect.isfunction(method) and not method.__name__.startswith("_")]
    optional = ("qvec.integrations", "qvec.training")
    objects = [import_name(name) for name in documented_names() if not name.startswith(optional)]
    described = [each for each in objects if inspect.isclass(each) or inspect.isfunction(each)]
    assert len(described) > 50
    assert [each for each in (*described, *public) if not inspect.getdoc(each)] == []


# Links and paths


@pytest.mark.parametrize("page", [*ROOT_PAGES, *PAGES, *(ROOT / "examples").rglob("*.md")], ids=lambda page: page.name)
def test_links_have_existing_targets(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith(("http://", "https://", "<")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors_of(linked), target


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ROOT_PAGES[1:3], ids=lambda page: page.name)
def test_paths_exist(page: Path) -> None:
    """The files and folders that a page names exist; names such as OLD--NEW.sql are patterns."""
    patterns = [path.partition(":")[0] for path in named_paths(page)]
    assert len(patterns) > 10
    assert [path for path in patterns if not any(ROOT.glob(path.rstrip("/")))] == []


@pytest.mark.parametrize("page", ROOT_PAGES[1:3], ids=lambda page: page.name)
def test_functions_of_named_files_exist(page: Path) -> None:
    """The functions, classes and methods that a page names as `file.py:name` exist."""
    functions = [path.split(":") for path in named_paths(page) if ":" in path]
    assert len(functions) > 3
    assert [function for function in functions if not defines(*function)] == []


def defines(path: str, name: str) -> bool:
    """Return whether a Python or Rust file defines a name, or all parts of one like Class.method."""
    text = (ROOT / path).read_text("utf-8")
    return all(re.search(rf"\b(?:def|class|fn) {part}\b", text) for part in name.split("."))


def named_paths(page: Path) -> list[str]:
    named = re.findall(r"`((?:qvec|tests|tools|rust|docs|examples)/[^`]*)`", page.read_text("utf-8"))
    return [path for path in named if path.upper().find("OLD--NEW") < 0 and "_build" not in path]


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_benchmarks_exist(page: Path) -> None:
    """The benchmarks that a page names beside its figures exist."""
    named = set(re.findall(r"\bpython (benchmarks/[\w/]+\.py)", page.read_text("utf-8")))
    assert [name for name in named if not (ROOT / name).is_file()] == []


# The site


@pytest.mark.slow
def test_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("furo", reason="needs qvec[docs]")
    pytest.importorskip("torch", reason="needs qvec[models]")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    from sphinx.util.inventory import InventoryFile

    with (tmp_path / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", posixpath.join)
    objects = {name.rpartition(".")[2] for kind, names in inventory.items() if kind.startswith("py:") for name in names}
    assert {name.rpartition(".")[2] for name in documented_names()} <= objects
    assert "qvec ingest" in (tmp_path / "cli.html").read_text("utf-8")
