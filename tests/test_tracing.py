"""OpenTelemetry spans around searches, as an application records them, and log messages."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from databases import Store
from numpy.typing import NDArray
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from qdrant_client.http.exceptions import ResponseHandlingException

from qvec import Calibration, connect, connect_async, tracing
from qvec.qdrant._sync.client import Retries


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The spans that this test's provider records."""
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


def test_search_has_a_span_with_its_steps(store: Store, recorded: InMemorySpanExporter) -> None:
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
        "candidates": 15,
    }
    assert attributes(spans["qvec.embed"]) == {"collection": docs.name, "texts": 1}
    if not store.is_postgres:
        assert set(spans) == {"qvec.embed", "qvec.search"}
        return
    assert set(spans) == {"qvec.embed", "qvec.search", "qvec.prefilter", "qvec.rescore", "qvec.texts"}
    assert attributes(spans["qvec.prefilter"]) == {"candidates": 15, "rows": 15}
    assert attributes(spans["qvec.rescore"]) == {"rows": 15}
    assert attributes(spans["qvec.texts"]) == {"rows": 5}
    for step in ("qvec.prefilter", "qvec.rescore", "qvec.texts"):
        assert is_inside(spans[step], search)


def is_inside(step: ReadableSpan, whole: ReadableSpan) -> bool:
    parent, context = step.parent, whole.get_span_context()
    return parent is not None and context is not None and parent.span_id == context.span_id


def take_spans(recorded: InMemorySpanExporter) -> list[tuple[str, dict[str, Any]]]:
    """Return and clear the recorded spans: names and attributes except the common ones, inner spans first."""
    spans = recorded.get_finished_spans()
    recorded.clear()
    common = ("database", "collection")
    return [(span.name, {key: value for key, value in attributes(span).items() if key not in common}) for span in spans]


@pytest.fixture
def docs(store: Store, recorded: InMemorySpanExporter) -> Any:
    """A collection of 300 texts of one to eight letters."""
    collection: Any = store.create(Calibration.fit(np.random.default_rng(0).standard_normal((300, 8), np.float32)))
    collection.embedder = Embedder()
    if store.ranks_texts:
        collection.index_texts()
    collection.add(["a" * (n % 8 + 1) for n in range(300)], [{"n": n} for n in range(300)])
    assert recorded.get_finished_spans()[0].name == "qvec.embed"
    assert take_spans(recorded)[0] == ("qvec.embed", {"texts": 300})
    return collection


def test_exact_and_filtered_searches_have_a_span_for_the_scan(
    store: Store, docs: Any, recorded: InMemorySpanExporter
) -> None:
    scan = [("qvec.scan", {"rows": 300}), ("qvec.texts", {"rows": 2})] if store.is_postgres else []
    vectors = np.eye(8, dtype=np.float32)[:2]
    docs.search(vectors[0], 2, exact=True)
    assert take_spans(recorded) == [*scan, ("qvec.search", {"queries": 1, "k": 2})]
    docs.search(vectors, 2, exact=True, texts=False)
    assert take_spans(recorded) == [*scan[:1], ("qvec.search", {"queries": 2, "k": 2})]
    docs.search(vectors[0], 2, 2, filter={"n": {"$lt": 3}})
    if store.is_postgres:
        assert [name for name, _ in take_spans(recorded)] == [
            "qvec.prefilter",
            "qvec.scan",
            "qvec.texts",
            "qvec.search",
        ]


def test_statement_for_both_steps_has_one_span(store: Store, docs: Any, recorded: InMemorySpanExporter) -> None:
    if not store.is_postgres:
        pytest.skip("Qdrant always does both steps in one request")
    docs.search(np.ones(8), 2, 5, rescore_in="sql")
    both = ("qvec.prefilter_rescore", {"candidates": 10, "rows": 2})
    assert take_spans(recorded) == [both, ("qvec.search", {"queries": 1, "k": 2, "candidates": 10})]
    docs.search(np.ones(8), 2, exact=True, rescore_in="sql")
    assert take_spans(recorded) == [("qvec.scan", {"rows": 2}), ("qvec.search", {"queries": 1, "k": 2})]


