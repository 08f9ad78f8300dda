"""Queries of an evaluation: vectors from any source, or texts that the collection's model embeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvec.calibration import Calibration
from qvec.embedding import Embedder
from qvec.errors import InputError
from qvec.evaluation.rows import prepared
from qvec.sources import Source

FEW_QUERIES = 100


@dataclass(frozen=True)
class Queries:
    """Vectors float32 (m, D) as they came, the id of each, and where they are rows themselves (of the collection or its
    source) the id of that row, which then counts neither as found nor as to be found."""

    names: tuple[str, ...]
    vectors: NDArray[np.float32]
    described: str
    rows: tuple[int | str, ...] | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def notes(self) -> Iterator[str]:
        """What a reader has to know of them beside the figures."""
        if self.rows is not None:
            yield "queries are rows themselves, each left out of its own hits; real ones may lie further from the rows"
        if len(self) < FEW_QUERIES:
            yield f"{len(self)} queries are few: figures and intervals may be off"

    def take(self, positions: NDArray[np.int64]) -> Queries:
        """Those at these positions."""
        rows = None if self.rows is None else tuple(self.rows[i] for i in positions)
        return Queries(tuple(self.names[i] for i in positions), self.vectors[positions], self.described, rows)

    def compared(self, calibration: Calibration, dimensions: int | None = None) -> NDArray[np.float32]:
        """As they are compared: so many dimensions (the calibration's unless told), at unit length under cosine."""
        return prepared(self.vectors, dimensions or calibration.dimensions, calibration.metric == "cosine")


def read_queries(source: Source, calibration: Calibration, embedder: Callable[[], Embedder]) -> Queries:
    """All queries of a source: its vectors, or its texts embedded as questions; ids are its ids or row numbers.

    Raises InputError for a row that cannot be read, a query that cannot be compared, and where there are none.
    """
    if source.dimensions is None and not source.has_text:
        raise InputError(f"{source.name} has neither vectors nor text to take as queries")
    names: list[str] = []
    texts: list[str] = []
    vectors: list[NDArray[np.float32]] = []
    for batch in source.batches():
        if batch.rejected:
            raise InputError(f"{batch.rejected[0].where}: {batch.rejected[0].reason}")
        names += map(str, batch.rows.tolist() if batch.ids is None else batch.ids.to_pylist())
        if batch.vectors is not None:
            vectors.append(batch.vectors.astype(np.float32))
        elif batch.documents is not None:
            texts += _texts(source, batch.documents.to_pylist(), batch.start)
    if not names:
        raise InputError(f"{source.name} has no queries")
    found = np.concatenate(vectors) if vectors else embedder().embed_queries(texts)
    if found.shape[1] not in calibration.accepted_dimensions:
        wanted = " or ".join(map(str, calibration.accepted_dimensions))
        raise InputError(f"{source.name} has {found.shape[1]} dimensions, expected {wanted}, as the collection")
    calibration.check(found, source.name)
    return Queries(tuple(names), found, source.name)


def _texts(source: Source, texts: list[str | None], start: int) -> list[str]:
    for position, text in enumerate(texts):
        if text is None:
            raise InputError(f"{source.where(start + position)} has no text")
    return [text for text in texts if text is not None]
