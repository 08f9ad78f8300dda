"""Parquet files, one or several as one source."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from qvec.sources.base import Batch, Columns
from qvec.sources.files import BUFFER_BYTES, read_errors
from qvec.sources.tables import TableReader, TableSource, skip_rows

PEEKED_ROWS = 64


class ParquetSource(TableSource):
    """Parquet files in the given order. Columns are recognized in the first and required in the others."""

    rows: int

    def __init__(self, name: str, path: str, files: Sequence[Path], columns: Columns) -> None:
        super().__init__(name, path, files)
        counts: list[int] = []
        schemas: dict[str, Any] = {}
        for file in files:
            with _open(file) as opened:
                counts.append(opened.metadata.num_rows)
                schemas[str(file)] = opened.schema_arrow
        self._first_rows = [0, *accumulate(counts)]
        self.rows = self._first_rows[-1]
        self._recognize(schemas, columns)

    def where(self, row: int) -> str:
        file = self._file_of(row)
        return f"{self._files[file].name}, row {row - self._first_rows[file]}"

    def _file_of(self, row: int) -> int:
        return min(bisect_right(self._first_rows, row), len(self._files)) - 1

    def _read(self, readers: Sequence[TableReader], start: int, batch_rows: int) -> Iterator[Batch]:
        if start >= self.rows:
            return
        for index in range(self._file_of(start), len(self._files)):
            skipped = max(start - self._first_rows[index], 0)
            for table in _tables(self._files[index], readers[index].columns, skipped, batch_rows):
                if len(table):
                    yield readers[index].batch(table, start)
                    start += len(table)

    def _read_column(self, column: str) -> Iterator[Any]:
        for file in self._files:
            for table in _tables(file, [column], 0, PEEKED_ROWS):
                yield table.column(0)


def _open(file: Path) -> Any:
    """Open a file with a small buffer, so that a row group of gigabytes is never in memory as a whole."""
    with read_errors(file, "Parquet"):
        return pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER_BYTES)


def _tables(file: Path, columns: list[str], start: int, batch_rows: int) -> Iterator[Any]:
    """Yield record batches of a file from row `start` on; whole row groups before it are not read."""
    with _open(file) as opened, read_errors(file, "Parquet"):
        counts = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
        first_rows = [0, *accumulate(counts)]
        group = bisect_right(first_rows, start) - 1
        yield from skip_rows(
            opened.iter_batches(batch_rows, range(group, len(counts)), columns), start - first_rows[group]
        )
