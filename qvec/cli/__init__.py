"""The `qvec` command."""

from __future__ import annotations

import os
import sys

import click

from qvec import __version__
from qvec.cli.adapt import adapt
from qvec.cli.calibrate import calibrate
from qvec.cli.collections import collections, drop, index, info
from qvec.cli.command_group import CommandGroup
from qvec.cli.copy import copy
from qvec.cli.db import db
from qvec.cli.doctor import doctor
from qvec.cli.drift import drift
from qvec.cli.evaluate import evaluate
from qvec.cli.ingest import ingest
from qvec.cli.recalibrate import recalibrate
from qvec.cli.recall import recall
from qvec.cli.search import search
from qvec.cli.show_demo import demo
from qvec.cli.sql import sql
from qvec.cli.train import train
from qvec.cli.tune import tune
from qvec.errors import QvecError

INTERRUPTED = 130


class _Commands(CommandGroup):
    """Prints qvec's errors as one line, and exits with code 1, or 130 after Ctrl-C."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except QvecError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="qvec")
def main() -> None:
    """Quantized vectors for Postgres and Qdrant: stored calibration, fast load, two-step search.

    \b
    Start with:
      qvec demo
      qvec ingest vectors.parquet --collection docs
      qvec search --vectors queries.npy --collection docs

    Commands that use a database take --db URL, or read the variable QVEC_DB; the default is an embedded Postgres in
    ./qvec-data.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC also raises what it prints


for command in (
    ingest,
    search,
    calibrate,
    evaluate,
    tune,
    drift,
    recall,
    recalibrate,
    index,
    collections,
    info,
    copy,
    drop,
    db,
    sql,
    demo,
    doctor,
    train,
    adapt,
):
    main.add_command(command)
