"""Training a model for its codes, from a file of pairs to a folder that holds model, calibration and card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, disable_progress_bars
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from torch import nn
from transformers import PrinterCallback, TrainerCallback, set_seed
from transformers.utils.logging import disable_progress_bar

from qvec.calibration import Calibration
from qvec.embedding.hub import load, quiet
from qvec.errors import InputError
from qvec.ingest.options import Reporter
from qvec.model_folder import save_calibration
from qvec.training import checkpoints
from qvec.training.callback import QuantizationCallback, restore_state
from qvec.training.card import Table, write_card
from qvec.training.loss import QuantizationAwareLoss, metric_of
from qvec.training.measure import embed, fitted, measured
from qvec.training.options import TrainOptions
from qvec.training.pairs import Pairs, read_pairs
from qvec.training.retrieval import Retrieval, read_retrieval, retrieval_of_pairs
from qvec.training.schedules import Schedule, constant, linear, staged

_HELD_OUT_SHARE = 10
_HELD_OUT_MOST = 500
_WARMUP_SHARE = 0.1
_LOGS = 40
"""How often a training reports its losses."""


@dataclass(frozen=True)
class Trained:
    """A finished training: the folder of the model, its calibration, the table of precisions, the step it began at."""

    folder: Path
    calibration: Calibration
    table: Table
    resumed_at: int


def train(options: TrainOptions, reporter: Reporter) -> Trained:
    """Trains, or goes on from the last checkpoint, and saves model, calibration and card in `options.output`.

    Raises InputError where the data or the settings do not fit.
    """
    disable_progress_bar()
    disable_progress_bars()
    set_seed(options.seed)
    pairs, evaluation, texts = _data(options)
    folder = checkpoints.prepare(options)
    model = load(options.model)
    loss = _loss(model, pairs, options)
    before, _ = _measured(model, evaluation, None, options, reporter)
    resumed_at = _run(model, loss, pairs, folder, options, reporter)
    calibration = loss.to_calibration()
    after, trained = _measured(model, evaluation, calibration, options, reporter)
    measure = "Spearman's correlation" if isinstance(evaluation, Pairs) else "nDCG@10"
    table = Table(measure, texts, before, after, trained)
    with quiet():
        model.save_pretrained(str(options.output))
    save_calibration(calibration, options.output)
    write_card(options.output, options, table, calibration)
    return Trained(options.output, calibration, table, resumed_at)


def _data(options: TrainOptions) -> tuple[Pairs, Retrieval | Pairs, str]:
    """What is trained on, what is evaluated on, and the latter in words."""
    pairs = read_pairs(options.data, options.columns)
    given = options.evaluation
    if given is not None and given.is_dir():
        return pairs, read_retrieval(given), f"{given.name}"
    if given is not None:
        held_out, where = read_pairs(given, options.columns), f"in {given.name}"
    else:
        pairs, held_out = pairs.split(min(len(pairs) // _HELD_OUT_SHARE, _HELD_OUT_MOST), options.seed)
        where = "held out"
    if len(held_out) < 2 or len(pairs) < options.batch_size:
        raise InputError(
            f"{options.data}: {len(pairs):,} pairs to train on and {len(held_out)} held out found, at least a batch of "
            f"{options.batch_size} and 2 wanted"
        )
    texts = f"{len(held_out):,} pairs {where}"
    if held_out.scores is not None:
        return pairs, held_out, texts
    return pairs, retrieval_of_pairs(held_out.queries, held_out.documents), texts


def _loss(model: Any, pairs: Pairs, options: TrainOptions) -> QuantizationAwareLoss:
    return QuantizationAwareLoss(
        model,
        _wrapped_loss(model, pairs, options),
        precisions=options.precisions,
        weights=options.weights,
        schedule=_schedule(options),
        asymmetric=options.asymmetric,
        calibration=options.ranges,
    )


def _wrapped_loss(model: Any, pairs: Pairs, options: TrainOptions) -> nn.Module:
    if pairs.scores is not None:
        return losses.CoSENTLoss(model)
    if options.mini_batch_size:
        return losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=options.mini_batch_size)
    return losses.MultipleNegativesRankingLoss(model)


def _schedule(options: TrainOptions) -> Schedule:
    if options.schedule == "staged":
        return staged(options.starts)
    if options.schedule == "linear":
        return linear(options.warmup_steps or max(1, options.steps // 2))
    return constant()


def _measured(
    model: Any, data: Retrieval | Pairs, calibration: Calibration | None, options: TrainOptions, reporter: Reporter
) -> tuple[list[float], list[float]]:
    """The numbers of a calibration fitted afterwards, and those of the one given."""
    reporter.say("measuring " + ("the trained model" if calibration else "the model as it is"))
    with quiet():
        embedded = embed(model, data, 16 if model.device.type == "cpu" else 128)
    afterwards = fitted(embedded.documents, metric_of(model), options.seed)
    return measured(embedded, data, afterwards), measured(embedded, data, calibration) if calibration else []


def _run(
    model: Any, loss: QuantizationAwareLoss, pairs: Pairs, folder: Path, options: TrainOptions, reporter: Reporter
) -> int:
    """Trains from the last checkpoint, or from the start; the step it began at."""
    last = checkpoints.latest(folder)
    if last is not None:
        restore_state(loss, last)
    columns: dict[str, Any] = dict(pairs.texts)
    if pairs.scores is not None:
        columns["label"] = pairs.scores
    with quiet():
        trainer = SentenceTransformerTrainer(
            model=model,
            args=_arguments(model, pairs, folder, options),
            train_dataset=Dataset.from_dict(columns),
            loss=loss,
            callbacks=[QuantizationCallback(loss), _Progress(reporter, options.steps)],
        )
        trainer.remove_callback(PrinterCallback)  # it prints to standard output
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    model.eval()
    return int(last.name.rpartition("-")[2]) if last else 0


def _arguments(model: Any, pairs: Pairs, folder: Path, options: TrainOptions) -> Any:
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup_steps=int(_WARMUP_SHARE * options.steps),
        # A text twice in a batch would be its own negative.
        batch_sampler=BatchSamplers.BATCH_SAMPLER if pairs.scores is not None else BatchSamplers.NO_DUPLICATES,
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
    )


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
