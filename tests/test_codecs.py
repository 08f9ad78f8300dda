"""Decoding quantized embeddings: golden values, comparison with numpy's packing, and errors."""

import base64
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qvec.codecs import FLOAT, PRESETS, Codec, decode, decode_rows, from_base64, preset
from qvec.errors import InputError, RowError

SIGNS = [1, -1, 1, -1, -1, -1, -1, 1, 1, 1, -1, -1, -1, -1, -1, -1]

rows = arrays.array_shapes(min_dims=2, max_dims=2, max_side=40).flatmap(
    lambda shape: arrays.arrays(np.float32, shape, elements=st.floats(-4, 4, width=32))
)


@pytest.mark.parametrize(
    ("name", "stored", "expected"),
    [
        ("ubinary", np.array([[0b1010_0001, 0b1100_0000]], np.uint8), SIGNS),
        ("binary", np.array([[33, 64]], np.int8), SIGNS),  # 161 - 128 and 192 - 128
        ("ubinary-lsb", np.array([[0b1000_0101, 0b0000_0011]], np.uint8), SIGNS),
        ("sign", np.array([SIGNS], np.int8), SIGNS),
        ("sign", np.array([SIGNS]) > 0, SIGNS),
        ("sign", np.array([[1, 0, 0, 1]], np.uint8), [1, -1, -1, 1]),
        ("int8", np.array([[-128, -1, 0, 127]], np.int8), [-128, -1, 0, 127]),
        ("uint8", np.array([[0, 127, 128, 255]], np.uint8), [-128, -1, 0, 127]),
        ("float", np.array([[0.5, -2]], np.float16), [0.5, -2]),
        ("base64", np.array([[0.5, -2]], np.float64), [0.5, -2]),
    ],
)
def test_golden_values(name, stored, expected):
    vectors = decode(stored, preset(name))
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    assert vectors.tolist() == [expected]


@pytest.mark.parametrize("name", ["ubinary", "binary", "ubinary-lsb", "int8", "uint8"])
def test_wider_integer_types_decode_the_same(name):
    """numpy makes wide integers of parsed JSON."""
    stored = np.random.default_rng(0).integers(*preset(name).limits, (5, 8), np.int64, endpoint=True)
    narrow = stored.astype(preset(name).dtype)
    assert np.array_equal(decode(stored, preset(name)), decode(narrow, preset(name)))


def test_decoding_does_not_modify_input():
    for codec in PRESETS.values():
        stored = np.ones((2, 8), codec.dtype)
        decode(stored, codec)
        assert (stored == 1).all()


@given(rows, st.sampled_from(["big", "little"]), st.booleans())
def test_packed_bits_agree_with_numpy(floats, order, signed):
    packed = np.packbits(floats > 0, axis=1, bitorder=order)
    dtype, offset = ("int8", 128) if signed else ("uint8", 0)
    stored = (packed.astype(np.int16) - offset).astype(dtype)
    codec = Codec("bits", dtype, "packed", order, offset, dimensions=floats.shape[1])
    assert np.array_equal(decode(stored, codec), np.where(floats > 0, 1, -1))


@given(rows)
def test_sign_of_zero_follows_zero_option(floats):
    stored = np.sign(floats).astype(np.int8)
    positive_at_zero = replace(preset("sign"), zero=">=")
    assert np.array_equal(decode(stored, positive_at_zero), np.where(floats >= 0, 1, -1))
    if (floats != 0).all():
        assert np.array_equal(decode(stored, preset("sign")), decode(stored, positive_at_zero))


@given(rows, st.floats(2**-10, 8, width=32))
def test_scale_multiplies_stored_values(floats, step):
    stored = np.round(floats * 10).astype(np.int8)
    codec = Codec("int8", "int8", scale=step)
    assert np.array_equal(decode(stored, codec), stored.astype(np.float32) * np.float32(step))
    each = tuple(step * (1 + i) for i in range(floats.shape[1]))
    assert np.array_equal(
        decode(stored, replace(codec, scale=each)), stored.astype(np.float32) * np.array(each, np.float32)
    )


def test_scale_is_applied_after_offset():
    codec = replace(preset("uint8"), scale=0.5)
    assert decode(np.array([[0, 130]], np.uint8), codec).tolist() == [[-64, 1]]


def test_base64_decodes_bytes():
    stored = np.array([3, 255, 0], np.uint8)
    assert np.array_equal(np.frombuffer(from_base64(base64.b64encode(stored).decode()), np.uint8), stored)
    with pytest.raises(ValueError, match="base64"):
        from_base64("no base64!")


