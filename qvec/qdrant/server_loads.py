"""How far sources are loaded into the collections of a server."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import grpc
from qdrant_client import models

from qvec.qdrant.errors import is_status
from qvec.qdrant.steps import Steps

LOADS = "qvec_loads"
"""The collection of all loads: points without vectors, one for each source and collection."""
_PAGE = 256


def read_all(collection: str) -> Steps[dict[str, Any]]:
    """All loads into a collection, by source."""
    key = models.FieldCondition(key="collection", match=models.MatchValue(value=collection))
    mine = models.Filter(must=[key])
    loads: dict[str, Any] = {}
    start = None
    while True:
        try:
            found, start = yield partial(_scroll, mine, start)
        except grpc.RpcError as error:
            if is_status(error, grpc.StatusCode.NOT_FOUND):
                return {}
            raise
        loads |= {record.payload["source"]: _load(record.payload) for record in found if record.payload}
        if start is None:
            return loads


def _scroll(filter: models.Filter, start: Any, client: Any) -> Any:
    return client.scroll(LOADS, scroll_filter=filter, limit=_PAGE, offset=start)


def read(collection: str, source: str) -> Steps[dict[str, Any] | None]:
    """One load; None when none is written down."""
    try:
        found = yield lambda client: client.retrieve(LOADS, [_id(collection, source)])
    except grpc.RpcError as error:
        if is_status(error, grpc.StatusCode.NOT_FOUND):
            return None
        raise
    return _load(found[0].payload) if found and found[0].payload else None


def write(collection: str, source: str, load: dict[str, Any] | None, timeout: int) -> Steps[None]:
    """Writes down one load, None to forget it. The collection of loads is made when the first is written."""
    id = _id(collection, source)
    if load is None:
        yield lambda client: client.delete(LOADS, models.PointIdsList(points=[id]), wait=True)
        return
    payload = {"collection": collection, "source": source, "load": load}
    point = models.PointStruct(id=id, vector={}, payload=payload)
    try:
        yield lambda client: client.upsert(LOADS, [point], wait=True)
    except grpc.RpcError as error:
        if not is_status(error, grpc.StatusCode.NOT_FOUND):
            raise
        yield from _create(timeout)
        yield lambda client: client.upsert(LOADS, [point], wait=True)


def _create(timeout: int) -> Steps[None]:
    try:
        yield lambda client: client.create_collection(LOADS, vectors_config={}, timeout=timeout)
    except grpc.RpcError as error:
        if not is_status(error, grpc.StatusCode.ALREADY_EXISTS):  # made by another client at the same time
            raise
    keyword = models.PayloadSchemaType.KEYWORD
    yield lambda client: client.create_payload_index(LOADS, "collection", keyword, wait=True)


def _id(collection: str, source: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"qvec load {collection!r} {source!r}"))


def _load(payload: dict[str, Any]) -> dict[str, Any]:
    """A load as it was written: a server may give whole numbers back as floats."""
    load: dict[str, Any] = payload["load"]
    return {
        key: int(value) if isinstance(value, float) and value.is_integer() else value for key, value in load.items()
    }
