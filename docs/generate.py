"""Writes docs/api.md, the public API in one page, from signatures and docstrings as they stand in the source.

Run by `make docs`; a test tells when the page is out of date.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import griffe

PROJECT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("api.md")

DATABASES = {"Postgres": "postgres.database.PostgresDatabase", "Qdrant": "qdrant.database.QdrantDatabase"}
COLLECTIONS = {"Postgres": "postgres.collection.PostgresCollection", "Qdrant": "qdrant.collection.QdrantCollection"}
RETRIEVAL = "qvec.retrieval.methods.Retrieval"
GIVEN = ("stores.Info", "stores.Explanation", "stores.StoredRows", "metadata_index.MetadataIndex", "versions.Versions")
EVALUATION = {
    "evaluate": ("evaluate",),
    "dataset": ("Queries", "read_queries", "read_qrels", "Rows", "rows_of_source", "rows_of_collection"),
    "results": ("Evaluation", "Result", "Loss"),
    "metrics": ("Interval",),
    "tune": ("tune", "Tuning"),
    "sweep": ("sweep", "SweepOptions"),
    "drift_report": ("drift_of_rows", "drift_of_vectors", "DriftReport"),
    "report": ("write_report",),
}
"""What is used of the evaluation without its command."""
FRAMEWORKS = ("langchain", "llama_index", "haystack")

_LEAD = """# The public API

Written by `make docs` from signatures and docstrings; what is not here may change without notice."""
_TWINS = """The two stores have the same methods, but for what is marked. `qvec.connect` gives a database whose methods
wait, `qvec.connect_async` its twin: the same names, parameters and meaning, and each method that asks the database is
awaited (what gives an iterator or a context manager gives an async one). `loader` is for the former alone."""
_WIDTH = 100
_EXAMPLE = re.compile(r"^(?:(?:>>>|\.\.\.).*(?:\n|$))+", re.MULTILINE)


@dataclass(frozen=True)
class Chapter:
    """A heading and what comes under it: classes and functions, by where they are."""

    title: str
    lead: str
    names: Sequence[str]


@dataclass(frozen=True)
class Stores:
    """A heading, and the methods that the class of each store has alike; `shared` describes what a class does not."""

    title: str
    lead: str
    classes: Mapping[str, str]
    shared: str


def load() -> Any:
    """The package, read and not imported: the page is the same on every Python."""
    return griffe.load("qvec", search_paths=[PROJECT], try_relative_path=False, resolve_aliases=True)


def page(qvec: Any) -> str:
    """The whole page as Markdown."""
    chapters = list(_chapters(qvec))
    contents = [f"- [{chapter.title}](#{_anchor(chapter.title)})" for chapter in chapters]
    blocks = [_LEAD, "\n".join(contents)]
    for chapter in chapters:
        blocks += [f"## {chapter.title}", chapter.lead]
        if isinstance(chapter, Chapter):
            blocks += [
                block for name in chapter.names for block in _entry(name.rpartition(".")[2], _target(qvec[name]))
            ]
        else:
            blocks += _alike(qvec, chapter)
    return "\n\n".join(block.strip("\n") for block in blocks if block) + "\n"


def _chapters(qvec: Any) -> Iterator[Chapter | Stores]:
    yield Chapter("qvec", "", _exported(qvec))
    yield Stores("Databases", _TWINS, DATABASES, "stores.Database")
    yield Stores(
        "Collections", "The methods `collection` and `create_collection` give one.", COLLECTIONS, "stores.Collection"
    )
    yield Chapter("What collections give", "", GIVEN)
    for name in ("filters", "retrieval", "embedding"):
        yield Chapter(f"qvec.{name}", _text(qvec[name]), [f"{name}.{export}" for export in _exported(qvec[name])])
    yield Chapter("qvec.tracing", _text(qvec["tracing"]), [])
    evaluation = [f"evaluation.{module}.{name}" for module, names in EVALUATION.items() for name in names]
    yield Chapter("qvec.evaluation", _text(qvec["evaluation"]), evaluation)
    for name in ("training", *(f"integrations.{framework}" for framework in FRAMEWORKS)):
        yield Chapter(f"qvec.{name}", _text(qvec[name]), [f"{name}.{export}" for export in _exported(qvec[name])])


def _exported(module: Any) -> list[str]:
    return [str(name) for name in module.exports or ()]


def _target(found: Any) -> Any:
    return found.final_target if found.is_alias else found


def _entry(name: str, found: Any) -> Iterator[str]:
    """A function, a class with its methods, or a constant."""
    yield f"### `{name}`"
    if found.is_class:
        yield from _class(name, found)
    elif found.is_function:
        yield _code(_signature(found))
        yield _text(found)
    else:
        yield _code(f"{name} = {found.value}")
        yield _text(found)


def _class(name: str, found: Any) -> Iterator[str]:
    is_error = any(str(base).endswith(("Error", "Exception")) for base in found.bases)
    constructor = found.all_members.get("__init__")
    if constructor is not None and not is_error:
        yield _code(_wrapped(name, _parameters(constructor), ""))
    yield _text(found)
    if constructor is not None:
        yield _text(constructor)
    yield _attributes(found)
    for method in _methods(found).values():
        yield f"#### `{name}.{method.name}`"
        yield _code(_signature(method, f"{name}." if "classmethod" in method.labels else ""))
        yield _text(method)


def _alike(qvec: Any, stores: Stores) -> Iterator[str]:
    """What all stores have, once; with what one has alone, or has in another way."""
    classes = {store: qvec[path] for store, path in stores.classes.items()}
    shared = qvec[stores.shared]
    yield _table(classes)
    methods = {store: _methods_for_users(found) for store, found in classes.items()}
    names = dict.fromkeys(name for found in methods.values() for name in found)
    yield _attributes(shared, names)
    having_each = {name: {store: found[name] for store, found in methods.items() if name in found} for name in names}
    for name, having in sorted(having_each.items(), key=lambda item: -len(item[1])):
        yield f"### `{name}`"
        yield from _variants(having, len(having) < len(classes), shared.members.get(name))


def _table(classes: Mapping[str, Any]) -> str:
    """Each store's class and its twin."""
    rows = [f"| {store} | `{found.path}` | `{_twin(found.path)}` |" for store, found in classes.items()]
    return "\n".join(["| store | class | awaited |", "|---|---|---|", *rows])


