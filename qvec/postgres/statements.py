"""The SQL statements on a collection's table, built without a connection.

Identifiers are quoted by psycopg.sql, values are parameters; `%b` asks for the binary form. pgvector's schema is
named throughout, since it need not be on the search path.
"""

from __future__ import annotations

from psycopg import sql
from psycopg.sql import SQL, Composable, Composed, Identifier

from qvec.defaults import HNSW_EF_CONSTRUCTION, HNSW_M, MAX_EF_SEARCH, ef_search
from qvec.postgres.layout import Table
from qvec.store.requests import OnDuplicate

EVERY_ROW = SQL("true")
DELETED_IDS = "deleted_ids"
"""The parameter of `delete`."""

_PAGE_BYTES = 8160
"""Bytes of a page for rows, which is also the maximum of toast_tuple_target."""
_TOAST_TARGET = 2040
"""Postgres's default of toast_tuple_target."""
_TEXT_IN_ROW = 500


def create_table(table: Table) -> Composed:
    """Return the statements that create the table. Codes and floats stay in the row while two such rows fit a page, so
    that rescoring reads one page per candidate and a load writes no second table. Long texts move out of the row."""
    layout = table.layout
    row_bytes = layout.code_bytes + layout.float_bytes
    in_row = row_bytes if row_bytes <= _PAGE_BYTES // 2 else layout.code_bytes
    learned: Composable = SQL("")
    embedding: Composable = SQL("")
    storage = [_set_storage("codes", layout.code_bytes)]
    if layout.has_learned_column:
        learned = SQL("learned bit({}) NOT NULL,").format(sql.Literal(layout.prefilter_bits))
        storage.append(_set_storage("learned", layout.code_bytes))
    if layout.float_type:
        embedding = SQL("embedding {} NOT NULL,").format(table.vector_type(layout.float_type))
        storage.append(_set_storage("embedding", row_bytes))
    return SQL(
        "CREATE TABLE {table} (id {id_type} PRIMARY KEY, codes bit({bits}) NOT NULL,"
        " {learned} {embedding} document text, metadata jsonb) WITH (toast_tuple_target = {target});"
        " ALTER TABLE {table} {storage}"
    ).format(
        table=table.identifier,
        id_type=SQL(layout.id_type),
        bits=sql.Literal(layout.code_bits),
        storage=SQL(", ").join(storage),  # before version 16 not a part of CREATE TABLE
        target=sql.Literal(min(max(in_row + _TEXT_IN_ROW, _TOAST_TARGET), _PAGE_BYTES)),
        learned=learned,
        embedding=embedding,
    )


