"""The control groups of this process, version 1 and 2: what they limit, and what is left of it.

A limit holds in every group from the process's own up to the root, so all of them are looked at and the tightest
counts. In a container the path in ``/proc/self/cgroup`` may be one of the host, which is not there: then the root of
the mount is the container's own group.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/{cgroups,memory,pids}.rst; for the quota of
version 1 Documentation/scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MOUNT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
# Version 1 says "no limit" by a number near 2**63, rounded to pages.
_NO_LIMIT = 1 << 62
_LONGEST = 1 << 16
_DEEPEST = 64
# Pages of files, used of late or not, and tables of the kernel that it can make anew: all of that makes room.
_DROPPABLE_2 = ("inactive_file", "active_file", "slab_reclaimable")
_DROPPABLE_1 = ("total_inactive_file", "total_active_file")


@dataclass(frozen=True)
class Limit:
    """The tightest limit, and how much of any limit is left: the two may be of different groups."""

    limit: int
    left: int


def memory(root: Path = Path("/")) -> Limit | None:
    """In bytes; None where no group limits it. What the kernel can drop at once (file cache) counts as left."""
    return _tightest(
        "memory",
        root,
        lambda group: _limit(group, "memory.max", "memory.current", _DROPPABLE_2),
        lambda group: _limit(group, "memory.limit_in_bytes", "memory.usage_in_bytes", _DROPPABLE_1),
    )


def tasks(root: Path = Path("/")) -> Limit | None:
    """Processes and threads; None where no group limits them."""

    def look(group: Path) -> Limit | None:
        return _limit(group, "pids.max", "pids.current")

    return _tightest("pids", root, look, look)


def cores(mount: Path = MOUNT, membership: Path = _MEMBERSHIP) -> float | None:
    """The quota of processor time, in cores; None where there is none, or where it cannot be read."""
    quotas = [
        *(_quota_2(group) for group in _groups("", mount, membership)),
        *(_quota_1(group) for group in _groups("cpu", mount, membership)),
    ]
    return min((quota for quota in quotas if quota), default=None)


def _tightest(
    controller: str,
    root: Path,
    version_2: Callable[[Path], Limit | None],
    version_1: Callable[[Path], Limit | None],
) -> Limit | None:
    mount, membership = root / MOUNT.relative_to("/"), root / _MEMBERSHIP.relative_to("/")
    found = [
        *(version_2(group) for group in _groups("", mount, membership)),
        *(version_1(group) for group in _groups(controller, mount, membership)),
    ]
    limits = [limit for limit in found if limit]
    if not limits:
        return None
    return Limit(min(limit.limit for limit in limits), min(limit.left for limit in limits))


def _groups(controller: str, mount: Path, membership: Path) -> Iterator[Path]:
    """The folders of the process's group and of those above it, the root of the mount last.

    ``controller`` is empty for version 2, which is mounted itself or, beside version 1, as ``unified``.
    """
    own = _membership(controller, membership)
    for hierarchy in [mount / controller] if controller else [mount, mount / "unified"]:
        for folder in [own, *own.parents][-_DEEPEST:]:
            yield hierarchy / folder


def _membership(controller: str, membership: Path) -> PurePosixPath:
    for line in _read(membership).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            own = PurePosixPath(path.lstrip("/"))
            # Of a group outside its namespace a process sees "/../..": nothing to follow.
            return PurePosixPath() if ".." in own.parts else own
    return PurePosixPath()


def _limit(group: Path, limit: str, used: str, droppable: Collection[str] = ()) -> Limit | None:
    highest, current = _number(group / limit), _number(group / used)
    if highest is None or highest >= _NO_LIMIT:
        return None
    if current is None:
        return Limit(highest, highest)
    dropped = _statistics(group / "memory.stat", droppable) if droppable else 0
    return Limit(highest, max(0, highest - max(0, current - dropped)))


def _quota_2(group: Path) -> float | None:
    with suppress(ValueError):
        limit, period = _read(group / "cpu.max").split()
        return _quotient(int(limit), int(period))  # "max" is no number
    return None


def _quota_1(group: Path) -> float | None:
    limit, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    return None if limit is None or period is None else _quotient(limit, period)


def _quotient(limit: int, period: int) -> float | None:
    return limit / period if limit > 0 and period > 0 else None


def _statistics(path: Path, names: Collection[str]) -> int:
    """The sum of those that are there."""
    pairs = (line.partition(" ") for line in _read(path).splitlines())
    return sum(int(value) for name, _, value in pairs if name in names and re.fullmatch(r"\d{1,18}", value, re.ASCII))


def _number(path: Path) -> int | None:
    """None for "max", for what is negative, and for what is no number."""
    text = _read(path).strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def _read(path: Path) -> str:
    try:
        with path.open(errors="replace") as file:
            return file.read(_LONGEST)
    except (OSError, ValueError):  # ValueError: a NUL in a path
        return ""
