"""The trainer of sentence-transformers, set up and run for `qvec train`."""

from __future__ import annotations

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from torch import nn
from transformers import PrinterCallback, TrainerCallback

from qvec.embedding.sentence_transformer import load_sentence_transformer, quiet
from qvec.errors import InputError
from qvec.ingest.load_options import Reporter
from qvec.training import checkpoints
from qvec.training.callback import QuantizationCallback, load_ranges
from qvec.training.loss import QuantizationAwareLoss, Schedule, constant, linear, staged
from qvec.training.scoring import batch_size_for
from qvec.training.split import TrainingData
from qvec.training.text_datasets import TextPairs
from qvec.training.train_options import TrainOptions

TextKind = Literal["query", "document"]

_PROMPT_NAMES: dict[TextKind, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}
"""Names of prompts, in the order in which `encode_query` and `encode_document` look for them."""
_WARMUP_SHARE = 0.1
_LOG_COUNT = 40
"""How often a training reports its losses."""


def make_loss(model: Any, pairs: TextPairs, options: TrainOptions) -> QuantizationAwareLoss:
    """Return the quantization-aware loss for these options and pairs."""
    return QuantizationAwareLoss(
        model,
        _wrapped_loss(model, pairs, options.mini_batch_size),
        precisions=options.precisions,
        weights=options.weights,
        schedule=_schedule(options),
        asymmetric=options.asymmetric,
        calibration=options.ranges,
        threshold=options.threshold,
    )


def train_model(
    model: Any,
    loss: QuantizationAwareLoss,
    data: TrainingData,
    last: Path | None,
    options: TrainOptions,
    reporter: Reporter,
) -> tuple[Any, Path | None]:
    """Train the model from the checkpoint `last` if there is one; only load it if its training has finished.

    Return the trained model and the selected checkpoint, if there was a selection. The loss's ranges end as those of
    the returned model.
    """
    if last is not None and checkpoints.step_of(last) >= options.steps:
        reporter.say(f"the training had finished at step {options.steps:,}; writing its folder again")
        best = checkpoints.best(last)
        load_ranges(loss, best or last)
        return load_sentence_transformer(str(best or last)), best
    with quiet():
        trainer = _make_trainer(model, loss, data, options)
        trainer.add_callback(_ProgressCallback(reporter, options.steps))
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    model.eval()
    best_checkpoint = trainer.state.best_model_checkpoint
    return model, Path(best_checkpoint) if best_checkpoint else None


def _wrapped_loss(model: Any, pairs: TextPairs, mini_batch_size: int | None) -> nn.Module:
    if mini_batch_size is None:
        return losses.CoSENTLoss(model) if pairs.scores is not None else losses.MultipleNegativesRankingLoss(model)
    if pairs.scores is not None:
        raise InputError("scored pairs cannot be trained with gradient caching; leave out --mini-batch-size")
    try:
        return losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=mini_batch_size)
    except ValueError as error:  # e.g. a model of static embeddings, whose inputs cannot be split
        raise InputError(
            f"the model cannot be trained with gradient caching ({error}); leave out --mini-batch-size"
        ) from None


