"""The calibrations that a model trained for its codes carries in its own folder: one and, where it was trained for
Matryoshka prefixes, one for each of them."""

from __future__ import annotations

from pathlib import Path

from qvec.calibration import Calibration

FILE = "qvec.safetensors"
_PREFIX_FILE = "qvec-{}.safetensors"


def save_calibration(calibration: Calibration, folder: Path) -> None:
    """Writes the calibration of the model in a folder, or that of a prefix, which says what it was cut from."""
    prefix = "cut_from" in calibration.description
    calibration.save(folder / (_PREFIX_FILE.format(calibration.dimensions) if prefix else FILE))


def find_calibration(model: str | None, dimensions: int | None = None) -> Calibration | None:
    """The calibration of a model that is a folder and holds one; with `dimensions` that of the prefix, if it has it.

    Raises CalibrationError for one that is damaged.
    """
    if model is None:
        return None
    folder = Path(model).expanduser()
    paths = [folder / _PREFIX_FILE.format(dimensions), folder / FILE]
    return next((Calibration.load(path) for path in paths if path.is_file()), None)
