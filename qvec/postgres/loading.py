"""How far sources are loaded: checkpoints, and the locks of those who load."""

from __future__ import annotations

from qvec.loading import Checkpoint
from qvec.postgres.steps import Connection


def read_checkpoint(connection: Connection, collection: str, source: str) -> Checkpoint | None:
    """The checkpoint, once a transaction that is just committing another one is through, its client dead or not."""
    row = connection.execute(
        "SELECT fingerprint, first_id, position, rejected, rejects_size, finished FROM qvec.ingest"
        " WHERE collection = %s AND source = %s FOR UPDATE",
        [collection, source],
    ).fetchone()
    return Checkpoint(*row) if row else None


def read_checkpoints(connection: Connection, collection: str) -> dict[str, Checkpoint]:
    """The checkpoints of all sources that were loaded, by their locations."""
    rows = connection.execute(
        "SELECT source, fingerprint, first_id, position, rejected, rejects_size, finished FROM qvec.ingest"
        " WHERE collection = %s",
        [collection],
    ).fetchall()
    return {source: Checkpoint(*row) for source, *row in rows}


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
