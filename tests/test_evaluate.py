"""Evaluation of collections, compared with the same searches in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytrec_eval
import specification
from conftest import realistic, unit
from databases import Store
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qvec import Calibration, InputError
from qvec.client import Collection, Database
from qvec.client.recall import oversampling_with_own_row
from qvec.codes import PLANES
from qvec.evaluation.dataset import Queries, Rows, rows_of_collection, rows_of_source
from qvec.evaluation.evaluation_results import Evaluation, Result
from qvec.evaluation.evaluator import evaluate
from qvec.evaluation.ground_truth import find_ground_truth
from qvec.evaluation.scan import RESCORES
from qvec.evaluation.search_config import bytes_per_vector, candidate_count
from qvec.evaluation.tuning import find_alternatives
from qvec.ingest import Reporter
from qvec.prefilter_levels import LEVELS
from qvec.sources import open_source

Floats = NDArray[np.float32]
Lists = list[list[int]]

K = 10
DIMENSIONS = 64
MEASURED = {name: planes for name, planes in PLANES.items() if planes <= PLANES["int8"]}
"""The planes of the precisions by which a collection of int8 codes can rescore."""


@pytest.fixture(scope="module")
def queries(queries: Floats) -> Floats:
    """Half of the queries: most of the time of an evaluation is that of its searches."""
    return queries[26:]


@pytest.fixture(scope="module")
def collection(db: Database, calibration: Calibration, vectors: Floats) -> Collection:
    """A thousand rows of int8 codes with an index; ids are the rows' numbers."""
    created = db.create_collection("evaluated", calibration=calibration)
    created.upsert(range(len(vectors)), vectors)
    created.build_index()
    return created


