"""Recalibrating a collection in Postgres: original vectors, copied table properties, concurrent writes, rollback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from concurrent_writes import writing_in_background
from conftest import realistic
from ingest_helpers import run_command, with_ids, write_lines
from numpy.typing import NDArray
from reporters import AtStage

import qvec
from qvec import Calibration, CollectionError, InputError, RangeMethod
from qvec.client import Collection, Database
from qvec.client.bulk import open_version_sync
from qvec.ingest import LoadOptions, ingest
from qvec.metadata_index import MetadataIndex
from qvec.postgres._sync import schema
from qvec.postgres.rows import stored_codes
from qvec.recalibration import Refit, drop_old, recalibrate, roll_back
from qvec.sources import open_source
from qvec.store.versions import UnsyncedRows

Vectors = NDArray[np.float32]

ROWS = 300
VECTORS = realistic(ROWS)
POOR = Calibration.fit(VECTORS, threshold=0, ranges=RangeMethod("fixed", value=3.0))
"""Ranges about ten times too wide: its codes are coarse, and meaningless when another calibration decodes them."""
FIT = Refit(threshold=0.5, ranges=RangeMethod())


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with qvec.connect(url) as opened:
        yield opened


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the rows with their ids."""
    return write_lines(tmp_path_factory.mktemp("source") / "rows.jsonl", with_ids(VECTORS))


def create_docs(database: Database, rescore: Any = "float32", **settings: Any) -> Collection:
    """Create the collection with all rows, texts, indexes and a poor calibration."""
    docs = database.create_collection("docs", calibration=POOR, rescore=rescore, **settings)
    docs.upsert(range(ROWS), VECTORS, [f"note {n}" for n in range(ROWS)], [{"n": n} for n in range(ROWS)])
    docs.index_metadata([MetadataIndex.parse("n:integer")])
    docs.index_texts("english")
    docs.build_index()
    return docs


def recalibrate_docs(database: Database, path: Path | None = None, **options: Any) -> Any:
    options = {"refit": FIT} | options
    if path is None:
        return recalibrate(database, "docs", **options)
    with open_source(path) as opened:
        return recalibrate(database, "docs", source=opened, **options)


def codes(database: Database, name: str = "docs") -> dict[int, bytes]:
    table = database.collection(name).stored.table
    with database.store.connection() as connection, connection.cursor(binary=True) as cursor:
        return dict(cursor.execute(f'SELECT id, codes FROM "{table.name}"'.encode()).fetchall())


def assert_codes_of(database: Database, vectors: dict[int, Any], name: str = "docs") -> None:
    """Assert that a collection holds exactly these rows, quantized by its own calibration."""
    docs = database.collection(name)
    rows = np.array(list(vectors.values()), np.float32)
    expected = stored_codes(rows, docs.calibration, docs.stored.table.layout)
    assert codes(database, name) == {id: row.tobytes() for id, row in zip(vectors, expected, strict=True)}


def indexes(database: Database, table: str) -> set[str]:
    """Return the names of a table's indexes and of its statistics."""
    with database.store.connection() as connection:
        found = connection.execute(
            "SELECT indexname FROM pg_indexes WHERE tablename = %(table)s"
            " UNION ALL SELECT statistics_name FROM pg_stats_ext_exprs WHERE tablename = %(table)s",
            {"table": table},
        )
        return {row[0] for row in found}


# From kept floats


def test_kept_floats_are_quantized_with_the_new_calibration(database: Database) -> None:
    docs = create_docs(database, oversampling=3, model="m")
    before = indexes(database, "docs")
    done = recalibrate_docs(database)
    new = database.collection("docs")
    assert (done.former, done.calibration, done.rows) == (POOR.id, new.calibration.id, ROWS)
    assert done.kept == f"docs@{POOR.id}"
    assert new.calibration.description["method"]["threshold"] == 0.5
    assert done.recall.new.value > done.recall.old.value
    assert (new.oversampling, new.model, new.has_index()) == (3, "m", True)
    assert_codes_of(database, dict(enumerate(VECTORS)))
    assert [(hit.document, hit.metadata) for hit in new.get([7, 299])] == [
        ("note 7", {"n": 7}),
        ("note 299", {"n": 299}),
    ]
    assert indexes(database, "docs") == before
    assert docs.info().rows == ROWS
    assert docs.search_text("notes 7")[0].document == "note 7"
    assert {found.name for found in database.collections()} == {"docs", done.kept}


