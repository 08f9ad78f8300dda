"""Qdrant collections: settings, the stored description, concurrent use."""

from __future__ import annotations

import base64
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_qdrant import FakeQdrantServer
from numpy.typing import NDArray
from qdrant_client import QdrantClient

import qvec
from qvec import Calibration, CalibrationError, CollectionError, InputError, QvecError
from qvec.client import Collection, Database
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.qdrant.description import Description

Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeQdrantServer]:
    with FakeQdrantServer(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module", params=["directory", "server"])
def db(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    if request.param == "directory":
        with qvec.connect(f"qdrant:{tmp_path_factory.mktemp('data')}") as database:
            yield database
    else:
        with qvec.connect(request.getfixturevalue("server").url) as database:
            yield database


# Settings


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {},
            {
                "rescore": "float16",
                "prefilter": "turbo1",
                "query_encoding": "scalar8bits",
                "oversampling": DEFAULT_OVERSAMPLING,
            },
        ),
        ({"query_encoding": "binary"}, {"rescore": "float16", "prefilter": "binary", "query_encoding": "binary"}),
        ({"rescore": "binary"}, {"rescore": "binary", "prefilter": "binary", "query_encoding": "scalar8bits"}),
        ({"rescore": "turbo16", "prefilter": "turbo1.5"}, {"rescore": "turbo16", "prefilter": "turbo1.5"}),
        ({"rescore": "turbo8", "prefilter": "binary1.5", "query_encoding": "scalar4bits"}, {"prefilter": "binary1.5"}),
        ({"rescore": "float32", "prefilter": "binary2", "oversampling": 1.5}, {"oversampling": 1.5}),
    ],
)
def test_settings_are_stored(
    db: Database, calibration: Calibration, name: str, settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    created = db.create_collection(name, calibration=calibration, model="m", **settings)
    for docs in (created, db.collection(name)):
        assert expected.items() <= docs.settings.items()
        assert docs.settings.keys() == db.store.settings | {"oversampling"}
        assert (docs.model, docs.calibration) == ("m", calibration)
        assert docs.keeps_floats == (settings.get("rescore") != "binary")
    layout = created.stored.view.layout  # type: ignore[attr-defined]
    assert repr(created) == (
        f"Collection({name!r}, dimensions=64, rescore={layout.rescore!r}, prefilter={layout.prefilter!r}, "
        f"calibration={calibration.id!r})"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"rescore": "uint8"},
            "rescore is 'uint8', expected one of: float16, float32, turbo16, turbo8, binary",
        ),
        ({"query_encoding": "float"}, "query_encoding is 'float', expected one of: scalar8bits, scalar4bits, binary"),
        (
            {"rescore": "binary", "prefilter": "turbo1"},
            "prefilter is 'turbo1', but rescore 'binary' keeps one bit: expected 'binary'",
        ),
        (
            {"prefilter": "turbo2", "query_encoding": "scalar4bits"},
            "query_encoding 'scalar4bits' is of binary prefilters, not 'turbo2'",
        ),
    ],
)
def test_incompatible_settings_are_refused(
    db: Database, calibration: Calibration, name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        db.create_collection(name, calibration=calibration, **settings)
    assert str(caught.value) == message
    assert not db.has_collection(name)


def test_shards_need_a_server(db: Database, calibration: Calibration, name: str) -> None:
    if not db.store.embedded:
        assert db.create_collection(name, calibration=calibration, shards=1).settings["shards"] == 1
        return
    with pytest.raises(InputError, match="is one shard in one process; shards and replicas are for a server"):
        db.create_collection(name, calibration=calibration, shards=2)


def test_opening_with_another_calibration_is_refused(
    db: Database, calibration: Calibration, vectors: Vectors, name: str
) -> None:
    db.create_collection(name, calibration=calibration)
    assert db.collection(name, calibration=calibration).calibration == calibration
    other = Calibration.fit(vectors, threshold=0)
    with pytest.raises(
        CollectionError, match=f"^collection {name!r} has calibration {calibration.id}, not {other.id}; codes of two"
    ):
        db.collection(name, calibration=other)


# Description


def test_description_survives_a_json_round_trip(calibration: Calibration, db: Database, name: str) -> None:
    docs = db.create_collection(name, calibration=calibration, id_type="text", oversampling=1.25, model="m")
    described = db.store.backend.describe(name)  # type: ignore[attr-defined]
    assert described is not None
    assert Description.from_json(described.to_json(), name) == described
    assert described.calibration.to_bytes() == docs.calibration.to_bytes() == calibration.to_bytes()


@pytest.fixture
def edit_description(server: FakeQdrantServer, name: str) -> Iterator[Callable[[Callable[[Any], Any]], None]]:
    """A function that changes qvec's description in a collection's metadata on the server."""
    client = QdrantClient(host="127.0.0.1", grpc_port=server.port, prefer_grpc=True, check_compatibility=False)

    def change(change: Callable[[Any], Any]) -> None:
        stored = client.get_collection(name).config.metadata or {}
        client.update_collection(name, metadata={"qvec": change(stored["qvec"])})

    yield change
    client.close()


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a string": lambda _: "qvec",
    "a list": lambda d: [d],
    "empty": lambda _: {},
    "a newer format": lambda d: {**d, "format": 2},
    "no calibration": lambda d: {key: value for key, value in d.items() if key != "content"},
    "a truncated calibration": lambda d: {**d, "content": d["content"][:400]},
    "a changed calibration": lambda d: {**d, "content": d["content"][:-8] + "AAAA" + d["content"][-4:]},
    "another calibration id": lambda d: {**d, "calibration": "0" * 16},
    "another precision": lambda d: {**d, "rescore": "float32"},
    "an unknown prefilter": lambda d: {**d, "prefilter": "ternary"},
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_description_on_a_server_is_an_error(
    server: FakeQdrantServer,
    calibration: Calibration,
    name: str,
    edit_description: Callable[[Callable[[Any], Any]], None],
    damage: str,
) -> None:
    with qvec.connect(server.url) as db:
        db.create_collection(name, calibration=calibration)
        original: list[Any] = []
        edit_description(lambda stored: original.append(stored) or DAMAGES[damage](stored))
        for use in (lambda: db.collection(name), lambda: db.has_collection(name), db.collections):
            with pytest.raises((CollectionError, CalibrationError), match=f"collection {name!r}"):
                use()
        edit_description(lambda _: original[0])
        assert db.collection(name).calibration == calibration
        db.drop_collection(name)


def test_description_of_other_dimensions_is_an_error(
    server: FakeQdrantServer,
    calibration: Calibration,
    vectors: Vectors,
    name: str,
    edit_description: Callable[[Callable[[Any], Any]], None],
) -> None:
    cut = Calibration.fit(vectors, dimensions=32)
    content = base64.b64encode(cut.to_bytes()).decode()
    with qvec.connect(server.url) as db:
        db.create_collection(name, calibration=calibration)
        original: list[Any] = []
        edit_description(
            lambda stored: original.append(stored) or {**stored, "content": content, "calibration": cut.id}
        )
        with pytest.raises(CollectionError, match=f"^collection {name!r} holds float16 vectors of 64 dimensions"):
            db.collection(name)
        edit_description(lambda _: original[0])
        db.drop_collection(name)


# Concurrency


def test_dropping_ends_concurrent_operations_with_a_qvec_error(
    db: Database, calibration: Calibration, vectors: Vectors, name: str
) -> None:
    docs = db.create_collection(name, calibration=calibration)
    docs.upsert(np.arange(200), vectors[:200])
    errors: list[Any] = []
    deadline = time.monotonic() + 20

    def work(step: Callable[[int], Any]) -> None:
        try:
            for number in itertools.takewhile(lambda _: time.monotonic() < deadline, itertools.count()):
                step(number)
            errors.append("never")
        except Exception as error:
            errors.append(error)

    steps: list[Callable[[int], Any]] = [
        lambda number: docs.search(vectors[number % 200]),
        lambda number: docs.upsert([number], vectors[:1]),
        lambda number: docs.get([number % 200]),
        lambda _: docs.info(),
    ]
    threads = [threading.Thread(target=work, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    db.drop_collection(name)
    for thread in threads:
        thread.join(60)
    assert len(errors) == 4
    assert all(isinstance(error, QvecError) for error in errors), errors


def test_concurrent_writers_lose_no_rows(db: Database, calibration: Calibration, vectors: Vectors, name: str) -> None:
    docs: Collection = db.create_collection(name, calibration=calibration)
    errors: list[Exception] = []

    def write(thread: int) -> None:
        try:
            for start in range(0, 250, 50):
                rows = np.arange(250 * thread + start, 250 * thread + start + 50)
                docs.upsert(rows, vectors[rows], [str(row) for row in rows])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert docs.count() == 1000
    assert [hit and hit.document for hit in docs.get(range(1000))] == [str(row) for row in range(1000)]  # type: ignore[arg-type]
    for row in (0, 333, 999):
        assert docs.search(vectors[row], k=1)[0].id == row


def test_next_id_follows_the_largest(db: Database, calibration: Calibration, vectors: Vectors, name: str) -> None:
    docs = db.create_collection(name, calibration=calibration)
    assert docs.stored.view.next_id() == 0
    for ids, following in (([-7], 0), ([0], 1), ([5, 3], 6), ([2**40], 2**40 + 1), ([2**63 - 2], 2**63 - 1)):
        docs.upsert(ids, vectors[: len(ids)])
        assert docs.stored.view.next_id() == following


def test_explain_returns_hits_candidates_and_statement(
    db: Database, calibration: Calibration, vectors: Vectors, name: str
) -> None:
    docs = db.create_collection(name, calibration=calibration)
    docs.upsert(np.arange(100), vectors[:100], None, [{"row": row} for row in range(100)])
    found = docs.explain(vectors[3], k=5, oversampling=2, filter={"row": {"$lt": 50}})
    assert found.hits == docs.search(vectors[3], k=5, oversampling=2, filter={"row": {"$lt": 50}})
    assert found.candidates == 10
    assert "metadata.row" in found.statement
    assert docs.explain(vectors[3], exact=True).candidates is None


def test_directory_names_with_spaces_and_special_characters(
    tmp_path: Path, calibration: Calibration, vectors: Vectors
) -> None:
    for odd in ("with space", "ünï ~ %41"):
        with qvec.connect(f"qdrant:{tmp_path / odd}") as db:
            db.create_collection("docs", calibration=calibration).upsert([1], vectors[:1])
        with qvec.connect(f"qdrant:{tmp_path / odd}") as db:
            assert db.collection("docs").count() == 1
