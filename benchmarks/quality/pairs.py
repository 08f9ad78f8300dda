"""Whether learned bits find more when they are learned from pairs of queries and documents too.

    python benchmarks/quality/pairs.py [--beir DIRECTORY] [--bits N] [--seeds N]

Queries are first lines of Python's documentation strings, to be answered by the rest of their own: pairs of three
quarters of the modules are learned from, those of the others are held out. Of a folder in the BEIR layout each third of
the queries is held out in turn. MiniLM's embeddings; rows are all documents. Bits are those of ITQ, learned from there
from rows alone, from rows and queries, and from rows and pairs; none of them is chosen by what it finds.
Printed of held-out queries: recall@10 of the exact nearest among the nearest 20 and 40 by bits, the share of documents
that answer among the 20, and nDCG@10 by bits alone, of the 20 and of the 40 rescored by floats.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from texts import documentation_split

from qvec import Calibration
from qvec.adapting.directions import Projection, itq, with_levels
from qvec.adapting.held_out import Bits
from qvec.adapting.learning import learn, material
from qvec.adapting.pairs import Pairs
from qvec.codes import code_bytes, hamming_top_k, learned, quantize, ternary
from qvec.embedding import PACKAGED_MODEL, load_embedder
from qvec.evaluation.metrics import ndcg
from qvec.projection import whole
from qvec.training.retrieval import read_retrieval

Floats = NDArray[np.float32]

K, FOLDS, STEPS = 10, 3, 800


@dataclass(frozen=True)
class Fold:
    """Documents (n, d), pairs to learn from, held-out queries (m, d), and the rows that answer each of them."""

    rows: Floats
    pairs: Pairs
    queries: Floats
    relevant: list[set[int]]


def documentation() -> list[Fold]:
    train, held_out = documentation_split()
    model = load_embedder(PACKAGED_MODEL)
    queries, documents = (list(side) for side in zip(*train, strict=True))
    rows = model.embed_documents([*held_out.corpus.values(), *documents])
    places = {name: row for row, name in enumerate(held_out.corpus)}
    relevant = [{places[name] for name in held_out.relevant[query]} for query in held_out.queries]
    pairs = Pairs(model.embed_queries(queries), rows[len(places) :])
    return [Fold(rows, pairs, model.embed_queries(list(held_out.queries.values())), relevant)]


def folds_of(folder: Path) -> list[Fold]:
    data = read_retrieval(folder)
    model = load_embedder(PACKAGED_MODEL)
    rows, queries = model.embed_documents(list(data.corpus.values())), model.embed_queries(list(data.queries.values()))
    places = {name: row for row, name in enumerate(data.corpus)}
    relevant = [{places[name] for name in data.relevant[query]} for query in data.queries]
    order = np.random.default_rng(0).permutation(len(queries))
    return [_fold(rows, queries, relevant, set(order[part::FOLDS].tolist())) for part in range(FOLDS)]


def _fold(rows: Floats, queries: Floats, relevant: list[set[int]], held_out: set[int]) -> Fold:
    paired = [(query, row) for query in range(len(queries)) if query not in held_out for row in sorted(relevant[query])]
    asked, answers = np.array(paired).T
    measured = sorted(held_out)
    return Fold(rows, Pairs(queries[asked], rows[answers]), queries[measured], [relevant[query] for query in measured])


def figures(fold: Fold, bits: int, seed: int) -> Iterator[tuple[str, list[float]]]:
    fitted = Calibration.fit(fold.rows)
    rows = fitted.prepared(fold.rows)
    width = code_bytes(fitted.dimensions, 1)
    yield "sign", measured(fold, fitted, lambda codes: codes[:, :width])
    yield "ternary", measured(fold, fitted, partial(ternary, calibration=fitted))
    centred = rows - fitted.threshold
    start = with_levels(itq(centred, min(bits, fitted.dimensions), seed), centred, bits)
    yield f"ITQ, {bits}", _projected(fold, fitted, start)
    asked = np.unique(fold.pairs.queries, axis=0)
    nothing = fold.pairs.take(np.arange(0))
    for name, queries, pairs in (
        ("rows", asked[:0], nothing),
        ("queries", asked, nothing),
        ("pairs", asked[:0], fold.pairs),
    ):
        given = material(rows, fitted.threshold, fitted.prepared(queries), pairs)
        yield f"{name}, {bits}", _projected(fold, fitted, learn(start, given, STEPS, seed, lambda _: None))


def _projected(fold: Fold, fitted: Calibration, projection: Projection) -> list[float]:
    held = fitted.with_learned(*whole(projection.weights, projection.bias, fitted.radius), {})
    return measured(fold, fitted, partial(learned, calibration=held))


def measured(fold: Fold, fitted: Calibration, bits: Bits) -> list[float]:
    """The columns of the table, of bits made of codes."""
    similar = fitted.prepared(fold.queries) @ fitted.prepared(fold.rows).T
    nearest = np.argsort(-similar, axis=1, kind="stable")[:, :K]
    found, _ = hamming_top_k(bits(quantize(fold.rows, fitted)), bits(quantize(fold.queries, fitted)), 40)
    rescored = [np.take_along_axis(found[:, :count], _order(similar, found[:, :count]), axis=1) for count in (20, 40)]
    recalls = [(nearest[:, :, None] == found[:, None, :count]).any(axis=2).mean() for count in (20, 40)]
    answers = np.mean([len(wanted.intersection(row[:20])) / len(wanted) for wanted, row in _with(fold, found)])
    return [*recalls, answers, *(_ndcg(fold, ranking) for ranking in (found, *rescored))]


def _order(similar: Floats, found: NDArray[np.int64]) -> NDArray[np.intp]:
    return np.argsort(-np.take_along_axis(similar, found, axis=1), axis=1, kind="stable")


def _with(fold: Fold, rankings: NDArray[np.int64]) -> Iterator[tuple[set[int], list[int]]]:
    return zip(fold.relevant, rankings.tolist(), strict=True)


def _ndcg(fold: Fold, rankings: NDArray[np.int64]) -> float:
    return float(np.mean([ndcg(row, dict.fromkeys(wanted, 1), K) for wanted, row in _with(fold, rankings)]))


@click.command(help=__doc__)
@click.option("--beir", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder with texts.")
@click.option("--bits", type=int, default=384, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=2, show_default=True, help="Trainings whose mean is printed.")
def main(beir: Path | None, bits: int, seeds: int) -> None:
    folds = documentation() if beir is None else folds_of(beir)
    print(f"{len(folds[0].rows):,} documents, {sum(len(fold.queries) for fold in folds)} queries held out")
    print(f"{'bits':16} of 20  of 40  answers    nDCG of bits, of 20, of 40")
    found: dict[str, list[list[float]]] = {}
    for fold in folds:
        for seed in range(seeds):
            for name, row in figures(fold, bits, seed):
                found.setdefault(name, []).append(row)
    for name, rows in found.items():
        print(f"{name:16}" + "".join(f"{100 * value:6.1f} " for value in np.mean(rows, axis=0)))


if __name__ == "__main__":
    main()
