"""Learned bits: signs of a linear projection for the prefilter, made from a sample of vectors (`qvec adapt`).

Rotations need only numpy; training needs torch (the extra `models`), imported when it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvec.calibration import Calibration
from qvec.codes import Codes, code_bytes, hamming_top_k, learned, levels, quantize
from qvec.errors import InputError, MissingExtraError
from qvec.ingest.load_options import Reporter
from qvec.prefilter_levels import DEFAULT_PREFILTER, LEVELS
from qvec.projection import quantize_projection
from qvec.training.initial_projection import Projection, itq, projection_from, random_rotation
from qvec.training.learned_bits_data import Floats, SampleSplit, VectorPairs, split_sample

AdaptMethod = Literal["learned", "itq", "rotation"]

Bits = Callable[[Codes], Codes]
"""Maps codes of 8 planes to the bits that a prefilter compares."""

TRAINING_ROWS = 10_000
"""Maximum rows to learn from: more help little, and the search for their neighbours takes time in their square."""
K = 10
CANDIDATES = (20, 40)


@dataclass(frozen=True)
class AdaptOptions:
    """How bits are made. bits: their number; None is twice the dimensions, as many as ternary has."""

    bits: int | None = None
    method: AdaptMethod = "learned"
    steps: int = 800
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(AdaptMethod):
            raise InputError(f"method is {self.method!r}, expected one of: {', '.join(get_args(AdaptMethod))}")
        if self.bits is not None and (self.bits < 8 or self.bits % 8):
            raise InputError(f"bits is {self.bits}, expected a multiple of 8, at least 8")
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}, expected at least 1")


@dataclass(frozen=True)
class CandidateRecall:
    """The share of the exact 10 nearest rows among the 20 and the 40 nearest rows by bits."""

    of_20: float
    of_40: float

    @property
    def mean(self) -> float:
        return (self.of_20 + self.of_40) / 2


@dataclass(frozen=True)
class MeasuredBits:
    """A kind of bits, their number, and their recall on the test queries."""

    name: str
    bits: int
    recall: CandidateRecall


@dataclass(frozen=True)
class AdaptResult:
    """A calibration with learned bits, and the recall of other bits (before) and learned bits (after).

    queries: the number of test queries. rows: of rows to learn from and to search. pairs: of pairs to learn from.
    """

    calibration: Calibration
    before: tuple[MeasuredBits, ...]
    after: MeasuredBits
    queries: int
    rows: int
    pairs: int

    @property
    def gains(self) -> bool:
        """Whether the learned bits beat all bits of the calibration itself that are no longer (or its sign bits)."""
        bits = max(self.after.bits, min(other.bits for other in self.before))
        return all(self.after.recall.mean > other.recall.mean for other in self.before if other.bits <= bits)

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        recall = [{"name": each.name, "bits": each.bits, **asdict(each.recall)} for each in (*self.before, self.after)]
        counts = {"queries": self.queries, "rows": self.rows, "pairs": self.pairs}
        return {"gains": self.gains, **counts, "recall": recall}


class RecallEvaluator:
    """Measures the recall of bits with queries (m, D) that search rows (n, D)."""

    def __init__(self, rows: Floats, queries: Floats, calibration: Calibration) -> None:
        self._rows = quantize(rows, calibration)
        prepared = calibration.prepared(queries)
        self._queries = quantize(calibration.for_prefilter(prepared), calibration)
        similarities = prepared @ calibration.prepared(rows).T
        self._exact = np.argpartition(-similarities, K, axis=1)[:, :K]

    def recall(self, bits: Bits) -> CandidateRecall:
        found, _ = hamming_top_k(bits(self._rows), bits(self._queries), max(CANDIDATES))
        return CandidateRecall(*(self._recall(found[:, :count]) for count in CANDIDATES))

    def _recall(self, found: NDArray[np.int64]) -> float:
        hits = (self._exact[:, :, None] == found[:, None, :]).any(axis=2)
        return float(hits.mean())


def adapt(
    sample: ArrayLike,
    calibration: Calibration,
    options: AdaptOptions | None = None,
    queries: ArrayLike | None = None,
    reporter: Reporter | None = None,
    pairs: VectorPairs | None = None,
) -> AdaptResult:
    """Make learned bits for a calibration from a uniform sample of vectors (n, D).

    Some queries are held out: of `queries` (m, D) if given, else of the queries of `pairs`, else of the sample. One
    part selects the best of the candidate bits, the other measures them. The method learned trains from the better of
    ITQ and the calibration's own bits, and selects among the three. Pairs are learned from unless their query is held
    out. Raise InputError for too few rows or queries, MissingExtraError if torch is needed and not installed.
    """
    options, reporter = options or AdaptOptions(), reporter or Reporter()
    split = split_sample(sample, calibration, options.seed, queries, pairs)
    bits = options.bits or 2 * 8 * code_bytes(calibration.dimensions, 1)
    rows = calibration.prepared(split.rows[:TRAINING_ROWS])
    selection = RecallEvaluator(split.rows, split.selection_queries, calibration)
    description = {"rows": len(split.rows), "seed": options.seed}
    projections = _untrained_projections(rows - calibration.threshold, bits, options, reporter)
    candidates = {
        name: _with_projection(calibration, projection, {"method": name, **description})
        for name, projection in projections.items()
    }
    if options.method == "learned":
        start = projections[_select(candidates, selection)]
        description |= {"steps": options.steps} | ({"pairs": len(split.pairs)} if len(split.pairs) else {})
        projection = _train(start, rows, split, calibration, options, reporter)
        candidates["learned"] = _with_projection(calibration, projection, {"method": "learned", **description})
    best = _select(candidates, selection)
    test = RecallEvaluator(split.rows, split.test_queries, calibration)
    return AdaptResult(
        candidates[best],
        tuple(_measure_own_bits(calibration, test)),
        MeasuredBits(best, bits, test.recall(_learned_bits(candidates[best]))),
        len(split.test_queries),
        len(split.rows),
        len(split.pairs),
    )


def _untrained_projections(
    centred: Floats, bits: int, options: AdaptOptions, reporter: Reporter
) -> dict[str, Projection]:
    dimensions = centred.shape[1]
    count = min(bits, dimensions)
    if options.method == "rotation":
        directions = random_rotation(dimensions, options.seed)[:count]
        return {"rotation": projection_from(directions, centred, bits)}
    reporter.say(f"iterative quantization: {count} directions of {len(centred):,} rows")
    projections = {"itq": projection_from(itq(centred, count, options.seed), centred, bits)}
    if options.method == "learned" and bits >= dimensions:
        projections["own"] = projection_from(np.eye(dimensions, dtype=np.float32), centred, bits)
    return projections


def _train(
    start: Projection,
    rows: Floats,
    split: SampleSplit,
    calibration: Calibration,
    options: AdaptOptions,
    reporter: Reporter,
) -> Projection:
    try:
        from qvec.training.learned_bits_training import build_dataset, train_projection
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", "models") from error
    if len(split.pairs):
        reporter.say(f"learning from {len(split.pairs):,} pairs whose queries are not held out")
    queries, pair_queries = (
        calibration.for_prefilter(calibration.prepared(each)) for each in (split.queries, split.pairs.queries)
    )
    pairs = VectorPairs(pair_queries, calibration.prepared(split.pairs.documents))
    dataset = build_dataset(rows, calibration.threshold, queries, pairs)
    reporter.stage("learning", options.steps)
    projection = train_projection(
        start, dataset, options.steps, options.seed, lambda step: reporter.advance("learning", step)
    )
    reporter.finish("learning")
    return projection


def _with_projection(calibration: Calibration, projection: Projection, description: dict[str, Any]) -> Calibration:
    return calibration.with_learned(
        *quantize_projection(projection.weights, projection.bias, calibration.radius), description
    )


def _select(candidates: dict[str, Calibration], evaluator: RecallEvaluator) -> str:
    return max(candidates, key=lambda name: evaluator.recall(_learned_bits(candidates[name])).mean)


def _learned_bits(calibration: Calibration) -> Bits:
    return lambda codes: learned(codes, calibration)


def _measure_own_bits(calibration: Calibration, evaluator: RecallEvaluator) -> Iterator[MeasuredBits]:
    """Measure the bits of prefilters that need no learning, up to the default one."""
    width = code_bytes(calibration.dimensions, 1)
    for name in ("binary", "ternary", DEFAULT_PREFILTER):
        count = LEVELS[name]
        recall = evaluator.recall(partial(levels, calibration=calibration, count=count))
        yield MeasuredBits(name, 8 * width * (count - 1), recall)
