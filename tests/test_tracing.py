"""Spans around searches, as an application that records them sees them."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from qdrant_client.http.exceptions import ResponseHandlingException
from stores import Store

from qvec import Calibration, connect, tracing
from qvec.qdrant.retries import Retries


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What a provider of this test alone records."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    tracing._tracer.cache_clear()
    yield exporter
    tracing._tracer.cache_clear()
    provider.shutdown()


class Embedder:
    def embed_documents(self, texts: list[str]) -> Any:
        return np.eye(8, dtype=np.float32)[[len(text) % 8 for text in texts]] + 0.1

    embed_queries = embed_documents


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return {key.removeprefix("qvec."): value for key, value in (span.attributes or {}).items()}


def test_a_search_is_a_span_with_its_steps(store: Store, recorded: InMemorySpanExporter) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 8), np.float32)
    docs: Any = store.create(Calibration.fit(vectors))
    docs.embedder = Embedder()
    docs.upsert(range(300), vectors)
    recorded.clear()
    docs.search("a question", 5, oversampling=3)
    spans = {span.name: span for span in recorded.get_finished_spans()}
    search = spans["qvec.search"]
    assert attributes(search) == {
        "database": store.database.kind,
        "collection": docs.name,
        "queries": 1,
        "k": 5,
    }
    assert attributes(spans["qvec.embed"]) == {"collection": docs.name, "texts": 1}
    if not store.is_postgres:
        assert set(spans) == {"qvec.embed", "qvec.search"}
        return
    assert set(spans) == {"qvec.embed", "qvec.search", "qvec.prefilter", "qvec.rescore", "qvec.texts"}
    assert attributes(spans["qvec.prefilter"]) == {"candidates": 15, "rows": 15}
    for step in ("qvec.prefilter", "qvec.rescore", "qvec.texts"):
        parent, context = spans[step].parent, search.get_span_context()
        assert parent is not None
        assert context is not None
        assert parent.span_id == context.span_id


def test_without_opentelemetry_nothing_is_imported() -> None:
    program = "import sys; from qvec.tracing import span\nwith span('search', k=1) as s: s.set_attribute('a', 1)\n"
    program += "assert 'opentelemetry' not in sys.modules"
    subprocess.run([sys.executable, "-I", "-c", program], check=True)


def test_a_package_that_shares_opentelemetrys_name_is_not_its_api() -> None:
    program = "import sys, types; sys.modules['opentelemetry'] = types.ModuleType('opentelemetry')\n"
    program += "from qvec.tracing import span\nwith span('search', k=1) as s: s.set_attribute('a', 1)"
    subprocess.run([sys.executable, "-I", "-c", program], check=True)


def test_nothing_is_logged_to_handlers_of_qvecs_own() -> None:
    program = "import logging, qvec; qvec.connect\n"
    program += (
        "loggers = [logging.getLogger(n) for n in logging.root.manager.loggerDict if n.split('.')[0] == 'qvec']\n"
    )
    program += "assert not any(logger.handlers for logger in [logging.root, *loggers])"
    subprocess.run([sys.executable, "-I", "-c", program], check=True)


def test_what_a_service_recovers_from_is_logged(
    url: str, caplog: pytest.LogCaptureFixture, vectors: NDArray[np.float32], calibration: Calibration
) -> None:
    with connect(url) as database, caplog.at_level(logging.INFO, "qvec"):
        docs = database.create_collection("docs", calibration=calibration)
        docs.upsert(range(3), vectors[:3])
        with psycopg.connect(url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert docs.count() == 3
        logged = [record.getMessage() for record in caplog.records if record.name == "qvec.postgres"]
        assert logged == [f"a connection to {database.name} was lost; reading again"]


def test_a_repeated_request_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([ResponseHandlingException(ConnectionError("refused")), 7])

    def request() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert Retries(5)(request) == 7
    assert [record.name for record in caplog.records] == ["qvec.qdrant"]
    assert caplog.records[0].getMessage().startswith("a request to Qdrant failed and is sent again: ")
