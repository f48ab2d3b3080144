"""How each GPU is: memory errors, heat, links, settings that hold it back, who else is at work on it."""

from __future__ import annotations

# In the order on the screen.
# ruff: noqa: I001
from pytest_bionemo.checks.health.answering import can_be_read, count_is_stable, needs_no_recovery
from pytest_bionemo.checks.health.memory import (
    has_no_memory_errors,
    corrects_memory_errors,
    rows_are_remapped,
    pages_are_retired,
    has_all_its_memory,
    memory_is_free,
)
from pytest_bionemo.checks.health.heat import is_not_slowed_down, is_cool, has_full_power, has_full_clock
from pytest_bionemo.checks.health.links import (
    host_link_is_wide,
    host_link_is_clean,
    nvlinks_are_up,
    nvlinks_are_clean,
    fabric_is_ready,
)
from pytest_bionemo.checks.health.settings import (
    allows_compute,
    mig_mode_is_settled,
    stays_initialised,
    inforom_is_valid,
    gpus_are_alike,
)
from pytest_bionemo.checks.health.log import has_no_xid, no_gpu_is_lost, no_switch_failed

__all__ = [
    "allows_compute",
    "can_be_read",
    "corrects_memory_errors",
    "count_is_stable",
    "fabric_is_ready",
    "gpus_are_alike",
    "has_all_its_memory",
    "has_full_clock",
    "has_full_power",
    "has_no_memory_errors",
    "has_no_xid",
    "host_link_is_clean",
    "host_link_is_wide",
    "inforom_is_valid",
    "is_cool",
    "is_not_slowed_down",
    "memory_is_free",
    "mig_mode_is_settled",
    "needs_no_recovery",
    "no_gpu_is_lost",
    "no_switch_failed",
    "nvlinks_are_clean",
    "nvlinks_are_up",
    "pages_are_retired",
    "rows_are_remapped",
    "stays_initialised",
]
