"""The clock of this machine: what it says, what speaks against it, and whether anybody keeps it right."""

from __future__ import annotations

import ctypes
import os
import re
import sysconfig
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_bionemo.probes import files

_TIME_ERROR = 5  # linux/timex.h: the clock is not synchronised
_RTCSYNC = re.compile(r"^[ \t]*rtcsync\b", re.MULTILINE | re.IGNORECASE)
_TIMEX_BYTES = 512  # struct timex has 208 on 64 bits
# What a service that sets the clock leaves there while it runs.
_SERVICES = {
    # The folder itself: what is in it is closed to all but its own user.
    "chrony": ("run/chrony", "run/chronyd.pid"),
    "systemd-timesyncd": ("run/systemd/timesync",),
    "ntpd": ("run/ntpd.pid", "var/run/ntpd.pid"),
}


@dataclass(frozen=True)
class Clock:
    """``now`` in seconds since 1970; ``newest`` is when a file that is surely there was last changed, by the clock.

    ``synchronised`` is what the kernel says (None: it does not), ``service`` what sets the clock here, if any does.
    ``tells_kernel`` is False where it never says that it has: chrony without rtcsync in its configuration.
    """

    now: float
    newest: float | None
    synchronised: bool | None
    service: str | None
    tells_kernel: bool = True


def read(root: Path = Path("/")) -> Clock:
    """Look at the clock; nothing is set."""
    service = _service(root)
    tells_kernel = service != "chrony" or _has_rtcsync(root)
    return Clock(time.time(), _newest(_own_folders()), _synchronised(), service, tells_kernel)


def _has_rtcsync(root: Path) -> bool:
    """chrony.conf(5), and what its packages let it include."""
    folders = (root / "etc/chrony/conf.d", root / "etc/chrony.d")
    places = [
        *(root / name for name in ("etc/chrony.conf", "etc/chrony/chrony.conf")),
        *(folder / name for folder in folders for name in files.names(folder)),
    ]
    return any(_RTCSYNC.search(files.text(place)) for place in places)


def _own_folders() -> list[Path]:
    """Folders that were changed when something was installed: of this Python, and of this package."""
    return [Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("stdlib")), Path(__file__).parent]


def _newest(paths: Iterable[Path]) -> float | None:
    """The newest change of an inode: unlike the time of modification no archive brings it along."""
    stamps = []
    for path in paths:
        with suppress(OSError):
            stamps.append(path.stat().st_ctime)
    return max(stamps, default=None)


def _synchronised() -> bool | None:
    """What adjtimex(2) says where it is asked to change nothing (modes of 0)."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def _service(root: Path) -> str | None:
    for name, places in _SERVICES.items():
        if any(os.path.lexists(root / place) for place in places):
            return name
    return None
