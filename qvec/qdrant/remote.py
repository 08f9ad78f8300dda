"""Collections on a server or a cluster."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import NAMESPACE_URL, uuid5

import grpc
from qdrant_client import QdrantClient, models

from qvec.errors import CollectionError, DatabaseError, InputError
from qvec.qdrant.description import Description, Foreign
from qvec.qdrant.errors import explained, is_status
from qvec.qdrant.layout import Layout, Sharding
from qvec.qdrant.server import ServerEngine, repeated

API_KEY = "QVEC_QDRANT_API_KEY"
_PORT = 6334
_TIMEOUT = 60
_METADATA_KEY = "qvec"
_LOADS = "qvec_loads"
"""The collection that holds how far sources have been loaded: points without vectors, one for each load."""

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


@dataclass(frozen=True)
class Address:
    """Where a server listens, from qdrant://HOST:PORT or qdrants:// with TLS."""

    host: str
    port: int
    tls: bool
    timeout: int = _TIMEOUT
    """Seconds that a request may take."""
    certificate: str | None = None
    """File of the certificate authority, where it is not one that the system trusts."""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises InputError for a URL that is none, without repeating a secret it may hold."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or _PORT
            options = {
                key: values[-1] for key, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()
            }
            timeout = int(options.pop("timeout", _TIMEOUT))
        except ValueError:
            raise InputError(f"this is no URL of a Qdrant server; expected {_EXPECTED}") from None
        if parts.username is not None or parts.password is not None:
            raise InputError(f"a Qdrant URL holds no user or password; put the API key into {API_KEY}")
        certificate = options.pop("ca", None)
        if not host or parts.path not in ("", "/") or options or timeout < 1:
            raise InputError(f"this is no URL of a Qdrant server; expected {_EXPECTED}")
        return cls(host, port, parts.scheme == "qdrants", timeout, certificate)

    @property
    def name(self) -> str:
        """The address for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'qdrants' if self.tls else 'qdrant'}://{host}:{self.port}"


_EXPECTED = "qdrant://HOST:6334 or qdrants://HOST:6334 (TLS), with ?timeout=SECONDS and ?ca=FILE where needed"


class Server:
    """The collections on a server that qvec made, and what is known of their loads."""

    def __init__(self, address: Address) -> None:
        """Connects; raises DatabaseError when the server cannot be reached or refuses the API key."""
        self.name = address.name
        self.warning = self._key_warning(address)
        self._timeout = address.timeout
        self._client = _connect(address)
        try:
            with explained(f"cannot connect to {self.name}"):
                self.version = str(repeated(self._client.info).version)
                repeated(self._client.get_collections)  # the first that needs the key
        except BaseException:
            self._client.close()
            raise

    @staticmethod
    def _key_warning(address: Address) -> str | None:
        if os.environ.get(API_KEY) and not address.tls and address.host not in ("localhost", "127.0.0.1", "::1"):
            return f"the API key goes to {address.name} unencrypted; qdrants:// connects with TLS"
        return None

    def close(self) -> None:
        self._client.close()

    def names(self) -> list[str]:
        """Collections that qvec made, by name."""
        there = (found.name for found in repeated(self._client.get_collections).collections)
        return sorted(name for name in there if name != _LOADS and self._metadata(name) is not None)

    def describe(self, name: str) -> Description | None:
        """What is written down of a collection; None when there is none, or qvec did not make it."""
        metadata = self._metadata(name)
        return None if metadata is None else Description.from_json(metadata, name)

    def _metadata(self, name: str) -> Any:
        found = self.collection_info(name)
        return (found.config.metadata or {}).get(_METADATA_KEY) if found else None

    def collection_info(self, name: str) -> models.CollectionInfo | None:
        """What the server says of a collection; None when it has none of this name."""
        try:
            return repeated(lambda: self._client.get_collection(name))
        except grpc.RpcError as error:
            if is_status(error, grpc.StatusCode.NOT_FOUND):
                return None
            raise

    def create(self, name: str, description: Description) -> None:
        """Makes a collection with indexing off. Raises DatabaseError when the server has no such settings: an old one
        leaves out what it does not know, without a word."""
        if self.collection_info(name) is not None:
            raise CollectionError(f"{self.name} has a collection {name!r} that qvec did not make; choose another name")
        sharding = description.sharding
        quantization = _quantization(description.layout)
        stored = description.to_json()
        custom = models.ShardingMethod.CUSTOM if sharding.shard_key is not None else None
        self._client.create_collection(
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
            sharding_method=custom,
            on_disk_payload=True,
            metadata={_METADATA_KEY: stored},
            timeout=self._timeout,
        )
        try:
            if sharding.shard_key is not None:
                self._client.create_shard_key(name, sharding.shard_key)
            self._check_created(name, quantization, description)
        except BaseException:
            self._client.delete_collection(name)
            raise

    def _check_created(self, name: str, quantization: Any, description: Description) -> None:
        made = self.collection_info(name)
        assert made is not None
        if (made.config.metadata or {}).get(_METADATA_KEY) is None:
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
        """What a collection that qvec did not make holds, for one unnamed vector; None when there is none."""
        found = self.collection_info(name)
        vectors = found.config.params.vectors if found else None
        if not isinstance(vectors, models.VectorParams):
            return None
        return Foreign(
            vectors.size, vectors.distance.value.lower(), (vectors.datatype or models.Datatype.FLOAT32).value
        )

    def engine(self, name: str, layout: Layout, sharding: Sharding) -> ServerEngine:
        return ServerEngine(self._client, name, layout, sharding.shard_key, self._timeout)

    def drop(self, name: str) -> None:
        repeated(lambda: self._client.delete_collection(name))
        for source in self.read_loads(name):
            self.write_load(name, source, None)

    def read_loads(self, name: str) -> dict[str, Any]:
        """What is written down of a collection's loads, by source."""
        wanted = models.Filter(must=[models.FieldCondition(key="collection", match=models.MatchValue(value=name))])
        loads: dict[str, Any] = {}
        start = None
        while True:
            try:
                found, start = repeated(
                    partial(self._client.scroll, _LOADS, scroll_filter=wanted, limit=256, offset=start)
                )
            except grpc.RpcError as error:
                if is_status(error, grpc.StatusCode.NOT_FOUND):
                    return {}
                raise
            loads |= {record.payload["source"]: record.payload["load"] for record in found if record.payload}
            if start is None:
                return {source: {key: _whole(value) for key, value in load.items()} for source, load in loads.items()}

    def write_load(self, name: str, source: str, load: dict[str, Any] | None) -> None:
        """Writes down how far a source is loaded, None to forget it."""
        id = str(uuid5(NAMESPACE_URL, f"qvec load {name!r} {source!r}"))
        if load is None:
            repeated(lambda: self._client.delete(_LOADS, models.PointIdsList(points=[id]), wait=True))
            return
        point = models.PointStruct(id=id, vector={}, payload={"collection": name, "source": source, "load": load})
        try:
            repeated(lambda: self._client.upsert(_LOADS, [point], wait=True))
        except grpc.RpcError as error:
            if not is_status(error, grpc.StatusCode.NOT_FOUND):
                raise
            self._create_loads()
            repeated(lambda: self._client.upsert(_LOADS, [point], wait=True))

    def _create_loads(self) -> None:
        try:
            self._client.create_collection(_LOADS, vectors_config={}, timeout=self._timeout)
        except grpc.RpcError as error:
            if not is_status(error, grpc.StatusCode.ALREADY_EXISTS):
                raise
        self._client.create_payload_index(_LOADS, "collection", models.PayloadSchemaType.KEYWORD, wait=True)

    @contextmanager
    def loading(self, name: str, source: str) -> Iterator[None]:  # noqa: ARG002
        """A server has no locks. Two loads of one source write the same points, so that none is lost or doubled."""
        yield

    @contextmanager
    def starting(self, name: str) -> Iterator[None]:  # noqa: ARG002
        """A server has no locks; `QdrantStarts.write` looks for a load that began at the same time."""
        yield


def _connect(address: Address) -> QdrantClient:
    options: dict[str, Any] = {"grpc.initial_reconnect_backoff_ms": 200, "grpc.max_reconnect_backoff_ms": 2000}
    if address.certificate is not None:
        try:
            options["root_certificates"] = Path(address.certificate).read_bytes()
        except OSError as error:
            raise InputError(f"cannot read the certificate {address.certificate}: {error.strerror}") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unencrypted API key: `Server.warning` tells of it
        return QdrantClient(
            host=address.host,
            grpc_port=address.port,
            prefer_grpc=True,
            https=address.tls,
            api_key=os.environ.get(API_KEY) or None,
            timeout=address.timeout,
            grpc_options=options,
            check_compatibility=False,
        )


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


def _whole(value: Any) -> Any:
    """A number as it was: a server may give it back as a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
