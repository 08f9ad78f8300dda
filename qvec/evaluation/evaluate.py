"""The recall of a collection: every way to search it against exact float32, with what each takes and loses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qvec.client import Collection
from qvec.evaluation.figures import Judge, Steps, count_judged, with_losses
from qvec.evaluation.intervals import CONFIDENCE
from qvec.evaluation.qrels import Qrels
from qvec.evaluation.queries import Queries
from qvec.evaluation.reference import described, find_truth
from qvec.evaluation.results import NONE, Evaluation, Result
from qvec.evaluation.rows import Rows
from qvec.evaluation.scan import candidate_count, scan
from qvec.evaluation.searches import Found, measure, warm
from qvec.evaluation.truth import MOST_TIES, Truth
from qvec.evaluation.ways import (
    OVERSAMPLINGS,
    Block,
    HoldsCodes,
    Way,
    bytes_per_vector,
    precisions,
    prefilters,
    ways_of,
    wide,
)
from qvec.ingest.load_options import Reporter

_SCAN_ROWS = 4096
_SUSPICIOUS = 0.8


def evaluate(
    collection: Collection,
    queries: Queries,
    truth: Rows | None = None,
    *,
    k: int = 10,
    oversamplings: Sequence[float] = OVERSAMPLINGS,
    qrels: Qrels | None = None,
    confidence: float = CONFIDENCE,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Measures every way to search a collection with these queries, one at a time.

    Recall is against the k nearest of `truth`, the rows that the collection was loaded from; without it against what
    the collection keeps itself, which the evaluation then says. With `qrels` nDCG@k is measured too, over the queries
    that have a relevant document. Raises InputError where `truth` has other rows than the collection, or no query is
    judged.
    """
    reporter = reporter or Reporter()
    judged = None if qrels is None else count_judged(queries, qrels)
    nearest = find_truth(collection, queries, truth, k, reporter)
    judge = Judge(nearest, k, confidence, queries.names, qrels)
    ways = ways_of(collection, oversamplings)
    searched = _searched(collection, queries, ways, judge, reporter)
    results = searched.copy()
    if truth is not None:
        results.append(judge.result(Way(NONE, "float32", None, True, 4 * truth.dimensions), nearest.nearest()))
    if isinstance(collection, HoldsCodes):
        scanned = _scanned(collection, queries, oversamplings, judge, reporter)
        results += scanned.values()
    else:
        scanned = _widely_searched(collection, queries, ways, judge, reporter)
    return Evaluation(
        collection=collection.name,
        rows=collection.count(),
        queries=len(queries),
        k=k,
        results=tuple(with_losses(results, scanned)),
        calibration=collection.calibration,
        truth=described(collection, truth),
        confidence=confidence,
        notes=tuple(_notes(collection, queries, nearest, searched, judged)),
    )


def _searched(
    collection: Collection, queries: Queries, ways: list[Way], judge: Judge, reporter: Reporter
) -> list[Result]:
    """Each way through the collection's own search."""
    reporter.stage("searching", len(ways) * len(queries))
    warm(collection, queries, max(ways, key=lambda way: way.oversampling or 0), judge.k)
    results = []
    for number, way in enumerate(ways):
        measured = measure(collection, queries, way, judge.k)
        reporter.advance("searching", (number + 1) * len(queries))
        results.append(judge.result(way, measured.found, measured))
    reporter.finish("searching")
    return results


def _scanned(
    collection: Collection, queries: Queries, oversamplings: Sequence[float], judge: Judge, reporter: Reporter
) -> dict[Steps, Result]:
    """Each prefilter when it compares every row's codes; also the one that the index does not hold."""
    assert isinstance(collection, HoldsCodes)
    rescores, k = precisions(collection), judge.k
    reporter.stage("scanning", collection.count())
    most = max(candidate_count(k, oversampling) for oversampling in oversamplings)
    vectors = queries.compared(collection.calibration)
    blocks = _counted(collection, reporter)
    candidates = scan(blocks, vectors, collection.calibration, prefilters(collection), rescores, most + 1)
    reporter.finish("scanning")
    found: dict[Steps, Result] = {}
    for prefilter, near in candidates.items():
        nearest = near if queries.rows is None else near.without(queries.rows)
        for rescore in (*rescores, NONE):
            size = bytes_per_vector(collection, prefilter, rescore)
            for oversampling in oversamplings if rescore != NONE else (None,):
                way = Way(prefilter, rescore, oversampling, True, size)
                if oversampling is None:
                    ids: Found = nearest.best(k)
                else:
                    ids = [line[:k] for line in nearest.best(candidate_count(k, oversampling), rescore)]
                found[way.steps] = judge.result(way, ids)
    return found


def _counted(collection: HoldsCodes, reporter: Reporter) -> Iterator[Block]:
    done = 0
    for block in collection.iter_codes(_SCAN_ROWS):
        yield block
        done += len(block[0])
        reporter.advance("scanning", done)


def _widely_searched(
    collection: Collection, queries: Queries, ways: list[Way], judge: Judge, reporter: Reporter
) -> dict[Steps, Result]:
    """In place of a scan, where the codes are the engine's own."""
    through_graph = [found for way in ways if (found := wide(collection, way))]
    results = _searched(collection, queries, through_graph, judge, reporter)
    return {way.steps: result for way, result in zip(through_graph, results, strict=True)}


def _notes(
    collection: Collection, queries: Queries, truth: Truth, searched: list[Result], judged: int | None
) -> Iterator[str]:
    yield from queries.notes()
    if judged is not None and judged < len(queries):
        yield f"nDCG is over the {judged} queries that have a relevant document"
    if truth.rows > collection.count():
        yield f"the truth has {truth.rows:,} rows, the collection {collection.count():,}; no nearest one is missing"
    if truth.capped:
        yield f"a query has more than {MOST_TIES:,} equally near rows; hits beyond those count as wrong"
    if not collection.has_index():
        yield "the collection has no index: every search reads all rows"
    if "query_encoding" in collection.settings and collection.settings["prefilter"].startswith("binary"):
        yield f"the {collection.settings['prefilter']} bits see queries as {collection.settings['query_encoding']}"
    if not isinstance(collection, HoldsCodes):
        yield "the index's loss is against a search of the graph 10,000 points wide: the engine cannot scan its codes"
    exact = [result.recall.value for result in searched if result.prefilter == NONE and result.rescore != "binary"]
    if exact and max(exact) < _SUSPICIOUS:
        yield (
            f"even rescoring every row finds {max(exact):.1%} only: are these the vectors that the collection was "
            "loaded from?"
        )
