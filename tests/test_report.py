"""The HTML report, its charts, and plots."""

from __future__ import annotations

import importlib
import itertools
import math
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import realistic
from hypothesis import given
from hypothesis import strategies as st

from qvec import Calibration
from qvec.errors import InputError, MissingExtraError
from qvec.evaluation.charts import Axis, Chart, Point, Series, axis_around, calibration_charts, charts_of
from qvec.evaluation.evaluation_results import NONE, Evaluation, Loss, Result, Sweep
from qvec.evaluation.metrics import Interval
from qvec.evaluation.plots import write_plot
from qvec.evaluation.report import evaluation_table, verdict, write_report
from qvec.evaluation.svg import draw, place_labels
from qvec.evaluation.sweep import SweepOptions, sweep
from qvec.ingest import Reporter
from qvec.sources import open_source

VECTORS = realistic(300)
CALIBRATION = Calibration.fit(VECTORS)
STATISTICS = CALIBRATION.drift(VECTORS)


def result(prefilter: str, rescore: str, oversampling: float | None, recall: float, p50: float, size: float) -> Result:
    interval = Interval(recall, recall - 0.01, min(recall + 0.01, 1))
    loss = None if prefilter == NONE else Loss(0.01, 0.02, 1 - recall - 0.03)
    exact = prefilter == NONE
    return Result(
        prefilter,
        rescore,
        oversampling,
        exact,
        interval,
        size,
        None,
        p50_ms=p50,
        p95_ms=2 * p50,
        p99_ms=3 * p50,
        loss=loss,
    )


RESULTS = (
    *(result("ternary", "int8", o, r, t, 480) for o, r, t in ((1, 0.7, 0.8), (4, 0.97, 1.1), (16, 0.995, 2.3))),
    *(result("ternary", "int4", o, r, t, 288) for o, r, t in ((1, 0.69, 0.7), (4, 0.93, 1.0), (16, 0.95, 2.0))),
    result("ternary", NONE, None, 0.7, 0.5, 96),
    result(NONE, "int8", None, 0.996, 30, 384),
)
EVALUATION = Evaluation(
    "docs & <b>more</b>", 300, 50, 10, RESULTS, CALIBRATION, "exact <float32>", 0.95, ("few & far",)
)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep of six of the forty calibrations."""
    path = tmp_path_factory.mktemp("report") / "vectors.npy"
    np.save(path, realistic(400, dimensions=128))
    module = importlib.import_module("qvec.evaluation.sweep")
    with pytest.MonkeyPatch.context() as patch, open_source(path) as source:
        patch.setattr(module, "THRESHOLDS", (0.0, 0.5, 1.0))
        patch.setattr(module, "RANGES", module.RANGES[:2])
        return sweep(source, SweepOptions(queries=50, recall=0.8), Reporter())


class Page(HTMLParser):
    """A parsed page: its tags, which must be closed in order, the URLs that a browser would fetch, and its text."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.cells: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.open[-1] == "td":
            self.cells.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def page_of(found: Evaluation | Sweep, tmp_path: Path, **options: object) -> tuple[Page, str]:
    path = tmp_path / "out.html"
    write_report(path, found, **options)  # type: ignore[arg-type]
    html = path.read_text(encoding="utf-8")
    return Page(html), html


# The page


def test_page_needs_neither_network_nor_scripts(tmp_path: Path, swept: Sweep) -> None:
    for found in (EVALUATION, swept):
        page, html = page_of(found, tmp_path)
        assert page.open == []
        assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
        assert page.fetched == []
        assert not re.search(r"url\(|@import|http:|https:", html)


