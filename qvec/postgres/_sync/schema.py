# Generated from qvec/postgres/_async/schema.py by tools/async_to_sync.py: edit that file, then run `make sync`.
"""What qvec needs of a database, checked and installed: its version and encoding, pgvector, and the schema qvec."""

from __future__ import annotations

import re
from typing import NamedTuple

import psycopg
from psycopg import sql

from qvec.defaults import MAX_EF_SEARCH
from qvec.errors import CollectionError, DatabaseError, InputError
from qvec.postgres import sql_script
from qvec.postgres._sync.execute import execute, fetch
from qvec.postgres._sync.session import Connection
from qvec.postgres.layout import PgVector

OLDEST_POSTGRES = 14
OLDEST_PGVECTOR = (0, 7, 0)
SOUND_PGVECTOR = (0, 8, 4)
"""HNSW before it: 0.6.0-0.8.1 overflow a buffer in parallel builds (CVE-2026-3172); up to 0.8.2 vacuum can corrupt the
index, and up to 0.8.3 leave its graph unrepaired."""
_AVAILABLE = "SELECT default_version FROM pg_available_extensions WHERE name = 'vector'"


class InstalledPgVector(NamedTuple):
    """Schema and version of pgvector as the database reports them, whether or not qvec supports it."""

    schema: str
    text: str


def prepare(connection: Connection, *, install: bool) -> PgVector:
    """Check the server; install what is missing and upgrade an older schema, or without `install` change nothing.

    An older schema suffices for reading. Raise DatabaseError for a missing one unless `install`.
    """
    check_postgres(connection.info)
    if not install and (vector := _find_pgvector(connection)) and installed(connection):
        return vector  # without a transaction, which a pooler in statement mode refuses
    with connection.transaction():
        return _prepare(connection, install)


def _prepare(connection: Connection, install: bool) -> PgVector:
    if install:
        # One client at a time: two that create the same object at once fail with errors about system catalogs.
        execute(connection, "SELECT pg_advisory_xact_lock(hashtextextended('qvec.install', 0))")
    vector = _find_pgvector(connection) or _create_pgvector(connection)
    found = installed_version(connection)
    if found is None and not install:
        raise DatabaseError(
            "this database holds no qvec collections: load one with: qvec ingest SOURCE --collection NAME"
        )
    if install:
        _install_or_upgrade(connection, found)
    return vector


def uninstall(connection: Connection, *, with_collections: bool = False) -> None:
    """Drop the schema qvec. Raise CollectionError while there are collections, unless `with_collections`.

    Attached tables stay, without their codes; pgvector stays.
    """
    if not installed(connection):
        raise DatabaseError("the schema qvec is not installed in this database")
    with connection.transaction():
        _uninstall(connection, with_collections)


def _uninstall(connection: Connection, with_collections: bool) -> None:
    _install_or_upgrade(connection, installed_version(connection))
    found = fetch(
        connection,
        "SELECT name, attached FROM qvec.collections WHERE name NOT IN (SELECT name FROM qvec.version) ORDER BY name",
    )
    if found and not with_collections:
        names = ", ".join(name for name, _ in found)
        raise CollectionError(f"there are collections: {names}; drop them first, or use --with-collections")
    for name, attached in found:
        execute(connection, "SELECT qvec.detach(%s)" if attached else "SELECT qvec.drop_collection(%s)", [name])
    extension = _is_extension(connection)
    execute(connection, "DROP EXTENSION qvec" if extension else "DROP SCHEMA qvec CASCADE")


def check_postgres(server: psycopg.ConnectionInfo) -> None:
    """Raise DatabaseError for a server that is too old, or a database in another encoding than UTF8."""
    major = server.server_version // 10_000
    if major < OLDEST_POSTGRES:
        raise DatabaseError(f"the server is PostgreSQL {major}; qvec needs {OLDEST_POSTGRES} or newer")
    encoding = server.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise DatabaseError(
            f"database {server.dbname!r} has encoding {encoding}; qvec needs UTF8 "
            "(createdb --encoding UTF8 --template template0 NAME)"
        )


def _find_pgvector(connection: Connection) -> PgVector | None:
    found = installed_pgvector(connection)
    return None if found is None else check_pgvector(found)


def installed_pgvector(connection: Connection) -> InstalledPgVector | None:
    """Return pgvector as installed in the database; None where it is not."""
    found = fetch(
        connection,
        "SELECT nspname, extversion FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace"
        " WHERE extname = 'vector'",
    )
    return InstalledPgVector(*found[0]) if found else None


