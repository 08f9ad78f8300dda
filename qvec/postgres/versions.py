"""The two versions of a collection in Postgres: tables of their own, one of which follows what the other is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
from psycopg import errors
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from qvec.errors import CollectionError, DatabaseError
from qvec.postgres import carrying, schema, statements
from qvec.postgres.inserting import merge_rows
from qvec.postgres.layout import Layout, Table
from qvec.postgres.rows import id_array, stored_vectors
from qvec.postgres.steps import Connection, perform
from qvec.versions import Version, Wanting, cut

if TYPE_CHECKING:
    from qvec.calibration import Calibration
    from qvec.postgres.collection import PostgresCollection
    from qvec.postgres.database import PostgresDatabase
    from qvec.stores import Collection

T = TypeVar("T")

_LOCK_TIMEOUT = "2s"
"""How long writes, and for a moment searches, may wait behind a lock that is waited for."""
_TRIES = 60
_SECONDS_BETWEEN_TRIES = 1.0
_BATCH_ROWS = 5_000


class PostgresVersions:
    """The versions of one collection; see `qvec.versions.Versions`."""

    def __init__(self, database: PostgresDatabase, name: str) -> None:
        self._database = database
        self._name = name
        self._opened: Connection | None = None

    def __enter__(self) -> PostgresVersions:
        self._opened = self._database.connect()
        key = f"qvec.recalibrate {self._name}"
        for _ in range(20):  # a killed process's connection may need a moment to end
            row = self._connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [key]).fetchone()
            if row and row[0]:
                self._connection.execute("SET statement_timeout = 0")
                perform(self._connection, schema.prepare(install=True))
                return self
            time.sleep(0.5)
        self._opened.close()
        raise DatabaseError(f"another process is recalibrating collection {self._name!r}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.close()

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
        """Its table is there in the same moment in which changes of the collection begin to be noted."""
        collection = self._database.collection(self._name)
        carrying.check_carriable(self._connection, collection.table, self._name)
        self._connection.execute("SELECT qvec.import_calibration(%s)", [calibration.to_bytes()])
        self._in_turn(lambda: self._begin(collection, calibration))
        found = self.other()
        assert found
        return found

    def _begin(self, collection: PostgresCollection, calibration: Calibration) -> None:
        table, settings = collection.table, collection.table.layout
        layout = Layout(
            calibration.dimensions, settings.id_type, settings.rescore, settings.prefilter, calibration.learned_bits
        )
        other = Table(table.schema, carrying.named(table.name, calibration.id), layout, table.vector)
        changes = Identifier(table.schema, carrying.named(table.name, "changes"))
        name = carrying.named(self._name, calibration.id)
        connection = self._connection
        connection.execute(statements.create_table(other))
        carrying.name_key(connection, table, other, calibration.id)
        carrying.carry_columns(connection, table, other)
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
        self._note_changes(table, changes)

    def _has_column(self, table: Table, column: str) -> bool:
        found = self._connection.execute(
            "SELECT FROM pg_attribute WHERE attrelid = %s::regclass AND attname = %s AND NOT attisdropped",
            [table.identifier.as_string(), column],
        )
        return found.fetchone() is not None

    def _note_changes(self, table: Table, changes: Identifier) -> None:
        argument = Literal(changes.as_string())
        for trigger, event, each in (
            (carrying.CHANGES, SQL("INSERT OR UPDATE OR DELETE"), SQL("ROW")),
            (carrying.TRUNCATE, SQL("TRUNCATE"), SQL("STATEMENT")),
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

    def finish(self, collection: Collection) -> None:
        """Its indexes on metadata, and statistics for the planner; privileges follow with the exchange."""
        table, other = self._table(self._name), self._table(collection.name)
        with self._connection.transaction():
            carrying.carry_columns(self._connection, table, other)
            carrying.carry_indexes(self._connection, table, other, collection.calibration.id)
            carrying.carry_statistics(self._connection, table, other, collection.calibration.id)
        self._connection.execute(SQL("ANALYZE {}").format(other.identifier))

    def _table(self, name: str) -> Table:
        return self._database.collection(name).table

    def catch_up(self) -> Wanting:
        """Rows that a reading by position passed over, since others before them were deleted, come along."""
        pair = self._pair()
        if pair.has_originals:
            self._connection.execute(pair.note_missing())
        self._connection.execute(pair.delete_surplus())
        while self._in_transaction(lambda: pair.bring(self._connection)):
            pass
        return pair.wanting(self._connection)

    def _pair(self) -> Pair:
        other = self.other()
        if other is None:
            raise CollectionError(f"collection {self._name!r} has no other version")
        row = self._connection.execute(
            "SELECT nspname, relname FROM qvec.version JOIN pg_class ON pg_class.oid = changes"
            " JOIN pg_namespace n ON n.oid = relnamespace WHERE collection = %s",
            [self._name],
        ).fetchone()
        assert row
        return Pair(self._database.collection(self._name), self._database.collection(other.name), Identifier(*row))

    def exchange(self, *, although_wanting: bool) -> Wanting:
        """Writes wait from the beginning, searches for the moment in which names change. Open collections notice."""
        return self._in_turn(lambda: self._exchange(although_wanting))

    def _exchange(self, although_wanting: bool) -> Wanting:
        pair = self._pair()
        used, other, connection = pair.used, pair.other, self._connection
        carrying.check_carriable(connection, used.table, self._name)
        connection.execute(SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(used.table.identifier))
        while pair.bring(connection):
            pass
        wanting = pair.wanting(connection)
        if wanting and not although_wanting:
            raise CollectionError(f"of the rows of collection {self._name!r} {wanting} in version {other.name!r}")
        carrying.carry_columns(connection, used.table, other.table)
        carrying.carry_indexes(connection, used.table, other.table, other.calibration.id)
        carrying.carry_statistics(connection, used.table, other.table, other.calibration.id)
        carrying.carry_privileges(connection, used.table, other.table)
        lock = SQL("LOCK TABLE {}, {} IN ACCESS EXCLUSIVE MODE")
        connection.execute(lock.format(used.table.identifier, other.table.identifier))
        self._rename(pair)
        return wanting

    def _rename(self, pair: Pair) -> None:
        used, other, connection = pair.used, pair.other, self._connection
        ids = used.calibration.id, other.calibration.id
        kept = Table(used.table.schema, carrying.named(used.table.name, ids[0]), used.table.layout, used.table.vector)
        relations = connection.execute(
            "SELECT name, relation::oid FROM qvec.collection WHERE name = ANY(%s)", [[used.name, other.name]]
        ).fetchall()
        relation = dict(relations)
        for trigger in (carrying.CHANGES, carrying.TRUNCATE):
            connection.execute(SQL("DROP TRIGGER {} ON {}").format(Identifier(trigger), used.table.identifier))
        carrying.exchange_names(connection, used.table, other.table, ids, kept)
        former = carrying.named(self._name, ids[0])
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
        self._note_changes(used.table, pair.changes)

    def drop(self) -> None:
        """Its table goes with the row that is deleted, by a trigger; its calibration with the last that uses it."""
        other = self.other()
        if other is None:
            return
        self._in_turn(lambda: self._connection.execute("DELETE FROM qvec.version WHERE collection = %s", [self._name]))
        self._connection.execute(
            "DELETE FROM qvec.calibration k WHERE id = %s"
            " AND NOT EXISTS (SELECT FROM qvec.collection WHERE calibration = k.id)",
            [other.calibration],
        )

    def _in_turn(self, work: Callable[[], T]) -> T:
        """Work in a transaction that takes locks: given up and tried again where it would hold others up for long."""
        for _ in range(_TRIES):
            try:
                with self._connection.transaction():
                    self._connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode())
                    return work()
            except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
                waited = error
                time.sleep(_SECONDS_BETWEEN_TRIES)
        raise DatabaseError(
            f"the table of collection {self._name!r} stays locked by others; end long transactions that use it, and "
            "run this again"
        ) from waited

    def _in_transaction(self, work: Callable[[], T]) -> T:
        with self._connection.transaction():
            return work()


class Pair:
    """The version in use and the other one, and the table of the ids of rows that only the first has been given."""

    def __init__(self, used: PostgresCollection, other: PostgresCollection, changes: Identifier) -> None:
        self.used = used
        self.other = other
        self.changes = changes
        self.has_originals = used.keeps_floats and used.table.layout.dimensions >= other.table.layout.dimensions

    def note_missing(self) -> Composed:
        return self._composed(
            "INSERT INTO {changes} SELECT id, true FROM {used} u"
            " WHERE NOT EXISTS (SELECT FROM {other} o WHERE o.id = u.id)"
        )

    def delete_surplus(self) -> Composed:
        return self._composed("DELETE FROM {other} o WHERE NOT EXISTS (SELECT FROM {used} u WHERE u.id = o.id)")

    def wanting(self, connection: Connection) -> Wanting:
        """Nothing where there are originals: what is missing is noted, and what is noted is brought."""
        if self.has_originals:
            return Wanting(0, 0)
        row = connection.execute(
            self._composed(
                "SELECT count(*) FILTER (WHERE o.id IS NULL),"
                " count(*) FILTER (WHERE o.id IS NOT NULL AND u.id IN (SELECT id FROM {changes} WHERE vector))"
                " FROM {used} u LEFT JOIN {other} o ON o.id = u.id"
            )
        ).fetchone()
        assert row
        return Wanting(*row)

    def bring(self, connection: Connection) -> int:
        """Brings over rows that are noted, in the transaction that forgets them; returns how many. Whether a vector
        changed is noted of each; without originals those whose did stay noted."""
        which: Composable = SQL("") if self.has_originals else SQL("WHERE NOT vector")
        ids = self._ids(
            connection,
            "WITH taken AS (DELETE FROM {changes} WHERE ctid = ANY("
            "ARRAY(SELECT ctid FROM {changes} {which} LIMIT {rows})) RETURNING id) SELECT DISTINCT id FROM taken",
            which,
        )
        if ids:
            connection.execute(statements.delete(self.other.table), [self._gone(connection, ids)])
            if self.has_originals:
                self._bring_rows(connection, ids)
            else:
                self._bring_texts(connection, ids)
        return len(ids)

    def _ids(self, connection: Connection, statement: str, which: Composable) -> list[Any]:
        rows = connection.execute(self._composed(statement, which=which, rows=Literal(_BATCH_ROWS))).fetchall()
        return [row[0] for row in rows]

    def _gone(self, connection: Connection, ids: list[Any]) -> list[Any]:
        there = {row[0] for row in connection.execute(statements.by_ids(self.used.table, ("id",)), [ids]).fetchall()}
        return [id for id in ids if id not in there]

    def _bring_rows(self, connection: Connection, ids: list[Any]) -> None:
        statement = statements.stored_rows_by_ids(self.used.table).as_bytes(None)
        with connection.cursor(binary=True) as cursor:
            found = cursor.execute(statement, [ids]).fetchall()
        if not found:
            return
        there, vectors, documents, metadata = zip(*found, strict=True)
        encoded = self.other.encode(
            id_array(there, self.other.table.layout),
            cut(stored_vectors(vectors, self.used.calibration, self.used.table.layout), self.other.calibration),
            pa.array(documents, pa.large_string()),
            pa.array(metadata, pa.large_string()),
            "prepared",
        )
        perform(connection, merge_rows(self.other.table, encoded, "replace"))

    def _bring_texts(self, connection: Connection, ids: list[Any]) -> None:
        statement = "UPDATE {other} o SET document = u.document, metadata = u.metadata FROM {used} u WHERE u.id = o.id"
        connection.execute(self._composed(statement + " AND o.id = ANY(%s)"), [ids])

    def _composed(self, statement: Any, **parts: Composable) -> Composed:
        used, other = self.used.table.identifier, self.other.table.identifier
        return SQL(statement).format(used=used, other=other, changes=self.changes, **parts)
