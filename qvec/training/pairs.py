"""The texts that a model is trained on: pairs, triplets, or pairs with a score, from a file."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qvec.errors import InputError, RowError

SCORES = ("score", "label")

_HALF_OF_A_PAIR = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Pairs:
    """Texts by column, the query first, then its document, then what is no answer to it; and scores where given."""

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
        """The second column: what each query is paired with."""
        return list(self.texts.values())[1]

    def take(self, rows: Sequence[int]) -> Pairs:
        """The pairs of these rows."""
        texts = {name: [column[row] for row in rows] for name, column in self.texts.items()}
        return Pairs(texts, None if self.scores is None else [self.scores[row] for row in rows])

    def split(self, held_out: int, seed: int) -> tuple[Pairs, Pairs]:
        """Two parts, the second of `held_out` rows drawn by the seed."""
        rows = random.Random(seed).sample(range(len(self)), len(self))
        return self.take(sorted(rows[held_out:])), self.take(sorted(rows[:held_out]))


def read_pairs(path: str | Path, columns: Sequence[str] | None = None) -> Pairs:
    """Reads JSON Lines or Parquet: the columns named or, without names, all that hold text, in the file's order.

    A column `score` or `label` of numbers makes scored pairs. Ids (`id`, `_id`) are left out. Raises InputError for a
    file that cannot be read or has fewer than two columns of text, RowError for a row that lacks one.
    """
    file = Path(path)
    try:
        table = pq.read_table(file).to_pydict() if file.suffix == ".parquet" else _json_lines(file)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    names = list(columns) if columns else [name for name, values in table.items() if _holds_text(name, values)]
    missing = [name for name in names if name not in table]
    if missing or len(names) < 2 or not table[names[0]]:
        raise InputError(
            f"{path} has {'no column ' + missing[0] if missing else f'{len(names)} columns of text'}, expected rows of "
            f"two or more (a query, its document, documents that are no answer); its columns: {', '.join(table)}"
        )
    scores = next((table[name] for name in SCORES if name in table and name not in names), None)
    for name in names:
        _check(table[name], _is_text, f"{path}, column {name}", "a text")
    if scores is not None:
        _check(scores, _is_number, f"{path}, column of scores", "a finite number")
    return Pairs({name: table[name] for name in names}, scores)


def _json_lines(file: Path) -> dict[str, list[Any]]:
    table: dict[str, list[Any]] = {}
    rows = 0
    # Not splitlines, which ends lines at U+2028, U+2029 and U+0085 as well: JSON has them in its strings as they are.
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = dict(json.loads(line))
        except (ValueError, TypeError):
            raise InputError(f"{file}, line {number}: expected a JSON object") from None
        for name in [*table, *(name for name in record if name not in table)]:  # columns keep the file's order
            table.setdefault(name, [None] * rows).append(record.get(name))
        rows += 1
    return table


def _holds_text(name: str, values: list[Any]) -> bool:
    return name not in ("id", "_id") and any(isinstance(value, str) for value in values)


def _is_text(value: Any) -> bool:
    """Whether it is text that is not empty; half of a surrogate pair, which JSON can escape, is none."""
    return isinstance(value, str) and value != "" and not _HALF_OF_A_PAIR.search(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check(values: list[Any], fits: Callable[[Any], bool], where: str, wanted: str) -> None:
    for row, value in enumerate(values):
        if not fits(value):
            raise RowError(row, f"{value!r} found, {wanted} wanted", where)
