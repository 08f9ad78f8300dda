"""Rows that cannot be loaded stop a load before their batch, or are each written once to a rejects file."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingest_helpers import assert_holds, load_source, random_vectors, write_lines

from qvec.client import Database
from qvec.errors import InputError
from qvec.ingest import FitOptions
from qvec.ingest.rejects import RejectsFile
from qvec.sources import RejectedRow

GOOD = [1.0, 2.0, -3.0, 4.0, 5.0, -6.0, 7.0, 8.0]
BAD: dict[str, tuple[dict[str, Any] | str, str]] = {
    "NaN": ({"id": 77, "vector": [1.0, 2.0, float("nan"), *GOOD[3:]]}, "NaN"),
    "infinity": ({"id": 77, "vector": [float("-inf"), *GOOD[1:]]}, "infinit"),
    "beyond float32": ({"id": 77, "vector": [1e300, *GOOD[1:]]}, "infinit"),
    "zero vector": ({"id": 77, "vector": [0.0] * 8}, "zero"),
    "too few dimensions": ({"id": 77, "vector": GOOD[:7]}, "has 7 dimensions, expected 8"),
    "missing vector": ({"id": 77, "text": "x"}, "has no vector"),
    "missing id": ({"vector": GOOD}, "has no id"),
    "invalid JSON": ('{"id": 77, "vector": [1.0', "is not valid JSON"),
    "not an object": ("[1, 2]", "is a JSON list, expected an object"),
    "NUL in text": ({"id": 77, "vector": GOOD, "text": "a\0b"}, "text holds the character"),
    "NUL in metadata": ({"id": 77, "vector": GOOD, "note": "a\0b"}, "metadata holds the character"),
}


def source_with(path: Path, bad: dict[str, Any] | str, *at: int, rows: int = 100) -> Path:
    """Write JSON Lines of good rows, with a bad one at each of the rows `at`."""
    lines: list[dict[str, Any] | str] = [
        {"id": row, "vector": vector, "text": f"text {row}"} for row, vector in enumerate(random_vectors(rows).tolist())
    ]
    for row in at:
        lines[row] = bad
    return write_lines(path, lines)


def rejected_rows(path: Path) -> list[int]:
    return [json.loads(line)["row"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("bad", "reason"), BAD.values(), ids=BAD)
def test_bad_row_stops_the_load_before_its_batch(
    database: Database, tmp_path: Path, bad: dict[str, Any] | str, reason: str
) -> None:
    path = source_with(tmp_path / "a.jsonl", bad, 57)
    with pytest.raises(InputError, match=rf"^a\.jsonl, line 58: .*{reason}"):
        load_source(database, path, batch_rows=10)
    assert_holds(database, random_vectors(100)[:50])
    assert load_source(database, path, batch_rows=10, on_error="skip").rows == 49
    kept = [*range(57), *range(58, 100)]
    assert_holds(database, random_vectors(100)[kept], kept)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(("bad", "reason"), BAD.values(), ids=BAD)
def test_bad_rows_are_written_to_the_rejects_file(
    database: Database, tmp_path: Path, bad: dict[str, Any] | str, reason: str, workers: int
) -> None:
    path, rejects = source_with(tmp_path / "a.jsonl", bad, 57, 3, 58), tmp_path / "rejects.jsonl"
    summary = load_source(database, path, batch_rows=10, on_error="skip", rejects=rejects, workers=workers)
    assert (summary.rows, summary.rejected, summary.total_rows) == (97, 3, 97)
    found = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [entry["row"] for entry in found] == [3, 57, 58]
    assert [entry["where"] for entry in found] == [f"a.jsonl, line {row + 1}" for row in (3, 57, 58)]
    assert all(reason in entry["reason"] for entry in found)
    kept = [row for row in range(100) if row not in (3, 57, 58)]
    assert_holds(database, random_vectors(100)[kept], kept)


def test_error_names_the_first_bad_row(database: Database, tmp_path: Path) -> None:
    path = source_with(tmp_path / "a.jsonl", BAD["zero vector"][0], 55)
    lines = path.read_text().splitlines()
    lines[57] = "{"
    with pytest.raises(InputError, match=r"line 56: .*zero"):
        load_source(database, write_lines(path, lines), batch_rows=10)


def test_batch_of_only_bad_rows_is_skipped(database: Database, tmp_path: Path) -> None:
    path, rejects = source_with(tmp_path / "a.jsonl", "{", *range(20, 30)), tmp_path / "rejects.jsonl"
    assert load_source(database, path, batch_rows=10, on_error="skip", rejects=rejects).rejected == 10
    assert rejected_rows(rejects) == list(range(20, 30))
    kept = [*range(20), *range(30, 100)]
    assert_holds(database, random_vectors(100)[kept], kept)


def test_float16_overflow_is_rejected(database: Database, tmp_path: Path) -> None:
    array = random_vectors(100)
    array[[13, 14, 57], 2] = 70_000
    np.save(tmp_path / "a.npy", array)
    fit = FitOptions(metric="ip")
    with pytest.raises(InputError, match=r"a\.npy, row 13: .*70000"):
        load_source(database, tmp_path / "a.npy", fit=fit, rescore="float16", batch_rows=10)
    rejects = tmp_path / "rejects.jsonl"
    options = {"rescore": "float16", "batch_rows": 10, "on_error": "skip", "rejects": rejects}
    assert load_source(database, tmp_path / "a.npy", fit=fit, **options).rejected == 3
    assert rejected_rows(rejects) == [13, 14, 57]
    kept = [row for row in range(100) if row not in (13, 14, 57)]
    assert_holds(database, array[kept], kept)


def test_bad_rows_of_parquet_are_rejected(database: Database, tmp_path: Path) -> None:
    values = random_vectors(30).tolist()
    values[4], values[9], values[12] = None, values[9][:3], [0.0] * 8
    ids = [None if row == 20 else f"id {row}" for row in range(30)]
    pq.write_table(pa.table({"id": ids, "vector": values}), tmp_path / "a.parquet")
    rejects = tmp_path / "rejects.jsonl"
    summary = load_source(database, tmp_path / "a.parquet", batch_rows=10, on_error="skip", rejects=rejects)
    assert summary.rejected == 4
    assert sorted(rejected_rows(rejects)) == [4, 9, 12, 20]
    kept = [row for row in range(30) if row not in (4, 9, 12, 20)]
    assert_holds(database, random_vectors(30)[kept], [f"id {row}" for row in kept])


class SimulatedKill(BaseException):
    """Stand in for a killed process."""


@pytest.mark.parametrize("after_batches", [0, 1, 4])
def test_rows_rejected_just_before_a_crash_are_not_written_twice(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after_batches: int
) -> None:
    """The process ends after writing the rejected rows of a batch and before committing the batch."""
    path, rejects = source_with(tmp_path / "a.jsonl", "{", *range(5, 100, 10)), tmp_path / "rejects.jsonl"
    rejects.write_text("from another program\n")
    options = {"batch_rows": 10, "on_error": "skip", "rejects": rejects}
    write = RejectsFile.write
    calls = 0

    def killed(self: RejectsFile, rejected: tuple[RejectedRow, ...]) -> None:
        nonlocal calls
        write(self, rejected)
        calls += 1
        if calls > after_batches:
            raise SimulatedKill

    with monkeypatch.context() as patch:
        patch.setattr(RejectsFile, "write", killed)
        with pytest.raises(SimulatedKill):
            load_source(database, path, **options)
    assert len(rejects.read_text().splitlines()) == 2 + after_batches
    assert load_source(database, path, **options).rejected == 10
    first, *lines = rejects.read_text().splitlines()
    assert first == "from another program"
    assert [json.loads(line)["row"] for line in lines] == list(range(5, 100, 10))


def test_rejects_file_named_on_resume_keeps_its_content(database: Database, tmp_path: Path) -> None:
    path, rejects = source_with(tmp_path / "a.jsonl", "{", 57), tmp_path / "rejects.jsonl"
    rejects.write_text("from another program\n")
    with pytest.raises(InputError, match="line 58"):
        load_source(database, path, batch_rows=10)
    load_source(database, path, batch_rows=10, on_error="skip", rejects=rejects)
    first, second = rejects.read_text().splitlines()
    assert first == "from another program"
    assert json.loads(second)["row"] == 57


def test_restarted_load_does_not_repeat_rejected_rows(database: Database, tmp_path: Path) -> None:
    path, rejects = source_with(tmp_path / "a.jsonl", "{", 57), tmp_path / "rejects.jsonl"
    for restart in (False, True):
        assert load_source(database, path, on_error="skip", rejects=rejects, restart=restart).rejected == 1
    assert rejected_rows(rejects) == [57]


ROWS = [RejectedRow(row, f"a.jsonl, line {row + 1}", "is bad", "é" * 10) for row in range(3)]


def json_lines(rows: list[RejectedRow]) -> bytes:
    return b"".join(json.dumps(asdict(row), ensure_ascii=False).encode() + b"\n" for row in rows)


def test_incomplete_last_line_is_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    path.write_bytes(json_lines(ROWS)[:-30])
    with RejectsFile(path, len(json_lines(ROWS[:1]))) as rejects:
        rejects.write(ROWS[1:])
        assert rejects.size == len(json_lines(ROWS))
    assert path.read_bytes() == json_lines(ROWS)


def test_unterminated_last_line_gets_a_newline(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    path.write_bytes(b"no newline")
    with RejectsFile(path, 0) as rejects:
        rejects.write(ROWS)
    assert path.read_bytes() == b"no newline\n" + json_lines(ROWS)


def test_rejects_without_a_path_are_not_written() -> None:
    with RejectsFile(None, 0) as rejects:
        rejects.write(ROWS)
        rejects.resume(0)
        assert rejects.size == 0


def test_error_names_a_rejects_file_that_cannot_be_written(database: Database, tmp_path: Path) -> None:
    path = source_with(tmp_path / "a.jsonl", "{", 5)
    missing = tmp_path / "missing" / "rejects.jsonl"
    with pytest.raises(InputError, match=r"cannot write the rejects file .*rejects\.jsonl: No such file"):
        load_source(database, path, on_error="skip", rejects=missing)
    full = Path("/dev/full")
    if full.exists():
        with pytest.raises(InputError, match="cannot write the rejects file /dev/full: No space left"):
            load_source(database, path, on_error="skip", rejects=full)
