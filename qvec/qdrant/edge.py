"""A collection's points in the embedded engine, in this process."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import UUID

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray
from qdrant_client import models

from qvec.errors import DatabaseError
from qvec.metadata_index import MetadataIndex
from qvec.qdrant import indexes
from qvec.qdrant.edge_filters import convert
from qvec.qdrant.point_query import PointQuery
from qvec.qdrant.points import DOCUMENT, PointId, Points, PointSizes, StoredPoint
from qvec.qdrant.vector_layout import VectorLayout
from qvec.results import IndexState, Progress

_DATATYPES = {
    "float16": edge.VectorStorageDatatype.Float16,
    "float32": edge.VectorStorageDatatype.Float32,
    "turbo16": edge.VectorStorageDatatype.Turbo16,
    "turbo8": edge.VectorStorageDatatype.Turbo8,
}
_ENCODINGS = {
    "binary": edge.BinaryQuantizationEncoding.OneBit,
    "binary1.5": edge.BinaryQuantizationEncoding.OneAndHalfBits,
    "binary2": edge.BinaryQuantizationEncoding.TwoBits,
}
_QUERY_ENCODINGS = {
    "scalar8bits": edge.BinaryQuantizationQueryEncoding.Scalar8Bits,
    "scalar4bits": edge.BinaryQuantizationQueryEncoding.Scalar4Bits,
    "binary": edge.BinaryQuantizationQueryEncoding.Binary,
}
_TURBO_BITS = {
    "turbo1": edge.TurboQuantBitSize.Bits1,
    "turbo1.5": edge.TurboQuantBitSize.Bits1_5,
    "turbo2": edge.TurboQuantBitSize.Bits2,
    "turbo4": edge.TurboQuantBitSize.Bits4,
}
_INDEXING_THRESHOLD_KB = 10_000
"""Segments with fewer bytes of vectors are scanned: a graph would not find them sooner."""
_NO_LIMIT_KB = 1 << 40
_DISK_RESERVE = 64 << 20
"""Bytes for what is not counted: the log's next file, ids, metadata and its indexes."""
_DISK_COPIES = 2
"""Points are written twice: to the log and to their place."""


def configuration(layout: VectorLayout) -> edge.EdgeConfig:
    """Return the engine's configuration: stored vectors on disk, quantized ones and the graph in memory."""
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(
            layout.dimensions,
            edge.Distance.Dot,
            datatype=_DATATYPES[layout.datatype],
            memory=edge.Memory.Cold,
            quantization_config=_quantization(layout),
        ),
        optimizers=edge.EdgeOptimizersConfig(
            indexing_threshold=_INDEXING_THRESHOLD_KB, default_segment_number=1, max_segment_size=_NO_LIMIT_KB
        ),
    )


def _quantization(layout: VectorLayout) -> edge.BinaryQuantizationConfig | edge.TurboQuantQuantizationConfig:
    if layout.prefilter in _TURBO_BITS:
        return edge.TurboQuantQuantizationConfig(bits=_TURBO_BITS[layout.prefilter], memory=edge.Memory.Pinned)
    return edge.BinaryQuantizationConfig(
        encoding=_ENCODINGS[layout.prefilter],
        query_encoding=_QUERY_ENCODINGS[layout.query_encoding],
        memory=edge.Memory.Pinned,
    )


