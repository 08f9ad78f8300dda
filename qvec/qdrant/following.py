"""An open collection across exchanges of its versions: each piece of work is done by one of them alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from numpy.typing import ArrayLike, NDArray

from qvec.errors import CollectionError, DatabaseError
from qvec.qdrant import versioning
from qvec.qdrant.description import Mark
from qvec.qdrant.errors import is_status
from qvec.qdrant.ids import PointId
from qvec.qdrant.operations import CollectionOperations
from qvec.qdrant.steps import Compute, Pause, Steps
from qvec.qdrant.versioning import Record, turn_of
from qvec.stores import StoredRows

if TYPE_CHECKING:
    from qvec.loading import OnDuplicate
    from qvec.qdrant.catalog import Catalog, Opened

T = TypeVar("T")

Work = Callable[[CollectionOperations], Steps[T]]
"""What is asked of one version; called with it, it checks its arguments and gives steps."""

_PATIENCE_SECONDS = 60.0
"""How long a write waits for an exchange."""
_POLL_SECONDS = 0.1


class FollowingCollection(CollectionOperations):
    """A collection whose work is done by a view of the version in use. A view never changes: what began with one ends
    with it, and the version is still there."""

    def __init__(self, catalog: Catalog, *opened: Any) -> None:
        """`opened` is what the catalog gives, an `Opened`."""
        super().__init__(catalog, *opened)
        self._view = CollectionOperations(catalog, *opened)
        self._looked = time.monotonic()
        self._changes = catalog.home.changes

    def _adopt(self, opened: Opened) -> None:
        CollectionOperations.__init__(self, self._catalog, *opened)
        self._view = CollectionOperations(self._catalog, *opened)

    def _by_view(self, work: Work[T]) -> Steps[T]:
        """Reads by the version in use, as it was known at most so many seconds ago, and since collections were last
        created or dropped here."""
        if time.monotonic() - self._looked > versioning.LOOK_SECONDS or self._changes != self._catalog.home.changes:
            yield from self._look()
        view, began = self._view, time.monotonic()
        try:
            result = yield from work(view)
            took_long = time.monotonic() - began > versioning.LOOK_SECONDS / 4
            if not took_long or (yield from self._is_kept(view)):
                return result
            yield from self._look()
        except (CollectionError, grpc.RpcError) as error:
            if isinstance(error, grpc.RpcError) and not is_status(error, grpc.StatusCode.NOT_FOUND):
                raise
            yield from self._look()
            if self._view is view:
                raise
        return (yield from work(self._view))

    def _is_kept(self, view: CollectionOperations) -> Steps[bool]:
        """Whether what was read of a version was there to its end."""
        if self._foreign is not None:
            return True
        record, mark = yield from self._catalog.home.glance(self.name)
        kept = view.turn == 0 if record is None else record.keeps(view.points)
        return kept and self._is_described(view, mark)

    def _page(
        self, view: CollectionOperations, start: PointId, rows: int
    ) -> Steps[tuple[StoredRows | None, PointId | None]]:
        """Rows of a version, from a point on. Raises CollectionError where it was dropped meanwhile."""
        found = yield from view._stored_from(start, rows)
        if not (yield from self._is_kept(view)):
            yield from self._look()
            raise CollectionError(
                f"collection {self.name!r} was recalibrated, and its version {view.calibration.id} dropped, while its "
                "rows were read; read them again"
            )
        return found

    def _look(self) -> Steps[None]:
        """Follows an exchange. Raises CollectionError when the collection was dropped, and perhaps made anew, since it
        was opened."""
        began, changes = time.monotonic(), self._catalog.home.changes
        if self._foreign is None and not (yield from self._is_current()):
            yield from self._look_closely()
        self._looked, self._changes = began, changes

    def _is_current(self) -> Steps[bool]:
        """Whether the view is of the version in use, as far as one request tells."""
        view = self._view
        record, mark = yield from self._catalog.home.glance(self.name)
        used = self.name if record is None else record.used
        return (turn_of(record), used) == (view.turn, view.points) and self._is_described(view, mark)

    def _is_described(self, view: CollectionOperations, mark: Mark | None) -> bool:
        """Whether a version is the one that is written down under the collection's name, if that is its place."""
        return view.points != self.name or view.description().mark == mark

    def _look_closely(self) -> Steps[None]:
        """As `_look`, at all that is written down."""
        found = yield from self._catalog.opened(self.name)
        if found is not None and found.turn > self._view.turn:
            self._adopt(found)
            return
        try:
            self._view.check_current(found)
        except CollectionError:
            self.was_dropped = True
            raise

    def _versions(self) -> Steps[Record | None]:
        return self._catalog.home.read_versions(self.name)

    def _skipping(self, start: int) -> Steps[tuple[CollectionOperations, PointId | None]]:
        """The version in use, and its point at this position."""
        yield from self._look()
        view = self._view
        return view, (yield from view._skip(start))

    def _upserting_by_view(
        self,
        ids: Sequence[int | str] | NDArray[Any],
        vectors: ArrayLike,
        documents: Sequence[str | None] | None,
        metadata: Sequence[Mapping[str, Any] | None] | None,
        on_duplicate: OnDuplicate,
    ) -> Steps[int]:
        def work(rule: OnDuplicate, view: CollectionOperations) -> Steps[int]:
            # Thousands of rows take a while to encode.
            steps = yield Compute(partial(view._upserting, ids, vectors, documents, metadata, rule))
            return int((yield from steps))

        again: OnDuplicate = "replace" if on_duplicate == "error" else on_duplicate
        return self._writing(partial(work, on_duplicate), partial(work, again))

    def _storing_oversampling(self, oversampling: float) -> Steps[None]:
        yield from self._writing(lambda view: view._setting_oversampling(oversampling))
        self.oversampling = oversampling

    def _writing(self, work: Work[T], again: Work[T] | None = None) -> Steps[T]:
        """Writes to the version in use, and once more where it was exchanged meanwhile: it may have been too late for
        what was brought over then, or not."""
        self._check_writable()
        turn = turn_of((yield from self.settled()))
        yield from self._look_closely()
        result = yield from work(self._view)
        while (now := turn_of((yield from self.settled()))) != turn:
            turn = now
            yield from self._look_closely()
            yield from (again or work)(self._view)
        return result

    def settled(self) -> Steps[Record | None]:
        """What is written down of its versions, once none is being exchanged.

        Raises DatabaseError where that does not end.
        """
        began = time.monotonic()
        while (record := (yield from self._versions())) is not None and record.is_exchanging:
            if time.monotonic() - began > _PATIENCE_SECONDS:
                raise DatabaseError(
                    f"writes to collection {self.name!r} wait for an exchange of its versions that does not end; if it "
                    "was interrupted, run the same `qvec recalibrate` again, or drop the other version: qvec "
                    f"recalibrate --collection {self.name} --drop-old"
                )
            yield Pause(_POLL_SECONDS)
        return record
