"""Privileges of readers and writers, row-level security in searches, and SQL injection."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from psycopg import errors
from sql_helpers import fetch_value, import_calibration, install_schema, vector_text

from qvec import Calibration
from qvec.postgres import sql_script

Connection = psycopg.Connection[Any]
Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def url(new_database: Callable[..., str]) -> str:
    return new_database()


@pytest.fixture(scope="module")
def owner(url: str, calibration: Calibration, vectors: Vectors) -> Iterator[Connection]:
    """The owner's connection to a database with a collection, an attached table with a policy, and all roles."""
    with install_schema(url) as connection:
        connection.execute(sql_script.roles().encode())
        connection.execute(sql_script.roles().encode())
        name = import_calibration(connection, calibration)
        connection.execute("SELECT qvec.create_collection('docs', %s)", [name])
        connection.execute("CREATE TABLE notes (id int PRIMARY KEY, tenant text, embedding vector, metadata jsonb)")
        connection.execute("SELECT qvec.attach('notes', 'embedding', %s, metadata_column => 'metadata')", [name])
        for n, vector in enumerate(vectors[:100]):
            row = [n, vector_text(vector), f'{{"n": {n}}}']
            connection.execute("INSERT INTO docs (id, embedding_in, metadata) VALUES (%s, %s::vector, %s)", row)
            tenant = "ours" if n % 10 == 0 else "theirs"
            connection.execute("INSERT INTO notes VALUES (%s, %s, %s::vector, %s)", [row[0], tenant, *row[1:]])
        connection.execute("SELECT qvec.build_index('docs'), qvec.build_index('notes')")
        connection.execute("ALTER TABLE notes ENABLE ROW LEVEL SECURITY")
        connection.execute("CREATE POLICY own ON notes USING (tenant = current_setting('app.tenant', true))")
        for role, member in (("sql_reader", "qvec_reader"), ("sql_writer", "qvec_writer"), ("sql_guest", "pg_monitor")):
            connection.execute(f"CREATE ROLE {role} LOGIN; GRANT {member} TO {role}".encode())
        connection.execute(
            "GRANT SELECT ON docs, notes TO qvec_reader; GRANT SELECT, INSERT, UPDATE ON docs TO qvec_writer"
        )
        connection.execute("GRANT CREATE ON SCHEMA public TO qvec_writer")
        yield connection
        connection.execute("DROP OWNED BY sql_reader, sql_writer, sql_guest, qvec_reader, qvec_writer CASCADE")
        connection.execute("DROP ROLE sql_reader, sql_writer, sql_guest, qvec_reader, qvec_writer")


def connect_as(url: str, role: str) -> Connection:
    return psycopg.connect(url.replace("postgres@", f"{role}@"), autocommit=True)


SEARCH = b"SELECT id FROM qvec.search(%s, %s::vector, %s)"


def test_reader_can_only_search(url: str, owner: Connection, vectors: Vectors) -> None:
    with connect_as(url, "sql_reader") as reader:
        found = reader.execute(SEARCH, ["docs", vector_text(vectors[5]), 3]).fetchall()
        assert found == owner.execute(SEARCH, ["docs", vector_text(vectors[5]), 3]).fetchall()
        assert fetch_value(reader, "SELECT count(*) FROM qvec.collections") == 2
        assert fetch_value(reader, "SELECT rows FROM qvec.drift('docs')") == 100
        assert fetch_value(reader, "SELECT rows_scanned FROM qvec.recall('docs', queries => 3)") == 100
        assert reader.execute("SELECT * FROM qvec.explain('docs', %s::vector)", [vector_text(vectors[5])]).fetchall()
        for statement in (
            "INSERT INTO docs (id, codes) SELECT 1000, codes FROM docs LIMIT 1",
            "SELECT qvec.create_collection('mine', calibration) FROM qvec.collection LIMIT 1",
            "SELECT qvec.drop_collection('docs')",
            "SELECT qvec.calibrate('notes', 'embedding')",
            "DELETE FROM qvec.calibration",
            "UPDATE qvec.collection SET name = 'x'",
        ):
            with pytest.raises(errors.Error) as caught:
                reader.execute(statement.encode())
            assert isinstance(caught.value, (errors.InsufficientPrivilege, errors.NoDataFound)), statement


def test_search_needs_select_on_the_table(url: str, owner: Connection, vectors: Vectors) -> None:
    owner.execute("REVOKE SELECT ON docs FROM qvec_reader")
    with connect_as(url, "sql_reader") as reader, pytest.raises(errors.InsufficientPrivilege, match="for table docs"):
        reader.execute(SEARCH, ["docs", vector_text(vectors[5]), 3])
    owner.execute("GRANT SELECT ON docs TO qvec_reader")


