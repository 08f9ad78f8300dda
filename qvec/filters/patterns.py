"""The patterns of $like: `%` matches any text, `_` one character; a backslash escapes the next character."""

from __future__ import annotations

import re
import sys
from enum import Enum
from functools import lru_cache


class Wildcard(Enum):
    """A part of a pattern that matches variable text."""

    ONE = "_"
    MANY = "%"


def parts(pattern: str) -> list[str | Wildcard]:
    """Split a pattern into runs of text and wildcards, `%%` as one. Raise ValueError for a backslash at the end."""
    found: list[str | Wildcard] = []
    characters = iter(pattern)
    for character in characters:
        if character in "_%":
            wild = Wildcard(character)
            if not (wild is Wildcard.MANY and found[-1:] == [Wildcard.MANY]):
                found.append(wild)
            continue
        if character == "\\":
            character = next(characters, "")
            if not character:
                raise ValueError("its last backslash escapes nothing")
        if found and isinstance(found[-1], str):
            found[-1] += character
        else:
            found.append(character)
    return found


def matches(pattern: str, ignore_case: bool, text: str) -> bool:
    """Tell whether a pattern matches the whole text; `ignore_case` applies to ASCII letters."""
    return _expression(pattern, ignore_case).fullmatch(text) is not None


@lru_cache(maxsize=256)
def _expression(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    expressions = {Wildcard.ONE: ".", Wildcard.MANY: ".*"}
    expression = "".join(re.escape(part) if isinstance(part, str) else expressions[part] for part in parts(pattern))
    flags = re.DOTALL | re.ASCII | (re.IGNORECASE if ignore_case else 0)
    return re.compile(expression, flags)


def literal_prefix(pattern: str) -> str:
    """Return the text that every match begins with."""
    first = parts(pattern)[:1]
    return first[0] if first and isinstance(first[0], str) else ""


def after_prefix(prefix: str) -> str | None:
    """Return the first string, by code points, after all that begin with the prefix; None if there is none."""
    prefix = prefix.rstrip(chr(sys.maxunicode))
    if not prefix:
        return None
    after = ord(prefix[-1]) + 1
    return prefix[:-1] + chr(0xE000 if after == 0xD800 else after)  # no text holds surrogates
