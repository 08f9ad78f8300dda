"""The calibration that a model trained for its codes carries in its own folder."""

from __future__ import annotations

from pathlib import Path

from qvec.calibration import Calibration

FILE = "qvec.safetensors"


def save_calibration(calibration: Calibration, folder: Path) -> None:
    """Writes the calibration of the model in a folder."""
    calibration.save(folder / FILE)


def find_calibration(model: str | None) -> Calibration | None:
    """The calibration of a model that is a folder and holds one. Raises CalibrationError for one that is damaged."""
    if model is None:
        return None
    path = Path(model).expanduser() / FILE
    return Calibration.load(path) if path.is_file() else None
