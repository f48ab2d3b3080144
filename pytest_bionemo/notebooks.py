"""validate(): the run of ``python -m pytest_bionemo validate`` from a notebook or a script, as a child process.

What this process has imported, holds on a GPU or runs in an event loop has no part in it.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from pytest_bionemo import beginning, reports
from pytest_bionemo.isolated import pytest_arguments
from pytest_bionemo.probes.child import describe_death
from pytest_bionemo.report.clean import clean
from pytest_bionemo.report.place import Place, PlaceError
from pytest_bionemo.reports import Report
from pytest_bionemo.verdict import ReportError, fold

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
# Of runs that were none, such as --collect-only in PYTEST_ADDOPTS.
_NO_RUN = (0, _USAGE_ERROR)
# Of runs that came to their end: passed, failed, nothing collected.
_COMPLETE_RUNS = (0, 1, 5)
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
    INCONCLUSIVE, also where it was READY before something broke. What is returned is what this very run has found,
    even if another one has written its report into the same file meanwhile. Memory that this process holds on a GPU
    is found and named like that of any other.

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
    :raises ReportError: if the run ended by itself without a report, with what it said last; or if it cannot be
        started, or its report cannot be written.
    """
    if deadline is not None and not deadline > 0:
        raise ValueError(f"deadline: {deadline!r} is not a number of seconds above 0, such as 600.")
    asked = _Asked(level, device, require, (targets,) if isinstance(targets, str) else tuple(targets))
    options = [*_options(asked, timeout, expect_gpus)]
    kept = _Kept(report, asked)
    try:
        folder = tempfile.TemporaryDirectory(prefix="pytest-bionemo-")
    except OSError as error:
        raise ReportError(f"the validation could not be started: {error}") from None
    with folder as name:
        own = Path(name) / "report.json"
        with kept.meanwhile():
            run = _Run([*options, f"--bionemo-report={own}"], own, kept.shown, quiet=quiet)
            try:
                run.follow(deadline)
            finally:  # also if it is interrupted
                found = run.found(own)
                if found is not None:
                    kept.write(found)
            if found is None and not run.was_ended:
                raise run.failure()
    return Report.of(kept.document, kept.path)


class _Asked(NamedTuple):
    level: str
    device: str
    require: str
    targets: tuple[str, ...]


class _Kept:
    """The report of this run, and the file in which it is kept, if it is.

    The run itself writes into a file that nobody else knows. Until it has, this one says that it has not finished.
    """

    def __init__(self, report: str | os.PathLike[str] | None, asked: _Asked) -> None:
        begun = beginning.unfinished(asked, beginning.now())
        self.document: Mapping[str, Any] = clean(beginning.with_verdict(begun, fold(begun)))
        self._place = None
        try:
            folder = Path.cwd()
        except FileNotFoundError:
            raise ReportError(
                "the validation could not be started: the current folder is not there any more. "
                "Change to another one, with os.chdir()."
            ) from None
        if report is not None:
            try:
                self._place = Place(os.fspath(report), folder)
            except PlaceError as error:
                raise ValueError(_as_arguments(str(error))) from None
        self.path = self._place.path if self._place else None
        self.shown = self._place.shown_from(folder) if self._place else ""

    @contextmanager
    def meanwhile(self) -> Iterator[None]:
        """Let the file say that the run has not finished; and what it said before, if there was none."""
        try:
            if self._place:
                self._place.begin(dict(self.document))
        except PlaceError as error:
            raise ValueError(_as_arguments(str(error))) from None
        try:
            yield
        except _NoRun as error:
            if self._place:
                self._place.restore()
            raise error.said from None

    def write(self, document: Mapping[str, Any]) -> None:
        """Put what the run has found in the place of that."""
        self.document = document
        try:
            if self._place:
                self._place.write(dict(document))
        except OSError as error:
            verdict = document["bionemo"]["verdict"]
            raise ReportError(f"{verdict}, but the report could not be written to {self.path}: {error}") from None


