"""What a training refuses before it begins: settings that do not fit each other, and what would be ignored."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from test_training_run import options

from qvec import InputError

pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")
pytest.importorskip("datasets")
pytest.importorskip("accelerate")

from qvec.training import staged


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"schedule": "staged", "starts": {"bianry": 3}},
            "the start of 'bianry' is given, but trained are float32, int8, binary; correct --start",
        ),
        (
            {"schedule": "staged", "starts": {"ternary": 3}},
            "the start of 'ternary' is given, but trained are float32, int8, binary; correct --start or add it",
        ),
        (
            {"schedule": "staged", "starts": {"int8": 1, "binary": 3_000}, "steps": 3_000},
            "binary starts at step 3,000, but the training has the steps 0 to 2,999; give an earlier --start or more",
        ),
        (
            {"schedule": "staged", "starts": {"int8": -1}},
            "int8 starts at step -1, but the training has the steps 0 to 5",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        options("model", tmp_path / "pairs.jsonl", tmp_path / "out", **settings)


def test_the_last_step_may_be_a_start(tmp_path: Path) -> None:
    options("model", tmp_path / "pairs.jsonl", tmp_path / "out", schedule="staged", starts={"binary": 5}, steps=6)


def test_a_stage_of_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InputError, match="precision 'bianry' is unknown; known: float32, int8, int4, ternary, binary"):
        staged({"bianry": 3})
