"""The section of a model card that shows what quantizing the model costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvec.calibration import Calibration
from qvec.training.scoring import TABLE_SCORERS
from qvec.training.train_options import TrainOptions

_ROW_TITLES = {
    "float32": "float32",
    "int8": "int8, float32 queries",
    "int4": "int4, float32 queries",
    "ternary_symmetric": "ternary, by Hamming distance",
    "binary": "binary, float32 queries",
    "binary_symmetric": "binary, by Hamming distance",
}
_ROW_NAMES = [scorer.name for scorer in TABLE_SCORERS]

COLUMNS = ("stored as", "before (PTQ)", "trained, PTQ", "trained, QAT")


@dataclass(frozen=True)
class PrecisionTable:
    """The measured quality of every precision at one length of embeddings, a number for each of TABLE_SCORERS.

    before: the original model with ranges fitted afterwards (PTQ). after: the trained model, likewise. trained: the
    trained model with the ranges of the training (QAT). texts: a description of the queries.
    """

    dimensions: int
    measure: str
    texts: str
    before: Sequence[float]
    after: Sequence[float]
    trained: Sequence[float]

    def as_dict(self) -> dict[str, Any]:
        """Return the table for JSON, with numbers from 0 to 1 by column and row."""
        columns = {"before": self.before, "after": self.after, "trained": self.trained}
        numbers = {column: dict(zip(_ROW_NAMES, values, strict=True)) for column, values in columns.items()}
        return {"dimensions": self.dimensions, "measure": self.measure, "texts": self.texts, **numbers}

    def rows(self) -> list[list[str]]:
        """Return the cells: a title, and the three numbers in percent."""
        numbers = zip(self.before, self.after, self.trained, strict=True)
        return [
            [_ROW_TITLES[name], *(f"{100 * value:.1f}" for value in row)]
            for name, row in zip(_ROW_NAMES, numbers, strict=True)
        ]


def write_card(
    folder: Path,
    options: TrainOptions,
    tables: Sequence[PrecisionTable],
    calibration: Calibration,
    checkpoint: str | None,
) -> None:
    """Append the tables and the recipe to the card that sentence-transformers wrote.

    `tables` starts with that of whole embeddings; `checkpoint` describes the selected checkpoint.
    """
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8").rstrip() if card.exists() else f"# {folder.name}"
    card.write_text(f"{text}\n\n{_section(options, tables, calibration, checkpoint)}", encoding="utf-8")


def _section(
    options: TrainOptions, tables: Sequence[PrecisionTable], calibration: Calibration, checkpoint: str | None
) -> str:
    whole, *prefixes = tables
    method = ", ".join(f"{name} {value}" for name, value in calibration.description["method"].items())
    queries = ", with unquantized queries" if options.asymmetric else ""
    paragraphs = [
        "## Quantization",
        f"Trained with qvec for {', '.join(options.precisions)}{queries}: {options.steps:,} steps, schedule "
        f"{options.schedule}, seed {options.seed}. `qvec.safetensors` holds calibration {calibration.id} ({method}); "
        "`qvec ingest --model` uses it when given this folder.",
        *([f"This is {checkpoint}."] if checkpoint else []),
        f"{whole.measure} in percent, {whole.texts}:",
        _markdown_table(whole),
        "PTQ (post-training quantization): ranges fitted to the documents' embeddings after training, as for any "
        "model. QAT (quantization-aware training): the ranges that the model was trained with.",
    ]
    for table in prefixes:
        uses = f"`--dimensions {table.dimensions}` uses its own calibration"
        paragraphs += [f"Cut to {table.dimensions} dimensions ({uses}):", _markdown_table(table)]
    return "\n\n".join(paragraphs) + "\n"


def _markdown_table(table: PrecisionTable) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|---:|---:|---:|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in table.rows()])
