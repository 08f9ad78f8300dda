"""What recall is measured against: the vectors a collection was loaded from, or what it keeps of them."""

from __future__ import annotations

from itertools import islice

from qvec.client import Collection
from qvec.errors import InputError
from qvec.evaluation.queries import Queries
from qvec.evaluation.rows import Rows, rows_of_collection
from qvec.evaluation.truth import Truth, nearest_rows
from qvec.ingest.load_options import Reporter

_GET_ROWS = 1000


def find_truth(collection: Collection, queries: Queries, rows: Rows | None, k: int, reporter: Reporter) -> Truth:
    """The k nearest of `rows`, those that the collection was loaded from, or of what it keeps itself.

    Raises InputError where `rows` are not the collection's.
    """
    compared = rows or rows_of_collection(collection)
    vectors = queries.compared(collection.calibration, compared.dimensions)
    reporter.stage("truth", collection.count())
    found = nearest_rows(compared.read(lambda done: reporter.advance("truth", done)), vectors, k, queries.rows)
    reporter.finish("truth")
    if rows is not None:
        _check_same_rows(collection, found, rows.name)
    return found


def described(collection: Collection, rows: Rows | None) -> str:
    """What recall is against, for a report."""
    if rows is not None:
        return f"exact search of {rows.name} in float32, {rows.dimensions} dimensions"
    own = collection.settings["rescore"]
    if own in ("float16", "float32"):
        return f"exact search of the collection's own {own} vectors"
    return (
        f"exact search of the collection's own {own} vectors, which stand in for the floats that it does not keep: "
        f"what {own} itself loses is not seen; to see it name the vectors it was loaded from (--truth SOURCE)"
    )


def _check_same_rows(collection: Collection, truth: Truth, name: str) -> None:
    """Recall against other rows would be wrong without a sign of it."""
    count = collection.count()
    if count > truth.rows:
        raise InputError(
            f"collection {collection.name!r} has {count:,} rows, but {name} {truth.rows:,} that can be compared; give "
            "all that it was loaded from as --truth"
        )
    ids = iter(truth.ids())
    missing: list[int | str] = []
    while some := list(islice(ids, _GET_ROWS)):
        missing += [id for id, hit in zip(some, collection.get(some), strict=True) if hit is None]
    if missing:
        raise InputError(
            f"{len(missing):,} of the rows of {name} that are nearest to the queries are not in collection "
            f"{collection.name!r}, such as id {missing[0]!r}; give what it was loaded from as --truth, or leave it out"
        )
