"""Embedding options: URLs of servers, API keys, model cards, and what a collection stores."""

from __future__ import annotations

from typing import Any

import pytest

from qvec.embedding import EmbeddingOptions, check_cut, lasting_name
from qvec.embedding.embedding_options import embedding_to_store
from qvec.embedding.model_cards import complete_options
from qvec.embedding.server_connection import api_key
from qvec.errors import CollectionError, InputError

URL = "http://host:8080/v1"
JINA = "jinaai/jina-embeddings-v4-text-{}-GGUF:Q4_K_M"


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@host/v1",
        "http://secret@host/v1",
        "https://host/v1?api-key=secret",
        "https://host/v1#secret",
        "HTTPS://user:secret@host/v1",
    ],
)
@pytest.mark.parametrize("create", [lasting_name, EmbeddingOptions])
def test_url_with_secret_raises_without_showing_it(url: str, create: Any) -> None:
    with pytest.raises(InputError, match="put the API key into QVEC_EMBEDDING_API_KEY") as caught:
        create(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://", "http://host", "http://host/", "http://host:port/v1", "https://[::1/v1"])
def test_invalid_url_raises(url: str) -> None:
    with pytest.raises(InputError, match=r"is not the address of an embedding server; expected http://HOST:PORT/v1 or"):
        EmbeddingOptions(url)


def test_trailing_slash_of_url_is_dropped() -> None:
    assert lasting_name(URL + "/") == URL


def test_api_key_depends_on_server() -> None:
    openai = "https://api.openai.com/v1"
    assert api_key(openai, {"OPENAI_API_KEY": "a"}) == "a"
    assert api_key(openai, {"OPENAI_API_KEY": "a", "QVEC_EMBEDDING_API_KEY": "b"}) == "b"
    assert api_key(URL, {"QVEC_EMBEDDING_API_KEY": "b"}) == "b"
    assert api_key(URL, {"QVEC_EMBEDDING_API_KEY": ""}) is None
    for other in (URL, "http://api.openai.com/v1", "https://api.openai.com.evil.example/v1"):
        assert api_key(other, {"OPENAI_API_KEY": "a"}) is None


@pytest.mark.parametrize(("option", "value"), [("model_name", "m"), ("task", "code")])
def test_server_options_require_server(option: str, value: str) -> None:
    with pytest.raises(InputError, match=rf"--{option.replace('_', '-')} {value} is for models on a server"):
        EmbeddingOptions("all-MiniLM-L6-v2", **{option: value})


@pytest.mark.parametrize(
    ("name", "task", "query", "document"),
    [
        ("retrieval", "retrieval", "Query: ", "Passage: "),
        ("matching", "text-matching", "Query: ", "Query: "),
        ("code", "code", "Query: ", "Passage: "),
    ],
)
def test_jina_embeddings_v4_model_card(name: str, task: str, query: str, document: str) -> None:
    """https://huggingface.co/jinaai/jina-embeddings-v4-text-retrieval-GGUF, the table of inputs."""
    wanted = EmbeddingOptions(URL, JINA.format(name), task, query, document)
    assert complete_options(EmbeddingOptions(URL, JINA.format(name))) == wanted
    assert complete_options(wanted) == wanted
    file_name = f"/models/jina-embeddings-v4-text-{name}-F16.gguf"
    assert complete_options(EmbeddingOptions(URL, file_name)).task == task
    by_task = complete_options(EmbeddingOptions(URL, "jina-embeddings-v4", task))
    assert (by_task.query_prefix, by_task.document_prefix) == (query, document)


def test_given_prefix_overrides_model_card() -> None:
    given = EmbeddingOptions(URL, JINA.format("retrieval"), query_prefix="")
    assert (complete_options(given).query_prefix, complete_options(given).document_prefix) == ("", "Passage: ")
    bare = EmbeddingOptions(URL, "jina-embeddings-v4", query_prefix="", document_prefix="")
    assert complete_options(bare) == bare


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("jina-embeddings-v4", None, r"does not tell its task; add --task retrieval\|text-matching\|code"),
        (JINA.format("code"), "retrieval", "--task is retrieval, but model .* is for code"),
        (
            "jina-embeddings-v4",
            "clustering",
            "has no task 'clustering'; expected one of: retrieval, text-matching, code",
        ),
        ("nomic-embed-text", "code", "--task code is for jina-embeddings-v4; give the prefixes of model"),
        (None, "code", "--task code is for jina-embeddings-v4"),
    ],
)
def test_invalid_task_raises(name: str | None, task: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        complete_options(EmbeddingOptions(URL, name, task))


def test_dimensions_must_be_on_model_card() -> None:
    jina = EmbeddingOptions(URL, JINA.format("retrieval"))
    for dimensions in (None, 128, 256, 512, 1024, 2048):
        check_cut(jina, dimensions)
    with pytest.raises(InputError, match=r"--dimensions is 300, but .* is trained for 128, 256, 512, 1024, 2048"):
        check_cut(jina, 300)
    check_cut(EmbeddingOptions(URL, "other"), 300)


STORED = EmbeddingOptions(URL, "m", query_prefix="q: ", document_prefix="d: ")


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        (EmbeddingOptions(), STORED),
        (EmbeddingOptions("http://elsewhere/v1"), EmbeddingOptions("http://elsewhere/v1", "m", None, "q: ", "d: ")),
        (EmbeddingOptions(query_prefix=""), EmbeddingOptions(URL, "m", None, "", "d: ")),
        (EmbeddingOptions("all-MiniLM-L6-v2"), EmbeddingOptions("all-MiniLM-L6-v2")),
    ],
)
def test_requested_options_override_stored_ones(requested: EmbeddingOptions, expected: EmbeddingOptions) -> None:
    assert requested.over(STORED) == expected


@pytest.mark.parametrize(
    ("requested", "difference"),
    [
        (EmbeddingOptions(), None),
        (STORED, None),
        (EmbeddingOptions("http://elsewhere/v1", "m"), None),
        (EmbeddingOptions(URL, "n"), ("model_name", "n", "m")),
        (EmbeddingOptions("local"), ("model", "local", URL)),
        (EmbeddingOptions(document_prefix=""), ("document_prefix", "", "d: ")),
    ],
)
def test_first_difference_from_stored_options(requested: EmbeddingOptions, difference: Any) -> None:
    assert requested.first_difference(STORED) == difference


def test_options_round_trip() -> None:
    stored = embedding_to_store(STORED)
    assert stored == {"model": URL, "model_name": "m", "query_prefix": "q: ", "document_prefix": "d: "}
    assert EmbeddingOptions.from_json(stored, "docs") == STORED
    assert embedding_to_store(EmbeddingOptions("all-MiniLM-L6-v2")) is None
    assert embedding_to_store(EmbeddingOptions(query_prefix="q: ")) is None


def test_newer_or_damaged_options_raise() -> None:
    with pytest.raises(CollectionError, match=r"'docs' was embedded with pooling, which this qvec does not know"):
        EmbeddingOptions.from_json({"model": URL, "pooling": "cls"}, "docs")
    with pytest.raises(CollectionError, match="the embedding of collection 'docs' is damaged: task is not text"):
        EmbeddingOptions.from_json({"model": URL, "task": 3}, "docs")
