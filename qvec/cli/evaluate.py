"""qvec eval and qvec tune"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from qvec.cli.console import ConsoleReporter, print_table
from qvec.cli.options import (
    collection_option,
    db_option,
    embedding_of,
    embedding_options,
    encoding_option,
    json_option,
    open_database,
    quiet_option,
)
from qvec.cli.sweep import run_sweep, sweep_options, sweep_settings, write_pictures
from qvec.codecs import preset
from qvec.embedding import EmbeddingOptions, load_embedder
from qvec.errors import InputError
from qvec.evaluation.results import NONE
from qvec.sources import Columns, open_source

if TYPE_CHECKING:
    from qvec.embedding import Embedder
    from qvec.evaluation.queries import Queries
    from qvec.evaluation.results import Evaluation, Interval, Result
    from qvec.evaluation.rows import Rows
    from qvec.evaluation.tune import Tuning
    from qvec.stores import Collection

UNMET = 3
"""Exit code of a target that cannot be met."""
_ROWS_AS_QUERIES = 500
_OF_COLLECTIONS = ("collection", "qrels", "compare", "truth", "model")


def measuring_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What both commands measure with."""
    for option in reversed(
        (
            click.option(
                "--queries",
                metavar="FILE",
                help="Queries: vectors, or texts (queries.jsonl with _id and text) that the model embeds. Without "
                "them rows serve as queries, each left out of its own hits.",
            ),
            click.option(
                "--truth", metavar="SOURCE", help="What the collection was loaded from: recall is against its vectors."
            ),
            click.option(
                "--id-start", type=click.IntRange(0), default=0, show_default=True, help="Of a SOURCE without ids."
            ),
            encoding_option,
            embedding_options,
            click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="Hits for each query."),
            click.option(
                "--limit",
                type=click.IntRange(2),
                default=1000,
                show_default=True,
                help="Queries at most, drawn uniformly.",
            ),
            click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of what is drawn."),
            click.option(
                "--confidence",
                type=click.FloatRange(0.5, 1, max_open=True),
                default=0.95,
                show_default=True,
                help="Of intervals and bounds.",
            ),
            quiet_option,
            json_option,
        )
    ):
        command = option(command)
    return command


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

    Recall is against exact float32 search of --truth, or else of what the collection keeps. Each configuration is
    searched as a user does, one query at a time; what is lost is told apart for index, prefilter and rescoring.

    With --sweep every calibration (threshold, ranges, Matryoshka dimensions) and precision is tried on a sample of
    SOURCE without a database, and the one to use is told with the command that loads it.

    With --json one line for each configuration: prefilter, rescore, oversampling, recall, ndcg (with --qrels), p50_ms,
    p95_ms, p99_ms, bytes_per_vector, intervals and losses.

    \b
    Examples:
      qvec eval --collection docs --queries queries.npy --truth vectors.npy --report docs.html
      qvec eval --collection texts --queries queries.jsonl --qrels qrels.tsv --truth corpus.jsonl
      qvec eval --collection docs --compare ternary/int8/4 ternary/int8/8 --json
      qvec eval --sweep vectors.npy --recall 0.98 --report sweep.html --plot sweep.png
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
    from qvec.evaluation.drifting import statistics_of
    from qvec.evaluation.evaluate import evaluate as measure
    from qvec.evaluation.qrels import read_qrels

    judgements = None if qrels is None else read_qrels(qrels)
    statistics = None
    with _material(url, collection, quiet or as_json, **options) as (found, queries, truth, reporter):
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
    if as_json:
        for result in evaluation.results:
            click.echo(json.dumps(result.as_dict()))
    else:
        print_evaluation(evaluation)
    if compare:
        _print_comparison(evaluation, *compare, as_json)
    write_pictures(evaluation, statistics, report, plot)


