"""Files of the wrong format are refused; invalid rows are rejected with their location and a reason."""

import gzip
import io
import json

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from qvec.errors import InputError, MissingExtraError
from qvec.sources import Columns, open_source

NAMES = ["a.parquet", "a.arrow", "a.npy", "a.safetensors", "a.fbin", "a.fvecs", "a.h5", "a.jsonl", "a.jsonl.gz"]
VECTORS = np.arange(200, dtype=np.float32).reshape(50, 4)
TABLE = pa.table({"id": range(50), "vector": list(VECTORS)})


def npy(values=VECTORS):
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def fvecs(*dimensions):
    return b"".join(np.int32(d).tobytes() + bytes(8) for d in dimensions)


def parquet():
    stream = io.BytesIO()
    pq.write_table(TABLE, stream)
    return stream.getvalue()


def arrow(new=pa.ipc.new_file):
    stream = io.BytesIO()
    with new(stream, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return stream.getvalue()


def hdf5(**datasets):
    stream = io.BytesIO()
    with h5py.File(stream, "w") as opened:
        opened.update(datasets)
    return stream.getvalue()


def read(file, **options):
    with open_source(file, **options) as source:
        return list(source.batches())


def rejections(file, **options):
    return [(row.row, row.where, row.reason) for batch in read(file, **options) for row in batch.rejected]


GZIPPED = gzip.compress(b'{"text": "a"}\n' * 9, mtime=0)  # the same bytes in every worker of pytest-xdist


@pytest.mark.parametrize("name", NAMES)
def test_content_of_another_format_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80garbage \xff" * 40)
    with pytest.raises(InputError, match=name):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.npy", npy()[:-3], "has 925 bytes, but 50 rows of 4 dimensions take 928; it is truncated or damaged"),
        ("long.npy", npy() + b"xx", "has 930 bytes, but 50 rows of 4 dimensions take 928"),
        ("flat.npy", npy(VECTORS[0]), r"holds an array of shape \(4,\); expected two dimensions"),
        ("fortran.npy", npy(np.asfortranarray(VECTORS)), "is in Fortran order; save it again"),
        ("int8.npy", npy(VECTORS.astype(np.int8)), "holds int8; expected float16, float32 or float64"),
        ("thin.npy", npy(VECTORS[:, :0]), "has 50 rows of 0 dimensions"),
        ("cut.fbin", np.int32([5, 3]).tobytes() + bytes(59), "has 67 bytes, but 5 rows of 3 dimensions take 68"),
        ("minus.fbin", np.int32([-5, 3]).tobytes(), r"expected two counts at its start, found \[-5, 3\]"),
        ("cut.fvecs", fvecs(2, 2) + b"\0", "has 25 bytes, but 2 rows of 2 dimensions take 24"),
        ("mixed.fvecs", fvecs(2, 2, 2, 5), "mixed.fvecs, row 3 says it has 5 dimensions, expected 2"),
        ("cut.safetensors", safetensors.numpy.save({"a": VECTORS})[:-1], "is not a safetensors file"),
        (
            "bytes.safetensors",
            safetensors.numpy.save({"a": VECTORS.astype(np.int8)}),
            "tensor 'a' holds int8; expected float16",
        ),
        (
            "two.safetensors",
            safetensors.numpy.save({"a": VECTORS, "b": VECTORS}),
            r"has 2 matrices; name one with --vector-column \(tensors found: a \(50, 4\), b \(50, 4\)\)",
        ),
        ("cut.parquet", parquet()[:-5], "cannot be read as Parquet"),
        ("cut.arrow", arrow()[:-5], "cannot be read as Arrow"),
        ("cut.arrows", arrow(pa.ipc.new_stream)[:-200], "cannot be read as Arrow"),
        ("empty.arrow", b"", "is empty"),
        ("cut.h5", hdf5(train=VECTORS)[:900], "cannot be read as HDF5"),
        ("codes.h5", hdf5(train=VECTORS.astype(np.uint8)), "dataset 'train' holds uint8"),
        ("other.h5", hdf5(base=VECTORS), r"no two-dimensional dataset 'train'.*\(found: base\)"),
        ("cut.jsonl.gz", GZIPPED[:-9], "cannot be read as JSON Lines: Truncated"),
        ("list.jsonl", b"[1, 2]", "is not JSON Lines: line 1 is a JSON list, expected an object"),
        ("twice.csv", b"id,id\n1,2\n", "the header names column 'id' twice"),
        ("nothing.jsonl", b'{"id": 1, "n": 2}', r"no column looks like a vector or a text.*\(columns found: id, n\)"),
    ],
)
def test_invalid_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path / name)
    assert name in str(error.value)


