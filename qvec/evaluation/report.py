"""The report: one page of HTML that needs neither network nor scripts, in light and dark."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from html import escape
from importlib.resources import files
from pathlib import Path

from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.drift import Drift
from qvec.errors import InputError
from qvec.evaluation import pictures, tables
from qvec.evaluation.charts import Chart
from qvec.evaluation.compared import Compared
from qvec.evaluation.pictures import name_of, percent
from qvec.evaluation.results import Evaluation
from qvec.evaluation.svg import COLOURS, draw, marker
from qvec.evaluation.tables import Table
from qvec.evaluation.trials import Sweep


def write_report(
    path: str | os.PathLike[str],
    found: Evaluation | Sweep,
    statistics: Drift | None = None,
    compared: Compared | None = None,
) -> None:
    """Writes the report of an evaluation or a sweep. `statistics` are of a collection's rows, for its bit balance, and
    `compared` are two configurations of an evaluation.

    Raises InputError where the file cannot be written.
    """
    page = _of_sweep(found) if isinstance(found, Sweep) else _of_evaluation(found, statistics, compared)
    try:
        Path(path).write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the report {os.fspath(path)}: {error.strerror}") from None


def _of_evaluation(found: Evaluation, statistics: Drift | None, compared: Compared | None) -> str:
    figures = [tables.of_evaluation(found)]
    if found.calibration is not None:
        figures.append(tables.of_dimensions(found.calibration, statistics))
    lead = [
        f'<p class="verdict">{escape(headline(found))}</p>',
        f"<p>{found.queries:,} queries over {found.rows:,} rows. Recall@{found.k} is against {escape(found.truth)}, "
        f"with {found.confidence:.0%} intervals over the queries.</p>",
        *(f"<p>{escape(sentence)}.</p>" for sentence in (compared.sentences() if compared else ())),
        _list(found.notes),
    ]
    return _page(found, lead, pictures.of_evaluation(found, statistics), figures)


def _of_sweep(found: Sweep) -> str:
    figures = [
        tables.of_pareto(found),
        tables.of_precisions(found),
        tables.of_trials(found),
        tables.of_dimensions(found.calibration, found.statistics),
    ]
    lead = [
        f'<p class="verdict">{escape(verdict(found))}</p>',
        f"<pre>{_command(found.recommendation.command)}</pre>",
        f"<p>{len(found.trials):,} configurations over {found.rows:,} rows and {found.queries:,} queries, without a "
        f"database; recall@{found.k} is against exact float32 at all dimensions, with {found.confidence:.0%} "
        "intervals over the queries.</p>",
        _list(found.notes),
    ]
    return _page(found, lead, pictures.of_sweep(found), figures)


def headline(found: Evaluation) -> str:
    """The best that a collection finds with the default number of candidates, in a sentence."""
    usual = [one for one in found.results if not one.exact and one.oversampling == DEFAULT_OVERSAMPLING]
    if not usual:
        return ""
    best = max(usual, key=lambda one: one.recall.value)
    time = "" if best.p50_ms is None else f", {best.p50_ms:.2f} ms a search"
    reached = f"{percent(best.recall.value)} ({tables.interval(best.recall)}) of the nearest {found.k}"
    return (
        f"{name_of(best.prefilter, best.rescore)} finds {reached} with {DEFAULT_OVERSAMPLING} candidates a hit: "
        f"{best.bytes_per_vector:,.0f} bytes a vector{time}."
    )


def verdict(found: Sweep) -> str:
    """What a sweep recommends, in two sentences."""
    advised = found.recommendation
    result = advised.trial.result
    way = name_of(result.prefilter, result.rescore)
    reached = f"finds {percent(advised.recall.value)} ({tables.interval(advised.recall)}) of the nearest {found.k}"
    cost = f"with {result.oversampling:g} candidates a hit and {result.bytes_per_vector:,.0f} bytes a vector"
    if advised.met:
        return f"Use {way}, {advised.trial.dimensions} dimensions: it {reached} {cost}."
    return (
        f"Nothing that was tried reaches {percent(advised.target)} for sure. The best is {way}, "
        f"{advised.trial.dimensions} dimensions: it {reached} {cost}."
    )


def _command(text: str) -> str:
    """A command that is wrapped between its options alone."""
    first, *options = text.split(" --")
    return escape(first) + "".join(f" <span>--{escape(option)}</span>" for option in options)


def _page(found: Evaluation | Sweep, lead: Iterable[str], charts: Iterable[Chart], figures: Iterable[Table]) -> str:
    title = escape(pictures.title_of(found))
    style = (files("qvec.evaluation") / "report.css").read_text(encoding="utf-8")
    body = [f"<h1>{title}</h1>", *lead, '<div class="charts">', *map(_figure, charts), "</div>"]
    body += [_table(table, is_open=number == 0) for number, table in enumerate(figures)]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>\n<style>\n{style}</style>",
            "<main>",
            *body,
            "</main>\n</html>\n",
        ]
    )


def _figure(chart: Chart) -> str:
    return "\n".join(
        [
            "<figure>",
            f"<h2>{escape(chart.title)}</h2>",
            f"<figcaption>{escape(chart.caption)}</figcaption>",
            *_legend(chart),
            draw(chart),
            "</figure>",
        ]
    )


def _legend(chart: Chart) -> Iterator[str]:
    if chart.needs_legend:
        entries = (
            f'<li><svg viewBox="0 0 14 14" class="s{number % COLOURS}" aria-hidden="true">'
            f"{marker(number, 7, 7, 5)}</svg>{escape(series.name)}</li>"
            for number, series in enumerate(chart.series)
        )
        yield f'<ul class="legend">{"".join(entries)}</ul>'


def _table(table: Table, *, is_open: bool) -> str:
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


def _list(notes: Iterable[str]) -> str:
    entries = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<ul>{entries}</ul>" if entries else ""