@click.command()
@db_option
@collection_option
@click.option(
    "--recall",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.99,
    show_default=True,
    help="The recall@k that searches have to reach.",
)
@click.option("--store/--no-store", default=True, show_default=True, help="Keep what is found with the collection.")
@measuring_options
def tune(url: str, collection: str, recall: float, store: bool, as_json: bool, quiet: bool, **options: Any) -> None:
    """Find the smallest oversampling that reaches a recall, and store it.

    Every later search of the collection then uses it, here, from Python and in SQL. What has the collection open goes
    on as before until it opens it anew. Exit code 3: the target cannot be met, and nothing is stored.

    \b
    Examples:
      qvec tune --collection docs --recall 0.99 --queries queries.npy --truth vectors.npy
      qvec tune --collection docs --recall 0.95 --no-store
    """
    from qvec.evaluation.tune import tune as find

    with _material(url, collection, quiet or as_json, **options) as (found, queries, truth, reporter):
        tuning = find(
            found,
            queries,
            truth,
            recall=recall,
            k=options["k"],
            confidence=options["confidence"],
            store=store,
            reporter=reporter,
        )
    click.echo(json.dumps(tuning.as_dict())) if as_json else _print_tuning(tuning)
    if tuning.oversampling is None:
        sys.exit(UNMET)


@contextmanager
def _material(
    url: str,
    name: str,
    quiet: bool,
    queries: str | None,
    truth: str | None,
    id_start: int,
    encoding: str,
    limit: int,
    seed: int,
    **options: Any,
) -> Iterator[tuple[Collection, Queries, Rows | None, ConsoleReporter]]:
    """The collection, its queries, and the rows that recall is against."""
    from qvec.evaluation.queries import Queries, read_queries
    from qvec.evaluation.rows import rows_of_collection, rows_of_source

    columns = Columns(codec=preset(encoding))
    with open_database(url) as database, ConsoleReporter(quiet=quiet) as reporter, ExitStack() as opening:
        collection: Collection = database.collection(name)
        embedder = cache(partial(_embedder, collection, embedding_of(options)))
        given = None
        if queries is not None:
            with open_source(queries, columns=columns) as source:
                given = _drawn(read_queries(source, collection.calibration, embedder), limit, seed)
        if truth is None:
            rows = None
        else:
            opened = opening.enter_context(open_source(truth, columns=columns))
            _check_ids(collection, opened.id_type, truth)
            width = given.vectors.shape[1] if given else opened.dimensions
            needed = embedder() if opened.dimensions is None else None
            rows = rows_of_source(opened, collection.calibration, needed, id_start, width)
        if given is None:
            known = rows or rows_of_collection(collection)
            ids, vectors = known.sample(min(limit, _ROWS_AS_QUERIES), seed)
            given = Queries(tuple(map(str, ids)), vectors, f"rows of {known.name}", tuple(ids))
        yield collection, given, rows, reporter


def _drawn(queries: Queries, limit: int, seed: int) -> Queries:
    if len(queries) <= limit:
        return queries
    return queries.take(np.sort(np.random.default_rng(seed).choice(len(queries), limit, replace=False)))


def _check_ids(collection: Collection, id_type: str | None, truth: str) -> None:
    if (id_type or "bigint") != collection.id_type:
        raise InputError(
            f"collection {collection.name!r} has {collection.id_type} ids, but {truth} has {id_type or 'none'}; give "
            "what the collection was loaded from as --truth"
        )


