"""What goes on around the loss while sentence-transformers' trainer trains: steps, freezing, checkpoints."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from qvec.errors import InputError
from qvec.training.loss import QuantizationAwareLoss
from qvec.training.ranges import TrainingRanges

STATE_FILE = "qvec_ranges.pt"
_TRAINER_STATE_FILE = "trainer_state.json"


class QuantizationCallback(TrainerCallback):  # type: ignore[misc]
    """Goes with a `QuantizationAwareLoss` into the trainer: tells it the steps, logs its precisions, keeps its ranges.

    Every checkpoint gets the ranges, and the calibrations as they stand, so that its folder can be used like that of
    the finished model. A training that is resumed goes on with the ranges of its checkpoint; one that ends with its
    best checkpoint (`load_best_model_at_end`) ends with the ranges of that. At the end the calibrations lie in the
    trainer's `output_dir`, where `trainer.save_model()` puts the model; the trainer tells nobody of a model that is
    saved elsewhere: `loss.save_calibrations(folder)` puts them there.

    Ranges are frozen for the last share of the steps (`frozen_share`, default a tenth).
    """

    def __init__(self, loss: QuantizationAwareLoss, frozen_share: float = 0.1) -> None:
        self._loss = loss
        self._frozen_share = frozen_share
        self._batches = 0
        self._restored = False

    def restore(self, checkpoint: str | Path) -> None:
        """Takes up the ranges of a checkpoint. Needed only before resuming from one outside of `output_dir`.

        Raises InputError when it holds none.
        """
        restore_state(self._loss, Path(checkpoint))
        self._restored = True

    def on_train_begin(self, args: Any, state: Any, _control: Any, **_others: Any) -> None:
        self._batches = 0
        if state.global_step and not self._restored:
            checkpoint = _checkpoint(args, state)
            if not _is_of(checkpoint, state):
                raise InputError(
                    f"the training goes on at step {state.global_step:,}, but {checkpoint} is not where it stopped, so "
                    "its ranges are not known; give QuantizationCallback.restore the checkpoint first"
                )
            restore_state(self._loss, checkpoint)
        self._restored = False

    def on_step_begin(self, _args: Any, state: Any, _control: Any, **_others: Any) -> None:
        self._loss.step = state.global_step
        if state.max_steps and state.global_step >= (1 - self._frozen_share) * state.max_steps:
            self._loss.freeze()

    def on_substep_end(self, _args: Any, _state: Any, _control: Any, **_others: Any) -> None:
        self._batches += 1

    def on_step_end(self, _args: Any, _state: Any, _control: Any, **_others: Any) -> None:
        self._batches += 1

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Adds the precisions of a loss inside MatryoshkaLoss; others the trainer has logged itself."""
        if not logs or "loss" not in logs:
            return
        batches, self._batches = self._batches, 0
        means = {name: total / batches for name, total in self._loss.take_noted().items()}
        logs.update(means)
        state.log_history[-1].update(means)

    def on_save(self, args: Any, state: Any, _control: Any, **_others: Any) -> None:
        if state.is_world_process_zero:
            folder = _checkpoint(args, state)
            self._loss.save_calibrations(folder)
            save_state(self._loss, folder)

    def on_train_end(self, args: Any, state: Any, _control: Any, **_others: Any) -> None:
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            restore_state(self._loss, Path(state.best_model_checkpoint))
        if state.is_world_process_zero:
            self._loss.save_calibrations(args.output_dir)


def save_state(loss: QuantizationAwareLoss, folder: Path) -> None:
    """Writes the ranges of a loss, of every length of embeddings, into a folder: whole or not at all."""
    state = {str(width): ranges.state() for width, ranges in loss.ranges.items()}
    temporary = folder / f".{STATE_FILE}"
    torch.save({"frozen": loss.frozen, "ranges": state}, temporary)
    os.replace(temporary, folder / STATE_FILE)


def restore_state(loss: QuantizationAwareLoss, folder: Path) -> None:
    """Takes up the ranges that `save_state` wrote. Raises InputError where there are none."""
    try:
        state = torch.load(folder / STATE_FILE, weights_only=True, map_location="cpu")  # written on any device
    except FileNotFoundError:
        raise InputError(
            f"{folder} has no {STATE_FILE}; its training had no QuantizationCallback, or it was not written whole"
        ) from None
    loss.frozen = state["frozen"]
    for width, kept in state["ranges"].items():
        loss.ranges[int(width)] = ranges = TrainingRanges(loss.method, loss.threshold, loss.metric)
        ranges.restore(kept)


def _checkpoint(args: Any, state: Any) -> Path:
    """Where the trainer writes the checkpoint of its present step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _is_of(checkpoint: Path, state: Any) -> bool:
    """Whether a checkpoint is the one that a trainer's state was read from: no callback is told which that was."""
    try:
        written = json.loads((checkpoint / _TRAINER_STATE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    return json.dumps(written["log_history"]) == json.dumps(state.log_history)  # as text NaN equals itself
