"""Run the SQL examples unchanged with psql and with the JDBC driver."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from example_pages import blocks
from numpy.typing import NDArray
from sql_helpers import fetch_value, find_psql, install_schema, vector_text

EXAMPLES = Path(__file__).parents[1] / "examples"
JDBC = Path(os.environ.get("QVEC_JDBC", "/usr/share/java/postgresql.jar"))


def test_walkthrough_script(url: str, server_url: str) -> None:
    install_schema(url).close()
    script = EXAMPLES / "sql" / "walkthrough.sql"
    done = subprocess.run(
        [find_psql(server_url), url, "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--file", script],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line]
    for expected in ("article|100.0|4000|t", "sailing no. 77", "1|5|t", "2|5|f", "article|int8|t|t", "notes|int4|f|f"):
        assert any(expected in line for line in lines), (expected, done.stdout)
    with psycopg.connect(url) as connection:
        for table in ("qvec.collection", "qvec.calibration", "qvec.attachment"):
            assert fetch_value(connection, f"SELECT count(*) FROM {table}") == 0


@pytest.fixture
def articles(url: str, vectors: NDArray[np.float32]) -> Iterator[psycopg.Connection[Any]]:
    """A database with the table `articles` that the pages use."""
    with install_schema(url) as connection:
        connection.execute("CREATE TABLE articles (id int PRIMARY KEY, title text, details jsonb, embedding vector)")
        for n, vector in enumerate(vectors[:100]):
            row = [n, f"article {n}", '{"lang": "en"}', vector_text(vector)]
            connection.execute("INSERT INTO articles VALUES (%s, %s, %s, %s)", row)
        yield connection


def run_page(page: str, server_url: str, url: str, query: str) -> list[list[list[str]]]:
    """Run the SQL of a page; return the rows of each block."""
    command = [find_psql(server_url), url, "--no-psqlrc", "--quiet", "--no-align", "--tuples-only"]
    environment = {**os.environ, "PGOPTIONS": "-c client_min_messages=warning"}
    printed = []
    for block in blocks(EXAMPLES.parent / "docs" / page, "sql"):
        script = "\\set ON_ERROR_STOP on\n" + block.text.replace("$1", f"'{query}'")
        done = subprocess.run(command, input=script, capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stderr) == (0, ""), block.text
        printed.append([line.split("|") for line in done.stdout.splitlines()])
    return printed


def test_sql_page(articles: psycopg.Connection[Any], url: str, server_url: str, vectors: NDArray[np.float32]) -> None:
    attach_rows, search_rows, create_rows, batch_rows, join_rows, filter_rows, code_rows, monitoring_rows = run_page(
        "sql.md", server_url, url, vector_text(vectors[7])
    )
    assert attach_rows  # a calibration's id, and the name of the collection
    assert len(search_rows) == 10
    assert (search_rows[0][0], search_rows[0][2]) == ("7", "article 7")
    assert create_rows[-1] == ["1", "text"]
    assert [row[0] for row in batch_rows[:4]] == ["1", "1", "2", "2"]
    assert batch_rows[0][1] == batch_rows[2][1] == "7"
    assert join_rows[0] == ["7", "article 7"]
    assert filter_rows[-1] == ["100"]
    assert len(code_rows) == 3
    assert code_rows[-1] == ["100"]
    assert {row[0] for row in monitoring_rows[:2]} == {"articles", "docs"}
    assert monitoring_rows[-1][0] == "1"
    assert fetch_value(articles, "SELECT id FROM qvec.search('docs', %s::vector)", vector_text(vectors[7])) == "1"


def test_postgres_page(
    articles: psycopg.Connection[Any], url: str, server_url: str, vectors: NDArray[np.float32]
) -> None:
    run_page("postgres.md", server_url, url, vector_text(vectors[7]))
    try:
        articles.execute("SET ROLE app_reader")
        assert (
            fetch_value(articles, "SELECT count(*) FROM qvec.search('docs', %s::vector)", vector_text(vectors[7])) == 0
        )
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            articles.execute("DELETE FROM docs")
    finally:
        articles.execute("RESET ROLE")
        articles.execute("DROP OWNED BY app_reader CASCADE")
        articles.execute("DROP ROLE app_reader")


@contextmanager
def forward_tcp_port(directory: str) -> Iterator[int]:
    """Forward a local TCP port to the server's Unix socket, which the JDBC driver cannot use; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=forward_all, args=(listener, directory), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def forward_all(listener: socket.socket, directory: str) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{directory}/.s.PGSQL.5432")
        for source, target in ((client, server), (server, client)):
            threading.Thread(target=forward, args=(source, target), daemon=True).start()


def forward(source: socket.socket, target: socket.socket) -> None:
    with source, suppress(OSError):  # either side may be closed
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.mark.skipif(
    not (shutil.which("java") and JDBC.exists()), reason="needs Java and its driver (Debian: libpostgresql-jdbc-java)"
)
def test_java_example(url: str) -> None:
    with install_schema(url) as connection, forward_tcp_port(str(connection.info.host)) as port:
        database = connection.info.dbname
        address = f"jdbc:postgresql://127.0.0.1:{port}/{database}?user=postgres"
        program = EXAMPLES / "sql-java" / "Search.java"
        done = subprocess.run(["java", "-cp", JDBC, program, address], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        assert [line.split(" ", 1)[0] for line in done.stdout.splitlines()] == ["north", "east", "east", "west"]
