"""A collection's configuration: created with Qdrant's defaults, updated, and converted for the engine."""

from __future__ import annotations

from typing import Any

import qdrant_edge as edge
from google.protobuf.message import Message
from qdrant_client import grpc as messages

from .status_errors import bad_input, unimplemented

_NO_VECTORS = {"": edge.EdgeSparseVectorParams()}
"""The engine requires a vector in every shard, the server does not; points may leave out this sparse one."""

_ENGINE_ENUMS = {
    "Memory": edge.Memory,
    "Distance": edge.Distance,
    "Datatype": edge.VectorStorageDatatype,
    "BinaryQuantizationEncoding": edge.BinaryQuantizationEncoding,
    "TurboQuantBitSize": edge.TurboQuantBitSize,
    "Setting": edge.BinaryQuantizationQueryEncoding,
}


def from_request(request: Any) -> Any:
    """Return the CollectionConfig for a CreateCollection, with the defaults of Qdrant 1.18."""
    refuse(request, "sparse_vectors_config", "strict_mode_config")
    if request.vectors_config.params_map.map:
        raise unimplemented("named vectors")
    config = messages.CollectionConfig(
        params=messages.CollectionParams(
            shard_number=1, replication_factor=1, write_consistency_factor=1, on_disk_payload=True
        ),
        hnsw_config=messages.HnswConfigDiff(m=16, ef_construct=100, full_scan_threshold=10_000),
        optimizer_config=messages.OptimizersConfigDiff(
            deleted_threshold=0.2,
            vacuum_min_vector_number=1000,
            default_segment_number=0,
            indexing_threshold=10_000,
            flush_interval_sec=5,
        ),
        wal_config=messages.WalConfigDiff(wal_capacity_mb=32, wal_segments_ahead=0),
    )
    for field, value in request.ListFields():
        if field.name in messages.CollectionParams.DESCRIPTOR.fields_by_name:
            _assign(config.params, field.name, value)
    config.hnsw_config.MergeFrom(request.hnsw_config)
    config.optimizer_config.MergeFrom(request.optimizers_config)
    config.wal_config.MergeFrom(request.wal_config)
    if request.HasField("quantization_config"):
        config.quantization_config.CopyFrom(request.quantization_config)
    for key, value in request.metadata.items():
        config.metadata[key].CopyFrom(value)
    return config


def update(config: Any, request: Any) -> None:
    """Change the config as an UpdateCollection request says."""
    refuse(request, "vectors_config", "sparse_vectors_config", "strict_mode_config")
    config.hnsw_config.MergeFrom(request.hnsw_config)
    config.optimizer_config.MergeFrom(request.optimizers_config)
    for field, value in request.params.ListFields():
        _assign(config.params, field.name, value)
    _update_quantization(config, request.quantization_config)
    _update_metadata(config, request.metadata)


def _update_quantization(config: Any, diff: Any) -> None:
    kind = diff.WhichOneof("quantization")
    if kind == "disabled":
        config.ClearField("quantization_config")
    elif kind is not None:
        getattr(config.quantization_config, kind).CopyFrom(getattr(diff, kind))


def _update_metadata(config: Any, metadata: Any) -> None:
    """Replace keys one by one; null removes a key, an empty map changes nothing. The first map is stored unchanged."""
    is_first = not config.metadata
    for key, value in metadata.items():
        if value.WhichOneof("kind") == "null_value" and not is_first:
            config.metadata.pop(key, None)
        else:
            config.metadata[key].CopyFrom(value)


def has_vectors(config: Any) -> bool:
    return config.params.vectors_config.HasField("params")


def is_indexed(config: Any) -> bool:
    """Return whether the optimizer runs: an indexing threshold of 0 turns indexing off."""
    return config.optimizer_config.indexing_threshold > 0


def to_engine(config: Any) -> edge.EdgeConfig:
    """Return the engine's configuration for a CollectionConfig."""
    optimizers = options(config.optimizer_config, ignore=("flush_interval_sec", "memmap_threshold"))
    return edge.EdgeConfig(
        vectors=_vectors(config.params.vectors_config.params) if has_vectors(config) else None,
        sparse_vectors=None if has_vectors(config) else _NO_VECTORS,
        hnsw_config=edge.HnswIndexConfig(**options(config.hnsw_config)),
        quantization_config=_quantization(config.quantization_config),
        optimizers=edge.EdgeOptimizersConfig(**optimizers),
    )


def _vectors(params: Any) -> edge.EdgeVectorParams:
    if params.distance == messages.Distance.UnknownDistance:
        raise bad_input("the vectors have no distance")
    given = options(params, ignore=("hnsw_config", "quantization_config"))
    if params.HasField("hnsw_config"):
        given["hnsw_config"] = edge.HnswIndexConfig(**options(params.hnsw_config))
    return edge.EdgeVectorParams(**given, quantization_config=_quantization(params.quantization_config))


def _quantization(config: Any) -> Any:
    kind = config.WhichOneof("quantization")
    if kind is None:
        return None
    if kind == "turboquant":
        return edge.TurboQuantQuantizationConfig(**options(config.turboquant))
    if kind != "binary":
        raise unimplemented(f"{kind} quantization")
    given = options(config.binary, ignore=("query_encoding",)) | {
        "query_encoding": options(config.binary.query_encoding).get("setting")
    }
    return edge.BinaryQuantizationConfig(**given)


def options(message: Message, ignore: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the scalar fields that are set, by name, with the engine's enums, which have the same names."""
    found = {}
    for field, value in message.ListFields():
        if field.name in ignore:
            continue
        if field.message_type is not None:
            raise unimplemented(f"{message.DESCRIPTOR.name}.{field.name}")
        found[field.name] = value if field.enum_type is None else _engine_enum(field.enum_type, value)
    return found


def _engine_enum(enum: Any, value: int) -> Any:
    return getattr(_ENGINE_ENUMS[enum.name], enum.values_by_number[value].name)


def refuse(request: Message, *fields: str) -> None:
    """Raise UNIMPLEMENTED if one of the fields is set: if it were ignored, a wrong test could pass."""
    for field, _ in request.ListFields():
        if field.name in fields:
            raise unimplemented(f"{request.DESCRIPTOR.name}.{field.name}")


def _assign(message: Message, name: str, value: Any) -> None:
    if isinstance(value, Message):
        getattr(message, name).CopyFrom(value)
    else:
        setattr(message, name, value)


def text_index_params(parameters: Any) -> edge.TextIndexParams:
    """Return the engine's parameters of a text index with scoring."""
    stemmer = parameters.stemmer.snowball.language.capitalize()
    return edge.TextIndexParams(
        tokenizer=getattr(edge.TokenizerType, messages.TokenizerType.Name(parameters.tokenizer)),
        lowercase=parameters.lowercase,
        stemmer=edge.SnowballParams(getattr(edge.SnowballLanguage, stemmer)) if stemmer else None,
        stopwords=edge.StopwordsSet(
            languages={getattr(edge.Language, language.capitalize()) for language in parameters.stopwords.languages}
        ),
        scoring=True,
    )
