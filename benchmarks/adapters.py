"""Which transformations of vectors make better bits: centring, rotations, iterative quantization, training, and
corrections of scores by numbers kept for each row.

    python benchmarks/adapters.py [--beir DIRECTORY] [--no-training]

Rows are MiniLM embeddings of the standard library's passages and sentences, 500 of them held out as queries; or, of a
folder in the BEIR layout, its documents and its queries. The first table is of bits on both sides, as a prefilter
compares them: recall@10 among the nearest 20 and 40. The second is of sign bits against queries in float32, every row
ranked, as rescoring by one plane does: recall@10 by plain scores, by scores over the length of what the bits stand for,
and with RaBitQ's factor (Gao and Long, 2024), for which each row keeps a number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from realistic import real_embeddings

from qvec import Calibration
from qvec.codes import code_bytes, learned, ternary
from qvec.embedding import PACKAGED_MODEL, load_embedder
from qvec.projection import quantize_projection
from qvec.training.initial_projection import itq, projection_from, random_rotation
from qvec.training.learned_bits import AdaptOptions, RecallEvaluator, adapt

Floats = NDArray[np.float32]

TRAINED_ON = 10_000
_QUERIES = 500
_SEED = 0


@click.command(help=__doc__)
@click.option("--beir", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder with texts.")
@click.option("--training/--no-training", default=True, show_default=True, help="Also train, which takes minutes.")
def main(beir: Path | None, training: bool) -> None:
    rows, queries = split(real_embeddings()) if beir is None else embedded(beir)
    print(f"{len(rows):,} rows, {len(queries)} queries, {rows.shape[1]} dimensions\n")
    print("bits on both sides                 bytes   of 20   of 40")
    for name, size, recall in prefilters(rows, queries, training):
        print(f"{name:34} {size:5}   {100 * recall[0]:5.1f}   {100 * recall[1]:5.1f}")
    print("\nsign bits, float32 query           plain   by length   RaBitQ")
    for name, shares in corrections(rows, queries):
        print(f"{name:34} {100 * shares[0]:5.1f}       {100 * shares[1]:5.1f}    {100 * shares[2]:5.1f}")


def split(vectors: Floats) -> tuple[Floats, Floats]:
    order = np.random.default_rng(_SEED).permutation(len(vectors))
    return vectors[order[_QUERIES:]], vectors[order[:_QUERIES]]


def embedded(folder: Path) -> tuple[Floats, Floats]:
    embedder = load_embedder(PACKAGED_MODEL)
    documents = [f"{line.get('title', '')} {line['text']}".strip() for line in _lines(folder / "corpus.jsonl")]
    questions = [line["text"] for line in _lines(folder / "queries.jsonl")]
    return embedder.embed_documents(documents), embedder.embed_queries(questions)


def _lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


Found = tuple[str, int, tuple[float, float]]


def prefilters(rows: Floats, queries: Floats, training: bool) -> Iterator[Found]:
    """Name, bytes a row, and recall@10 of the top 20 and 40."""
    width = code_bytes(rows.shape[1], 1)
    for share, name in ((0.0, "not centred"), (1.0, "whole mean"), (0.5, "half the mean")):
        fitted = Calibration.fit(rows, threshold=share)
        held_out = RecallEvaluator(rows, queries, fitted)
        found = held_out.recall(lambda codes: codes[:, :width])
        yield f"sign bits, {name}", width, (found.of_20, found.of_40)
        found = held_out.recall(lambda codes, fitted=fitted: ternary(codes, fitted))
        yield f"ternary, {name}", 2 * width, (found.of_20, found.of_40)
    for name, size, made in without_training(rows, fitted):
        found = held_out.recall(lambda codes, made=made: learned(codes, made))
        yield name, size, (found.of_20, found.of_40)
    for bits in (8 * width, 12 * width, 16 * width) if training else ():
        done = adapt(rows, fitted, AdaptOptions(bits))
        found = held_out.recall(lambda codes, done=done: learned(codes, done.calibration))
        yield f"qvec adapt ({done.after.name} won)", bits // 8, (found.of_20, found.of_40)


def without_training(rows: Floats, fitted: Calibration) -> Iterator[tuple[str, int, Calibration]]:
    centred = (fitted.prepared(rows) - fitted.threshold)[:TRAINED_ON]
    dimensions = fitted.dimensions
    turns = {"rotation": random_rotation(dimensions, _SEED), "ITQ": itq(centred, dimensions, _SEED)}
    width = code_bytes(dimensions, 1)
    for name, directions in turns.items():
        for size in (width, 3 * width // 2, 2 * width):
            made = projection_from(directions, centred, 8 * size)
            arrays = quantize_projection(made.weights, made.bias, fitted.radius)
            yield f"{name}, {8 * size} bits", size, fitted.with_learned(*arrays, {})


def corrections(rows: Floats, queries: Floats) -> Iterator[tuple[str, list[float]]]:
    """Recall@10 of ranking all rows by their sign bits, with each correction, for each choice of directions."""
    fitted = Calibration.fit(rows)
    prepared, asked = fitted.prepared(rows), fitted.prepared(queries)
    wanted = _nearest(asked @ prepared.T)
    centred = prepared - fitted.threshold
    turns = {
        "as they are": np.eye(fitted.dimensions, dtype=np.float32),
        "rotation": random_rotation(fitted.dimensions, _SEED),
        "ITQ": itq(centred[:TRAINED_ON], fitted.dimensions, _SEED),
    }
    offset = (asked @ fitted.threshold)[:, None]
    for name, directions in turns.items():
        turned = centred @ directions.T
        bits = np.where(turned > 0, np.float32(1), np.float32(-1)) * np.abs(turned).mean(axis=0)
        plain = asked @ directions.T @ bits.T
        length = np.linalg.norm(bits @ directions + fitted.threshold, axis=1)
        rabitq = (centred**2).sum(axis=1) / (bits * turned).sum(axis=1)
        scores = (plain + offset, (plain + offset) / length, plain * rabitq + offset)
        yield name, [_shared(_nearest(each), wanted) for each in scores]


def _nearest(scores: Floats) -> NDArray[np.intp]:
    return np.argpartition(-scores, 10, axis=1)[:, :10]


def _shared(found: NDArray[np.intp], wanted: NDArray[np.intp]) -> float:
    return float((found[:, :, None] == wanted[:, None]).any(axis=2).mean())


if __name__ == "__main__":
    main()
