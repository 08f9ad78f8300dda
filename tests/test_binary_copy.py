"""Rows of binary COPY: golden bytes, and rows read back by a parser of the documented format."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from property_tests import examples

from qvec import _native

Fields = list[bytes | None]


def arrow_text(*values: str | None) -> _native.Text:
    """Return the buffers of a slice of an Arrow column that has values before and after the slice."""
    column = pa.array(["before", *values, "after"], pa.large_string())
    _, offsets, data = column.buffers()
    valid = np.array([value is not None for value in values])
    return (
        np.frombuffer(offsets, np.int64)[1 : len(values) + 2],
        np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8),
        None if valid.all() else valid,
    )


def parse_rows(data: bytes) -> Iterator[Fields]:
    """Yield the fields of each row."""
    position = 0
    while position < len(data):
        (count,) = struct.unpack_from("!h", data, position)
        position += 2
        fields: Fields = []
        for _ in range(count):
            (length,) = struct.unpack_from("!i", data, position)
            position += 4
            fields.append(data[position : position + length] if length >= 0 else None)
            position += max(length, 0)
        yield fields


def test_header_and_trailer() -> None:
    found = (_native.COPY_HEADER, _native.COPY_TRAILER)
    assert found == (b"PGCOPY\n\xff\r\n\x00" + bytes(8), b"\xff\xff")


def test_golden_row_with_every_column() -> None:
    found = _native.encode_copy(
        np.array([258], np.int64),
        np.array([[0xA5, 0x0F]], np.uint8),
        np.array([[1, -2]], np.float32),
        True,
        arrow_text("é"),
        arrow_text("{}"),
    )
    assert found == (
        b"\x00\x05"
        b"\x00\x00\x00\x08" + b"\x00\x00\x00\x00\x00\x00\x01\x02"
        b"\x00\x00\x00\x06" + b"\x00\x00\x00\x10" + b"\xa5\x0f"
        b"\x00\x00\x00\x08" + b"\x00\x02\x00\x00" + b"\x3c\x00\xc0\x00"
        b"\x00\x00\x00\x02" + b"\xc3\xa9"
        b"\x00\x00\x00\x03" + b"\x01{}"
    )


def test_learned_bits_follow_the_codes() -> None:
    codes, learned = np.array([[0xA5], [1]], np.uint8), np.array([[1, 2], [3, 4]], np.uint8)
    encoded = _native.encode_copy(np.arange(2), codes, np.zeros((2, 1), np.float32), True, None, None, learned)
    length = struct.pack("!i", 16)
    assert [fields[1:3] for fields in parse_rows(encoded)] == [
        [struct.pack("!i", 8) + b"\xa5", length + b"\x01\x02"],
        [struct.pack("!i", 8) + b"\x01", length + b"\x03\x04"],
    ]
    assert [len(fields) for fields in parse_rows(encoded)] == [6, 6]
    with pytest.raises(ValueError, match="learned: 1 rows found, 2 wanted"):
        _native.encode_copy(np.arange(2), codes, None, False, None, None, learned[:1])


def test_golden_row_with_text_id_float_vector_and_nulls() -> None:
    found = _native.encode_copy(
        arrow_text("a7"), np.array([[1]], np.uint8), np.array([[1, -2]], np.float16), False, None, arrow_text(None)
    )
    assert found == (
        b"\x00\x05"
        b"\x00\x00\x00\x02" + b"a7"
        b"\x00\x00\x00\x05" + b"\x00\x00\x00\x08" + b"\x01"
        b"\x00\x00\x00\x0c" + b"\x00\x02\x00\x00" + b"\x3f\x80\x00\x00\xc0\x00\x00\x00"
        b"\xff\xff\xff\xff"
        b"\xff\xff\xff\xff"
    )


def test_rows_without_embeddings_omit_the_field() -> None:
    found = _native.encode_copy(np.array([1]), np.array([[1]], np.uint8), None, False, arrow_text(""), None)
    assert list(parse_rows(found)) == [[struct.pack("!q", 1), struct.pack("!i", 8) + b"\x01", b"", None]]


optional_texts = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)


@given(st.data(), st.integers(0, 30), st.booleans(), st.sampled_from((None, np.float16, np.float32)), st.booleans())
@examples(150)
def test_rows_round_trip(data: st.DataObject, rows: int, text_ids: bool, dtype: type | None, half: bool) -> None:
    random = np.random.default_rng(rows)
    some_texts = st.lists(optional_texts, min_size=rows, max_size=rows)
    documents, metadata = data.draw(some_texts), data.draw(some_texts)
    codes = random.integers(0, 256, (rows, 5), np.uint8)
    vectors = None if dtype is None else random.normal(size=(rows, 11)).astype(dtype)
    ids = random.integers(-(2**63), 2**63 - 1, rows)
    encoded = _native.encode_copy(
        arrow_text(*map(str, ids)) if text_ids else ids,
        codes,
        vectors,
        half,
        arrow_text(*documents),
        arrow_text(*metadata),
    )
    parsed = list(parse_rows(encoded))
    assert len(parsed) == rows
    for row, fields in enumerate(parsed):
        assert fields.pop(0) == (str(ids[row]).encode() if text_ids else struct.pack("!q", ids[row]))
        assert fields.pop(0) == struct.pack("!i", 40) + codes[row].tobytes()
        if vectors is not None:
            stored = vectors[row].astype(">f2" if half else ">f4").tobytes()
            assert fields.pop(0) == struct.pack("!hh", 11, 0) + stored
        assert fields.pop(0) == (None if documents[row] is None else documents[row].encode())
        assert fields.pop(0) == (None if metadata[row] is None else b"\x01" + metadata[row].encode())
        assert fields == []


def test_float32_rounds_to_nearest_float16_with_ties_to_even() -> None:
    values = np.array([[1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-11 + 2**-20, 6e-8, 65504, -0.0, 1e-30]], np.float32)
    encoded = _native.encode_copy(np.array([0]), np.zeros((1, 1), np.uint8), values, True, None, None)
    (fields,) = parse_rows(encoded)
    assert fields[2] is not None
    assert fields[2][4:] == values.astype(">f2").tobytes()


def test_large_batch_equals_concatenated_small_batches() -> None:
    rows = 30_011
    random = np.random.default_rng(0)
    ids, codes = np.arange(rows), random.integers(0, 256, (rows, 33), np.uint8)
    vectors, document = (
        random.normal(size=(rows, 20)).astype(np.float32),
        arrow_text(*(str(i) * (i % 7) for i in range(rows))),
    )
    whole = _native.encode_copy(ids, codes, vectors, True, document, None)
    pieces = [
        _native.encode_copy(
            ids[i : i + 1000],
            codes[i : i + 1000],
            vectors[i : i + 1000],
            True,
            (document[0][i : i + 1001], *document[1:]),
            None,
        )
        for i in range(0, rows, 1000)
    ]
    assert len(whole) > 1 << 20
    assert whole == b"".join(pieces)


@pytest.mark.parametrize(
    ("value", "half", "reason"),
    [
        (np.nan, False, "NaN at dimension 1"),
        (-np.inf, True, "infinity at dimension 1"),
        (65505, True, "65505 at dimension 1 is beyond float16 (65504)"),
        (-1e6, True, "-1000000 at dimension 1 is beyond float16 (65504)"),
    ],
)
def test_error_names_a_value_that_pgvector_refuses(value: float, half: bool, reason: str) -> None:
    vectors = np.zeros((3, 2), np.float32)
    vectors[2, 1] = value
    with pytest.raises(_native.BadRow) as caught:
        _native.encode_copy(np.arange(3), np.zeros((3, 1), np.uint8), vectors, half, None, None)
    assert caught.value.args == (2, reason)


@pytest.mark.parametrize("column", ["id", "document", "metadata"])
def test_error_names_the_column_with_a_nul_character(column: str) -> None:
    columns = {name: arrow_text("a", "b\0c" if name == column else "d") for name in ("id", "document", "metadata")}
    with pytest.raises(_native.BadRow) as caught:
        _native.encode_copy(
            columns["id"], np.zeros((2, 1), np.uint8), None, False, columns["document"], columns["metadata"]
        )
    assert caught.value.args == (1, f"{column} holds a NUL character, which Postgres refuses")


def test_null_id_is_an_error() -> None:
    with pytest.raises(_native.BadRow) as caught:
        _native.encode_copy(arrow_text("a", None), np.zeros((2, 1), np.uint8), None, False, None, None)
    assert caught.value.args == (1, "id is null")


def test_mismatched_columns_are_errors_instead_of_panics() -> None:
    codes = np.zeros((2, 1), np.uint8)
    out_of_range = (np.array([0, 1, 9]), np.zeros(3, np.uint8), None)
    descending = (np.array([0, 2, 1]), np.zeros(3, np.uint8), None)
    for call in (
        lambda: _native.encode_copy(np.arange(3), codes, None, False, None, None),
        lambda: _native.encode_copy(np.arange(2), codes, np.zeros((3, 2), np.float32), False, None, None),
        lambda: _native.encode_copy(np.arange(2), codes, np.zeros((2, 40_000), np.float32), False, None, None),
        lambda: _native.encode_copy(np.arange(2), codes, None, False, arrow_text("a"), None),
        lambda: _native.encode_copy(np.arange(2), codes, None, False, out_of_range, None),
        lambda: _native.encode_copy(np.arange(2), codes, None, False, descending, None),
    ):
        with pytest.raises(ValueError, match=r"found|ascend"):
            call()