def _embedder(collection: Collection, asked: EmbeddingOptions) -> Embedder:
    from qvec.ingest.embedding import wanted_embedding

    embedding = wanted_embedding(asked, collection, collection.calibration)
    if embedding.model is None:
        raise InputError(f"collection {collection.name!r} was loaded as vectors; name the model they are from: --model")
    return load_embedder(embedding)


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
    columns = {"prefilter": "left", "rescoring": "left", "×": "right", f"recall@{evaluation.k}": "right"}
    columns |= {f"nDCG@{evaluation.k}": "right"} if judged else {}
    columns |= {"p50 ms": "right", "p95": "right", "p99": "right", "bytes": "right"}
    columns |= {"− index": "right", "− prefilter": "right", "− rescoring": "right"}
    title = f"{evaluation.collection}: {evaluation.rows:,} rows, {evaluation.queries:,} queries"
    print_table(title, columns, [_row(result, judged) for result in shown])
    click.echo(f"Recall is against {evaluation.truth}.")
    click.echo(
        f"In percent, with {evaluation.confidence:.0%} intervals over the queries; − is the recall lost by each step."
    )
    for note in evaluation.notes:
        click.echo(f"Note: {note}.")


def _row(result: Result, judged: bool) -> list[str]:
    row = [
        f"{result.prefilter} scan" if _is_scan(result) else result.prefilter,
        result.rescore,
        "" if result.oversampling is None else f"{result.oversampling:g}",
        _percent(result.recall),
    ]
    if judged:
        row.append("" if result.ndcg is None else _percent(result.ndcg))
    row += ["" if value is None else f"{value:.2f}" for value in (result.p50_ms, result.p95_ms, result.p99_ms)]
    row.append(f"{result.bytes_per_vector:,.0f}")
    loss = result.loss
    shares = () if loss is None else (loss.index, loss.prefilter, loss.rescore)
    return row + ["?" if share is None else f"{100 * share:.1f}" for share in shares]


def _is_scan(result: Result) -> bool:
    return result.exact and result.prefilter != NONE


def _percent(interval: Interval) -> str:
    beside = max(interval.high - interval.value, interval.value - interval.low)
    return f"{100 * interval.value:.1f} ±{100 * beside:.1f}"


def _print_comparison(evaluation: Evaluation, first: str, second: str, as_json: bool) -> None:
    from qvec.evaluation.intervals import compare

    named = {result.name: result for result in evaluation.results}
    for name in (first, second):
        if name not in named:
            raise InputError(f"no configuration {name!r} was measured; there are: {', '.join(named)}")
    found = compare(named[first].recalls, named[second].recalls, evaluation.confidence)
    if as_json:
        line = {"difference": found.difference.value, "interval": [found.difference.low, found.difference.high]}
        click.echo(json.dumps({"compare": [first, second], **line, "p_value": found.p_value}))
        return
    low, value, high = (100 * share for share in (found.difference.low, found.difference.value, found.difference.high))
    click.echo(
        f"{first} − {second}: recall {value:+.2f} points ({low:+.2f} to {high:+.2f}), p = {found.p_value:.2g}; higher "
        f"in {found.better} of {evaluation.queries} queries, lower in {found.worse}"
    )


def _print_tuning(tuning: Tuning) -> None:
    columns = {"×": "right", f"recall@{tuning.k}": "right", "at least": "right", "p50 ms": "right"}
    rows = [
        [
            "every row" if each.oversampling is None else f"{each.oversampling:g}",
            _percent(each.recall),
            f"{100 * each.at_least:.2f}",
            f"{each.p50_ms:.2f}",
        ]
        for each in sorted(tuning.attempts, key=lambda each: each.oversampling or float("inf"))
    ]
    print_table(f"{tuning.collection}: {tuning.queries:,} queries", columns, rows)
    click.echo(f"Recall is against {tuning.truth}.")
    for note in tuning.notes:
        click.echo(f"Note: {note}.")
    chosen = tuning.chosen
    if chosen is None:
        click.echo(f"{tuning.target:.2%} cannot be met: {tuning.advice}.")
        return
    what = "is stored with" if tuning.stored else "would do for"
    click.echo(
        f"Oversampling {chosen.oversampling:g} {what} collection {tuning.collection!r}: recall "
        f"{chosen.recall.value:.2%}, at least {chosen.at_least:.2%} with {tuning.confidence:.0%} confidence."
    )
