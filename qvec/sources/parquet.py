"""Parquet files, one or several as one source."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from qvec.sources.base import BATCH_ROWS, Batch, Columns, Source
from qvec.sources.columns import Roles
from qvec.sources.reading import reading
from qvec.sources.schemas import schema_id_type, schema_roles
from qvec.sources.table import TableReader
from qvec.sources.vectors import first_dimensions

STREAM_BYTES = 1 << 20


class ParquetSource(Source):
    """Parquet files in the given order. Columns are recognized in the first and expected in the others."""

    def __init__(self, name: str, path: str, files: Sequence[Path], columns: Columns) -> None:
        super().__init__(name, path, files)
        counts: list[int] = []
        schemas: dict[str, Any] = {}
        for file in files:
            with _open(file) as opened:
                counts.append(opened.metadata.num_rows)
                schemas[str(file)] = opened.schema_arrow
        self._firsts = [0, *accumulate(counts)]
        self.rows: int = self._firsts[-1]
        roles = schema_roles(schemas, columns)
        self.id_type = schema_id_type(schemas, roles)
        self.has_text = roles.text is not None
        self.codec = columns.codec
        self.dimensions = self._find_dimensions(roles)
        self._readers = [
            TableReader(roles, tuple(schema.names), self.id_type, self.dimensions, self.codec, self.where)
            for schema in schemas.values()
        ]

    def where(self, row: int) -> str:
        file = self._file_of(row)
        return f"{self._files[file].name}, row {row - self._firsts[file]}"

    def _file_of(self, row: int) -> int:
        return min(bisect_right(self._firsts, row), len(self._files)) - 1

    def _batches(self, start: int, batch_rows: int) -> Iterator[Batch]:
        return self._read(self._readers, start, batch_rows)

    def _vector_batches(self) -> Iterator[Batch]:
        return self._read([reader.vectors_only() for reader in self._readers], 0, BATCH_ROWS)

    def _read(self, readers: Sequence[TableReader], start: int, batch_rows: int) -> Iterator[Batch]:
        if start >= self.rows:
            return
        for index in range(self._file_of(start), len(self._files)):
            first = self._firsts[index]
            for table in _tables(self._files[index], readers[index].columns, max(start - first, 0), batch_rows):
                yield readers[index].batch(table, max(start, first))
                start = max(start, first) + len(table)

    def _find_dimensions(self, roles: Roles) -> int | None:
        if roles.vector is None:
            return None
        for file in self._files:
            for table in _tables(file, [roles.vector], 0, 64):
                dimensions = first_dimensions(table.column(0), self.codec)
                if dimensions is not None:
                    return dimensions
        return None


def _open(file: Path) -> Any:
    """Streamed with a small buffer, so that a row group of gigabytes is never in memory as a whole."""
    with reading(file, "Parquet"):
        return pq.ParquetFile(file, pre_buffer=False, buffer_size=STREAM_BYTES)


def _tables(file: Path, columns: list[str], skip: int, batch_rows: int) -> Iterator[Any]:
    """Record batches of a file from row `skip` on; whole row groups before it are not read."""
    with _open(file) as opened, reading(file, "Parquet"):
        counts = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
        firsts = [0, *accumulate(counts)]
        group = bisect_right(firsts, skip) - 1
        skip -= firsts[group]
        for table in opened.iter_batches(batch_rows, range(group, len(counts)), columns):
            kept = table.slice(min(skip, len(table)))
            skip -= len(table) - len(kept)
            if len(kept):
                yield kept
