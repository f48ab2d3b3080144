"""Products of matrices in every format, and what holds the clock down meanwhile."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest

from pytest_bionemo import rulers
from pytest_bionemo.checking import check, fail, not_applicable, wait_for
from pytest_bionemo.checks.benchmark.shared import (
    SEED,
    Quantity,
    budget,
    describe_telemetry,
    established,
    judge,
    replacement,
)
from pytest_bionemo.checks.benchmark.single_precision import require_fp32_where_asked, require_tf32_where_allowed
from pytest_bionemo.compute import Compute
from pytest_bionemo.facts import gpus
from pytest_bionemo.model import Action
from pytest_bionemo.worker import Numbers

# A hardware slowdown seen in so many samples is how the GPU works, and not how it began.
_MOSTLY = 0.5


@check(level="standard", needs=("undisturbed",))
@pytest.mark.parametrize("format", gpus.FORMATS, ids=str)
def multiplies_at_full_speed(worker: Compute, format: str) -> None:
    """Matrices are multiplied as fast as this device can.

    Why: nearly all of a training is matrix products, and the slowest device sets the pace of all of them.

    How it decides: the best of several shapes is measured, and the better end of its confidence interval judged by
    the rulers below; what is on the border is measured once more, and the second measurement counts.

    Fix: look for throttling, other processes and low clocks; otherwise have the GPU replaced.
    """
    _require_format(worker, format)
    reference, is_calibrated = rulers.matmul_reference(worker, format)
    rate = Quantity(
        f"matmul_{format}",
        f"{format.upper()} matrix products",
        "TFLOP/s",
        ("rate",),
        bound=rulers.matmul_bound(worker, format),
        reference=reference,
        is_calibrated=is_calibrated,
        bound_limits=rulers.matmul_limits(worker, format),
    )
    found = judge(worker, [rate], "gemm:run", **_gemm(worker, format))
    if found["unsupported"]:
        not_applicable(found["unsupported"])


@check(level="standard", needs=("undisturbed",))
def no_throttling_under_load(worker: Compute) -> None:
    """No hardware slowdown holds the clock down while the device multiplies matrices.

    Why: a hardware slowdown halves the clock or worse, and every step waits for this device.

    How it decides: NVML is asked for the reasons of the clock while matrices are multiplied: a hardware slowdown in
    half of the samples or more blocks, in fewer it warns, as does a clock that the driver lowers for heat.

    Fix: look at cooling and power of the node.
    """
    format = _load_format(worker)
    found = established(
        worker, f"benchmark::multiplies_at_full_speed[{worker.name}-{format}]", "gemm:run", **_gemm(worker, format)
    )["telemetry"]
    if not found["samples"]:
        if worker.is_rehearsal:
            not_applicable("NVML says nothing about a processor")
        if found["denied"]:
            not_applicable(f"NVML does not say here why a clock is held down: {found['silent']}")
        wait_for(None, f"NVML said nothing of {worker} under load: {found['silent'] or 'no sample'}")
    _measure_telemetry(worker, found)
    if found["hardware_share"] or found["hot_share"]:
        _report_throttling(worker, found)


def _require_format(worker: Compute, format: str) -> None:
    if rulers.lacks(worker, format):
        not_applicable(f"{worker} has no tensor cores for {format.upper()}")
    if format == "fp32":
        require_fp32_where_asked(worker)
    if format == "tf32":
        require_tf32_where_allowed(worker)


def _load_format(worker: Compute) -> str:
    """The format whose products are the load under which the telemetry is read."""
    return "fp16" if rulers.lacks(worker, "bf16") else "bf16"


def _gemm(worker: Compute, format: str) -> dict[str, Any]:
    hold_s = worker.size(rehearsal=0.2, standard=1.0, full=30.0) if format == _load_format(worker) else 0.0
    return {"format": format, "budget_s": budget(worker), "seed": SEED, "hold_s": hold_s}


def _measure_telemetry(worker: Compute, found: Numbers) -> None:
    for name, unit, key in (
        ("sm_clock_under_load", "Hz", "sm_clock_hz"),
        ("temperature_under_load", "C", "temperature_c"),
        ("power_under_load", "W", "power_w"),
    ):
        if found[key] is not None:
            worker.measure(name, found[key], unit, samples=found["samples"])


def _report_throttling(worker: Compute, found: Numbers) -> NoReturn:
    __tracebackhide__ = True
    share = max(found["hardware_share"], found["hot_share"])
    is_blocker = found["hardware_share"] >= _MOSTLY
    fail(
        f"{worker}: the clock was held down in {share:.0%} of {found['samples']} samples taken while it multiplied "
        f"matrices{describe_telemetry(found)}",
        why="a hardware slowdown halves the clock or worse, and every step waits for this device",
        fix=[
            "if all GPUs of the node say so, look at its power supply and cooling",
            "if this one alone, take it out of service: its cooling or power stage is at fault",
        ],
        action=replacement(worker) if is_blocker else Action.NONE,
        severity=None if is_blocker else "warning",
        links=["https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html"],
    )
