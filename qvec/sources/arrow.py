"""Arrow IPC: the file format (also Feather version 2) and the stream format."""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from qvec.errors import InputError
from qvec.sources.base import Batch, Columns
from qvec.sources.columns import kind_of
from qvec.sources.files import read_errors
from qvec.sources.tables import TableReader, TableSource, skip_rows

FILE_MAGIC = b"ARROW1"


class ArrowSource(TableSource):
    """Record batches of a memory-mapped file, cut and joined to batches of the requested size.

    The file format tells its number of rows; that of a stream is known after it was read once.
    """

    def __init__(self, name: str, file: Path, columns: Columns) -> None:
        super().__init__(name, str(file.resolve()), [file])
        self._file = file
        self._mapped = _map(file)
        self._is_stream = self._mapped[: len(FILE_MAGIC)] != FILE_MAGIC
        with read_errors(file, "Arrow"):
            schema = self._open().schema
            counts = [] if self._is_stream else self._count(schema)
        self._first_rows = [0, *accumulate(counts)]
        self.rows = None if self._is_stream else self._first_rows[-1]
        self._recognize({str(file): schema}, columns)

    def _open(self, options: Any = None) -> Any:
        buffer = pa.py_buffer(self._mapped)
        return (pa.ipc.open_stream if self._is_stream else pa.ipc.open_file)(buffer, options=options)

    def _count(self, schema: Any) -> list[int]:
        """Return the number of rows of each record batch.

        Arrow has to decompress columns to count them, so only one short column is read. It copies the columns it is
        told to read: if there are only vectors it is not told, and copies nothing but compressed batches.
        """
        short = [index for index, field in enumerate(schema) if kind_of(field.type) in ("scalar", "text")]
        opened = self._open(pa.ipc.IpcReadOptions(included_fields=short[:1]))
        return [opened.get_batch(index).num_rows for index in range(opened.num_record_batches)]

    def _tables(self, start: int) -> Iterator[Any]:
        """Yield the record batches as stored, from row `start` on."""
        with read_errors(self._file, "Arrow"):
            opened = self._open()
            if self._is_stream:
                yield from skip_rows(iter(opened), start)
                return
            index = bisect_right(self._first_rows, start) - 1
            tables = (opened.get_batch(i) for i in range(index, opened.num_record_batches))
            yield from skip_rows(tables, start - self._first_rows[index])

    def _read_column(self, column: str) -> Iterator[Any]:
        return (table.column(column) for table in self._tables(0))

    def _read(self, readers: Sequence[TableReader], start: int, batch_rows: int) -> Iterator[Batch]:
        stop = start
        for table in _rebatched(self._tables(start), batch_rows):
            yield readers[0].batch(table, stop)
            stop += len(table)
            self._release()
        if stop > start:
            self.rows = stop

    def _release(self) -> None:
        """Release the pages read so far, which would count as resident; those still in use are mapped again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)


def _map(file: Path) -> mmap.mmap:
    with file.open("rb") as stream:
        if not file.stat().st_size:
            raise InputError(f"{file} is empty; expected the Arrow file or stream format")
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _rebatched(tables: Iterator[Any], batch_rows: int) -> Iterator[Any]:
    """Yield the rows of record batches in batches of `batch_rows`; the last may be shorter."""
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
