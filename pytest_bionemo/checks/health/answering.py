"""Whether a GPU answers, and what its driver wants done."""

from __future__ import annotations

from pytest_bionemo.checking import check, fail, wait_for
from pytest_bionemo.checks.health.roots import NO_RECOVERY, RECOVERIES, leave_to_root
from pytest_bionemo.checks.health.shared import DEBUG_GUIDE, XID_GUIDE, end_for_silence, name_of, ways_to_reset
from pytest_bionemo.model import Action, Gpu, count
from pytest_bionemo.probes.health import GPU_IS_LOST, GpuHealth, lost_text
from pytest_bionemo.probes.machine import Machine


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
            f"{name_of(gpu)} stopped answering when it was asked about its health: {machine.health.failure}",
            why="a GPU whose driver hangs or crashes on a question does so to the next program, too",
            fix=["look at the kernel log for its Xid: $ sudo dmesg | grep -i xid", "reboot the node"],
            action=Action.REBOOT_NODE,
            links=[DEBUG_GUIDE],
        )
    if found.lost:
        is_gone = found.lost.text == lost_text(GPU_IS_LOST)
        fail(
            f"{name_of(gpu)}: {found.lost.call} says that {found.lost.text}",
            why="no program can use it any more",
            fix=["reboot the node", "if it comes back, replace the node"] if is_gone else ways_to_reset(gpu),
            action=Action.REBOOT_NODE if is_gone else Action.RESET_GPU,
            links=[DEBUG_GUIDE],
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
        end_for_silence(gpu, gpu_health, "recovery_action")
    if action == NO_RECOVERY:
        return
    if action not in RECOVERIES:
        wait_for(None, f"the driver wants recovery action {action} for GPU {gpu.index}, which is not on record")
    wanted, needed = RECOVERIES[action]
    leave_to_root("needs_no_recovery", gpu, gpu_health, machine)
    ways = {
        Action.RESET_GPU: ways_to_reset(gpu),
        Action.REBOOT_NODE: ["reboot the node"],
        Action.FREE_GPU: ["end every program that uses several GPUs together, then run this again",
                          "if the driver still wants it, reboot the node"],
        Action.FIX_SOFTWARE: ["restart the nodes' IMEX service"],
    }  # fmt: skip
    fail(
        f"{name_of(gpu)}: the driver wants {wanted}",
        why="it met an error that it cannot undo while programs run",
        fix=ways[needed],
        action=needed,
        links=[XID_GUIDE],
    )
