"""Does training for codes help? MiniLM trained in several ways on documentation strings, and searched by its codes.

    python benchmarks/quality/qat.py [FOLDER]... [--runs RUNS]

The first line of a documentation string is to find the rest of it. Plain multiple-negatives ranking is compared with
quantization-aware training of several kinds, over the same batches and several seeds, on held-out strings of other
modules and on each FOLDER in the BEIR layout. The last layers are trained (--layers), those below stay as they are.
Interrupted, the same command goes on with the runs that the folder RUNS lacks.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from gains import Gains, print_tables
from recipes import BEFORE, RECIPES, trained
from runs import Embedded, Run, Runs
from texts import documentation_split, named
from upper import LowerLayers, States, UpperLayers

from qvec.training.retrieval import Retrieval

Searched = dict[str, tuple[States, States]]
"""Queries and documents by retrieval, as the layers that are trained take them."""


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--layers", default=2, show_default=True, help="Of MiniLM's six, the last ones, that are trained.")
@click.option("--steps", default=100, show_default=True, help="Batches of 32 pairs.")
@click.option("--seeds", default=2, show_default=True, help="Runs of each kind.")
@click.option("--tokens", default=128, show_default=True, help="Where texts end; in training at half of it.")
@click.option("--runs", "folder", type=click.Path(path_type=Path), metavar="RUNS", help="Keeps what is trained.")
@click.option("--json", "as_json", is_flag=True, help="One line a cell of the tables.")
def main(
    folders: tuple[Path, ...], layers: int, steps: int, seeds: int, tokens: int, folder: Path | None, as_json: bool
) -> None:
    pairs, held_out = documentation_split()
    retrievals = {"documentation": held_out, **named(folders)}
    settings = {"layers": layers, "steps": steps, "tokens": tokens, "searched": sorted(retrievals)}
    with ExitStack() as stack:
        runs = Runs(folder or Path(stack.enter_context(TemporaryDirectory())), settings)
        train_missing(runs, pairs, retrievals, LowerLayers(layers, tokens), steps, seeds)
        gains = Gains(retrievals)
        gains.add(runs.load(BEFORE, 0))
        for recipe in RECIPES:
            for seed in range(seeds):
                gains.add(runs.load(recipe.name, seed))
    if as_json:
        for line in gains.lines():
            click.echo(json.dumps(line))
    else:
        print_tables(gains)


def train_missing(
    runs: Runs,
    pairs: list[tuple[str, str]],
    retrievals: dict[str, Retrieval],
    lower: LowerLayers,
    steps: int,
    seeds: int,
) -> None:
    missing = [(recipe, seed) for seed in range(seeds) for recipe in RECIPES if not runs.has(recipe.name, seed)]
    if not missing:
        return
    searched = {
        name: (lower.states(list(data.queries.values())), lower.states(list(data.corpus.values())))
        for name, data in retrievals.items()
    }
    columns = [lower.states(column) for column in zip(*pairs, strict=True)]
    columns = [[rows[: lower.tokens // 2] for rows in column] for column in columns]
    runs.save(Run(BEFORE, 0, embedded(lower.upper(), searched), None))
    for recipe, seed in missing:
        model = lower.upper()
        calibration = trained(recipe, model, columns, steps, seed)
        runs.save(Run(recipe.name, seed, embedded(model, searched), calibration if recipe.quantized else None))
        click.echo(f"trained: {recipe.name}, seed {seed}", err=True)


def embedded(model: UpperLayers, searched: Searched) -> dict[str, Embedded]:
    return {name: (model.embed(queries), model.embed(documents)) for name, (queries, documents) in searched.items()}


if __name__ == "__main__":
    main()
