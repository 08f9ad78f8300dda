"""One collection: its configuration, its engine shard and its optimizer."""

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
from .status_errors import bad_input, unimplemented

Answer = TypeVar("Answer")


class FakeCollection:
    """A collection in `directory` with the configuration of a CreateCollection request."""

    def __init__(self, directory: Path, request: Any, optimizer_delay: Callable[[], float], cluster: Cluster) -> None:
        self.config = configs.from_request(request)
        params = self.config.params
        if not request.HasField("shard_number"):
            params.shard_number = cluster.nodes
        self.placement = Placement(cluster, params.shard_number, params.replication_factor)
        self._directory = directory
        self._lock = threading.RLock()
        self._shard = edge.EdgeShard.create(str(directory), configs.to_engine(self.config))
        self._optimizer = Optimizer(lambda: self._shard.optimize(), optimizer_delay)
        self._indexes: dict[str, Any] = {}
        self._shard_keys: list[Any] = []
        self._operations = 0

    def write(self, operation: edge.UpdateOperation) -> int:
        """Apply an operation and return its number."""
        with self._lock:
            self._shard.update(operation)
            self._optimize()
            self._operations += 1
            return self._operations

    def read(self, function: Callable[[edge.EdgeShard], Answer]) -> Answer:
        """Call a function with the shard and return its result."""
        with self._lock:
            return function(self._shard)

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
        """Index a payload field; `info` returns the parameters.

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
            number = self.write(operation)
            self._indexes[field] = index
            return number

    def delete_index(self, field: str) -> int:
        with self._lock:
            number = self.write(edge.UpdateOperation.delete_field_index(field))
            self._indexes.pop(field, None)
            return number

    def create_shard_key(self, key: Any) -> None:
        """Add a ShardKey; only one, since one engine shard holds all points."""
        if not self._is_custom_sharded:
            raise bad_input("a shard key cannot be created with the sharding method auto")
        if key in self._shard_keys:
            raise bad_input("the shard key exists already")
        if self._shard_keys:
            raise unimplemented("a second shard key")
        self._shard_keys.append(key)

    def check_write(self, request: Any) -> None:
        """Raise the error of a write for which too many nodes are down."""
        self.placement.check_write(request, self.config.params.write_consistency_factor)

    def check_shard_keys(self, selected: Sequence[Any], is_needed: bool) -> None:
        """Refuse unknown shard keys, and a request without one if custom sharding needs it."""
        if any(key not in self._shard_keys for key in selected):
            raise bad_input("a shard key was not found")
        if is_needed and self._is_custom_sharded and not selected:
            raise bad_input("the shard key is not specified")

    def info(self) -> Any:
        """Return the CollectionInfo."""
        with self._lock:
            counted = self._shard.info()
            for field, index in self._indexes.items():
                index.points = counted.payload_schema[field].points
            return messages.CollectionInfo(
                status=self._status(),
                optimizer_status=messages.OptimizerStatus(ok=not self._optimizer.error, error=self._optimizer.error),
                config=self.config,
                payload_schema=self._indexes,
                segments_count=counted.segments_count,
                points_count=counted.points_count,
                indexed_vectors_count=counted.indexed_vectors_count,
            )

    def close(self) -> None:
        with self._lock:
            self._optimizer.wait()
            self._shard.close()

    @property
    def _is_custom_sharded(self) -> bool:
        return self.config.params.sharding_method == messages.ShardingMethod.Custom

    def _status(self) -> int:
        if self._optimizer.error:
            return messages.CollectionStatus.Red
        return messages.CollectionStatus.Yellow if self._optimizer.is_running else messages.CollectionStatus.Green

    def _optimize(self) -> None:
        if configs.is_indexed(self.config):
            self._optimizer.request()

    def _reopen(self, config: edge.EdgeConfig) -> None:
        self._optimizer.wait()
        self._shard.close()
        self._shard = edge.EdgeShard.load(str(self._directory), config)