def test_writer_can_write_and_create(url: str, owner: Connection, vectors: Vectors) -> None:
    with connect_as(url, "sql_writer") as writer:
        writer.execute("INSERT INTO docs (id, embedding_in) VALUES (500, %s::vector)", [vector_text(vectors[500])])
        assert writer.execute(SEARCH, ["docs", vector_text(vectors[500]), 1]).fetchall() == [("500",)]
        writer.execute("CREATE TABLE own (id int PRIMARY KEY, embedding vector)")
        writer.execute("INSERT INTO own SELECT g, %s::vector FROM generate_series(1, 50) g", [vector_text(vectors[0])])
        fitted = fetch_value(writer, "SELECT qvec.calibrate('own', 'embedding')")
        writer.execute("SELECT qvec.attach('own', 'embedding', %s)", [fitted])
        writer.execute("CALL qvec.backfill('own')")
        writer.execute("SELECT qvec.build_index('own')")
        writer.execute("SELECT qvec.create_collection('written', %s)", [fitted])
        writer.execute("SELECT qvec.drop_collection('written'), qvec.detach('own')")
        with pytest.raises(errors.InsufficientPrivilege):
            writer.execute("SELECT qvec.drop_collection('docs')")
    assert fetch_value(owner, "SELECT count(*) FROM qvec.collection WHERE name = 'docs'") == 1


def test_role_without_grants_cannot_search(url: str, owner: Connection, vectors: Vectors) -> None:
    assert owner
    with connect_as(url, "sql_guest") as guest, pytest.raises(errors.InsufficientPrivilege, match="schema qvec"):
        guest.execute(SEARCH, ["docs", vector_text(vectors[5]), 3])


@pytest.mark.parametrize("filter", [None, '{"n": {"$gte": 0}}'])
def test_row_level_security_applies_to_searches(
    url: str, owner: Connection, vectors: Vectors, filter: str | None
) -> None:
    assert owner
    statement = b"SELECT id FROM qvec.search('notes', %s::vector, %s, filter => %s)"
    with connect_as(url, "sql_reader") as reader:
        assert reader.execute(statement, [vector_text(vectors[5]), 20, filter]).fetchall() == []
        reader.execute("SET app.tenant = 'ours'")
        found = reader.execute(statement, [vector_text(vectors[5]), 20, filter]).fetchall()
        assert {int(id) for (id,) in found} == set(range(0, 100, 10))
        batch = reader.execute(
            "SELECT id FROM qvec.search('notes', %s::vector[], 5)", [[vector_text(v) for v in vectors[:2]]]
        )
        assert {int(id) % 10 for (id,) in batch} == {0}
        measured = reader.execute("SELECT queries, rows_scanned FROM qvec.recall('notes', k => 3)").fetchone()
        assert measured == (10, 10)
    assert len(owner.execute(statement, [vector_text(vectors[5]), 20, filter]).fetchall()) == 20


# Injection

INJECTIONS = [
    "'; DROP TABLE precious; --",
    '"; DROP TABLE precious; --',
    "docs'); DROP TABLE precious; --",
    "$$; DROP TABLE precious; --",
    "%1$s %s %I %L; DROP TABLE precious; --",
    "\\'; DROP TABLE precious; --",
    "x' OR (SELECT pg_sleep(5)) IS NULL OR '1' = '",
    ") FROM precious; DROP TABLE precious; --",
    "element.value",
]

CALLS = [
    "qvec.quantize('[1]'::vector, %(evil)s)",
    "qvec.dequantize(B'1', %(evil)s)",
    "qvec.score(B'1', '[1]'::vector, %(evil)s)",
    "qvec.export_calibration(%(evil)s)",
    "qvec.import_calibration(to_jsonb(%(evil)s::text))",
    "qvec.import_calibration(jsonb_build_object('content', %(evil)s::text))",
    "qvec.create_collection(%(evil)s, %(id)s)",
    "qvec.create_collection('c', %(evil)s)",
    "qvec.create_collection('c', %(id)s, %(evil)s)",
    "qvec.create_collection('c', %(id)s, prefilter => %(evil)s)",
    "qvec.create_collection('c', %(id)s, id_type => %(evil)s)",
    "qvec.create_collection('c', %(id)s, model => %(evil)s)",
    "qvec.create_collection('c', %(id)s, in_schema => %(evil)s)",
    "qvec.drop_collection(%(evil)s)",
    "qvec.accept_vectors(%(evil)s)",
    "qvec.build_index(%(evil)s)",
    "qvec.attach(%(evil)s, 'embedding', %(id)s)",
    "qvec.attach('free', %(evil)s, %(id)s)",
    "qvec.attach('free', 'embedding', %(evil)s)",
    "qvec.attach('free', 'embedding', %(id)s, %(evil)s)",
    "qvec.attach('free', 'embedding', %(id)s, rescore => %(evil)s)",
    "qvec.attach('free', 'embedding', %(id)s, id_column => %(evil)s)",
    "qvec.attach('free', 'embedding', %(id)s, codes_column => %(evil)s)",
    "qvec.attach('free', 'embedding', %(id)s, document_column => %(evil)s)",
    "qvec.attach('free', 'embedding', %(id)s, metadata_column => %(evil)s)",
    "qvec.detach(%(evil)s)",
    "qvec.drift(%(evil)s)",
    "qvec.recall(%(evil)s)",
    "qvec.calibrate(%(evil)s, 'embedding')",
    "qvec.calibrate('free', %(evil)s)",
    "qvec.calibrate('free', 'embedding', %(evil)s)",
    "qvec.calibrate('free', 'embedding', metric => %(evil)s)",
    "qvec.calibrate('free', 'embedding', model => %(evil)s)",
    "qvec.search(%(evil)s, %(v)s::vector)",
    "qvec.search('docs', %(v)s::vector, filter => jsonb_build_object(%(evil)s::text, 1))",
    "qvec.search('docs', %(v)s::vector, filter => jsonb_build_object('a', %(evil)s::text))",
    "qvec.search('docs', %(v)s::vector, filter => jsonb_build_object('a.' || %(evil)s, 'b'))",
    *(
        f"qvec.filter_sql(jsonb_build_object('a', jsonb_build_object('{operator}', {operand})))"
        for operand in ("%(evil)s::text", "jsonb_build_array(%(evil)s::text)", "jsonb_build_array('a', %(evil)s::text)")
        for operator in ("$eq", "$lt", "$gte", "$in", "$between", "$like", "$ilike", "$contains", "$exists", "$not")
    ),
    "qvec.search('docs', %(v)s::vector, filter => jsonb_build_object('a', jsonb_build_object(%(evil)s::text, 1)))",
    "qvec.explain(%(evil)s, %(v)s::vector)",
    "qvec.index_statement(%(evil)s)",
    "qvec.matches(jsonb_build_object('a', %(evil)s::text), jsonb_build_object('a', %(evil)s::text))",
    "qvec.matches('{}', jsonb_build_object('a', jsonb_build_object('$like', %(evil)s::text)))",
    "qvec.filter_sql('{}', %(evil)s)",
]


