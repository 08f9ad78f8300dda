"""Relevance judgements: which documents answer which query, in the forms of BEIR and of TREC."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qvec.errors import InputError

Qrels = dict[str, dict[str, int]]
"""By query id the grade of each judged document, by its id."""

_HEADER = {"query-id", "corpus-id", "score"}


def read_qrels(path: str | Path) -> Qrels:
    """Reads judgements: BEIR's (query-id, corpus-id and score, with tabs and a header) or TREC's (query, iteration,
    document and grade, without one).

    Raises InputError for a line that is of neither form, a pair with two grades, and a file without any.
    """
    file = Path(path)
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}") from None
    found: Qrels = {}
    for number, query, document, grade in _judgements(lines, str(path)):
        graded = found.setdefault(query, {})
        if graded.setdefault(document, grade) != grade:
            raise InputError(
                f"{path}, line {number}: {query} and {document} have grades {graded[document]} and {grade}"
            )
    if not found:
        raise InputError(f"{path} has no judgements")
    return found


def _judgements(lines: list[str], path: str) -> Iterator[tuple[int, str, str, int]]:
    for number, line in enumerate(lines, 1):
        fields = [field.strip() for field in line.split("\t")]
        if not line.strip() or (number == 1 and _HEADER.issuperset(fields)):
            continue
        query, document, grade = _fields(fields if len(fields) > 1 else line.split(), f"{path}, line {number}")
        try:
            yield number, query, document, int(grade)
        except ValueError:
            raise InputError(f"{path}, line {number}: the grade is {grade!r}, expected a whole number") from None


def _fields(fields: list[str], where: str) -> tuple[str, str, str]:
    if len(fields) == 3:
        return fields[0], fields[1], fields[2]
    if len(fields) == 4:  # TREC's second field is a constant
        return fields[0], fields[2], fields[3]
    raise InputError(f"{where}: {len(fields)} fields found, 3 (BEIR) or 4 (TREC) wanted")
