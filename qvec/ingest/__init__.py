"""Loading a source into a collection: sample, calibrate, quantize, copy, index; resumable, every row exactly once."""

from __future__ import annotations

import time

from qvec.client import Collection, Database
from qvec.client.bulk import open_loader
from qvec.ingest.batches import Encoder, batch_rows
from qvec.ingest.options import FitOptions, IngestOptions, Reporter, Stop, Summary
from qvec.ingest.pipeline import LoadStoppedError, Pipeline
from qvec.ingest.plan import Plan, make_plan
from qvec.ingest.rejects import RejectsFile
from qvec.ingest.unused import dropped_if_unused
from qvec.sources import Source
from qvec.store.loads import Loader

__all__ = ["FitOptions", "IngestOptions", "LoadStoppedError", "Reporter", "Stop", "Summary", "ingest"]


def ingest(
    database: Database,
    source: Source,
    options: IngestOptions,
    reporter: Reporter | None = None,
    stop: Stop | None = None,
) -> Summary:
    """Loads a source into a collection, which is created and calibrated when it is new, and stays once it has a row.

    A load that was interrupted goes on at its checkpoint when it is called again with the same source. Setting `stop`
    ends it after the batch in hand with LoadStoppedError.
    """
    reporter, stop = reporter or Reporter(), stop or Stop()
    started = time.perf_counter()
    with (
        database.wrap_errors(f"cannot load {source.name} into collection {options.collection!r}"),
        dropped_if_unused(database, options.collection),
        open_loader(database, options.collection, source.path, options.on_duplicate, options.workers) as loader,
    ):
        plan = make_plan(database, loader, source, options, reporter)
        pipeline = _load(loader, source, plan, options, reporter, stop)
    seconds = time.perf_counter() - started
    if options.index_metadata and not database.store.indexes_metadata_first:
        plan.collection.index_metadata(options.index_metadata)
    if options.index:
        build_index(plan.collection, reporter)
    return _summary(plan, pipeline, seconds)


def _load(
    loader: Loader, source: Source, plan: Plan, options: IngestOptions, reporter: Reporter, stop: Stop
) -> Pipeline:
    checkpoint = plan.checkpoint
    if checkpoint.finished:
        reporter.say(f"{source.name} is loaded already; --restart loads it again")
    elif checkpoint.position:
        reporter.say(f"going on at row {checkpoint.position:,}")
    encoder = Encoder(
        source=source,
        collection=plan.collection,
        first_id=checkpoint.first_id,
        embedder=plan.embedder,
        embedded=plan.embedded,
        skip_bad_rows=options.on_error == "skip",
        progress=lambda done: reporter.advance("embedding", done),
    )
    with RejectsFile(options.rejects, checkpoint.rejects_size) as rejects:
        pipeline = Pipeline(loader, plan.collection, checkpoint, rejects=rejects, reporter=reporter, stop=stop)
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


def build_index(collection: Collection, reporter: Reporter) -> None:
    """Builds a collection's index, with progress."""
    if collection.has_index():
        return
    reporter.stage("index", None)
    try:
        collection.build_index(lambda done, total: reporter.advance("index", done, total))
    finally:
        reporter.finish("index")


def _summary(plan: Plan, pipeline: Pipeline, seconds: float) -> Summary:
    info = plan.collection.info()
    return Summary(
        collection=info.name,
        rows=pipeline.rows,
        seconds=round(seconds, 3),
        rows_per_second=round(pipeline.rows / seconds, 1),
        bytes_per_vector=info.bytes_per_vector(),
        calibration=info.calibration,
        rejected=pipeline.checkpoint.rejected,
        resumed_at=plan.checkpoint.position,
        total_rows=info.rows,
    )
