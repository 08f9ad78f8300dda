"""Loading a source into a collection: calibrate, quantize, write and index; resumable, every row exactly once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from qvec.client import Collection, Database
from qvec.client.bulk import open_loader, read_checkpoints
from qvec.errors import QvecError
from qvec.ingest.encoder import Encoder, batch_rows
from qvec.ingest.load_options import LoadOptions, Reporter, Stop, Summary
from qvec.ingest.pipeline import Pipeline
from qvec.ingest.plan import LoadPlan, make_plan
from qvec.ingest.rejects import RejectsFile
from qvec.sources import Source
from qvec.store.loads import Loader


def ingest(
    database: Database,
    source: Source,
    options: LoadOptions,
    reporter: Reporter | None = None,
    stop: Stop | None = None,
) -> Summary:
    """Load a source into a collection, which is created and calibrated when it is new, and kept once it has a row.

    Call it again with the same source to continue an interrupted load at its checkpoint. Setting `stop` ends the load
    after the current batch with LoadStoppedError.
    """
    reporter, stop = reporter or Reporter(), stop or Stop()
    started = time.perf_counter()
    with (
        database.wrap_errors(f"cannot load {source.name} into collection {options.collection!r}"),
        dropping_unused(database, options.collection),
        open_loader(database, options.collection, source.path, options.on_duplicate, options.workers) as loader,
    ):
        with database.store.retrying_longer():
            plan = make_plan(database, loader, source, options, reporter)
        pipeline = _load(loader, source, plan, options, reporter, stop)
    seconds = time.perf_counter() - started
    with database.store.retrying_longer():
        if options.index_metadata and not database.store.indexes_metadata_first:
            plan.collection.index_metadata(options.index_metadata)
        if options.index:
            build_index(plan.collection, reporter)
        return _summary(plan, pipeline, seconds)


def _load(
    loader: Loader, source: Source, plan: LoadPlan, options: LoadOptions, reporter: Reporter, stop: Stop
) -> Pipeline:
    checkpoint = plan.checkpoint
    if checkpoint.finished:
        reporter.say(f"{source.name} is already loaded; --restart loads it again")
    elif checkpoint.position:
        reporter.say(f"continuing at row {checkpoint.position:,}")
    encoder = Encoder(
        source=source,
        collection=plan.collection,
        first_id=checkpoint.first_id,
        embedder=plan.embedder,
        embedded=plan.embedded,
        skip_rejected=options.on_error == "skip",
        progress=lambda done: reporter.advance("embedding", done),
    )
    with RejectsFile(options.rejects, checkpoint.rejects_size) as rejects:
        pipeline = Pipeline(loader, plan.collection, checkpoint, rejects=rejects, reporter=reporter, stop=stop)
        if not checkpoint.finished:
            _run(pipeline, encoder, source, options, reporter)
    return pipeline


def _run(pipeline: Pipeline, encoder: Encoder, source: Source, options: LoadOptions, reporter: Reporter) -> None:
    stages = ("embedding", "loading") if encoder.embedder else ("loading",)
    for stage in stages:
        reporter.stage(stage, source.rows)
        reporter.advance(stage, pipeline.checkpoint.position)
    try:
        pipeline.run(lambda start: encoder.batches(start, options.batch_rows or batch_rows(source)))
    finally:
        for stage in stages:
            reporter.finish(stage)


@contextmanager
def dropping_unused(database: Database, name: str) -> Iterator[None]:
    """Drop a collection that the load created where the load fails before its first row.

    It would force a calibration, perhaps of wrongly read rows, and unused settings on the next load.
    """
    with database.store.retrying_longer():
        existed = database.has_collection(name)
    try:
        yield
    except QvecError:
        with suppress(Exception):  # the user has to see why the load failed
            if not existed and database.has_collection(name) and _is_unused(database, name):
                database.drop_collection(name)
        raise


def _is_unused(database: Database, name: str) -> bool:
    """Return whether it has no rows, and no other source is being loaded."""
    loads = read_checkpoints(database, name)
    begun = any(load.position for load in loads.values())
    return len(loads) <= 1 and not begun and not database.collection(name).count()


def build_index(collection: Collection, reporter: Reporter) -> None:
    """Build a collection's index unless it exists, and report the progress."""
    if collection.has_index():
        return
    reporter.stage("index", None)
    try:
        collection.build_index(lambda done, total: reporter.advance("index", done, total))
    finally:
        reporter.finish("index")


def _summary(plan: LoadPlan, pipeline: Pipeline, seconds: float) -> Summary:
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
