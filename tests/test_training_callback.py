"""The loss and its callback in the trainer of sentence-transformers: resuming, the best checkpoint, logging."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import DIMENSIONS

from qvec import Calibration, InputError
from qvec.model_folder import find_calibration

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")
pytest.importorskip("datasets")
pytest.importorskip("accelerate")

from datasets import Dataset  # noqa: E402
from sentence_transformers import (  # noqa: E402
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer import losses  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from qvec.training import (  # noqa: E402
    QuantizationAwareLoss,
    QuantizationCallback,
    QuantizedInformationRetrievalEvaluator,
)
from qvec.training.text_datasets import read_pairs, retrieval_from_pairs  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("fast_trainer"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::FutureWarning"),
]

OuterLoss = Callable[[Any, Any], Any]


class Stopping(TrainerCallback):  # type: ignore[misc]
    """Stops a training after a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, _args: Any, state: Any, control: Any, **_others: Any) -> None:
        control.should_training_stop |= state.global_step == self._step


class Training:
    """A training of a tiny model for eight steps, with a checkpoint after every second step."""

    def __init__(
        self,
        model: str,
        pairs: Path,
        output: Path,
        outer: OuterLoss = lambda _model, loss: loss,
        wrapped: Callable[[Any], Any] = losses.MultipleNegativesRankingLoss,
        stop: int | None = None,
        evaluator: Callable[[QuantizationAwareLoss], Any] = lambda _loss: None,
        **settings: Any,
    ) -> None:
        torch.manual_seed(0)
        self.model = SentenceTransformer(model, device="cpu")
        self.loss = QuantizationAwareLoss(self.model, wrapped(self.model))
        self.callback = QuantizationCallback(self.loss)
        data = Dataset.from_dict(read_pairs(pairs).texts)
        arguments = {
            "max_steps": 8,
            "save_steps": 2,
            "logging_steps": 2,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 8,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            **settings,
        }
        self.trainer = SentenceTransformerTrainer(
            model=self.model,
            args=SentenceTransformerTrainingArguments(output_dir=str(output), **arguments),
            train_dataset=data,
            eval_dataset=data.select(range(16)) if "eval_steps" in settings else None,
            loss=outer(self.model, self.loss),
            evaluator=evaluator(self.loss),
            callbacks=[self.callback, *([Stopping(stop)] if stop else [])],
        )


def weights(model: Any) -> Any:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def inside_matryoshka(model: Any, loss: Any) -> Any:
    return losses.MatryoshkaLoss(model, loss, [DIMENSIONS, 12])


def cached(model: Any) -> Any:
    return losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=3)


def test_resumed_training_restores_ranges(model: str, pairs: Path, tmp_path: Path) -> None:
    whole = Training(model, pairs, tmp_path / "whole")
    whole.trainer.train()
    Training(model, pairs, tmp_path / "parts", stop=4).trainer.train()
    resumed = Training(model, pairs, tmp_path / "parts")
    resumed.trainer.train(resume_from_checkpoint=True)
    assert resumed.loss.to_calibration() == whole.loss.to_calibration()
    assert torch.equal(weights(resumed.model), weights(whole.model))

    elsewhere = str(tmp_path / "parts" / "checkpoint-4")
    for output in (tmp_path / "empty", tmp_path / "whole"):  # the second holds another checkpoint of step 4
        moved = Training(model, pairs, output, seed=1)
        if output.exists():
            moved.trainer.train()
        with pytest.raises(InputError, match=r"resumes at step 4, but not from .*checkpoint-4, so its ranges are"):
            moved.trainer.train(resume_from_checkpoint=elsewhere)
    moved = Training(model, pairs, tmp_path / "empty")
    moved.callback.restore(elsewhere)
    moved.trainer.train(resume_from_checkpoint=elsewhere)
    assert moved.loss.to_calibration() == whole.loss.to_calibration()
    with pytest.raises(InputError, match=r"has no qvec_ranges\.pt"):
        moved.callback.restore(tmp_path)


def test_loading_best_model_restores_its_ranges(model: str, pairs: Path, tmp_path: Path) -> None:
    read = read_pairs(pairs)
    data = retrieval_from_pairs(read.queries, read.documents)

    def evaluator(loss: QuantizationAwareLoss) -> Any:
        return QuantizedInformationRetrievalEvaluator(
            data.queries, data.corpus, data.relevant, precision="binary", calibration=loss.to_calibration, name="dev"
        )

    training = Training(
        model,
        pairs,
        tmp_path / "out",
        evaluator=evaluator,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_dev_binary_ndcg@10",
        greater_is_better=False,  # so that an early checkpoint is the best
        learning_rate=5e-2,
    )
    training.trainer.train()
    best = training.trainer.state.best_model_checkpoint
    assert not best.endswith("-8")
    assert training.loss.to_calibration() == find_calibration(best)


def test_calibrations_are_saved_with_model(model: str, pairs: Path, tmp_path: Path) -> None:
    training = Training(model, pairs, tmp_path / "out", outer=inside_matryoshka)
    training.trainer.train()
    training.trainer.save_model()
    training.trainer.save_model(str(tmp_path / "elsewhere"))
    training.loss.save_calibrations(tmp_path / "elsewhere")
    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-8", tmp_path / "elsewhere"):
        assert (folder / "model.safetensors").is_file()
        for dimensions, file in ((DIMENSIONS, "qvec.safetensors"), (12, "qvec-12.safetensors")):
            assert Calibration.load(folder / file) == training.loss.to_calibration(dimensions)
            assert find_calibration(str(folder), dimensions) == training.loss.to_calibration(dimensions)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize(
    ("outer", "wrapped"),
    [
        (lambda _model, loss: loss, losses.MultipleNegativesRankingLoss),
        (inside_matryoshka, losses.MultipleNegativesRankingLoss),
        (inside_matryoshka, cached),
    ],
)
def test_loss_of_each_precision_is_logged(
    outer: OuterLoss, wrapped: Callable[[Any], Any], accumulated: int, model: str, pairs: Path, tmp_path: Path
) -> None:
    training = Training(
        model,
        pairs,
        tmp_path,
        outer=outer,
        wrapped=wrapped,
        eval_strategy="steps",
        eval_steps=1,
        gradient_accumulation_steps=accumulated,
        save_strategy="no",
    )
    training.trainer.train()
    logged = [entry for entry in training.trainer.state.log_history if "loss" in entry]
    assert len(logged) == 4
    for entry in logged:
        assert entry["loss"] == pytest.approx(entry["float32"] + entry["int8"] + entry["binary"], rel=1e-3)
