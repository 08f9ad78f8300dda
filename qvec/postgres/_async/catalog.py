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
from qvec.postgres._async import schema
from qvec.postgres._async.execute import execute, fetch
from qvec.postgres._async.schema import check_identifier
from qvec.postgres._async.session import AsyncConnection
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


class AsyncCatalog:
    """Reads and writes the tables of the schema qvec over connections that it is given."""

    def __init__(self, database: str) -> None:
        """`database` stands for the database in messages."""
        self._database = database
        self._calibrations: dict[str, Calibration] = {}
        self._pgvector: PgVector | None = None

    async def prepare(self, connection: AsyncConnection, *, install: bool) -> PgVector:
        """Check the server and, with `install`, install or upgrade what is missing."""
        self._pgvector = await schema.prepare(connection, install=install)
        return self._pgvector

    async def create(self, connection: AsyncConnection, new: NewCollection, layout: TableLayout) -> CatalogEntry:
        """Create the table of a collection, with its calibration, in one transaction."""
        async with connection.transaction():
            await self._create(connection, new, layout)
        return await self.find(connection, new.name)

    async def _create(self, connection: AsyncConnection, new: NewCollection, layout: TableLayout) -> None:
        vector = await self.prepare(connection, install=True)
        if await _is_listed(connection, new.name):
            raise CollectionError(f"collection {new.name!r} exists already")
        await _store_calibration(connection, new.calibration)
        table = await self._create_table(connection, new.name, layout, vector)
        await execute(
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

    async def _create_table(
        self, connection: AsyncConnection, name: str, layout: TableLayout, vector: PgVector
    ) -> Table:
        ((schema_name,),) = await fetch(connection, "SELECT current_schema()")
        if schema_name is None:
            raise DatabaseError(f"{self._database} has no schema on its search_path to create the table {name!r} in")
        check_identifier(f"schema of collection {name!r}", schema_name)
        table = Table(schema_name, name, layout, vector)
        try:
            await execute(connection, statements.create_table(table))
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

    async def find(self, connection: AsyncConnection, name: str) -> CatalogEntry:
        """Return the entry of a collection. Raise CollectionError, which lists the existing ones, for a missing one."""
        entries = await self._select(connection, _ENTRIES + " AND c.name = %s", [name])
        if entries:
            check_identifier(f"schema of collection {name!r}", entries[0].table.schema)
            check_identifier(f"table of collection {name!r}", entries[0].table.name)
            return entries[0]
        if await self.has(connection, name):
            raise CollectionError(
                f"collection {name!r} is an application's table, attached in SQL; search it there: qvec.search"
            )
        names = ", ".join(entry.name for entry in await self.entries(connection)) or "none"
        raise CollectionError(f"no collection {name!r} in {self._database}; there are: {names}")

    async def has(self, connection: AsyncConnection, name: str) -> bool:
        return await schema.installed(connection) and await _is_listed(connection, name)

    async def entries(self, connection: AsyncConnection) -> list[CatalogEntry]:
        """Return all collections that have a table to themselves, by name."""
        return await self._select(connection, _ENTRIES + " ORDER BY c.name", [])

    async def drop(self, connection: AsyncConnection, name: str) -> None:
        """Drop a collection with all its rows; its calibration goes with the last collection that uses it."""
        entry = await self.find(connection, name)
        async with connection.transaction():
            await _drop(connection, entry)

    async def _select(self, connection: AsyncConnection, statement: str, parameters: list[Any]) -> list[CatalogEntry]:
        if not await schema.installed(connection):
            return []
        vector = self._pgvector or await self.prepare(connection, install=False)
        rows = await fetch(connection, statement.encode(), parameters)
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


async def _is_listed(connection: AsyncConnection, name: str) -> bool:
    return bool(await fetch(connection, "SELECT FROM qvec.collection WHERE name = %s", [name]))


async def _store_calibration(connection: AsyncConnection, calibration: Calibration) -> None:
    await execute(
        connection,
        "INSERT INTO qvec.calibration (id, content, metadata) VALUES (%s, %s, %s) ON CONFLICT (id) DO NOTHING",
        [calibration.id, calibration.to_bytes(), Jsonb(calibration.metadata())],
    )


async def _drop(connection: AsyncConnection, entry: CatalogEntry) -> None:
    await execute(connection, "DELETE FROM qvec.collection WHERE name = %s", [entry.name])
    await execute(connection, sql.SQL("DROP TABLE {}").format(entry.table.identifier))
    await execute(
        connection,
        "DELETE FROM qvec.calibration k WHERE id = %s"
        " AND NOT EXISTS (SELECT FROM qvec.collection WHERE calibration = k.id)",
        [entry.calibration.id],
    )
