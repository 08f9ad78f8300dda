"""Training and evaluation embed texts as loads and searches do: with the same prompts and Router modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_model, train_options, write_scored_pairs

from qvec.ingest.load_options import Reporter

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")
pytest.importorskip("datasets")
pytest.importorskip("accelerate")

from sentence_transformers import SentenceTransformer  # noqa: E402
from sentence_transformers.sentence_transformer.modules import Router, Transformer  # noqa: E402

from qvec.embedding.embedding_options import EmbeddingOptions  # noqa: E402
from qvec.embedding.sentence_transformer import SentenceTransformerEmbedder  # noqa: E402
from qvec.training import train  # noqa: E402
from qvec.training.text_datasets import read_pairs  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("fast_trainer"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::FutureWarning"),
]


class EmbeddedTexts:
    """The texts that models embed, decoded from their tokens; those in training mode apart from the others."""

    def __init__(self) -> None:
        self.texts: dict[bool, set[str]] = {True: set(), False: set()}

    def take(self, training: bool) -> set[str]:
        """Return and forget the texts, without the shorter ones with which the libraries probe models."""
        taken, self.texts[training] = self.texts[training], set()
        return {text for text in taken if len(text.split()) > 2}


@pytest.fixture
def embedded_texts(monkeypatch: pytest.MonkeyPatch) -> EmbeddedTexts:
    found = EmbeddedTexts()
    forward = Transformer.forward

    def record(self: Any, features: Any, **others: Any) -> Any:
        found.texts[self.training].update(
            self.tokenizer.decode(row, skip_special_tokens=True) for row in features["input_ids"]
        )
        return forward(self, features, **others)

    monkeypatch.setattr(Transformer, "forward", record)
    return found


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("prompts", "with_scores"),
    [
        ({"query": "river river ", "document": "house "}, False),
        ({"query": "river river ", "document": "house "}, True),
        ({"query": "river ", "passage": "house "}, False),
    ],
)
def test_training_uses_prompts_of_search(
    prompts: dict[str, str], with_scores: bool, pairs: Path, tmp_path: Path, embedded_texts: EmbeddedTexts
) -> None:
    model = tiny_model(tmp_path)
    model.prompts = prompts
    model.save(str(tmp_path / "prompted"))
    data = write_scored_pairs(tmp_path / "scored.jsonl", pairs) if with_scores else pairs
    read = read_pairs(data)
    embedder = SentenceTransformerEmbedder(EmbeddingOptions(model=str(tmp_path / "prompted")))
    (embedder.embed_documents if with_scores else embedder.embed_queries)(read.queries)
    embedder.embed_documents(read.documents)
    stored = embedded_texts.take(training=False)
    if "document" in prompts:
        prompt = "house " if with_scores else "river river "
        assert stored == {prompt + text for text in read.queries} | {"house " + text for text in read.documents}

    chosen = train_options(str(tmp_path / "prompted"), data, tmp_path / "out", steps=10, evaluation=data)
    train(chosen, Reporter())
    assert embedded_texts.take(training=True) == stored
    assert embedded_texts.take(training=False) >= stored  # the examples of the model card are embedded too


def routed(folder: Path) -> Path:
    """A model with separate modules for queries and for documents."""
    query, document = (tiny_model(folder / name, seed=seed) for seed, name in enumerate(("query", "document")))
    model = SentenceTransformer(modules=[Router.for_query_document(list(query), list(document))], device="cpu")
    model.save(str(folder / "routed"))
    return folder / "routed"


def weights(folder: Path) -> dict[str, Any]:
    loaded = SentenceTransformer(str(folder), device="cpu")
    return {name: value.clone() for name, value in loaded.state_dict().items()}


@pytest.mark.parametrize("settings", [{}, {"mini_batch_size": 3}, {"matryoshka": (12,)}])
def test_router_trains_query_and_document_modules(settings: dict[str, Any], pairs: Path, tmp_path: Path) -> None:
    model = routed(tmp_path)
    done = train(train_options(str(model), pairs, tmp_path / "out", steps=2, **settings), Reporter())
    before, after = weights(model), weights(tmp_path / "out")
    moved = {name.split(".")[2] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"query", "document"}
    found = SentenceTransformerEmbedder(EmbeddingOptions(model=str(tmp_path / "out")))
    vectors = found.embed_documents(read_pairs(pairs).documents)
    assert done.calibration.dimensions == vectors.shape[1]
