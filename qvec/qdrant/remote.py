"""Collections on a server or a cluster."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from qdrant_client import QdrantClient, models

from qvec.errors import CollectionError, DatabaseError, InputError
from qvec.qdrant.address import API_KEY, Address
from qvec.qdrant.description import Description, Foreign, not_one_vector
from qvec.qdrant.errors import explained, is_status, reason
from qvec.qdrant.layout import Layout, Sharding
from qvec.qdrant.retries import Retries
from qvec.qdrant.server import ServerEngine
from qvec.qdrant.server_loads import LOADS, ServerLoads

_METADATA_KEY = "qvec"

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
        """Connects; raises DatabaseError when the server cannot be reached or refuses the API key."""
        self.name = address.name
        self.warning = self._key_warning(address)
        self._address = address
        self._timeout = address.timeout
        self._repeated = Retries(address.timeout)
        self._client = _connect(address)
        try:
            with explained(f"cannot connect to {self.name}"):
                self.version = str(self._repeated(self._client.info).version)
                self._repeated(self._client.get_collections)  # the first that needs the key
        except BaseException:
            self._client.close()
            raise

    @staticmethod
    def _key_warning(address: Address) -> str | None:
        if os.environ.get(API_KEY) and not address.tls and address.host not in ("localhost", "127.0.0.1", "::1"):
            return f"the API key goes to {address.name} unencrypted; qdrants:// connects with TLS"
        return None

    def close(self) -> None:
        self._repeated.give_up()
        self._client.close()

    def break_off(self) -> None:
        """Ends every request that is under way, and those that wait to be repeated; later ones go over a new
        connection."""
        self.close()
        self._repeated, self._client = Retries(self._timeout), _connect(self._address)

    def names(self) -> list[str]:
        """Collections that qvec made, by name."""
        there = (found.name for found in self._repeated(self._client.get_collections).collections)
        return sorted(name for name in there if name != LOADS and _stored(self.collection_info(name)) is not None)

    def describe(self, name: str) -> Description | None:
        """What is written down of a collection; None when there is none, or qvec did not make it."""
        found = self.collection_info(name)
        if found is None or _stored(found) is None:
            return None
        description = Description.from_json(_stored(found), name)
        description.check_vectors(name, _held(found, name))
        return description

    def collection_info(self, name: str) -> models.CollectionInfo | None:
        """What the server says of a collection; None when it has none of this name."""
        try:
            return self._repeated(lambda: self._client.get_collection(name))
        except grpc.RpcError as error:
            if is_status(error, grpc.StatusCode.NOT_FOUND):
                return None
            raise

    def create(self, name: str, description: Description) -> None:
        """Makes a collection with indexing off. Raises DatabaseError when the server has no such settings: an old one
        leaves out what it does not know, without a word."""
        if self.collection_info(name) is not None:
            raise CollectionError(f"{self.name} has a collection {name!r} that qvec did not make; choose another name")
        self._forget_loads(name)
        quantization = _quantization(description.layout)
        self._create(name, description, quantization)
        try:
            if description.sharding.shard_key is not None:
                self._create_shard_key(name, description.sharding.shard_key)
            self._check_created(name, quantization, description)
        except BaseException:
            self._repeated(lambda: self._client.delete_collection(name))
            raise

    def describe_anew(self, name: str, description: Description) -> None:
        """Writes another description of a collection."""
        changed = {_METADATA_KEY: description.to_json()}
        self._repeated(lambda: self._client.update_collection(name, metadata=changed))

    def _create(self, name: str, description: Description, quantization: Any) -> None:
        sharding = description.sharding
        stored = description.to_json()
        request = partial(
            self._client.create_collection,
            name,
            vectors_config=models.VectorParams(
                size=description.layout.dimensions,
                distance=models.Distance.DOT,
                datatype=_datatype(description.layout),
                on_disk=True,
            ),
            quantization_config=quantization,
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0),
            shard_number=sharding.shards,
            replication_factor=sharding.replication_factor,
            write_consistency_factor=sharding.write_consistency_factor,
            sharding_method=models.ShardingMethod.CUSTOM if sharding.shard_key is not None else None,
            on_disk_payload=True,
            metadata={_METADATA_KEY: stored},
            timeout=self._timeout,
        )
        try:
            self._repeated(request)
        except grpc.RpcError as error:
            if not is_status(error, grpc.StatusCode.ALREADY_EXISTS):
                raise
            made = _stored(self.collection_info(name))
            if made is None or made.get("content") != stored["content"]:  # not by a try whose answer was lost
                raise CollectionError(f"collection {name!r} exists already") from None

    def _create_shard_key(self, name: str, shard_key: str) -> None:
        try:
            self._repeated(lambda: self._client.create_shard_key(name, shard_key))
        except grpc.RpcError as error:
            if "exists" not in reason(error):  # made by a try whose answer was lost
                raise

    def _check_created(self, name: str, quantization: Any, description: Description) -> None:
        made = self.collection_info(name)
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

    def foreign(self, name: str) -> Foreign | None:
        """What a collection that qvec did not make holds; None when there is none. Raises CollectionError when that is
        anything but one vector without a name."""
        found = self.collection_info(name)
        return None if found is None else _held(found, name)

    def engine(self, name: str, layout: Layout, sharding: Sharding) -> ServerEngine:
        return ServerEngine(self._client, self._repeated, name, layout, sharding.shard_key, self._timeout)

    def drop(self, name: str) -> None:
        """Forgets the loads first: one that outlived its rows would keep them from being loaded again."""
        self._forget_loads(name)
        self._repeated(lambda: self._client.delete_collection(name))

    def _forget_loads(self, name: str) -> None:
        for source in self.read_loads(name):
            self.write_load(name, source, None)

    def read_loads(self, name: str) -> dict[str, Any]:
        """What is written down of a collection's loads, by source."""
        return self._loads().read_all(name)

    def read_load(self, name: str, source: str) -> dict[str, Any] | None:
        """What is written down of one load."""
        return self._loads().read(name, source)

    def write_load(self, name: str, source: str, load: dict[str, Any] | None) -> None:
        """Writes down how far a source is loaded, None to forget it."""
        self._loads().write(name, source, load)

    def _loads(self) -> ServerLoads:
        return ServerLoads(self._client, self._repeated, self._timeout)

    @contextmanager
    def loading(self, name: str, source: str) -> Iterator[None]:  # noqa: ARG002
        """A server has no locks. Of two loads of one source the earlier one ends when it finds that another began."""
        yield

    @contextmanager
    def starting(self, name: str) -> Iterator[None]:  # noqa: ARG002
        """A server has no locks; `QdrantStarts.write` looks for a load that began at the same time."""
        yield