def test_recalibration_keeps_the_method_by_default(database: Database) -> None:
    docs = database.create_collection(
        "docs", rescore="float16", calibration=Calibration.fit(VECTORS[:50], threshold=0, ranges=RangeMethod("minmax"))
    )
    docs.upsert(range(ROWS), VECTORS)
    new = database.collection("docs").calibration if recalibrate_docs(database, refit=Refit()) else None
    assert new is not None
    assert new.description["method"] == {"name": "minmax", "per_dimension": True, "threshold": 0.0}


def test_matryoshka_prefix_still_accepts_full_vectors(database: Database) -> None:
    docs = database.create_collection(
        "docs", rescore="float16", calibration=Calibration.fit(VECTORS[:50], threshold=0, dimensions=32)
    )
    docs.upsert(range(ROWS), VECTORS)
    recalibrate_docs(database)
    assert docs.search(VECTORS[5], 1)[0].id == 5
    assert docs.search(VECTORS[5][:32], 1)[0].id == 5
    drop_old(database, "docs")
    recalibrate_docs(database, refit=Refit(dimensions=16), allow_worse=True)
    assert database.collection("docs").calibration.accepted_dimensions == (16, 64)
    assert docs.upsert([9999], VECTORS[:1]) == 1
    assert docs.search(VECTORS[5], 1)[0].id == 5


def test_queries_of_the_old_dimensions_are_refused(database: Database) -> None:
    """Even by a handle that was opened before the recalibration."""
    docs = database.create_collection(
        "docs", rescore="float16", calibration=Calibration.fit(VECTORS[:50], threshold=0, dimensions=32)
    )
    docs.upsert(range(ROWS), VECTORS)
    other = database.collection("docs")
    recalibrate_docs(database, refit=Refit(dimensions=16), allow_worse=True)
    for search in (docs.search, other.explain):
        with pytest.raises(InputError, match=r"^query: 32 dimensions found, 16 or 64 wanted$"):
            search(VECTORS[5][:32])
    assert docs.search(VECTORS[5], 1)[0].id == 5


def test_recalibration_without_a_change_is_refused(database: Database) -> None:
    create_docs(database)
    recalibrate_docs(database)
    drop_old(database, "docs")
    with pytest.raises(qvec.CalibrationError, match=r"already has calibration .*, which fitting again gives"):
        recalibrate_docs(database)
    assert [found.name for found in database.collections()] == ["docs"]


def test_worse_calibration_is_refused_unless_allowed(database: Database) -> None:
    docs = database.create_collection("docs", rescore="float16", calibration=Calibration.fit(VECTORS))
    docs.upsert(range(ROWS), VECTORS)
    worse = Refit(threshold=1, ranges=RangeMethod("fixed", value=30.0))
    with pytest.raises(InputError, match=r"^the new calibration finds less .* use --allow-worse$"):
        recalibrate_docs(database, refit=worse)
    assert [found.name for found in database.collections()] == ["docs"]
    assert recalibrate_docs(database, refit=worse, allow_worse=True).recall.is_worse


def test_trial_changes_nothing(database: Database) -> None:
    create_docs(database)
    before = codes(database)
    done = recalibrate_docs(database, trial=True)
    assert done.recall.new.value > done.recall.old.value
    assert done.kept is None
    assert database.collection("docs").calibration == POOR
    assert codes(database) == before
    assert [found.name for found in database.collections()] == ["docs"]


# From a source


def test_collection_without_floats_needs_a_source(database: Database) -> None:
    create_docs(database, "int8")
    with pytest.raises(
        CollectionError, match=r"keeps int8 codes and no floats, .* never fitted to decoded codes; .*--source"
    ):
        recalibrate_docs(database)


def test_vectors_come_from_the_source_and_texts_from_the_collection(database: Database, source: Path) -> None:
    docs = create_docs(database, "int8")
    docs.upsert([3], VECTORS[3:4], ["rewritten"], [{"n": 3, "more": [1.5, None]}])
    done = recalibrate_docs(database, source)
    assert_codes_of(database, dict(enumerate(VECTORS)))
    found = docs.get([3, 4])
    assert [(hit.document, hit.metadata) for hit in found] == [
        ("rewritten", {"n": 3, "more": [1.5, None]}),
        ("note 4", {"n": 4}),
    ]
    assert (done.surplus, done.unsynced) == (0, UnsyncedRows(0, 0))


def test_source_rows_missing_in_the_collection_are_counted(database: Database, source: Path) -> None:
    create_docs(database, "int8").delete([5, 6, 7])
    assert recalibrate_docs(database, source).surplus == 3


