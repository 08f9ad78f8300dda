"""`qvec ingest --model http://…` on both databases; searches use the stored embedding options."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import invoke, succeed
from embedding_server import EmbeddingServer, Exchange, serving
from ingest_helpers import start_command, write_lines
from numpy.typing import NDArray

import qvec
from qvec.embedding import server_connection
from qvec.embedding.server_connection import RetryPolicy

JINA = "jinaai/jina-embeddings-v4-text-retrieval-GGUF"
SUBJECTS = ["cats", "ships", "bread", "glaciers", "violins", "taxes"]
ROWS = [
    {"id": f"{ids_of_subject} {number}", "text": f"Sentence {number} tells something about {ids_of_subject}."}
    for ids_of_subject in SUBJECTS
    for number in range(5)
]


@pytest.fixture(autouse=True)
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry failed requests to the server almost at once."""
    policy = RetryPolicy(answer_timeout=60, attempts=2, first_pause=0.01)
    monkeypatch.setattr(server_connection, "RetryPolicy", lambda: policy)


@pytest.fixture(params=["postgres", "qdrant"])
def db_url(request: pytest.FixtureRequest, new_database: Callable[[], str], tmp_path: Path) -> str:
    """An empty database of each kind."""
    return new_database() if request.param == "postgres" else f"qdrant:{tmp_path / 'vectors'}"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "corpus.jsonl", list(ROWS))


