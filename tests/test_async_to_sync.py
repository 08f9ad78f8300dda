"""The synchronous modules are generated from the asynchronous ones, and both clients have the same public names."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typing_extensions import get_overloads

import qvec
from qvec import AsyncCollection, AsyncDatabase, Collection, Database

SCRIPT = Path(__file__).parents[1] / "tools" / "async_to_sync.py"
CLASS_PAIRS: list[tuple[Any, Any]] = [(Database, AsyncDatabase), (Collection, AsyncCollection)]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """The script tools/async_to_sync.py as a module."""
    spec = importlib.util.spec_from_file_location("async_to_sync", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Generated modules


@pytest.mark.slow  # runs ruff twice for each module
def test_generated_modules_are_current() -> None:
    checked = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.fixture
def project(generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one asynchronous module and its generated twin."""
    source = tmp_path / "qvec" / "store" / "_async" / "rows.py"
    source.parent.mkdir(parents=True)
    source.write_text("async def count(rows):\n    return await rows.count()\n")
    monkeypatch.setattr(generator, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["async_to_sync.py"])
    assert generator.main() == 0
    return tmp_path


def test_generated_module_names_its_source(project: Path) -> None:
    assert (project / "qvec" / "store" / "_sync" / "rows.py").read_text() == (
        "# Generated from qvec/store/_async/rows.py by tools/async_to_sync.py: edit that file, then run `make sync`.\n"
        "def count(rows):\n"
        "    return rows.count()\n"
    )


def test_check_names_stale_module_without_writing_it(
    generator: ModuleType, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["async_to_sync.py", "--check"])
    assert generator.main() == 0
    twin = project / "qvec" / "store" / "_sync" / "rows.py"
    for stale in ("edited\n", None):
        if stale is None:
            twin.unlink()
        else:
            twin.write_text(stale)
        assert generator.main() == 1
        assert "qvec/store/_sync/rows.py is stale: edit its source in _async, then run `make sync`" in (
            capsys.readouterr().err
        )
        assert (twin.read_text() if twin.exists() else None) == stale
    monkeypatch.setattr(sys, "argv", ["async_to_sync.py"])
    assert generator.main() == 0
    assert twin.exists()


# Rules


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("async def count(self): ...", "def count(self): ..."),
        ("await rows.count()", "rows.count()"),
        ("found = await read(await connect())", "found = read(connect())"),
        ("async with pool.connection() as connection:", "with pool.connection() as connection:"),
        ("async for rows in batches:", "for rows in batches:"),
        ("[rows async for rows in batches]", "[rows for rows in batches]"),
        # Parentheses around an awaited primary expression go; others stay.
        ("(await rows.count()).bit_length()", "rows.count().bit_length()"),
        ("(await search(query))[0]", "search(query)[0]"),
        ("await (await get_pool()).check()", "get_pool().check()"),
        ("(await count() + 1) * 2", "(count() + 1) * 2"),
        ("print(await count())", "print(count())"),
        ("return (await count())", "return count()"),
        ("found[0](await count())", "found[0](count())"),
        # Types
        ("Callable[[int], Awaitable[list[Hit]]]", "Callable[[int], list[Hit]]"),
        ("Awaitable[T]", "T"),
        ("AsyncGenerator[Rows, None]", "Generator[Rows, None, None]"),
        ("AsyncIterator[dict[str, int]]", "Iterator[dict[str, int]]"),
        # Names
        ("class AsyncPostgresStore(AsyncStore):", "class PostgresStore(Store):"),
        ("_AsyncPool()", "_Pool()"),
        ("psycopg.AsyncConnection", "psycopg.Connection"),
        ("sleep_async(1)", "sleep(1)"),
        ("from qvec.store._async.interface import AsyncStore", "from qvec.store._sync.interface import Store"),
        ("def __aenter__(self)", "def __enter__(self)"),
        ("AbstractAsyncContextManager[T]", "AbstractContextManager[T]"),
        ("async with AsyncExitStack() as stack, aclosing(parts):", "with ExitStack() as stack, closing(parts):"),
        ("@asynccontextmanager", "@contextmanager"),
        ("await anext(batches)", "next(batches)"),
        # Unchanged
        ("Asynchronous(unasync, asyncio)", "Asynchronous(unasync, asyncio)"),
        ('"async await Awaitable[T] AsyncStore"  # await', '"async await Awaitable[T] AsyncStore"  # await'),
    ],
)
def test_conversion_rules(generator: ModuleType, source: str, expected: str) -> None:
    assert generator.convert(source + "\n") == expected + "\n"


