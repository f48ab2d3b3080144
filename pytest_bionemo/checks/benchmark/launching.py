"""How quickly a kernel starts."""

from __future__ import annotations

from pytest_bionemo.checking import check, fail
from pytest_bionemo.checks.benchmark.shared import Quantity, judge
from pytest_bionemo.compute import Compute

# No call of a Python function is shorter, on any processor: some hundred clocks.
_SHORTEST_CALL_S = 20e-9
# Launches that take so much of the time of the kernels wait for them.
_WAITING = 0.5
_ASYNCHRONOUS = "https://docs.nvidia.com/cuda/cuda-c-programming-guide/#asynchronous-concurrent-execution"


@check(severity="warning", level="standard", needs=("undisturbed",))
def launches_quickly(worker: Compute) -> None:
    """Kernels start quickly, and starting one does not wait for it to end.

    Why: small kernels are launched by the thousand in each step: where a launch is slow, the GPU idles between them.

    How it decides: the time of a launch is compared with that of the other devices here; and launching long kernels
    must not take most of the time that they run.

    Fix: unset CUDA_LAUNCH_BLOCKING, and stop what uses the processor.
    """
    durations = [
        Quantity("kernel_launch", "launching a kernel", "s", ("launch",), False, _SHORTEST_CALL_S),
        Quantity("kernel_round_trip", "a kernel and back", "s", ("round_trip",), False,
                 _SHORTEST_CALL_S),
    ]  # fmt: skip
    found = judge(worker, durations, "launch:run", budget_s=worker.size(rehearsal=0.2, standard=0.3))
    if found["waiting"] is not None and found["waiting"] > _WAITING:
        fail(
            f"{worker}: launching long kernels takes {found['waiting']:.0%} of the time that they run: each launch "
            "waits for its kernel",
            why="the GPU idles between kernels, and training is slower",
            fix="unset CUDA_LAUNCH_BLOCKING, and end debuggers and profilers",
            links=[_ASYNCHRONOUS],
        )
