"""What a user decides about a training."""

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
    """One training, as `qvec train` runs it.

    `starts` holds the first step of each precision for the staged schedule, `warmup_steps` the steps of the linear
    one. `mini_batch_size` makes batches larger than memory by gradient caching. `threshold` is the share of the mean
    that is subtracted before quantizing. `matryoshka` holds lengths of prefixes that are trained too, each for codes of
    its own.

    The table of precisions is measured on a tenth of the pairs, at most 500, which are held out. With `evaluation` (a
    file of pairs, or a folder in BEIR's layout) it is measured on half of its queries, and the other half selects the
    best checkpoint, by the precision `select` or else the coarsest that is trained; without, the last one is kept. A
    folder that has qrels/dev.tsv is not halved: those queries select, and its test queries are measured.
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
                f"{self.warmup_steps:,} steps to warm up are given, but the schedule is {self.schedule}; "
                "add --schedule linear"
            )
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"the learning rate is {self.learning_rate}, expected a finite number above 0")
        if len(set(self.matryoshka)) != len(self.matryoshka):
            raise InputError(f"Matryoshka prefixes of {self.matryoshka} dimensions are given, expected different ones")
        if self.select is not None and self.evaluation is None:
            raise InputError(f"checkpoints are to be selected by {self.select}, but on what? Add --eval PATH")

    def _check_start(self, precision: str, start: int) -> None:
        if precision not in self.precisions:
            raise InputError(
                f"the start of {precision!r} is given, but trained are {', '.join(self.precisions)}; correct --start "
                "or add it to --precisions"
            )
        if not 0 <= start < self.steps:
            raise InputError(
                f"{precision} starts at step {start:,}, but the training has the steps 0 to {self.steps - 1:,}; "
                "give an earlier --start or more --steps"
            )

    def settings(self) -> dict[str, Any]:
        """What has to stay as it is for a training to go on from its checkpoint."""
        kept = asdict(self)
        for name in ("output", "restart", "save_every"):
            del kept[name]
        return {name: _plain(value) for name, value in kept.items()}


def _plain(value: Any) -> Any:
    """A setting as JSON gives it back."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
