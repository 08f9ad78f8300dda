"""What qvec needs of a database, checked and installed: its version, encoding, pgvector, and the schema qvec."""

from __future__ import annotations

import re

import psycopg
from psycopg import sql

from qvec.errors import CollectionError, DatabaseError, InputError
from qvec.postgres import sql_script
from qvec.postgres.layout import PgVector
from qvec.postgres.steps import Execute, Fetch, Server, Steps, Transaction

OLDEST_POSTGRES = 14
OLDEST_PGVECTOR = (0, 7, 0)
SOUND_PGVECTOR = (0, 8, 4)
"""HNSW before: 0.6.0-0.8.1 overflow a buffer in parallel builds (CVE-2026-3172); up to 0.8.2 vacuum can corrupt the
index, and up to 0.8.3 leave its graph unrepaired."""

_AVAILABLE = "SELECT FROM pg_available_extensions WHERE name = 'vector'"


def hnsw_warning(vector: PgVector) -> str | None:
    """What a user should know of this pgvector's HNSW, if anything."""
    if vector.version >= SOUND_PGVECTOR:
        return None
    return (
        f"pgvector {_dotted(vector.version)} has known HNSW bugs (a buffer overflow in parallel builds before 0.8.2, "
        "index corruption by vacuum before 0.8.3, an unrepaired graph before 0.8.4); upgrade pgvector"
    )


def prepare(*, install: bool) -> Steps[PgVector]:
    """Checks the server; installs what is missing and upgrades an older schema, or without `install` changes nothing.

    An older schema does for reading; a missing one is then an error.
    """
    yield from _check_postgres()
    vector: PgVector = yield Transaction(_prepare(install))
    return vector


def _prepare(install: bool) -> Steps[PgVector]:
    if install:
        # One client at a time: two that create the same thing at once fail with errors about system catalogs.
        yield Execute("SELECT pg_advisory_xact_lock(hashtextextended('qvec.install', 0))")
    vector = (yield from _find_pgvector()) or (yield from _create_pgvector())
    found = yield from installed_version()
    if found is None and not install:
        raise DatabaseError(
            "this database holds no qvec collections: load one with: qvec ingest SOURCE --collection NAME"
        )
    if install:
        yield from _bring_here(found)
    return vector


def uninstall(*, with_collections: bool = False) -> Steps[None]:
    """Drops the schema qvec. Raises CollectionError while there are collections, unless they may go with it.

    Attached tables stay, without their codes; pgvector stays.
    """
    if not (yield from installed()):
        raise DatabaseError("the schema qvec is not installed in this database")
    yield Transaction(_uninstall(with_collections))


def _uninstall(with_collections: bool) -> Steps[None]:
    yield from _bring_here((yield from installed_version()))
    found = yield Fetch(
        "SELECT name, attached FROM qvec.collections WHERE name NOT IN (SELECT name FROM qvec.version) ORDER BY name"
    )
    if found and not with_collections:
        names = ", ".join(name for name, _ in found)
        raise CollectionError(f"there are collections: {names}; drop them first, or use --with-collections")
    for name, attached in found:
        yield Execute("SELECT qvec.detach(%s)" if attached else "SELECT qvec.drop_collection(%s)", [name])
    extension = yield from _is_extension()
    yield Execute("DROP EXTENSION qvec" if extension else "DROP SCHEMA qvec CASCADE")


def _check_postgres() -> Steps[None]:
    server = yield Server()
    major = server.server_version // 10_000
    if major < OLDEST_POSTGRES:
        raise DatabaseError(f"the server is PostgreSQL {major}; qvec needs {OLDEST_POSTGRES} or newer")
    encoding = server.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise DatabaseError(
            f"database {server.dbname!r} has encoding {encoding}; qvec needs UTF8 "
            "(createdb --encoding UTF8 --template template0 NAME)"
        )


def _find_pgvector() -> Steps[PgVector | None]:
    found = yield Fetch(
        "SELECT nspname, extversion FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace"
        " WHERE extname = 'vector'"
    )
    if not found:
        return None
    ((in_schema, dotted),) = found
    version = tuple(int(part) for part in re.findall(r"\d+", dotted)[:3])
    if version < OLDEST_PGVECTOR:
        raise DatabaseError(
            f"pgvector is {dotted}; qvec needs {_dotted(OLDEST_PGVECTOR)} or newer, for its HNSW index on bits "
            f"({_dotted(SOUND_PGVECTOR)} or newer is free of known HNSW bugs): ALTER EXTENSION vector UPDATE"
        )
    check_identifier("schema of pgvector", in_schema)
    return PgVector(in_schema, version)


def check_identifier(what: str, name: str) -> None:
    """Raises InputError for a name that psycopg would take for a placeholder in statements with parameters."""
    if "%" in name:
        raise InputError(f"the {what} is called {name!r}; expected a name without %: rename it (ALTER … RENAME TO …)")


def _create_pgvector() -> Steps[PgVector]:
    if not (yield Fetch(_AVAILABLE)):
        raise DatabaseError(
            "the server has no pgvector; install it (Debian: apt install postgresql-NN-pgvector; "
            "container: pgvector/pgvector; managed servers: allow the extension `vector`)"
        )
    try:
        yield Transaction(_run("CREATE EXTENSION IF NOT EXISTS vector"))
    except psycopg.errors.InsufficientPrivilege:
        server = yield Server()
        raise DatabaseError(
            f"user {server.user!r} may not create the extension vector in database "
            f"{server.dbname!r}; let its owner run: CREATE EXTENSION vector"
        ) from None
    vector = yield from _find_pgvector()
    assert vector is not None
    return vector


def _run(script: str) -> Steps[None]:
    yield Execute(script.encode())


def installed() -> Steps[bool]:
    """Whether the schema is there, of whatever version."""
    return (yield from installed_version()) is not None


def installed_version() -> Steps[str | None]:
    """The version of the schema that is there, if one is."""
    ((there,),) = yield Fetch("SELECT to_regprocedure('qvec.version()') IS NOT NULL")
    if not there:
        return None
    ((version,),) = yield Fetch("SELECT qvec.version()")
    return str(version)


def _bring_here(found: str | None) -> Steps[None]:
    """Installs the schema, or upgrades the version found. One that is newer than this package is left alone."""
    if found is None:
        yield from _run_as_owner(sql_script.full(), "create the schema qvec")
    elif sql_script.knows(found):
        if (yield from _is_extension()):
            yield from _run_as_owner("ALTER EXTENSION qvec UPDATE", "update the extension qvec")
        else:
            yield from _run_as_owner(sql_script.upgrade_from(found), f"upgrade the schema qvec from {found}")


def _is_extension() -> Steps[bool]:
    return bool((yield Fetch("SELECT FROM pg_extension WHERE extname = 'qvec'")))


def _run_as_owner(script: str, what: str) -> Steps[None]:
    try:
        yield Transaction(_run(script))
    except psycopg.errors.InsufficientPrivilege:
        server = yield Server()
        user, database = server.user, server.dbname
        grant = sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(sql.Identifier(database), sql.Identifier(user))
        owner = f"let its owner run: {grant.as_string()}" if "create" in what else "let the schema's owner do it"
        raise DatabaseError(f"user {user!r} may not {what} in database {database!r}; {owner}") from None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
