"""Preparing a Postgres database: install what is missing, or raise a one-line error that says what is missing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from psycopg import sql

import qvec
from qvec import Calibration, CollectionError, DatabaseError, InputError, QvecError
from qvec.client import Database
from qvec.postgres import sql_script
from qvec.postgres._sync import schema
from qvec.postgres.layout import PgVector

Vectors = NDArray[np.float32]


@pytest.fixture
def url(empty_url: str) -> str:
    """The URL of a database without qvec's schema."""
    return empty_url


def url_of_user(url: str, user: str) -> str:
    return url.replace("postgres@", f"{user}@")


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def load_and_search(db: Database, calibration: Calibration, vectors: Vectors, rescore: str = "int8") -> None:
    """Create, load, index and search a collection."""
    docs = db.create_collection("docs", calibration=calibration, rescore=rescore)  # type: ignore[arg-type]
    docs.upsert(range(200), vectors[:200])  # type: ignore[arg-type]
    docs.build_index()
    assert docs.has_index()
    for rescore_in in ("client", "sql"):
        assert docs.search(vectors[9], k=5, rescore_in=rescore_in)[0].id == 9  # type: ignore[call-overload]
    assert docs.has_index()
    assert docs.delete([9]) == 1


# Installing


def test_install_script_can_run_twice(url: str, calibration: Calibration, vectors: Vectors) -> None:
    with qvec.connect(url) as db:
        load_and_search(db, calibration, vectors)
        with db.store.connection() as connection:
            connection.execute(sql_script.full().encode())
        assert db.collection("docs").count() == 199
        assert db.install() is None


def test_installed_schema_has_the_current_version(url: str) -> None:
    with qvec.connect(url) as db:
        db.install()
        with db.store.connection() as connection:
            assert schema.installed_version(connection) == sql_script.version()


def test_reading_installs_nothing(url: str) -> None:
    with qvec.connect(url) as db:
        assert db.collections() == []
        assert not db.has_collection("docs")
        with db.store.connection() as connection:
            assert connection.execute("SELECT to_regnamespace('qvec')").fetchone() == (None,)


def run_concurrently(work: Callable[[int], object], threads: int = 6) -> list[object]:
    """Run `work` in several threads at once; return its results and the messages of its errors."""
    barrier = threading.Barrier(threads)

    def start(number: int) -> object:
        barrier.wait()
        try:
            return work(number)
        except QvecError as error:
            return str(error)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(start, range(threads)))


def test_concurrent_install_and_create(url: str, calibration: Calibration) -> None:
    with qvec.connect(url) as db:
        results = run_concurrently(lambda number: db.create_collection(f"docs{number}", calibration=calibration).name)
        assert results == [f"docs{number}" for number in range(6)]
        results = run_concurrently(lambda _: db.create_collection("same", calibration=calibration).name)
        assert sorted(map(str, results)) == ["collection 'same' exists already"] * 5 + ["same"]


@pytest.mark.parametrize("rescore", ["int8", "float16", "float32"])
def test_pgvector_in_a_separate_schema(url: str, calibration: Calibration, vectors: Vectors, rescore: str) -> None:
    execute(url, "CREATE SCHEMA extensions", "CREATE EXTENSION vector SCHEMA extensions")
    with qvec.connect(url) as db:
        load_and_search(db, calibration, vectors, rescore)


@pytest.mark.parametrize("rescore", ["int8", "float16"])
def test_pgvector_in_a_schema_whose_name_needs_quotes(
    url: str, calibration: Calibration, vectors: Vectors, rescore: str
) -> None:
    execute(url, 'CREATE SCHEMA "Ext ""1"""', 'CREATE EXTENSION vector SCHEMA "Ext ""1"""')
    with qvec.connect(url) as db:
        load_and_search(db, calibration, vectors, rescore)


# The search path


def test_collections_follow_the_search_path_of_the_database(
    url: str, admin: psycopg.Connection, calibration: Calibration, vectors: Vectors
) -> None:
    execute(url, "CREATE SCHEMA mine", "CREATE EXTENSION vector")
    with psycopg.connect(url) as connection:
        database = connection.info.dbname
    admin.execute(sql.SQL("ALTER DATABASE {} SET search_path = mine").format(sql.Identifier(database)))
    with qvec.connect(url) as db:
        load_and_search(db, calibration, vectors, "float16")
        assert db.collection("docs").stored.table.schema == "mine"


