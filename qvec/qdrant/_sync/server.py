# Generated from qvec/qdrant/_async/server.py by tools/async_to_sync.py: edit that file, then run `make sync`.
"""A server or a cluster as a backend. qvec stores what it needs about a collection in the metadata that the server
keeps of it, except for its loads, which are points of the collection `qvec_loads`."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import grpc
from qdrant_client import models

from qvec.errors import CollectionError, DatabaseError
from qvec.qdrant import server_config
from qvec.qdrant._sync.client import ServerClient
from qvec.qdrant._sync.server_engine import ServerEngine
from qvec.qdrant._sync.shard_keys import ShardKeys
from qvec.qdrant.address import Address
from qvec.qdrant.connection import key_warning
from qvec.qdrant.description import Description, Fingerprint, UnmanagedCollection, fingerprint_of
from qvec.qdrant.engine_version import NEWEST, EngineVersion, version_warning
from qvec.qdrant.errors import LOADS, is_status, reason, wrap_errors
from qvec.qdrant.replicas import known_nodes, missing_replicas, replication_warnings
from qvec.qdrant.server_config import DESCRIPTION_KEY, VERSIONS_KEY, stored_description
from qvec.qdrant.vector_layout import Sharding, VectorLayout
from qvec.qdrant.version_record import VersionRecord
from qvec.store.diagnosis import Diagnosis

_LOADS_PAGE = 256
_NODE_SECONDS = 5
"""How long `diagnose` waits for the answer of a node."""
_LOG = logging.getLogger("qvec.qdrant")
_NOT_FOUND = grpc.StatusCode.NOT_FOUND
_ALREADY_EXISTS = grpc.StatusCode.ALREADY_EXISTS


class ServerBackend:
    """The collections on a server; see `AsyncBackend`."""

    def __init__(self, address: Address) -> None:
        self.name = address.name
        self.warning = key_warning(address)
        self.version = ""
        self.engine_version = NEWEST
        self.changes = 0
        self._address = address
        self._timeout = address.timeout
        self._consistency = address.consistency
        self._reads: Any = address.consistency.of_reads
        self._writes: Any = address.consistency.of_writes
        self._replicated: set[str] = set()
        """Collections for which the loads have enough replicas, as far as possible."""
        self._client = ServerClient(address)
        self._shard_keys = ShardKeys(self._client, self.warn_of_replicas)

    @classmethod
    def connect(cls, address: Address) -> ServerBackend:
        """Connect. Raise DatabaseError where the server cannot be reached or refuses the API key."""
        backend = cls(address)
        try:
            with wrap_errors(f"cannot connect to {address.name}"):
                backend.check()
        except BaseException:
            backend.close()
            raise
        return backend

    def check(self) -> None:
        """Ask for the server's version, and for something that needs the API key."""
        self.version = str(self._client.send(lambda client: client.info()).version)
        self.engine_version = EngineVersion.parse(self.version)
        self._client.send(lambda client: client.get_collections())

    def diagnose(self) -> Diagnosis:
        """Return the version of each node, asked once, and known problems."""
        nodes: dict[str, str | None] = {}
        found = Diagnosis({"qdrant": self.version, "nodes": nodes})
        found.problems += filter(None, [self.warning])
        for node in self._address.nodes:
            nodes[node.name] = None
            with found.noting_errors():
                nodes[node.name] = _version_of(node)
        found.problems += _version_problems(filter(None, nodes.values()))
        return found

    def break_off(self) -> None:
        self._client.break_off()

    def close(self) -> None:
        self._client.close()

    # Collections

    def names(self) -> list[str]:
        found = self._client.send(lambda client: client.get_collections())
        names = []
        for name in sorted(collection.name for collection in found.collections):
            if name != LOADS and stored_description(self._info(name)) is not None:
                names.append(name)
        return names

    def describe(self, name: str) -> Description | None:
        found = self._info(name)
        if found is None or stored_description(found) is None:
            return None
        description = Description.from_json(stored_description(found), name)
        description.check_vectors(name, server_config.held_vectors(found, name))
        return description

    def unmanaged(self, name: str) -> UnmanagedCollection | None:
        found = self._info(name)
        return None if found is None else server_config.held_vectors(found, name)

    def _info(self, name: str) -> models.CollectionInfo | None:
        """Return what the server reports about a collection; None where it has none of this name."""
        if not server_config.is_possible_name(name):  # of collections of Postgres and of directories
            return None
        try:
            return self._client.send(lambda client: client.get_collection(name))
        except grpc.RpcError as error:
            if is_status(error, _NOT_FOUND):
                return None
            raise

    def create(self, name: str, description: Description) -> None:
        """Create a collection with indexing off. Raise DatabaseError where the server is too old for its layout."""
        server_config.check_new_name(name)
        self._check_supported(description.layout)
        if self._info(name) is not None:
            raise CollectionError(f"{self.name} has a collection {name!r} that qvec did not make; choose another name")
        self._delete_loads(name)
        self._create(name, description)
        try:
            if description.sharding.shard_key is not None:
                self._shard_keys.create(name, description.sharding.shard_key)
        except BaseException:
            self._client.send(lambda client: client.delete_collection(name))
            raise
        self.changes += 1

    def _create(self, name: str, description: Description) -> None:
        settings = server_config.collection_settings(description)
        try:
            self._client.send(lambda client: client.create_collection(name, timeout=self._timeout, **settings))
        except grpc.RpcError as error:
            if not is_status(error, _ALREADY_EXISTS):
                raise
            created, wanted = stored_description(self._info(name)), settings["metadata"][DESCRIPTION_KEY]
            if created is None or created.get("content") != wanted["content"]:  # not by an attempt with a lost answer
                raise CollectionError(f"collection {name!r} exists already") from None

    def _check_supported(self, layout: VectorLayout) -> None:
        """Raise DatabaseError where the server is too old: it would silently ignore settings that it does not know."""
        engine = self.engine_version
        if not engine.keeps_metadata:
            raise DatabaseError(f"{self.name} is Qdrant {self.version}; collections with metadata need 1.16 or newer")
        lacks_prefilter = layout.prefilter.startswith("turbo") and not engine.has_turbo_prefilters
        lacks_vectors = layout.rescore.startswith("turbo") and not engine.has_turbo_vectors
        if lacks_prefilter or lacks_vectors:
            known = "binary" if lacks_prefilter else layout.prefilter
            raise DatabaseError(
                f"{self.name} is Qdrant {self.version}, which does not know prefilter {layout.prefilter!r} with "
                f"rescore {layout.rescore!r}; use prefilter {known!r} with rescore 'float16', or Qdrant "
                f"{'1.20' if lacks_vectors else '1.18'} or newer"
            )

    def warn_of_replicas(self, name: str) -> None:
        try:
            for warning in self._replication_warnings(name):
                _LOG.warning("%s", warning)
        except grpc.RpcError as error:
            _LOG.info("the replicas of collection %r cannot be checked: %s", name, reason(error))

    def _replication_warnings(self, name: str) -> list[str]:
        found = self._info(name)
        factor = 1 if found is None else found.config.params.replication_factor or 1
        if found is None or factor < 2:
            return []
        write_factor = found.config.params.write_consistency_factor or 1
        return replication_warnings(name, self._cluster_info(name), factor, write_factor)

    def replace_description(self, name: str, description: Description) -> None:
        metadata = {DESCRIPTION_KEY: description.to_json()}
        self._client.send(lambda client: client.update_collection(name, metadata=metadata))

    def drop(self, name: str) -> None:
        """Drop a collection, its loads first: loads that outlived their rows would prevent another load."""
        self._delete_loads(name)
        self._client.send(lambda client: client.delete_collection(name))
        self._shard_keys.forget(name)
        self.changes += 1

    def engine(self, name: str, layout: VectorLayout, sharding: Sharding) -> ServerEngine:  # noqa: ARG002
        return ServerEngine(
            self._client, name, sharding, self._shard_keys, self._timeout, self.version, self._consistency
        )

    # Versions

    def read_record(self, name: str) -> VersionRecord | None:
        return server_config.stored_record(self._info(name), name)

    def peek(self, name: str) -> tuple[VersionRecord | None, Fingerprint | None]:
        found = self._info(name)
        return server_config.stored_record(found, name), fingerprint_of(stored_description(found))

    def write_record(self, name: str, record: VersionRecord) -> None:
        """Store the version record in one write; the metadata's other keys stay."""
        metadata = {VERSIONS_KEY: record.to_json()}
        self._client.send(lambda client: client.update_collection(name, metadata=metadata))

    # Loads

    def read_loads(self, name: str) -> dict[str, Any]:
        condition = models.FieldCondition(key="collection", match=models.MatchValue(value=name))
        loads: dict[str, Any] = {}
        start: Any = None
        while True:
            found, start = self._loads_page(models.Filter(must=[condition]), start)
            loads |= {record.payload["source"]: _load(record.payload) for record in found if record.payload}
            if start is None:
                return loads

    def _loads_page(self, filter: models.Filter, start: Any) -> tuple[list[models.Record], Any]:
        try:
            return self._client.send(
                lambda client: client.scroll(
                    LOADS, scroll_filter=filter, limit=_LOADS_PAGE, offset=start, consistency=self._reads
                )
            )
        except grpc.RpcError as error:
            if is_status(error, _NOT_FOUND):
                return [], None
            raise

    def read_load(self, name: str, source: str) -> dict[str, Any] | None:
        try:
            ids = [_load_id(name, source)]
            found = self._client.send(lambda client: client.retrieve(LOADS, ids, consistency=self._reads))
        except grpc.RpcError as error:
            if is_status(error, _NOT_FOUND):
                return None
            raise
        return _load(found[0].payload) if found and found[0].payload else None

    def write_load(self, name: str, source: str, load: dict[str, Any] | None) -> None:
        """Store a load, or delete it (None). The first load creates the collection of loads."""
        id = _load_id(name, source)
        if load is None:
            selector = models.PointIdsList(points=[id])
            self._client.send(lambda client: client.delete(LOADS, selector, wait=True, ordering=self._writes))
            return
        payload = {"collection": name, "source": source, "load": load}
        point = models.PointStruct(id=id, vector={}, payload=payload)
        try:
            self._upsert_load(point)
        except grpc.RpcError as error:
            if not is_status(error, _NOT_FOUND):
                raise
            self._create_loads()
            self._upsert_load(point)
        self._replicate_loads(name)

    def _upsert_load(self, point: models.PointStruct) -> None:
        self._client.send(lambda client: client.upsert(LOADS, [point], wait=True, ordering=self._writes))

    def _create_loads(self) -> None:
        try:
            self._client.send(lambda client: client.create_collection(LOADS, vectors_config={}, timeout=self._timeout))
        except grpc.RpcError as error:
            if not is_status(error, _ALREADY_EXISTS):  # created by another client at the same time
                raise
        keyword = models.PayloadSchemaType.KEYWORD
        self._client.send(
            lambda client: client.create_payload_index(LOADS, "collection", keyword, wait=True, ordering=self._writes)
        )

    def _replicate_loads(self, name: str) -> None:
        """In a cluster, give the loads as many replicas as the collection `name`, and at least 2.

        Then a node can be down while collections are loaded, created and dropped. Each collection is looked at once; a
        load does not fail where the replicas cannot be made.
        """
        if name in self._replicated or self._info(name) is None:
            return
        self._replicated.add(name)
        try:
            for operation in self._missing_replicas_of_loads(name):
                self._change_cluster(operation)
        except grpc.RpcError as error:
            _LOG.warning("%s cannot be replicated, and loads fail while a node is down: %s", LOADS, reason(error))

    def _missing_replicas_of_loads(self, name: str) -> list[models.ReplicateShardOperation]:
        loads, loaded = self._cluster_info(LOADS), self._cluster_info(name)
        nodes = known_nodes(loads, loaded)
        if len(nodes) == 1:
            return []
        wanted = max(self._replication_factor(name), 2)
        if self._replication_factor(LOADS) < wanted:
            params = models.CollectionParamsDiff(replication_factor=wanted)
            self._client.send(lambda client: client.update_collection(LOADS, collection_params=params))
        return missing_replicas(loads, nodes, wanted)

    def _cluster_info(self, name: str) -> models.CollectionClusterInfo:
        return self._client.send(lambda client: client.collection_cluster_info(name))

    def _replication_factor(self, name: str) -> int:
        info = self._client.send(lambda client: client.get_collection(name))
        return info.config.params.replication_factor or 1

    def _change_cluster(self, operation: models.ReplicateShardOperation) -> None:
        self._client.send(lambda client: client.cluster_collection_update(LOADS, operation))

    def _delete_loads(self, name: str) -> None:
        for source in self.read_loads(name):
            self.write_load(name, source, None)

    def load_lock(self, name: str, source: str) -> AbstractContextManager[None]:  # noqa: ARG002
        """A server has no locks. Of two loads of one source the earlier one stops when it finds the later one."""
        return nullcontext()

    def registry_lock(self) -> AbstractContextManager[None]:
        """A server has no locks; `QdrantLoadRegistry.write` looks for a load that started at the same time."""
        return nullcontext()


def _version_of(node: Address) -> str:
    asked_once = replace(node, retry=0, timeout=min(node.timeout, _NODE_SECONDS))
    backend = ServerBackend.connect(asked_once)
    backend.close()
    return backend.version


def _version_problems(versions: Iterable[str]) -> list[str]:
    different = sorted(set(versions))
    problems = [warning for version in different if (warning := version_warning(version))]
    if len(different) > 1:
        problems.append(f"the nodes run different versions of Qdrant ({', '.join(different)}); upgrade the older ones")
    return problems


def _load_id(name: str, source: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"qvec load {name!r} {source!r}"))


def _load(payload: dict[str, Any]) -> dict[str, Any]:
    """Return a load as it was stored: a server may give whole numbers back as floats."""
    load: dict[str, Any] = payload["load"]
    return {
        key: int(value) if isinstance(value, float) and value.is_integer() else value for key, value in load.items()
    }
