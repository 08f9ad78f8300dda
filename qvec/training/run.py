"""Training a model for its codes, from a file of pairs to a folder that holds model, calibrations and card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars
from transformers import set_seed
from transformers.utils.logging import disable_progress_bar

from qvec.calibration import Calibration
from qvec.embedding.hub import load, quiet
from qvec.errors import InputError
from qvec.ingest.load_options import Reporter
from qvec.training import checkpoints
from qvec.training.card import Table, write_card
from qvec.training.loss import metric_of
from qvec.training.material import Material, read_material
from qvec.training.measure import embed, fitted, measured
from qvec.training.options import TrainOptions
from qvec.training.trainer import finished, loss_of, run_trainer


@dataclass(frozen=True)
class Trained:
    """A finished training: the folder of the model, its calibration, tables of precisions (of whole embeddings, then of
    each Matryoshka prefix), the step it began at, and the step of the checkpoint that was selected, if one was."""

    folder: Path
    calibration: Calibration
    tables: tuple[Table, ...]
    resumed_at: int
    selected: int | None


def train(options: TrainOptions, reporter: Reporter) -> Trained:
    """Trains, or goes on from the last checkpoint, and saves model, calibrations and card in `options.output`.

    A training that is finished is only measured and saved again.

    Raises InputError where the data or the settings do not fit.
    """
    disable_progress_bar()
    disable_progress_bars()
    set_seed(options.seed)
    material = read_material(options)
    folder = checkpoints.prepare(options)
    model = load(options.model)
    loss = loss_of(model, material.pairs, options)
    widths = [loss.dimensions, *_prefixes(options, loss.dimensions)]
    before = _measured(model, material, dict.fromkeys(widths), options, reporter)
    ended = finished(loss, folder, options)
    if ended is not None:
        model, done = ended
        reporter.say(f"the training was finished at step {options.steps:,}; its folder is written anew")
    else:
        done = run_trainer(model, loss, material, folder, options, reporter)
    calibrations = {width: loss.to_calibration(width) for width in widths}
    after = _measured(model, material, calibrations, options, reporter)
    tables = tuple(
        Table(width, material.measure, material.described, before[width][0], *after[width]) for width in widths
    )
    with quiet():
        model.save_pretrained(str(options.output))
    loss.save_calibrations(options.output)
    whole = calibrations[loss.dimensions]
    write_card(options.output, options, tables, whole, material.chosen(done.selected))
    return Trained(options.output, whole, tables, done.resumed_at, done.selected)


def _prefixes(options: TrainOptions, dimensions: int) -> tuple[int, ...]:
    for width in options.matryoshka:
        if not 0 < width < dimensions:
            raise InputError(f"a Matryoshka prefix has {width} dimensions, expected 1 to {dimensions - 1}")
    return options.matryoshka


def _measured(
    model: Any,
    material: Material,
    calibrations: Mapping[int, Calibration | None],
    options: TrainOptions,
    reporter: Reporter,
) -> dict[int, tuple[list[float], list[float]]]:
    """By length of embeddings, the numbers of a calibration fitted afterwards, and those of the one given."""
    reporter.say("measuring " + ("the trained model" if any(calibrations.values()) else "the model as it is"))
    data = material.evaluation
    with quiet():
        embedded = embed(model, data)
    found = {}
    for width, calibration in calibrations.items():
        whole = width == embedded.documents.shape[1]
        afterwards = fitted(embedded.documents, metric_of(model), options.seed, None if whole else width)
        trained = measured(embedded, data, calibration) if calibration else []
        found[width] = measured(embedded, data, afterwards), trained
    return found
