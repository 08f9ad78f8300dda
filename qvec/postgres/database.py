"""A Postgres database: its connections and its collections."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, TypeVar

import psycopg
from pgvector.psycopg.bit import register_bit_info
from psycopg import sql
from psycopg.adapt import Loader
from psycopg.pq import Format
from psycopg.types import TypeInfo
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool

from qvec.calibration import Calibration
from qvec.errors import CollectionError, DatabaseError
from qvec.loading import OnDuplicate
from qvec.postgres import schema, statements
from qvec.postgres.collection import PostgresCollection
from qvec.postgres.errors import NO_URL, check_url, connection_lost, explained, redact
from qvec.postgres.indexing import Machine
from qvec.postgres.layout import IdType, Layout, PgVector, Prefilter, Rescore, Table
from qvec.postgres.loader import PostgresLoader
from qvec.postgres.schema import Connection
from qvec.retrieval.embedders import Embedders
from qvec.stores import check_name, check_oversampling

T = TypeVar("T")

_BIT_OID = 1560
_BIT_ARRAY_OID = 1561
_CONNECT_SECONDS = 10
# Read out of the row as JSON, for an older schema has no column embedding, and does for reading.
_OPEN = (
    "SELECT c.name, nspname, relname, id_type, rescore, prefilter, oversampling, model, to_jsonb(c)->'embedding',"
    " calibration, k.content"
    " FROM qvec.collection c JOIN qvec.calibration k ON k.id = c.calibration"
    " JOIN pg_class ON pg_class.oid = c.relation JOIN pg_namespace n ON n.oid = relnamespace"
    " WHERE NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.relation AND tgname = 'qvec_codes_insert')"
)
"""Collections in tables of their own: one that qvec.attach made of an application's table is for SQL."""


