"""Loading onto a Qdrant server's stand-in: faults on the wire, what is asked of the server, and its index."""

import logging
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from ingest_helpers import run as run_plainly
from ingest_helpers import vectors, with_ids, write_lines
from listening import listening
from qdrant_client import QdrantClient, models
from qdrant_client.conversions.conversion import RestToGrpc
from qdrant_loading import assert_holds, found_rows, load, position, run, start
from qdrant_wire import WireServer, configs, optimizer

import qvec
from qvec.client import Database
from qvec.errors import CollectionError, DatabaseError, InputError
from qvec.ingest import Reporter, pipeline
from qvec.qdrant import connection, loader, messages
from qvec.qdrant._sync import server, server_engine
from qvec.qdrant._sync.client import Retries
from qvec.qdrant._sync.server_engine import ServerEngine
from qvec.qdrant.address import Address
from qvec.qdrant.points import Points

Code = grpc.StatusCode
SECRET = "not-for-anybodys-eyes"


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[WireServer]:
    with WireServer(tmp_path / "wire") as server:
        yield server


@pytest.fixture
def database(wire: WireServer) -> Iterator[Database]:
    with qvec.connect(url_of(wire)) as database:
        yield database


@pytest.fixture
def source(tmp_path: Path) -> Path:
    np.save(tmp_path / "a.npy", vectors(400))
    return tmp_path / "a.npy"


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long waits between tries, and a checkpoint after each batch."""
    monkeypatch.setattr(connection, "RETRY_SECONDS", (0.01,) * 3)
    monkeypatch.setattr(pipeline, "_RETRY_SECONDS", (0.05,) * 40)
    monkeypatch.setattr(loader, "_CHECKPOINT_SECONDS", 0)


def url_of(server: WireServer, scheme: str = "qdrant", more: str = "") -> str:
    return f"{scheme}://127.0.0.1:{server.port}{more}"


class Watching(Reporter):
    """Keeps what it is told, and does something once, when a load has come so far."""

    def __init__(self, at: int = 0, action: Callable[[], Any] | None = None) -> None:
        self.messages: list[str] = []
        self.index: list[tuple[int, int | None]] = []
        self._at = at
        self._action = action

    def advance(self, name: str, done: int, total: int | None = None) -> None:
        if name == "index":
            self.index.append((done, total))
        if name == "loading" and done >= self._at and self._action is not None:
            action, self._action = self._action, None
            action()

    def say(self, message: str) -> None:
        self.messages.append(message)

    @property
    def retries(self) -> int:
        return sum("the connection was lost" in message for message in self.messages)


@pytest.mark.parametrize(
    ("code", "after", "workers"),
    [
        (Code.UNAVAILABLE, False, 1),
        (Code.UNAVAILABLE, True, 4),
        (Code.DEADLINE_EXCEEDED, True, 1),
        (Code.DEADLINE_EXCEEDED, False, 4),
        (Code.RESOURCE_EXHAUSTED, False, 4),
        (Code.CANCELLED, True, 4),
    ],
)
@pytest.mark.usefixtures("soon")
def test_requests_that_fail_for_a_while_are_repeated(
    wire: WireServer, database: Database, source: Path, code: grpc.StatusCode, after: bool, workers: int
) -> None:
    """A few failures are the client's affair; more of them begin anew at the checkpoint."""
    wire.fail("Upsert", skip=3, times=3, code=code, after=after)
    wire.fail("Upsert", skip=9, times=20, code=code, after=after)
    told = Watching()
    summary = load(database, source, told, batch_rows=20, workers=workers)
    assert (summary.rows, summary.total_rows) == (400, 400)
    assert told.retries >= 1
    assert_holds(database, vectors(400))


