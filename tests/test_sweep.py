"""Sweeps: recall compared with numpy, recommendations, and the command `qvec eval --sweep`."""

from __future__ import annotations

import importlib
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import specification
from click.testing import Result as CommandResult
from command_line import invoke
from conftest import realistic, unit
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sweep_sources import NumberModel, write_texts, write_vectors

import qvec
import qvec.cli.evaluate_sweep
from qvec import Calibration
from qvec.codes import PLANES
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.embedding import EmbeddingOptions
from qvec.evaluation.evaluation_results import NONE, Result, Sweep, Trial
from qvec.evaluation.ground_truth import RecallTable, nearest_rows
from qvec.evaluation.metrics import Interval
from qvec.evaluation.sample import Sample
from qvec.evaluation.scan import RESCORES, SAMPLE_PRECISIONS, QuantizedSample
from qvec.evaluation.sweep import SweepOptions, pareto_front, recommend, sweep
from qvec.ingest import Reporter
from qvec.ingest.load_options import FitOptions
from qvec.postgres.layout import TableLayout
from qvec.precisions import code_table_bytes
from qvec.prefilter_levels import LEVELS
from qvec.ranges import RangeMethod
from qvec.sources import open_source

K = 10


@pytest.fixture(scope="module")
def sample() -> Sample:
    return Sample(realistic(800), realistic(40, seed=1), held_out=False, unusable=0)


def swept(folder: Path) -> Sweep:
    with open_source(write_vectors(folder / "vectors.npy", realistic(320, dimensions=128))) as source:
        return sweep(source, SweepOptions(queries=20, recall=0.8), Reporter())