def test_source_without_ids_uses_the_ids_of_its_load(database: Database, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", VECTORS)
    with open_source(tmp_path / "rows.npy") as opened:
        ingest(database, opened, LoadOptions("docs", calibration=POOR, id_start=1000, index=False))
    recalibrate_docs(database, tmp_path / "rows.npy")
    assert_codes_of(database, dict(zip(range(1000, 1000 + ROWS), VECTORS, strict=True)))


def test_rows_missing_in_source_or_collection_are_counted(database: Database, source: Path) -> None:
    docs = create_docs(database, "int8")
    docs.upsert([ROWS, ROWS + 1], VECTORS[:2])
    docs.delete([5, 6, 7])
    with pytest.raises(CollectionError, match=r"^of the rows of collection 'docs' 2 are missing in its other version"):
        recalibrate_docs(database, source)
    assert database.collection("docs").calibration == POOR
    done = recalibrate_docs(database, source, allow_missing=True)
    assert (done.surplus, done.unsynced.missing, done.rows) == (3, 2, ROWS - 3)
    assert_codes_of(database, {n: VECTORS[n] for n in range(ROWS) if n not in (5, 6, 7)})


def test_source_with_other_vectors_is_refused(database: Database, tmp_path: Path) -> None:
    create_docs(database, "int4")
    shifted = write_lines(tmp_path / "other.jsonl", with_ids(np.roll(VECTORS, 1, axis=0)))
    with pytest.raises(InputError, match=r"is not what collection 'docs' was loaded from: .* have another vector"):
        recalibrate_docs(database, shifted)
    named = write_lines(tmp_path / "named.jsonl", with_ids(VECTORS[:9], [f"n{n}" for n in range(9)]))
    with pytest.raises(InputError, match="has text ids, but collection 'docs' has bigint ids"):
        recalibrate_docs(database, named)


# Concurrent writes


@pytest.mark.parametrize("stage", ["loading", "index"])
def test_concurrent_writes_reach_the_new_version(database: Database, stage: str) -> None:
    docs = create_docs(database)

    def write() -> None:
        docs.upsert([4, 7000], VECTORS[8:10], ["four", "new"], [{"n": 1}, None])
        docs.delete([0, 1, 2, 299])
        with database.store.connection() as connection:
            connection.execute("UPDATE docs SET id = 8000 WHERE id = 5")

    recalibrate_docs(database, reporter=AtStage(stage, write))
    expected = {n: VECTORS[n] for n in range(ROWS) if n not in (0, 1, 2, 4, 5, 299)}
    expected |= {4: VECTORS[8], 7000: VECTORS[9], 8000: VECTORS[5]}
    found = codes(database)
    assert found.keys() == expected.keys()
    assert_codes_of(database, {id: expected[id] for id in found})
    assert [hit and hit.document for hit in docs.get([4, 7000, 8000, 5])] == ["four", "new", "note 5", None]


def test_constant_writer_loses_no_rows(database: Database) -> None:
    with writing_in_background(create_docs(database), VECTORS) as written:
        recalibrate_docs(database)
        roll_back(database, "docs")
        recalibrate_docs(database)
    found = codes(database)
    expected = dict(enumerate(VECTORS)) | written
    assert found.keys() == expected.keys()
    assert_codes_of(database, {id: expected[id] for id in found})


def test_vectors_replaced_without_originals_are_reported(database: Database, source: Path) -> None:
    docs = create_docs(database, "int8")

    def write() -> None:
        docs.upsert([1, 2], VECTORS[1:3], ["one", "two"])
        docs.upsert([3, 9000], VECTORS[10:12], ["three", "new"])
        docs.delete([8])

    with pytest.raises(CollectionError, match="1 are missing and 1 have an older vector in its other version"):
        recalibrate_docs(database, source, reporter=AtStage("loading", write))
    done = recalibrate_docs(database, source, allow_missing=True)
    assert (done.unsynced.missing, done.unsynced.outdated) == (1, 1)
    assert [hit and hit.document for hit in docs.get([1, 3, 8, 9000])] == ["one", "three", None, None]


def test_truncate_is_refused_while_another_version_exists(database: Database) -> None:
    create_docs(database)
    recalibrate_docs(database)
    with database.store.connection() as connection, pytest.raises(psycopg.Error, match="has another version"):
        connection.execute("TRUNCATE docs")


def test_concurrent_load_fails_and_can_be_continued(database: Database, source: Path) -> None:
    create_docs(database)
    reporter = AtStage("loading", lambda: recalibrate_docs(database))
    with open_source(source) as opened:
        with pytest.raises(
            CollectionError, match="was recalibrated, or dropped and created again, while it was loaded; run the same"
        ):
            ingest(database, opened, LoadOptions("docs", index=False, batch_rows=50), reporter)
        ingest(database, opened, LoadOptions("docs", index=False, batch_rows=50))
    assert_codes_of(database, dict(enumerate(VECTORS)))


# Rollback


def test_rollback_keeps_later_writes(database: Database) -> None:
    docs = create_docs(database)
    new = recalibrate_docs(database)
    docs.upsert([7000], VECTORS[:1], ["since"])
    docs.delete([4])
    back = roll_back(database, "docs")
    assert (back.calibration, back.former, back.kept) == (POOR.id, new.calibration, f"docs@{new.calibration}")
    expected = {n: VECTORS[n] for n in range(ROWS) if n != 4} | {7000: VECTORS[0]}
    assert_codes_of(database, expected)
    assert docs.get([7000])[0].document == "since"
    again = recalibrate_docs(database)
    assert again.calibration == new.calibration
    assert_codes_of(database, expected)


def test_rollback_without_original_vectors_counts_missing_rows(database: Database, source: Path) -> None:
    docs = create_docs(database, "int8")
    recalibrate_docs(database, source)
    docs.upsert([7000], VECTORS[:1])
    with pytest.raises(CollectionError, match="1 are missing"):
        roll_back(database, "docs")
    assert roll_back(database, "docs", allow_missing=True).unsynced.missing == 1
    assert database.collection("docs").count() == ROWS


def test_only_one_old_version_is_kept(database: Database) -> None:
    create_docs(database)
    with pytest.raises(CollectionError, match="keeps no old version to roll back to"):
        roll_back(database, "docs")
    recalibrate_docs(database)
    with pytest.raises(CollectionError, match=r"keeps its old version 'docs@.*'; drop that first: qvec recalibrate"):
        recalibrate_docs(database)
    assert drop_old(database, "docs").calibration == POOR.id
    with pytest.raises(CollectionError, match="has no other version"):
        drop_old(database, "docs")
    with database.store.connection() as connection:
        left = connection.execute("SELECT relname FROM pg_class WHERE relname LIKE 'docs%' ORDER BY 1").fetchall()
        triggers = connection.execute("SELECT FROM pg_trigger WHERE tgname LIKE 'qvec_%'").fetchall()
        calibrations = connection.execute("SELECT id FROM qvec.calibration").fetchall()
    assert all("@" not in name for (name,) in left)
    assert (triggers, len(calibrations)) == ([], 1)


def test_dropping_a_collection_drops_its_versions(database: Database) -> None:
    create_docs(database)
    recalibrate_docs(database)
    database.drop_collection("docs")
    assert database.collections() == []
    with database.store.connection() as connection:
        assert connection.execute("SELECT FROM pg_class WHERE relname LIKE 'docs%'").fetchall() == []


def test_uninstalling_with_collections_drops_versions(database: Database) -> None:
    create_docs(database)
    recalibrate_docs(database)
    database.store.write(lambda connection: schema.uninstall(connection, with_collections=True))
    with database.store.connection() as connection:
        assert connection.execute("SELECT FROM pg_class WHERE relname LIKE 'docs%'").fetchall() == []


def test_version_can_be_dropped_by_name(database: Database) -> None:
    docs = create_docs(database)
    database.drop_collection(recalibrate_docs(database).kept)
    docs.upsert([7000], VECTORS[:1])
    assert docs.count() == ROWS + 1
    with open_version_sync(database, "docs") as versions:
        assert versions.other() is None


# Table properties


def test_privileges_comments_and_parameters_are_copied(database: Database) -> None:
    create_docs(database)
    with database.store.connection() as connection:
        connection.execute(
            "DO $$ BEGIN CREATE ROLE recalibrate_reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
        )
        connection.execute("GRANT SELECT (id, document), UPDATE (metadata) ON docs TO recalibrate_reader")
        connection.execute("GRANT DELETE ON docs TO recalibrate_reader WITH GRANT OPTION")
        connection.execute("COMMENT ON TABLE docs IS 'it''s mine'; ALTER TABLE docs SET (fillfactor = 90)")
        connection.execute('CREATE UNIQUE INDEX "odd name" ON docs (document) WHERE document IS NOT NULL')

    def state() -> Any:
        with database.store.connection() as connection:
            return connection.execute(
                "SELECT (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(relacl) a), relowner,"
                " obj_description(c.oid, 'pg_class'), (SELECT array_agg(o ORDER BY o) FROM unnest(reloptions) o),"
                " (SELECT jsonb_object_agg(attname, attacl::text) FROM pg_attribute"
                "  WHERE attrelid = c.oid AND attnum > 0),"
                " (SELECT array_agg(d ORDER BY d) FROM pg_index, pg_get_indexdef(indexrelid) d WHERE indrelid = c.oid)"
                " FROM pg_class c WHERE relname = 'docs'"
            ).fetchone()

    before = state()
    recalibrate_docs(database)
    assert state() == before
    roll_back(database, "docs")
    assert state() == before


def test_text_searches_find_the_same_rows_as_before(database: Database) -> None:
    docs = create_docs(database)
    docs.index_texts()
    before = [hit.id for hit in docs.search_text("note 77")]
    recalibrate_docs(database)
    again = database.collection("docs")
    again.upsert([7000], VECTORS[:1], ["a fig tree"])
    assert [hit.id for hit in again.search_text("note 77")] == before
    roll_back(database, "docs")
    assert [hit.id for hit in database.collection("docs").search_text("figs")] == [7000]


def test_sql_inserts_use_the_new_calibration(database: Database) -> None:
    create_docs(database)
    with database.store.connection() as connection:
        connection.execute("SELECT qvec.accept_vectors('docs')")
        text = json.dumps(VECTORS[0].tolist())
        recalibrate_docs(database)
        connection.execute("INSERT INTO docs (id, embedding_in) VALUES (7000, %s)", [text])
    assert_codes_of(database, dict(enumerate(VECTORS)) | {7000: VECTORS[0]})
    roll_back(database, "docs")
    assert_codes_of(database, dict(enumerate(VECTORS)) | {7000: VECTORS[0]})


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("ALTER TABLE docs ADD COLUMN tenant text", "column tenant"),
        ("CREATE VIEW shown AS SELECT id FROM docs", "view shown"),
        ("CREATE TABLE likes (doc bigint REFERENCES docs)", "constraint likes_doc_fkey"),
        ("CREATE POLICY mine ON docs USING (true)", "policy mine"),
        ("ALTER TABLE docs ADD CHECK (id > -1)", "constraint docs_id_check"),
    ],
)
def test_properties_that_cannot_be_copied_are_refused_before_any_change(
    database: Database, statement: str, named: str
) -> None:
    create_docs(database)
    with database.store.connection() as connection:
        connection.execute(statement.encode())
    with pytest.raises(
        CollectionError, match=f"objects that cannot be moved to the table of a new version: {named}; drop them"
    ):
        recalibrate_docs(database)
    assert [found.name for found in database.collections()] == ["docs"]


