"""Whether learned bits find more when they also learn from pairs of queries and documents.

    python benchmarks/quality/pairs.py [--beir FOLDER] [--bits N] [--seeds N]

Queries are first lines of Python's documentation strings, answered by the rest of their own string: the pairs of three
quarters of the modules are learned from, those of the others are held out. Of a FOLDER in BEIR's layout, each third of
the queries is held out in turn. Rows are all documents, embedded by MiniLM. Bits are those of ITQ, then trained from
there with rows alone, with rows and queries, and with rows and pairs, without selecting among them.

Printed for the held-out queries: recall@10 of the exact nearest rows among the nearest 20 and 40 by bits, the share of
answers among the 20, and nDCG@10 of the bits alone and of the 20 and the 40 rescored by floats.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from studies import SMOKE_LIMIT, Floats, K, documentation_split, load_model

from qvec import Calibration
from qvec.codes import code_bytes, hamming_top_k, learned, quantize, ternary
from qvec.embedding import TextEmbedder
from qvec.evaluation.metrics import ndcg
from qvec.projection import quantize_projection
from qvec.training.initial_projection import Projection, itq, projection_from
from qvec.training.learned_bits import Bits
from qvec.training.learned_bits_data import VectorPairs
from qvec.training.learned_bits_training import build_dataset, train_projection
from qvec.training.text_datasets import read_beir

FOLDS = 3


@dataclass(frozen=True)
class Fold:
    """Documents (n, d), pairs to learn from, held-out queries (m, d), and the rows that answer each of them."""

    rows: Floats
    pairs: VectorPairs
    queries: Floats
    relevant: list[set[int]]


def documentation_folds(model: TextEmbedder, limit: int | None) -> list[Fold]:
    train, held_out = documentation_split(limit)
    queries, documents = (list(side) for side in zip(*train, strict=True))
    rows = model.embed_documents([*held_out.corpus.values(), *documents])
    positions = {name: row for row, name in enumerate(held_out.corpus)}
    relevant = [{positions[name] for name in held_out.relevant[query]} for query in held_out.queries]
    pairs = VectorPairs(model.embed_queries(queries), rows[len(positions) :])
    return [Fold(rows, pairs, model.embed_queries(list(held_out.queries.values())), relevant)]


def beir_folds(model: TextEmbedder, folder: Path) -> list[Fold]:
    data = read_beir(folder)
    rows, queries = model.embed_documents(list(data.corpus.values())), model.embed_queries(list(data.queries.values()))
    positions = {name: row for row, name in enumerate(data.corpus)}
    relevant = [{positions[name] for name in data.relevant[query]} for query in data.queries]
    order = np.random.default_rng(0).permutation(len(queries))
    return [_fold(rows, queries, relevant, set(order[part::FOLDS].tolist())) for part in range(FOLDS)]


def _fold(rows: Floats, queries: Floats, relevant: list[set[int]], held_out: set[int]) -> Fold:
    paired = [(query, row) for query in range(len(queries)) if query not in held_out for row in sorted(relevant[query])]
    query_rows, answers = np.array(paired).T
    test = sorted(held_out)
    return Fold(rows, VectorPairs(queries[query_rows], rows[answers]), queries[test], [relevant[row] for row in test])


def measure_fold(fold: Fold, bits: int, steps: int, seed: int) -> Iterator[tuple[str, list[float]]]:
    fitted = Calibration.fit(fold.rows)
    rows = fitted.prepared(fold.rows)
    width = code_bytes(fitted.dimensions, 1)
    yield "sign", measure_bits(fold, fitted, lambda codes: codes[:, :width])
    yield "ternary", measure_bits(fold, fitted, partial(ternary, calibration=fitted))
    centred = rows - fitted.threshold
    start = projection_from(itq(centred, min(bits, fitted.dimensions), seed), centred, bits)
    yield f"ITQ, {bits}", _measure_projection(fold, fitted, start)
    all_queries = np.unique(fold.pairs.queries, axis=0)
    no_queries, no_pairs = all_queries[:0], fold.pairs.take(np.arange(0))
    for name, queries, pairs in (
        ("rows", no_queries, no_pairs),
        ("queries", all_queries, no_pairs),
        ("pairs", no_queries, fold.pairs),
    ):
        dataset = build_dataset(rows, fitted.threshold, fitted.prepared(queries), pairs)
        trained = train_projection(start, dataset, steps, seed, lambda _: None)
        yield f"{name}, {bits}", _measure_projection(fold, fitted, trained)


def _measure_projection(fold: Fold, fitted: Calibration, projection: Projection) -> list[float]:
    calibration = fitted.with_learned(*quantize_projection(projection.weights, projection.bias, fitted.radius), {})
    return measure_bits(fold, fitted, partial(learned, calibration=calibration))


def measure_bits(fold: Fold, fitted: Calibration, bits: Bits) -> list[float]:
    """One row of the table."""
    similarities = fitted.prepared(fold.queries) @ fitted.prepared(fold.rows).T
    nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :K]
    found, _ = hamming_top_k(bits(quantize(fold.rows, fitted)), bits(quantize(fold.queries, fitted)), 40)
    rescored = [_rescore(similarities, found[:, :count]) for count in (20, 40)]
    recalls = [(nearest[:, :, None] == found[:, None, :count]).any(axis=2).mean() for count in (20, 40)]
    answers = np.mean([len(relevant.intersection(row[:20])) / len(relevant) for relevant, row in _zip(fold, found)])
    return [*recalls, answers, *(_ndcg(fold, ranking) for ranking in (found, *rescored))]


def _rescore(similarities: Floats, candidates: NDArray[np.int64]) -> NDArray[np.int64]:
    order = np.argsort(-np.take_along_axis(similarities, candidates, axis=1), axis=1, kind="stable")
    return np.take_along_axis(candidates, order, axis=1)


def _zip(fold: Fold, rankings: NDArray[np.int64]) -> Iterator[tuple[set[int], list[int]]]:
    return zip(fold.relevant, rankings.tolist(), strict=True)


def _ndcg(fold: Fold, rankings: NDArray[np.int64]) -> float:
    found = [ndcg([*map(str, row)], dict.fromkeys(map(str, ids), 1), K) for ids, row in _zip(fold, rankings)]
    return float(np.mean(found))


@click.command(help=__doc__)
@click.option("--beir", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder with texts.")
@click.option("--bits", type=int, default=384, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=800, show_default=True, help="Batches of each training.")
@click.option("--seeds", type=click.IntRange(1), default=2, show_default=True, help="Trainings to average over.")
@click.option("--limit", type=click.IntRange(50), help="Use only this many pairs of the documentation.")
@click.option("--smoke", is_flag=True, help="Few texts, steps and bits, no model: only shows that the study works.")
def main(beir: Path | None, bits: int, steps: int, seeds: int, limit: int | None, smoke: bool) -> None:
    if smoke:
        bits, steps, seeds, limit = 64, 5, 1, SMOKE_LIMIT
    model = load_model(smoke)
    folds = documentation_folds(model, limit) if beir is None else beir_folds(model, beir)
    print(f"{len(folds[0].rows):,} documents, {sum(len(fold.queries) for fold in folds)} queries held out")
    print(f"{'bits':16} of 20  of 40  answers    nDCG of bits, of 20, of 40")
    found: dict[str, list[list[float]]] = {}
    for fold in folds:
        for seed in range(seeds):
            for name, row in measure_fold(fold, bits, steps, seed):
                found.setdefault(name, []).append(row)
    for name, rows in found.items():
        print(f"{name:16}" + "".join(f"{100 * value:6.1f} " for value in np.mean(rows, axis=0)))


if __name__ == "__main__":
    main()
