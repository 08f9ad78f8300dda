"""Markdown files as passages: small enough for an embedding model, each with where it stands."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qvec import InputError
from rag.markdown import Section, sections

LONGEST = 900
"""Characters of a passage, about what MiniLM reads of a text (256 tokens)."""


@dataclass(frozen=True)
class Passage:
    """A piece of one file. `heading` is the trail of headings that it stands under, `position` its place in the file,
    from 0."""

    path: str
    title: str
    heading: str
    position: int
    text: str

    @property
    def document(self) -> str:
        """What is embedded and searched for words: the headings often hold the words that a question asks for."""
        return f"{self.heading}\n\n{self.text}"

    @property
    def id(self) -> str:
        """Another id for another text: what is stored already need not be embedded again."""
        digest = hashlib.sha256(self.document.encode()).hexdigest()
        return f"{self.path}#{self.position}:{digest[:16]}"

    @property
    def metadata(self) -> dict[str, str | int]:
        return {"path": self.path, "title": self.title, "heading": self.heading, "position": self.position}


def read_passages(sources: Sequence[Path]) -> list[Passage]:
    """The passages of Markdown files and of all those in folders. Raises InputError where there are no
    files, or no text in them."""
    files = sorted({file.resolve() for source in sources for file in _files(source)})
    if not files:
        raise InputError(f"there is no Markdown file (.md) in {', '.join(map(str, sources))}")
    top = os.path.commonpath([source.resolve().parent for source in sources])
    found = [
        passage for file in files for passage in split(os.path.relpath(file, top), file.read_text("utf-8", "replace"))
    ]
    if not found:
        raise InputError(f"there is no text in the Markdown files of {', '.join(map(str, sources))}")
    return found


def split(path: str, text: str) -> Iterator[Passage]:
    """The passages of one document: no heading in the middle of one, and blocks whole where they are not too long."""
    found = sections(text)
    title = next((section.headings[0] for section in found if section.headings), Path(path).stem)
    texts = [(section, text) for section in found for text in _texts(section)]
    for position, (section, text) in enumerate(texts):
        yield Passage(path, title, " › ".join(section.headings) or title, position, text)


def _files(source: Path) -> Iterable[Path]:
    """Those of a folder without what is hidden in it."""
    if not source.is_dir():
        return [source] if source.suffix == ".md" and source.exists() else []
    return (file for file in source.rglob("*.md") if not any(part[0] == "." for part in file.relative_to(source).parts))


def _texts(section: Section) -> Iterator[str]:
    parts = (part for block in section.blocks for part in _parts(block))
    return _packed(parts, "\n\n")


def _parts(block: str) -> Iterable[str]:
    """A long block in pieces of whole lines; code stays together."""
    return [block] if block.startswith(("```", "~~~")) else _packed(block.split("\n"), "\n")


def _packed(parts: Iterable[str], joint: str) -> Iterator[str]:
    """Parts joined as far as the length allows; one that is longer by itself stays whole."""
    held = ""
    for part in parts:
        joined = f"{held}{joint}{part}" if held else part
        if held and len(joined) > LONGEST:
            yield held
            joined = part
        held = joined
    if held:
        yield held
