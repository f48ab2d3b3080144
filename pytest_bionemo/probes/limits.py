"""What the kernel lets this process have: limits of its own, of its control groups, and the memory that there is."""

from __future__ import annotations

import os
import re
import resource
from dataclasses import dataclass
from pathlib import Path

from pytest_bionemo.probes import cgroups, files
from pytest_bionemo.probes.cgroups import Limit
from pytest_bionemo.probes.host import usable_cores

_CAP_IPC_LOCK = 14  # linux/capability.h
_LONGEST = 1 << 16
_KIB = 1 << 10


@dataclass(frozen=True)
class Limits:
    """Limits of getrlimit(2), None where there is none, and those of control groups, None likewise.

    ``locks_at_will``: CAP_IPC_LOCK counts, so that the limit of locked memory does not. ``processes`` is None for
    root too, to whom it does not apply. ``rdma_devices`` are the adapters that need locked memory and whose files are
    open to this process. ``memory_total`` and ``memory_available`` are the machine's, in bytes, and ``memory_stall``
    is the share of the last minute, in percent, in which all of it waited for memory; None where the kernel does not
    say. ``cores`` may be used at once by this process, of ``online_cores``.
    """

    open_files: int | None = None
    open_files_hard: int | None = None
    locked_memory: int | None = None
    locks_at_will: bool = False
    processes: int | None = None
    address_space: int | None = None
    rdma_devices: tuple[str, ...] = ()
    memory: Limit | None = None
    tasks: Limit | None = None
    memory_total: int | None = None
    memory_available: int | None = None
    memory_stall: float | None = None
    cores: int = 1
    online_cores: int = 1


def read(root: Path = Path("/")) -> Limits:
    """Look at this process, and at the files below ``root``."""
    files = _soft_and_hard(resource.RLIMIT_NOFILE)
    meminfo = _meminfo(root / "proc/meminfo")
    return Limits(
        open_files=files[0],
        open_files_hard=files[1],
        locked_memory=_soft_and_hard(resource.RLIMIT_MEMLOCK)[0],
        locks_at_will=_locks_at_will(root),
        processes=_soft_and_hard(resource.RLIMIT_NPROC)[0] if os.getuid() else None,
        address_space=_soft_and_hard(resource.RLIMIT_AS)[0],
        rdma_devices=_rdma_devices(root),
        memory=cgroups.memory(root),
        tasks=cgroups.tasks(root),
        memory_total=meminfo.get("MemTotal"),
        memory_available=meminfo.get("MemAvailable"),
        memory_stall=_stall(root / "proc/pressure/memory"),
        cores=usable_cores(root / "sys/fs/cgroup"),
        online_cores=os.cpu_count() or 1,
    )


def _soft_and_hard(which: int) -> tuple[int | None, int | None]:
    soft, hard = (None if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(which))
    return soft, hard


def _locks_at_will(root: Path) -> bool:
    """Whether the capability counts: only that of the first user namespace does."""
    capabilities = re.search(r"^CapEff:\s*([0-9a-fA-F]+)\s*$", _text(root / "proc/self/status"), re.MULTILINE)
    is_first_namespace = _text(root / "proc/self/uid_map").split() == ["0", "0", str((1 << 32) - 1)]
    return bool(capabilities and int(capabilities[1], 16) >> _CAP_IPC_LOCK & 1 and is_first_namespace)


def _rdma_devices(root: Path) -> tuple[str, ...]:
    """Those whose file in /dev is open to this process: through no other can it register memory."""
    verbs = root / "sys/class/infiniband_verbs"
    return tuple(
        sorted(
            name
            for node in files.names(verbs)
            if (name := files.line(verbs / node / "ibdev"))
            and os.access(root / "dev/infiniband" / node, os.R_OK | os.W_OK)
        )
    )


def _meminfo(path: Path) -> dict[str, int]:
    """In bytes."""
    found = re.findall(r"^(\w+):\s+(\d{1,18}) kB$", _text(path), re.MULTILINE | re.ASCII)
    return {name: int(kib) * _KIB for name, kib in found}


def _stall(path: Path) -> float | None:
    share = re.search(r"^full .*\bavg60=(\d{1,3}\.\d+)", _text(path), re.MULTILINE | re.ASCII)
    return float(share[1]) if share else None


def _text(path: Path) -> str:
    try:
        with path.open(errors="replace") as file:
            return file.read(_LONGEST)
    except OSError:
        return ""
