"""A search as the engine takes it: which points to find, and how to compare queries with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from qvec.qdrant import filters
from qvec.qdrant.engine_version import EngineVersion
from qvec.qdrant.filters import ResidualFilter, compile_row_filter
from qvec.qdrant.points import ID, PointId
from qvec.qdrant.shard_keys import ShardKey, keys_of_filter
from qvec.qdrant.version_record import ActiveVersion
from qvec.store.requests import RowFilter, SearchRequest, TextRequest, candidate_count


@dataclass(frozen=True)
class PointQuery:
    """A search: how many points, how to find and rank them, and what to return of them.

    The engine finds limit × oversampling candidates by its quantized vectors and ranks them by the stored ones; without
    `rescore` it ranks by the quantized ones, with `exact` it scores every stored one.
    """

    limit: int
    oversampling: float
    exact: bool = False
    rescore: bool = True
    payload: bool | list[str] = True
    """Whether payloads are returned, or which keys of them."""
    filter: models.Filter | None = None
    residual: ResidualFilter | None = None
    """The part of the filter that the engine cannot test; resolved before the engine is asked."""
    named_points: int = 0
    """The number of points that the filter names."""
    shard_keys: Sequence[ShardKey] | None = None
    """The shards to search, which hold all rows that pass the filter; None: all."""
    ef: int | None = None
    """Width of the graph search; None: as wide as the graph was built with, or the candidates."""

    @classmethod
    def of_search(cls, request: SearchRequest, version: ActiveVersion, engine: EngineVersion) -> PointQuery:
        """Return the query of a search by vectors. Raise InputError for a filter that Qdrant cannot test."""
        native, residual = compile_row_filter(request.filter, engine)
        is_managed = version.unmanaged is None
        oversampling = request.oversampling
        return cls(
            limit=request.k,
            oversampling=version.description.oversampling if oversampling is None else oversampling,
            exact=request.exact,
            rescore=request.rescore or request.exact,
            payload=request.texts or (is_managed and version.description.layout.id_type == "text" and [ID]),
            filter=native,
            residual=residual,
            shard_keys=shard_keys_of(request.filter, version),
            ef=request.ef,
        )

    @classmethod
    def of_text(cls, request: TextRequest, version: ActiveVersion, engine: EngineVersion) -> PointQuery:
        """Return the query of a search by words. Raise InputError for a filter that Qdrant cannot test."""
        native, residual = compile_row_filter(request.filter, engine)
        payload = request.texts or (version.unmanaged is None and [ID])
        shard_keys = shard_keys_of(request.filter, version)
        return cls(request.k, 1, payload=payload, filter=native, residual=residual, shard_keys=shard_keys)

    @property
    def candidates(self) -> int | None:
        """The number of points that the engine rescores; None for all."""
        return None if self.exact else candidate_count(self.limit, self.oversampling)

    def with_ids(self) -> PointQuery:
        """Return the query that also reads the row ids in payloads."""
        return replace(self, payload=[ID])

    def of_points(self, ids: list[PointId]) -> PointQuery:
        """Return the query of these points alone, whose filter has been tested."""
        named: list[models.ExtendedPointId] = [*ids]
        by_ids = models.Filter(must=[models.HasIdCondition(has_id=named)])
        return replace(self, filter=by_ids, residual=None, named_points=len(ids))

    def batches(self, queries: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """Yield the queries (m, d) of each request: each query repeats all the ids that the filter names."""
        at_once = max(filters.MAX_IDS // max(self.named_points, 1), 1)
        for start in range(0, len(queries), at_once):
            yield queries[start : start + at_once]

    def to_json(self) -> str:
        """Return the query as text for an explanation."""
        shown = {
            **asdict(self),
            "filter": self.filter and self.filter.model_dump(exclude_none=True),
            "residual": self.residual and self.residual.unknown,
        }
        return json.dumps(shown, indent=2, default=str)


def shard_keys_of(filter: RowFilter, version: ActiveVersion) -> tuple[ShardKey, ...] | None:
    """Return the shards that hold all rows which pass a filter; None for all."""
    field = version.description.sharding.shard_key_field
    return None if field is None else keys_of_filter(filter.tree, field)


class ScaledQueries(NamedTuple):
    """Queries as they are sent, and how the engine's scores become those of the metric: score × scale + constant."""

    sent: NDArray[np.float32]
    scales: list[float]
    constants: list[float]

    @classmethod
    def of(cls, queries: NDArray[np.float32], version: ActiveVersion, rescore: bool) -> ScaledQueries:
        """Scale prepared queries (m, d). The engine scores <q, x - threshold>; the constant is <q, threshold>.

        Without `rescore`, a binary prefilter counts equal bits instead, and its scores are left as they are.
        """
        sent, scales = _scaled(queries, version)
        layout = version.description.layout
        if rescore or (version.unmanaged is None and layout.prefilter.startswith("turbo")):
            threshold = version.description.calibration.threshold.astype(np.float64)
            return cls(sent, scales, (queries @ threshold).tolist())
        return cls(sent, [1.0] * len(queries), [0.0] * len(queries))


def _scaled(queries: NDArray[np.float32], version: ActiveVersion) -> tuple[NDArray[np.float32], list[float]]:
    """Scale queries so that their largest component is between 1/2 and 1, which is exact, unless they have unit length.

    The engine rounds queries to float16 and to whole levels, which loses small ones and cannot hold large ones.
    """
    calibration = version.description.calibration
    if version.description.layout.signs_only:
        queries = queries * calibration.deviation
    elif calibration.metric == "cosine" or (version.unmanaged and version.unmanaged.distance == "cosine"):
        return queries, [1.0] * len(queries)
    _, exponents = np.frexp(np.abs(queries).max(axis=1, initial=0))
    return np.ldexp(queries, -exponents[:, None]), np.ldexp(1.0, exponents).tolist()
