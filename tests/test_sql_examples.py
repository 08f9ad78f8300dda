"""The SQL examples, run unchanged by psql and by the JDBC driver."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from sqlside import installed, psql, text, value

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


def test_the_readme(url: str, server_url: str, vectors: NDArray[np.float32]) -> None:
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sql\n(.*?)^```$", readme, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    with installed(url) as connection:
        connection.execute("CREATE TABLE articles (id int PRIMARY KEY, title text, details jsonb, embedding vector)")
        for n, vector in enumerate(vectors[:100]):
            row = [n, f"article {n}", '{"lang": "en"}', text(vector)]
            connection.execute("INSERT INTO articles VALUES (%s, %s, %s, %s)", row)
        script = "\\set ON_ERROR_STOP on\n" + "\n".join(blocks).replace("$1", f"'{text(vectors[7])}'")
        command = [psql(server_url), url, "--no-psqlrc", "--quiet", "--no-align", "--tuples-only"]
        done = subprocess.run(command, input=script, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        hits = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 2]
        assert len(hits) == 10
        assert (hits[0][0], hits[0][2]) == ("7", "article 7")
        assert value(connection, "SELECT id FROM qvec.search('docs', %s::vector)", text(vectors[7])) == "1"


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
