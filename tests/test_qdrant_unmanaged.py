"""Unmanaged Qdrant collections: qvec did not create them; it reads them with a given calibration and never writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import qdrant_edge
from conftest import realistic, unit
from fake_qdrant import FakeQdrantServer
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

import qvec
from qvec import Calibration, CollectionError, InputError
from qvec.client import Database
from qvec.metadata_index import MetadataIndex

Vectors = NDArray[np.float32]

VECTORS = realistic(200, 32)
QUERIES = realistic(5, 32, seed=1)
UUID = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26"
IDS: list[int | str] = [*range(198), 2**64 - 1, UUID]
PAYLOADS: list[dict[str, Any]] = [{"document": f"text {row}", "color": ["red", "blue"][row % 2]} for row in range(200)]


class CreateRaw(Protocol):
    """Creates the collection "raw" with these vectors through Qdrant's own client."""

    def __call__(
        self, vectors: Vectors, distance: str = ..., datatype: str = ..., *, named: bool = ..., multi: bool = ...
    ) -> Database: ...


@pytest.fixture(params=["directory", "server"])
def create_raw(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CreateRaw]:
    if request.param == "directory":
        with qvec.connect(f"qdrant:{tmp_path}") as db:
            yield lambda *arguments, **options: _create_in_directory(db, tmp_path / "raw", *arguments, **options)
    else:
        with FakeQdrantServer(tmp_path) as server:
            client = QdrantClient(host="127.0.0.1", grpc_port=server.port, prefer_grpc=True, check_compatibility=False)
            with qvec.connect(server.url) as db:
                yield lambda *arguments, **options: _create_on_server(db, client, *arguments, **options)
            client.close()


def _create_in_directory(
    db: Database,
    path: Path,
    vectors: Vectors,
    distance: str = "Dot",
    datatype: str = "float32",
    *,
    named: bool = False,
    multi: bool = False,
) -> Database:
    several = qdrant_edge.MultiVectorConfig(qdrant_edge.MultiVectorComparator.MaxSim)
    vector = qdrant_edge.EdgeVectorParams(
        vectors.shape[1],
        getattr(qdrant_edge.Distance, distance),
        datatype=getattr(qdrant_edge.VectorStorageDatatype, datatype.capitalize()),
        multivector_config=several if multi else None,
    )
    path.mkdir()
    shard = qdrant_edge.EdgeShard.create(
        str(path), qdrant_edge.EdgeConfig(vectors={"text": vector} if named else vector)
    )
    if not named and not multi:
        rows = zip(IDS, vectors.tolist(), PAYLOADS, strict=True)
        shard.update(qdrant_edge.UpdateOperation.upsert_points([qdrant_edge.Point(*row) for row in rows]))
    shard.close()
    return db


def _create_on_server(
    db: Database,
    client: QdrantClient,
    vectors: Vectors,
    distance: str = "Dot",
    datatype: str = "float32",
) -> Database:
    params = models.VectorParams(
        size=vectors.shape[1], distance=models.Distance(distance), datatype=models.Datatype(datatype)
    )
    client.create_collection("raw", vectors_config=params)
    rows = zip(IDS, vectors.tolist(), PAYLOADS, strict=True)
    client.upsert("raw", [models.PointStruct(id=id, vector=vector, payload=payload) for id, vector, payload in rows])
    return db


@pytest.fixture
def mean_threshold() -> Calibration:
    return Calibration.fit(VECTORS)


@pytest.fixture
def zero_threshold() -> Calibration:
    """A calibration for a model that was trained for the signs of its vectors."""
    return Calibration.fit(VECTORS, threshold=0)


@pytest.mark.parametrize("datatype", ["float32", "float16"])
@pytest.mark.parametrize("stored", ["x - threshold", "x", "x of any length"])
def test_search_with_a_calibration(
    create_raw: CreateRaw, mean_threshold: Calibration, zero_threshold: Calibration, datatype: str, stored: str
) -> None:
    """Under Dot the collection stores x - threshold; under Cosine it stores x, which the engine normalizes."""
    calibration = mean_threshold if stored == "x - threshold" else zero_threshold
    vectors = VECTORS if stored == "x of any length" else unit(VECTORS) - calibration.threshold
    db = create_raw(vectors, "Cosine" if stored == "x of any length" else "Dot", datatype)
    docs = db.collection("raw", calibration=calibration)
    assert docs.count() == 200
    true = unit(QUERIES) @ unit(VECTORS).T
    for options in ({}, {"exact": True}):
        for line, hits in zip(true, docs.search(7.3 * QUERIES, k=10, **options), strict=True):
            positions = [IDS.index(hit.id) for hit in hits]
            np.testing.assert_allclose([hit.score for hit in hits], line[positions], atol=1e-3)
            np.testing.assert_allclose([hit.score for hit in hits], np.sort(line)[::-1][:10], atol=1e-3)
            assert [hit.document for hit in hits] == [f"text {position}" for position in positions]


