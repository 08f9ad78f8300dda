"""A transformer so small that training it takes milliseconds, with a vocabulary of its own and random weights."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

DIMENSIONS = 20
WORDS = "the a cat dog tree river city house sleeps runs grows flows burns stands red green old new near under"
QUERIES = ["the cat sleeps", "a dog runs", "the old tree grows", "a river flows", "the city burns", "a new house"]
ANSWERS = ["a red cat", "the dog near the tree", "green tree", "the river under the city", "old city", "house stands"]
WRONG = ["the river", "a house grows", "a new dog", "the cat burns", "green cat", "the dog sleeps"]


def tiny_model(folder: Path, *, normalize: bool = True, seed: int = 0) -> Any:
    """A sentence-transformers model of 20 dimensions; saved in `folder`, without dropout."""
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
    """60 queries and documents that share half of their words, as JSON Lines."""
    generator = random.Random(0)
    words = WORDS.split()
    lines = []
    for number in range(60):
        query = generator.sample(words, 4)
        document = generator.sample(words, 3) + query[:2]
        lines.append(json.dumps({"id": number, "query": " ".join(query), "document": " ".join(document)}))
    path.write_text("\n".join(lines) + "\n")
    return path
