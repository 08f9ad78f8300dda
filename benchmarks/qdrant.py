"""Loading into Qdrant and searching there, against the engine and the client used by hand; 1,024 dimensions.

Run: python benchmarks/qdrant.py [--rows N]
Wanted: rows per second at least 0.95 times a plain loop over the embedded engine (numpy rows, batches of 1,000) and,
where QVEC_TEST_QDRANT_URL names a server, 0.95 times qdrant-client's own upload_collection over gRPC; and at most 1.1
times the milliseconds of the engine's bare call for a search, without and with payloads.
Which prefilter is best, and what each costs in memory, is in benchmarks/qdrant_prefilters.py.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import click
import numpy as np
import qdrant_edge as edge
from measure import alternate, compare, print_header
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models
from qvec.qdrant.layout import Layout
from realistic import realistic_queries, realistic_vectors

import qvec
from qvec.calibration import Calibration
from qvec.client import Collection, Database
from qvec.ingest import IngestOptions, ingest
from qvec.qdrant.edge import configuration
from qvec.sources import open_source

DIMENSIONS, K, REPETITIONS = 1024, 10, 5
QUERIES = 200
_PLAIN_BATCH = 1000


def load_qvec(database: Database, path: Path, calibration: Calibration) -> None:
    if database.has_collection("loaded"):
        database.drop_collection("loaded")
    with open_source(path) as source:
        ingest(database, source, IngestOptions("loaded", calibration=calibration, index=False, workers=4))


def load_plain(folder: Path, path: Path) -> None:
    """A loop over the embedded engine as one writes it: the same configuration, vectors as they are."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shard = edge.EdgeShard.create(str(folder), configuration(Layout(DIMENSIONS)))
    vectors = np.load(path, mmap_mode="r")
    for start in range(0, len(vectors), _PLAIN_BATCH):
        batch = np.array(vectors[start : start + _PLAIN_BATCH])
        points = [edge.Point(start + row, vector) for row, vector in enumerate(batch)]  # type: ignore[arg-type]
        shard.update(edge.UpdateOperation.upsert_points(points))
    shard.flush()
    shard.close()


def compare_directory(folder: Path, path: Path, calibration: Calibration, rows: int) -> None:
    with qvec.connect(f"qdrant:{folder / 'qvec'}") as database:
        seconds = alternate(
            {
                "qvec": lambda: load_qvec(database, path, calibration),
                "plain": lambda: load_plain(folder / "plain", path),
            },
            REPETITIONS,
        )
        title = "load into a directory, against a loop over the engine"
        compare(title, rows / seconds["qvec"], rows / seconds["plain"], 0.95, "rows/s")


def compare_server(url: str, path: Path, calibration: Calibration, rows: int) -> None:
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

    def upload() -> None:
        client.delete_collection(name)
        client.create_collection(
            name,
            models.VectorParams(
                size=DIMENSIONS, distance=models.Distance.DOT, datatype=models.Datatype.FLOAT16, on_disk=True
            ),
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0),
        )
        client.upload_collection(name, np.load(path, mmap_mode="r"), parallel=4, wait=True)

    with qvec.connect(url) as database:
        seconds = alternate({"qvec": lambda: load_qvec(database, path, calibration), "client": upload}, REPETITIONS)
        database.drop_collection("loaded")
    client.delete_collection(name)
    title = "load into a server, against upload_collection"
    compare(title, rows / seconds["qvec"], rows / seconds["client"], 0.95, "rows/s")


def compare_searches(folder: Path) -> None:
    queries = realistic_queries(QUERIES, DIMENSIONS)
    with qvec.connect(f"qdrant:{folder / 'qvec'}") as database:
        collection = database.collection("loaded")
        assert isinstance(collection, Collection)
        collection.build_index()
        shard = collection.engine()._shard  # type: ignore[attr-defined]
        params = edge.SearchParams(quantization=edge.QuantizationSearchParams(rescore=True, oversampling=4.0))

        def bare(query: NDArray[np.float32], payload: bool) -> object:
            nearest = edge.Query.Nearest(memoryview(query))  # type: ignore[arg-type]
            return shard.query(edge.QueryRequest(K, query=nearest, params=params, with_payload=payload))

        for texts in (False, True):
            seconds = alternate(
                {
                    "bare": lambda texts=texts: [bare(query, texts) for query in queries],
                    "qvec": lambda texts=texts: [collection.search(query, K, texts=texts) for query in queries],
                },
                REPETITIONS,
            )
            ours, theirs = (seconds[side] / QUERIES * 1e6 for side in ("qvec", "bare"))
            title = f"search {'with' if texts else 'without'} payloads, against the engine's bare call"
            compare(title, ours, theirs, 1.1, "µs", smaller=True)


@click.command()
@click.option("--rows", default=100_000, show_default=True)
def main(rows: int) -> None:
    """Runs all comparisons."""
    vectors = realistic_vectors(rows, DIMENSIONS)
    calibration = Calibration.fit(vectors)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        path = folder / "vectors.npy"
        np.save(path, vectors)
        del vectors
        print_header()
        compare_directory(folder, path, calibration, rows)
        compare_searches(folder)
        server = os.environ.get("QVEC_TEST_QDRANT_URL")
        if server:
            compare_server(server, path, calibration, rows)
        else:
            print("load into a server: not run, QVEC_TEST_QDRANT_URL names none")


if __name__ == "__main__":
    main()
