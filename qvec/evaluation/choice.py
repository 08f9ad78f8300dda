"""Which of a sweep's trials to use."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.evaluation.intervals import CONFIDENCE, compare, interval, lower_bound
from qvec.evaluation.trials import Recommendation, Trial
from qvec.ingest.load_options import FitOptions, default_ranges

_BUDGETS = (DEFAULT_OVERSAMPLING, 8, 16)
_BY_CHANCE = 0.05
"""The p value from which on a difference is taken to be none."""


def pareto(trials: Iterable[Trial], oversampling: float = DEFAULT_OVERSAMPLING) -> tuple[Trial, ...]:
    """The trials at an oversampling that no other of them beats in both bytes and recall, by ascending bytes."""
    found: list[Trial] = []
    at_it = (trial for trial in trials if trial.loadable and trial.result.oversampling == oversampling)
    for trial in sorted(at_it, key=lambda one: (one.result.bytes_per_vector, -one.result.recall.value)):
        if not found or trial.result.recall.value > found[-1].result.recall.value:
            found.append(trial)
    return tuple(found)


def recommend(
    trials: Iterable[Trial], target: float, source: Sequence[str], confidence: float = CONFIDENCE
) -> Recommendation:
    """The trial with the fewest bytes whose recall reaches the target with its confidence, at 4 candidates a hit or
    fewer; where none does, at 8 or 16; and where none does at all, the one with the highest recall.

    `source` is its name and the options to read it, for the command.

    Every second query chooses, and the recall that is told is that of the others: to the queries that chose it, the
    best of thousands of trials seems better than it is. Of calibrations that differ by no more than chance, the one
    nearest the default is taken.
    """
    loadable = [trial for trial in trials if trial.loadable]
    reaching = next(_reaching(loadable, target, confidence), [])
    chosen = _plainest(reaching or _highest(loadable))
    measured = interval(chosen.result.recalls[1::2], confidence)
    return Recommendation(chosen, measured, target, bool(reaching), command(chosen, source))


def command(trial: Trial, source: Sequence[str]) -> str:
    """The `qvec ingest` command that loads a source, named with the options to read it, as a trial was."""
    fit, result = trial.fit, trial.result
    words = ["qvec", "ingest", *source, "--collection", "NAME", "--threshold", f"{fit.threshold:g}"]
    words += ["--ranges", fit.ranges.name]
    words += ["--quantile", f"{fit.ranges.quantile:g}"] if fit.ranges.name == "quantile" else []
    words += ["--range", f"{fit.ranges.value:g}"] if isinstance(fit.ranges.value, float) else []
    words += [] if fit.ranges.per_dimension else ["--global-range"]
    words += [] if trial.whole else ["--dimensions", str(trial.dimensions)]
    words += [] if fit.metric == FitOptions().metric else ["--metric", fit.metric]
    words += ["--rescore", result.rescore, "--prefilter", result.prefilter]
    words += ["--oversampling", f"{result.oversampling:g}"]
    return shlex.join(words)


def _reaching(loadable: Sequence[Trial], target: float, confidence: float) -> Iterator[list[Trial]]:
    """Trials of the same bytes and oversampling that reach the target: fewest bytes first, budget by budget."""
    ordered = sorted(loadable, key=_cost)
    for budget in _BUDGETS:
        for (_, oversampling), group in groupby(ordered, _cost):
            if oversampling <= budget:
                found = [trial for trial in group if _reaches(trial, target, confidence)]
                yield from [found] if found else []


def _highest(loadable: Sequence[Trial]) -> list[Trial]:
    """The trial with the highest recall, and those that cost the same."""
    highest = max(loadable, key=_seen)
    return [trial for trial in loadable if _cost(trial) == _cost(highest)]


def _plainest(equals: Sequence[Trial]) -> Trial:
    """The trial nearest the defaults, of those that the best one beats by no more than chance."""
    best = max(equals, key=_seen)
    near = [
        trial
        for trial in equals
        if trial is best or compare(best.result.recalls[::2], trial.result.recalls[::2]).p_value >= _BY_CHANCE
    ]
    return min(near, key=lambda trial: (_departures(trial), -_seen(trial)))


def _departures(trial: Trial) -> int:
    """In how much the fit is none that a load would choose by itself."""
    fit, default = trial.fit, FitOptions(ranges=default_ranges(trial.result.rescore))
    return (
        (fit.threshold != default.threshold)
        + (fit.ranges.name != default.ranges.name)
        + (fit.ranges.quantile != default.ranges.quantile)
        + (fit.ranges.per_dimension != default.ranges.per_dimension)
    )


def _reaches(trial: Trial, target: float, confidence: float) -> bool:
    return _seen(trial) >= target and lower_bound(trial.result.recalls[::2], confidence) >= target


def _seen(trial: Trial) -> float:
    """Recall by the queries that choose."""
    return float(trial.result.recalls[::2].mean())


def _cost(trial: Trial) -> tuple[float, float]:
    return trial.result.bytes_per_vector, trial.result.oversampling or 0
