"""The common part of Arrow IPC and Parquet: columns by their schema, record batches to batches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qvec.codecs import Codec
from qvec.sources.base import BATCH_ROWS, Batch, Columns, IdType, RejectedRow, Source
from qvec.sources.columns import Roles, kind_of, plain, schema_id_type, schema_roles
from qvec.sources.fields import Faults, find_nul, read_ids, read_metadata, to_json
from qvec.sources.vectors import first_dimensions, read_vectors

CONTENT_CHARACTERS = 2000


class TableSource(Source):
    """A source of Arrow record batches. `ParquetSource` is the model of a subclass, which

    - passes the name that the user gave, the absolute path and the files to `Source.__init__`; `fingerprint_files`
      opens the files, so they must be regular ones, or the subclass overrides `_content_fingerprint`;
    - sets `rows` where the format tells their number;
    - opens its files, then calls `_recognize` with their schemas; that sets `dimensions`, `id_type`, `has_text`,
      `codec` and `_readers`, and calls `_read_column` to find the dimensions;
    - implements `_read`: for each record batch of the columns in `reader.columns`, yield `reader.batch(table, start)`;
    - implements `_read_column`;
    - overrides `where` where "NAME, row N" does not tell where a row is;
    - reads inside `read_errors`, which turns Arrow's errors, OSError and EOFError into InputError, and does the same
      for other errors of its library.
    """

    _readers: Sequence[TableReader]

    @abstractmethod
    def _read(self, readers: Sequence[TableReader], start: int, batch_rows: int) -> Iterator[Batch]:
        """Yield batches from row `start` on; `readers` are those of the schemas, in order."""

    @abstractmethod
    def _read_column(self, column: str) -> Iterator[Any]:
        """Yield one column as Arrow arrays, from the first row on."""

    def _recognize(self, schemas: Mapping[str, Any], columns: Columns) -> None:
        """Set what the schemas tell; their keys name the files."""
        roles = schema_roles(schemas, columns)
        self.id_type = schema_id_type(schemas, roles.id)
        self.has_text = roles.text is not None
        self.codec = columns.codec
        if roles.vector is not None:
            found = (first_dimensions(array, self.codec) for array in self._read_column(roles.vector))
            self.dimensions = next((dimensions for dimensions in found if dimensions is not None), None)
        self._readers = [
            TableReader(roles, tuple(schema.names), self.id_type, self.dimensions, self.codec, self.where)
            for schema in schemas.values()
        ]

    def _batches(self, start: int, batch_rows: int) -> Iterator[Batch]:
        return self._read(self._readers, start, batch_rows)

    def _vector_batches(self) -> Iterator[Batch]:
        readers = [replace(reader, roles=reader.roles.vectors_only()) for reader in self._readers]
        return self._read(readers, 0, BATCH_ROWS)


def skip_rows(tables: Iterator[Any], count: int) -> Iterator[Any]:
    """Yield record batches without the first `count` rows of them all."""
    for table in tables:
        kept = table.slice(min(count, len(table)))
        count -= len(table) - len(kept)
        yield kept


@dataclass(frozen=True)
class TableReader:
    """How to read the record batches of one schema."""

    roles: Roles
    names: tuple[str, ...]
    id_type: IdType | None
    dimensions: int | None
    codec: Codec
    where: Callable[[int], str]

    @property
    def columns(self) -> list[str]:
        """The columns to read, in the order of the schema."""
        roles = self.roles
        used = {roles.id, roles.vector, roles.text, roles.title, *roles.metadata_of(self.names)}
        return [name for name in self.names if name in used]

    def batch(self, table: Any, start: int) -> Batch:
        """Return the batch of a record batch whose first row is source row `start`."""
        faults: Faults = {}
        table = _decodable(table, faults)
        roles, column = self.roles, table.column
        ids = read_ids(column(roles.id), self.id_type, faults) if roles.id and self.id_type else None
        vectors = read_vectors(column(roles.vector), self.dimensions or 0, faults, self.codec) if roles.vector else None
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
        return RejectedRow(start + row, self.where(start + row), reason, to_json(fields)[:CONTENT_CHARACTERS])


def _decodable(table: Any, faults: Faults) -> Any:
    """Return the record batch with nulls for texts that are not UTF-8, which files can hold; add them to `faults`."""
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
    """Return BEIR's documents: title, a space and text, or only the text if there is no title."""
    titles = titles.cast(pa.large_string())
    joined = pc.binary_join_element_wise(titles, texts, pa.scalar(" ", pa.large_string()))
    return pc.if_else(pc.fill_null(pc.not_equal(titles, ""), False), joined, texts)
