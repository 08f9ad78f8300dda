"""Bulk loads: a source into a collection, resumable, every row exactly once."""

from qvec.ingest.load import build_index, ingest
from qvec.ingest.load_options import FitOptions, LoadOptions, Reporter, Stop, Summary
from qvec.ingest.pipeline import LoadStoppedError

__all__ = [
    "FitOptions",
    "LoadOptions",
    "LoadStoppedError",
    "Reporter",
    "Stop",
    "Summary",
    "build_index",
    "ingest",
]
