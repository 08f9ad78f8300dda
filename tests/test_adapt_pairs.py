"""Learned bits trained on pairs of queries and documents: reading pairs, holding some out, and training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from property_tests import examples
from tiny_models import tiny_model, write_pairs

from qvec.calibration import Calibration
from qvec.cli import main
from qvec.codes import hamming, learned, quantize
from qvec.errors import InputError, QvecError, RowError
from qvec.projection import quantize_projection
from qvec.training import learned_bits_data
from qvec.training.initial_projection import itq, projection_from
from qvec.training.learned_bits import AdaptOptions, adapt
from qvec.training.learned_bits_data import VectorPairs, read_vector_pairs, split_sample

torch = pytest.importorskip("torch")

from qvec.training.learned_bits_training import build_dataset, train_projection  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

TOPIC, STYLE = 4, 12


def topic_pairs(count: int, seed: int) -> VectorPairs:
    """Return pairs that share the topic dimensions; the larger style dimensions of both sides are independent."""
    random = np.random.default_rng(seed)
    topic = random.normal(size=(count, TOPIC))
    documents = np.hstack([topic, 1.5 * random.normal(size=(count, STYLE))])
    query_topic = topic + 0.3 * random.normal(size=topic.shape)
    queries = np.hstack([query_topic, 0.7 * random.normal(size=(count, STYLE))])
    return VectorPairs(queries.astype(np.float32), documents.astype(np.float32))


@pytest.fixture(scope="module")
def sample() -> np.ndarray:
    return topic_pairs(600, 0).documents


@pytest.fixture(scope="module")
def fitted(sample: np.ndarray) -> Calibration:
    return Calibration.fit(sample)


@pytest.mark.slow
def test_training_on_pairs_improves_retrieval(sample: np.ndarray, fitted: Calibration) -> None:
    """For held-out queries, bits trained on pairs find more documents than bits trained on none or on wrong pairs."""
    pairs, held_out = topic_pairs(300, 1), topic_pairs(300, 2)
    rows = fitted.prepared(sample)
    centred = rows - fitted.threshold
    start = projection_from(itq(centred, 16, 0), centred, 16)

    def recall_at_20(pairs_to_train: VectorPairs) -> float:
        prepared = VectorPairs(fitted.prepared(pairs_to_train.queries), fitted.prepared(pairs_to_train.documents))
        projection = train_projection(
            start, build_dataset(rows, fitted.threshold, prepared.queries[:0], prepared), 400, 0, lambda _step: None
        )
        adapted = fitted.with_learned(*quantize_projection(projection.weights, projection.bias, fitted.radius), {})
        queries, documents = (
            learned(quantize(side, adapted), adapted) for side in (held_out.queries, held_out.documents)
        )
        distances = hamming(documents, queries)
        return float(np.mean((distances < np.diag(distances)[:, None]).sum(axis=1) < 20))

    with_pairs = recall_at_20(pairs)
    assert with_pairs > recall_at_20(pairs.take(np.arange(0))) + 0.05
    assert with_pairs > recall_at_20(VectorPairs(pairs.queries, np.roll(pairs.documents, 1, axis=0))) + 0.05


def rows_of(array: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in array}


@examples(30)
@given(st.lists(st.integers(0, 30), min_size=3, max_size=80), st.integers(0, 5))
def test_training_queries_are_never_held_out(query_numbers: list[int], seed: int) -> None:
    """Not even a query that has several documents."""
    queries = topic_pairs(31, 3).queries[query_numbers]
    documents = topic_pairs(len(query_numbers), 4).documents
    sample = topic_pairs(200, 5).documents
    different = len(set(query_numbers))
    calibration = Calibration.fit(sample)
    if different < 3:
        with pytest.raises(InputError, match=f"pairs with distinct queries: {different} found, at least 3 wanted"):
            split_sample(sample, calibration, seed, pairs=VectorPairs(queries, documents))
        return
    parts = split_sample(sample, calibration, seed, pairs=VectorPairs(queries, documents))
    held_out = [rows_of(parts.selection_queries), rows_of(parts.test_queries), rows_of(parts.pairs.queries)]
    assert sum(map(len, held_out)) == len(set.union(*held_out)) == different
    assert len(held_out[0]) == len(held_out[1]) == different // 3
    all_pairs = np.hstack([queries, documents])
    assert rows_of(np.hstack([parts.pairs.queries, parts.pairs.documents])) <= rows_of(all_pairs)
    assert len(parts.pairs) == sum(rows_of(row[None]) <= held_out[2] for row in queries)


def test_given_queries_are_removed_from_training_pairs(sample: np.ndarray, fitted: Calibration) -> None:
    """A held-out query is removed from the pairs even if its embedding differs in the last bits."""
    pairs = topic_pairs(60, 1)
    nearly = pairs.queries[:30] * np.float32(1 + 1e-6)
    queries = np.concatenate([nearly, topic_pairs(30, 2).queries])
    parts = split_sample(sample, fitted, 0, queries, pairs)
    held_out = np.concatenate([parts.selection_queries, parts.test_queries])
    assert (len(parts.queries), len(held_out)) == (20, 40)
    left_out = rows_of(held_out) & rows_of(nearly)
    assert 0 < len(left_out) == 60 - len(parts.pairs)
    assert rows_of(parts.pairs.queries) == {
        row.tobytes() for row, near in zip(pairs.queries[:30], nearly, strict=True) if near.tobytes() not in left_out
    } | rows_of(pairs.queries[30:])
    assert len(parts.rows) == len(sample)


def test_selection_and_test_use_at_most_500_queries(sample: np.ndarray, fitted: Calibration) -> None:
    parts = split_sample(sample, fitted, 0, pairs=topic_pairs(1600, 1))
    assert (len(parts.pairs), len(parts.selection_queries), len(parts.test_queries)) == (600, 500, 500)


def test_result_counts_training_pairs(sample: np.ndarray, fitted: Calibration) -> None:
    done = adapt(sample, fitted, AdaptOptions(steps=5), pairs=topic_pairs(90, 1))
    assert (done.pairs, done.queries, done.rows) == (30, 30, 600)
    assert done.as_dict()["pairs"] == 30


def test_invalid_pairs_raise(sample: np.ndarray, fitted: Calibration) -> None:
    pairs = topic_pairs(9, 1)
    damaged = pairs.documents.copy()
    damaged[4, 2] = np.nan
    with pytest.raises(RowError, match="documents of pairs: row 4"):
        adapt(sample, fitted, pairs=VectorPairs(pairs.queries, damaged))
    with pytest.raises(InputError, match="queries of pairs: 8 dimensions found, 16 wanted"):
        adapt(sample, fitted, pairs=VectorPairs(pairs.queries[:, :8], pairs.documents))
    with pytest.raises(InputError, match="pairs: 9 queries and 8 documents found"):
        adapt(sample, fitted, pairs=VectorPairs(pairs.queries, pairs.documents[:8]))


# Reading


class Letters:
    """Embeds a query as the counts of its letters, and a document as their negatives."""

    def __init__(self) -> None:
        self.embedded: list[str] = []

    def embed_queries(self, texts: list[str]) -> np.ndarray:
        self.embedded += texts
        return np.array([[text.count(letter) for letter in "abcdefgh"] + [1] * 8 for text in texts], np.float32)

    def embed_documents(self, texts: list[str]) -> np.ndarray:
        return -self.embed_queries(texts)


def no_model() -> Any:
    """Fail: pairs of vectors need no model."""
    raise AssertionError("vectors need no model")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["p.jsonl", "p.parquet"])
def test_each_text_is_embedded_once(name: str, tmp_path: Path, fitted: Calibration) -> None:
    texts = [("ab", "a"), ("c", "b"), ("ab", "b")]
    path = write_rows(tmp_path / name, [{"id": i, "question": q, "answer": d} for i, (q, d) in enumerate(texts)])
    model: Any = Letters()
    found = read_vector_pairs(path, fitted, lambda: model, 0)
    assert model.embedded == ["ab", "c", "a", "b"]
    assert np.array_equal(found.queries, Letters().embed_queries([query for query, _ in texts]))
    assert np.array_equal(found.documents, Letters().embed_documents([document for _, document in texts]))


@pytest.mark.parametrize("name", ["p.jsonl", "p.parquet"])
def test_vectors_are_read_unchanged(name: str, tmp_path: Path, fitted: Calibration) -> None:
    pairs = topic_pairs(7, 1)
    sides = zip(pairs.queries.tolist(), pairs.documents.tolist(), strict=True)
    path = write_rows(tmp_path / name, [{"id": i, "text": "t", "q": q, "d": d} for i, (q, d) in enumerate(sides)])
    found = read_vector_pairs(path, fitted, no_model, 0)
    assert np.array_equal(found.queries, pairs.queries)
    assert np.array_equal(found.documents, pairs.documents)


@pytest.mark.parametrize("kind", ["texts", "vectors"])
def test_too_many_pairs_are_sampled(
    kind: str, tmp_path: Path, fitted: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned_bits_data, "MAX_PAIRS", 20)
    pairs = topic_pairs(100, 1)
    rows = [
        {"q": q, "d": d} if kind == "vectors" else {"q": f"{'a' * (i + 1)}", "d": f"{'b' * (i + 1)}"}
        for i, (q, d) in enumerate(zip(pairs.queries.tolist(), pairs.documents.tolist(), strict=True))
    ]
    path = write_rows(tmp_path / "p.jsonl", rows)
    model: Any = Letters()
    drawn, again, other = (read_vector_pairs(path, fitted, lambda: model, seed) for seed in (0, 0, 1))
    assert len(drawn) == len(rows_of(drawn.queries)) == 20
    assert np.array_equal(drawn.queries, again.queries)
    assert not np.array_equal(drawn.queries, other.queries)
    if kind == "vectors":
        assert rows_of(np.hstack([drawn.queries, drawn.documents])) <= rows_of(
            np.hstack([pairs.queries, pairs.documents])
        )
    else:
        assert np.array_equal(drawn.queries[:, 0], -drawn.documents[:, 1])


SIXTEEN = [1.0] * 16


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"q": "a", "d": "b"}, {"q": "a"}], "column d: row 1: None found, a text"),
        ([{"q": "a", "d": "b"}, {"q": "", "d": "c"}], "column q: row 1: '' found, a text"),
        ([{"q": "a"}], "1 columns of text, expected rows of two or more"),
        (
            [{"q": "a", "d": "b", "label": 0}],
            "has a column label, but `qvec adapt` needs queries with documents",
        ),
        ([{"q": SIXTEEN, "d": SIXTEEN, "score": 1.0}], "has a column score"),
        ([{"q": SIXTEEN, "d": SIXTEEN}, {"q": SIXTEEN, "d": None}], "p.jsonl, line 2: "),
        ([{"q": SIXTEEN, "d": SIXTEEN}, {"q": SIXTEEN[:9], "d": SIXTEEN}], "p.jsonl, line 2: "),
        ([{"q": SIXTEEN, "d": [0.0] * 16}], "row 0: "),
        ([{"q": SIXTEEN[:8], "d": SIXTEEN}], "8 dimensions, expected 16"),
    ],
)
def test_invalid_rows_raise(rows: list[dict[str, Any]], message: str, tmp_path: Path, fitted: Calibration) -> None:
    path = write_rows(tmp_path / "p.jsonl", rows)
    model: Any = Letters()
    with pytest.raises(InputError, match=message):
        read_vector_pairs(path, fitted, lambda: model, 0)


@pytest.mark.parametrize("content", [b"", b"[1]\n", b"{\n", b"\xff\xfe"])
def test_unreadable_files_raise(content: bytes, tmp_path: Path, fitted: Calibration) -> None:
    for name in ("p.jsonl", "p.parquet"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(QvecError, match=name):
            read_vector_pairs(tmp_path / name, fitted, no_model, 0)
    with pytest.raises(InputError, match=r"cannot read .*missing\.jsonl"):
        read_vector_pairs(tmp_path / "missing.jsonl", fitted, no_model, 0)


# The command


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(main, ["adapt", *map(str, arguments)])


def test_command_with_vectors(tmp_path: Path, sample: np.ndarray) -> None:
    source, output = tmp_path / "v.npy", tmp_path / "cal.safetensors"
    np.save(source, sample)
    given_pairs = topic_pairs(90, 1)
    sides = zip(given_pairs.queries.tolist(), given_pairs.documents.tolist(), strict=True)
    pairs = write_rows(tmp_path / "p.jsonl", [{"query": q, "document": d} for q, d in sides])
    done = run(source, "-o", output, "--pairs", pairs, "--steps", 300, "--bits", 16)
    assert done.exit_code == 0, done.output
    assert "learning from 30 pairs whose queries are not held out" in done.output
    assert "30 queries held out, 600 rows" in done.output
    np.save(tmp_path / "q.npy", topic_pairs(30, 9).queries)
    done = run(source, "-o", output, "--pairs", pairs, "--queries", tmp_path / "q.npy", "--steps", 5, "--json")
    found = json.loads(done.stdout)
    assert (found["queries"], found["rows"], found["pairs"]) == (10, 600, 90)
    assert Calibration.load(output).id == found["id"]


def test_command_with_texts(tmp_path: Path) -> None:
    tiny_model(tmp_path)
    model = tmp_path / "model"
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    words = ["cat", "dog", "tree", "river", "city", "house"]
    texts = [{"text": f"{a} {b} {c} {d}"} for a in words for b in words for c in words for d in words[:2]]
    source = write_rows(tmp_path / "texts.jsonl", texts)
    done = run(source, "-o", tmp_path / "c", "--model", model, "--pairs", pairs, "--steps", 5, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["pairs"] == 20
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(300, 20)).astype(np.float32))
    done = run(tmp_path / "v.npy", "-o", tmp_path / "d", "--pairs", pairs)
    assert done.exit_code == 1
    assert "pairs.jsonl has text but no vectors; name the model that embeds it: --model NAME" in done.output
    assert not (tmp_path / "d").exists()
