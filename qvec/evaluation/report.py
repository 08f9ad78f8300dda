"""The report: tables of an evaluation or a sweep, and one page of HTML without scripts and network, light and dark."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np

from qvec.calibration import Calibration
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.drift_statistics import Drift
from qvec.errors import InputError
from qvec.evaluation.charts import Chart, charts_of, describe_steps, percent, title_of
from qvec.evaluation.evaluation_results import NONE, Evaluation, NamedComparison, Result, Sweep, Trial
from qvec.evaluation.metrics import Interval
from qvec.evaluation.svg import COLOURS, draw, marker

_BLANK = "–"


@dataclass(frozen=True)
class ResultTable:
    """A table of text; `columns` tells for each name whether the column holds words and not figures."""

    title: str
    columns: dict[str, bool]
    rows: Sequence[Sequence[str]]

    def without(self, *names: str) -> ResultTable:
        """Return the table without some columns."""
        kept = [at for at, name in enumerate(self.columns) if name not in names]
        columns = {name: is_text for name, is_text in self.columns.items() if name not in names}
        return ResultTable(self.title, columns, [[row[at] for at in kept] for row in self.rows])


def write_report(
    path: str | os.PathLike[str],
    found: Evaluation | Sweep,
    statistics: Drift | None = None,
    comparison: NamedComparison | None = None,
) -> None:
    """Write the report of an evaluation or a sweep.

    An evaluation may have the `statistics` of the collection's rows, for the bit balance, and a `comparison` of two of
    its configurations. Raise InputError if the file cannot be written.
    """
    page = _sweep_page(found) if isinstance(found, Sweep) else _evaluation_page(found, statistics, comparison)
    try:
        Path(path).write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the report {os.fspath(path)}: {error.strerror}") from None


def headline(found: Evaluation) -> str:
    """Return the best result with the default oversampling as a sentence."""
    usual = [result for result in found.results if not result.exact and result.oversampling == DEFAULT_OVERSAMPLING]
    if not usual:
        return ""
    best = max(usual, key=lambda result: result.recall.value)
    time = "" if best.p50_ms is None else f", {best.p50_ms:.2f} ms per search"
    return (
        f"{describe_steps(best.prefilter, best.rescore)} finds {_recall(best.recall, found.k)} with "
        f"{DEFAULT_OVERSAMPLING} candidates per hit: {best.bytes_per_vector:,.0f} bytes per vector{time}."
    )


def verdict(found: Sweep) -> str:
    """Return the recommendation of a sweep in one or two sentences."""
    recommendation = found.recommendation
    result, dimensions = recommendation.trial.result, recommendation.trial.dimensions
    config = f"{describe_steps(result.prefilter, result.rescore)}, {dimensions} dimensions"
    finds = (
        f"it finds {_recall(recommendation.recall, found.k)} with {result.oversampling:g} candidates per hit and "
        f"{result.bytes_per_vector:,.0f} bytes per vector."
    )
    if recommendation.met:
        return f"Use {config}: {finds}"
    return f"Nothing that was tried is sure to reach {percent(recommendation.target)}. The best is {config}: {finds}"


def _recall(recall: Interval, k: int) -> str:
    return f"{percent(recall.value)} ({_interval(recall)}) of the nearest {k}"


def evaluation_table(found: Evaluation) -> ResultTable:
    """Return a table of every configuration of a collection."""
    judged = any(result.ndcg for result in found.results)
    columns = {"prefilter": True, "rescoring": True, "candidates per hit": False, "found by": True}
    columns |= {f"recall@{found.k}": False, "interval": False}
    columns |= {f"nDCG@{found.k}": False} if judged else {}
    columns |= dict.fromkeys(("p50 ms", "p95 ms", "p99 ms", "bytes per vector"), False)
    columns |= {f"lost by {step}": False for step in ("index", "prefilter", "precision")}
    return ResultTable("Every configuration", columns, [_result_row(result, judged) for result in found.results])


def pareto_table(found: Sweep) -> ResultTable:
    """Return a table of the trials that no other beats in both bytes and recall."""
    title = f"Bytes against recall, {DEFAULT_OVERSAMPLING} candidates per hit: what no other beats in both"
    return _trial_table(title, found.pareto, found.k).without("candidates per hit")


def precision_table(found: Sweep) -> ResultTable:
    """Return a table of the precisions without a prefilter, for each number of dimensions."""
    alone = [trial for trial in found.trials if trial.result.prefilter == NONE]
    table = _trial_table("Precisions alone: every row compared with the query in float32", alone, found.k)
    return table.without("prefilter", "candidates per hit", "candidates")


def _other_trials_table(found: Sweep) -> ResultTable:
    """All searches with the recommended calibration, then all calibrations with the recommended search."""
    chosen = found.recommendation.trial
    same_fit = [trial for trial in found.trials if trial.fit == chosen.fit]
    same_search = [
        trial for trial in found.trials if trial.fit != chosen.fit and trial.result.name == chosen.result.name
    ]
    return _trial_table("Other searches and other calibrations", [*same_fit, *same_search], found.k)


def _dimension_table(calibration: Calibration, statistics: Drift | None) -> ResultTable:
    columns = ["dimension", "threshold", "radius", "mean", "spread", "bit set", "clipped"]
    arrays = (calibration.threshold, calibration.radius, calibration.mean, calibration.std)
    rows = [[str(at), *(f"{array[at]:.4g}" for array in arrays)] for at in range(calibration.dimensions)]
    for at, row in enumerate(rows):
        balance, clip = (None, None) if statistics is None else (statistics.bit_balance[at], statistics.clip_rate[at])
        row += [_percent_or_blank(balance), _percent_or_blank(None if clip is None or np.isnan(clip) else clip, 2)]
    return ResultTable("The calibration, dimension by dimension", dict.fromkeys(columns, False), rows)


def _trial_table(title: str, trials: Iterable[Trial], k: int) -> ResultTable:
    columns = {"bytes": False, "dimensions": False, "prefilter": True, "rescoring": True, "candidates per hit": False}
    columns |= {"threshold": False, "ranges": True, "candidates": False, f"recall@{k}": False, "interval": False}
    return ResultTable(title, columns, [_trial_row(trial) for trial in trials])


def _trial_row(trial: Trial) -> list[str]:
    result = trial.result
    quantized = (result.prefilter, result.rescore) != (NONE, "float32")
    return [
        f"{result.bytes_per_vector:,.0f}",
        str(trial.dimensions),
        *_steps(result),
        f"{trial.fit.threshold:g}" if quantized else _BLANK,
        _ranges(trial) if quantized else _BLANK,
        _percent_or_blank(trial.candidates),
        percent(result.recall.value),
        _interval(result.recall),
    ]


def _ranges(trial: Trial) -> str:
    method = trial.fit.ranges
    name = f"{method.name} {method.quantile:g}" if method.name == "quantile" else method.name
    return name if method.per_dimension else f"{name}, global"


def _result_row(result: Result, judged: bool) -> list[str]:
    loss = result.loss
    row = [*_steps(result), "scan" if result.exact else "index", percent(result.recall.value), _interval(result.recall)]
    row += [_percent_or_blank(result.ndcg and result.ndcg.value, 2)] if judged else []
    row += [_BLANK if time is None else f"{time:.2f}" for time in (result.p50_ms, result.p95_ms, result.p99_ms)]
    row += [f"{result.bytes_per_vector:,.0f}"]
    losses = (None, None, None) if loss is None else (loss.index, loss.prefilter, loss.rescore)
    return row + [_percent_or_blank(lost, 2) for lost in losses]


def _steps(result: Result) -> list[str]:
    oversampling = _BLANK if result.oversampling is None else f"{result.oversampling:g}"
    return [*(_BLANK if step == NONE else step for step in (result.prefilter, result.rescore)), oversampling]


def _percent_or_blank(share: float | None, digits: int = 1) -> str:
    return _BLANK if share is None else percent(share, digits)


def _interval(found: Interval) -> str:
    return f"{100 * found.low:.1f}–{percent(found.high)}"


def _evaluation_page(found: Evaluation, statistics: Drift | None, comparison: NamedComparison | None) -> str:
    tables = [evaluation_table(found)]
    if found.calibration is not None:
        tables.append(_dimension_table(found.calibration, statistics))
    lead = [
        f'<p class="verdict">{escape(headline(found))}</p>',
        f"<p>{found.queries:,} queries over {found.rows:,} rows. Recall@{found.k} is against {escape(found.truth)}, "
        f"with {found.confidence:.0%} intervals over the queries.</p>",
        *(f"<p>{escape(sentence)}.</p>" for sentence in (comparison.sentences() if comparison else ())),
    ]
    return _page(found, lead, charts_of(found, statistics), tables)


def _sweep_page(found: Sweep) -> str:
    tables = [
        pareto_table(found),
        precision_table(found),
        _other_trials_table(found),
        _dimension_table(found.calibration, found.statistics),
    ]
    lead = [
        f'<p class="verdict">{escape(verdict(found))}</p>',
        f"<pre>{_command(found.recommendation.command)}</pre>",
        f"<p>{len(found.trials):,} configurations over {found.rows:,} rows and {found.queries:,} queries, without a "
        f"database; recall@{found.k} is against exact float32 search in all dimensions, with {found.confidence:.0%} "
        "intervals over the queries.</p>",
    ]
    return _page(found, lead, charts_of(found, None), tables)


def _command(text: str) -> str:
    """A command that wraps between its options only."""
    first, *options = text.split(" --")
    return escape(first) + "".join(f" <span>--{escape(option)}</span>" for option in options)


def _page(
    found: Evaluation | Sweep, lead: Iterable[str], charts: Iterable[Chart], tables: Iterable[ResultTable]
) -> str:
    title = escape(title_of(found))
    style = (files("qvec.evaluation") / "report.css").read_text(encoding="utf-8")
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes)
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>\n<style>\n{style}</style>",
            f"<main>\n<h1>{title}</h1>",
            *lead,
            f"<ul>{notes}</ul>" if notes else "",
            '<div class="charts">',
            *map(_figure, charts),
            "</div>",
            *(_table(table, is_open=number == 0) for number, table in enumerate(tables)),
            "</main>\n</html>\n",
        ]
    )


def _figure(chart: Chart) -> str:
    caption = f"<h2>{escape(chart.title)}</h2>\n<figcaption>{escape(chart.caption)}</figcaption>"
    return "\n".join(["<figure>", caption, *_legend(chart), draw(chart), "</figure>"])


def _legend(chart: Chart) -> Iterator[str]:
    if chart.needs_legend:
        entries = (
            f'<li><svg viewBox="0 0 14 14" class="s{number % COLOURS}" aria-hidden="true">'
            f"{marker(number, 7, 7, 5)}</svg>{escape(series.name)}</li>"
            for number, series in enumerate(chart.series)
        )
        yield f'<ul class="legend">{"".join(entries)}</ul>'


def _table(table: ResultTable, *, is_open: bool) -> str:
    kinds = [' class="text"' if is_text else "" for is_text in table.columns.values()]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(table.columns, kinds, strict=True))
    rows = (
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in table.rows
    )
    body = "\n".join(rows)
    return (
        f"<details{' open' if is_open else ''}><summary>{escape(table.title)}</summary>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div></details>'
    )
