"""The roles of columns (id, vector, text), and ids, documents and metadata of every type."""

import datetime
import decimal
import json
import uuid

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from qvec.errors import InputError
from qvec.sources import Columns, open_source
from qvec.sources.columns import Roles, assign_roles
from qvec.sources.fields import has_nul, read_metadata
from qvec.sources.vectors import read_vectors

VECTORS = pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float32()))


def first_batch(file, **options):
    with open_source(file, **options) as source:
        return next(source.batches())


def table_batch(tmp_path, data, **options):
    with pa.ipc.new_file(tmp_path / "a.arrow", (table := pa.table(data)).schema) as writer:
        writer.write_table(table)
    return first_batch(tmp_path / "a.arrow", **options)


@pytest.mark.parametrize(
    ("found", "columns", "expected"),
    [
        ({"id": "scalar", "vector": "vector", "text": "text"}, {}, ("id", "vector", "text", None)),
        ({"docid": "text", "emb": "bytes", "passage": "text"}, {}, ("docid", "emb", "passage", None)),
        ({"doc_id": "text", "values": "vector", "body": "text"}, {}, ("doc_id", "values", "body", None)),
        ({"values": "scalar", "e5": "vector"}, {}, (None, "e5", None, None)),
        ({"a": "vector", "b": "vector", "embeddings": "vector"}, {}, (None, "embeddings", None, None)),
        ({"a": "vector", "b": "vector", "content": "text"}, {}, (None, None, "content", None)),
        ({"photo": "bytes", "contents": "text", "id": "other"}, {}, (None, None, "contents", None)),
        ({"_id": "text", "title": "text", "text": "text"}, {}, ("_id", None, "text", "title")),
        ({"_id": "text", "title": "text", "text": "text"}, {"text": "text"}, ("_id", None, "text", None)),
        ({"id": "text", "title": "text", "text": "text"}, {}, ("id", None, "text", None)),
        ({"id": "scalar", "key": "text", "text": "text"}, {"id": "key"}, ("key", None, "text", None)),
    ],
)
def test_column_roles(found, columns, expected):
    assert assign_roles(found, Columns(**columns), "x") == Roles(*expected, None)


def test_ambiguous_vector_columns_must_be_named(tmp_path):
    with pytest.raises(InputError, match="name one with --vector-column"):
        table_batch(tmp_path, {"a": VECTORS, "b": VECTORS})
    batch = table_batch(tmp_path, {"a": VECTORS, "b": VECTORS}, columns=Columns(vector="b", metadata=()))
    assert batch.vectors.tolist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_beir_documents_are_title_and_text(tmp_path, suffix):
    rows = [{"_id": "a", "title": "T", "text": "x"}, {"_id": "b", "title": "", "text": "y"}, {"_id": "c", "text": "z"}]
    file = tmp_path / f"corpus.{suffix}"
    if suffix == "jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    batch = first_batch(file)
    assert batch.ids.to_pylist() == ["a", "b", "c"]
    assert batch.documents.to_pylist() == ["T x", "y", "z"]
    assert json.loads(batch.metadata[0].as_py()) == {"title": "T"}


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([1, 2, 3], pa.int8()), [1, 2, 3]),
        (pa.array([1, 2, 2**63 - 1], pa.uint64()), [1, 2, 2**63 - 1]),
        (pa.array(["a", "b", "c"]), ["a", "b", "c"]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array([b"a", b"b", b"c"]), ["a", "b", "c"]),
        (
            pa.array([uuid.UUID(int=i).bytes for i in range(3)], pa.binary(16)),
            [str(uuid.UUID(int=i)) for i in range(3)],
        ),
        (pa.array([datetime.date(2020, 1, day) for day in (1, 2, 3)]), ["2020-01-01", "2020-01-02", "2020-01-03"]),
        (pa.array([1.5, 2.5, 3.5]), ["1.5", "2.5", "3.5"]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_ids_are_bigint_or_text(tmp_path, ids, expected):
    batch = table_batch(tmp_path, {"id": ids, "vector": VECTORS})
    assert batch.ids.to_pylist() == expected
    assert batch.ids.type == (pa.int64() if isinstance(expected[0], int) else pa.large_string())


def test_ids_that_cannot_be_stored_are_rejected(tmp_path):
    batch = table_batch(tmp_path, {"id": pa.array([1, 2**63, None], pa.uint64()), "vector": VECTORS})
    assert [row.reason for row in batch.rejected] == [
        "id 9223372036854775808 is above 9223372036854775807, the largest bigint",
        "has no id",
    ]
    batch = table_batch(tmp_path, {"id": [b"\xff", b"a\0", b"c"], "vector": VECTORS})
    assert [row.reason for row in batch.rejected] == [
        "id b'\\xff' is not UTF-8 text",
        "id holds the character \\u0000, which a database text cannot hold",
    ]
    with pytest.raises(InputError, match="id column 'vector' is list"):
        table_batch(tmp_path, {"id": [1, 2, 3], "vector": VECTORS}, columns=Columns(id="vector", vector="vector"))


def test_integer_and_text_ids_of_several_files_become_text(tmp_path):
    pq.write_table(pa.table({"id": [1], "text": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": ["x"], "text": ["a"]}), tmp_path / "b.parquet")
    with open_source(tmp_path) as source:
        assert source.id_type == "text"
        assert [batch.ids.to_pylist() for batch in source.batches()] == [["1"], ["x"]]


def test_mixed_ids_in_json_lines_become_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 1, "text": "a"}\n{"id": "x", "text": "a"}\n{"id": 1.5, "text": "a"}')
    assert first_batch(tmp_path / "a.jsonl").ids.to_pylist() == ["1", "x", "1.5"]


def test_csv_ids_become_integers_only_without_loss(tmp_path):
    for ids, expected in [(["1", "-20"], [1, -20]), (["1", "007"], ["1", "007"]), (["1", "1e3"], ["1", "1e3"])]:
        (tmp_path / "a.csv").write_text("id,text\n" + "".join(f"{i},t\n" for i in ids))
        assert first_batch(tmp_path / "a.csv").ids.to_pylist() == expected


def test_csv_fields_are_text_and_empty_fields_are_null(tmp_path):
    (tmp_path / "a.csv").write_text('\ufeffid,text,n,note\n1,"a ""b""\nc",5,\n', encoding="utf-8")
    batch = first_batch(tmp_path / "a.csv")
    assert batch.documents.to_pylist() == ['a "b"\nc']
    assert batch.metadata.to_pylist() == ['{"n":"5","note":null}']


def test_csv_vectors_may_have_many_dimensions(tmp_path):
    vector = np.random.default_rng(0).random(9000)
    (tmp_path / "a.csv").write_text(f'id,v\n1,"{vector.tolist()}"\n')
    assert np.array_equal(first_batch(tmp_path / "a.csv").vectors[0], vector.astype(np.float32))


def test_metadata_defaults_to_all_other_columns(tmp_path):
    columns = {"id": [1, 2, 3], "vector": VECTORS, "text": ["a", "b", "c"], "n": [1, None, 3], "s": ["x", "y", "z"]}
    named = Columns(metadata=("s", "id"))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, pa.table(columns).to_pylist())))
    for file in ("a.jsonl", "a.arrow"):
        table_batch(tmp_path, columns)
        texts = first_batch(tmp_path / file).metadata.to_pylist()
        assert texts == ['{"n":1,"s":"x"}', '{"n":null,"s":"y"}', '{"n":3,"s":"z"}']
        assert json.loads(first_batch(tmp_path / file, columns=named).metadata[0].as_py()) == {"id": 1, "s": "x"}
        assert first_batch(tmp_path / file, columns=Columns(metadata=())).metadata is None


