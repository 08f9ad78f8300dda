"""Recalibrating a collection, rolling back, and dropping the version that is not in use."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from qvec.client import Collection, Database
from qvec.client.bulk import open_version_sync
from qvec.errors import CollectionError
from qvec.ingest import LoadOptions, Reporter, Stop, build_index, ingest
from qvec.recalibration.float_sources import KeptFloats, MatchedSource, check_same
from qvec.recalibration.recall import Recalls, check_gain, compared
from qvec.recalibration.refit import Refit, fit_again
from qvec.sources import Source
from qvec.store.versions import UnsyncedRows, Version, VersionSync


@dataclass(frozen=True)
class Recalibrated:
    """The result of a recalibration or a rollback. `kept` is the name of the other version, None after a trial."""

    collection: str
    calibration: str
    former: str
    kept: str | None
    rows: int
    recall: Recalls | None
    unsynced: UnsyncedRows
    surplus: int
    """Rows of the source that the collection lacks."""
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        told = {**vars(self), "recall": self.recall and self.recall.as_dict(), **vars(self.unsynced)}
        del told["unsynced"]
        return {**told, "seconds": round(self.seconds, 3)}


def recalibrate(
    database: Database,
    name: str,
    *,
    source: Source | None = None,
    refit: Refit | None = None,
    restart: bool = False,
    trial: bool = False,
    allow_missing: bool = False,
    allow_worse: bool = False,
    workers: int = 2,
    reporter: Reporter | None = None,
    stop: Stop | None = None,
) -> Recalibrated:
    """Fit a new calibration, quantize a collection's rows by it, and switch the collection to it.

    The vectors are the floats that the collection keeps, or those of `source`, matched by id. Call it again to continue
    an interrupted recalibration; `restart` drops the unfinished version first. `trial` only fits and compares.

    Raise CollectionError where there are no original vectors, where an old version is still kept, or where rows cannot
    be synced (unless `allow_missing`); InputError where the new calibration finds less (unless `allow_worse`).
    """
    reporter, refit = reporter or Reporter(), refit or Refit()
    started = time.perf_counter()
    with database.wrap_errors(f"cannot recalibrate collection {name!r}"), open_version_sync(database, name) as versions:
        collection = database.collection(name)
        begun = _begun(versions, name, restart=restart and not trial)
        originals = _originals(database, versions, collection, source)
        new = (
            database.collection(begun.name).calibration if begun else fit_again(originals, collection, refit, reporter)
        )
        recalls = compared(collection, new, originals, refit.seed, reporter)
        tell_recalls(recalls, reporter)
        done = Recalibrated(
            name, new.id, collection.calibration.id, None, collection.count(), recalls, UnsyncedRows(0, 0), 0, 0.0
        )
        if not trial:
            if not allow_worse:
                check_gain(recalls, name)
            load = LoadOptions(name, calibration=new, index=False, workers=workers, on_error="skip")
            done = _replace_version(database, versions, begun, originals, load, done, allow_missing, reporter, stop)
    return replace(done, seconds=time.perf_counter() - started)


def _begun(versions: VersionSync, name: str, *, restart: bool) -> Version | None:
    """Return the new version of an interrupted recalibration, unless it has to restart."""
    other = versions.other()
    if other is None:
        return None
    if other.kind == "old":
        raise CollectionError(
            f"collection {name!r} was recalibrated before and keeps its old version {other.name!r}; drop that first: "
            f"qvec recalibrate --collection {name} --drop-old"
        )
    if restart:
        versions.drop()
        return None
    return other


def _originals(database: Database, versions: VersionSync, collection: Collection, source: Source | None) -> Source:
    if source is None:
        return KeptFloats(database, collection)
    matched = MatchedSource(source, versions, collection)
    check_same(matched, collection)
    return matched


def tell_recalls(recalls: Recalls | None, reporter: Reporter) -> None:
    """Report the recall of both calibrations."""
    if recalls is None:
        reporter.say("too few rows, or none with vectors, to compare the calibrations")
    else:
        reporter.say(
            f"recall@10 among {recalls.rows:,} sampled rows: {recalls.old.value:.1%} with the old calibration, "
            f"{recalls.new.value:.1%} with the new one"
        )


def _replace_version(
    database: Database,
    versions: VersionSync,
    begun: Version | None,
    originals: Source,
    load: LoadOptions,
    done: Recalibrated,
    allow_missing: bool,
    reporter: Reporter,
    stop: Stop | None,
) -> Recalibrated:
    """Build the new version, or continue it, and switch to it."""
    assert load.calibration is not None
    if begun is None:
        begun = versions.begin(load.calibration)
    else:
        reporter.say(f"continuing with version {begun.name!r}; --restart starts again")
    if isinstance(originals, KeptFloats):
        originals = KeptFloats(database, database.collection(done.collection), load.calibration)
    ingest(database, originals, replace(load, collection=begun.name), reporter, stop)
    surplus = originals.surplus if isinstance(originals, MatchedSource) else 0
    if surplus:
        reporter.say(f"{surplus:,} rows of {originals.name} are not in the collection, and left out")
    built = database.collection(begun.name)
    versions.finish(built.name)
    if database.collection(done.collection).has_index():
        build_index(built, reporter)
    check_unsynced(versions.catch_up(), done.collection, allow_missing)
    unsynced = versions.switch(allow_missing=allow_missing)
    return replace(
        done, kept=_kept(versions), rows=_rows(database, done.collection), unsynced=unsynced, surplus=surplus
    )


def check_unsynced(unsynced: UnsyncedRows, name: str, allowed: bool) -> None:
    """Raise CollectionError where rows cannot be synced, unless that is allowed."""
    if unsynced and not allowed:
        raise CollectionError(
            f"of the rows of collection {name!r} {unsynced} in its other version, and their original vectors are "
            "not kept; name a source that has them and restart (--source SOURCE --restart), or use --allow-missing"
        )


def roll_back(database: Database, name: str, *, allow_missing: bool = False) -> Recalibrated:
    """Switch back to the former version, synced with what was written since; the other one is kept in its place.

    Raise CollectionError where no former version is kept, or where rows written since cannot be synced because the
    collection keeps no floats.
    """
    started = time.perf_counter()
    with database.wrap_errors(f"cannot roll collection {name!r} back"), open_version_sync(database, name) as versions:
        old = _old(versions, name)
        former = database.collection(name).calibration
        check_unsynced(versions.catch_up(), name, allow_missing)
        unsynced = versions.switch(allow_missing=allow_missing)
        kept, rows = _kept(versions), _rows(database, name)
    return Recalibrated(name, old.calibration, former.id, kept, rows, None, unsynced, 0, time.perf_counter() - started)


def drop_old(database: Database, name: str) -> Version:
    """Drop the version that is not in use, old or unfinished, and return it."""
    with (
        database.wrap_errors(f"cannot drop a version of collection {name!r}"),
        open_version_sync(database, name) as versions,
    ):
        other = versions.other()
        if other is None:
            database.collection(name)  # raises where the collection is missing
            raise CollectionError(f"collection {name!r} has no other version")
        versions.drop()
    return other


def _old(versions: VersionSync, name: str) -> Version:
    other = versions.other()
    if other is None or other.kind == "new":
        raise CollectionError(f"collection {name!r} keeps no old version to roll back to")
    return other


def _kept(versions: VersionSync) -> str | None:
    other = versions.other()
    return None if other is None else other.name


def _rows(database: Database, name: str) -> int:
    return database.collection(name).count()
