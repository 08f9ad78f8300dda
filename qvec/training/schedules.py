"""Schedules: how much of its weight each precision has at a step of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qvec.errors import InputError
from qvec.training.quantizers import quantizable

Schedule = Callable[[str, int], float]
"""Takes a precision and a step (from 0); gives the share of the precision's weight that counts, 0 to 1."""

BEST_REPORTED: Mapping[str, int] = {"float32": 0, "int8": 200, "binary": 1_800}
"""The staged warm-up with the best binary result that is reported, with weights 1, 1 and 0.5."""


def constant() -> Schedule:
    """Every precision counts fully from the first step."""
    return lambda _precision, _step: 1.0


def linear(steps: int) -> Schedule:
    """float32 counts fully; the others grow from nothing at step 0 to their whole weight at step `steps`."""
    if steps < 1:
        raise InputError(f"steps is {steps}, expected at least 1")
    return lambda precision, step: 1.0 if precision == "float32" else min(1.0, step / steps)


def staged(starts: Mapping[str, int] = BEST_REPORTED) -> Schedule:
    """Each precision counts fully from its start step, and not at all before; those not named, from the first step.

    Raises InputError for a precision that is unknown and for a start before step 0.
    """
    for precision, start in starts.items():
        quantizable(precision)
        if start < 0:
            raise InputError(f"the start of {precision} is {start}, expected at least 0")
    return lambda precision, step: float(step >= starts.get(precision, 0))
