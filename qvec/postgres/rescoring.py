"""SQL that rescores candidates: by floats, or by counting the common bits of code planes and query planes.

Under cosine, scores of codes are divided by the length of the decoded vector. The schema stores with each calibration
the terms that give it at 1, 4, 8 and 10 planes (`qvec._length` says how): the squared length is base + scale * sum of
2^b * hamming(pairs, digits_b) over 16 digits, where `pairs` are the planes followed by the exclusive ors of planes that
are 1, 2, … apart. The error is at most half of scale for each weight; smaller squared lengths count as 0, and so does
their score.
"""

from __future__ import annotations

from psycopg import sql
from psycopg.sql import SQL, Composable, Composed, Identifier

from qvec.postgres.layout import Table

_DIGITS = 16


def rescore_floats(table: Table, source: Composed, k: int) -> Composed:
    """Return the query for the best k rows of `source` by the inner product of their floats with `%(query)s`."""
    assert table.layout.float_type
    query = SQL("%(query)s::{}").format(table.vector_type(table.layout.float_type))
    return SQL(
        "SELECT id, -(embedding {inner} {query}) AS score, document, metadata FROM ({source}) AS source"
        " ORDER BY embedding {inner} {query} LIMIT {k}"
    ).format(inner=table.operator("<#>"), query=query, source=source, k=sql.Literal(k))


def rescore_codes(
    table: Table, source: Composed, query_planes: int, k: int, calibration: str | None = None
) -> Composed:
    """Return the query for the best k rows of `source` by counts of common bits of code planes and query planes.

    The score is constant + scale * sum_a 2^a (sum_b 2^b |D_a & Q_b| - 2^(B-1) |D_a|), with the codes' planes D_a, the
    query's Q_b (`%(q0)b` is the highest of B) and a, b their weights; with `calibration`, the id of theirs, it is
    divided by the length of the decoded vector. Each plane is sliced once, in a subquery that OFFSET 0 keeps from being
    flattened.
    """
    planes = table.layout.planes
    assert planes
    columns = [SQL("id, document, metadata"), *(_slice(table, plane) for plane in range(planes))]
    score: Composable = SQL("%(constant)s::float8 + %(scale)s::float8 * ({})").format(_common(planes, query_planes))
    beside: Composable = SQL("")
    before: Composable = SQL("")
    if calibration is not None:
        columns.append(SQL("{} AS pairs").format(_plane_pairs(table, planes)))
        score = _divided_by_length(table, score)
        beside = SQL(", lengths")
        of_calibration = _length_terms(table, planes, calibration)
        before = SQL("WITH lengths AS MATERIALIZED ({}) ").format(of_calibration)
    return SQL(
        "{before}SELECT id, {score} AS score, document, metadata"
        " FROM (SELECT {columns} FROM ({source}) AS source OFFSET 0) AS sliced{beside} ORDER BY score DESC LIMIT {k}"
    ).format(
        before=before,
        score=score,
        columns=SQL(", ").join(columns),
        source=source,
        beside=beside,
        k=sql.Literal(k),
    )


def _slice(table: Table, plane: int) -> Composed:
    bits = table.layout.plane_bits
    return SQL("substring(codes from {} for {}) AS {}").format(
        sql.Literal(1 + plane * bits), sql.Literal(bits), Identifier(f"d{plane}")
    )


def _common(planes: int, query_planes: int) -> Composed:
    return SQL(" + ").join(
        SQL("{} * ({})").format(sql.Literal(1 << (planes - 1 - plane)), _weighted_counts(plane, query_planes))
        for plane in range(planes)
    )


def _weighted_counts(plane: int, query_planes: int) -> Composed:
    data = Identifier(f"d{plane}")
    counts = [
        SQL("{} * bit_count({} & {})").format(
            sql.Literal(1 << (query_planes - 1 - b)), data, sql.Placeholder(f"q{b}", format="b")
        )
        for b in range(query_planes)
    ]
    offset = SQL(" - {} * bit_count({})").format(sql.Literal(1 << (query_planes - 1)), data)
    return SQL("{}{}").format(SQL(" + ").join(counts), offset)


def _plane_pairs(table: Table, planes: int) -> Composed:
    """Return the planes of `codes` followed by the exclusive ors of all pairs."""
    bits = table.layout.plane_bits
    apart = (
        SQL("(substring(codes from 1 for {length}) # substring(codes from {start} for {length}))").format(
            length=sql.Literal((planes - distance) * bits), start=sql.Literal(1 + distance * bits)
        )
        for distance in range(1, planes)
    )
    return SQL(" || ").join([SQL("codes").format(), *apart])


def _length_terms(table: Table, planes: int, calibration: str) -> Composed:
    """Return the query for base, scale, the smallest squared length distinct from 0, and the digits `l0`, `l1`, …

    substring in the subquery, which OFFSET 0 keeps from being flattened, reads the digits once.
    """
    count = planes * (planes + 1) // 2
    bits = count * table.layout.plane_bits
    digits = (
        SQL("substring(digits from {} for {}) AS {}").format(
            sql.Literal(1 + digit * bits), sql.Literal(bits), _digit(digit)
        )
        for digit in range(_DIGITS)
    )
    return SQL(
        "SELECT base, scale, -0.51 * scale * {weights} AS least, {digits} FROM (SELECT length_base[{planes}] AS base,"
        " length_scale[{planes}] AS scale, substring({stored} from 1) AS digits FROM qvec.calibration WHERE id = {id}"
        " OFFSET 0) AS terms"
    ).format(
        planes=sql.Literal(planes),
        stored=Identifier(f"length_digits{planes}"),
        weights=sql.Literal(count * table.layout.dimensions),
        digits=SQL(", ").join(digits),
        id=sql.Literal(calibration),
    )


def _divided_by_length(table: Table, score: Composable) -> Composed:
    """Return the score divided by the length, for rows with `pairs` joined to the length terms."""
    sums = (
        SQL("{} * (pairs {} {})").format(sql.Literal(1 << digit), table.operator("<~>"), _digit(digit))
        for digit in range(_DIGITS)
    )
    return SQL("coalesce(({}) / sqrt(nullif(greatest(base + scale * ({}), least), least)), 0)").format(
        score, SQL(" + ").join(sums)
    )


def _digit(digit: int) -> Identifier:
    return Identifier(f"l{digit}")
