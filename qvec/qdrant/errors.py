"""Errors of Qdrant's engine and client: which are worth a retry, and their messages."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType

import grpc
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException

from qvec.errors import DatabaseError

TRANSIENT = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,  # by a server that stops or has its own time limit
)
"""Statuses after which the same request may succeed."""
_REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_ADVICE = {
    "CERTIFICATE_VERIFY_FAILED": "; ?ca=FILE names a certificate that the system does not trust",
    "Failed parsing HTTP/2": "; this may be the HTTP port; the gRPC port is 6334 by default",
}
"""What to do where a retry cannot help, by a text in the error."""


def is_transient(error: BaseException) -> bool:
    """Return whether a retry may succeed: after overload, a broken connection, a timeout."""
    if isinstance(error, grpc.RpcError):
        return error.code() in TRANSIENT and not _advice(error)
    return isinstance(error, (ResourceExhaustedResponse, ResponseHandlingException))


def is_status(error: BaseException, code: grpc.StatusCode) -> bool:
    return isinstance(error, grpc.RpcError) and error.code() is code


class wrap_errors(AbstractContextManager[None]):  # noqa: N801 - a class: a generator costs a search too much time
    """Raise DatabaseError for what Qdrant raises inside: what was done, why it failed, what to do."""

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            return
        if isinstance(error, grpc.RpcError):
            if error.code() in _REFUSED:
                raise DatabaseError(
                    f"{self._doing}: the server refused access ({reason(error)}); put a key of it into "
                    "QVEC_QDRANT_API_KEY"
                ) from error
            raise DatabaseError(f"{self._doing}: {reason(error)}{_advice(error)}") from error
        if isinstance(error, (ApiException, ResponseHandlingException, ResourceExhaustedResponse)):
            raise DatabaseError(f"{self._doing}: {reason(error)}") from error
        if isinstance(error, OSError):  # files of a directory
            raise DatabaseError(f"{self._doing}: {error.strerror or error}") from error


def reason(error: BaseException) -> str:
    """Return the first line of an error."""
    text = (error.details() or error.code().name) if isinstance(error, grpc.RpcError) else str(error)
    return text.strip().partition("\n")[0] or type(error).__name__


def _advice(error: grpc.RpcError) -> str:
    return next((advice for text, advice in _ADVICE.items() if text in reason(error)), "")