@pytest.fixture
def few_calibrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweep four calibrations only, because all forty take seconds."""
    module = importlib.import_module("qvec.evaluation.sweep")
    monkeypatch.setattr(module, "THRESHOLDS", (0.25, 0.5))
    monkeypatch.setattr(module, "RANGES", (RangeMethod("quantile"), RangeMethod("minmax")))


# Measurements, against the specification of codes


@pytest.mark.sampled(7)
@pytest.mark.parametrize("oversampling", [1, 2.5, 16])
@pytest.mark.parametrize(
    ("prefilter", "rescore"), [(prefilter, rescore) for prefilter in RESCORES for rescore in RESCORES[prefilter]]
)
def test_recall_equals_numpy(sample: Sample, prefilter: str, rescore: str, oversampling: float) -> None:
    calibration = Calibration.fit(sample.rows, threshold=0.25)
    measured = QuantizedSample(sample, calibration).measure(
        prefilter, rescore, oversampling, sample.ground_truth("cosine", K)
    )
    documents, queries = unit(sample.rows), unit(sample.queries)
    truth = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :K]
    ranges = calibration.threshold, calibration.radius
    codes, query_codes = (specification.codes(rows, *ranges, cosine=True) for rows in (sample.rows, sample.queries))
    bits = (specification.levels(rows, LEVELS[prefilter]) for rows in (codes, query_codes))
    candidates = specification.nearest(specification.hamming(*bits), int(np.ceil(K * oversampling)))
    rows = documents.astype(np.float16).astype(np.float32)
    if rescore != "float16":
        kept = specification.long_codes(sample.rows, *ranges, cosine=True)
        rows = specification.decoded(kept, *ranges, calibration.deviation, PLANES[rescore])
    scores = specification.scores(rows, queries, by_length=rescore in PLANES)
    recalls, reached = [], []
    for line, near, wanted in zip(scores, candidates, truth, strict=True):
        best = near[np.argsort(-line[near], kind="stable")[:K]]
        recalls.append(len(set(best) & set(wanted)) / K)
        reached.append(len(set(near) & set(wanted)) / K)
    assert measured.recalls == pytest.approx(recalls)
    assert measured.candidates == pytest.approx(np.mean(reached))
    assert measured.recalls.mean() <= measured.candidates + 1e-12


def test_measure_all_agrees_with_measure(sample: Sample) -> None:
    truth = sample.ground_truth("ip", K)
    quantized = QuantizedSample(sample, Calibration.fit(sample.rows, metric="ip"))
    found = list(quantized.measure_all(truth))
    assert len(found) == sum(5 * len(rescores) + 1 for rescores in RESCORES.values())
    for one in found[1::4]:
        if one.oversampling is not None:
            again = quantized.measure(one.prefilter, one.rescore, one.oversampling, truth)
            assert np.array_equal(again.recalls, one.recalls)
    alone = [one for one in found if one.rescore == NONE]
    assert [one.prefilter for one in alone] == list(RESCORES)


def test_exact_search_recall_by_precision(sample: Sample) -> None:
    truth = sample.ground_truth("cosine", K)
    calibration = Calibration.fit(sample.rows)
    quantized = QuantizedSample(sample, calibration)
    means = {
        one.rescore: one.recalls.mean() for one in (quantized.measure_exact(truth, each) for each in SAMPLE_PRECISIONS)
    }
    assert means["float32"] == 1
    assert 1 >= means["int10"] > means["int8"] > means["int4"] > means["binary"] > 0.2
    scores = qvec.score(qvec.quantize(sample.rows, calibration), unit(sample.queries), calibration, 4)
    found = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    assert means["int4"] == pytest.approx(truth.recalls(found).mean())


def test_prefix_recall_is_against_all_dimensions(sample: Sample) -> None:
    truth = sample.ground_truth("cosine", K)
    cut = Calibration.fit(sample.rows, dimensions=32)
    float32 = QuantizedSample(sample, cut).measure_exact(truth, "float32")
    documents, queries = unit(sample.rows), unit(sample.queries)
    wanted = np.argsort(-(queries @ documents.T), axis=1)[:, :K]
    found = np.argsort(-(unit(queries[:, :32]) @ unit(documents[:, :32]).T), axis=1)[:, :K]
    shared = [len(set(a) & set(b)) / K for a, b in zip(wanted, found, strict=True)]
    assert float32.recalls == pytest.approx(shared)
    assert float32.recalls.mean() < 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 12))
def test_recall_table_agrees_with_ground_truth(seed: int, k: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    documents = rng.integers(-1, 2, (rows, 3)).astype(np.float32)  # few values, so that many rows tie
    queries = rng.integers(-2, 3, (4, 3)).astype(np.float32)
    truth = nearest_rows([(np.arange(rows), documents)], queries, k)
    found = np.array([rng.permutation(rows)[:k] for _ in queries])
    assert RecallTable.of(truth).recalls(found) == pytest.approx(truth.recalls(found.tolist()))


@pytest.mark.parametrize("dimensions", [64, 100])
@pytest.mark.parametrize("rescore", ["int10", "int8", "int4", "binary", "float16", "float32"])
def test_bytes_equal_table_layout(dimensions: int, rescore: str) -> None:
    for prefilter in ("binary",) if rescore == "binary" else ("binary", "ternary"):
        layout = TableLayout.of(dimensions, "bigint", rescore, prefilter)  # type: ignore[arg-type]
        stored = (layout.code_bits + layout.prefilter_bits) // 8 + layout.float_bytes
        assert code_table_bytes(dimensions, prefilter, rescore) == stored


# Recommendations


def trial(
    recalls: NDArray[np.float64],
    *,
    size: float = 480,
    oversampling: float | None = DEFAULT_OVERSAMPLING,
    threshold: float = 0.5,
    rescore: str = "int8",
    prefilter: str = "ternary",
) -> Trial:
    mean = float(recalls.mean())
    result = Result(prefilter, rescore, oversampling, True, Interval(mean, mean, mean), size, recalls=recalls)
    return Trial(FitOptions(threshold=threshold, dimensions=384), True, result, mean)


def recalls(mean: float, queries: int = 200, seed: int = 0) -> NDArray[np.float64]:
    """Recalls of queries with about this mean: multiples of a tenth, as with k = 10."""
    return np.random.default_rng(seed).binomial(10, mean, queries) / 10


def test_pareto_front() -> None:
    small, large = trial(recalls(0.5), size=100), trial(recalls(0.9), size=200)
    worse, wider = trial(recalls(0.4), size=150), trial(recalls(0.99), size=50, oversampling=16)
    alone = trial(recalls(0.99), size=10, rescore=NONE, oversampling=None)
    assert pareto_front([large, worse, small, wider, alone]) == (small, large)
    assert pareto_front([wider], oversampling=16) == (wider,)


def test_recommends_fewest_bytes_that_reach_target() -> None:
    small, middle, large = (trial(recalls(mean), size=size) for mean, size in ((0.8, 100), (0.97, 200), (0.99, 400)))
    alone = trial(recalls(1.0), size=10, rescore=NONE, oversampling=None)
    found = recommend([alone, large, small, middle], 0.95, ["a.npy"])
    assert (found.trial, found.met, found.target) == (middle, True, 0.95)
    assert found.recall.value == pytest.approx(middle.result.recalls[1::2].mean())
    assert found.recall.low <= found.recall.value <= found.recall.high


def test_recommends_larger_oversampling_only_if_needed() -> None:
    few = trial(recalls(0.9), size=99, oversampling=DEFAULT_OVERSAMPLING)
    many = trial(recalls(0.97), size=99, oversampling=8)
    most = trial(recalls(0.99), size=9, oversampling=16)
    assert recommend([few, many, most], 0.85, ["a"]).trial is few
    assert recommend([few, many, most], 0.95, ["a"]).trial is many
    assert recommend([few, most], 0.95, ["a"]).trial is most


def test_recommends_best_recall_if_target_is_missed() -> None:
    low, high = trial(recalls(0.6), size=100), trial(recalls(0.8), size=300)
    found = recommend([low, high], 0.99, ["a.npy"])
    assert (found.trial, found.met) == (high, False)


def test_target_must_be_reached_with_confidence() -> None:
    lucky = trial(np.repeat([0.6, 0.7] + 18 * [1.0], 2), size=100)
    sure = trial(np.repeat([0.9] + 19 * [1.0], 2), size=200)
    assert lucky.result.recalls[::2].mean() > 0.95
    assert recommend([lucky, sure], 0.95, ["a"]).trial is sure


def test_default_is_kept_unless_significantly_worse() -> None:
    default = recalls(0.96)
    luckier = default.copy()
    luckier[np.flatnonzero(default == 0.9)[:8]] = 1.0
    better = np.minimum(default + 0.05, 1)
    alike = [trial(default), trial(luckier, threshold=0.25)]
    assert luckier[::2].mean() > default[::2].mean()
    assert recommend(alike, 0.9, ["a"]).trial.fit.threshold == 0.5
    assert recommend([*alike, trial(better, threshold=0.75)], 0.9, ["a"]).trial.fit.threshold == 0.75


@pytest.mark.parametrize(
    ("fit", "options"),
    [
        (FitOptions(dimensions=32), {"--dimensions": "32"}),
        (FitOptions(threshold=0.25, dimensions=64), {"--threshold": "0.25"}),
        (FitOptions(metric="ip", dimensions=64), {"--metric": "ip"}),
        (FitOptions(ranges=RangeMethod("fixed", value=0.18), dimensions=64), {"--ranges": "fixed", "--range": "0.18"}),
    ],
)
def test_recommended_command_has_options_of_trial(fit: FitOptions, options: dict[str, str]) -> None:
    one = trial(recalls(0.99))
    found = recommend([Trial(fit, fit.dimensions == 64, one.result, 0.99)], 0.9, ["a file.npy", "--format", "npy"])
    words = shlex.split(found.command)
    assert words[:5] == ["qvec", "ingest", "a file.npy", "--format", "npy"]
    for name, value in options.items():
        assert words[words.index(name) + 1] == value
    assert ("--dimensions" in words) == (fit.dimensions == 32)


# Whole sweeps


def assert_complete(found: Sweep, fits: int) -> None:
    """Assert that this number of fits was measured, in all dimensions with all oversampling factors."""
    assert (found.rows, found.queries, found.k) == (300, 20, 10)
    assert len({trial.fit for trial in found.trials}) == fits
    assert {trial.dimensions for trial in found.trials} == {128, 64}
    assert {trial.result.oversampling for trial in found.trials if trial.loadable} == {
        1,
        2,
        4,
        8,
        16,
        DEFAULT_OVERSAMPLING,
    }
    float32 = {one.dimensions: one.result.recall.value for one in found.trials if one.result.rescore == "float32"}
    assert float32[128] == 1 > float32[64]
    assert found.recommendation.met
    assert set(found.pareto) <= set(found.trials)
    assert any("held-out" in note for note in found.notes)


@pytest.mark.slow
def test_sweep_tries_every_combination(tmp_path: Path) -> None:
    found = swept(tmp_path)
    assert_complete(found, fits=80)
    fits = {trial.fit for trial in found.trials}
    assert {fit.threshold for fit in fits} == {0, 0.25, 0.5, 0.75, 1}
    assert {(fit.ranges.name, fit.ranges.quantile, fit.ranges.per_dimension) for fit in fits} == {
        (name, quantile, each)
        for name, quantile in (("quantile", 0.9999), ("quantile", 0.99), ("minmax", 0.9999), ("rolling", 0.9999))
        for each in (True, False)
    }


@pytest.mark.usefixtures("few_calibrations")
def test_sweep_tries_every_combination_of_few_calibrations(tmp_path: Path) -> None:
    found = swept(tmp_path)
    assert_complete(found, fits=8)
    fits = {trial.fit for trial in found.trials}
    assert {fit.threshold for fit in fits} == {0.25, 0.5}
    assert {fit.ranges.name for fit in fits} == {"quantile", "minmax"}
    line = found.trials[5].as_dict()
    wanted = {"prefilter", "rescore", "oversampling", "recall", "bytes_per_vector", "p50_ms", "dimensions", "threshold"}
    assert wanted | {"ranges", "per_dimension", "candidates"} <= set(line)
    assert "ndcg" not in line


@pytest.mark.usefixtures("few_calibrations")
def test_same_seed_gives_same_results(tmp_path: Path) -> None:
    with open_source(write_vectors(tmp_path / "a.npy", realistic(400))) as source:
        first, again = (sweep(source, SweepOptions(rows=300, queries=40), Reporter()) for _ in range(2))
        other = sweep(source, SweepOptions(rows=300, queries=40, seed=1), Reporter())
    assert [one.as_dict() for one in first.trials] == [one.as_dict() for one in again.trials]
    assert [one.as_dict() for one in first.trials] != [one.as_dict() for one in other.trials]
    assert any("300 of 400 rows were drawn uniformly" in note for note in first.notes)
    assert "40 queries are few: figures and intervals may be off" in first.notes


@pytest.mark.usefixtures("few_calibrations")
def test_recommended_command_creates_collection_with_predicted_recall(tmp_path: Path, url: str) -> None:
    """The collection has the settings and the range method of the trial, and nearly its recall."""
    vectors, queries = realistic(2000), realistic(100, seed=1)
    source = write_vectors(tmp_path / "my vectors.npy", vectors)
    with open_source(source) as opened, open_source(write_vectors(tmp_path / "q.npy", queries)) as query_source:
        found = sweep(opened, SweepOptions(recall=0.9), Reporter(), queries=query_source)
    words = shlex.split(found.recommendation.command)
    result = invoke(*words[1:], "--db", url, "--quiet")
    assert result.exit_code == 0, result.output
    advised = found.recommendation.trial
    with qvec.connect(url) as database:
        collection = database.collection("NAME")
        assert collection.settings["rescore"] == advised.result.rescore
        assert collection.settings["prefilter"] == advised.result.prefilter
        assert collection.oversampling == advised.result.oversampling
        assert collection.calibration.description["method"] == found.calibration.description["method"]
        assert collection.calibration.threshold == pytest.approx(found.calibration.threshold, abs=1e-6)
        hits = [[hit.id for hit in line] for line in collection.search(queries, k=10)]
    exact = np.argsort(-(unit(queries) @ unit(vectors).T), axis=1)[:, :10]
    reached = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(hits, exact, strict=True)])
    assert reached == pytest.approx(advised.result.recall.value, abs=0.03)


# The command


def run(*arguments: Any) -> CommandResult:
    return invoke("eval", *arguments)


@pytest.mark.usefixtures("few_calibrations")
def test_command_prints_recommendation_and_writes_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs qvec[plots]")
    source = write_vectors(tmp_path / "a.npy", realistic(400))
    report, plot = tmp_path / "out.html", tmp_path / "out.png"
    result = run("--sweep", source, "--recall", 0.8, "--report", report, "--plot", plot)
    assert result.exit_code == 0, result.output
    assert f"wrote {report}" in result.stderr
    assert f"wrote {plot}" in result.stderr
    last = result.stdout.splitlines()[-1].strip()
    assert last.startswith(f"qvec ingest {source} --collection NAME")
    assert last.split("qvec ingest")[1].split()[0] in report.read_text(encoding="utf-8")
    assert plot.stat().st_size > 10_000


@pytest.mark.usefixtures("few_calibrations")
def test_json_output_has_a_line_for_each_configuration(tmp_path: Path) -> None:
    source = write_vectors(tmp_path / "a.npy", realistic(120))
    query_file = write_vectors(tmp_path / "q.npy", realistic(10, seed=1))
    result = run("--sweep", source, "--queries", query_file, "--rows", 100, "--encoding", "float", "--json")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    for_each_fit = sum(1 + 5 * len(rescores) for rescores in RESCORES.values())
    assert len(lines) == 4 * for_each_fit + len(SAMPLE_PRECISIONS)
    (advised,) = [line for line in lines if line["recommended"]]
    assert advised["command"].startswith(f"qvec ingest {source}")
    assert sum(line["pareto"] for line in lines) >= 2
    assert {line["p50_ms"] for line in lines} == {None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name what to measure: --collection NAME, or --sweep SOURCE"),
        (["--sweep", "a.npy", "-c", "docs"], "--collection is only for a collection, not for --sweep"),
        (["--sweep", "a.npy", "--truth", "b.npy"], "--truth is only for a collection, not for --sweep"),
        (["-c", "docs", "--rows", "5"], "--rows is only for --sweep"),
        (["-c", "docs", "--vector-column", "v"], "--vector-column is only for --sweep"),
        (["-c", "docs", "--range", "0.2"], "--range is only for --sweep"),
        (["--sweep", "missing.npy"], "no such file: missing.npy"),
    ],
)
def test_conflicting_options_fail(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.output


@pytest.mark.usefixtures("few_calibrations")
def test_recommended_command_has_vector_column(tmp_path: Path) -> None:
    rows = [{"id": at, "first": row, "second": row} for at, row in enumerate(realistic(60).tolist())]
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("--sweep", source, "--vector-column", "second", "--recall", 0.5)
    assert result.exit_code == 0, result.output
    assert f"qvec ingest {source} --vector-column second --collection NAME" in result.stdout


@pytest.mark.usefixtures("few_calibrations")
def test_recommended_command_has_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[EmbeddingOptions] = []
    monkeypatch.setattr(
        qvec.cli.evaluate_sweep, "load_embedder", lambda options: loaded.append(options) or NumberModel()
    )
    corpus = write_texts(tmp_path / "corpus.jsonl", list(map(str, range(120))))
    questions = write_texts(tmp_path / "queries.jsonl", list(map(str, range(60))))
    options = ("--model", "words", "--query-prefix", "ask: ", "--text-column", "text")
    result = run("--sweep", corpus, "--queries", questions, "--recall", 0.5, *options)
    assert result.exit_code == 0, result.output
    assert "120 rows, 60 queries" in result.stdout
    command = shlex.split(result.stdout.splitlines()[-1])
    assert command[:4] == ["qvec", "ingest", str(corpus), "--text-column"]
    assert command[command.index("--model") + 1] == "words"
    assert command[command.index("--query-prefix") + 1] == "ask: "
    assert loaded == [EmbeddingOptions("words", query_prefix="ask: ")]  # loaded once, for rows and queries
