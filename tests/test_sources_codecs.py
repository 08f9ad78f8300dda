"""Quantized embeddings in every file format: the same vectors from each, and errors for wrong encodings."""

import base64
import csv
import json

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from numpy.testing import assert_array_equal

from qvec.codecs import PRESETS, Codec, decode, preset
from qvec.errors import InputError, RowError
from qvec.sources import Columns, open_source

ROWS, DIMENSIONS = 200, 24
FLOATS = np.random.default_rng(0).normal(size=(ROWS, DIMENSIONS)).astype(np.float32)
QUANTIZED = [name for name, codec in PRESETS.items() if codec.quantized]


def stored_as(codec, floats=FLOATS):
    """Return floats in the stored form of a codec, computed by numpy alone."""
    if not codec.quantized:
        return floats.astype(codec.dtype)
    if codec.bits == "packed":
        values = np.packbits(floats > 0, axis=1, bitorder=codec.bit_order).astype(np.int16) - codec.offset
    elif codec.bits:
        values = np.where(floats > 0, 1, -1)
    else:
        values = np.clip(np.round(floats * 30), -128, 127) - codec.offset
    return values.astype(codec.dtype)


def as_base64(stored):
    return [base64.b64encode(row.tobytes()).decode() for row in stored]


def write_npy(file, stored):
    np.save(file, stored)


def write_safetensors(file, stored):
    safetensors.numpy.save_file({"embeddings": np.ascontiguousarray(stored)}, file)


def write_hdf5(file, stored):
    with h5py.File(file, "w") as file_handle:
        file_handle["train"] = stored


def write_table(file, column):
    pq.write_table(pa.table({"id": range(len(column)), "embedding": column}), file, row_group_size=64)


def binary(stored):
    return pa.array([row.tobytes() for row in stored], pa.binary())


def fixed_binary(stored):
    return pa.array([row.tobytes() for row in stored], pa.binary(stored[0].nbytes))


def lists(stored):
    return pa.array(stored.tolist(), pa.list_(pa.from_numpy_dtype(stored.dtype)))


def fixed_lists(stored):
    return pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1)), stored.shape[1])


def write_arrow(file, stored):
    table_to_write = pa.table({"id": range(len(stored)), "embedding": fixed_lists(stored)})
    with pa.ipc.new_file(file, table_to_write.schema) as writer:
        writer.write_table(table_to_write, max_chunksize=50)


def write_json_lines(file, values):
    file.write_text("".join(json.dumps({"id": i, "embedding": value}) + "\n" for i, value in enumerate(values)))


def write_csv(file, values):
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([("id", "embedding"), *enumerate(values)])


WRITERS = {
    "npy": write_npy,
    "wide.npy": lambda file, stored: write_npy(file, stored.astype(np.int64)),
    "safetensors": write_safetensors,
    "h5": write_hdf5,
    "lists.parquet": lambda file, stored: write_table(file, lists(stored)),
    "wide.parquet": lambda file, stored: write_table(file, stored.tolist()),
    "fixed.parquet": lambda file, stored: write_table(file, fixed_lists(stored)),
    "binary.parquet": lambda file, stored: write_table(file, binary(stored)),
    "fixed_binary.parquet": lambda file, stored: write_table(file, fixed_binary(stored)),
    "base64.parquet": lambda file, stored: write_table(file, as_base64(stored)),
    "arrow": write_arrow,
    "jsonl": lambda file, stored: write_json_lines(file, stored.tolist()),
    "base64.jsonl": lambda file, stored: write_json_lines(file, as_base64(stored)),
    "csv": lambda file, stored: write_csv(file, map(json.dumps, stored.tolist())),
    "base64.csv": lambda file, stored: write_csv(file, as_base64(stored)),
}


def open_with_codec(file, codec):
    return open_source(file, columns=Columns(codec=codec))


def read_batches(file, codec):
    with open_with_codec(file, codec) as source:
        return list(source.batches(batch_rows=70))


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_supports_every_encoding(tmp_path, suffix, name):
    codec = preset(name)
    stored = stored_as(codec)
    file = tmp_path / f"embeddings.{suffix}"
    WRITERS[suffix](file, stored)
    expected = decode(stored, codec)
    with open_with_codec(file, codec) as source:
        assert source.codec == codec
        assert source.dimensions == DIMENSIONS
        batches = list(source.batches(start=10, batch_rows=70))
        sample = source.sample(ROWS, seed=0)
    vectors = np.concatenate([batch.vectors for batch in batches])
    assert vectors.dtype == np.float32
    assert all(batch.vectors.flags.c_contiguous and not batch.rejected for batch in batches)
    assert_array_equal(vectors, expected[10:])
    assert sorted(map(tuple, sample)) == sorted(map(tuple, expected))


