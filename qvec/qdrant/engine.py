"""What a collection asks of the engine that holds its points, in process or on a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from qvec.metadata_index import MetadataIndex
from qvec.qdrant.filters import Rest
from qvec.qdrant.ids import PointId
from qvec.qdrant.points import Payload, Points
from qvec.qdrant.steps import Steps
from qvec.stores import Progress


@dataclass(frozen=True)
class Request:
    """A search: how many points, how to find and rank them, and what of them to return.

    The engine finds limit × oversampling candidates by its quantized vectors and ranks them by the stored ones; without
    `rescore` it ranks by the quantized ones, `exact` it scores every stored one.
    """

    limit: int
    oversampling: float
    exact: bool = False
    rescore: bool = True
    payload: bool | list[str] = True
    """Whether payloads are returned, or the keys of them that are."""
    filter: models.Filter | None = None
    rest: Rest | None = None
    """Of the filter, what the engine cannot test: `finishing` takes care of it before the engine is asked."""
    named: int = 0
    """How many points the filter names, where it does."""
    ef: int | None = None
    """How many points the graph is searched for at least; None: as many as it was built with, or the candidates."""


class Found(NamedTuple):
    """A point and its score, as a server gave them; the embedded engine's own points have the same attributes."""

    id: Any
    score: float
    payload: Payload | None


@dataclass(frozen=True)
class Record:
    """A point as it is stored."""

    id: Any
    payload: Payload | None
    vector: NDArray[np.float32] | None


@dataclass(frozen=True)
class Sizes:
    """Bytes of a collection; None where the engine does not tell."""

    points: int | None
    index: int | None
    ram: int | None


IndexState = Literal["built", "building", "none"]


class Engine(Protocol):
    """One collection's points; each method gives steps."""

    def upsert(self, points: Points) -> Steps[None]:
        """Writes points over those with the same ids; when it returns they are applied."""

    def delete(self, ids: Sequence[PointId]) -> Steps[None]: ...

    def retrieve(self, ids: Sequence[PointId], *, payload: bool, vectors: bool = False) -> Steps[list[Record]]:
        """Those of the points that are there, in any order."""

    def search(self, queries: NDArray[np.float32], request: Request) -> Steps[Sequence[Sequence[Any]]]:
        """The points found for each query (m, d), best first, with the attributes of `Found`."""

    def scroll(
        self,
        start: PointId | None,
        limit: int,
        *,
        vectors: bool,
        filter: models.Filter | None = None,
        payload: bool | list[str] = True,
    ) -> Steps[tuple[list[Record], PointId | None]]:
        """Points in the order of their ids, from one on, and where the next ones begin; of their payloads all, nothing,
        or fields."""

    def count(self) -> Steps[int]: ...

    def clear(self) -> Steps[None]:
        """Deletes all points; the space they take is free soon after."""

    def indexes(self) -> Steps[dict[str, Any]]:
        """The indexes on fields of payloads, by field, as the same kind of engine's `create_index` takes them."""

    def create_index(self, field: str, schema: Any) -> Steps[None]:
        """Indexes a field of payloads, over another such index."""

    def index_metadata(self, index: MetadataIndex) -> Steps[None]: ...

    def index_texts(self, language: str) -> Steps[None]:
        """Indexes the words of the documents, stemmed as the language is, over another such index."""

    def texts_language(self) -> Steps[str | None]:
        """The language of such an index; None where there is none."""

    def search_text(self, question: str, request: Request) -> Steps[Sequence[Any]]:
        """The points that hold any of the question's words, by BM25, best first."""

    def index_state(self) -> Steps[IndexState]: ...

    def build_index(self, progress: Progress) -> Steps[None]:
        """Builds the search graph over all points; returns when it is there."""

    def sizes(self) -> Steps[Sizes]: ...

    def flush(self) -> Steps[None]:
        """Makes what is written survive a loss of power, as far as this is not the engine's own affair."""
