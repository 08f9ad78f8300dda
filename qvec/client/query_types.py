"""The types of a search's query: one query, which gives a list of hits, or several, which give a list for each.

The order of the overloads that use them matters: an array of unknown rank fits a type of any rank, and a string is a
sequence of strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

_Dtype: TypeAlias = np.dtype[Any]

OfUnknownRank: TypeAlias = np.ndarray[tuple[int, int, int], _Dtype]
"""An array that may be one query or several, such as an `NDArray[np.float32]`. Arrays of known rank, 1 or 2, do not fit
it; NumPy has no better type for that."""
OneQuery: TypeAlias = str | Sequence[float] | Sequence[np.floating[Any]] | np.ndarray[tuple[int], _Dtype]
"""A question, or a vector (d,)."""
SeveralQueries: TypeAlias = (
    Sequence[str]
    | Sequence[Sequence[float]]
    | Sequence[Sequence[np.floating[Any]]]
    | Sequence[NDArray[Any]]
    | np.ndarray[tuple[int, int], _Dtype]
)
"""Questions, or vectors (m, d)."""
