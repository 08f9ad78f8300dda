"""What a load begins with: the collection, made when it is new, its calibration, and where the source stands."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvec.arrays import Vectors
from qvec.calibration import Calibration
from qvec.codecs import FLOAT
from qvec.embedding import Embedder, EmbeddingOptions, check_cut, load_embedder
from qvec.embedding.options import check_embedding, choose_embedding, embedding_to_store
from qvec.errors import CalibrationError, CollectionError, InputError
from qvec.ingest.embedding import NO_TEXT, embed_texts
from qvec.ingest.options import FitOptions, IngestOptions, OnError, Reporter
from qvec.ingest.quantized import check_threshold, fit_for, look_quantized, settings_for
from qvec.ingest.screening import FitScreen
from qvec.loading import Checkpoint, Loader, Starts
from qvec.model_folder import find_calibration
from qvec.sampling import Screen
from qvec.sources import Source
from qvec.stores import Collection, Database

_MAX_BIGINT = 2**63 - 1
TEXT_SAMPLE = 2_000
"""Texts that are embedded for a calibration; their vectors are kept for the load."""


@dataclass(frozen=True)
class Plan:
    """Everything a load needs."""

    collection: Collection
    checkpoint: Checkpoint
    embedder: Embedder | None
    embedded: dict[int, NDArray[np.float32]]


def make_plan(database: Database, loader: Loader, source: Source, options: IngestOptions, reporter: Reporter) -> Plan:
    """Finds or creates the collection and decides where to begin.

    Raises CollectionError or CalibrationError where the options do not fit the collection, InputError where the source
    does not.
    """
    _check_id_start(source, options.id_start)
    _check_settings(database, options)
    collection = database.collection(options.collection) if database.has_collection(options.collection) else None
    if collection is not None:
        _check_fits(collection, source, options)
    existing = collection.calibration if collection else _given_calibration(options, reporter)
    if existing is not None:
        check_fit_options(existing, options.wanted_fit)
    embedding = choose_embedding(EmbeddingOptions.of(options.model), collection, existing)
    embedder = load_embedder_for(source, embedding)
    if embedder is not None:
        embedding = embedder.options
    embedded: dict[int, NDArray[np.float32]] = {}
    if collection is None:
        calibration = existing
        if calibration is None:
            calibration, embedded = fit_source(source, embedder, options.wanted_fit, embedding.model, reporter)
        _check_dimensions(calibration, options.collection, source, embedder)
        check_threshold(calibration, source.codec, source.name)
        collection = database.create_collection(
            options.collection,
            calibration=calibration,
            id_type=source.id_type or "bigint",
            model=embedding.model,
            embedding=embedding_to_store(embedding),
            **(settings_for(source.codec) | options.given_settings()),
        )
    else:
        _check_dimensions(collection.calibration, collection.name, source, embedder)
        check_threshold(collection.calibration, source.codec, source.name)
    if options.index_metadata and database.metadata_indexes_first:
        collection.index_metadata(options.index_metadata)
    if options.index_texts is not None:
        collection.index_texts(options.index_texts)
    return Plan(collection, _checkpoint(loader, collection, source, options, reporter), embedder, embedded)


def _given_calibration(options: IngestOptions, reporter: Reporter) -> Calibration | None:
    """The calibration that is asked for or, without one, that the model was trained with and carries in its folder."""
    if options.calibration is not None:
        return options.calibration
    found = find_calibration(EmbeddingOptions.of(options.model).model, options.wanted_fit.dimensions)
    if found is not None:
        reporter.say(f"calibration {found.id}: the one that the model was trained with")
    return found


def _check_settings(database: Database, options: IngestOptions) -> None:
    """Settings that only another kind of database has are refused, never ignored."""
    for name in options.given_settings():
        if name not in database.settings:
            raise InputError(f"--{name.replace('_', '-')} is no setting of a collection in {database.kind}")


def _check_id_start(source: Source, id_start: int | str | None) -> None:
    """Row numbers have to stay within bigint."""
    last = _MAX_BIGINT - (_MAX_BIGINT // 2 if source.rows is None else source.rows)
    if isinstance(id_start, int) and not 0 <= id_start <= last:
        raise InputError(f"--id-start is {id_start}, expected 0 to {last} for {source.name}")


def _check_fits(collection: Collection, source: Source, options: IngestOptions) -> None:
    """The collection's own settings are used; other ones are refused, never ignored."""
    given = options.calibration
    if given is not None and given != collection.calibration:
        raise CollectionError(
            f"collection {collection.name!r} has calibration {collection.calibration.id}, not {given.id}; "
            "codes of two calibrations do not compare, so load into a new collection"
        )
    for name, wanted in options.given_settings().items():
        if wanted != collection.settings[name]:
            found = collection.settings[name]
            raise CollectionError(f"collection {collection.name!r} has {name} {found}, not {wanted}")
    check_embedding(EmbeddingOptions.of(options.model), collection)
    if (source.id_type or "bigint") != collection.id_type:
        kind = f"has {source.id_type} ids" if source.id_type else "has no ids, and row numbers are bigint"
        raise CollectionError(f"collection {collection.name!r} has {collection.id_type} ids, but {source.name} {kind}")


