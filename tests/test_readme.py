"""The examples of the README run unchanged."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from example_pages import MODELS, README, blocks, make_files, run
from sql_helpers import vector_text

SHELL = [line for block in blocks(README, "sh") for line in block.text.splitlines()]
COMMANDS = [line for block in blocks(README, "sh", section="On the command line") for line in block.text.splitlines()]
WITHOUT_MODEL = [command for command in COMMANDS if "texts" not in command]
"""The commands without those on the collection `texts`, whose model needs qvec[demo]."""
PROGRAMS = blocks(README, "python")
STATEMENTS = blocks(README, "sql")
needs_model = pytest.mark.skipif(not MODELS, reason="needs qvec[demo]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files that the README names, which most tests share."""
    folder = tmp_path_factory.mktemp("readme")
    make_files(folder)
    yield folder
    run(["qvec", "db", "stop"], folder)


def test_readme_is_short_and_has_examples() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 200
    assert [line.split()[1] for line in SHELL if line.startswith("make")] == ["demo", "test"]
    assert (len(COMMANDS), len(PROGRAMS), len(STATEMENTS)) == (6, 3, 1)
    assert len(WITHOUT_MODEL) == 4
    assert [line for line in SHELL if not line.startswith("make")] == COMMANDS


def test_first_program_and_sql_find_same_rows(folder: Path) -> None:
    hits = run([sys.executable, "-c", PROGRAMS[0].text], folder).splitlines()
    assert len(hits) == 3
    assert hits[0].split()[0] == "7"
    query = np.random.default_rng(0).standard_normal((1000, 64), dtype=np.float32)[7]
    statement = STATEMENTS[0].text.replace("$1", f"'{vector_text(query)}'")
    url = run(["qvec", "db", "url"], folder).strip()
    options = ["--no-psqlrc", "--no-align", "--tuples-only", "--field-separator", " "]
    rows = run(["psql", url, *options, "--command", statement], folder).splitlines()
    assert [(row.split()[0], row.split()[2:]) for row in rows] == [(hit.split()[0], hit.split()[2:]) for hit in hits]
    scores = [[float(line.split()[1]) for line in lines] for lines in (rows, hits)]
    assert scores[0] == pytest.approx(scores[1], abs=2e-3)


@pytest.mark.parametrize(
    "command", [command for command in WITHOUT_MODEL if command.split()[1] not in ("tune", "eval")]
)
def test_command_without_model_runs(command: str, folder: Path) -> None:
    """The commands run in their order, because a command uses the collection of an earlier one.

    Tuning takes ten seconds and an evaluation two; the slow test below runs them.
    """
    run(["sh", "-c", command], folder)


@needs_model
@pytest.mark.slow
def test_command_line_section_runs_in_order(tmp_path: Path) -> None:
    make_files(tmp_path)
    try:
        printed = {command: run(["sh", "-c", command], tmp_path) for command in COMMANDS}
    finally:
        run(["qvec", "db", "stop"], tmp_path)
    (question,) = (command for command in COMMANDS if "read a CSV" in command)
    assert json.loads(printed[question])["hits"][0]["document"] == "How to read a CSV file into rows."
    assert "</html>" in (tmp_path / "report.html").read_text("utf-8")


@needs_model
@pytest.mark.slow
def test_rag_program(folder: Path) -> None:
    """The program searches the collection that a command of the README loads from texts."""
    run(["sh", "-c", next(command for command in COMMANDS if "corpus.jsonl" in command)], folder)
    printed = run([sys.executable, "-c", PROGRAMS[1].text], folder)
    assert printed.splitlines()[0] == "handbook-1 Error E4711: the disk is full. {'source': 'handbook'}"


@needs_model
@pytest.mark.slow
def test_langchain_program(folder: Path) -> None:
    printed = run([sys.executable, "-W", "ignore", "-c", PROGRAMS[2].text], folder)
    assert printed == "How to read a CSV file into rows.\n"
