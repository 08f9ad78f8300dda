"""Replicas of a collection in a cluster: which are missing, from where to copy them, and what a lost node stops."""

from __future__ import annotations

from collections import Counter

from qdrant_client import models

_ACTIVE = models.ReplicaState.ACTIVE


def replicas_by_shard(info: models.CollectionClusterInfo) -> dict[int, dict[int, bool]]:
    """Return, for each shard, the ids of the nodes that hold a replica, and whether that is active."""
    found: dict[int, dict[int, bool]] = {}
    for local in info.local_shards:
        found.setdefault(local.shard_id, {})[info.peer_id] = local.state is _ACTIVE
    for remote in info.remote_shards:
        found.setdefault(remote.shard_id, {})[remote.peer_id] = remote.state is _ACTIVE
    return found


def known_nodes(*infos: models.CollectionClusterInfo) -> set[int]:
    """Return the ids of the nodes that answer for collections or hold a part of them."""
    held = (node for info in infos for replicas in replicas_by_shard(info).values() for node in replicas)
    return {info.peer_id for info in infos}.union(held)


def missing_replicas(
    info: models.CollectionClusterInfo, nodes: set[int], wanted: int
) -> list[models.ReplicateShardOperation]:
    """Return the operations after which each shard has `wanted` replicas, or one on each of `nodes`.

    A replica is copied from an active one to the node with the fewest. Nodes with a replica that is not active get
    none: they may be down.
    """
    shards = replicas_by_shard(info)
    usable = nodes - {node for replicas in shards.values() for node, active in replicas.items() if not active}
    load = Counter({node: sum(node in replicas for replicas in shards.values()) for node in usable})
    operations = []
    for shard, replicas in shards.items():
        source = next((node for node, active in replicas.items() if active), None)
        free = usable - replicas.keys()
        for target in sorted(free, key=lambda node: (load[node], node))[: max(wanted - len(replicas), 0)]:
            if source is not None:
                load[target] += 1
                copy = models.ReplicateShard(shard_id=shard, from_peer_id=source, to_peer_id=target)
                operations.append(models.ReplicateShardOperation(replicate_shard=copy))
    return operations


def replication_warnings(
    name: str, info: models.CollectionClusterInfo, factor: int, write_consistency_factor: int
) -> list[str]:
    """Return what a user may not expect of the replicas of a collection whose replication factor is at least 2.

    `info` lists the replicas that its shards have got.
    """
    shards = replicas_by_shard(info)
    if not shards:
        return []
    copies = min(len(replicas) for replicas in shards.values())
    found = []
    if copies < factor:
        found.append(
            f"collection {name!r} has a replication factor of {factor}, but the server has only {_nodes(copies)} to "
            "hold its shards; to survive the loss of a node, add nodes and replicate the shards to them"
        )
    if copies > 1 and write_consistency_factor >= copies:
        found.append(
            f"collection {name!r} has {copies} replicas and a write consistency factor of {write_consistency_factor}: "
            f"writes fail while one node is down; a factor of {copies - 1} or less lets them go on"
        )
    return found


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"
