"""Errors with the status codes and messages of a Qdrant server."""

from __future__ import annotations

import grpc

from qvec.errors import InputError


class StatusError(Exception):
    """A response other than OK: the status code and its details."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


def not_found(name: str) -> StatusError:
    return StatusError(grpc.StatusCode.NOT_FOUND, f"Not found: Collection `{name}` doesn't exist!")


def already_exists(name: str) -> StatusError:
    return StatusError(grpc.StatusCode.ALREADY_EXISTS, f"Wrong input: Collection `{name}` already exists!")


def bad_input(reason: str) -> StatusError:
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, f"Wrong input: {reason}")


def bad_request(reason: str) -> StatusError:
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, f"Bad request: {reason}")


def invalid_argument(details: str) -> StatusError:
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, details)


def unimplemented(what: str) -> StatusError:
    return StatusError(grpc.StatusCode.UNIMPLEMENTED, f"the fake Qdrant server does not support {what}")


def node_down(node: int) -> StatusError:
    """Return the error of a call that needs a node which is down, as Qdrant 1.19 words it."""
    return StatusError(
        grpc.StatusCode.INTERNAL,
        "Service internal error: 1 of 1 read operations failed:\n  Service internal error: Tonic status error: status: "
        f'Unavailable, message: "Failed to connect to http://node-{node}:6335/, error: transport error", details: [], '
        "metadata: MetadataMap { headers: {} }",
    )


def few_replicas(shard: int, peer: int) -> StatusError:
    """Return the error of a read that asks for more replicas than are active."""
    return StatusError(
        grpc.StatusCode.INTERNAL,
        f"Service internal error: The replica set for shard {shard} on peer {peer} does not have enough active "
        "replicas",
    )


def leader_down(ordering: str, peer: int) -> StatusError:
    """Return the error of a write that only a node which is down may order."""
    return StatusError(
        grpc.StatusCode.INTERNAL,
        f"Service internal error: Failed to apply update with {ordering} ordering via leader peer {peer}: Service "
        "internal error: Tonic status error: status: Unavailable",
    )


def from_engine_error(error: Exception) -> StatusError:
    """Return the status of an error that the engine raised.

    The engine raises plain exceptions that only their text tells apart; qvec raises InputError for filters that the
    engine lacks.
    """
    if isinstance(error, (TypeError, ValueError, InputError)) or "dimension error" in str(error):
        return bad_input(str(error))
    return StatusError(grpc.StatusCode.INTERNAL, f"Service internal error: {error}")
