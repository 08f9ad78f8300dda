"""The two versions of a collection in Qdrant: collections of the engine's own, compared before an exchange."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from qvec.errors import CollectionError, DatabaseError
from qvec.qdrant import versioning
from qvec.qdrant.bringing import Bringing
from qvec.qdrant.operations import CollectionOperations
from qvec.qdrant.starts import checkpoint_of
from qvec.qdrant.steps import Steps
from qvec.qdrant.versioning import Record
from qvec.texts import metadata_array
from qvec.versions import Version, Wanting

if TYPE_CHECKING:
    from qvec.calibration import Calibration
    from qvec.qdrant.database import QdrantDatabase
    from qvec.stores import Collection


class QdrantVersions:
    """The versions of one collection; see `qvec.versions.Versions`."""

    def __init__(self, database: QdrantDatabase, name: str) -> None:
        self._database = database
        self._home = database.home
        self._run = database.run
        self._name = name
        self._stack = ExitStack()

    def __enter__(self) -> QdrantVersions:
        """A server has no locks: of two processes the loads into the new version find each other."""
        try:
            self._stack.enter_context(self._home.loading(self._name, "qvec recalibrate"))
        except DatabaseError:
            raise DatabaseError(f"another thread is recalibrating collection {self._name!r}") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def _record(self) -> Record | None:
        return self._run(self._home.read_versions(self._name))

    def _write(self, record: Record) -> None:
        self._database.check_writable()
        self._run(self._home.write_versions(self._name, record))

    def other(self) -> Version | None:
        """One whose making or dropping was interrupted is none."""
        record = self._record()
        if record is None or record.other is None or self._run(self._home.describe(record.other)) is None:
            return None
        return Version(
            versioning.version_name(self._name, record.calibration),
            "new" if record.kind == "new" else "old",
            record.calibration,
        )

    def begin(self, calibration: Calibration) -> Version:
        """What is written meanwhile is found by comparing, which needs floats."""
        used = self._view(self._name)
        if used.layout.rescore not in ("float16", "float32"):
            raise CollectionError(
                f"collection {self._name!r} keeps {used.layout.rescore} codes and no floats, by which to tell what is "
                "written while it is recalibrated; load its source into a new collection, and switch to that"
            )
        name = versioning.version_name(self._name, calibration.id)
        layout = replace(used.layout, dimensions=calibration.dimensions)
        turn = versioning.turn_of(self._record())
        self._write(Record(used.points, name, "new", calibration.id, turn=turn))
        self._run(self._home.create(name, replace(used.description(), calibration=calibration, layout=layout)))
        return Version(name, "new", calibration.id)

    def texts(self, ids: Sequence[int | str]) -> dict[int | str, tuple[str | None, str | None]]:
        hits = [hit for hit in self._database.collection(self._name).get(ids) if hit]
        metadata = metadata_array([hit.metadata for hit in hits])
        texts = [None] * len(hits) if metadata is None else metadata.to_pylist()
        return {hit.id: (hit.document, text) for hit, text in zip(hits, texts, strict=True)}

    def first_id(self, source: str) -> int | None:
        load = self._run(self._home.read_load(self._name, source))
        return None if load is None else checkpoint_of(load).first_id

    def finish(self, collection: Collection) -> None:
        self._run(_carry_indexes(self._view(self._name), self._view(collection.name)))

    def _view(self, name: str) -> CollectionOperations:
        """A collection's version in use, as it is now."""
        return CollectionOperations(self._database, *self._run(self._database.find(name)))

    def _pair(self) -> tuple[CollectionOperations, CollectionOperations, Record]:
        """Both versions, and what is written down of them."""
        other, record = self.other(), self._record()
        if other is None or record is None:
            raise CollectionError(f"collection {self._name!r} has no other version")
        return self._view(self._name), self._view(other.name), record

    def catch_up(self) -> Wanting:
        used, other, _ = self._pair()
        return self._run(Bringing(used, other).all())

    def exchange(self, *, although_wanting: bool) -> Wanting:
        """Writes wait from the beginning, while all rows are compared once more; searches never do."""
        used, other, record = self._pair()
        self._write(replace(record, is_exchanging=True))
        try:
            wanting = self._run(Bringing(used, other).all())
            if wanting and not although_wanting:
                raise CollectionError(f"of the rows of collection {self._name!r} {wanting} in its other version")
            self._run(_carry_indexes(used, other))
            self._run(_carry_settings(used, other))
        except BaseException:
            self._write(replace(record, is_exchanging=False))
            raise
        kind: Literal["new", "old"] = "old" if record.kind == "new" else "new"
        self._write(Record(other.points, used.points, kind, used.calibration.id, turn=record.turn + 1))
        return wanting

    def drop(self) -> None:
        record = self._record()
        if record is None or record.other is None:
            return
        self._database.check_writable()
        self._run(versioning.drop_other(self._home, self._name, record))


def _carry_indexes(used: CollectionOperations, other: CollectionOperations) -> Steps[None]:
    """Indexes on metadata and texts that the other version has not."""
    there = yield from other.engine().indexes()
    for field, schema in (yield from used.engine().indexes()).items():
        if field not in there:
            yield from other.engine().create_index(field, schema)


def _carry_settings(used: CollectionOperations, other: CollectionOperations) -> Steps[None]:
    """What may have been set since the other version was made."""
    yield from other._set_oversampling(used.oversampling)
