"""How each GPU is: memory errors, heat, links, settings that hold it back, who else is at work on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from pytest_bionemo.checking import check, fail, not_applicable, wait_for
from pytest_bionemo.facts import gpus as models
from pytest_bionemo.facts import health as facts
from pytest_bionemo.facts import xids
from pytest_bionemo.facts.gpus import GpuModel
from pytest_bionemo.model import Action, Gpu, GpuEnv, count
from pytest_bionemo.probes import kernel_log
from pytest_bionemo.probes.health import CORRUPTED_INFOROM, GPU_IS_LOST, GpuHealth, Memory, lost_text
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.kernel_log import KernelLog, Xid
from pytest_bionemo.probes.machine import Machine

_DEBUG_GUIDE = "https://docs.nvidia.com/deploy/gpu-debug-guidelines/"
_MEMORY_GUIDE = "https://docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt/"
_XID_GUIDE = "https://docs.nvidia.com/deploy/xid-errors/"
_FABRIC_GUIDE = "https://docs.nvidia.com/datacenter/tesla/fabric-manager-user-guide/"

# NVML's clocks event reasons (nvml.h): each is one bit.
_HW_SLOWDOWN, _SW_THERMAL, _HW_THERMAL, _HW_POWER_BRAKE = 0x8, 0x20, 0x40, 0x80

# nvmlComputeMode_t
_PROHIBITED = 2

# nvmlDeviceGpuRecoveryAction_t: what the driver wants done, and what that is here.
_NO_RECOVERY = 0
_RECOVERIES = {
    1: ("that the GPU is reset", Action.RESET_GPU),
    2: ("that the machine is rebooted", Action.REBOOT_NODE),
    3: ("that work between GPUs is ended, and the GPU reset", Action.RESET_GPU),
    4: ("that all work on the GPU is ended, and the GPU reset", Action.RESET_GPU),
    5: ("that its IMEX domain is recovered", Action.FIX_SOFTWARE),
    6: ("that the GPU is reset over its bus", Action.RESET_GPU),
    7: ("that the whole system is rebooted", Action.REBOOT_NODE),
}

# A setting may be lowered in steps, and by rounding: this share of what it should be is still all of it.
_AS_GOOD_AS_ALL = 0.98
# Vendors bin products: what a product is allowed is near what its chip could do, if nobody held it back.
_HELD_BACK = 0.85
# Idle GPUs lie far below. What takes more than this is in the way of a model that was planned for the whole GPU.
_MEMORY_SHARE = {"datacenter": 0.02, "other": 0.15}
_MEMORY_FLOOR = {"datacenter": 1 << 30, "other": 2 << 30}


# ------------------------------------------------------------------------------------------ whether it answers


@check()
def can_be_read(gpu: Gpu, machine: Machine) -> None:
    """The GPU answers every question about its health.

    Fix: read the kernel log for the GPU's Xid, reset the GPU or reboot the node.
    """
    found, culprit = machine.health.of(gpu.index), machine.unread_gpu
    if found is None and culprit != gpu.index:
        wait_for(f"health::can_be_read[gpu{culprit}]", f"GPU {culprit} stopped answering")
    if found is None:
        fail(
            f"{_name(gpu)} stopped answering when it was asked about its health: {machine.health.failure}",
            why="a GPU whose driver hangs or crashes on a question does so to the next program, too",
            fix=["look at the kernel log for its Xid: $ sudo dmesg | grep -i xid", "reboot the node"],
            action=Action.REBOOT_NODE,
            links=[_DEBUG_GUIDE],
        )
    if found.lost:
        is_gone = found.lost.text == lost_text(GPU_IS_LOST)
        fail(
            f"{_name(gpu)}: {found.lost.call} says that {found.lost.text}",
            why="no program can use it any more",
            fix=["reboot the node", "if it comes back, replace the node"] if is_gone else _reset(gpu),
            action=Action.REBOOT_NODE if is_gone else Action.RESET_GPU,
            links=[_DEBUG_GUIDE],
        )


@check()
def count_is_stable(gpus: tuple[Gpu, ...], machine: Machine) -> None:
    """The driver counts as many GPUs after asking all of them as before.

    Fix: reboot the node; replace it if GPUs go away again.
    """
    counts = machine.health.counts
    if counts is None and machine.unread_gpu is not None:
        wait_for(f"health::can_be_read[gpu{machine.unread_gpu}]", "not every GPU could be asked")
    if counts is None:
        wait_for(None, f"the driver did not count its GPUs again: {machine.health.failure or 'no answer'}")
    if counts[0] != counts[1]:
        fail(
            f"the driver counted {count(counts[0], 'GPU')}, and {counts[1]} a moment later",
            why="a GPU that comes and goes takes every job with it that uses it",
            fix=[
                "look at the kernel log for GPUs that fell off the bus: $ sudo dmesg | grep -i nvrm",
                "reboot the node",
            ],
            action=Action.REBOOT_NODE,
        )


@check()
def needs_no_recovery(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """The driver does not want the GPU to be reset or the machine to be rebooted.

    Fix: do what the driver asks for: stop what uses the GPU and reset it, or reboot the node.
    """
    action = gpu_health.recovery_action
    if action is None:
        _end(gpu_health, "recovery_action")
    if action == _NO_RECOVERY:
        return
    if action not in _RECOVERIES:
        wait_for(None, f"the driver wants recovery action {action} for GPU {gpu.index}, which is not on record")
    wanted, needed = _RECOVERIES[action]
    by_reset = needed is Action.RESET_GPU
    fail(
        f"{_name(gpu)}: the driver wants {wanted}",
        why="it met an error that it cannot undo while programs run",
        fix=_reset(gpu) if by_reset else ["restart the nodes' IMEX service" if action == 5 else "reboot the node"],
        action=needed,
        links=[_XID_GUIDE],
    )


# -------------------------------------------------------------------------------------------------- its memory


@check()
def has_no_memory_errors(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """The GPU's memory has had no error that could not be corrected.

    Fix: reset the GPU or reboot the node; replace a GPU that has errors again.
    """
    errors = gpu_health.ecc
    if gpu_health.sram_threshold_exceeded:
        fail(
            f"{_name(gpu)}: its caches have had more uncorrectable errors than NVIDIA allows a GPU (SRAM threshold "
            "exceeded)",
            why="they come back: results and jobs are lost",
            fix=["take the node out of service", "have the GPU replaced: NVIDIA's field diagnostic fails it"],
            action=Action.REPLACE_NODE,
            links=[_MEMORY_GUIDE],
        )
    if errors is None:
        _end(gpu_health, "ecc", "sram_threshold_exceeded")
    if errors.volatile:
        fail(
            f"{_name(gpu)}: {count(errors.volatile, 'memory error')} could not be corrected since the driver was "
            "loaded, expected none (ECC)",
            why="the programs that they hit were ended; the memory is not repaired before the GPU is reset",
            fix=_reset(gpu),
            action=Action.RESET_GPU,
            links=[_MEMORY_GUIDE],
        )
    if errors.aggregate:
        fail(
            f"{_name(gpu)}: {count(errors.aggregate, 'memory error')} in its life could not be corrected, none since "
            "the driver was loaded (ECC)",
            why="memory that has failed once is more likely to fail again; what was repaired works",
            fix="nothing now: have it replaced if more follow",
            action=Action.NONE,
            severity="warning",
            links=[_MEMORY_GUIDE],
        )
    if _is_unclear(gpu_health, "sram_threshold_exceeded"):
        _end(gpu_health, "sram_threshold_exceeded")


@check(severity="warning")
def corrects_memory_errors(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """Error correction (ECC) is on, on a GPU for data centres.

    Fix: turn it on, which takes a reboot: nvidia-smi -e 1.
    """
    _require_data_centre(gpu)
    if gpu_health.ecc_enabled is None:
        _end(gpu_health, "ecc_enabled")
    if not gpu_health.ecc_enabled:
        fail(
            f"{_name(gpu)}: error correction (ECC) is off",
            why="a bit that flips in its memory changes results, and nobody is told",
            fix=[f"$ sudo nvidia-smi -i {gpu.index} -e 1", "then reboot the node, or reset the GPU"],
            action=Action.RESET_GPU,
        )


@check()
def rows_are_remapped(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """Every bad row of the GPU's memory has been replaced by a spare one.

    Fix: reset the GPU to take the new rows into use; replace it where remapping failed.
    """
    rows = gpu_health.remapped_rows
    if rows is None:
        _end(gpu_health, "remapped_rows")
    replaced = f"{count(rows.correctable + rows.uncorrectable, 'row')} remapped so far"
    if rows.failed:
        fail(
            f"{_name(gpu)}: a bad row of its memory could not be remapped ({replaced})",
            why="there is no spare row left where it is needed: the memory error comes back",
            fix=["take the node out of service", "have the GPU replaced"],
            action=Action.REPLACE_NODE,
            links=[_MEMORY_GUIDE],
        )
    if rows.pending:
        fail(
            f"{_name(gpu)}: a bad row of its memory waits to be remapped ({replaced})",
            why="until the GPU is reset, the spare row is not in use: a job that meets the bad one is ended",
            fix=_reset(gpu),
            action=Action.RESET_GPU,
            links=[_MEMORY_GUIDE],
        )


@check()
def pages_are_retired(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """Every bad page of the GPU's memory is out of use, and they are few (before Ampere).

    Fix: reboot the node to take the pages out of use; replace a GPU with too many.
    """
    pages = gpu_health.retired_pages
    if pages is None:
        _end(gpu_health, "retired_pages")
    retired = pages.single_bit + pages.double_bit
    most = round(facts.limit("retired_pages"))
    if retired > most:
        fail(
            f"{_name(gpu)}: {retired} pages of its memory are retired, at most {most} may be",
            why="there is no room for another one: the next error comes back for ever",
            fix=["take the node out of service", "have the GPU replaced"],
            action=Action.REPLACE_NODE,
            links=[_DEBUG_GUIDE],
        )
    if pages.pending:
        fail(
            f"{_name(gpu)}: a bad page of its memory waits to be retired ({retired} are)",
            why="until the driver is loaded anew, programs still get the bad page",
            fix=["reboot the node", *_reset(gpu, "or ")],
            action=Action.REBOOT_NODE,
            links=[_DEBUG_GUIDE],
        )
    if pages.double_bit:
        fail(
            f"{_name(gpu)}: {count(pages.double_bit, 'page')} of its memory retired for an error that could not be "
            "corrected",
            why="memory that has failed once is more likely to fail again; what is retired does no harm",
            fix="nothing now: have it replaced if more follow",
            action=Action.NONE,
            severity="warning",
            links=[_DEBUG_GUIDE],
        )


@check(severity="warning")
def memory_is_free(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """Nobody else holds much of the GPU's memory.

    Fix: stop the processes that the finding names, or choose other GPUs.
    """
    if gpu_health.mig_mode:
        not_applicable(f"GPU {gpu.index} is in MIG mode: each slice has memory of its own")
    memory = gpu_health.memory
    if memory is None:
        _end(gpu_health, "memory")
    others = memory.used - gpu_health.own_bytes
    if others > _harmless(gpu, memory):
        fail(
            f"{_name(gpu)}: {_gib(others)} of its {_gib(memory.total)} are taken{_by_whom(gpu_health)}",
            why="a training that was planned for the whole GPU runs out of memory, and what is timed is not right",
            fix=_ways_to_free(gpu, gpu_health),
            action=Action.FREE_GPU,
        )


def _harmless(gpu: Gpu, memory: Memory) -> float:
    # A desktop is no fault: it draws its windows on the GPU.
    kind = "datacenter" if _is_for_data_centres(gpu) else "other"
    return max(_MEMORY_FLOOR[kind], _MEMORY_SHARE[kind] * memory.total)


def _by_whom(health: GpuHealth) -> str:
    if not health.processes:
        return ", by no process that is visible here"
    held = [f"{process.pid}" + (f" ({_gib(process.memory_bytes)})" if process.memory_bytes else "")
            for process in health.processes[:4]]  # fmt: skip
    more = f" and {len(health.processes) - 4} more" if len(health.processes) > 4 else ""
    return f", by process {', '.join(held)}{more}"


def _ways_to_free(gpu: Gpu, health: GpuHealth) -> list[str]:
    if health.processes:
        return [f"see what they are: $ nvidia-smi -i {gpu.index}", "end them, or wait for them"]
    return [
        "look for programs in other containers and of other users: $ sudo fuser -v /dev/nvidia*",
        "if there is none, the memory was left behind: reset the GPU, or reboot the node",
    ]


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


# ------------------------------------------------------------------------------------------------ heat, clocks


@check()
def is_not_slowed_down(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """The hardware does not hold the GPU's clock down, for heat or for power.

    Fix: look at cooling, power supply and power cables of the node.
    """
    reasons = gpu_health.clock_reasons
    if reasons is None:
        _end(gpu_health, "clock_reasons")
    named = {_HW_THERMAL: "it is too hot", _HW_POWER_BRAKE: "the power supply asks for it (power brake)",
             _HW_SLOWDOWN: "hardware slowdown"}  # fmt: skip
    found = [text for bit, text in named.items() if reasons & bit]
    if found:
        fail(
            f"{_name(gpu)}: its clock is held down by the hardware: {', '.join(found)} (clock reasons {reasons:#x})",
            why="its clock is half of what it should be, or less: every step of a training waits for it",
            fix=[
                "if all GPUs of the node say so, look at its power supply and cooling",
                "if this one alone, take it out of service: its cooling or power stage is at fault",
            ],
            action=Action.REPLACE_NODE,
            links=["https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html"],
        )
    if reasons & _SW_THERMAL:
        fail(
            f"{_name(gpu)}: the driver holds its clock down for its temperature (clock reasons {reasons:#x})",
            why="it computes slower than the others, and every step of a training waits for it",
            fix=["look at what runs on it and at its cooling", "it is normal for a moment under full load"],
            action=Action.NONE,
            severity="warning",
        )


@check()
def is_cool(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """The GPU is cooler than the temperatures at which it slows down or shuts down.

    Fix: look at fans, air flow and coolant of the node.
    """
    found = gpu_health
    if found.temperature is None:
        _end(found, "temperature")
    thresholds = (found.temperature_shutdown, found.temperature_slowdown, found.temperature_operating)
    if (*thresholds, found.temperature_margin) == (None, None, None, None):
        _end(found, "temperature_slowdown", "temperature_shutdown", "temperature_margin")
    slowdown = min((one for one in thresholds[:2] if one is not None), default=None)
    is_at_slowdown = slowdown is not None and found.temperature >= slowdown
    if is_at_slowdown or (found.temperature_margin is not None and found.temperature_margin <= 0):
        limit = f"slows down at {slowdown}" if slowdown is not None else "slows down there"
        fail(
            f"{_name(gpu)}: {found.temperature} degrees Celsius, and it {limit}",
            why="it halves its clock, and shuts down if it gets hotter: a job on it ends",
            fix=[
                "look at the cooling of the node: fans, air or water, and what is beside it",
                "until then, do not use it",
            ],
            action=Action.REPLACE_NODE,
            links=[_DEBUG_GUIDE],
        )
    if found.temperature_operating is not None and found.temperature >= found.temperature_operating:
        fail(
            f"{_name(gpu)}: {found.temperature} degrees Celsius, made to work below {found.temperature_operating}",
            why="under load it will slow down",
            fix="look at what runs on it, and at the cooling of the node",
            action=Action.NONE,
            severity="warning",
        )
    fields = ("temperature_slowdown", "temperature_shutdown", "temperature_margin")
    if slowdown is None and found.temperature_margin is None and _is_unclear(found, *fields):
        _end(found, *fields)


@check(severity="warning")
def has_full_power(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """The GPU may draw as much power as it is made for.

    Fix: set the power limit back: nvidia-smi -pl.
    """
    limit, default = gpu_health.power_limit, gpu_health.default_power_limit
    if limit is None or default is None:
        _end(gpu_health, "power_limit", "default_power_limit")
    if limit < _AS_GOOD_AS_ALL * default:
        fail(
            f"{_name(gpu)}: it may draw {limit:g} W, by default {default:g} W",
            why="under load its clock falls to keep to the limit, and every step of a training waits for it",
            fix=f"$ sudo nvidia-smi -i {gpu.index} -pl {default:g}",
        )


@check(severity="warning")
def has_full_clock(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """No setting keeps the GPU's clock below what it is by default.

    Fix: take the settings back: nvidia-smi -rac, -rgc.
    """
    found = gpu_health
    set_to, default = found.application_clock, found.default_application_clock
    if set_to is not None and default is not None and set_to < _AS_GOOD_AS_ALL * default:
        fail(
            f"{_name(gpu)}: its applications clock is set to {set_to} MHz, by default {default} MHz",
            why="it computes slower than it can, and every step of a training waits for it",
            fix=f"$ sudo nvidia-smi -i {gpu.index} -rac",
        )
    allowed, highest = found.boost_clock, found.max_clock
    if allowed is not None and highest is not None and allowed < _HELD_BACK * highest:
        fail(
            f"{_name(gpu)}: its clock may rise to {allowed} MHz, the chip can do {highest} MHz",
            why="it computes slower than it can, and every step of a training waits for it",
            fix=[f"$ sudo nvidia-smi -i {gpu.index} -rgc", "if that changes nothing, ask who made the machine"],
        )
    fields = ("application_clock", "default_application_clock", "boost_clock", "max_clock")
    tells_neither = None in (set_to, default) and None in (allowed, highest)
    if tells_neither or _is_unclear(found, *fields):
        _end(found, *fields)


# ------------------------------------------------------------------------------------------------------- links


@check(severity="warning")
def host_link_is_wide(gpu: Gpu, gpu_health: GpuHealth, machine: Machine) -> None:
    """The GPU's PCIe link to the host has all its lanes.

    Fix: reseat the GPU, look at riser and slot.
    """
    model = _model(gpu)
    if model is None or model.segment != "datacenter":
        not_applicable(f"{gpu.name or 'this GPU'} may use fewer lanes while it is idle")
    if model.host_link_gbs is not None:
        not_applicable(f"{model.name} is linked to its processor by another link than PCIe")
    link = gpu_health.pci_link
    if link is None:
        _end(gpu_health, "pci_link")
    peers = [peer.pci_link for peer in _peers(gpu, machine) if peer.pci_link]
    widest = max((peer.width for peer in peers), default=0)
    # A slot may have half the lanes of a card; the module of a board has all of them.
    least = link.max_width if _is_on_a_board(model) else link.max_width // 2
    needed = max(least, widest)
    if link.width < needed:
        like = f", {widest} of other GPUs here" if widest > link.width else ""
        fail(
            f"{_name(gpu)}: its PCIe link has {count(link.width, 'lane')} of {link.max_width}{like}",
            why="copies to and from the host, and to network cards, take longer in the same measure",
            fix=[
                "reboot the node: the link is trained anew",
                "if it comes back, reseat the GPU, or replace the node",
            ],
            action=Action.REBOOT_NODE,
        )
    fastest = max((peer.max_generation or 0 for peer in peers), default=0)
    if link.max_generation is not None and link.max_generation < fastest:
        fail(
            f"{_name(gpu)}: its PCIe link can reach generation {link.max_generation}, those of other GPUs here "
            f"{fastest}",
            why="each generation is twice as fast as the one before",
            fix=["look at the slot's setting in the firmware of the machine", "reseat the GPU, or replace the node"],
            action=Action.REBOOT_NODE,
        )


@check(severity="warning")
def host_link_is_clean(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """Packets on the GPU's PCIe link rarely have to be sent again.

    Fix: reseat the GPU, look at riser and slot.
    """
    replays = gpu_health.pcie_replays
    if replays is None:
        _end(gpu_health, "pcie_replays")
    most = facts.limit("pcie_replays_per_minute")
    minutes = max(1.0, _uptime_s() / 60)
    if replays > most * minutes:
        fail(
            f"{_name(gpu)}: {replays} packets on its PCIe link were sent again in at most {minutes:.0f} minutes, "
            f"up to {most:g} a minute are no fault",
            why="the link is bad: copies are slow, and the GPU may fall off the bus",
            fix=[
                "reboot the node: the link is trained anew",
                "if it comes back, reseat the GPU, or replace the node",
            ],
            action=Action.REBOOT_NODE,
        )


def _uptime_s() -> float:
    """Since the machine was started: the driver, which counts from its own start, cannot be older."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@check()
