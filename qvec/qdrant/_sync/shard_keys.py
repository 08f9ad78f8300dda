# Generated from qvec/qdrant/_async/shard_keys.py by tools/async_to_sync.py: edit that file, then run `make sync`.
"""The shard keys of collections on a server, which are created when a row first needs them."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from qvec.qdrant._sync.client import ServerClient
from qvec.qdrant.errors import reason
from qvec.qdrant.shard_keys import ShardKey, held_keys


class ShardKeys:
    """Reads and creates shard keys; several clients may create the same one."""

    def __init__(self, client: ServerClient, when_first: Callable[[str], None]) -> None:
        """`when_first` is called with the name of a collection that got its first key."""
        self._client = client
        self._when_first = when_first
        self._known: dict[str, set[ShardKey]] = {}

    def existing(self, collection: str) -> set[ShardKey]:
        info = self._client.send(lambda client: client.collection_cluster_info(collection))
        self._known[collection] = {key for key in held_keys(info) if key is not None}
        return self._known[collection]

    def ensure(self, collection: str, key: ShardKey) -> None:
        """Create a key unless it exists."""
        if key in self._known.get(collection, ()):
            return
        existing = self.existing(collection)
        if key in existing:
            return
        self.create(collection, key)
        if not existing:
            self._when_first(collection)
        self._known.setdefault(collection, set()).add(key)

    def create(self, collection: str, key: ShardKey) -> None:
        """Create a key; another client may have done so meanwhile."""
        try:
            self._client.send(lambda client: client.create_shard_key(collection, key))
        except grpc.RpcError as error:
            if "already exists" not in reason(error):
                raise

    def forget(self, collection: str) -> None:
        """Forget the keys of a collection that was dropped."""
        self._known.pop(collection, None)
