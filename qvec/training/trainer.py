"""The trainer of sentence-transformers, as `qvec train` runs it."""

from __future__ import annotations

from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from torch import nn
from transformers import PrinterCallback, TrainerCallback

from qvec.embedding.hub import load, quiet
from qvec.errors import InputError
from qvec.ingest.load_options import Reporter
from qvec.training import checkpoints, prompts
from qvec.training.callback import QuantizationCallback, restore_state
from qvec.training.loss import QuantizationAwareLoss
from qvec.training.material import Material
from qvec.training.measure import batch_size_of
from qvec.training.options import TrainOptions
from qvec.training.pairs import Pairs
from qvec.training.schedules import Schedule, constant, linear, staged
from qvec.training.selection import EvaluateLast

_WARMUP_SHARE = 0.1
_LOGS = 40
"""How often a training reports its losses."""


@dataclass(frozen=True)
class Done:
    """The step that a training began at, and that of the checkpoint which was selected, if one was."""

    resumed_at: int
    selected: int | None


def loss_of(model: Any, pairs: Pairs, options: TrainOptions) -> QuantizationAwareLoss:
    """The quantization-aware loss that the options and the pairs ask for."""
    return QuantizationAwareLoss(
        model,
        _wrapped_loss(model, pairs, options),
        precisions=options.precisions,
        weights=options.weights,
        schedule=_schedule(options),
        asymmetric=options.asymmetric,
        calibration=options.ranges,
        threshold=options.threshold,
    )


def _wrapped_loss(model: Any, pairs: Pairs, options: TrainOptions) -> nn.Module:
    if options.mini_batch_size:
        return _cached_loss(model, pairs, options.mini_batch_size)
    return losses.CoSENTLoss(model) if pairs.scores is not None else losses.MultipleNegativesRankingLoss(model)


def _cached_loss(model: Any, pairs: Pairs, mini_batch_size: int) -> nn.Module:
    if pairs.scores is not None:
        raise InputError("scored pairs are not trained by gradient caching; leave out --mini-batch-size")
    try:
        return losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=mini_batch_size)
    except ValueError as error:  # a model whose inputs are no batches, as one of static embeddings
        raise InputError(
            f"the model cannot be trained by gradient caching ({error}); leave out --mini-batch-size"
        ) from None


def _schedule(options: TrainOptions) -> Schedule:
    if options.schedule == "staged":
        return staged(options.starts)
    if options.schedule == "linear":
        return linear(options.warmup_steps or max(1, options.steps // 2))
    return constant()


def finished(loss: QuantizationAwareLoss, folder: Path, options: TrainOptions) -> tuple[Any, Done] | None:
    """The model of a training that has done all of its steps, with the loss's ranges as they ended; else None."""
    last = checkpoints.latest(folder)
    if last is None or checkpoints.step_of(last) < options.steps:
        return None
    best = checkpoints.best(last)
    restore_state(loss, best or last)
    done = Done(checkpoints.step_of(last), checkpoints.step_of(best) if best else None)
    return load(str(best or last)), done


def run_trainer(
    model: Any, loss: QuantizationAwareLoss, material: Material, folder: Path, options: TrainOptions, reporter: Reporter
) -> Done:
    """Trains the model in place, from the last checkpoint or from the start.

    With a selection the model, and the loss's ranges, end as they were in the checkpoint that was selected.
    """
    last = checkpoints.latest(folder)
    with quiet():
        trainer = _trainer(model, loss, material, folder, options)
        trainer.add_callback(_Progress(reporter, options.steps))
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    model.eval()
    best = trainer.state.best_model_checkpoint
    return Done(checkpoints.step_of(last) if last else 0, checkpoints.step_of(Path(best)) if best else None)


def _trainer(model: Any, loss: QuantizationAwareLoss, material: Material, folder: Path, options: TrainOptions) -> Any:
    pairs, selection = material.pairs, material.selection
    columns: dict[str, Any] = dict(pairs.texts)
    if pairs.scores is not None:
        columns["label"] = pairs.scores
    around = losses.MatryoshkaLoss(model, loss, [loss.dimensions, *options.matryoshka]) if options.matryoshka else loss
    with redirect_stderr(StringIO()):  # it shows a bar over what it takes for the model's card
        trainer = SentenceTransformerTrainer(
            model=model,
            args=_arguments(model, material, folder, options),
            train_dataset=Dataset.from_dict(columns),
            loss=around,
            evaluator=selection.evaluator(loss.to_calibration, batch_size_of(model)) if selection else None,
            callbacks=[
                *([EvaluateLast()] if selection else []),
                _Diverging(model, pairs, options),
                QuantizationCallback(loss),
            ],
        )
    trainer.remove_callback(PrinterCallback)  # it prints to standard output
    return trainer


def _arguments(model: Any, material: Material, folder: Path, options: TrainOptions) -> Any:
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup_steps=int(_WARMUP_SHARE * options.steps),
        # A text twice in a batch would be its own negative.
        batch_sampler=BatchSamplers.BATCH_SAMPLER if material.pairs.scores is not None else BatchSamplers.NO_DUPLICATES,
        save_strategy="steps",
        save_steps=options.save_every,
        save_total_limit=2,
        logging_steps=max(1, options.steps // _LOGS),
        seed=options.seed,
        data_seed=options.seed,
        report_to="none",
        disable_tqdm=True,
        use_cpu=model.device.type == "cpu",
        dataloader_pin_memory=model.device.type == "cuda",
        **prompts.trainer_arguments(model, material.pairs),
        **(material.selection.trainer_arguments(options.save_every) if material.selection else {}),
    )


class _Diverging(TrainerCallback):  # type: ignore[misc]
    """Ends a training with an InputError, before a checkpoint is evaluated or saved that embeds a text as NaN."""

    def __init__(self, model: Any, pairs: Pairs, options: TrainOptions) -> None:
        self._model = model
        self._text = pairs.documents[0]
        self._learning_rate = options.learning_rate

    def on_step_end(self, _args: Any, state: Any, control: Any, **_others: Any) -> None:
        last = state.global_step >= state.max_steps
        if (control.should_evaluate or control.should_save or last) and not self._embeds():
            raise InputError(
                f"the training diverged: after step {state.global_step:,} the model's embeddings hold NaN or infinity; "
                f"begin anew with a lower --learning-rate than {self._learning_rate:g}, and with --restart"
            )

    def _embeds(self) -> bool:
        embedding = self._model.encode_document(self._text, convert_to_tensor=True, show_progress_bar=False)
        self._model.train()
        return bool(embedding.isfinite().all())


class _Progress(TrainerCallback):  # type: ignore[misc]
    """Passes the trainer's steps and losses on to a reporter."""

    def __init__(self, reporter: Reporter, steps: int) -> None:
        self._reporter = reporter
        self._steps = steps

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_others: Any) -> None:
        self._reporter.stage("training", self._steps)
        self._reporter.advance("training", state.global_step)

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_others: Any) -> None:
        self._reporter.advance("training", state.global_step)

    def on_train_end(self, _args: Any, _state: Any, _control: Any, **_others: Any) -> None:
        self._reporter.finish("training")

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            known = {"loss", "grad_norm", "learning_rate", "epoch"}
            parts = [f"{name} {value:.4f}" for name, value in logs.items() if name not in known]
            self._reporter.say(f"step {state.global_step:,}: loss {logs['loss']:.4f} ({', '.join(parts)})")
