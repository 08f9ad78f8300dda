"""What a database reports about itself, for a bug report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from qvec.errors import QvecError


@dataclass
class Diagnosis:
    """Versions and settings of a database, and what is known to go wrong with them."""

    facts: dict[str, Any] = field(default_factory=dict)
    """Texts, numbers, booleans or None, or a dict of these, by name; the names are keys of the JSON too."""
    problems: list[str] = field(default_factory=list)
    """One line each: what is wrong, and what to do."""

    @contextmanager
    def noting_errors(self) -> Iterator[None]:
        """Note an error of qvec as a problem, and go on after the block."""
        try:
            yield
        except QvecError as error:
            self.problems.append(str(error))
