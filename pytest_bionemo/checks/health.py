"""How each GPU is: memory errors, heat, links, settings that hold it back, who else is at work on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from pytest_bionemo import rules
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

# NVML's clocks event reasons (nvml.h): each is one bit. The first is also set while a clock is being changed.
_HW_SLOWDOWN, _SW_THERMAL, _HW_THERMAL, _HW_POWER_BRAKE = 0x8, 0x20, 0x40, 0x80

# nvmlComputeMode_t
_PROHIBITED = 2

# nvmlDeviceGpuRecoveryAction_t: what the driver wants done, and what that is here.
_NO_RECOVERY = 0
_RECOVERIES = {
    1: ("that the GPU is reset", Action.RESET_GPU),
    2: ("that the machine is rebooted", Action.REBOOT_NODE),
    3: ("that work between GPUs is ended", Action.FREE_GPU),
    4: ("that all work on the GPU is ended, and the GPU reset", Action.RESET_GPU),
    5: ("that its IMEX domain is recovered", Action.FIX_SOFTWARE),
    6: ("that the GPU is reset over its bus", Action.RESET_GPU),
    7: ("that the whole system is rebooted", Action.REBOOT_NODE),
}

# A setting may be lowered in steps, and by rounding: this share of what it should be is still all of it.
_AS_GOOD_AS_ALL = 0.98
# Compute capabilities whose memory contains its errors and takes bad pages out of use while programs run (NVIDIA GPU
# Memory Error Management, supported GPUs), and those that remap rows at all; before them, pages are retired.
_CONTAIN_ERRORS = ((8, 0), (9, 0), (10, 0), (10, 3))
_REMAP_ROWS = (*_CONTAIN_ERRORS, (8, 6), (8, 9))
_RETIRE_PAGES = ((7, 0), (7, 5))

# Idle GPUs lie far below. What takes more than this is in the way of a model that was planned for the whole GPU.
_MEMORY_SHARE = {"datacenter": 0.02, "other": 0.15}
_MEMORY_FLOOR = {"datacenter": 1 << 30, "other": 2 << 30}


# ------------------------------------------------------------------------------------------ whether it answers


@check()
def can_be_read(gpu: Gpu, machine: Machine) -> None:
    """The GPU answers every question about its health.

    Why: a GPU whose driver hangs, crashes or loses it on a question does so to the next program, too.

    How it decides: a child process with a deadline asks NVML everything that the other checks of this topic need, GPU
    by GPU; the one at which it ends is named, and one that NVML calls lost or in need of a reset.

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

    Why: a GPU that comes and goes takes every job with it that uses it.

    How it decides: it compares the number of GPUs before and after all of them were asked.

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
def needs_no_recovery(gpu: Gpu, gpu_health: GpuHealth, machine: Machine) -> None:
    """The driver does not want the GPU to be reset or the machine to be rebooted.

    Why: the driver met an error that it cannot undo while programs run: until it is, results and jobs on this GPU are
    at risk.

    How it decides: it reads the recovery action that the driver itself wants: any that is on record but none is a
    finding. Where another check of this GPU names the cause, this one waits for it.

    Fix: do what the driver asks for: end what uses the GPU, then reset it, or reboot the node.
    """
    action = gpu_health.recovery_action
    if action is None:
        _end(gpu, gpu_health, "recovery_action")
    if action == _NO_RECOVERY:
        return
    if action not in _RECOVERIES:
        wait_for(None, f"the driver wants recovery action {action} for GPU {gpu.index}, which is not on record")
    wanted, needed = _RECOVERIES[action]
    _leave_to_root("needs_no_recovery", gpu, gpu_health, machine)
    ways = {
        Action.RESET_GPU: _reset(gpu),
        Action.REBOOT_NODE: ["reboot the node"],
        Action.FREE_GPU: ["end every program that uses several GPUs together, then run this again",
                          "if the driver still wants it, reboot the node"],
        Action.FIX_SOFTWARE: ["restart the nodes' IMEX service"],
    }  # fmt: skip
    fail(
        f"{_name(gpu)}: the driver wants {wanted}",
        why="it met an error that it cannot undo while programs run",
        fix=ways[needed],
        action=needed,
        links=[_XID_GUIDE],
    )


# One error shows in several places: the check that asks for the most says it, of equals the first. Others wait.
_STRENGTHS = (Action.FREE_GPU, Action.RESET_GPU, Action.REBOOT_NODE, Action.REPLACE_NODE)


