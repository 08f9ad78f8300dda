"""What the service answers with: passages by their files, numbered so that an answer can cite them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qvec import Hit
from qvec.client import group

_CITED = re.compile(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")


@dataclass(frozen=True)
class Found:
    """A passage among those found, with the number by which an answer cites it."""

    number: int
    heading: str
    position: int
    text: str
    score: float


@dataclass(frozen=True)
class File:
    """A file and its passages, best first."""

    path: str
    title: str
    passages: list[Found]


def by_file(hits: Sequence[Hit]) -> list[File]:
    """Hits in the files that they are of, the file of the best hit first; numbered from 1 as they then stand."""
    files, number = [], 0
    for one in group(list(hits), by="path"):
        passages = []
        for hit in one.hits:
            number += 1
            passages.append(_found(number, hit))
        files.append(File(one.value, one.hits[0].metadata["title"], passages))
    return files


def passages_of(files: Sequence[File]) -> list[Found]:
    """All passages, by their numbers."""
    return [passage for file in files for passage in file.passages]


def cited(answer: str, passages: Sequence[Found]) -> list[int]:
    """The numbers in brackets that are those of passages, each once, as they come."""
    numbers = [int(number) for match in _CITED.findall(answer) for number in match.split(",")]
    known = {passage.number for passage in passages}
    return list(dict.fromkeys(number for number in numbers if number in known))


def _found(number: int, hit: Hit) -> Found:
    metadata: dict[str, Any] = hit.metadata
    heading = metadata["heading"]
    text = (hit.document or "").removeprefix(f"{heading}\n\n")
    return Found(number, heading, metadata["position"], text, hit.score)
