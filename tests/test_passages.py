"""The demo corpus: passages from docstrings of the standard library."""

import ast
import sys
from itertools import islice

import pytest

import qvec.passages
from qvec.passages import QUESTIONS, _documented, _modules, _shortened, stdlib_passages


@pytest.fixture(scope="module")
def passages() -> list:
    """All passages; collecting them must not import the modules that they come from."""
    before = set(sys.modules)
    found = stdlib_passages()
    assert set(sys.modules) == before
    return found


@pytest.mark.slow
def test_passages_are_distinct_and_of_allowed_length(passages: list) -> None:
    assert 2500 <= len(passages) <= 3000
    assert len({passage.id for passage in passages}) == len(passages)
    assert len({passage.text for passage in passages}) == len(passages)
    assert all(60 <= len(passage.text) <= 1000 for passage in passages)


@pytest.mark.slow
def test_known_functions_have_dotted_names(passages: list) -> None:
    by_id = {passage.id: passage for passage in passages}
    move_to_end = by_id["collections.OrderedDict.move_to_end"]
    assert move_to_end.title == "method collections.OrderedDict.move_to_end"
    assert move_to_end.module == "collections"
    assert move_to_end.text.startswith("Move an existing element to the end")
    assert by_id["secrets"].title == "module secrets"
    assert by_id["gzip.decompress"].title == "function gzip.decompress"


@pytest.mark.slow
def test_limit_returns_first_passages(passages: list) -> None:
    some = stdlib_passages(200)
    assert some == passages[:200]
    assert len({passage.module for passage in some}) == 200
    assert {passage.module[0] for passage in passages} > set("abcdefghilmopqrstuwxz")


@pytest.mark.slow
def test_tests_and_private_names_are_excluded(passages: list) -> None:
    parts = {part for passage in passages for part in passage.id.split(".")}
    assert not {"idlelib", "lib2to3", "distutils"} & {passage.id.split(".")[0] for passage in passages}
    assert not {"test", "tests"} & {part for passage in passages for part in passage.module.split(".")}
    assert not [part for part in parts if part.startswith("_")]


@pytest.mark.slow
@pytest.mark.usefixtures("passages")
def test_modules_are_not_imported() -> None:
    assert any(passage.module == "antigravity" for passage in stdlib_passages(sys.maxsize))
    assert "antigravity" not in sys.modules


def test_some_passages_are_distinct_and_of_allowed_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passages of every sixth module: parsing all of them takes seconds."""
    monkeypatch.setattr(qvec.passages, "_modules", lambda library: islice(_modules(library), 0, None, 6))
    monkeypatch.setattr(qvec.passages, "_all_passages", qvec.passages._all_passages.__wrapped__)  # without its cache
    found = stdlib_passages(50)
    assert len({passage.module for passage in found}) == len(found) == 50
    assert all(60 <= len(passage.text) <= 1000 for passage in found)


def test_docstrings_are_cleaned_and_private_names_skipped() -> None:
    source = '''
class Stack:
    """Last in,
       first out."""
    def push(self): "Add one."
    def _grow(self): "Hidden."
async def drain(): "Empty it."
'''
    assert list(_documented(ast.parse(source), "stack", "module")) == [
        ("class", "stack.Stack", "Last in,\nfirst out."),
        ("method", "stack.Stack.push", "Add one."),
        ("function", "stack.drain", "Empty it."),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("short", "short"),
        ("a" * 600 + "\n\n" + "b" * 600, "a" * 600),
        ("a" * 950 + " " + "b" * 100, "a" * 950),
        ("a" * 2000, "a" * 1000),
    ],
)
def test_long_texts_are_cut_at_paragraph_or_word(text: str, expected: str) -> None:
    assert _shortened(text) == expected


def test_demo_questions() -> None:
    assert 12 <= len(set(QUESTIONS)) == len(QUESTIONS) <= 15
    assert all(question.endswith("?") for question in QUESTIONS)
