"""CSV with a header; vectors are JSON arrays in a field."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qvec.errors import InputError
from qvec.sources.base import Columns
from qvec.sources.fields import to_json
from qvec.sources.files import open_text, read_errors
from qvec.sources.records import Record, RecordSource

FIELD_CHARACTERS = 1 << 24
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")


class CsvSource(RecordSource):
    """Comma-separated values. All fields are text, and empty ones null; ids are integers if the first ones are."""

    format = "CSV"

    def __init__(self, name: str, file: Path, columns: Columns) -> None:
        super().__init__(name, file)
        # The csv module's limit is one for the whole process, and too low for a vector of some thousand dimensions.
        csv.field_size_limit(max(csv.field_size_limit(), FIELD_CHARACTERS))
        self._recognize(columns)

    def _records(self, start: int) -> Iterator[Record]:
        with read_errors(self._label, self.format), open_text(self._file) as stream:
            reader = csv.reader(io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline=""), strict=True)
            header = self._header(reader)
            for row, (line, values) in enumerate(_rows(reader)):
                if row >= start:
                    yield self._record(row, line, header, values)

    def _header(self, reader: Any) -> list[str]:
        header: list[str] = next(filter(None, reader), [])
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"{self._label}: the header names column {twice!r} twice; rename one")
        return header

    def _record(self, row: int, line: int, header: list[str], values: list[str] | csv.Error) -> Record:
        if isinstance(values, csv.Error):
            return Record(row, line, "", {}, f"is not valid CSV: {values}")
        if len(values) != len(header):
            fault = f"has {len(values)} fields, expected {len(header)} as in the header"
            return Record(row, line, to_json(values), {}, fault)
        fields: dict[str, Any] = {name: value or None for name, value in zip(header, values, strict=True)}
        for name in self._parsed_columns(header):
            fields[name] = _parse(fields[name])
        return Record(row, line, "", fields)

    def _parsed_columns(self, header: list[str]) -> list[str]:
        """Return the columns that may hold integers or vectors: all of them until the roles are known."""
        if self._reader is None:
            return header
        roles = self._reader.roles
        return [name for name in (roles.id if self.id_type == "bigint" else None, roles.vector) if name is not None]


def _rows(reader: Any) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Yield the line where each row begins, and its fields or the error in it. Blank lines are skipped."""
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            values = error
        if values:
            yield line, values


def _parse(text: str | None) -> Any:
    """Return the integer or list that a text holds, otherwise the text."""
    if text is None:
        return None
    if INTEGER.fullmatch(text):
        return int(text)
    if not text.startswith("["):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, list) else text
