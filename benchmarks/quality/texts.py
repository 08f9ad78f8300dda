"""What the studies read: documentation strings as questions and answers, and folders in the BEIR layout."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from qvec.passages import Passage, stdlib_passages
from qvec.training.retrieval import Retrieval, read_retrieval, retrieval_of_pairs

Pairs = list[tuple[str, str]]

_LEAST_QUESTION, _LEAST_ANSWER = 15, 60
"""Characters; shorter first lines and bodies say too little to be found by."""
_HELD_OUT_SHARE = 4
_SEED = 0


def documentation() -> Retrieval:
    """The first lines of all documentation strings, each to be answered by the rest of its own among all of them."""
    return _retrieval(documentation_pairs(stdlib_passages(10**9)))


def documentation_split() -> tuple[Pairs, Retrieval]:
    """Pairs to train on, and a retrieval of held-out ones: those of a quarter of the modules, drawn by a seed, as the
    strings of a module repeat each other; without texts that are trained on."""
    passages = stdlib_passages(10**9)
    modules = sorted({passage.module for passage in passages})
    held_out = set(random.Random(_SEED).sample(modules, len(modules) // _HELD_OUT_SHARE))
    train = documentation_pairs([passage for passage in passages if passage.module not in held_out])
    known = {text for pair in train for text in pair}
    others = documentation_pairs([passage for passage in passages if passage.module in held_out])
    return train, _retrieval([pair for pair in others if known.isdisjoint(pair)])


def documentation_pairs(passages: Sequence[Passage]) -> Pairs:
    """First line and rest of each passage that has both; no line and no rest twice, as one would be a wrong answer."""
    pairs: Pairs = []
    seen: set[str] = set()
    for passage in passages:
        line, _, rest = passage.text.partition("\n")
        pair = line.strip(), rest.strip()
        if len(pair[0]) >= _LEAST_QUESTION and len(pair[1]) >= _LEAST_ANSWER and seen.isdisjoint(pair):
            seen.update(pair)
            pairs.append(pair)
    return pairs


def named(folders: Sequence[Path]) -> dict[str, Retrieval]:
    """Folders in the BEIR layout by their names."""
    return {folder.name: read_retrieval(folder) for folder in folders}


def _retrieval(pairs: Pairs) -> Retrieval:
    queries, documents = zip(*pairs, strict=True)
    return retrieval_of_pairs(queries, documents)