def test_page_colours_have_contrast_in_light_and_dark(tmp_path: Path) -> None:
    _, html = page_of(EVALUATION, tmp_path)
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport" content="width=device-width' in html
    light, dark = (dict(re.findall(r"--(\w+): (#\w+)", block)) for block in re.findall(r":root \{(.*?)\}", html, re.S))
    assert set(light) == set(dark)
    for colours, backgrounds in ((light, ("card", "paper")), (dark, ("card", "paper"))):
        for name in set(colours) - {"card", "paper", "line"}:
            for background in backgrounds:
                assert contrast(colours[name], colours[background]) >= 4.5, f"{name} on {background}"


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of WCAG 2."""
    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_names_are_escaped(tmp_path: Path) -> None:
    page, _ = page_of(EVALUATION, tmp_path)
    assert "b" not in page.tags
    assert "Recall of docs & <b>more</b>" in page.text
    assert "exact <float32>" in page.text
    assert "few & far" in page.text


def test_every_value_is_in_a_table(tmp_path: Path) -> None:
    page, _ = page_of(EVALUATION, tmp_path, statistics=STATISTICS)
    for one in RESULTS:
        assert {f"{100 * one.recall.value:.1f}%", f"{one.p50_ms:.2f}", f"{one.bytes_per_vector:,.0f}"} <= set(
            page.cells
        )
    for dimension in (0, 63):
        assert f"{CALIBRATION.radius[dimension]:.4g}" in page.cells
        assert f"{100 * STATISTICS.bit_balance[dimension]:.1f}%" in page.cells
    for title in ("against bytes", "against time", "against oversampling", "Ranges of the", "Bit balance of the"):
        assert title in page.text


def test_judged_metrics_are_shown_if_measured(tmp_path: Path) -> None:
    assert "nDCG@10" not in page_of(EVALUATION, tmp_path)[0].text
    judged = replace(EVALUATION, results=tuple(replace(one, ndcg=Interval(0.4, 0.3, 0.5)) for one in RESULTS))
    page, _ = page_of(judged, tmp_path)
    assert "nDCG@10" in page.text
    assert "40.00%" in page.cells


def test_comparison_is_shown(tmp_path: Path) -> None:
    recalls = [np.full(50, 0.9), np.concatenate([np.full(20, 0.8), np.full(30, 0.9)])]
    pair = [replace(one, recalls=each) for one, each in zip(RESULTS[1:3], recalls, strict=True)]
    found = replace(EVALUATION, results=(*pair, *RESULTS[3:]))
    compared = found.compare("ternary/int8/4", "ternary/int8/16")
    page, _ = page_of(found, tmp_path, comparison=compared)
    assert "ternary/int8/4 − ternary/int8/16: recall@10 +4.00 points (" in page.text
    assert "higher in 20 queries, lower in 0, equal in 30." in page.text
    assert compared.as_dict()["p_value"] < 0.001


def test_unknown_values_are_omitted(tmp_path: Path) -> None:
    untimed = tuple(replace(one, p50_ms=None, p95_ms=None, p99_ms=None, loss=None) for one in RESULTS[:1])
    page, _ = page_of(replace(EVALUATION, results=untimed, calibration=None, notes=()), tmp_path)
    assert "against time" not in page.text
    assert "Ranges of the" not in page.text
    assert "–" in page.cells
    codes = replace(STATISTICS, clip_rate=np.full(64, np.nan, np.float32))
    assert not any("nan" in cell for cell in page_of(EVALUATION, tmp_path, statistics=codes)[0].cells)


def test_sweep_page_shows_recommendation(tmp_path: Path, swept: Sweep) -> None:
    page, _ = page_of(swept, tmp_path)
    assert verdict(swept) in page.text
    assert "".join(page.words).count("qvec ingest") == 1
    command = "".join(page.words).split("qvec ingest")[1].split("\n")[0]
    assert "qvec ingest" + command == swept.recommendation.command
    for one in swept.pareto:
        assert f"{100 * one.result.recall.value:.1f}%" in page.cells


def test_verdict_for_missed_target(swept: Sweep) -> None:
    assert verdict(swept).startswith("Use ")
    unmet = replace(swept, recommendation=replace(swept.recommendation, met=False, target=0.999))
    assert verdict(unmet).startswith("Nothing that was tried is sure to reach 99.9%.")


def test_unwritable_page_raises(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cannot write the report .*none/out\.html: No such file or directory$"):
        write_report(tmp_path / "none" / "out.html", EVALUATION)


# Charts


def test_points_lie_within_axes(swept: Sweep) -> None:
    for chart in (*charts_of(EVALUATION, STATISTICS), *charts_of(swept, None)):
        assert chart.series
        for series in chart.series:
            for point in series.points:
                assert 0 <= chart.x.position(point.x) <= 1, chart.title
                assert 0 <= chart.y.position(point.y) <= 1, chart.title


def test_scans_are_in_table_but_not_in_charts() -> None:
    scanned = replace(RESULTS[0], exact=True, recall=Interval(0.123, 0.1, 0.2))
    found = replace(EVALUATION, results=(*RESULTS, scanned))
    points = [point for chart in charts_of(found, None)[:3] for series in chart.series for point in series.points]
    assert not any(point.y == 0.123 for point in points)
    assert any("12.3%" in row and "scan" in row for row in evaluation_table(found).rows)


def test_oversampling_chart_has_a_line_for_each_precision() -> None:
    chart = next(one for one in charts_of(EVALUATION, None) if "oversampling" in one.title)
    assert {one.name: [point.x for point in one.points] for one in chart.series} == {
        "int8 after ternary": [1, 4, 16],
        "int4 after ternary": [1, 4, 16],
    }


def test_loss_chart_shows_configured_search() -> None:
    chart = next(one for one in charts_of(EVALUATION, None) if "lost" in one.title)
    lines = {one.name: [(point.x, point.y) for point in one.points] for one in chart.series}
    own = [one for one in RESULTS if one.rescore == "int8" and one.oversampling]
    assert lines == {
        "the index": [(one.oversampling, 0.01) for one in own],
        "the prefilter": [(one.oversampling, 0.02) for one in own],
        "the precision": [(one.oversampling, 1 - one.recall.value - 0.03) for one in own],
    }
    unknown = [replace(one, loss=Loss(None, 0.1, 0.2)) for one in own]
    chart = next(one for one in charts_of(replace(EVALUATION, results=tuple(unknown)), None) if "lost" in one.title)
    assert [one.name for one in chart.series] == ["the prefilter", "the precision"]


def test_bit_balance_counts_every_dimension() -> None:
    chart = calibration_charts(CALIBRATION, STATISTICS)[-1]
    assert sum(point.y for point in chart.series[0].points) == 64


def test_charts_of_one_dimension() -> None:
    one = Calibration.fit(VECTORS[:, :1], metric="ip")
    for chart in calibration_charts(one, one.drift(VECTORS[:, :1])):
        ElementTree.fromstring(draw(chart))


AXES = st.builds(
    lambda label, low, span, kind: Axis(label, low, low + span, kind),
    st.just("x"),
    st.floats(0.01, 1e4),
    st.floats(0.01, 1e5),
    st.sampled_from(["linear", "log", "doubling"]),
) | st.builds(lambda low: Axis("recall", low, 1, "recall"), st.floats(0, 0.95))


@given(AXES)
def test_ticks_are_sorted_and_apart(axis: Axis) -> None:
    positions = [axis.position(value) for value, _ in axis.ticks()]
    assert positions == sorted(positions)
    assert all(-1e-6 <= position <= 1 + 1e-6 for position in positions)
    assert all(later - earlier >= 0.069 for earlier, later in itertools.pairwise(positions))


def test_tick_labels() -> None:
    assert [text for _, text in Axis("", 0.5, 1, "recall").ticks()] == [
        "50%",
        "60%",
        "70%",
        "80%",
        "90%",
        "95%",
        "99%",
        "100%",
    ]
    assert [text for _, text in Axis("", 1, 16, "doubling").ticks()] == ["1", "2", "4", "8", "16"]
    assert [text for _, text in Axis("", 90, 1100, "log").ticks()] == ["100", "200", "300", "500", "1,000"]
    assert [text for _, text in Axis("", 0.09, 0.22, "log").ticks()] == ["0.1", "0.15", "0.2"]
    assert [text for _, text in Axis("", 0, 1, "share").ticks()] == ["0%", "20%", "40%", "60%", "80%", "100%"]


@given(st.floats(0, 0.99), st.floats(0, 1), st.floats(0, 1))
def test_recall_axis_is_monotonic_and_stretches_the_top(low: float, first: float, second: float) -> None:
    axis = Axis("recall", low, 1.0, "recall")
    if first < second - 1e-9:
        assert axis.position(first) < axis.position(second)
    assert axis.position(1) == pytest.approx(1)
    assert axis.position(1 - (1 - low) / 4) == pytest.approx(0.5)


def test_points_are_drawn_at_their_positions() -> None:
    points = (Point(0, 0), Point(5, 0.5, tooltip="half & half"), Point(10, 1))
    chart = Chart("t < u", "", Axis("x", 0, 10), Axis("y", 0, 1), (Series("a", points),))
    tree = ElementTree.fromstring(draw(chart))
    assert tree.get("aria-label") == "t < u"
    centres = {(float(c.get("cx", "")), float(c.get("cy", ""))) for c in tree.iter("circle")}
    left, right = min(centres)[0], max(centres)[0]
    bottom, top = max(y for _, y in centres), min(y for _, y in centres)
    assert centres == {(left, bottom), (right, top), ((left + right) / 2, (bottom + top) / 2)}
    assert 0 < left < right < 480
    assert 0 < top < bottom < 320
    assert [title.text for title in tree.iter("title")] == ["half & half"]
    line = tree.find(".//polyline")
    assert line is not None
    assert line.get("points", "").split()[1] == f"{(left + right) / 2:.1f},{(bottom + top) / 2:.1f}"


def test_sweep_charts_use_every_series_style(swept: Sweep) -> None:
    styles = {series.style for chart in charts_of(swept, None) for series in chart.series}
    assert styles == {"line", "dots", "curve", "bars", "band"}


@given(st.lists(st.tuples(st.floats(60, 420), st.floats(20, 250)), min_size=1, max_size=4, unique=True))
def test_labels_cover_no_marker_if_there_is_room(points: list[tuple[float, float]]) -> None:
    has_room = all(math.dist(a, b) > 120 for at, a in enumerate(points) for b in points[:at])
    labels = list(place_labels([(x, y, "int8") for x, y in points], (0, 0, 480, 320)))
    assert [label.text for label in labels] == ["int8"] * len(points)
    if has_room:
        for label in labels:
            left, top, right, bottom = label.box()
            assert not any(left < x < right and top < y < bottom for x, y in points)


def test_two_labels_side_by_side_do_not_overlap() -> None:
    first, second = place_labels([(200, 100, "int8 / ternary"), (215, 103, "int8 / binary")], (0, 0, 480, 320))
    a, b = first.box(), second.box()
    assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


def test_axis_around_one_value_has_length() -> None:
    for kind in ("linear", "log", "doubling", "recall"):
        axis = axis_around("x", [0.5], kind)  # type: ignore[arg-type]
        assert 0 < axis.position(0.5) < 1


# The plot


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "begins"), [("out.png", b"\x89PNG\r\n\x1a\n"), ("out.svg", b"<?xml"), ("out.pdf", b"%PDF")]
)
def test_plot_formats(tmp_path: Path, swept: Sweep, name: str, begins: bytes) -> None:
    pytest.importorskip("matplotlib", reason="needs qvec[plots]")
    path = tmp_path / name
    write_plot(path, swept)
    assert path.read_bytes().startswith(begins)
    write_plot(path, EVALUATION, STATISTICS)
    assert path.read_bytes().startswith(begins)


def test_unknown_plot_format_raises(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs qvec[plots]")
    with pytest.raises(InputError, match=r"^cannot write the plot .*out\.doc: "):
        write_plot(tmp_path / "out.doc", EVALUATION)


def test_missing_matplotlib_error_names_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"^matplotlib is not installed; run: pip install 'qvec\[plots\]'$"):
        write_plot(tmp_path / "out.png", EVALUATION)
