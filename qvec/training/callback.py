"""What goes on around the loss while sentence-transformers' trainer trains: steps, freezing, checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from qvec.model_folder import save_calibration
from qvec.training.loss import QuantizationAwareLoss
from qvec.training.ranges import TrainingRanges

STATE_FILE = "qvec_ranges.pt"


class QuantizationCallback(TrainerCallback):  # type: ignore[misc]
    """Tells a `QuantizationAwareLoss` the trainer's step, logs its precisions, keeps its ranges in every checkpoint.

    Ranges are frozen for the last share of the steps (`frozen_share`, default a tenth). A checkpoint also gets the
    calibration as it stands, so that its folder can be used like that of the finished model.
    """

    def __init__(self, loss: QuantizationAwareLoss, frozen_share: float = 0.1) -> None:
        self._loss = loss
        self._frozen_share = frozen_share
        self._logged = 0

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_others: Any) -> None:
        self._logged = state.global_step

    def on_step_begin(self, _args: Any, state: Any, _control: Any, **_others: Any) -> None:
        self._loss.step = state.global_step
        if state.max_steps and state.global_step >= (1 - self._frozen_share) * state.max_steps:
            self._loss.freeze()

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Adds the precisions of a loss inside MatryoshkaLoss; others the trainer has logged itself."""
        if not logs or "loss" not in logs:
            return
        steps, self._logged = state.global_step - self._logged, state.global_step
        means = {name: total / steps for name, total in self._loss.take_noted().items()}
        logs.update(means)
        state.log_history[-1].update(means)

    def on_save(self, args: Any, state: Any, _control: Any, **_others: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        save_calibration(self._loss.to_calibration(), folder)
        save_state(self._loss, folder)


def save_state(loss: QuantizationAwareLoss, folder: Path) -> None:
    """Writes the ranges of a loss, of every length of embeddings, into a folder: whole or not at all."""
    state = {str(width): ranges.state() for width, ranges in loss.ranges.items()}
    temporary = folder / f".{STATE_FILE}"
    torch.save({"frozen": loss.frozen, "ranges": state}, temporary)
    os.replace(temporary, folder / STATE_FILE)


def restore_state(loss: QuantizationAwareLoss, folder: Path) -> None:
    """Takes up the ranges that `save_state` wrote: needed before a training goes on from a checkpoint."""
    state = torch.load(folder / STATE_FILE, weights_only=True)
    loss.frozen = state["frozen"]
    for width, kept in state["ranges"].items():
        loss.ranges[int(width)] = ranges = TrainingRanges(loss.method, loss.threshold, loss.metric)
        ranges.restore(kept)