def _schedule(options: TrainOptions) -> Schedule:
    if options.schedule == "staged":
        return staged(options.starts)
    if options.schedule == "linear":
        return linear(options.warmup_steps or max(1, options.steps // 2))
    return constant()


def _make_trainer(model: Any, loss: QuantizationAwareLoss, data: TrainingData, options: TrainOptions) -> Any:
    columns: dict[str, Any] = dict(data.pairs.texts)
    if data.pairs.scores is not None:
        columns["label"] = data.pairs.scores
    outer = losses.MatryoshkaLoss(model, loss, [loss.dimensions, *options.matryoshka]) if options.matryoshka else loss
    selection = data.selection
    with redirect_stderr(StringIO()):  # the trainer shows a progress bar while it reads data for the model card
        trainer = SentenceTransformerTrainer(
            model=model,
            args=_trainer_arguments(model, data, options),
            train_dataset=Dataset.from_dict(columns),
            loss=outer,
            evaluator=selection.evaluator(loss.to_calibration, batch_size_for(model)) if selection else None,
            callbacks=[
                *([_EvaluateLastStep()] if selection else []),
                _DivergenceCallback(model, data.pairs.documents[0], options.learning_rate),
                QuantizationCallback(loss),
            ],
        )
    trainer.remove_callback(PrinterCallback)  # it prints to standard output
    return trainer


def _trainer_arguments(model: Any, data: TrainingData, options: TrainOptions) -> Any:
    return SentenceTransformerTrainingArguments(
        output_dir=str(checkpoints.folder_of(options)),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup_steps=int(_WARMUP_SHARE * options.steps),
        # A text that occurs twice in a batch would be its own negative.
        batch_sampler=BatchSamplers.BATCH_SAMPLER if data.pairs.scores is not None else BatchSamplers.NO_DUPLICATES,
        save_strategy="steps",
        save_steps=options.save_every,
        save_total_limit=2,
        logging_steps=max(1, options.steps // _LOG_COUNT),
        seed=options.seed,
        data_seed=options.seed,
        report_to="none",
        disable_tqdm=True,
        use_cpu=model.device.type == "cpu",
        dataloader_pin_memory=model.device.type == "cuda",
        **_prompt_arguments(model, data.pairs),
        **(data.selection.trainer_arguments(options.save_every) if data.selection else {}),
    )


def _prompt_arguments(model: Any, pairs: TextPairs) -> dict[str, Any]:
    """Make the trainer embed each column like `encode_query` or `encode_document`, with prompts and Router modules.

    The first column holds queries and the others documents. Both texts of a scored pair are documents, because the
    score is symmetric and documents are what is stored.
    """
    first, *others = pairs.texts
    first_kind: TextKind = "query" if pairs.scores is None else "document"
    kinds: dict[str, TextKind] = {first: first_kind, **dict.fromkeys(others, "document")}
    prompts = {column: _prompt(model, kind) for column, kind in kinds.items()}
    has_router = any(isinstance(module, Router) for module in model.children())
    return {
        "prompts": {column: prompt for column, prompt in prompts.items() if prompt} or None,
        "router_mapping": kinds if has_router else None,
    }


def _prompt(model: Any, kind: TextKind) -> str | None:
    name = next((name for name in _PROMPT_NAMES[kind] if name in model.prompts), model.default_prompt_name)
    return None if name is None else model.prompts[name]


class _EvaluateLastStep(TrainerCallback):  # type: ignore[misc]
    """Evaluates the last step too, because it is also a checkpoint to select from."""

    def on_step_end(self, _args: Any, state: Any, control: Any, **_others: Any) -> None:
        control.should_evaluate |= state.global_step >= state.max_steps


class _DivergenceCallback(TrainerCallback):  # type: ignore[misc]
    """Raises InputError, before a checkpoint is evaluated or saved, if the model embeds a text as NaN or infinity."""

    def __init__(self, model: Any, text: str, learning_rate: float) -> None:
        self._model = model
        self._text = text
        self._learning_rate = learning_rate

    def on_step_end(self, _args: Any, state: Any, control: Any, **_others: Any) -> None:
        is_last = state.global_step >= state.max_steps
        if (control.should_evaluate or control.should_save or is_last) and not self._embedding_is_finite():
            raise InputError(
                f"the training diverged: after step {state.global_step:,} the model's embeddings hold NaN or infinity; "
                f"start over with --restart and a --learning-rate below {self._learning_rate:g}"
            )

    def _embedding_is_finite(self) -> bool:
        embedding = self._model.encode_document(self._text, convert_to_tensor=True, show_progress_bar=False)
        self._model.train()
        return bool(embedding.isfinite().all())


class _ProgressCallback(TrainerCallback):  # type: ignore[misc]
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
            other = {"loss", "grad_norm", "learning_rate", "epoch"}
            parts = [f"{name} {value:.4f}" for name, value in logs.items() if name not in other]
            self._reporter.say(f"step {state.global_step:,}: loss {logs['loss']:.4f} ({', '.join(parts)})")
