"""validate(): the run of ``python -m pytest_bionemo validate`` from a notebook or a script, as a child process.

What this process has imported, holds on a GPU or runs in an event loop has no part in it.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pytest_bionemo.isolated import pytest_arguments
from pytest_bionemo.probes.child import describe_death
from pytest_bionemo.report.place import Place, PlaceError
from pytest_bionemo.reports import Report
from pytest_bionemo.verdict import ReportError

# Nothing is imported before sys.path is set: -c puts the current folder on it. The packages are those that this
# process sees, which a notebook may have put there itself. The kernel ends the run when the thread that started it
# ends (PR_SET_PDEATHSIG), which is not left to probes.child: of us, pytest has to be the first to import anything.
_START = """
import sys
parent, number, *rest = sys.argv[1:]
sys.path[:] = rest[: int(number)]
import ctypes, os
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(parent):
    os._exit(1)
import pytest
sys.exit(pytest.main(rest[int(number) :]))
"""
_USAGE_ERROR = 4
_LAST_LINES = 20
# What a child has started can hold its output open: so the child itself is looked at, too.
_GLANCE_S = 0.5
# In which a run that is interrupted comes to its end.
_GRACE_S = 10.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_OPTION = re.compile(r"--bionemo-([a-z-]+)")


def validate(
    level: str = "standard",
    device: str = "cuda",
    targets: str | Iterable[str] = (),
    report: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    expect_gpus: int | None = None,
    require: str = "install",
    *,
    quiet: bool = False,
    deadline: float | None = None,
) -> Report:
    """Ask whether this machine is ready for BioNeMo, and return the report; what the run prints appears as it comes.

    ::

        report = pytest_bionemo.validate(level="quick")
        report.raise_if_not_ready()

    An interrupt ends the run with all that it has started. A run that dies or is ended leaves a report that is
    INCONCLUSIVE. Memory that this process holds on a GPU is found and named like that of any other.

    :param level: "quick" (no GPU kernel), "standard" or "full".
    :param device: "cuda", or "cpu" for a rehearsal, which is INCONCLUSIVE at best.
    :param targets: BioNeMo workloads that must be runnable here, such as "esm2-650m".
    :param report: the file, or an existing folder for ``HOSTNAME.json``, in which the report is kept, such as
        "/Volumes/main/default/reports" on Databricks. Without one it is in the returned object alone.
    :param timeout: deadline of each probe and of each workload in seconds; 120 unless given.
    :param expect_gpus: how many GPUs this machine must have.
    :param require: "ready" lets the saved report have the exit status 1 where the verdict is READY_FOR_INSTALL.
    :param quiet: print nothing.
    :param deadline: of the run as a whole in seconds; unless given, it takes as long as its parts, each of which has
        a deadline.
    :raises ValueError: one line, for an argument that is none.
    :raises ReportError: if the run ended without a report; with what it said last.
    """
    if deadline is not None and not deadline > 0:
        raise ValueError(f"deadline: {deadline!r} is not a number of seconds above 0, such as 600.")
    options = _options(level, device, targets, timeout, expect_gpus, require)
    with _place(report) as path:
        before = path.read_bytes() if path.exists() else None
        run = _Run([*options, f"--bionemo-report={path}"], hidden=str(path) if report is None else "", quiet=quiet)
        status = run.follow(deadline)
        # What lay there before is no answer.
        if not path.exists() or path.read_bytes() == before:
            raise run.failure(status)
        found = Report.load(path)
        return found if report is not None else Report.of(found.document)


def _options(
    level: str,
    device: str,
    targets: str | Iterable[str],
    timeout: float | None,
    expect_gpus: int | None,
    require: str,
) -> Iterator[str]:
    yield from (f"--bionemo-level={level}", f"--bionemo-device={device}", f"--bionemo-require={require}")
    for target in [targets] if isinstance(targets, str) else targets:
        yield f"--bionemo-target={target}"
    if timeout is not None:
        yield f"--bionemo-timeout={timeout}"
    if expect_gpus is not None:
        yield f"--bionemo-expect-gpus={expect_gpus}"


@contextmanager
def _place(report: str | os.PathLike[str] | None) -> Iterator[Path]:
    """Where the run writes its report: as asked, or for as long as it takes to read it."""
    if report is None:
        with tempfile.TemporaryDirectory(prefix="pytest-bionemo-") as folder:
            yield Path(folder) / "report.json"
        return
    try:
        place = Place(os.fspath(report), Path.cwd())
    except PlaceError as error:
        raise ValueError(_as_arguments(str(error))) from None
    yield place.path


class _Run:
    """The child process: its output is passed on, its last lines are kept."""

    def __init__(self, options: Sequence[str], hidden: str, quiet: bool) -> None:
        self._hidden = hidden
        self._quiet = quiet
        self._lines: list[str] = []
        path = [str(Path(entry).absolute()) for entry in sys.path if entry and not _is_own_folder(entry)]
        start = [sys.executable, "-c", _START, str(os.getpid()), str(len(path)), *path]
        try:
            self._process = subprocess.Popen(
                [*start, *pytest_arguments(options)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:  # no process, no memory, no interpreter
            raise ReportError(f"the validation could not be started: {error}") from error

    def follow(self, deadline: float | None) -> int:
        """Pass on what it says until it ends, is interrupted or has taken too long; returns its exit status."""
        try:
            if not self._read(deadline):
                self._say(f"pytest-bionemo: the run is ended: it has not come to its end within {deadline:g} s")
                self._interrupt()
        except BaseException:
            self._interrupt()
            raise
        finally:  # also at a second interrupt
            status = self._kill()
        if status < 0:
            self._say(f"pytest-bionemo: the run did not come to its end: {describe_death(status, b'')}")
        return status

    def _read(self, seconds: float | None) -> bool:
        """Pass on its output; whether it came to its end in time."""
        end = None if seconds is None else time.monotonic() + seconds
        assert self._process.stdout
        output = self._process.stdout.fileno()
        received = b""
        is_over = False
        while not is_over and (end is None or time.monotonic() < end):
            if select.select([output], [], [], _GLANCE_S)[0]:
                chunk = os.read(output, 1 << 16)
                *lines, received = (received + chunk).split(b"\n")
                for line in lines:
                    self._say(line.decode(errors="replace"))
                is_over = not chunk
            else:
                is_over = self._process.poll() is not None
        if received:
            self._say(received.decode(errors="replace"))
        if is_over:
            self._wait()
        return is_over

    def _say(self, line: str) -> None:
        if self._hidden and self._hidden in line:
            return  # where the report lies for a moment
        self._lines = [*self._lines[1 - _LAST_LINES :], line]
        if not self._quiet:
            print(line, flush=True)

    def _interrupt(self) -> None:
        """Let it end what it has started, and say in its report that it was broken off."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._read(_GRACE_S)

    def _kill(self) -> int:
        """End it, if it still runs, with what it has started in its own session; its exit status."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        assert self._process.stdout
        self._process.stdout.close()
        self._wait()
        return -signal.SIGKILL if self._process.returncode is None else self._process.returncode

    def _wait(self) -> None:
        # A process stuck inside a dead driver cannot be reaped: give up on it rather than hang with it.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)

    def failure(self, status: int) -> ValueError:
        """The error of a run that left no report."""
        lines = [_COLOUR.sub("", line).rstrip() for line in self._lines]
        if status == _USAGE_ERROR:
            said = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
            if said and not said[-1].startswith("usage:"):
                return ValueError(_as_arguments(said[-1]))
        ended = describe_death(status, b"") if status else "exit status 0"
        told = "\n".join(filter(None, lines)) or "It said nothing."
        return ReportError(f"the validation left no report ({ended}). What it said last:\n{told}")


def _is_own_folder(entry: str) -> bool:
    """Whether it is the current folder or that of the program, whose files must not stand in for modules.

    Not if PYTHONPATH names it: then it is there on purpose.
    """
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    own = [Path.cwd(), *([Path(main).absolute().parent] if main else [])]
    named = [Path(name).absolute() for name in os.environ.get("PYTHONPATH", "").split(os.pathsep) if name]
    return Path(entry).absolute() in own and Path(entry).absolute() not in named


def _as_arguments(line: str) -> str:
    """What the command line calls an option, by the name of the argument."""
    return _OPTION.sub(lambda found: found[1].replace("-", "_"), line)
