"""Writing rows: COPY straight into the table while no id repeats, through a staging table when one may."""

from __future__ import annotations

from psycopg import errors
from psycopg.sql import SQL, Identifier

from qvec.errors import CollectionError
from qvec.loading import Checkpoint, OnDuplicate
from qvec.postgres import statements
from qvec.postgres.layout import Table
from qvec.postgres.rows import HEADER, TRAILER
from qvec.postgres.schema import Connection

_WRITE_BYTES = 1 << 20


def copy_rows(connection: Connection, table: Table, rows: bytes) -> int:
    """Copies encoded rows into the table and returns how many; an id that is there raises UniqueViolation."""
    return _copy(connection, table.identifier, table, rows)


def merge_rows(connection: Connection, table: Table, rows: bytes, on_duplicate: OnDuplicate) -> int:
    """Copies encoded rows by way of a staging table, inside a transaction; returns how many were written."""
    if on_duplicate == "error":
        return _insert_new(connection, table, rows)
    connection.execute(statements.create_staging(table))
    _copy(connection, statements.STAGING, table, rows)
    written = connection.execute(statements.merge_staging(table, on_duplicate)).rowcount
    connection.execute(SQL("DROP TABLE {}").format(statements.STAGING))
    return written


def _insert_new(connection: Connection, table: Table, rows: bytes) -> int:
    try:
        with connection.transaction():
            return _copy(connection, table.identifier, table, rows)
    except errors.UniqueViolation as error:
        found = (error.diag.message_detail or "").removesuffix(" already exists.")
        raise CollectionError(
            f"{found or 'an id'} is there already; to replace or skip such rows, say so (on_duplicate, --on-duplicate)"
        ) from None


def _copy(connection: Connection, target: Identifier, table: Table, rows: bytes) -> int:
    with connection.cursor() as cursor:
        with cursor.copy(statements.copy_into(target, table)) as copy:
            copy.write(HEADER)
            view = memoryview(rows)
            for start in range(0, len(view), _WRITE_BYTES):
                copy.write(view[start : start + _WRITE_BYTES])
            copy.write(TRAILER)
        return cursor.rowcount


def check_calibration(connection: Connection, collection: str, calibration: str) -> None:
    """Raises CollectionError when the collection was dropped, and made anew with another calibration perhaps: its codes
    would not compare with those that are about to be written."""
    found = connection.execute("SELECT calibration FROM qvec.collection WHERE name = %s", [collection]).fetchone()
    if found is None or found[0] != calibration:
        again = " and made anew" if found else ""
        raise CollectionError(f"collection {collection!r} was dropped{again} since it was opened; open it again")


def read_checkpoint(connection: Connection, collection: str, source: str) -> Checkpoint | None:
    """The checkpoint, once a transaction that is just committing another one is through, its client dead or not."""
    row = connection.execute(
        "SELECT fingerprint, first_id, position, rejected, rejects_size, finished FROM qvec.ingest"
        " WHERE collection = %s AND source = %s FOR UPDATE",
        [collection, source],
    ).fetchone()
    return Checkpoint(*row) if row else None


def numbered_and_unfinished(connection: Connection, collection: str, but: str) -> str | None:
    """Another source whose rows get numbers for ids and are not all there yet."""
    row = connection.execute(
        "SELECT source FROM qvec.ingest WHERE collection = %s AND source <> %s AND first_id IS NOT NULL"
        " AND NOT finished LIMIT 1",
        [collection, but],
    ).fetchone()
    return str(row[0]) if row else None


def write_checkpoint(connection: Connection, collection: str, source: str, checkpoint: Checkpoint) -> None:
    connection.execute(
        "INSERT INTO qvec.ingest"
        " (collection, source, fingerprint, first_id, position, rejected, rejects_size, finished) VALUES"
        " (%(collection)s, %(source)s, %(fingerprint)s, %(first_id)s, %(position)s, %(rejected)s,"
        " %(rejects_size)s, %(finished)s) ON CONFLICT (collection, source) DO UPDATE SET"
        " fingerprint = excluded.fingerprint, first_id = excluded.first_id, position = excluded.position,"
        " rejected = excluded.rejected, rejects_size = excluded.rejects_size, finished = excluded.finished,"
        " updated_at = now()",
        {"collection": collection, "source": source, **vars(checkpoint)},
    )


def lock_source(connection: Connection, collection: str, source: str) -> bool:
    """Takes the right to load this source, for as long as the connection lives. False when another has it."""
    key = f"qvec.ingest {collection} {source}"
    row = connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [key]).fetchone()
    return bool(row and row[0])


def lock_starts(connection: Connection, collection: str) -> None:
    """Lets one load at a time begin, until the transaction ends: two would take the same ids."""
    key = f"qvec.start {collection}"
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [key])


def settings_for_loading(connection: Connection) -> None:
    """A commit need not wait for the disk: rows and checkpoint are lost or kept together. A batch may take its time."""
    connection.execute(
        "SET synchronous_commit = off; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0"
    )
