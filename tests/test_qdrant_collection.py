"""A collection in Qdrant beyond what all stores share: settings, its description on a server, use by many at once."""

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
from numpy.typing import NDArray
from qdrant_client import QdrantClient
from qdrant_wire import WireServer

import qvec
from qvec import Calibration, CalibrationError, CollectionError, InputError, QvecError
from qvec.client import Collection, Database
from qvec.qdrant.description import Description

Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WireServer]:
    with WireServer(tmp_path_factory.mktemp("wire")) as server:
        yield server


@pytest.fixture(scope="module", params=["directory", "server"])
def db(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    if request.param == "directory":
        with qvec.connect(f"qdrant:{tmp_path_factory.mktemp('data')}") as database:
            yield database
    else:
        with qvec.connect(f"qdrant://127.0.0.1:{request.getfixturevalue('wire').port}") as database:
            yield database


# Settings


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, {"rescore": "float16", "prefilter": "turbo1", "query_encoding": "scalar8bits", "oversampling": 4}),
        ({"query_encoding": "binary"}, {"rescore": "float16", "prefilter": "binary", "query_encoding": "binary"}),
        ({"rescore": "binary"}, {"rescore": "binary", "prefilter": "binary", "query_encoding": "scalar8bits"}),
        ({"rescore": "turbo16", "prefilter": "turbo1.5"}, {"rescore": "turbo16", "prefilter": "turbo1.5"}),
        ({"rescore": "turbo8", "prefilter": "binary1.5", "query_encoding": "scalar4bits"}, {"prefilter": "binary1.5"}),
        ({"rescore": "float32", "prefilter": "binary2", "oversampling": 1.5}, {"oversampling": 1.5}),
    ],
)
def test_settings_are_kept(
    db: Database, calibration: Calibration, name: str, settings: dict[str, Any], kept: dict[str, Any]
) -> None:
    made = db.create_collection(name, calibration=calibration, model="m", **settings)
    for docs in (made, db.collection(name)):
        assert kept.items() <= docs.settings.items()
        assert docs.settings.keys() == db.store.settings | {"oversampling"}
        assert (docs.model, docs.calibration) == ("m", calibration)
        assert docs.keeps_floats == (settings.get("rescore") != "binary")
    layout = made.stored.view.layout  # type: ignore[attr-defined]
    assert repr(made) == (
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
def test_settings_that_do_not_go_together(
    db: Database, calibration: Calibration, name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        db.create_collection(name, calibration=calibration, **settings)
    assert str(caught.value) == message
    assert not db.has_collection(name)


def test_a_directory_has_no_shards(db: Database, calibration: Calibration, name: str) -> None:
    if not db.store.embedded:
        assert db.create_collection(name, calibration=calibration, shards=1).settings["shards"] == 1
        return
    with pytest.raises(InputError, match="is one shard in one process; shards and replicas are for a server"):
        db.create_collection(name, calibration=calibration, shards=2)


def test_another_calibration_is_refused(db: Database, calibration: Calibration, vectors: Vectors, name: str) -> None:
    db.create_collection(name, calibration=calibration)
    assert db.collection(name, calibration=calibration).calibration == calibration
    other = Calibration.fit(vectors, threshold=0)
    with pytest.raises(
        CollectionError, match=f"^collection {name!r} has calibration {calibration.id}, not {other.id}; codes of two"
    ):
        db.collection(name, calibration=other)


# Descriptions


def test_a_description_comes_back_from_json(calibration: Calibration, db: Database, name: str) -> None:
    docs = db.create_collection(name, calibration=calibration, id_type="text", oversampling=1.25, model="m")
    described = db.store.backend.describe(name)  # type: ignore[attr-defined]
    assert described is not None
    assert Description.from_json(described.to_json(), name) == described
    assert described.calibration.to_bytes() == docs.calibration.to_bytes() == calibration.to_bytes()


@pytest.fixture
def tamper(wire: WireServer, name: str) -> Iterator[Callable[[Callable[[Any], Any]], None]]:
    """Changes what a collection's metadata on the server holds under qvec's key."""
    client = QdrantClient(host="127.0.0.1", grpc_port=wire.port, prefer_grpc=True, check_compatibility=False)

    def change(change: Callable[[Any], Any]) -> None:
        stored = client.get_collection(name).config.metadata or {}
        client.update_collection(name, metadata={"qvec": change(stored["qvec"])})

    yield change
    client.close()


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a word": lambda _: "qvec",
    "a list": lambda d: [d],
    "nothing": lambda _: {},
    "a newer format": lambda d: {**d, "format": 2},
    "no calibration": lambda d: {key: value for key, value in d.items() if key != "content"},
    "half a calibration": lambda d: {**d, "content": d["content"][:400]},
    "a changed calibration": lambda d: {**d, "content": d["content"][:-8] + "AAAA" + d["content"][-4:]},
    "another id": lambda d: {**d, "calibration": "0" * 16},
    "another precision": lambda d: {**d, "rescore": "float32"},
    "a prefilter that is none": lambda d: {**d, "prefilter": "ternary"},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_metadata_on_a_server_is_told(
    wire: WireServer,
    calibration: Calibration,
    name: str,
    tamper: Callable[[Callable[[Any], Any]], None],
    damage: str,
) -> None:
    with qvec.connect(f"qdrant://127.0.0.1:{wire.port}") as db:
        db.create_collection(name, calibration=calibration)
        whole: list[Any] = []
        tamper(lambda stored: whole.append(stored) or DAMAGES[damage](stored))
        for use in (lambda: db.collection(name), lambda: db.has_collection(name), db.collections):
            with pytest.raises((CollectionError, CalibrationError), match=f"collection {name!r}"):
                use()
        tamper(lambda _: whole[0])
        assert db.collection(name).calibration == calibration
        db.drop_collection(name)


def test_a_calibration_of_another_length_on_a_server_is_refused(
    wire: WireServer,
    calibration: Calibration,
    vectors: Vectors,
    name: str,
    tamper: Callable[[Callable[[Any], Any]], None],
) -> None:
    cut = Calibration.fit(vectors, dimensions=32)
    content = base64.b64encode(cut.to_bytes()).decode()
    with qvec.connect(f"qdrant://127.0.0.1:{wire.port}") as db:
        db.create_collection(name, calibration=calibration)
        whole: list[Any] = []
        tamper(lambda stored: whole.append(stored) or {**stored, "content": content, "calibration": cut.id})
        with pytest.raises(CollectionError, match=f"^collection {name!r} holds float16 vectors of 64 dimensions"):
            db.collection(name)
        tamper(lambda _: whole[0])
        db.drop_collection(name)


# Use at once


def test_a_drop_ends_what_others_do(db: Database, calibration: Calibration, vectors: Vectors, name: str) -> None:
    """With an error of qvec's, whatever the moment."""
    docs = db.create_collection(name, calibration=calibration)
    docs.upsert(np.arange(200), vectors[:200])
    ends: list[Any] = []
    deadline = time.monotonic() + 20

    def work(step: Callable[[int], Any]) -> None:
        try:
            for turn in itertools.takewhile(lambda _: time.monotonic() < deadline, itertools.count()):
                step(turn)
            ends.append("never")
        except Exception as error:
            ends.append(error)

    steps: list[Callable[[int], Any]] = [
        lambda turn: docs.search(vectors[turn % 200]),
        lambda turn: docs.upsert([turn], vectors[:1]),
        lambda turn: docs.get([turn % 200]),
        lambda _: docs.info(),
    ]
    threads = [threading.Thread(target=work, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    db.drop_collection(name)
    for thread in threads:
        thread.join(60)
    assert len(ends) == 4
    assert all(isinstance(end, QvecError) for end in ends), ends


def test_many_writers_lose_nothing(db: Database, calibration: Calibration, vectors: Vectors, name: str) -> None:
    docs: Collection = db.create_collection(name, calibration=calibration)
    faults: list[Exception] = []

    def write(thread: int) -> None:
        try:
            for start in range(0, 250, 50):
                rows = np.arange(250 * thread + start, 250 * thread + start + 50)
                docs.upsert(rows, vectors[rows], [str(row) for row in rows])
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []
    assert docs.count() == 1000
    assert [hit and hit.document for hit in docs.get(range(1000))] == [str(row) for row in range(1000)]  # type: ignore[arg-type]
    for row in (0, 333, 999):
        assert docs.search(vectors[row], k=1)[0].id == row


def test_the_next_id_follows_the_largest(db: Database, calibration: Calibration, vectors: Vectors, name: str) -> None:
    docs = db.create_collection(name, calibration=calibration)
    assert docs.stored.view.next_id() == 0
    for ids, following in (([-7], 0), ([0], 1), ([5, 3], 6), ([2**40], 2**40 + 1), ([2**63 - 2], 2**63 - 1)):
        docs.upsert(ids, vectors[: len(ids)])
        assert docs.stored.view.next_id() == following


def test_an_explanation_tells_what_was_asked(
    db: Database, calibration: Calibration, vectors: Vectors, name: str
) -> None:
    docs = db.create_collection(name, calibration=calibration)
    docs.upsert(np.arange(100), vectors[:100], None, [{"row": row} for row in range(100)])
    found = docs.explain(vectors[3], k=5, oversampling=2, filter={"row": {"$lt": 50}})
    assert found.hits == docs.search(vectors[3], k=5, oversampling=2, filter={"row": {"$lt": 50}})
    assert found.candidates == 10
    assert "metadata.row" in found.statement
    assert docs.explain(vectors[3], exact=True).candidates is None


def test_directories_are_written_with_tilde_and_spaces(
    tmp_path: Path, calibration: Calibration, vectors: Vectors
) -> None:
    for odd in ("with space", "ünï ~ %41"):
        with qvec.connect(f"qdrant:{tmp_path / odd}") as db:
            db.create_collection("docs", calibration=calibration).upsert([1], vectors[:1])
        with qvec.connect(f"qdrant:{tmp_path / odd}") as db:
            assert db.collection("docs").count() == 1
