"""Full-text search in Postgres: a generated column of lexemes, its GIN index, and BM25 over it.

Postgres's own ts_rank does not know how rare a word is, which costs much of what words add to vectors. So it only
picks the rows that are then ranked by BM25 (Robertson and Zaragoza, 2009), with k1 = 1.2 and b = 0.75.
"""

from __future__ import annotations

import re

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from qvec.full_text import asked, check_indexed_language, check_language
from qvec.hits import Hit
from qvec.postgres.layout import Table
from qvec.postgres.search import EVERY_ROW, Where
from qvec.postgres.steps import Fetch, Steps, unlimited, without_limit

_COLUMN = Identifier("lexemes")
_MOST_CHARACTERS = 100_000
"""Of a document that are indexed: a tsvector takes no more than a megabyte."""
_PICKED = 4
"""Rows for each hit that ts_rank picks for BM25, and"""
_LEAST_PICKED = 200
"""how many at least."""


def create(table: Table, collection: str, wanted: str) -> Steps[None]:
    """Indexes a collection's documents, unless they are. Adding the column rewrites the table.

    Raises InputError where they are indexed in another language.
    """
    check_language(wanted)
    found = yield from unlimited(language(table))
    if found is None:
        yield from _add_column(table, wanted)
        found = yield from unlimited(language(table))  # another may have been first
    check_indexed_language(collection, found or wanted, wanted)
    yield from without_limit(
        SQL("CREATE INDEX IF NOT EXISTS {index} ON {table} USING gin ({column})").format(
            index=Identifier(index(table)), table=table.identifier, column=_COLUMN
        )
    )
    yield from without_limit(SQL("ANALYZE {}").format(table.identifier))


def _add_column(table: Table, language: str) -> Steps[None]:
    yield from without_limit(
        SQL(
            "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} tsvector"
            " GENERATED ALWAYS AS (to_tsvector({language}::regconfig, left(document, {most}))) STORED"
        ).format(
            table=table.identifier,
            column=_COLUMN,
            language=Literal(f"pg_catalog.{language}"),
            most=Literal(_MOST_CHARACTERS),
        )
    )


def index(table: Table) -> str:
    """Name of the index, as long as that of the prefilter's."""
    return table.index.removesuffix("idx") + "txt"


def language(table: Table) -> Steps[str | None]:
    """The language that documents are indexed in, read from the definition of the column; None where they are not."""
    found = yield Fetch(
        SQL(
            "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute"
            " ON attrelid = adrelid AND attnum = adnum WHERE adrelid = to_regclass({})::oid AND attname = 'lexemes'"
        ).format(Literal(table.identifier.as_string(None)))
    )
    match = re.search(r"to_tsvector\('(?:pg_catalog\.)?(\w+)'::regconfig", found[0][0]) if found else None
    return match and match[1]


def search(table: Table, language: str, question: str, k: int, where: Where, texts: bool) -> Steps[list[Hit]]:
    """The k rows `where` that hold any of the question's words, by BM25, equal scores by id."""
    statement = _statement(table, language, k, where.composed())
    parameters = {**where.parameters, "question": asked(question).replace("\0", " ")}
    found = yield Fetch(statement, parameters, prepare=None if where == EVERY_ROW else False)
    return [Hit(*row) if texts else Hit(*row[:2]) for row in found]


def _statement(table: Table, language: str, k: int, where: Composable) -> Composed:
    """A question's lexemes with how rare each is; the rows that hold any, cut to the best by ts_rank; their BM25.

    The share of rows that hold a lexeme comes from the statistics of ANALYZE where the lexeme is common, and is counted
    by the index where it is not, so neither reads much; rows are counted as long as ANALYZE has seen none. A row is as
    long as it has distinct lexemes, set beside the average of the rows ranked.
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
            WHERE lexemes @@ words AND {where} ORDER BY ts_rank(lexemes, words, 1) DESC, id LIMIT {picked}),
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
        picked=Literal(max(_PICKED * k, _LEAST_PICKED)),
        k=Literal(k),
    )
