"""A transformer with random weights, small enough to train in milliseconds; data and options to train it with."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from qvec.ingest.load_options import Reporter
from qvec.training import TrainOptions

DIMENSIONS = 20
WORDS = "the a cat dog tree river city house sleeps runs grows flows burns stands red green old new near under"
QUERIES = ["the cat sleeps", "a dog runs", "the old tree grows", "a river flows", "the city burns", "a new house"]
ANSWERS = ["a red cat", "the dog near the tree", "green tree", "the river under the city", "old city", "house stands"]
NEGATIVES = ["the river", "a house grows", "a new dog", "the cat burns", "green cat", "the dog sleeps"]
CORPUS = {f"d{number}": text for number, text in enumerate(ANSWERS + NEGATIVES)}
BEIR_QUERIES = {f"q{number}": text for number, text in enumerate(QUERIES)}
RELEVANT = {f"q{number}": {f"d{number}"} for number in range(len(QUERIES))}


def tiny_model(folder: Path, *, normalize: bool = True, seed: int = 0) -> Any:
    """Save a sentence-transformers model of 20 dimensions without dropout in `folder`/model; return it."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(seed)
    parts = folder / "parts"
    parts.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
    (parts / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)})
    tokenizer.save_pretrained(parts)
    BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=DIMENSIONS,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=32,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    ).save_pretrained(parts)
    modules: list[Any] = [Transformer(str(parts)), Pooling(DIMENSIONS)]
    model = SentenceTransformer(modules=[*modules, Normalize()] if normalize else modules, device="cpu")
    model.save(str(folder / "model"))
    return model


def write_pairs(path: Path) -> Path:
    """Write 60 queries with documents that share half of their words, as JSON Lines; return the path."""
    generator = random.Random(0)
    words = WORDS.split()
    lines = []
    for number in range(60):
        query = generator.sample(words, 4)
        document = generator.sample(words, 3) + query[:2]
        lines.append(json.dumps({"id": number, "query": " ".join(query), "document": " ".join(document)}))
    path.write_text("\n".join(lines) + "\n")
    return path


def write_scored_pairs(path: Path, pairs: Path) -> Path:
    """Write pairs as columns a and b, with the number of words that they share as their score; return the path."""
    from qvec.training.text_datasets import read_pairs

    read = read_pairs(pairs)
    rows = [
        {"a": a, "b": b, "score": float(len(set(a.split()) & set(b.split())))}
        for a, b in zip(read.queries, read.documents, strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_beir(folder: Path, *, graded: str = "d0") -> Path:
    """Write CORPUS, BEIR_QUERIES and RELEVANT in BEIR's layout, with dev judgements of q4 and q5.

    `graded` is the document that answers q0.
    """
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": name, "title": "", "text": text}) + "\n" for name, text in CORPUS.items())
    )
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": name, "text": text}) + "\n" for name, text in BEIR_QUERIES.items())
    )
    rows = [f"q{number}\td{number}\t1\n" for number in range(1, len(QUERIES))]
    header = "query-id\tcorpus-id\tscore\n"
    (folder / "qrels" / "test.tsv").write_text(header + f"q0\t{graded}\t2\nq0\td3\t0\n" + "".join(rows))
    (folder / "qrels" / "dev.tsv").write_text(f"{header}q4\td4\t1\nq5\td5\t1\n")
    return folder


def train_options(model: str, pairs: Path, output: Path, **others: Any) -> TrainOptions:
    """Return options for six steps with a checkpoint after every second one."""
    settings = {"steps": 6, "batch_size": 8, "save_every": 2, "learning_rate": 1e-2, **others}
    return TrainOptions(model=model, data=pairs, output=output, **settings)


def weights(folder: Path) -> dict[str, Any]:
    """Return the weights of the model in a folder."""
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


class InterruptingReporter(Reporter):
    """Interrupts a training at a step, like Ctrl-C."""

    def __init__(self, step: int) -> None:
        self.step = step

    def advance(self, name: str, done: int, total: int | None = None) -> None:  # noqa: ARG002
        if name == "training" and done == self.step:
            raise KeyboardInterrupt


class RecordingReporter(Reporter):
    """Records its messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def say(self, message: str) -> None:
        self.messages.append(message)
