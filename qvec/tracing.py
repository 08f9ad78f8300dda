"""Spans of OpenTelemetry around what a search does, where its API is in use: `qvec.embed`, `qvec.search` and, inside,
`qvec.prefilter`, `qvec.rescore`, `qvec.texts`. Without a tracer provider, or without the package, they cost next to
nothing."""

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