def check_fit_options(calibration: Calibration, fit: FitOptions) -> None:
    """What is asked of a new calibration, beyond the defaults, has to be true of the one that is used instead."""
    default, method = FitOptions(), calibration.description.get("method", {})
    for option, asked, unasked, found in (
        ("--metric", fit.metric, default.metric, calibration.metric),
        ("--threshold", fit.threshold, default.threshold, method.get("threshold")),
        ("--ranges", fit.ranges.name, default.ranges.name, method.get("name")),
        ("--dimensions", fit.dimensions, default.dimensions, calibration.dimensions),
    ):
        if found is not None and asked not in (unasked, found):
            raise CalibrationError(
                f"{option} {asked} is asked for, but calibration {calibration.id} has {found}, and a calibration stays "
                "as it was fitted; leave the option out, or load into a new collection"
            )


def load_embedder_for(source: Source, embedding: EmbeddingOptions) -> Embedder | None:
    """The model that embeds the source's texts; None when it brings vectors."""
    if source.dimensions is not None:
        return None
    if not source.has_text:
        raise InputError(f"{source.name} has neither vectors nor text; name a column: --vector-column or --text-column")
    if embedding.model is None:
        raise InputError(f"{source.name} has text but no vectors; name a model that embeds it: --model NAME")
    return load_embedder(embedding)


def fit_source(
    source: Source,
    embedder: Embedder | None,
    fit: FitOptions,
    model: str | None,
    reporter: Reporter,
    on_error: OnError = "skip",
) -> tuple[Calibration, dict[int, NDArray[np.float32]]]:
    """A calibration from a uniform sample of the whole source, and what was embedded for it by source row.

    Raises InputError at the first row that cannot be used, unless those are skipped, and where there is no other.
    """
    fit = fit_for(source.codec, fit)
    usable, embedded = sample_source(source, embedder, fit, reporter, on_error)
    calibration = fit_sample(usable, fit, model, reporter)
    return calibration, embedded


def sample_source(
    source: Source, embedder: Embedder | None, fit: FitOptions, reporter: Reporter, on_error: OnError = "skip"
) -> tuple[Vectors, dict[int, NDArray[np.float32]]]:
    """Usable rows of a uniform sample of the whole source, and what was embedded for them by source row; of the others
    as `fit_source`."""
    screen = FitScreen(source, fit, stop=on_error == "stop")
    embedded: dict[int, NDArray[np.float32]] = {}
    if embedder is None:
        usable = _sample_vectors(source, fit, reporter, screen)
        if source.codec == FLOAT and look_quantized(usable):
            reporter.say(
                f"Warning: all values of {source.name} are whole numbers of 8 bits, read as floats; if they were "
                "quantized, name how: --encoding int8, uint8, ubinary, binary, …"
            )
    else:
        check_cut(embedder.options, fit.dimensions)
        usable, embedded = _sample_texts(source, embedder, fit, reporter, screen)
    if not len(usable):
        first = f"; the first is not: {screen.first}" if screen.count else ""
        raise InputError(f"{source.name} has no usable rows to calibrate on{first}")
    if screen.count:
        reporter.say(f"unusable rows left out: {screen.count:,}, the first of them {screen.first}")
    return usable, embedded


def fit_sample(usable: Vectors, fit: FitOptions, model: str | None, reporter: Reporter) -> Calibration:
    """A calibration from rows that were drawn already."""
    calibration = Calibration.fit(
        usable,
        metric=fit.metric,
        threshold=fit.threshold,
        ranges=fit.ranges,
        dimensions=fit.dimensions,
        model=model,
        sample_size=fit.sample_size,
        seed=fit.seed,
        drawn="uniform",
    )
    method = calibration.description["method"]
    reporter.say(
        f"calibration {calibration.id}: {method['name']} ranges, threshold {method['threshold']:g} of the mean, "
        f"from {len(usable):,} rows drawn uniformly"
    )
    return calibration


