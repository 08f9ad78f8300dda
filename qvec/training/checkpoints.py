"""The checkpoints of `qvec train` in the output folder, with the settings that produced them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from qvec.errors import InputError
from qvec.training.callback import RANGES_FILE, TRAINER_STATE_FILE
from qvec.training.train_options import TrainOptions

_SETTINGS_FILE = "qvec_training.json"


def folder_of(options: TrainOptions) -> Path:
    """Return the folder of checkpoints."""
    return options.output / "checkpoints"


def prepare_folder(options: TrainOptions) -> None:
    """Create the folder of checkpoints, or check that a training in it can be resumed.

    Raise InputError if it holds checkpoints made with other settings or data, or if the output folder is not empty and
    holds no training.
    """
    folder = folder_of(options)
    settings = json.loads(json.dumps({**options.settings(), "data_sha256": _sha256(options.data)}))
    if options.restart:
        shutil.rmtree(folder, ignore_errors=True)
    elif (folder / _SETTINGS_FILE).exists():
        if latest(options) is not None:  # without a checkpoint, other settings do no harm
            existing = json.loads((folder / _SETTINGS_FILE).read_text(encoding="utf-8"))
            _check_same_settings(settings, existing, options.output)
    elif options.output.exists() and any(options.output.iterdir()):
        raise InputError(f"{options.output} is not empty and holds no training of qvec; give another --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _SETTINGS_FILE).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}") from None


def latest(options: TrainOptions) -> Path | None:
    """Return the last complete checkpoint; ranges are the last file of a checkpoint to be written."""
    complete = [found for found in folder_of(options).glob("checkpoint-*") if (found / RANGES_FILE).exists()]
    return max(complete, key=step_of, default=None)


def best(checkpoint: Path) -> Path | None:
    """Return the best checkpoint up to this one, in the same folder; None if there was no selection."""
    state = json.loads((checkpoint / TRAINER_STATE_FILE).read_text(encoding="utf-8"))
    found = state["best_model_checkpoint"]
    return None if found is None else checkpoint.with_name(Path(found).name)


def step_of(checkpoint: Path) -> int:
    """Return the number of steps before this checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])


def _check_same_settings(settings: dict[str, object], existing: dict[str, object], output: Path) -> None:
    for name, value in settings.items():
        if existing.get(name) != value:
            raise InputError(
                f"{output} holds a training with {name} {existing.get(name)!r}, not {value!r}; resume with the same "
                "settings, give another --output, or start over: --restart"
            )


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
