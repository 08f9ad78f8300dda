"""Bulk loads: a source into a collection, resumable, every row exactly once."""

from qvec.ingest.load import build_index, ingest
from qvec.ingest.load_options import FitOptions, IngestOptions, Reporter, Stop, Summary
from qvec.ingest.pipeline import LoadStoppedError

__all__ = [
    "FitOptions",
    "IngestOptions",
    "LoadStoppedError",
    "Reporter",
    "Stop",
    "Summary",
    "build_index",
    "ingest",
]
