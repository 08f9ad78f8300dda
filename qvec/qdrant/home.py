"""Where collections are kept, as far as a directory and a server are alike."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from qvec.qdrant.description import Description, Foreign, Mark
from qvec.qdrant.engine import Engine
from qvec.qdrant.layout import Layout, Sharding
from qvec.qdrant.steps import Steps
from qvec.qdrant.versioning import Record


class Home(Protocol):
    """Collections, their descriptions and the state of their loads."""

    changes: int
    """How often a collection was created or dropped by this one."""

    def names(self) -> Steps[list[str]]: ...

    def describe(self, name: str) -> Steps[Description | None]: ...

    def create(self, name: str, description: Description) -> Steps[None]: ...

    def describe_anew(self, name: str, description: Description) -> Steps[None]: ...

    def read_versions(self, name: str) -> Steps[Record | None]: ...

    def glance(self, name: str) -> Steps[tuple[Record | None, Mark | None]]:
        """What tells whether a collection is still the one that was opened: its versions, and the mark of what is
        written down under its name; None when there is none."""

    def write_versions(self, name: str, record: Record) -> Steps[None]: ...

    def foreign(self, name: str) -> Steps[Foreign | None]: ...

    def engine(self, name: str, layout: Layout, sharding: Sharding) -> Engine: ...

    def drop(self, name: str) -> Steps[None]: ...

    def read_loads(self, name: str) -> Steps[dict[str, Any]]: ...

    def read_load(self, name: str, source: str) -> Steps[dict[str, Any] | None]: ...

    def write_load(self, name: str, source: str, load: dict[str, Any] | None) -> Steps[None]: ...

    def loading(self, name: str, source: str) -> AbstractContextManager[None]: ...

    def starting(self, name: str) -> AbstractContextManager[None]: ...

    def close(self) -> None: ...