def _connect(address: Address) -> QdrantClient:
    options: dict[str, Any] = {"grpc.initial_reconnect_backoff_ms": 200, "grpc.max_reconnect_backoff_ms": 2000}
    if address.certificate is not None:
        options["root_certificates"] = _read_certificate(address.certificate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unencrypted API key: `Server.warning` tells of it
        return QdrantClient(
            host=address.bracketed,
            grpc_port=address.port,
            prefer_grpc=True,
            https=address.tls,
            api_key=os.environ.get(API_KEY) or None,
            timeout=address.timeout,
            grpc_options=options,
            check_compatibility=False,
        )


def _stored(found: models.CollectionInfo | None) -> Any:
    """What qvec wrote down of a collection, in its metadata; None when that is not there."""
    return None if found is None else (found.config.metadata or {}).get(_METADATA_KEY)


def _held(found: models.CollectionInfo, name: str) -> Foreign:
    vectors = found.config.params.vectors
    if not isinstance(vectors, models.VectorParams) or vectors.multivector_config is not None:
        raise not_one_vector(name)
    datatype = vectors.datatype or models.Datatype.FLOAT32
    return Foreign(vectors.size, vectors.distance.value.lower(), datatype.value)


def _read_certificate(path: str) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the certificate {path}: {error.strerror}") from None
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise InputError(f"{path} holds no certificate in PEM, with a line -----BEGIN CERTIFICATE-----")
    return content


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
