"""Native Qdrant filters on the embedded engine: every kind of condition finds the right points."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pytest
import qdrant_edge as edge
from qdrant_client import models

from qvec.errors import InputError
from qvec.qdrant import edge_filters


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> edge.EdgeShard:
    vectors = {"": edge.EdgeVectorParams(size=1, distance=edge.Distance.Dot)}
    shard = edge.EdgeShard.create(str(tmp_path_factory.mktemp("shard")), edge.EdgeConfig(vectors=vectors))
    payloads: list[dict[str, Any]] = [
        {
            "word": "red apple",
            "n": 1,
            "on": True,
            "at": "2024-01-31",
            "tags": ["a"],
            "place": {"lon": 13.4, "lat": 52.5},
        },
        {
            "word": "green",
            "n": 2,
            "on": False,
            "at": "2025-01-31",
            "tags": ["a", "b"],
            "place": {"lon": 2.3, "lat": 48.9},
        },
        {"word": None, "items": [{"x": 1, "y": 2}, {"x": 2, "y": 1}]},
    ]
    points = [edge.Point(id, [1.0], payload) for id, payload in enumerate(payloads)]
    shard.update(edge.UpdateOperation.upsert_points(points))
    return shard


def field(key: str, **condition: Any) -> models.FieldCondition:
    return models.FieldCondition(key=key, **condition)


def point(lon: float, lat: float) -> models.GeoPoint:
    return models.GeoPoint(lon=lon, lat=lat)


AROUND_BERLIN = models.GeoLineString(points=[point(13, 52), point(14, 52), point(14, 53), point(13, 53), point(13, 52)])
HOLE_AROUND_MITTE = models.GeoLineString(
    points=[point(13.3, 52.4), point(13.5, 52.4), point(13.5, 52.6), point(13.3, 52.6), point(13.3, 52.4)]
)
NESTED = models.Filter(must=[field("x", match=models.MatchValue(value=1)), field("y", range=models.Range(gt=1))])

NATIVE: list[tuple[models.Filter, set[int]]] = [
    (models.Filter(), {0, 1, 2}),
    (models.Filter(must=field("n", match=models.MatchValue(value=1))), {0}),
    (models.Filter(must_not=[field("n", match=models.MatchValue(value=1))]), {1, 2}),
    (
        models.Filter(
            should=[field("n", match=models.MatchValue(value=1)), field("word", match=models.MatchValue(value="green"))]
        ),
        {0, 1},
    ),
    (
        models.Filter(
            min_should=models.MinShould(
                conditions=[field("tags", match=models.MatchValue(value=tag)) for tag in "ab"], min_count=2
            )
        ),
        {1},
    ),
    (models.Filter(must=[field("on", match=models.MatchValue(value=True))]), {0}),
    (models.Filter(must=[field("on", match=models.MatchValue(value=False))]), {1}),
    (models.Filter(must=[field("n", match=models.MatchAny(any=[2, 3]))]), {1}),
    (models.Filter(must=[field("word", match=models.MatchExcept(**{"except": ["green"]}))]), {0}),
    (models.Filter(must=[field("word", match=models.MatchText(text="apple red"))]), {0}),
    (models.Filter(must=[field("word", match=models.MatchTextAny(text_any="pear green"))]), {1}),
    (models.Filter(must=[field("word", match=models.MatchPhrase(phrase="red apple"))]), {0}),
    (models.Filter(must=[field("word", match=models.MatchPrefix(prefix="gr"))]), {1}),
    (models.Filter(must=[field("word", match=models.MatchSubstring(substring="app"))]), {0}),
    (models.Filter(must=[field("n", range=models.Range(gt=1, lte=2))]), {1}),
    (models.Filter(must=[field("n", range=models.Range(lt=2, gte=1))]), {0}),
    (models.Filter(must=[field("at", range=models.DatetimeRange(gte=datetime(2025, 1, 1)))]), {1}),
    (models.Filter(must=[field("at", range=models.DatetimeRange(lt=date(2025, 1, 1)))]), {0}),
    (models.Filter(must=[field("tags", values_count=models.ValuesCount(gte=2))]), {1}),
    (models.Filter(must=[field("word", is_null=True)]), {2}),
    (models.Filter(must=[field("n", is_empty=True)]), {2}),
    (models.Filter(must=[models.IsEmptyCondition(is_empty=models.PayloadField(key="tags"))]), {2}),
    (models.Filter(must=[models.IsNullCondition(is_null=models.PayloadField(key="word"))]), {2}),
    (models.Filter(must=[models.HasIdCondition(has_id=[0, 2])]), {0, 2}),
    (models.Filter(must=[models.HasIdCondition(has_id=["6f9619ff-8b86-d011-b42d-00cf4fc964ff"])]), set()),
    (models.Filter(must=[models.HasVectorCondition(has_vector="")]), {0, 1, 2}),
    (models.Filter(must=[models.NestedCondition(nested=models.Nested(key="items", filter=NESTED))]), {2}),
    (models.Filter(must=[field("place", geo_radius=models.GeoRadius(center=point(13.4, 52.5), radius=1000))]), {0}),
    (
        models.Filter(
            must=[
                field("place", geo_bounding_box=models.GeoBoundingBox(top_left=point(2, 49), bottom_right=point(3, 48)))
            ]
        ),
        {1},
    ),
    (models.Filter(must=[field("place", geo_polygon=models.GeoPolygon(exterior=AROUND_BERLIN))]), {0}),
    (
        models.Filter(
            must=[field("place", geo_polygon=models.GeoPolygon(exterior=AROUND_BERLIN, interiors=[HOLE_AROUND_MITTE]))]
        ),
        set(),
    ),
]


@pytest.mark.parametrize(("native", "ids"), NATIVE, ids=lambda value: str(value)[:60])
def test_native_filters_work_on_the_embedded_engine(
    shard: edge.EdgeShard, native: models.Filter, ids: set[int]
) -> None:
    records, _ = shard.scroll(edge.ScrollRequest(limit=10, filter=edge_filters.convert(native)))
    assert {record.id for record in records} == ids


def test_condition_missing_in_the_embedded_engine_is_an_input_error() -> None:
    native = models.Filter(must=[models.SliceCondition(slice=models.Slice(total=2, index=0))])
    with pytest.raises(
        InputError, match=r"^the embedded Qdrant engine has no SliceCondition; filter without it or use a"
    ):
        edge_filters.convert(native)


@pytest.mark.parametrize(
    "condition", [field("a[", is_null=True), field("a", geo_radius=models.GeoRadius(center=point(0, 100), radius=1))]
)
def test_condition_refused_by_the_embedded_engine_is_an_input_error(condition: models.FieldCondition) -> None:
    with pytest.raises(InputError, match=r"^the embedded Qdrant engine refuses the filter"):
        edge_filters.convert(models.Filter(must=[condition]))
