"""Which transformations of vectors give better bits: centring, rotations, iterative quantization, training, and
corrections of scores by numbers that are kept for each row.

    python benchmarks/adapters.py [--beir FOLDER] [--no-training]

Rows are MiniLM embeddings of the standard library's passages and sentences, 500 of them held out as queries; or the
documents and queries of a FOLDER in BEIR's layout. The first table compares bits on both sides, as a prefilter does:
recall@10 among the nearest 20 and 40. The second compares sign bits with queries in float32 and ranks every row, as
rescoring by one plane does: recall@10 by plain scores, by scores over the length of what the bits stand for, and with
RaBitQ's factor (Gao and Long, 2024), for which each row keeps a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from harness import Sizes, Vectors, size_options
from numpy.typing import NDArray
from realistic import real_embeddings
from synthetic import synthetic_embeddings

from qvec import Calibration
from qvec.codes import code_bytes, learned, levels
from qvec.embedding import PACKAGED_MODEL, load_embedder
from qvec.prefilter_levels import DEFAULT_PREFILTER, LEVELS
from qvec.projection import quantize_projection
from qvec.training.initial_projection import itq, projection_from, random_rotation
from qvec.training.learned_bits import AdaptOptions, CandidateRecall, RecallEvaluator, adapt
from qvec.training.text_datasets import read_beir

TRAINING_ROWS = 10_000
_SEED = 0


class Prefilter(NamedTuple):
    """A row of the first table."""

    name: str
    bytes: int
    recall: CandidateRecall


@click.command(help=__doc__)
@size_options(Sizes(queries=500))
@click.option("--beir", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder with texts.")
@click.option("--training/--no-training", default=True, show_default=True, help="Also train, which takes minutes.")
def main(sizes: Sizes, beir: Path | None, training: bool) -> None:
    rows, queries = rows_and_queries(sizes, beir)
    print(f"{len(rows):,} rows, {len(queries)} queries, {rows.shape[1]} dimensions\n")
    print("bits on both sides                 bytes   of 20   of 40")
    for name, size, recall in measure_prefilters(rows, queries, training, steps(sizes)):
        print(f"{name:34} {size:5}   {100 * recall.of_20:5.1f}   {100 * recall.of_40:5.1f}", flush=True)
    print("\nsign bits, float32 query           plain   by length   RaBitQ")
    for name, recalls in measure_corrections(rows, queries):
        print(f"{name:34} {100 * recalls[0]:5.1f}       {100 * recalls[1]:5.1f}    {100 * recalls[2]:5.1f}")


def rows_and_queries(sizes: Sizes, beir: Path | None) -> tuple[Vectors, Vectors]:
    """Return the documents and queries of a folder, or held-out queries and the other embeddings of the library."""
    if beir is not None:
        data, model = read_beir(beir), load_embedder(PACKAGED_MODEL)
        return model.embed_documents(list(data.corpus.values())), model.embed_queries(list(data.queries.values()))
    vectors = synthetic_embeddings(sizes.rows, sizes.dimensions) if sizes.smoke else real_embeddings()
    order = np.random.default_rng(_SEED).permutation(len(vectors))
    return vectors[order[sizes.queries :]], vectors[order[: sizes.queries]]


def steps(sizes: Sizes) -> int:
    """Return the steps of a training."""
    return 5 if sizes.smoke else AdaptOptions().steps


def measure_prefilters(rows: Vectors, queries: Vectors, training: bool, steps: int) -> Iterator[Prefilter]:
    width = code_bytes(rows.shape[1], 1)
    for share, name in ((0.0, "not centred"), (1.0, "whole mean"), (0.5, "half the mean")):
        fitted = Calibration.fit(rows, threshold=share)
        evaluator = RecallEvaluator(rows, queries, fitted)
        yield Prefilter(f"sign bits, {name}", width, evaluator.recall(lambda codes: codes[:, :width]))
        for prefilter in ("ternary", DEFAULT_PREFILTER):
            count = LEVELS[prefilter]
            recall = evaluator.recall(partial(levels, calibration=fitted, count=count))
            yield Prefilter(f"{prefilter}, {name}", width * (count - 1), recall)
    for name, calibration in untrained(rows, fitted):
        yield _learned(name, calibration, evaluator)
    for bits in (8 * width, 12 * width, 16 * width) if training else ():
        done = adapt(rows, fitted, AdaptOptions(bits, steps=steps))
        yield _learned(f"qvec adapt ({done.after.name} won)", done.calibration, evaluator)


def _learned(name: str, calibration: Calibration, evaluator: RecallEvaluator) -> Prefilter:
    recall = evaluator.recall(partial(learned, calibration=calibration))
    return Prefilter(name, (calibration.learned_bits or 0) // 8, recall)


def untrained(rows: Vectors, fitted: Calibration) -> Iterator[tuple[str, Calibration]]:
    """Yield calibrations with bits by rotations that need no training."""
    centred = (fitted.prepared(rows) - fitted.threshold)[:TRAINING_ROWS]
    width = code_bytes(fitted.dimensions, 1)
    for name, directions in rotations(centred).items():
        for size in (width, 3 * width // 2, 2 * width):
            projection = projection_from(directions, centred, 8 * size)
            arrays = quantize_projection(projection.weights, projection.bias, fitted.radius)
            yield f"{name}, {8 * size} bits", fitted.with_learned(*arrays, {})


def rotations(centred: Vectors) -> dict[str, Vectors]:
    dimensions = centred.shape[1]
    return {"rotation": random_rotation(dimensions, _SEED), "ITQ": itq(centred, dimensions, _SEED)}


def measure_corrections(rows: Vectors, queries: Vectors) -> Iterator[tuple[str, list[float]]]:
    """Yield, for each choice of directions, recall@10 of ranking all rows by sign bits with each correction."""
    fitted = Calibration.fit(rows)
    prepared, asked = fitted.prepared(rows), fitted.prepared(queries)
    wanted = _nearest(asked @ prepared.T)
    centred = prepared - fitted.threshold
    identity = np.eye(fitted.dimensions, dtype=np.float32)
    offset = (asked @ fitted.threshold)[:, None]
    for name, directions in {"unchanged": identity, **rotations(centred[:TRAINING_ROWS])}.items():
        rotated = centred @ directions.T
        bits = np.where(rotated > 0, np.float32(1), np.float32(-1)) * np.abs(rotated).mean(axis=0)
        plain = asked @ directions.T @ bits.T
        length = np.linalg.norm(bits @ directions + fitted.threshold, axis=1)
        rabitq = (centred**2).sum(axis=1) / (bits * rotated).sum(axis=1)
        scores = (plain + offset, (plain + offset) / length, plain * rabitq + offset)
        yield name, [_share(_nearest(each), wanted) for each in scores]


def _nearest(scores: Vectors) -> NDArray[np.intp]:
    return np.argpartition(-scores, 10, axis=1)[:, :10]


def _share(found: NDArray[np.intp], wanted: NDArray[np.intp]) -> float:
    return float((found[:, :, None] == wanted[:, None]).any(axis=2).mean())


if __name__ == "__main__":
    main()
