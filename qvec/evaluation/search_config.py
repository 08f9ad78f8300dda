"""Search configurations: the ways in which a collection can be searched, and what each finds in what time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.client import Collection
from qvec.client.recall import oversampling_with_own_row
from qvec.codes import LEARNED_PLANES, PLANES
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.evaluation.dataset import Queries
from qvec.evaluation.evaluation_results import NONE
from qvec.precisions import code_table_bytes, engine_bytes
from qvec.prefilter_levels import DEFAULT_PREFILTER, LEVELS, level_planes

HitIds = list[list[int | str]]
"""Ids found for each query, best first."""
CodeBlock = tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.float32] | None]
"""Ids (n,), stored codes (n, bytes), and floats (n, d) if the collection keeps them."""
Steps = tuple[str, str, float | None]
"""Prefilter, rescoring precision and oversampling."""

OVERSAMPLINGS = tuple(sorted({1.0, 2.0, 4.0, 8.0, 16.0, float(DEFAULT_OVERSAMPLING)}))
WIDE_SEARCH = 10_000
"""Points that a search of an engine's graph visits to stand in for a scan."""
_WARM_UP_QUERIES = 20
_EXACT_SECONDS = 3.0
_MIN_TIMED = 3


@dataclass(frozen=True)
class SearchConfig:
    """A way to search; `options` are keyword arguments of the collection's `search`. As in `Result`."""

    prefilter: str
    rescore: str
    oversampling: float | None
    exact: bool
    bytes_per_vector: float
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> Steps:
        """The steps of the search, whether by an index or a scan."""
        return self.prefilter, self.rescore, self.oversampling


def search_configs(collection: Collection, oversamplings: Sequence[float] = OVERSAMPLINGS) -> Iterator[SearchConfig]:
    """Yield all configurations: by the index for each precision and oversampling, by the prefilter alone, and exact."""
    prefilter, own = collection.settings["prefilter"], collection.settings["rescore"]
    options = {name: {} if name == own else {"planes": PLANES[name]} for name in rescore_precisions(collection)}
    for rescore, planes in options.items():
        size = bytes_per_vector(collection, prefilter, rescore)
        for oversampling in oversamplings:
            yield SearchConfig(prefilter, rescore, oversampling, False, size, planes)
    yield SearchConfig(prefilter, NONE, None, False, bytes_per_vector(collection, prefilter, NONE), {"rescore": False})
    for rescore, planes in options.items():
        size = bytes_per_vector(collection, NONE, rescore)
        yield SearchConfig(NONE, rescore, None, True, size, {"exact": True, **planes})


def rescore_precisions(collection: Collection) -> list[str]:
    """Return the precisions by which hits can be rescored: the stored one and, of codes, their prefixes."""
    own = collection.settings["rescore"]
    if own not in PLANES or not collection.exposes_codes:
        return [own]
    return [name for name, planes in PLANES.items() if planes <= PLANES[own]]


def scan_prefilters(collection: Collection) -> list[str]:
    """Return the prefilters that a scan of a collection's codes can use, that of its index first."""
    own, planes = collection.settings["prefilter"], PLANES.get(collection.settings["rescore"], 0)
    if not collection.exposes_codes or planes < level_planes(LEVELS[DEFAULT_PREFILTER]):
        return [own]
    scannable = own != "learned" or planes >= LEARNED_PLANES
    return [*([own] if scannable else []), *(name for name in (DEFAULT_PREFILTER, "binary") if name != own)]


def bytes_per_vector(collection: Collection, prefilter: str, rescore: str) -> float:
    """Return the bytes of vector data that a collection needs for these steps, without ids, texts and graph links."""
    calibration = collection.calibration
    if collection.exposes_codes:
        return code_table_bytes(calibration.dimensions, prefilter, rescore, calibration.learned_bits or 0)
    return engine_bytes(calibration.dimensions, prefilter, rescore)


def wide_search(config: SearchConfig) -> SearchConfig:
    """Return the same search of an engine's graph, but so wide that it stands in for a scan of the engine's codes."""
    return SearchConfig(*config.steps, False, config.bytes_per_vector, {**config.options, "ef": WIDE_SEARCH})


def candidate_count(k: int, oversampling: float) -> int:
    """Return the number of candidates that a search for k hits takes."""
    return max(k, math.ceil(k * oversampling))


@dataclass(frozen=True)
class TimedSearch:
    """What a configuration found for each query, and the milliseconds of the searches that were timed."""

    found: HitIds
    milliseconds: NDArray[np.float64]

    def percentiles(self) -> tuple[float, float, float]:
        """Return p50, p95 and p99 in milliseconds."""
        p50, p95, p99 = np.percentile(self.milliseconds, [50, 95, 99])
        return float(p50), float(p95), float(p99)


def warm_up(collection: Collection, queries: Queries, config: SearchConfig, k: int) -> None:
    """Search once with every query, so that no configuration pays for reading the rows into memory."""
    for query in queries.vectors:
        _search(collection, query, config, k)


def time_searches(collection: Collection, queries: Queries, config: SearchConfig, k: int) -> TimedSearch:
    """Search with one query at a time, without texts, and time each search as its caller sees it.

    An exact search reads every row, so all queries are searched at once, and only some again to take the time.
    """
    own_row = queries.row_ids is not None
    if config.exact:
        hits = collection.search(queries.vectors, k + own_row, texts=False, **config.options)
        found = [[hit.id for hit in each] for each in hits]
    else:
        found = []
        for query in queries.vectors[:_WARM_UP_QUERIES]:
            _search(collection, query, config, k, own_row)
    milliseconds: list[float] = []
    for query in queries.vectors:
        if config.exact and len(milliseconds) >= _MIN_TIMED and sum(milliseconds) > _EXACT_SECONDS * 1e3:
            break
        started = time.perf_counter()
        ids = _search(collection, query, config, k, own_row)
        milliseconds.append((time.perf_counter() - started) * 1e3)
        if not config.exact:
            found.append(ids)
    return TimedSearch(_without_own_rows(found, queries.row_ids, k), np.array(milliseconds))


def _search(
    collection: Collection, query: NDArray[np.float32], config: SearchConfig, k: int, own_row: bool = False
) -> list[int | str]:
    """The ids found for one query (D,): one more than k if the query is a row, whose own hit is removed later."""
    oversampling = config.oversampling
    if own_row:
        oversampling = oversampling and oversampling_with_own_row(k, oversampling)
        k += 1
    hits = collection.search(query, k, oversampling, texts=False, **config.options)
    return [hit.id for hit in hits]


def _without_own_rows(found: HitIds, row_ids: Sequence[int | str] | None, k: int) -> HitIds:
    if row_ids is None:
        return found
    return [[id for id in ids if id != row][:k] for ids, row in zip(found, row_ids, strict=True)]
