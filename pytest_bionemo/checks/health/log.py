"""What the driver has written to the kernel's log."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_bionemo import rules
from pytest_bionemo.checking import check, fail, not_applicable, wait_for
from pytest_bionemo.checks.health.links import is_joined
from pytest_bionemo.checks.health.roots import XID_ACTIONS, is_settled, leave_to_root, telling_xids
from pytest_bionemo.checks.health.shared import FABRIC_GUIDE, RESET_ALL, XID_GUIDE, name_of, ways_to_reset
from pytest_bionemo.facts import xids
from pytest_bionemo.model import Action, Gpu, GpuEnv, count
from pytest_bionemo.probes import kernel_log
from pytest_bionemo.probes.health import GpuHealth
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.kernel_log import KernelLog, Xid
from pytest_bionemo.probes.machine import Machine


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
    found = telling_xids(log, address)
    is_untold = gpu_health.recovery_action is None and any(kind is None for _, kind in rules.open_xids(log, address))
    leave_to_root("has_no_xid", gpu, gpu_health, machine)
    if not found:
        _require_whole(log)
        return
    kind = found[0][1]
    # The driver's own word on how the GPU is now, where it has one.
    is_over = is_settled(gpu_health, kind)
    is_minor = is_over or kind == "watch"
    if is_minor and is_untold:
        wait_for(None, f"GPU {gpu.index}: what the driver wants done (Xid 154) is not on record")
    fail(
        f"{name_of(gpu)}: {_describe_xids(xid for xid, _ in found)} in the kernel's log since the driver was loaded"
        + (", after which the driver wants nothing done now" if is_over else ""),
        why="the error may come back" if is_minor else "after this error the GPU cannot be relied on",
        fix=["see the lines: $ sudo dmesg | grep -i xid", *_ways_out(gpu, "watch" if is_minor else kind)],
        action=Action.NONE if is_minor else XID_ACTIONS[kind],
        severity="warning" if is_minor else None,
        links=[XID_GUIDE],
    )


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


def _ways_out(gpu: Gpu, kind: str) -> list[str]:
    ways = {
        "watch": ["nothing now: replace the node if it comes back"],
        "drain": ["end every program that uses several GPUs together", _CLEAR_THE_LOG],
        "reset": [*ways_to_reset(gpu), _CLEAR_THE_LOG],
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
            links=[XID_GUIDE],
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
    is_over = all(is_joined(machine.health.of(gpu.index)) for gpu in gpus)
    fail(
        f"NVSwitch {fatal[-1].address}: {count(len(fatal), 'fatal error')} in the kernel's log since the driver "
        f"was loaded, the last one SXid {fatal[-1].code}{', and the fabric of every GPU is healthy now' * is_over}",
        why="the error may come back" if is_over else
        "GPUs that talk over this switch wait for ever, or their jobs end",
        fix=["nothing now: replace the node if it comes back"] if is_over else
        [RESET_ALL, "or reboot the node", _CLEAR_THE_LOG, "if it comes back, replace the node"],
        action=Action.NONE if is_over else Action.RESET_GPU,
        severity="warning" if is_over else None,
        links=[FABRIC_GUIDE],
    )  # fmt: skip
