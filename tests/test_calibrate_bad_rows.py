"""`qvec calibrate` on bad rows: the error names the first, or they are skipped and counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import invoke, succeed
from ingest_helpers import write_lines
from numpy.typing import NDArray

from qvec import Calibration
from qvec.errors import InputError, RowError
from qvec.ingest import fit
from qvec.ingest.fit import fit_source
from qvec.ingest.load_options import FitOptions, Reporter
from qvec.sources import open_source

ROWS, DIMENSIONS = 300, 8
GOOD = np.random.default_rng(0).normal(1, 1, (ROWS, DIMENSIONS)).astype(np.float32)


def npy(folder: Path, vectors: NDArray[np.float32]) -> Path:
    np.save(folder / "a.npy", vectors)
    return folder / "a.npy"


def parquet(folder: Path, vectors: NDArray[np.float32]) -> Path:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMENSIONS)
    pq.write_table(pa.table({"vector": column}), folder / "a.parquet")
    return folder / "a.parquet"


def json_lines(folder: Path, vectors: NDArray[np.float32]) -> Path:
    return write_lines(folder / "a.jsonl", [{"vector": vector} for vector in vectors.tolist()])


@pytest.mark.parametrize("write", [npy, parquet, json_lines])
@pytest.mark.parametrize(("value", "reason"), [(np.nan, "nan"), (np.inf, "inf"), (0, "zero")])
def test_bad_rows_stop_calibrate_or_are_skipped(
    tmp_path: Path, write: Callable[..., Path], value: float, reason: str
) -> None:
    vectors = GOOD.copy()
    vectors[10:] = value
    source, output = write(tmp_path, vectors), tmp_path / "cal.safetensors"
    refused = invoke("calibrate", source, "-o", output)
    assert refused.exit_code == 1
    assert f"{source.name}, {'line 11' if write is json_lines else 'row 10'}: " in refused.output
    assert reason in refused.output.lower()
    assert not output.exists()
    skipped = succeed("calibrate", source, "-o", output, "--on-error", "skip")
    assert "unusable rows left out: 290, the first of them " in skipped.output
    assert "from 10 rows" in skipped.output
    np.testing.assert_array_equal(Calibration.load(output).mean, Calibration.fit(GOOD[:10]).mean)


def test_error_names_first_bad_row(tmp_path: Path) -> None:
    rows: list[Any] = [{"vector": vector} for vector in GOOD.tolist()]
    rows[100], rows[40], rows[70] = {"vector": [1, 2]}, {"vector": [0] * DIMENSIONS}, "no JSON"
    source = write_lines(tmp_path / "a.jsonl", rows)
    refused = invoke("calibrate", source, "-o", tmp_path / "cal.safetensors")
    assert "Error: a.jsonl, line 41: " in refused.output
    skipped = succeed("calibrate", source, "-o", tmp_path / "cal.safetensors", "--on-error", "skip")
    assert "unusable rows left out: 3, the first of them a.jsonl, line 41: " in skipped.output


def test_wrong_encoding_error_names_row(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(128, 256, (ROWS, DIMENSIONS))
    wrong = "a.jsonl, line 1: has {} at position 0, but encoding 'int8' holds integers from -128 to 127"
    wrong = wrong.format(stored[0, 0])
    command = ["calibrate", tmp_path / "a.jsonl", "-o", tmp_path / "cal.safetensors", "--encoding", "int8"]
    for fitting in (0, 3):
        stored[ROWS - fitting :] = 1
        write_lines(tmp_path / "a.jsonl", [{"vector": vector} for vector in stored.tolist()])
        assert f"Error: {wrong}" in invoke(*command).output
        skipped = invoke(*command, "--on-error", "skip").output
        none_left = f"a.jsonl has no usable rows to calibrate on; the first is not: {wrong}"
        assert (f"unusable rows left out: 297, the first of them {wrong}" if fitting else none_left) in skipped


INTEGERS = [
    (npy, GOOD.round(), True),
    (parquet, (100 * GOOD).round().clip(0, 255), True),
    (json_lines, np.sign(GOOD), True),
    (json_lines, (100 * GOOD).round().clip(-1, 255), False),
    (json_lines, GOOD, False),
    (npy, np.where(np.eye(ROWS, DIMENSIONS) == 1, np.float32(0.5), GOOD.round()), False),
]


@pytest.mark.parametrize(("write", "vectors", "warned"), INTEGERS)
def test_integers_read_as_floats_warn_once(
    tmp_path: Path, write: Callable[..., Path], vectors: NDArray[np.float32], warned: bool
) -> None:
    source, url = write(tmp_path, vectors), f"qdrant:{tmp_path / 'qdrant'}"
    warning = f"Warning: all values of {source} are whole numbers of 8 bits, read as floats"
    for command in (
        ["calibrate", source, "-o", tmp_path / "cal.safetensors"],
        ["ingest", source, "--db", url, "-c", "docs"],
    ):
        done = succeed(*command, "--on-error", "skip", "--json")
        assert done.stderr.count(warning) == warned
        assert json.loads(done.stdout)


def test_integers_with_encoding_do_not_warn(tmp_path: Path) -> None:
    source = json_lines(tmp_path, GOOD.round().astype(int))
    done = succeed("calibrate", source, "-o", tmp_path / "cal.safetensors", "--encoding", "int8")
    assert "Warning" not in done.output


class FussyEmbedder:
    """Refuses texts that contain "long", and embeds texts that contain "void" as zeros."""

    name, dimensions = "fussy", DIMENSIONS

    def __init__(self, options: Any) -> None:
        self.options = options

    def embed_documents(self, texts: Sequence[str], _progress: Any = None) -> NDArray[np.float32]:
        for row, text in enumerate(texts):
            if "long" in text:
                raise RowError(row, "is too long")
        return np.array([GOOD[int(text.split()[0])] * ("void" not in text) for text in texts])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": None}, "has no text to embed"),
        ({"text": "5 long"}, "is too long"),
        ({"text": "5 void"}, "zero"),
        ("[1]", "is a JSON list"),
    ],
)
def test_error_names_bad_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: Any, reason: str) -> None:
    monkeypatch.setattr(fit, "load_embedder", FussyEmbedder)
    rows: list[Any] = [{"text": f"{number}"} for number in range(20)]
    rows[5] = row
    source = write_lines(tmp_path / "a.jsonl", rows)
    command = ["calibrate", source, "--model", "fussy", "-o", tmp_path / "cal.safetensors"]
    refused = invoke(*command)
    assert refused.exit_code == 1
    assert "Error: a.jsonl, line 6: " in refused.output
    assert reason in refused.output
    skipped = succeed(*command, "--on-error", "skip", "--json")
    assert "unusable rows left out: 1, the first of them a.jsonl, line 6: " in skipped.stderr
    assert json.loads(skipped.stdout)["sample"]["size"] == 19


def test_empty_source_raises(tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", GOOD[:0])
    with open_source(tmp_path / "none.npy") as source, pytest.raises(InputError, match=r"calibrate on$"):
        fit_source(source, None, FitOptions(), None, Reporter(), "stop")