@pytest.fixture(scope="module")
def source(vectors: Floats, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the vectors that the collection holds."""
    path = tmp_path_factory.mktemp("source") / "vectors.npy"
    np.save(path, vectors)
    return path


def as_queries(vectors: Floats, names: list[str] | None = None) -> Queries:
    return Queries(tuple(names or map(str, range(len(vectors)))), vectors, "the test")


def rows_of(path: Path, calibration: Calibration, first_id: int = 0) -> Rows:
    return rows_of_source(open_source(path), calibration, None, first_id)


@pytest.fixture(scope="module")
def evaluation(collection: Collection, queries: Floats, source: Path, calibration: Calibration) -> Evaluation:
    return evaluate(collection, as_queries(queries), rows_of(source, calibration))


def by_name(evaluation: Evaluation) -> dict[str, Result]:
    return {result.name: result for result in evaluation.results}


# The same searches in numpy, from the specification of codes.


def top(scores: NDArray[np.float64], k: int = K) -> Lists:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k].tolist()


def recall(found: Lists, truth: Lists) -> float:
    return float(np.mean([len({*a} & {*b}) / len(b) for a, b in zip(found, truth, strict=True)]))


def true_nearest(vectors: Floats, queries: Floats) -> Lists:
    return top(unit(queries).astype(np.float64) @ unit(vectors).astype(np.float64).T)


def decoded_scores(vectors: Floats, queries: Floats, calibration: Calibration, planes: int) -> NDArray[np.float64]:
    codes = specification.long_codes(vectors, calibration.threshold, calibration.radius, cosine=True)
    kept = specification.from_planes(specification.to_planes(codes, planes), DIMENSIONS, planes)
    rows = specification.decoded(kept, calibration.threshold, calibration.radius, calibration.deviation, planes)
    return specification.scores(rows, unit(queries), by_length=True)


def candidates(vectors: Floats, queries: Floats, calibration: Calibration, prefilter: str, count: int) -> NDArray[Any]:
    def bits(rows: Floats) -> NDArray[np.uint8]:
        codes = specification.codes(rows, calibration.threshold, calibration.radius, cosine=True)
        return specification.levels(codes, LEVELS[prefilter])

    return specification.nearest(specification.hamming(bits(vectors), bits(queries)), count)


def rescored(near: NDArray[Any], scores: NDArray[np.float64]) -> Lists:
    order = np.argsort(-np.take_along_axis(scores, near, axis=1), axis=1, kind="stable")[:, :K]
    return np.take_along_axis(near, order, axis=1).tolist()


def test_exact_rescoring_recall_equals_numpy(
    evaluation: Evaluation, vectors: Floats, queries: Floats, calibration: Calibration
) -> None:
    truth, found = true_nearest(vectors, queries), by_name(evaluation)
    for rescore, planes in MEASURED.items():
        wanted = recall(top(decoded_scores(vectors, queries, calibration, planes)), truth)
        assert found[f"none/{rescore}"].recall.value == pytest.approx(wanted)
    assert found["none/float32"].recall == (1, 1, 1)
    assert found["none/binary"].recall.value < found["none/int4"].recall.value < found["none/int8"].recall.value < 1


def test_ten_planes_are_measured_as_all_precisions_of_codes(
    db: Database, vectors: Floats, queries: Floats, source: Path, calibration: Calibration
) -> None:
    fine = db.create_collection("fine", calibration=calibration, rescore="int10")
    fine.upsert(range(len(vectors)), vectors)
    fine.build_index()
    measured = by_name(evaluate(fine, as_queries(queries), rows_of(source, calibration), oversamplings=[4]))
    truth, near = true_nearest(vectors, queries), candidates(vectors, queries, calibration, "levels6", 4 * K)
    for rescore, planes in PLANES.items():
        scores = decoded_scores(vectors, queries, calibration, planes)
        assert measured[f"none/{rescore}"].recall.value == pytest.approx(recall(top(scores), truth))
        scanned = measured[f"levels6/{rescore}/4/scan"]
        assert scanned.recall.value == pytest.approx(recall(rescored(near, scores), truth))
    assert measured["none/int10"].recall.value > measured["none/int8"].recall.value
    assert measured["none/int10"].bytes_per_vector == 10 * DIMENSIONS // 8
    assert alternatives_of(fine, queries) >= {("levels6", "int8"), ("binary", "int10")}


@pytest.mark.parametrize("prefilter", ["levels6", "binary"])
def test_scan_recall_equals_numpy(
    evaluation: Evaluation, vectors: Floats, queries: Floats, calibration: Calibration, prefilter: str
) -> None:
    truth, found = true_nearest(vectors, queries), by_name(evaluation)
    for rescore, planes in MEASURED.items():
        scores = decoded_scores(vectors, queries, calibration, planes)
        for oversampling in (1, 2, 4, 8, 16):
            near = candidates(vectors, queries, calibration, prefilter, K * oversampling)
            result = found[f"{prefilter}/{rescore}/{oversampling}/scan"]
            assert result.recall.value == pytest.approx(recall(rescored(near, scores), truth))
    near = candidates(vectors, queries, calibration, prefilter, K)
    assert found[f"{prefilter}/none/scan"].recall.value == pytest.approx(recall(near.tolist(), truth))


def test_block_size_does_not_change_scan_recall(
    collection: Collection,
    evaluation: Evaluation,
    queries: Floats,
    source: Path,
    calibration: Calibration,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qvec.evaluation.evaluator._SCAN_ROWS", 97)
    again = evaluate(collection, as_queries(queries), rows_of(source, calibration), oversamplings=[2, 16])
    scanned = [name for name in by_name(again) if name.endswith("/scan")]
    assert scanned
    for name in scanned:
        assert by_name(again)[name].recalls.tolist() == by_name(evaluation)[name].recalls.tolist()


def test_recall_per_query(evaluation: Evaluation, vectors: Floats, queries: Floats, calibration: Calibration) -> None:
    found = by_name(evaluation)["none/int4"]
    near, truth = top(decoded_scores(vectors, queries, calibration, 4)), true_nearest(vectors, queries)
    assert found.recalls.tolist() == [recall([a], [b]) for a, b in zip(near, truth, strict=True)]
    assert found.recall.low < found.recall.value < found.recall.high


def test_alternatives_recall_equals_numpy(
    collection: Collection, vectors: Floats, queries: Floats, source: Path, calibration: Calibration
) -> None:
    truth = true_nearest(vectors, queries)
    nearest = find_ground_truth(collection, as_queries(queries), rows_of(source, calibration), K, Reporter())
    found = find_alternatives(collection, as_queries(queries), rows_of(source, calibration), nearest, 0.95, Reporter())
    by_settings = {(each.prefilter, each.rescore, each.oversampling): each for each in found}
    others = sum(map(len, RESCORES.values())) - 1  # all but the collection's own, int8 after levels6
    assert len(by_settings) == len(found) == 4 * others
    assert [each.bytes_per_vector for each in found] == sorted(each.bytes_per_vector for each in found)
    halves = unit(vectors).astype(np.float16).astype(np.float64)
    scores = {name: decoded_scores(vectors, queries, calibration, planes) for name, planes in PLANES.items()}
    scores["float16"] = unit(queries).astype(np.float16).astype(np.float64) @ halves.T
    nearest_by_bits = {
        (prefilter, oversampling): candidates(vectors, queries, calibration, prefilter, K * oversampling)
        for prefilter, oversampling in {(prefilter, oversampling) for prefilter, _, oversampling in by_settings}
    }
    for (prefilter, rescore, oversampling), each in by_settings.items():
        near = nearest_by_bits[prefilter, oversampling]
        assert each.recall == pytest.approx(recall(rescored(near, scores[rescore]), truth))
        assert each.at_least < each.recall


def alternatives_of(measured: Collection, queries: Floats) -> set[tuple[str, str]]:
    nearest = find_ground_truth(measured, as_queries(queries), None, K, Reporter())
    found = find_alternatives(measured, as_queries(queries), None, nearest, 0.95, Reporter())
    return {(each.prefilter, each.rescore) for each in found}


def test_alternatives_of_codes_have_at_most_their_precision(
    db: Database, collection: Collection, calibration: Calibration, vectors: Floats, queries: Floats
) -> None:
    all_of_codes = {(name, each) for name, rescores in RESCORES.items() for each in rescores if each in MEASURED}
    assert alternatives_of(collection, queries) == all_of_codes - {("levels6", "int8")}
    floats = db.create_collection("kept", calibration=calibration, rescore="float16", prefilter="binary")
    floats.upsert(range(len(vectors)), vectors)
    assert {("levels6", "float16"), ("levels6", "int10")} <= alternatives_of(floats, queries)
    assert ("binary", "float16") not in alternatives_of(floats, queries)


def test_every_configuration_is_measured_once(evaluation: Evaluation) -> None:
    factors = [1, 2, 4, 8, 16]
    indexed = [f"levels6/{rescore}/{factor}" for rescore in MEASURED for factor in factors]
    scanned = [f"{p}/{r}/{factor}/scan" for p in ("levels6", "binary") for r in MEASURED for factor in factors]
    exact = [f"none/{rescore}" for rescore in (*MEASURED, "float32")]
    bits = ["levels6/none", "levels6/none/scan", "binary/none/scan"]
    assert sorted(result.name for result in evaluation.results) == sorted([*indexed, *scanned, *exact, *bits])


def test_only_searches_are_timed(evaluation: Evaluation) -> None:
    for result in evaluation.results:
        if result.name.endswith("/scan") or result.rescore == "float32":
            assert result.p50_ms is result.p95_ms is result.p99_ms is None
        else:
            assert 0 < result.p50_ms <= result.p95_ms <= result.p99_ms < 10_000  # type: ignore[operator]


def test_recall_and_losses_sum_to_one(evaluation: Evaluation) -> None:
    for result in evaluation.results:
        loss = result.loss
        assert loss is not None
        assert loss.index is not None
        assert result.recall.value + loss.index + loss.prefilter + loss.rescore == pytest.approx(1)
        assert abs(loss.index) < 0.03  # a graph of a thousand rows loses almost nothing


class LossyIndex:
    """A collection whose index loses the best hit of every search, as a bad graph does."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)

    def search(self, query: Floats, k: int, oversampling: float | None = None, **options: Any) -> Any:
        found = self._collection.search(query, k, oversampling, **options)
        return found if options.get("exact") else found[1:]


def test_index_loss_is_separate_from_quantization_loss(
    collection: Collection, evaluation: Evaluation, queries: Floats, source: Path, calibration: Calibration
) -> None:
    lossy = evaluate(LossyIndex(collection), as_queries(queries), rows_of(source, calibration), oversamplings=[4])  # type: ignore[arg-type]
    before, after = by_name(evaluation)["levels6/int8/4"], by_name(lossy)["levels6/int8/4"]
    assert before.loss is not None
    assert after.loss is not None
    assert after.recall.value == pytest.approx(before.recall.value - 0.1, abs=0.01)  # the best is nearly always right
    assert after.loss.index == pytest.approx((before.loss.index or 0) + 0.1, abs=0.01)
    assert after.loss.prefilter == pytest.approx(before.loss.prefilter)
    assert after.loss.rescore == pytest.approx(before.loss.rescore)


def test_codes_are_ground_truth_without_source(collection: Collection, queries: Floats) -> None:
    found = evaluate(collection, as_queries(queries), oversamplings=[4])
    assert by_name(found)["none/int8"].recall.value == 1
    assert "none/float32" not in by_name(found)
    assert found.truth == (
        "exact search of the collection's own int8 vectors, because it keeps no floats: what int8 itself loses is not "
        "included; to include it, name what the collection was loaded from (--truth SOURCE)"
    )


def test_short_codes_are_ground_truth_as_they_are_scored(
    db: Database, calibration: Calibration, vectors: Floats, queries: Floats
) -> None:
    created = db.create_collection("short", calibration=calibration, rescore="int4")
    created.upsert(range(len(vectors)), vectors)
    assert by_name(evaluate(created, as_queries(queries), oversamplings=[4]))["none/int4"].recall.value == 1


def test_stored_floats_are_ground_truth_without_source(
    db: Database, calibration: Calibration, vectors: Floats, queries: Floats
) -> None:
    created = db.create_collection("floats", calibration=calibration, rescore="float16", prefilter="binary")
    created.upsert(range(len(vectors)), vectors)
    found = evaluate(created, as_queries(queries), oversamplings=[2])
    assert found.truth == "exact search of the collection's own float16 vectors"
    assert sorted(by_name(found)) == [
        "binary/float16/2", "binary/float16/2/scan", "binary/none", "binary/none/scan", "none/float16",
    ]  # fmt: skip
    halves = unit(vectors).astype(np.float16).astype(np.float64)
    truth = top(unit(queries).astype(np.float64) @ halves.T)
    scores = unit(queries).astype(np.float16).astype(np.float64) @ halves.T
    near = candidates(vectors, queries, calibration, "binary", 2 * K)
    assert by_name(found)["binary/float16/2/scan"].recall.value == pytest.approx(recall(rescored(near, scores), truth))
    assert by_name(found)["none/float16"].recall.value > 0.99
    assert "the collection has no index: every search reads all rows" in found.notes


def test_rows_used_as_queries_are_excluded_from_their_hits(
    collection: Collection, vectors: Floats, source: Path, calibration: Calibration
) -> None:
    """A search finds k other rows, among as many candidates as any search for k hits."""
    ids, drawn = rows_of(source, calibration).sample(40, 1)
    row_queries = Queries(tuple(map(str, ids)), drawn, "rows", tuple(ids))
    found = by_name(evaluate(collection, row_queries, rows_of(source, calibration), oversamplings=[1, 2]))
    scores = decoded_scores(vectors, drawn, calibration, 8)
    exact = unit(drawn).astype(np.float64) @ unit(vectors).astype(np.float64).T
    own = np.arange(40), np.array(ids)
    scores[own] = exact[own] = -np.inf
    truth = top(exact)
    assert found["none/int8"].recall.value == pytest.approx(recall(top(scores), truth))
    near = candidates(vectors, drawn, calibration, "levels6", 2 * K + 1)
    others = np.array([[row for row in line if row != id][: 2 * K] for line, id in zip(near, ids, strict=True)])
    assert found["levels6/int8/2/scan"].recall.value == pytest.approx(recall(rescored(others, scores), truth))
    assert found["levels6/int8/2"].recall.value == pytest.approx(found["levels6/int8/2/scan"].recall.value, abs=0.02)


@given(st.integers(1, 200), st.floats(1, 64))
def test_row_used_as_query_needs_one_more_candidate(k: int, oversampling: float) -> None:
    assert candidate_count(k + 1, oversampling_with_own_row(k, oversampling)) == candidate_count(k, oversampling) + 1


def test_rows_are_sampled_uniformly_without_replacement(
    source: Path, calibration: Calibration, vectors: Floats
) -> None:
    rows = rows_of(source, calibration)
    counts = np.zeros(len(vectors))
    for seed in range(60):
        ids, drawn = rows.sample(100, seed)
        assert len(set(ids)) == 100
        assert np.array_equal(drawn, unit(vectors)[ids].astype(np.float32)) or np.allclose(drawn, unit(vectors)[ids])
        counts[ids] += 1
    assert abs(counts[:500].sum() - counts[500:].sum()) < 300  # of 6,000; four standard deviations
    assert len(rows.sample(5000, 0)[0]) == len(vectors)


def test_rows_sampled_from_collection_are_not_centred(collection: Collection, vectors: Floats) -> None:
    ids, drawn = rows_of_collection(collection).sample(50, 0)
    assert np.allclose(drawn, unit(vectors)[ids], atol=0.02)


def test_ranking_metrics_equal_trec_eval(
    collection: Collection, queries: Floats, source: Path, calibration: Calibration
) -> None:
    rng = np.random.default_rng(5)
    names = [f"q{number}" for number in range(len(queries))]
    hits = collection.search(queries, K, 4, texts=False)
    qrels = {
        name: {str(hit.id): int(rng.integers(0, 3)) for hit in each[::2]} | {"1001": 1}
        for name, each in zip(names[:16], hits, strict=False)
    }
    qrels |= {"q16": {"1": 0}, "another": {"2": 1}}
    found = evaluate(
        collection, as_queries(queries, names), rows_of(source, calibration), qrels=qrels, oversamplings=[4]
    )
    run = {
        name: {str(hit.id): float(-rank) for rank, hit in enumerate(each)}
        for name, each in zip(names[:16], hits, strict=False)
    }
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recip_rank", "recall.10"}).evaluate(run)
    result = by_name(found)["levels6/int8/4"]
    for measured, measure in (
        (result.ndcg, "ndcg_cut_10"),
        (result.mrr, "recip_rank"),
        (result.judged_recall, "recall_10"),
    ):
        assert measured is not None
        assert measured.value == pytest.approx(np.mean([line[measure] for line in theirs.values()]))
    assert len(result.ndcgs) == 16  # type: ignore[arg-type]
    assert "nDCG is over the 16 queries that have a relevant document" in found.notes
    assert list(result.as_dict()) == [
        "prefilter", "rescore", "oversampling", "exact", "recall", "recall_interval", "ndcg", "ndcg_interval", "mrr",
        "judged_recall", "p50_ms", "p95_ms", "p99_ms", "bytes_per_vector", "loss",
    ]  # fmt: skip


def test_judgements_of_other_queries_raise(collection: Collection, queries: Floats) -> None:
    with pytest.raises(InputError) as raised:
        evaluate(collection, as_queries(queries), qrels={"q1": {"1": 1}, "7": {"1": 0}})
    assert str(raised.value) == (
        "no query of the test is judged: its ids are like '0', those of the judgements like 'q1'"
    )


def test_ground_truth_with_other_rows_raises(
    collection: Collection, vectors: Floats, queries: Floats, calibration: Calibration, tmp_path: Path
) -> None:
    fewer, more = tmp_path / "fewer.npy", tmp_path / "more.npy"
    np.save(fewer, vectors[:900])
    np.save(more, np.concatenate([vectors, queries]))
    with pytest.raises(
        InputError,
        match=r"^collection 'evaluated' has 1,000 rows, but .*fewer.npy has 900 usable rows; give everything",
    ):
        evaluate(collection, as_queries(queries), rows_of(fewer, calibration))
    with pytest.raises(InputError, match=r"rows of .*more.npy that are nearest to the queries are not in collection"):
        evaluate(collection, as_queries(queries), rows_of(more, calibration))
    with pytest.raises(
        InputError, match=r"are not in collection 'evaluated', such as id [12]\d{3}; give what it was loaded"
    ):
        evaluate(collection, as_queries(queries), rows_of(more, calibration, first_id=1000))


def test_ground_truth_with_other_vectors_is_noted(
    collection: Collection, queries: Floats, calibration: Calibration, tmp_path: Path
) -> None:
    np.save(tmp_path / "other.npy", realistic(1000, seed=9))
    found = evaluate(collection, as_queries(queries), rows_of(tmp_path / "other.npy", calibration), oversamplings=[4])
    assert any(note.startswith("even rescoring every row finds") for note in found.notes)


def test_ground_truth_skips_bad_rows(
    collection: Collection, vectors: Floats, queries: Floats, calibration: Calibration, tmp_path: Path
) -> None:
    damaged = np.concatenate(
        [vectors, np.full((1, DIMENSIONS), np.nan, np.float32), np.zeros((1, DIMENSIONS), np.float32)]
    )
    np.save(tmp_path / "damaged.npy", damaged)
    found = evaluate(collection, as_queries(queries), rows_of(tmp_path / "damaged.npy", calibration), oversamplings=[4])
    assert by_name(found)["none/int8"].recall.value > 0.9


def test_prefix_recall_is_against_all_dimensions(db: Database, vectors: Floats, queries: Floats, source: Path) -> None:
    """Recall that the truncation loses counts as a loss."""
    cut = Calibration.fit(vectors, dimensions=16)
    created = db.create_collection("cut", calibration=cut)
    created.upsert(range(len(vectors)), vectors)
    rows = rows_of_source(open_source(source), cut, None, 0, queries.shape[1])
    found = by_name(evaluate(created, as_queries(queries), rows, oversamplings=[4]))
    near = top(decoded_scores_of_prefix(vectors, queries, cut))
    assert found["none/int8"].recall.value == pytest.approx(recall(near, true_nearest(vectors, queries)))
    assert found["none/float32"].bytes_per_vector == 4 * DIMENSIONS


def decoded_scores_of_prefix(vectors: Floats, queries: Floats, cut: Calibration) -> NDArray[np.float64]:
    codes = specification.codes(vectors, cut.threshold, cut.radius, cosine=True)
    rows = specification.decoded(codes, cut.threshold, cut.radius, cut.deviation, 8)
    return specification.scores(rows, unit(queries[:, : cut.dimensions]), by_length=True)


@pytest.mark.parametrize(
    ("settings", "prefilter", "rescore", "size"),
    [
        ({}, "levels6", "int8", 13 * 9),
        ({}, "levels6", "int4", 9 * 9),
        ({}, "none", "int8", 8 * 9),
        ({}, "binary", "int8", 9 * 9),
        ({}, "levels6", "none", 5 * 9),
        ({"rescore": "float16", "prefilter": "binary"}, "binary", "float16", 2 * 70 + 2 * 9),
        ({"rescore": "float32"}, "none", "float32", 4 * 70),
    ],
)
def test_bytes_per_vector(
    db: Database, name: str, settings: dict[str, Any], prefilter: str, rescore: str, size: float
) -> None:
    created = db.create_collection(name, calibration=Calibration.fit(realistic(100, 70)), **settings)
    assert bytes_per_vector(created, prefilter, rescore) == size


# Every store


def test_evaluation_on_every_store(
    store: Store, calibration: Calibration, vectors: Floats, queries: Floats, source: Path
) -> None:
    created = store.create(calibration, rescore="float16", prefilter="binary")
    created.upsert(range(len(vectors)), vectors)
    created.build_index()
    found = evaluate(created, as_queries(queries), rows_of(source, calibration), oversamplings=[2, 8])
    results, truth = by_name(found), true_nearest(vectors, queries)
    assert results["none/float16"].recall.value > 0.98
    near = candidates(vectors, queries, calibration, "binary", 8 * K)
    wanted = recall(rescored(near, unit(queries).astype(np.float64) @ unit(vectors).astype(np.float64).T), truth)
    if store.is_postgres:  # Qdrant does not reduce the query to bits
        assert results["binary/float16/8"].recall.value == pytest.approx(wanted, abs=0.02)
    assert wanted - 0.02 <= results["binary/float16/8"].recall.value <= 1
    assert results["binary/none"].recall.value < results["binary/float16/2"].recall.value
    assert ("the binary bits see queries as scalar8bits" in found.notes) == (not store.is_postgres)
    for result in found.results:
        assert result.loss is not None
        lost = (result.loss.index or 0) + result.loss.prefilter + result.loss.rescore
        assert result.recall.value + lost == pytest.approx(1)
    assert found.rows == len(vectors)
