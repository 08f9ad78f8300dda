"""One collection: its configuration, its shard of the engine, and the optimizer behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import qdrant_edge as edge
from qdrant_client import grpc as messages

from . import configs
from .errors import bad_input, unimplemented
from .optimizer import Optimizer

Answer = TypeVar("Answer")


class Collection:
    """A collection in `directory`, as a CreateCollection asks for it."""

    def __init__(self, directory: Path, request: Any, optimizer_delay: Callable[[], float]) -> None:
        self.config = configs.created(request)
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

    def read(self, ask: Callable[[edge.EdgeShard], Answer]) -> Answer:
        """What the shard answers."""
        with self._lock:
            return ask(self._shard)

    def update(self, request: Any) -> None:
        """Put an UpdateCollection into effect, once the optimizations under way are complete, as the server does."""
        with self._lock:
            before = configs.to_engine(self.config)
            configs.update(self.config, request)
            after = configs.to_engine(self.config)
            if repr(before) != repr(after):
                self._reopen(after)
            self._optimize()

    def create_index(self, field: str, kind: str, parameters: Any) -> int:
        """Index a payload field; the parameters are told again in `info`. The engine keeps to its defaults, but for
        words, which it is told how to take."""
        is_words = parameters is not None and parameters.text_index_params.HasField("scoring")
        schema = configs.words(parameters.text_index_params) if is_words else getattr(edge.PayloadSchemaType, kind)
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
        """Add a ShardKey; only one, since all points are in one shard of the engine."""
        if not self._is_custom_sharded:
            raise bad_input("a shard key cannot be created with the sharding method auto")
        if key in self._shard_keys:
            raise bad_input("the shard key exists already")
        if self._shard_keys:
            raise unimplemented("a second shard key")
        self._shard_keys.append(key)

    def check_shard_keys(self, selected: Sequence[Any], is_needed: bool) -> None:
        """Refuse shard keys that were not created, and that there is none where custom sharding needs it."""
        if any(key not in self._shard_keys for key in selected):
            raise bad_input("a shard key was not found")
        if is_needed and self._is_custom_sharded and not selected:
            raise bad_input("the shard key is not specified")

    def info(self) -> Any:
        """CollectionInfo."""
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
