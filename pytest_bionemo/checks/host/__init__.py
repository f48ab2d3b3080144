"""The machine around Python."""

from __future__ import annotations

# In the order on the screen.
# ruff: noqa: I001
from pytest_bionemo.checks.host.system import (
    runs_linux,
    has_supported_processor,
    has_glibc_for_torch,
    has_python_for_torch,
)
from pytest_bionemo.checks.host.shared_memory import shared_memory_works, shared_memory_is_enough
from pytest_bionemo.checks.host.limits import (
    locks_memory_for_rdma,
    opens_enough_files,
    starts_enough_processes,
    address_space_is_unlimited,
    may_use_enough_memory,
    memory_is_available,
    may_use_enough_cores,
    processors_are_not_held_slow,
    is_near_its_gpus,
)
from pytest_bionemo.checks.host.folders import (
    folders_answer,
    temporary_folder_works,
    caches_can_be_written,
    disk_has_room,
    compiled_code_runs,
)
from pytest_bionemo.checks.host.clock import clock_is_right, clock_is_kept_right

__all__ = [
    "address_space_is_unlimited",
    "caches_can_be_written",
    "clock_is_kept_right",
    "clock_is_right",
    "compiled_code_runs",
    "disk_has_room",
    "folders_answer",
    "has_glibc_for_torch",
    "has_python_for_torch",
    "has_supported_processor",
    "is_near_its_gpus",
    "locks_memory_for_rdma",
    "may_use_enough_cores",
    "may_use_enough_memory",
    "memory_is_available",
    "opens_enough_files",
    "processors_are_not_held_slow",
    "runs_linux",
    "shared_memory_is_enough",
    "shared_memory_works",
    "starts_enough_processes",
    "temporary_folder_works",
]
