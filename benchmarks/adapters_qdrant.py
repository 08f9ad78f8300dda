"""What learned bits would find in Qdrant, beside the quantizations that qvec uses there.

    python benchmarks/adapters_qdrant.py [--beir DIRECTORY]

In the embedded engine, by its own scores of quantized vectors, without rescoring: recall@10 of the exact nearest among
the nearest 20 and 40, and bytes a vector in RAM. Rows and queries are those of benchmarks/adapters.py. Qdrant takes
bits of the signs of what is stored, so learned bits are stored as the numbers whose signs they are, at one spread, as
binary quantization with 8-bit queries, which are projected too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from adapters import Floats, embedded, split
from qdrant_edge import EdgeShard, QuantizationSearchParams, Query, QueryRequest, SearchParams
from qdrant_prefilters import PREFILTERS, Quantization, build, bytes_per_vector
from realistic import real_embeddings

from qvec import Calibration
from qvec.training.initial_projection import itq
from qvec.training.learned_bits import CANDIDATES, AdaptOptions, K, adapt

ENGINES = (
    "sign bits, 8-bit query",
    "1.5 bits, 8-bit query",
    "2 bits, 8-bit query",
    "TurboQuant 1 bit",
    "TurboQuant 1.5 bits",
    "TurboQuant 2 bits",
)
_BINARY = PREFILTERS["sign bits, 8-bit query"]
_EVERY_ROW = 1000
"""Rows of the graph that a search keeps: so many find all that a scan finds."""


@dataclass(frozen=True)
class Way:
    """What is stored of rows and sent of queries, and how the engine quantizes it."""

    name: str
    stored: Floats
    sent: Floats
    quantization: Quantization | None


def ways(rows: Floats, queries: Floats) -> Iterator[Way]:
    fitted = Calibration.fit(rows)
    centred, asked = fitted.prepared(rows) - fitted.threshold, fitted.prepared(queries)
    for name in ENGINES:
        yield Way(name, centred, asked, PREFILTERS[name])
    turn = itq(centred, fitted.dimensions, 0).T
    yield Way("ITQ", centred @ turn, asked @ turn, _BINARY)
    for bits in (fitted.dimensions, 2 * fitted.dimensions):
        done = adapt(rows, fitted, AdaptOptions(bits))
        name = f"qvec adapt, {bits} bits ({done.after.name})"
        stored, sent = _projected(done.calibration, centred, asked - fitted.threshold)
        yield Way(name, stored, sent, _BINARY)


def _projected(learned: Calibration, *sides: Floats) -> list[Floats]:
    """The numbers whose signs are the learned bits, each divided by its spread over the first side."""
    assert learned.projection is not None
    assert learned.bias is not None
    weights, bias = learned.projection * (256 / learned.radius), learned.bias
    values = [(side @ weights.T + bias).astype(np.float32) for side in sides]
    spread = values[0].std(axis=0)
    return [side / spread for side in values]


def recalls(shard: EdgeShard, way: Way, nearest: np.ndarray) -> list[float]:
    found = np.array([_search(shard, query) for query in way.sent])
    return [float((nearest[:, :, None] == found[:, None, :count]).any(axis=2).mean()) for count in CANDIDATES]


def _search(shard: EdgeShard, query: Floats) -> list[int]:
    parameters = SearchParams(hnsw_ef=_EVERY_ROW, quantization=QuantizationSearchParams(rescore=False))
    sent = Query.Nearest(memoryview(np.ascontiguousarray(query)))
    return [point.id for point in shard.query(QueryRequest(limit=max(CANDIDATES), query=sent, params=parameters))]


@click.command(help=__doc__)
@click.option("--beir", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder with texts.")
def main(beir: Path | None) -> None:
    rows, queries = split(real_embeddings()) if beir is None else embedded(beir)
    nearest = np.argpartition(-(queries @ rows.T), K, axis=1)[:, :K]
    print(f"{len(rows):,} rows, {len(queries)} queries, {rows.shape[1]} dimensions")
    print(f"{'scored by the engine':34} bytes   of 20   of 40")
    for number, way in enumerate(ways(rows, queries)):
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch) / str(number)
            shard = build(directory, way.stored, way.quantization)
            found = recalls(shard, way, nearest)
            size = bytes_per_vector(directory, len(rows))
            shard.close()
        print(f"{way.name:34} {size:5.0f}   {100 * found[0]:5.1f}   {100 * found[1]:5.1f}", flush=True)


if __name__ == "__main__":
    main()