def _leave_to_root(check: str, gpu: Gpu, health: GpuHealth, machine: Machine, *, warns: bool = False) -> None:
    """Wait where another check names what this one comes from. ``warns``: it has a finding that only warns."""
    wanted = _wanted(gpu, health, machine)
    root = max(wanted, key=lambda name: _STRENGTHS.index(wanted[name]), default=check)  # the first of equals
    if root != check and (warns or check in wanted):
        wait_for(f"health::{root}[gpu{gpu.index}]", f"GPU {gpu.index} has a fault of which this is a part")


def _wanted(gpu: Gpu, health: GpuHealth, machine: Machine) -> dict[str, Action]:
    """What the blockers of this GPU that one error can have ask for, by check; causes come first."""
    recovery = _RECOVERIES.get(health.recovery_action or 0, ("", None))[1]
    wanted = {
        "has_no_memory_errors": _memory_needs(health),
        "rows_are_remapped": _rows_need(gpu, health),
        "pages_are_retired": _pages_need(health),
        "needs_no_recovery": recovery,
        "has_no_xid": _xids_need(gpu, health, machine.kernel_log),
    }
    return {name: action for name, action in wanted.items() if action in _STRENGTHS}


def _memory_needs(health: GpuHealth) -> Action | None:
    if health.sram_threshold_exceeded:
        return Action.REPLACE_NODE
    return Action.RESET_GPU if health.ecc and health.ecc.volatile else None


def _rows_need(gpu: Gpu, health: GpuHealth) -> Action | None:
    rows = health.remapped_rows
    if rows and rows.failed:
        return Action.REPLACE_NODE
    return Action.RESET_GPU if rows and rows.pending and not _works_around_bad_rows(gpu, health) else None


def _works_around_bad_rows(gpu: Gpu, health: GpuHealth) -> bool:
    """Whether a row that is still to be remapped is out of use, and the driver wants nothing done about it."""
    return gpu.compute_capability in _CONTAIN_ERRORS and health.recovery_action in (None, _NO_RECOVERY)


def _pages_need(health: GpuHealth) -> Action | None:
    pages = health.retired_pages
    if pages and pages.single_bit + pages.double_bit > round(facts.limit("retired_pages")):
        return Action.REPLACE_NODE
    return Action.REBOOT_NODE if pages and pages.pending else None


# -------------------------------------------------------------------------------------------------- its memory


@check()
def has_no_memory_errors(gpu: Gpu, gpu_health: GpuHealth, machine: Machine) -> None:
    """The GPU's memory has had no error that could not be corrected.

    Why: programs that such an error hits are ended, and memory that has failed once is more likely to fail again.

    How it decides: it reads the counters of uncorrectable errors (ECC): one since the driver was loaded blocks, as
    does NVIDIA's own threshold for the caches; those of the GPU's earlier life warn.

    Fix: reset the GPU or reboot the node; replace a GPU that has errors again.
    """
    errors = gpu_health.ecc
    _leave_to_root("has_no_memory_errors", gpu, gpu_health, machine)
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
        _end(gpu, gpu_health, "ecc", "sram_threshold_exceeded")
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
        _end(gpu, gpu_health, "sram_threshold_exceeded")


