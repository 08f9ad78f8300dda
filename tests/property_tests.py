"""Hypothesis profiles: "fast" with few examples, which is the default, and "full", which `make test-slow` chooses."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings

FAST_EXAMPLES = 20


def register_profiles() -> None:
    """Register the profiles and load "fast"."""
    # Tests share the cores, so deadlines would fail at random.
    full = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("full", full)
    settings.register_profile("fast", full, max_examples=FAST_EXAMPLES)
    settings.load_profile("fast")


def examples(count: int, **options: Any) -> settings:
    """Return settings with `count` examples, or those of the profile "fast" if that is fewer and in use."""
    is_fast = settings().max_examples == FAST_EXAMPLES
    return settings(max_examples=min(count, FAST_EXAMPLES) if is_fast else count, **options)
