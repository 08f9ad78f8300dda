"""The options of one training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from qvec.errors import InputError
from qvec.ranges import RangeMethod

ScheduleName = Literal["constant", "linear", "staged"]


@dataclass(frozen=True)
class TrainOptions:
    """The options of `train` and of `qvec train`.

    model: a sentence-transformers model, by name or folder. data: the pairs, .jsonl or .parquet; `columns` names the
    query, its document and further negatives (default: all columns of text). output: the folder of the trained model.
    starts: the first step of each precision, for the schedule `staged`. warmup_steps: for the schedule `linear`
    (default: half of the steps). mini_batch_size: embed this many texts at a time with gradient caching, so that
    `batch_size` can exceed memory. threshold: the share of the mean that is subtracted before quantizing. matryoshka:
    lengths of prefixes that are trained too, each with its own calibration. restart: delete existing checkpoints.

    Without `evaluation`, a tenth of the pairs, at most 500, is held out to measure every precision, and the last
    checkpoint is kept. With `evaluation` (a file of pairs, or a folder in BEIR's layout), half of its queries select
    the best checkpoint, scored at the precision `select` (default: the coarsest one trained), and the other half is
    measured. If the folder has qrels/dev.tsv, its dev queries select and its test queries are measured.
    """

    model: str
    data: Path
    output: Path
    columns: tuple[str, ...] | None = None
    precisions: tuple[str, ...] = ("float32", "int8", "binary")
    weights: tuple[float, ...] | None = None
    schedule: ScheduleName = "constant"
    starts: Mapping[str, int] = field(default_factory=dict)
    warmup_steps: int | None = None
    asymmetric: bool = False
    ranges: RangeMethod = field(default_factory=lambda: RangeMethod("rolling"))
    threshold: float = 0.0
    matryoshka: tuple[int, ...] = ()
    steps: int = 2_000
    batch_size: int = 64
    mini_batch_size: int | None = None
    learning_rate: float = 2e-5
    save_every: int = 500
    evaluation: Path | None = None
    select: str | None = None
    seed: int = 0
    restart: bool = False

    def __post_init__(self) -> None:
        if self.schedule == "staged" and not self.starts:
            raise InputError("the staged schedule needs the first step of a precision: --start int8=200")
        if self.schedule != "staged" and self.starts:
            raise InputError(f"first steps are given, but the schedule is {self.schedule}; add --schedule staged")
        for precision, start in self.starts.items():
            self._check_start(precision, start)
        if self.schedule != "linear" and self.warmup_steps is not None:
            raise InputError(
                f"{self.warmup_steps:,} warm-up steps are given, but the schedule is {self.schedule}; "
                "add --schedule linear"
            )
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"the learning rate is {self.learning_rate}, expected a finite number above 0")
        if len(set(self.matryoshka)) != len(self.matryoshka):
            raise InputError(f"the Matryoshka lengths are {self.matryoshka}, expected no length twice")
        if self.select is not None and self.evaluation is None:
            raise InputError(f"--select {self.select} needs queries to select a checkpoint by; add --eval PATH")

    def _check_start(self, precision: str, start: int) -> None:
        if precision not in self.precisions:
            raise InputError(
                f"a first step is given for {precision!r}, but the trained precisions are "
                f"{', '.join(self.precisions)}; correct --start or add it to --precisions"
            )
        if not 0 <= start < self.steps:
            raise InputError(
                f"{precision} starts at step {start:,}, but the training has the steps 0 to {self.steps - 1:,}; "
                "give an earlier --start or more --steps"
            )

    def settings(self) -> dict[str, Any]:
        """Return, ready for JSON, the options that must not change when a training is resumed."""
        kept = asdict(self)
        for name in ("output", "restart", "save_every"):
            del kept[name]
        return {name: _json_value(value) for name, value in kept.items()}


def _json_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
