"""A server that speaks the wire format of OpenAI's chat completions, streamed, and fails on purpose."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from listening import listening


def event(text: str | None) -> str:
    """One piece of an answer, as it stands in the stream."""
    choices = [{"index": 0, "delta": {"role": "assistant", "content": text}}]
    return "data: " + json.dumps({"choices": choices}, ensure_ascii=False)


@dataclass
class ChatServer:
    """Answers /v1/chat/completions with these lines, waiting for an event among them, and keeps what it was asked."""

    url: str
    lines: list[str | threading.Event] = field(default_factory=list)
    status: int = 200
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    def says(self, *pieces: str | threading.Event) -> None:
        """The next answers, in pieces, with what surrounds them."""
        self.status = 200
        told = [piece if isinstance(piece, threading.Event) else event(piece) for piece in pieces]
        self.lines = [": a comment", event(None), *told, 'data: {"choices": []}', "data: [DONE]"]

    def fails(self, status: int, *lines: str) -> None:
        """The next answers: a refusal, or a stream that is none."""
        self.status, self.lines = status, list(lines)


@contextmanager
def chatting() -> Iterator[ChatServer]:
    """The server at its `url`, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
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

    with listening(Handler) as port:
        server = ChatServer(f"http://127.0.0.1:{port}/v1")
        yield server
