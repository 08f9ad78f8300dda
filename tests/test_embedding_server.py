"""Embedding through a server: requests, order of answers, retries, and every kind of failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from embedding_server import EmbeddingServer, Exchange, Fault, encoded, serving
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qvec.embedding import EmbeddingOptions, load_embedder
from qvec.embedding.sentence_transformer import padded_batches
from qvec.embedding.server_connection import RetryPolicy, ServerConnection, retry_after
from qvec.embedding.server_embedder import ServerEmbedder, WrongAnswerError, consecutive_batches, read_answer
from qvec.errors import EmbeddingError, InputError, RowError

DIMENSIONS = 8
QUICK = RetryPolicy(
    answer_timeout=60, connect_timeout=10, attempts=4, first_pause=0.01, max_pause=0.02, max_retry_after=2
)
"""Short pauses between attempts, but long timeouts, because machines that run tests are busy."""
IMPATIENT = replace(QUICK, answer_timeout=1)
TEXTS = [f"text {row}" for row in range(100)]


def vectors_of(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return unit vectors that depend only on the text."""
    seeds = [np.frombuffer(text.encode().ljust(4, b"\0"), np.uint8) for text in texts]
    made = np.array([np.random.default_rng(seed).normal(size=DIMENSIONS) for seed in seeds], np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with serving(EmbeddingServer(vectors_of)) as server:
        yield server


def embedder(server: EmbeddingServer, policy: RetryPolicy = QUICK, **options: Any) -> ServerEmbedder:
    return ServerEmbedder(EmbeddingOptions(server.url, **options), policy)


def faulty(server: EmbeddingServer, fault: Fault, policy: RetryPolicy = QUICK) -> ServerEmbedder:
    """Return a loaded embedder; its server has this fault from now on."""
    loaded = embedder(server, policy)
    server.exchanges.clear()
    server.fault = fault
    return loaded


def sizes(server: EmbeddingServer) -> list[int]:
    """Return the number of texts of each request, sorted: several are sent at once."""
    return sorted(len(exchange.texts) for exchange in server.exchanges)


def for_first_requests(times: int, fault: Fault) -> Fault:
    """Return the fault for the first requests only."""
    return lambda exchange: fault(exchange) if exchange.number < times else None


def test_texts_are_embedded_in_order_by_parallel_requests(server: EmbeddingServer) -> None:
    model = faulty(server, lambda _: time.sleep(0.1))
    done: list[int] = []
    np.testing.assert_array_equal(model.embed_documents(TEXTS, done.append), vectors_of(TEXTS))
    assert sizes(server) == [4, 32, 32, 32]
    assert done == [32, 64, 96, 100]
    assert 1 < server.max_concurrent <= 4
    assert {exchange.request["model"] for exchange in server.exchanges} == {"test-model"}
    assert model.embed_documents([]).shape == (0, DIMENSIONS)


def test_float_encoding_is_requested_if_base64_is_unsupported(server: EmbeddingServer) -> None:
    model = embedder(server)
    in_base64 = model.embed_documents(TEXTS)
    server.encodings = ("float",)
    np.testing.assert_array_equal(model.embed_documents(TEXTS), in_base64)
    server.exchanges.clear()
    model.embed_documents(TEXTS)
    assert {exchange.request["encoding_format"] for exchange in server.exchanges} == {"float"}


def test_numbers_are_accepted_in_place_of_base64(server: EmbeddingServer) -> None:
    def answer_with_numbers(exchange: Exchange) -> None:
        for item, vector in zip(exchange.answer["data"], vectors_of(exchange.texts), strict=True):
            item["embedding"] = vector.tolist()

    model = faulty(server, answer_with_numbers)
    np.testing.assert_array_equal(model.embed_documents(TEXTS), vectors_of(TEXTS))


def test_embeddings_are_ordered_by_their_index(server: EmbeddingServer) -> None:
    model = faulty(server, lambda exchange: exchange.answer["data"].reverse())
    np.testing.assert_array_equal(model.embed_documents(TEXTS), vectors_of(TEXTS))


# Retries


def refusal(status: int, **headers: str) -> Fault:
    return lambda exchange: exchange.refuse(status, "busy", **headers)


def close_connection(exchange: Exchange) -> None:
    exchange.closes_connection = True


@pytest.mark.parametrize(
    "fault",
    [refusal(429), refusal(429, Retry_After="0.05"), refusal(500), refusal(503), close_connection],
    ids=["429", "429 with Retry-After", "500", "503", "dropped"],
)
def test_temporary_failures_are_retried(server: EmbeddingServer, fault: Fault) -> None:
    model = faulty(server, for_first_requests(2, fault))
    np.testing.assert_array_equal(model.embed_documents(TEXTS[:5]), vectors_of(TEXTS[:5]))
    assert len(server.exchanges) == 3


@pytest.mark.slow
def test_timeouts_are_retried(server: EmbeddingServer) -> None:
    model = faulty(server, for_first_requests(2, lambda _: time.sleep(1.5)), IMPATIENT)
    np.testing.assert_array_equal(model.embed_documents(TEXTS[:5]), vectors_of(TEXTS[:5]))
    assert len(server.exchanges) >= 3


class Pauses(threading.Event):
    """Records the pauses between attempts, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        return False


def test_retry_after_is_respected(server: EmbeddingServer) -> None:
    server.fault = for_first_requests(1, refusal(429, Retry_After="1"))
    pauses = Pauses()
    ServerConnection(server.url, QUICK).post("embeddings", {"input": ["text"], "encoding_format": "float"}, pauses)
    assert pauses.seconds == [1]


@pytest.mark.parametrize("header", ["0", "0.01", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_pauses_are_never_shorter_than_policy(server: EmbeddingServer, header: str) -> None:
    server.fault = refusal(429, Retry_After=header)
    pauses, policy = Pauses(), RetryPolicy(attempts=5, first_pause=0.2, max_pause=0.8)
    with pytest.raises(EmbeddingError, match="status 429: busy"):
        ServerConnection(server.url, policy).post("embeddings", {"input": ["text"], "encoding_format": "float"}, pauses)
    assert (np.array(pauses.seconds) >= [0.1, 0.2, 0.4, 0.4]).all()  # at least half of each pause
    assert (np.array(pauses.seconds) <= [0.2, 0.4, 0.8, 0.8]).all()


def test_long_retry_after_raises(server: EmbeddingServer) -> None:
    model = faulty(server, refusal(429, Retry_After="3600"))
    with pytest.raises(EmbeddingError, match=r"asks to come back in 3,600 s \(status 429\)"):
        model.embed_documents(["text"])
    assert len(server.exchanges) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("7", 7),
        ("0.5", 0.5),
        ("-3", 0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40),
        ("Thu, 01 Jan 1970 00:00:40 GMT", 0),
    ],
)
def test_retry_after_header_parsing(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, 60.0) == seconds


def test_permanent_failure_shows_message_of_server(server: EmbeddingServer) -> None:
    model = faulty(server, lambda exchange: exchange.refuse(500, "out of\nmemory\x1b[2J"))
    with pytest.raises(
        EmbeddingError, match=rf"^embedding server {server.url} answers with status 500: out of memory\["
    ):
        model.embed_documents(["text"])
    assert len(server.exchanges) == QUICK.attempts


@pytest.mark.slow
def test_permanent_timeout_raises(server: EmbeddingServer) -> None:
    model = faulty(server, lambda _: time.sleep(1.5), IMPATIENT)
    with pytest.raises(EmbeddingError, match=r"does not answer, 4 times: timed out"):
        model.embed_documents(["text"])


def test_failed_request_cancels_queued_requests(server: EmbeddingServer) -> None:
    model = faulty(server, lambda exchange: exchange.refuse(404, "gone"))
    with pytest.raises(EmbeddingError, match="status 404: gone"):
        model.embed_documents(TEXTS * 20)
    assert len(server.exchanges) < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("qvec-embedding")]


def test_unreachable_server_fails_without_retries() -> None:
    began = time.monotonic()
    with pytest.raises(EmbeddingError, match=r"^embedding server http://127\.0\.0\.1:9/v1 does not answer: "):
        load_embedder("http://127.0.0.1:9/v1")
    assert time.monotonic() - began < 10  # eight attempts would take longer


# Refusals


def test_batches_shrink_if_server_refuses_their_size(server: EmbeddingServer) -> None:
    def refuse_above_ten(exchange: Exchange) -> None:
        if len(exchange.texts) > 10:
            exchange.refuse(400, "batch size is invalid, it should not be larger than 10")

    model = faulty(server, refuse_above_ten)
    np.testing.assert_array_equal(model.embed_documents(TEXTS), vectors_of(TEXTS))
    server.exchanges.clear()
    np.testing.assert_array_equal(model.embed_documents(TEXTS), vectors_of(TEXTS))
    assert {exchange.status for exchange in server.exchanges} == {200}


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "This model's maximum context length is 512 tokens"),
        (413, "Payload too large"),
        (500, "input (992 tokens) is too large to process. increase the physical batch size"),
    ],
)
def test_too_long_text_error_names_row(server: EmbeddingServer, status: int, message: str) -> None:
    def refuse_long(exchange: Exchange) -> None:
        if max(map(len, exchange.texts)) > 50:
            exchange.refuse(status, message)

    model = faulty(server, refuse_long)
    texts = [*TEXTS[:40], "long " * 20, *TEXTS[40:]]
    with pytest.raises(
        RowError, match=r"row 40: the embedding server refuses this text of 100 characters: .*"
    ) as caught:
        model.embed_documents(texts)
    assert (caught.value.row, message in str(caught.value)) == (40, True)
    server.exchanges.clear()
    model.embed_documents(TEXTS)
    assert sizes(server) == [4, 32, 32, 32]  # the error was about one text, so batches keep their size


def test_requests_are_limited_by_characters(server: EmbeddingServer) -> None:
    model = faulty(server, lambda _: None)
    model.embed_documents(["x" * 30_000] * 5)
    assert sizes(server) == [1, 2, 2]


def test_refused_first_request_names_no_row(server: EmbeddingServer) -> None:
    server.fault = lambda exchange: exchange.refuse(400, "no such model")
    with pytest.raises(EmbeddingError, match="refuses a request: no such model"):
        embedder(server)


# Wrong answers


def change_second_item(key: str, value: Any) -> Fault:
    return lambda exchange: exchange.answer["data"][1].update({key: value})


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda exchange: exchange.answer["data"].pop(), "has 4 embeddings for 5 texts"),
        (change_second_item("index", 3), "has embeddings whose index is 0, 3, 2, 3, 4, expected each of 0 to 4"),
        (change_second_item("index", None), "has embeddings whose index is 0, None, 2, 3, 4, expected each of 0 to 4"),
        (change_second_item("embedding", [0.0] * 7), "has an embedding of 7 dimensions, expected 8"),
        (change_second_item("embedding", "AAA="), "neither a list of numbers nor base64 of float32"),
        (change_second_item("embedding", "not base64"), "neither a list of numbers nor base64 of float32"),
        (change_second_item("embedding", {}), "neither a list of numbers nor base64 of float32"),
        (
            change_second_item("embedding", [[0.0] * 8] * 3),
            r"of shape \(3, 8\), expected one vector a text; .* --pooling mean",
        ),
        (change_second_item("embedding", []), "of shape"),
        (lambda exchange: exchange.answer.update(data=None), "has no list of embeddings"),
        (lambda exchange: setattr(exchange, "answer", []), "has no list of embeddings"),
    ],
)
def test_malformed_answers_raise(server: EmbeddingServer, fault: Fault, message: str) -> None:
    model = faulty(server, fault)
    with pytest.raises(EmbeddingError, match=f"^the answer of embedding server {server.url} .*{message}"):
        model.embed_documents(TEXTS[:5])
    assert len(server.exchanges) == 1


def test_answer_that_is_not_json_raises(server: EmbeddingServer) -> None:
    model = faulty(server, lambda exchange: setattr(exchange, "answer", b"<html>"))
    with pytest.raises(EmbeddingError, match="answers with something that is not JSON"):
        model.embed_documents(["text"])


@pytest.mark.parametrize("encoding", ["base64", "float"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_embedding_error_names_row(server: EmbeddingServer, encoding: str, value: float) -> None:
    def make_non_finite(exchange: Exchange) -> None:
        if "text 70" in exchange.texts:
            vector = np.full(DIMENSIONS, 0.5, np.float32)
            vector[3] = value
            exchange.answer["data"][exchange.texts.index("text 70")]["embedding"] = encoded(vector, encoding)

    model = faulty(server, make_non_finite)
    with pytest.raises(RowError, match=rf"row 70: the server's embedding has {value} at dimension 3"):
        model.embed_documents(TEXTS)


@given(order=st.permutations(range(6)), encoding=st.sampled_from(["base64", "float"]))
def test_embeddings_in_any_order_are_sorted_by_index(order: list[int], encoding: str) -> None:
    vectors = vectors_of(TEXTS[:6])
    data = [{"index": row, "embedding": encoded(vectors[row], encoding)} for row in order]
    np.testing.assert_array_equal(read_answer({"data": data}, 6, DIMENSIONS, normalized=True), vectors)


def test_model_with_card_must_return_unit_vectors() -> None:
    data = [{"index": 0, "embedding": [0.6, 0.6]}]
    with pytest.raises(WrongAnswerError, match=r"of length 0\.849, expected 1 of this model"):
        read_answer({"data": data}, 1, None, normalized=True)


# Batches


@given(
    lengths=st.lists(st.integers(0, 300), max_size=60),
    most_rows=st.integers(1, 20),
    most_tokens=st.integers(1, 1000),
)
def test_padded_batches_hold_every_row_once_within_limits(lengths: list[int], most_rows: int, most_tokens: int) -> None:
    batches = list(padded_batches(np.array(lengths, np.int64), most_rows, most_tokens))
    assert sorted(int(row) for rows in batches for row in rows) == list(range(len(lengths)))
    for rows in batches:
        longest = max(lengths[row] for row in rows)
        assert len(rows) <= most_rows
        assert len(rows) == 1 or len(rows) * longest <= most_tokens
    longest_first = [lengths[row] for rows in batches for row in rows]
    assert longest_first == sorted(lengths, reverse=True)


@given(lengths=st.lists(st.integers(0, 50), max_size=60), most_rows=st.integers(1, 20), most=st.integers(1, 100))
def test_consecutive_batches_hold_every_row_in_order_within_limits(
    lengths: list[int], most_rows: int, most: int
) -> None:
    texts = ["x" * length for length in lengths]
    batches = list(consecutive_batches(texts, most_rows, most))
    assert [row for start, end in batches for row in range(start, end)] == list(range(len(texts)))
    for start, end in batches:
        assert end - start <= most_rows
        assert end - start == 1 or sum(lengths[start:end]) <= most


# Names and keys


def test_only_model_of_server_is_used(server: EmbeddingServer) -> None:
    model = embedder(server)
    assert model.options == EmbeddingOptions(server.url, "test-model")
    assert model.name == f"test-model on {server.url}"
    assert load_embedder(model.options).options == model.options


def test_model_name_is_required_if_server_has_several(server: EmbeddingServer) -> None:
    server.models = ("small", "large")
    with pytest.raises(InputError, match=r"has several models \(small, large\); name one: --model-name NAME"):
        embedder(server)
    assert embedder(server, model_name="large").options.model_name == "large"


def test_requests_omit_model_if_server_lists_none(server: EmbeddingServer) -> None:
    server.models = None
    embedder(server).embed_documents(["text"])
    assert all("model" not in exchange.request for exchange in server.exchanges)


def test_api_key_is_sent_but_never_shown(server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-server")
    model = embedder(server)
    assert "Authorization" not in server.exchanges[0].headers
    server.fault = lambda exchange: exchange.refuse(401, "wrong key sk-secret")
    with pytest.raises(EmbeddingError, match=r"needs an API key \(status 401\); put it into QVEC_EMBEDDING_API_KEY$"):
        model.embed_documents(["text"])
    server.fault = lambda _: None
    monkeypatch.setenv("QVEC_EMBEDDING_API_KEY", "sk-secret\n")
    model = faulty(server, lambda exchange: exchange.refuse(401, "wrong key sk-secret"))
    with pytest.raises(EmbeddingError, match=r"refuses the API key \(status 401\)") as caught:
        model.embed_documents(["text"])
    assert server.exchanges[0].headers["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in str(caught.value)
    monkeypatch.setenv("QVEC_EMBEDDING_API_KEY", "sk-\nsecret")
    with pytest.raises(InputError, match=r"^QVEC_EMBEDDING_API_KEY holds characters that an API key cannot have$"):
        embedder(server)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("status", [400, 404, 413, 422, 429, 500, 503])
@pytest.mark.parametrize("before", ["your key is ", "x" * 190 + " "], ids=["at the start", "at the truncation"])
def test_api_key_is_redacted_in_server_errors(
    server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch, status: int, before: str
) -> None:
    monkeypatch.setenv("QVEC_EMBEDDING_API_KEY", "sk-secret-123")
    model = faulty(server, lambda exchange: exchange.refuse(status, f"{before}sk-secret-123, bearer another's"))
    with pytest.raises((EmbeddingError, RowError), match=rf"{before}\[redac") as caught:
        model.embed_documents(["text"])
    assert "sk-secret" not in str(caught.value)
    assert "another" not in str(caught.value)


def test_api_key_is_redacted_in_other_messages(server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QVEC_EMBEDDING_API_KEY", "sk-secret-123")
    model = faulty(server, lambda exchange: exchange.answer["data"][0].update(index="Bearer sk-secret-123"))
    with pytest.raises(EmbeddingError, match=r"whose index is Bearer \[redacted\], expected each of 0 to 0"):
        model.embed_documents(["text"])
    server.models = ("small", "sk-secret-123")
    with pytest.raises(InputError, match=r"has several models \(small, \[redacted\]\)"):
        embedder(server)


def test_redirects_are_not_followed(server: EmbeddingServer) -> None:
    model = faulty(server, lambda exchange: exchange.refuse(307, "", Location="http://127.0.0.1:9/v1/embeddings"))
    with pytest.raises(EmbeddingError, match="status 307: it has moved; give the address that it redirects to"):
        model.embed_documents(["text"])


# The real model


def test_server_gives_same_vectors_as_local_model(minilm: Any) -> None:
    texts = ["A cat sleeps on the windowsill.", "", "Postgres keeps its pages in shared buffers.", "x = 1\n" * 300]
    with serving(EmbeddingServer(minilm.embed_documents)) as server:
        served = ServerEmbedder(EmbeddingOptions(server.url, query_prefix="question: "))
        assert served.dimensions == 384
        np.testing.assert_allclose(served.embed_documents(texts), minilm.embed_documents(texts), atol=1e-6)
        query_vector = served.embed_queries(["why"])
        np.testing.assert_allclose(query_vector, minilm.embed_documents(["question: why"]), atol=1e-6)
