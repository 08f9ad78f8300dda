"""Spans of OpenTelemetry around what a search does, recorded where the application has a tracer provider; without one,
or without the package, they cost next to nothing.

| span | around | attributes |
|---|---|---|
| `qvec.embed` | the embedding of questions, or of the texts of `add` | `collection`, `texts` |
| `qvec.search` | a search by vector | `database`, `collection`, `queries`, `k`, `candidates` |
| `qvec.prefilter` | in it, on Postgres: the statement that finds the candidates | `candidates`, `rows` |
| `qvec.rescore` | in it, on Postgres: their scores, in this process | `rows` |
| `qvec.prefilter_rescore` | instead, where one statement does both: in SQL, or by floats | `candidates`, `rows` |
| `qvec.scan` | instead, where all rows that pass are scored: by `exact`, or because they are few | `rows` |
| `qvec.texts` | the statement or request for documents and metadata | `rows` |
| `qvec.search_text` | a search by words | `database`, `collection`, `k`, `rows` |
| `qvec.rerank` | the reranker of `search_hybrid` | `texts` |

Attributes are named `qvec.candidates` and so on. `candidates` are those of each query, and missing where all rows are
scored; `rows` are how many the step gave or scored, for all queries. Qdrant's engine prefilters, rescores and reads
texts in one request, `qvec.search`.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, Protocol


class Span(Protocol):
    """The part of OpenTelemetry's span that qvec writes to."""

    def set_attribute(self, key: str, value: Any, /) -> None: ...


class _NoSpan:
    def set_attribute(self, key: str, value: Any, /) -> None:
        """Nothing."""


_NONE = nullcontext(_NoSpan())


def span(name: str, **attributes: Any) -> AbstractContextManager[Span]:
    """A span `qvec.name` with attributes `qvec.…`, those that are None left out."""
    if "opentelemetry.trace" not in sys.modules:  # who records spans has imported it
        return _NONE
    given = {f"qvec.{key}": value for key, value in attributes.items() if value is not None}
    started: AbstractContextManager[Span] = _tracer().start_as_current_span(f"qvec.{name}", attributes=given)
    return started


@lru_cache(maxsize=1)
def _tracer() -> Any:
    from opentelemetry import trace

    return trace.get_tracer("qvec")
