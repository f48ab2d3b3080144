"""Live progress: what is waited for, on which devices, for how long, and until when.

On a terminal it is one dim line below what pytest writes, gone when the wait is over. In a log it is a plain line
after half a minute, and then each time that twice as long has passed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import pytest

from pytest_bionemo.hangup import Hangup
from pytest_bionemo.screen import Screen, columns, cut, plain, takes
from pytest_bionemo.terms import Progress as When
from pytest_bionemo.waiting import Wait, Watcher, watch

# In a log nobody looks on: only what takes long is worth a line.
_FIRST_LINE_S = 30.0
_NAMED_AT_MOST = 3
# Less of an id than this says nothing.
_SHORTEST_ID = 20
_QUIETEST = -2
_DUMB = ("", "dumb", "unknown")
# Set by Jupyter for its kernels, which say TERM=xterm-color and give each command a terminal of its own.
_KERNEL = "JPY_PARENT_PID"


class Outlet(Protocol):
    """Where progress is shown."""

    def show(self, doing: str, wait: Wait) -> None:
        """It goes on, while the test of this id runs; "" before there is one."""

    def clear(self) -> None:
        """It is over."""

    def close(self) -> None:
        """So is the run."""


class Progress:
    """The progress of one run, told by the loops that wait.

    :param when: auto, on or off: see :func:`wanted`.
    """

    def __init__(self, config: pytest.Config, when: When) -> None:
        self._config = config
        self._when = when
        self._doing = ""
        self._outlet: Outlet | None = None
        self._hangup: Hangup | None = None
        self._before: Watcher | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Find out where pytest writes to, while nothing is captured yet."""
        writer: Any = self._config.get_terminal_writer()
        self._hangup = Hangup.of(writer)
        quiet = self._config.option.verbose <= _QUIETEST
        how = wanted(self._when, self._hangup is not None, quiet, os.environ)
        if how == "live":
            self._outlet = Live(writer)
        elif how == "log":
            self._outlet = Log.of(writer)
        if self._outlet is not None:
            self._before = watch(self)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Remember which test runs."""
        self._doing = nodeid

    def pytest_runtest_logfinish(self) -> None:
        """None runs."""
        self._doing = ""

    def look(self, wait: Wait) -> None:
        """Show what is waited for."""
        if self._outlet is not None:
            self._outlet.show(self._doing, wait)

    def rest(self) -> None:
        """Show nothing."""
        if self._outlet is not None:
            self._outlet.clear()

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Leave the terminal as it was."""
        if self._outlet is not None:
            watch(self._before)
            self._outlet.close()
        if self._hangup is not None:
            self._hangup.close()


def wanted(when: When, is_terminal: bool, is_quiet: bool, variables: Mapping[str, str]) -> str:
    """Where progress is shown: "live" on a terminal, in a "log", or "" for nowhere.

    With ``auto`` a terminal of a CI service is a log, and ``-q -q`` asks for silence; ``on`` shows it all the same.
    One that is dumb, or that nobody knows, cannot erase a line, whatever is asked, nor can the cell of a notebook, in
    which what ``!pytest`` writes to a terminal is shown.
    """
    if when == "off" or (when == "auto" and is_quiet):
        return ""
    is_able = is_terminal and variables.get("TERM", "dumb") not in _DUMB and _KERNEL not in variables
    is_service = variables.get("CI", "").lower() not in ("", "0", "false")
    return "live" if is_able and (when == "on" or not is_service) else "log"


def line(doing: str, wait: Wait, now: float, width: int | None = None) -> str:
    """'bionemo/benchmark::matmul[gpu0]  gemm on gpu0, gpu1, 12 s of 300 s', in so many columns.

    Where there is no room for all of it, the id goes first, and the times stay.
    """
    what = plain(wait.what) + _on(wait)
    times = f", {now - wait.since:.0f} s of {wait.limit_s:g} s"
    doing = plain(doing)
    if width is None:
        return f"{doing}  {what}{times}" if doing else what + times
    room = width - columns(what) - len(times) - 2
    if doing and room >= min(_SHORTEST_ID, columns(doing)):
        return f"{cut(doing, room)}  {what}{times}"
    return cut(cut(what, width - len(times)) + times, width)


def _on(wait: Wait) -> str:
    """' on gpu0, gpu1, gpu2 and 5 more', ' on gpu3 (7 of 8 done)'."""
    if not wait.places:
        return ""
    more = len(wait.places) - _NAMED_AT_MOST
    named = ", ".join(map(plain, wait.places[:_NAMED_AT_MOST])) + (f" and {more} more" if more > 0 else "")
    done = wait.started - len(wait.places)
    return f" on {named}" + (f" ({done} of {wait.started} done)" if done > 0 else "")


class Live:
    """A line on a terminal. ``writer`` is pytest's, which knows how much of its last line is written."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        file = writer._file
        self._screen = Screen(file.fileno(), getattr(file, "encoding", None) or "utf-8", writer.hasmarkup)

    def show(self, doing: str, wait: Wait) -> None:
        """Write it below what pytest has written."""
        width = self._screen.width()
        written = self._writer.width_of_current_line
        # A row that is full to the last column: the cursor would be set back onto its last letter.
        if written == 0 or written % (width + 1):
            self._screen.show(line(doing, wait, time.monotonic(), width))

    def clear(self) -> None:
        """Erase it."""
        self._screen.clear()

    def close(self) -> None:
        """Erase it for good."""
        self._screen.close()


class Log:
    """Lines for a log: on the standard error stream, so that what pytest writes stays as it is.

    Where both streams are one file, pytest's unfinished line is written once more after ours: all its lines are
    there as a whole.
    """

    def __init__(
        self, writer: Any, descriptor: int, is_shared: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._writer = writer
        self._clock = clock
        self._file: int | None = os.dup(descriptor)
        self._is_shared = is_shared
        self._what = ("", 0.0)
        self._due_s = _FIRST_LINE_S

    @classmethod
    def of(cls, writer: Any) -> Log | None:
        """The log of this process; None if it has no standard error stream."""
        error = _descriptor(sys.stderr)
        if error is None:
            return None
        out = _descriptor(writer._file)
        return cls(writer, error, out is not None and os.path.sameopenfile(out, error))

    def show(self, doing: str, wait: Wait) -> None:
        """Write a line if one is due."""
        now = self._clock()
        # All devices work at the same: it is one wait.
        if (wait.what, wait.since) != self._what:
            self._what, self._due_s = (wait.what, wait.since), _FIRST_LINE_S
        if now - wait.since < self._due_s:
            return
        while self._due_s <= now - wait.since:
            self._due_s *= 2
        self._write(line(doing, wait, now))

    def clear(self) -> None:
        """What stands in a log stays there."""

    def close(self) -> None:
        """Let go of it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, text: str) -> None:
        begun = self._writer._current_line if self._is_shared else ""
        lines = f"\n{text}\n{begun}" if begun else f"{text}\n"
        if self._file is not None and takes(self._file):
            try:
                os.write(self._file, lines.encode(errors="replace"))
            except OSError:  # nobody reads it any more
                self.close()


def _descriptor(stream: Any) -> int | None:
    try:
        return int(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return None
