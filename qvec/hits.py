"""What a search returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Hit:
    """One row found. `score` estimates the true metric (cosine similarity or inner product), so it compares across
    queries. `document` and `metadata` are None where the row has none, or the search did not ask for them."""

    id: int | str
    score: float
    document: str | None = None
    metadata: Any = None
