"""Rows parsed one at a time (JSON Lines, CSV) to batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qvec.codecs import Codec
from qvec.sources.base import Batch, IdType, RejectedRow
from qvec.sources.columns import Kind, Roles
from qvec.sources.ids import MAX_BIGINT, NO_ID, NUL
from qvec.sources.metadata import NUL_FOUND, dump, has_nul
from qvec.sources.record_vectors import NUMBERS, Fault, read_vector


@dataclass(frozen=True)
class Record:
    """A row of a text file: where it stands, its fields or what is wrong with them, and its raw text.

    Without raw text its fields other than lists stand for it.
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
        return (self.raw or dump(shown)).encode(errors="backslashreplace").decode()


@dataclass(frozen=True)
class RecordReader:
    """How to read the records of one file."""

    name: str
    roles: Roles
    id_type: IdType | None
    dimensions: int | None
    codec: Codec

    def batch(self, records: Iterator[Record], start: int) -> Batch:
        """The batch of consecutive records, the first of them source row `start`.

        Each record is let go of once read: as Python lists vectors take ten times the memory.
        """
        rows: list[int] = []
        values: list[tuple[Any, ...]] = []
        rejected: list[RejectedRow] = []
        for record in records:
            read = self._values_or_fault(record)
            if isinstance(read, RejectedRow):
                rejected.append(read)
            else:
                rows.append(record.row)
                values.append(read)
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

    def _values_or_fault(self, record: Record) -> tuple[Any, ...] | RejectedRow:
        try:
            return self._values(record)
        except Fault as fault:
            return RejectedRow(record.row, f"{self.name}, line {record.line}", str(fault), record.content)

    def _values(self, record: Record) -> tuple[Any, ...]:
        if record.fault:
            raise Fault(record.fault)
        fields, roles = record.fields, self.roles
        return (
            _id(fields.get(roles.id), self.id_type) if roles.id and self.id_type else None,
            read_vector(fields.get(roles.vector), self.dimensions or 0, self.codec) if roles.vector else None,
            _document(fields, roles) if roles.text else None,
            _metadata(fields, roles),
        )

    def _matrix(self, vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32] | None:
        if self.roles.vector is None:
            return None
        return np.stack(vectors) if vectors else np.empty((0, self.dimensions or 0), np.float32)


def kind_of_value(value: Any) -> Kind:
    """What a column can be, judged by one of its values as JSON gives it."""
    if isinstance(value, list):
        return "vector" if value and NUMBERS.issuperset(map(type, value)) else "other"
    if isinstance(value, dict):
        return "other"
    return "text" if isinstance(value, str) else "scalar"


def id_type_of_values(values: Sequence[Any]) -> IdType:
    """bigint when all of the first ids are integers, otherwise text."""
    return "bigint" if all(type(value) is int and abs(value) <= MAX_BIGINT for value in values) else "text"


def _id(value: Any, id_type: IdType) -> int | str:
    if value is None:
        raise Fault(NO_ID)
    if isinstance(value, list | dict):
        raise Fault(f"id is a {type(value).__name__}, expected an integer or text")
    if id_type == "text":
        return _text(value if isinstance(value, str) else dump(value), "id")
    if type(value) is not int:
        raise Fault(f"id {dump(value)} is not an integer, unlike the first ids")
    if not -MAX_BIGINT - 1 <= value <= MAX_BIGINT:
        raise Fault(f"id {value} does not fit a bigint")
    return value


def _document(fields: Mapping[str, Any], roles: Roles) -> str | None:
    text = fields.get(roles.text or "")
    if text is None:
        return None
    text = text if isinstance(text, str) else dump(text)
    title = fields.get(roles.title) if roles.title else None
    return _text(f"{title} {text}" if isinstance(title, str) and title else text, "text")


def _metadata(fields: Mapping[str, Any], roles: Roles) -> str:
    names = roles.metadata_of(tuple(fields))
    text = dump({name: fields.get(name) for name in names}) if names else "{}"
    if has_nul(text):
        raise Fault(NUL_FOUND)
    return _unicode(text, "metadata")


def _text(text: str, what: str) -> str:
    if "\0" in text:
        raise Fault(f"{what} {NUL}")
    return _unicode(text, what)


def _unicode(text: str, what: str) -> str:
    """The text, unless UTF-8 cannot hold it: JSON can escape half of a surrogate pair, CSV hold any bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Fault(f"{what} is not valid Unicode: it holds half of a surrogate pair or a stray byte") from None
    return text