def test_presets_decode_sentence_transformers_embeddings():
    """Each precision has a preset of the same name; int8 and uint8 decode to equal embeddings."""
    quantization = pytest.importorskip("sentence_transformers.util.quantization")
    floats = np.random.default_rng(0).normal(size=(200, 32)).astype(np.float32)
    decoded = {
        name: decode(quantization.quantize_embeddings(floats, precision=name), preset(name))
        for name in ("binary", "ubinary", "int8", "uint8")
    }
    assert np.array_equal(decoded["binary"], np.where(floats > 0, 1, -1))
    assert np.array_equal(decoded["binary"], decoded["ubinary"])
    assert np.array_equal(decoded["int8"], decoded["uint8"])


def test_codec_from_json_file(tmp_path):
    path = tmp_path / "perplexity.json"
    path.write_text('{"dtype": "int8", "scale": [0.5, 0.25], "dimensions": 2, "normalized": true}')
    codec = preset(str(path))
    assert codec == Codec("perplexity.json", "int8", scale=(0.5, 0.25), dimensions=2, normalized=True)
    assert decode(np.array([[1, 3]], np.int8), codec).tolist() == [[0.5, 0.75]]
    path.write_text('{"dtype": "uint8", "bits": "packed", "bit_order": "little", "dimensions": 3}')
    assert decode(np.array([[0b101]], np.uint8), preset(str(path))).tolist() == [[1, -1, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "is not a JSON object of dtype, bits, bit_order"),
        ('{"type": "int8"}', "is not a JSON object of dtype, bits, bit_order"),
        ('{"dtype": 8}', "has dtype 8, expected str"),
        ('{"offset": true}', "has offset True, expected int"),
        ('{"dtype": "int4"}', "has dtype 'int4', expected one of"),
        ('{"dtype": "int8", "scale": ["a"]}', "has a scale that is not a list of numbers"),
        ("{", "cannot read encoding"),
    ],
)
def test_invalid_json_file_raises(tmp_path, text, message):
    path = tmp_path / "codec.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        preset(str(path))
    with pytest.raises(InputError, match=r"cannot read encoding nowhere\.json"):
        preset("nowhere.json")


def test_presets_by_name():
    assert list(PRESETS) == ["float", "base64", "int8", "uint8", "ubinary", "ubinary-lsb", "binary", "sign"]
    assert all(preset(name).name == name for name in PRESETS)
    assert preset("float") is FLOAT
    with pytest.raises(InputError, match=r"^encoding 'bin' is unknown, expected one of: float, base64, int8, uint8, "):
        preset("bin")


@pytest.mark.parametrize(("dimensions", "values"), [(8, 1), (9, 2), (1024, 128), (1025, 129)])
def test_packed_dimensions_and_bytes(dimensions, values):
    codec = replace(preset("ubinary"), dimensions=dimensions)
    assert codec.values(dimensions) == values
    assert codec.dimensions_of(values) == dimensions
    assert preset("ubinary").dimensions_of(values) == 8 * values


# Invalid codecs and rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int4"}, r"^encoding 'x' has dtype 'int4', expected one of: \('float16', "),
        ({"bits": "packet", "dtype": "int8"}, "has bits 'packet', expected one of"),
        ({"bits": "packed"}, "has bits of dtype 'float32', expected int8 or uint8"),
        ({"bit_order": "msb"}, "has bit_order 'msb', expected one of"),
        ({"zero": ">>"}, "has zero '>>', expected one of"),
        ({"dimensions": 0}, "has dimensions 0, expected at least 1"),
        ({"dtype": "int8", "scale": 0}, "has scale 0, expected positive finite numbers"),
        ({"dtype": "int8", "scale": (1.0, float("inf"))}, "expected positive finite numbers"),
        ({"dtype": "int8", "bits": "packed", "scale": 0.5}, "has a scale, but bits have none"),
    ],
)
def test_invalid_codecs_raise(options, message):
    with pytest.raises(InputError, match=message):
        Codec("x", **options)


