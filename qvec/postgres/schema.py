"""What qvec needs of a database, checked and installed: its version, encoding, pgvector, and the schema qvec."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

import psycopg
from psycopg import sql

from qvec.errors import DatabaseError
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


def script() -> str:
    """The one SQL script that installs the schema qvec, or brings it to this version's state."""
    return (files("qvec") / "sql" / "qvec.sql").read_text(encoding="utf-8")


def prepare(connection: Connection, *, install: bool) -> PgVector:
    """Checks the server and installs what is missing. Without `install` a missing schema is an error."""
    _check_postgres(connection)
    with connection.transaction():
        if install:
            # One client at a time: two that create the same thing at once fail with errors about system catalogs.
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('qvec.install', 0))")
        vector = _find_pgvector(connection) or _create_pgvector(connection)
        if not installed(connection):
            if not install:
                raise DatabaseError(
                    "this database holds no qvec collections: load one with: qvec ingest SOURCE --collection NAME"
                )
            _install(connection)
    return vector


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
    row = connection.execute("SELECT to_regprocedure('qvec.version()') IS NOT NULL").fetchone()
    return bool(row and row[0])


def _install(connection: Connection) -> None:
    try:
        with connection.transaction():
            connection.execute(script())
    except psycopg.errors.InsufficientPrivilege:
        user, database = connection.info.user, connection.info.dbname
        grant = sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(sql.Identifier(database), sql.Identifier(user))
        raise DatabaseError(
            f"user {user!r} may not create the schema qvec in database {database!r}; "
            f"let its owner run: {grant.as_string(connection)}"
        ) from None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
