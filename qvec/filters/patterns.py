"""The patterns of $like: `%` is any text, `_` one character, a backslash takes the next character as it is."""

from __future__ import annotations

import re
import sys
from enum import Enum
from functools import lru_cache


class Wild(Enum):
    """A part of a pattern that is no text."""

    ONE = "_"
    MANY = "%"


def parts(pattern: str) -> list[str | Wild]:
    """The pattern as runs of text and wildcards, `%%` as one. ValueError where its last backslash escapes nothing."""
    found: list[str | Wild] = []
    characters = iter(pattern)
    for character in characters:
        if character in "_%":
            wild = Wild(character)
            if not (wild is Wild.MANY and found[-1:] == [Wild.MANY]):
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
    """Whether the whole text is of the pattern; letter case is that of ASCII."""
    return _expression(pattern, ignore_case).fullmatch(text) is not None


@lru_cache(maxsize=256)
def _expression(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    expressions = {Wild.ONE: ".", Wild.MANY: ".*"}
    expression = "".join(re.escape(part) if isinstance(part, str) else expressions[part] for part in parts(pattern))
    flags = re.DOTALL | re.ASCII | (re.IGNORECASE if ignore_case else 0)
    return re.compile(expression, flags)


def literal_prefix(pattern: str) -> str:
    """The text that every match begins with."""
    first = parts(pattern)[:1]
    return first[0] if first and isinstance(first[0], str) else ""


def after_prefix(prefix: str) -> str | None:
    """The first string, by code points, after all that begin with the prefix; None where there is none."""
    prefix = prefix.rstrip(chr(sys.maxunicode))
    if not prefix:
        return None
    after = ord(prefix[-1]) + 1
    return prefix[:-1] + chr(0xE000 if after == 0xD800 else after)  # no text holds a surrogate
