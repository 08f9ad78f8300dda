"""Opening a source: its format by its name, or as the user says."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from qvec.codecs import Codec
from qvec.errors import InputError
from qvec.sources.arrow import ArrowSource
from qvec.sources.base import Columns, Source
from qvec.sources.csv import CsvSource
from qvec.sources.hdf5 import Hdf5Source
from qvec.sources.jsonl import JsonLines
from qvec.sources.layouts import fbin_layout, fvecs_layout, npy_layout, safetensors_layout
from qvec.sources.matrix import FlatFile, Layout
from qvec.sources.parquet import ParquetSource
from qvec.sources.text_files import COMPRESSIONS, Spool

ANY_COLUMNS = Columns()

Opener = Callable[[str, Path, Columns], Source]


def _flat(layout: Callable[[Path, Codec], Layout]) -> Opener:
    def opened(name: str, file: Path, columns: Columns) -> Source:
        _refuse_columns(name, columns.id, columns.vector, columns.text, columns.metadata)
        return FlatFile(name, file, layout(file, columns.codec), columns.codec)

    return opened


def _safetensors(name: str, file: Path, columns: Columns) -> Source:
    _refuse_columns(name, columns.id, columns.text, columns.metadata)
    return FlatFile(name, file, safetensors_layout(file, columns.vector, columns.codec), columns.codec)


def _hdf5(name: str, file: Path, columns: Columns) -> Source:
    _refuse_columns(name, columns.id, columns.text, columns.metadata)
    return Hdf5Source(name, file, columns)


def _parquet(name: str, file: Path, columns: Columns) -> Source:
    return ParquetSource(name, str(file.resolve()), [file], columns)


def _csv(name: str, file: Path, columns: Columns) -> Source:
    return CsvSource(name, str(file.resolve()), file, columns)


def _text(*endings: str) -> tuple[str, ...]:
    return tuple(ending + compression for ending in endings for compression in ("", *COMPRESSIONS))


def _jsonl(name: str, file: Path, columns: Columns) -> Source:
    return JsonLines(name, str(file.resolve()), file, columns)


FORMATS: dict[str, tuple[Opener, tuple[str, ...]]] = {
    "parquet": (_parquet, (".parquet", ".pq")),
    "arrow": (ArrowSource, (".arrow", ".arrows", ".feather", ".ipc")),
    "npy": (_flat(npy_layout), (".npy",)),
    "safetensors": (_safetensors, (".safetensors",)),
    "fbin": (_flat(fbin_layout), (".fbin",)),
    "fvecs": (_flat(fvecs_layout), (".fvecs",)),
    "hdf5": (_hdf5, (".hdf5", ".h5")),
    "jsonl": (_jsonl, _text(".jsonl", ".ndjson")),
    "csv": (_csv, _text(".csv")),
}
"""Each format's opener and the file name endings it is recognized by."""


def open_source(
    location: str | os.PathLike[str],
    *,
    format: str | None = None,
    columns: Columns = ANY_COLUMNS,
    stdin: BinaryIO | None = None,
) -> Source:
    """Open a file, a folder or glob of Parquet files, or "-" for JSON Lines on standard input.

    `format` is one of FORMATS, None: by the name's ending; the text formats may end in .gz or .zst besides.
    `columns.codec` tells how vectors are stored that are no plain floats.
    Raises InputError when there is no such file, the format is unknown, or the file is not what it says.
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


def _refuse_columns(name: str, *asked: str | tuple[str, ...] | None) -> None:
    for column in filter(None, asked):
        raise InputError(f"{name} holds vectors alone; there is no column {column!r} in its format")


def _recognize(path: Path) -> str:
    for known, (_, endings) in FORMATS.items():
        if path.name.lower().endswith(endings):
            return known
    raise InputError(f"{path}: the format is not known from the name; give --format, one of {', '.join(FORMATS)}")


def _open_several(name: str, path: str, files: list[Path], kind: str | None, columns: Columns) -> Source:
    if not files:
        raise InputError(f"{name}: no Parquet files there")
    if (kind or "parquet") != "parquet":
        raise InputError(f"{name}: several files as one source must be Parquet, not {kind}")
    return ParquetSource(name, path, files, columns)


def _open_pipe(kind: str, columns: Columns, stream: BinaryIO) -> Source:
    if kind != "jsonl":
        raise InputError(f"standard input is read as jsonl, not {kind}; write it to a file first")
    spool = Spool(stream)
    try:
        return JsonLines("-", "-", spool.file, columns, spool)
    except BaseException:
        spool.close()
        raise