def test_names_with_percent_signs_are_errors(url: str, calibration: Calibration) -> None:
    """Try the schema of the collection, its table and the schema of pgvector. Listing collections still works."""
    expected = r"is called '100%s'; expected a name without %: rename it"
    execute(url, 'CREATE SCHEMA "100%s"', "CREATE EXTENSION vector")
    with qvec.connect(f"{url}&options={quote('-c search_path=100%s')}") as db:
        with pytest.raises(InputError, match=f"^the schema of collection 'docs' {expected}"):
            db.create_collection("docs", calibration=calibration)
        assert db.collections() == []
    with qvec.connect(url) as db:
        db.create_collection("docs", calibration=calibration)
        execute(url, 'ALTER TABLE docs RENAME TO "100%s"')
        with pytest.raises(InputError, match=f"^the table of collection 'docs' {expected}"):
            db.collection("docs")
        execute(url, 'ALTER TABLE "100%s" RENAME TO docs', 'ALTER TABLE docs SET SCHEMA "100%s"')
        with pytest.raises(InputError, match=f"^the schema of collection 'docs' {expected}"):
            db.collection("docs")
        assert [found.name for found in db.collections()] == ["docs"]
        execute(url, 'ALTER EXTENSION vector SET SCHEMA "100%s"')
    with qvec.connect(url) as db, pytest.raises(InputError, match=f"^the schema of pgvector {expected}"):
        db.create_collection("more", calibration=calibration)


def test_empty_search_path_is_an_error(url: str, admin: psycopg.Connection, calibration: Calibration) -> None:
    execute(url, "CREATE EXTENSION vector")
    with psycopg.connect(url) as connection:
        database = connection.info.dbname
    admin.execute(sql.SQL("ALTER DATABASE {} SET search_path = ''").format(sql.Identifier(database)))
    with (
        qvec.connect(url) as db,
        pytest.raises(DatabaseError, match="has no schema on its search_path to create the table 'docs' in"),
    ):
        db.create_collection("docs", calibration=calibration)


HOSTILE = """
CREATE SCHEMA evil;
CREATE TABLE evil.pg_extension (extname text, extversion text, extnamespace oid);
CREATE TABLE evil.pg_class (oid oid, relname text, relnamespace oid);
CREATE TABLE evil.pg_namespace (oid oid, nspname text);
CREATE TABLE evil.calibration (id text);
CREATE TABLE evil.qvec_staging (id bigint);
CREATE FUNCTION evil.ternary(bit, integer) RETURNS bit LANGUAGE sql AS 'SELECT B''0''';
CREATE FUNCTION evil.bit_count(bit) RETURNS bigint LANGUAGE sql AS 'SELECT 7::bigint';
CREATE FUNCTION evil.hamming(bit, bit) RETURNS float8 LANGUAGE sql AS 'SELECT 0::float8';
CREATE OPERATOR evil.<~> (LEFTARG = bit, RIGHTARG = bit, FUNCTION = evil.hamming);
"""


@pytest.mark.parametrize("rescore", ["int8", "float16"])
def test_hostile_search_path(
    url: str, admin: psycopg.Connection, calibration: Calibration, vectors: Vectors, rescore: str
) -> None:
    """Objects that come first in the search path and share names with those that qvec uses have no effect."""
    execute(url, "CREATE EXTENSION vector", HOSTILE)
    with psycopg.connect(url) as connection:
        database = connection.info.dbname
    path = "ALTER DATABASE {} SET search_path = evil, public"
    admin.execute(sql.SQL(path).format(sql.Identifier(database)))
    with qvec.connect(url) as db:
        load_and_search(db, calibration, vectors, rescore)


def test_temporary_table_does_not_shadow_a_collection(url: str, calibration: Calibration, vectors: Vectors) -> None:
    with qvec.connect(url) as db:
        db.install()
        with db.store.connection() as connection:
            connection.execute("CREATE TEMPORARY TABLE docs (id int)")
        load_and_search(db, calibration, vectors)
        assert db.collection("docs").stored.table.schema == "public"


# Privileges


@pytest.fixture
def guest(admin: psycopg.Connection, url: str) -> str:
    """A role without privileges in the database of `url`."""
    role = "guest_" + url.rpartition("test_")[2].partition("?")[0]
    admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
    return role


def test_missing_privilege_to_create_the_extension_is_an_error(url: str, guest: str, calibration: Calibration) -> None:
    with (
        qvec.connect(url_of_user(url, guest)) as db,
        pytest.raises(
            DatabaseError, match=f"^user '{guest}' may not create the extension vector in database '.*'; let"
        ),
    ):
        db.create_collection("docs", calibration=calibration)


def test_error_for_missing_schema_privilege_names_the_grant(
    url: str, guest: str, calibration: Calibration, vectors: Vectors
) -> None:
    execute(url, "CREATE EXTENSION vector")
    with qvec.connect(url_of_user(url, guest)) as db:
        with pytest.raises(DatabaseError, match=f"^user '{guest}' may not create the schema qvec") as caught:
            db.create_collection("docs", calibration=calibration)
        grant = str(caught.value).partition("let its owner run: ")[2]
        assert grant.startswith("GRANT CREATE ON DATABASE")
        execute(url, grant)
        with pytest.raises(
            DatabaseError, match=f"^user '{guest}' may not create the table 'docs' in schema 'public'; let"
        ) as caught:
            db.create_collection("docs", calibration=calibration)
        grant = str(caught.value).partition("let its owner run: ")[2]
        assert grant.startswith('GRANT CREATE ON SCHEMA "public"')
        execute(url, grant)
        load_and_search(db, calibration, vectors)


