"""Planning a load: the collection, created when it is new, its calibration, and the checkpoint to start from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvec.calibration import Calibration
from qvec.client import Collection, Database
from qvec.embedding import Embedder, EmbeddingOptions
from qvec.embedding.embedding_options import check_embedding, choose_embedding, embedding_to_store
from qvec.errors import CollectionError, InputError
from qvec.ingest.fit import check_fit_options, check_threshold, fit_source, load_embedder_for, settings_for
from qvec.ingest.load_options import LoadOptions, Reporter
from qvec.model_folder import find_calibration
from qvec.sources import Source
from qvec.store.loads import Checkpoint, Loader, LoadRegistry

_MAX_BIGINT = 2**63 - 1


@dataclass(frozen=True)
class LoadPlan:
    """Everything a load needs."""

    collection: Collection
    checkpoint: Checkpoint
    embedder: Embedder | None
    embedded: dict[int, NDArray[np.float32]]


def make_plan(database: Database, loader: Loader, source: Source, options: LoadOptions, reporter: Reporter) -> LoadPlan:
    """Find or create the collection, and decide where to start.

    Raise CollectionError or CalibrationError where the options do not fit the collection, InputError where the source
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
    if options.index_metadata and database.store.indexes_metadata_first:
        collection.index_metadata(options.index_metadata)
    if options.index_texts is not None:
        collection.index_texts(options.index_texts)
    return LoadPlan(collection, _checkpoint(loader, collection, source, options, reporter), embedder, embedded)


def _given_calibration(options: LoadOptions, reporter: Reporter) -> Calibration | None:
    """Return the calibration in the options or else the one in the model's folder, with which the model was trained."""
    if options.calibration is not None:
        return options.calibration
    found = find_calibration(EmbeddingOptions.of(options.model).model, options.wanted_fit.dimensions)
    if found is not None:
        reporter.say(f"calibration {found.id}: the one that the model was trained with")
    return found


def _check_settings(database: Database, options: LoadOptions) -> None:
    """Raise InputError for settings that only another kind of database has."""
    for name in options.given_settings():
        if name not in {"oversampling", *database.store.settings}:
            raise InputError(f"--{name.replace('_', '-')} is not a setting of a collection in {database.kind}")


def _check_id_start(source: Source, id_start: int | str | None) -> None:
    """Raise InputError unless row numbers stay within bigint."""
    last = _MAX_BIGINT - (_MAX_BIGINT // 2 if source.rows is None else source.rows)
    if isinstance(id_start, int) and not 0 <= id_start <= last:
        raise InputError(f"--id-start is {id_start}, expected 0 to {last} for {source.name}")


def _check_fits(collection: Collection, source: Source, options: LoadOptions) -> None:
    """Raise CollectionError for settings other than the collection's."""
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


def _check_dimensions(calibration: Calibration, collection: str, source: Source, embedder: Embedder | None) -> None:
    found = embedder.dimensions if embedder else source.dimensions
    accepted = calibration.accepted_dimensions
    if found not in accepted:
        wanted = " or ".join(map(str, sorted(accepted)))
        what = f"model {embedder.name}" if embedder else source.name
        raise InputError(f"{what} has {found} dimensions, but collection {collection!r} takes {wanted}")


def _checkpoint(
    loader: Loader, collection: Collection, source: Source, options: LoadOptions, reporter: Reporter
) -> Checkpoint:
    """Return where to start: at the source's checkpoint, or at its beginning when it is new, has changed, or restarts.

    A new start is registered at once, so that other loads see which ids are taken.
    """
    fingerprint = source.fingerprint()
    with loader.registry() as registry:
        found = registry.read()
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
                f"{source.name} has changed since it was loaded and is loaded again; rows removed from it stay"
            )
        kept = found if found and (same or not found.finished) else None
        begin = Checkpoint(fingerprint, _first_id(registry, collection, source, options, kept))
        registry.write(begin)
    return begin


def _first_id(
    registry: LoadRegistry, collection: Collection, source: Source, options: LoadOptions, kept: Checkpoint | None
) -> int | None:
    """Return the id of row 0 of a source without ids: the one asked for, the `kept` one, or the next free one."""
    if source.id_type is not None:
        return None
    if isinstance(options.id_start, int):
        return options.id_start
    if kept and kept.first_id is not None:
        return kept.first_id
    return _next_id(registry, collection, source, options.id_start == "auto")


def _next_id(registry: LoadRegistry, collection: Collection, source: Source, auto: bool) -> int:
    """Return the next free id. Raise InputError where the user has to ask for it, or where it is not known yet."""
    unfinished = registry.unfinished_without_ids()
    next_id = registry.next_id()  # read last, to count the rows of loads that finished meanwhile
    if next_id and not auto:
        raise InputError(
            f"{source.name} has no ids, and collection {collection.name!r} holds rows already; say where its ids "
            f"start, so that nothing is overwritten: --id-start auto (from {next_id}) or --id-start N"
        )
    if unfinished:
        raise InputError(
            f"{source.name} has no ids, and neither has {unfinished}, which is not loaded to its end; finish that load "
            "first, so that the next free id is known, or say where these start: --id-start N"
        )
    return next_id