class _NoRun(Exception):
    """Nothing was validated: what the arguments or the surroundings say is wrong."""

    def __init__(self, said: ValueError) -> None:
        super().__init__(said)
        self.said = said


def _options(asked: _Asked, timeout: float | None, expect_gpus: int | None) -> Iterator[str]:
    yield from (f"--bionemo-{name}={getattr(asked, name)}" for name in ("level", "device", "require"))
    yield from (f"--bionemo-target={target}" for target in asked.targets)
    if timeout is not None:
        yield f"--bionemo-timeout={timeout}"
    if expect_gpus is not None:
        yield f"--bionemo-expect-gpus={expect_gpus}"


class _Run:
    """The child process: its output is passed on, its last lines are kept.

    :param own: the file in which it writes its report; its lines call it ``shown``, or leave it out.
    """

    def __init__(self, options: Sequence[str], own: Path, shown: str, quiet: bool) -> None:
        self._own = str(own)
        self._shown = shown
        self._quiet = quiet
        self._lines: list[str] = []
        self._status = 0
        self.was_ended = False
        path = [str(Path(entry).absolute()) for entry in sys.path if entry and not _is_own_folder(entry)]
        start = [sys.executable, "-c", _START, str(os.getpid()), str(len(path)), *path]
        try:
            self._process = subprocess.Popen(
                [*start, *pytest_arguments(options)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONIOENCODING": "utf-8:backslashreplace"},
            )
        except OSError as error:  # no process, no memory, no interpreter
            raise _NoRun(ReportError(f"the validation could not be started: {error}")) from error

    def follow(self, deadline: float | None) -> None:
        """Pass on what it says until it ends, is interrupted or has taken too long."""
        try:
            if not self._read(deadline):
                self.was_ended = True
                self._say(f"pytest-bionemo: the run is ended: it has not come to its end within {deadline:g} s")
                self._interrupt()
        except BaseException:
            self._interrupt()
            raise
        finally:  # also at a second interrupt
            self._status = self._kill()
        if self._status < 0:
            self.was_ended = True
            self._say(f"pytest-bionemo: the run did not come to its end: {describe_death(self._status, b'')}")

    def found(self, own: Path) -> Mapping[str, Any] | None:
        """The report that it has written, None if it has not; what broke after its last word counts, too."""
        if not own.exists():
            return None
        document: Mapping[str, Any] = reports.read(own)
        if document["exitcode"] is not None and self._status not in _COMPLETE_RUNS:
            document = {**document, "exitcode": self._status}
            document = beginning.with_verdict(document, fold(document))
        return document

    def _read(self, seconds: float | None) -> bool:
        """Pass on its output; whether it came to its end in time."""
        end = None if seconds is None else time.monotonic() + seconds
        assert self._process.stdout
        output = self._process.stdout.fileno()
        received = b""
        is_over = False
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while not is_over and (end is None or time.monotonic() < end):
                if selector.select(_GLANCE_S):
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
        if self._own in line and not self._shown:
            return
        line = line.replace(self._own, self._shown)
        self._lines = [*self._lines[1 - _LAST_LINES :], line]
        if not self._quiet:
            encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
            print(line.encode(encoding, "replace").decode(encoding), flush=True)

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

    def failure(self) -> Exception:
        """The error of a run that left no report."""
        lines = [_COLOUR.sub("", line).rstrip() for line in self._lines]
        if self._status == _USAGE_ERROR:
            said = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
            if said and not said[-1].startswith("usage:"):
                return _NoRun(ValueError(_as_arguments(said[-1])))
        ended = describe_death(self._status, b"") if self._status else "exit status 0"
        told = "\n".join(filter(None, lines)) or "It said nothing."
        error = ReportError(f"the validation left no report ({ended}). What it said last:\n{told}")
        return _NoRun(error) if self._status in _NO_RUN else error


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
