"""Shared by the commands that measure: options, queries and models, and how `eval` and `tune` print a figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np

from qvec.cli.console import ConsoleReporter
from qvec.cli.shared_options import (
    FILE,
    embedding_of,
    embedding_options,
    encoding_option,
    json_option,
    open_database,
    quiet_option,
)
from qvec.codecs import preset
from qvec.embedding import EmbeddingOptions, load_embedder
from qvec.errors import InputError
from qvec.sources import Columns, open_source

if TYPE_CHECKING:
    from qvec.client import Collection
    from qvec.embedding import Embedder
    from qvec.evaluation.dataset import Queries, Rows
    from qvec.evaluation.metrics import Interval

_ROWS_AS_QUERIES = 500

_option = partial(click.option, show_default=True)

_OPTIONS = (
    _option(
        "--queries",
        type=FILE,
        metavar="FILE",
        help="Queries: vectors, or texts (queries.jsonl with _id and text) that the model embeds. Default: rows of the "
        "collection, each excluded from its own hits.",
    ),
    _option(
        "--truth",
        type=FILE,
        metavar="SOURCE",
        help="What the collection was loaded from: recall is measured against its vectors. Default: the file of "
        "vectors that the collection was loaded from, if neither has changed since.",
    ),
    _option("--id-start", type=click.IntRange(0), default=0, help="First id of a SOURCE without ids."),
    encoding_option,
    embedding_options,
    _option("-k", type=click.IntRange(1), default=10, help="Hits per query."),
    _option("--limit", type=click.IntRange(2), default=1000, help="Maximum number of queries, drawn uniformly."),
    _option("--seed", type=click.IntRange(0), default=0, help="Seed of what is drawn."),
    _option(
        "--confidence",
        type=click.FloatRange(0.5, 1, max_open=True),
        default=0.95,
        help="Confidence of intervals and bounds.",
    ),
    quiet_option,
    json_option,
)


def measuring_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that both commands measure with."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class Measured(NamedTuple):
    """A collection with what it is measured with; `truth` is None if only the collection itself is known."""

    collection: Collection
    queries: Queries
    truth: Rows | None
    reporter: ConsoleReporter


@contextmanager
def open_measured(
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
) -> Iterator[Measured]:
    """Open a collection, read its queries, and open the source of the ground truth."""
    from qvec.evaluation.dataset import Queries, find_source, rows_of_collection, rows_of_source

    columns = Columns(codec=preset(encoding))
    with open_database(url) as database, ConsoleReporter(quiet=quiet) as reporter, ExitStack() as opened:
        collection: Collection = database.collection(name)
        embedder = cache(partial(embedder_of, collection, embedding_of(options)))
        asked = None if queries is None else queries_of_file(queries, columns, collection, embedder, limit, seed)
        dimensions = asked.vectors.shape[1] if asked else None
        rows = None
        if truth is not None:
            source = opened.enter_context(open_source(truth, columns=columns))
            _check_ids(collection, source.id_type, truth)
            needed = embedder() if source.dimensions is None else None
            rows = rows_of_source(source, collection.calibration, needed, id_start, dimensions or source.dimensions)
        elif found := find_source(database, collection, columns, dimensions):
            source, rows = found
            opened.enter_context(source)
            reporter.say(f"recall is against the vectors of {source.name}, which the collection was loaded from")
        if asked is None:
            known = rows or rows_of_collection(collection)
            ids, vectors = known.sample(min(limit, _ROWS_AS_QUERIES), seed)
            asked = Queries(tuple(map(str, ids)), vectors, f"rows of {known.name}", tuple(ids))
        yield Measured(collection, asked, rows, reporter)


def queries_of_file(
    location: str, columns: Columns, collection: Collection, embedder: Callable[[], Embedder], limit: int, seed: int
) -> Queries:
    """Return the queries of a file, at most `limit`, drawn uniformly."""
    from qvec.evaluation.dataset import read_queries

    with open_source(location, columns=columns) as source:
        queries = read_queries(source, collection.calibration, embedder)
    if len(queries) <= limit:
        return queries
    return queries.take(np.sort(np.random.default_rng(seed).choice(len(queries), limit, replace=False)))


def _check_ids(collection: Collection, id_type: str | None, truth: str) -> None:
    if (id_type or "bigint") != collection.id_type:
        raise InputError(
            f"collection {collection.name!r} has {collection.id_type} ids, but {truth} has {id_type or 'none'}; give "
            "what the collection was loaded from as --truth"
        )


def embedder_of(collection: Collection, options: EmbeddingOptions) -> Embedder:
    """Load the model of a collection, or the one that the options name."""
    from qvec.embedding.embedding_options import choose_embedding

    embedding = choose_embedding(options, collection, collection.calibration)
    if embedding.model is None:
        raise InputError(f"collection {collection.name!r} was loaded as vectors; name the model they are from: --model")
    return load_embedder(embedding)


def percent_with_margin(interval: Interval) -> str:
    """Write a mean in percent, with the longer side of its interval."""
    margin = max(interval.high - interval.value, interval.value - interval.low)
    return f"{100 * interval.value:.1f} ±{100 * margin:.1f}"
