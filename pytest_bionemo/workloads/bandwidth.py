"""How fast the device's memory is read and written."""

from __future__ import annotations

from typing import Any

from pytest_bionemo.workloads import device, timing


def run(size_bytes: int, budget_s: float, attempt: int = 1) -> dict[str, Any]:
    """Copy a block of memory to another of the device, and sum a block up.

    1 GB = 1e9 bytes. A copy counts what is read and what is written, 2 x ``size_bytes``; the sum counts what is
    read. The cache is overwritten before each sample.

    :param size_bytes: of a block; on a GPU, several times its cache.
    :param budget_s: for each of the two measurements.
    :param attempt: 1, or 2 for a second measurement.
    :return: ``copy`` and ``read``, in GB/s, and ``wrong`` (elements of the last copy that differ).
    """
    import torch

    source = torch.randn(size_bytes // 4, device=device(), generator=torch.Generator(device()).manual_seed(attempt))
    target = torch.empty_like(source)
    copy = timing.measure(lambda: target.copy_(source), budget_s=budget_s, flushes_cache=True)
    read = timing.measure(lambda: source.sum(), budget_s=budget_s, flushes_cache=True)
    size = source.numel() * source.element_size()
    return {
        "copy": copy.rate(2 * size / 1e9),
        "read": read.rate(size / 1e9),
        "wrong": int((source != target).sum()),
    }
