"""A terminal that goes away in the middle of a run: the run goes on to its end, and writes its report.

Every part of it has a deadline, so that it ends without anybody to look on. What would be written to the terminal
goes nowhere from then on.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

_DESCRIPTORS = Path("/dev/fd")
# Some terminals tell the shell before they close, and the shell its jobs.
_IS_CLOSING_MS = 1000


class Hangup:
    """Minds the terminal that pytest writes to, until it is closed.

    ``writer`` is pytest's; its file is exchanged for one that finds out when the terminal is gone.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._terminal = writer._file
        self._descriptor = os.dup(self._terminal.fileno())
        self._device = os.fstat(self._descriptor).st_rdev
        self._has_let_go = False
        self._file = _File(self._terminal, self)
        writer._file = self._file
        self._is_installed = _is_ours_to_decide()
        if self._is_installed:
            signal.signal(signal.SIGHUP, self._hear)

    @classmethod
    def of(cls, writer: Any) -> Hangup | None:
        """One for the terminal that pytest writes to, None where that is no terminal."""
        try:
            is_terminal = os.isatty(writer._file.fileno())
        except (AttributeError, OSError, ValueError):
            return None
        return cls(writer) if is_terminal else None

    def close(self) -> None:
        """Mind it no more."""
        if self._is_installed and signal.getsignal(signal.SIGHUP) == self._hear:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
        if self._writer._file is self._file:
            self._writer._file = self._terminal
        os.close(self._descriptor)

    def is_gone(self, within_ms: int = 0) -> bool:
        """Whether the terminal is, which it then stays: our own descriptor of it leads to nowhere, too."""
        if self._has_let_go:
            return True
        poll = select.poll()
        poll.register(self._descriptor, 0)
        return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(within_ms))

    def let_go(self) -> None:
        """Lead every descriptor of the terminal to nowhere: those that capturing has laid aside, too."""
        self._has_let_go = True
        nowhere = os.open(os.devnull, os.O_RDWR)
        for entry in [*_DESCRIPTORS.iterdir()]:
            number = int(entry.name)
            with suppress(OSError):  # that of the folder itself
                seen = os.fstat(number)
                if stat.S_ISCHR(seen.st_mode) and seen.st_rdev == self._device:
                    os.dup2(nowhere, number, inheritable=os.get_inheritable(number))
        os.close(nowhere)

    def _hear(self, number: int, frame: object) -> None:
        # Heard more than once: a shell passes it on to its jobs, and as the shell ends the kernel does.
        if self.is_gone(_IS_CLOSING_MS):
            self.let_go()
        else:  # somebody has sent it by hand, to end the run
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def leave_to_the_controller() -> None:
    """Have a process of pytest-xdist live on: if its controller ends, or tells it to, it ends all the same.

    A shell passes a hangup on to all the processes of a job. It is caught and not ignored: what is started here would
    be born ignoring it.
    """
    if _is_ours_to_decide():
        signal.signal(signal.SIGHUP, lambda number, frame: None)


def _is_ours_to_decide() -> bool:
    """Not where somebody else has decided what a hangup does: nohup ignores it."""
    is_free = signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    return is_free and threading.current_thread() is threading.main_thread()


class _File:
    """The file that pytest writes to. A job in the background is sent no signal: only its writes fail."""

    def __init__(self, file: Any, hangup: Hangup) -> None:
        self._file = file
        self._hangup = hangup

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        """Write it, or lose it with the terminal."""
        try:
            written: int = self._file.write(text)
        except OSError as error:
            self._mind(error)
            return len(text)
        return written

    def flush(self) -> None:
        """Write what waits to be written."""
        try:
            self._file.flush()
        except OSError as error:
            self._mind(error)
            self._file.flush()

    def _mind(self, error: OSError) -> None:
        if error.errno != errno.EIO or not self._hangup.is_gone():
            raise error
        self._hangup.let_go()
