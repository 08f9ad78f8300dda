"""A calibration: how one model's floats become codes, as a frozen value with a content hash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from qvec import _native
from qvec.arrays import Form, Vectors, as_vectors
from qvec.drift_statistics import Drift, measure
from qvec.errors import CalibrationError, InputError, RowError
from qvec.projection import Bias, Weights, checked_projection
from qvec.ranges import RangeMethod
from qvec.sampling import Reservoir

Metric = Literal["cosine", "ip"]
Array = NDArray[np.float32]

FORMAT = 2
"""The newest format that this version reads. Files with learned bits have it, all others have format 1."""
SAMPLE_SIZE = 20_000
UNIT_LENGTH_TOLERANCE = 2e-4
_ARRAYS = ("deviation", "mean", "radius", "std", "threshold")
_LEARNED = {"bias": "<i4", "projection": "<i1"}


@dataclass(frozen=True, eq=False)
class Calibration:
    """How one model's floats become codes. Calibrations with the same id are equal.

    `threshold`, `radius`, `deviation` (mean |x - threshold|), `mean` and `std` are read-only float32 arrays (d,).
    `description` is everything else that the id covers: model, whether the sample had unit length, the range method
    with its parameters, how the sample was drawn, and the version of qvec that fitted it.

    `projection`, int8 (m, d), and `bias`, int32 (m,), make learned bits (see `qvec.projection`); without them both are
    None.
    """

    threshold: Array
    radius: Array
    deviation: Array
    mean: Array
    std: Array
    metric: Metric
    description: Mapping[str, Any] = field(default_factory=dict)
    projection: Weights | None = None
    bias: Bias | None = None

    def __post_init__(self) -> None:
        _check_metric(self.metric)
        for name in _ARRAYS:
            array = np.array(getattr(self, name), dtype=np.float32)
            if array.shape != (len(self.threshold),):
                raise CalibrationError(f"{name} has shape {array.shape}, expected ({len(self.threshold)},)")
            if not np.all(np.isfinite(array)):
                raise CalibrationError(f"{name} holds NaN or infinity")
            if name in ("radius", "deviation", "std") and np.any(array < 0):
                raise CalibrationError(f"{name} holds a negative value")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        learned = checked_projection(self.projection, self.bias, self.dimensions)
        if learned is not None:
            object.__setattr__(self, "projection", learned[0])
            object.__setattr__(self, "bias", learned[1])
        object.__setattr__(self, "description", MappingProxyType(json.loads(_canonical(self.description))))

    @property
    def dimensions(self) -> int:
        """Number d of dimensions of the codes; longer vectors are cut to a Matryoshka prefix."""
        return len(self.threshold)

    @cached_property
    def accepted_dimensions(self) -> tuple[int, ...]:
        """Accepted lengths of vectors: `dimensions` and, if they are a Matryoshka prefix, the model's."""
        return tuple(sorted({self.dimensions, int(self.description.get("cut_from", self.dimensions))}))

    @property
    def learned_bits(self) -> int | None:
        """Number m of learned bits; None without them."""
        return None if self.projection is None else len(self.projection)

    def with_learned(self, projection: Weights, bias: Bias, how: Mapping[str, Any]) -> Calibration:
        """Return the calibration with learned bits. `how` describes how they were made. Codes stay the same."""
        return replace(self, projection=projection, bias=bias, description={**self.description, "learned": dict(how)})

    @property
    def model(self) -> str | None:
        """Name of the embedding model, if it is known."""
        return self.description.get("model")

    @cached_property
    def id(self) -> str:
        """First 16 hexadecimal digits of SHA-256 over the metadata (canonical JSON) and the arrays."""
        digest = hashlib.sha256(_canonical(self.metadata()).encode())
        for name, array in self._arrays().items():
            digest.update(b"\n" + name.encode() + b"\n" + array.astype(_LEARNED.get(name, "<f4")).tobytes())
        return digest.hexdigest()[:16]

    def prepared(self, vectors: Vectors) -> Array:
        """Return rows (n, D) as float32 (n, d), cut to `dimensions` and, under cosine, normalized.

        The rows must be valid: `check` accepts them.
        """
        return _prepare(vectors, self.dimensions, self.metric)

    def for_prefilter(self, queries: Array) -> Array:
        """Return prepared queries (m, d) scaled for their prefilter bits, float32.

        Under ip the length of a query does not change which rows are best, but a short query has the bits of zero.
        Therefore queries get twice the root mean square length of the rows. If the lengths of rows have a spread of
        5%, 40 ternary candidates then hold 87.8% of the 10 best rows, and 84.6% if queries get once that length;
        without a spread it is 95.4 and 95.8 (20,000 × 384, `benchmarks/realistic.py`).
        """
        if self.metric != "ip" or not self._row_length:
            return queries
        one = np.float32(1)
        zero = np.all(queries == 0, axis=1, keepdims=True)
        directions = _native.normalize(np.where(zero, one, queries), self.dimensions)
        # Rounded to multiples of 2^-24, so that no product is too small for Postgres.
        return np.where(zero, queries, ((directions + one) - one) * np.float32(2 * self._row_length))

    @cached_property
    def _row_length(self) -> float:
        """Root mean square length of the vectors in the sample."""
        squares = self.mean.astype(np.float64) ** 2 + self.std.astype(np.float64) ** 2
        return math.sqrt(np.cumsum(squares)[-1])  # added one after the other, as in SQL

    def check(self, vectors: Vectors, where: str = "") -> None:
        """Raise RowError for the first row with NaN, an infinity or, under cosine, only zeros."""
        bad = _native.bad_rows(vectors, self.dimensions, self.metric == "cosine")
        if bad:
            raise RowError(*bad[0], where=where)

    def for_form(self, form: Form) -> Calibration:
        """Return the calibration that gives vectors of this form the codes that this one gives the raw vectors."""
        if form == "raw":
            return self
        threshold = np.zeros_like(self.threshold) if form == "centred" else self.threshold
        return replace(self, threshold=threshold, metric="ip")

    def metadata(self) -> dict[str, Any]:
        """Return the description with format, dimensions and metric, which is stored beside the arrays."""
        form = 1 if self.projection is None else FORMAT
        return {**self.description, "format": form, "dimensions": self.dimensions, "metric": self.metric}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Calibration) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> tuple[Callable[[bytes], Calibration], tuple[bytes]]:
        """Copy and pickle through `to_bytes`, so that the arrays of a copy are read-only, too."""
        return Calibration.from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        return f"Calibration({self.id}, dimensions={self.dimensions}, metric={self.metric!r}, model={self.model!r})"

    @classmethod
    def fit(
        cls,
        vectors: ArrayLike | Iterable[ArrayLike],
        *,
        metric: Metric = "cosine",
        threshold: float = 0.5,
        ranges: RangeMethod | None = None,
        dimensions: int | None = None,
        model: str | None = None,
        sample_size: int = SAMPLE_SIZE,
        seed: int = 0,
        drawn: str | None = None,
    ) -> Calibration:
        """Fit a calibration to vectors: an array (n, D), or an iterable of such batches, which is read once.

        All rows are checked; if there are more than `sample_size`, a uniform sample is used. `threshold` is the share c
        of the mean that is subtracted: 0 for models trained for sign bits, 0.5 for others. `dimensions` cuts vectors to
        a Matryoshka prefix. Under `cosine` vectors are normalized after the cut. `drawn` describes how the caller drew
        the vectors, if they are a sample already.

        Raise RowError for NaN, infinities and, under cosine, zero vectors; InputError for other invalid vectors.
        """
        _check_metric(metric)
        ranges = ranges or RangeMethod()
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold is {threshold}, expected a share of the mean from 0 to 1")
        sample, count = _sample(vectors, sample_size, seed, lambda batch: _checked(batch, dimensions, metric))
        came_normalized = _at_unit_length(sample)
        prepared = _prepare(sample, dimensions or sample.shape[1], metric)
        statistics = _native.Statistics(prepared.shape[1])
        statistics.update(prepared)
        mean = statistics.mean.astype(np.float32)
        std = np.sqrt(statistics.variance).astype(np.float32)
        center = (np.float32(threshold) * mean).astype(np.float32)
        description = {
            "method": {"threshold": float(threshold), **ranges.parameters()},
            "model": model,
            "normalized": came_normalized,
            "qvec": version("qvec"),
            "sample": {
                "drawn": drawn or ("all" if count == len(sample) else "uniform"),
                "seed": int(seed),
                "size": len(sample),
            },
        }
        if sample.shape[1] != prepared.shape[1]:
            description["cut_from"] = sample.shape[1]
        distances = _native.Statistics(prepared.shape[1], center)
        distances.update(prepared)
        deviation = distances.absolute_deviation
        if not ranges.per_dimension:
            deviation = np.full_like(deviation, deviation.mean())
        return cls(center, ranges.radius(prepared, center), deviation, mean, std, metric, description)

    @classmethod
    def from_ranges(
        cls, ranges: ArrayLike, *, metric: Metric = "cosine", midpoint: bool = False, model: str | None = None
    ) -> Calibration:
        """Import `ranges` of sentence-transformers: an array (2, d) of the minimum and maximum of each dimension.

        The threshold is 0, as in its binary codes, and the radius reaches the further end. With `midpoint`, the
        threshold is the middle of the range, so that all 256 levels are used. Mean and standard deviation are those of
        a normal distribution of which the range holds 99.99% (3.89 standard deviations to each side); the deviation is
        within 10% of that distribution's.
        """
        low, high = _check_ranges(ranges)
        mean = (low + high) * np.float32(0.5)
        threshold = mean if midpoint else np.zeros_like(mean)
        std = (high - low) * np.float32(0.5 / 3.89)
        radius = np.maximum(high - threshold, threshold - low)
        description = {
            "method": {"name": "ranges", "midpoint": midpoint},
            "model": model,
            "normalized": False,
            "qvec": version("qvec"),
            "sample": {"drawn": "given", "seed": 0, "size": 0},
        }
        # Within 10% of the folded normal's mean, and the same on every machine: no exp or erf.
        deviation = np.sqrt(2 / np.pi * std**2 + (mean - threshold) ** 2)
        return cls(threshold, radius, deviation.astype(np.float32), mean, std, metric, description)

    def drift(self, vectors: ArrayLike) -> Drift:
        """Compare newer vectors (n, D) with the stored statistics. Raise InputError if there are no vectors."""
        sample = as_vectors(vectors, "vectors", self.accepted_dimensions)
        if not len(sample):
            raise InputError("no vectors to compare with the calibration")
        prepared = _prepare(_checked(sample, self.dimensions, self.metric), self.dimensions, self.metric)
        return measure(prepared, threshold=self.threshold, radius=self.radius, mean=self.mean, std=self.std)

    def to_bytes(self) -> bytes:
        """Return the safetensors file; files, Postgres rows and Qdrant collections hold the same bytes."""
        return save_safetensors(self._arrays(), metadata={"qvec": _canonical({**self.metadata(), "id": self.id})})

    def _arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that are not None, in order of name."""
        names = sorted((*_ARRAYS, *(() if self.projection is None else _LEARNED)))
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "calibration") -> Calibration:
        """Read what `to_bytes` wrote and check its id. `name` is the name of the data in errors."""
        metadata = _read_metadata(data, name)
        stored_id = metadata.pop("id", None)
        try:
            arrays = load_safetensors(data)
        except SafetensorError as error:
            raise CalibrationError(f"{name} is damaged: {error}") from None
        wanted = _ARRAYS if metadata["format"] == 1 else (*_ARRAYS, *_LEARNED)
        if sorted(arrays) != sorted(wanted) or any(arrays[array].dtype != np.float32 for array in _ARRAYS):
            raise CalibrationError(f"{name} is damaged: expected the float32 arrays {', '.join(_ARRAYS)}")
        fixed = {"format", "dimensions", "metric"}
        description = {key: value for key, value in metadata.items() if key not in fixed}
        try:
            calibration = cls(**arrays, metric=metadata.get("metric", ""), description=description)
        except (InputError, CalibrationError) as error:
            raise CalibrationError(f"{name} is damaged: {error}") from None
        if calibration.id != stored_id or calibration.metadata() != metadata:
            raise CalibrationError(
                f"{name} is damaged: its content hashes to {calibration.id}, but it says it is {stored_id}"
            )
        return calibration

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the calibration to a file atomically."""
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            temporary.write_bytes(self.to_bytes())
            os.replace(temporary, target)
        except OSError as error:
            raise InputError(f"cannot write calibration {path}: {error.strerror}") from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read a calibration from a file. Raise CalibrationError if it is damaged, not a calibration, or newer."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"cannot read calibration {path}: {error.strerror}") from None
        return cls.from_bytes(data, str(path))


