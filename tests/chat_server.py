"""A test server for OpenAI's streaming chat completions, with faults on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from http_helpers import serve_http


def event(text: str | None) -> str:
    """Return one event of the stream with a piece of an answer."""
    choices = [{"index": 0, "delta": {"role": "assistant", "content": text}}]
    return "data: " + json.dumps({"choices": choices}, ensure_ascii=False)


@dataclass
class ChatServer:
    """Answers /v1/chat/completions with `lines`, waiting at a threading.Event, and records requests and API keys."""

    url: str
    lines: list[str | threading.Event] = field(default_factory=list)
    status: int = 200
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    def set_answer(self, *pieces: str | threading.Event) -> None:
        """Set the next answers, in pieces."""
        self.status = 200
        events = [piece if isinstance(piece, threading.Event) else event(piece) for piece in pieces]
        self.lines = [": a comment", event(None), *events, 'data: {"choices": []}', "data: [DONE]"]

    def set_failure(self, status: int, *lines: str) -> None:
        """Set the next answers to an error status, or to an invalid stream."""
        self.status, self.lines = status, list(lines)


@contextmanager
def serving_chat() -> Iterator[ChatServer]:
    """Run the server until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            server.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            server.keys.append(self.headers["Authorization"])
            known = self.path == "/v1/chat/completions"
            self.send_response(server.status if known else 404)
            self.end_headers()
            for line in server.lines if known else ():
                if isinstance(line, threading.Event):
                    line.wait(30)
                else:
                    self.wfile.write(f"{line}\n\n".encode())

        def log_message(self, *_: object) -> None:
            pass

    with serve_http(Handler) as port:
        server = ChatServer(f"http://127.0.0.1:{port}/v1")
        yield server
