"""Collections on a server or a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from qdrant_client import models

from qvec.errors import CollectionError, DatabaseError
from qvec.qdrant import server_loads
from qvec.qdrant.address import API_KEY, Address
from qvec.qdrant.description import Description, Foreign, Mark, mark_of, not_one_vector
from qvec.qdrant.errors import is_status, reason
from qvec.qdrant.layout import Layout, Sharding
from qvec.qdrant.server import ServerEngine
from qvec.qdrant.server_loads import LOADS
from qvec.qdrant.steps import Steps
from qvec.qdrant.versioning import Record

_METADATA_KEY = "qvec"
_VERSIONS_KEY = "qvec_versions"

_QUANTIZATION = {
    "binary": models.BinaryQuantizationEncoding.ONE_BIT,
    "binary1.5": models.BinaryQuantizationEncoding.ONE_AND_HALF_BITS,
    "binary2": models.BinaryQuantizationEncoding.TWO_BITS,
}
_TURBO_BITS = {
    "turbo1": models.TurboQuantBitSize.BITS1,
    "turbo1.5": models.TurboQuantBitSize.BITS1_5,
    "turbo2": models.TurboQuantBitSize.BITS2,
    "turbo4": models.TurboQuantBitSize.BITS4,
}


class Server:
    """The collections on a server that qvec made, and what is known of their loads."""

    def __init__(self, address: Address) -> None:
        self.name = address.name
        self.warning = _key_warning(address)
        self.version = ""
        self.changes = 0
        self._timeout = address.timeout

    def check(self) -> Steps[None]:
        """Asks for the server's version, and for something that needs the API key."""
        self.version = str((yield lambda client: client.info()).version)
        yield lambda client: client.get_collections()

    def close(self) -> None:
        """A server stays; its client is closed by who made it."""

    def names(self) -> Steps[list[str]]:
        """Collections that qvec made, by name."""
        found = yield lambda client: client.get_collections()
        names = []
        for name in sorted(collection.name for collection in found.collections):
            if name != LOADS and _stored((yield from self.collection_info(name))) is not None:
                names.append(name)
        return names

    def describe(self, name: str) -> Steps[Description | None]:
        """What is written down of a collection; None when there is none, or qvec did not make it."""
        found = yield from self.collection_info(name)
        if found is None or _stored(found) is None:
            return None
        description = Description.from_json(_stored(found), name)
        description.check_vectors(name, _held(found, name))
        return description

    def collection_info(self, name: str) -> Steps[models.CollectionInfo | None]:
        """What the server says of a collection; None when it has none of this name."""
        try:
            info: models.CollectionInfo = yield lambda client: client.get_collection(name)
        except grpc.RpcError as error:
            if is_status(error, grpc.StatusCode.NOT_FOUND):
                return None
            raise
        return info

    def create(self, name: str, description: Description) -> Steps[None]:
        """Makes a collection with indexing off. Raises DatabaseError when the server has no such settings: an old one
        leaves out what it does not know, without a word."""
        if (yield from self.collection_info(name)) is not None:
            raise CollectionError(f"{self.name} has a collection {name!r} that qvec did not make; choose another name")
        yield from self._forget_loads(name)
        quantization = _quantization(description.layout)
        yield from self._create(name, description, quantization)
        try:
            if description.sharding.shard_key is not None:
                yield from _create_shard_key(name, description.sharding.shard_key)
            yield from self._check_created(name, quantization, description)
        except BaseException:
            yield lambda client: client.delete_collection(name)
            raise
        self.changes += 1

    def describe_anew(self, name: str, description: Description) -> Steps[None]:
        """Writes another description of a collection."""
        changed = {_METADATA_KEY: description.to_json()}
        yield lambda client: client.update_collection(name, metadata=changed)

    def read_versions(self, name: str) -> Steps[Record | None]:
        """What is written down of a collection's versions; None where it was never recalibrated."""
        return _versions((yield from self.collection_info(name)), name)

    def glance(self, name: str) -> Steps[tuple[Record | None, Mark | None]]:
        """Its versions, and the mark of its description; None for what is not there."""
        found = yield from self.collection_info(name)
        return _versions(found, name), mark_of(_stored(found))

    def write_versions(self, name: str, record: Record) -> Steps[None]:
        """Writes it down at once; metadata of other keys stays."""
        yield lambda client: client.update_collection(name, metadata={_VERSIONS_KEY: record.to_json()})

    def _create(self, name: str, description: Description, quantization: Any) -> Steps[None]:
        sharding = description.sharding
        stored = description.to_json()
        settings = {
            "vectors_config": models.VectorParams(
                size=description.layout.dimensions,
                distance=models.Distance.DOT,
                datatype=_datatype(description.layout),
                on_disk=True,
            ),
            "quantization_config": quantization,
            "optimizers_config": models.OptimizersConfigDiff(indexing_threshold=0),
            "shard_number": sharding.shards,
            "replication_factor": sharding.replication_factor,
            "write_consistency_factor": sharding.write_consistency_factor,
            "sharding_method": models.ShardingMethod.CUSTOM if sharding.shard_key is not None else None,
            "on_disk_payload": True,
            "metadata": {_METADATA_KEY: stored},
            "timeout": self._timeout,
        }
        try:
            yield lambda client: client.create_collection(name, **settings)
        except grpc.RpcError as error:
            if not is_status(error, grpc.StatusCode.ALREADY_EXISTS):
                raise
            made = _stored((yield from self.collection_info(name)))
            if made is None or made.get("content") != stored["content"]:  # not by a try whose answer was lost
                raise CollectionError(f"collection {name!r} exists already") from None

    def _check_created(self, name: str, quantization: Any, description: Description) -> Steps[None]:
        made = yield from self.collection_info(name)
        assert made is not None
        if _stored(made) is None:
            raise DatabaseError(f"{self.name} is Qdrant {self.version}; collections with metadata need 1.16 or newer")
        vectors = made.config.params.vectors
        same = (
            _kind(made.config.quantization_config) == _kind(quantization)
            and isinstance(vectors, models.VectorParams)
            and (vectors.datatype or models.Datatype.FLOAT32) == _datatype(description.layout)
        )
        if not same:
            layout = description.layout
            raise DatabaseError(
                f"{self.name} is Qdrant {self.version}, which does not know prefilter {layout.prefilter!r} with "
                f"rescore {layout.rescore!r}; use prefilter 'binary' with rescore 'float16', or a newer server"
            )

    def foreign(self, name: str) -> Steps[Foreign | None]:
        """What a collection that qvec did not make holds; None when there is none. Raises CollectionError when that is
        anything but one vector without a name."""
        found = yield from self.collection_info(name)
        return None if found is None else _held(found, name)

    def engine(self, name: str, layout: Layout, sharding: Sharding) -> ServerEngine:  # noqa: ARG002 - the server's own
        return ServerEngine(name, sharding.shard_key, self._timeout)

    def drop(self, name: str) -> Steps[None]:
        """Forgets the loads first: one that outlived its rows would keep them from being loaded again."""
        yield from self._forget_loads(name)
        yield lambda client: client.delete_collection(name)
        self.changes += 1

    def _forget_loads(self, name: str) -> Steps[None]:
        for source in (yield from self.read_loads(name)):
            yield from self.write_load(name, source, None)

    def read_loads(self, name: str) -> Steps[dict[str, Any]]:
        """What is written down of a collection's loads, by source."""
        return server_loads.read_all(name)

    def read_load(self, name: str, source: str) -> Steps[dict[str, Any] | None]:
        """What is written down of one load."""
        return server_loads.read(name, source)

    def write_load(self, name: str, source: str, load: dict[str, Any] | None) -> Steps[None]:
        """Writes down how far a source is loaded, None to forget it."""
        return server_loads.write(name, source, load, self._timeout)

    @contextmanager
    def loading(self, name: str, source: str) -> Iterator[None]:  # noqa: ARG002
        """A server has no locks. Of two loads of one source the earlier one ends when it finds that another began."""
        yield

    @contextmanager
    def starting(self, name: str) -> Iterator[None]:  # noqa: ARG002
        """A server has no locks; `QdrantStarts.write` looks for a load that began at the same time."""
        yield


