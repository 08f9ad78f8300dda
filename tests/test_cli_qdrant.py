"""The command on the embedded Qdrant engine: what both stores share, and settings that only Qdrant has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import invoke, succeed
from ingest_helpers import random_vectors, write_lines

ROWS = 60


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with ids, texts and two fields of metadata."""
    rows: list[dict[str, Any] | str] = [
        {"id": f"row {row}", "vector": vector, "text": f"text {row}", "lang": "en" if row % 2 else "de", "year": row}
        for row, vector in enumerate(random_vectors(ROWS).tolist())
    ]
    return write_lines(tmp_path_factory.mktemp("source") / "a.jsonl", rows)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"qdrant:{tmp_path / 'vectors'}"


def ingest(url: str, source: Path, *options: Any) -> dict[str, Any]:
    result = succeed("ingest", source, "--db", url, "-c", "docs", "--json", "--quiet", *options)
    summary: dict[str, Any] = json.loads(result.stdout)
    return summary


def search(url: str, folder: Path, *options: Any) -> list[dict[str, Any]]:
    np.save(folder / "query.npy", random_vectors(ROWS)[:1])
    result = succeed("search", "--db", url, "-c", "docs", "--vectors", folder / "query.npy", "--json", *options)
    hits: list[dict[str, Any]] = json.loads(result.stdout)["hits"]
    return hits


def test_ingest_search_info_and_drop(url: str, source: Path, tmp_path: Path) -> None:
    summary = ingest(url, source, "--index-metadata", "year:integer", "--index-metadata", "lang")
    assert (summary["rows"], summary["total_rows"], summary["rejected"]) == (ROWS, ROWS, 0)
    assert summary["bytes_per_vector"]["ram"] > 0
    best = search(url, tmp_path, "-k", 3)
    assert best[0] | {"score": 1} == {
        "id": "row 0",
        "score": 1,
        "document": "text 0",
        "metadata": {"lang": "de", "year": 0},
    }
    assert best[0]["score"] == pytest.approx(1, abs=1e-3)
    filtered = search(url, tmp_path, "-k", ROWS, "--filter", '{"lang": "en", "year": {"$lt": 11}}')
    assert sorted(hit["metadata"]["year"] for hit in filtered) == [1, 3, 5, 7, 9]
    assert [hit["id"] for hit in search(url, tmp_path, "--exact", "-k", 3)] == [hit["id"] for hit in best]
    assert len(search(url, tmp_path, "--no-rescore", "-k", 3)) == 3
    (listed,) = map(json.loads, succeed("collections", "--db", url, "--json").stdout.splitlines())
    assert (listed["name"], listed["rows"], listed["prefilter"], listed["index"]) == ("docs", ROWS, "turbo1", "built")
    succeed("drop", "docs", "--db", url, "--yes")
    assert succeed("collections", "--db", url).stdout == ""


def test_settings_are_stored_and_conflicts_refused(url: str, source: Path) -> None:
    ingest(
        url,
        source,
        "--prefilter",
        "binary",
        "--query-encoding",
        "scalar4bits",
        "--rescore",
        "float32",
        "--oversampling",
        8,
    )
    info = json.loads(succeed("info", "docs", "--db", url, "--json").stdout)
    assert (info["prefilter"], info["rescore"], info["oversampling"]) == ("binary", "float32", 8)
    conflict = invoke("ingest", source, "--db", url, "-c", "docs", "--restart", "--rescore", "float16")
    assert conflict.exit_code == 1
    assert "collection 'docs' has rescore float32, not float16" in conflict.stderr


USER_ERRORS: dict[str, tuple[list[str], str]] = {
    "Postgres precision": (["--rescore", "int8"], "rescore is 'int8', expected one of: float16"),
    "Postgres precision of ten bits": (["--rescore", "int10"], "rescore is 'int10', expected one of: float16"),
    "Postgres prefilter": (["--prefilter", "ternary"], "prefilter is 'ternary', expected one of: binary"),
    "query encoding of another prefilter": (
        ["--prefilter", "turbo2", "--query-encoding", "binary"],
        "of binary prefilters",
    ),
    "shards without a server": (["--shards", "3"], "shards and replicas are for a server"),
    "shard keys without a server": (["--shard-key-field", "a"], "shards and replicas are for a server"),
    "shard key without a server": (["--shard-key", "a"], "shards and replicas are for a server"),
}


@pytest.mark.parametrize(("options", "reason"), USER_ERRORS.values(), ids=USER_ERRORS)
def test_user_errors_are_one_line_and_create_nothing(url: str, source: Path, options: list[str], reason: str) -> None:
    result = invoke("ingest", source, "--db", url, "-c", "docs", "-q", *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert reason in result.stderr
    assert succeed("collections", "--db", url).stdout == ""


def test_rescoring_in_sql_is_refused(url: str, source: Path, tmp_path: Path) -> None:
    ingest(url, source)
    np.save(tmp_path / "query.npy", random_vectors(1))
    result = invoke("search", "--db", url, "-c", "docs", "--vectors", tmp_path / "query.npy", "--rescore-in", "sql")
    assert "--rescore-in is sql, but only Postgres has it; Qdrant rescores in its engine" in result.stderr


def test_explain_shows_the_request(url: str, source: Path, tmp_path: Path) -> None:
    ingest(url, source)
    np.save(tmp_path / "query.npy", random_vectors(1))
    query = ("--vectors", tmp_path / "query.npy", "--filter", '{"lang": "en"}', "-k", 2)
    result = succeed("search", "--db", url, "-c", "docs", "--explain", "--json", *query)
    explanation = json.loads(result.stdout)
    assert json.loads(explanation["statement"])["filter"]["must"][0]["key"] == "metadata.lang"
    assert (explanation["candidates"], len(explanation["hits"])) == (8, 2)
    assert explanation["milliseconds"].keys() == {"prepare", "search"}
    printed = succeed("search", "--db", url, "-c", "docs", "--explain", *query).stdout
    assert "candidates: 8, hits: 2" in printed


HOLDER_PROGRAM = "import qvec, sys; database = qvec.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"


def test_directory_open_in_another_process_is_an_error(url: str) -> None:
    command = [sys.executable, "-c", HOLDER_PROGRAM, url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        result = invoke("collections", "--db", url)
        other.kill()
    assert result.exit_code == 1
    assert f"is open in another process (pid {other.pid}" in result.stderr
    assert succeed("collections", "--db", url).stdout == ""
