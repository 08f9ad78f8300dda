"""qvec calibrate"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from qvec.calibration import Calibration
from qvec.cli.console import ConsoleReporter
from qvec.cli.shared_options import (
    FILE,
    embedding_of,
    embedding_options,
    fit_of,
    fit_options,
    json_option,
    on_error_option,
    quiet_option,
    reading_of,
    source_options,
)
from qvec.errors import InputError
from qvec.ingest.fit import fit_source, load_embedder_for
from qvec.ingest.load_options import OnError
from qvec.sources import open_source


@click.command()
@click.argument("source", required=False, type=FILE)
@click.option("-o", "--output", required=True, type=FILE, metavar="FILE", help="File to write, e.g. cal.safetensors.")
@click.option(
    "--import-ranges", type=FILE, metavar="FILE", help="Import sentence-transformers' ranges (2, d) from a .npy file."
)
@click.option(
    "--midpoint", is_flag=True, help="With --import-ranges: set the threshold to the middle of the range, not to 0."
)
@on_error_option
@embedding_options
@source_options
@fit_options
@json_option
@quiet_option
def calibrate(
    source: str | None,
    output: str,
    import_ranges: str | None,
    midpoint: bool,
    on_error: OnError,
    as_json: bool,
    quiet: bool,
    **others: Any,
) -> None:
    """Fit a calibration to a uniform sample of SOURCE and write it to a file.

    \b
    Examples:
      qvec calibrate vectors.parquet -o cal.safetensors
      qvec calibrate vectors.npy -o cal.safetensors --threshold zero --ranges fixed --range 0.18
      qvec calibrate -o cal.safetensors --import-ranges ranges.npy
    """
    if bool(source) == bool(import_ranges):
        raise InputError("give either a source or --import-ranges FILE")
    reading = reading_of(others)
    embedding = embedding_of(others)
    options = fit_of(**others)
    if import_ranges:
        calibration = Calibration.from_ranges(
            _read_ranges(import_ranges), metric=options.metric, midpoint=midpoint, model=embedding.model
        )
    else:
        assert source is not None
        with ConsoleReporter(quiet=quiet) as reporter, open_source(source, **reading) as opened:
            embedder = load_embedder_for(opened, embedding)
            calibration, _ = fit_source(opened, embedder, options, embedding.model, reporter, on_error)
    calibration.save(output)
    if as_json:
        click.echo(json.dumps({"id": calibration.id, "file": output, **calibration.metadata()}))
    elif not quiet:
        click.echo(f"{output}: calibration {calibration.id}, {calibration.dimensions} dimensions, {calibration.metric}")


def _read_ranges(path: str) -> Any:
    try:
        return np.load(Path(path), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read ranges from {path}: {error}") from None