@check(severity="warning")
def corrects_memory_errors(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """Error correction (ECC) is on, on a GPU for data centres.

    Why: a bit that flips in the memory changes results, and nobody is told.

    How it decides: it reads the current ECC mode of GPUs for data centres, which has to be on.

    Fix: turn it on, which takes a reboot: nvidia-smi -e 1.
    """
    _require_data_centre(gpu)
    if gpu_health.ecc_enabled is None:
        _end(gpu, gpu_health, "ecc_enabled")
    if not gpu_health.ecc_enabled:
        fail(
            f"{_name(gpu)}: error correction (ECC) is off",
            why="a bit that flips in its memory changes results, and nobody is told",
            fix=[f"$ sudo nvidia-smi -i {gpu.index} -e 1", "then reboot the node", *_reset(gpu, "or ")[:1]],
            action=Action.RESET_GPU,
        )


@check()
def rows_are_remapped(gpu: Gpu, gpu_health: GpuHealth, machine: Machine) -> None:
    """Every bad row of the GPU's memory has been replaced by a spare one.

    Why: until a bad row is replaced, a program that meets it is ended; where no spare row is left, the error comes
    back for ever.

    How it decides: it reads NVML's remapped rows: a failed remapping blocks; a pending one blocks too, unless the GPU
    has taken the page out of use meanwhile, which warns.

    Fix: reset the GPU to take the new rows into use; replace it where remapping failed.
    """
    rows = gpu_health.remapped_rows
    if rows is None:
        _end(gpu, gpu_health, "remapped_rows")
    _leave_to_root("rows_are_remapped", gpu, gpu_health, machine, warns=rows.pending)
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
        is_out_of_use = _works_around_bad_rows(gpu, gpu_health)
        if is_out_of_use:
            why = (
                "until the GPU is reset, the page with that row is left out: no program meets it, and memory is less"
            )
        else:
            why = "until the GPU is reset, programs are still given the bad row, and one that meets it is ended"
        fail(
            f"{_name(gpu)}: a bad row of its memory waits to be remapped ({replaced})",
            why=why,
            fix=_reset(gpu, "when it is next idle, " if is_out_of_use else ""),
            action=Action.RESET_GPU,
            severity="warning" if is_out_of_use else None,
            links=[_MEMORY_GUIDE],
        )


@check()
def pages_are_retired(gpu: Gpu, gpu_health: GpuHealth, machine: Machine) -> None:
    """Every bad page of the GPU's memory is out of use, and they are few (before Ampere).

    Why: until a bad page is retired programs still get it, and where too many are, there is no room for the next one.

    How it decides: it compares the number of retired pages with the limit, and asks whether one waits for a reboot.

    Fix: reboot the node to take the pages out of use; replace a GPU with too many.
    """
    pages = gpu_health.retired_pages
    if pages is None:
        _end(gpu, gpu_health, "retired_pages")
    _leave_to_root("pages_are_retired", gpu, gpu_health, machine)
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
def has_all_its_memory(gpu: Gpu) -> None:
    """The GPU has as much memory as its model has.

    Why: what was planned for the model does not fit, and no bound of the model is a ruler for this GPU.

    How it decides: it compares the memory that NVML reports with the sizes that the model is sold with.

    Fix: reset the GPU; if its memory stays smaller, replace the node.
    """
    model = models.find(gpu.name or "")
    if model is None:
        not_applicable(f"the name {gpu.name} alone tells no model on record, and no memory")
    if gpu.memory_bytes is None:
        not_applicable(f"GPU {gpu.index} has no memory of its own to tell of")
    if _lacks_memory(gpu):
        sold = " or ".join(f"{size:g} GB" for size in model.memory_gb)
        fail(
            f"{_name(gpu)}: it has {_gib(gpu.memory_bytes)} of memory, and its model is sold with {sold}",
            why="what was planned for the model does not fit, and no bound of the model is a ruler for it",
            fix=_reset(gpu),
            action=Action.REPLACE_NODE,
        )


def _lacks_memory(gpu: Gpu) -> bool:
    """Whether it has less than any product of its name; there are cards that were given more."""
    model = models.find(gpu.name or "")
    if model is None or gpu.memory_bytes is None or models.find(gpu.name or "", gpu.memory_bytes):
        return False
    return gpu.memory_bytes < max(model.memory_gb) * 2**30


@check(severity="warning")
def memory_is_free(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """Nobody else holds much of the GPU's memory.

    Why: a training that was planned for the whole GPU runs out of memory, and what is timed beside others is not
    right.

    How it decides: it compares the memory in use, without what this run holds itself, with what an idle driver or a
    desktop takes; the processes that hold it are named where they can be seen.

    Fix: stop the processes that the finding names, or choose other GPUs.
    """
    if gpu_health.mig_mode:
        not_applicable(f"GPU {gpu.index} is in MIG mode: each slice has memory of its own")
    memory = gpu_health.memory
    if memory is None:
        _end(gpu, gpu_health, "memory")
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
    if health.processes is None:
        return "; by whom could not be asked"
    if not health.processes:
        return ", by no process that is visible here"
    held = [f"{process.pid}" + (f" ({_gib(process.memory_bytes)})" if process.memory_bytes else "")
            + (", the notebook or program that started this run" if process.started_this_run else "")
            for process in health.processes[:4]]  # fmt: skip
    more = f" and {len(health.processes) - 4} more" if len(health.processes) > 4 else ""
    return f", by process {', '.join(held)}{more}"


def _ways_to_free(gpu: Gpu, health: GpuHealth) -> list[str]:
    if health.processes:
        own = [process for process in health.processes if process.started_this_run]
        others = [f"see what they are: $ nvidia-smi -i {gpu.index}", "end them, or wait for them"]
        return [
            *(["free what this notebook or program holds, or restart its kernel before the training"] if own else []),
            *(others if len(own) < len(health.processes) else []),
        ]
    if health.processes is None:
        return [f"look for programs: $ nvidia-smi -i {health.index}", "$ sudo fuser -v /dev/nvidia*"]
    return [
        "look for programs in other containers and of other users: $ sudo fuser -v /dev/nvidia*",
        "if there is none, the memory was left behind: reboot the node",
        *_reset(gpu, "or ")[:1],
    ]


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


# ------------------------------------------------------------------------------------------------ heat, clocks


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
        _end(gpu, gpu_health, "clock_reasons")
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
            f"{_name(gpu)}: hardware slowdown, for no reason that it tells (clock reasons {reasons:#x})",
            why="where it lasts, its clock is half of what it should be; it is normal while a clock is being changed",
            fix=["look at it under load: $ nvidia-smi -q -d PERFORMANCE", "if it lasts, look at cooling and power"],
            action=Action.NONE,
            severity="warning",
        )
    if reasons & _SW_THERMAL:
        fail(
            f"{_name(gpu)}: the driver holds its clock down for its temperature (clock reasons {reasons:#x})",
            why="it computes slower than the others, and every step of a training waits for it",
            fix=["look at what runs on it and at its cooling", "it is normal for a moment under full load"],
            action=Action.NONE,
            severity="warning",
        )


def _fail_for_brake(gpu: Gpu, reasons: int, braking: int, machine: Machine) -> NoReturn:
    """Of one GPU it is the GPU; of several it is what they share, and one finding."""
    peers = _peers(gpu, machine)
    alike = [
        peer.index for peer in peers if peer.clock_reasons is not None and peer.clock_reasons & braking == braking
    ]
    if alike and min(alike) < gpu.index:
        wait_for(f"health::is_not_slowed_down[gpu{min(alike)}]", f"GPU {min(alike)} is held down alike")
    named = {_HW_THERMAL: "it is too hot", _HW_POWER_BRAKE: "the power supply asks for it (power brake)",
             _HW_SLOWDOWN: "hardware slowdown"}  # fmt: skip
    found = ", ".join(text for bit, text in named.items() if reasons & bit)
    more = f", with {len(alike)} more of {len(peers) + 1}" if alike else ""
    is_replaced = not alike and _is_for_data_centres(gpu)
    fail(
        f"{_name(gpu)}: its clock is held down by the hardware{more}: {found} "
        f"(clock reasons {reasons:#x})",
        why="its clock is half of what it should be, or less: every step of a training waits for it",
        fix=["look at the power supply and the cooling of the node: its GPUs are not at fault"] if alike else
        ["look at its cooling, its power supply and its power cables",
         "in a node of several GPUs, take it out of service: the others are not held down"],
        action=Action.REPLACE_NODE if is_replaced else Action.NONE,
        severity=None if _is_for_data_centres(gpu) else "warning",
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
        _end(gpu, found, "temperature")
    fields = ("temperature_slowdown", "temperature_shutdown", "temperature_margin")
    limits = [getattr(found, field) for field in (*fields, "temperature_operating")]
    if limits == [None, None, None, None]:
        _end(gpu, found, *fields)
    if seen := _too_hot(found):
        fail(
            f"{_name(gpu)}: {seen}",
            why="it halves its clock, and shuts down if it gets hotter: a job on it ends",
            fix=[
                "look at the cooling of the node: fans, air or water, and what is beside it",
                "until then, do not use it",
            ],
            action=Action.REPLACE_NODE,
            links=[_DEBUG_GUIDE],
        )
    if seen := _hotter_than_made_for(found):
        fail(
            f"{_name(gpu)}: {seen}",
            why="under load it will slow down",
            fix="look at what runs on it, and at the cooling of the node",
            action=Action.NONE,
            severity="warning",
        )
    if limits[:3] == [None, None, None] and _is_unclear(found, *fields):
        _end(gpu, found, *fields)


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
        _end(gpu, gpu_health, "power_limit", "default_power_limit")
    if limit < _AS_GOOD_AS_ALL * default:
        fail(
            f"{_name(gpu)}: it may draw {limit:g} W, by default {default:g} W",
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
    _require_data_centre(gpu)
    set_to, default = gpu_health.application_clock, gpu_health.default_application_clock
    if set_to is None or default is None:
        _end(gpu, gpu_health, "application_clock", "default_application_clock")
    if set_to < _AS_GOOD_AS_ALL * default:
        fail(
            f"{_name(gpu)}: its applications clock is set to {set_to} MHz, by default {default} MHz",
            why="it computes slower than it can, and every step of a training waits for it",
            fix=f"$ sudo nvidia-smi -i {gpu.index} -rac",
        )


# ------------------------------------------------------------------------------------------------------- links


@check(severity="warning")
def host_link_is_wide(gpu: Gpu, gpu_health: GpuHealth, machine: Machine) -> None:
    """The GPU's PCIe link to the host has all lanes of a module, half those of a card, and those of its peers.

    Why: copies to and from the host, and to network cards, take longer in the same measure as lanes are missing.

    How it decides: it compares the lanes of the link with those that the GPU has (a slot may have half of them), and
    lanes and generation with the other GPUs of this kind; the generation in use is not judged, since idle links are
    slow on purpose.

    Fix: reseat the GPU, look at riser and slot.
    """
    model = _model(gpu)
    if model is None or model.segment != "datacenter":
        not_applicable(f"{gpu.name or 'this GPU'} may use fewer lanes while it is idle")
    if model.host_link_gbs is not None:
        not_applicable(f"{model.name} is linked to its processor by another link than PCIe")
    link = gpu_health.pci_link
    if link is None:
        _end(gpu, gpu_health, "pci_link")
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


_LEAST_MINUTES = 30.0


@check(severity="warning")
def host_link_is_clean(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """Packets on the GPU's PCIe link rarely have to be sent again.

    Why: a link that sends packets again is bad: copies are slow, and the GPU may fall off the bus.

    How it decides: it divides the counter of PCIe replays by the time since the machine was started, and compares the
    rate with the limit.

    Fix: reseat the GPU, look at riser and slot.
    """
    replays = gpu_health.pcie_replays
    if replays is None:
        _end(gpu, gpu_health, "pcie_replays")
    most = facts.limit("pcie_replays_per_minute")
    # Training a link costs some, which is no rate when the machine has just been started.
    minutes = max(_LEAST_MINUTES, _uptime_s() / 60)
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

    Why: GPUs talk over PCIe instead, many times slower, or NCCL does not start.

    How it decides: it counts the links that are up and compares them with those of the model on a board that joins
    several.

    Fix: reset the GPUs together or reboot the node; replace it where links stay down.
    """
    expected = _nvlinks(gpu, gpu_health)
    if waiting := _waiting_for_fabric(machine):
        wait_for(f"health::fabric_is_ready[gpu{waiting[0].index}]", "GPUs have not joined their NVSwitch fabric")
    links = gpu_health.nvlinks
    is_alone = len(driver.gpus) + driver.hidden_gpus == 1
    if links is None and not is_alone:
        _require_answer(gpu, gpu_health, "nvlinks")
    if links is None:
        _end(gpu, gpu_health, "nvlinks")
    if len(links.up) >= expected:
        return
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
            "reboot the node, or " + _RESET_ALL,
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

    Why: a link with such errors is slower, and often fails altogether later.

    How it decides: any packet that was sent again, and any link that was trained again, since the driver was loaded
    is a finding; damaged packets are, above the limit.

    Fix: watch them; replace the node where errors go on.
    """
    errors = gpu_health.nvlink_errors
    if errors is None:
        _end(gpu, gpu_health, "nvlink_errors")
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
_ROUTE_UNHEALTHY = 4
_FABRIC_FAULTS = {
    _ROUTE_UNHEALTHY: ("a route is unhealthy", "blocker"),
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
def fabric_is_ready(gpu: Gpu, gpu_health: GpuHealth, driver: GpuEnv, machine: Machine, host: Host) -> None:
    """The GPU has joined its NVSwitch fabric, and the fabric is healthy.

    Why: until a GPU has joined its NVSwitch fabric, CUDA does not start on it (error 802).

    How it decides: it reads the state, the result and the health of the fabric from NVML: a GPU that has not joined,
    could not, has an unhealthy route or is set up wrongly blocks; degraded bandwidth and recoveries warn.

    Fix: start nvidia-fabricmanager in the driver's version; replace the node where a GPU cannot join.
    """
    fabric = gpu_health.fabric
    if fabric is None and len(driver.gpus) == _GPUS_OF_A_BOARD and _has_switches(gpu):
        _require_answer(gpu, gpu_health, "fabric")
    if fabric is None:
        _end(gpu, gpu_health, "fabric")
    if fabric.state == _FABRIC_NOT_SUPPORTED:
        not_applicable(f"GPU {gpu.index} is part of no NVSwitch fabric")
    if fabric.state > _FABRIC_COMPLETED:
        wait_for(None, f"GPU {gpu.index}: the state of its fabric is {fabric.state}, which is not on record")
    why = "until it has joined, CUDA does not start on it (error 802, system not yet initialized)"
    if fabric.state != _FABRIC_COMPLETED:
        waiting = _waiting_for_fabric(machine)
        if waiting[0].index != gpu.index:
            wait_for(f"health::fabric_is_ready[gpu{waiting[0].index}]", "GPUs have not joined their NVSwitch fabric")
        state = "has not begun to join" if fabric.state == _FABRIC_NOT_STARTED else "is still joining"
        others = f", and {len(waiting) - 1} more of {len(driver.gpus)} wait" if len(waiting) > 1 else ""
        fail(
            f"{_name(gpu)}: it {state} its NVSwitch fabric{others}",
            why=why,
            fix=[
                f"see whether the fabric manager runs{_on_the_host(host)}: $ systemctl status nvidia-fabricmanager",
                "$ sudo systemctl restart nvidia-fabricmanager",
                "see that it is of the driver's own version: $ nv-fabricmanager --version",
            ],
            action=Action.FIX_SOFTWARE,
            links=[_FABRIC_GUIDE],
        )
    if fabric.status:
        fail(
            f"{_name(gpu)}: it could not join its NVSwitch fabric (NVML code {fabric.status})",
            why=why,
            fix=[
                f"look at the log of the fabric manager{_on_the_host(host)}: /var/log/fabricmanager.log",
                "reboot the node, and replace it if it stays so",
            ],
            action=Action.REPLACE_NODE,
            links=[_FABRIC_GUIDE],
        )
    _judge_fabric(gpu, fabric.health)


# As many as NVSwitches join on a board of their own.
_GPUS_OF_A_BOARD = 8


def _has_switches(gpu: Gpu) -> bool:
    """Whether eight of these have NVSwitches that they join; before Hopper NVML does not tell."""
    model = _model(gpu)
    return model is not None and facts.nvlinks(model.name) is not None and model.compute_capability >= (9, 0)


def _waiting_for_fabric(machine: Machine) -> list[GpuHealth]:
    """The GPUs that the fabric manager has not joined yet."""
    states = (_FABRIC_NOT_STARTED, _FABRIC_IN_PROGRESS)
    return [found for found in machine.health.gpus if found.fabric and found.fabric.state in states]


def _on_the_host(host: Host) -> str:
    return " on the host" if host.container else ""


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
                "reboot the node, and replace it if it stays so",
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

    Why: in mode PROHIBITED every CUDA program fails to start, in mode EXCLUSIVE every one but the first.

    How it decides: it reads the compute mode: PROHIBITED blocks, EXCLUSIVE warns.

    Fix: set the compute mode back: nvidia-smi -c 0.
    """
    mode = gpu_health.compute_mode
    if mode is None:
        _end(gpu, gpu_health, "compute_mode")
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

    Why: what this run finds out does not hold from the next reset on: there will be other devices with other memory.

    How it decides: it compares the MIG mode that is in force with the one that is pending; they have to be the same.

    Fix: stop what uses the GPU and reset it.
    """
    current, pending = gpu_health.mig_mode, gpu_health.mig_mode_pending
    if current is None or pending is None:
        _end(gpu, gpu_health, "mig_mode", "mig_mode_pending")
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

    Why: each program that comes first waits seconds for the driver to set the GPU up, and settings are lost in
    between.

    How it decides: it reads the persistence mode of GPUs for data centres, which has to be on.

    Fix: start nvidia-persistenced.
    """
    _require_data_centre(gpu)
    if gpu_health.persistence is None:
        _end(gpu, gpu_health, "persistence")
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

    Why: it holds which rows of the memory are bad: repairs may be lost at the next reset.

    How it decides: it asks the GPU to verify the checksum of its InfoROM.

    Fix: have NVIDIA's support look at it, which can rewrite the InfoROM, or replace the node.
    """
    if gpu_health.inforom is None:
        _end(gpu, gpu_health, "inforom")
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

    Why: work that is shared out evenly is as slow as the weakest GPU, and results may differ.

    How it decides: it compares model, memory size, firmware (VBIOS) and power limit of all GPUs for data centres in
    the machine; those that differ from the most are named.

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
        # What a GPU lacks of its model's is told by has_all_its_memory.
        "memory": lambda gpu: None if _lacks_memory(gpu) else gpu.memory_bytes and _gib(gpu.memory_bytes),
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

    Why: after some of these errors a GPU cannot be relied on before it is reset, rebooted or replaced.

    How it decides: it reads the kernel's log since the driver was loaded and looks each Xid of this GPU up: those
    that a program causes itself are left out. The driver's own recovery action, where it has one, tells whether the
    error is over.

    Fix: do what the finding names for this Xid: reset, reboot or replace.
    """
    log = _readable(machine.kernel_log)
    address = _address(gpu)
    found = _telling_xids(log, address)
    is_untold = gpu_health.recovery_action is None and any(kind is None for _, kind in rules.open_xids(log, address))
    _leave_to_root("has_no_xid", gpu, gpu_health, machine)
    if not found:
        _require_whole(log)
        return
    kind = found[0][1]
    # The driver's own word on how the GPU is now, where it has one.
    is_over = _is_over(gpu_health, kind)
    is_minor = is_over or kind == "watch"
    if is_minor and is_untold:
        wait_for(None, f"GPU {gpu.index}: what the driver wants done (Xid 154) is not on record")
    fail(
        f"{_name(gpu)}: {_describe_xids(xid for xid, _ in found)} in the kernel's log since the driver was loaded"
        + (", after which the driver wants nothing done now" if is_over else ""),
        why="the error may come back" if is_minor else "after this error the GPU cannot be relied on",
        fix=["see the lines: $ sudo dmesg | grep -i xid", *_ways_out(gpu, "watch" if is_minor else kind)],
        action=Action.NONE if is_minor else _XID_ACTIONS[kind],
        severity="warning" if is_minor else None,
        links=[_XID_GUIDE],
    )


_XID_ACTIONS = {
    "drain": Action.FREE_GPU,
    "reset": Action.RESET_GPU,
    "reboot": Action.REBOOT_NODE,
    "replace": Action.REPLACE_NODE,
}
# The log does not tell of resets.
_CLEAR_THE_LOG = "if that was done since then, reload the driver or reboot: the log's record counts until then"


def _address(gpu: Gpu) -> kernel_log.PciAddress:
    address = kernel_log.address_of(gpu.pci_address)
    if address is None and gpu.pci_address is None and "nvmlDeviceGetPciInfo" not in (gpu.errors or {}):
        not_applicable(f"GPU {gpu.index} is on no PCI bus")
    if address is None:
        wait_for(None, f"the PCI address of GPU {gpu.index} is not known")
    return address


def _require_whole(log: KernelLog) -> None:
    if not log.is_whole:
        wait_for(None, "the kernel's log is longer than what was read of it")


def _telling_xids(log: KernelLog, address: kernel_log.PciAddress) -> list[tuple[Xid, xids.Class]]:
    """Those of this GPU that need more than a program's restart, what asks for the most first."""
    # What the driver wants in words that nobody has written down is watched here, and judged by who calls.
    found = [(xid, kind or "watch") for xid, kind in rules.open_xids(log, address)]
    return sorted((one for one in found if one[1] not in ("none", "application")),
                  key=lambda one: -xids.CLASSES.index(one[1]))  # fmt: skip


def _is_over(health: GpuHealth, kind: xids.Class) -> bool:
    return health.recovery_action == _NO_RECOVERY and kind in ("drain", "reset", "reboot")


def _xids_need(gpu: Gpu, health: GpuHealth, log: KernelLog) -> Action | None:
    address = kernel_log.address_of(gpu.pci_address)
    found = _telling_xids(log, address) if address else []
    return _XID_ACTIONS.get(found[0][1]) if found and not _is_over(health, found[0][1]) else None


def _ways_out(gpu: Gpu, kind: str) -> list[str]:
    ways = {
        "watch": ["nothing now: replace the node if it comes back"],
        "drain": ["end every program that uses several GPUs together", _CLEAR_THE_LOG],
        "reset": [*_reset(gpu), _CLEAR_THE_LOG],
        "reboot": ["reboot the node", "if it comes back, replace the node"],
        "replace": ["take the node out of service"],
    }
    return ways[kind]


def _readable(log: KernelLog) -> KernelLog:
    if log.unreadable:
        not_applicable(log.unreadable)
    return log


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

    Why: a GPU that fell off the bus is lost until the machine is started anew.

    How it decides: it looks in the kernel's log for Xids at PCI addresses at which the driver shows no GPU any more.

    Fix: reboot the node; replace it where the GPU stays away.
    """
    log = _readable(machine.kernel_log)
    if rules.sees_part(driver, host):
        not_applicable("the log also has the GPUs that are not this job's or this container's")
    for gpu in gpus:
        _address(gpu)
    for address, found in rules.lost_gpus(driver, log, host).items():
        fail(
            f"the driver does not show the GPU at {kernel_log.describe(address)}, of which the kernel's log has "
            f"{_describe_xids(found)}",
            why="it is lost until the machine is started anew",
            fix=["reboot the node", "if it comes back, replace the node"],
            action=Action.REBOOT_NODE,
            links=[_XID_GUIDE],
        )
    _require_whole(log)


@check()
def no_switch_failed(gpus: tuple[Gpu, ...], machine: Machine) -> None:
    """The kernel's log has no fatal error report (SXid) of an NVSwitch.

    Why: GPUs that talk over a failed switch wait for ever, or their jobs end.

    How it decides: it looks in the kernel's log for fatal SXids since the driver was loaded; where the fabric of
    every GPU says that it is healthy now, it only warns.

    Fix: reboot the node; replace it where the error comes again.
    """
    log = _readable(machine.kernel_log)
    fatal = [error for error in log.switch_errors if error.is_fatal]
    if not fatal:
        _require_whole(log)
        return
    is_over = all(_is_joined(machine.health.of(gpu.index)) for gpu in gpus)
    fail(
        f"NVSwitch {fatal[-1].address}: {count(len(fatal), 'fatal error')} in the kernel's log since the driver "
        f"was loaded, the last one SXid {fatal[-1].code}{', and the fabric of every GPU is healthy now' * is_over}",
        why="the error may come back" if is_over else
        "GPUs that talk over this switch wait for ever, or their jobs end",
        fix=["nothing now: replace the node if it comes back"] if is_over else
        [_RESET_ALL, "or reboot the node", _CLEAR_THE_LOG, "if it comes back, replace the node"],
        action=Action.NONE if is_over else Action.RESET_GPU,
        severity="warning" if is_over else None,
        links=[_FABRIC_GUIDE],
    )  # fmt: skip


def _is_joined(health: GpuHealth | None) -> bool:
    """Whether the GPU says that it has joined its fabric, and that the routes there are healthy."""
    fabric = health.fabric if health else None
    if fabric is None or fabric.state != _FABRIC_COMPLETED or fabric.status:
        return False
    says_no = 2
    is_set_up = (fabric.health >> _FABRIC_CONFIGURATION & 0b1111) not in _FABRIC_CONFIGURATIONS
    return is_set_up and all(fabric.health >> shift & 0b11 in (0, says_no) for shift in _FABRIC_FAULTS) and (
        fabric.health >> _ROUTE_UNHEALTHY & 0b11 == says_no
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- together


def _name(gpu: Gpu) -> str:
    return f"GPU {gpu.index} ({gpu.name})"


_FIRST_END = "end every program on it (on the host, if this is a container), then"
_RESET_ALL = (
    "reset all GPUs of the node together: end every program on them (on the host, if this is a container), then: "
    "$ sudo nvidia-smi --gpu-reset"
)


def _reset(gpu: Gpu, first: str = "") -> list[str]:
    return [
        f"{first}reset the GPU: {_FIRST_END}: $ sudo nvidia-smi --gpu-reset -i {gpu.index}",
        "if it comes back, replace the node",
    ]


def _model(gpu: Gpu) -> GpuModel | None:
    # One that has lost memory is judged as what its name says: it is no unknown GPU of which nothing is expected.
    return models.find(gpu.name or "", gpu.memory_bytes) or models.find(gpu.name or "")


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


def _end(gpu: Gpu, health: GpuHealth, *fields: str) -> NoReturn:
    """End a check for which NVML gives no answer: not run where it should have, else not applicable."""
    silences = [health.silent[field] for field in fields if field in health.silent]
    for silence in silences:
        if not silence.is_unsupported:
            wait_for(None, f"GPU {health.index}: {silence.call}: {silence.text}")
    for field in fields:
        if _must_tell(gpu, health, field):
            _require_answer(gpu, health, field)
    if not silences:
        wait_for(None, f"GPU {health.index} was not asked for its {fields[0]}")
    not_applicable(f"GPU {health.index} {silences[0].text} ({silences[0].call})")


# NVML_ERROR_INVALID_ARGUMENT, where it stands for that, _NOT_SUPPORTED and _NOT_FOUND: by the GPU's own word, not by
# that of an old driver or binding.
_SAYS_IT_HAS_NONE = (2, 3, 6)


def _require_answer(gpu: Gpu, health: GpuHealth, field: str) -> None:
    """Not run where the GPU says that it does not have what all of its model have."""
    silence = health.silent.get(field)
    if silence and silence.code in _SAYS_IT_HAS_NONE and not health.mig_mode:
        wait_for(None, f"GPU {gpu.index} {silence.text} ({silence.call}), and every {gpu.name} does")


def _must_tell(gpu: Gpu, health: GpuHealth, field: str) -> bool:
    """Whether every GPU of this model, which is on record, answers the question."""
    model = _model(gpu)
    if model is None or model.segment != "datacenter":
        return False
    corrects_errors = health.ecc_enabled is not False
    return {
        "ecc_enabled": True,
        "ecc": corrects_errors,
        "remapped_rows": corrects_errors and model.compute_capability in _REMAP_ROWS,
        "retired_pages": corrects_errors and model.compute_capability in _RETIRE_PAGES,
        "clock_reasons": True,
        "temperature": True,
        "compute_mode": True,
    }.get(field, False)
