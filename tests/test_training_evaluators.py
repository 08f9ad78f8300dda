"""Evaluators on quantized embeddings, compared with rankings by qvec's stored codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import ANSWERS, BEIR_QUERIES, CORPUS, NEGATIVES, QUERIES, RELEVANT, tiny_model, write_beir

import qvec
from qvec import Calibration, InputError
from qvec.codes import PLANES
from qvec.evaluation.metrics import ndcg

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator  # noqa: E402

from qvec.training import (  # noqa: E402
    QuantizedInformationRetrievalEvaluator,
    QuantizedNanoBEIREvaluator,
    QuantizedSimilarityEvaluator,
    QuantizedTripletEvaluator,
)
from qvec.training.text_datasets import read_beir, retrieval_from_pairs  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def calibration(model: Any) -> Calibration:
    return Calibration.fit(model.encode(list(CORPUS.values())))


def stored_scores(queries: Any, documents: Any, calibration: Calibration, precision: str, symmetric: bool) -> Any:
    """Return scores (m, n) of qvec's codes; symmetric scores of bits are negative Hamming distances."""
    left, right = qvec.quantize(queries, calibration), qvec.quantize(documents, calibration)
    if symmetric and precision == "ternary":
        return -qvec.hamming(qvec.ternary(right, calibration), qvec.ternary(left, calibration))
    if symmetric and precision == "binary":
        width = -(-calibration.dimensions // 8)
        return -qvec.hamming(right[:, :width], left[:, :width])
    return qvec.score(right, queries, calibration, PLANES[precision])


@pytest.mark.parametrize(
    ("precision", "symmetric"),
    [("int8", False), ("int4", False), ("binary", False), ("binary", True), ("ternary", True)],
)
def test_retrieval_ranking_equals_qvec(model: Any, calibration: Calibration, precision: str, symmetric: bool) -> None:
    evaluator = QuantizedInformationRetrievalEvaluator(
        BEIR_QUERIES,
        CORPUS,
        RELEVANT,
        precision=precision,
        query_precision=precision if symmetric else "float32",
        calibration=calibration,
        name="dev",
    )
    found = evaluator(model)
    scores = stored_scores(
        model.encode(QUERIES), model.encode(list(CORPUS.values())), calibration, precision, symmetric
    )
    names = np.array(list(CORPUS))
    wanted = []
    for number, row in enumerate(scores):
        order = sorted(range(len(row)), key=lambda place: (-row[place], names[place]))
        wanted.append(ndcg(list(names[order]), {f"d{number}": 1}, 10))
    label = f"{precision}_symmetric" if symmetric else precision
    assert evaluator.primary_metric == f"dev_{label}_ndcg@10"
    assert found[evaluator.primary_metric] == pytest.approx(np.mean(wanted), abs=1e-6)


def test_float32_agrees_with_sentence_transformers(model: Any, calibration: Calibration) -> None:
    plain = InformationRetrievalEvaluator(BEIR_QUERIES, CORPUS, RELEVANT)(model)
    found = QuantizedInformationRetrievalEvaluator(
        BEIR_QUERIES, CORPUS, RELEVANT, precision="float32", calibration=calibration
    )(model)
    assert found == {name.replace("cosine_", "float32_"): value for name, value in plain.items()}


def test_calibration_may_be_a_function(model: Any, calibration: Calibration) -> None:
    calls = []

    def current_calibration() -> Calibration:
        calls.append(calibration)
        return calibration

    QuantizedInformationRetrievalEvaluator(
        BEIR_QUERIES, CORPUS, RELEVANT, precision="binary", calibration=current_calibration
    )(model)
    assert calls


def test_triplet_accuracy(model: Any, calibration: Calibration) -> None:
    queries, answers, wrong = (model.encode(texts) for texts in (QUERIES, ANSWERS, NEGATIVES))
    for symmetric in (False, True):
        evaluator = QuantizedTripletEvaluator(
            QUERIES,
            ANSWERS,
            NEGATIVES,
            precision="binary",
            query_precision="binary" if symmetric else "float32",
            calibration=calibration,
        )
        near = np.diag(stored_scores(queries, answers, calibration, "binary", symmetric))
        far = np.diag(stored_scores(queries, wrong, calibration, "binary", symmetric))
        assert evaluator(model)[evaluator.primary_metric] == pytest.approx(np.mean(near > far))


def test_similarity_is_spearman_correlation(model: Any, calibration: Calibration) -> None:
    stats = pytest.importorskip("scipy.stats")
    evaluator = QuantizedSimilarityEvaluator(
        QUERIES, ANSWERS, [0.1, 0.9, 0.3, 0.5, 0.2, 0.8], precision="int4", calibration=calibration, name="dev"
    )
    near = np.diag(stored_scores(model.encode(QUERIES), model.encode(ANSWERS), calibration, "int4", False))
    wanted = stats.spearmanr([0.1, 0.9, 0.3, 0.5, 0.2, 0.8], near).statistic
    found = evaluator(model)
    assert found["dev_int4_spearman"] == pytest.approx(wanted)
    assert evaluator.primary_metric == "dev_int4_spearman"


def test_nano_beir_averages_local_folders(model: Any, calibration: Calibration, tmp_path: Path) -> None:
    folders = [write_beir(tmp_path / "first"), write_beir(tmp_path / "second", graded="d9")]
    evaluator = QuantizedNanoBEIREvaluator(folders, precision="int8", calibration=calibration)
    found = evaluator(model)
    one, two = found["first_int8_ndcg@10"], found["second_int8_ndcg@10"]
    assert one != two
    assert found["NanoBEIR_mean_int8_ndcg@10"] == found[evaluator.primary_metric] == pytest.approx((one + two) / 2)
    direct = QuantizedInformationRetrievalEvaluator(
        BEIR_QUERIES, CORPUS, RELEVANT, precision="int8", calibration=calibration
    )(model)
    assert one == pytest.approx(direct["int8_ndcg@10"])


def test_invalid_input_raises(calibration: Calibration, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 anchors, 1 positives, 1 negatives found, expected equally many"):
        QuantizedTripletEvaluator(["a", "b"], ["c"], ["d"], precision="int8", calibration=calibration)
    with pytest.raises(InputError, match=r"judges documents that corpus\.jsonl lacks, e\.g\. d99"):
        read_beir(write_beir(tmp_path / "lost", graded="d99"))
    (tmp_path / "lost" / "qrels" / "test.tsv").unlink()
    (tmp_path / "lost" / "qrels" / "dev.tsv").unlink()
    with pytest.raises(InputError, match=r"lost has no qrels\.tsv, and 0 \.tsv files in qrels"):
        read_beir(tmp_path / "lost")
    with pytest.raises(InputError, match=r"cannot read .*corpus\.jsonl: No such file"):
        read_beir(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no folders given"):
        QuantizedNanoBEIREvaluator([], precision="int8", calibration=calibration)


def test_qrels_may_be_beside_corpus(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "flat")
    nested = read_beir(folder)
    (folder / "qrels" / "test.tsv").rename(folder / "qrels.tsv")
    assert read_beir(folder) == nested


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_texts_may_contain_unicode_line_separators(tmp_path: Path, separator: str) -> None:
    folder = write_beir(tmp_path)
    odd = f"a{separator}b"
    with (folder / "corpus.jsonl").open("a", encoding="utf-8") as corpus:
        corpus.write(json.dumps({"_id": "odd", "text": odd}, ensure_ascii=False) + "\n\n")
    assert read_beir(folder).corpus == {name: text.strip() for name, text in CORPUS.items()} | {"odd": odd}


def test_repeated_texts_become_one_query_or_document() -> None:
    found = retrieval_from_pairs(["a", "a", "b"], ["x", "y", "x"])
    assert found.queries == {"q0": "a", "q1": "b"}
    assert found.corpus == {"d0": "x", "d1": "y"}
    assert found.relevant == {"q0": {"d0", "d1"}, "q1": {"d0"}}
