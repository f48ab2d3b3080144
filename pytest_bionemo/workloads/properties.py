"""What this device is: the facts from which physical bounds follow, and by which devices of one kind are known."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from pytest_bionemo.workloads import device
from pytest_bionemo.workloads.telemetry import NvmlGpu, Silent


def run() -> dict[str, Any]:
    """Name and size of the device.

    :return: ``name``, ``multiprocessors`` (cores that this process may use, on the CPU), ``max_sm_clock_hz``,
        ``bandwidth_bound_gbs`` (memory clock x bus width x 2, which is how NVML counts both kinds of memory);
        None where nobody says.
    """
    import torch

    if device().type != "cuda":
        return {
            "name": "CPU",
            "multiprocessors": len(os.sched_getaffinity(0)),
            "max_sm_clock_hz": None,
            "bandwidth_bound_gbs": None,
        }
    found = torch.cuda.get_device_properties(device())
    return {"name": found.name, "multiprocessors": found.multi_processor_count, **clocks()}


def clocks() -> dict[str, Any]:
    """Clocks and bus of the whole GPU, also for a slice of it: a bound may be too high."""
    found: dict[str, Any] = {"max_sm_clock_hz": None, "bandwidth_bound_gbs": None}
    try:
        gpu = NvmlGpu()
    except Silent:
        return found
    with suppress(Silent):
        found["max_sm_clock_hz"] = gpu.highest_sm_clock_mhz() * 1e6
    with suppress(Silent):
        found["bandwidth_bound_gbs"] = 2 * gpu.highest_memory_clock_mhz() * 1e6 * gpu.memory_bus_bits() / 8 / 1e9
    gpu.close()
    return found
