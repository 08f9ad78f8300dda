"""Version sync in Postgres: the other version is a second table; triggers record which rows changed in the first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import pyarrow as pa
from psycopg import errors
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from qvec.calibration import Calibration
from qvec.errors import CollectionError, DatabaseError
from qvec.postgres import statements, table_properties
from qvec.postgres._sync import schema
from qvec.postgres._sync.collection import PostgresCollection
from qvec.postgres._sync.session import Connection
from qvec.postgres._sync.store import PostgresStore
from qvec.postgres._sync.writing import merge_rows
from qvec.postgres.layout import Table, TableLayout
from qvec.postgres.locks import AdvisoryLock
from qvec.postgres.rows import stored_vectors
from qvec.store.requests import RowColumns
from qvec.store.versions import UnsyncedRows, Version, cut

T = TypeVar("T")

_LOCK_TIMEOUT = "2s"
"""How long writes, and briefly searches, may queue behind a lock request."""
_TRIES = 60
_SECONDS_BETWEEN_TRIES = 1.0
_BATCH_ROWS = 5_000


def open_version_sync(store: PostgresStore, collection: str) -> PostgresVersionSync:
    """Return the version sync of a collection."""
    return PostgresVersionSync(store, collection)


class PostgresVersionSync:
    """The versions of one collection; see `qvec.store.versions.VersionSync`."""

    def __init__(self, store: PostgresStore, name: str) -> None:
        self._store = store
        self._name = name
        self._lock = AdvisoryLock(store, f"qvec.recalibrate {name}")
        self._opened: Connection | None = None

    def __enter__(self) -> PostgresVersionSync:
        try:
            if not self._lock.acquire():
                raise DatabaseError(f"another process is recalibrating collection {self._name!r}")
            self._opened = self._store.direct_connection()
            self._opened.set(statement_timeout="0")
            schema.prepare(self._opened, install=True)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._lock.release()

    @property
    def _connection(self) -> Connection:
        assert self._opened is not None
        return self._opened

    def other(self) -> Version | None:
        row = self._connection.execute(
            "SELECT v.name, kind, calibration FROM qvec.version v JOIN qvec.collection c ON c.name = v.name"
            " WHERE v.collection = %s",
            [self._name],
        ).fetchone()
        return Version(*row) if row else None

    def begin(self, calibration: Calibration) -> Version:
        """Create the table and start change capture in one transaction."""
        collection = self._store.open(self._name)
        table_properties.check_copyable(self._connection, collection.table, self._name)
        self._connection.execute("SELECT qvec.import_calibration(%s)", [calibration.to_bytes()])
        self._with_locks(lambda: self._begin(collection, calibration))
        found = self.other()
        assert found
        return found

    def _begin(self, collection: PostgresCollection, calibration: Calibration) -> None:
        table, settings = collection.table, collection.table.layout
        layout = TableLayout(
            calibration.dimensions, settings.id_type, settings.rescore, settings.prefilter, calibration.learned_bits
        )
        other = Table(table.schema, table_properties.version_name(table.name, calibration.id), layout, table.vector)
        changes = Identifier(table.schema, table_properties.version_name(table.name, "changes"))
        name = table_properties.version_name(self._name, calibration.id)
        connection = self._connection
        connection.execute(statements.create_table(other))
        table_properties.name_key(connection, table, other, calibration.id)
        table_properties.copy_columns(connection, table, other)
        connection.execute(
            "INSERT INTO qvec.collection (name, relation, calibration, id_type, rescore, prefilter, oversampling,"
            " model, embedding) SELECT %s, %s::regclass, %s, id_type, rescore, prefilter, oversampling, model,"
            " embedding FROM qvec.collection WHERE name = %s",
            [name, other.identifier.as_string(), calibration.id, self._name],
        )
        if self._has_column(table, "embedding_in"):
            connection.execute("SELECT qvec.accept_vectors(%s)", [name])
        create = SQL("CREATE TABLE {} (id {}, vector boolean); GRANT INSERT ON {} TO PUBLIC")
        connection.execute(create.format(changes, SQL(layout.id_type), changes))
        connection.execute(
            "INSERT INTO qvec.version (collection, name, kind, changes) VALUES (%s, %s, 'new', %s::regclass)",
            [self._name, name, changes.as_string()],
        )
        self._track_changes(table, changes)

    def _has_column(self, table: Table, column: str) -> bool:
        found = self._connection.execute(
            "SELECT FROM pg_attribute WHERE attrelid = %s::regclass AND attname = %s AND NOT attisdropped",
            [table.identifier.as_string(), column],
        )
        return found.fetchone() is not None

    def _track_changes(self, table: Table, changes: Identifier) -> None:
        argument = Literal(changes.as_string())
        for trigger, event, each in (
            (table_properties.CHANGES, SQL("INSERT OR UPDATE OR DELETE"), SQL("ROW")),
            (table_properties.TRUNCATE, SQL("TRUNCATE"), SQL("STATEMENT")),
        ):
            self._connection.execute(
                SQL("CREATE TRIGGER {} AFTER {} ON {} FOR EACH {} EXECUTE FUNCTION qvec._note_change({})").format(
                    Identifier(trigger), event, table.identifier, each, argument
                )
            )

    def texts(self, ids: Sequence[int | str]) -> dict[int | str, tuple[str | None, str | None]]:
        table = self._table(self._name)
        statement = SQL("SELECT id, document, metadata::text FROM {} WHERE id = ANY(%s::{}[])").format(
            table.identifier, SQL(table.layout.id_type)
        )
        return {row[0]: (row[1], row[2]) for row in self._connection.execute(statement, [list(ids)]).fetchall()}

    def first_id(self, source: str) -> int | None:
        row = self._connection.execute(
            "SELECT first_id FROM qvec.ingest WHERE collection = %s AND source = %s", [self._name, source]
        ).fetchone()
        return None if row is None else row[0]

    def finish(self, name: str) -> None:
        """Copy indexes on metadata and planner statistics; privileges follow when the versions are switched."""
        table, other = self._table(self._name), self._store.open(name)
        with self._connection.transaction():
            table_properties.copy_columns(self._connection, table, other.table)
            table_properties.copy_indexes(self._connection, table, other.table, other.calibration.id)
            table_properties.copy_statistics(self._connection, table, other.table, other.calibration.id)
        self._connection.execute(SQL("ANALYZE {}").format(other.table.identifier))

    def _table(self, name: str) -> Table:
        return self._store.open(name).table

    def catch_up(self) -> UnsyncedRows:
        """Sync recorded rows, and rows that the load by position skipped because rows before them were deleted."""
        pair = self._pair()
        if pair.has_floats:
            self._connection.execute(pair.record_missing())
        self._connection.execute(pair.delete_surplus())
        while self._in_transaction(lambda: pair.sync(self._connection)):
            pass
        return pair.unsynced(self._connection)

    def _pair(self) -> VersionPair:
        other = self.other()
        if other is None:
            raise CollectionError(f"collection {self._name!r} has no other version")
        row = self._connection.execute(
            "SELECT nspname, relname FROM qvec.version JOIN pg_class ON pg_class.oid = changes"
            " JOIN pg_namespace n ON n.oid = relnamespace WHERE collection = %s",
            [self._name],
        ).fetchone()
        assert row
        return VersionPair(self._store.open(self._name), self._store.open(other.name), Identifier(*row))

    def switch(self, *, allow_missing: bool) -> UnsyncedRows:
        """Switch the versions. Writes wait from the start, searches while the names change; open collections notice."""
        pair = self._pair()  # read over other connections, so before the transaction
        return self._with_locks(lambda: self._switch(pair, allow_missing))

    def _switch(self, pair: VersionPair, allow_missing: bool) -> UnsyncedRows:
        used, other, connection = pair.used, pair.other, self._connection
        table_properties.check_copyable(connection, used.table, self._name)
        connection.execute(SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(used.table.identifier))
        while pair.sync(connection):
            pass
        unsynced = pair.unsynced(connection)
        if unsynced and not allow_missing:
            raise CollectionError(f"of the rows of collection {self._name!r} {unsynced} in version {other.name!r}")
        table_properties.copy_columns(connection, used.table, other.table)
        table_properties.copy_indexes(connection, used.table, other.table, other.calibration.id)
        table_properties.copy_statistics(connection, used.table, other.table, other.calibration.id)
        table_properties.copy_privileges(connection, used.table, other.table)
        lock = SQL("LOCK TABLE {}, {} IN ACCESS EXCLUSIVE MODE")
        connection.execute(lock.format(used.table.identifier, other.table.identifier))
        self._rename(pair)
        return unsynced

    def _rename(self, pair: VersionPair) -> None:
        used, other, connection = pair.used, pair.other, self._connection
        ids = used.calibration.id, other.calibration.id
        kept = Table(
            used.table.schema,
            table_properties.version_name(used.table.name, ids[0]),
            used.table.layout,
            used.table.vector,
        )
        relations = connection.execute(
            "SELECT name, relation::oid FROM qvec.collection WHERE name = ANY(%s)", [[used.name, other.name]]
        ).fetchall()
        relation = dict(relations)
        for trigger in (table_properties.CHANGES, table_properties.TRUNCATE):
            connection.execute(SQL("DROP TRIGGER {} ON {}").format(Identifier(trigger), used.table.identifier))
        table_properties.swap_names(connection, used.table, other.table, ids, kept)
        former = table_properties.version_name(self._name, ids[0])
        for statement, values in (
            (
                "UPDATE qvec.version SET kind = CASE kind WHEN 'new' THEN 'old' ELSE 'new' END WHERE collection = %s",
                [used.name],
            ),
            ("UPDATE qvec.collection SET relation = 0 WHERE name = %s", [other.name]),
            (
                "UPDATE qvec.collection SET relation = %s, calibration = %s WHERE name = %s",
                [relation[other.name], ids[1], used.name],
            ),
            (
                "UPDATE qvec.collection SET relation = %s, calibration = %s, name = %s WHERE name = %s",
                [relation[used.name], ids[0], former, other.name],
            ),
        ):
            connection.execute(statement, values)
        connection.execute(SQL("DELETE FROM {}").format(pair.changes))
        self._track_changes(used.table, pair.changes)

    def drop(self) -> None:
        """Drop the other version. A trigger drops its table; its calibration goes with the last collection that uses
        it."""
        other = self.other()
        if other is None:
            return
        self._with_locks(
            lambda: self._connection.execute("DELETE FROM qvec.version WHERE collection = %s", [self._name])
        )
        self._connection.execute(
            "DELETE FROM qvec.calibration k WHERE id = %s"
            " AND NOT EXISTS (SELECT FROM qvec.collection WHERE calibration = k.id)",
            [other.calibration],
        )

    def _with_locks(self, work: Callable[[], T]) -> T:
        """Do work in a transaction that takes locks; give up and try again where others would have to wait long."""
        for _ in range(_TRIES):
            try:
                with self._connection.transaction():
                    self._connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode())
                    done = work()
                    self._lock.check()
                    return done
            except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
                waited = error
                time.sleep(_SECONDS_BETWEEN_TRIES)
        raise DatabaseError(
            f"the table of collection {self._name!r} is still locked by others; end long transactions that use it, and "
            "run this again"
        ) from waited

    def _in_transaction(self, work: Callable[[], T]) -> T:
        with self._connection.transaction():
            done = work()
            self._lock.check()
            return done


class VersionPair:
    """The version in use and the other one, and the table of ids of rows that changed only in the first."""

    def __init__(self, used: PostgresCollection, other: PostgresCollection, changes: Identifier) -> None:
        self.used = used
        self.other = other
        self.changes = changes
        self.has_floats = used.keeps_floats and used.table.layout.dimensions >= other.table.layout.dimensions

    def record_missing(self) -> Composed:
        return self._composed(
            "INSERT INTO {changes} SELECT id, true FROM {used} u"
            " WHERE NOT EXISTS (SELECT FROM {other} o WHERE o.id = u.id)"
        )

    def delete_surplus(self) -> Composed:
        return self._composed("DELETE FROM {other} o WHERE NOT EXISTS (SELECT FROM {used} u WHERE u.id = o.id)")

    def unsynced(self, connection: Connection) -> UnsyncedRows:
        """Return the rows that cannot be synced: none where floats are kept."""
        if self.has_floats:
            return UnsyncedRows(0, 0)
        row = connection.execute(
            self._composed(
                "SELECT count(*) FILTER (WHERE o.id IS NULL),"
                " count(*) FILTER (WHERE o.id IS NOT NULL AND u.id IN (SELECT id FROM {changes} WHERE vector))"
                " FROM {used} u LEFT JOIN {other} o ON o.id = u.id"
            )
        ).fetchone()
        assert row
        return UnsyncedRows(*row)

    def sync(self, connection: Connection) -> int:
        """Sync recorded rows in the transaction that forgets them; return their number. Without floats, rows whose
        vector changed stay recorded."""
        which: Composable = SQL("") if self.has_floats else SQL("WHERE NOT vector")
        ids = self._ids(
            connection,
            "WITH taken AS (DELETE FROM {changes} WHERE ctid = ANY("
            "ARRAY(SELECT ctid FROM {changes} {which} LIMIT {rows})) RETURNING id) SELECT DISTINCT id FROM taken",
            which,
        )
        if ids:
            gone = {statements.DELETED_IDS: self._gone(connection, ids)}
            connection.execute(statements.delete(self.other.table), gone)
            if self.has_floats:
                self._sync_rows(connection, ids)
            else:
                self._sync_texts(connection, ids)
        return len(ids)

    def _ids(self, connection: Connection, statement: str, which: Composable) -> list[Any]:
        rows = connection.execute(self._composed(statement, which=which, rows=Literal(_BATCH_ROWS))).fetchall()
        return [row[0] for row in rows]

    def _gone(self, connection: Connection, ids: list[Any]) -> list[Any]:
        there = {row[0] for row in connection.execute(statements.by_ids(self.used.table, ("id",)), [ids]).fetchall()}
        return [id for id in ids if id not in there]

    def _sync_rows(self, connection: Connection, ids: list[Any]) -> None:
        statement = statements.stored_rows_by_ids(self.used.table).as_bytes(None)
        with connection.cursor(binary=True) as cursor:
            found = cursor.execute(statement, [ids]).fetchall()
        if not found:
            return
        there, vectors, documents, metadata = zip(*found, strict=True)
        encoded = self.other.encode(
            RowColumns(
                pa.array(there, pa.int64() if self.other.id_type == "bigint" else pa.large_string()),
                cut(stored_vectors(vectors, self.used.calibration, self.used.table.layout), self.other.calibration),
                pa.array(documents, pa.large_string()),
                pa.array(metadata, pa.large_string()),
                "prepared",
            )
        )
        merge_rows(connection, self.other.table, encoded, "replace")

    def _sync_texts(self, connection: Connection, ids: list[Any]) -> None:
        statement = "UPDATE {other} o SET document = u.document, metadata = u.metadata FROM {used} u WHERE u.id = o.id"
        connection.execute(self._composed(statement + " AND o.id = ANY(%s)"), [ids])

    def _composed(self, statement: Any, **parts: Composable) -> Composed:
        used, other = self.used.table.identifier, self.other.table.identifier
        return SQL(statement).format(used=used, other=other, changes=self.changes, **parts)
