"""How fast the devices work, each number beside its rulers: physics, what others measured, the other devices here.

Every number is measured on all devices at once, as training loads them, which share power and cooling.
"""

from __future__ import annotations

# In the order on the screen.
# ruff: noqa: I001
from pytest_bionemo.checks.benchmark.launching import launches_quickly
from pytest_bionemo.checks.benchmark.products import multiplies_at_full_speed, no_throttling_under_load
from pytest_bionemo.checks.benchmark.memory import memory_at_full_speed, copies_at_full_speed
from pytest_bionemo.checks.benchmark.kernels import transforms_at_full_speed, solves_at_full_speed
from pytest_bionemo.checks.benchmark.training import trains_at_full_speed, loader_feeds_training
from pytest_bionemo.checks.benchmark.comparing import baseline_is_comparable

__all__ = [
    "baseline_is_comparable",
    "copies_at_full_speed",
    "launches_quickly",
    "loader_feeds_training",
    "memory_at_full_speed",
    "multiplies_at_full_speed",
    "no_throttling_under_load",
    "solves_at_full_speed",
    "trains_at_full_speed",
    "transforms_at_full_speed",
]
