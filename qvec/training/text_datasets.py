"""Datasets of texts: pairs to train on, and retrieval datasets to evaluate on. Needs no torch."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qvec.errors import InputError, RowError
from qvec.evaluation.dataset import read_qrels

SCORE_COLUMNS = ("score", "label")
_ID_COLUMNS = ("id", "_id")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class TextPairs:
    """Columns of texts by name: queries, their documents, then negatives. `scores` if the pairs are scored."""

    texts: dict[str, list[str]]
    scores: list[float] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.texts.values())))

    @property
    def queries(self) -> list[str]:
        """The first column."""
        return next(iter(self.texts.values()))

    @property
    def documents(self) -> list[str]:
        """The second column."""
        return list(self.texts.values())[1]

    def take(self, rows: Sequence[int]) -> TextPairs:
        """Return the pairs at these positions."""
        texts = {name: [column[row] for row in rows] for name, column in self.texts.items()}
        return TextPairs(texts, None if self.scores is None else [self.scores[row] for row in rows])

    def split(self, held_out: int, seed: int) -> tuple[TextPairs, TextPairs]:
        """Split at random; the second part has `held_out` pairs."""
        rows = random.Random(seed).sample(range(len(self)), len(self))
        return self.take(sorted(rows[held_out:])), self.take(sorted(rows[:held_out]))

    def halve(self, seed: int) -> tuple[TextPairs, TextPairs]:
        """Split into two halves at random. Raise InputError unless there are at least 4 pairs."""
        _check_can_halve(len(self))
        return self.split(len(self) // 2, seed)


@dataclass(frozen=True)
class RetrievalDataset:
    """Queries and documents (`corpus`) by id, and for each query id the ids of its relevant documents."""

    queries: dict[str, str]
    corpus: dict[str, str]
    relevant: dict[str, set[str]]

    def halve(self, seed: int) -> tuple[RetrievalDataset, RetrievalDataset]:
        """Split the queries into two halves at random, each with the whole corpus.

        Raise InputError unless there are at least 4 queries.
        """
        count = len(self.queries)
        _check_can_halve(count)
        names = random.Random(seed).sample(sorted(self.queries), count)
        return self._with_queries(names[: count // 2]), self._with_queries(names[count // 2 :])

    def _with_queries(self, names: Sequence[str]) -> RetrievalDataset:
        chosen = set(names)
        queries = {name: text for name, text in self.queries.items() if name in chosen}
        return replace(self, queries=queries, relevant={name: self.relevant[name] for name in queries})


def _check_can_halve(queries: int) -> None:
    if queries < 4:
        raise InputError(f"{queries} evaluation queries found, at least 4 wanted: half of them select a checkpoint")


def read_pairs(path: str | Path, columns: Sequence[str] | None = None) -> TextPairs:
    """Read pairs from JSON Lines or Parquet: the columns named, or all columns of text in the file's order.

    A numeric column `score` or `label` makes the pairs scored. The columns `id` and `_id` are skipped. Raise InputError
    if the file cannot be read or has fewer than two columns of text, RowError if a value is missing or invalid.
    """
    file = Path(path)
    try:
        table = pq.read_table(file).to_pydict() if file.suffix == ".parquet" else _read_columns(file)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    names = list(columns) if columns else [name for name, values in table.items() if _has_text(name, values)]
    missing = [name for name in names if name not in table]
    if missing or len(names) < 2 or not table[names[0]]:
        raise InputError(
            f"{path} has {'no column ' + missing[0] if missing else f'{len(names)} columns of text'}, expected rows of "
            f"two or more (a query, its document, negative documents); its columns: {', '.join(table)}"
        )
    scores = next((table[name] for name in SCORE_COLUMNS if name in table and name not in names), None)
    for name in names:
        _check_values(table[name], _is_text, f"{path}, column {name}", "a text")
    if scores is not None:
        _check_values(scores, _is_finite_number, f"{path}, column of scores", "a finite number")
    return TextPairs({name: table[name] for name in names}, scores)


def read_beir(folder: Path, qrels: Path | None = None) -> RetrievalDataset:
    """Read corpus.jsonl (title and text are joined) and queries.jsonl, with `qrels` or else those of `find_qrels`.

    Queries without a document above grade 0 are left out. Raise InputError if a file is missing or invalid, or if the
    judgements do not fit the corpus or the queries.
    """
    corpus, queries = _read_texts(folder / "corpus.jsonl"), _read_texts(folder / "queries.jsonl")
    qrels = qrels or find_qrels(folder)
    relevant = {
        query: {document for document, grade in grades.items() if grade > 0}
        for query, grades in read_qrels(qrels).items()
        if query in queries
    }
    relevant = {query: documents for query, documents in relevant.items() if documents}
    missing = set().union(*relevant.values()) - corpus.keys()
    if missing:
        raise InputError(f"{qrels} judges documents that corpus.jsonl lacks, e.g. {min(missing)}")
    if not relevant:
        raise InputError(f"{qrels} names no relevant document for a query in queries.jsonl")
    return RetrievalDataset({query: queries[query] for query in relevant}, corpus, relevant)


def find_qrels(folder: Path) -> Path:
    """Return the judgements to measure by: qrels.tsv, the only .tsv file in the folder qrels, or qrels/test.tsv.

    Raise InputError if there is none or the choice is ambiguous.
    """
    if (folder / "qrels.tsv").is_file():
        return folder / "qrels.tsv"
    found = sorted((folder / "qrels").glob("*.tsv"))
    test = folder / "qrels" / "test.tsv"
    if len(found) > 1 and test in found:
        return test
    if len(found) != 1:
        raise InputError(
            f"{folder} has no qrels.tsv, and {len(found)} .tsv files in qrels; expected one, or one named test.tsv"
        )
    return found[0]


def find_dev_qrels(folder: Path) -> Path | None:
    """Return qrels/dev.tsv if the folder has other judgements to measure by."""
    dev = folder / "qrels" / "dev.tsv"
    return dev if dev.is_file() and find_qrels(folder) != dev else None


def retrieval_from_pairs(queries: Sequence[str], documents: Sequence[str]) -> RetrievalDataset:
    """Make a retrieval dataset of pairs: each query searches all documents, and its own are relevant.

    A text that occurs in several pairs becomes one query or one document, so that no copy counts as a wrong answer.
    """
    document_ids: dict[str, str] = {}
    query_ids: dict[str, str] = {}
    relevant: dict[str, set[str]] = {}
    for text in documents:
        document_ids.setdefault(text, f"d{len(document_ids)}")
    for query, document in zip(queries, documents, strict=True):
        name = query_ids.setdefault(query, f"q{len(query_ids)}")
        relevant.setdefault(name, set()).add(document_ids[document])
    return RetrievalDataset(
        {name: text for text, name in query_ids.items()}, {name: text for text, name in document_ids.items()}, relevant
    )


def _read_columns(file: Path) -> dict[str, list[Any]]:
    table: dict[str, list[Any]] = {}
    for row, (number, record) in enumerate(_json_lines(file)):
        if not isinstance(record, dict):
            raise InputError(f"{file}, line {number}: expected a JSON object")
        for name in [*table, *(name for name in record if name not in table)]:  # keep the file's order of columns
            table.setdefault(name, [None] * row).append(record.get(name))
    return table


def _read_texts(file: Path) -> dict[str, str]:
    texts = {}
    for number, record in _json_lines(file):
        try:
            text = f"{record.get('title') or ''} {record['text']}".strip()
            text.encode()  # raises UnicodeEncodeError for an unpaired surrogate, which JSON can escape
            texts[str(record["_id"])] = text
        except (KeyError, TypeError, AttributeError, UnicodeEncodeError):
            raise InputError(f"{file}, line {number}: expected a JSON object with _id and text") from None
    return texts


def _json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield each line's number, from 1, and its JSON value; None if the line is not valid JSON. Skip blank lines."""
    try:
        content = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {file}: {error}") from None
    # splitlines() would also split at U+2028, U+2029 and U+0085, which JSON strings may hold unescaped.
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError:
                yield number, None


def _has_text(name: str, values: list[Any]) -> bool:
    return name not in _ID_COLUMNS and any(isinstance(value, str) for value in values)


def _is_text(value: Any) -> bool:
    """Whether a value is a text that a tokenizer accepts: not empty, no unpaired surrogate (which JSON can escape)."""
    return isinstance(value, str) and value != "" and not _SURROGATE.search(value)


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_values(values: list[Any], accepts: Callable[[Any], bool], where: str, wanted: str) -> None:
    for row, value in enumerate(values):
        if not accepts(value):
            raise RowError(row, f"{value!r} found, {wanted} wanted", where)
