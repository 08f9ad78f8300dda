"""The server: its port, its life, and what a test may do to it."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import grpc
from qdrant_client import grpc as messages

from . import services
from .calls import Call, Calls, Fault
from .store import Store


class WireServer:
    """A gRPC server on a free port of 127.0.0.1, with its collections under `directory`.

    `version` is what the health check says. With `api_key` every call but the health check needs it. With `tls` the
    server has a certificate of its own making (by the command openssl) for localhost and 127.0.0.1, in PEM as
    `certificate`.
    """

    def __init__(
        self, directory: Path, *, version: str = "1.18.0", api_key: str | None = None, tls: bool = False
    ) -> None:
        self.port = 0
        self.optimizer_delay = 0.0
        """Seconds for which a collection stays yellow before its optimizer does its work."""
        self.certificate: bytes | None = None
        self._calls = Calls(api_key)
        self._version = version
        self._store = Store(directory, lambda: self.optimizer_delay)
        self._credentials = self._make_credentials(directory) if tls else None
        self._server: grpc.Server | None = None

    def __enter__(self) -> WireServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        self._store.close()

    def start(self) -> None:
        """Listen: on a free port the first time, on the same one after that."""
        server = grpc.server(
            ThreadPoolExecutor(8),
            interceptors=[self._calls],
            options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)],
        )
        messages.add_QdrantServicer_to_server(services.Qdrant(self._version), server)
        messages.add_CollectionsServicer_to_server(services.Collections(self._store), server)
        messages.add_PointsServicer_to_server(services.Points(self._store), server)
        address = f"127.0.0.1:{self.port}"
        if self._credentials is None:
            self.port = server.add_insecure_port(address)
        else:
            self.port = server.add_secure_port(address, self._credentials)
        server.start()
        self._server = server

    def stop(self) -> None:
        """Stop listening and cut every call under way; what was written stays."""
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None

    def restart(self) -> None:
        """Stop, and listen again on the same port with the same collections."""
        self.stop()
        self.start()

    def fail(
        self,
        method: str,
        *,
        times: int = 1,
        code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
        after: bool = False,
        skip: int = 0,
        retry_after: int | None = None,
    ) -> None:
        """Answer `code` to the next `times` calls of a method, once `skip` of them have passed.

        `method` is "Upsert", or "Points/Get" where two services have one of that name. With `after` the work is done
        and only the answer is lost. `retry_after` is sent in seconds, as the server does with RESOURCE_EXHAUSTED.
        """
        self._calls.add_fault(Fault(method, times, code, after, skip, retry_after))

    def delay(self, method: str, seconds: float) -> None:
        """Wait before doing the work of a method, from now on."""
        self._calls.set_delay(method, seconds)

    def count(self, method: str) -> int:
        """How many calls of a method arrived with the right API key, those that failed on purpose among them."""
        return self._calls.count(method)

    def last(self, method: str) -> Call:
        """The latest of those calls, with its headers and its request."""
        return self._calls.last(method)

    def _make_credentials(self, directory: Path) -> grpc.ServerCredentials:
        key, certificate = directory / "key.pem", directory / "certificate.pem"
        kind = ["-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        command = ["openssl", "req", *kind, *subject, "-keyout", key, "-out", certificate]
        subprocess.run(command, check=True, capture_output=True)
        self.certificate = certificate.read_bytes()
        return grpc.ssl_server_credentials([(key.read_bytes(), self.certificate)])