def available_pgvector(connection: Connection) -> str | None:
    """Return the version of pgvector that the server would install; None where it has none."""
    found = fetch(connection, _AVAILABLE)
    return found[0][0] if found else None


def check_pgvector(found: InstalledPgVector) -> PgVector:
    """Return the installed pgvector. Raise DatabaseError for one that is too old."""
    schema, text = found
    version = tuple(int(part) for part in re.findall(r"\d+", text)[:3])
    if version < OLDEST_PGVECTOR:
        raise DatabaseError(
            f"pgvector is {text}; qvec needs {dotted(OLDEST_PGVECTOR)} or newer, for its HNSW index on bits "
            f"({dotted(SOUND_PGVECTOR)} or newer is free of known HNSW bugs): ALTER EXTENSION vector UPDATE"
        )
    check_identifier("schema of pgvector", schema)
    return PgVector(schema, version)


def _create_pgvector(connection: Connection) -> PgVector:
    if available_pgvector(connection) is None:
        raise no_pgvector_error()
    try:
        with connection.transaction():
            execute(connection, "CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.errors.InsufficientPrivilege:
        server = connection.info
        raise DatabaseError(
            f"user {server.user!r} may not create the extension vector in database "
            f"{server.dbname!r}; let its owner run: CREATE EXTENSION vector"
        ) from None
    vector = _find_pgvector(connection)
    assert vector is not None
    return vector


def no_pgvector_error() -> DatabaseError:
    return DatabaseError(
        "the server has no pgvector; install it (Debian: apt install postgresql-NN-pgvector; "
        "container: pgvector/pgvector; managed servers: allow the extension `vector`)"
    )


def installed(connection: Connection) -> bool:
    """Return whether the schema exists, in any version."""
    return installed_version(connection) is not None


def installed_version(connection: Connection) -> str | None:
    """Return the version of the schema; None where it does not exist."""
    ((exists,),) = fetch(connection, "SELECT to_regprocedure('qvec.version()') IS NOT NULL")
    if not exists:
        return None
    ((version,),) = fetch(connection, "SELECT qvec.version()")
    return str(version)


def _install_or_upgrade(connection: Connection, found: str | None) -> None:
    """Install the schema, or upgrade the version found. One that is newer than this package stays as it is."""
    if found is None:
        _run_as_owner(connection, sql_script.full(), "create the schema qvec")
    elif sql_script.knows(found):
        if _is_extension(connection):
            _run_as_owner(connection, "ALTER EXTENSION qvec UPDATE", "update the extension qvec")
        else:
            _run_as_owner(connection, sql_script.upgrade_from(found), f"upgrade the schema qvec from {found}")


def _is_extension(connection: Connection) -> bool:
    return bool(fetch(connection, "SELECT FROM pg_extension WHERE extname = 'qvec'"))


def _run_as_owner(connection: Connection, script: str, what: str) -> None:
    try:
        with connection.transaction():
            execute(connection, script.encode())
    except psycopg.errors.InsufficientPrivilege:
        user, database = connection.info.user, connection.info.dbname
        grant = sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(sql.Identifier(database), sql.Identifier(user))
        owner = f"let its owner run: {grant.as_string()}" if "create" in what else "let the schema's owner do it"
        raise DatabaseError(f"user {user!r} may not {what} in database {database!r}; {owner}") from None


def hnsw_warning(vector: PgVector) -> str | None:
    """Return a warning about known bugs in this pgvector's HNSW, if it has any."""
    if vector.version >= SOUND_PGVECTOR:
        return None
    return (
        f"pgvector {dotted(vector.version)} has known HNSW bugs (a buffer overflow in parallel builds before 0.8.2, "
        "index corruption by vacuum before 0.8.3, an unrepaired graph before 0.8.4); upgrade pgvector"
    )


def iterative_scan_warning(vector: PgVector) -> str | None:
    """Return a warning about a pgvector whose HNSW scans end at ef_search, if it is one."""
    if vector.iterative_scan:
        return None
    return (
        f"pgvector {dotted(vector.version)} has no iterative index scans: searches with more than {MAX_EF_SEARCH} "
        "candidates, and those whose filter removes most of them, read every row; upgrade pgvector to "
        f"{dotted(SOUND_PGVECTOR)} or newer: ALTER EXTENSION vector UPDATE"
    )


def check_identifier(what: str, name: str) -> None:
    """Raise InputError for a name that psycopg would take for a placeholder in statements with parameters."""
    if "%" in name:
        raise InputError(f"the {what} is called {name!r}; expected a name without %: rename it (ALTER … RENAME TO …)")


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
