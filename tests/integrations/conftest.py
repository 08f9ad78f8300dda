"""What the tests of all frameworks share. Nothing of them calls home."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from databases import STORES, Store, opened

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["LANGSMITH_TRACING"] = "false"
os.environ["ANONYMIZED_TELEMETRY"] = "false"


def pytest_configure(config: pytest.Config) -> None:
    """The frameworks' own tests carry marks of plugins that are off."""
    for marker in ("asyncio", "benchmark", "vcr"):
        config.addinivalue_line("markers", f"{marker}: of a framework's tests")


@pytest.fixture
def anyio_backend() -> str:
    """Coroutine tests run on asyncio."""
    return "asyncio"


@pytest.fixture(scope="module", params=[kind for kind in STORES if kind != "qdrant-wire"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, new_database: Callable[..., str]
) -> Iterator[Store]:
    """Each kind of database that is here. What a server is asked for the contract's tests cover."""
    with opened(request.param, tmp_path_factory.mktemp("store"), new_database) as found:
        yield found
