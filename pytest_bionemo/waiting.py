"""Who waits for another process says here what for, and whoever watches the run is told.

Waiting goes on in the process of pytest, in the loops that keep the deadlines. Nothing here takes part in them: where
nobody watches, it costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

# What is over sooner than this is nothing to tell of.
_PATIENCE_S = 0.45


@dataclass(frozen=True)
class Wait:
    """What is waited for.

    ``what`` is a phrase ("exact gemm", "importing bionemo-scdl"). ``since`` is the time of ``time.monotonic()`` at
    which it was started, ``limit_s`` its deadline in seconds from then. ``places`` are the devices that have not
    answered, of ``started`` ones in all; none where it has no device.
    """

    what: str
    since: float
    limit_s: float
    places: tuple[str, ...] = ()
    started: int = 0


class Watcher(Protocol):
    """Whoever is told while something is waited for, and when that is over."""

    def look(self, wait: Wait) -> None:
        """It goes on. Called about twice a second, by the thread that waits."""

    def rest(self) -> None:
        """It is over, however it ended."""


# A thread of its own starts without a watcher: only the one that pytest runs in writes to the terminal.
_WATCHER: ContextVar[Watcher | None] = ContextVar("pytest_bionemo_watcher", default=None)


def watch(watcher: Watcher | None) -> Watcher | None:
    """Have this one told from now on, or nobody; the one who was told before."""
    before = _WATCHER.get()
    _WATCHER.set(watcher)
    return before


@contextmanager
def waiting(describe: Callable[[], Wait]) -> Iterator[Callable[[], None]]:
    """What a loop that waits calls as often as it comes round.

    ::

    with waiting(lambda: Wait("asking the driver", started, 120)) as look:
        while not is_done(within=0.5):
            look()
    """
    watcher = _WATCHER.get()
    if watcher is None:
        yield lambda: None
        return
    due = time.monotonic() + _PATIENCE_S

    def look() -> None:
        nonlocal due
        if time.monotonic() >= due:
            watcher.look(describe())
            due = time.monotonic() + _PATIENCE_S

    try:
        yield look
    finally:
        watcher.rest()
