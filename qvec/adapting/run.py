"""`qvec adapt`: learned bits for a calibration, from a sample of vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvec.adapting.directions import Floats, Projection, identity, itq, rotation, with_levels
from qvec.adapting.held_out import Bits, HeldOut, Recall
from qvec.adapting.pairs import Pairs
from qvec.adapting.parts import Parts, split
from qvec.calibration import Calibration
from qvec.codes import code_bytes, learned, ternary
from qvec.errors import InputError, MissingExtraError
from qvec.ingest.load_options import Reporter
from qvec.projection import whole

Method = Literal["learned", "itq", "rotation"]

TRAINING_ROWS = 10_000
"""More than these teach hardly more, and the search for their neighbours grows with their square."""


@dataclass(frozen=True)
class AdaptOptions:
    """How bits are made. `bits` None: twice the dimensions, as many as ternary has."""

    bits: int | None = None
    method: Method = "learned"
    steps: int = 800
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise InputError(f"method is {self.method!r}, expected one of: {', '.join(get_args(Method))}")
        if self.bits is not None and (self.bits < 8 or self.bits % 8):
            raise InputError(f"bits is {self.bits}, expected a multiple of 8, at least 8")
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}, expected at least 1")


@dataclass(frozen=True)
class Figures:
    """One way to make bits, and its recall on held-out queries."""

    name: str
    bits: int
    recall: Recall


@dataclass(frozen=True)
class Adapted:
    """A calibration with learned bits, and what was measured: sign and ternary bits before, the learned ones after."""

    calibration: Calibration
    before: tuple[Figures, ...]
    after: Figures
    queries: int
    rows: int
    pairs: int
    """Those learned from."""

    @property
    def gains(self) -> bool:
        """Whether the bits find more than those of the calibration itself that take no more bytes, or its fewest."""
        bits = max(self.after.bits, min(other.bits for other in self.before))
        return all(self.after.recall.mean > other.recall.mean for other in self.before if other.bits <= bits)

    def as_dict(self) -> dict[str, Any]:
        figures = [{"name": each.name, "bits": each.bits, **asdict(each.recall)} for each in (*self.before, self.after)]
        counts = {"queries": self.queries, "rows": self.rows, "pairs": self.pairs}
        return {"gains": self.gains, **counts, "recall": figures}


def adapt(
    sample: ArrayLike,
    calibration: Calibration,
    options: AdaptOptions | None = None,
    queries: ArrayLike | None = None,
    reporter: Reporter | None = None,
    pairs: Pairs | None = None,
) -> Adapted:
    """Makes learned bits from a uniform sample of vectors (n, D), which `calibration` takes.

    Of real `queries` (m, D), without them of the queries of `pairs`, without these of the sample, some are held out: on
    the first part the best of the bits that the method makes is chosen, on the second it is measured. `learned` begins
    with the better of ITQ and the calibration's own bits, and keeps the best of the three. Pairs whose query is not
    held out are learned from. Raises InputError for too few rows, MissingExtraError without torch where it is needed.
    """
    options, reporter = options or AdaptOptions(), reporter or Reporter()
    parts = split(sample, calibration, options.seed, queries, pairs)
    bits = options.bits or 2 * 8 * code_bytes(calibration.dimensions, 1)
    choosing, measuring = (HeldOut(parts.rows, asked, calibration) for asked in (parts.choosing, parts.measuring))
    found: dict[str, Calibration] = {}
    for name, projection in _projections(parts, calibration, bits, options, choosing, reporter):
        how = {"method": name, "rows": len(parts.rows), "seed": options.seed}
        if name == "learned":
            how |= {"steps": options.steps} | ({"pairs": len(parts.pairs)} if len(parts.pairs) else {})
        found[name] = calibration.with_learned(*_whole(projection, calibration), how)
    best = max(found, key=lambda name: choosing.recall(_bits(found[name])).mean)
    return Adapted(
        found[best],
        tuple(_own(calibration, measuring)),
        Figures(best, bits, measuring.recall(_bits(found[best]))),
        len(parts.measuring),
        len(parts.rows),
        len(parts.pairs),
    )


def _projections(
    parts: Parts, calibration: Calibration, bits: int, options: AdaptOptions, choosing: HeldOut, reporter: Reporter
) -> Iterator[tuple[str, Projection]]:
    """The projections to choose from, by the name of what made them."""
    rows = calibration.prepared(parts.rows[:TRAINING_ROWS])
    centred = rows - calibration.threshold
    dimensions = calibration.dimensions
    count = min(bits, dimensions)
    if options.method == "rotation":
        yield "rotation", with_levels(rotation(dimensions, options.seed)[:count], centred, bits)
        return
    reporter.say(f"iterative quantization: {count} directions of {len(rows):,} rows")
    starts = {"itq": with_levels(itq(centred, count, options.seed), centred, bits)}
    if options.method == "learned" and bits >= dimensions:
        starts["own"] = with_levels(identity(dimensions), centred, bits)
    yield from starts.items()
    if options.method == "learned":
        adapted = {name: calibration.with_learned(*_whole(start, calibration), {}) for name, start in starts.items()}
        best = max(starts, key=lambda name: choosing.recall(_bits(adapted[name])).mean)
        yield "learned", _learn(starts[best], rows, calibration, parts, options, reporter)


def _learn(
    start: Projection,
    rows: Floats,
    calibration: Calibration,
    parts: Parts,
    options: AdaptOptions,
    reporter: Reporter,
) -> Projection:
    try:
        from qvec.adapting.learning import learn, material
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", "models") from error
    if len(parts.pairs):
        reporter.say(f"learning from {len(parts.pairs):,} pairs, whose queries measure nothing")
    reporter.stage("learning", options.steps)
    asked, of_pairs = map(calibration.for_prefilter, map(calibration.prepared, (parts.asked, parts.pairs.queries)))
    paired = Pairs(of_pairs, calibration.prepared(parts.pairs.documents))
    given = material(rows, calibration.threshold, asked, paired)
    done = learn(start, given, options.steps, options.seed, lambda step: reporter.advance("learning", step))
    reporter.finish("learning")
    return done


def _whole(projection: Projection, calibration: Calibration) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    return whole(projection.weights, projection.bias, calibration.radius)


def _bits(calibration: Calibration) -> Bits:
    return lambda codes: learned(codes, calibration)


def _own(calibration: Calibration, held_out: HeldOut) -> Iterator[Figures]:
    """The bits that the codes hold already."""
    width = code_bytes(calibration.dimensions, 1)
    yield Figures("binary", 8 * width, held_out.recall(lambda codes: codes[:, :width]))
    yield Figures("ternary", 16 * width, held_out.recall(lambda codes: ternary(codes, calibration)))