@pytest.mark.parametrize(
    ("name", "stored", "message"),
    [
        ("ubinary", np.zeros((2, 4), np.int8), "holds int8; expected uint8 for encoding 'ubinary'"),
        ("binary", np.zeros((2, 4), np.uint8), "holds uint8; expected int8 for encoding 'binary'"),
        ("int8", np.zeros((2, 4), np.uint8), "holds uint8; expected int8 for encoding 'int8'"),
        ("uint8", np.zeros((2, 4), np.int8), "holds int8; expected uint8 for encoding 'uint8'"),
        ("int8", np.zeros((2, 4), np.float32), "holds float32; expected int8 for encoding 'int8'"),
        ("sign", np.zeros((2, 4), np.float32), "holds float32; expected integers or booleans for encoding 'sign'"),
        (
            "float",
            np.zeros((2, 4), np.int8),
            "holds int8; expected float16, float32 or float64; if the vectors are",
        ),
        ("base64", np.zeros((2, 4), np.int8), "expected float16, float32 or float64 for encoding 'base64'$"),
        ("int8", np.zeros(4, np.int8), r"1 axes found, 2 wanted \(rows, values\)"),
    ],
)
def test_wrong_dtype_raises(name, stored, message):
    with pytest.raises(InputError, match=message):
        decode(stored, preset(name))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ubinary", -1, "^vectors: row 1: has -1 at position 2, but encoding 'ubinary' holds integers from 0 to 255$"),
        ("ubinary", 256, "has 256 at position 2"),
        ("binary", 200, "has 200 at position 2, but encoding 'binary' holds integers from -128 to 127"),
        ("int8", -129, "has -129 at position 2"),
        ("uint8", -5, "has -5 at position 2, but encoding 'uint8' holds integers from 0 to 255"),
        ("sign", 2, "has 2 at position 2, but encoding 'sign' holds integers from -1 to 1"),
    ],
)
def test_value_out_of_range_error_names_row(name, value, message):
    stored = np.ones((3, 4), np.int64)
    stored[1, 2] = value
    with pytest.raises(RowError, match=message) as error:
        decode(stored, preset(name))
    assert error.value.row == 1


def test_decode_rows_reports_each_bad_row_once():
    stored = np.array([[1, 1], [300, 1], [1, 1], [-1, 400]])
    _, bad = decode_rows(stored, preset("uint8"))
    assert {row: reason.split(",")[0] for row, reason in bad.items()} == {
        1: "has 300 at position 0",
        3: "has -1 at position 0",
    }


def test_sign_encoding_rejects_three_values():
    stored = np.array([[1, -1, 1], [1, 0, 0], [0, -1, 1]], np.int8)
    with pytest.raises(RowError, match=r"row 2: has both -1 and 0, but encoding 'sign' holds -1 and 1 or 0 and 1$"):
        decode(stored, preset("sign"))


def test_stated_dimensions_are_checked():
    codec = replace(preset("ubinary"), dimensions=1024)
    with pytest.raises(InputError, match=r"^vectors: 1024 values a row found, 128 wanted for 1024 dim"):
        decode(np.zeros((1, 1024), np.uint8), codec)
    with pytest.raises(InputError, match="127 values a row found, 128 wanted"):
        decode(np.zeros((1, 127), np.uint8), codec)
    with pytest.raises(InputError, match="3 values a row found, 4 wanted for 4 dimensions"):
        decode(np.zeros((1, 3), np.int8), replace(preset("int8"), dimensions=4))


@pytest.mark.parametrize(("written", "read"), [("big", "little"), ("little", "big")])
def test_padding_bit_reveals_wrong_bit_order(written, read):
    stored = np.packbits(np.ones((2, 10), bool), axis=1, bitorder=written)
    with pytest.raises(RowError, match="row 0: has a bit set after its 10 dimensions, in encoding 'x'"):
        decode(stored, Codec("x", "uint8", "packed", read, dimensions=10))


def test_number_of_scales_must_equal_dimensions():
    with pytest.raises(InputError, match="3 dimensions found, but the scale has 2"):
        decode(np.zeros((1, 3), np.int8), Codec("int8", "int8", scale=(0.1, 0.2)))


def test_wrong_scale_of_normalized_vectors_is_detected():
    floats = np.random.default_rng(0).normal(size=(20, 64))
    floats /= np.linalg.norm(floats, axis=1, keepdims=True)
    stored = np.round(floats * 200).astype(np.int8)
    right = Codec("int8", "int8", scale=1 / 200, normalized=True)
    assert np.abs(decode(stored, right) - floats).max() < 1 / 399
    with pytest.raises(RowError, match=r"row 0: has length 1\.5\d* when decoded, expected about 1: is the"):
        decode(stored, replace(right, scale=1 / 127))
