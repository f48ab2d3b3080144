"""The device's memory, and the link between it and the host's."""

from __future__ import annotations

import pytest

from pytest_bionemo import rulers
from pytest_bionemo.checking import check
from pytest_bionemo.checks.benchmark.shared import Quantity, budget, judge, require_same
from pytest_bionemo.compute import Compute

_MIB, _GIB = 1 << 20, 1 << 30


@check(level="standard", needs=("undisturbed",))
def memory_at_full_speed(worker: Compute) -> None:
    """The device's memory is read and written as fast as it can be.

    Why: most layers besides matrix products are as fast as the memory is.

    How it decides: the rates of copying and of reading large arrays are judged by the rulers below, and what was
    copied has to be what was there.

    Fix: look for other processes; otherwise have the GPU replaced.
    """
    bound = rulers.memory_bound(worker)
    reference, is_calibrated = rulers.memory_reference(worker)
    limits = rulers.memory_limits(worker)
    rates = [
        Quantity("memory_copy", "copying memory (read and written)", "GB/s", ("copy",), True, bound,
                 reference, is_calibrated, limits),
        Quantity("memory_read", "reading memory", "GB/s", ("read",), True, bound, bound_limits=limits),
    ]  # fmt: skip
    large = (worker.memory_bytes or 0) >= 40e9
    size = worker.size(rehearsal=32 * _MIB, standard=4 * _GIB if large else 512 * _MIB)
    parameters = {"size_bytes": size, "budget_s": budget(worker)}
    require_same(worker, worker.run("bandwidth:run", **parameters), "a copy within its memory")
    judge(worker, rates, "bandwidth:run", **parameters)


@check(level="standard", needs=("undisturbed",))
@pytest.mark.parametrize("direction", ["h2d", "d2h"], ids=str)
def copies_at_full_speed(worker: Compute, direction: str) -> None:
    """Data go between host and device as fast as their link carries them.

    Why: batches and checkpoints go over this link, and offloading lives on it.

    How it decides: the rate of copies between pinned memory of the host and the device is judged by the rulers below,
    and what arrives has to be what was sent. Where several devices copy at once, a low rate warns: they share what is
    behind the link.

    Fix: reseat the GPU, look at its PCIe link, and at the NUMA node of the process.
    """
    name, title = {
        "h2d": ("host_to_device", "copying from the host"),
        "d2h": ("device_to_host", "copying to the host"),
    }[direction]
    size = worker.size(rehearsal=16 * _MIB, standard=256 * _MIB)
    parameters = {"direction": direction, "size_bytes": size, "budget_s": budget(worker)}
    rate = Quantity(
        name,
        title,
        "GB/s",
        ("rate",),
        bound=rulers.link_bound(worker),
        reference=rulers.link_reference(worker, name).value,
        bound_limits=rulers.link_limits(worker),
        # All copy at once, and the reference is of one alone.
        depends_on_host=bool(worker.peers("properties:run")),
    )
    require_same(worker, worker.run("copies:run", **parameters), title)
    judge(worker, [rate], "copies:run", **parameters)
