"""The calibrations in a model's folder: one for whole embeddings and one for each Matryoshka prefix."""

from __future__ import annotations

from pathlib import Path

from qvec.calibration import Calibration

FILE = "qvec.safetensors"
_PREFIX_FILE = "qvec-{}.safetensors"


def save_calibration(calibration: Calibration, folder: Path) -> None:
    """Write a calibration into a model's folder; one that was cut from longer embeddings is for a prefix."""
    is_prefix = "cut_from" in calibration.description
    calibration.save(folder / (_PREFIX_FILE.format(calibration.dimensions) if is_prefix else FILE))


def find_calibration(model: str | None, dimensions: int | None = None) -> Calibration | None:
    """Return the calibration in a model's folder for a prefix of `dimensions`, or else for whole embeddings.

    Return None if the model is not a folder or has no calibration. Raise CalibrationError if the file is damaged.
    """
    if model is None:
        return None
    folder = Path(model).expanduser()
    paths = [folder / _PREFIX_FILE.format(dimensions), folder / FILE]
    return next((Calibration.load(path) for path in paths if path.is_file()), None)
