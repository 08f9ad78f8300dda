"""The types that a type checker infers for a search in an application."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # mypy checks numpy and qvec

APPLICATION = """
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_type

from qvec import AsyncCollection, Collection, Hit

{function} search({parameters}) -> None:
    number = np.float32(1)
    row = np.zeros(2)
    rows = np.zeros((3, 2))
    assert_type({call}("one"), list[Hit])
    assert_type({call}([0.1, 0.2]), list[Hit])
    assert_type({call}((1, 2)), list[Hit])
    assert_type({call}([number, number]), list[Hit])
    assert_type({call}(row), list[Hit])
    assert_type({call}(row, 5, 2.0, filter={{"a": 1}}, exact=True, rescore=True, texts=False), list[Hit])
    assert_type({call}(["one", "two"]), list[list[Hit]])
    assert_type({call}(("one",)), list[list[Hit]])
    assert_type({call}([[0.1, 0.2], [0.3, 0.4]]), list[list[Hit]])
    assert_type({call}([(1, 2), (3, 4)]), list[list[Hit]])
    assert_type({call}([[number]]), list[list[Hit]])
    assert_type({call}([row, row]), list[list[Hit]])
    assert_type({call}(rows), list[list[Hit]])
    assert_type({call}(["one"], k=5, texts=False), list[list[Hit]])
    assert_type({call}(unknown), Any)
    assert_type({call}(unknown / np.linalg.norm(unknown)), Any)
    several = {call}(rows)
    assert_type(several[0][0].score, float)
    {call}(5)  # type: ignore[call-overload]
    {call}(None)  # type: ignore[call-overload]
"""

UNIONS = """
from typing_extensions import assert_type

import qvec
from qvec import Hit

def search() -> None:
    docs = qvec.connect("postgres:./data").collection("docs")
    assert_type(docs.search("one"), list[Hit])
    assert_type(docs.search(["one"]), list[list[Hit]])

async def search_async() -> None:
    docs = await (await qvec.connect_async("postgres:./data")).collection("docs")
    assert_type(await docs.search("one"), list[Hit])
    assert_type(await docs.search(["one"]), list[list[Hit]])
    for hit in await docs.search([0.5]):
        assert_type(hit.id, int | str)
"""

KINDS = ["Collection", "AsyncCollection"]


def application(kind: str) -> str:
    awaited = kind.startswith("Async")
    return APPLICATION.format(
        function="async def" if awaited else "def",
        parameters=f"docs: {kind}, unknown: NDArray[np.float32]",
        call="await docs.search" if awaited else "docs.search",
    )


@pytest.fixture(scope="module")
def mypy_output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `mypy --strict` prints about applications that search with qvec."""
    folder: Path = tmp_path_factory.mktemp("applications")
    for kind in KINDS:
        (folder / f"of_{kind}.py").write_text(application(kind))
    (folder / "of_unions.py").write_text(UNIONS)
    (folder / "of_errors.py").write_text(application(KINDS[0]).replace("list[list[Hit]]", "list[Hit]"))
    checker = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", f"--cache-dir={folder / 'cache'}"]
    run = subprocess.run([*checker, *sorted(folder.glob("*.py"))], capture_output=True, text=True, cwd=folder)
    assert not run.stderr
    return run.stdout


@pytest.mark.parametrize("kind", [*KINDS, "unions"])
def test_search_types_for_one_and_several_queries(mypy_output: str, kind: str) -> None:
    assert [line for line in mypy_output.splitlines() if line.startswith(f"of_{kind}.py")] == []


def test_wrong_types_are_reported(mypy_output: str) -> None:
    errors = [line for line in mypy_output.splitlines() if line.startswith("of_errors.py") and "[assert-type]" in line]
    assert len(errors) == application(KINDS[0]).count("list[list[Hit]]")
