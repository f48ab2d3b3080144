"""What slows a GPU down: heat, power, clocks."""

from __future__ import annotations

from typing import NoReturn

from pytest_bionemo.checking import check, fail, wait_for
from pytest_bionemo.checks.health.shared import (
    DEBUG_GUIDE,
    end_for_silence,
    is_for_data_centres,
    is_unclear,
    name_of,
    peers_of,
    require_data_centre,
)
from pytest_bionemo.model import Action, Gpu
from pytest_bionemo.probes.health import GpuHealth
from pytest_bionemo.probes.machine import Machine

# NVML's clocks event reasons (nvml.h): each is one bit. The first is also set while a clock is being changed.
_HW_SLOWDOWN, _SW_THERMAL, _HW_THERMAL, _HW_POWER_BRAKE = 0x8, 0x20, 0x40, 0x80


# A setting may be lowered in steps, and by rounding: this share of what it should be is still all of it.
_AS_GOOD_AS_ALL = 0.98


@check()
def is_not_slowed_down(gpu: Gpu, gpu_health: GpuHealth, machine: Machine) -> None:
    """The hardware does not hold the GPU's clock down, for heat or for power.

    Why: a clock that the hardware holds down is half of what it should be, or less, and every step of a training
    waits for it.

    How it decides: it reads the reasons of the clock: thermal slowdown and power brake of the hardware block on GPUs
    for data centres; a slowdown without a reason, or by the driver for heat, warns. Of several GPUs that are held
    down alike the first one tells.

    Fix: look at cooling, power supply and power cables of the node.
    """
    reasons = gpu_health.clock_reasons
    if reasons is None:
        end_for_silence(gpu, gpu_health, "clock_reasons")
    braking = reasons & (_HW_THERMAL | _HW_POWER_BRAKE)
    if (
        reasons & (_HW_SLOWDOWN | _SW_THERMAL | _HW_THERMAL)
        and not reasons & _HW_POWER_BRAKE
        and _too_hot(gpu_health)
    ):
        wait_for(f"health::is_cool[gpu{gpu.index}]", f"GPU {gpu.index} is too hot")
    if braking:
        _fail_for_brake(gpu, reasons, braking, machine)
    if reasons & _HW_SLOWDOWN:
        fail(
            f"{name_of(gpu)}: hardware slowdown, for no reason that it tells (clock reasons {reasons:#x})",
            why="where it lasts, its clock is half of what it should be; it is normal while a clock is being changed",
            fix=["look at it under load: $ nvidia-smi -q -d PERFORMANCE", "if it lasts, look at cooling and power"],
            action=Action.NONE,
            severity="warning",
        )
    if reasons & _SW_THERMAL:
        fail(
            f"{name_of(gpu)}: the driver holds its clock down for its temperature (clock reasons {reasons:#x})",
            why="it computes slower than the others, and every step of a training waits for it",
            fix=["look at what runs on it and at its cooling", "it is normal for a moment under full load"],
            action=Action.NONE,
            severity="warning",
        )


def _fail_for_brake(gpu: Gpu, reasons: int, braking: int, machine: Machine) -> NoReturn:
    """Of one GPU it is the GPU; of several it is what they share, and one finding."""
    peers = peers_of(gpu, machine)
    alike = [
        peer.index for peer in peers if peer.clock_reasons is not None and peer.clock_reasons & braking == braking
    ]
    if alike and min(alike) < gpu.index:
        wait_for(f"health::is_not_slowed_down[gpu{min(alike)}]", f"GPU {min(alike)} is held down alike")
    named = {_HW_THERMAL: "it is too hot", _HW_POWER_BRAKE: "the power supply asks for it (power brake)",
             _HW_SLOWDOWN: "hardware slowdown"}  # fmt: skip
    found = ", ".join(text for bit, text in named.items() if reasons & bit)
    more = f", with {len(alike)} more of {len(peers) + 1}" if alike else ""
    is_replaced = not alike and is_for_data_centres(gpu)
    fail(
        f"{name_of(gpu)}: its clock is held down by the hardware{more}: {found} "
        f"(clock reasons {reasons:#x})",
        why="its clock is half of what it should be, or less: every step of a training waits for it",
        fix=["look at the power supply and the cooling of the node: its GPUs are not at fault"] if alike else
        ["look at its cooling, its power supply and its power cables",
         "in a node of several GPUs, take it out of service: the others are not held down"],
        action=Action.REPLACE_NODE if is_replaced else Action.NONE,
        severity=None if is_for_data_centres(gpu) else "warning",
        links=["https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html"],
    )  # fmt: skip