def test_lists_of_integers_are_refused(tmp_path):
    codes = pa.table({"embedding": pa.array([[1, 2]], pa.list_(pa.int8()))})
    pq.write_table(codes, tmp_path / "codes.parquet")
    with pytest.raises(InputError, match=r"codes.parquet: column 'embedding' is list<element: int8>; expected lists"):
        open_source(tmp_path / "codes.parquet")


def test_text_column_of_lists_is_refused(tmp_path):
    (tmp_path / "a.arrow").write_bytes(arrow())
    with pytest.raises(InputError, match="text column 'vector' is list<item: float>; expected text"):
        open_source(tmp_path / "a.arrow", columns=Columns(text="vector"))


def test_missing_files_and_unknown_formats_are_refused(tmp_path):
    (tmp_path / "x.xyz").touch()
    (tmp_path / "folder").mkdir()
    for location, options, message in [
        ("none.npy", {}, "no such file: .*none.npy"),
        ("x.xyz", {}, "format is not known from the name; give --format, one of parquet, arrow, npy"),
        ("x.xyz", {"format": "tsv"}, "unknown format 'tsv'; known are parquet"),
        ("folder", {}, "folder: no Parquet files there"),
        ("folder", {"format": "npy"}, "no Parquet files|must be Parquet"),
        ("*.parquet", {}, "no Parquet files there"),
    ]:
        with pytest.raises(InputError, match=message):
            open_source(tmp_path / location, **options)
    with pytest.raises(InputError, match="standard input is read as jsonl, not npy"):
        open_source("-", format="npy", stdin=io.BytesIO())


@pytest.mark.parametrize("role", ["id", "vector", "text"])
def test_named_columns_must_exist(tmp_path, role):
    (tmp_path / "a.parquet").write_bytes(parquet())
    with pytest.raises(InputError, match="there is no column 'nope'; columns found: id, vector"):
        open_source(tmp_path / "a.parquet", columns=Columns(**{role: "nope"}))
    with pytest.raises(InputError, match="there is no column 'nope'"):
        open_source(tmp_path / "a.parquet", columns=Columns(metadata=("id", "nope")))


def test_matrix_files_have_no_columns(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy())
    (tmp_path / "a.h5").write_bytes(hdf5(train=VECTORS))
    for name, columns in [("a.npy", Columns(vector="v")), ("a.npy", Columns(id="v")), ("a.h5", Columns(text="v"))]:
        with pytest.raises(InputError, match=f"{name} holds only vectors; there is no column 'v' in its format"):
            open_source(tmp_path / name, columns=columns)


