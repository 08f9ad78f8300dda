"""The contract of all source formats: the same 1,000 rows, readable from any row on, uniform samples, a fingerprint."""

import csv
import gzip
import io
import json
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from qvec.errors import InputError
from qvec.sources import Columns, open_source

ROWS, DIMENSIONS = 1000, 12
# The first value of each vector is its row number, which identifies the vector; exact even in float16.
VECTORS = np.random.default_rng(1).integers(-100, 100, (ROWS, DIMENSIONS)).astype(np.float32)
VECTORS[:, 0] = np.arange(ROWS)
IDS = [7 * row for row in range(ROWS)]
TEXTS = [None if row % 50 == 3 else f"text {row} «é»" for row in range(ROWS)]


def array_of_lists(dtype=np.float32, kind=pa.list_):
    return pa.array(list(VECTORS.astype(dtype)), kind(pa.from_numpy_dtype(dtype)))


def fixed_size_list():
    return pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.ravel()), DIMENSIONS)


def binary(kind):
    return pa.array([row.tobytes() for row in VECTORS], kind)


def table(vectors=None):
    columns = {"id": pa.array(IDS), "embedding": array_of_lists() if vectors is None else vectors}
    return pa.table({**columns, "text": TEXTS, "kind": [f"k{row % 3}" for row in range(ROWS)]})


def write_parquet(file, vectors=None):
    pq.write_table(table(vectors), file, row_group_size=170)


def write_parquet_folder(folder):
    folder.mkdir()
    for part, (first, last) in enumerate([(0, 400), (400, 400), (400, 1000)]):
        pq.write_table(table().slice(first, last - first), folder / f"part-{part}.parquet")
    (folder / "_SUCCESS").touch()


def write_arrow_file(file, compression=None, vectors=None):
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(file, table(vectors).schema, options=options) as writer:
        writer.write_table(table(vectors), max_chunksize=90)


def write_arrow_stream(file):
    with pa.ipc.new_stream(file, table().schema) as writer:
        writer.write_table(table(), max_chunksize=2000)


def json_lines():
    return "\n".join(json.dumps(row) + ("\n \n" if row["id"] == 70 else "") for row in table().to_pylist()).encode()


def csv_text():
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["id", "embedding", "text", "kind"])
    rows.writerows([r["id"], r["embedding"], r["text"], r["kind"]] for r in table().to_pylist())
    return text.getvalue().encode()


def write_hdf5(file):
    with h5py.File(file, "w") as opened:
        opened["train"] = VECTORS
        opened["test"] = VECTORS[:5]


def fvecs():
    return b"".join(np.int32(DIMENSIONS).tobytes() + row.tobytes() for row in VECTORS)


WITH_IDS = {
    "list.parquet": write_parquet,
    "large_list.parquet": lambda file: write_parquet(file, array_of_lists(np.float64, pa.large_list)),
    "float16.parquet": lambda file: write_parquet(file, array_of_lists(np.float16)),
    "fixed.parquet": lambda file: write_parquet(file, fixed_size_list()),
    "fixed_binary.parquet": lambda file: write_parquet(file, binary(pa.binary(4 * DIMENSIONS))),
    "binary.parquet": lambda file: write_parquet(file, binary(pa.binary())),
    "folder": write_parquet_folder,
    "file.arrow": write_arrow_file,
    "lz4.feather": lambda file: write_arrow_file(file, "lz4"),
    "fixed.arrow": lambda file: write_arrow_file(file, None, fixed_size_list()),
    "large_binary.arrow": lambda file: write_arrow_file(file, None, binary(pa.large_binary())),
    "stream.arrows": write_arrow_stream,
    "lines.jsonl": lambda file: file.write_bytes(json_lines()),
    "lines.ndjson.gz": lambda file: file.write_bytes(gzip.compress(json_lines())),
    "lines.jsonl.zst": lambda file: file.write_bytes(pa.compress(json_lines(), "zstd", asbytes=True)),
    "table.csv": lambda file: file.write_bytes(csv_text()),
    "table.csv.gz": lambda file: file.write_bytes(gzip.compress(csv_text())),
}
VECTORS_ONLY = {
    "float32.npy": lambda file: np.save(file, VECTORS),
    "float16.npy": lambda file: np.save(file, VECTORS.astype(np.float16)),
    "float64.npy": lambda file: np.save(file, VECTORS.astype(np.float64)),
    "big_endian.npy": lambda file: np.save(file, VECTORS.astype(">f4")),
    "one.safetensors": lambda file: safetensors.numpy.save_file({"e": VECTORS, "x": VECTORS[0]}, file),
    "base.fbin": lambda file: file.write_bytes(np.int32([ROWS, DIMENSIONS]).tobytes() + VECTORS.tobytes()),
    "base.fvecs": lambda file: file.write_bytes(fvecs()),
    "ann.hdf5": write_hdf5,
}
ROWS_UNKNOWN = {"stream.arrows", *(name for name in WITH_IDS if "lines" in name or "table" in name)}