@pytest.mark.parametrize("suffix", ["base64.parquet", "base64.jsonl", "base64.csv", "jsonl", "npy", "binary.parquet"])
def test_base64_of_floats(tmp_path, suffix):
    """As with OpenAI's encoding_format base64: little-endian float32."""
    file = tmp_path / f"embeddings.{suffix}"
    WRITERS[suffix](file, FLOATS)
    batches = read_batches(file, preset("base64"))
    assert_array_equal(np.concatenate([batch.vectors for batch in batches]), FLOATS)


def test_vectors_are_floats_by_default(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"embedding": [1, 2, 3], "text": "AAAA"}\n')
    with open_source(tmp_path / "a.jsonl") as source:
        assert next(source.batches()).vectors.tolist() == [[1, 2, 3]]
    (tmp_path / "b.jsonl").write_text('{"embedding": "AAAAAA==", "text": "a"}\n')
    with open_source(tmp_path / "b.jsonl") as source:  # an ordinary text
        assert source.dimensions is None
        assert next(source.batches()).metadata.to_pylist() == ['{"embedding":"AAAAAA=="}']


def test_packed_bits_may_leave_the_last_byte_incomplete(tmp_path):
    signs = np.where(FLOATS[:, :21] > 0, 1, -1)
    codec = Codec("bits", "uint8", "packed", dimensions=21)
    for suffix in ("npy", "fixed_binary.parquet", "jsonl", "base64.csv"):
        file = tmp_path / f"bits.{suffix}"
        WRITERS[suffix](file, np.packbits(signs > 0, axis=1))
        with open_with_codec(file, codec) as source:
            assert source.dimensions == 21
            assert_array_equal(np.concatenate([batch.vectors for batch in source.batches()]), signs)


@pytest.mark.parametrize("suffix", ["npy", "fixed.parquet", "jsonl"])
def test_fingerprint_depends_on_the_encoding(tmp_path, suffix):
    """Otherwise a load could resume with another encoding."""
    file = tmp_path / f"a.{suffix}"
    WRITERS[suffix](file, np.zeros((3, 8), np.int64))
    fingerprints = []
    for name in ("uint8", "int8", "ubinary", "int8"):
        with open_with_codec(file, preset(name)) as source:
            fingerprints.append(source.fingerprint())
    assert len(set(fingerprints)) == 3
    assert fingerprints[1] == fingerprints[3]


def test_encoding_applies_only_to_vectors(tmp_path):
    columns = pa.table(
        {
            "id": ["a", "b"],
            "embedding": [b"\xff", b"\x00"],
            "text": ["AAAA", "BBBB"],
            "counts": pa.array([[1, 2], [3]], pa.list_(pa.int8())),
        }
    )
    pq.write_table(columns, tmp_path / "a.parquet")
    (batch,) = read_batches(tmp_path / "a.parquet", preset("ubinary"))
    assert batch.vectors.tolist() == [[1] * 8, [-1] * 8]
    assert batch.documents.to_pylist() == ["AAAA", "BBBB"]
    assert batch.metadata.to_pylist() == ['{"counts":[1,2]}', '{"counts":[3]}']


# Wrong encodings


@pytest.mark.parametrize(
    ("suffix", "name", "other", "message"),
    [
        ("npy", "ubinary", "binary", r"a\.npy holds uint8; expected int8 for encoding 'binary'$"),
        (
            "npy",
            "binary",
            "float",
            r"a\.npy holds int8; expected float16, .* quantized already, name their encoding \(--encoding\)$",
        ),
        ("npy", "float", "int8", r"a\.npy holds float32; expected int8 for encoding 'int8'$"),
        ("safetensors", "int8", "uint8", "tensor 'embeddings' holds int8; expected uint8"),
        ("h5", "int8", "ubinary", "dataset 'train' holds int8; expected uint8"),
        ("fixed.parquet", "int8", "ubinary", "column 'embedding' holds int8; expected uint8 for encoding 'ubinary'$"),
        (
            "fixed.parquet",
            "float",
            "int8",
            r"'embedding' is .*; expected lists of integers, binary values of int8",
        ),
        ("lists.parquet", "int8", "float", "expected lists of float16, .* quantized already, name their encoding"),
        ("lists.parquet", "int8", "base64", "expected lists of floats, binary values of float32 or their base64"),
        ("jsonl", "float", "int8", None),
    ],
)
def test_wrong_encoding_is_refused(tmp_path, suffix, name, other, message):
    file = tmp_path / f"a.{suffix}"
    WRITERS[suffix](file, stored_as(preset(name)))
    if message is None:
        (batch, *_) = read_batches(file, preset(other))
        assert "in its vector, at position 0, expected an integer" in batch.rejected[0].reason
    else:
        with pytest.raises(InputError, match=message):
            read_batches(file, preset(other))


