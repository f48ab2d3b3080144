"""The clock, and what keeps it right."""

from __future__ import annotations

import datetime

from pytest_bionemo.checking import check, fail, not_applicable
from pytest_bionemo.facts import host as facts
from pytest_bionemo.probes.machine import Machine


@check(severity="warning", needs=["linux"])
def clock_is_right(machine: Machine) -> None:
    """The clock shows a time that can be.

    Why: certificates are refused, so that nothing can be downloaded, and the nodes of a job do not agree on the time.

    How it decides: a time before this program was written, before the newest file of this Python, or many years ahead
    cannot be right; no network is asked.

    Fix: set the clock.
    """
    clock, known = machine.clock, facts.clock()
    problem = None
    if clock.now < known.earliest:
        problem = "before pytest-bionemo was written"
    elif clock.now > known.latest:
        problem = "too far in the future"
    elif clock.newest and clock.now < clock.newest - known.tolerance:
        problem = f"before the newest file of this Python was made ({_day(clock.newest)})"
    if problem:
        fail(
            f"the clock says {_day(clock.now)}: {problem}",
            why="certificates are refused, so that nothing can be downloaded, and the nodes of a job do not agree",
            fix=["set the clock:", "$ sudo timedatectl set-ntp true"],
        )


@check(severity="warning", needs=["linux"])
def clock_is_kept_right(machine: Machine) -> None:
    """What is here to set the clock has set it.

    Why: clocks that drift apart make Slurm refuse credentials (munge), and servers refuse certificates.

    How it decides: where a time service is installed, the kernel has to say that the clock is synchronised.

    Fix: start or repair the time service (chrony, systemd-timesyncd).
    """
    clock = machine.clock
    if clock.service is None or clock.synchronised is None:
        not_applicable("no service is seen that sets the clock here: in a container or virtual machine its host may")
    if not clock.synchronised and not clock.tells_kernel:
        not_applicable(f"{clock.service} does not tell the kernel whether the clock is right (rtcsync)")
    if not clock.synchronised:
        fail(
            f"{clock.service} is here to set the clock, but the kernel says that it is not synchronised",
            why="the nodes of a job drift apart: Slurm's credentials (munge) and certificates are refused",
            fix=[
                "see whether it reaches its servers:",
                "$ chronyc tracking" if clock.service == "chrony" else "$ timedatectl timesync-status",
            ],
        )


def _day(seconds: float) -> str:
    try:
        return f"{datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc):%Y-%m-%d}"
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f} s after 1970"