@check()
def is_cool(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """The GPU is cooler than the temperatures at which it slows down or shuts down.

    Why: at the first of these temperatures a GPU halves its clock, at the second it shuts down and its job ends.

    How it decides: it compares the temperature, or the margin that newer GPUs give instead, with the GPU's own
    limits: slowdown and shutdown block, what it is made to work at warns.

    Fix: look at fans, air flow and coolant of the node.
    """
    found = gpu_health
    if found.temperature is None:
        end_for_silence(gpu, found, "temperature")
    fields = ("temperature_slowdown", "temperature_shutdown", "temperature_margin")
    limits = [getattr(found, field) for field in (*fields, "temperature_operating")]
    if limits == [None, None, None, None]:
        end_for_silence(gpu, found, *fields)
    if seen := _too_hot(found):
        fail(
            f"{name_of(gpu)}: {seen}",
            why="it halves its clock, and shuts down if it gets hotter: a job on it ends",
            fix=[
                "look at the cooling of the node: fans, air or water, and what is beside it",
                "until then, do not use it",
            ],
            action=Action.REPLACE_NODE,
            links=[DEBUG_GUIDE],
        )
    if seen := _hotter_than_made_for(found):
        fail(
            f"{name_of(gpu)}: {seen}",
            why="under load it will slow down",
            fix="look at what runs on it, and at the cooling of the node",
            action=Action.NONE,
            severity="warning",
        )
    if limits[:3] == [None, None, None] and is_unclear(found, *fields):
        end_for_silence(gpu, found, *fields)


def _too_hot(found: GpuHealth) -> str | None:
    """How it is as hot as where the hardware slows it down; None where it is cooler, or does not say."""
    degrees, margin, slowdown = found.temperature, found.temperature_margin, found.margin_slowdown
    if degrees is None:
        return None
    if margin is not None and (margin < 0 if slowdown is None else margin <= slowdown):
        limit = "below 0" if slowdown is None else f"at {slowdown}"
        return f"{degrees} degrees Celsius, a margin of {margin} to what it is made for, and it slows down {limit}"
    for limit_degrees, what in ((found.temperature_shutdown, "shuts"), (found.temperature_slowdown, "slows")):
        if limit_degrees is not None and degrees >= limit_degrees:
            return f"{degrees} degrees Celsius, and it {what} down at {limit_degrees}"
    return None


def _hotter_than_made_for(found: GpuHealth) -> str | None:
    margin, least, most = found.temperature_margin, found.margin_operating or 0, found.temperature_operating
    if margin is not None and margin <= least:
        return f"{found.temperature} degrees Celsius, a margin of {margin}, made to work above {least}"
    if most is not None and found.temperature is not None and found.temperature >= most:
        return f"{found.temperature} degrees Celsius, made to work below {most}"
    return None


@check(severity="warning")
def has_full_power(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """The GPU may draw as much power as it is made for.

    Why: under load the clock falls to keep to the limit, and every step of a training waits for it.

    How it decides: it compares the power limit that is set with the GPU's default.

    Fix: set the power limit back: nvidia-smi -pl.
    """
    limit, default = gpu_health.power_limit, gpu_health.default_power_limit
    if limit is None or default is None:
        end_for_silence(gpu, gpu_health, "power_limit", "default_power_limit")
    if limit < _AS_GOOD_AS_ALL * default:
        fail(
            f"{name_of(gpu)}: it may draw {limit:g} W, by default {default:g} W",
            why="under load its clock falls to keep to the limit, and every step of a training waits for it",
            fix=f"$ sudo nvidia-smi -i {gpu.index} -pl {default:g}",
        )


@check(severity="warning")
def has_full_clock(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """The applications clock of a GPU for data centres is not set below its default.

    Why: a GPU whose clock somebody has lowered computes slower than it can, and every step of a training waits for
    it.

    How it decides: it compares the applications clock of GPUs for data centres with its default.

    Fix: take the setting back: nvidia-smi -rac.
    """
    require_data_centre(gpu)
    set_to, default = gpu_health.application_clock, gpu_health.default_application_clock
    if set_to is None or default is None:
        end_for_silence(gpu, gpu_health, "application_clock", "default_application_clock")
    if set_to < _AS_GOOD_AS_ALL * default:
        fail(
            f"{name_of(gpu)}: its applications clock is set to {set_to} MHz, by default {default} MHz",
            why="it computes slower than it can, and every step of a training waits for it",
            fix=f"$ sudo nvidia-smi -i {gpu.index} -rac",
        )
