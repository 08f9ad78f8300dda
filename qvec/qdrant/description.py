"""What is stored about a collection beside its points: its settings and its whole calibration."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from qvec.calibration import Calibration
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.errors import CalibrationError, CollectionError, InputError
from qvec.qdrant.vector_layout import Sharding, VectorLayout

FORMAT = 1

Fingerprint = tuple[Any, ...]
"""Tells apart two collections that had one name, one after the other: the calibration's id, and how vectors are
stored."""
_FINGERPRINT_KEYS = ("id_type", "rescore", "prefilter", "query_encoding")


@dataclass(frozen=True)
class Description:
    """A collection of qvec, as the metadata on a server or the file in a directory describes it."""

    calibration: Calibration
    layout: VectorLayout
    oversampling: float = DEFAULT_OVERSAMPLING
    model: str | None = None
    sharding: Sharding = field(default_factory=Sharding)
    embedding: Mapping[str, Any] | None = None

    @property
    def fingerprint(self) -> Fingerprint:
        return self.calibration.id, *(getattr(self.layout, key) for key in _FINGERPRINT_KEYS)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values, the calibration's file in base64."""
        layout = asdict(self.layout)
        del layout["dimensions"]
        return {
            "format": FORMAT,
            **layout,
            "oversampling": self.oversampling,
            "model": self.model,
            "embedding": self.embedding and dict(self.embedding),
            "sharding": _sharding(self.sharding),
            "calibration": self.calibration.id,
            "content": base64.b64encode(self.calibration.to_bytes()).decode(),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], name: str) -> Description:
        """Read what `to_json` wrote for the collection `name`.

        Raise CollectionError for a damaged or a newer description, CalibrationError where the stored calibration is not
        the one that the description names.
        """
        found = stored.get("format") if isinstance(stored, Mapping) else None
        if not isinstance(found, (int, float)) or found < 1:
            raise CollectionError(f"the description of collection {name!r} is damaged: its format is {found!r}")
        if found > FORMAT:
            raise CollectionError(
                f"collection {name!r} has format {found:g}, but this qvec reads formats up to {FORMAT}; "
                "run: pip install -U qvec"
            )
        try:
            calibration = _calibration(stored, name)
            settings = {key: stored[key] for key in _FINGERPRINT_KEYS}
            sharding = {key: _whole(value) for key, value in stored["sharding"].items()}
            return cls(
                calibration,
                VectorLayout(calibration.dimensions, **settings),
                float(stored["oversampling"]),
                stored["model"],
                Sharding(**sharding),
                _embedding(stored),
            )
        except KeyError as error:
            raise CollectionError(f"the description of collection {name!r} is damaged: it lacks {error}") from None
        except (TypeError, ValueError, AttributeError, OverflowError, InputError) as error:
            raise CollectionError(f"the description of collection {name!r} is damaged: {error}") from None

    def check_vectors(self, name: str, held: UnmanagedCollection | None) -> None:
        """Raise CollectionError unless the engine holds the described vectors: one of both was replaced."""
        wanted = UnmanagedCollection(self.layout.dimensions, "dot", self.layout.datatype)
        if held != wanted:
            raise CollectionError(
                f"collection {name!r} holds {held or 'nothing'}, but its description is of {wanted}; restore the "
                "description and the calibration that it was created with"
            )


def fingerprint_of(stored: Mapping[str, Any] | None) -> Fingerprint | None:
    """Return the fingerprint of what `to_json` wrote, without reading the rest."""
    return None if stored is None else tuple(stored.get(key) for key in ("calibration", *_FINGERPRINT_KEYS))


@dataclass(frozen=True)
class UnmanagedCollection:
    """What an engine reports about a collection, whoever made it: dimensions, distance and datatype of its vectors."""

    dimensions: int
    distance: str
    datatype: str

    def __str__(self) -> str:
        return f"{self.datatype} vectors of {self.dimensions} dimensions with distance {self.distance}"

    def described(self, name: str, calibration: Calibration) -> Description:
        """Return how qvec reads the collection: as vectors that are x - threshold of the calibration.

        Raise CollectionError where its vectors cannot be that.
        """
        if self.dimensions != calibration.dimensions:
            raise CollectionError(
                f"collection {name!r} has {self.dimensions} dimensions, but calibration {calibration.id} has "
                f"{calibration.dimensions}"
            )
        if self.datatype not in ("float32", "float16", "turbo16", "turbo8"):
            raise CollectionError(f"collection {name!r} has {self.datatype} vectors, which do not keep the metric")
        is_cosine = self.distance == calibration.metric == "cosine" and not np.any(calibration.threshold)
        if self.distance != "dot" and not is_cosine:
            raise CollectionError(
                f"collection {name!r} has distance {self.distance}, and calibration {calibration.id} needs dot, or "
                "cosine where its own metric is cosine and its threshold zero"
            )
        rescore: Any = self.datatype
        return Description(calibration, VectorLayout(self.dimensions, "text", rescore))


def not_one_vector(name: str) -> CollectionError:
    """Return the error of a collection whose points have named vectors, several or none."""
    return CollectionError(
        f"collection {name!r} has no vector, or named or several ones a point; qvec reads one, without a name"
    )


def _calibration(stored: Mapping[str, Any], name: str) -> Calibration:
    content = base64.b64decode(stored["content"], validate=True)
    calibration = Calibration.from_bytes(content, f"the calibration of collection {name!r}")
    if calibration.id != stored["calibration"]:
        raise CalibrationError(
            f"collection {name!r} wants calibration {stored['calibration']}, but {calibration.id} is stored with it"
        )
    return calibration


def _sharding(sharding: Sharding) -> dict[str, Any]:
    """Return a sharding as JSON values; a field that is not used is left out, since older releases do not know it."""
    stored = asdict(sharding)
    if sharding.shard_key_field is None:
        del stored["shard_key_field"]
    return stored


def _embedding(stored: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found = stored.get("embedding")
    if found is not None and not isinstance(found, Mapping):
        raise ValueError(f"its embedding is {found!r}")
    return found


def _whole(value: Any) -> Any:
    """Return an integer that a server may have given back as a float."""
    return int(value) if isinstance(value, float) else value
