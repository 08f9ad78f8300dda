"""The table of formats, and `open_source`, which finds a source's format by its name."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from qvec.errors import InputError
from qvec.sources.arrow import ArrowSource
from qvec.sources.base import Columns, Source
from qvec.sources.csv import CsvSource
from qvec.sources.files import COMPRESSIONS, Spool
from qvec.sources.hdf5 import Hdf5Source
from qvec.sources.jsonl import JsonLinesSource
from qvec.sources.matrix import FbinFile, FvecsFile, NpyFile, SafetensorsFile
from qvec.sources.parquet import ParquetSource

ANY_COLUMNS = Columns()

Opener = Callable[[str, Path, Columns], Source]


def _parquet_file(name: str, file: Path, columns: Columns) -> Source:
    return ParquetSource(name, str(file.resolve()), [file], columns)


def _compressible(*endings: str) -> tuple[str, ...]:
    return tuple(ending + compression for ending in endings for compression in ("", *COMPRESSIONS))


FORMATS: dict[str, tuple[Opener, tuple[str, ...]]] = {
    "parquet": (_parquet_file, (".parquet", ".pq")),
    "arrow": (ArrowSource, (".arrow", ".arrows", ".feather", ".ipc")),
    "npy": (NpyFile, (".npy",)),
    "safetensors": (SafetensorsFile, (".safetensors",)),
    "fbin": (FbinFile, (".fbin",)),
    "fvecs": (FvecsFile, (".fvecs",)),
    "hdf5": (Hdf5Source, (".hdf5", ".h5")),
    "jsonl": (JsonLinesSource, _compressible(".jsonl", ".ndjson")),
    "csv": (CsvSource, _compressible(".csv")),
}
"""What opens each format, and the file name endings that it is recognized by."""


def open_source(
    location: str | os.PathLike[str],
    *,
    format: str | None = None,
    columns: Columns = ANY_COLUMNS,
    stdin: BinaryIO | None = None,
) -> Source:
    """Open a file, a folder or glob of Parquet files, or "-" for JSON Lines on standard input.

    `format` is one of FORMATS; None recognizes it by the name's ending. JSON Lines and CSV may be compressed (.gz,
    .zst). `columns.codec` tells how quantized vectors are stored.

    Raise InputError if the file is missing, its format is unknown, or its content does not have that format.
    """
    name = os.fspath(location)
    if format is not None and format not in FORMATS:
        raise InputError(f"unknown format {format!r}; known are {', '.join(FORMATS)}")
    if name == "-":
        return _open_pipe(format or "jsonl", columns, stdin or sys.stdin.buffer)
    path = Path(name)
    if path.is_dir():
        return _open_several(name, str(path.resolve()), sorted(path.glob("*.parquet")), format, columns)
    if not path.exists() and glob.has_magic(name):
        return _open_several(name, os.path.abspath(name), sorted(map(Path, glob.glob(name))), format, columns)
    if not path.exists():
        raise InputError(f"no such file: {name}")
    opener, _ = FORMATS[format or _recognize(path)]
    try:
        return opener(name, path, columns)
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from None


def _recognize(path: Path) -> str:
    for format, (_, endings) in FORMATS.items():
        if path.name.lower().endswith(endings):
            return format
    raise InputError(f"{path}: the format is not known from the name; give --format, one of {', '.join(FORMATS)}")


def _open_several(name: str, path: str, files: list[Path], format: str | None, columns: Columns) -> Source:
    if not files:
        raise InputError(f"{name}: no Parquet files there")
    if format not in (None, "parquet"):
        raise InputError(f"{name}: several files as one source must be Parquet, not {format}")
    return ParquetSource(name, path, files, columns)


def _open_pipe(format: str, columns: Columns, stream: BinaryIO) -> Source:
    if format != "jsonl":
        raise InputError(f"standard input is read as jsonl, not {format}; write it to a file first")
    spool = Spool(stream)
    try:
        return JsonLinesSource("-", spool.file, columns, spool)
    except BaseException:
        spool.close()
        raise
