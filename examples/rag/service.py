"""The service: a page, and what the page asks for, as JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, StringConstraints
from starlette.exceptions import HTTPException

from qvec import QvecError
from rag.answering import AnswerError, Answering
from rag.found import File, by_file, cited, passages_of
from rag.library import Library

_LOG = logging.getLogger(__name__)
_PAGE = Path(__file__).with_name("page")

Question = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]
Count = Annotated[int, Query(ge=1, le=50)]


class Asked(BaseModel):
    """The body of a request to /ask. With `stream` the answer comes in lines of JSON, as it is written."""

    question: Question
    k: Count = 6
    stream: bool = False


def create_app(library: Library, answering: Answering) -> FastAPI:
    """The service of an open library. Errors are JSON too: {"error": message}."""
    app = FastAPI(title="qvec RAG", docs_url=None, redoc_url=None)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "passages": await library.count(), "answers": answering.name}

    @app.get("/search")
    async def search(q: Annotated[Question, Query()], k: Count = 10) -> dict[str, Any]:
        return {"question": q, "files": _as_json(by_file(await library.search(q, k)))}

    @app.post("/ask")
    async def ask(asked: Asked) -> Any:
        files = by_file(await library.search(asked.question, asked.k))
        pieces = answering.answer(asked.question, passages_of(files))
        if asked.stream:
            return StreamingResponse(_lines(files, pieces), media_type="application/x-ndjson")
        answer = "".join([piece async for piece in pieces])
        return {
            "question": asked.question,
            "answer": answer,
            "cited": cited(answer, passages_of(files)),
            "files": _as_json(files),
        }

    app.mount("/", StaticFiles(directory=_PAGE, html=True))
    _answer_errors(app)
    return app


async def _lines(files: Sequence[File], pieces: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """Lines of JSON: the files, the answer's texts, and last what it cites, or the error that it ended with."""
    yield _line({"files": _as_json(files)})
    answer = ""
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                answer += piece
                yield _line({"text": piece})
    except QvecError as error:
        yield _line({"error": str(error)})
    else:
        yield _line({"cited": cited(answer, passages_of(files))})


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _as_json(files: Sequence[File]) -> list[dict[str, Any]]:
    return [asdict(file) for file in files]


def _answer_errors(app: FastAPI) -> None:
    """Every error as JSON: of the request, of what is asked for it, of the service itself."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return _error(422, f"{'.'.join(map(str, first['loc'][1:])) or 'request'}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, error.detail)

    @app.exception_handler(AnswerError)
    async def unanswered(_: Request, error: AnswerError) -> JSONResponse:
        return _error(502, str(error))

    @app.exception_handler(QvecError)
    async def unavailable(_: Request, error: QvecError) -> JSONResponse:
        return _error(503, str(error))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _error(500, "the service failed; its log says why")


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)