def test_unclosed_bracket_error_names_line(generator: ModuleType) -> None:
    tokens = [generator.tokenize.TokenInfo(generator.tokenize.OP, "(", (7, 0), (7, 1), "(")]
    with pytest.raises(ValueError, match=r"^line 7: a bracket is not closed$"):
        generator._closing(tokens, 0)


# The public classes


def public(kind: type) -> dict[str, Any]:
    names = (name for name in dir(kind) if not name.startswith("_"))
    return {name: inspect.getattr_static(kind, name) for name in names}


MEMBERS = [
    pytest.param(kind, twin, name, id=f"{kind.__name__}.{name}")
    for kind, twin in CLASS_PAIRS
    for name, value in public(kind).items()
    if callable(getattr(kind, name)) or isinstance(value, property)
]


@pytest.mark.parametrize(("kind", "twin"), CLASS_PAIRS)
def test_sync_and_async_classes_have_same_public_names(kind: type, twin: type) -> None:
    assert public(kind).keys() == public(twin).keys()


def as_sync(annotation: str) -> str:
    """Return an annotation as the synchronous class has it."""
    annotation = re.sub(r"AsyncGenerator\[(.*), None\]", r"Generator[\1, None, None]", annotation)
    return annotation.replace("Async", "")


def signature(function: Callable[..., Any]) -> list[tuple[str, Any, Any, str]]:
    found = inspect.signature(function)
    parameters = [
        (p.name, p.kind, default_text(p.default), as_sync(str(p.annotation))) for p in found.parameters.values()
    ]
    return [*parameters, ("return", None, None, as_sync(str(found.return_annotation)))]


def default_text(default: Any) -> str:
    """Return the repr of a default, but for functions a text without their address."""
    return "a function" if inspect.isfunction(default) else repr(default)


@pytest.mark.parametrize(("kind", "twin", "name"), MEMBERS)
def test_sync_and_async_methods_have_same_signature_and_docstring(kind: type, twin: type, name: str) -> None:
    sync, asynchronous = getattr(kind, name), getattr(twin, name)
    assert inspect.getdoc(sync) == inspect.getdoc(asynchronous)
    if isinstance(sync, property):
        return
    assert signature(sync) == signature(asynchronous)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="overloads are not kept")
def test_sync_and_async_search_have_same_overloads() -> None:
    sync, asynchronous = get_overloads(Collection.search), get_overloads(AsyncCollection.search)
    assert len(sync) == 3
    assert list(map(signature, sync)) == list(map(signature, asynchronous))


def test_connect_and_connect_async_have_same_signature_and_docstring() -> None:
    assert signature(qvec.connect) == signature(qvec.connect_async)
    assert inspect.getdoc(qvec.connect) == inspect.getdoc(qvec.connect_async)


WITHOUT_DATABASE = {"encode", "wrap_errors"}
"""Methods that send nothing to the database."""


@pytest.mark.parametrize(("kind", "twin"), CLASS_PAIRS)
def test_database_methods_are_coroutines(kind: type, twin: type) -> None:
    for name, value in vars(twin).items():
        if name.startswith("_") or not inspect.isfunction(value) or name in WITHOUT_DATABASE:
            continue
        assert inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value), name
        assert not inspect.iscoroutinefunction(getattr(kind, name)), name
