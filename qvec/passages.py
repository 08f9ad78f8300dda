"""A small corpus that every machine has: the docstrings of the Python standard library.

The modules are parsed and never imported, so collecting the passages has no side effects.
"""

from __future__ import annotations

import ast
import random
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain, zip_longest
from pathlib import Path

QUESTIONS: tuple[str, ...] = (
    "How do I compute the median of a list of numbers?",
    "How do I merge several sorted inputs into one?",
    "How do I send an email over an encrypted connection?",
    "How do I compare two dates or measure the time between them?",
    "Which elements of a list are the most common ones?",
    "How do I run a shell command and read its output?",
    "How can I cache the results of an expensive function?",
    "How do I create a temporary file that is deleted when I close it?",
    "How do I find all files whose names match a pattern?",
    "How do I parse options given on the command line?",
    "How do I make a random token that nobody can guess?",
    "How do I turn a Python object into a JSON string?",
    "How do I decompress a gzip file?",
)
"""Questions that a developer asks and the standard library answers."""

_EXCLUDED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "distutils"}
_EXCLUDED_FOLDERS |= {"__pycache__", "lib-dynload", "ensurepip", "turtledemo", "pydoc_data"}
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_LONGEST = 1_000
_SHORTEST = 60
_SEED = 0


@dataclass(frozen=True)
class Passage:
    """One docstring. `id` is the dotted name of the module, class or function, `title` its kind and name."""

    id: str
    title: str
    text: str
    module: str


def stdlib_passages(limit: int = 3000) -> list[Passage]:
    """Return at most `limit` different passages of 60 to about 1,000 characters from all over the library.

    The choice and its order depend only on the library's files. Modules take turns, so that a few large ones do not
    fill the list.
    """
    return list(_all_passages()[:limit])


@cache
def _all_passages() -> tuple[Passage, ...]:
    shuffled = random.Random(_SEED)
    by_module = []
    for module, path in _modules(Path(sysconfig.get_paths()["stdlib"])):
        passages = list(_passages(module, path))
        shuffled.shuffle(passages)
        by_module.append(passages)
    unique: dict[str, Passage] = {}
    for passage in chain.from_iterable(zip_longest(*by_module)):
        if passage is not None:
            unique.setdefault(passage.text, passage)
    return tuple(unique.values())


def _modules(library: Path) -> Iterator[tuple[str, Path]]:
    """Return name and file of each public module, sorted by name; that of `a/__init__.py` is `a`."""
    found = {}
    for path in library.rglob("*.py"):
        parts = path.relative_to(library).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if _EXCLUDED_FOLDERS.isdisjoint(parts) and all(map(_is_public, parts)):
            found[".".join(parts)] = path
    return iter(sorted(found.items()))


def _is_public(name: str) -> bool:
    return name.isidentifier() and not name.startswith("_")


def _passages(module: str, path: Path) -> Iterator[Passage]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of escape sequences in old modules
        tree = ast.parse(path.read_bytes(), path)
    for kind, name, documentation in _documented(tree, module, "module"):
        text = _shortened(documentation)
        if len(text) >= _SHORTEST:
            yield Passage(id=name, title=f"{kind} {name}", text=text, module=module)


def _documented(node: _Documented, name: str, kind: str) -> Iterator[tuple[str, str, str]]:
    """Yield kind, dotted name and docstring of `node` and of the public classes and functions in it."""
    documentation = ast.get_docstring(node)
    if documentation:
        yield kind, name, documentation
    inner = "method" if kind == "class" else "function"
    for child in node.body:
        if isinstance(child, ast.ClassDef) and _is_public(child.name):
            yield from _documented(child, f"{name}.{child.name}", "class")
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and _is_public(child.name):
            yield from _documented(child, f"{name}.{child.name}", inner)


def _shortened(text: str) -> str:
    """Return `text` up to the last paragraph, line or word that ends in the second half of the limit."""
    if len(text) <= _LONGEST:
        return text
    start = text[:_LONGEST]
    ends = start.rfind("\n\n", _LONGEST // 2), start.rfind("\n", _LONGEST // 2), start.rfind(" ", _LONGEST // 2)
    end = next((end for end in ends if end > 0), _LONGEST)
    return start[:end].rstrip()
