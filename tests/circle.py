"""Unit vectors in a plane, so that tests know which are near each other."""

from __future__ import annotations

import numpy as np


def direction(angle: float) -> list[float]:
    """Return a unit vector of 72 dimensions; two have the cosine of the difference of their angles, in degrees."""
    vector: list[float] = (np.cos(np.radians(angle - np.arange(0, 360, 5))) / 6).tolist()
    return vector
