"""A test server for OpenAI's embeddings API, with any model and with faults on request."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
from http_helpers import serve_http
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Fault = Callable[["Exchange"], None]


@dataclass
class Exchange:
    """One request and its answer, which a fault may change."""

    request: dict[str, Any]
    headers: dict[str, str]
    number: int
    """Number of earlier requests for embeddings."""
    status: int = 200
    answer: Any = None
    answer_headers: dict[str, str] = field(default_factory=dict)
    closes_connection: bool = False

    @property
    def texts(self) -> list[str]:
        return self.request["input"]

    def refuse(self, status: int, message: str, **headers: str) -> None:
        self.status, self.answer = status, {"error": {"message": message, "code": status}}
        self.answer_headers = {name.replace("_", "-"): value for name, value in headers.items()}


class EmbeddingServer:
    """Answers /v1/embeddings and /v1/models, and records the requests."""

    def __init__(
        self, embed: Callable[[Sequence[str]], Vectors], models: Sequence[str] | None = ("test-model",)
    ) -> None:
        """Serve the model `embed`. With `models` None the server does not list its models."""
        self.embed = embed
        self.models = models
        self.fault: Fault = lambda _: None
        self.encodings = ("base64", "float")
        """Values of encoding_format that the server accepts."""
        self.exchanges: list[Exchange] = []
        self.max_concurrent = 0
        """Largest number of concurrent requests."""
        self._concurrent = 0
        self._lock = threading.Lock()
        self.url = ""

    @property
    def texts(self) -> list[str]:
        """All texts that were embedded."""
        return [text for exchange in self.exchanges if exchange.status == 200 for text in exchange.texts]

    def exchange(self, request: dict[str, Any], headers: dict[str, str]) -> Exchange:
        with self._lock:
            exchange = Exchange(request, headers, len(self.exchanges))
            self.exchanges.append(exchange)
            self._concurrent += 1
            self.max_concurrent = max(self.max_concurrent, self._concurrent)
        try:
            self._answer(exchange)
            self.fault(exchange)
        finally:
            with self._lock:
                self._concurrent -= 1
        return exchange

    def _answer(self, exchange: Exchange) -> None:
        encoding = exchange.request["encoding_format"]
        if encoding not in self.encodings:
            exchange.refuse(400, f"encoding_format {encoding!r} is not supported")
            return
        data = [
            {"object": "embedding", "index": index, "embedding": encoded(vector, encoding)}
            for index, vector in enumerate(self.embed(exchange.texts))
        ]
        exchange.answer = {"object": "list", "model": exchange.request.get("model"), "data": data}


def encoded(vector: Vectors, encoding: str) -> Any:
    """Return a vector as the value of `embedding` in an answer."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if encoding == "base64" else vector.tolist()


@contextmanager
def serving(server: EmbeddingServer) -> Iterator[EmbeddingServer]:
    """Run the server at its `url` until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path != "/v1/models" or server.models is None:
                self._send(404, {"error": "no such page"}, {})
                return
            self._send(200, {"object": "list", "data": [{"id": name} for name in server.models]}, {})

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/embeddings":
                self._send(404, {"error": "no such page"}, {})
                return
            exchange = server.exchange(request, dict(self.headers))
            if exchange.closes_connection:
                self.close_connection = True
                return
            self._send(exchange.status, exchange.answer, exchange.answer_headers)

        def _send(self, status: int, answer: Any, headers: dict[str, str]) -> None:
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            with suppress(BrokenPipeError):  # a client that was interrupted
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with serve_http(Handler) as port:
        server.url = f"http://127.0.0.1:{port}/v1"
        yield server