def _canonical(metadata: Mapping[str, Any]) -> str:
    return json.dumps(dict(metadata), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _read_metadata(data: bytes, name: str) -> dict[str, Any]:
    """Return the metadata of a safetensors file that qvec wrote, after checking its format."""
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length]
    try:
        stored = dict(json.loads(header).get("__metadata__", {}))
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise CalibrationError(f"{name} is not a calibration: it does not begin like a safetensors file") from None
    if "qvec" not in stored:
        raise CalibrationError(f"{name} is not a calibration: a safetensors file, but not one that qvec wrote")
    try:
        metadata: dict[str, Any] = json.loads(stored["qvec"])
        found = metadata["format"]
        canonical = _canonical(metadata)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CalibrationError(f"{name} is damaged: its metadata cannot be read") from None
    if isinstance(found, int) and found > FORMAT:
        raise CalibrationError(
            f"{name} has format {found}, but this qvec reads formats up to {FORMAT}; run: pip install -U qvec"
        )
    if not header.rstrip(b" ").endswith(b"}") or canonical != stored["qvec"]:
        raise CalibrationError(f"{name} is damaged: its metadata is not in canonical form")
    return metadata


def _check_metric(metric: str) -> None:
    if metric not in get_args(Metric):
        raise InputError(f"metric is {metric!r}, expected one of: {', '.join(get_args(Metric))}")


