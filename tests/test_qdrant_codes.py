"""The embedded engine's scores without rescoring equal those of the numpy specification of sign-bit codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import specification_qdrant as specification
from conftest import realistic, unit
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from qdrant_edge import (
    BinaryQuantizationConfig,
    BinaryQuantizationQueryEncoding,
    Distance,
    EdgeConfig,
    EdgeOptimizersConfig,
    EdgeShard,
    EdgeVectorParams,
    HnswIndexConfig,
    Memory,
    Point,
    QuantizationSearchParams,
    Query,
    QueryRequest,
    SearchParams,
    UpdateOperation,
    VectorStorageDatatype,
)

from qvec import Calibration, codes

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
NewShard = Callable[[Floats | Halves], EdgeShard]

ENCODINGS = {
    1: BinaryQuantizationQueryEncoding.Binary,
    4: BinaryQuantizationQueryEncoding.Scalar4Bits,
    8: BinaryQuantizationQueryEncoding.Scalar8Bits,
}
DIFFICULT_VALUES = np.array([0, -0.0, 2**-24, -(2**-24), 1e-5, -1e-5, 65504, -65504], np.float16)


@pytest.fixture
def new_shard(tmp_path: Path) -> Iterator[NewShard]:
    """A function that creates an unoptimized shard of rows, without a graph, so that every search scans all rows."""
    shards = []

    def create(rows: Floats | Halves) -> EdgeShard:
        shard = _sign_bit_shard(tmp_path / str(len(shards)), rows)
        shards.append(shard)
        return shard

    yield create
    for shard in shards:
        shard.close()


def _sign_bit_shard(path: Path, rows: Floats | Halves) -> EdgeShard:
    """Create a shard that stores the rows once for each number of query bits, under that number as vector name."""
    vectors = {
        str(bits): EdgeVectorParams(
            size=rows.shape[1],
            distance=Distance.Dot,
            datatype=VectorStorageDatatype.Float16,
            quantization_config=BinaryQuantizationConfig(query_encoding=encoding, memory=Memory.Pinned),
        )
        for bits, encoding in ENCODINGS.items()
    }
    config = EdgeConfig(
        vectors=vectors,
        hnsw_config=HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10),
        optimizers=EdgeOptimizersConfig(indexing_threshold=1),
    )
    shard = EdgeShard.create(str(path), config)
    points = [Point(id, dict.fromkeys(vectors, row)) for id, row in enumerate(rows)]
    shard.update(UpdateOperation.upsert_points(points))
    return shard


def engine_scores(shard: EdgeShard, query: Floats, bits: int, *, exact: bool = False) -> Floats:
    """Return the score of every row, in the order of the rows."""
    parameters = SearchParams(exact=exact, quantization=QuantizationSearchParams(rescore=False))
    rows = shard.info().points_count
    points = shard.query(QueryRequest(limit=rows, query=Query.Nearest(query, using=str(bits)), params=parameters))
    found = np.full(rows, np.nan, np.float32)
    found[[point.id for point in points]] = [point.score for point in points]
    return found


def assert_scores_match_specification(shard: EdgeShard, rows: Halves, queries: Floats) -> None:
    for bits in ENCODINGS:
        for query in queries:
            np.testing.assert_array_equal(
                engine_scores(shard, query, bits), specification.scores(rows, query, bits), strict=True
            )


def difficult_rows(rows: int, dimensions: int) -> Halves:
    """Return normally distributed values, a third of them replaced by difficult values; the first row is 0."""
    random = np.random.default_rng(dimensions)
    vectors = random.normal(size=(rows, dimensions)).astype(np.float16)
    difficult = random.random(vectors.shape) < 1 / 3
    vectors[difficult] = random.choice(DIFFICULT_VALUES, difficult.sum())
    vectors[0] = 0
    return vectors


def test_specification_of_four_dimensions_by_hand() -> None:
    """With 16 levels of step 1/4 from −1.875, 0 is at 7.5, rounded to level 8, and 0.3 at 8.7, rounded to 9."""
    query = np.array([-1.875, 1.875, 0, 0.3], np.float32)
    assert specification.levels(query, 1).tolist() == [0, 1, 0, 1]
    assert specification.levels(query, 4).tolist() == [0, 15, 8, 9]
    stored = np.array([[-1, 1, -1, 1], [1, -1, 1, -1], [0, -0.0, 2**-24, 0]], np.float16)
    assert specification.scores(stored, query, 1).tolist() == [4, -4, -2]
    different = np.array([0 + 0 + 8 + 6, 15 + 15 + 7 + 9, 0 + 15 + 7 + 9]) / 15
    assert specification.scores(stored, query, 4) == pytest.approx(4 - 2 * different)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("dimensions", [1, 2, 7, 8, 9, 31, 33, 63, 64, 65, 127, 128, 129, 257, 384, 1000, 1024])
def test_scores_of_difficult_rows(new_shard: NewShard, dimensions: int) -> None:
    """Also before optimize(): the engine scores new rows by their codes immediately."""
    rows = difficult_rows(600, dimensions)
    faint = np.random.default_rng(0).normal(0, 1e-5, (3, dimensions))
    queries = np.concatenate([difficult_rows(5, dimensions), realistic(3, dimensions), faint]).astype(np.float32)
    shard = new_shard(rows)
    assert_scores_match_specification(shard, rows, queries)
    shard.optimize()
    assert shard.info().indexed_vectors_count == len(ENCODINGS) * len(rows)
    assert_scores_match_specification(shard, rows, queries)


@pytest.fixture(scope="module")
def small_shard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeShard]:
    """50 difficult rows of 21 dimensions."""
    shard = _sign_bit_shard(tmp_path_factory.mktemp("qdrant") / "shard", difficult_rows(50, 21))
    shard.optimize()
    yield shard
    shard.close()


@given(query=arrays(np.float32, 21, elements=st.floats(-65504, 65504, width=32)))
def test_scores_of_any_query(small_shard: EdgeShard, query: Floats) -> None:
    assert_scores_match_specification(small_shard, difficult_rows(50, 21), query[None])


def test_sign_bits_are_the_first_plane_of_the_codes(new_shard: NewShard, vectors: Floats, queries: Floats) -> None:
    """The engine's scores of calibrated vectors are those of these bits too."""
    calibration = Calibration.fit(vectors)
    stored = (unit(vectors) - calibration.threshold).astype(np.float16)
    bits = np.packbits(specification.sign_bits(stored), axis=1)
    np.testing.assert_array_equal(bits, codes.quantize(vectors, calibration, 1))
    shard = new_shard(stored)
    shard.optimize()
    assert_scores_match_specification(shard, stored, unit(queries))


def test_values_below_float16_lose_their_sign_bit_when_optimized(new_shard: NewShard) -> None:
    """This is why qvec rounds vectors before it sends them: otherwise their scores would change later."""
    rows = np.full((200, 8), 1e-9, np.float32)
    query = np.ones(8, np.float32)
    shard = new_shard(rows)
    assert set(engine_scores(shard, query, 1)) == {8}
    shard.optimize()
    assert set(engine_scores(shard, query, 1)) == {-8}


def test_exact_search_scores_by_floats(new_shard: NewShard) -> None:
    rows, query = realistic(100).astype(np.float16), realistic(1, seed=1)[0]
    shard = new_shard(rows)
    shard.optimize()
    expected = rows.astype(np.float32) @ query.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(engine_scores(shard, query, 1, exact=True), expected, rtol=1e-5, atol=1e-4)
