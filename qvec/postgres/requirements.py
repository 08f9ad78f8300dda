"""Which servers, pgvector versions and names qvec accepts."""

from __future__ import annotations

from qvec.errors import InputError
from qvec.postgres.layout import PgVector

OLDEST_POSTGRES = 14
OLDEST_PGVECTOR = (0, 7, 0)
SOUND_PGVECTOR = (0, 8, 4)
"""HNSW before it: 0.6.0-0.8.1 overflow a buffer in parallel builds (CVE-2026-3172); up to 0.8.2 vacuum can corrupt the
index, and up to 0.8.3 leave its graph unrepaired."""


def hnsw_warning(vector: PgVector) -> str | None:
    """Return a warning about known bugs in this pgvector's HNSW, if it has any."""
    if vector.version >= SOUND_PGVECTOR:
        return None
    return (
        f"pgvector {dotted(vector.version)} has known HNSW bugs (a buffer overflow in parallel builds before 0.8.2, "
        "index corruption by vacuum before 0.8.3, an unrepaired graph before 0.8.4); upgrade pgvector"
    )


def check_identifier(what: str, name: str) -> None:
    """Raise InputError for a name that psycopg would take for a placeholder in statements with parameters."""
    if "%" in name:
        raise InputError(f"the {what} is called {name!r}; expected a name without %: rename it (ALTER … RENAME TO …)")


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
