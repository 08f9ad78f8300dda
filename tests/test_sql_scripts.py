"""Run the scripts in tests/sql with psql: each prints its expected output, errors included.

`QVEC_WRITE_EXPECTED=1 pytest tests/test_sql_scripts.py` rewrites the expected output; review it before you commit it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from sql_helpers import find_psql, install_schema

SCRIPTS = sorted(path for path in (Path(__file__).parent / "sql").glob("*.sql") if not path.name.startswith("qvec--"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_prints_its_expected_output(script: Path, url: str, server_url: str) -> None:
    install_schema(url).close()
    done = subprocess.run(
        [find_psql(server_url), url, "--no-psqlrc", "--quiet", "--echo-all", "--set", "VERBOSITY=terse", "--file", "-"],
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
