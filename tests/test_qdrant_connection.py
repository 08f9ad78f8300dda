"""Connecting to a Qdrant server: API keys, TLS, wrong ports, IPv6, old versions."""

import logging
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_qdrant import FakeQdrantServer
from http_helpers import serve_http
from ingest_helpers import load_source, random_vectors
from ingest_helpers import run_command as run_plain_command
from qdrant_load_helpers import assert_holds
from reporters import AtRow

import qvec
from qvec.errors import DatabaseError, InputError
from qvec.qdrant import connection
from qvec.qdrant._sync.client import Retries
from qvec.qdrant.address import Address

Code = grpc.StatusCode
SECRET = "not-for-anybodys-eyes"


def test_timed_out_request_is_not_retried() -> None:
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


@pytest.mark.usefixtures("short_retries")
def test_missing_or_wrong_api_key_is_refused_and_never_shown(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with FakeQdrantServer(tmp_path / "server", api_key=SECRET) as server:
        for key in (None, SECRET + "-else"):
            monkeypatch.delenv("QVEC_QDRANT_API_KEY", raising=False)
            if key:
                monkeypatch.setenv("QVEC_QDRANT_API_KEY", key)
            with pytest.raises(DatabaseError, match=r"refused access .*QVEC_QDRANT_API_KEY") as caught:
                qvec.connect(server.url)
            assert SECRET not in str(caught.value)
        monkeypatch.setenv("QVEC_QDRANT_API_KEY", SECRET)
        with qvec.connect(server.url) as database:
            reporter = AtRow()
            assert load_source(database, source, reporter).rows == 400
            server.fail("Upsert", times=1000, code=Code.INTERNAL)
            with pytest.raises(DatabaseError) as caught:
                load_source(database, source, reporter, restart=True)
            shown = [str(caught.value), repr(database), database.name, *reporter.messages, caplog.text]
            assert not [text for text in shown if SECRET in text]


@pytest.mark.parametrize("url", ["qdrant://me:{}@localhost", "qdrants://localhost?api_key={}", "qdrant://localhost/{}"])
def test_secret_in_a_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(InputError) as caught:
        qvec.connect(url.format(SECRET))
    assert SECRET not in str(caught.value)


def test_warns_when_key_is_sent_unencrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QVEC_QDRANT_API_KEY", SECRET)
    warnings = [
        connection.key_warning(Address.parse(f"{url}:6334")) for url in ("qdrant://a", "qdrants://a", "qdrant://[::1]")
    ]
    assert warnings == ["the API key goes to qdrant://a:6334 unencrypted; qdrants:// connects with TLS", None, None]


@pytest.mark.slow
@pytest.mark.usefixtures("short_retries")
def test_tls(tmp_path: Path, source: Path) -> None:
    (tmp_path / "server").mkdir()
    with FakeQdrantServer(tmp_path / "server", tls=True) as server:
        tls_url = server.url.replace("qdrant:", "qdrants:")
        (tmp_path / "ca.pem").write_bytes(server.certificate)
        with qvec.connect(f"{tls_url}?ca={tmp_path / 'ca.pem'}&timeout=9") as database:
            assert load_source(database, source).rows == 400
            assert_holds(database, random_vectors(400))
        with pytest.raises(DatabaseError, match=r"CERTIFICATE_VERIFY_FAILED.*; \?ca=FILE"):
            qvec.connect(tls_url)
        with pytest.raises(DatabaseError, match="cannot connect to qdrant://127"):
            qvec.connect(server.url)
        with pytest.raises(InputError, match=r"cannot read the certificate .*b\.pem: No such file"):
            qvec.connect(f"{tls_url}?ca={tmp_path / 'b.pem'}")
        with pytest.raises(InputError, match=r"a\.npy holds no certificate"):
            qvec.connect(f"{tls_url}?ca={source}")
        found = run_plain_command("info", "--db", tls_url)
        assert (found.returncode, found.stdout, found.stderr.count("\n")) == (1, "", 1), found.stderr


def test_error_for_the_http_port_names_the_grpc_port() -> None:
    wrong = "this may be the HTTP port; the gRPC port is 6334"
    with serve_http(HttpHandler) as port, pytest.raises(DatabaseError, match=wrong):
        qvec.connect(f"qdrant://127.0.0.1:{port}")


class HttpHandler(BaseHTTPRequestHandler):
    """Serves HTTP and logs nothing."""

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.mark.slow
def test_ipv6_address() -> None:
    address = Address.parse("qdrants://[::1]:77?timeout=3")
    assert (address.host, address.port, address.bracketed, address.timeout) == ("::1", 77, "[::1]", 3)
    with pytest.raises(DatabaseError, match=r"^cannot connect to qdrant://\[::1\]:1: ") as caught:
        qvec.connect("qdrant://[::1]:1?timeout=1")
    assert "ipv6:%5B::1%5D:1:" in str(caught.value)


@pytest.mark.parametrize(
    ("version", "settings", "message"),
    [
        ("1.15.4", {}, "is Qdrant 1.15.4; collections with metadata need 1.16 or newer"),
        (
            "1.17.1",
            {},
            "is Qdrant 1.17.1, which does not know prefilter 'turbo1' with rescore 'float16'; use prefilter 'binary' "
            "with rescore 'float16', or Qdrant 1.18 or newer",
        ),
        (
            "1.19.2",
            {"rescore": "turbo16"},
            "is Qdrant 1.19.2, which does not know prefilter 'turbo1' with rescore 'turbo16'; use prefilter 'turbo1' "
            "with rescore 'float16', or Qdrant 1.20 or newer",
        ),
        (
            "1.19.2",
            {"rescore": "turbo8", "prefilter": "binary2"},
            "is Qdrant 1.19.2, which does not know prefilter 'binary2' with rescore 'turbo8'; use prefilter 'binary2' "
            "with rescore 'float16', or Qdrant 1.20 or newer",
        ),
    ],
)
def test_too_old_server_is_refused_and_not_changed(
    tmp_path: Path, source: Path, version: str, settings: dict[str, Any], message: str
) -> None:
    """Such a server ignores unknown settings silently."""
    with FakeQdrantServer(tmp_path / "server", version=version) as server, qvec.connect(server.url) as database:
        with pytest.raises(DatabaseError, match=message):
            load_source(database, source, settings=settings)
        assert server.count("Collections/Create") == 0
        with server.client() as client:
            assert [found.name for found in client.get_collections().collections] == []


@pytest.mark.parametrize(
    ("version", "settings"),
    [
        ("1.16.0", {"prefilter": "binary"}),
        ("1.18.0", {"prefilter": "turbo1.5"}),
        ("1.20.0", {"rescore": "turbo8"}),
        ("1.20.1-dev", {"rescore": "turbo16", "prefilter": "binary1.5"}),
        ("2.0.0", {}),
    ],
)
def test_old_server_stores_what_it_knows(tmp_path: Path, source: Path, version: str, settings: dict[str, Any]) -> None:
    with FakeQdrantServer(tmp_path / "server", version=version) as server, qvec.connect(server.url) as database:
        assert load_source(database, source, settings=settings).rows == 400
        found = database.collection("docs").settings
        assert {name: found[name] for name in settings} == settings


@pytest.mark.parametrize("version", ["1.18.3", "1.19.2", "1.20.0"])
@pytest.mark.parametrize(
    ("pattern", "found"), [("a1", [1]), ("a1%", [1, 10, 11]), ("%1%", [1, 10, 11]), ("%1", [1, 11]), ("_2", [2])]
)
def test_patterns_are_tested_on_every_version(tmp_path: Path, version: str, pattern: str, found: list[int]) -> None:
    vectors = random_vectors(12)
    with FakeQdrantServer(tmp_path / "server", version=version) as server, qvec.connect(server.url) as database:
        docs = database.create_collection("docs", calibration=qvec.Calibration.fit(vectors))
        docs.upsert(range(12), vectors, metadata=[{"name": f"a{row}"} for row in range(12)])
        where = {"name": {"$like": pattern}}
        assert sorted(hit.id for hit in docs.search(vectors[0], k=12, filter=where)) == found
        assert [hit.id for hit in docs.scroll(where)] == found


def test_texts_are_not_indexed_on_a_server_that_does_not_rank(tmp_path: Path) -> None:
    vectors = random_vectors(12)
    refused = "the server is Qdrant 1.19.2, which does not rank by words; that needs 1.20 or newer"
    with FakeQdrantServer(tmp_path / "server", version="1.19.2") as server, qvec.connect(server.url) as database:
        docs = database.create_collection("docs", calibration=qvec.Calibration.fit(vectors))
        docs.upsert(range(12), vectors, documents=[f"row {row}" for row in range(12)])
        with pytest.raises(DatabaseError, match=refused):
            docs.index_texts("english")
        assert docs.stored.view.engine().payload_indexes() == {}
        assert server.count("CreateFieldIndex") == 0
