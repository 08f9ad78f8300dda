"""The figures of an evaluation or a sweep as tables, for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from qvec.calibration import Calibration
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.drift import Drift
from qvec.evaluation.pictures import percent
from qvec.evaluation.results import NONE, Evaluation, Interval, Result
from qvec.evaluation.trials import Sweep, Trial

_BLANK = "–"


@dataclass(frozen=True)
class Table:
    """Columns by name, whether each holds text, and rows of what is written in them."""

    title: str
    columns: dict[str, bool]
    rows: Sequence[Sequence[str]]

    def without(self, *names: str) -> Table:
        """The table without some columns."""
        kept = [at for at, name in enumerate(self.columns) if name not in names]
        columns = {name: is_text for name, is_text in self.columns.items() if name not in names}
        return Table(self.title, columns, [[row[at] for at in kept] for row in self.rows])


def of_evaluation(found: Evaluation) -> Table:
    """Every configuration of a collection."""
    judged = any(result.ndcg for result in found.results)
    columns = {"prefilter": True, "rescoring": True, "candidates a hit": False, "found by": True}
    columns |= {f"recall@{found.k}": False, "interval": False}
    columns |= {f"nDCG@{found.k}": False} if judged else {}
    columns |= dict.fromkeys(("p50 ms", "p95 ms", "p99 ms", "bytes a vector"), False)
    columns |= {f"lost to {part}": False for part in ("index", "prefilter", "precision")}
    return Table("Every configuration", columns, [_evaluation_row(result, judged) for result in found.results])


def of_pareto(found: Sweep) -> Table:
    """The trials that no other beats in both bytes and recall."""
    title = f"Bytes against recall, {DEFAULT_OVERSAMPLING} candidates a hit: what no other beats in both"
    return _of_trials(title, found.pareto, found.k).without("candidates a hit")


def of_trials(found: Sweep) -> Table:
    """At the recommended calibration every way to search, then every calibration as it was recommended to search."""
    chosen = found.recommendation.trial
    same_fit = [one for one in found.trials if one.fit == chosen.fit]
    same_way = [
        one
        for one in found.trials
        if one.fit != chosen.fit
        and (one.result.prefilter, one.result.rescore) == (chosen.result.prefilter, chosen.result.rescore)
        and one.result.oversampling == chosen.result.oversampling
    ]
    return _of_trials("Other ways and other calibrations", [*same_fit, *same_way], found.k)


def of_precisions(found: Sweep) -> Table:
    """Every row compared, without a prefilter, at each number of dimensions."""
    alone = [one for one in found.trials if one.result.prefilter == NONE]
    table = _of_trials("Precisions alone: every row compared with the query in float32", alone, found.k)
    return table.without("prefilter", "candidates a hit", "candidates")


def of_dimensions(calibration: Calibration, statistics: Drift | None) -> Table:
    """A calibration, dimension by dimension."""
    columns = ["dimension", "threshold", "radius", "mean", "spread", "bit set", "clipped"]
    arrays = (calibration.threshold, calibration.radius, calibration.mean, calibration.std)
    rows = [[str(at), *(f"{array[at]:.4g}" for array in arrays)] for at in range(calibration.dimensions)]
    for at, row in enumerate(rows):
        balance, clip = (None, None) if statistics is None else (statistics.bit_balance[at], statistics.clip_rate[at])
        row += [_BLANK if balance is None else percent(balance)]
        row += [_BLANK if clip is None or np.isnan(clip) else percent(clip, 2)]
    return Table("The calibration, dimension by dimension", dict.fromkeys(columns, False), rows)


def interval(found: Interval) -> str:
    return f"{100 * found.low:.1f}–{percent(found.high)}"


def _of_trials(title: str, trials: Iterable[Trial], k: int) -> Table:
    columns = {"bytes": False, "dimensions": False, "prefilter": True, "rescoring": True, "candidates a hit": False}
    columns |= {"threshold": False, "ranges": True, "candidates": False, f"recall@{k}": False, "interval": False}
    return Table(title, columns, [_trial_row(trial) for trial in trials])


def _trial_row(trial: Trial) -> list[str]:
    result = trial.result
    unranged = result.prefilter == NONE and result.rescore == "float32"
    return [
        f"{result.bytes_per_vector:,.0f}",
        str(trial.dimensions),
        _named(result.prefilter),
        _named(result.rescore),
        _number(result.oversampling),
        _BLANK if unranged else f"{trial.fit.threshold:g}",
        _BLANK if unranged else ranges(trial),
        _BLANK if trial.candidates is None else percent(trial.candidates),
        percent(result.recall.value),
        interval(result.recall),
    ]


def ranges(trial: Trial) -> str:
    method = trial.fit.ranges
    name = f"{method.name} {method.quantile:g}" if method.name == "quantile" else method.name
    return name if method.per_dimension else f"{name}, global"


def _evaluation_row(result: Result, judged: bool) -> list[str]:
    loss = result.loss
    row = [_named(result.prefilter), _named(result.rescore), _number(result.oversampling)]
    row += ["scan" if result.exact else "index", percent(result.recall.value), interval(result.recall)]
    row += [] if not judged else [_BLANK if result.ndcg is None else percent(result.ndcg.value, 2)]
    row += [_BLANK if time is None else f"{time:.2f}" for time in (result.p50_ms, result.p95_ms, result.p99_ms)]
    row += [f"{result.bytes_per_vector:,.0f}"]
    shares = (None, None, None) if loss is None else (loss.index, loss.prefilter, loss.rescore)
    return row + [_BLANK if share is None else percent(share, 2) for share in shares]


def _named(step: str) -> str:
    return _BLANK if step == NONE else step


def _number(value: float | None) -> str:
    return _BLANK if value is None else f"{value:g}"