def test_long_and_unusual_collection_names(database: Database) -> None:
    for name in ("x" * 63, "q\"uo'te", "ÜNÏ" * 9):
        docs = database.create_collection(name, calibration=POOR, rescore="float16")
        docs.upsert(range(100), VECTORS[:100])
        docs.build_index()
        recalibrate(database, name, refit=FIT)
        roll_back(database, name)
        recalibrate(database, name, refit=FIT)
        assert docs.search(VECTORS[3], 1)[0].id == 3
        assert database.collection(name).has_index()
        drop_old(database, name)


# The command


@pytest.mark.slow
def test_recalibrate_command(database: Database, url: str) -> None:
    create_docs(database)
    place = ("--db", url, "-c", "docs")
    trial = json.loads(
        run_command("recalibrate", *place, "--threshold", "half", "--ranges", "quantile", "--dry-run", "--json").stdout
    )
    assert trial["kept"] is None
    done = run_command("recalibrate", *place, "--threshold", "half", "--ranges", "quantile", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["calibration"], result["rows"], result["missing"]) == (trial["calibration"], ROWS, 0)
    assert result["recall"]["new"] > result["recall"]["old"]
    assert "recall@10 among 300 sampled rows" in done.stderr
    assert result["kept"] in run_command("collections", "--db", url).stdout
    shown = run_command("info", "docs", "--db", url, "--json").stdout.splitlines()
    assert [json.loads(line)["name"] for line in shown] == ["docs", result["kept"]]
    assert "rows, in" in run_command("recalibrate", *place, "--rollback").stdout
    assert f"dropped docs@{result['calibration']}" in run_command("recalibrate", *place, "--drop-old").stdout
    assert database.collection("docs").calibration == POOR
    assert run_command("recalibrate", *place, "--metric", "ip").returncode == 1
    assert run_command("recalibrate", *place, "--rollback", "--dry-run").returncode == 1