def nvlinks_are_up(gpu: Gpu, gpu_health: GpuHealth, driver: GpuEnv, machine: Machine) -> None:
    """Every NVLink that this model of GPU has is up.

    Fix: reset the GPUs together or reboot the node; replace it where links stay down.
    """
    expected = _nvlinks(gpu, gpu_health)
    links = gpu_health.nvlinks
    if links is None:
        _end(gpu_health, "nvlinks")
    if len(links.up) >= expected:
        return
    is_alone = len(driver.gpus) + driver.hidden_gpus == 1
    if is_alone and not links.up:
        not_applicable(f"GPU {gpu.index} is the only one here, and its NVLinks lead nowhere")
    down = (
        f" (down: {', '.join(map(str, links.down[:6]))}{', ...' if len(links.down) > 6 else ''})"
        if links.down
        else ""
    )
    fail(
        f"{_name(gpu)}: {len(links.up)} of {expected} NVLinks are up{down}",
        why="GPUs talk over PCIe instead, many times slower, or NCCL does not start",
        fix=[
            "see that the fabric manager runs, of the driver's own version: $ systemctl status nvidia-fabricmanager",
            "reset all GPUs of the node, or reboot it",
            "if it comes back, replace the node",
        ],
        action=Action.REBOOT_NODE,
        links=[_FABRIC_GUIDE],
        # A program on one GPU needs none of them.
        severity="warning" if is_alone else None,
    )


