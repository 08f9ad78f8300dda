"""How far sources are loaded into the collections of a server."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import grpc
from qdrant_client import QdrantClient, models

from qvec.qdrant.errors import is_status
from qvec.qdrant.retries import Retries

LOADS = "qvec_loads"
"""The collection of all loads: points without vectors, one for each source and collection."""
_PAGE = 256


class ServerLoads:
    """The loads that are written down on a server, in a collection that is made when the first of them is."""

    def __init__(self, client: QdrantClient, repeated: Retries, timeout: int) -> None:
        self._client = client
        self._repeated = repeated
        self._timeout = timeout

    def read_all(self, collection: str) -> dict[str, Any]:
        """All loads into a collection, by source."""
        key = models.FieldCondition(key="collection", match=models.MatchValue(value=collection))
        scroll = partial(self._client.scroll, LOADS, scroll_filter=models.Filter(must=[key]), limit=_PAGE)
        loads: dict[str, Any] = {}
        start = None
        while True:
            try:
                found, start = self._repeated(partial(scroll, offset=start))
            except grpc.RpcError as error:
                if is_status(error, grpc.StatusCode.NOT_FOUND):
                    return {}
                raise
            loads |= {record.payload["source"]: _load(record.payload) for record in found if record.payload}
            if start is None:
                return loads

    def read(self, collection: str, source: str) -> dict[str, Any] | None:
        """One load; None when none is written down."""
        try:
            found = self._repeated(lambda: self._client.retrieve(LOADS, [_id(collection, source)]))
        except grpc.RpcError as error:
            if is_status(error, grpc.StatusCode.NOT_FOUND):
                return None
            raise
        return _load(found[0].payload) if found and found[0].payload else None

    def write(self, collection: str, source: str, load: dict[str, Any] | None) -> None:
        """Writes down one load, None to forget it."""
        id = _id(collection, source)
        if load is None:
            self._repeated(lambda: self._client.delete(LOADS, models.PointIdsList(points=[id]), wait=True))
            return
        payload = {"collection": collection, "source": source, "load": load}
        point = models.PointStruct(id=id, vector={}, payload=payload)
        try:
            self._repeated(lambda: self._client.upsert(LOADS, [point], wait=True))
        except grpc.RpcError as error:
            if not is_status(error, grpc.StatusCode.NOT_FOUND):
                raise
            self._create()
            self._repeated(lambda: self._client.upsert(LOADS, [point], wait=True))

    def _create(self) -> None:
        try:
            self._repeated(lambda: self._client.create_collection(LOADS, vectors_config={}, timeout=self._timeout))
        except grpc.RpcError as error:
            if not is_status(error, grpc.StatusCode.ALREADY_EXISTS):  # made by another client at the same time
                raise
        keyword = models.PayloadSchemaType.KEYWORD
        self._repeated(lambda: self._client.create_payload_index(LOADS, "collection", keyword, wait=True))


def _id(collection: str, source: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"qvec load {collection!r} {source!r}"))


def _load(payload: dict[str, Any]) -> dict[str, Any]:
    """A load as it was written: a server may give whole numbers back as floats."""
    load: dict[str, Any] = payload["load"]
    return {
        key: int(value) if isinstance(value, float) and value.is_integer() else value for key, value in load.items()
    }
