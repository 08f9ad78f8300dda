"""The cluster that a fake server pretends to be part of: which nodes hold which shards, and which nodes are down.

One engine holds all points. Calls fail as a server's do when all replicas of a shard are on nodes that are down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qdrant_client import grpc as messages

from .status_errors import StatusError, bad_input, few_replicas, invalid_argument, leader_down, node_down


class Cluster:
    """Nodes by number; the fake server itself is node 0."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self.down: set[int] = set()

    def peer_id(self, node: int) -> int:
        return 1000 + node

    def node(self, peer_id: int) -> int:
        if not 0 <= peer_id - 1000 < self.nodes:
            raise bad_input(f"peer {peer_id} is not part of the cluster")
        return peer_id - 1000


class Placement:
    """The nodes that hold each shard of one collection, and its shard key."""

    def __init__(self, cluster: Cluster, factor: int) -> None:
        self._cluster = cluster
        self._replicas = min(factor, cluster.nodes)
        self.nodes: list[set[int]] = []
        self.keys: list[str | int | None] = []

    def add(self, shards: int, key: str | int | None) -> None:
        """Add the shards of a shard key."""
        for shard in range(len(self.nodes), len(self.nodes) + shards):
            self.nodes.append({(shard + copy) % self._cluster.nodes for copy in range(self._replicas)})
            self.keys.append(key)

    def _selected(self, keys: Sequence[str | int]) -> list[tuple[int, set[int]]]:
        """Return the shards with these keys, or all, and their nodes."""
        found = enumerate(zip(self.nodes, self.keys, strict=True))
        return [(shard, nodes) for shard, (nodes, key) in found if not keys or key in keys]

    def check(self, keys: Sequence[str | int] = ()) -> None:
        """Raise the error of a call that needs all shards with these keys."""
        for _, nodes in self._selected(keys):
            if nodes <= self._cluster.down:
                raise node_down(max(nodes))

    def check_read(self, request: Any, keys: Sequence[str | int]) -> None:
        """Raise the error of a read that asks for more replicas than are up, or is malformed.

        A server clamps a number of replicas between 1 and all.
        """
        self.check(keys)
        if not request.HasField("read_consistency"):
            return
        for shard, nodes in self._selected(keys):
            if len(nodes - self._cluster.down) < _required_replicas(request.read_consistency, len(nodes)):
                raise few_replicas(shard, self._cluster.peer_id(0))

    def check_write(self, request: Any, consistency_factor: int, keys: Sequence[str | int]) -> None:
        """Raise the error of a write whose leader, or too many replicas, are down, or that is malformed."""
        self.check(keys)
        ordering = _ordering(request)
        for _, nodes in self._selected(keys):
            if ordering == "Strong" and max(nodes) in self._cluster.down:
                raise leader_down(ordering, self._cluster.peer_id(max(nodes)))
            if len(nodes - self._cluster.down) < min(consistency_factor, len(nodes)):
                raise node_down(max(nodes & self._cluster.down))

    def info(self) -> Any:
        """Return the CollectionClusterInfoResponse."""
        answer = messages.CollectionClusterInfoResponse(peer_id=self._cluster.peer_id(0), shard_count=len(self.nodes))
        for shard, nodes in enumerate(self.nodes):
            key = shard_key(self.keys[shard])
            for node in sorted(nodes):
                state = messages.ReplicaState.Dead if node in self._cluster.down else messages.ReplicaState.Active
                if node == 0:
                    answer.local_shards.add(shard_id=shard, state=state, shard_key=key)
                else:
                    peer = self._cluster.peer_id(node)
                    answer.remote_shards.add(shard_id=shard, peer_id=peer, state=state, shard_key=key)
        return answer

    def replicate(self, request: Any) -> None:
        """Apply a ReplicateShard; the copy is there at once."""
        source, target = self._cluster.node(request.from_peer_id), self._cluster.node(request.to_peer_id)
        held = self.nodes[request.shard_id]
        if source not in held or target in held:
            raise bad_input(f"shard {request.shard_id} cannot be copied from {source} to {target}")
        if {source, target} & self._cluster.down:
            raise StatusError(node_down(target).code, "Service internal error: the transfer was aborted")
        held.add(target)


def shard_key(key: str | int | None) -> Any:
    """Return a key as a ShardKey; None for none."""
    if key is None:
        return None
    return messages.ShardKey(keyword=key) if isinstance(key, str) else messages.ShardKey(number=key)


def _required_replicas(consistency: Any, replicas: int) -> int:
    """Return how many of a shard's replicas have to answer a read."""
    kind = consistency.WhichOneof("value")
    if kind is None:
        raise invalid_argument("invalid read consistency message: `ReadConsistency::value` field is `None`")
    if kind == "factor":
        return min(max(consistency.factor, 1), replicas)
    if consistency.type not in messages.ReadConsistencyType.values():
        raise invalid_argument(f"invalid read consistency type value {consistency.type}")
    return replicas // 2 + 1 if consistency.type == messages.ReadConsistencyType.Quorum else replicas


def _ordering(request: Any) -> str:
    if request.ordering.type not in messages.WriteOrderingType.values():
        raise invalid_argument(f"invalid write ordering type value {request.ordering.type}")
    return messages.WriteOrderingType.Name(request.ordering.type)
