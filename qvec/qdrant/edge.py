"""A collection's points in the embedded engine."""

from __future__ import annotations

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
from qvec.qdrant import full_text, metadata_index
from qvec.qdrant.disk import check_room
from qvec.qdrant.edge_filters import convert
from qvec.qdrant.engine import IndexState, Record, Request, Sizes
from qvec.qdrant.ids import PointId
from qvec.qdrant.layout import Layout
from qvec.qdrant.points import Points
from qvec.qdrant.steps import Steps, at_once
from qvec.stores import Progress

_DATATYPES = {
    "float16": edge.VectorStorageDatatype.Float16,
    "float32": edge.VectorStorageDatatype.Float32,
    "turbo16": edge.VectorStorageDatatype.Turbo16,
    "turbo8": edge.VectorStorageDatatype.Turbo8,
    "binary": edge.VectorStorageDatatype.Float16,
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
"""Vectors of a segment below this are scanned: a graph would not find them sooner."""
_NO_LIMIT_KB = 1 << 40


def configuration(layout: Layout) -> edge.EdgeConfig:
    """The engine's configuration: stored vectors on disk, quantized ones and the graph in memory."""
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(
            layout.dimensions,
            edge.Distance.Dot,
            datatype=_DATATYPES[layout.rescore],
            memory=edge.Memory.Cold,
            quantization_config=_quantization(layout),
        ),
        optimizers=edge.EdgeOptimizersConfig(
            indexing_threshold=_INDEXING_THRESHOLD_KB, default_segment_number=1, max_segment_size=_NO_LIMIT_KB
        ),
    )


def _quantization(layout: Layout) -> edge.BinaryQuantizationConfig | edge.TurboQuantQuantizationConfig:
    if layout.prefilter in _TURBO_BITS:
        return edge.TurboQuantQuantizationConfig(bits=_TURBO_BITS[layout.prefilter], memory=edge.Memory.Pinned)
    return edge.BinaryQuantizationConfig(
        encoding=_ENCODINGS[layout.prefilter],
        query_encoding=_QUERY_ENCODINGS[layout.query_encoding],
        memory=edge.Memory.Pinned,
    )