@pytest.mark.parametrize("method", ["Points/Get", "Points/Scroll", "Collections/Get", "Count", "CreateFieldIndex"])
@pytest.mark.usefixtures("soon")
def test_a_single_failure_of_any_request_is_not_noticed(
    wire: WireServer, database: Database, source: Path, method: str
) -> None:
    told = Watching()
    wire.fail(method, times=2)
    assert load(database, source, told, on_duplicate="skip", batch_rows=50).rows == 400
    assert wire.count(method) > 2
    assert told.retries == 0


@pytest.mark.parametrize("method", ["Collections/Create", "CreateShardKey"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.usefixtures("soon")
def test_a_collection_is_made_though_answers_are_lost(
    wire: WireServer, database: Database, source: Path, method: str, after: bool
) -> None:
    wire.fail(method, times=2, after=after)
    assert load(database, source, settings={"shard_key": "here"}).rows == 400
    assert_holds(database, vectors(400))


def test_an_overloaded_server_is_given_the_time_it_asks_for(wire: WireServer, database: Database, source: Path) -> None:
    load(database, source)
    told = Watching()
    wire.fail("Upsert", skip=4, code=Code.RESOURCE_EXHAUSTED, retry_after=1)
    summary = load(database, source, told, restart=True, batch_rows=100, workers=1)
    assert (summary.rows, told.retries) == (400, 0)
    assert summary.seconds > 1


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.usefixtures("soon")
def test_a_batch_that_was_refused_is_never_counted(
    wire: WireServer, database: Database, source: Path, workers: int
) -> None:
    load(database, source, collection="other")
    wire.fail("Upsert", skip=8, times=1000, code=Code.INVALID_ARGUMENT)
    with pytest.raises(DatabaseError, match=r"^cannot load .*a\.npy into collection 'docs': a fault on purpose"):
        load(database, source, batch_rows=20, workers=workers)
    reached = position(database, source)
    assert 0 <= reached < 200
    assert set(range(reached)) <= found_rows(database).keys()
    assert len(found_rows(database)) < 200


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.usefixtures("soon")
def test_a_load_survives_a_restart_of_the_server(
    wire: WireServer, database: Database, source: Path, workers: int
) -> None:
    def restart() -> None:
        wire.stop()
        threading.Timer(0.3, wire.start).start()

    told = Watching(100, restart)
    assert load(database, source, told, batch_rows=20, workers=workers).rows == 400
    assert told.retries >= 1
    assert_holds(database, vectors(400))


@pytest.mark.usefixtures("soon")
def test_a_server_that_stays_away_is_one_clear_error(
    wire: WireServer, database: Database, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_RETRY_SECONDS", (0.01, 0.02))
    told = Watching(100, wire.stop)
    with pytest.raises(DatabaseError, match=r"^cannot load .*a\.npy into collection 'docs': .+"):
        load(database, source, told, batch_rows=20)
    assert told.retries == 2
    wire.start()
    deadline = time.monotonic() + 10
    while not _answers(database):
        assert time.monotonic() < deadline
    again = load(database, source, batch_rows=20)
    assert again.rows == 400 - again.resumed_at
    assert 100 <= again.resumed_at <= 140
    assert_holds(database, vectors(400))


def _answers(database: Database) -> bool:
    try:
        return database.has_collection("docs")
    except DatabaseError:
        return False


@pytest.mark.usefixtures("soon")
def test_the_timeout_of_the_url_is_that_of_each_request(wire: WireServer, source: Path) -> None:
    with qvec.connect(url_of(wire, more="?timeout=1")) as database:

        def delay() -> None:
            wire.delay("Upsert", 1.3)
            threading.Timer(2.5, wire.delay, ("Upsert", 0)).start()

        told = Watching(100, delay)
        summary = load(database, source, told, batch_rows=20, workers=2)
    assert summary.rows == 400
    assert summary.seconds < 8
    assert told.retries >= 1
    assert any("Deadline Exceeded" in message for message in told.messages)


def test_a_request_that_took_its_time_is_not_repeated() -> None:
    class Late(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return Code.DEADLINE_EXCEEDED

        def details(self) -> str:
            return "Deadline Exceeded"

    calls = []

    def request() -> None:
        calls.append(time.sleep(0.05))
        raise Late

    with pytest.raises(Late):
        Retries(timeout=0.01)(request)
    assert len(calls) == 1


@pytest.mark.usefixtures("soon")
def test_a_missing_or_wrong_key_is_refused_and_never_shown(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with WireServer(tmp_path / "wire", api_key=SECRET) as wire:
        for key in (None, SECRET + "-else"):
            monkeypatch.delenv("QVEC_QDRANT_API_KEY", raising=False)
            if key:
                monkeypatch.setenv("QVEC_QDRANT_API_KEY", key)
            with pytest.raises(DatabaseError, match=r"refused access .*QVEC_QDRANT_API_KEY") as caught:
                qvec.connect(url_of(wire))
            assert SECRET not in str(caught.value)
        monkeypatch.setenv("QVEC_QDRANT_API_KEY", SECRET)
        with qvec.connect(url_of(wire)) as database:
            told = Watching()
            assert load(database, source, told).rows == 400
            wire.fail("Upsert", times=1000, code=Code.INTERNAL)
            with pytest.raises(DatabaseError) as caught:
                load(database, source, told, restart=True)
            shown = [str(caught.value), repr(database), database.name, *told.messages, caplog.text]
            assert not [text for text in shown if SECRET in text]


@pytest.mark.parametrize("url", ["qdrant://me:{}@localhost", "qdrants://localhost?api_key={}", "qdrant://localhost/{}"])
def test_a_secret_in_a_url_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(InputError) as caught:
        qvec.connect(url.format(SECRET))
    assert SECRET not in str(caught.value)


def test_a_key_that_goes_unencrypted_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QVEC_QDRANT_API_KEY", SECRET)
    warnings = [
        connection.key_warning(Address.parse(f"{url}:6334")) for url in ("qdrant://a", "qdrants://a", "qdrant://[::1]")
    ]
    assert warnings == ["the API key goes to qdrant://a:6334 unencrypted; qdrants:// connects with TLS", None, None]


@pytest.mark.usefixtures("soon")
def test_tls(tmp_path: Path, source: Path) -> None:
    (tmp_path / "wire").mkdir()
    with WireServer(tmp_path / "wire", tls=True) as wire:
        (tmp_path / "ca.pem").write_bytes(wire.certificate)
        with qvec.connect(url_of(wire, "qdrants", f"?ca={tmp_path / 'ca.pem'}&timeout=9")) as database:
            assert load(database, source).rows == 400
            assert_holds(database, vectors(400))
        with pytest.raises(DatabaseError, match=r"CERTIFICATE_VERIFY_FAILED.*; \?ca=FILE"):
            qvec.connect(url_of(wire, "qdrants"))
        with pytest.raises(DatabaseError, match="cannot connect to qdrant://127"):
            qvec.connect(url_of(wire))
        with pytest.raises(InputError, match=r"cannot read the certificate .*b\.pem: No such file"):
            qvec.connect(url_of(wire, "qdrants", f"?ca={tmp_path / 'b.pem'}"))
        with pytest.raises(InputError, match=r"a\.npy holds no certificate"):
            qvec.connect(url_of(wire, "qdrants", f"?ca={source}"))
        found = run_plainly("info", "--db", url_of(wire, "qdrants"))
        assert (found.returncode, found.stdout, found.stderr.count("\n")) == (1, "", 1), found.stderr


def test_the_port_of_http_is_told_from_that_of_grpc() -> None:
    wrong = "this may be the HTTP port; the gRPC port is 6334"
    with listening(Silent) as port, pytest.raises(DatabaseError, match=wrong):
        qvec.connect(f"qdrant://127.0.0.1:{port}")


class Silent(BaseHTTPRequestHandler):
    """Answers nothing but HTTP, and tells nobody."""

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def test_a_server_by_its_ipv6_address() -> None:
    address = Address.parse("qdrants://[::1]:77?timeout=3")
    assert (address.host, address.port, address.bracketed, address.timeout) == ("::1", 77, "[::1]", 3)
    with pytest.raises(DatabaseError, match=r"^cannot connect to qdrant://\[::1\]:1: ") as caught:
        qvec.connect("qdrant://[::1]:1?timeout=1")
    assert "ipv6:%5B::1%5D:1:" in str(caught.value)


@pytest.mark.parametrize(
    ("unknown", "message"),
    [
        ("metadata", "is Qdrant 1.15.4; collections with metadata need 1.16 or newer"),
        ("quantization_config", "is Qdrant 1.15.4, which does not know prefilter 'turbo1' with rescore 'float16'"),
    ],
)
def test_a_server_that_is_too_old_is_left_as_it_was(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, unknown: str, message: str
) -> None:
    """It leaves out what it does not know, without a word."""
    created = configs.created

    def forgetful(request: Any) -> Any:
        config = created(request)
        config.ClearField(unknown)
        return config

    monkeypatch.setattr(configs, "created", forgetful)
    with WireServer(tmp_path / "wire", version="1.15.4") as wire, qvec.connect(url_of(wire)) as database:
        with pytest.raises(DatabaseError, match=message):
            load(database, source)
        with client_of(wire) as client:
            assert [found.name for found in client.get_collections().collections] == []


class client_of:  # noqa: N801 - used as a function
    """A plain client, closed at the end."""

    def __init__(self, server: WireServer) -> None:
        self._client = QdrantClient(
            host="127.0.0.1", grpc_port=server.port, prefer_grpc=True, check_compatibility=False
        )

    def __enter__(self) -> QdrantClient:
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.close()


def test_a_collection_that_qvec_did_not_make_is_left_alone(wire: WireServer, database: Database, source: Path) -> None:
    with client_of(wire) as client:
        client.create_collection("docs", models.VectorParams(size=8, distance=models.Distance.DOT))
        with pytest.raises(
            CollectionError, match="has a collection 'docs' that qvec did not make; choose another name"
        ):
            load(database, source)
        assert client.count("docs").count == 0
        assert client.get_collection("docs").config.metadata is None


def test_the_collection_of_loads_is_made_once_by_many(wire: WireServer) -> None:
    wire.delay("Collections/Create", 0.2)
    databases = [qvec.connect(url_of(wire)) for _ in range(4)]
    barrier, written = threading.Barrier(4), []

    def write(number: int) -> None:
        barrier.wait()
        databases[number].store.backend.write_load("docs", f"{number}.npy", {"position": number})
        written.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(written) == [0, 1, 2, 3]
    assert databases[0].store.backend.read_loads("docs") == {
        f"{number}.npy": {"position": number} for number in range(4)
    }
    assert databases[0].store.backend.read_loads("others") == {}
    assert wire.count("Collections/Create") == 4
    for database in databases:
        database.close()


def test_many_loads_are_all_read(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_LOADS_PAGE", 3)
    wanted = {f"{number}.npy": {"position": number, "first_id": None} for number in range(10)}
    for source, state in wanted.items():
        database.store.backend.write_load("docs", source, state)
    assert database.store.backend.read_loads("docs") == wanted
    assert database.store.backend.read_load("docs", "4.npy") == {"position": 4, "first_id": None}
    database.store.backend.write_load("docs", "4.npy", None)
    assert database.store.backend.read_load("docs", "4.npy") is None


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows are enough for an index, and nobody waits long for it."""
    monkeypatch.setattr(server_engine, "INDEXING_THRESHOLD_KB", 1)
    monkeypatch.setattr(server_engine, "_POLL_SECONDS", 0.05)


def threshold(wire: WireServer) -> int:
    with client_of(wire) as client:
        return client.get_collection("docs").config.optimizer_config.indexing_threshold


@pytest.mark.usefixtures("indexed")
def test_indexing_waits_until_all_is_loaded(wire: WireServer, database: Database, source: Path) -> None:
    wire.optimizer_delay = 0.4
    thresholds = []
    told = Watching(200, lambda: thresholds.append(threshold(wire)))
    load(database, source, told, index=True, batch_rows=20)
    assert thresholds == [0]
    assert threshold(wire) == 1
    assert told.index[0] == (0, 400)
    assert told.index[-1] == (400, 400)
    assert len(told.index) > 5
    assert database.collection("docs").info().index == "built"


@pytest.mark.usefixtures("indexed")
def test_an_index_that_was_left_out_is_built_later(wire: WireServer, database: Database, source: Path) -> None:
    load(database, source)
    assert not database.collection("docs").has_index()
    found = run("index", "--db", url_of(wire), "-c", "docs", batch_rows=20)
    assert found.returncode == 0, found.stderr
    assert database.collection("docs").has_index()
    assert threshold(wire) > 0


@pytest.mark.usefixtures("indexed")
def test_a_second_load_into_an_indexed_collection(wire: WireServer, database: Database, tmp_path: Path) -> None:
    for number in range(2):
        np.save(tmp_path / f"{number}.npy", vectors(400, seed=number))
    load(database, tmp_path / "0.npy", index=True)
    load(database, tmp_path / "1.npy", index=True, id_start="auto", batch_rows=20)
    with client_of(wire) as client:
        info = client.get_collection("docs")
    assert (info.status, info.points_count) == (models.CollectionStatus.GREEN, 800)
    assert info.indexed_vectors_count > 700  # what is left is below the threshold
    assert_holds(database, np.concatenate([vectors(400), vectors(400, seed=1)]))


@pytest.mark.usefixtures("indexed")
def test_a_collection_that_cannot_be_indexed_is_an_error(
    database: Database, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any) -> None:
        self.error, self.is_running = "no space left on device", False

    load(database, source)
    monkeypatch.setattr(optimizer.Optimizer, "_run", fail)
    with pytest.raises(DatabaseError, match=r"the server cannot index collection 'docs': no space left on device$"):
        database.collection("docs").build_index()


@pytest.mark.usefixtures("indexed")
def test_a_restarted_server_is_told_to_go_on_indexing(
    wire: WireServer, database: Database, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is grey until a change comes."""
    load(database, source, index=True)
    info = ServerEngine._info
    updates = wire.count("Collections/Update")

    def grey(self: Any) -> Any:
        found = info(self)
        if wire.count("Collections/Update") == updates:
            found.status = models.CollectionStatus.GREY
        return found

    monkeypatch.setattr(ServerEngine, "_info", grey)
    assert not database.collection("docs").has_index()
    database.collection("docs").build_index()
    assert database.collection("docs").has_index()
    assert wire.count("Collections/Update") == updates + 1


def points(sizes: list[int]) -> Points:
    array = vectors(len(sizes), 16)
    return Points(list(range(len(sizes))), array, [{"document": "x" * size} for size in sizes])


def test_requests_are_split_by_their_bytes() -> None:
    """One point larger than the limit goes alone; their order stays."""
    sizes = [10, 10, 5000, 10, 400, 400, 400, 10, 5000, 5000]
    requests = list(messages.upserts("docs", points(sizes), 1000, None, 7))
    assert [[point.id.num for point in request.points] for request in requests] == [
        [0, 1],
        [2],
        [3, 4],
        [5, 6],
        [7],
        [8],
        [9],
    ]
    assert all(len(request.points) == 1 or request.ByteSize() < 1100 for request in requests)
    assert {(request.collection_name, request.wait, request.timeout) for request in requests} == {("docs", True, 7)}


def test_documents_of_a_megabyte(wire: WireServer, database: Database, tmp_path: Path) -> None:
    lines = [{**line, "text": chr(97 + row) * (1 << 20)} for row, line in enumerate(with_ids(vectors(20)))]  # type: ignore[dict-item]
    load(database, write_lines(tmp_path / "a.jsonl", lines))
    hits = database.collection("docs").get(range(20))
    assert [hit.document and (hit.document[0], len(hit.document)) for hit in hits] == [
        (chr(97 + row), 1 << 20) for row in range(20)
    ]
    assert wire.count("Points/Upsert") >= 3 + 3  # of 8 MB each, and the checkpoints


def test_sharding_is_in_the_requests(wire: WireServer, database: Database, source: Path) -> None:
    seen = []
    settings = {"shards": 3, "replication_factor": 2, "write_consistency_factor": 2, "shard_key": "Åland"}
    load(database, source, Watching(0, lambda: seen.append(wire.last("Upsert").request)), settings=settings)
    with client_of(wire) as client:
        params = client.get_collection("docs").config.params
    assert (params.shard_number, params.replication_factor, params.write_consistency_factor) == (3, 2, 2)
    assert params.sharding_method is models.ShardingMethod.CUSTOM
    assert wire.last("CreateShardKey").request.request.shard_key.keyword == "Åland"
    load(database, source, restart=True, batch_rows=400)
    uploads = [request for request in seen if request.collection_name == "docs"]
    assert not [request for request in uploads if request.shard_key_selector.shard_keys[0].keyword != "Åland"]
    assert database.collection("docs").settings["shards"] == 3
    assert_holds(database, vectors(400))


floats = st.floats(width=32, allow_nan=False)


@given(arrays.arrays(np.float32, st.integers(1, 300), elements=floats))
def test_dense_is_the_clients_own_conversion(vector: Any) -> None:
    assert messages.dense(vector) == RestToGrpc.convert_vector_struct(vector.tolist()).vector.dense


@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1) | st.uuids().map(str), st.text(max_size=5)), min_size=1, max_size=5),
    st.none() | st.text(min_size=1, max_size=3),
)
def test_requests_are_those_of_the_client(rows: list[tuple[int | str, str]], shard_key: str | None) -> None:
    array = vectors(len(rows), 5)
    payloads = [{"document": text, "metadata": {"a": [1, 2.5, None, True, {"b": text}]}} for _, text in rows]
    (request,) = messages.upserts("docs", Points([id for id, _ in rows], array, payloads), 1 << 20, shard_key, 60)
    structs = [
        models.PointStruct(id=id, vector=vector, payload=payload)
        for (id, _), vector, payload in zip(rows, array.tolist(), payloads, strict=True)
    ]
    assert list(request.points) == [RestToGrpc.convert_point_struct(struct) for struct in structs]
    assert request.HasField("shard_key_selector") == (shard_key is not None)
    if shard_key is not None:
        assert request.shard_key_selector == RestToGrpc.convert_shard_key_selector(shard_key)


def begun(*arguments: Any, reached: Callable[[], bool]) -> subprocess.Popen[str]:
    """The command, once it has come so far."""
    process = start(*arguments, batch_rows=2)
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def test_a_signal_ends_a_load_after_the_batch_in_hand_and_a_second_one_at_once(
    wire: WireServer, database: Database, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", vectors(2000))
    command = ["ingest", tmp_path / "a.npy", "--db", url_of(wire), "-c", "docs", "--workers", "2"]
    process = begun(*command, reached=lambda: wire.count("Upsert") > 100)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (130, "")
    assert "Stopping after the current batch" in err
    assert "Traceback" not in err
    stopped_at = position(database, tmp_path / "a.npy")
    assert 0 < stopped_at < 2000
    assert_holds(database, vectors(2000)[:stopped_at])

    before = wire.count("Upsert")
    wire.delay("Upsert", 30)
    process = begun(*command, reached=lambda: wire.count("Upsert") > before)
    wire.delay("Upsert", 0)
    started = time.monotonic()
    for _ in range(2):
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - started < 5
    assert "Traceback" not in err, err
