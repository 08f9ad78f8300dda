"""Full-text search in Postgres: a generated column of lexemes, its GIN index, and BM25 over it; statements only.

Postgres's own ts_rank does not know how rare a word is, which costs much of what words add to vectors. So it only
selects the rows that are then ranked by BM25 (Robertson and Zaragoza, 2009), with k1 = 1.2 and b = 0.75.
"""

from __future__ import annotations

import re

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from qvec.postgres.layout import Table

_COLUMN = Identifier("lexemes")
_INDEXED_CHARACTERS = 100_000
"""Of each document: a tsvector holds no more than a megabyte."""
_SELECTED_PER_HIT = 4
"""Rows for each hit that ts_rank selects for BM25."""
_MIN_SELECTED = 200


def add_column(table: Table, language: str) -> Composed:
    """Return the statement that adds the column of lexemes, which rewrites the table."""
    return SQL(
        "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} tsvector"
        " GENERATED ALWAYS AS (to_tsvector({language}::regconfig, left(document, {limit}))) STORED"
    ).format(
        table=table.identifier,
        column=_COLUMN,
        language=Literal(f"pg_catalog.{language}"),
        limit=Literal(_INDEXED_CHARACTERS),
    )


def create_index(table: Table) -> Composed:
    """Return the statement that creates the GIN index where it is missing."""
    return SQL("CREATE INDEX IF NOT EXISTS {index} ON {table} USING gin ({column})").format(
        index=Identifier(index_name(table)), table=table.identifier, column=_COLUMN
    )


def index_name(table: Table) -> str:
    """Return the name of the index, as long as that of the prefilter's."""
    return table.index.removesuffix("idx") + "txt"


def column_definition(table: Table) -> Composed:
    """Return the query for the definition of the column; no row where it does not exist."""
    return SQL(
        "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute"
        " ON attrelid = adrelid AND attnum = adnum WHERE adrelid = to_regclass({})::oid AND attname = 'lexemes'"
    ).format(Literal(table.identifier.as_string(None)))


def language_of(definition: str) -> str | None:
    """Return the language in a column's definition."""
    match = re.search(r"to_tsvector\('(?:pg_catalog\.)?(\w+)'::regconfig", definition)
    return match and match[1]


def search(table: Table, language: str, k: int, where: Composable) -> Composed:
    """Return the query for the k best rows `where` for the question `%(question)s`: id, score, document, metadata.

    It takes the question's lexemes with the rarity of each, selects the rows that hold any by ts_rank, and ranks them
    by BM25, ties by id. The share of rows that hold a lexeme comes from the statistics of ANALYZE where the lexeme is
    common, and is counted by the index where it is not, so neither reads much; all rows are counted until ANALYZE has
    seen some. The length of a row is its number of distinct lexemes, relative to the average of the ranked rows.
    """
    return SQL(
        """
        WITH question AS MATERIALIZED (
            SELECT replace(plainto_tsquery({language}, %(question)s)::text, ' & ', ' | ')::tsquery AS words),
        size AS MATERIALIZED (
            SELECT CASE WHEN reltuples > 0 THEN reltuples::float8 ELSE (SELECT count(*) FROM {table}) END AS rows
            FROM pg_class WHERE oid = {relation}::regclass),
        common AS (
            SELECT lexeme, share FROM pg_stats,
                unnest(most_common_elems::text::text[], most_common_elem_freqs) AS held (lexeme, share)
            WHERE schemaname = {schema} AND tablename = {name} AND attname = 'lexemes'),
        terms AS MATERIALIZED (
            SELECT asked.lexeme, ln(1 + greatest(size.rows - found + 0.5, 0.5) / (found + 0.5)) AS rarity
            FROM size, unnest(to_tsvector({language}, %(question)s)) AS asked LEFT JOIN common USING (lexeme),
                LATERAL (SELECT CASE WHEN share IS NOT NULL THEN share * rows ELSE (
                    SELECT count(*) FROM {table} WHERE lexemes @@ ('''' || replace(replace(asked.lexeme,
                        '\\', '\\\\'), '''', '''''') || '''')::tsquery) END AS found) AS frequency),
        matching AS MATERIALIZED (
            SELECT id, document, metadata, lexemes, length(lexemes) AS size FROM {table}, question
            WHERE lexemes @@ words AND {where} ORDER BY ts_rank(lexemes, words, 1) DESC, id LIMIT {selected}),
        average AS MATERIALIZED (SELECT avg(size)::float8 AS size FROM matching)
        SELECT id, (
            SELECT sum(rarity * 2.2 * times / (times + 1.2 * (0.25 + 0.75 * matching.size / average.size)))
            FROM unnest(lexemes) AS held (lexeme, positions, weights) JOIN terms USING (lexeme),
                LATERAL (SELECT cardinality(positions)::float8 AS times) AS counted) AS score, document, metadata
        FROM matching, average ORDER BY score DESC, id LIMIT {k}
        """
    ).format(
        language=SQL("{}::regconfig").format(Literal(f"pg_catalog.{language}")),
        relation=Literal(table.identifier.as_string(None)),
        schema=Literal(table.schema),
        name=Literal(table.name),
        table=table.identifier,
        where=where,
        selected=Literal(max(_SELECTED_PER_HIT * k, _MIN_SELECTED)),
        k=Literal(k),
    )
