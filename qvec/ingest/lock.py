"""One load of a source into a collection at a time."""

from __future__ import annotations

import time
from types import TracebackType

from qvec.errors import DatabaseError
from qvec.postgres import loading
from qvec.postgres.database import PostgresDatabase
from qvec.postgres.schema import Connection

_TRIES = 20
_SECONDS_BETWEEN = 0.5


class SourceLock:
    """The right to load a source, held by a connection that also loads: where it breaks, the load notices."""

    def __init__(self, database: PostgresDatabase, collection: str, source: str) -> None:
        self._database = database
        self._collection = collection
        self._source = source
        self._connection: Connection | None = None

    def take(self) -> Connection:
        """The connection that holds the lock. Raises DatabaseError when another process keeps it for some seconds."""
        if self._connection is None:
            self._connection = self._database.connect()
            self._wait(self._connection)
        return self._connection

    def _wait(self, connection: Connection) -> None:
        """A killed load's backend may need a moment to notice that it is alone."""
        for _ in range(_TRIES):
            if loading.lock_source(connection, self._collection, self._source):
                return
            time.sleep(_SECONDS_BETWEEN)
        self.release()
        raise DatabaseError(f"another process is loading {self._source} into collection {self._collection!r}")

    def release(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def __enter__(self) -> SourceLock:
        self.take()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()
