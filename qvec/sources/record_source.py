"""What JSON Lines and CSV have in common: columns recognized from the first rows, batches parsed row by row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from qvec.errors import InputError
from qvec.sources.base import BATCH_ROWS, Batch, Columns, Source
from qvec.sources.columns import Kind, assign_roles
from qvec.sources.record_vectors import vector_length
from qvec.sources.records import Record, RecordReader, id_type_of_values, kind_of_value
from qvec.sources.text_files import Spool

PEEKED_ROWS = 100


class RecordSource(Source):
    """A text file of records. A subclass reads them, and calls `_recognize` when it is ready to."""

    format: str
    _reader: RecordReader | None = None

    def __init__(self, name: str, path: str, file: Path, spool: Spool | None) -> None:
        super().__init__(name, path, [file])
        self._file, self._spool = file, spool
        self._label = file.name if spool is None else "standard input"

    def _content_fingerprint(self) -> str:
        return super()._content_fingerprint() if self._spool is None else self._spool.fingerprint

    def where(self, row: int) -> str:
        return f"{self._label}, row {row}"

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()

    @abstractmethod
    def _records(self, start: int) -> Iterator[Record]:
        """The records from row `start` on; those before it are skipped without parsing."""

    def _recognize(self, columns: Columns) -> None:
        first = list(islice(self._records(0), PEEKED_ROWS))
        self.rows = len(first) if len(first) < PEEKED_ROWS else None
        if not first:
            return
        rows = [record.fields for record in first if not record.fault]
        if not rows:
            raise InputError(f"{self._label} is not {self.format}: line {first[0].line} {first[0].fault}")
        roles = assign_roles(_kinds(rows), columns, self._label)
        self.id_type = id_type_of_values(_present(rows, roles.id)) if roles.id else None
        self.codec = columns.codec
        self.dimensions = self._find_dimensions(rows, roles.vector)
        self.has_text = roles.text is not None
        self._reader = RecordReader(self._label, roles, self.id_type, self.dimensions, self.codec)

    def _find_dimensions(self, rows: Sequence[Mapping[str, Any]], column: str | None) -> int | None:
        if column is None:
            return None
        lengths = (vector_length(value, self.codec) for value in _present(rows, column))
        length = next(filter(None, lengths), None)
        if length is None:
            wanted = "list of numbers or base64 text" if self.codec.text else "list of numbers"
            raise InputError(
                f"{self._label}: column {column!r} holds no {wanted} in the first {len(rows)} rows; "
                "name the vectors' column with --vector-column"
            )
        return self.codec.dimensions_of(length, f"{self._label}: column {column!r}")

    def _batches(self, start: int, batch_rows: int) -> Iterator[Batch]:
        return iter(()) if self._reader is None else self._read(self._reader, start, batch_rows)

    def _vector_batches(self) -> Iterator[Batch]:
        if self._reader is None:
            return iter(())
        roles = replace(self._reader.roles, text=None, title=None, metadata=())
        return self._read(replace(self._reader, roles=roles), 0, BATCH_ROWS)

    def _read(self, reader: RecordReader, start: int, batch_rows: int) -> Iterator[Batch]:
        records = self._records(start)
        stop = start
        while (batch := reader.batch(islice(records, batch_rows), stop)).stop > stop:
            yield batch
            stop = batch.stop
        if stop > start:
            self.rows = stop


def _kinds(rows: Sequence[Mapping[str, Any]]) -> dict[str, Kind]:
    """The kind of each column by its first value that is not null."""
    kinds: dict[str, Kind] = {name: "scalar" for fields in rows for name in fields}
    for fields in reversed(rows):
        kinds |= {name: kind_of_value(value) for name, value in fields.items() if value is not None}
    return kinds


def _present(rows: Sequence[Mapping[str, Any]], column: str) -> list[Any]:
    return [fields[column] for fields in rows if fields.get(column) is not None]
