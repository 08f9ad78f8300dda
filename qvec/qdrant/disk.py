"""Room on the disk of an embedded database.

The engine maps its files into memory and lets them grow into holes: where the disk has no page left for one, the
process is killed in the middle of a write (SIGBUS), without a word. So there is a look at the disk before each.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from qvec.errors import DatabaseError
from qvec.qdrant.points import DOCUMENT, Points

_RESERVE = 64 << 20
"""Bytes for what is not counted: the log's next file, ids, metadata and its indexes."""
_COPIES = 2
"""Of what is written: in the log and in its place."""


def check_room(path: Path, points: Points) -> None:
    """Raises DatabaseError when the disk of a path may be too full to take points."""
    documents = sum(len(payload.get(DOCUMENT) or "") for payload in points.payloads)
    wanted = _COPIES * (points.vectors.nbytes + documents) + _RESERVE
    free = shutil.disk_usage(path).free
    if free < wanted:
        raise DatabaseError(
            f"the disk of {path} is full: {free >> 20} MB are left, and {wanted >> 20} MB are wanted to write more; "
            "nothing is lost, so make room and go on"
        )