def _set_storage(column: str, row_bytes: int) -> Composed:
    storage = SQL("PLAIN" if row_bytes <= _PAGE_BYTES // 2 else "EXTERNAL")
    return SQL("ALTER {} SET STORAGE {}").format(Identifier(column), storage)


def prefilter(table: Table) -> Composed:
    """Return the expression that the index holds and the search orders by."""
    layout = table.layout
    if not layout.planes:
        return SQL("(codes)").format()
    if layout.has_learned_column:
        return SQL("(learned)").format()
    bits, width = sql.Literal(layout.prefilter_bits), sql.Literal(layout.plane_bits)
    if layout.prefilter == "binary":
        return SQL("(substring(codes from 1 for {bits})::bit({bits}))").format(bits=bits)
    function = Identifier("qvec", layout.prefilter)
    return SQL("({function}(codes, {width})::bit({bits}))").format(function=function, width=width, bits=bits)


def create_index(table: Table) -> Composed:
    return SQL("CREATE INDEX {} ON {} USING hnsw ({} {}) WITH (m = {}, ef_construction = {})").format(
        Identifier(table.index),
        table.identifier,
        prefilter(table),
        Identifier(table.vector.schema, "bit_hamming_ops"),
        sql.Literal(HNSW_M),
        sql.Literal(HNSW_EF_CONSTRUCTION),
    )


def drop_index(table: Table) -> Composed:
    return SQL("DROP INDEX IF EXISTS {}").format(Identifier(table.schema, table.index))


def copy_into(target: Identifier, table: Table) -> Composed:
    columns = SQL(", ").join(map(Identifier, table.columns))
    return SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(target, columns)


STAGING = Identifier("qvec_staging")


def create_staging(table: Table) -> Composed:
    return SQL("CREATE TEMPORARY TABLE {} (LIKE {}) ON COMMIT DROP").format(STAGING, table.identifier)


def merge_staging(table: Table, on_duplicate: OnDuplicate) -> Composed:
    """Return the statement that moves the staged rows. Of rows with one id the last one stays, or with `skip` the
    first: in a fresh table that one COPY filled, the order of ctid is that of the rows."""
    replace = on_duplicate == "replace"
    return SQL(
        "INSERT INTO {table} ({columns}) SELECT DISTINCT ON (id) {columns} FROM {staging} ORDER BY id, ctid {order}"
        " ON CONFLICT (id) DO {action}"
    ).format(
        table=table.identifier,
        columns=SQL(", ").join(map(Identifier, table.columns)),
        staging=STAGING,
        order=SQL("DESC" if replace else "ASC"),
        action=_overwrite(table) if replace else SQL("NOTHING"),
    )


def _overwrite(table: Table) -> Composed:
    assignments = [SQL("{0} = excluded.{0}").format(Identifier(name)) for name in table.columns if name != "id"]
    return SQL("UPDATE SET {}").format(SQL(", ").join(assignments))


def unchanged(collection: str, calibration: str) -> Composed:
    """Return the condition that a collection still has this calibration, in the snapshot of the statement.

    Postgres resolves and locks the table of a statement before it takes the snapshot, so no version switch comes
    between: rows of a statement with this condition are codes of this calibration.
    """
    return SQL("EXISTS (SELECT FROM qvec.collection WHERE name = {} AND calibration = {})").format(
        sql.Literal(collection), sql.Literal(calibration)
    )


def candidates(
    table: Table,
    columns: tuple[str, ...],
    k: int,
    count: int,
    where: Composable = EVERY_ROW,
    condition: Composable = EVERY_ROW,
) -> Composed:
    """Return the query for the rows `where` nearest to the prefilter bits of the query, `%(bits)b`, as candidates for k
    hits.

    The statement sets ef_search and the iterative scan for itself: the index scan starts only after the lateral join
    has evaluated the settings that it refers to. So no setting of the session cuts the prefilter, even behind a
    connection pooler, and no round trip is spent. It returns no rows unless the `condition`, which refers to no row,
    holds.
    """
    set_all = SQL(" || ").join(
        SQL("set_config({}, {}, true)").format(sql.Literal(name), sql.Literal(str(value)))
        for name, value in _scan_settings(table, k, count).items()
    )
    return SQL(
        "SELECT candidate.* FROM (SELECT {set_all} AS done WHERE {condition} OFFSET 0) settings CROSS JOIN LATERAL"
        " (SELECT {columns} FROM {table} WHERE settings.done IS NOT NULL AND {where}"
        " ORDER BY {prefilter} {distance} %(bits)b LIMIT {count}) candidate"
    ).format(
        set_all=set_all,
        condition=condition,
        columns=SQL(", ").join(map(Identifier, columns)),
        where=where,
        table=table.identifier,
        prefilter=prefilter(table),
        distance=table.operator("<~>"),
        count=sql.Literal(count),
    )


def _scan_settings(table: Table, k: int, count: int) -> dict[str, int | str]:
    settings: dict[str, int | str] = {"hnsw.ef_search": ef_search(k, count)}
    if table.vector.iterative_scan:
        settings["hnsw.iterative_scan"] = "relaxed_order"
    if count > MAX_EF_SEARCH:
        settings |= {"hnsw.max_scan_tuples": 50 * count, "hnsw.scan_mem_multiplier": 8}
    return settings


def all_rows(table: Table, columns: tuple[str, ...], where: Composable = EVERY_ROW) -> Composed:
    """Return the query for every row `where`, for an exact scan: no order, no index."""
    return SQL("SELECT {} FROM {} WHERE {}").format(SQL(", ").join(map(Identifier, columns)), table.identifier, where)


def first_rows(table: Table, columns: tuple[str, ...], where: Composable, limit: int | None) -> Composed:
    """Return the query for the first rows `where` by id; without a limit, for all of them."""
    return SQL("{} ORDER BY id LIMIT {}").format(all_rows(table, columns, where), sql.Literal(limit))


def sampled_ids(table: Table, size: int, seed: int) -> Composed:
    """Return the query for ids drawn uniformly: those with the lowest hashes under a seed, as in qvec.recall in SQL."""
    return SQL('SELECT id FROM {} ORDER BY hashtextextended(id::text COLLATE "C", {}), id LIMIT {}').format(
        table.identifier, sql.Literal(seed), sql.Literal(size)
    )


def by_ids(table: Table, columns: tuple[str, ...]) -> Composed:
    return SQL("SELECT {} FROM {} WHERE id = ANY(%s::{}[])").format(
        SQL(", ").join(map(Identifier, columns)), table.identifier, SQL(table.layout.id_type)
    )


def delete(table: Table, where: Composable = EVERY_ROW, *, by_id: bool = True) -> Composed:
    """Return the statement that deletes the rows `where`, with `by_id` only those with the ids `DELETED_IDS`."""
    ids = SQL("id = ANY({}::{}[])").format(sql.Placeholder(DELETED_IDS), SQL(table.layout.id_type))
    return SQL("DELETE FROM {} WHERE {} AND {}").format(table.identifier, ids if by_id else EVERY_ROW, where)


def count(table: Table, where: Composable = EVERY_ROW) -> Composed:
    return SQL("SELECT count(*) FROM {} WHERE {}").format(table.identifier, where)


def holds_more_than(table: Table, rows: int) -> Composed:
    return SQL("SELECT count(*) > {} FROM (SELECT FROM {} LIMIT {}) AS first_rows").format(
        sql.Literal(rows), table.identifier, sql.Literal(rows + 1)
    )


def stored_rows(table: Table, start: int, condition: Composable = EVERY_ROW) -> Composed:
    """Return the query for all rows by id, from a position on: id, codes or float4 bytes, document, metadata; no rows
    unless the `condition` holds."""
    return SQL("SELECT id, {}, document, metadata::text FROM {} WHERE {} ORDER BY id OFFSET {}").format(
        _vector(table), table.identifier, condition, sql.Literal(start)
    )


def stored_rows_by_ids(table: Table) -> Composed:
    """Return the query for the rows with the ids `%s`, with the columns of `stored_rows`."""
    return SQL("SELECT id, {}, document, metadata::text FROM {} WHERE id = ANY(%s::{}[])").format(
        _vector(table), table.identifier, SQL(table.layout.id_type)
    )


def vectors(table: Table, condition: Composable = EVERY_ROW) -> Composed:
    """Return the query for the rows with the ids `%s`: id, codes or float4 bytes; no rows unless the `condition`
    holds."""
    return SQL("SELECT id, {} FROM {} WHERE id = ANY(%s::{}[]) AND {}").format(
        _vector(table), table.identifier, SQL(table.layout.id_type), condition
    )


def _vector(table: Table) -> Composable:
    """Return the floats as pgvector sends them, or the codes where no floats are kept."""
    if not table.layout.float_type:
        return Identifier("codes")
    send = Identifier(table.vector.schema, "vector_send")
    return SQL("{}(embedding::{})").format(send, table.vector_type("vector"))


def stored_codes(table: Table, condition: Composable = EVERY_ROW) -> Composed:
    """Return the query for all rows in physical order: id, codes, and the floats as pgvector sends them, null where
    none are kept. No rows unless the `condition` holds."""
    floats = _vector(table) if table.layout.float_type else SQL("NULL")
    return SQL("SELECT id, codes, {} FROM {} WHERE {}").format(floats, table.identifier, condition)


def next_id(table: Table) -> Composed:
    return SQL("SELECT coalesce(max(id), -1) + 1 FROM {}").format(table.identifier)


PARTS = ("heap", "toast", "primary_key", "other_indexes", "prefilter_index")
"""The parts of a collection on disk, in the order of `sizes`."""


def sizes(table: Table) -> Composed:
    """Return the query for the bytes of each of `PARTS`."""
    relation = sql.Literal(table.identifier.as_string())
    return SQL(
        "SELECT pg_table_size(t.oid) - coalesce(pg_total_relation_size(nullif(t.reltoastrelid, 0)), 0),"
        " coalesce(pg_total_relation_size(nullif(t.reltoastrelid, 0)), 0),"
        " coalesce(sum(pg_relation_size(i.indexrelid)) FILTER (WHERE indisprimary), 0)::bigint,"
        " coalesce(sum(pg_relation_size(i.indexrelid)) FILTER (WHERE NOT indisprimary AND x.relname <> {index}),"
        " 0)::bigint,"
        " coalesce(sum(pg_relation_size(i.indexrelid)) FILTER (WHERE x.relname = {index}), 0)::bigint"
        " FROM pg_class t LEFT JOIN pg_index i ON i.indrelid = t.oid LEFT JOIN pg_class x ON x.oid = i.indexrelid"
        " WHERE t.oid = {table}::regclass GROUP BY t.oid, t.reltoastrelid"
    ).format(table=relation, index=sql.Literal(table.index))
