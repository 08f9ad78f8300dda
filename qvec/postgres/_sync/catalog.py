# Generated from qvec/postgres/_async/catalog.py by tools/async_to_sync.py: edit that file, then run `make sync`.
"""The collections of a database as the schema qvec lists them: found, created, dropped."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import errors, sql
from psycopg.types.json import Jsonb

from qvec.calibration import Calibration
from qvec.errors import CollectionError, DatabaseError
from qvec.postgres import statements
from qvec.postgres._sync import schema
from qvec.postgres._sync.execute import execute, fetch
from qvec.postgres._sync.schema import check_identifier
from qvec.postgres._sync.session import Connection
from qvec.postgres.layout import PgVector, Table, TableLayout
from qvec.store.requests import NewCollection

# `embedding` is read from the row as JSON: an older schema, which suffices for reading, lacks the column. Tables of
# applications that qvec.attach made collections of are for SQL, and left out.
_ENTRIES = (
    "SELECT c.name, nspname, relname, id_type, rescore, prefilter, oversampling, model, to_jsonb(c)->'embedding',"
    " calibration, k.content, c.created_at"
    " FROM qvec.collection c JOIN qvec.calibration k ON k.id = c.calibration"
    " JOIN pg_class ON pg_class.oid = c.relation JOIN pg_namespace n ON n.oid = relnamespace"
    " WHERE NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.relation AND tgname = 'qvec_codes_insert')"
)


class CatalogEntry(NamedTuple):
    """What the schema qvec stores of a collection."""

    name: str
    table: Table
    calibration: Calibration
    oversampling: float
    model: str | None
    embedding: Mapping[str, Any] | None
    created_at: datetime
    """Kept when the collection is recalibrated; a new collection of the same name has another."""


class Catalog:
    """Reads and writes the tables of the schema qvec over connections that it is given."""

    def __init__(self, database: str) -> None:
        """`database` stands for the database in messages."""
        self._database = database
        self._calibrations: dict[str, Calibration] = {}
        self._pgvector: PgVector | None = None

    def prepare(self, connection: Connection, *, install: bool) -> PgVector:
        """Check the server and, with `install`, install or upgrade what is missing."""
        self._pgvector = schema.prepare(connection, install=install)
        return self._pgvector

    def create(self, connection: Connection, new: NewCollection, layout: TableLayout) -> CatalogEntry:
        """Create the table of a collection, with its calibration, in one transaction."""
        with connection.transaction():
            self._create(connection, new, layout)
        return self.find(connection, new.name)

    def _create(self, connection: Connection, new: NewCollection, layout: TableLayout) -> None:
        vector = self.prepare(connection, install=True)
        if _is_listed(connection, new.name):
            raise CollectionError(f"collection {new.name!r} exists already")
        _store_calibration(connection, new.calibration)
        table = self._create_table(connection, new.name, layout, vector)
        execute(
            connection,
            "INSERT INTO qvec.collection (name, relation, calibration, id_type, rescore, prefilter, oversampling,"
            " model, embedding) VALUES (%s, %s::regclass, %s, %s, %s, %s, %s, %s, %s)",
            [
                new.name,
                table.identifier.as_string(),
                new.calibration.id,
                layout.id_type,
                layout.rescore,
                layout.prefilter,
                new.oversampling,
                new.model,
                None if new.embedding is None else Jsonb(dict(new.embedding)),
            ],
        )

    def _create_table(self, connection: Connection, name: str, layout: TableLayout, vector: PgVector) -> Table:
        ((schema_name,),) = fetch(connection, "SELECT current_schema()")
        if schema_name is None:
            raise DatabaseError(f"{self._database} has no schema on its search_path to create the table {name!r} in")
        check_identifier(f"schema of collection {name!r}", schema_name)
        table = Table(schema_name, name, layout, vector)
        try:
            execute(connection, statements.create_table(table))
        except errors.DuplicateTable:
            raise CollectionError(
                f"table {schema_name}.{name} exists and is not a qvec collection; choose another collection name"
            ) from None
        except errors.InsufficientPrivilege:
            user = connection.info.user
            grant = sql.SQL("GRANT CREATE ON SCHEMA {} TO {}").format(sql.Identifier(schema_name), sql.Identifier(user))
            raise DatabaseError(
                f"user {user!r} may not create the table {name!r} in schema {schema_name!r}; let its owner run: "
                f"{grant.as_string()}"
            ) from None
        return table

    def find(self, connection: Connection, name: str) -> CatalogEntry:
        """Return the entry of a collection. Raise CollectionError, which lists the existing ones, for a missing one."""
        entries = self._select(connection, _ENTRIES + " AND c.name = %s", [name])
        if entries:
            check_identifier(f"schema of collection {name!r}", entries[0].table.schema)
            check_identifier(f"table of collection {name!r}", entries[0].table.name)
            return entries[0]
        if self.has(connection, name):
            raise CollectionError(
                f"collection {name!r} is an application's table, attached in SQL; search it there: qvec.search"
            )
        names = ", ".join(entry.name for entry in self.entries(connection)) or "none"
        raise CollectionError(f"no collection {name!r} in {self._database}; there are: {names}")

    def has(self, connection: Connection, name: str) -> bool:
        return schema.installed(connection) and _is_listed(connection, name)

    def entries(self, connection: Connection) -> list[CatalogEntry]:
        """Return all collections that have a table to themselves, by name."""
        return self._select(connection, _ENTRIES + " ORDER BY c.name", [])

    def drop(self, connection: Connection, name: str) -> None:
        """Drop a collection with all its rows; its calibration goes with the last collection that uses it."""
        entry = self.find(connection, name)
        with connection.transaction():
            _drop(connection, entry)

    def _select(self, connection: Connection, statement: str, parameters: list[Any]) -> list[CatalogEntry]:
        if not schema.installed(connection):
            return []
        vector = self._pgvector or self.prepare(connection, install=False)
        rows = fetch(connection, statement.encode(), parameters)
        return [self._entry(row, vector) for row in rows]

    def _entry(self, row: tuple[Any, ...], vector: PgVector) -> CatalogEntry:
        name, schema_name, relation, id_type, rescore, prefilter, oversampling, model, embedding = row[:9]
        calibration = self._calibration(name, *row[9:11])
        layout = TableLayout.of(calibration.dimensions, id_type, rescore, prefilter, calibration.learned_bits)
        table = Table(schema_name, relation, layout, vector)
        return CatalogEntry(name, table, calibration, oversampling, model, embedding, row[11])

    def _calibration(self, collection: str, id: str, content: bytes) -> Calibration:
        """Return a stored calibration, parsed once for each database."""
        if id not in self._calibrations:
            calibration = Calibration.from_bytes(content, f"the calibration of collection {collection!r}")
            if calibration.id != id:
                raise CollectionError(f"collection {collection!r} wants calibration {id}, found {calibration.id}")
            self._calibrations[id] = calibration
        return self._calibrations[id]


def _is_listed(connection: Connection, name: str) -> bool:
    return bool(fetch(connection, "SELECT FROM qvec.collection WHERE name = %s", [name]))


def _store_calibration(connection: Connection, calibration: Calibration) -> None:
    execute(
        connection,
        "INSERT INTO qvec.calibration (id, content, metadata) VALUES (%s, %s, %s) ON CONFLICT (id) DO NOTHING",
        [calibration.id, calibration.to_bytes(), Jsonb(calibration.metadata())],
    )


def _drop(connection: Connection, entry: CatalogEntry) -> None:
    execute(connection, "DELETE FROM qvec.collection WHERE name = %s", [entry.name])
    execute(connection, sql.SQL("DROP TABLE {}").format(entry.table.identifier))
    execute(
        connection,
        "DELETE FROM qvec.calibration k WHERE id = %s"
        " AND NOT EXISTS (SELECT FROM qvec.collection WHERE calibration = k.id)",
        [entry.calibration.id],
    )