def test_every_file_of_a_folder_needs_the_columns(tmp_path):
    pq.write_table(TABLE, tmp_path / "a.parquet")
    pq.write_table(TABLE.drop_columns("id"), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b.parquet: there is no column 'id'"):
        open_source(tmp_path)


def test_hdf5_needs_an_extra(tmp_path, monkeypatch):
    (tmp_path / "a.h5").write_bytes(hdf5(train=VECTORS))
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'qvec\[hdf5\]'"):
        open_source(tmp_path / "a.h5")


def test_file_truncated_while_it_is_read_is_an_error(tmp_path):
    np.save(tmp_path / "a.npy", VECTORS)
    with open_source(tmp_path / "a.npy") as source:
        (tmp_path / "a.npy").write_bytes(npy()[:-8])
        with pytest.raises(InputError, match="has become shorter while it was read"):
            list(source.batches())


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"], ids=["empty", "blank lines", "byte order mark"])
def test_text_files_without_rows_are_empty_sources(tmp_path, content):
    for name in ("a.jsonl", "a.csv"):
        (tmp_path / name).write_bytes(content)
        with open_source(tmp_path / name) as source:
            assert (source.rows, list(source.batches()), source.sample(5, 0)) == (0, [], None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npy", npy(VECTORS[:0])),
        ("a.fbin", np.int32([0, 4]).tobytes()),
        ("a.fvecs", b""),
        ("a.h5", hdf5(train=VECTORS[:0])),
        ("a.csv", b"id,text\n"),
    ],
)
def test_files_without_rows_are_empty_sources(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with open_source(tmp_path / name) as source:
        assert (source.rows, list(source.batches())) == (0, [])
        sample = source.sample(5, 0)
        assert sample is None or sample.shape == (0, source.dimensions)


LINES = [
    (b'{"id": 0, "v": [1, 2], "a": "plain"}', None),
    (b'{"id": "x", "v": [1, 2]}', 'id "x" is not an integer, unlike the first ids'),
    (b'{"id": 1.5, "v": [1, 2]}', "id 1.5 is not an integer, unlike the first ids"),
    (b'{"id": true, "v": [1, 2]}', "id true is not an integer, unlike the first ids"),
    (b'{"id": [1], "v": [1, 2]}', "id is a list, expected an integer or text"),
    (b'{"id": 9223372036854775808, "v": [1, 2]}', "id 9223372036854775808 does not fit a bigint"),
    (b'{"id": null, "v": [1, 2]}', "has no id"),
    (b'{"v": [1, 2]}', "has no id"),
    (b'{"id": 1}', "has no vector"),
    (b'{"id": 1, "v": [1, 2, 3]}', "has 3 dimensions, expected 2"),
    (b'{"id": 1, "v": []}', "has 0 dimensions, expected 2"),
    (b'{"id": 1, "v": [1, null]}', "has null in its vector, at position 1, expected a number"),
    (b'{"id": 1, "v": ["1", 2]}', 'has "1" in its vector, at position 0, expected a number'),
    (b'{"id": 1, "v": "1 2"}', "has a vector that is a str, expected a list of numbers"),
    (b'{"id": 1, "v": [1, 1' + b"0" * 400 + b"]}", "has an integer in its vector that is too large for a float"),
    (b'{"id": 1, "v": [1, 2], "a": "\\u0000"}', "metadata holds the character \\u0000, which jsonb cannot hold"),
    (b'{"id": 1, "v": [1, 2], "a": "\\ud800"}', "metadata is not valid Unicode: it holds half of a surrogate pair"),
    (b'{"id": 1, "v": [1, 2], "text": "\\u0000"}', "text holds the character \\u0000"),
    (b"[1]", "is a JSON list, expected an object"),
    (b'{"id": 1, "v": [1, 2', "is not valid JSON: Expecting ',' delimiter"),
    (b'{"id": 1, "v": [1, 2], "a": "\xff"}', "is not valid JSON: 'utf-8' codec can't decode byte 0xff"),
    (b"[" * 100_000, "is not valid JSON: maximum recursion depth exceeded"),
    (b'{"id": 1, "v": [1, 2], "a": "\\\\u0000", "text": "t"}', None),
    (b'{"id": 2, "v": [NaN, 1e999]}', None),
]


def test_json_lines_rejects_each_bad_row_with_its_line(tmp_path):
    first = b'{"id": 1, "v": [1, 2], "text": "t"}\n' * 100  # the first rows decide that ids are integers
    lines = [b"", *(line for line, _ in LINES)]
    (tmp_path / "a.jsonl").write_bytes(first + b"\n".join(lines))
    (batch,) = read(tmp_path / "a.jsonl")
    expected = [(100 + at, reason) for at, (_, reason) in enumerate(LINES) if reason is not None]
    assert [row.row for row in batch.rejected] == [row for row, _ in expected]
    for row, (position, reason) in zip(batch.rejected, expected, strict=True):
        assert row.reason.startswith(reason)
        assert row.where == f"a.jsonl, line {position + 2}"  # one blank line, and lines count from 1
        assert row.content == LINES[position - 100][0].decode(errors="backslashreplace")
    assert batch.rows.tolist()[100:] == [100 + at for at, (_, reason) in enumerate(LINES) if reason is None]
    assert len(batch.ids) == len(batch.vectors) == len(batch.documents) == len(batch.metadata) == len(batch.rows)
    assert not np.isfinite(batch.vectors[-1]).any()


def test_csv_rejects_each_bad_row_with_its_line(tmp_path):
    good = b'1,"[1, 2]",t,m\n' * 100
    bad = b'2,"[1, 2, 3]","two\nlines",m\n3,,t,m\n,"[1, 2]",t,m\nx,"[1, 2]",t,m\n\n4,"[1, null]",t,m\n5,"[1 2]",t,m\n'
    more = b'6,"[1, 2]",t\n7,"[1, 2]",t,\xff\n8,"[1, 2]","a"b,m\n9,"[1, 2]",t,m\n10,"[1, 2]","never closed\n'
    (tmp_path / "a.csv").write_bytes(b"id,vector,text,m\n" + good + bad + more)
    assert [(where, reason) for _, where, reason in rejections(tmp_path / "a.csv")] == [
        ("a.csv, line 102", "has 3 dimensions, expected 2"),
        ("a.csv, line 104", "has no vector"),
        ("a.csv, line 105", "has no id"),
        ("a.csv, line 106", 'id "x" is not an integer, unlike the first ids'),
        ("a.csv, line 108", "has null in its vector, at position 1, expected a number"),
        ("a.csv, line 109", "has a vector that is a str, expected a list of numbers"),
        ("a.csv, line 110", "has 3 fields, expected 4 as in the header"),
        ("a.csv, line 111", "metadata is not valid Unicode: it holds half of a surrogate pair or a stray byte"),
        ("a.csv, line 112", "is not valid CSV: ',' expected after '\"'"),
        ("a.csv, line 114", "is not valid CSV: unexpected end of data"),
    ]


@pytest.mark.parametrize("writer", ["parquet", "arrow"])
def test_tables_reject_each_bad_row(tmp_path, writer):
    table = pa.table(
        {
            "id": [1, 2, 3, None, 5, 6, 7],
            "vector": pa.array([[1, 2], [3], None, [7, 8], [9, None], [1, 2], [3, 4]], pa.list_(pa.float32())),
            "text": ["a", "b", "c", "d", "e", "nul\0", None],
            "note": ["a", "b", "c", "d", "e", "f", "\0"],
        }
    )
    file = tmp_path / f"a.{writer}"
    if writer == "parquet":
        pq.write_table(table, file)
    else:
        with pa.ipc.new_file(file, table.schema) as opened:
            opened.write_table(table)
    assert rejections(file) == [
        (1, f"{file.name}, row 1", "has 1 dimensions, expected 2"),
        (2, f"{file.name}, row 2", "has no vector"),
        (3, f"{file.name}, row 3", "has no id"),
        (4, f"{file.name}, row 4", "has a null in its vector, at position 1"),
        (5, f"{file.name}, row 5", "text holds the character \\u0000, which a database text cannot hold"),
        (6, f"{file.name}, row 6", "metadata holds the character \\u0000, which jsonb cannot hold"),
    ]
    (batch,) = read(file)
    assert (batch.start, batch.stop, batch.rows.tolist(), batch.ids.to_pylist()) == (0, 7, [0], [1])
    assert json.loads(batch.rejected[0].content) == {"id": 2, "text": "b", "note": "b"}


@pytest.mark.parametrize(
    ("writer", "column"),
    [
        *((writer, column) for writer in ("parquet", "arrow") for column in ("id", "text", "note", "tags")),
        ("arrow", "kind"),
    ],
)
def test_tables_reject_rows_with_invalid_utf8(tmp_path, writer, column):
    """Except for dictionaries in Parquet, the formats do not check it, and the error of Postgres would name no row."""
    broken = pa.array([b"a", b"\xff", None, b"b"]).view(pa.string())
    if column == "tags":
        broken = pa.ListArray.from_arrays([0, 1, 2, 3, 4], broken)
    if column == "kind":
        broken = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 2]), broken.drop_null())
    texts = {"id": list("abcd"), "text": list("abcd"), column: broken}
    table = pa.table({"vector": [np.float32([1, 2])] * 4, **texts})
    file = tmp_path / f"a.{writer}"
    if writer == "parquet":
        pq.write_table(table, file)
    else:
        with pa.ipc.new_file(file, table.schema) as opened:
            opened.write_table(table)
    expected = [(1, f"{file.name}, row 1", f"column {column!r} holds text that is not UTF-8")]
    assert rejections(file) == expected + ([(2, f"{file.name}, row 2", "has no id")] if column == "id" else [])
    (batch,) = read(file)
    assert json.loads(batch.rejected[0].content)[column] is None


