"""How fast data go from the host to the device and back."""

from __future__ import annotations

from typing import Any

from pytest_bionemo.workloads import device, timing

DIRECTIONS = {"h2d": "host_to_device", "d2h": "device_to_host"}


def run(direction: str, size_bytes: int, budget_s: float, attempt: int = 1) -> dict[str, Any]:
    """Copy a block of pinned memory of the host to the device, or the other way.

    1 GB = 1e9 bytes; each byte counts once. On the CPU, both are the same memory and nothing can be pinned: a
    rehearsal copies within the host.

    :param direction: a key of ``DIRECTIONS``.
    :param size_bytes: of the block.
    :param budget_s: for the measurement.
    :param attempt: 1, or 2 for a second measurement.
    :return: ``rate`` (GB/s), ``pinned`` and ``wrong`` (elements of the last copy that differ).
    """
    import torch

    pinned = device().type == "cuda"
    host = torch.empty(size_bytes // 4, pin_memory=pinned)
    there = torch.empty(size_bytes // 4, device=device())
    source, target = (host, there) if direction == "h2d" else (there, host)
    source.normal_(generator=torch.Generator(source.device).manual_seed(attempt))
    found = timing.measure(lambda: target.copy_(source, non_blocking=True), budget_s=budget_s)
    timing.synchronize()
    return {
        "rate": found.rate(source.numel() * source.element_size() / 1e9),
        "pinned": pinned,
        "wrong": int((source.cpu() != target.cpu()).sum()),
    }
