"""Arrow IPC: the file format (also Feather version 2) and the stream format."""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from qvec.errors import InputError
from qvec.sources.base import BATCH_ROWS, Batch, Columns, Source
from qvec.sources.reading import reading
from qvec.sources.schemas import schema_id_type, schema_roles
from qvec.sources.table import TableReader
from qvec.sources.vectors import first_dimensions, kind_of

FILE_MAGIC = b"ARROW1"


class ArrowSource(Source):
    """Record batches of a memory-mapped file, cut and joined to batches of the size asked for.

    Only the file format knows its rows; of a stream they are known after it was read once.
    """

    def __init__(self, name: str, file: Path, columns: Columns) -> None:
        super().__init__(name, str(file.resolve()), [file])
        self._file = file
        self._mapped = _map(file)
        self._is_stream = self._mapped[: len(FILE_MAGIC)] != FILE_MAGIC
        with reading(file, "Arrow"):
            schema = self._open().schema
            counts = [] if self._is_stream else self._count(schema)
        self._firsts = [0, *accumulate(counts)]
        self.rows = None if self._is_stream else self._firsts[-1]
        schemas = {str(file): schema}
        roles = schema_roles(schemas, columns)
        self.id_type = schema_id_type(schemas, roles)
        self.has_text = roles.text is not None
        self.codec = columns.codec
        self.dimensions = self._find_dimensions(roles.vector)
        self._reader = TableReader(roles, tuple(schema.names), self.id_type, self.dimensions, self.codec, self.where)

    def _open(self, options: Any = None) -> Any:
        buffer = pa.py_buffer(self._mapped)
        return (pa.ipc.open_stream if self._is_stream else pa.ipc.open_file)(buffer, options=options)

    def _count(self, schema: Any) -> list[int]:
        """The rows of each record batch.

        Of compressed batches one short column is read. Arrow copies the columns it is told to read, so where
        there are vectors only it is not told: then nothing is copied unless it is compressed.
        """
        short = [index for index, field in enumerate(schema) if kind_of(field.type) in ("scalar", "text")]
        opened = self._open(pa.ipc.IpcReadOptions(included_fields=short[:1]))
        return [opened.get_batch(index).num_rows for index in range(opened.num_record_batches)]

    def _stored(self, start: int) -> Iterator[Any]:
        """The record batches as stored, from row `start` on."""
        with reading(self._file, "Arrow"):
            opened = self._open()
            if self._is_stream:
                tables, skip = iter(opened), start
            else:
                index = bisect_right(self._firsts, start) - 1
                tables = (opened.get_batch(i) for i in range(index, opened.num_record_batches))
                skip = start - self._firsts[index]
            for table in tables:
                kept = table.slice(min(skip, len(table)))
                skip -= len(table) - len(kept)
                yield kept

    def _find_dimensions(self, column: str | None) -> int | None:
        if column is None:
            return None
        found = (first_dimensions(table.column(column), self.codec) for table in self._stored(0))
        return next((dimensions for dimensions in found if dimensions is not None), None)

    def _batches(self, start: int, batch_rows: int) -> Iterator[Batch]:
        return self._read(self._reader, start, batch_rows)

    def _vector_batches(self) -> Iterator[Batch]:
        return self._read(self._reader.vectors_only(), 0, BATCH_ROWS)

    def _read(self, reader: TableReader, start: int, batch_rows: int) -> Iterator[Batch]:
        stop = start
        for table in _rebatched(self._stored(start), batch_rows):
            yield reader.batch(table, stop)
            stop += len(table)
            self._release()
        if stop > start:
            self.rows = stop

    def _release(self) -> None:
        """Let go of the pages read, which would count as resident; what is still in use is mapped again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)


def _map(file: Path) -> mmap.mmap:
    with file.open("rb") as stream:
        if not file.stat().st_size:
            raise InputError(f"{file} is empty; expected the Arrow file or stream format")
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _rebatched(tables: Iterator[Any], batch_rows: int) -> Iterator[Any]:
    pending: list[Any] = []
    missing = batch_rows
    for table in tables:
        while len(table):
            pending.append(table.slice(0, missing))
            missing -= len(pending[-1])
            table = table.slice(len(pending[-1]))
            if not missing:
                yield _joined(pending)
                pending, missing = [], batch_rows
    if pending:
        yield _joined(pending)


def _joined(tables: list[Any]) -> Any:
    if len(tables) == 1:
        return tables[0]
    return pa.Table.from_batches(tables).combine_chunks().to_batches()[0]
