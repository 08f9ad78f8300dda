"""The common part of JSON Lines and CSV: columns recognized from the first rows, rows parsed one at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qvec.codecs import Codec, decode_rows, from_base64
from qvec.errors import InputError
from qvec.sources.base import BATCH_ROWS, Batch, Columns, IdType, RejectedRow, Source
from qvec.sources.columns import Kind, Roles, assign_roles
from qvec.sources.fields import MAX_BIGINT, NO_ID, NUL_IN_METADATA, NUL_IN_TEXT, has_nul, to_json
from qvec.sources.files import Spool
from qvec.sources.vectors import NO_VECTOR

PEEKED_ROWS = 100

_NUMBERS = frozenset((float, int))
_INTEGERS = frozenset((int,))


@dataclass(frozen=True)
class Record:
    """A row of a text file: its number and line, its fields or what is wrong with them, and its raw text.

    Without raw text, its fields other than lists are shown instead.
    """

    row: int
    line: int
    raw: str
    fields: Mapping[str, Any]
    fault: str = ""

    @property
    def content(self) -> str:
        """The row for the file of rejected rows, in characters that UTF-8 can hold."""
        shown = {name: value for name, value in self.fields.items() if not isinstance(value, list)}
        return (self.raw or to_json(shown)).encode(errors="backslashreplace").decode()


class Fault(Exception):  # noqa: N818
    """Why a record is rejected."""


class RecordSource(Source):
    """A text file of records. A subclass reads them, and calls `_recognize` once it can."""

    format: str
    _reader: RecordReader | None = None

    def __init__(self, name: str, file: Path, spool: Spool | None = None) -> None:
        super().__init__(name, str(file.resolve()) if spool is None else "-", [file])
        self._file, self._spool = file, spool
        self._label = file.name if spool is None else "standard input"

    def where(self, row: int) -> str:
        return f"{self._label}, row {row}"

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()

    def _content_fingerprint(self) -> str:
        return super()._content_fingerprint() if self._spool is None else self._spool.fingerprint

    @abstractmethod
    def _records(self, start: int) -> Iterator[Record]:
        """Yield the records from row `start` on; those before it are skipped without parsing."""

    def _recognize(self, columns: Columns) -> None:
        """Set what the first rows tell."""
        first = list(islice(self._records(0), PEEKED_ROWS))
        self.rows = len(first) if len(first) < PEEKED_ROWS else None
        if not first:
            return
        rows = [record.fields for record in first if not record.fault]
        if not rows:
            raise InputError(f"{self._label} is not {self.format}: line {first[0].line} {first[0].fault}")
        roles = assign_roles(_kinds(rows), columns, self._label)
        self.id_type = _id_type(_present(rows, roles.id)) if roles.id else None
        self.codec = columns.codec
        self.dimensions = self._find_dimensions(rows, roles.vector) if roles.vector else None
        self.has_text = roles.text is not None
        self._reader = RecordReader(self._label, roles, self.id_type, self.dimensions, self.codec)

    def _find_dimensions(self, rows: Sequence[Mapping[str, Any]], column: str) -> int:
        lengths = (_vector_length(value, self.codec) for value in _present(rows, column))
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
        return self._read(replace(self._reader, roles=self._reader.roles.vectors_only()), 0, BATCH_ROWS)

    def _read(self, reader: RecordReader, start: int, batch_rows: int) -> Iterator[Batch]:
        records = self._records(start)
        stop = start
        while (batch := reader.batch(islice(records, batch_rows), stop)).stop > stop:
            yield batch
            stop = batch.stop
        if stop > start:
            self.rows = stop


@dataclass(frozen=True)
class RecordReader:
    """How to read the records of one file."""

    name: str
    roles: Roles
    id_type: IdType | None
    dimensions: int | None
    codec: Codec

    def batch(self, records: Iterator[Record], start: int) -> Batch:
        """Return the batch of consecutive records, the first of them source row `start`.

        No record is kept once it is read: as Python lists, vectors take ten times the memory.
        """
        rows: list[int] = []
        values: list[tuple[Any, ...]] = []
        rejected: list[RejectedRow] = []
        for record in records:
            try:
                values.append(self._values(record))
                rows.append(record.row)
            except Fault as fault:
                where = f"{self.name}, line {record.line}"
                rejected.append(RejectedRow(record.row, where, str(fault), record.content))
        ids, vectors, documents, metadata = zip(*values, strict=True) if values else ((),) * 4
        return Batch(
            start,
            start + len(rows) + len(rejected),
            np.array(rows, np.int64),
            pa.array(ids, pa.int64() if self.id_type == "bigint" else pa.large_string()) if self.id_type else None,
            self._matrix(vectors),
            pa.array(documents, pa.large_string()) if self.roles.text else None,
            pa.array(metadata, pa.large_string()) if any(text != "{}" for text in metadata) else None,
            tuple(rejected),
        )

    def _values(self, record: Record) -> tuple[Any, ...]:
        if record.fault:
            raise Fault(record.fault)
        fields, roles = record.fields, self.roles
        return (
            _id(fields.get(roles.id), self.id_type) if roles.id and self.id_type else None,
            _vector(fields.get(roles.vector), self.dimensions or 0, self.codec) if roles.vector else None,
            _document(fields, roles) if roles.text else None,
            _metadata(fields, roles),
        )

    def _matrix(self, vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32] | None:
        if self.roles.vector is None:
            return None
        return np.stack(vectors) if vectors else np.empty((0, self.dimensions or 0), np.float32)


def _kinds(rows: Sequence[Mapping[str, Any]]) -> dict[str, Kind]:
    """Return the kind of each column by its first value that is not null."""
    kinds: dict[str, Kind] = {name: "scalar" for fields in rows for name in fields}
    for fields in reversed(rows):
        kinds |= {name: _kind(value) for name, value in fields.items() if value is not None}
    return kinds


def _kind(value: Any) -> Kind:
    if isinstance(value, list):
        return "vector" if value and _NUMBERS.issuperset(map(type, value)) else "other"
    if isinstance(value, dict):
        return "other"
    return "text" if isinstance(value, str) else "scalar"


def _present(rows: Sequence[Mapping[str, Any]], column: str) -> list[Any]:
    return [fields[column] for fields in rows if fields.get(column) is not None]


def _id_type(values: Sequence[Any]) -> IdType:
    return "bigint" if all(type(value) is int and abs(value) <= MAX_BIGINT for value in values) else "text"


def _id(value: Any, id_type: IdType) -> int | str:
    if value is None:
        raise Fault(NO_ID)
    if isinstance(value, list | dict):
        raise Fault(f"id is a {type(value).__name__}, expected an integer or text")
    if id_type == "text":
        return _text(value if isinstance(value, str) else to_json(value), "id")
    if type(value) is not int:
        raise Fault(f"id {to_json(value)} is not an integer, unlike the first ids")
    if not -MAX_BIGINT - 1 <= value <= MAX_BIGINT:
        raise Fault(f"id {value} does not fit a bigint")
    return value


def _document(fields: Mapping[str, Any], roles: Roles) -> str | None:
    text = fields.get(roles.text or "")
    if text is None:
        return None
    text = text if isinstance(text, str) else to_json(text)
    title = fields.get(roles.title) if roles.title else None
    return _text(f"{title} {text}" if isinstance(title, str) and title else text, "text")


def _metadata(fields: Mapping[str, Any], roles: Roles) -> str:
    names = roles.metadata_of(tuple(fields))
    text = to_json({name: fields.get(name) for name in names}) if names else "{}"
    if has_nul(text):
        raise Fault(NUL_IN_METADATA)
    return _unicode(text, "metadata")


def _text(text: str, what: str) -> str:
    if "\0" in text:
        raise Fault(f"{what} {NUL_IN_TEXT}")
    return _unicode(text, what)


def _unicode(text: str, what: str) -> str:
    """Return the text if UTF-8 can hold it: JSON can escape half of a surrogate pair, CSV can hold any bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Fault(f"{what} is not valid Unicode: it holds half of a surrogate pair or a stray byte") from None
    return text