def embed_by_words(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return unit vectors of 256 dimensions; texts with the same words are near each other."""
    vectors = np.full((len(texts), 256), 0.01, np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().replace(".", "").split():
            vectors[row] += np.random.default_rng(list(word.encode())).normal(size=256)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with serving(EmbeddingServer(embed_by_words)) as server:
        yield server


def ingest(db_url: str, source: Path, *options: Any) -> dict[str, Any]:
    result = succeed("ingest", source, "--db", db_url, "-c", "docs", "--json", "--quiet", *options)
    summary: dict[str, Any] = json.loads(result.stdout)
    return summary


def found_ids(db_url: str, question: str, *options: Any) -> list[str]:
    result = succeed("search", question, "--db", db_url, "-c", "docs", "-k", 5, "--json", *options)
    return [hit["id"] for hit in json.loads(result.stdout)["hits"]]


def stored_embedding(db_url: str) -> dict[str, str] | None:
    embedding: dict[str, str] | None = json.loads(succeed("info", "docs", "--db", db_url, "--json").stdout)["embedding"]
    return embedding


def ids_of_subject(name: str) -> set[str]:
    return {f"{name} {number}" for number in range(5)}


def test_ingest_and_search_with_model_on_server(db_url: str, source: Path, minilm: Any) -> None:
    with serving(EmbeddingServer(minilm.embed_documents, ["all-MiniLM-L6-v2"])) as server:
        prefixes = ("--query-prefix", "question: ", "--document-prefix", "passage: ")
        assert ingest(db_url, source, "--model", server.url, *prefixes)["rows"] == len(ROWS)
        assert sorted(server.texts[1:]) == sorted(f"passage: {row['text']}" for row in ROWS)
        assert set(found_ids(db_url, "a loaf from the bakery")) == ids_of_subject("bread")
        assert server.texts[-1] == "question: a loaf from the bakery"
        assert stored_embedding(db_url) == {
            "model": server.url,
            "model_name": "all-MiniLM-L6-v2",
            "query_prefix": "question: ",
            "document_prefix": "passage: ",
        }


def test_jina_embeddings_v4_uses_prefixes_of_model_card(db_url: str, source: Path, server: EmbeddingServer) -> None:
    server.models = [JINA]
    refused = invoke("ingest", source, "--db", db_url, "-c", "docs", "--model", server.url, "--dimensions", 300)
    assert refused.exit_code == 1
    assert "--dimensions is 300, but jina-embeddings-v4 is trained for 128, 256, 512, 1024, 2048" in refused.output
    server.exchanges.clear()
    ingest(db_url, source, "--model", server.url, "--dimensions", 128)
    assert {text.split(":")[0] for text in server.texts[1:]} == {"Passage"}
    assert set(found_ids(db_url, "Sentence about ships.")) == ids_of_subject("ships")
    assert server.texts[-1] == "Query: Sentence about ships."
    assert stored_embedding(db_url) == {
        "model": server.url,
        "model_name": JINA,
        "task": "retrieval",
        "query_prefix": "Query: ",
        "document_prefix": "Passage: ",
    }


def test_model_card_applies_to_precomputed_vectors(db_url: str, tmp_path: Path, server: EmbeddingServer) -> None:
    np.save(tmp_path / "a.npy", embed_by_words([f"Passage: {row['text']}" for row in ROWS]))
    ingest(db_url, tmp_path / "a.npy", "--model", server.url, "--model-name", JINA)
    assert not server.exchanges
    assert set(found_ids(db_url, "Sentence about ships.")) == set(range(5, 10))
    assert server.texts[-1] == "Query: Sentence about ships."


def test_server_url_may_change_but_not_model(db_url: str, source: Path, server: EmbeddingServer) -> None:
    ingest(db_url, source, "--model", server.url, "--document-prefix", "d: ", "--query-prefix", "q: ")
    more = write_lines(source.with_name("more.jsonl"), [{"id": "kites 0", "text": "One about kites."}])
    result = invoke("ingest", more, "--db", db_url, "-c", "docs", "--document-prefix", "")
    assert "collection 'docs' has document_prefix 'd: ', not ''" in result.output
    result = invoke("ingest", more, "--db", db_url, "-c", "docs", "--model", server.url, "--model-name", "other")
    assert "collection 'docs' has model_name test-model, not other" in result.output
    with serving(EmbeddingServer(embed_by_words)) as moved:
        ingest(db_url, more, "--model", moved.url)
        assert moved.texts[-1] == "d: One about kites."
        assert found_ids(db_url, "kites", "--model", moved.url)[0] == "kites 0"
        assert moved.texts[-1] == "q: kites"
    assert found_ids(db_url, "kites", "--query-prefix", "")[0] == "kites 0"
    assert server.texts[-1] == "kites"


def test_copy_keeps_embedding_options(db_url: str, source: Path, server: EmbeddingServer) -> None:
    ingest(db_url, source, "--model", server.url, "--query-prefix", "q: ")
    other = f"qdrant:{source.parent / 'copy'}"
    succeed("copy", "--from", db_url, "--to", other, "-c", "docs", "--quiet")
    assert stored_embedding(other) == stored_embedding(db_url) is not None
    assert set(found_ids(other, "taxes")) == ids_of_subject("taxes")
    assert server.texts[-1] == "q: taxes"


def test_set_oversampling_keeps_embedding_options(db_url: str, source: Path, server: EmbeddingServer) -> None:
    ingest(db_url, source, "--model", server.url, "--query-prefix", "q: ")
    with qvec.connect(db_url) as database:
        before = database.collection("docs").embedding
        database.collection("docs").set_oversampling(7)
        assert database.collection("docs").embedding == before is not None


def test_text_refused_by_server_is_a_bad_row(db_url: str, source: Path, server: EmbeddingServer) -> None:
    def refuse_long(exchange: Exchange) -> None:
        if max(map(len, exchange.texts)) > 200:
            exchange.refuse(400, "input is too long")

    server.fault = refuse_long
    write_lines(source, [*ROWS[:7], {"id": "long", "text": "word " * 100}, *ROWS[7:]])
    result = invoke("ingest", source, "--db", db_url, "-c", "docs", "--model", server.url)
    assert result.exit_code == 1
    assert "corpus.jsonl, line 8: the embedding server refuses this text of 500 characters" in result.output
    rejects = source.with_name("rejected.jsonl")
    summary = ingest(db_url, source, "--model", server.url, "--on-error", "skip", "--rejects", rejects)
    assert (summary["rows"], summary["rejected"]) == (len(ROWS), 1)
    assert "input is too long" in rejects.read_text()


@pytest.mark.slow
def test_load_resumes_after_server_failure(db_url: str, source: Path, server: EmbeddingServer) -> None:
    many = [{"id": row, "text": f"text about number {row}"} for row in range(2_600)]
    write_lines(source, many)
    server.fault = lambda exchange: exchange.refuse(500, "out of memory") if exchange.number > 70 else None
    result = invoke("ingest", source, "--db", db_url, "-c", "docs", "--model", server.url)
    assert (result.exit_code, "answers with status 500: out of memory" in result.output) == (1, True)
    server.fault = lambda _: None
    embedded_before = len(server.texts)
    summary = ingest(db_url, source)
    assert summary["total_rows"] == 2_600
    assert summary["resumed_at"] > 0
    assert len(server.texts) - embedded_before < 2_600
    assert found_ids(db_url, "text about number 2599")[0] == 2599


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sampling", "loading", "loading, twice"])
def test_ctrl_c_does_not_wait_for_requests(tmp_path: Path, server: EmbeddingServer, stage: str) -> None:
    """The command ends although the server takes a minute to answer."""
    source = write_lines(tmp_path / "many.jsonl", [{"id": row, "text": f"text {row}"} for row in range(600)])
    requested, answered = threading.Event(), threading.Event()

    def slow(exchange: Exchange) -> None:
        if exchange.number > 5:
            requested.set()
            answered.wait(60)

    server.fault = slow
    options: list[str | Path] = []
    if stage != "sampling":
        qvec.Calibration.fit(embed_by_words(["a few", "other words"])).save(tmp_path / "cal.safetensors")
        options = ["--calibration", tmp_path / "cal.safetensors"]
    process = start_command(
        "ingest", source, "--db", f"qdrant:{tmp_path / 'q'}", "-c", "docs", "--model", server.url, *options
    )
    try:
        assert requested.wait(60)
        process.send_signal(signal.SIGINT)
        if stage == "loading, twice":
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
        answered.set()
    assert process.returncode == 130, err
    assert "run the same command again" in err
    assert "Traceback" not in err


def test_url_with_password_is_neither_stored_nor_shown(db_url: str, source: Path) -> None:
    for command in (["ingest", source], ["search", "cats"]):
        result = invoke(*command, "--db", db_url, "-c", "docs", "--model", "http://me:secret@127.0.0.1:9/v1")
        assert result.exit_code == 1
        assert "put the API key into QVEC_EMBEDDING_API_KEY" in result.output
        assert "secret" not in result.output


def test_calibrate_with_model_on_server(tmp_path: Path, source: Path, server: EmbeddingServer) -> None:
    file = tmp_path / "cal.safetensors"
    succeed("calibrate", source, "-o", file, "--model", server.url, "--document-prefix", "d: ")
    assert all(text.startswith("d: ") for text in server.texts[1:])
    assert qvec.Calibration.load(file).model == server.url
