"""Options that raise an error before a training starts, and trainings that fail."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny_models import tiny_model, train_options

from qvec import InputError
from qvec.cli import main
from qvec.ingest.load_options import Reporter

pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")
pytest.importorskip("datasets")
pytest.importorskip("accelerate")

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from qvec.training import staged, train

pytestmark = [
    pytest.mark.usefixtures("fast_trainer"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::FutureWarning"),
]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"schedule": "staged", "starts": {"bianry": 3}},
            "a first step is given for 'bianry', but the trained precisions are float32, int8, binary; correct --start",
        ),
        (
            {"schedule": "staged", "starts": {"ternary": 3}},
            "a first step is given for 'ternary', but the trained precisions are float32, int8, binary; "
            "correct --start or add it",
        ),
        (
            {"schedule": "staged", "starts": {"int8": 1, "binary": 3_000}, "steps": 3_000},
            "binary starts at step 3,000, but the training has the steps 0 to 2,999; give an earlier --start or more",
        ),
        (
            {"schedule": "staged", "starts": {"int8": -1}},
            "int8 starts at step -1, but the training has the steps 0 to 5",
        ),
        ({"warmup_steps": 3}, "3 warm-up steps are given, but the schedule is constant; add --schedule linear"),
        ({"learning_rate": float("nan")}, "the learning rate is nan, expected a finite number above 0"),
        ({"learning_rate": float("inf")}, "the learning rate is inf, expected"),
        ({"learning_rate": -1.0}, "the learning rate is -1.0, expected"),
        ({"matryoshka": (12, 8, 12)}, "the Matryoshka lengths are (12, 8, 12), expected no length twice"),
    ],
)
def test_conflicting_options_raise(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        train_options("model", tmp_path / "pairs.jsonl", tmp_path / "out", **settings)


def test_precision_may_start_at_last_step(tmp_path: Path) -> None:
    train_options("model", tmp_path / "pairs.jsonl", tmp_path / "out", schedule="staged", starts={"binary": 5}, steps=6)


def test_unknown_precision_in_schedule_raises() -> None:
    with pytest.raises(InputError, match="precision 'bianry' is unknown; known: float32, int8, int4, ternary, binary"):
        staged({"bianry": 3})


def test_gradient_caching_of_scored_pairs_raises(model: str, tmp_path: Path) -> None:
    data = tmp_path / "scored.jsonl"
    data.write_text("".join(json.dumps({"a": f"cat {n}", "b": f"dog {n}", "score": n}) + "\n" for n in range(20)))
    with pytest.raises(InputError, match="scored pairs cannot be trained with gradient caching; leave out --mini"):
        train(train_options(model, data, tmp_path / "out", mini_batch_size=4), Reporter())


def test_gradient_caching_of_static_model_raises(pairs: Path, tmp_path: Path) -> None:
    tokenizer = tiny_model(tmp_path).tokenizer
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=20)], device="cpu")
    static.save(str(tmp_path / "static"))
    with pytest.raises(
        InputError, match=r"cannot be trained with gradient caching .*StaticEmbedding.*leave out --mini-b"
    ):
        train(train_options(str(tmp_path / "static"), pairs, tmp_path / "out", mini_batch_size=4), Reporter())
    done = train(train_options(str(tmp_path / "static"), pairs, tmp_path / "out"), Reporter())
    assert done.calibration.dimensions == 20


@pytest.mark.parametrize("with_selection", [False, True])
def test_diverged_training_raises_and_is_not_saved(
    model: str, pairs: Path, tmp_path: Path, with_selection: bool
) -> None:
    settings: dict[str, Any] = {"learning_rate": 1e20, "evaluation": pairs if with_selection else None}
    with pytest.raises(
        InputError,
        match=r"diverged: after step 2 .*; start over with --restart and a --learning-rate below 1e\+20",
    ):
        train(train_options(model, pairs, tmp_path / "out", **settings), Reporter())
    assert not list((tmp_path / "out" / "checkpoints").glob("checkpoint-*"))


def test_quiet_prints_nothing(model: str, pairs: Path, tmp_path: Path) -> None:
    arguments = ["train", "--model", model, "--data", str(pairs), "--output", str(tmp_path / "out"), "--steps", "2"]
    result = CliRunner().invoke(main, [*arguments, "--batch-size", "8", "-q"])
    assert (result.exit_code, result.output) == (0, "")
