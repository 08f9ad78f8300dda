"""What a retrieval is evaluated on: queries, a corpus, and which documents answer which query."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qvec.errors import InputError
from qvec.evaluation.qrels import read_qrels


@dataclass(frozen=True)
class Retrieval:
    """Texts by id, and by query id the ids of the documents that answer it."""

    queries: dict[str, str]
    corpus: dict[str, str]
    relevant: dict[str, set[str]]


def read_retrieval(folder: Path, judgements: Path | None = None) -> Retrieval:
    """Reads a folder in BEIR's layout: corpus.jsonl (title and text are joined), queries.jsonl, and `judgements`, or
    else those of `judgements_of`.

    Queries without a document above grade 0 are left out. Raises InputError for what is missing or does not fit.
    """
    corpus, queries = _texts(folder / "corpus.jsonl"), _texts(folder / "queries.jsonl")
    judgements = judgements or judgements_of(folder)
    graded = read_qrels(judgements)
    relevant = {query: {name for name, grade in grades.items() if grade > 0} for query, grades in graded.items()}
    relevant = {query: names for query, names in relevant.items() if names and query in queries}
    missing = set().union(*relevant.values()) - corpus.keys()
    if missing or not relevant:
        reason = f"judges documents that corpus.jsonl lacks, e.g. {min(missing)}" if missing else "fits no query"
        raise InputError(f"{judgements} {reason}")
    return Retrieval({query: queries[query] for query in relevant}, corpus, relevant)


def retrieval_of_pairs(queries: Sequence[str], documents: Sequence[str]) -> Retrieval:
    """Held-out pairs as a retrieval: every query against all the documents, of which its own answers it.

    A text that stands in several pairs is one query or document, so that none counts as an error in another's place.
    """
    names: dict[str, str] = {}
    for text in documents:
        names.setdefault(text, f"d{len(names)}")
    query_names: dict[str, str] = {}
    relevant: dict[str, set[str]] = {}
    for query, document in zip(queries, documents, strict=True):
        name = query_names.setdefault(query, f"q{len(query_names)}")
        relevant.setdefault(name, set()).add(names[document])
    return Retrieval(
        {name: text for text, name in query_names.items()}, {name: text for text, name in names.items()}, relevant
    )


def judgements_of(folder: Path) -> Path:
    """The judgements to measure by: qrels.tsv, or in the folder qrels the one .tsv, or test.tsv among several.

    Raises InputError where it is not clear which.
    """
    if (folder / "qrels.tsv").is_file():
        return folder / "qrels.tsv"
    found = sorted((folder / "qrels").glob("*.tsv"))
    test = folder / "qrels" / "test.tsv"
    if len(found) > 1 and test in found:
        return test
    if len(found) != 1:
        raise InputError(f"{folder} has no qrels.tsv, and {len(found)} .tsv files in qrels; one or test.tsv is wanted")
    return found[0]


def dev_judgements(folder: Path) -> Path | None:
    """The judgements to select by, qrels/dev.tsv, where there are others to measure by."""
    dev = folder / "qrels" / "dev.tsv"
    return dev if dev.is_file() and judgements_of(folder) != dev else None


def _texts(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: JSON strings may hold U+2028
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    texts = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            text = f"{record.get('title') or ''} {record['text']}".strip()
            text.encode()  # JSON can escape half of a surrogate pair
            texts[str(record["_id"])] = text
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path}, line {number}: expected a JSON object with _id and text") from None
    return texts