def test_payload_is_returned_as_document_and_metadata(create_raw: CreateRaw, zero_threshold: Calibration) -> None:
    docs = create_raw(VECTORS, "Cosine").collection("raw", calibration=zero_threshold)
    found = docs.get([UUID, 5, 2**64 - 1, "5", "doc:1", -1, 2**64, UUID.upper()])
    assert [hit and (hit.id, hit.document, hit.metadata) for hit in found] == [
        (UUID, "text 199", {"color": "blue"}),
        (5, "text 5", {"color": "blue"}),
        (2**64 - 1, "text 198", {"color": "red"}),
        None,
        None,
        None,
        None,
        (UUID, "text 199", {"color": "blue"}),
    ]
    red = models.Filter(must=[models.FieldCondition(key="color", match=models.MatchValue(value="red"))])
    hits = docs.search(QUERIES[0], k=200, filter=red)
    assert {hit.id for hit in hits} == {*range(0, 198, 2), 2**64 - 1}
    assert {(hit.document, hit.metadata) for hit in docs.search(QUERIES[0], k=3, texts=False)} == {(None, None)}


def test_recall_of_sampled_points(create_raw: CreateRaw, zero_threshold: Calibration) -> None:
    docs = create_raw(VECTORS, "Cosine").collection("raw", calibration=zero_threshold)
    assert sorted(docs.stored.sample_ids(300, 0), key=str) == sorted(IDS, key=str)
    measured = docs.recall(sample=200)
    assert (measured.recall, measured.queries, measured.rows_scanned) == (1, 200, 200)


def test_writes_are_refused(create_raw: CreateRaw, zero_threshold: Calibration) -> None:
    db = create_raw(VECTORS, "Cosine")
    docs = db.collection("raw", calibration=zero_threshold)
    writes: list[Callable[[], Any]] = [
        lambda: docs.upsert([1], VECTORS[:1]),
        lambda: docs.delete([1]),
        docs.build_index,
        lambda: docs.index_metadata([MetadataIndex.parse("color")]),
    ]
    for write in writes:
        with pytest.raises(CollectionError, match=r"^collection 'raw' was not made by qvec, and is only read$"):
            write()
    with pytest.raises(CollectionError, match="raw"):
        db.create_collection("raw", calibration=zero_threshold)
    with pytest.raises(CollectionError, match="raw"):
        db.drop_collection("raw")
    assert docs.count() == 200
    assert docs.info().rows == 200


def test_opening_needs_a_calibration(create_raw: CreateRaw) -> None:
    db = create_raw(VECTORS)
    with pytest.raises(
        CollectionError, match=r"^collection 'raw' was not made by qvec and has no calibration; give the one of its"
    ):
        db.collection("raw")
    assert not db.has_collection("raw")
    assert db.collections() == []


@pytest.mark.parametrize(
    ("distance", "datatype", "threshold", "metric", "message"),
    [
        ("Dot", "uint8", 0, "cosine", "collection 'raw' has uint8 vectors, which do not keep the metric"),
        ("Euclid", "float32", 0, "cosine", "collection 'raw' has distance euclid, and calibration "),
        ("Cosine", "float32", 0.5, "cosine", "collection 'raw' has distance cosine, and calibration "),
        ("Cosine", "float32", 0, "ip", "collection 'raw' has distance cosine, and calibration "),
    ],
)
def test_incompatible_distance_or_datatype_is_refused(
    create_raw: CreateRaw, distance: str, datatype: str, threshold: float, metric: Any, message: str
) -> None:
    vectors = np.abs(VECTORS) if datatype == "uint8" else VECTORS
    db = create_raw(vectors, distance, datatype)
    with pytest.raises(CollectionError) as caught:
        db.collection("raw", calibration=Calibration.fit(VECTORS, threshold=threshold, metric=metric))
    assert str(caught.value).startswith(message)


def test_calibration_of_other_dimensions_is_refused(create_raw: CreateRaw) -> None:
    cut = Calibration.fit(VECTORS, dimensions=16)
    with pytest.raises(
        CollectionError, match=rf"^collection 'raw' has 32 dimensions, but calibration {cut.id} has 16$"
    ):
        create_raw(VECTORS).collection("raw", calibration=cut)


@pytest.mark.parametrize("kind", ["named", "multi"])
def test_named_vectors_and_multivectors_are_refused(tmp_path: Path, zero_threshold: Calibration, kind: str) -> None:
    """Only in a directory, as the fake server does not support such collections."""
    with qvec.connect(f"qdrant:{tmp_path}") as db:
        _create_in_directory(db, tmp_path / "raw", VECTORS, named=kind == "named", multi=kind == "multi")
        for options in ({}, {"calibration": zero_threshold}):
            with pytest.raises(CollectionError, match=r"^collection 'raw' has no vector, or named or several ones a "):
                db.collection("raw", **options)


def test_qvec_filters_only_match_metadata_written_by_qvec(create_raw: CreateRaw, zero_threshold: Calibration) -> None:
    docs = create_raw(VECTORS, "Cosine").collection("raw", calibration=zero_threshold)
    assert docs.search(QUERIES[0], filter={"color": "red"}) == []
    with pytest.raises(InputError, match="filter is a str"):
        docs.search(QUERIES[0], filter="color = red")  # type: ignore[call-overload]
