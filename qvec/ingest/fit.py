"""Fitting a calibration to a source: a uniform sample of its usable rows, and fit options that suit its codec."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec import _native
from qvec.arrays import Vectors
from qvec.calibration import Calibration
from qvec.codecs import FLOAT, Codec
from qvec.embedding import Embedder, EmbeddingOptions, check_cut, load_embedder
from qvec.errors import CalibrationError, InputError
from qvec.ingest.encoder import NO_TEXT, embed_texts
from qvec.ingest.load_options import FitOptions, OnError, Reporter
from qvec.ranges import RangeMethod
from qvec.sampling import Screen
from qvec.sources import Source

TEXT_SAMPLE = 2_000
"""Texts that are embedded for a calibration; the load reuses their vectors."""


def check_fit_options(calibration: Calibration, fit: FitOptions) -> None:
    """Raise CalibrationError where a fit option, set to other than its default, contradicts the calibration in use."""
    default, method = FitOptions(), calibration.description.get("method", {})
    for option, asked, unasked, found in (
        ("--metric", fit.metric, default.metric, calibration.metric),
        ("--threshold", fit.threshold, default.threshold, method.get("threshold")),
        ("--ranges", fit.ranges.name, default.ranges.name, method.get("name")),
        ("--dimensions", fit.dimensions, default.dimensions, calibration.dimensions),
    ):
        if found is not None and asked not in (unasked, found):
            raise CalibrationError(
                f"{option} is {asked}, but calibration {calibration.id} has {found}, and a fitted calibration never "
                "changes; leave the option out, or load into a new collection"
            )


def load_embedder_for(source: Source, embedding: EmbeddingOptions) -> Embedder | None:
    """Return the model that embeds the source's texts; None where the source has vectors."""
    if source.dimensions is not None:
        return None
    if not source.has_text:
        raise InputError(f"{source.name} has neither vectors nor text; name a column: --vector-column or --text-column")
    if embedding.model is None:
        raise InputError(f"{source.name} has text but no vectors; name a model that embeds it: --model NAME")
    return load_embedder(embedding)


def fit_source(
    source: Source,
    embedder: Embedder | None,
    fit: FitOptions,
    model: str | None,
    reporter: Reporter,
    on_error: OnError = "skip",
) -> tuple[Calibration, dict[int, NDArray[np.float32]]]:
    """Return a calibration fitted to a uniform sample of the whole source, and the vectors embedded for it by source
    row.

    Raise InputError at the first unusable row, unless those are skipped, and where no row is usable.
    """
    fit = fit_for(source.codec, fit)
    usable, embedded = sample_source(source, embedder, fit, reporter, on_error)
    calibration = fit_sample(usable, fit, model, reporter)
    return calibration, embedded


def sample_source(
    source: Source, embedder: Embedder | None, fit: FitOptions, reporter: Reporter, on_error: OnError = "skip"
) -> tuple[Vectors, dict[int, NDArray[np.float32]]]:
    """Return the usable rows of a uniform sample of the whole source, and the vectors embedded for it by source row.

    Raise InputError as `fit_source` does.
    """
    screen = FitScreen(source, fit, stop=on_error == "stop")
    embedded: dict[int, NDArray[np.float32]] = {}
    if embedder is None:
        usable = _sample_vectors(source, fit, reporter, screen)
        if source.codec == FLOAT and look_quantized(usable):
            reporter.say(
                f"Warning: all values of {source.name} are whole numbers of 8 bits, read as floats; if they were "
                "quantized, name how: --encoding int8, uint8, ubinary, binary, …"
            )
    else:
        check_cut(embedder.options, fit.dimensions)
        usable, embedded = _sample_texts(source, embedder, fit, reporter, screen)
    if not len(usable):
        first = f"; the first is not: {screen.first}" if screen.count else ""
        raise InputError(f"{source.name} has no usable rows to calibrate on{first}")
    if screen.count:
        reporter.say(f"unusable rows left out: {screen.count:,}, the first of them {screen.first}")
    return usable, embedded


def fit_sample(usable: Vectors, fit: FitOptions, model: str | None, reporter: Reporter) -> Calibration:
    """Return a calibration fitted to rows that are already drawn."""
    calibration = Calibration.fit(
        usable,
        metric=fit.metric,
        threshold=fit.threshold,
        ranges=fit.ranges,
        dimensions=fit.dimensions,
        model=model,
        sample_size=fit.sample_size,
        seed=fit.seed,
        drawn="uniform",
    )
    method = calibration.description["method"]
    reporter.say(
        f"calibration {calibration.id}: {method['name']} ranges, threshold {method['threshold']:g} of the mean, "
        f"from {len(usable):,} rows drawn uniformly"
    )
    return calibration


