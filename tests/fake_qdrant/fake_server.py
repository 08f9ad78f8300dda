"""The fake server: start, stop and restart it, make calls fail, count them."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import TracebackType

import grpc
import pytest
from qdrant_client import QdrantClient
from qdrant_client import grpc as messages

from . import services
from .access import Rights
from .cluster import Cluster
from .collection_store import CollectionStore
from .interceptor import CallInterceptor, Fault, RecordedCall


class FakeQdrantServer:
    """A gRPC server on a free port of 127.0.0.1, with its collections under `directory`.

    The health check returns `version`, and what is newer is not known. With `api_key` every call except the health
    check needs it, or one of `limited_keys`, which allow less. With `tls` the server makes itself a certificate for
    localhost and 127.0.0.1 with the command openssl; `certificate` is its PEM. With more than one of `nodes` it is
    node 0 of a cluster.
    """

    def __init__(
        self,
        directory: Path,
        *,
        version: str = "1.20.0",
        api_key: str | None = None,
        limited_keys: Mapping[str, Rights] | None = None,
        tls: bool = False,
        nodes: int = 1,
    ) -> None:
        self.port = 0
        self.optimizer_delay = 0.0
        """Seconds for which a collection stays yellow before its optimizer runs."""
        self.certificate: bytes | None = None
        self._interceptor = CallInterceptor(api_key, limited_keys or {}, version)
        self._version = version
        self._cluster = Cluster(nodes)
        self._patch = pytest.MonkeyPatch()
        self._store = CollectionStore(directory, lambda: self.optimizer_delay, self._cluster)
        self._credentials = self._make_credentials(directory) if tls else None
        self._server: grpc.Server | None = None

    @property
    def url(self) -> str:
        return f"qdrant://127.0.0.1:{self.port}"

    def client(self) -> closing[QdrantClient]:
        """Return a context manager with Qdrant's own client of this server."""
        return closing(QdrantClient(host="127.0.0.1", grpc_port=self.port, prefer_grpc=True, check_compatibility=False))

    def twin(self) -> FakeQdrantServer:
        """Return another server with the same collections, on a port of its own, as a node of the same cluster."""
        twin = FakeQdrantServer(Path(), version=self._version)
        twin._store = self._store
        return twin

    def __enter__(self) -> FakeQdrantServer:
        for twin in ("_sync", "_async"):  # an index is built within milliseconds here, so look often
            self._patch.setattr(f"qvec.qdrant.{twin}.server_engine._POLL_SECONDS", 0.02)
        self._patch.setattr("qvec.qdrant.connection._outages", {})  # of an earlier server on the same port
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        self._store.close()
        self._patch.undo()

    def start(self) -> None:
        """Listen on a free port the first time, and on the same port later."""
        server = grpc.server(
            ThreadPoolExecutor(8),
            interceptors=[self._interceptor],
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
        """Stop listening and cut off running calls; keep what was written."""
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None

    def restart(self) -> None:
        """Stop, then listen again on the same port with the same collections."""
        self.stop()
        self.start()

    def stop_node(self, node: int) -> None:
        """Make another node of the cluster answer no more."""
        self._cluster.down.add(node)

    def start_node(self, node: int) -> None:
        """Make that node answer again."""
        self._cluster.down.discard(node)

    def fail(
        self,
        method: str,
        *,
        times: int = 1,
        code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
        after: bool = False,
        skip: int = 0,
        retry_after: int | None = None,
        details: str | None = None,
    ) -> None:
        """Answer `code` to the next `times` calls of a method, after `skip` normal calls.

        `method` is "Upsert", or "Points/Get" where two services have a method of that name. With `after` the server
        does the work and loses only the response. `retry_after` is sent in seconds, as the server does with
        RESOURCE_EXHAUSTED, `details` as the message.
        """
        self._interceptor.add_fault(Fault(method, times, code, after, skip, retry_after, details))

    def delay(self, method: str, seconds: float) -> None:
        """Wait before every later call of a method."""
        self._interceptor.set_delay(method, seconds)

    def count(self, method: str) -> int:
        """Return how many calls of a method arrived with the right API key, injected faults included."""
        return self._interceptor.count(method)

    @property
    def calls(self) -> list[RecordedCall]:
        """The latest 1,000 of those calls, in order."""
        return self._interceptor.calls

    def last(self, method: str) -> RecordedCall:
        """Return the latest of those calls."""
        return self._interceptor.last(method)

    def _make_credentials(self, directory: Path) -> grpc.ServerCredentials:
        key, certificate = directory / "key.pem", directory / "certificate.pem"
        kind = ["-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        command = ["openssl", "req", *kind, *subject, "-keyout", key, "-out", certificate]
        subprocess.run(command, check=True, capture_output=True)
        self.certificate = certificate.read_bytes()
        return grpc.ssl_server_credentials([(key.read_bytes(), self.certificate)])
