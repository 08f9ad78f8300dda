"""Every method of a database and a collection has an async twin: same parameters, same words."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import pytest
from typing_extensions import get_overloads

import qvec
from qvec import database
from qvec.client import AsyncCollection, AsyncDatabase, Collection, Database

TWINS = [
    (Database, AsyncDatabase),
    (Collection, AsyncCollection),
    (Database, AsyncDatabase),
    (Collection, AsyncCollection),
]
WITHOUT = {
    "loader": "loads run in threads of their own: `ingest` takes a database of `connect`",
    "loads": "and what they wrote down is read by `evaluate`, which runs in threads too",
    "versions": "so does `recalibrate`",
    "break_off": "of loads",
    "open": "what the constructor does where nothing is awaited",
}
"""What only one of two twins has, and why."""


def public(kind: type) -> dict[str, Any]:
    names = (name for name in dir(kind) if not name.startswith("_") and name not in WITHOUT)
    return {name: inspect.getattr_static(kind, name) for name in names}


PAIRS = [
    pytest.param(kind, twin, name, id=f"{kind.__name__}.{name}")
    for kind, twin in TWINS
    for name, value in public(kind).items()
    if callable(getattr(kind, name)) or isinstance(value, property)
]


@pytest.mark.parametrize(("kind", "twin"), TWINS)
def test_twins_have_the_same_public_names(kind: type, twin: type) -> None:
    assert public(kind).keys() == public(twin).keys()


def plain(annotation: str) -> str:
    """An annotation as the twin that waits has it."""
    for awaited, waiting in (("AsyncIterator", "Iterator"), ("AbstractAsyncContext", "AbstractContext"), ("Async", "")):
        annotation = annotation.replace(awaited, waiting)
    return annotation


def signature(function: Callable[..., Any]) -> list[tuple[str, Any, Any, str]]:
    found = inspect.signature(function)
    parameters = [(p.name, p.kind, repr_of(p.default), plain(str(p.annotation))) for p in found.parameters.values()]
    return [*parameters, ("return", None, None, plain(str(found.return_annotation)))]


def repr_of(default: Any) -> str:
    """Functions in place of a default differ by their address."""
    return "a function" if inspect.isfunction(default) else repr(default)


@pytest.mark.parametrize(("kind", "twin", "name"), PAIRS)
def test_a_twin_has_the_same_signature_and_docstring(kind: type, twin: type, name: str) -> None:
    one, other = getattr(kind, name), getattr(twin, name)
    assert inspect.getdoc(one) == inspect.getdoc(other)
    if isinstance(one, property):
        return
    assert signature(one) == signature(other)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="overloads are not kept")
@pytest.mark.parametrize(("kind", "twin"), [pair for pair in TWINS if pair[0].__name__.endswith("Collection")])
def test_search_has_the_same_overloads(kind: Any, twin: Any) -> None:
    one, other = get_overloads(kind.search), get_overloads(twin.search)
    assert len(one) == 3
    assert list(map(signature, one)) == list(map(signature, other))


def test_connecting_has_a_twin() -> None:
    assert signature(qvec.connect) == signature(qvec.connect_async)
    assert inspect.getdoc(database.connect) == inspect.getdoc(database.connect_async)


@pytest.mark.parametrize("twin", [twin for _, twin in TWINS])
def test_what_asks_the_database_is_awaited(twin: type) -> None:
    """A method of its own, and not one that both share, is a coroutine, or gives an async iterator or context."""
    for name, value in vars(twin).items():
        if name.startswith("_") or not inspect.isfunction(value):
            continue
        asynchronous = inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value)
        assert asynchronous or "AsyncContextManager" in str(inspect.signature(value).return_annotation), name
