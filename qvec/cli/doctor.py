"""qvec doctor"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import click
from click.core import ParameterSource

from qvec.cli.environment import describe_environment, old_packages
from qvec.cli.shared_options import db_option, json_option, open_database
from qvec.client.urls import is_missing
from qvec.store.diagnosis import Diagnosis

FOUND_PROBLEM = 1
"""Exit code if there is a known problem, or the database cannot be opened."""

_NO_DATABASE = "none opened; --db URL or QVEC_DB names one"


@click.command()
@db_option
@json_option
@click.pass_context
def doctor(context: click.Context, url: str, as_json: bool) -> None:
    """Print what a bug report needs: versions, CPU, packages and the database, and known problems with a remedy.

    Of the database it shows versions and settings, no rows, no passwords and no API keys. It changes nothing, but
    starts an embedded Postgres while it runs. The default directory is left out unless it holds a database.

    Exit code 1: there is a problem. A database that is named by --db or QVEC_DB and cannot be opened is one.

    \b
    Examples:
      qvec doctor
      qvec doctor --db postgresql://me@host/shop
      qvec doctor --db qdrant://localhost:6334 --json
    """
    is_default = context.get_parameter_source("url") is ParameterSource.DEFAULT
    found = Diagnosis() if is_default and is_missing(url) else _diagnose(url)
    problems = [*old_packages(), *found.problems]
    report = {**describe_environment(), "database": found.facts or None, "problems": problems}
    click.echo(json.dumps(report) if as_json else "\n".join(_lines(report)))
    if problems:
        sys.exit(FOUND_PROBLEM)


def _diagnose(url: str) -> Diagnosis:
    """Return what a database reports; where it cannot be opened or read, that is the problem."""
    found = Diagnosis()
    with found.noting_errors(), open_database(url, read_only=True) as database:
        found.facts = {"url": database.name, "kind": database.kind}
        with database.wrap_errors(f"cannot diagnose {database.name}"):
            reported = database.store.diagnose()
        found.facts |= reported.facts
        found.problems += reported.problems
    return found


def _lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield the report as text to paste into an issue."""
    for name, value in report.items():
        if name == "problems":
            yield f"{name}:"
            yield from (f"  {problem}" for problem in value or ["none known"])
        elif isinstance(value, dict):
            yield f"{name}:"
            yield from (_line(f"  {each}", shown) for each, shown in value.items())
        else:
            yield _line(name, _NO_DATABASE if name == "database" else value)


def _line(name: str, value: Any) -> str:
    return f"{name + ':':<37} {_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " ".join(value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)