def test_json_lines_keep_keys_missing_in_the_first_row(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b", "n": {"m": [1, NaN]}}')
    assert first_batch(tmp_path / "a.jsonl").metadata.to_pylist() == ["{}", '{"n":{"m":[1,null]}}']


def test_metadata_keeps_types():
    columns = {
        "int": pa.array([2**62]),
        "half": pa.array([np.float16(1.5)], pa.float16()),
        "single": pa.array([0.1], pa.float32()),
        "nan": pa.array([float("nan")]),
        "bool": pa.array([True]),
        "text": pa.array(['a "b"\n\\ é']),
        "category": pa.array(["x"]).dictionary_encode(),
        "date": pa.array([datetime.date(2020, 1, 2)]),
        "time": pa.array([datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)]),
        "decimal": pa.array([decimal.Decimal("1.10")]),
        "bytes": pa.array([b"\0\1"]),
        "list": pa.array([[1.5, float("inf"), None]]),
        "struct": pa.array([{"a": {"b": datetime.date(2020, 1, 2)}}]),
        "null": pa.array([None]),
        'quoted "name"': pa.array([1]),
    }
    faults = {}
    (text,) = read_metadata(list(columns.items()), faults).to_pylist()
    assert json.loads(text) == {
        "int": 2**62,
        "half": 1.5,
        "single": 0.1,
        "nan": None,
        "bool": True,
        "text": 'a "b"\n\\ é',
        "category": "x",
        "date": "2020-01-02",
        "time": "2020-01-02T03:04:05+00:00",
        "decimal": "1.10",
        "bytes": "AAE=",
        "list": [1.5, None, None],
        "struct": {"a": {"b": "2020-01-02"}},
        "null": None,
        'quoted "name"': 1,
    }
    assert not faults


texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\\"u0\0\n'), max_size=12)


@given(st.lists(st.tuples(texts | st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(width=32)), min_size=1))
def test_metadata_is_json_and_reports_every_nul(rows):
    names = ("text", "int", "float")
    columns = [
        pa.array([row[at] for row in rows], kind) for at, kind in enumerate((pa.string(), pa.int64(), pa.float32()))
    ]
    faults = {}
    objects = read_metadata(list(zip(names, columns, strict=True)), faults).to_pylist()
    for at, (text, row) in enumerate(zip(objects, rows, strict=True)):
        found = json.loads(text)
        assert (found["text"], found["int"]) == row[:2]
        assert found["float"] is None if not np.isfinite(row[2]) else np.float32(found["float"]) == np.float32(row[2])
        assert (at in faults) == ("\0" in (row[0] or "")) == has_nul(text)


vectors = st.none() | st.lists(st.none() | st.floats(width=16, allow_nan=False), max_size=3)


@given(st.lists(vectors, min_size=1, max_size=12), st.data(), st.sampled_from([pa.list_, pa.large_list]))
def test_vectors_of_a_slice_equal_its_python_values(rows, data, kind):
    first = data.draw(st.integers(0, len(rows)))
    column = pa.array(rows, kind(pa.float32())).slice(first)
    faults = {}
    matrix = read_vectors(column, 2, faults)
    assert matrix.shape == (len(column), 2)
    for at, row in enumerate(rows[first:]):
        good = row is not None and len(row) == 2 and None not in row
        assert (at not in faults) == good
        if good:
            assert matrix[at].tolist() == row
