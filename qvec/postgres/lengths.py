"""SQL of the length of what codes stand for, by which their scores are divided under cosine.

The schema keeps with each calibration what gives it at 1 and 4 planes (`qvec._length` says how): the squared length is
base + scale * sum of 2^b * hamming(pairs, digits_b), over 16 digits; `pairs` are the planes and, behind them, the
exclusive ors of those that are 1, 2, … planes apart. It is off by half of scale for each weight at most: squared
lengths below that count as 0, and so does their score.
"""

from __future__ import annotations

from psycopg import sql
from psycopg.sql import SQL, Composable, Composed, Identifier

from qvec.postgres.layout import Table

_DIGITS = 16


def pairs(table: Table, planes: int) -> Composed:
    """The planes of `codes` and all pairs of them."""
    bits = table.layout.plane_bits
    apart = (
        SQL("(substring(codes from 1 for {length}) # substring(codes from {start} for {length}))").format(
            length=sql.Literal((planes - distance) * bits), start=sql.Literal(1 + distance * bits)
        )
        for distance in range(1, planes)
    )
    return SQL(" || ").join([SQL("codes").format(), *apart])


def of_calibration(table: Table, planes: int, calibration: str) -> Composed:
    """One row: base, scale, the least squared length that can be told from 0, and the digits `l0`, `l1`, …"""
    count = planes * (planes + 1) // 2
    bits = count * table.layout.plane_bits
    digits = (
        SQL("substring(length_digits[{}] from {} for {}) AS {}").format(
            sql.Literal(planes), sql.Literal(1 + digit * bits), sql.Literal(bits), _digit(digit)
        )
        for digit in range(_DIGITS)
    )
    return SQL(
        "SELECT length_base[{planes}] AS base, length_scale[{planes}] AS scale,"
        " -0.51 * length_scale[{planes}] * {weights} AS least, {digits} FROM qvec.calibration WHERE id = {id}"
    ).format(
        planes=sql.Literal(planes),
        weights=sql.Literal(count * table.layout.dimensions),
        digits=SQL(", ").join(digits),
        id=sql.Literal(calibration),
    )


def divided(table: Table, score: Composable) -> Composed:
    """The score divided by the length, of rows that have `pairs` and what `of_calibration` gives beside them."""
    sums = (
        SQL("{} * (pairs {} {})").format(sql.Literal(1 << digit), table.operator("<~>"), _digit(digit))
        for digit in range(_DIGITS)
    )
    return SQL("coalesce(({}) / sqrt(nullif(greatest(base + scale * ({}), least), least)), 0)").format(
        score, SQL(" + ").join(sums)
    )


def _digit(digit: int) -> Identifier:
    return Identifier(f"l{digit}")
