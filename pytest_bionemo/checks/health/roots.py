"""One error of a GPU shows in several places: which check names it, and which ones wait for that."""

from __future__ import annotations

from pytest_bionemo import rules
from pytest_bionemo.checking import wait_for
from pytest_bionemo.checks.health.shared import CONTAIN_ERRORS
from pytest_bionemo.facts import health as facts
from pytest_bionemo.facts import xids
from pytest_bionemo.model import Action, Gpu
from pytest_bionemo.probes import kernel_log
from pytest_bionemo.probes.health import GpuHealth
from pytest_bionemo.probes.kernel_log import KernelLog, Xid
from pytest_bionemo.probes.machine import Machine

# nvmlDeviceGpuRecoveryAction_t: what the driver wants done, and what that is here.
NO_RECOVERY = 0
RECOVERIES = {
    1: ("that the GPU is reset", Action.RESET_GPU),
    2: ("that the machine is rebooted", Action.REBOOT_NODE),
    3: ("that work between GPUs is ended", Action.FREE_GPU),
    4: ("that all work on the GPU is ended, and the GPU reset", Action.RESET_GPU),
    5: ("that its IMEX domain is recovered", Action.FIX_SOFTWARE),
    6: ("that the GPU is reset over its bus", Action.RESET_GPU),
    7: ("that the whole system is rebooted", Action.REBOOT_NODE),
}


XID_ACTIONS = {
    "drain": Action.FREE_GPU,
    "reset": Action.RESET_GPU,
    "reboot": Action.REBOOT_NODE,
    "replace": Action.REPLACE_NODE,
}


# One error shows in several places: the check that asks for the most says it, of equals the first. Others wait.
_STRENGTHS = (Action.FREE_GPU, Action.RESET_GPU, Action.REBOOT_NODE, Action.REPLACE_NODE)


def leave_to_root(check: str, gpu: Gpu, health: GpuHealth, machine: Machine, *, warns: bool = False) -> None:
    """Wait where another check names what this one comes from. ``warns``: it has a finding that only warns."""
    wanted = _wanted(gpu, health, machine)
    root = max(wanted, key=lambda name: _STRENGTHS.index(wanted[name]), default=check)  # the first of equals
    if root != check and (warns or check in wanted):
        wait_for(f"health::{root}[gpu{gpu.index}]", f"GPU {gpu.index} has a fault of which this is a part")


def _wanted(gpu: Gpu, health: GpuHealth, machine: Machine) -> dict[str, Action]:
    """What the blockers of this GPU that one error can have ask for, by check; causes come first."""
    recovery = RECOVERIES.get(health.recovery_action or 0, ("", None))[1]
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
    return Action.RESET_GPU if rows and rows.pending and not works_around_bad_rows(gpu, health) else None


def works_around_bad_rows(gpu: Gpu, health: GpuHealth) -> bool:
    """Whether a row that is still to be remapped is out of use, and the driver wants nothing done about it."""
    return gpu.compute_capability in CONTAIN_ERRORS and health.recovery_action in (None, NO_RECOVERY)


def _pages_need(health: GpuHealth) -> Action | None:
    pages = health.retired_pages
    if pages and pages.single_bit + pages.double_bit > round(facts.limit("retired_pages")):
        return Action.REPLACE_NODE
    return Action.REBOOT_NODE if pages and pages.pending else None


def telling_xids(log: KernelLog, address: kernel_log.PciAddress) -> list[tuple[Xid, xids.Class]]:
    """Those of this GPU that need more than a program's restart, what asks for the most first."""
    # What the driver wants in words that nobody has written down is watched here, and judged by who calls.
    found = [(xid, kind or "watch") for xid, kind in rules.open_xids(log, address)]
    return sorted((one for one in found if one[1] not in ("none", "application")),
                  key=lambda one: -xids.CLASSES.index(one[1]))  # fmt: skip


def is_settled(health: GpuHealth, kind: xids.Class) -> bool:
    """Whether the driver itself wants nothing done any more about an error of this kind."""
    return health.recovery_action == NO_RECOVERY and kind in ("drain", "reset", "reboot")


def _xids_need(gpu: Gpu, health: GpuHealth, log: KernelLog) -> Action | None:
    address = kernel_log.address_of(gpu.pci_address)
    found = telling_xids(log, address) if address else []
    return XID_ACTIONS.get(found[0][1]) if found and not is_settled(health, found[0][1]) else None
