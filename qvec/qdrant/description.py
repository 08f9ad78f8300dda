"""What is written down of a collection beside its points: its settings and its whole calibration."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from qvec.calibration import Calibration
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.errors import CalibrationError, CollectionError, InputError
from qvec.qdrant.layout import Layout, Sharding

FORMAT = 1

Mark = tuple[Any, ...]
"""What tells apart two collections that had one name, one after the other: the calibration's id, and how vectors are
stored."""
_MARKING = ("id_type", "rescore", "prefilter", "query_encoding")


@dataclass(frozen=True)
class Description:
    """A collection of qvec's, as its metadata on a server or its file in a directory tells it."""

    calibration: Calibration
    layout: Layout
    oversampling: float = DEFAULT_OVERSAMPLING
    model: str | None = None
    sharding: Sharding = field(default_factory=Sharding)
    embedding: Mapping[str, Any] | None = None

    @property
    def mark(self) -> Mark:
        return self.calibration.id, *(getattr(self.layout, key) for key in _MARKING)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values, the calibration's file in base64."""
        layout = asdict(self.layout)
        del layout["dimensions"]
        return {
            "format": FORMAT,
            **layout,
            "oversampling": self.oversampling,
            "model": self.model,
            "embedding": self.embedding and dict(self.embedding),
            "sharding": asdict(self.sharding),
            "calibration": self.calibration.id,
            "content": base64.b64encode(self.calibration.to_bytes()).decode(),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], name: str) -> Description:
        """Reads what to_json wrote for the collection `name`.

        Raises CollectionError for a description that is damaged or newer, CalibrationError for a calibration that is
        not the one it names.
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
            settings = {key: stored[key] for key in _MARKING}
            sharding = {key: _whole(value) for key, value in stored["sharding"].items()}
            return cls(
                calibration,
                Layout(calibration.dimensions, **settings),
                float(stored["oversampling"]),
                stored["model"],
                Sharding(**sharding),
                _embedding(stored),
            )
        except KeyError as error:
            raise CollectionError(f"the description of collection {name!r} is damaged: it lacks {error}") from None
        except (TypeError, ValueError, AttributeError, OverflowError, InputError) as error:
            raise CollectionError(f"the description of collection {name!r} is damaged: {error}") from None

    def check_vectors(self, name: str, held: Foreign | None) -> None:
        """Raises CollectionError where the engine holds other vectors than are described: one of both was exchanged."""
        wanted = Foreign(self.layout.dimensions, "dot", "float16" if self.layout.signs_only else self.layout.rescore)
        if held != wanted:
            raise CollectionError(
                f"collection {name!r} holds {held or 'nothing'}, but its description is of {wanted}; bring back the "
                "description and the calibration that it was made with"
            )


def mark_of(stored: Mapping[str, Any] | None) -> Mark | None:
    """The mark of what to_json wrote, without reading the rest of it."""
    return None if stored is None else tuple(stored.get(key) for key in ("calibration", *_MARKING))


@dataclass(frozen=True)
class Foreign:
    """What an engine says that a collection holds, whoever made it: the length of its vectors, their distance and their
    datatype."""

    dimensions: int
    distance: str
    datatype: str

    def __str__(self) -> str:
        return f"{self.datatype} vectors of {self.dimensions} dimensions with distance {self.distance}"

    def described(self, name: str, calibration: Calibration) -> Description:
        """The collection as qvec reads it: vectors that are x - threshold of the calibration, of which scores come.

        Raises CollectionError where they cannot be that.
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
        return Description(calibration, Layout(self.dimensions, "text", rescore))


def not_one_vector(name: str) -> CollectionError:
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


def _embedding(stored: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found = stored.get("embedding")
    if found is not None and not isinstance(found, Mapping):
        raise ValueError(f"its embedding is {found!r}")
    return found


def _whole(value: Any) -> Any:
    """A number as it was: a server may give it back as a float."""
    return int(value) if isinstance(value, float) else value
