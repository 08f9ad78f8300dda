"""All collections and aliases of a server."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .cluster import Cluster
from .fake_collection import FakeCollection
from .status_errors import already_exists, not_found


class CollectionStore:
    """Collections by name, each in a subdirectory of `directory`."""

    def __init__(self, directory: Path, optimizer_delay: Callable[[], float], cluster: Cluster) -> None:
        self._directory = directory
        self._cluster = cluster
        self._optimizer_delay = optimizer_delay
        self._lock = threading.RLock()
        self._collections: dict[str, FakeCollection] = {}
        self.aliases: dict[str, str] = {}

    @property
    def names(self) -> list[str]:
        with self._lock:
            return list(self._collections)

    def has(self, name: str) -> bool:
        """Return whether a collection or an alias has this name."""
        with self._lock:
            return self.aliases.get(name, name) in self._collections

    def get(self, name: str) -> FakeCollection:
        """Return the collection with this name or alias."""
        with self._lock:
            if not self.has(name):
                raise not_found(name)
            return self._collections[self.aliases.get(name, name)]

    def reachable(self, name: str) -> FakeCollection:
        """Return the collection with this name or alias. Raise the error of a cluster whose nodes with it are down."""
        collection = self.get(name)
        collection.placement.check()
        return collection

    def create(self, request: Any) -> None:
        name = request.collection_name
        with self._lock:
            if self.has(name):
                raise already_exists(name)
            self._collections[name] = FakeCollection(
                self._directory / name, request, self._optimizer_delay, self._cluster
            )

    def delete(self, name: str) -> bool:
        """Remove a collection and its aliases; return False if it does not exist."""
        with self._lock:
            collection = self._collections.pop(name, None)
            if collection is None:
                return False
            self.aliases = {alias: target for alias, target in self.aliases.items() if target != name}
            collection.close()
            shutil.rmtree(self._directory / name)
            return True

    def change_aliases(self, actions: Iterable[Any]) -> None:
        """Apply all AliasOperations, or none if one fails."""
        with self._lock:
            aliases = dict(self.aliases)
            for action in actions:
                self._change_alias(aliases, action)
            self.aliases = aliases

    def _change_alias(self, aliases: dict[str, str], action: Any) -> None:
        kind = action.WhichOneof("action")
        change = getattr(action, kind)
        if kind == "create_alias":
            if change.collection_name not in self._collections:
                raise not_found(change.collection_name)
            if change.alias_name in self._collections:
                raise already_exists(change.alias_name)
            aliases[change.alias_name] = change.collection_name
        elif kind == "rename_alias":
            if change.old_alias_name not in aliases:
                raise not_found(change.old_alias_name)
            aliases[change.new_alias_name] = aliases.pop(change.old_alias_name)
        else:
            aliases.pop(change.alias_name, None)

    def close(self) -> None:
        with self._lock:
            for collection in self._collections.values():
                collection.close()
            self._collections.clear()
