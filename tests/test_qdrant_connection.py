"""Connecting to a Qdrant server: API keys, TLS, wrong ports, IPv6, old versions."""

import logging
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_qdrant import FakeQdrantServer, collection_config
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
    ("unknown", "message"),
    [
        ("metadata", "is Qdrant 1.15.4; collections with metadata need 1.16 or newer"),
        ("quantization_config", "is Qdrant 1.15.4, which does not know prefilter 'turbo1' with rescore 'float16'"),
    ],
)
def test_too_old_server_is_refused_and_not_changed(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, unknown: str, message: str
) -> None:
    """Such a server ignores unknown settings silently."""
    from_request = collection_config.from_request

    def ignoring_from_request(request: Any) -> Any:
        config = from_request(request)
        config.ClearField(unknown)
        return config

    monkeypatch.setattr(collection_config, "from_request", ignoring_from_request)
    with (
        FakeQdrantServer(tmp_path / "server", version="1.15.4") as server,
        qvec.connect(server.url) as database,
    ):
        with pytest.raises(DatabaseError, match=message):
            load_source(database, source)
        with server.client() as client:
            assert [found.name for found in client.get_collections().collections] == []