def _twin(path: str) -> str:
    """Where the async twin of a class is."""
    module, _, name = path.rpartition(".")
    package, _, file = module.rpartition(".")
    return f"{package}.async_{file}.Async{name}"


def _variants(having: Mapping[str, Any], alone: bool, shared: Any) -> Iterator[str]:
    """A method of each store, said once where they are alike."""
    # A database of Postgres gives collections of Postgres: their methods are alike.
    signatures = {store: re.sub(rf"\b{store}(?=[A-Z])", "", _signature(method)) for store, method in having.items()}
    texts = {store: _text(method) or (_text(shared) if shared else "") for store, method in having.items()}
    if alone:
        yield f"{next(iter(having))} alone."
    for written in dict.fromkeys(signatures.values()):
        yield _code(written)
    alike = len(set(texts.values())) == 1
    for store, text in list(texts.items())[: 1 if alike else None]:
        yield text if alike else f"*{store}*: {text}"


def _methods(found: Any) -> dict[str, Any]:
    """Public methods, a class's own before those that it inherits, in the order of the source."""
    members = {**found.members, **found.all_members}
    methods = {name: _target(member) for name, member in members.items() if not name.startswith("_")}
    return {name: method for name, method in methods.items() if method.is_function}


def _methods_for_users(found: Any) -> dict[str, Any]:
    """Without those of the bases that a class shares with its twin: what it is made of, and no way to use it."""
    own = (found.path, RETRIEVAL)
    return {name: method for name, method in _methods(found).items() if method.parent.path in own}


def _attributes(found: Any, methods: Container[str] = ()) -> str:
    """Fields and properties that are described, as a list, but for those that are methods in truth."""
    members = {name: _target(member) for name, member in found.all_members.items() if not name.startswith("_")}
    fields = {
        name: member
        for name, member in members.items()
        if member.is_attribute and member.docstring and name not in methods
    }
    return "\n".join(
        f"- `{name}: {member.annotation}`: {' '.join(_text(member).split())}" for name, member in fields.items()
    )


def _signature(function: Any, before: str = "") -> str:
    """How a function is called; `before` its name stands a class, where it is called on that."""
    result = f" -> {function.returns}" if function.returns else ""
    return _wrapped(before + function.name, _parameters(function), result)


def _parameters(function: Any) -> list[str]:
    """As they are written, without self."""
    written: list[str] = []
    for parameter in function.parameters:
        if parameter.kind is griffe.ParameterKind.keyword_only and "*" not in written and not _gathers(written):
            written.append("*")
        if parameter.name not in ("self", "cls"):
            written.append(_parameter(parameter))
    return written


def _gathers(written: Sequence[str]) -> bool:
    return any(re.match(r"\*\w", one) for one in written)


def _parameter(parameter: griffe.Parameter) -> str:
    stars = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}
    name = stars.get(parameter.kind, "") + parameter.name  # type: ignore[arg-type]
    typed = f"{name}: {parameter.annotation}" if parameter.annotation else name
    if parameter.default is None or name.startswith("*"):
        return typed
    return f"{typed} = {parameter.default}" if parameter.annotation else f"{typed}={parameter.default}"


def _wrapped(name: str, parameters: Sequence[str], result: str) -> str:
    line = f"{name}({', '.join(parameters)}){result}"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {parameter}," for parameter in parameters), f"){result}"])


def _text(found: Any) -> str:
    """A docstring, its examples fenced."""
    if found.docstring is None:
        return ""
    return _EXAMPLE.sub(lambda match: _code(match[0].rstrip()) + "\n", found.docstring.value)


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _anchor(title: str) -> str:
    """What the heading is linked by, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


if __name__ == "__main__":
    PAGE.write_text(page(load()), encoding="utf-8")
