"""Arrow record batches to batches, for the columnar formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qvec.codecs import Codec
from qvec.sources.base import Batch, IdType, RejectedRow, Vectors
from qvec.sources.columns import Roles
from qvec.sources.ids import find_nul, read_ids
from qvec.sources.metadata import dump, read_metadata
from qvec.sources.vectors import Faults, kind_of, plain, read_vectors

CONTENT_CHARACTERS = 2000


@dataclass(frozen=True)
class TableReader:
    """How to read record batches of one schema: the columns' roles, and what was found out about them."""

    roles: Roles
    names: tuple[str, ...]
    id_type: IdType | None
    dimensions: int | None
    codec: Codec
    where: Callable[[int], str]

    @property
    def columns(self) -> list[str]:
        """The columns that are needed, in the order of the schema."""
        roles = self.roles
        used = {roles.id, roles.vector, roles.text, roles.title, *roles.metadata_of(self.names)}
        return [name for name in self.names if name in used]

    def vectors_only(self) -> TableReader:
        """The same without texts and metadata."""
        return replace(self, roles=replace(self.roles, text=None, title=None, metadata=()))

    def batch(self, table: Any, start: int) -> Batch:
        """The batch of a record batch whose first row is source row `start`."""
        faults: Faults = {}
        table = _decodable(table, faults)
        roles, column = self.roles, table.column
        ids = read_ids(column(roles.id), self.id_type, faults) if roles.id and self.id_type else None
        vectors = self._vectors(column(roles.vector), faults) if roles.vector else None
        documents = self._documents(table, faults)
        others = [(name, column(name)) for name in roles.metadata_of(self.names)]
        metadata = read_metadata(others, faults)
        stop = start + len(table)
        if not faults:
            return Batch(start, stop, np.arange(start, stop), ids, vectors, documents, metadata, ())
        good = np.setdiff1d(np.arange(len(table)), list(faults))
        ids, documents, metadata = (_taken(array, good) for array in (ids, documents, metadata))
        vectors = None if vectors is None else vectors[good]
        rejected = tuple(self._rejected(table, start, row, faults[row]) for row in sorted(faults))
        return Batch(start, stop, start + good, ids, vectors, documents, metadata, rejected)

    def _vectors(self, column: Any, faults: Faults) -> Vectors:
        return read_vectors(column, self.dimensions or 0, faults, self.codec)

    def _documents(self, table: Any, faults: Faults) -> Any:
        if self.roles.text is None:
            return None
        texts = plain(table.column(self.roles.text)).cast(pa.large_string())
        if self.roles.title is not None:
            texts = _titled(plain(table.column(self.roles.title)), texts)
        find_nul(texts, "text", faults)
        return texts

    def _rejected(self, table: Any, start: int, row: int, reason: str) -> RejectedRow:
        fields = {
            name: table.column(name)[row].as_py()
            for name in table.schema.names
            if name != self.roles.vector and kind_of(table.schema.field(name).type) != "vector"
        }
        return RejectedRow(start + row, self.where(start + row), reason, dump(fields)[:CONTENT_CHARACTERS])


def _decodable(table: Any, faults: Faults) -> Any:
    """The record batch with nulls for texts that are not UTF-8, which files can hold; their rows go to `faults`."""
    names = table.schema.names
    columns = [_decodable_column(table.column(name), name, faults) for name in names]
    return pa.RecordBatch.from_arrays(columns, names) if faults else table


def _decodable_column(column: Any, name: str, faults: Faults) -> Any:
    if kind_of(column.type) not in ("text", "other"):
        return column
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        values = [_decoded(value, row, name, faults) for row, value in enumerate(column)]
        return pa.array(values, column.type)
    return column


def _decoded(value: Any, row: int, name: str, faults: Faults) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        faults.setdefault(row, f"column {name!r} holds text that is not UTF-8")
        return None


def _taken(array: Any | None, rows: NDArray[np.int64]) -> Any | None:
    return None if array is None else array.take(pa.array(rows))


def _titled(titles: Any, texts: Any) -> Any:
    """BEIR's document: the title, a space and the text; the text alone without a title."""
    titles = titles.cast(pa.large_string())
    joined = pc.binary_join_element_wise(titles, texts, pa.scalar(" ", pa.large_string()))
    return pc.if_else(pc.fill_null(pc.not_equal(titles, ""), False), joined, texts)