def _nvlinks(gpu: Gpu, health: GpuHealth) -> int:
    """How many must be up."""
    if health.mig_mode:
        not_applicable(f"GPU {gpu.index} is in MIG mode, in which slices use no NVLink")
    model = _model(gpu)
    if model is None:
        not_applicable(f"how many NVLinks {gpu.name} has is not on record")
    if model.nvlink_gbs is None:
        not_applicable(f"{model.name} has no NVLink")
    expected = facts.nvlinks(model.name)
    if expected is None:
        not_applicable(f"how many NVLinks of {model.name} are in use differs from machine to machine")
    return expected


@check(severity="warning")
def nvlinks_are_clean(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """No NVLink had to send packets again, or to be trained again.

    Fix: watch them; replace the node where errors go on.
    """
    errors = gpu_health.nvlink_errors
    if errors is None:
        _end(gpu_health, "nvlink_errors")
    most = facts.limit("nvlink_crc_errors_per_second")
    found = []
    if errors.replays:
        found.append(f"{count(errors.replays, 'packet')} sent again")
    if errors.recoveries:
        found.append(f"trained again {count(errors.recoveries, 'time')}")
    if errors.crc > most * max(1.0, _uptime_s()):
        found.append(f"{errors.crc} damaged packets, more than {most:g} a second")
    if found:
        fail(
            f"{_name(gpu)}: errors on its NVLinks since the driver was loaded: {', '.join(found)}",
            why="a link with such errors is slower, and often fails altogether later",
            fix=[
                f"see which link it is: $ nvidia-smi nvlink -e -i {gpu.index}",
                "replace the node if they become more",
            ],
            action=Action.NONE,
        )


# nvmlGpuFabricState_t
_FABRIC_NOT_SUPPORTED, _FABRIC_NOT_STARTED, _FABRIC_IN_PROGRESS, _FABRIC_COMPLETED = 0, 1, 2, 3
# NVML_GPU_FABRIC_HEALTH_MASK_*: shift, and in words what it means where the two bits are 1 ("true").
_FABRIC_FAULTS = {
    4: ("a route is unhealthy", "blocker"),
    0: ("its bandwidth is degraded", "warning"),
    2: ("a route is being recovered", "warning"),
    6: ("it recovers from an access that timed out", "warning"),
}
_FABRIC_CONFIGURATION = 8  # four bits: 0 is not supported, 1 none
_FABRIC_CONFIGURATIONS = {
    2: "a wrong system GUID",
    3: "a wrong serial number of the chassis",
    4: "no partition",
    5: "too few NVLinks",
    6: "a GPU firmware that does not fit",
    7: "a wrong place",
    8: "a GPU in a state that is not valid",
}


@check()
def fabric_is_ready(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """The GPU has joined its NVSwitch fabric, and the fabric is healthy.

    Fix: start nvidia-fabricmanager in the driver's version, and reboot the node where the fabric stays down.
    """
    fabric = gpu_health.fabric
    if fabric is None:
        _end(gpu_health, "fabric")
    if fabric.state == _FABRIC_NOT_SUPPORTED:
        not_applicable(f"GPU {gpu.index} is part of no NVSwitch fabric")
    if fabric.state > _FABRIC_COMPLETED:
        wait_for(None, f"GPU {gpu.index}: the state of its fabric is {fabric.state}, which is not on record")
    if fabric.state != _FABRIC_COMPLETED or fabric.status:
        state = {_FABRIC_NOT_STARTED: "has not begun to join", _FABRIC_IN_PROGRESS: "is still joining"}
        seen = state.get(fabric.state, f"could not join (NVML code {fabric.status})")
        fail(
            f"{_name(gpu)}: it {seen} its NVSwitch fabric",
            why="until it has joined, CUDA does not start on it (error 802, system not yet initialized)",
            fix=[
                "$ sudo systemctl restart nvidia-fabricmanager",
                "see that it is of the driver's own version: $ nv-fabricmanager --version",
                "on a cloud node, replace the node",
            ],
            action=Action.REPLACE_NODE,
            links=[_FABRIC_GUIDE],
        )
    _judge_fabric(gpu, fabric.health)


def _judge_fabric(gpu: Gpu, health: int) -> None:
    """By the bits of its health: each fault has its own, and none of them hides another."""
    values = {shift: health >> shift & 0b11 for shift in _FABRIC_FAULTS}
    configuration = health >> _FABRIC_CONFIGURATION & 0b1111
    blockers = [text for shift, (text, kind) in _FABRIC_FAULTS.items() if values[shift] == 1 and kind == "blocker"]
    if configuration in _FABRIC_CONFIGURATIONS:
        blockers.append(f"it is set up wrongly: {_FABRIC_CONFIGURATIONS[configuration]}")
    minor = [text for shift, (text, kind) in _FABRIC_FAULTS.items() if values[shift] == 1 and kind == "warning"]
    if blockers or minor:
        fail(
            f"{_name(gpu)}: its NVSwitch fabric is not healthy: {', '.join([*blockers, *minor])} "
            f"(health {health:#x})",
            why="work that spans several GPUs is slow there, or fails",
            fix=[
                "look at the log of the fabric manager, or of the NVLink switches",
                "replace the node if it stays so",
            ],
            action=Action.REPLACE_NODE if blockers else Action.NONE,
            severity=None if blockers else "warning",
            links=[_FABRIC_GUIDE],
        )
    if 3 in values.values() or configuration > max(_FABRIC_CONFIGURATIONS):
        wait_for(None, f"GPU {gpu.index}: the health of its fabric is {health:#x}, which is not on record")


# ---------------------------------------------------------------------------------------------------- settings


@check()
def allows_compute(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """The GPU's compute mode lets programs use it.

    Fix: set the compute mode back: nvidia-smi -c 0.
    """
    mode = gpu_health.compute_mode
    if mode is None:
        _end(gpu_health, "compute_mode")
    fix = f"$ sudo nvidia-smi -i {gpu.index} -c DEFAULT"
    if mode == _PROHIBITED:
        fail(f"{_name(gpu)}: its compute mode is PROHIBITED", why="every CUDA program on it fails to start", fix=fix)
    if gpu_health.takes_one_process:
        fail(
            f"{_name(gpu)}: its compute mode is EXCLUSIVE: one process at a time can use it",
            why="a second one fails to start: a data loader that uses CUDA, an evaluation beside the training",
            fix=fix,
            severity="warning",
        )


@check(severity="warning")
def mig_mode_is_settled(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """The GPU's MIG mode is the one that was asked for.

    Fix: stop what uses the GPU and reset it.
    """
    current, pending = gpu_health.mig_mode, gpu_health.mig_mode_pending
    if current is None or pending is None:
        _end(gpu_health, "mig_mode", "mig_mode_pending")
    if current != pending:
        words = {True: "on", False: "off"}
        fail(
            f"{_name(gpu)}: MIG mode is {words[current]}, and will be {words[pending]} after the next reset",
            why="what this run finds out does not hold from then on: other devices, other memory",
            fix=[*_reset(gpu), f"or take it back: $ sudo nvidia-smi -i {gpu.index} -mig {int(current)}"],
            action=Action.RESET_GPU,
        )


@check(severity="warning")
def stays_initialised(gpu: Gpu, gpu_health: GpuHealth, host: Host) -> None:
    """The driver keeps the GPU initialised while no program uses it (persistence mode).

    Fix: start nvidia-persistenced.
    """
    _require_data_centre(gpu)
    if gpu_health.persistence is None:
        _end(gpu_health, "persistence")
    if not gpu_health.persistence:
        where = ", on the host" if host.container else ""
        fail(
            f"{_name(gpu)}: persistence mode is off",
            why="each program that comes first waits seconds for the driver to set the GPU up, and settings are lost",
            fix=[f"start the persistence daemon{where}: $ sudo systemctl enable --now nvidia-persistenced",
                 f"or: $ sudo nvidia-smi -i {gpu.index} -pm 1"],
        )  # fmt: skip


@check(severity="warning")
def inforom_is_valid(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """The GPU's InfoROM, in which it keeps its memory's repairs, is not damaged.

    Fix: reset the GPU; replace it where the damage stays.
    """
    if gpu_health.inforom is None:
        _end(gpu_health, "inforom")
    if gpu_health.inforom == CORRUPTED_INFOROM:
        fail(
            f"{_name(gpu)}: its InfoROM is damaged",
            why="it keeps which rows of memory are bad: repairs may be lost at the next reset",
            fix=["have the GPU looked at: NVIDIA's support can rewrite the InfoROM", "or replace the node"],
            action=Action.REPLACE_NODE,
            links=[_DEBUG_GUIDE],
        )


@check(severity="warning", needs=["answering_gpus"])
def gpus_are_alike(gpus: tuple[Gpu, ...], machine: Machine) -> None:
    """All GPUs of the machine are of one model, firmware, memory size and power limit.

    Fix: bring the GPU that differs in line with the others.
    """
    if len(gpus) == 1:
        not_applicable("there is one GPU")
    if not all(_is_for_data_centres(gpu) for gpu in gpus):
        not_applicable("a workstation may have different GPUs")
    healths = {gpu.index: found for gpu in gpus if (found := machine.health.of(gpu.index))}
    if len(healths) < len(gpus):
        wait_for(f"health::can_be_read[gpu{machine.unread_gpu}]", "not every GPU could be asked")
    questions: dict[str, Callable[[Gpu], Any]] = {
        "model": lambda gpu: gpu.name,
        "memory": lambda gpu: gpu.memory_bytes and _gib(gpu.memory_bytes),
        "firmware (VBIOS)": lambda gpu: healths[gpu.index].vbios,
        "power limit": lambda gpu: (limit := healths[gpu.index].power_limit) and f"{limit:g} W",
    }
    differences = [seen for what, question in questions.items() if (seen := _difference(what, gpus, question))]
    if differences:
        fail(
            f"the GPUs are not alike: {'; '.join(differences)}",
            why="work that is shared out evenly is as slow as the weakest GPU, and results may differ",
            fix=["set the power limits alike, and bring the firmware to one version", "or replace the node"],
            action=Action.REPLACE_NODE if differences[0].startswith("model") else Action.FIX_SOFTWARE,
        )


def _difference(what: str, gpus: Sequence[Gpu], question: Callable[[Gpu], Any]) -> str:
    """'firmware (VBIOS) 96.00.74 of GPU 3, 96.00.99 of the others'; nothing where all are the same or silent."""
    answers = {gpu.index: question(gpu) for gpu in gpus}
    known = [answer for answer in answers.values() if answer is not None]
    kinds = sorted(set(known), key=lambda kind: (-known.count(kind), str(kind)))
    if len(kinds) < 2:
        return ""
    odd = [f"{kind} of GPU {', '.join(str(index) for index, answer in answers.items() if answer == kind)}"
           for kind in kinds[1:]]  # fmt: skip
    return f"{what} {', '.join(odd)}, {kinds[0]} of the others"


# -------------------------------------------------------------------------------------------- the kernel's log


@check()
def has_no_xid(gpu: Gpu, gpu_health: GpuHealth, machine: Machine) -> None:
    """The kernel's log has no error report (Xid) of this GPU that needs more than a program's restart.

    Fix: do what the finding names for this Xid: reset, reboot or replace.
    """
    log = _readable(machine.kernel_log)
    address = kernel_log.address_of(gpu.pci_address)
    if address is None:
        wait_for(None, f"the PCI address of GPU {gpu.index} is not known")
    found = [(xid, kind) for xid, kind in _open_xids(log, address) if kind not in ("none", "application")]
    if not found:
        if not log.is_whole:
            wait_for(None, "the kernel's log is longer than what was read of it")
        return
    found.sort(key=lambda one: -xids.CLASSES.index(one[1]))
    kind = found[0][1]
    # The driver's own word on how the GPU is now, where it has one.
    is_over = gpu_health.recovery_action == _NO_RECOVERY and kind in ("reset", "reboot")
    is_minor = is_over or kind == "watch"
    fail(
        f"{_name(gpu)}: {_describe_xids(xid for xid, _ in found)} in the kernel's log since the driver was loaded"
        + (", after which the driver wants nothing done now" if is_over else ""),
        why="the error may come back" if is_minor else "after this error the GPU cannot be relied on",
        fix=["see the lines: $ sudo dmesg | grep -i xid", *_ways_out(gpu, "watch" if is_minor else kind)],
        action=Action.NONE if is_minor else _XID_ACTIONS[kind],
        severity="warning" if is_minor else None,
        links=[_XID_GUIDE],
    )


_XID_ACTIONS = {"reset": Action.RESET_GPU, "reboot": Action.REBOOT_NODE, "replace": Action.REPLACE_NODE}


def _ways_out(gpu: Gpu, kind: str) -> list[str]:
    ways = {
        "watch": ["nothing now: replace the node if it comes back"],
        "reset": _reset(gpu),
        "reboot": ["reboot the node", "if it comes back, replace the node"],
        "replace": ["take the node out of service"],
    }
    return ways[kind]


def _readable(log: KernelLog) -> KernelLog:
    if log.unreadable:
        not_applicable(log.unreadable)
    return log


def _open_xids(log: KernelLog, address: kernel_log.PciAddress) -> list[tuple[Xid, xids.Class]]:
    """Those of this GPU, with what each asks for; without what the driver has taken back since then (Xid 154)."""
    found: list[tuple[Xid, xids.Class]] = []
    for xid in log.xids:
        if xid.address != address:
            continue
        kind = xids.find(xid.code).kind
        if kind == "told":
            kind = xids.told(xid.text) or "watch"
            if kind == "none":
                found.clear()
                continue
        found.append((xid, kind))
    return found


def _describe_xids(found: Iterable[Xid]) -> str:
    """'Xid 79 (the GPU has fallen off the bus), Xid 119 (...) twice'."""
    codes = [xid.code for xid in found]
    kinds = list(dict.fromkeys(codes))
    times = {1: "", 2: " twice"}
    told = [f"Xid {code} ({xids.find(code).text}){times.get(codes.count(code), f' {codes.count(code)} times')}"
            for code in kinds[:3]]  # fmt: skip
    return ", ".join(told) + (f" and {len(kinds) - 3} more" if len(kinds) > 3 else "")


@check()
def no_gpu_is_lost(driver: GpuEnv, gpus: tuple[Gpu, ...], machine: Machine, host: Host) -> None:
    """The kernel's log has no error report (Xid) of a GPU that the driver no longer shows.

    Fix: reboot the node; replace it where the GPU stays away.
    """
    log = _readable(machine.kernel_log)
    if driver.hidden_gpus or host.container:
        not_applicable("the log also has the GPUs that are not this job's or this container's")
    known = [kernel_log.address_of(gpu.pci_address) for gpu in gpus]
    if None in known:
        wait_for(None, "the PCI address of a GPU is not known")
    lost = dict.fromkeys(xid.address for xid in log.xids if xid.address not in known)
    for address in lost:
        found = [(xid, kind) for xid, kind in _open_xids(log, address) if kind in _XID_ACTIONS]
        if found:
            fail(
                f"the driver does not show the GPU at {kernel_log.describe(address)}, of which the kernel's log has "
                f"{_describe_xids(xid for xid, _ in found)}",
                why="it is lost until the machine is started anew",
                fix=["reboot the node", "if it comes back, replace the node"],
                action=Action.REBOOT_NODE,
                links=[_XID_GUIDE],
            )


@check()
def no_switch_failed(gpus: tuple[Gpu, ...], machine: Machine) -> None:
    """The kernel's log has no fatal error report (SXid) of an NVSwitch.

    Fix: reboot the node; replace it where the error comes again.
    """
    log = _readable(machine.kernel_log)
    fatal = [error for error in log.switch_errors if error.is_fatal]
    if fatal:
        fail(
            f"NVSwitch {fatal[-1].address}: {count(len(fatal), 'fatal error')} in the kernel's log since the driver "
            f"was loaded, the last one SXid {fatal[-1].code}",
            why="GPUs that talk over this switch wait for ever, or their jobs end",
            fix=["reset all GPUs of the node together: $ sudo nvidia-smi --gpu-reset", "or reboot it",
                 "if it comes back, replace the node"],
            action=Action.RESET_GPU,
            links=[_FABRIC_GUIDE],
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- together


def _name(gpu: Gpu) -> str:
    return f"GPU {gpu.index} ({gpu.name})"


def _reset(gpu: Gpu, first: str = "") -> list[str]:
    return [
        f"{first}end every program on the GPU, then: $ sudo nvidia-smi --gpu-reset -i {gpu.index}",
        "if it comes back, replace the node",
    ]


def _model(gpu: Gpu) -> GpuModel | None:
    return models.find(gpu.name or "", gpu.memory_bytes)


def _is_for_data_centres(gpu: Gpu) -> bool:
    model = _model(gpu)
    return model is not None and model.segment == "datacenter"


def _require_data_centre(gpu: Gpu) -> None:
    if not _is_for_data_centres(gpu):
        not_applicable(f"{gpu.name} is not on record as a GPU for data centres")


def _is_on_a_board(model: GpuModel) -> bool:
    """Whether it is a module that is mounted on a board with its links, and no card in a slot."""
    return model.nvlink_gbs is not None and not model.nvlink_bridge


def _peers(gpu: Gpu, machine: Machine) -> list[GpuHealth]:
    """The other GPUs of this name."""
    others = [one for one in machine.gpu_env.gpus if one.name == gpu.name and one.index != gpu.index]
    return [found for one in others if (found := machine.health.of(one.index))]


def _is_unclear(health: GpuHealth, *fields: str) -> bool:
    """Whether NVML should have told one of these, and did not."""
    return any(field in health.silent and not health.silent[field].is_unsupported for field in fields)


def _end(health: GpuHealth, *fields: str) -> NoReturn:
    """End a check for which NVML gives no answer: not run where it should have, else not applicable."""
    silences = [health.silent[field] for field in fields if field in health.silent]
    for silence in silences:
        if not silence.is_unsupported:
            wait_for(None, f"GPU {health.index}: {silence.call}: {silence.text}")
    if not silences:
        wait_for(None, f"GPU {health.index} was not asked for its {fields[0]}")
    not_applicable(f"GPU {health.index} {silences[0].text} ({silences[0].call})")
