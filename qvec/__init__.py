"""Quantized vectors for Postgres with pgvector and for Qdrant: stored calibration, fast load, two-step search.

>>> import qvec
>>> with qvec.connect("postgres:./qvec-data") as db:  # doctest: +SKIP
...     docs = db.create_collection("docs", calibration=qvec.Calibration.fit(vectors))
...     docs.upsert(ids, vectors, documents=texts)
...     hits = docs.search(vectors[0], k=10)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qvec.calibration import Calibration
    from qvec.client import AsyncCollection, AsyncDatabase, Collection, Database, connect, connect_async
    from qvec.codes import dequantize, hamming, hamming_top_k, learned, levels, quantize, score, ternary
    from qvec.drift_statistics import Drift
    from qvec.errors import (
        CalibrationError,
        CollectionError,
        DatabaseError,
        EmbeddingError,
        InputError,
        MissingExtraError,
        QvecError,
        RowError,
    )
    from qvec.ranges import RangeMethod
    from qvec.results import Hit

_HOMES = {
    "qvec.calibration": ("Calibration",),
    "qvec.codes": ("dequantize", "hamming", "hamming_top_k", "learned", "levels", "quantize", "score", "ternary"),
    "qvec.client": ("AsyncCollection", "AsyncDatabase", "Collection", "Database", "connect", "connect_async"),
    "qvec.drift_statistics": ("Drift",),
    "qvec.errors": (
        "CalibrationError",
        "CollectionError",
        "DatabaseError",
        "EmbeddingError",
        "InputError",
        "MissingExtraError",
        "QvecError",
        "RowError",
    ),
    "qvec.ranges": ("RangeMethod",),
    "qvec.results": ("Hit",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "AsyncCollection",
    "AsyncDatabase",
    "Calibration",
    "CalibrationError",
    "Collection",
    "CollectionError",
    "Database",
    "DatabaseError",
    "Drift",
    "EmbeddingError",
    "Hit",
    "InputError",
    "MissingExtraError",
    "QvecError",
    "RangeMethod",
    "RowError",
    "connect",
    "connect_async",
    "dequantize",
    "hamming",
    "hamming_top_k",
    "learned",
    "levels",
    "quantize",
    "score",
    "ternary",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for: `import qvec` itself stays fast."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'qvec' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
