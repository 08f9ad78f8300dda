"""The databases that the shared tests run on, and their differences."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from psycopg import sql

import qvec
from qvec import Calibration, CollectionError, Hit
from qvec.client import Collection, Database

Floats = NDArray[np.float32]

VARIABLES = {"postgres-server": "QVEC_TEST_POSTGRES_URL", "qdrant-server": "QVEC_TEST_QDRANT_URL"}
"""Environment variables with the URLs of real servers."""
STORES = ["postgres", "qdrant", "qdrant-fake", *(kind for kind in VARIABLES if os.environ.get(VARIABLES[kind]))]
"""Kinds of available databases."""


def ids(hits: list[Hit]) -> list[int | str]:
    return [hit.id for hit in hits]


@dataclass
class Store:
    """An open database of some kind."""

    kind: str
    url: str
    database: Database
    new_url: Callable[[Path], str]
    """Return the URL of a database that another process can open: the server's URL, or a new directory."""
    created: set[str] = field(default_factory=set)

    @property
    def is_postgres(self) -> bool:
        return self.kind.startswith("postgres")

    @property
    def accepts_nul(self) -> bool:
        """Whether texts may contain NUL; in Postgres they cannot."""
        return not self.is_postgres

    @property
    def reopens_after_close(self) -> bool:
        """Whether a closed database reopens when it is used."""
        return self.is_postgres

    @property
    def is_single_process(self) -> bool:
        return self.kind == "qdrant"

    @property
    def ranks_texts(self) -> bool:
        """Whether documents can be ranked by their words; Qdrant servers before 1.20 cannot."""
        return self.is_postgres or self.database.store.backend.engine_version.ranks_texts

    @property
    def accepts_quotes(self) -> bool:
        """Whether names of collections may contain a double quote; a Qdrant server refuses it."""
        return self.is_postgres or self.kind == "qdrant"

    def need_ranking(self) -> None:
        """Skip the test unless documents can be ranked by their words."""
        if not self.ranks_texts:
            pytest.skip("the server is too old to rank by words")

    def new_name(self) -> str:
        """Return an unused collection name; `clean_up` drops that collection."""
        name = f"qvec_test_{uuid.uuid4().hex[:12]}"
        self.created.add(name)
        return name

    def fixed_name(self, name: str) -> str:
        """Return a name that a test cannot choose, without a collection that an interrupted run left on a server."""
        self.created.add(name)
        if self.kind in VARIABLES:
            with suppress(CollectionError):
                self.database.drop_collection(name)
        return name

    def create(self, calibration: Calibration, **settings: Any) -> Collection:
        return self.database.create_collection(self.new_name(), calibration=calibration, **settings)

    def clean_up(self) -> None:
        for name in self.created:
            with suppress(CollectionError):
                self.database.drop_collection(name)

    def native_filter(self, name: str, value: str) -> Any:
        """Return the database's native filter for {name: value}."""
        if self.is_postgres:
            return sql.SQL("metadata->>{} = {}").format(sql.Literal(name), sql.Literal(value))
        from qdrant_client import models  # an extra

        condition = models.FieldCondition(key=f"metadata.{name}", match=models.MatchValue(value=value))
        return models.Filter(must=[condition])

    def scores(self, queries: Floats, vectors: Floats, calibration: Calibration, rescore: str) -> NDArray[np.float64]:
        """Return the expected scores (m, n) of prepared queries and vectors, to the precision of float32.

        Postgres stores x, Qdrant x - threshold; both round the query too. With `rescore` "binary", signs decode to
        threshold ± deviation; Postgres then does not round the query, and under cosine divides by the decoded length.
        """
        threshold = calibration.threshold.astype(np.float64)
        if rescore == "binary":
            signs = np.where(vectors > calibration.threshold, 1.0, -1.0)
            weighted = (queries * calibration.deviation).astype(np.float32)
            seen = weighted.astype(np.float64) if self.is_postgres else _rounded(weighted, "float16")
            found: NDArray[np.float64] = np.asarray(queries @ threshold)[:, None] + seen @ signs.T
            if self.is_postgres and calibration.metric == "cosine":
                found /= np.linalg.norm(threshold + signs * calibration.deviation, axis=1)
            return found
        if self.is_postgres:
            return queries.astype(rescore).astype(np.float64) @ vectors.astype(rescore).astype(np.float64).T
        centred = (vectors - calibration.threshold).astype(rescore).astype(np.float64)
        return np.asarray(queries @ threshold)[:, None] + _rounded(queries, rescore) @ centred.T


def _rounded(queries: Floats, datatype: str) -> NDArray[np.float64]:
    """Return queries rounded to the precision of the stored vectors, scaled to a largest component of about 1."""
    _, exponents = np.frexp(np.abs(queries).max(axis=1, keepdims=True))
    return np.ldexp(np.ldexp(queries, -exponents).astype(datatype).astype(np.float64), exponents)


@contextmanager
def open_store(kind: str, directory: Path, new_database: Callable[[], str]) -> Iterator[Store]:
    """Open a database; drop new collections of a server at the end. Skip the test if no URL of the server is set."""
    if kind in VARIABLES:
        url = os.environ.get(VARIABLES[kind], "")
        if not url:
            pytest.skip(f"{VARIABLES[kind]} is not set")
        yield from _cleaned_up(kind, url, lambda _: url)
    elif kind == "postgres":
        yield from _cleaned_up(kind, new_database(), lambda _: new_database())
    elif kind == "qdrant":
        yield from _cleaned_up(kind, f"qdrant:{directory / 'qdrant'}", lambda other: f"qdrant:{other / 'qdrant'}")
    else:
        from fake_qdrant import FakeQdrantServer  # needs the engine, an extra

        with FakeQdrantServer(directory) as server:
            yield from _cleaned_up(kind, server.url, lambda _: server.url)


def _cleaned_up(kind: str, url: str, new_url: Callable[[Path], str]) -> Iterator[Store]:
    with qvec.connect(url) as database:
        store = Store(kind, url, database, new_url)
        try:
            yield store
        finally:
            if kind in VARIABLES:  # other databases are deleted, and dropping collections one by one takes seconds
                store.clean_up()
