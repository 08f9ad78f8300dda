"""The base class of all sources: a stream of batches, a uniform sample, a readable location for each row."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qvec.arrays import Form, Vectors
from qvec.codecs import FLOAT, Codec
from qvec.errors import InputError
from qvec.sampling import Reservoir, Screen
from qvec.sources.files import fingerprint_files

IdType = Literal["bigint", "text"]
Progress = Callable[[int], None]

BATCH_ROWS = 8192


@dataclass(frozen=True)
class Columns:
    """The columns the user named. A column that is None is recognized by its name.

    `metadata` None takes all other columns, () takes none. `codec` is how the vectors are stored; it also applies to
    sources without columns.
    """

    id: str | None = None
    vector: str | None = None
    text: str | None = None
    metadata: tuple[str, ...] | None = None
    codec: Codec = FLOAT


@dataclass(frozen=True)
class RejectedRow:
    """A row that cannot be loaded: its number from 0, its location for people, the reason, and its content."""

    row: int
    where: str
    reason: str
    content: str


@dataclass(frozen=True)
class Batch:
    """Source rows [start, stop): the valid ones as columns of n values each, the others in `rejected`.

    `rows` (n,) int64 holds the source row of each valid row. `ids` is int64 or large_string without nulls, or None
    when the source has no ids. `vectors` (n, d) is C-contiguous float32 or float16. `documents` is large_string and
    may hold nulls. `metadata` is large_string of compact JSON objects.
    """

    start: int
    stop: int
    rows: NDArray[np.int64]
    ids: Any | None
    vectors: Vectors | None
    documents: Any | None
    metadata: Any | None
    rejected: tuple[RejectedRow, ...]

    @property
    def reasons(self) -> dict[int, str]:
        """The reason for each rejected source row."""
        return {rejected.row: rejected.reason for rejected in self.rejected}


class Source(ABC):
    """Rows that can be read in order from any row on, and sampled. Use it as a context manager.

    `name` is what the user gave, `path` the absolute path ("-" for standard input). `rows` is None if the format
    does not tell; `dimensions` is None without vectors; `id_type` is None without ids. Vectors are decoded by
    `codec`, and `dimensions` counts decoded values.
    """

    rows: int | None = None
    dimensions: int | None = None
    id_type: IdType | None = None
    has_text: bool = False
    form: Form = "raw"
    codec: Codec = FLOAT

    def __init__(self, name: str, path: str, files: Sequence[Path]) -> None:
        self.name = name
        self.path = path
        self._files = files

    def fingerprint(self) -> str:
        """Return hex digits that change with the content and the codec, without reading all of a large file."""
        content = self._content_fingerprint()
        return content if self.codec == FLOAT else hashlib.sha256(f"{content}{self.codec}".encode()).hexdigest()[:32]

    def batches(self, start: int = 0, batch_rows: int = BATCH_ROWS) -> Iterator[Batch]:
        """Yield contiguous batches of at most `batch_rows` rows, from source row `start` on."""
        if start < 0 or batch_rows < 1:
            raise InputError(f"start is {start} and batch_rows {batch_rows}; expected at least 0 and 1")
        return self._batches(start, batch_rows)

    def sample(
        self, size: int, seed: int, progress: Progress | None = None, screen: Screen | None = None
    ) -> Vectors | None:
        """Return at most `size` vectors (n, d), sampled uniformly without replacement; None without vectors.

        The sample covers all valid rows that `screen` accepts (by default rows of finite values). `progress` is
        called with the number of source rows passed so far.
        """
        if size < 1:
            raise InputError(f"the sample size is {size}; expected at least 1")
        if self.dimensions is None:
            return None
        return self._sample(size, seed, progress or (lambda _: None), screen or Screen())

    def where(self, row: int) -> str:
        """Return where a source row is found, such as "vectors.npy, row 17" (counted from 0)."""
        return f"{Path(self.name).name}, row {row}"

    def close(self) -> None:
        """Delete temporary files."""
        return

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _content_fingerprint(self) -> str:
        return fingerprint_files(self._files)

    @abstractmethod
    def _batches(self, start: int, batch_rows: int) -> Iterator[Batch]: ...

    def _vector_batches(self) -> Iterator[Batch]:
        """Yield batches for sampling. A source with columns reads only ids and vectors here, so that the sample may
        hold a row that is rejected for its text or metadata."""
        return self._batches(0, BATCH_ROWS)

    def _sample(self, size: int, seed: int, progress: Progress, screen: Screen) -> Vectors:
        reservoir = Reservoir(size, seed)
        for batch in self._vector_batches():
            if batch.vectors is not None:
                reservoir.add(screen.kept(batch.vectors, batch.rows, batch.reasons))
            progress(batch.stop)
        return reservoir.rows(self.dimensions or 0)