def _check_ranges(ranges: ArrayLike) -> tuple[Array, Array]:
    try:
        array = np.asarray(ranges, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"ranges are not an array of numbers ({error})") from None
    if array.ndim != 2 or array.shape[0] != 2 or array.shape[1] == 0:
        raise InputError(f"ranges have shape {array.shape}, expected (2, dimensions): minimum and maximum of each")
    if not np.all(np.isfinite(array)) or np.any(array[0] > array[1]):
        raise InputError("ranges must be finite, each minimum at most its maximum")
    return array[0], array[1]


def _sample(
    vectors: ArrayLike | Iterable[ArrayLike], size: int, seed: int, checked: Callable[[ArrayLike], Vectors]
) -> tuple[Array, int]:
    """Return a uniform sample of at most `size` rows, and the number of all rows; `checked` checks each batch."""
    if size < 1:
        raise InputError(f"sample_size is {size}, expected at least 1")
    if seed < 0:
        raise InputError(f"seed is {seed}, expected at least 0")
    reservoir = Reservoir(size, seed)
    widths: set[int] = set()
    count = 0
    for batch in _batches(vectors):
        try:
            array = checked(batch)
        except RowError as error:
            raise RowError(count + error.row, error.reason, "vectors") from None
        widths.add(array.shape[1])
        if len(widths) > 1:
            raise InputError(f"batches have {' and '.join(map(str, sorted(widths)))} dimensions, expected one number")
        reservoir.add(array)
        count += len(array)
    if not count:
        raise InputError("no vectors to calibrate on")
    return reservoir.rows(), count


