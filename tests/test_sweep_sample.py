"""The sample of a sweep: rows and queries are drawn uniformly, and bad rows are skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import realistic
from sweep_sources import NumberModel, write_texts, write_vectors

from qvec.errors import InputError
from qvec.evaluation.sample import Sample, draw_sample, draw_vectors
from qvec.evaluation.sweep import SweepOptions, sweep
from qvec.ingest import Reporter
from qvec.sources import open_source


def test_queries_are_held_out(tmp_path: Path) -> None:
    vectors = realistic(300)
    with open_source(write_vectors(tmp_path / "a.npy", vectors)) as source:
        drawn = draw_sample(source, rows=200, queries=50, metric="cosine", seed=0, reporter=Reporter())
    assert (drawn.rows.shape, drawn.queries.shape, drawn.held_out) == ((200, 64), (50, 64), True)
    rows = {row.tobytes() for row in vectors}
    documents, queries = ({row.tobytes() for row in part} for part in (drawn.rows, drawn.queries))
    assert not documents & queries
    assert documents | queries <= rows


def test_small_source_keeps_most_rows(tmp_path: Path) -> None:
    with open_source(write_vectors(tmp_path / "a.npy", realistic(100))) as source:
        drawn = draw_sample(source, rows=50_000, queries=500, metric="cosine", seed=0, reporter=Reporter())
    assert (len(drawn.rows), len(drawn.queries)) == (80, 20)


def test_bad_rows_are_skipped_and_counted(tmp_path: Path) -> None:
    vectors = realistic(100, dimensions=128)
    vectors[3], vectors[4, :64] = 0, 0
    with open_source(write_vectors(tmp_path / "a.npy", vectors)) as source:
        drawn = draw_sample(source, rows=90, queries=10, metric="cosine", seed=0, reporter=Reporter())
        assert (drawn.unusable, len(drawn.rows), len(drawn.queries)) == (2, 88, 10)
        whole = draw_sample(source, rows=90, queries=10, metric="ip", seed=0, reporter=Reporter())
        assert (whole.unusable, len(whole.rows)) == (0, 90)


@pytest.mark.parametrize(("dimensions", "levels"), [(384, [384, 192, 96]), (127, [127]), (128, [128, 64]), (32, [32])])
def test_prefixes_are_halves_down_to_64(dimensions: int, levels: list[int]) -> None:
    rows = np.ones((2, dimensions), np.float32)
    assert Sample(rows, rows, held_out=False, unusable=0).prefixes() == levels


def test_unusable_sources_and_options_raise(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"id": 1, "text": "one"}\n')
    write_vectors(tmp_path / "wide.npy", realistic(50, dimensions=128))
    write_vectors(tmp_path / "few.npy", realistic(7))
    write_vectors(tmp_path / "zeros.npy", np.zeros((50, 64), np.float32))
    with (
        open_source(tmp_path / "texts.jsonl") as texts,
        pytest.raises(InputError, match="has text but no vectors; name a model"),
    ):
        sweep(texts, SweepOptions(), Reporter())
    with (
        open_source(tmp_path / "wide.npy") as wide,
        open_source(tmp_path / "few.npy") as few,
        open_source(tmp_path / "zeros.npy") as zeros,
    ):
        with pytest.raises(InputError, match=r"few\.npy has 64 dimensions, but .*wide\.npy has 128"):
            sweep(wide, SweepOptions(), Reporter(), queries=few)
        with pytest.raises(InputError, match=r"few\.npy gives 1 queries, expected at least 2"):
            sweep(few, SweepOptions(), Reporter())
        with pytest.raises(InputError, match=r"zeros\.npy has no usable rows"):
            sweep(zeros, SweepOptions(), Reporter())
        with pytest.raises(InputError, match=r"zeros\.npy has no usable rows"):
            sweep(few, SweepOptions(), Reporter(), queries=zeros)
    with pytest.raises(InputError, match=r"^recall is 1.5, expected a share above 0 and at most 1$"):
        SweepOptions(recall=1.5)
    with pytest.raises(InputError, match=r"^rows is 0, expected at least 1$"):
        SweepOptions(rows=0)


def test_texts_are_embedded_as_documents_or_queries(tmp_path: Path) -> None:
    model = NumberModel()
    corpus = write_texts(tmp_path / "corpus.jsonl", [None, "empty", *map(str, range(120))])
    query_file = write_texts(tmp_path / "queries.jsonl", list(map(str, range(60))))
    options = {"metric": "cosine", "seed": 3, "reporter": Reporter(), "load": lambda: model}
    with open_source(corpus) as source, open_source(query_file) as questions:
        drawn = draw_sample(source, rows=None, queries=50, query_source=questions, **options)  # type: ignore[arg-type]
        held_out = draw_sample(source, rows=60, queries=10, **options)  # type: ignore[arg-type]
    assert np.array_equal(drawn.rows, model.documents)
    assert drawn.unusable == 1
    assert len(drawn.queries) == 50
    assert {row.tobytes() for row in drawn.queries} <= {row.tobytes() for row in model.questions}
    assert (len(held_out.rows) + held_out.unusable, len(held_out.queries)) == (60, 10)
    rows = {row.tobytes() for row in np.concatenate([held_out.rows, held_out.queries])}
    assert len(rows) == len(held_out.rows) + len(held_out.queries)
    assert rows <= {row.tobytes() for row in model.documents}


def test_texts_are_drawn_uniformly(tmp_path: Path) -> None:
    model = NumberModel()
    counts = np.zeros(120)
    rows = {row.tobytes(): at for at, row in enumerate(model.documents)}
    with open_source(write_texts(tmp_path / "corpus.jsonl", list(map(str, range(120))))) as source:
        for seed in range(60):
            for row in draw_vectors(source, 40, seed, Reporter(), lambda: model):
                counts[rows[row.tobytes()]] += 1
    assert counts.sum() == 2400
    assert abs(counts[:60].sum() - 1200) < 100  # four standard deviations: 25 for draws without replacement
    assert counts.min() > 5
