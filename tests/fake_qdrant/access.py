"""Keys that may do less than everything, and requests that every server refuses, with the answers of a real server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from .status_errors import StatusError, bad_input

Rights = Mapping[str, str]
"""What a key may do: "r" or "rw" by collection; "r" for "*" is to read everything."""

_MANAGING = ("Create", "Update", "Delete", "CreateShardKey", "UpdateCollectionClusterSetup", "UpdateAliases")
_WRITING = ("Upsert", "Delete", "SetPayload", "CreateFieldIndex", "DeleteFieldIndex")


def check_rights(method: str, request: Any, rights: Rights) -> None:
    """Raise the error of a request that a key does not allow."""
    service, name = method.split("/")
    if rights == {"*": "r"}:
        if (service == "Collections" and name in _MANAGING) or (service == "Points" and name in _WRITING):
            raise _forbidden("Global manage access is required")
        return
    if service == "Collections" and name in _MANAGING:
        raise _forbidden("Global access is required")
    collection = getattr(request, "collection_name", None)
    if collection is None:
        return
    if collection not in rights:
        raise _forbidden(f"Access to collection {collection} is required")
    if service == "Points" and name in _WRITING and rights[collection] == "r":
        raise _forbidden(f"Write access to collection {collection} is required")


def only_allowed(method: str, response: Any, rights: Rights) -> Any:
    """Return a response without the collections that a key does not see."""
    if method == "Collections/List" and "*" not in rights:
        kept = [found for found in response.collections if found.name in rights]
        del response.collections[:]
        response.collections.extend(kept)
    return response


def check_name(method: str, request: Any) -> None:
    """Raise the error of a request for a collection with an impossible name."""
    name = getattr(request, "collection_name", None)
    if name is None:
        return
    refused = '<>:"/\\|?*\0\x1f' if method == "Collections/Create" else "/\0"
    if not 1 <= len(name) <= 255 or any(character in refused for character in name):
        raise bad_input(f"Validation error in body: [collection_name: value {name!r} invalid]")


def _forbidden(reason: str) -> StatusError:
    return StatusError(grpc.StatusCode.PERMISSION_DENIED, f"Forbidden: {reason}")
