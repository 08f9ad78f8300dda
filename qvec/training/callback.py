"""The trainer callback of a quantization-aware loss, and the file in which checkpoints keep its ranges."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from qvec.errors import InputError
from qvec.training.loss import QuantizationAwareLoss

RANGES_FILE = "qvec_ranges.pt"
TRAINER_STATE_FILE = "trainer_state.json"


class QuantizationCallback(TrainerCallback):  # type: ignore[misc]
    """Connects a `QuantizationAwareLoss` to the trainer: passes on steps, logs precisions, saves and restores ranges.

    Every checkpoint contains the ranges and the current calibrations, so that its folder can be used like that of the
    finished model. A resumed training continues with the ranges of its checkpoint; a training with
    `load_best_model_at_end` ends with the ranges of the best one. At the end the calibrations are written to the
    trainer's `output_dir`, where `trainer.save_model()` saves the model. For a model saved elsewhere, call
    `loss.save_calibrations(folder)`, because the trainer does not notify callbacks of it.

    Ranges are frozen for the last `frozen_share` of the steps.
    """

    def __init__(self, loss: QuantizationAwareLoss, frozen_share: float = 0.1) -> None:
        self._loss = loss
        self._frozen_share = frozen_share
        self._batches = 0
        self._restored = False

    def restore(self, checkpoint: str | Path) -> None:
        """Load the ranges of a checkpoint; needed only before resuming from a checkpoint outside `output_dir`.

        Raise InputError if the checkpoint has no ranges.
        """
        load_ranges(self._loss, Path(checkpoint))
        self._restored = True

    def on_train_begin(self, args: Any, state: Any, _control: Any, **_others: Any) -> None:
        self._batches = 0
        if state.global_step and not self._restored:
            checkpoint = _checkpoint_folder(args, state)
            if not _has_state(checkpoint, state):
                raise InputError(
                    f"the training resumes at step {state.global_step:,}, but not from {checkpoint}, so its ranges are "
                    "unknown; call QuantizationCallback.restore with the checkpoint first"
                )
            load_ranges(self._loss, checkpoint)
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
        """Add the precisions of a loss inside MatryoshkaLoss; otherwise the trainer logs them itself."""
        if not logs or "loss" not in logs:
            return
        batches, self._batches = self._batches, 0
        means = {name: total / batches for name, total in self._loss.pop_unlogged().items()}
        logs.update(means)
        state.log_history[-1].update(means)

    def on_save(self, args: Any, state: Any, _control: Any, **_others: Any) -> None:
        if state.is_world_process_zero:
            folder = _checkpoint_folder(args, state)
            self._loss.save_calibrations(folder)
            save_ranges(self._loss, folder)

    def on_train_end(self, args: Any, state: Any, _control: Any, **_others: Any) -> None:
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            load_ranges(self._loss, Path(state.best_model_checkpoint))
        if state.is_world_process_zero:
            self._loss.save_calibrations(args.output_dir)


def save_ranges(loss: QuantizationAwareLoss, folder: Path) -> None:
    """Atomically write the loss's ranges, for every length of embeddings, into a folder."""
    ranges = {str(width): tracker.state_dict() for width, tracker in loss.ranges.items()}
    temporary = folder / f".{RANGES_FILE}"
    torch.save({"frozen": loss.frozen, "ranges": ranges}, temporary)
    os.replace(temporary, folder / RANGES_FILE)


def load_ranges(loss: QuantizationAwareLoss, folder: Path) -> None:
    """Load the ranges that `save_ranges` wrote. Raise InputError if the folder has none."""
    try:
        state = torch.load(folder / RANGES_FILE, weights_only=True, map_location="cpu")  # may come from any device
    except FileNotFoundError:
        raise InputError(
            f"{folder} has no {RANGES_FILE}: it was trained without QuantizationCallback, or writing it was interrupted"
        ) from None
    loss.frozen = state["frozen"]
    loss.ranges = {}
    for width, ranges in state["ranges"].items():
        loss.tracker(int(width)).load_state_dict(ranges)


def _checkpoint_folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _has_state(checkpoint: Path, state: Any) -> bool:
    """Whether the trainer's state was read from this checkpoint; the trainer does not tell callbacks from which."""
    try:
        written = json.loads((checkpoint / TRAINER_STATE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    return json.dumps(written["log_history"]) == json.dumps(state.log_history)  # as text, so that NaN equals NaN
