"""Errors of Qdrant's engine and client: which are worth a retry, and their messages."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from types import TracebackType

import grpc
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException

from qvec.errors import DatabaseError

LOADS = "qvec_loads"
"""The collection of all loads on a server: points without vectors, one for each source and collection."""
TRANSIENT = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,  # by a server that stops or has its own time limit
)
"""Statuses after which the same request may succeed."""
_NODE_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_ADVICE = {
    "CERTIFICATE_VERIFY_FAILED": "; ?ca=FILE names a certificate that the system does not trust",
    "Failed parsing HTTP/2": "; this may be the HTTP port; the gRPC port is 6334 by default",
}
"""What to do where a retry cannot help, by a text in the error."""

# A node answers INTERNAL where another node of its cluster is down, as it does for faults of its own: only the text
# tells them apart.
_NODE_DOWN = re.compile(
    r"read operations failed|Tonic (?:status|transport) error|active replica|`Active` replica|deactivation timed out"
    r"|via leader peer|no leader could be selected"
)
_NO_MAJORITY = re.compile(r"consensus operation commit failed|leader is not established")
_NODE = re.compile(r"Failed to connect to (https?://[^\s/\"',]+)")
_PEER = re.compile(r"(?:Failed peer:|via leader peer) (\d+)")
_SHARD = re.compile(r"\bshard (\d+)")
_NO_SHARD_KEY = re.compile(r"Shard key .* not found")
_QUOTED = re.compile(r'message: "([^"]+)"')
_RECOVERY = (
    "start it again; a collection with a replication factor of 2 or more is searched and written while a node is down"
)


def is_transient(error: BaseException) -> bool:
    """Return whether a retry may succeed: after overload, a broken connection, a timeout, while a node is down."""
    if isinstance(error, grpc.RpcError):
        return (error.code() in TRANSIENT and not _advice(error)) or cluster_fault(error) is not None
    return isinstance(error, (ResourceExhaustedResponse, ResponseHandlingException))


def is_nodes_fault(error: BaseException) -> bool:
    """Return whether another node of the cluster may answer a request that failed so."""
    return isinstance(error, grpc.RpcError) and (error.code() in _NODE_LOST or cluster_fault(error) is not None)


def is_missing_shard_key(error: BaseException) -> bool:
    """Return whether a collection lacks a shard key, at least on the node that was asked."""
    return isinstance(error, grpc.RpcError) and _NO_SHARD_KEY.search(error.details() or "") is not None


def lacks_shards(error: BaseException) -> bool:
    """Return whether a write without shard keys was refused, in a collection with custom sharding."""
    return isinstance(error, grpc.RpcError) and "Shard key not specified" in (error.details() or "")


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
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise DatabaseError(
                    f"{self._doing}: the server refused access ({reason(error)}); put a key of it into "
                    "QVEC_QDRANT_API_KEY"
                ) from error
            if error.code() is grpc.StatusCode.PERMISSION_DENIED:
                raise DatabaseError(
                    f"{self._doing}: the key in QVEC_QDRANT_API_KEY does not allow this ({reason(error)}); "
                    f"{_needed_rights(reason(error))}"
                ) from error
            raise DatabaseError(f"{self._doing}: {reason(error)}{_advice(error)}") from error
        if isinstance(error, (ApiException, ResponseHandlingException, ResourceExhaustedResponse)):
            raise DatabaseError(f"{self._doing}: {reason(error)}") from error
        if isinstance(error, OSError):  # files of a directory
            raise DatabaseError(f"{self._doing}: {error.strerror or error}") from error


def reason(error: BaseException) -> str:
    """Return an error in one line; of a cluster's error, which node is down."""
    if not isinstance(error, grpc.RpcError):
        return _first_line(str(error)) or type(error).__name__
    return cluster_fault(error) or _first_line(error.details() or "") or error.code().name


def cluster_fault(error: grpc.RpcError) -> str | None:
    """Return what is wrong with the server's cluster, and what to do; None for an error of another kind."""
    text = error.details() or ""
    if error.code() is not grpc.StatusCode.INTERNAL:
        return None
    if _NO_MAJORITY.search(text):
        return f"the nodes of the cluster do not agree ({_own_words(text)}); more than half of them have to be up"
    if _NODE_DOWN.search(text):
        return f"{_node_down(text)}; {_RECOVERY}"
    return None


def _node_down(text: str) -> str:
    """Say which node is down, as far as the server names it."""
    if nodes := dict.fromkeys(_NODE.findall(text)):
        return f"node {' and '.join(nodes)} of the cluster does not answer"
    if peer := _PEER.search(text):
        return f"node {peer[1]} of the cluster (its peer id) does not answer"
    if shard := _SHARD.search(text):
        return f"a node of the cluster that holds shard {shard[1]} does not answer ({_own_words(text)})"
    return f"a node of the cluster does not answer ({_own_words(text)})"


def _own_words(text: str) -> str:
    """Return the part of a cluster's error that differs from one to another."""
    if quoted := _QUOTED.search(text):
        return quoted[1]
    return _first_line(text.removeprefix("Service internal error: ")).partition(". ")[0].rstrip(":")


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _needed_rights(refusal: str) -> str:
    if "Global manage" in refusal:
        return "this key only reads; writing needs a key with write or manage access"
    if "Global" in refusal or "Manage" in refusal:
        return "creating, indexing, tuning, recalibrating and dropping collections needs manage access"
    if LOADS in refusal:
        return f"loading also needs write access to {LOADS}, where the progress of loads is stored"
    return "searching needs read access to the collection, writing needs write access"


def _advice(error: grpc.RpcError) -> str:
    return next((advice for text, advice in _ADVICE.items() if text in reason(error)), "")
