"""The clock of this machine: what it says, what speaks against it, and whether anybody keeps it right."""

from __future__ import annotations

import ctypes
import os
import sysconfig
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TIME_ERROR = 5  # linux/timex.h: the clock is not synchronised
_TIMEX_BYTES = 512  # struct timex has 208 on 64 bits
# What a service that sets the clock leaves there while it runs.
_SERVICES = {
    "chrony": ("run/chrony/chronyd.pid", "run/chronyd.pid", "run/chrony/chronyd.sock"),
    "systemd-timesyncd": ("run/systemd/timesync",),
    "ntpd": ("run/ntpd.pid", "var/run/ntpd.pid"),
}


@dataclass(frozen=True)
class Clock:
    """``now`` in seconds since 1970; ``newest`` is when a file that is surely there was last changed, by the clock.

    ``synchronised`` is what the kernel says (None: it does not), ``service`` what sets the clock here, if any does.
    """

    now: float
    newest: float | None
    synchronised: bool | None
    service: str | None


def read(root: Path = Path("/")) -> Clock:
    """Look at the clock; nothing is set."""
    return Clock(time.time(), _newest(_own_folders()), _synchronised(), _service(root))


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