@pytest.fixture(scope="module", params=[*WITH_IDS, *VECTORS_ONLY, "-"])
def location(request, tmp_path_factory):
    if request.param == "-":
        return "-"
    file = tmp_path_factory.mktemp("source") / request.param
    (WITH_IDS | VECTORS_ONLY)[request.param](file)
    return file


@pytest.fixture
def source(location):
    with open_source(location, stdin=io.BytesIO(json_lines())) as opened:
        yield opened


def has_ids(source):
    return Path(source.name).name in WITH_IDS or source.name == "-"


def test_source_properties(source, location):
    name = Path(source.name).name
    assert source.name == str(location)
    assert source.path == ("-" if name == "-" else str(location.resolve()))
    assert source.rows == (None if name in ROWS_UNKNOWN or name == "-" else ROWS)
    assert source.dimensions == DIMENSIONS
    assert source.id_type == ("bigint" if has_ids(source) else None)
    assert source.has_text == has_ids(source)


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("start", "batch_rows"), [(0, 8192), (0, 128), (1, 300), (170, 170), (399, 64), (999, 7)])
def test_reads_every_row_from_any_start(source, start, batch_rows):
    batches = list(source.batches(start, batch_rows))
    assert [batch.start for batch in batches] == [start, *(batch.stop for batch in batches[:-1])]
    assert batches[-1].stop == ROWS
    assert max(batch.stop - batch.start for batch in batches) <= batch_rows
    assert all(batch.vectors.flags.c_contiguous and batch.vectors.dtype.isnative for batch in batches)
    assert np.array_equal(np.concatenate([batch.rows for batch in batches]), np.arange(start, ROWS))
    assert np.array_equal(np.concatenate([batch.vectors for batch in batches]), VECTORS[start:])
    assert not any(batch.rejected for batch in batches)
    if has_ids(source):
        assert [i for batch in batches for i in batch.ids.to_pylist()] == IDS[start:]
        assert [text for batch in batches for text in batch.documents.to_pylist()] == TEXTS[start:]
        expected = [f'{{"kind":"k{row % 3}"}}' for row in range(start, ROWS)]
        assert [text for batch in batches for text in batch.metadata.to_pylist()] == expected
    else:
        assert all(batch.ids is batch.documents is batch.metadata is None for batch in batches)


def test_reads_nothing_past_the_end(source):
    known = source.rows
    assert list(source.batches(ROWS)) == list(source.batches(ROWS + 5)) == []
    assert source.rows == known


def test_keeps_float16_and_narrows_float64(source):
    expected = np.float16 if "float16" in source.name else np.float32
    assert next(source.batches()).vectors.dtype == expected


def test_counts_rows_while_reading(source):
    list(source.batches())
    assert source.rows == ROWS