def test_unreadable_file_is_refused(tmp_path, monkeypatch):
    def refuse(*_arguments):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.npy").write_bytes(npy())
    monkeypatch.setattr(type(tmp_path), "open", refuse)
    with pytest.raises(InputError, match=r"cannot read .*a\.npy: Permission denied"):
        open_source(tmp_path / "a.npy")


def test_binary_vectors_of_wrong_length_are_rejected(tmp_path):
    table = pa.table({"vector": [np.float32([1, 2]).tobytes(), b"12345", None, np.float32([3, 4]).tobytes()]})
    pq.write_table(table, tmp_path / "a.parquet")
    (batch,) = read(tmp_path / "a.parquet")
    assert [row.reason for row in batch.rejected] == ["has 5 bytes, expected 8", "has no vector"]
    assert batch.vectors.tolist() == [[1, 2], [3, 4]]


def test_invalid_rows_are_not_sampled(tmp_path):
    lines = [{"id": row, "v": [row, 0.0] if row % 3 else [row, 0, 0]} for row in range(1, 300)]
    lines[1]["v"][1] = float("nan")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with open_source(tmp_path / "a.jsonl") as source:
        assert sorted(source.sample(999, 0)[:, 0].tolist()) == [row for row in range(1, 300) if row % 3 and row != 2]
    vectors = np.repeat(np.arange(300, dtype=np.float32)[:, None], 4, axis=1)
    vectors[::3, 1] = np.inf
    np.save(tmp_path / "a.npy", vectors)
    with open_source(tmp_path / "a.npy") as source:
        for size in (150, 200, 300):
            sample = source.sample(size, 0)
            assert len(set(sample[:, 0].tolist())) == len(sample) == min(size, 200)
            assert np.isfinite(sample).all()
