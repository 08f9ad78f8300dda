"""A training run: from a file of pairs to a folder with the model, its calibrations and its card."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from datasets import disable_progress_bars
from transformers import set_seed
from transformers.utils.logging import disable_progress_bar

from qvec.calibration import Calibration
from qvec.embedding.sentence_transformer import load_sentence_transformer, quiet
from qvec.errors import InputError
from qvec.ingest.load_options import Reporter
from qvec.training import checkpoints
from qvec.training.card import PrecisionTable, write_card
from qvec.training.loss import QuantizationAwareLoss
from qvec.training.scoring import Embeddings, embed_texts, measure_precisions
from qvec.training.split import TrainingData, read_training_data
from qvec.training.train_options import TrainOptions
from qvec.training.trainer import make_loss, train_model


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    tables: the measured precisions of whole embeddings, then of each Matryoshka prefix. resumed_at: the step at which
    this run started. selected: the step of the selected checkpoint, if there was a selection.
    """

    folder: Path
    calibration: Calibration
    tables: tuple[PrecisionTable, ...]
    resumed_at: int
    selected: int | None


def train(options: TrainOptions, reporter: Reporter) -> TrainResult:
    """Train, or resume from the last checkpoint, and save model, calibrations and card in `options.output`.

    If the training was finished before, measure and save it again. Raise InputError if the options or the data are
    invalid, or if the training diverges.
    """
    disable_progress_bar()
    disable_progress_bars()
    set_seed(options.seed)
    data = read_training_data(options)
    checkpoints.prepare_folder(options)
    model = load_sentence_transformer(options.model)
    loss = make_loss(model, data.pairs, options)
    widths = (loss.dimensions, *_checked_prefixes(options.matryoshka, loss.dimensions))
    reporter.say("measuring the original model")
    before = _measure_ptq(embed_texts(model, data.evaluation), data, loss, widths, options.seed)
    last = checkpoints.latest(options)
    model, best = train_model(model, loss, data, last, options, reporter)
    resumed_at, selected = (checkpoints.step_of(each) if each else None for each in (last, best))
    reporter.say("measuring the trained model")
    calibrations = {width: loss.to_calibration(width) for width in widths}
    embeddings = embed_texts(model, data.evaluation)
    after = _measure_ptq(embeddings, data, loss, widths, options.seed)
    trained = {width: measure_precisions(embeddings, data.evaluation, calibrations[width]) for width in widths}
    tables = tuple(
        PrecisionTable(width, data.measure, data.described, before[width], after[width], trained[width])
        for width in widths
    )
    with quiet():
        model.save_pretrained(str(options.output))
    loss.save_calibrations(options.output)
    calibration = calibrations[loss.dimensions]
    write_card(options.output, options, tables, calibration, data.describe_checkpoint(selected))
    return TrainResult(options.output, calibration, tables, resumed_at or 0, selected)


def _checked_prefixes(prefixes: tuple[int, ...], dimensions: int) -> tuple[int, ...]:
    for width in prefixes:
        if not 0 < width < dimensions:
            raise InputError(f"a Matryoshka prefix has {width} dimensions, expected 1 to {dimensions - 1}")
    return prefixes


def _measure_ptq(
    embeddings: Embeddings, data: TrainingData, loss: QuantizationAwareLoss, widths: Iterable[int], seed: int
) -> dict[int, list[float]]:
    """Measure post-training quantization by length: precisions with ranges fitted afterwards, as `qvec ingest` does."""
    documents = embeddings[1].numpy()
    measured = {}
    for width in widths:
        dimensions = None if width == documents.shape[1] else width
        fitted = Calibration.fit(documents, metric=loss.metric, seed=seed, dimensions=dimensions)
        measured[width] = measure_precisions(embeddings, data.evaluation, fitted)
    return measured
