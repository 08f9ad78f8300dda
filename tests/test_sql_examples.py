"""The SQL examples, run unchanged by psql and by the JDBC driver."""

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
from sql_helpers import installed, psql, text, value

EXAMPLES = Path(__file__).parents[1] / "examples"
JDBC = Path(os.environ.get("QVEC_JDBC", "/usr/share/java/postgresql.jar"))


def test_the_walkthrough(url: str, server_url: str) -> None:
    installed(url).close()
    script = EXAMPLES / "sql" / "walkthrough.sql"
    done = subprocess.run(
        [psql(server_url), url, "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--file", script],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line]
    for expected in ("article|100.0|4000|t", "sailing no. 77", "1|5|t", "2|5|f", "article|int8|t|t", "notes|int4|f|f"):
        assert any(expected in line for line in lines), (expected, done.stdout)
    with psycopg.connect(url) as connection:
        for table in ("qvec.collection", "qvec.calibration", "qvec.attachment"):
            assert value(connection, f"SELECT count(*) FROM {table}") == 0


@pytest.fixture
def articles(url: str, vectors: NDArray[np.float32]) -> Iterator[psycopg.Connection[Any]]:
    """A database with the table that the pages name."""
    with installed(url) as connection:
        connection.execute("CREATE TABLE articles (id int PRIMARY KEY, title text, details jsonb, embedding vector)")
        for n, vector in enumerate(vectors[:100]):
            row = [n, f"article {n}", '{"lang": "en"}', text(vector)]
            connection.execute("INSERT INTO articles VALUES (%s, %s, %s, %s)", row)
        yield connection


def run_page(page: str, server_url: str, url: str, query: str) -> list[list[list[str]]]:
    """Run the SQL of a page; return the rows of each block."""
    command = [psql(server_url), url, "--no-psqlrc", "--quiet", "--no-align", "--tuples-only"]
    environment = {**os.environ, "PGOPTIONS": "-c client_min_messages=warning"}
    printed = []
    for block in blocks(EXAMPLES.parent / "docs" / page, "sql"):
        script = "\\set ON_ERROR_STOP on\n" + block.text.replace("$1", f"'{query}'")
        done = subprocess.run(command, input=script, capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stderr) == (0, ""), block.text
        printed.append([line.split("|") for line in done.stdout.splitlines()])
    return printed


def test_the_page_about_sql(
    articles: psycopg.Connection[Any], url: str, server_url: str, vectors: NDArray[np.float32]
) -> None:
    attached, found, created, several, joined, filters, codes, watched = run_page(
        "sql.md", server_url, url, text(vectors[7])
    )
    assert attached  # a calibration's id, and the name of the collection
    assert len(found) == 10
    assert (found[0][0], found[0][2]) == ("7", "article 7")
    assert created[-1] == ["1", "text"]
    assert [row[0] for row in several[:4]] == ["1", "1", "2", "2"]
    assert several[0][1] == several[2][1] == "7"
    assert joined[0] == ["7", "article 7"]
    assert filters[-1] == ["100"]
    assert len(codes) == 3
    assert codes[-1] == ["100"]
    assert {row[0] for row in watched[:2]} == {"articles", "docs"}
    assert value(articles, "SELECT id FROM qvec.search('docs', %s::vector)", text(vectors[7])) == "1"


def test_the_page_about_postgres(
    articles: psycopg.Connection[Any], url: str, server_url: str, vectors: NDArray[np.float32]
) -> None:
    run_page("postgres.md", server_url, url, text(vectors[7]))
    try:
        articles.execute("SET ROLE app_reader")
        assert value(articles, "SELECT count(*) FROM qvec.search('docs', %s::vector)", text(vectors[7])) == 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            articles.execute("DELETE FROM docs")
    finally:
        articles.execute("RESET ROLE")
        articles.execute("DROP OWNED BY app_reader CASCADE")
        articles.execute("DROP ROLE app_reader")


@contextmanager
def on_tcp(directory: str) -> Iterator[int]:
    """A local TCP port that forwards to the server's Unix socket, which the JDBC driver cannot use."""
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
def test_java(url: str) -> None:
    with installed(url) as connection, on_tcp(str(connection.info.host)) as port:
        database = connection.info.dbname
        address = f"jdbc:postgresql://127.0.0.1:{port}/{database}?user=postgres"
        program = EXAMPLES / "sql-java" / "Search.java"
        done = subprocess.run(["java", "-cp", JDBC, program, address], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        assert [line.split(" ", 1)[0] for line in done.stdout.splitlines()] == ["north", "east", "east", "west"]
