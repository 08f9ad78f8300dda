"""The runs of the study on training, kept in a folder: what each model made of the texts, and its ranges."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qvec import Calibration

_SETTINGS = "settings.json"

Embedded = tuple[Tensor, Tensor]
"""Queries (m, d) and documents (n, d)."""


@dataclass(frozen=True)
class Run:
    """One recipe and seed: embeddings by retrieval, and the ranges trained with where there are any."""

    recipe: str
    seed: int
    embedded: dict[str, Embedded]
    calibration: Calibration | None


class Runs:
    """A folder of runs, all of the same settings."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / _SETTINGS
        if kept.exists() and json.loads(kept.read_text()) != settings:
            raise SystemExit(f"{folder} holds runs of other settings, {kept.read_text()}; give another folder")
        kept.write_text(json.dumps(settings))

    def has(self, recipe: str, seed: int) -> bool:
        return self._path(recipe, seed).exists()

    def save(self, run: Run) -> None:
        """Whole or not at all."""
        path = self._path(run.recipe, run.seed)
        calibration = run.calibration and run.calibration.to_bytes()
        torch.save({"embedded": run.embedded, "calibration": calibration}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def load(self, recipe: str, seed: int) -> Run:
        kept = torch.load(self._path(recipe, seed), weights_only=True)
        stored = kept["calibration"]
        return Run(recipe, seed, kept["embedded"], stored and Calibration.from_bytes(stored))

    def _path(self, recipe: str, seed: int) -> Path:
        name = recipe.replace(", ", "-").replace("/", "").replace(" ", "-")
        return self._folder / f"{name}.{seed}.pt"
