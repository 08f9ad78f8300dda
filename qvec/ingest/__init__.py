"""Loading a source into a collection: sample, calibrate, quantize, copy, index; resumable, every row exactly once."""

from __future__ import annotations

import time

from qvec.ingest.batches import Encoder, batch_rows
from qvec.ingest.lock import SourceLock
from qvec.ingest.options import FitOptions, IngestOptions, Reporter, Stop, Summary
from qvec.ingest.pipeline import LoadStoppedError, Pipeline
from qvec.ingest.plan import Plan, make_plan
from qvec.ingest.rejects import RejectsFile
from qvec.postgres.collection import PostgresCollection
from qvec.postgres.database import PostgresDatabase
from qvec.postgres.errors import explained
from qvec.sources import Source

__all__ = ["FitOptions", "IngestOptions", "LoadStoppedError", "Reporter", "Stop", "Summary", "ingest"]


def ingest(
    database: PostgresDatabase,
    source: Source,
    options: IngestOptions,
    reporter: Reporter | None = None,
    stop: Stop | None = None,
) -> Summary:
    """Loads a source into a collection, which is created and calibrated when it is new.

    A load that was interrupted goes on at its checkpoint when it is called again with the same source. Setting `stop`
    ends it after the batch in hand with LoadStoppedError.
    """
    reporter, stop = reporter or Reporter(), stop or Stop()
    started = time.perf_counter()
    with (
        explained(f"cannot load {source.name} into collection {options.collection!r}"),
        SourceLock(database, options.collection, source.path) as lock,
    ):
        plan = make_plan(database, source, options, reporter)
        pipeline = _load(database, lock, source, plan, options, reporter, stop)
    seconds = time.perf_counter() - started
    if options.index:
        build_index(plan.collection, reporter)
    return _summary(plan, pipeline, seconds)


def _load(
    database: PostgresDatabase,
    lock: SourceLock,
    source: Source,
    plan: Plan,
    options: IngestOptions,
    reporter: Reporter,
    stop: Stop,
) -> Pipeline:
    checkpoint = plan.checkpoint
    if checkpoint.finished:
        reporter.say(f"{source.name} is loaded already; --restart loads it again")
    elif checkpoint.position:
        reporter.say(f"going on at row {checkpoint.position:,}")
    encoder = Encoder(
        source=source,
        calibration=plan.collection.calibration,
        layout=plan.collection.table.layout,
        first_id=checkpoint.first_id,
        embedder=plan.embedder,
        embedded=plan.embedded,
        skip_bad_rows=options.on_error == "skip",
        progress=lambda done: reporter.advance("embedding", done),
    )
    with RejectsFile(options.rejects, checkpoint.rejects_size) as rejects:
        pipeline = Pipeline(
            database,
            lock,
            plan.collection,
            source.path,
            checkpoint,
            on_duplicate=options.on_duplicate,
            workers=options.workers,
            rejects=rejects,
            reporter=reporter,
            stop=stop,
        )
        if not checkpoint.finished:
            _run(pipeline, encoder, source, options, reporter)
    return pipeline


def _run(pipeline: Pipeline, encoder: Encoder, source: Source, options: IngestOptions, reporter: Reporter) -> None:
    stages = ("embedding", "loading") if encoder.embedder else ("loading",)
    for stage in stages:
        reporter.stage(stage, source.rows)
        reporter.advance(stage, pipeline.checkpoint.position)
    try:
        pipeline.run(lambda start: encoder.batches(start, options.batch_rows or batch_rows(source)))
    finally:
        for stage in stages:
            reporter.finish(stage)


def build_index(collection: PostgresCollection, reporter: Reporter) -> None:
    """Builds a collection's index, with progress."""
    if collection.has_index():
        return
    reporter.stage("index", None)
    try:
        collection.build_index(lambda done, total: reporter.advance("index", done, total))
    finally:
        reporter.finish("index")


def _summary(plan: Plan, pipeline: Pipeline, seconds: float) -> Summary:
    collection = plan.collection
    sizes, total = collection.sizes(), collection.count()
    return Summary(
        collection=collection.name,
        rows=pipeline.rows,
        seconds=round(seconds, 3),
        rows_per_second=round(pipeline.rows / seconds, 1),
        bytes_per_vector={
            "table": round(sizes.table / total, 1) if total else 0,
            "index": round(sizes.index / total, 1) if total else 0,
        },
        calibration=collection.calibration.id,
        rejected=pipeline.checkpoint.rejected,
        resumed_at=plan.checkpoint.position,
        total_rows=total,
    )
