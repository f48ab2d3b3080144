"""A terminal to run programs on: a real one of the kernel, and behind it what people would see."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pyte

from conftest import Rig

# What differs between two runs of the same.
_TIME = re.compile(r"\d+(\.\d+)? ?s\b")
PROGRESS = re.compile(r"\d+ s of \d+ s")


@dataclass
class Seen:
    """What a run has left on its terminal, and the progress that was there meanwhile."""

    returncode: int
    screen: Any
    raw: bytes
    progress: list[str] = field(default_factory=list)
    """Each line of progress, as it was seen, once."""

    @property
    def lines(self) -> list[str]:
        """All lines, those that have left the screen at its top first."""
        columns = self.screen.columns
        rows = [*self.screen.history.top, *(self.screen.buffer[row] for row in range(self.screen.lines))]
        found = ["".join(row[column].data for column in range(columns)).rstrip() for row in rows]
        while found and not found[-1]:
            found.pop()
        return found

    @property
    def text(self) -> list[str]:
        """The same without what differs from run to run."""
        return without_times(self.lines)


class Terminal:
    """One of so many columns and rows, that controls what is started on it."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        self._raw = b""
        self._progress: list[str] = []
        self.own, self._slave = pty.openpty()
        self.resize(columns, rows)
        self._child: subprocess.Popen[bytes] | None = None

    def resize(self, columns: int, rows: int = 24) -> None:
        """Have another size from now on."""
        fcntl.ioctl(self.own, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)

    def start(
        self, rig: Rig, *arguments: str, is_controlling: bool = True, is_foreground: bool = True
    ) -> subprocess.Popen[bytes]:
        """Start pytest --bionemo-validate on this terminal, which sends it signals if it controls it."""

        def take_over() -> None:
            os.setsid()
            if is_controlling:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            if not is_foreground:
                _give_the_foreground_away()
            signal.signal(signal.SIGINT, signal.default_int_handler)

        environ = {
            "PATH": f"{rig.environment.python.parent}{os.pathsep}{os.defpath}",
            "HOME": str(rig.environment.folder / "home"),
            "TMPDIR": str(rig.environment.folder / "tmp"),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            **rig.environ(),
        }
        environ.pop("COLUMNS")  # of a terminal it is asked itself
        environ |= rig.variables
        start = "import sys, pytest; sys.path.remove(''); sys.exit(pytest.main())"
        self._child = subprocess.Popen(
            [str(rig.environment.python), "-c", start, "-p", "no:cacheprovider", "--bionemo-validate", *arguments],
            cwd=rig.project,
            env=environ,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            preexec_fn=take_over,
        )
        os.close(self._slave)
        return self._child

    def until(self, word: str, seconds: float = 30) -> None:
        """Read on until this stands somewhere on the screen."""
        self._read(lambda: any(word in line for line in self.screen.display), seconds)
        if not any(word in line for line in self.screen.display):
            self._fail(f"it has ended without {word!r}")

    def finish(self, seconds: float = 120) -> Seen:
        """Read on until the run has ended."""
        assert self._child
        self._read(lambda: False, seconds)
        status = self._child.wait(10)
        os.close(self.own)
        return Seen(status, self.screen, self._raw, self._progress)

    def hang_up(self) -> None:
        """Be gone."""
        os.close(self.own)

    def _read(self, is_enough: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not is_enough():
            left = end - time.monotonic()
            if left <= 0:
                self._fail(f"it has not ended within {seconds:g} s")
            if not select.select([self.own], [], [], left)[0]:
                continue
            chunk = b""
            with suppress(OSError):  # EIO: nobody has it open any more
                chunk = os.read(self.own, 1 << 16)
            if not chunk:
                return
            self._raw += chunk
            self._stream.feed(chunk)
            self._note()

    def _fail(self, why: str) -> NoReturn:
        assert self._child
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        raise AssertionError("\n".join([why, *self.screen.display]))

    def _note(self) -> None:
        for line in self.screen.display:
            if PROGRESS.search(line) and line.rstrip() not in self._progress:
                self._progress.append(line.rstrip())


def _give_the_foreground_away() -> None:
    """Let another process have the terminal's foreground, until this one ends and the terminal hangs it up."""
    other = os.fork()
    if other == 0:
        os.setpgid(0, 0)
        os.closerange(0, 256)
        time.sleep(60)
        os._exit(0)
    os.setpgid(other, other)
    os.tcsetpgrp(0, other)


def watch(rig: Rig, *arguments: str, columns: int = 80, rows: int = 24) -> Seen:
    """Run pytest --bionemo-validate on a terminal of this size."""
    terminal = Terminal(columns, rows)
    terminal.start(rig, *arguments)
    return terminal.finish()


def without_times(lines: Sequence[str]) -> list[str]:
    """The lines without what differs from run to run."""
    return [_TIME.sub("T", line).strip("= ") for line in lines]