class PostgresDatabase:
    """A database with pgvector. Safe across threads, and in a process forked from the one that opened it."""

    kind = "Postgres"
    metadata_indexes_first = False
    settings = frozenset({"rescore", "prefilter", "oversampling"})

    def __init__(self, url: str, *, name: str | None = None, embedded: bool = False, connections: int = 8) -> None:
        """Connects once, to see that `url` works; raises DatabaseError when it does not.

        `name` stands for the database in messages, `embedded` says that it runs on this machine.
        """
        check_url(url)
        self.name = name or redact(url)
        self.embedded = embedded
        self._url = url
        self._connections = connections
        self._lock = threading.Lock()
        self._pool: ConnectionPool[Connection] | None = None
        self._pool_process = os.getpid()
        self.embedders = Embedders()
        self._calibrations: dict[str, Calibration] = {}
        self._pgvector: PgVector | None = None
        self.connect().close()

    def connect(self) -> Connection:
        """A connection of its own, outside the pool, in autocommit; the caller closes it."""
        try:
            connection: Connection = psycopg.connect(
                self._url, autocommit=True, connect_timeout=_CONNECT_SECONDS, application_name="qvec"
            )
        except psycopg.OperationalError as error:
            raise DatabaseError(f"cannot connect to {self.name}: {_reason(error)}") from error
        except psycopg.ProgrammingError:  # its message may hold the password
            raise DatabaseError(f"{self.name} {NO_URL}") from None
        _configure(connection)
        return connection

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection of the pool, for one piece of work."""
        with self._open_pool().connection() as connection:
            yield connection

    @contextlib.contextmanager
    def live_connection(self) -> Iterator[Connection]:
        """A connection of the pool that has just answered, for work that cannot simply be done a second time."""
        with self.connection() as connection:
            if _answers(connection):
                yield connection
                return
        self._open_pool().check()
        with self.connection() as connection:
            yield connection

    def read(self, work: Callable[[Connection], T]) -> T:
        """Runs work that only reads, a second time when the connection turns out to be broken."""
        try:
            with self.connection() as connection:
                return work(connection)
        except psycopg.Error as error:
            if not connection_lost(error):
                raise
        self._open_pool().check()  # what broke one connection may have broken those that wait in the pool
        with self.connection() as connection:
            return work(connection)

    def _open_pool(self) -> ConnectionPool[Connection]:
        with self._lock:
            if self._pool is None or self._pool_process != os.getpid():
                self._pool_process = os.getpid()
                self._pool = ConnectionPool(
                    self._url,
                    min_size=0,
                    max_size=self._connections,
                    timeout=30,
                    configure=_configure,
                    kwargs={"autocommit": True, "connect_timeout": _CONNECT_SECONDS, "application_name": "qvec"},
                    open=True,
                )
            return self._pool

    def close(self) -> None:
        """Closes the pool. The embedded server stops with the last process that uses it."""
        if self._pool is not None and self._pool_process == os.getpid():
            self._pool.close()
        self._pool = None

    def __enter__(self) -> PostgresDatabase:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def create_collection(
        self,
        name: str,
        *,
        calibration: Calibration,
        id_type: IdType = "bigint",
        rescore: Rescore = "int8",
        prefilter: Prefilter | None = None,
        oversampling: float = 4,
        model: str | None = None,
        embedding: Mapping[str, Any] | None = None,
    ) -> PostgresCollection:
        """Creates the table of a collection, with its calibration; the index comes with `build_index`.

        `rescore` int8, int4 or binary keeps codes alone; float16 or float32 keeps the floats and the prefilter's bits.
        `prefilter` is ternary, or binary where no more than signs are kept. `embedding` says how texts are embedded, as
        `qvec.embedding.EmbeddingOptions.as_json` gives it. Raises CollectionError when the name is taken.
        """
        layout = Layout.of(calibration.dimensions, id_type, rescore, prefilter)
        check_name(name)
        check_oversampling(oversampling)
        doing = f"cannot create collection {name!r}"
        with explained(doing), self.live_connection() as connection, connection.transaction():
            self._prepare(connection, install=True)
            if _is_there(connection, name):
                raise CollectionError(f"collection {name!r} exists already")
            _store_calibration(connection, calibration)
            table = self._create_table(connection, name, layout)
            connection.execute(
                "INSERT INTO qvec.collection (name, relation, calibration, id_type, rescore, prefilter, oversampling,"
                " model, embedding) VALUES (%s, %s::regclass, %s, %s, %s, %s, %s, %s, %s)",
                [
                    name,
                    table.identifier.as_string(),
                    calibration.id,
                    id_type,
                    rescore,
                    layout.prefilter,
                    oversampling,
                    model,
                    None if embedding is None else Jsonb(dict(embedding)),
                ],
            )
        return self.collection(name)

    def _create_table(self, connection: Connection, name: str, layout: Layout) -> Table:
        row = connection.execute("SELECT current_schema()").fetchone()
        if row is None or row[0] is None:
            raise DatabaseError(f"{self.name} has no schema on its search_path to create the table {name!r} in")
        table = Table(row[0], name, layout, self._prepared_pgvector(connection))
        try:
            connection.execute(statements.create_table(table))
        except psycopg.errors.DuplicateTable:
            raise CollectionError(
                f"table {row[0]}.{name} exists and is no qvec collection; choose another collection name"
            ) from None
        return table

    def collection(self, name: str) -> PostgresCollection:
        """An existing collection. Raises CollectionError, listing those there are, when it is missing."""
        found = self._read(sql.SQL(_OPEN + " AND c.name = %s"), [name])
        if not found:
            if self.has_collection(name):
                raise CollectionError(
                    f"collection {name!r} is an application's table, attached in SQL; search it there: qvec.search"
                )
            names = ", ".join(collection.name for collection in self.collections()) or "none"
            raise CollectionError(f"no collection {name!r} in {self.name}; there are: {names}")
        return found[0]

    def has_collection(self, name: str) -> bool:
        with explained(f"cannot read the collections of {self.name}"):
            return self.read(lambda c: schema.installed(c) and _is_there(c, name))

    def collections(self) -> list[PostgresCollection]:
        """All collections in tables of their own, by name."""
        return self._read(sql.SQL(_OPEN + " ORDER BY c.name"), [])

    def _read(self, statement: sql.SQL, parameters: list[Any]) -> list[PostgresCollection]:
        def fetch(connection: Connection) -> list[tuple[tuple[Any, ...], PgVector]]:
            if not schema.installed(connection):
                return []
            vector = self._prepared_pgvector(connection)
            return [(row, vector) for row in connection.execute(statement, parameters).fetchall()]

        with explained(f"cannot read the collections of {self.name}"):
            found = self.read(fetch)
        return [self._opened(row, vector) for row, vector in found]

    def _opened(self, row: tuple[Any, ...], vector: PgVector) -> PostgresCollection:
        name, in_schema, relation, id_type, rescore, prefilter, oversampling, model, embedding = row[:9]
        calibration_id, content = row[9:]
        calibration = self._calibrations.get(calibration_id)
        if calibration is None:
            calibration = Calibration.from_bytes(content, f"the calibration of collection {name!r}")
            if calibration.id != calibration_id:
                raise CollectionError(f"collection {name!r} wants calibration {calibration_id}, found {calibration.id}")
            self._calibrations[calibration_id] = calibration
        layout = Layout(calibration.dimensions, id_type, rescore, prefilter)
        table = Table(in_schema, relation, layout, vector)
        return PostgresCollection(self, name, table, calibration, oversampling, model, embedding)

    def drop_collection(self, name: str) -> None:
        """Drops a collection with all its rows; its calibration goes with the last collection that uses it."""
        collection = self.collection(name)
        doing = f"cannot drop collection {name!r}"
        with explained(doing), self.live_connection() as connection, connection.transaction():
            connection.execute("DELETE FROM qvec.collection WHERE name = %s", [name])
            connection.execute(sql.SQL("DROP TABLE {}").format(collection.table.identifier))
            connection.execute(
                "DELETE FROM qvec.calibration k WHERE id = %s"
                " AND NOT EXISTS (SELECT FROM qvec.collection WHERE calibration = k.id)",
                [collection.calibration.id],
            )

    def loader(self, collection: str, source: str, on_duplicate: OnDuplicate, workers: int) -> PostgresLoader:
        """A load of one source into a collection that may not be there yet."""
        return PostgresLoader(self, collection, source, on_duplicate, workers)

    def explained(self, doing: str) -> AbstractContextManager[None]:
        """Raises DatabaseError for what the driver raises inside: what was being done, why it failed, what to do."""
        return explained(doing)

    def machine(self, connection: Connection) -> Machine:
        """What an index build may use of the machine that the server runs on."""
        return Machine.local() if self.embedded else Machine.remote(connection)

    def install(self) -> str | None:
        """Installs what is missing of pgvector and the schema qvec; returns what a user should know, if anything."""
        with explained(f"cannot prepare {self.name}"), self.live_connection() as connection:
            return schema.hnsw_warning(self._prepare(connection, install=True))

    def _prepare(self, connection: Connection, *, install: bool) -> PgVector:
        self._pgvector = schema.prepare(connection, install=install)
        return self._pgvector

    def _prepared_pgvector(self, connection: Connection) -> PgVector:
        return self._pgvector or self._prepare(connection, install=False)


def _reason(error: psycopg.OperationalError) -> str:
    """The last attempt's line; those that begin with a tab only ask whether a server runs there."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    return lines[-1].strip() if lines else type(error).__name__


def _answers(connection: Connection) -> bool:
    try:
        connection.execute(b"")
    except psycopg.OperationalError:
        return False
    return True


class _BitLoader(Loader):
    """A bit value's bytes, without the length before them."""

    format = Format.BINARY

    def load(self, data: Any) -> bytes:
        return bytes(data)[4:]


def _configure(connection: Connection) -> None:
    register_bit_info(connection, TypeInfo("bit", _BIT_OID, _BIT_ARRAY_OID))
    connection.adapters.register_loader(_BIT_OID, _BitLoader)


def _is_there(connection: Connection, name: str) -> bool:
    return connection.execute("SELECT FROM qvec.collection WHERE name = %s", [name]).fetchone() is not None


def _store_calibration(connection: Connection, calibration: Calibration) -> None:
    connection.execute(
        "INSERT INTO qvec.calibration (id, content, metadata) VALUES (%s, %s, %s) ON CONFLICT (id) DO NOTHING",
        [calibration.id, calibration.to_bytes(), Jsonb(calibration.metadata())],
    )
