"""The scripts in tests/sql, run by psql: each prints what the file beside it says, errors included.

`QVEC_WRITE_EXPECTED=1 pytest tests/test_sql_scripts.py` writes those files anew, to be read before they are committed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest
from sqlside import installed, value

SCRIPTS = sorted(path for path in (Path(__file__).parent / "sql").glob("*.sql") if not path.name.startswith("qvec--"))


def psql(server_url: str) -> str:
    """The server's own psql, or one on the path."""
    with psycopg.connect(server_url) as connection:
        own = Path(value(connection, "SELECT setting FROM pg_config WHERE name = 'BINDIR'")) / "psql"
    found = str(own) if own.exists() else shutil.which("psql")
    if found is None:
        pytest.skip("psql is not installed")
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_prints_what_is_expected(script: Path, url: str, server_url: str) -> None:
    installed(url).close()
    done = subprocess.run(
        [psql(server_url), url, "--no-psqlrc", "--quiet", "--echo-all", "--set", "VERBOSITY=terse", "--file", "-"],
        input=script.read_text(encoding="utf-8"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PGCLIENTENCODING": "UTF8"},
    )
    printed = done.stdout
    expected = script.with_suffix(".out")
    if os.environ.get("QVEC_WRITE_EXPECTED"):
        expected.write_text(printed, encoding="utf-8")
    assert printed == expected.read_text(encoding="utf-8")
