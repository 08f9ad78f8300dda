"""The SQL that installs the schema qvec: one full script, and for each older version a script to the next."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import TYPE_CHECKING

from qvec.errors import InputError

if TYPE_CHECKING:
    from importlib.abc import Traversable


def _folder() -> Traversable:
    return files("qvec") / "sql"


def version() -> str:
    """The schema's version that the full script installs."""
    control = (_folder() / "qvec.control").read_text(encoding="utf-8")
    found = re.search(r"^default_version = '(.+)'$", control, flags=re.MULTILINE)
    assert found
    return found[1]


def full() -> str:
    """The script for a new database, or one that has this version already."""
    return (_folder() / "qvec.sql").read_text(encoding="utf-8")


def roles() -> str:
    """The script that creates the roles qvec_reader and qvec_writer."""
    return (_folder() / "roles.sql").read_text(encoding="utf-8")


def upgrade_from(old: str) -> str:
    """The script that brings a database from an older version here: each step of its tables, then the full script."""
    steps = _steps()
    scripts = []
    at = old
    while at != version():
        if at not in steps:
            raise InputError(f"no upgrade from schema version {old!r}; known: {', '.join(sorted(steps))}")
        at, script = steps[at]
        scripts.append(script.read_text(encoding="utf-8"))
    return "\n".join([*scripts, full()])


def knows(old: str) -> bool:
    """Whether `old` is a version that can be upgraded from."""
    return old in _steps()


def _steps() -> dict[str, tuple[str, Traversable]]:
    """Each older version with the next one and the script that leads there."""
    names = ((path, re.fullmatch(r"qvec--(.+)--(.+)\.sql", path.name)) for path in _folder().iterdir())
    return {name[1]: (name[2], path) for path, name in names if name}
