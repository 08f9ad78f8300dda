"""One collection: its configuration, its engine shards and their optimizer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import qdrant_edge as edge
from qdrant_client import grpc as messages

from . import collection_config as configs
from .cluster import Cluster, Placement
from .optimizer import Optimizer
from .status_errors import bad_input, bad_request

Answer = TypeVar("Answer")


class FakeCollection:
    """A collection in `directory` with the configuration of a CreateCollection request.

    One engine shard holds all points, or with custom sharding those of one shard key; `None` is the key of the former.
    """

    def __init__(self, directory: Path, request: Any, optimizer_delay: Callable[[], float], cluster: Cluster) -> None:
        self.config = configs.from_request(request)
        params = self.config.params
        if not request.HasField("shard_number"):
            params.shard_number = 1 if self._is_custom_sharded else cluster.nodes
        self.placement = Placement(cluster, params.replication_factor)
        self._directory = directory
        self._lock = threading.RLock()
        self._shards: dict[str | int | None, edge.EdgeShard] = {}
        self._optimizer = Optimizer(self._optimize_shards, optimizer_delay)
        self._indexes: dict[str, Any] = {}
        self._index_operations: dict[str, edge.UpdateOperation] = {}
        self._operations = 0
        if not self._is_custom_sharded:
            self._add_shard(None)

    def write(self, operation: edge.UpdateOperation, keys: Sequence[str | int]) -> int:
        """Apply an operation to the shards with these keys, or to the only one; return its number."""
        with self._lock:
            if self._is_custom_sharded and not keys:
                raise bad_input("Shard key not specified")
            for key in keys:
                if key not in self._shards:
                    raise bad_input(f"Shard key {_shown(key)} not found")
            return self._apply(operation, keys or list(self._shards))

    def read(self, function: Callable[[edge.EdgeShard], Answer], keys: Sequence[str | int]) -> list[Answer]:
        """Call a function with each shard with these keys, or with all, and return the results."""
        with self._lock:
            for key in keys:
                if key not in self._shards:
                    raise bad_request(f"Shard key {_shown(key)} not found")
            return [function(self._shards[key]) for key in keys or self._shards]

    def update(self, request: Any) -> None:
        """Apply an UpdateCollection request after running optimizations end, as the server does."""
        with self._lock:
            before = configs.to_engine(self.config)
            configs.update(self.config, request)
            after = configs.to_engine(self.config)
            if repr(before) != repr(after):
                self._reopen(after)
            self._optimize()

    def create_index(self, field: str, kind: str, parameters: Any) -> int:
        """Index a payload field in all shards, also in later ones; `info` returns the parameters.

        The engine uses its default parameters, except for text indexes with scoring.
        """
        has_scoring = parameters is not None and parameters.text_index_params.HasField("scoring")
        schema = (
            configs.text_index_params(parameters.text_index_params)
            if has_scoring
            else getattr(edge.PayloadSchemaType, kind)
        )
        operation = edge.UpdateOperation.create_field_index(field, schema)
        index = messages.PayloadSchemaInfo(data_type=messages.PayloadSchemaType.Value(kind), params=parameters)
        with self._lock:
            number = self._apply(operation, list(self._shards))
            self._indexes[field], self._index_operations[field] = index, operation
            return number

    def delete_index(self, field: str) -> int:
        with self._lock:
            number = self._apply(edge.UpdateOperation.delete_field_index(field), list(self._shards))
            self._indexes.pop(field, None)
            self._index_operations.pop(field, None)
            return number

    def create_shard_key(self, key: str | int) -> None:
        with self._lock:
            if not self._is_custom_sharded:
                raise bad_request(f"Shard Key {_shown(key)} cannot be created with Auto sharding method")
            if key in self._shards:
                raise bad_request(f"Shard key {_shown(key)} already exists")
            self._add_shard(key)
            for operation in self._index_operations.values():
                self._shards[key].update(operation)

    def check_write(self, request: Any, keys: Sequence[str | int]) -> None:
        """Raise the error of a write for which too many nodes are down."""
        self.placement.check_write(request, self.config.params.write_consistency_factor, keys)

    def info(self) -> Any:
        """Return the CollectionInfo."""
        with self._lock:
            counted = [shard.info() for shard in self._shards.values()]
            for field, index in self._indexes.items():
                index.points = sum(shard.payload_schema[field].points for shard in counted)
            return messages.CollectionInfo(
                status=self._status(),
                optimizer_status=messages.OptimizerStatus(ok=not self._optimizer.error, error=self._optimizer.error),
                config=self.config,
                payload_schema=self._indexes,
                segments_count=sum(shard.segments_count for shard in counted),
                points_count=sum(shard.points_count for shard in counted),
                indexed_vectors_count=sum(shard.indexed_vectors_count for shard in counted),
            )

    def close(self) -> None:
        with self._lock:
            self._optimizer.wait()
            for shard in self._shards.values():
                shard.close()

    @property
    def _is_custom_sharded(self) -> bool:
        return self.config.params.sharding_method == messages.ShardingMethod.Custom

    def _add_shard(self, key: str | int | None) -> None:
        self._shards[key] = edge.EdgeShard.create(str(self._path(key)), configs.to_engine(self.config))
        self.placement.add(self.config.params.shard_number, key)

    def _path(self, key: str | int | None) -> Path:
        return self._directory if key is None else self._directory / repr(key).encode().hex()

    def _apply(self, operation: edge.UpdateOperation, keys: Sequence[str | int | None]) -> int:
        for key in keys:
            self._shards[key].update(operation)
        self._optimize()
        self._operations += 1
        return self._operations

    def _status(self) -> int:
        if self._optimizer.error:
            return messages.CollectionStatus.Red
        return messages.CollectionStatus.Yellow if self._optimizer.is_running else messages.CollectionStatus.Green

    def _optimize(self) -> None:
        if configs.is_indexed(self.config):
            self._optimizer.request()

    def _optimize_shards(self) -> None:
        for shard in list(self._shards.values()):
            shard.optimize()

    def _reopen(self, config: edge.EdgeConfig) -> None:
        self._optimizer.wait()
        for key, shard in self._shards.items():
            shard.close()
            self._shards[key] = edge.EdgeShard.load(str(self._path(key)), config)


def _shown(key: str | int) -> str:
    return f'"{key}"' if isinstance(key, str) else str(key)
