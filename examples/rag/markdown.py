"""Reading Markdown: its blocks under their headings, and the sentences of a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from markdown_it import MarkdownIt
from markdown_it.token import Token

_PARSER = MarkdownIt().enable("table")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_LINE_END = re.compile(r"\r\n?|\n")  # the parser's own: str.splitlines knows more of them, and counts other lines
_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])(?<!\be\.g\.)(?<!\bi\.e\.)\s+")


@dataclass
class Section:
    """What stands under one heading; `headings` are those above it and its own, outermost first."""

    headings: tuple[str, ...]
    blocks: list[str] = field(default_factory=list)


def sections(text: str) -> list[Section]:
    """The sections of a document in their order, the first one without a heading; each block as it was written."""
    text = _FRONT_MATTER.sub("", text)
    lines, found, trail = _LINE_END.split(text), [Section(())], dict[int, str]()
    tokens = _PARSER.parse(text)
    for token, following in zip_longest(tokens, tokens[1:]):
        if token.level or token.map is None:
            continue
        if token.type == "heading_open" and following:
            level = int(token.tag[1:])
            trail = {above: heading for above, heading in trail.items() if above < level} | {level: plain(following)}
            found.append(Section(tuple(trail.values())))
        elif not (token.type == "html_block" and token.content.startswith("<!--")):
            found[-1].blocks.append("\n".join(lines[slice(*token.map)]).rstrip())
    return found


def sentences(text: str) -> list[str]:
    """The sentences of its prose, a row of a table as one. Code, markup, the names of a table's columns, and words that
    only lead to what follows them are left out."""
    return [sentence for sentence in _sentences(_PARSER.parse(text)) if sentence and not sentence.endswith(":")]


def plain(inline: Token) -> str:
    """The words of a line, without markup."""
    return "".join(" " if child.type == "softbreak" else child.content for child in inline.children or []).strip()


def _sentences(tokens: Sequence[Token]) -> Iterator[str]:
    cells: list[str] | None = None
    for token, before in zip(tokens, [None, *tokens], strict=False):
        if token.type == "tr_open":
            cells = []
        elif token.type == "tr_close":
            yield _row(cells or [])
            cells = None
        elif token.type == "inline" and cells is None:
            yield from _BETWEEN_SENTENCES.split(plain(token))
        elif token.type == "inline" and cells is not None and before and before.type == "td_open":
            cells.append(plain(token))


def _row(cells: Sequence[str]) -> str:
    """What is said of the first cell by the others."""
    said = ", ".join(filter(None, cells[1:]))
    return f"{cells[0]}: {said}" if said else "".join(cells)
