"""Recalibration: a new calibration for a collection that is in use.

Its rows are quantized from their original vectors into a second version beside it, which then replaces the first in one
step. The former version is kept and synced until it is dropped, so that rolling back loses nothing.
"""

from qvec.recalibration.recall import Recalls
from qvec.recalibration.refit import Refit
from qvec.recalibration.workflow import Recalibrated, drop_old, recalibrate, roll_back

__all__ = ["Recalibrated", "Recalls", "Refit", "drop_old", "recalibrate", "roll_back"]
