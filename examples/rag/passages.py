"""Split Markdown files into passages that an embedding model can read, and texts into sentences."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from qvec import InputError

MAX_LENGTH = 900
"""Characters of a passage, about the 256 tokens that MiniLM reads of a text."""

_PARSER = MarkdownIt().enable("table")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_LINE_END = re.compile(r"\r\n?|\n")  # as the parser counts lines; str.splitlines also splits at other characters
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\be\.g\.)(?<!\bi\.e\.)\s+")


@dataclass(frozen=True)
class Passage:
    """A part of one file.

    `title` is the first heading of the file, `heading` the path of headings above the passage, `position` its place in
    the file from 0.
    """

    path: str
    title: str
    heading: str
    position: int
    text: str

    @property
    def document(self) -> str:
        """The text to embed and index: the headings often contain the words of a question."""
        return f"{self.heading}\n\n{self.text}"

    @property
    def id(self) -> str:
        """An id that changes with the text, so that an unchanged passage need not be embedded again."""
        digest = hashlib.sha256(self.document.encode()).hexdigest()
        return f"{self.path}#{self.position}:{digest[:16]}"

    @property
    def metadata(self) -> dict[str, str | int]:
        return {"path": self.path, "title": self.title, "heading": self.heading, "position": self.position}


@dataclass
class Section:
    """The blocks under one heading; `headings` goes from the outermost heading to its own."""

    headings: tuple[str, ...]
    blocks: list[str] = field(default_factory=list)


def read_passages(sources: Sequence[Path]) -> list[Passage]:
    """Return the passages of Markdown files and of all those in folders.

    Raise InputError if there are no such files, or no text in them.
    """
    files = sorted({file.resolve() for source in sources for file in _markdown_files(source)})
    if not files:
        raise InputError(f"there is no Markdown file (.md) in {', '.join(map(str, sources))}")
    top = os.path.commonpath([source.resolve().parent for source in sources])
    passages = [
        passage for file in files for passage in split(os.path.relpath(file, top), file.read_text("utf-8", "replace"))
    ]
    if not passages:
        raise InputError(f"there is no text in the Markdown files of {', '.join(map(str, sources))}")
    return passages


def split(path: str, text: str) -> Iterator[Passage]:
    """Yield the passages of one document.

    A passage never extends over a heading; a block is split only if it is too long.
    """
    sections = parse_sections(text)
    title = next((section.headings[0] for section in sections if section.headings), Path(path).stem)
    texts = [(section, part) for section in sections for part in _pack(_parts(section.blocks), "\n\n")]
    for position, (section, part) in enumerate(texts):
        yield Passage(path, title, " › ".join(section.headings) or title, position, part)


def parse_sections(text: str) -> list[Section]:
    """Return the sections of a document in order, first the one before any heading; blocks keep their markup."""
    text = _FRONT_MATTER.sub("", text)
    lines, sections, headings = _LINE_END.split(text), [Section(())], dict[int, str]()
    tokens = _PARSER.parse(text)
    for token, following in zip_longest(tokens, tokens[1:]):
        if token.level or token.map is None:
            continue
        if token.type == "heading_open" and following:
            level = int(token.tag[1:])
            headings = {outer: heading for outer, heading in headings.items() if outer < level}
            headings[level] = _plain_text(following)
            sections.append(Section(tuple(headings.values())))
        elif not (token.type == "html_block" and token.content.startswith("<!--")):
            sections[-1].blocks.append("\n".join(lines[slice(*token.map)]).rstrip())
    return sections


def sentences(text: str) -> list[str]:
    """Return the sentences of a Markdown text, each table row as one.

    Omit code, markup, column names of tables, and sentences that end in a colon.
    """
    return [sentence for sentence in _sentences(_PARSER.parse(text)) if sentence and not sentence.endswith(":")]


def _sentences(tokens: Sequence[Token]) -> Iterator[str]:
    cells: list[str] | None = None
    for token, previous in zip(tokens, [None, *tokens], strict=False):
        if token.type == "tr_open":
            cells = []
        elif token.type == "tr_close":
            yield _row_sentence(cells or [])
            cells = None
        elif token.type == "inline" and cells is None:
            yield from _SENTENCE_END.split(_plain_text(token))
        elif token.type == "inline" and cells is not None and previous and previous.type == "td_open":
            cells.append(_plain_text(token))


def _row_sentence(cells: Sequence[str]) -> str:
    rest = ", ".join(filter(None, cells[1:]))
    return f"{cells[0]}: {rest}" if rest else "".join(cells)


def _plain_text(inline: Token) -> str:
    return "".join(" " if child.type == "softbreak" else child.content for child in inline.children or []).strip()


def _markdown_files(source: Path) -> Iterable[Path]:
    """A folder's Markdown files except hidden ones and those in hidden folders, or the file itself."""
    if not source.is_dir():
        return [source] if source.suffix == ".md" and source.exists() else []
    return (file for file in source.rglob("*.md") if not any(part[0] == "." for part in file.relative_to(source).parts))


def _parts(blocks: Sequence[str]) -> Iterator[str]:
    """Split blocks that are too long at line ends, except code."""
    for block in blocks:
        yield from [block] if block.startswith(("```", "~~~")) else _pack(block.split("\n"), "\n")


def _pack(parts: Iterable[str], separator: str) -> Iterator[str]:
    """Join consecutive parts up to `MAX_LENGTH`; keep a longer part whole."""
    packed = ""
    for part in parts:
        joined = f"{packed}{separator}{part}" if packed else part
        if packed and len(joined) > MAX_LENGTH:
            yield packed
            joined = part
        packed = joined
    if packed:
        yield packed
