"""The schema `qvec`: installed with psql and drivers, upgraded, uninstalled, packaged as an extension."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from click.testing import CliRunner
from command_line import succeed
from psycopg import sql
from psycopg.types.json import Jsonb
from sql_helpers import fetch_value, find_psql, install_schema

import qvec
from qvec import Calibration, CollectionError, DatabaseError, InputError
from qvec.cli import main
from qvec.postgres import sql_script
from qvec.postgres._sync import schema

OLDEST = "0.1.0"
OLDEST_SCRIPT = (Path(__file__).parent / "sql" / f"qvec--{OLDEST}.sql").read_text(encoding="utf-8")

CATALOGS = """
SELECT 'function', p.oid::regprocedure::text, concat_ws(' ', prokind, provolatile, proparallel, proisstrict, prosecdef,
       proconfig, pg_get_functiondef(p.oid), obj_description(p.oid, 'pg_proc'))
    FROM pg_proc p WHERE pronamespace = 'qvec'::regnamespace
UNION ALL SELECT 'column', attrelid::regclass || '.' || attname,
       concat_ws(' ', attnum, format_type(atttypid, atttypmod), attnotnull, attstorage, pg_get_expr(adbin, adrelid),
                 col_description(attrelid, attnum))
    FROM pg_attribute JOIN pg_class c ON c.oid = attrelid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE relnamespace = 'qvec'::regnamespace AND relkind IN ('r', 'v') AND attnum > 0 AND NOT attisdropped
UNION ALL SELECT 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'qvec'::regnamespace
UNION ALL SELECT 'trigger', tgrelid::regclass || '.' || tgname, pg_get_triggerdef(t.oid)
    FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid WHERE relnamespace = 'qvec'::regnamespace AND NOT tgisinternal
UNION ALL SELECT 'relation', oid::regclass::text, concat_ws(' ', relkind, pg_get_viewdef(oid),
       obj_description(oid, 'pg_class'))
    FROM pg_class WHERE relnamespace = 'qvec'::regnamespace AND relkind IN ('r', 'v')
UNION ALL SELECT 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid)
    FROM pg_index JOIN pg_class c ON c.oid = indrelid WHERE relnamespace = 'qvec'::regnamespace
ORDER BY 1, 2
"""


def catalogs(connection: psycopg.Connection[Any]) -> list[tuple[str, ...]]:
    return connection.execute(CATALOGS).fetchall()


@pytest.fixture
def url(empty_url: str) -> str:
    """The URL of a database without qvec's schema."""
    return empty_url


@pytest.fixture
def new_schema(new_database: Callable[..., str]) -> Iterator[psycopg.Connection[Any]]:
    """A database with the newest schema."""
    with install_schema(new_database()) as connection:
        yield connection


@pytest.fixture
def old_schema(url: str, calibration: Calibration) -> Iterator[psycopg.Connection[Any]]:
    """A database with the oldest schema and a calibration in it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(OLDEST_SCRIPT.encode())
        connection.execute(
            "INSERT INTO qvec.calibration (id, content, metadata) VALUES (%s, %s, %s)",
            [calibration.id, calibration.to_bytes(), Jsonb(calibration.metadata())],
        )
        yield connection


def qvec_output(*command: str) -> str:
    return succeed(*command).output


# The script


def test_functions_have_comments_and_safe_settings(new_schema: psycopg.Connection[Any]) -> None:
    """Each has a comment and runs with the caller's rights; a body parsed at run time has a fixed search path."""
    rows = new_schema.execute(
        "SELECT p.oid::regprocedure::text, obj_description(p.oid, 'pg_proc'), prosecdef, proconfig, prosqlbody IS NULL,"
        " prokind FROM pg_proc p WHERE pronamespace = 'qvec'::regnamespace"
    ).fetchall()
    assert len(rows) > 50
    for name, comment, definer, config, parsed_at_run_time, kind in rows:
        assert comment, name
        assert not definer, name
        if parsed_at_run_time and kind == "f":
            assert any(setting.startswith("search_path=") for setting in config or []), name


def test_script_can_run_twice(new_schema: psycopg.Connection[Any]) -> None:
    before = catalogs(new_schema)
    new_schema.execute("SET search_path = public, pg_temp; SET client_min_messages = 'debug1'")
    new_schema.execute(sql_script.full().encode())
    assert catalogs(new_schema) == before
    assert fetch_value(new_schema, "SHOW search_path") == "public, pg_temp"
    assert fetch_value(new_schema, "SHOW client_min_messages") == "debug1"


