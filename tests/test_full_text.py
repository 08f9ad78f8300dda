"""Words in Postgres: what a ranking rests on besides the documents."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
from stores import ids

from qvec import Calibration
from qvec.postgres.database import PostgresDatabase

ROWS = 1000


def texts(random: np.random.Generator, rows: int) -> list[str]:
    """Forty words each, of two hundred, the n-th of which is n times rarer than the first."""
    share = 1 / np.arange(1, 201)
    words = random.choice(200, (rows, 40), p=share / share.sum())
    return [" ".join(f"w{word}" for word in row) for row in words]


def test_rankings_are_the_same_before_analyze_has_seen_the_rows(
    db: PostgresDatabase, name: str, calibration: Calibration, vectors: Any
) -> None:
    random = np.random.default_rng(0)
    documents = texts(random, ROWS)
    docs: Any = db.create_collection(name, calibration=calibration)
    docs.index_texts("simple")
    docs.upsert(np.arange(ROWS), vectors, documents)
    questions = [" ".join(f"w{word}" for word in random.choice(200, 5)) for _ in range(50)]
    before = [ids(docs.search_text(question)) for question in questions]
    with db.connect() as connection:
        connection.execute(psycopg.sql.SQL("ANALYZE {}").format(docs.table.identifier))
    after = [ids(docs.search_text(question)) for question in questions]
    shared = [len({*one} & {*other}) / len(other) for one, other in zip(before, after, strict=True)]
    assert np.mean(shared) > 0.97
