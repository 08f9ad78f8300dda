"""What a load leaves where it ends at an error before its first row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from qvec.client import Database
from qvec.client.bulk import read_checkpoints
from qvec.errors import QvecError


@contextmanager
def dropped_if_unused(database: Database, name: str) -> Iterator[None]:
    """Drops a collection that was not there before, where a load ends at an error and nothing is in it.

    It would hold the next load to a calibration that may be of wrongly read rows, and to settings that nobody has used.
    """
    existed = database.has_collection(name)
    try:
        yield
    except QvecError:
        with suppress(Exception):  # what ended the load is what the user has to know
            if not existed and database.has_collection(name) and _is_unused(database, name):
                database.drop_collection(name)
        raise


def _is_unused(database: Database, name: str) -> bool:
    """Whether it has no rows, and none are being loaded from another source."""
    loads = read_checkpoints(database, name)
    begun = any(load.position for load in loads.values())
    return len(loads) <= 1 and not begun and not database.collection(name).count()
