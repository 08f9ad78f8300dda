"""The configurations in which a collection can be searched, and the bytes a vector takes in each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from qvec.client import Collection
from qvec.codes import PLANES
from qvec.evaluation.results import NONE
from qvec.qdrant.layout import BITS

OVERSAMPLINGS = (1.0, 2.0, 4.0, 8.0, 16.0)

_FLOAT_BYTES = {"float16": 2, "float32": 4, "turbo16": 2, "turbo8": 1}
_WIDE_SEARCH = 10_000


Block = tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.float32] | None]
"""Ids (n,), stored codes (n, bytes), and the floats (n, d) where they are kept."""


@runtime_checkable
class HoldsCodes(Protocol):
    """A collection whose codes are its own and can be read: one in Postgres. Qdrant's are its engine's."""

    def stored_codes(self, rows: int) -> Iterator[Block]: ...


@dataclass(frozen=True)
class Way:
    """One configuration; `options` are those of the collection's `search` that make it."""

    prefilter: str
    rescore: str
    oversampling: float | None
    exact: bool
    bytes_per_vector: float
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> tuple[str, str, float | None]:
        """What it does, whether by the index or by a scan."""
        return self.prefilter, self.rescore, self.oversampling


def ways_of(collection: Collection, oversamplings: Sequence[float] = OVERSAMPLINGS) -> list[Way]:
    """Every way: by the index with each precision and oversampling, by the prefilter alone, and exactly."""
    return [*_by_index(collection, oversamplings), *_exact(collection)]


def precisions(collection: Collection) -> list[str]:
    """What its hits can be rescored by: its own precision and, where that is codes in Postgres, shorter prefixes."""
    own = collection.settings["rescore"]
    if own not in PLANES or not isinstance(collection, HoldsCodes):
        return [own]
    return [name for name, planes in PLANES.items() if planes <= PLANES[own]]


def prefilters(collection: Collection) -> list[str]:
    """The prefilters that a scan of its codes can be made with: the index's own first, unless it is learned bits and
    the codes are too short to compute them from."""
    own = collection.settings["prefilter"]
    if not isinstance(collection, HoldsCodes) or PLANES.get(collection.settings["rescore"], 0) < 4:
        return [own]
    computable = own != "learned" or PLANES[collection.settings["rescore"]] == 8
    return [*([own] if computable else []), *({"ternary", "binary"} - {own})]


def bytes_per_vector(collection: Collection, prefilter: str, rescore: str) -> float:
    """Bytes of vector data: what is stored to rescore by, and what an index of the prefilter holds."""
    dimensions = collection.calibration.dimensions
    if not isinstance(collection, HoldsCodes):
        stored = 0 if rescore == NONE else dimensions * _FLOAT_BYTES.get(rescore, 2)  # signs are kept as float16
        return stored + (0 if prefilter == NONE else dimensions * BITS[prefilter] / 8)
    width = math.ceil(dimensions / 8)
    learned = (collection.calibration.learned_bits or 0) // 8
    bits = {NONE: 0, "binary": width, "ternary": 2 * width, "learned": learned}[prefilter]
    if rescore in PLANES:
        beside = bits if prefilter == "learned" else 0  # a column of their own
        return PLANES[rescore] * width + beside + bits
    if rescore == NONE:
        return bits
    return _FLOAT_BYTES[rescore] * dimensions + 2 * bits  # the bits stand in the table as well


def wide(collection: Collection, way: Way) -> Way | None:
    """The same through so wide a search of the graph that it stands for a scan, where codes cannot be scanned."""
    if isinstance(collection, HoldsCodes) or way.prefilter == NONE:
        return None
    return Way(*way.steps, False, way.bytes_per_vector, {**way.options, "ef": _WIDE_SEARCH})


def _by_index(collection: Collection, oversamplings: Sequence[float]) -> Iterator[Way]:
    prefilter = collection.settings["prefilter"]
    for rescore in precisions(collection):
        size = bytes_per_vector(collection, prefilter, rescore)
        for oversampling in oversamplings:
            yield Way(prefilter, rescore, oversampling, False, size, _options(collection, rescore))
    yield Way(prefilter, NONE, None, False, bytes_per_vector(collection, prefilter, NONE), {"rescore": False})


def _exact(collection: Collection) -> Iterator[Way]:
    for rescore in precisions(collection):
        options = {"exact": True, **_options(collection, rescore)}
        yield Way(NONE, rescore, None, True, bytes_per_vector(collection, NONE, rescore), options)


def _options(collection: Collection, rescore: str) -> dict[str, Any]:
    own = collection.settings["rescore"]
    return {} if rescore == own else {"planes": PLANES[rescore]}