def test_missing_read_privilege_is_a_one_line_error(url: str, guest: str, calibration: Calibration) -> None:
    with qvec.connect(url) as db:
        db.create_collection("docs", calibration=calibration)
    with (
        qvec.connect(url_of_user(url, guest)) as db,
        pytest.raises(DatabaseError, match=r"^cannot read the collections of .*: permission denied for schema qvec"),
    ):
        db.collections()


# Unsuitable databases


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_unsupported_encoding_is_an_error(
    new_database: Callable[..., str], calibration: Calibration, encoding: str
) -> None:
    url = new_database(f"ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    with qvec.connect(url) as db:
        with pytest.raises(DatabaseError, match=f"has encoding {encoding}; qvec needs UTF8"):
            db.create_collection("docs", calibration=calibration)
        assert db.collections() == []


def set_pgvector_version(url: str, version: str) -> None:
    execute(
        url,
        "CREATE EXTENSION IF NOT EXISTS vector",
        f"UPDATE pg_extension SET extversion = '{version}' WHERE extname = 'vector'",
    )


@pytest.mark.parametrize("version", ["0.5.1", "0.6.2"])
def test_old_pgvector_is_an_error(url: str, calibration: Calibration, version: str) -> None:
    set_pgvector_version(url, version)
    with (
        qvec.connect(url) as db,
        pytest.raises(DatabaseError, match=rf"^pgvector is {version}; qvec needs 0\.7\.0 or newer.*ALTER EXTENSION"),
    ):
        db.create_collection("docs", calibration=calibration)


@pytest.mark.parametrize("version", ["0.7.0", "0.8.1", "0.8.3"])
def test_pgvector_with_known_bugs_gives_a_warning(url: str, version: str) -> None:
    set_pgvector_version(url, version)
    with qvec.connect(url) as db:
        assert f"pgvector {version} has known HNSW bugs" in str(db.install())


def test_search_with_a_pgvector_without_iterative_scans(url: str, calibration: Calibration, vectors: Vectors) -> None:
    set_pgvector_version(url, "0.7.4")
    with qvec.connect(url) as db:
        load_and_search(db, calibration, vectors)
        docs = db.collection("docs")
        assert not docs.stored.table.vector.iterative_scan
        assert len(docs.search(vectors[0], k=150)) == 150


@pytest.mark.parametrize(
    ("version", "warned"), [((0, 8, 3), True), ((0, 8, 4), False), ((0, 10, 0), False), ((1, 0), False)]
)
def test_versions_are_compared_as_numbers(version: tuple[int, ...], warned: bool) -> None:
    assert (schema.hnsw_warning(PgVector("public", version)) is not None) == warned


def test_version_suffix_is_ignored(url: str) -> None:
    set_pgvector_version(url, "0.9.0-dev")
    with qvec.connect(url) as db:
        assert db.install() is None


def test_server_without_pgvector_is_an_error(
    url: str, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every test server has pgvector, so make qvec look for an extension that no server has.
    monkeypatch.setattr(schema, "_AVAILABLE", schema._AVAILABLE.replace("'vector'", "'no such extension'"))
    with (
        qvec.connect(url) as db,
        pytest.raises(DatabaseError, match=r"^the server has no pgvector; install it \(Debian: apt install"),
    ):
        db.create_collection("docs", calibration=calibration)


def test_old_server_is_an_error(url: str, calibration: Calibration, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "OLDEST_POSTGRES", 99)
    with (
        qvec.connect(url) as db,
        pytest.raises(DatabaseError, match=r"^the server is PostgreSQL \d+; qvec needs 99 or newer$"),
    ):
        db.create_collection("docs", calibration=calibration)


def test_replaced_calibration_content_is_an_error(url: str, calibration: Calibration) -> None:
    other = Calibration.from_ranges(np.array([[-1] * 64, [1] * 64]))
    with qvec.connect(url) as db:
        db.create_collection("docs", calibration=calibration)
        with db.store.connection() as connection:
            connection.execute("ALTER TABLE qvec.calibration DISABLE TRIGGER USER")
            connection.execute("UPDATE qvec.calibration SET content = %s", [other.to_bytes()])
    with qvec.connect(url) as db, pytest.raises(CollectionError, match=f"wants calibration {calibration.id}, found"):
        db.collection("docs")
