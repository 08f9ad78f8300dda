"""The part of a model card that says what quantizing the model costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvec.calibration import Calibration
from qvec.training.measure import COMPARISONS
from qvec.training.options import TrainOptions

_WAYS = {
    "float32": "float32",
    "int8": "int8, float32 queries",
    "int4": "int4, float32 queries",
    "ternary_symmetric": "ternary, by Hamming distance",
    "binary": "binary, float32 queries",
    "binary_symmetric": "binary, by Hamming distance",
}


@dataclass(frozen=True)
class Table:
    """A number for each of COMPARISONS, at so many dimensions: the model before, quantized after training (PTQ), and
    the trained model, quantized by ranges fitted afterwards (PTQ) and by those it was trained with (QAT)."""

    dimensions: int
    measure: str
    texts: str
    before: Sequence[float]
    after: Sequence[float]
    trained: Sequence[float]

    def as_dict(self) -> dict[str, Any]:
        """For machines: shares of 1, by how vectors are stored and searched."""
        names = [comparison.name for comparison in COMPARISONS]
        columns = {"before": self.before, "after": self.after, "trained": self.trained}
        numbers = {column: dict(zip(names, values, strict=True)) for column, values in columns.items()}
        return {"dimensions": self.dimensions, "measure": self.measure, "texts": self.texts, **numbers}

    def rows(self) -> list[list[str]]:
        """Cells of the table: how vectors are stored and searched, then the three numbers as percentages."""
        names = [_WAYS[comparison.name] for comparison in COMPARISONS]
        numbers = zip(self.before, self.after, self.trained, strict=True)
        return [[name, *(f"{100 * value:.1f}" for value in row)] for name, row in zip(names, numbers, strict=True)]


COLUMNS = ("stored as", "before (PTQ)", "trained, PTQ", "trained, QAT")


def write_card(
    folder: Path, options: TrainOptions, tables: Sequence[Table], calibration: Calibration, chosen: str | None
) -> None:
    """Adds the tables and how the model was trained to the card that sentence-transformers wrote.

    `tables` begins with that of whole embeddings; `chosen` says which checkpoint was selected, and how.
    """
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8").rstrip() if card.exists() else f"# {folder.name}"
    card.write_text(f"{text}\n\n{_section(options, tables, calibration, chosen)}", encoding="utf-8")


def _section(options: TrainOptions, tables: Sequence[Table], calibration: Calibration, chosen: str | None) -> str:
    whole, *prefixes = tables
    method = calibration.description["method"]
    settings = ", ".join(f"{name} {value}" for name, value in method.items())
    queries = ", queries unquantized" if options.asymmetric else ""
    paragraphs = [
        "## Quantization",
        f"Trained with qvec for {', '.join(options.precisions)}{queries}: {options.steps:,} steps, schedule "
        f"{options.schedule}, seed {options.seed}. `qvec.safetensors` holds calibration {calibration.id} ({settings}); "
        "`qvec ingest --model` with this folder uses it.",
        *([f"Kept is {chosen}."] if chosen else []),
        f"{whole.measure} in percent, {whole.texts}:",
        _markdown(whole),
        "PTQ: ranges fitted to the documents' embeddings after training, as for any model. QAT: the ranges that the "
        "model was trained with.",
    ]
    for table in prefixes:
        uses = f"`--dimensions {table.dimensions}` uses its own calibration"
        paragraphs += [f"Cut to {table.dimensions} dimensions ({uses}):", _markdown(table)]
    return "\n\n".join(paragraphs) + "\n"


def _markdown(table: Table) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|---:|---:|---:|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in table.rows()])
