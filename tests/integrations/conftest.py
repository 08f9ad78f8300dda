"""Fixtures for the tests of all frameworks; the frameworks' telemetry is off."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from databases import STORES, Store, open_store

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["LANGSMITH_TRACING"] = "false"
os.environ["ANONYMIZED_TELEMETRY"] = "false"


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers that the frameworks' own tests use; the plugins that define them are off."""
    for marker in ("asyncio", "benchmark", "vcr"):
        config.addinivalue_line("markers", f"{marker}: used by a framework's tests")


@pytest.fixture
def anyio_backend() -> str:
    """Run coroutine tests on asyncio."""
    return "asyncio"


@pytest.fixture(scope="module", params=[kind for kind in STORES if kind != "qdrant-fake"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, new_database: Callable[..., str]
) -> Iterator[Store]:
    """Each available kind of database but `qdrant-fake`: the contract tests cover requests to a Qdrant server."""
    with open_store(request.param, tmp_path_factory.mktemp("store"), new_database) as found:
        yield found