def _batches(vectors: ArrayLike | Iterable[ArrayLike]) -> Iterable[ArrayLike]:
    """Return the batches; one array, or one list of rows, is a single batch."""
    rows = isinstance(vectors, (list, tuple)) and len(vectors) > 0 and np.ndim(vectors[0]) < 2
    one = rows or hasattr(vectors, "__array__")
    return (cast(ArrayLike, vectors),) if one else cast(Iterable[ArrayLike], vectors)


def _checked(batch: ArrayLike, dimensions: int | None, metric: Metric) -> Vectors:
    """Return a batch as an array. Raise RowError for the first row that cannot be quantized."""
    array = as_vectors(batch, "vectors")
    if not 1 <= (dimensions or array.shape[1]) <= array.shape[1]:
        raise InputError(f"dimensions is {dimensions}, but the vectors have {array.shape[1]}")
    bad = _native.bad_rows(array, dimensions or array.shape[1], metric == "cosine")
    if bad:
        raise RowError(*bad[0], where="vectors")
    return array


def _at_unit_length(sample: NDArray[Any]) -> bool:
    squares = np.einsum("ij,ij->i", sample, sample, dtype=np.float64)
    return bool(np.all(np.abs(squares - 1) <= UNIT_LENGTH_TOLERANCE))


def _prepare(checked: Vectors, dimensions: int, metric: Metric) -> Array:
    """Return valid vectors as float32, cut to `dimensions` and, under cosine, normalized."""
    if metric == "cosine":
        return _native.normalize(checked, dimensions)
    return np.ascontiguousarray(checked[:, :dimensions], dtype=np.float32)