@pytest.mark.parametrize("suffix", WRITERS)
def test_packed_bits_with_wrong_dimensions_are_refused(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    WRITERS[suffix](file, stored_as(preset("ubinary")))
    codec = Codec("bits", "uint8", "packed", dimensions=8 * DIMENSIONS)
    with pytest.raises(InputError, match="3 values a row found, 24 wanted for 192 dimensions in encoding 'bits'"):
        read_batches(file, codec)


def test_matrix_value_out_of_range_is_refused(tmp_path):
    stored = np.ones((100, 8), np.int64)
    stored[83, 1] = 300
    np.save(tmp_path / "a.npy", stored)
    with pytest.raises(RowError, match=r"a\.npy: row 83: has 300 at position 1, but encoding 'ubinary' holds") as error:
        read_batches(tmp_path / "a.npy", preset("ubinary"))
    assert error.value.row == 83


@pytest.mark.parametrize(
    ("values", "name", "reason"),
    [
        ([[1, 2], [1, 200]], "int8", "has 200 at position 1, but encoding 'int8' holds integers from -128 to 127"),
        ([[1, 1], [0, -1]], "sign", "has both -1 and 0, but encoding 'sign' holds -1 and 1 or 0 and 1"),
        ([[1, 2], [1]], "int8", "has 1 dimensions, expected 2"),
        ([[1, 2], [1]], "ubinary", "has 1 bytes, expected 2"),
        ([[1, 2], [1, None]], "int8", "has a null in its vector, at position 1"),
        ([[1, 2], None], "int8", "has no vector"),
        ([b"ab", b"abc"], "ubinary", "has 3 bytes, expected 2"),
        (["YWI=", "YWJj"], "ubinary", "has 3 bytes, expected 2"),
        (["YWI=", "YW"], "ubinary", "has a vector that is not base64: Incorrect padding"),
        (["YWI=", None], "ubinary", "has no vector"),
    ],
)
def test_bad_rows_of_tables_are_rejected(tmp_path, values, name, reason):
    write_table(tmp_path / "a.parquet", [*values, values[0]])
    (batch,) = read_batches(tmp_path / "a.parquet", preset(name))
    assert [(row.row, row.reason) for row in batch.rejected] == [(1, reason)]
    assert batch.rows.tolist() == [0, 2]
    assert_array_equal(batch.vectors[0], batch.vectors[1])


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1, 200], "has 200 at position 1, but encoding 'int8' holds integers from -128 to 127"),
        ([1, 2, 3], "has 3 dimensions, expected 2"),
        ([1, 2.5], "has 2.5 in its vector, at position 1, expected an integer"),
        ([1, None], "has null in its vector, at position 1, expected an integer"),
        ([1, 10**30], "has an integer in its vector that is too large for an int64"),
        ("AQID", "has 3 bytes, expected 2"),
        ("A", "has a vector that is not base64: "),
        (None, "has no vector"),
    ],
)
def test_bad_rows_of_text_files_are_rejected(tmp_path, suffix, value, reason):
    rows = [[1, 2], value, "AQI="]
    file = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        write_json_lines(file, rows)
    else:
        write_csv(file, [row if isinstance(row, str) else row and json.dumps(row) for row in rows])
    (batch,) = read_batches(file, preset("int8"))
    assert [row.row for row in batch.rejected] == [1]
    assert batch.rejected[0].reason.startswith(reason)
    assert batch.vectors.tolist() == [[1, 2], [1, 2]]


def test_named_column_without_vectors_is_refused(tmp_path):
    write_json_lines(tmp_path / "a.jsonl", ["not base64!", "nor this!"])
    with pytest.raises(InputError, match="'embedding' holds no list of numbers or base64 text in the first 2 rows"):
        read_batches(tmp_path / "a.jsonl", preset("ubinary"))
