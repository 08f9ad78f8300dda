"""The configuration of a collection on a server: made from its description, and read back from what the server
reports."""

from __future__ import annotations

from typing import Any

from qdrant_client import models

from qvec.errors import CollectionError
from qvec.qdrant.description import Description, UnmanagedCollection, not_one_vector
from qvec.qdrant.vector_layout import VectorLayout
from qvec.qdrant.version_record import VersionRecord

DESCRIPTION_KEY = "qvec"
VERSIONS_KEY = "qvec_versions"
"""Keys of a collection's metadata."""

_REFUSED_CHARACTERS = frozenset('<>:"/\\|?*\0\x1f')
_MAX_NAME = 255

_BINARY_ENCODINGS = {
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


def check_new_name(name: str) -> None:
    """Raise CollectionError unless a server accepts the name of a new collection."""
    refused = next((character for character in name if character in _REFUSED_CHARACTERS), None)
    if refused is not None:
        raise CollectionError(f"collection name {name!r} holds {refused!r}, which a Qdrant server refuses in names")


def is_possible_name(name: str) -> bool:
    """Return whether a server can have a collection of this name: it refuses to look for others."""
    return 1 <= len(name) <= _MAX_NAME and "/" not in name and "\0" not in name


def collection_settings(description: Description) -> dict[str, Any]:
    """Return the arguments of create_collection; indexing is off until `build_index`."""
    layout, sharding = description.layout, description.sharding
    return {
        "vectors_config": models.VectorParams(
            size=layout.dimensions,
            distance=models.Distance.DOT,
            datatype=models.Datatype(layout.datatype),
            on_disk=True,
        ),
        "quantization_config": _quantization(layout),
        "optimizers_config": models.OptimizersConfigDiff(indexing_threshold=0),
        "shard_number": sharding.shards,
        "replication_factor": sharding.replication_factor,
        "write_consistency_factor": sharding.write_consistency_factor,
        "sharding_method": models.ShardingMethod.CUSTOM if sharding.has_keys else None,
        "on_disk_payload": True,
        "metadata": {DESCRIPTION_KEY: description.to_json()},
    }


def stored_description(found: models.CollectionInfo | None) -> Any:
    """Return the description that qvec stored, as JSON values; None where there is none."""
    return None if found is None else (found.config.metadata or {}).get(DESCRIPTION_KEY)


def stored_record(found: models.CollectionInfo | None, name: str) -> VersionRecord | None:
    """Return the stored version record; None where there is none."""
    stored = None if found is None else (found.config.metadata or {}).get(VERSIONS_KEY)
    return None if stored is None else VersionRecord.from_json(stored, name)


def held_vectors(found: models.CollectionInfo, name: str) -> UnmanagedCollection:
    """Return what a collection holds. Raise CollectionError unless its points have one unnamed vector."""
    vectors = found.config.params.vectors
    if not isinstance(vectors, models.VectorParams) or vectors.multivector_config is not None:
        raise not_one_vector(name)
    datatype = vectors.datatype or models.Datatype.FLOAT32
    return UnmanagedCollection(vectors.size, vectors.distance.value.lower(), datatype.value)


def _quantization(layout: VectorLayout) -> models.BinaryQuantization | models.TurboQuantization:
    if layout.prefilter in _TURBO_BITS:
        bits = _TURBO_BITS[layout.prefilter]
        return models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits=bits, always_ram=True))
    return models.BinaryQuantization(
        binary=models.BinaryQuantizationConfig(
            encoding=_BINARY_ENCODINGS[layout.prefilter],
            query_encoding=models.BinaryQuantizationQueryEncoding(layout.query_encoding),
            always_ram=True,
        )
    )
