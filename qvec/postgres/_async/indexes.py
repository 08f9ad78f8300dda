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
from qvec.postgres._async.execute import execute, execute_unlimited, fetch, without_time_limit
from qvec.postgres._async.session import AsyncConnection, set_all
from qvec.postgres.layout import Table
from qvec.postgres.machine import Machine

_GRAPH_BYTES = 2 * HNSW_M * 16 + 188
"""Bytes of one HNSW element beside its bits: 2 m neighbours in pgvector's lowest layer, and bookkeeping with a
reserve."""
_MIN_MEMORY = 64 << 20


async def remote_machine(connection: AsyncConnection) -> Machine:
    """Return what the settings of a server elsewhere allow, but at least a gibibyte of memory."""
    ((memory, workers),) = await fetch(
        connection,
        "SELECT pg_size_bytes(current_setting('maintenance_work_mem')), current_setting('max_parallel_workers')::int",
    )
    return Machine(max(memory, 1 << 30), min(workers, 7))


async def exists(connection: AsyncConnection, table: Table) -> bool:
    """Return whether the prefilter's index exists and is complete."""
    found = await fetch(
        connection,
        "SELECT indisvalid FROM pg_index JOIN pg_class c ON c.oid = indexrelid"
        " WHERE indrelid = %s::regclass AND relname = %s",
        [table.identifier.as_string(), table.index],
    )
    return bool(found and found[0][0])


async def build(connection: AsyncConnection, table: Table, machine: Machine) -> None:
    """Build the prefilter's index in one transaction, unless it exists."""
    if await exists(connection, table):
        return
    try:
        await _create(connection, table, machine)
    except (errors.DiskFull, errors.OutOfMemory):
        if not machine.workers:
            raise
        # Parallel builds share their memory through /dev/shm, which containers keep small: do without.
        await _create(connection, table, Machine(machine.memory, 0))
    await execute_unlimited(connection, SQL("ANALYZE {}").format(table.identifier))


async def _stop_with_client(connection: AsyncConnection) -> None:
    """Let the server stop building for a client that was killed, on platforms that can."""
    with suppress(errors.InvalidParameterValue):
        async with connection.transaction():
            await execute(connection, "SET LOCAL client_connection_check_interval = '1s'")


async def _create(connection: AsyncConnection, table: Table, machine: Machine) -> None:
    async with connection.transaction():
        # Unlike SHARE this mode excludes itself: of two concurrent builds the second waits, and finds the index.
        await execute(connection, SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(table.identifier))
        if await exists(connection, table):
            return
        await _stop_with_client(connection)
        memory = await _build_memory(connection, table, machine)
        settings = {
            "maintenance_work_mem": f"{memory >> 10}kB",
            "max_parallel_maintenance_workers": str(machine.workers),
            "statement_timeout": "0",
        }
        await execute(connection, set_all(settings, local=True))
        await execute(connection, statements.drop_index(table))
        await execute(connection, statements.create_index(table))


async def _build_memory(connection: AsyncConnection, table: Table, machine: Machine) -> int:
    """Return the bytes that hold the whole graph during the build, within the machine's memory."""
    ((rows,),) = await fetch(connection, statements.count(table))
    needed = int(rows * (table.layout.prefilter_bits // 8 + _GRAPH_BYTES) * 1.2)
    return max(min(needed, machine.memory), _MIN_MEMORY)


async def index_metadata(connection: AsyncConnection, table: Table, indexes: Sequence[MetadataIndex]) -> None:
    """Create indexes on metadata fields where they are missing."""
    for index in indexes:
        for statement in metadata_indexes.create(table, index):
            await execute_unlimited(connection, statement)
    await execute_unlimited(connection, SQL("ANALYZE {}").format(table.identifier))


async def index_texts(connection: AsyncConnection, table: Table, collection: str, language: str) -> None:
    """Index the documents' words unless they are. Raise InputError where they are indexed in another language."""
    async with without_time_limit(connection):
        found = await text_language(connection, table)
    if found is None:
        await execute_unlimited(connection, text_index.add_column(table, language))
        async with without_time_limit(connection):
            found = await text_language(connection, table)  # another client may have been first
    check_indexed_language(collection, found or language, language)
    await execute_unlimited(connection, text_index.create_index(table))
    await execute_unlimited(connection, SQL("ANALYZE {}").format(table.identifier))


async def text_language(connection: AsyncConnection, table: Table) -> str | None:
    """Return the language in which documents are indexed; None where they are not."""
    found = await fetch(connection, text_index.column_definition(table))
    return text_index.language_of(found[0][0]) if found else None
