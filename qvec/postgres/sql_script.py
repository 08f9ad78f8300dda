"""Assemble the SQL scripts that install and upgrade the schema qvec.

`qvec/sql/schema/` has one file for each subject. In these files `@VERSION@` stands for the version of the schema, which
qvec.control holds, and `@DEFAULT_OVERSAMPLING@`, `@LEVELS@` and so on for what `_constants` takes from Python.

To change the schema, edit these files, raise the version in qvec.control, and write `qvec/sql/upgrades/OLD--NEW.sql`.
An upgrade holds what CREATE OR REPLACE cannot change, such as new columns of a table; it may be a comment only.

    python -m qvec.postgres.sql_script DIRECTORY    write the extension's files to DIRECTORY

That command needs Python's standard library only, so that it runs on a database server.
"""

from __future__ import annotations

import re
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from qvec import defaults
from qvec.errors import InputError
from qvec.postgres.options import Rescore
from qvec.prefilter_levels import DEFAULT_PREFILTER, LEVEL_THRESHOLDS, LEVELS, level_planes

if TYPE_CHECKING:
    from importlib.abc import Traversable

SUBJECTS = (
    "begin",
    "calibration_file",
    "inner_products",
    "calibrations",
    "vectors",
    "codes",
    "decoding",
    "collections",
    "versions",
    "attached_tables",
    "layout",
    "filters",
    "queries",
    "search",
    "recall",
    "fit",
    "drift",
    "end",
)
"""The files of `qvec/sql/schema/` in the order in which they run: an SQL function follows those that it calls."""

_DEFAULTS = (
    "DEFAULT_OVERSAMPLING",
    "HNSW_M",
    "HNSW_EF_CONSTRUCTION",
    "EF_PER_CANDIDATE",
    "DEFAULT_EF_SEARCH",
    "MAX_EF_SEARCH",
)


def version() -> str:
    """Return the version of the schema that the full script installs."""
    found = re.search(r"^default_version = '(.+)'$", _read("qvec.control"), flags=re.MULTILINE)
    assert found
    return found[1]


def full() -> str:
    """Return the script for a new database, or for one that has this version already."""
    script = "\n".join(_read("schema", f"{subject}.sql") for subject in SUBJECTS)
    return _fill(script, {"VERSION": version(), **_constants()})


def roles() -> str:
    """Return the script that creates the roles qvec_reader and qvec_writer."""
    return _read("roles.sql")


def upgrade_from(old: str) -> str:
    """Return the script that upgrades a database from version `old`: one step for each version, then the full script.

    Raise InputError unless `old` is an older version.
    """
    steps = _steps()
    scripts = []
    at = old
    while at != version():
        if at not in steps:
            raise InputError(f"no upgrade from schema version {old!r}; known: {', '.join(sorted(steps))}")
        scripts.append(_step(at, steps[at]))
        at = steps[at]
    return "\n".join([*scripts, full()])


def knows(old: str) -> bool:
    """Return whether a database can be upgraded from version `old`."""
    return old in _steps()


def write_extension(directory: Path) -> None:
    """Write the files of the Postgres extension: control file, full script, and a script for each upgrade step."""
    (directory / "qvec.control").write_text(_read("qvec.control"), encoding="utf-8")
    (directory / f"qvec--{version()}.sql").write_text(full(), encoding="utf-8")
    for old, new in _steps().items():
        script = upgrade_from(old) if new == version() else _step(old, new)
        (directory / f"qvec--{old}--{new}.sql").write_text(script, encoding="utf-8")


def _steps() -> dict[str, str]:
    """Each older version and the version that its upgrade step leads to."""
    names = (re.fullmatch(r"(.+)--(.+)\.sql", path.name) for path in _resource("upgrades").iterdir())
    return {name[1]: name[2] for name in names if name}


def _step(old: str, new: str) -> str:
    changes = _read("upgrades", f"{old}--{new}.sql")
    return _fill(_read("upgrades", "step.sql"), {"FROM": old, "TO": new, "CHANGES": changes} | _constants())


def _constants() -> dict[str, str]:
    """What the SQL shares with Python, by placeholder."""
    return {
        **{name: str(getattr(defaults, name)) for name in _DEFAULTS},
        **{f"LEVELS{count}": _planes(count) for count in LEVEL_THRESHOLDS},
        "LEVEL_PLANES": " ".join(f"WHEN {count} THEN {level_planes(count)}" for count in LEVEL_THRESHOLDS),
        "PREFILTER_LEVELS": " ".join(f"WHEN '{name}' THEN {count}" for name, count in LEVELS.items()),
        "RESCORES": ", ".join(f"'{name}'" for name in get_args(Rescore)),
        "DEFAULT_PREFILTER": DEFAULT_PREFILTER,
        "PREFILTERS": ", ".join(f"'{name}'" for name in (*LEVELS, "learned")),
    }


def _planes(count: int) -> str:
    """The expression of the planes of `count` levels."""
    return " || ".join(f"({_compared(threshold)})" for threshold in LEVEL_THRESHOLDS[count])


def _compared(threshold: int) -> str:
    """The expression of the plane [code >= threshold], from the planes down to the threshold's last set bit."""
    last = (threshold & -threshold).bit_length() - 1
    expression = _plane(last)
    for bit in range(last + 1, 8):
        expression = f"({_plane(bit)} {'&' if threshold >> bit & 1 else '|'} {expression})"
    return expression


def _plane(bit: int) -> str:
    return f"substring(codes from {7 - bit} * width + 1 for width)"


def _fill(script: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        script = script.replace(f"@{name}@", value)
    return script


def _read(*path: str) -> str:
    return _resource(*path).read_text(encoding="utf-8")


def _resource(*path: str) -> Traversable:
    return files("qvec").joinpath("sql", *path)


if __name__ == "__main__":
    write_extension(Path(sys.argv[1]))
