# Generated from qvec/postgres/_async/indexes.py by tools/async_to_sync.py: edit that file, then run `make sync`.
"""Building the indexes of a collection: the prefilter's HNSW graph, and those on metadata and on words."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from psycopg import errors
from psycopg.sql import SQL

from qvec.defaults import HNSW_M
from qvec.full_text import check_indexed_language
from qvec.metadata_index import MetadataIndex
from qvec.postgres import metadata_indexes, statements, text_index
from qvec.postgres._sync.execute import execute, execute_unlimited, fetch, without_time_limit
from qvec.postgres._sync.session import Connection, set_all
from qvec.postgres.layout import Table
from qvec.postgres.machine import Machine

_GRAPH_BYTES = 2 * HNSW_M * 16 + 188
"""Bytes of one HNSW element beside its bits: 2 m neighbours in pgvector's lowest layer, and bookkeeping with a
reserve."""
_MIN_MEMORY = 64 << 20


def remote_machine(connection: Connection) -> Machine:
    """Return what the settings of a server elsewhere allow, but at least a gibibyte of memory."""
    ((memory, workers),) = fetch(
        connection,
        "SELECT pg_size_bytes(current_setting('maintenance_work_mem')), current_setting('max_parallel_workers')::int",
    )
    return Machine(max(memory, 1 << 30), min(workers, 7))


def exists(connection: Connection, table: Table) -> bool:
    """Return whether the prefilter's index exists and is complete."""
    found = fetch(
        connection,
        "SELECT indisvalid FROM pg_index JOIN pg_class c ON c.oid = indexrelid"
        " WHERE indrelid = %s::regclass AND relname = %s",
        [table.identifier.as_string(), table.index],
    )
    return bool(found and found[0][0])


def build(connection: Connection, table: Table, machine: Machine) -> None:
    """Build the prefilter's index in one transaction, unless it exists."""
    if exists(connection, table):
        return
    try:
        _create(connection, table, machine)
    except (errors.DiskFull, errors.OutOfMemory):
        if not machine.workers:
            raise
        # Parallel builds share their memory through /dev/shm, which containers keep small: do without.
        _create(connection, table, Machine(machine.memory, 0))
    execute_unlimited(connection, SQL("ANALYZE {}").format(table.identifier))


def _stop_with_client(connection: Connection) -> None:
    """Let the server stop building for a client that was killed, on platforms that can."""
    with suppress(errors.InvalidParameterValue):
        with connection.transaction():
            execute(connection, "SET LOCAL client_connection_check_interval = '1s'")


def _create(connection: Connection, table: Table, machine: Machine) -> None:
    with connection.transaction():
        # Unlike SHARE this mode excludes itself: of two concurrent builds the second waits, and finds the index.
        execute(connection, SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(table.identifier))
        if exists(connection, table):
            return
        _stop_with_client(connection)
        memory = _build_memory(connection, table, machine)
        settings = {
            "maintenance_work_mem": f"{memory >> 10}kB",
            "max_parallel_maintenance_workers": str(machine.workers),
            "statement_timeout": "0",
        }
        execute(connection, set_all(settings, local=True))
        execute(connection, statements.drop_index(table))
        execute(connection, statements.create_index(table))


def _build_memory(connection: Connection, table: Table, machine: Machine) -> int:
    """Return the bytes that hold the whole graph during the build, within the machine's memory."""
    ((rows,),) = fetch(connection, statements.count(table))
    needed = int(rows * (table.layout.prefilter_bits // 8 + _GRAPH_BYTES) * 1.2)
    return max(min(needed, machine.memory), _MIN_MEMORY)


def index_metadata(connection: Connection, table: Table, indexes: Sequence[MetadataIndex]) -> None:
    """Create indexes on metadata fields where they are missing."""
    for index in indexes:
        for statement in metadata_indexes.create(table, index):
            execute_unlimited(connection, statement)
    execute_unlimited(connection, SQL("ANALYZE {}").format(table.identifier))


def index_texts(connection: Connection, table: Table, collection: str, language: str) -> None:
    """Index the documents' words unless they are. Raise InputError where they are indexed in another language."""
    with without_time_limit(connection):
        found = text_language(connection, table)
    if found is None:
        execute_unlimited(connection, text_index.add_column(table, language))
        with without_time_limit(connection):
            found = text_language(connection, table)  # another client may have been first
    check_indexed_language(collection, found or language, language)
    execute_unlimited(connection, text_index.create_index(table))
    execute_unlimited(connection, SQL("ANALYZE {}").format(table.identifier))


def text_language(connection: Connection, table: Table) -> str | None:
    """Return the language in which documents are indexed; None where they are not."""
    found = fetch(connection, text_index.column_definition(table))
    return text_index.language_of(found[0][0]) if found else None
