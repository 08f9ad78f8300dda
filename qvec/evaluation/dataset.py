"""What a search is measured with: queries, relevance judgements, and the rows that the queries are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec import _native
from qvec.calibration import Calibration
from qvec.codes import PLANES, dequantize, quantize
from qvec.embedding import Embedder
from qvec.errors import InputError, QvecError
from qvec.sources import Columns, Source, open_source
from qvec.stores import Collection, Database

Floats = NDArray[np.float32]
Block = tuple[NDArray[Any], Floats]
Qrels = dict[str, dict[str, int]]
"""Relevance judgements: by query id, the grade of each judged document by its id."""

FEW_QUERIES = 100
_BATCH_ROWS, _BATCH_TEXTS = 8192, 256
_ROWS_CHECKED = 500
_QRELS_HEADER = {"query-id", "corpus-id", "score"}


@dataclass(frozen=True)
class Queries:
    """Query vectors float32 (m, D) with their ids.

    If the queries are rows of the collection or of its source, `row_ids` names these rows: a search should not find
    the row that it asks with.
    """

    ids: tuple[str, ...]
    vectors: Floats
    name: str
    """Where the queries come from, for reports."""
    row_ids: tuple[int | str, ...] | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def notes(self) -> Iterator[str]:
        """Yield what a reader of the results should know about the queries."""
        if self.row_ids is not None:
            yield "queries are rows, each excluded from its own hits; real queries may be further from the rows"
        if len(self) < FEW_QUERIES:
            yield f"{len(self)} queries are few: figures and intervals may be off"

    def take(self, positions: NDArray[np.int64]) -> Queries:
        """Return the queries at these positions."""
        row_ids = None if self.row_ids is None else tuple(self.row_ids[i] for i in positions)
        return Queries(tuple(self.ids[i] for i in positions), self.vectors[positions], self.name, row_ids)

    def prepared(self, calibration: Calibration, dimensions: int | None = None) -> Floats:
        """Return the vectors cut to `dimensions` (default: the calibration's), at unit length under cosine."""
        return prepared(self.vectors, dimensions or calibration.dimensions, calibration.metric == "cosine")


@dataclass(frozen=True)
class Rows:
    """A repeatable stream of rows: ids (n,) of int or str and vectors float32 (n, d), prepared for the metric."""

    name: str
    """Where the rows come from, for reports."""
    dimensions: int
    read: Callable[[Callable[[int], None]], Iterator[Block]]
    """Yield the rows in blocks, and call the argument with the number of rows read so far."""
    offset: Floats | None = None
    """To be added to these vectors to get query vectors: the threshold if they are centred."""

    def sample(self, size: int, seed: int) -> tuple[list[int | str], Floats]:
        """Draw ids and query vectors (at most size, d) uniformly without replacement."""
        rng = np.random.default_rng(seed)
        kept, ids, vectors = np.empty(0), np.empty(0, object), np.empty((0, self.dimensions), np.float32)
        for block_ids, rows in self.read(lambda _: None):
            keys = np.concatenate([kept, rng.random(len(rows))])
            lowest = np.argsort(keys, kind="stable")[:size]
            kept = keys[lowest]
            ids = np.concatenate([ids, np.array(block_ids.tolist(), object)])[lowest]
            vectors = np.concatenate([vectors, rows])[lowest]
        return ids.tolist(), vectors if self.offset is None else vectors + self.offset


def prepared(vectors: NDArray[Any], dimensions: int, cosine: bool) -> Floats:
    """Return the first dimensions of vectors (n, D) as float32, at unit length under cosine."""
    if cosine:
        return _native.normalize(np.ascontiguousarray(vectors), dimensions)
    return np.ascontiguousarray(vectors[:, :dimensions], np.float32)


def read_queries(source: Source, calibration: Calibration, load_embedder: Callable[[], Embedder]) -> Queries:
    """Read all queries of a source: its vectors, or its texts embedded as queries. Row numbers stand in for ids.

    Raise InputError if a row cannot be read or compared, or if there are no queries.
    """
    if source.dimensions is None and not source.has_text:
        raise InputError(f"{source.name} has neither vectors nor text to take as queries")
    ids: list[str] = []
    texts: list[str] = []
    vectors: list[Floats] = []
    for batch in source.batches():
        if batch.rejected:
            raise InputError(f"{batch.rejected[0].where}: {batch.rejected[0].reason}")
        ids += map(str, batch.rows.tolist() if batch.ids is None else batch.ids.to_pylist())
        if batch.vectors is not None:
            vectors.append(batch.vectors.astype(np.float32))
        elif batch.documents is not None:
            texts += _all_texts(source, batch.documents.to_pylist(), batch.start)
    if not ids:
        raise InputError(f"{source.name} has no queries")
    found = np.concatenate(vectors) if vectors else load_embedder().embed_queries(texts)
    _check_dimensions(source.name, found.shape[1], calibration)
    calibration.check(found, source.name)
    return Queries(tuple(ids), found, source.name)


def _all_texts(source: Source, texts: list[str | None], start: int) -> Iterator[str]:
    for row, text in enumerate(texts, start):
        if text is None:
            raise InputError(f"{source.where(row)} has no text")
        yield text


def _check_dimensions(name: str, dimensions: int, calibration: Calibration) -> None:
    if dimensions not in calibration.accepted_dimensions:
        wanted = " or ".join(map(str, calibration.accepted_dimensions))
        raise InputError(f"{name} has {dimensions} dimensions, expected {wanted} like the collection")


def rows_of_source(
    source: Source, calibration: Calibration, embedder: Embedder | None, first_id: int, dimensions: int | None = None
) -> Rows:
    """Return the rows of a source before quantization, in the calibration's dimensions.

    Rows without ids are numbered from `first_id`. Rows that a load leaves out (NaN, zero under cosine) are left out
    here too. If the source and the queries have all `dimensions` of which the collection keeps a Matryoshka prefix,
    rows keep them all.
    """
    found = source.dimensions or (embedder.dimensions if embedder else None)
    if found is None:
        raise InputError(f"{source.name} has no vectors; name a model that embeds its text: --model NAME")
    _check_dimensions(source.name, found, calibration)
    compared = found if dimensions == found else calibration.dimensions
    cosine = calibration.metric == "cosine"

    def read(progress: Callable[[int], None]) -> Iterator[Block]:
        for batch in source.batches(batch_rows=_BATCH_ROWS if source.dimensions else _BATCH_TEXTS):
            ids = batch.rows + first_id if batch.ids is None else batch.ids.to_numpy(zero_copy_only=False)
            vectors: NDArray[Any] | None = batch.vectors
            if vectors is None:
                assert embedder
                assert batch.documents is not None
                has_text = batch.documents.is_valid()
                vectors = embedder.embed_documents(batch.documents.filter(has_text).to_pylist())
                ids = ids[has_text.to_numpy(zero_copy_only=False)]
            bad = [row for row, _ in _native.bad_rows(vectors, compared, cosine)]
            yield np.delete(ids, bad), prepared(np.delete(vectors, bad, axis=0), compared, cosine)
            progress(batch.stop)

    return Rows(source.name, compared, read)


def rows_of_collection(collection: Collection) -> Rows:
    """Return the rows of a collection as it keeps them: floats, or decoded codes."""

    def read(progress: Callable[[int], None]) -> Iterator[Block]:
        done = 0
        for rows in collection.stored_rows(0, _BATCH_ROWS):
            ids = rows.ids if isinstance(rows.ids, np.ndarray) else rows.ids.to_numpy(zero_copy_only=False)
            yield ids, rows.vectors
            done += len(rows.vectors)
            progress(done)

    calibration = collection.calibration
    offset = calibration.threshold if collection.form == "centred" else None
    return Rows(collection.name, calibration.dimensions, read, offset)


def find_source(
    database: Database, collection: Collection, columns: Columns, dimensions: int | None
) -> tuple[Source, Rows] | None:
    """Open the file that a collection without floats was loaded from, as a source and as rows in `dimensions`.

    The caller closes the source. Return None if it cannot be found: the collection was loaded from several sources or
    from texts, its rows have changed since, or the file is gone or has changed. `dimensions` None means all.
    """
    loads = {} if collection.keeps_floats else database.loads(collection.name)
    if len(loads) != 1:
        return None
    ((location, checkpoint),) = loads.items()
    complete = checkpoint.finished and checkpoint.position - checkpoint.rejected == collection.count()
    if not complete or not Path(location).exists():
        return None
    try:
        source = open_source(location, columns=columns)
    except QvecError:
        return None
    if _fits(source, collection) and source.fingerprint() == checkpoint.fingerprint:
        rows = partial(rows_of_source, source, collection.calibration, None, checkpoint.first_id or 0)
        if _holds_rows(collection, rows()):
            return source, rows(dimensions or source.dimensions)
    source.close()
    return None


def _fits(source: Source, collection: Collection) -> bool:
    same_ids = (source.id_type or "bigint") == collection.id_type
    return same_ids and source.dimensions in collection.calibration.accepted_dimensions


def _holds_rows(collection: Collection, rows: Rows) -> bool:
    """Tell whether sampled rows of a source have the same codes in the collection."""
    ids, vectors = rows.sample(_ROWS_CHECKED, seed=0)
    codes = quantize(vectors, collection.calibration, PLANES[collection.settings["rescore"]])
    wanted = dequantize(codes, collection.calibration)
    return bool(np.allclose(collection.vectors(ids), wanted, atol=1e-6 * float(np.abs(wanted).max(initial=1))))


def read_qrels(path: str | Path) -> Qrels:
    """Read relevance judgements from a file.

    The format is BEIR's (query-id, corpus-id, score; tabs and a header) or TREC's (query, iteration, document, grade;
    no header). Raise InputError if a line has another form, a pair has two grades, or the file has no judgements.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}") from None
    qrels: Qrels = {}
    for number, line in enumerate(lines, 1):
        fields = [field.strip() for field in line.split("\t")]
        if not line.strip() or (number == 1 and _QRELS_HEADER.issuperset(fields)):
            continue
        query, document, grade = _judgement(fields if len(fields) > 1 else line.split(), f"{path}, line {number}")
        graded = qrels.setdefault(query, {})
        if graded.setdefault(document, grade) != grade:
            raise InputError(
                f"{path}, line {number}: {query} and {document} have grades {graded[document]} and {grade}"
            )
    if not qrels:
        raise InputError(f"{path} has no judgements")
    return qrels


def _judgement(fields: list[str], where: str) -> tuple[str, str, int]:
    if len(fields) not in (3, 4):
        raise InputError(f"{where}: {len(fields)} fields found, expected 3 (BEIR) or 4 (TREC)")
    if len(fields) == 4:
        del fields[1]  # TREC's iteration is a constant
    query, document, grade = fields
    try:
        return query, document, int(grade)
    except ValueError:
        raise InputError(f"{where}: the grade is {grade!r}, expected a whole number") from None


def is_judged(qrels: Qrels, query: str) -> bool:
    """Tell whether a query has a relevant document; without one, all rankings are equally good."""
    return any(grade > 0 for grade in qrels.get(query, {}).values())


def count_judged(queries: Queries, qrels: Qrels) -> int:
    """Return how many queries have a relevant document. Raise InputError if none has."""
    count = sum(is_judged(qrels, id) for id in queries.ids)
    if not count:
        raise InputError(
            f"no query of {queries.name} is judged: its ids are like {queries.ids[0]!r}, those of the judgements like "
            f"{next(iter(qrels))!r}"
        )
    return count