def test_script_runs_inside_a_transaction(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        with connection.transaction():
            connection.execute("SET search_path = pg_temp")
            connection.execute(sql_script.full().encode())
            assert fetch_value(connection, "SHOW search_path") == "pg_temp"
        assert fetch_value(connection, "SHOW search_path") == "pg_temp"
        with connection.transaction(force_rollback=True):
            connection.execute("DROP SCHEMA qvec CASCADE")
            connection.execute(sql_script.full().encode())
        assert fetch_value(connection, "SELECT qvec.version()") == sql_script.version()


def test_psql_runs_the_printed_script(url: str, server_url: str, new_schema: psycopg.Connection[Any]) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        command = [find_psql(server_url), url, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"]
        for _ in range(2):
            done = subprocess.run(command, input=qvec_output("sql", "print"), capture_output=True, text=True)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert catalogs(connection) == catalogs(new_schema)


def test_script_with_pgvector_in_another_schema_and_hostile_search_path(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute('CREATE SCHEMA "Ext ""1"""')
        connection.execute('CREATE EXTENSION vector SCHEMA "Ext ""1"""')
        connection.execute("CREATE SCHEMA evil")
        connection.execute(
            "CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE sql RETURN 1 / 0"
        )
        connection.execute("CREATE TABLE evil.pg_extension (extname text)")
        connection.execute("CREATE TABLE evil.vector (x int)")
        connection.execute("SET search_path = evil, pg_catalog")
        connection.execute(sql_script.full().encode())
        assert fetch_value(connection, "SHOW search_path") == "evil, pg_catalog"
        assert fetch_value(connection, "SELECT count(*) FROM qvec.collections") == 0


def test_missing_pgvector_is_an_error(url: str) -> None:
    with (
        psycopg.connect(url) as connection,
        pytest.raises(psycopg.Error, match="this database has no pgvector; run: CREATE EXTENSION vector"),
    ):
        connection.execute(sql_script.full().encode())


@pytest.mark.parametrize("version", ["0.5.1", "0.6.2"])
def test_old_pgvector_is_an_error(url: str, version: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute("UPDATE pg_extension SET extversion = %s WHERE extname = 'vector'", [version])
        with pytest.raises(psycopg.Error, match=rf"pgvector is {version}; qvec needs 0\.7\.0 or newer"):
            connection.execute(sql_script.full().encode())


# Upgrades


def test_upgrades_start_from_known_versions() -> None:
    assert sql_script.knows(OLDEST)
    assert not sql_script.knows(sql_script.version())
    with pytest.raises(InputError, match=r"no upgrade from schema version '9\.9'; known: 0\.1\.0"):
        sql_script.upgrade_from("9.9")


def test_upgraded_schema_equals_a_new_one(
    old_schema: psycopg.Connection[Any], new_schema: psycopg.Connection[Any], calibration: Calibration
) -> None:
    old_schema.execute(sql_script.upgrade_from(OLDEST).encode())
    assert catalogs(old_schema) == catalogs(new_schema)
    (threshold,) = old_schema.execute("SELECT threshold::real[] FROM qvec.calibration").fetchall()[0]
    assert np.array(threshold, np.float32).tolist() == calibration.threshold.tolist()


def test_upgrade_command(old_schema: psycopg.Connection[Any], url: str, new_schema: psycopg.Connection[Any]) -> None:
    assert "upgraded from 0.1.0 to " in qvec_output("sql", "upgrade", "--db", url)
    assert catalogs(old_schema) == catalogs(new_schema)
    assert f"schema qvec is {sql_script.version()}" in qvec_output("sql", "upgrade", "--db", url)


def test_full_script_refuses_an_older_schema(old_schema: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.Error, match=r"the schema qvec is version 0\.1\.0") as caught:
        old_schema.execute(sql_script.full().encode())
    assert "qvec sql print --from 0.1.0" in str(caught.value.diag.message_hint)


def test_upgrade_script_cannot_run_twice(old_schema: psycopg.Connection[Any]) -> None:
    old_schema.execute(sql_script.upgrade_from(OLDEST).encode())
    with pytest.raises(psycopg.Error, match=r"and this script is for 0\.1\.0"):
        old_schema.execute(sql_script.upgrade_from(OLDEST).encode())


def test_only_writing_upgrades_the_schema(
    old_schema: psycopg.Connection[Any], url: str, calibration: Calibration
) -> None:
    with qvec.connect(url) as db:
        assert db.collections() == []
        assert schema.installed_version(old_schema) == OLDEST
        db.create_collection("docs", calibration=calibration)
        assert schema.installed_version(old_schema) == sql_script.version()


def test_newer_schema_is_not_changed(new_schema: psycopg.Connection[Any]) -> None:
    new_schema.execute("CREATE OR REPLACE FUNCTION qvec.version() RETURNS text LANGUAGE sql RETURN '99.0.0'")
    schema.prepare(new_schema, install=True)
    assert schema.installed_version(new_schema) == "99.0.0"


# Uninstalling


def test_uninstall_refuses_while_collections_exist(url: str, calibration: Calibration) -> None:
    with qvec.connect(url) as db:
        db.create_collection("docs", calibration=calibration)
        message = "there are collections: docs; drop them first"
        with db.store.direct_connection() as connection, pytest.raises(CollectionError, match=message):
            schema.uninstall(connection)
    assert "uninstalled" in qvec_output("sql", "uninstall", "--with-collections", "--db", url)
    with psycopg.connect(url) as connection:
        assert fetch_value(connection, "SELECT to_regnamespace('qvec')") is None
        assert fetch_value(connection, "SELECT to_regclass('docs')") is None
        with pytest.raises(DatabaseError, match="the schema qvec is not installed in this database"):
            schema.uninstall(connection)


def test_install_and_uninstall_commands(url: str, new_schema: psycopg.Connection[Any]) -> None:
    assert "is installed" in qvec_output("sql", "install", "--db", url)
    with psycopg.connect(url) as connection:
        assert catalogs(connection) == catalogs(new_schema)
    assert "uninstalled" in qvec_output("sql", "uninstall", "--db", url)


# As an extension


@pytest.fixture
def extension(server_url: str) -> Iterator[None]:
    """Install the extension into the embedded server for one test, with the standard library only."""
    with psycopg.connect(server_url) as connection:
        bindir = Path(fetch_value(connection, "SELECT setting FROM pg_config WHERE name = 'BINDIR'"))
        folder = Path(fetch_value(connection, "SELECT setting FROM pg_config WHERE name = 'SHAREDIR'")) / "extension"
    if not os.access(folder, os.W_OK) or not (bindir / "pg_config").exists():
        pytest.skip("needs to write where the server keeps its extensions")
    root = Path(__file__).parents[1]
    subprocess.run(
        [
            "make",
            "--no-print-directory",
            "install-extension",
            f"PG_CONFIG={bindir / 'pg_config'}",
            f"PYTHON={sys.executable} -S",
        ],
        cwd=root,
        check=True,
        capture_output=True,
    )
    (folder / f"qvec--{OLDEST}.sql").write_text(OLDEST_SCRIPT)
    yield
    for path in folder.glob("qvec*"):
        path.unlink()


@pytest.mark.usefixtures("extension")
def test_extension_equals_the_schema(url: str, new_schema: psycopg.Connection[Any], calibration: Calibration) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET search_path = public, pg_catalog")
        connection.execute("CREATE EXTENSION qvec CASCADE")
        assert fetch_value(connection, "SHOW search_path") == "public, pg_catalog"
        assert catalogs(connection) == catalogs(new_schema)
        assert fetch_value(connection, "SELECT cardinality(extconfig) FROM pg_extension WHERE extname = 'qvec'") == 5
        with qvec.connect(url) as db:
            db.create_collection("docs", calibration=calibration)
            db.drop_collection("docs")
        schema.uninstall(connection)
        assert fetch_value(connection, "SELECT to_regnamespace('qvec')") is None


@pytest.mark.usefixtures("extension")
def test_prepare_updates_the_extension(url: str, new_schema: psycopg.Connection[Any]) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(sql.SQL("CREATE EXTENSION qvec VERSION {}").format(OLDEST))
        schema.prepare(connection, install=True)
        assert catalogs(connection) == catalogs(new_schema)
        assert (
            fetch_value(connection, "SELECT extversion FROM pg_extension WHERE extname = 'qvec'")
            == sql_script.version()
        )


def test_control_file_and_script_have_the_same_version() -> None:
    assert re.findall(r"RETURN '(\d.*)';", sql_script.full())[0] == sql_script.version()


def test_print_command_prints_roles_and_upgrades() -> None:
    assert qvec_output("sql", "print", "--roles") == sql_script.roles()
    assert qvec_output("sql", "print", "--from", OLDEST) == sql_script.upgrade_from(OLDEST)


def test_sql_commands_need_postgres(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["sql", "install", "--db", f"qdrant:{tmp_path / 'points'}"])
    assert done.exit_code == 1
    assert "is not a Postgres database; SQL needs one" in done.output


def test_upgrade_without_the_schema_is_an_error(url: str) -> None:
    done = CliRunner().invoke(main, ["sql", "upgrade", "--db", url])
    assert (done.exit_code, done.output) == (
        1,
        "Error: the schema qvec is not installed in this database; run: qvec sql install\n",
    )
