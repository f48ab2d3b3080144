"""File systems that the nodes share."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Sequence

from pytest_bionemo import rules
from pytest_bionemo.checking import check, fail, not_applicable, wait_for
from pytest_bionemo.facts import platforms
from pytest_bionemo.probes import mounts
from pytest_bionemo.probes.child import Answer
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.mounts import Mount
from pytest_bionemo.probes.platforms import HyperPod
from pytest_bionemo.terms import Severity


@check()
def shared_file_systems_answer(shared_mounts: tuple[Mount, ...], mount_answers: Answer, machine: Machine) -> None:
    """Every shared file system that is mounted answers.

    Why: whatever touches a file system that does not answer hangs, and no signal ends it: training, data loaders,
    even ls and df.

    How it decides: a child process with a deadline asks each mounted file system that machines share. Where nothing
    of this run lies on the broken one, it only warns.

    Fix: look at the file server and the network to it; mount anew what stays broken.
    """
    silent = mounts.silent(shared_mounts, mount_answers)
    broken = [answer for answer in mount_answers.before if answer["errno"] is not None]
    if mount_answers.failure and not silent:
        wait_for(None, f"the process that asks the shared file systems ended early: {mount_answers.failure}")
    users = rules.users_of((*silent, *mounts.broken(shared_mounts, mount_answers)), machine)
    # Where nothing of this run lies, training can go on.
    severity: Severity | None = None if users else "warning"
    used = f" ({', '.join(users)} {'is' if len(users) == 1 else 'are'} there)" if users else ""
    if silent:
        also = f"; and {_describe_broken(broken)}" if broken else ""
        waited = (mount_answers.failure or "").partition(",")[0]
        fail(
            f"{_describe_mounts(silent)}: {waited}{used}{also}",
            why="whatever touches it hangs, and no signal ends it: training, data loaders, even ls and df",
            fix=[
                "look at the server and the network to it: whatever hangs goes on when the server is back",
                "look at the kernel log: $ sudo dmesg | tail",
                "if the server is well and this node alone waits, unmount it and mount it again, or reboot the node",
            ],
            severity=severity,
        )
    if broken:
        _fail_for_errors(broken, used, severity)


def _fail_for_errors(broken: Sequence[dict[str, object]], used: str, severity: Severity | None) -> None:
    place = shlex.quote(_shown(str(broken[0]["path"])))
    remedies = {
        errno.ESTALE: "the server has exported it anew: unmount it and mount it again",
        errno.ENOTCONN: "the program that serves it has ended: unmount it and mount it again",
    }
    number = broken[0]["errno"]
    remedy = remedies.get(number) if isinstance(number, int) else None
    fail(
        f"{_describe_broken(broken)}{used}",
        why="whatever is read from there or written to it fails",
        fix=[f"{remedy or 'unmount it and mount it again'}: $ sudo umount {place} && sudo mount {place}"],
        severity=severity,
    )


def _describe_mounts(found: Sequence[Mount]) -> str:
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(f"{_shown(mount.path)} ({_kind_of(mount)})" for mount in found[:3]) + more


def _kind_of(mount: Mount) -> str:
    known = platforms.shared_file_systems()
    return known.get(mount.kind) or known.get(f"fuse.{mount.program}") or _shown(mount.program or mount.kind)


def _describe_broken(broken: Sequence[dict[str, object]]) -> str:
    more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
    return ", ".join(f"{_shown(str(answer['path']))}: {answer['error']}" for answer in broken[:3]) + more


def _shown(path: str) -> str:
    """As it can be printed: a name of a file need not be UTF-8."""
    return path.encode(errors="backslashreplace").decode()


@check(severity="warning")
def fsx_is_mounted(hyperpod: HyperPod, mount_table: tuple[Mount, ...], machine: Machine) -> None:
    """The FSx for Lustre file system of the HyperPod cluster is mounted.

    Why: HOME, data and container images are there: without it each node writes to its own small disk instead.

    How it decides: it looks in the table of mounts for the file system that the cluster's description names.

    Fix: mount the file system that the cluster's description names.
    """
    if hyperpod.fsx is None:
        not_applicable("the cluster's description (provisioning_parameters.json) names no FSx file system")
    # The table of mounts has the server's address (10.1.2.3@tcp:/NAME) where the description has its name.
    if not any(_is_fsx(mount, hyperpod) for mount in machine.shared_mounts):
        fail(
            f"{hyperpod.fsx} is not mounted, and the cluster's description says that it is to be",
            why="HOME, data and container images are there, and each node would write to its own 100 GB disk instead",
            fix=["run the lifecycle script again on this node: mount_fsx.sh",
                 "allow Lustre in the security group: TCP 988 and 1018 to 1023"],
        )  # fmt: skip


def _is_fsx(mount: Mount, hyperpod: HyperPod) -> bool:
    below = f"{mount.source}/".partition(":/")[2]
    has_name = hyperpod.fsx_mount is not None and below.startswith(f"{hyperpod.fsx_mount}/")
    return has_name or (hyperpod.fsx is not None and hyperpod.fsx in mount.source)
