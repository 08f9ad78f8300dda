"""The collections of a Postgres database, as the schema qvec lists them: found, created, dropped."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import errors, sql
from psycopg.types.json import Jsonb

from qvec.calibration import Calibration
from qvec.connecting import ConnectOptions
from qvec.errors import CollectionError, DatabaseError
from qvec.postgres import schema, statements
from qvec.postgres.errors import explained
from qvec.postgres.indexing import Machine
from qvec.postgres.layout import IdType, Layout, PgVector, Prefilter, Rescore, Table
from qvec.postgres.steps import Execute, Fetch, Steps, Transaction, Work
from qvec.retrieval.embedders import Embedders
from qvec.stores import check_name, check_oversampling

# Read out of the row as JSON, for an older schema has no column embedding, and does for reading.
_OPEN = (
    "SELECT c.name, nspname, relname, id_type, rescore, prefilter, oversampling, model, to_jsonb(c)->'embedding',"
    " calibration, k.content, c.created_at"
    " FROM qvec.collection c JOIN qvec.calibration k ON k.id = c.calibration"
    " JOIN pg_class ON pg_class.oid = c.relation JOIN pg_namespace n ON n.oid = relnamespace"
    " WHERE NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.relation AND tgname = 'qvec_codes_insert')"
)
"""Collections in tables of their own: one that qvec.attach made of an application's table is for SQL."""


class Opened(NamedTuple):
    """What is read of a collection when it is opened."""

    name: str
    table: Table
    calibration: Calibration
    oversampling: float
    model: str | None
    embedding: Mapping[str, Any] | None
    created_at: datetime
    """Stays when it is recalibrated; another collection of its name has another."""


