"""The assembled SQL script: its version, its files, and the values that it shares with Python."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import psycopg
import pytest
from sql_helpers import fetch_value, install_schema

import qvec
from qvec import Calibration, defaults
from qvec.codes import PLANES
from qvec.postgres import sql_script
from qvec.postgres.layout import default_prefilter
from qvec.postgres.options import Prefilter, Rescore

VERSIONS = Path(__file__).parent / "sql" / "versions.json"
SCHEMA = Path(sql_script.__file__).parents[1] / "sql" / "schema"


@pytest.fixture(scope="module")
def url(new_database: Callable[..., str]) -> str:
    return new_database()


@pytest.fixture(scope="module")
def sql(url: str) -> Iterator[psycopg.Connection[Any]]:
    with install_schema(url) as connection:
        yield connection


def fingerprint(script: str) -> str:
    """Return a hash of the script without its comment lines and blank lines."""
    lines = (line.rstrip() for line in script.splitlines())
    code = "\n".join(line for line in lines if line and not line.lstrip().startswith("--"))
    return hashlib.sha256(code.encode()).hexdigest()


def test_changed_sql_needs_a_new_version() -> None:
    """Databases upgrade only if the version differs: SQL changed without a new version would never reach them."""
    recorded: dict[str, str] = json.loads(VERSIONS.read_text())
    version, found = sql_script.version(), fingerprint(sql_script.full())
    if os.environ.get("QVEC_WRITE_EXPECTED"):
        recorded[version] = found
        VERSIONS.write_text(json.dumps(recorded, indent=2) + "\n")
    assert recorded.get(version) == found, (
        f"the SQL differs from what {VERSIONS.name} records for schema version {version}. Unless {version} is still "
        "unreleased, raise default_version in qvec/sql/qvec.control and add the step from the version before, "
        "qvec/sql/upgrades/OLD--NEW.sql. Then record the new SQL: "
        "QVEC_WRITE_EXPECTED=1 pytest tests/test_sql_assembly.py"
    )


def test_every_schema_file_is_included() -> None:
    assert sorted(sql_script.SUBJECTS) == sorted(path.stem for path in SCHEMA.iterdir())


def test_no_placeholder_remains() -> None:
    assert not re.findall(r"@\w+@", sql_script.full())
    assert not re.findall(r"@\w+@", sql_script.upgrade_from("0.1.0"))


def test_default_oversampling_equals_python(sql: psycopg.Connection[Any]) -> None:
    rows = sql.execute(
        "SELECT oid::regprocedure::text, pg_get_function_arguments(oid) FROM pg_proc"
        " WHERE pronamespace = 'qvec'::regnamespace AND proname IN ('create_collection', 'attach')"
    ).fetchall()
    assert len(rows) == 2
    for name, arguments in rows:
        assert f"oversampling double precision DEFAULT {defaults.DEFAULT_OVERSAMPLING}," in arguments, name
    default = fetch_value(
        sql,
        "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum"
        " WHERE adrelid = 'qvec.collection'::regclass AND attname = 'oversampling'",
    )
    assert default == str(defaults.DEFAULT_OVERSAMPLING)


def test_planes_of_precisions_equal_python(sql: psycopg.Connection[Any]) -> None:
    assert {name: fetch_value(sql, "SELECT qvec._planes(%s)", name) for name in PLANES} == PLANES
    for name in set(get_args(Rescore)) - set(PLANES):
        assert fetch_value(sql, "SELECT qvec._planes(%s)", name) is None


@pytest.mark.parametrize("learned_bits", [None, 256])
def test_default_prefilters_equal_python(sql: psycopg.Connection[Any], learned_bits: int | None) -> None:
    for rescore in get_args(Rescore):
        found = fetch_value(sql, "SELECT qvec._default_prefilter(%s, %s)", rescore, learned_bits)
        assert found == default_prefilter(rescore, learned_bits)


@pytest.mark.parametrize(("column", "names"), [("rescore", Rescore), ("prefilter", Prefilter)])
def test_allowed_settings_equal_python(sql: psycopg.Connection[Any], column: str, names: Any) -> None:
    check = fetch_value(
        sql, "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s", f"collection_{column}_check"
    )
    assert set(re.findall(r"'(\w+)'", check)) == set(get_args(names))


@pytest.mark.parametrize(
    ("rescore", "prefilter"),
    [("int8", "ternary"), ("int4", "binary"), ("float16", "binary"), ("int8", "levels6"), ("int10", "levels8")],
)
def test_index_definition_equals_python(
    sql: psycopg.Connection[Any], url: str, calibration: Calibration, rescore: Any, prefilter: Any
) -> None:
    with qvec.connect(url) as db:
        docs = db.create_collection(
            f"{rescore}_{prefilter}", calibration=calibration, rescore=rescore, prefilter=prefilter
        )
        docs.build_index()
    definition = f"SELECT indexdef FROM pg_indexes WHERE indexname = '{docs.name}_qvec_idx'"
    python = fetch_value(sql, definition)
    assert f"WITH (m='{defaults.HNSW_M}', ef_construction='{defaults.HNSW_EF_CONSTRUCTION}')" in python
    sql.execute(f"DROP INDEX {docs.name}_qvec_idx".encode())
    sql.execute("SELECT qvec.build_index(%s)", [docs.name])
    assert fetch_value(sql, definition) == python
