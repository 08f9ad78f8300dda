"""Turns what Qdrant's engine and client raise into one clear line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException

from qvec.errors import DatabaseError

TRANSIENT = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,  # by a server that stops, or that has a time limit of its own
)
"""Statuses after which the same request may succeed."""
_REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def is_transient(error: BaseException) -> bool:
    """Whether trying again makes sense: overload, a connection that broke, a request that took too long."""
    if isinstance(error, grpc.RpcError):
        return error.code() in TRANSIENT
    return isinstance(error, (ResourceExhaustedResponse, ResponseHandlingException))


def is_status(error: BaseException, code: grpc.StatusCode) -> bool:
    return isinstance(error, grpc.RpcError) and error.code() is code


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Raises DatabaseError for what Qdrant raises inside: what was being done, why it failed, what to do."""
    try:
        yield
    except grpc.RpcError as error:
        if error.code() in _REFUSED:
            raise DatabaseError(
                f"{doing}: the server refused access ({reason(error)}); set QVEC_QDRANT_API_KEY"
            ) from error
        raise DatabaseError(f"{doing}: {reason(error)}") from error
    except (ApiException, ResponseHandlingException, ResourceExhaustedResponse) as error:
        raise DatabaseError(f"{doing}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """The error's first line."""
    text = (error.details() or error.code().name) if isinstance(error, grpc.RpcError) else str(error)
    return text.strip().partition("\n")[0] or type(error).__name__