def test_samples_distinct_rows_uniformly(source):
    counts = np.zeros(10)
    for seed in range(10):
        sample = source.sample(100, seed)
        rows = sample[:, 0].astype(int)
        assert len(set(rows.tolist())) == 100
        assert np.array_equal(sample, VECTORS[rows])
        counts += np.bincount(rows // 100, minlength=10)
    # 99.9% point of chi-square with 9 degrees of freedom; the hypergeometric spread is smaller still.
    assert ((counts - 100) ** 2 / 100).sum() < 27.9


def test_samples_all_rows_of_a_small_source(source):
    progress = []
    sample = source.sample(2 * ROWS, 0, progress.append)
    assert sorted(sample[:, 0].tolist()) == list(range(ROWS))
    assert progress == sorted(progress)
    assert progress[-1] == ROWS


def test_sample_is_reproducible(source):
    assert np.array_equal(source.sample(50, 3), source.sample(50, 3))
    assert not np.array_equal(source.sample(50, 3), source.sample(50, 4))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("base.fvecs", "base.fvecs, row 17"),
        ("list.parquet", "list.parquet, row 17"),
        ("file.arrow", "file.arrow, row 17"),
        ("lines.jsonl", "lines.jsonl, line 20"),  # two blank lines after row 10
        ("table.csv", "table.csv, row 17"),
    ],
)
def test_where_names_the_row(tmp_path, name, place):
    (WITH_IDS | VECTORS_ONLY)[name](tmp_path / name)
    with open_source(tmp_path / name) as source:
        list(source.batches(500))
        assert source.where(17) == place


def test_where_names_the_file_and_row_in_a_folder(tmp_path):
    write_parquet_folder(tmp_path / "parts")
    with open_source(tmp_path / "parts") as source:
        assert source.where(399) == "part-0.parquet, row 399"
        assert source.where(400) == "part-2.parquet, row 0"


def test_glob_is_one_source_sorted_by_name(tmp_path):
    for part, first in (("b", 500), ("a", 0)):
        pq.write_table(table().slice(first, 500), tmp_path / f"{part}.parquet")
    with open_source(tmp_path / "*.parquet") as source:
        assert source.rows == ROWS
        assert np.array_equal(np.concatenate([batch.vectors for batch in source.batches()]), VECTORS)


def test_format_overrides_the_file_name(tmp_path):
    np.save(tmp_path / "x.npy", VECTORS)
    (tmp_path / "x.npy").rename(tmp_path / "vectors.bin")
    with open_source(tmp_path / "vectors.bin", format="npy") as source:
        assert source.rows == ROWS


def test_tensors_and_datasets_are_chosen_by_name(tmp_path):
    safetensors.numpy.save_file({"a": VECTORS, "b": VECTORS[:3]}, tmp_path / "t.safetensors")
    write_hdf5(tmp_path / "t.h5")
    with open_source(tmp_path / "t.safetensors", columns=Columns(vector="b")) as source:
        assert np.array_equal(next(source.batches()).vectors, VECTORS[:3])
    with open_source(tmp_path / "t.h5", columns=Columns(vector="test")) as source:
        assert np.array_equal(next(source.batches()).vectors, VECTORS[:5])


def test_fingerprint_changes_with_any_block_or_file(tmp_path):
    write_parquet_folder(tmp_path / "parts")
    with open_source(tmp_path / "parts") as source:
        before = source.fingerprint()
        assert before == source.fingerprint()
        write_parquet(tmp_path / "parts" / "part-1.parquet")
        assert source.fingerprint() != before


def test_fingerprint_of_a_pipe_depends_on_its_content():
    fingerprints = []
    for content in (b'{"text":"a"}', b'{"text":"a"}', b'{"text":"b"}'):
        with open_source("-", stdin=io.BytesIO(content)) as source:
            fingerprints.append(source.fingerprint())
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_pipe_leaves_no_temporary_file(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_source("-", stdin=io.BytesIO(json_lines())) as source:
        assert len(list(tmp_path.iterdir())) == 1
        next(source.batches())
    with pytest.raises(InputError):
        open_source("-", stdin=io.BytesIO(b"no json"))
    assert list(tmp_path.iterdir()) == []
