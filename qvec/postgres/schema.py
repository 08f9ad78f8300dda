"""What qvec needs of a database, checked and installed: its version, encoding, pgvector, and the schema qvec."""

from __future__ import annotations

import re
from typing import Any

import psycopg
from psycopg import sql

from qvec.errors import CollectionError, DatabaseError
from qvec.postgres import sql_script
from qvec.postgres.layout import PgVector

OLDEST_POSTGRES = 14
OLDEST_PGVECTOR = (0, 7, 0)
SOUND_PGVECTOR = (0, 8, 4)
"""HNSW before: 0.6.0-0.8.1 overflow a buffer in parallel builds (CVE-2026-3172); up to 0.8.2 vacuum can corrupt the
index, and up to 0.8.3 leave its graph unrepaired."""

Connection = psycopg.Connection[Any]

_AVAILABLE = "SELECT FROM pg_available_extensions WHERE name = 'vector'"


def hnsw_warning(vector: PgVector) -> str | None:
    """What a user should know of this pgvector's HNSW, if anything."""
    if vector.version >= SOUND_PGVECTOR:
        return None
    return (
        f"pgvector {_dotted(vector.version)} has known HNSW bugs (a buffer overflow in parallel builds before 0.8.2, "
        "index corruption by vacuum before 0.8.3, an unrepaired graph before 0.8.4); upgrade pgvector"
    )


def prepare(connection: Connection, *, install: bool) -> PgVector:
    """Checks the server; installs what is missing and upgrades an older schema, or without `install` changes nothing.

    An older schema does for reading; a missing one is then an error.
    """
    _check_postgres(connection)
    with connection.transaction():
        if install:
            # One client at a time: two that create the same thing at once fail with errors about system catalogs.
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('qvec.install', 0))")
        vector = _find_pgvector(connection) or _create_pgvector(connection)
        found = installed_version(connection)
        if found is None and not install:
            raise DatabaseError(
                "this database holds no qvec collections: load one with: qvec ingest SOURCE --collection NAME"
            )
        if install:
            _bring_here(connection, found)
    return vector


def uninstall(connection: Connection, *, with_collections: bool = False) -> None:
    """Drops the schema qvec. Raises CollectionError while there are collections, unless they may go with it.

    Attached tables stay, without their codes; pgvector stays.
    """
    if not installed(connection):
        raise DatabaseError("the schema qvec is not installed in this database")
    with connection.transaction():
        _bring_here(connection, installed_version(connection))
        found = connection.execute("SELECT name, attached FROM qvec.collections ORDER BY name").fetchall()
        if found and not with_collections:
            names = ", ".join(name for name, _ in found)
            raise CollectionError(f"there are collections: {names}; drop them first, or use --with-collections")
        for name, attached in found:
            connection.execute("SELECT qvec.detach(%s)" if attached else "SELECT qvec.drop_collection(%s)", [name])
        connection.execute("DROP EXTENSION qvec" if _is_extension(connection) else "DROP SCHEMA qvec CASCADE")


def _check_postgres(connection: Connection) -> None:
    major = connection.info.server_version // 10_000
    if major < OLDEST_POSTGRES:
        raise DatabaseError(f"the server is PostgreSQL {major}; qvec needs {OLDEST_POSTGRES} or newer")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise DatabaseError(
            f"database {connection.info.dbname!r} has encoding {encoding}; qvec needs UTF8 "
            "(createdb --encoding UTF8 --template template0 NAME)"
        )


def _find_pgvector(connection: Connection) -> PgVector | None:
    row = connection.execute(
        "SELECT nspname, extversion FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace"
        " WHERE extname = 'vector'"
    ).fetchone()
    if row is None:
        return None
    version = tuple(int(part) for part in re.findall(r"\d+", row[1])[:3])
    if version < OLDEST_PGVECTOR:
        raise DatabaseError(
            f"pgvector is {row[1]}; qvec needs {_dotted(OLDEST_PGVECTOR)} or newer, for its HNSW index on bits "
            f"({_dotted(SOUND_PGVECTOR)} or newer is free of known HNSW bugs): ALTER EXTENSION vector UPDATE"
        )
    return PgVector(row[0], version)


def _create_pgvector(connection: Connection) -> PgVector:
    if connection.execute(_AVAILABLE).fetchone() is None:
        raise DatabaseError(
            "the server has no pgvector; install it (Debian: apt install postgresql-NN-pgvector; "
            "container: pgvector/pgvector; managed servers: allow the extension `vector`)"
        )
    try:
        with connection.transaction():
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.errors.InsufficientPrivilege:
        raise DatabaseError(
            f"user {connection.info.user!r} may not create the extension vector in database "
            f"{connection.info.dbname!r}; let its owner run: CREATE EXTENSION vector"
        ) from None
    vector = _find_pgvector(connection)
    assert vector is not None
    return vector


def installed(connection: Connection) -> bool:
    """Whether the schema is there, of whatever version."""
    return installed_version(connection) is not None


def installed_version(connection: Connection) -> str | None:
    """The version of the schema that is there, if one is."""
    row = connection.execute("SELECT to_regprocedure('qvec.version()') IS NOT NULL").fetchone()
    if not (row and row[0]):
        return None
    row = connection.execute("SELECT qvec.version()").fetchone()
    assert row
    return str(row[0])


def _bring_here(connection: Connection, found: str | None) -> None:
    """Installs the schema, or upgrades the version found. One that is newer than this package is left alone."""
    if found is None:
        _run(connection, sql_script.full(), "create the schema qvec")
    elif sql_script.knows(found):
        if _is_extension(connection):
            _run(connection, "ALTER EXTENSION qvec UPDATE", "update the extension qvec")
        else:
            _run(connection, sql_script.upgrade_from(found), f"upgrade the schema qvec from {found}")


def _is_extension(connection: Connection) -> bool:
    return connection.execute("SELECT FROM pg_extension WHERE extname = 'qvec'").fetchone() is not None


def _run(connection: Connection, script: str, what: str) -> None:
    try:
        with connection.transaction():
            connection.execute(script.encode())
    except psycopg.errors.InsufficientPrivilege:
        user, database = connection.info.user, connection.info.dbname
        grant = sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(sql.Identifier(database), sql.Identifier(user))
        owner = (
            f"let its owner run: {grant.as_string(connection)}" if "create" in what else "let the schema's owner do it"
        )
        raise DatabaseError(f"user {user!r} may not {what} in database {database!r}; {owner}") from None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
