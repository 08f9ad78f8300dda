"""The checkpoint that `qvec train` selects, and Matryoshka prefixes with their own calibrations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_models import InterruptingReporter, RecordingReporter, train_options, weights, write_beir, write_scored_pairs

import qvec
from qvec import Calibration, InputError
from qvec.cli import main
from qvec.ingest.load_options import Reporter
from qvec.model_folder import find_calibration

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")
pytest.importorskip("datasets")
pytest.importorskip("accelerate")

from qvec.embedding.sentence_transformer import load_sentence_transformer  # noqa: E402
from qvec.training import QuantizedInformationRetrievalEvaluator, train  # noqa: E402
from qvec.training.scoring import Scorer, coarsest  # noqa: E402
from qvec.training.split import read_training_data  # noqa: E402
from qvec.training.text_datasets import RetrievalDataset, TextPairs, read_pairs, retrieval_from_pairs  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("fast_trainer"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::FutureWarning"),
]


def selection_dataset(pairs: Path) -> RetrievalDataset:
    """Return the queries that select a checkpoint in a training with seed 0."""
    read = read_pairs(pairs)
    found, _ = retrieval_from_pairs(read.queries, read.documents).halve(0)
    assert isinstance(found, RetrievalDataset)
    return found


def test_best_checkpoint_is_selected_with_its_ranges(model: str, pairs: Path, tmp_path: Path) -> None:
    # The learning rate is so high that later checkpoints are not always better.
    chosen = train_options(model, pairs, tmp_path / "out", evaluation=pairs, steps=7, learning_rate=0.03)
    done = train(chosen, Reporter())
    state = json.loads((tmp_path / "out" / "checkpoints" / "checkpoint-7" / "trainer_state.json").read_text())
    metric = "eval_dev_binary_ndcg@10"
    by_step = {entry["step"]: entry[metric] for entry in state["log_history"] if metric in entry}
    assert sorted(by_step) == [2, 4, 6, 7]
    assert by_step[done.selected] == max(by_step.values()) > min(by_step.values())
    best = tmp_path / "out" / "checkpoints" / f"checkpoint-{done.selected}"
    saved, in_checkpoint = weights(tmp_path / "out"), weights(best)
    assert all(np.array_equal(saved[name], in_checkpoint[name]) for name in in_checkpoint)
    assert done.calibration == find_calibration(str(best)) == find_calibration(str(tmp_path / "out"))
    data = selection_dataset(pairs)
    found = QuantizedInformationRetrievalEvaluator(
        data.queries, data.corpus, data.relevant, precision="binary", calibration=done.calibration
    )(load_sentence_transformer(str(tmp_path / "out")))
    assert found["binary_ndcg@10"] == pytest.approx(max(by_step.values()))
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"This is the checkpoint of step {done.selected}, with the best nDCG@10 over the other half" in card
    assert done.tables[0].texts == "half of 60 pairs in pairs.jsonl"


def test_interrupted_training_resumes_selection(model: str, pairs: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"evaluation": pairs, "learning_rate": 0.03, "precisions": ("float32", "ternary")}
    whole = train(train_options(model, pairs, tmp_path / "whole", **settings), Reporter())
    with pytest.raises(KeyboardInterrupt):
        train(train_options(model, pairs, tmp_path / "parts", **settings), InterruptingReporter(5))
    parts = train(train_options(model, pairs, tmp_path / "parts", **settings), Reporter())
    assert (parts.resumed_at, parts.selected, parts.tables) == (4, whole.selected, whole.tables)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("with_selection", [True, False])
def test_finished_training_is_rewritten_unchanged(
    model: str, pairs: Path, tmp_path: Path, with_selection: bool
) -> None:
    chosen = train_options(
        model, pairs, tmp_path / "out", learning_rate=0.03, evaluation=pairs if with_selection else None, steps=7
    )
    first = train(chosen, Reporter())
    trained = weights(tmp_path / "out")
    for file in ("model.safetensors", "qvec.safetensors", "README.md"):
        (tmp_path / "out" / file).unlink()
    reporter = RecordingReporter()
    again = train(chosen, reporter)
    assert "the training had finished at step 7; writing its folder again" in reporter.messages
    assert again == replace(first, resumed_at=7)
    written = weights(tmp_path / "out")
    assert all(np.array_equal(written[name], trained[name]) for name in trained)
    assert find_calibration(str(tmp_path / "out")) == first.calibration
    assert (tmp_path / "out" / "README.md").read_text().count("## Quantization") == 1
    assert not (tmp_path / "out" / "checkpoints" / "checkpoint-8").exists()


def test_settings_may_change_after_training_without_checkpoints(model: str, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'int3' is unknown"):
        train(train_options(model, pairs, tmp_path / "out", precisions=("int3",)), Reporter())
    train(train_options(model, pairs, tmp_path / "out", steps=2), Reporter())


def test_evaluation_does_not_update_ranges(model: str, pairs: Path, tmp_path: Path) -> None:
    done = train(train_options(model, pairs, tmp_path / "out", evaluation=pairs, save_every=1, steps=4), Reporter())
    assert done.selected is not None
    # Each step has 8 pairs of two texts; ranges freeze in the last tenth of the steps, which is empty here.
    assert done.calibration.description["sample"]["size"] == 16 * done.selected


def test_coarsest_precision_selects_checkpoint() -> None:
    assert coarsest(("float32", "binary", "int8")).name == "binary"
    assert coarsest(("float32", "int8", "int4")).name == "int4"
    assert Scorer.for_stored("ternary").name == "ternary_symmetric"
    assert Scorer.for_stored("int8").name == "int8"


def test_halves_share_corpus_but_no_query() -> None:
    data = retrieval_from_pairs([f"q{n}" for n in range(9)], [f"d{n % 5}" for n in range(9)])
    first, second = data.halve(3)
    assert isinstance(first, RetrievalDataset)
    assert isinstance(second, RetrievalDataset)
    assert (len(first.queries), len(second.queries)) == (4, 5)
    assert first.queries | second.queries == data.queries
    assert first.relevant | second.relevant == data.relevant
    assert first.corpus == second.corpus == data.corpus
    assert data.halve(3) == (first, second)
    scored = TextPairs({"a": list("uvwx"), "b": list("wxyz")}, [0.1, 0.2, 0.3, 0.4])
    assert [len(part) for part in scored.halve(0)] == [2, 2]
    with pytest.raises(InputError, match="3 evaluation queries found, at least 4 wanted"):
        retrieval_from_pairs("abc", "def").halve(0)


def test_dev_queries_select_and_test_queries_evaluate(model: str, pairs: Path, tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "beir")
    chosen = train_options(model, pairs, tmp_path / "out", evaluation=folder, steps=2)
    data = read_training_data(chosen)
    assert isinstance(data.evaluation, RetrievalDataset)
    assert data.selection is not None
    assert isinstance(data.selection.data, RetrievalDataset)
    assert sorted(data.selection.data.queries) == ["q4", "q5"]
    assert sorted(data.evaluation.queries) == ["q0", "q1", "q2", "q3", "q4", "q5"]
    done = train(chosen, Reporter())
    assert done.tables[0].texts == "beir/qrels/test.tsv"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "with the best nDCG@10 over beir/qrels/dev.tsv when stored and searched as binary" in card
    assert "nDCG@10 in percent, beir/qrels/test.tsv:" in card

    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "dev.tsv")  # the only judgements are halved
    data = read_training_data(chosen)
    assert isinstance(data.evaluation, RetrievalDataset)
    assert len(data.evaluation.queries) == 3
    assert data.described == "half of beir"


def test_scored_pairs_select_by_correlation(model: str, pairs: Path, tmp_path: Path) -> None:
    scored = write_scored_pairs(tmp_path / "scored.jsonl", pairs)
    done = train(train_options(model, scored, tmp_path / "out", evaluation=scored, steps=2, select="int8"), Reporter())
    assert done.selected == 2
    assert (
        "Spearman's correlation over the other half when stored and searched as int8."
        in (tmp_path / "out" / "README.md").read_text()
    )


@pytest.mark.parametrize("mini_batch_size", [None, 3])
def test_each_matryoshka_prefix_has_calibration_and_table(
    model: str,
    pairs: Path,
    tmp_path: Path,
    mini_batch_size: int | None,
) -> None:
    done = train(
        train_options(model, pairs, tmp_path / "out", matryoshka=(12, 8), mini_batch_size=mini_batch_size), Reporter()
    )
    assert [table.dimensions for table in done.tables] == [20, 12, 8]
    assert done.calibration.accepted_dimensions == (20,)
    card = (tmp_path / "out" / "README.md").read_text()
    for table in done.tables:
        assert "\n".join("| " + " | ".join(row) + " |" for row in table.rows()) in card
    trained = load_sentence_transformer(str(tmp_path / "out"))
    vectors = trained.encode(read_pairs(pairs).documents)
    for width in (12, 8):
        calibration = Calibration.load(tmp_path / "out" / f"qvec-{width}.safetensors")
        assert calibration.accepted_dimensions == (width, 20)
        cut = vectors[:, :width] / np.linalg.norm(vectors[:, :width], axis=1, keepdims=True)
        # The ranges are of normalized prefixes, not of the first dimensions of the full embeddings.
        assert np.abs(calibration.std / cut.std(axis=0) - 1).mean() < 0.5
        assert np.array_equal(qvec.quantize(vectors, calibration), qvec.quantize(cut.astype(np.float32), calibration))


@pytest.mark.parametrize("mini_batch_size", [None, 3])
def test_losses_by_precision_are_logged_inside_matryoshka(
    model: str,
    pairs: Path,
    tmp_path: Path,
    mini_batch_size: int | None,
) -> None:
    chosen = train_options(model, pairs, tmp_path / "out", matryoshka=(12,), mini_batch_size=mini_batch_size, steps=4)
    train(chosen, Reporter())
    state = json.loads((tmp_path / "out" / "checkpoints" / "checkpoint-4" / "trainer_state.json").read_text())
    entries = [entry for entry in state["log_history"] if "loss" in entry]
    assert len(entries) == 4
    for entry in entries:
        assert entry["loss"] == pytest.approx(entry["float32"] + entry["int8"] + entry["binary"], abs=1e-3)


def test_ingest_uses_calibration_of_requested_prefix(
    model: str,
    pairs: Path,
    tmp_path: Path,
    url: str,
) -> None:
    train(train_options(model, pairs, tmp_path / "out", matryoshka=(12,), steps=2), Reporter())
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"id": n, "text": "the old tree"}) + "\n" for n in range(3)))
    command = ["ingest", str(source), "--db", url, "--model", str(tmp_path / "out"), "--json"]
    for arguments, file in (([], "qvec.safetensors"), (["--dimensions", "12"], "qvec-12.safetensors")):
        result = CliRunner().invoke(main, [*command, "--collection", f"docs{len(arguments)}", *arguments])
        assert result.exit_code == 0, result.output
        with qvec.connect(url) as database:
            assert database.collection(f"docs{len(arguments)}").calibration == Calibration.load(tmp_path / "out" / file)


def test_invalid_selection_and_prefix_raise(model: str, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--select int8 needs queries to select a checkpoint by; add --eval"):
        train_options(model, pairs, tmp_path / "out", select="int8")
    with pytest.raises(InputError, match="a Matryoshka prefix has 20 dimensions, expected 1 to 19"):
        train(train_options(model, pairs, tmp_path / "out", matryoshka=(20,)), Reporter())
    result = CliRunner().invoke(main, ["train", "--model=m", "--data=d", "--output=o", "--matryoshka=256,x"])
    assert result.exit_code == 2
    assert "'256,x' found, expected a list of lengths, e.g. 256,128" in result.output
