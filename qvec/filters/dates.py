"""Dates in metadata: which strings are dates, and which instants they name."""

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

No match is out of range, so no database fails to convert it. The expression works in Python and Postgres and must match
the whole text. Qdrant accepts a few more spellings (2024-1-1, second 60).
"""

_iso = re.compile(ISO)


def parse(text: str) -> datetime | None:
    """Return the instant of an ISO 8601 date, or date and time, with its offset; None for other text.

    Without a zone it is UTC. Digits below the microsecond are cut off, as in Qdrant.
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
    """Return the instant in UTC. A value without a zone is taken as UTC, a date as its midnight.

    Raise OverflowError if the result is outside the years 1 to 9999.
    """
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)
