"""Qdrant's filters for the embedded engine, which has its own classes for the same conditions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from qvec.errors import InputError


def convert(native: models.Filter) -> edge.Filter:
    """Return the same filter for the embedded engine.

    Raise InputError for a condition that the engine does not have, and for a key or a value that it refuses.
    """
    try:
        return _filter(native)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(
            f"the embedded Qdrant engine refuses the filter ({error}); correct it or use a server"
        ) from error


def _filter(native: models.Filter) -> edge.Filter:
    return edge.Filter(
        must=_conditions(native.must),
        should=_conditions(native.should),
        must_not=_conditions(native.must_not),
        min_should=_optional(native.min_should),
    )


def _conditions(native: Any) -> list[Any] | None:
    """Convert a list of conditions, or a single one, as the models allow."""
    if native is None:
        return None
    return [_convert(condition) for condition in (native if isinstance(native, list) else [native])] or None


def _convert(native: Any) -> Any:
    """Convert any condition or part of one. By the name of its class: older clients lack some of the classes."""
    name = type(native).__name__
    if name not in _CONVERSIONS:
        raise InputError(f"the embedded Qdrant engine has no {name}; filter without it or use a server")
    return _CONVERSIONS[name](native)


def _optional(native: Any) -> Any:
    return None if native is None else _convert(native)


def _field(native: models.FieldCondition) -> edge.FieldCondition:
    return edge.FieldCondition(
        key=native.key,
        match=_optional(native.match),
        range=_optional(native.range),
        geo_bounding_box=_optional(native.geo_bounding_box),
        geo_radius=_optional(native.geo_radius),
        geo_polygon=_optional(native.geo_polygon),
        values_count=_optional(native.values_count),
        is_empty=native.is_empty,
        is_null=native.is_null,
    )


def _bounds(native: Any, convert: Callable[[Any], Any] = lambda bound: bound) -> dict[str, Any]:
    sides = {side: getattr(native, side) for side in ("lt", "lte", "gt", "gte")}
    return {side: convert(bound) for side, bound in sides.items() if bound is not None}


def _match_value(native: models.MatchValue) -> edge.MatchValue:
    """Convert a value: the engine's binding tries integers first and takes Python's True for 1, but not numpy's."""
    value: Any = np.bool_(native.value) if isinstance(native.value, bool) else native.value
    return edge.MatchValue(value)


def _ring(native: models.GeoLineString) -> list[edge.GeoPoint]:
    return [_convert(point) for point in native.points]


def _polygon(native: models.GeoPolygon) -> edge.GeoPolygon:
    return edge.GeoPolygon(_ring(native.exterior), [_ring(hole) for hole in native.interiors or []])


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "Filter": _filter,
    "FieldCondition": _field,
    "MinShould": lambda native: edge.MinShould([_convert(part) for part in native.conditions], native.min_count),
    "IsEmptyCondition": lambda native: edge.IsEmptyCondition(native.is_empty.key),
    "IsNullCondition": lambda native: edge.IsNullCondition(native.is_null.key),
    "HasIdCondition": lambda native: edge.HasIdCondition(set(native.has_id)),
    "HasVectorCondition": lambda native: edge.HasVectorCondition(native.has_vector),
    "NestedCondition": lambda native: edge.NestedCondition(native.nested.key, _filter(native.nested.filter)),
    "MatchValue": _match_value,
    "MatchText": lambda native: edge.MatchText(native.text),
    "MatchTextAny": lambda native: edge.MatchTextAny(native.text_any),
    "MatchPhrase": lambda native: edge.MatchPhrase(native.phrase),
    "MatchPrefix": lambda native: edge.MatchPrefix(native.prefix),
    "MatchSubstring": lambda native: edge.MatchSubstring(native.substring),
    "MatchAny": lambda native: edge.MatchAny(native.any),
    "MatchExcept": lambda native: edge.MatchExcept(native.except_),
    "Range": lambda native: edge.RangeFloat(**_bounds(native)),
    "DatetimeRange": lambda native: edge.RangeDateTime(**_bounds(native, lambda bound: bound.isoformat())),
    "ValuesCount": lambda native: edge.ValuesCount(**_bounds(native)),
    "GeoPoint": lambda native: edge.GeoPoint(native.lon, native.lat),
    "GeoBoundingBox": lambda native: edge.GeoBoundingBox(_convert(native.top_left), _convert(native.bottom_right)),
    "GeoRadius": lambda native: edge.GeoRadius(_convert(native.center), native.radius),
    "GeoPolygon": _polygon,
}