def error_code(connection: Connection, call: str, parameters: dict[str, str]) -> str | None:
    """Return the error code that a call raises, or None. A condition that the call returns is executed as well."""
    try:
        with connection.transaction(force_rollback=True):
            rows = connection.execute(f"SELECT * FROM {call}".encode(), parameters).fetchall()
            if "filter_sql" in call:
                connection.execute(f"SELECT FROM docs WHERE {rows[0][0]}".encode())
    except psycopg.Error as error:
        return error.sqlstate
    return None


@pytest.mark.parametrize("evil", INJECTIONS)
def test_text_arguments_are_never_executed(owner: Connection, vectors: Vectors, evil: str) -> None:
    """Whichever argument holds the text, the call ends soon with a result or an error and drops nothing."""
    calibration = fetch_value(owner, "SELECT calibration FROM qvec.collection WHERE name = 'docs'")
    parameters = {"evil": evil, "id": calibration, "v": vector_text(vectors[0])}
    tables = "SELECT array_agg(oid ORDER BY oid) FROM pg_class WHERE relkind IN ('r', 'v')"
    owner.execute("CREATE TABLE IF NOT EXISTS precious ()")
    owner.execute("CREATE TABLE IF NOT EXISTS free (id int PRIMARY KEY, embedding vector)")
    owner.execute("SET statement_timeout = '3s'")
    before = fetch_value(owner, tables)
    for call in CALLS:
        sqlstate = error_code(owner, call, parameters)
        # Postgres itself parses the name of a table; some of these texts are not valid names.
        assert sqlstate != "42601" or re.search(r"(attach|calibrate)\(%\(evil\)s", call), call
        assert sqlstate != "57014", f"{call} ran until it was cancelled"
        assert fetch_value(owner, tables) == before, call
    owner.execute("RESET statement_timeout")


@pytest.mark.parametrize("evil", INJECTIONS)
def test_table_and_column_names_may_look_like_sql(owner: Connection, vectors: Vectors, evil: str) -> None:
    calibration = fetch_value(owner, "SELECT calibration FROM qvec.collection WHERE name = 'docs'")
    quoted = '"' + evil.replace('"', '""') + '"'
    with owner.transaction(force_rollback=True):
        owner.execute("CREATE TABLE IF NOT EXISTS precious ()")
        create = f"CREATE TABLE {quoted} (id int PRIMARY KEY, {quoted} vector, other jsonb)"
        owner.execute(create.encode())
        owner.execute(
            "SELECT qvec.attach(%s, %s, %s, 'c', codes_column => %s, metadata_column => 'other')",
            [quoted, evil, calibration, evil + "!"],
        )
        owner.execute(f"INSERT INTO {quoted} VALUES (1, '{vector_text(vectors[0])}')".encode())
        owner.execute("SELECT qvec._backfill_step('c', 10), qvec.build_index('c')")
        assert fetch_value(owner, "SELECT id FROM qvec.search('c', %s::vector)", vector_text(vectors[0])) == "1"
        assert fetch_value(owner, "SELECT rows FROM qvec.drift('c')") == 1
        owner.execute(f"INSERT INTO {quoted} VALUES (2, '{vector_text(vectors[1])}')".encode())
        assert fetch_value(owner, "SELECT recall FROM qvec.recall('c', k => 1)") == 1
        owner.execute("SELECT qvec.calibrate(%s, %s)", [quoted, evil])
        owner.execute("SELECT qvec.detach('c')")
        assert fetch_value(owner, "SELECT to_regclass('precious') IS NOT NULL")