class Catalog:
    """The part of a database that is the same whether its methods wait or are awaited."""

    kind = "Postgres"
    metadata_indexes_first = False
    settings = frozenset({"rescore", "prefilter", "oversampling"})

    def __init__(self, name: str, embedded: bool, options: ConnectOptions) -> None:
        """`name` stands for the database in messages, `embedded` says that it runs on this machine."""
        self.options = options
        self.name = name
        self.embedded = embedded
        self.embedders = Embedders()
        self._calibrations: dict[str, Calibration] = {}
        self._pgvector: PgVector | None = None

    def explained(self, doing: str) -> AbstractContextManager[None]:
        """Raises DatabaseError for what the driver raises inside: what was being done, why it failed, what to do."""
        return explained(doing)

    def check_writable(self) -> None:
        """Raises DatabaseError where the database is opened to be read."""
        self.options.check_writable(self.name)

    @property
    def _reading(self) -> str:
        """What is being done while collections are looked for, for messages."""
        return f"cannot read the collections of {self.name}"

    def machine(self) -> Steps[Machine]:
        """What an index build may use of the machine that the server runs on."""
        return Machine.local() if self.embedded else (yield from Machine.remote())

    def _creating(
        self,
        name: str,
        calibration: Calibration,
        id_type: IdType,
        rescore: Rescore,
        prefilter: Prefilter | None,
        oversampling: float,
        model: str | None,
        embedding: Mapping[str, Any] | None,
    ) -> Work[Opened]:
        layout = Layout.of(calibration.dimensions, id_type, rescore, prefilter, calibration.learned_bits)
        check_name(name)
        check_oversampling(oversampling)

        def create() -> Steps[Opened]:
            yield Transaction(self._create(name, layout, calibration, oversampling, model, embedding))
            return (yield from self.find(name))

        return create

    def _create(
        self,
        name: str,
        layout: Layout,
        calibration: Calibration,
        oversampling: float,
        model: str | None,
        embedding: Mapping[str, Any] | None,
    ) -> Steps[None]:
        vector = yield from self._prepare(install=True)
        if (yield from _is_there(name)):
            raise CollectionError(f"collection {name!r} exists already")
        yield from _store_calibration(calibration)
        table = yield from self._create_table(name, layout, vector)
        yield Execute(
            "INSERT INTO qvec.collection (name, relation, calibration, id_type, rescore, prefilter, oversampling,"
            " model, embedding) VALUES (%s, %s::regclass, %s, %s, %s, %s, %s, %s, %s)",
            [
                name,
                table.identifier.as_string(),
                calibration.id,
                layout.id_type,
                layout.rescore,
                layout.prefilter,
                oversampling,
                model,
                None if embedding is None else Jsonb(dict(embedding)),
            ],
        )

    def _create_table(self, name: str, layout: Layout, vector: PgVector) -> Steps[Table]:
        ((in_schema,),) = yield Fetch("SELECT current_schema()")
        if in_schema is None:
            raise DatabaseError(f"{self.name} has no schema on its search_path to create the table {name!r} in")
        schema.check_identifier(f"schema of collection {name!r}", in_schema)
        table = Table(in_schema, name, layout, vector)
        try:
            yield Execute(statements.create_table(table))
        except errors.DuplicateTable:
            raise CollectionError(
                f"table {in_schema}.{name} exists and is no qvec collection; choose another collection name"
            ) from None
        return table

    def find(self, name: str) -> Steps[Opened]:
        """What is read of a collection. Raises CollectionError, listing those there are, when it is missing."""
        found = yield from self._opened(sql.SQL(_OPEN + " AND c.name = %s"), [name])
        if found:
            schema.check_identifier(f"schema of collection {name!r}", found[0].table.schema)
            schema.check_identifier(f"table of collection {name!r}", found[0].table.name)
            return found[0]
        if (yield from self._has(name)):
            raise CollectionError(
                f"collection {name!r} is an application's table, attached in SQL; search it there: qvec.search"
            )
        names = ", ".join(collection.name for collection in (yield from self._all())) or "none"
        raise CollectionError(f"no collection {name!r} in {self.name}; there are: {names}")

    def _has(self, name: str) -> Steps[bool]:
        return (yield from schema.installed()) and (yield from _is_there(name))

    def _all(self) -> Steps[list[Opened]]:
        return self._opened(sql.SQL(_OPEN + " ORDER BY c.name"), [])

    def _opened(self, statement: sql.SQL, parameters: list[Any]) -> Steps[list[Opened]]:
        if not (yield from schema.installed()):
            return []
        vector = self._pgvector or (yield from self._prepare(install=False))
        return [self._open(row, vector) for row in (yield Fetch(statement, parameters))]

    def _open(self, row: tuple[Any, ...], vector: PgVector) -> Opened:
        name, in_schema, relation, id_type, rescore, prefilter, oversampling, model, embedding = row[:9]
        calibration_id, content, created_at = row[9:]
        calibration = self._calibrations.get(calibration_id)
        if calibration is None:
            calibration = Calibration.from_bytes(content, f"the calibration of collection {name!r}")
            if calibration.id != calibration_id:
                raise CollectionError(f"collection {name!r} wants calibration {calibration_id}, found {calibration.id}")
            self._calibrations[calibration_id] = calibration
        table = Table(
            in_schema,
            relation,
            Layout.of(calibration.dimensions, id_type, rescore, prefilter, calibration.learned_bits),
            vector,
        )
        return Opened(name, table, calibration, oversampling, model, embedding, created_at)

    def _dropping(self, name: str) -> Work[None]:
        def drop() -> Steps[None]:
            collection = yield from self.find(name)
            yield Transaction(_drop(collection))

        return drop

    def _install(self) -> Steps[str | None]:
        return schema.hnsw_warning((yield from self._prepare(install=True)))

    def _prepare(self, *, install: bool) -> Steps[PgVector]:
        self._pgvector = yield from schema.prepare(install=install)
        return self._pgvector


def _is_there(name: str) -> Steps[bool]:
    return bool((yield Fetch("SELECT FROM qvec.collection WHERE name = %s", [name])))


def _store_calibration(calibration: Calibration) -> Steps[None]:
    yield Execute(
        "INSERT INTO qvec.calibration (id, content, metadata) VALUES (%s, %s, %s) ON CONFLICT (id) DO NOTHING",
        [calibration.id, calibration.to_bytes(), Jsonb(calibration.metadata())],
    )


def _drop(collection: Opened) -> Steps[None]:
    yield Execute("DELETE FROM qvec.collection WHERE name = %s", [collection.name])
    yield Execute(sql.SQL("DROP TABLE {}").format(collection.table.identifier))
    yield Execute(
        "DELETE FROM qvec.calibration k WHERE id = %s"
        " AND NOT EXISTS (SELECT FROM qvec.collection WHERE calibration = k.id)",
        [collection.calibration.id],
    )
