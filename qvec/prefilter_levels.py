"""The levels of a dimension that the prefilters tell apart; Python and the SQL schema share them."""

from __future__ import annotations

from typing import Final

LEVELS = {"binary": 2, "ternary": 3, "levels4": 4, "levels5": 5, "levels6": 6, "levels8": 8}
"""Number of levels of each prefilter that reads them from codes."""
DEFAULT_PREFILTER: Final = "levels6"
"""That of a collection which names none, where its codes have enough planes."""
LEVEL_THRESHOLDS = {
    2: (128,),
    3: (144, 112),
    4: (160, 128, 96),
    5: (160, 144, 112, 96),
    6: (160, 144, 128, 112, 96),
    8: (176, 160, 144, 128, 112, 96, 80),
}
"""The codes that part each number of levels: multiples of 16, so that four planes hold them. Ranges of the 0.9999
quantile are about 3.9 standard deviations, so that a deviation is about 33 codes."""


def level_planes(count: int) -> int:
    """Return the number of planes that `levels` reads: those down to the last set bit of a threshold."""
    return max(9 - (threshold & -threshold).bit_length() for threshold in LEVEL_THRESHOLDS[count])