def _key_warning(address: Address) -> str | None:
    if os.environ.get(API_KEY) and not address.tls and address.host not in ("localhost", "127.0.0.1", "::1"):
        return f"the API key goes to {address.name} unencrypted; qdrants:// connects with TLS"
    return None


def _create_shard_key(name: str, shard_key: str) -> Steps[None]:
    try:
        yield lambda client: client.create_shard_key(name, shard_key)
    except grpc.RpcError as error:
        if "exists" not in reason(error):  # made by a try whose answer was lost
            raise


def _stored(found: models.CollectionInfo | None) -> Any:
    """What qvec wrote down of a collection, in its metadata; None when that is not there."""
    return None if found is None else (found.config.metadata or {}).get(_METADATA_KEY)


def _versions(found: models.CollectionInfo | None, name: str) -> Record | None:
    stored = None if found is None else (found.config.metadata or {}).get(_VERSIONS_KEY)
    return None if stored is None else Record.from_json(stored, name)


def _held(found: models.CollectionInfo, name: str) -> Foreign:
    vectors = found.config.params.vectors
    if not isinstance(vectors, models.VectorParams) or vectors.multivector_config is not None:
        raise not_one_vector(name)
    datatype = vectors.datatype or models.Datatype.FLOAT32
    return Foreign(vectors.size, vectors.distance.value.lower(), datatype.value)


def _datatype(layout: Layout) -> models.Datatype:
    return models.Datatype("float16" if layout.signs_only else layout.rescore)


def _quantization(layout: Layout) -> models.BinaryQuantization | models.TurboQuantization:
    if layout.prefilter in _TURBO_BITS:
        bits = _TURBO_BITS[layout.prefilter]
        return models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits=bits, always_ram=True))
    return models.BinaryQuantization(
        binary=models.BinaryQuantizationConfig(
            encoding=_QUANTIZATION[layout.prefilter],
            query_encoding=models.BinaryQuantizationQueryEncoding(layout.query_encoding),
            always_ram=True,
        )
    )


def _kind(quantization: Any) -> tuple[Any, ...]:
    """What distinguishes a quantization: its kind, its bits, and how queries are encoded."""
    if isinstance(quantization, models.TurboQuantization):
        return "turbo", quantization.turbo.bits or models.TurboQuantBitSize.BITS4
    if isinstance(quantization, models.BinaryQuantization):
        found = quantization.binary
        return "binary", found.encoding or models.BinaryQuantizationEncoding.ONE_BIT, found.query_encoding
    return (type(quantization).__name__,)
