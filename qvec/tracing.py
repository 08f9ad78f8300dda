"""OpenTelemetry spans around the steps of a search.

They are recorded if the application has a tracer provider; without one, or without the package, they cost almost
nothing.

| span | around | attributes |
|---|---|---|
| `qvec.embed` | embedding of questions, or of the texts of `add` | `collection`, `texts` |
| `qvec.search` | search by vector | `database`, `collection`, `queries`, `k`, `candidates` |
| `qvec.prefilter` | within it, in Postgres: the statement that finds the candidates | `candidates`, `rows` |
| `qvec.rescore` | within it, in Postgres: the scores of the candidates, computed in this process | `rows` |
| `qvec.prefilter_rescore` | instead of both, if one statement does both: in SQL, or by floats | `candidates`, `rows` |
| `qvec.scan` | instead of both, if all rows that pass the filter are scored: `exact`, or few rows | `rows` |
| `qvec.texts` | statement or request for documents and metadata | `rows` |
| `qvec.search_text` | full-text search | `database`, `collection`, `k`, `rows` |
| `qvec.rerank` | reranker of `search_hybrid` | `texts` |

Attributes have the names `qvec.candidates` and so on. `candidates` is the number for each query; it is missing if all
rows are scored. `rows` is the number of rows that the step returned or scored, for all queries. Qdrant prefilters,
rescores and reads texts in one request, `qvec.search`.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, Protocol


class Span(Protocol):
    """The part of OpenTelemetry's span that qvec uses."""

    def set_attribute(self, key: str, value: Any, /) -> None: ...


class _NoSpan:
    def set_attribute(self, key: str, value: Any, /) -> None:
        """Ignore the attribute."""


_NONE = nullcontext(_NoSpan())


def span(name: str, **attributes: Any) -> AbstractContextManager[Span]:
    """Start the span `qvec.NAME` with attributes `qvec.…`; those that are None are left out."""
    if "opentelemetry.trace" not in sys.modules:  # an application that records spans has imported it
        return _NONE
    given = {f"qvec.{key}": value for key, value in attributes.items() if value is not None}
    started: AbstractContextManager[Span] = _tracer().start_as_current_span(f"qvec.{name}", attributes=given)
    return started


@lru_cache(maxsize=1)
def _tracer() -> Any:
    from opentelemetry import trace

    return trace.get_tracer("qvec")
