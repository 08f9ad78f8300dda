"""Where a training stands: its checkpoints, and the settings that they were made with."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from qvec.errors import InputError
from qvec.training.callback import STATE_FILE
from qvec.training.options import TrainOptions

FOLDER = "checkpoints"
_SETTINGS = "qvec_training.json"


def prepare(options: TrainOptions) -> Path:
    """The folder of the checkpoints, made for these settings.

    Raises InputError when it holds checkpoints of other settings or data, or when the output is something else.
    """
    folder = options.output / FOLDER
    settings = json.loads(json.dumps({**options.settings(), "data_sha256": _digest(options.data)}))
    if options.restart:
        shutil.rmtree(folder, ignore_errors=True)
    elif (folder / _SETTINGS).exists():
        if latest(folder) is not None:  # otherwise there is nothing that other settings could be mixed with
            _check_same(settings, json.loads((folder / _SETTINGS).read_text(encoding="utf-8")), options.output)
    elif options.output.exists() and any(options.output.iterdir()):
        raise InputError(f"{options.output} is not empty and holds no training of qvec; give another --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}") from None
    return folder


def latest(folder: Path) -> Path | None:
    """The last checkpoint that is whole: the ranges are what is written last."""
    whole = [found for found in folder.glob("checkpoint-*") if (found / STATE_FILE).exists()]
    return max(whole, key=step_of, default=None)


def best(checkpoint: Path) -> Path | None:
    """The best checkpoint up to this one, which lies beside it; None where none is selected."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    found = state["best_model_checkpoint"]
    return None if found is None else checkpoint.with_name(Path(found).name)


def step_of(checkpoint: Path) -> int:
    """The steps that were done when it was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _check_same(settings: dict[str, object], there: dict[str, object], output: Path) -> None:
    for name, value in settings.items():
        if there.get(name) != value:
            raise InputError(
                f"{output} holds a training with {name} {there.get(name)!r}, not {value!r}; go on with the same "
                "settings, give another --output, or begin anew: --restart"
            )


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
