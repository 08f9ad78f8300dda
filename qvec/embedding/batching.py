"""Which texts are embedded together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def padded_batches(lengths: NDArray[np.int64], most_rows: int, most_tokens: int) -> Iterator[NDArray[np.intp]]:
    """Rows (from 0) of texts of similar length, longest first, so many at a time that with padding to the longest of
    them they have no more than `most_tokens`; one that is longer is alone."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        rows = min(most_rows, max(1, most_tokens // max(1, int(lengths[order[start]]))))
        yield order[start : start + rows]
        start += rows


def joined_batches(texts: list[str], most_rows: int, most_characters: int) -> Iterator[tuple[int, int]]:
    """Where batches of consecutive texts begin and end, of no more than so many characters; a longer text is alone."""
    start = characters = 0
    for row, text in enumerate(texts):
        if row > start and (row - start == most_rows or characters + len(text) > most_characters):
            yield start, row
            start, characters = row, 0
        characters += len(text)
    if start < len(texts):
        yield start, len(texts)
