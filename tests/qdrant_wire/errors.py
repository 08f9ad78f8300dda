"""Errors as Qdrant's server words and codes them."""

from __future__ import annotations

import grpc

from qvec.errors import InputError


class WireError(Exception):
    """An answer other than OK: the status code and its details."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


def not_found(name: str) -> WireError:
    return WireError(grpc.StatusCode.NOT_FOUND, f"Not found: Collection `{name}` doesn't exist!")


def already_exists(name: str) -> WireError:
    return WireError(grpc.StatusCode.ALREADY_EXISTS, f"Wrong input: Collection `{name}` already exists!")


def bad_input(reason: str) -> WireError:
    return WireError(grpc.StatusCode.INVALID_ARGUMENT, f"Wrong input: {reason}")


def unimplemented(what: str) -> WireError:
    return WireError(grpc.StatusCode.UNIMPLEMENTED, f"the stand-in for a Qdrant server does not know {what}")


def of_engine(error: Exception) -> WireError:
    """The engine raises bare exceptions whose text alone says what is wrong; InputError is of filters that it lacks."""
    if isinstance(error, (TypeError, ValueError, InputError)) or "dimension error" in str(error):
        return bad_input(str(error))
    return WireError(grpc.StatusCode.INTERNAL, f"Service internal error: {error}")