@pytest.mark.usefixtures("ranks_texts")
def test_word_searches_and_rerankers_have_spans(docs: Any, recorded: InMemorySpanExporter) -> None:
    docs.search_text("aaa", 4)
    assert take_spans(recorded) == [("qvec.search_text", {"k": 4, "rows": 4})]
    docs.search_hybrid("aaa", 2, fetch_k=3, reranker=lambda _, texts: [len(text) for text in texts])
    found = dict(take_spans(recorded))
    assert found["qvec.search"]["k"] == found["qvec.search_text"]["k"] == 3
    assert found["qvec.texts"] == {"rows": 3}
    assert found["qvec.rerank"] == {"texts": 3}


@pytest.mark.usefixtures("ranks_texts")
def test_async_searches_have_the_same_spans(docs: Any, store: Store, recorded: InMemorySpanExporter) -> None:
    def search(of: Any) -> list[Any]:
        options = {"reranker": lambda _, texts: [len(text) for text in texts]}
        return [
            of.add(["aaa"]),
            of.search("aaa", 3),
            of.search("aaa", 3, exact=True),
            of.search_hybrid("aa", **options),
        ]

    async def search_async() -> None:
        async with await connect_async(store.url) as database:
            other: Any = await database.collection(docs.name)
            other.embedder = Embedder()
            await other.search_text("aaa", 1)  # the first search reads the language
            recorded.clear()
            for awaited in search(other):
                await awaited

    docs.search_text("aaa", 1)
    recorded.clear()
    search(docs)
    expected = take_spans(recorded)
    asyncio.run(search_async())
    assert [name for name, _ in take_spans(recorded)] == [name for name, _ in expected]


@pytest.mark.usefixtures("ranks_texts")
def test_every_span_is_documented(docs: Any, store: Store, recorded: InMemorySpanExporter) -> None:
    table = re.findall(r"^\| `qvec\.(\w+)` \|[^|]*\| (.*) \|$", tracing.__doc__ or "", re.MULTILINE)
    described = {f"qvec.{name}": set(re.findall(r"`(\w+)`", given)) for name, given in table}
    docs.search("aaa", 2)
    docs.search("aaa", 2, exact=True)
    docs.search_hybrid("aaa", reranker=lambda _, texts: [len(text) for text in texts])
    if store.is_postgres:
        docs.search("aaa", 2, rescore_in="sql")
    spans = recorded.get_finished_spans()
    assert all(attributes(span).keys() <= described[span.name] for span in spans)
    assert {span.name for span in spans} == described.keys() or not store.is_postgres


def test_opentelemetry_is_not_imported_by_qvec() -> None:
    program = "import sys; from qvec.tracing import span\nwith span('search', k=1) as s: s.set_attribute('a', 1)\n"
    program += "assert 'opentelemetry' not in sys.modules"
    subprocess.run([sys.executable, "-I", "-c", program], check=True)


def test_another_package_named_opentelemetry_is_ignored() -> None:
    program = "import sys, types; sys.modules['opentelemetry'] = types.ModuleType('opentelemetry')\n"
    program += "from qvec.tracing import span\nwith span('search', k=1) as s: s.set_attribute('a', 1)"
    subprocess.run([sys.executable, "-I", "-c", program], check=True)


def test_qvec_adds_no_log_handlers() -> None:
    program = "import logging, qvec; qvec.connect\n"
    program += (
        "loggers = [logging.getLogger(n) for n in logging.root.manager.loggerDict if n.split('.')[0] == 'qvec']\n"
    )
    program += "assert not any(logger.handlers for logger in [logging.root, *loggers])"
    subprocess.run([sys.executable, "-I", "-c", program], check=True)


def test_lost_connection_is_logged(
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


def test_retried_request_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([ResponseHandlingException(ConnectionError("refused")), 7])

    def request() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert Retries(5)(request) == 7
    assert [record.name for record in caplog.records] == ["qvec.qdrant"]
    assert caplog.records[0].getMessage().startswith("a request to Qdrant failed and is sent again: ")
