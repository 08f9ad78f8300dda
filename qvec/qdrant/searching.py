"""How a collection in Qdrant is searched: what is asked of the engine, by vectors and by words, and hits of what it
finds."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvec.arrays import as_vectors
from qvec.calibration import Calibration
from qvec.full_text import asked, no_index
from qvec.hits import Hit
from qvec.qdrant import filters, finishing, points
from qvec.qdrant.description import Foreign
from qvec.qdrant.engine import Engine, Request
from qvec.qdrant.ids import row_id
from qvec.qdrant.layout import Layout
from qvec.qdrant.points import ID
from qvec.qdrant.steps import Steps
from qvec.stores import MOST_ROWS, Explanation, check_count, check_search
from qvec.tracing import span

if TYPE_CHECKING:
    from qvec.filters import FilterLike
    from qvec.sources import IdType


class SearchOperations(ABC):
    """The searches of a collection, the same whether its methods wait or are awaited.

    A method that takes arguments checks them when it is called, and gives steps.
    """

    name: str
    calibration: Calibration
    layout: Layout
    oversampling: float
    _foreign: Foreign | None
    _threshold: NDArray[np.float64]
    _ranks_texts = False

    @abstractmethod
    def engine(self) -> Engine:
        """The engine that holds its points. Raises CollectionError where it was dropped."""

    @property
    def id_type(self) -> IdType:
        return self.layout.id_type

    def _searching(
        self,
        vectors: ArrayLike,
        k: int,
        oversampling: float | None,
        filter: FilterLike | None,
        exact: bool,
        rescore: bool,
        ef: int | None,
        texts: bool,
    ) -> Steps[Any]:
        """Hits of a vector (d,), or a list of them for each of (m, d)."""
        queries, request = self._prepared(vectors, k, oversampling, filter, exact, rescore, texts, ef)
        return self._search(queries, request, np.ndim(vectors) == 2)

    def _search(self, queries: NDArray[np.float32], request: Request, several: bool) -> Steps[Any]:
        attributes = {"queries": len(queries), "k": request.limit, "candidates": _candidates(request)}
        with span("search", database="Qdrant", collection=self.name, **attributes):
            found = yield from self._hits_of(queries, request)
        return found if several else found[0]

    def _explaining(
        self, vector: ArrayLike, k: int, oversampling: float | None, filter: FilterLike | None, exact: bool
    ) -> Steps[Explanation]:
        prepare = partial(self._prepared, vector, k, oversampling, filter, exact)
        prepare()
        return self._explain(prepare)

    def _explain(self, prepare: partial[tuple[NDArray[np.float32], Request]]) -> Steps[Explanation]:
        yield from self._hits_of(*prepare())  # opens what is not open yet
        started = time.perf_counter()
        prepared, request = prepare()
        searched = time.perf_counter()
        hits = (yield from self._hits_of(prepared, request))[0]
        ended = time.perf_counter()
        sent = {
            **asdict(request),
            "filter": request.filter and request.filter.model_dump(exclude_none=True),
            "rest": request.rest and request.rest.unknown,
        }
        return Explanation(
            statement=json.dumps(sent, indent=2, default=str),
            plan=(),
            candidates=_candidates(request),
            milliseconds={"prepare": (searched - started) * 1e3, "search": (ended - searched) * 1e3},
            hits=hits,
        )

    def _prepared(
        self,
        query: ArrayLike,
        k: int,
        oversampling: float | None,
        filter: FilterLike | None,
        exact: bool,
        rescore: bool = True,
        texts: bool = True,
        ef: int | None = None,
    ) -> tuple[NDArray[np.float32], Request]:
        """Queries as they are compared, and what to ask of the engine."""
        check_search(k, oversampling)
        if ef is not None:
            check_count("ef", ef, ", or None for the engine's own")
        array = as_vectors(query, "query", self.calibration.accepted_dimensions)
        self.calibration.check(array, "query")
        native, rest = filters.asked(filter)
        request = Request(
            limit=k,
            oversampling=self.oversampling if oversampling is None else oversampling,
            exact=exact,
            rescore=rescore or exact,
            payload=texts or (self._foreign is None and self.id_type == "text" and [ID]),
            filter=native,
            rest=rest,
            ef=ef,
        )
        return self.calibration.prepared(array), request

    def _hits_of(self, queries: NDArray[np.float32], request: Request) -> Steps[list[list[Hit]]]:
        """Hits of prepared queries (m, d): the engine scores <q, x - threshold>, and <q, threshold> is added."""
        sent, scales = self._scaled(queries)
        request = yield from finishing.finished(self.engine(), request)
        found = yield from self._found(sent, request)
        if not request.payload and self._foreign is None and not _all_integers(found):
            request = replace(request, payload=[ID])  # of negative ids, which points cannot have
            found = yield from self._found(sent, request)
        if self._scores_metric(request):
            constants = (queries @ self._threshold).tolist()
        else:
            scales, constants = [1.0] * len(queries), [0.0] * len(queries)
        return [
            self._hits(batch, request, scale, constant)
            for batch, scale, constant in zip(found, scales, constants, strict=True)
        ]

    def _found(self, queries: NDArray[np.float32], request: Request) -> Steps[list[Sequence[Any]]]:
        found: list[Sequence[Any]] = []
        for batch in finishing.batches(request, queries):
            found += yield from self.engine().search(batch, request)
        return found

    def _scaled(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[float]]:
        """Queries as they are sent, and what their scores are multiplied with.

        The engine rounds queries to float16 and to whole levels, which loses small ones and cannot hold large ones. So
        each is brought to a largest component between 1/2 and 1, which is exact, unless it is at unit length.
        """
        if self.layout.signs_only:
            queries = queries * self.calibration.deviation
        elif self.calibration.metric == "cosine" or (self._foreign and self._foreign.distance == "cosine"):
            return queries, [1.0] * len(queries)
        _, exponents = np.frexp(np.abs(queries).max(axis=1, initial=0))
        return np.ldexp(queries, -exponents[:, None]), np.ldexp(1.0, exponents).tolist()

    def _scores_metric(self, request: Request) -> bool:
        """Whether the engine estimates <q, x - threshold>, as its turbo codes do too, or counts equal bits."""
        return request.rescore or (self._foreign is None and self.layout.prefilter.startswith("turbo"))

    # By words

    def _searching_text(self, question: str, k: int, filter: FilterLike | None, texts: bool) -> Steps[list[Hit]]:
        check_search(k, None)
        payload = texts or (self._foreign is None and [ID])
        native, rest = filters.asked(filter)
        return self._search_text(question, Request(k, 1, payload=payload, filter=native, rest=rest))

    def _search_text(self, question: str, request: Request) -> Steps[list[Hit]]:
        self._ranks_texts = self._ranks_texts or (yield from self.engine().texts_language()) is not None
        if not self._ranks_texts:
            raise no_index(self.name)
        request = yield from finishing.finished(self.engine(), request)
        with span("search_text", database="Qdrant", collection=self.name, k=request.limit) as searching:
            found = yield from self.engine().search_text(asked(question), request)
            searching.set_attribute("qvec.rows", len(found))
        return self._hits(found, request, 1.0, 0.0)

    # Hits

    def _hits(self, found: Sequence[Any], request: Request, scale: float, constant: float) -> list[Hit]:
        """Hits of points; a payload is not looked at unless it was asked for."""
        if not request.payload:
            return [Hit(row_id(point.id, None), point.score * scale + constant) for point in found]
        return [self._hit(point.id, point.score * scale + constant, point.payload) for point in found]

    def _hit(self, point: Any, score: float, payload: points.Payload | None) -> Hit:
        return (points.hit if self._foreign is None else points.foreign_hit)(point, score, payload)


def _candidates(request: Request) -> int | None:
    """How many rows the engine rescores; None: all."""
    return None if request.exact else math.ceil(min(request.limit * request.oversampling, MOST_ROWS))


def _all_integers(found: Sequence[Sequence[Any]]) -> bool:
    return all(isinstance(point.id, int) for batch in found for point in batch)