def _sample_vectors(source: Source, fit: FitOptions, reporter: Reporter, screen: Screen) -> Vectors:
    reporter.stage("sampling", source.rows)
    sample = source.sample(fit.sample_size, fit.seed, lambda done: reporter.advance("sampling", done), screen)
    reporter.finish("sampling")
    assert sample is not None
    return sample


def _sample_texts(
    source: Source, embedder: Embedder, fit: FitOptions, reporter: Reporter, screen: Screen
) -> tuple[NDArray[np.float32], dict[int, NDArray[np.float32]]]:
    """Usable vectors (n, d) of a uniform sample of the source's texts, and all that were embedded, by source row."""
    generator = random.Random(fit.seed)
    size = min(fit.sample_size, TEXT_SAMPLE)
    drawn = heapq.nsmallest(size, ((generator.random(), row, text) for row, text in _texts(source, screen)))
    texts = dict(sorted((row, text) for _, row, text in drawn))
    reporter.stage("sampling", len(texts))
    vectors, reasons = embed_texts(embedder, list(texts.values()), lambda done: reporter.advance("sampling", done))
    reporter.finish("sampling")
    rows = np.array(list(texts), np.int64)
    found = np.setdiff1d(np.arange(len(rows)), list(reasons))
    unembedded = {int(rows[position]): reason for position, reason in reasons.items()}
    usable = screen.kept(vectors[found], rows[found], unembedded)
    return usable, {int(rows[position]): vectors[position] for position in found}


def _texts(source: Source, screen: Screen) -> Iterator[tuple[int, str]]:
    for batch in source.batches():
        documents = [None] * len(batch.rows) if batch.documents is None else batch.documents.to_pylist()
        texts = dict(zip(batch.rows.tolist(), documents, strict=True))
        screen.leave_out({**batch.reasons, **{row: NO_TEXT for row, text in texts.items() if text is None}})
        yield from ((row, text) for row, text in texts.items() if text is not None)


def _check_dimensions(calibration: Calibration, collection: str, source: Source, embedder: Embedder | None) -> None:
    found = embedder.dimensions if embedder else source.dimensions
    accepted = calibration.accepted_dimensions
    if found not in accepted:
        wanted = " or ".join(map(str, sorted(accepted)))
        what = f"model {embedder.name}" if embedder else source.name
        raise InputError(f"{what} has {found} dimensions, but collection {collection!r} takes {wanted}")


def _checkpoint(
    loader: Loader, collection: Collection, source: Source, options: IngestOptions, reporter: Reporter
) -> Checkpoint:
    """Where to begin: at the source's checkpoint, or at its start when it is new, has changed, or is restarted.

    A start is written down at once, so that other loads see which ids are taken.
    """
    fingerprint = source.fingerprint()
    with loader.starting() as starts:
        found = starts.read()
        same = found is not None and found.fingerprint == fingerprint
        if found and same and not options.restart:
            return found
        if found and found.position and not found.finished and not options.restart:
            raise InputError(
                f"{source.name} has changed since its load was interrupted at row {found.position:,}; "
                "--restart loads it from its beginning"
            )
        if found and found.finished and not same:
            reporter.say(
                f"{source.name} has changed since it was loaded and is loaded anew; rows that are gone from it stay"
            )
        kept = found if found and (same or not found.finished) else None
        begin = Checkpoint(fingerprint, _first_id(starts, collection, source, options, kept))
        starts.write(begin)
    return begin


def _first_id(
    starts: Starts, collection: Collection, source: Source, options: IngestOptions, kept: Checkpoint | None
) -> int | None:
    """The id of the source's row 0, when the source has none of its own: as asked for, as `kept`, or a free one."""
    if source.id_type is not None:
        return None
    if isinstance(options.id_start, int):
        return options.id_start
    if kept and kept.first_id is not None:
        return kept.first_id
    return _next_id(starts, collection, source, options.id_start == "auto")


def _next_id(starts: Starts, collection: Collection, source: Source, auto: bool) -> int:
    """The id after all that are there. Raises InputError when it may not be taken unasked, or cannot be known yet."""
    unfinished = starts.numbered_and_unfinished()
    next_id = starts.next_id()  # read last: what finished before it is counted
    if next_id and not auto:
        raise InputError(
            f"{source.name} has no ids, and collection {collection.name!r} holds rows already; say where its ids "
            f"begin, so that nothing is overwritten: --id-start auto (from {next_id}) or --id-start N"
        )
    if unfinished:
        raise InputError(
            f"{source.name} has no ids, and neither has {unfinished}, which is not loaded to its end; finish that load "
            "first, so that the ids after it are known, or say where these begin: --id-start N"
        )
    return next_id
