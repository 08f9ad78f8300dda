"""JSON Lines: an object on each line that is not blank."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from qvec.sources.base import Columns
from qvec.sources.files import Spool, open_text, read_errors
from qvec.sources.records import Record, RecordSource

BOM = b"\xef\xbb\xbf"


class JsonLinesSource(RecordSource):
    """Objects whose keys are the columns; a missing key is a null."""

    format = "JSON Lines"

    def __init__(self, name: str, file: Path, columns: Columns, spool: Spool | None = None) -> None:
        super().__init__(name, file, spool)
        self._blanks = array("q")  # the row after each blank line
        self._lines_seen = 0
        self._recognize(columns)

    def where(self, row: int) -> str:
        return f"{self._label}, line {row + 1 + bisect_right(self._blanks, row)}"

    def _records(self, start: int) -> Iterator[Record]:
        with read_errors(self._label, self.format), open_text(self._file) as stream:
            row = 0
            for number, line in enumerate(stream, 1):
                text = (line.removeprefix(BOM) if number == 1 else line).strip()
                if number > self._lines_seen:
                    self._lines_seen = number
                    if not text:
                        self._blanks.append(row)
                if text:
                    if row >= start:
                        yield _parsed(row, number, text)
                    row += 1


def _parsed(row: int, line: int, text: bytes) -> Record:
    try:
        fields = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        return Record(row, line, text.decode(errors="backslashreplace"), {}, f"is not valid JSON: {error}")
    if isinstance(fields, dict):
        return Record(row, line, text.decode(), fields)
    return Record(row, line, text.decode(), {}, f"is a JSON {type(fields).__name__}, expected an object")
