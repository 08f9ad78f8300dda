"""The HTTP service: a page, and the JSON endpoints that it calls."""

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
from rag.answers import Answerer, AnswerError, cited_numbers
from rag.library import FoundFile, FoundPassage, Library

_LOG = logging.getLogger(__name__)
_PAGE = Path(__file__).with_name("page")

Question = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]
Count = Annotated[int, Query(ge=1, le=50)]


class AskRequest(BaseModel):
    """The body of a request to /ask. With `stream` the answer is sent as JSON lines while it is written."""

    question: Question
    k: Count = 6
    stream: bool = False


def create_app(library: Library, answerer: Answerer) -> FastAPI:
    """Return the service for an open library. Errors are JSON too: {"error": message}."""
    app = FastAPI(title="qvec RAG", docs_url=None, redoc_url=None)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "passages": await library.count(), "answers": answerer.name}

    @app.get("/search")
    async def search(q: Annotated[Question, Query()], k: Count = 10) -> dict[str, Any]:
        return {"question": q, "files": _as_json(await library.search(q, k))}

    @app.post("/ask")
    async def ask(request: AskRequest) -> Any:
        files = await library.search(request.question, request.k)
        passages = _passages(files)
        pieces = answerer.answer(request.question, passages)
        if request.stream:
            return StreamingResponse(_json_lines(files, pieces), media_type="application/x-ndjson")
        answer = "".join([piece async for piece in pieces])
        return {
            "question": request.question,
            "answer": answer,
            "cited": cited_numbers(answer, passages),
            "files": _as_json(files),
        }

    app.mount("/", StaticFiles(directory=_PAGE, html=True))
    _add_error_handlers(app)
    return app


async def _json_lines(files: Sequence[FoundFile], pieces: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """Yield lines of JSON: the files, the answer's pieces, and finally the cited numbers or an error."""
    yield _json_line({"files": _as_json(files)})
    answer = ""
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                answer += piece
                yield _json_line({"text": piece})
    except QvecError as error:
        yield _json_line({"error": str(error)})
    else:
        yield _json_line({"cited": cited_numbers(answer, _passages(files))})


def _json_line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _as_json(files: Sequence[FoundFile]) -> list[dict[str, Any]]:
    return [asdict(file) for file in files]


def _passages(files: Sequence[FoundFile]) -> list[FoundPassage]:
    return [passage for file in files for passage in file.passages]


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid_request(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return _error(422, f"{'.'.join(map(str, first['loc'][1:])) or 'request'}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, error.detail)

    @app.exception_handler(AnswerError)
    async def no_answer(_: Request, error: AnswerError) -> JSONResponse:
        return _error(502, str(error))

    @app.exception_handler(QvecError)
    async def database_error(_: Request, error: QvecError) -> JSONResponse:
        return _error(503, str(error))

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> JSONResponse:
        _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _error(500, "the service failed; see its log")


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)