def _sample_vectors(source: Source, fit: FitOptions, reporter: Reporter, screen: Screen) -> Vectors:
    reporter.stage("sampling", source.rows)
    sample = source.sample(fit.sample_size, fit.seed, lambda done: reporter.advance("sampling", done), screen)
    reporter.finish("sampling")
    assert sample is not None
    return sample


def _sample_texts(
    source: Source, embedder: Embedder, fit: FitOptions, reporter: Reporter, screen: Screen
) -> tuple[NDArray[np.float32], dict[int, NDArray[np.float32]]]:
    """Return usable vectors (n, d) of a uniform sample of the source's texts, and all embedded ones by source row."""
    generator = random.Random(fit.seed)
    size = min(fit.sample_size, TEXT_SAMPLE)
    drawn = heapq.nsmallest(size, ((generator.random(), row, text) for row, text in _texts(source, screen)))
    texts = dict(sorted((row, text) for _, row, text in drawn))
    reporter.stage("sampling", len(texts))
    vectors, reasons = embed_texts(embedder, list(texts.values()), lambda done: reporter.advance("sampling", done))
    reporter.finish("sampling")
    rows = np.array(list(texts), np.int64)
    found = np.setdiff1d(np.arange(len(rows)), list(reasons))
    unembedded = {int(rows[position]): reason for position, reason in reasons.items()}
    usable = screen.kept(vectors[found], rows[found], unembedded)
    return usable, {int(rows[position]): vectors[position] for position in found}


def _texts(source: Source, screen: Screen) -> Iterator[tuple[int, str]]:
    for batch in source.batches():
        documents = [None] * len(batch.rows) if batch.documents is None else batch.documents.to_pylist()
        texts = dict(zip(batch.rows.tolist(), documents, strict=True))
        screen.leave_out({**batch.reasons, **{row: NO_TEXT for row, text in texts.items() if text is None}})
        yield from ((row, text) for row, text in texts.items() if text is not None)


class FitScreen(Screen):
    """Accepts rows that can be quantized. The first other one raises InputError, as it would in a load, or all others
    are counted."""

    def __init__(self, source: Source, fit: FitOptions, *, stop: bool) -> None:
        self.count = 0
        self.first = ""
        """The place of the first row left out, and why."""
        self._source = source
        self._fit = fit
        self._stop = stop

    def faults(self, vectors: NDArray[Any]) -> dict[int, str]:
        cut, width = self._fit.dimensions, vectors.shape[1]
        dimensions = cut if cut and 0 < cut < width else width
        return dict(_native.bad_rows(vectors, dimensions, self._fit.metric == "cosine"))

    def left_out(self, row: int, reason: str) -> None:
        self.count += 1
        if self.count == 1:
            self.first = f"{self._source.where(row)}: {reason}"
        if self._stop:
            raise InputError(self.first)


def fit_for(codec: Codec, fit: FitOptions) -> FitOptions:
    """Return fit options with the defaults that suit the codec.

    Bits were decided at zero. Integers get ranges that clip none of them: unless they span more than 8 bits, the steps
    are no wider than those of the integers, so that different integers get different codes.
    """
    default = FitOptions()
    if codec.bits and fit.threshold == default.threshold:
        return replace(fit, threshold=0.0)
    if codec.quantized and not codec.bits and fit.ranges == default.ranges:
        return replace(fit, ranges=RangeMethod("minmax"))
    return fit


def settings_for(codec: Codec) -> dict[str, Any]:
    """Return default settings of a new collection: of bits there is nothing to keep but the bits."""
    return {"rescore": "binary"} if codec.bits else {}


def look_quantized(vectors: Vectors) -> bool:
    """Return whether all floats (n, d) are values of int8 or uint8, which no model returns."""
    if not vectors.size:
        return False
    low, high = vectors.min(), vectors.max()
    of_8_bits = -128 <= low <= high <= 127 or 0 <= low <= high <= 255
    return of_8_bits and bool((vectors == np.rint(vectors)).all())


def check_threshold(calibration: Calibration, codec: Codec, name: str) -> None:
    """Raise CalibrationError where bits would be compared with another threshold than zero."""
    if codec.bits and calibration.threshold.any():
        raise CalibrationError(
            f"{name} holds bits ({codec.name}), which were decided at 0, but calibration {calibration.id} has another "
            "threshold; load into a new collection, without a calibration or with one fitted with --threshold zero"
        )
