"""Calibrations in SQL: import, export, validation, immutability, and fits equal to Python's."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from conftest import realistic, unit
from numpy.typing import NDArray
from sql_helpers import fetch_value, import_calibration, install_schema, vector_text

from qvec import Calibration, RangeMethod

Connection = psycopg.Connection[Any]
Vectors = NDArray[np.float32]
ARRAYS = ("threshold", "radius", "deviation", "mean", "std")


@pytest.fixture(scope="module")
def sql(new_database: Callable[..., str]) -> Iterator[Connection]:
    with install_schema(new_database()) as connection:
        yield connection


def fetch_arrays(sql: Connection, name: str) -> list[list[float]]:
    columns = ", ".join(f"{array}::real[]" for array in ARRAYS)
    row = sql.execute(f"SELECT {columns} FROM qvec.calibration WHERE id = %s".encode(), [name]).fetchone()
    assert row is not None
    return [np.array(array, np.float32).tolist() for array in row]


def export_calibration(sql: Connection, name: str) -> Calibration:
    found = fetch_value(sql, "SELECT qvec.export_calibration(%s)", name)
    assert found["id"] == name
    calibration = Calibration.from_bytes(base64.b64decode(found["content"]))
    assert found["metadata"] == calibration.metadata()
    return calibration


@pytest.mark.parametrize("dimensions", [1, 64, 1024])
def test_import_and_export_keep_every_bit(sql: Connection, dimensions: int) -> None:
    calibration = Calibration.fit(realistic(50, dimensions), metric="ip", model='Größe "\\\U0001f600')
    name = import_calibration(sql, calibration)
    assert name == calibration.id
    assert fetch_arrays(sql, name) == [getattr(calibration, array).tolist() for array in ARRAYS]
    assert export_calibration(sql, name).to_bytes() == calibration.to_bytes()
    document = fetch_value(sql, "SELECT qvec.export_calibration(%s)::text", name)
    assert fetch_value(sql, "SELECT qvec.import_calibration(%s::jsonb)", document) == name


def test_extreme_float32_values_are_preserved(sql: Connection) -> None:
    numbers = np.array([0.0, 1e-45, 1.1754944e-38, 1.1754942e-38, 3.4028235e38, 1 / 3, 2**-120, 1.0], np.float32)
    signed = np.concatenate([numbers, -numbers])
    both = np.concatenate([numbers, numbers])
    calibration = Calibration(signed, both, both, signed, both, "ip")
    name = import_calibration(sql, calibration)
    (threshold,) = sql.execute("SELECT vector_send(threshold) FROM qvec.calibration WHERE id = %s", [name]).fetchall()[
        0
    ]
    assert threshold[4:] == signed.astype(">f4").tobytes()
    assert fetch_arrays(sql, name)[1] == both.tolist()


def test_metadata_may_contain_other_ids(sql: Connection, calibration: Calibration) -> None:
    inner = {"a": 1, "id": "0123456789abcdef"}
    rest = [getattr(calibration, array) for array in ARRAYS]
    calibration_with_ids = Calibration(
        *rest, metric="ip", description={"extra": inner, "z": inner, "note": ',"id":"0123456789abcdef"'}
    )
    assert import_calibration(sql, calibration_with_ids) == calibration_with_ids.id
    assert export_calibration(sql, calibration_with_ids.id) == calibration_with_ids


def test_import_with_more_dimensions_than_pgvector_supports(sql: Connection) -> None:
    """Python can use such a calibration; SQL stores it without the vectors needed to quantize."""
    ones = np.ones(16_001, np.float32)
    name = import_calibration(sql, Calibration(ones, ones, ones, ones, ones, "ip"))
    assert sql.execute("SELECT dimensions, threshold FROM qvec.calibration WHERE id = %s", [name]).fetchone() == (
        16_001,
        None,
    )


def damaged_contents(calibration: Calibration) -> Iterator[tuple[bytes, str]]:
    """Yield damaged contents of a calibration and the error that each must raise."""
    whole = calibration.to_bytes()
    yield whole[:-1] + bytes([whole[-1] ^ 1]), "does not hash to its id"
    yield whole.replace(b"cosine", b"cosinf"), "does not hash to its id"
    yield whole[:-4], "does not hash to its id"
    yield b"", "a safetensors file written by qvec"
    yield b"\xff" * 100, "a safetensors file written by qvec"
    yield whole[:100], "a safetensors file written by qvec"
    yield b"\x02" + b"\0" * 7 + b"{}", "a safetensors file written by qvec"


def test_damaged_content_is_an_error(sql: Connection, vectors: Vectors) -> None:
    calibration = Calibration.fit(vectors[:77])
    for data, message in damaged_contents(calibration):
        with pytest.raises(psycopg.Error, match=message):
            sql.execute("SELECT qvec.import_calibration(%s::bytea)", [data])
        with pytest.raises(psycopg.Error, match=f"calibration {calibration.id} is damaged: .*{message}"):
            sql.execute("INSERT INTO qvec.calibration (id, content) VALUES (%s, %s)", [calibration.id, data])
    for document in ("{}", "[]", '{"content": 1}'):
        with pytest.raises(psycopg.Error, match="this is not a calibration: expected the object that"):
            sql.execute("SELECT qvec.import_calibration(%s::jsonb)", [document])
    assert fetch_value(sql, "SELECT count(*) FROM qvec.calibration WHERE id = %s", calibration.id) == 0


def test_calibrations_are_immutable_and_kept_while_in_use(sql: Connection, calibration: Calibration) -> None:
    name = import_calibration(sql, calibration)
    with pytest.raises(psycopg.Error, match=f"calibration {name} is immutable: its id is the hash of its content"):
        sql.execute("UPDATE qvec.calibration SET metadata = '{}' WHERE id = %s", [name])
    sql.execute("SELECT qvec.create_collection('uses_it', %s)", [name])
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        sql.execute("DELETE FROM qvec.calibration WHERE id = %s", [name])
    sql.execute("SELECT qvec.drop_collection('uses_it')")
    assert sql.execute("DELETE FROM qvec.calibration WHERE id = %s", [name]).rowcount == 1
    with pytest.raises(psycopg.Error, match=f"no calibration '{name}'"):
        sql.execute("SELECT qvec.export_calibration(%s)", [name])


# Fitting


def create_vector_table(sql: Connection, table: str, vectors: Vectors, kind: str = "vector") -> None:
    sql.execute(
        f'DROP TABLE IF EXISTS "{table}"; CREATE TABLE "{table}" (id bigint PRIMARY KEY, embedding {kind})'.encode()
    )
    with sql.cursor().copy(f'COPY "{table}" FROM STDIN'.encode()) as copy:
        for row, vector in enumerate(vectors):
            copy.write_row((row, vector_text(vector)))


def assert_same_fit(found: Calibration, expected: Calibration) -> None:
    """Assert equal arrays, bit for bit, and equal metadata and ids except for the qvec version."""
    found_metadata, expected_metadata = found.metadata(), expected.metadata()
    assert {**found_metadata, "qvec": None} == {**expected_metadata, "qvec": None}
    for array in ARRAYS:
        assert getattr(found, array).tolist() == getattr(expected, array).tolist(), array
    description = {**expected.description, "qvec": found_metadata["qvec"]}
    assert found.id == Calibration(*(getattr(expected, array) for array in ARRAYS), expected.metric, description).id


@pytest.mark.parametrize(
    ("options", "python"),
    [
        ({}, {}),
        ({"metric": "ip", "threshold": 0, "model": 'Größe "\\\U0001f600\x7f'}, None),
        ({"quantile": 0.5}, {"ranges": RangeMethod(quantile=0.5)}),
        ({"quantile": 0.9}, {"ranges": RangeMethod(quantile=0.9)}),
        ({"quantile": 1e-5}, {"ranges": RangeMethod(quantile=1e-5)}),
        ({"quantile": 1}, {"ranges": RangeMethod(quantile=1.0)}),
        ({"method": "minmax", "threshold": 1}, {"ranges": RangeMethod("minmax"), "threshold": 1}),
        ({"method": "fixed", "radius": 0.18}, {"ranges": RangeMethod("fixed", value=0.18)}),
        ({"dimensions": 12, "seed": 7}, {"dimensions": 12, "seed": 7}),
    ],
)
def test_fit_equals_python(sql: Connection, options: Any, python: Any) -> None:
    vectors = realistic(300, 24)
    create_vector_table(sql, "Fitted on", vectors)
    arguments = "".join(f", {name} => %({name})s" for name in options)
    statement = f"""SELECT qvec.calibrate('"Fitted on"', 'embedding'{arguments})"""
    row = sql.execute(statement.encode(), options).fetchone()
    assert row is not None
    expected = Calibration.fit(vectors, **(options if python is None else python))
    assert_same_fit(export_calibration(sql, row[0]), expected)


def test_fit_of_unit_vectors_and_halfvec(sql: Connection) -> None:
    vectors = unit(realistic(100, 24))
    create_vector_table(sql, "units", vectors)
    assert_same_fit(
        export_calibration(sql, fetch_value(sql, "SELECT qvec.calibrate('units', 'embedding')")),
        Calibration.fit(vectors),
    )
    create_vector_table(sql, "halves", vectors.astype(np.float16), "halfvec")
    found = export_calibration(sql, fetch_value(sql, "SELECT qvec.calibrate('halves', 'embedding')"))
    assert_same_fit(found, Calibration.fit(vectors.astype(np.float16)))


def test_sample_covers_the_whole_table(sql: Connection) -> None:
    """The table is sorted, so a sample of its first rows would have another mean."""
    vectors = np.sort(np.random.default_rng(0).normal(size=(3000, 1)).astype(np.float32), axis=0)
    create_vector_table(sql, "sorted", vectors)
    samples = [
        export_calibration(
            sql,
            fetch_value(
                sql,
                "SELECT qvec.calibrate('sorted', 'embedding', metric => 'ip', sample_size => 500, seed => %s)",
                seed,
            ),
        )
        for seed in (0, 0, 1)
    ]
    assert samples[0] == samples[1] != samples[2]
    assert samples[0].description["sample"] == {"drawn": "uniform", "seed": 0, "size": 500}
    for sample in samples:
        assert abs(float(sample.mean[0])) < 0.2
        assert float(sample.std[0]) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("'units', 'none'", "table units has no column 'none'"),
        ("'units', 'id'", "column id of table units is bigint, expected vector or halfvec"),
        ("'units', 'embedding', 'median'", "method is 'median', expected quantile, minmax or fixed"),
        ("'units', 'embedding', metric => 'l2'", "metric is 'l2', expected cosine or ip"),
        ("'units', 'embedding', threshold => 2", "threshold is 2, expected a share of the mean from 0 to 1"),
        ("'units', 'embedding', quantile => 0", "quantile is 0, expected a number above 0 and at most 1"),
        ("'units', 'embedding', 'fixed'", "radius is <NULL>: method fixed needs one"),
        ("'units', 'embedding', 'fixed', radius => -1", "radius is -1: method fixed needs one, positive"),
        ("'units', 'embedding', radius => 1", "radius is 1: method fixed needs one, positive"),
        ("'units', 'embedding', dimensions => 99", "dimensions is 99, but the vectors have 24"),
        ("'units', 'embedding', sample_size => 0", "sample_size is 0, expected at least 1"),
        ("'empty', 'embedding'", "no vectors to calibrate on in column embedding of empty"),
        ("'mixed', 'embedding'", "vectors have 1 and 2 dimensions, expected the same number in each row"),
        ("'zeros', 'embedding'", "zero vector, which has no direction under cosine"),
    ],
)
def test_invalid_settings_and_vectors_are_errors(sql: Connection, call: str, message: str) -> None:
    create_vector_table(sql, "units", unit(realistic(20, 24)))
    create_vector_table(sql, "empty", np.empty((0, 1), np.float32))
    create_vector_table(sql, "mixed", np.ones((1, 1), np.float32))
    create_vector_table(sql, "zeros", np.zeros((2, 2), np.float32))
    sql.execute("INSERT INTO mixed VALUES (2, '[1,2]')")
    with pytest.raises(psycopg.Error) as caught:
        sql.execute(f"SELECT qvec.calibrate({call})".encode())
    assert str(caught.value.diag.message_primary).startswith(message)


def test_metadata_is_canonical_json(sql: Connection) -> None:
    for number in (0.1, 1, 1e-5, 0.0001, 0.9999, 1 / 3, 123456.0, 1e-300):
        assert fetch_value(sql, "SELECT qvec._json_float(%s)", number) == json.dumps(float(number))
    for string in ("", "a", '\x01\x1f\x7f\n\t"\\/', "é\u2028\uffff", "\U0001f600x"):
        assert fetch_value(sql, "SELECT qvec._json_text(%s)", string) == json.dumps(string)
    assert fetch_value(sql, "SELECT qvec._json_text(NULL)") == "null"
