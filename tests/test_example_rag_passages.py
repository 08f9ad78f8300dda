"""The RAG example: splitting Markdown into passages and sentences."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qvec import InputError

pytest.importorskip("markdown_it", reason="needs qvec[examples]")
EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

from rag.passages import MAX_LENGTH, Passage, read_passages, sentences, split  # noqa: E402

NOTE = """---
draft: true
---
Before any heading.

# Bread *and* `butter`

First paragraph.

```sh
# no heading
knead --long
```

<!-- nobody reads this -->

## Rye

Dense.

Sour
----

| flour | water |
|---|---|
| rye | much |

# Cheese
"""


def test_document_is_split_at_headings() -> None:
    passages = list(split("food/bread.md", NOTE))
    assert [(passage.heading, passage.text) for passage in passages] == [
        ("Bread and butter", "Before any heading."),
        ("Bread and butter", "First paragraph.\n\n```sh\n# no heading\nknead --long\n```"),
        ("Bread and butter › Rye", "Dense."),
        ("Bread and butter › Sour", "| flour | water |\n|---|---|\n| rye | much |"),
    ]
    assert [passage.metadata for passage in passages][2] == {
        "path": "food/bread.md",
        "title": "Bread and butter",
        "heading": "Bread and butter › Rye",
        "position": 2,
    }


def test_long_sections_are_split_between_blocks_and_lines_without_loss() -> None:
    paragraphs = ["\n".join(f"Line {line} of paragraph {number}." for line in range(20)) for number in range(8)]
    code = "```\n" + "code\n\n" * 400 + "```"
    passages = list(split("long.md", "\n\n".join([*paragraphs, code])))
    assert len(passages) > 5
    assert code in [passage.text for passage in passages]
    assert all(len(passage.text) <= MAX_LENGTH for passage in passages if passage.text != code)
    lines = [line for passage in passages for line in passage.text.splitlines() if line]
    assert lines == [line for line in "\n".join([*paragraphs, code]).splitlines() if line]


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\f"])
def test_only_markdown_line_ends_end_lines(separator: str) -> None:
    """Characters at which str.splitlines splits, but Markdown does not, stay in the text."""
    text = f"One{separator}two.\r\nthree.\n\n# Second\n\nIts text.\n"
    assert [passage.text for passage in split("marks.md", text)] == [f"One{separator}two.\nthree.", "Its text."]
    long = "\n".join(f"Line {number}{separator}of a long block." for number in range(200))
    assert "\n".join(passage.text for passage in split("long.md", long)) == long


def test_id_depends_on_position_and_text() -> None:
    passage = Passage("a.md", "A", "A", 0, "text")
    assert passage.id == Passage("a.md", "A", "A", 0, "text").id
    others = [Passage("b.md", "A", "A", 0, "text"), Passage("a.md", "A", "B", 0, "text")]
    others += [Passage("a.md", "A", "A", 1, "text"), Passage("a.md", "A", "A", 0, "other")]
    assert len({passage.id, *(other.id for other in others)}) == 5


def test_read_folders_and_files(tmp_path: Path) -> None:
    (tmp_path / "notes" / ".hidden").mkdir(parents=True)
    (tmp_path / "notes" / "deep").mkdir()
    for name in ("notes/.hidden/no.md", "notes/deep/b.md", "notes/a.md", "notes/c.txt", "one.md"):
        (tmp_path / name).write_bytes(b"Text \xff.")
    assert [one.path for one in read_passages([tmp_path / "notes"])] == ["notes/a.md", "notes/deep/b.md"]
    found = read_passages([tmp_path / "one.md", tmp_path / "notes", tmp_path / "notes" / "a.md"])
    assert [(one.path, one.title, one.text) for one in found] == [
        ("notes/a.md", "a", "Text \N{REPLACEMENT CHARACTER}."),
        ("notes/deep/b.md", "b", "Text \N{REPLACEMENT CHARACTER}."),
        ("one.md", "one", "Text \N{REPLACEMENT CHARACTER}."),
    ]
    with pytest.raises(InputError, match=r"no Markdown file \(.md\) in .*c.txt"):
        read_passages([tmp_path / "notes" / "c.txt"])


@pytest.mark.parametrize(
    "text", ["", " \n\t\n", "---\ndraft: true\n---\n", "[name]: https://example.org\n", "# Only a title"]
)
def test_files_without_text(text: str, tmp_path: Path) -> None:
    (tmp_path / "empty.md").write_text(text)
    with pytest.raises(InputError, match=r"there is no text in the Markdown files of .*"):
        read_passages([tmp_path])
    (tmp_path / "full.md").write_text("Text.")
    assert [(one.path, one.text) for one in read_passages([tmp_path])] == [(f"{tmp_path.name}/full.md", "Text.")]


def test_split_into_sentences() -> None:
    assert sentences("One *is* [here](x.md), e.g. this.\nTwo? Then:\n\n- a point") == [
        "One is here, e.g. this.",
        "Two?",
        "a point",
    ]
    assert sentences("| k | v | w |\n|-|-|-|\n| a | `b` | c |\n| d | | |") == ["a: b, c", "d"]
    assert sentences("```\nonly code\n```") == []


def test_default_sources() -> None:
    passages = read_passages([EXAMPLES.parent / "README.md", EXAMPLES.parent / "docs"])
    assert {"README.md"} <= {passage.path for passage in passages}
    assert len(passages) > 20
    assert len({passage.id for passage in passages}) == len(passages)
