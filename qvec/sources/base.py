"""What every source is: a stream of batches, a uniform sample, a place for each row."""

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

from qvec.codecs import FLOAT, Codec
from qvec.errors import InputError
from qvec.sampling import Reservoir
from qvec.sources.fingerprint import fingerprint_files
from qvec.sources.sampling import Screen

Vectors = NDArray[np.float32] | NDArray[np.float16]
IdType = Literal["bigint", "text"]
Form = Literal["raw", "prepared", "centred"]
"""What a source's vectors are: as a model gave them; cut and normalized already, not to be normalized again; or that
minus the threshold of their calibration."""
Progress = Callable[[int], None]

BATCH_ROWS = 8192


@dataclass(frozen=True)
class Columns:
    """The columns the user named; None: recognize by name. `metadata` None: all other columns, (): none.

    `codec` is how the vectors are stored, in sources without columns as well.
    """

    id: str | None = None
    vector: str | None = None
    text: str | None = None
    metadata: tuple[str, ...] | None = None
    codec: Codec = FLOAT


@dataclass(frozen=True)
class RejectedRow:
    """A row that cannot be loaded: its position from 0, its place for people, why, and what it held."""

    row: int
    where: str
    reason: str
    content: str


@dataclass(frozen=True)
class Batch:
    """Source rows [start, stop): the good ones as columns of n values each, the others in `rejected`.

    `rows` (n,) int64 holds the source row of each good row. `ids` is int64 or large_string without nulls, or
    None when the source has no ids. `vectors` (n, d) is C-contiguous float32 or float16. `documents` is
    large_string and may hold nulls. `metadata` is large_string of compact JSON objects.
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
        """By source row why it was rejected."""
        return {rejected.row: rejected.reason for rejected in self.rejected}


class Source(ABC):
    """Rows that can be read in order from any row on, and sampled. Use as a context manager.

    `name` is what the user gave, `path` the absolute identity ("-" for standard input). `rows` is None where
    the format does not say; `dimensions` is None without vectors; `id_type` is None without ids. Vectors are decoded as
    `codec` says, and `dimensions` are those of decoded ones.
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
        """Hex digits that change when the content or its codec changes, without reading all of a large file."""
        content = self._content_fingerprint()
        return content if self.codec == FLOAT else hashlib.sha256(f"{content}{self.codec}".encode()).hexdigest()[:32]

    def batches(self, start: int = 0, batch_rows: int = BATCH_ROWS) -> Iterator[Batch]:
        """Contiguous batches of at most `batch_rows` rows, from source row `start` on."""
        if start < 0 or batch_rows < 1:
            raise InputError(f"start is {start} and batch_rows {batch_rows}; expected at least 0 and 1")
        return self._batches(start, batch_rows)

    def sample(
        self, size: int, seed: int, progress: Progress | None = None, screen: Screen | None = None
    ) -> Vectors | None:
        """At most `size` vectors (n, d), uniform without replacement over all good rows that `screen` takes: without
        one all with finite values.

        `progress` is called with the number of source rows passed so far. None when the source has no vectors.
        """
        if size < 1:
            raise InputError(f"the sample size is {size}; expected at least 1")
        return (
            None
            if self.dimensions is None
            else self._sample(size, seed, progress or (lambda _: None), screen or Screen())
        )

    def where(self, row: int) -> str:
        """The place of a source row for people, as in "vectors.npy, row 17" (rows count from 0)."""
        return f"{Path(self.name).name}, row {row}"

    def close(self) -> None:
        """Let go of temporary files."""
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
        """Batches for sampling; a source with columns reads ids and vectors alone, so a row that is rejected for
        its text or metadata may be in the sample."""
        return self._batches(0, BATCH_ROWS)

    def _sample(self, size: int, seed: int, progress: Progress, screen: Screen) -> Vectors:
        reservoir = Reservoir(size, seed)
        for batch in self._vector_batches():
            if batch.vectors is not None:
                reservoir.add(screen.kept(batch.vectors, batch.rows, batch.reasons))
            progress(batch.stop)
        return reservoir.rows(self.dimensions or 0)