def _vector_length(value: Any, codec: Codec) -> int | None:
    """Return the number of stored values of a vector; None if the value is not one."""
    if isinstance(value, list):
        return len(value) if _NUMBERS.issuperset(map(type, value)) else None
    if not (isinstance(value, str) and codec.text):
        return None
    try:
        return len(from_base64(value)) // codec.storage.itemsize
    except ValueError:
        return None


def _vector(value: Any, dimensions: int, codec: Codec) -> NDArray[np.float32]:
    """Return the vector (dimensions,) of a list of numbers or base64 text."""
    if value is None:
        raise Fault(NO_VECTOR)
    is_base64 = codec.text and isinstance(value, str)
    stored = _from_base64(value, dimensions, codec) if is_base64 else _from_list(value, dimensions, codec)
    vectors, bad = decode_rows(stored[np.newaxis], codec)
    if bad:
        raise Fault(bad[0])
    vector: NDArray[np.float32] = vectors[0]
    return vector


def _from_list(value: Any, dimensions: int, codec: Codec) -> NDArray[Any]:
    types, kind, article = (_INTEGERS, "integer", "an") if codec.quantized else (_NUMBERS, "number", "a")
    if not isinstance(value, list):
        wanted = f"a list of {kind}s{' or base64 text' if codec.text else ''}"
        raise Fault(f"has a vector that is a {type(value).__name__}, expected {wanted}")
    expected = codec.values(dimensions)
    if len(value) != expected:
        raise Fault(f"has {len(value)} {'bytes' if codec.bits == 'packed' else 'dimensions'}, expected {expected}")
    if not types.issuperset(map(type, value)):
        position, wrong = next((i, item) for i, item in enumerate(value) if type(item) not in types)
        raise Fault(f"has {to_json(wrong)[:40]} in its vector, at position {position}, expected {article} {kind}")
    try:
        with np.errstate(over="ignore"):  # infinities are found when the vectors are checked
            return np.array(value, np.int64 if codec.quantized else np.float32)
    except OverflowError:
        limit = "an int64" if codec.quantized else "a float"
        raise Fault(f"has an integer in its vector that is too large for {limit}") from None


def _from_base64(text: str, dimensions: int, codec: Codec) -> NDArray[Any]:
    try:
        data = from_base64(text)
    except ValueError as error:
        raise Fault(f"has a vector that is not base64: {error}") from None
    expected = codec.values(dimensions) * codec.storage.itemsize
    if len(data) != expected:
        raise Fault(f"has {len(data)} bytes, expected {expected}")
    return np.frombuffer(data, codec.storage)
