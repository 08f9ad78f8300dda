"""The cluster that a fake server pretends to be part of: which nodes hold which shards, and which nodes are down.

One engine holds all points. Calls fail as a server's do when all replicas of a shard are on nodes that are down.
"""

from __future__ import annotations

from typing import Any

from qdrant_client import grpc as messages

from .status_errors import StatusError, bad_input, node_down


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
    """The nodes that hold each shard of one collection."""

    def __init__(self, cluster: Cluster, shards: int, factor: int) -> None:
        self._cluster = cluster
        replicas = min(factor, cluster.nodes)
        self.nodes = [{(shard + copy) % cluster.nodes for copy in range(replicas)} for shard in range(shards)]

    def check(self) -> None:
        """Raise the error of a call that needs all shards."""
        for nodes in self.nodes:
            if nodes <= self._cluster.down:
                raise node_down(max(nodes))

    def info(self) -> Any:
        """Return the CollectionClusterInfoResponse."""
        answer = messages.CollectionClusterInfoResponse(peer_id=self._cluster.peer_id(0), shard_count=len(self.nodes))
        for shard, nodes in enumerate(self.nodes):
            for node in sorted(nodes):
                state = messages.ReplicaState.Dead if node in self._cluster.down else messages.ReplicaState.Active
                if node == 0:
                    answer.local_shards.add(shard_id=shard, state=state)
                else:
                    answer.remote_shards.add(shard_id=shard, peer_id=self._cluster.peer_id(node), state=state)
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
