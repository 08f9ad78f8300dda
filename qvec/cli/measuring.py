"""What `qvec eval` and `qvec tune` share: what they measure with, and how they write a figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from qvec.cli.console import ConsoleReporter
from qvec.cli.options import (
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
    from qvec.evaluation.queries import Queries
    from qvec.evaluation.results import Interval
    from qvec.evaluation.rows import Rows

_ROWS_AS_QUERIES = 500


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
                "--truth",
                metavar="SOURCE",
                help="What the collection was loaded from: recall is against its vectors. A file of vectors is found "
                "by itself, as long as neither it nor the collection has changed.",
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


@contextmanager
def material(
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
    from qvec.evaluation.origin import origin
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
        width = given.vectors.shape[1] if given else None
        rows = None
        if truth is not None:
            opened = opening.enter_context(open_source(truth, columns=columns))
            _check_ids(collection, opened.id_type, truth)
            needed = embedder() if opened.dimensions is None else None
            rows = rows_of_source(opened, collection.calibration, needed, id_start, width or opened.dimensions)
        elif found := origin(database, collection, columns, width):
            source, rows = found
            opening.enter_context(source)
            reporter.say(f"recall is against the vectors of {source.name}, which the collection was loaded from")
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
    from qvec.embedding.options import choose_embedding

    embedding = choose_embedding(asked, collection, collection.calibration)
    if embedding.model is None:
        raise InputError(f"collection {collection.name!r} was loaded as vectors; name the model they are from: --model")
    return load_embedder(embedding)


def percent(interval: Interval) -> str:
    """A mean in percent, with the longer side of its interval."""
    beside = max(interval.high - interval.value, interval.value - interval.low)
    return f"{100 * interval.value:.1f} ±{100 * beside:.1f}"