class EdgeEngine:
    """The points of one collection in a directory."""

    def __init__(self, path: Path, layout: Layout) -> None:
        """Opens what is in the directory, or begins it."""
        self._path = path
        self._layout = layout
        with _explained():
            if (path / "segments").exists():
                self._shard = edge.EdgeShard.load(str(path))
            else:
                path.mkdir(parents=True, exist_ok=True)
                self._shard = edge.EdgeShard.create(str(path), configuration(layout))

    def close(self) -> None:
        with _explained():
            self._shard.close()

    @at_once
    def flush(self) -> None:
        with _explained():
            self._shard.flush()

    @at_once
    def upsert(self, points: Points) -> None:
        check_room(self._path, points)
        rows = [
            edge.Point(id, memoryview(vector), payload)  # type: ignore[arg-type]  # the fastest of what it takes
            for id, vector, payload in zip(points.ids, points.vectors, points.payloads, strict=True)
        ]
        with _explained():
            self._shard.update(edge.UpdateOperation.upsert_points(rows))

    @at_once
    def delete(self, ids: Sequence[PointId]) -> None:
        with _explained():
            self._shard.update(edge.UpdateOperation.delete_points(list(ids)))

    @at_once
    def retrieve(self, ids: Sequence[PointId], *, payload: bool, vectors: bool = False) -> list[Record]:
        with _explained():
            found = self._shard.retrieve(list(ids), with_payload=payload, with_vector=vectors)
        return [_record(record, vectors) for record in found]

    @at_once
    def search(self, queries: NDArray[np.float32], request: Request) -> list[list[edge.ScoredPoint]]:
        filter = None if request.filter is None else convert(request.filter)
        params = _parameters(request.exact, request.rescore, request.oversampling, request.ef)
        with _explained():
            return [
                self._shard.query(
                    edge.QueryRequest(
                        request.limit,
                        query=edge.Query.Nearest(memoryview(query)),  # type: ignore[arg-type]
                        filter=filter,
                        params=params,
                        with_payload=request.payload,
                    )
                )
                for query in queries
            ]

    @at_once
    def scroll(
        self,
        start: PointId | None,
        limit: int,
        *,
        vectors: bool,
        filter: models.Filter | None = None,
        payload: bool | list[str] = True,
    ) -> tuple[list[Record], PointId | None]:
        native = None if filter is None else convert(filter)
        request = edge.ScrollRequest(
            offset=start, limit=limit, filter=native, with_payload=payload, with_vector=vectors
        )
        with _explained():
            found, following = self._shard.scroll(request)
        records = [_record(record, vectors) for record in found]
        return records, str(following) if isinstance(following, UUID) else following

    @at_once
    def count(self) -> int:
        return self._count()

    def _count(self) -> int:
        with _explained():
            return int(self._shard.count(edge.CountRequest(exact=True)))

    @at_once
    def clear(self) -> None:
        with _explained():
            self._shard.update(edge.UpdateOperation.delete_points_by_filter(edge.Filter()))
            self._shard.optimize()
            self._shard.flush()

    @at_once
    def indexes(self) -> dict[str, Any]:
        with _explained():
            found = self._shard.info().payload_schema
        return {field: index.params or index.data_type for field, index in found.items()}

    @at_once
    def create_index(self, field: str, schema: Any) -> None:
        with _explained():
            self._shard.update(edge.UpdateOperation.create_field_index(field, schema))

    def index_metadata(self, index: MetadataIndex) -> Steps[None]:
        return self.create_index(*metadata_index.create_embedded(index))

    def index_texts(self, language: str) -> Steps[None]:
        return self.create_index(full_text.FIELD, full_text.create_embedded(language))

    @at_once
    def texts_language(self) -> str | None:
        with _explained():
            index = self._shard.info().payload_schema.get(full_text.FIELD)
        return full_text.language(index and index.params)

    @at_once
    def search_text(self, question: str, request: Request) -> list[edge.ScoredPoint]:
        with _explained():
            return self._shard.query(
                edge.QueryRequest(
                    request.limit,
                    query=edge.TextQuery(full_text.FIELD, question),
                    filter=None if request.filter is None else convert(request.filter),
                    with_payload=request.payload,
                )
            )

    @at_once
    def index_state(self) -> IndexState:
        with _explained():
            info = self._shard.info()
        unindexed = info.points_count - info.indexed_vectors_count
        kilobytes = unindexed * self._stored_bytes() / 1024
        return "none" if kilobytes >= _INDEXING_THRESHOLD_KB else "built"

    def _stored_bytes(self) -> int:
        return self._layout.dimensions * {"float32": 4, "turbo8": 1}.get(self._layout.rescore, 2)

    @at_once
    def build_index(self, progress: Progress) -> None:
        """Runs the engine's optimizers to their end. They tell nothing on the way and hold the interpreter's lock."""
        with _explained():
            self._shard.optimize()
            self._shard.flush()
        count = self._count()
        progress(count, count)

    @at_once
    def sizes(self) -> Sizes:
        """Bytes on disk of the points and of what is read beside them to find them; the latter are held in memory."""
        sizes = {True: 0, False: 0}
        for file in (self._path / "segments").rglob("*"):
            parts = {*file.relative_to(self._path).parts}
            found = file.name.startswith("quantized") or {"quantized_data", "vector_index"} & parts
            with suppress(FileNotFoundError):  # an optimizer clears away as it goes
                if file.is_file():
                    sizes[bool(found)] += file.stat().st_blocks * 512
        return Sizes(points=sizes[False], index=sizes[True], ram=sizes[True])


def _record(found: edge.Record, vectors: bool) -> Record:
    return Record(found.id, found.payload, np.array(found.vector, np.float32) if vectors else None)


@lru_cache(maxsize=64)
def _parameters(exact: bool, rescore: bool, oversampling: float, ef: int | None) -> edge.SearchParams:
    """How to find and rank; kept, since making them takes a tenth of a search's time outside the engine."""
    quantization = edge.QuantizationSearchParams(
        ignore=exact, rescore=rescore, oversampling=oversampling if rescore else None
    )
    return edge.SearchParams(hnsw_ef=ef, exact=exact, quantization=quantization)


class _explained(AbstractContextManager[None]):  # noqa: N801 - a class, since a search is short beside a generator
    """The engine raises bare exceptions with a message; what is more special is not from it."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if type(error) is Exception:
            raise DatabaseError(f"the embedded Qdrant engine refused: {str(error).strip()}") from error
