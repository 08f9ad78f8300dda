"""Loading into Qdrant and searching there, against the engine and the client used by hand.

Run: python benchmarks/qdrant.py
Goals: at least 0.95 times the rows per second of a plain loop over the embedded engine (numpy rows, batches of 1,000)
and, where QVEC_TEST_QDRANT_URL names a server, of qdrant-client's upload_collection over gRPC; and at most 1.1 times
the time of the engine's bare call for a search, without and with payloads, on a copy of the same files.
benchmarks/qdrant_prefilters.py shows which prefilter is best, and what each costs in memory.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import click
import numpy as np
import qdrant_edge as edge
from harness import Sizes, Table, Vectors, alternate, rates, size_options
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models
from realistic import realistic_data

from qvec import Calibration, Collection, Database, connect
from qvec.ingest import LoadOptions, ingest
from qvec.sources import open_source

K = 10
_PLAIN_BATCH = 1000
_SERVER_URL = "QVEC_TEST_QDRANT_URL"


@click.command(help=__doc__)
@size_options(Sizes(rows=100_000, dimensions=1024, queries=200, repeat=5))
def main(sizes: Sizes) -> None:
    vectors, queries = realistic_data(sizes)
    calibration = Calibration.fit(vectors)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        path = folder / "vectors.npy"
        np.save(path, vectors)
        del vectors
        table = Table(sizes)
        compare_loads(folder, path, calibration, sizes, table)
        compare_searches(folder, queries, sizes, table)
        if url := os.environ.get(_SERVER_URL):
            compare_server(url, path, calibration, sizes, table)
        else:
            print(f"not run: load into a server; {_SERVER_URL} names none")


def compare_loads(folder: Path, path: Path, calibration: Calibration, sizes: Sizes, table: Table) -> None:
    with connect(f"qdrant:{folder / 'qvec'}") as database:
        works = {
            "qvec": partial(load_qvec, database, path, calibration),
            "loop": partial(load_by_loop, folder / "loop", path),
        }
        rate = rates(sizes.rows, alternate(works, sizes.repeat))
    table.compare("load into a directory, against a loop", rate["qvec"], rate["loop"], "rows/s", "at least 0.95")


def load_qvec(database: Database, path: Path, calibration: Calibration) -> None:
    if database.has_collection("loaded"):
        database.drop_collection("loaded")
    with open_source(path) as source:
        ingest(database, source, LoadOptions("loaded", calibration=calibration, index=False, workers=4))


def load_by_loop(folder: Path, path: Path) -> None:
    """Load as one writes a loop over the engine, with the settings of a collection and the vectors unchanged."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    vectors = np.load(path, mmap_mode="r")
    shard = edge.EdgeShard.create(str(folder), configuration(vectors.shape[1]))
    for start in range(0, len(vectors), _PLAIN_BATCH):
        batch = np.array(vectors[start : start + _PLAIN_BATCH])
        points = [edge.Point(start + row, vector) for row, vector in enumerate(batch)]
        shard.update(edge.UpdateOperation.upsert_points(points))
    shard.flush()
    shard.close()


def configuration(dimensions: int) -> edge.EdgeConfig:
    """Return the settings that a collection of qvec has by default."""
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(
            dimensions,
            edge.Distance.Dot,
            datatype=edge.VectorStorageDatatype.Float16,
            memory=edge.Memory.Cold,
            quantization_config=edge.TurboQuantQuantizationConfig(
                bits=edge.TurboQuantBitSize.Bits1, memory=edge.Memory.Pinned
            ),
        ),
        optimizers=edge.EdgeOptimizersConfig(
            indexing_threshold=10_000, default_segment_number=1, max_segment_size=1 << 40
        ),
    )


def compare_searches(folder: Path, queries: Vectors, sizes: Sizes, table: Table) -> None:
    """Search one collection with qvec, and a copy of its files with the engine alone."""
    with connect(f"qdrant:{folder / 'qvec'}") as database:
        database.collection("loaded").build_index()
    (segments,) = (folder / "qvec").rglob("segments")
    shutil.copytree(segments.parent, folder / "copy")
    shard = edge.EdgeShard.load(str(folder / "copy"))
    with connect(f"qdrant:{folder / 'qvec'}") as database:
        collection = database.collection("loaded")
        for texts in (False, True):
            works = {
                "qvec": partial(search_collection, collection, queries, texts),
                "bare": partial(search_shard, shard, queries, texts),
            }
            alternate(works, 1)  # reads the files
            seconds = alternate(works, sizes.repeat)
            ours, theirs = ([each / len(queries) * 1e6 for each in seconds[side]] for side in ("qvec", "bare"))
            title = f"search {'with' if texts else 'without'} payloads, against the engine's bare call"
            table.compare(title, ours, theirs, "µs", "at most 1.1")
    shard.close()


def search_collection(collection: Collection, queries: Vectors, texts: bool) -> None:
    for query in queries:
        collection.search(query, K, texts=texts)


def search_shard(shard: edge.EdgeShard, queries: Vectors, payload: bool) -> None:
    params = edge.SearchParams(quantization=edge.QuantizationSearchParams(rescore=True, oversampling=4.0))
    for query in queries:
        shard.query(edge.QueryRequest(K, query=_nearest(query), params=params, with_payload=payload))


def _nearest(query: NDArray[np.float32]) -> edge.Query:
    return edge.Query.Nearest(memoryview(query))  # type: ignore[arg-type]  # the fastest type that it takes


def compare_server(url: str, path: Path, calibration: Calibration, sizes: Sizes, table: Table) -> None:
    address = urlsplit(url)
    client = QdrantClient(
        host=address.hostname,
        grpc_port=address.port or 6334,
        https=address.scheme == "qdrants",
        api_key=os.environ.get("QVEC_QDRANT_API_KEY"),
        prefer_grpc=True,
        check_compatibility=False,
    )
    name = f"plain_{uuid.uuid4().hex}"
    with connect(url) as database:
        works = {"qvec": partial(load_qvec, database, path, calibration), "client": partial(upload, client, name, path)}
        rate = rates(sizes.rows, alternate(works, sizes.repeat))
        database.drop_collection("loaded")
    client.delete_collection(name)
    title = "load into a server, against upload_collection"
    table.compare(title, rate["qvec"], rate["client"], "rows/s", "at least 0.95")


def upload(client: QdrantClient, name: str, path: Path) -> None:
    vectors = np.load(path, mmap_mode="r")
    client.delete_collection(name)
    client.create_collection(
        name,
        models.VectorParams(
            size=vectors.shape[1], distance=models.Distance.DOT, datatype=models.Datatype.FLOAT16, on_disk=True
        ),
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0),
    )
    client.upload_collection(name, vectors, parallel=4, wait=True)


if __name__ == "__main__":
    main()
