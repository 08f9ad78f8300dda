"""Instants: which strings are dates, and when they are."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta, timezone

_LEAP_YEAR = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DAY = (
    r"(?:(?!0000)[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_MINUTE = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_OFFSET = "[+-](?:0[0-9]|1[0-5])(?::?[0-5][0-9])?"
ISO = rf"({_DAY})(?:[T ]({_MINUTE})(?::([0-5][0-9])(?:\.([0-9]{{1,9}}))?(Z|{_OFFSET})?)?)?"
"""Dates as all databases read them: YYYY-MM-DD, then T or a space and HH:MM, then :SS, a fraction, and Z or an offset.

Nothing that it matches is out of range, so no database fails to convert it. Written for Python's and Postgres's regular
expressions alike; the match must be that of the whole text. Qdrant takes a few spellings more (2024-1-1, second 60).
"""

_iso = re.compile(ISO)


def parse(text: str) -> datetime | None:
    """The instant of an ISO 8601 date, or date and time, with its offset; None for other text.

    Without a zone it is UTC. Digits below the microsecond are cut off, as Qdrant does.
    """
    match = _iso.fullmatch(text)
    if match is None:
        return None
    day, minute, second, fraction, zone = match.groups()
    hours, minutes = (minute or "00:00").split(":")
    microseconds = (fraction or "")[:6].ljust(6, "0")
    at = time(int(hours), int(minutes), int(second or 0), int(microseconds))
    return datetime.combine(date.fromisoformat(day), at, _timezone(zone))


def _timezone(zone: str | None) -> timezone:
    if zone is None or zone == "Z":
        return timezone.utc
    offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:].lstrip(":") or 0))
    return timezone(-offset if zone[0] == "-" else offset)


def utc(value: datetime | date) -> datetime:
    """The instant in UTC; without a zone it is taken as UTC, a date as its midnight.

    OverflowError where that is out of the years 1 to 9999.
    """
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)