class EdgeShard:
    """The points of one collection in a directory. Every method blocks until the engine is done."""

    def __init__(self, path: Path, layout: VectorLayout) -> None:
        """Open the files in the directory, or create them."""
        self._path = path
        self._layout = layout
        with _wrap_errors():
            if (path / "segments").exists():
                self._shard = edge.EdgeShard.load(str(path))
            else:
                path.mkdir(parents=True, exist_ok=True)
                self._shard = edge.EdgeShard.create(str(path), configuration(layout))

    def close(self) -> None:
        with _wrap_errors():
            self._shard.close()

    def flush(self) -> None:
        with _wrap_errors():
            self._shard.flush()

    # Points

    def upsert(self, points: Points) -> None:
        _check_disk(self._path, points)
        rows = [
            edge.Point(id, memoryview(vector), payload)  # type: ignore[arg-type]  # the fastest type that it takes
            for id, vector, payload in zip(points.ids, points.vectors, points.payloads, strict=True)
        ]
        with _wrap_errors():
            self._shard.update(edge.UpdateOperation.upsert_points(rows))

    def delete(self, ids: Sequence[PointId]) -> None:
        with _wrap_errors():
            self._shard.update(edge.UpdateOperation.delete_points(list(ids)))

    def clear(self) -> None:
        with _wrap_errors():
            self._shard.update(edge.UpdateOperation.delete_points_by_filter(edge.Filter()))
            self._shard.optimize()
            self._shard.flush()

    def retrieve(self, ids: Sequence[PointId], *, payload: bool, vectors: bool = False) -> list[StoredPoint]:
        with _wrap_errors():
            found = self._shard.retrieve(list(ids), with_payload=payload, with_vector=vectors)
        return [_stored_point(record, vectors) for record in found]

    def scroll(
        self,
        start: PointId | None,
        limit: int,
        *,
        vectors: bool,
        filter: models.Filter | None = None,
        payload: bool | list[str] = True,
    ) -> tuple[list[StoredPoint], PointId | None]:
        native = None if filter is None else convert(filter)
        request = edge.ScrollRequest(
            offset=start, limit=limit, filter=native, with_payload=payload, with_vector=vectors
        )
        with _wrap_errors():
            found, following = self._shard.scroll(request)
        points = [_stored_point(record, vectors) for record in found]
        return points, str(following) if isinstance(following, UUID) else following

    def count(self, filter: models.Filter | None = None) -> int:
        native = None if filter is None else convert(filter)
        with _wrap_errors():
            return int(self._shard.count(edge.CountRequest(exact=True, filter=native)))

    # Searches

    def search(self, queries: NDArray[np.float32], query: PointQuery) -> list[list[edge.ScoredPoint]]:
        filter = None if query.filter is None else convert(query.filter)
        params = _parameters(query.exact, query.rescore, query.oversampling, query.ef)
        with _wrap_errors():
            return [
                self._shard.query(
                    edge.QueryRequest(
                        query.limit,
                        query=edge.Query.Nearest(memoryview(vector)),  # type: ignore[arg-type]
                        filter=filter,
                        params=params,
                        with_payload=query.payload,
                    )
                )
                for vector in queries
            ]

    def search_text(self, question: str, query: PointQuery) -> list[edge.ScoredPoint]:
        with _wrap_errors():
            return self._shard.query(
                edge.QueryRequest(
                    query.limit,
                    query=edge.TextQuery(indexes.TEXT_FIELD, question),
                    filter=None if query.filter is None else convert(query.filter),
                    with_payload=query.payload,
                )
            )

    # Indexes

    def payload_indexes(self) -> dict[str, Any]:
        with _wrap_errors():
            found = self._shard.info().payload_schema
        return {field: index.params or index.data_type for field, index in found.items()}

    def create_payload_index(self, field: str, schema: Any) -> None:
        with _wrap_errors():
            self._shard.update(edge.UpdateOperation.create_field_index(field, schema))

    def index_metadata(self, index: MetadataIndex) -> None:
        self.create_payload_index(*indexes.embedded_metadata_schema(index))

    def index_texts(self, language: str) -> None:
        self.create_payload_index(indexes.TEXT_FIELD, indexes.embedded_text_schema(language))

    def text_language(self) -> str | None:
        with _wrap_errors():
            index = self._shard.info().payload_schema.get(indexes.TEXT_FIELD)
        return indexes.text_language(index and index.params)

    def index_state(self) -> IndexState:
        with _wrap_errors():
            info = self._shard.info()
        unindexed = info.points_count - info.indexed_vectors_count
        kilobytes = unindexed * self._stored_bytes() / 1024
        return "none" if kilobytes >= _INDEXING_THRESHOLD_KB else "built"

    def _stored_bytes(self) -> int:
        return self._layout.dimensions * {"float32": 4, "turbo8": 1}.get(self._layout.rescore, 2)

    def build_index(self, progress: Progress) -> None:
        """Run the engine's optimizers to their end. They report no progress and hold the interpreter's lock."""
        with _wrap_errors():
            self._shard.optimize()
            self._shard.flush()
        count = self.count()
        progress(count, count)

    def sizes(self) -> PointSizes:
        """Return the bytes on disk of the points and of the index files, which are held in memory."""
        sizes = {True: 0, False: 0}
        for file in (self._path / "segments").rglob("*"):
            parts = {*file.relative_to(self._path).parts}
            is_index = file.name.startswith("quantized") or {"quantized_data", "vector_index"} & parts
            with suppress(FileNotFoundError):  # an optimizer removes files meanwhile
                if file.is_file():
                    sizes[bool(is_index)] += file.stat().st_blocks * 512
        return PointSizes(points=sizes[False], index=sizes[True], ram=sizes[True])


def _stored_point(found: edge.Record, vectors: bool) -> StoredPoint:
    return StoredPoint(found.id, found.payload, np.array(found.vector, np.float32) if vectors else None)


@lru_cache(maxsize=64)
def _parameters(exact: bool, rescore: bool, oversampling: float, ef: int | None) -> edge.SearchParams:
    """Return search parameters; cached, since making them takes a tenth of a search's time outside the engine."""
    quantization = edge.QuantizationSearchParams(
        ignore=exact, rescore=rescore, oversampling=oversampling if rescore else None
    )
    return edge.SearchParams(hnsw_ef=ef, exact=exact, quantization=quantization)


def _check_disk(path: Path, points: Points) -> None:
    """Raise DatabaseError where the disk of a path may be too full to take points.

    The engine maps its files into memory and lets them grow into holes: where the disk has no page left for one, the
    process is killed in the middle of a write (SIGBUS), without a message.
    """
    documents = sum(len(payload.get(DOCUMENT) or "") for payload in points.payloads)
    wanted = _DISK_COPIES * (points.vectors.nbytes + documents) + _DISK_RESERVE
    free = shutil.disk_usage(path).free
    if free < wanted:
        raise DatabaseError(
            f"the disk of {path} is full: {free >> 20} MB are left, and {wanted >> 20} MB are wanted to write more; "
            "nothing is lost, so make room and continue"
        )


class _wrap_errors(AbstractContextManager[None]):  # noqa: N801 - a class: a generator costs a search too much time
    """Raise DatabaseError for the bare exceptions of the engine; an exception of another class is not the engine's."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if type(error) is Exception:
            raise DatabaseError(f"the embedded Qdrant engine refused: {str(error).strip()}") from error
