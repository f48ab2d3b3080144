"""What it costs to start a kernel, and whether starting one waits for it to end."""

from __future__ import annotations

import time
from typing import Any

from pytest_bionemo.workloads import device, timing

_LONG_CYCLES = 20_000_000  # some 10 ms
_LONG_KERNELS = 4


def run(budget_s: float, attempt: int = 1) -> dict[str, Any]:
    """Launch the smallest kernel there is: one element is added to.

    :param budget_s: for each of the two measurements.
    :param attempt: 1, or 2 for a second measurement.
    :return: ``launch`` (seconds that the host needs for one of a row of launches), ``round_trip`` (seconds until the
        host knows that one launch has ended), ``waiting`` (how long the host takes to launch long kernels, as a share
        of how long they run: near 0 where launches are asynchronous; None on the CPU, which has none).
    """
    import torch

    one = torch.zeros(1, device=device())

    def launch() -> None:
        one.add_(1)

    def launch_and_wait() -> None:
        one.add_(1)
        timing.synchronize()

    return {
        "launch": timing.measure(launch, budget_s=budget_s, clock=timing.HostClock(waits=False)).seconds(),
        "round_trip": timing.measure(launch_and_wait, budget_s=budget_s, clock=timing.HostClock()).seconds(),
        "waiting": _waiting() if device().type == "cuda" else None,
    }


def _waiting() -> float:
    import torch

    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(_LONG_KERNELS):
        torch.cuda._sleep(_LONG_CYCLES)  # type: ignore[no-untyped-call]
    launched = time.perf_counter()
    torch.cuda.synchronize()
    return (launched - start) / (time.perf_counter() - start)
