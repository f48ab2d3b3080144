"""A probe in a child process: started at once, asked for its answer later, killed at its deadline.

The child gets this process's ``sys.path``, so that it finds the same packages, reads its arguments as JSON from its
standard input, and hands its answer back as JSON on a descriptor of its own: whatever a driver library prints goes to
stderr and cannot spoil it. What it starts itself ends with it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import IO, Any

from pytest_bionemo.waiting import Wait, waiting

# Nothing is imported before sys.path is set: -c puts the current folder on it, where a json.py may lie.
_START = (
    "import sys; parent, target, *sys.path[:] = sys.argv[1:]; "
    "from pytest_bionemo.probes.child import serve; serve(target, int(parent))"
)
_PR_SET_PDEATHSIG = 1
_MARK = "pytest-bionemo is "
# An answer that came in time is read however late it is asked for.
_READING_S = 1.0
# What a child has started can hold its pipes open: so the child itself is looked at, too.
_GLANCE_S = 0.5
# The same while it has not been told all of its arguments: a pipe full of them at every look.
_TELLING_S = 0.02


@dataclass(frozen=True)
class Answer:
    """What the child said: ``value``, or ``failure``, a phrase that says how it ended instead.

    ``before`` is what a function yielded before that: it is kept however the child ended.
    """

    value: dict[str, Any] | None
    failure: str | None = None
    before: tuple[dict[str, Any], ...] = ()


class Child:
    """One probe function (``"package.module:function"``) running in a process of its own.

    The function takes the ``arguments``, which JSON can hold, and returns a JSON object; it may yield others before.
    ``deadline`` is in seconds from the start; ``environment`` are its variables, those of this process unless given.
    ``doing`` says what it does, for those who wait for it: "importing bionemo-scdl".
    """

    def __init__(
        self,
        target: str,
        deadline: float,
        environment: Mapping[str, str] | None = None,
        arguments: Mapping[str, Any] | None = None,
        doing: str = "",
    ) -> None:
        self._deadline = deadline
        self._doing = doing or f"the probe {target.partition(':')[0].rpartition('.')[2]}"
        self._started = time.monotonic()
        self._answer: Answer | None = None
        self._untold = json.dumps(dict(arguments or {})).encode() + b"\n"
        start = ["-X", "faulthandler", "-c", _START, str(os.getpid()), target]
        try:
            self._process = subprocess.Popen(
                [sys.executable, *start, *map(str, sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:  # no process, no memory or no file descriptor left
            self._answer = Answer(None, f"its process could not be started: {error}")
        else:
            self._telling = self._take_stdin()
            self._tell()

    def answer(self) -> Answer:
        """Wait until the child answers or its deadline passes. Never raises."""
        if self._answer is None:
            self._answer = self._wait()
        return self._answer

    def is_done(self, within: float) -> bool:
        """Whether it ends in so many seconds; its deadline is not changed."""
        if self._answer is None:
            self._tell()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(within)
            return self._process.returncode is not None
        return True

    def close(self) -> None:
        """End the child if it still runs, and let go of its pipes."""
        if self._answer is None:
            self._kill()
            self._answer = Answer(None, "it was stopped before it answered")

    def _take_stdin(self) -> IO[bytes]:
        """Its standard input, which ``communicate`` would write to only until its first timeout."""
        pipe, self._process.stdin = self._process.stdin, None
        assert pipe
        os.set_blocking(pipe.fileno(), False)
        # Long arguments, such as the names of thousands of nodes, shall not wait until somebody asks for the answer.
        with suppress(OSError):  # as large as this user may have it: the rest is told later
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, len(self._untold))
        return pipe

    def _tell(self) -> None:
        """Hand over as much of the arguments as there is room for."""
        if not self._telling.closed:
            self._untold = write_what_fits(self._telling.fileno(), self._untold)
            if not self._untold:
                self._telling.close()

    def _wait(self) -> Answer:
        end = time.monotonic() + max(_READING_S, self._deadline - (time.monotonic() - self._started))
        out = err = b""
        with waiting(lambda: Wait(self._doing, self._started, self._deadline)) as look:
            while (left := end - time.monotonic()) > 0:
                self._tell()
                glance = _TELLING_S if self._untold else _GLANCE_S
                try:
                    out, err = self._process.communicate(timeout=min(left, glance))
                    break
                except subprocess.TimeoutExpired as late:
                    out, err = late.stdout or b"", late.stderr or b""
                    if self._process.poll() is not None:
                        out, err = self._rest()
                        break
                    look()
        status = self._process.poll()
        # Whatever it leaves behind, it ends here.
        err = self._kill() or err
        before, value = _parse(out)
        if status is None:
            return Answer(None, f"no answer within {self._deadline:g} s{_doing(err)}", before)
        if status != 0:
            return Answer(None, describe_death(status, err), before)
        if value is None:
            return Answer(None, f"its answer is not JSON: {out[:80]!r}", before)
        return Answer(value, None, before)

    def _rest(self) -> tuple[bytes, bytes]:
        """All that it said, once it has ended: it can have answered since it was looked at."""
        try:
            return self._process.communicate(timeout=_READING_S)
        except subprocess.TimeoutExpired as late:  # something that it has started holds its pipes open
            return late.stdout or b"", late.stderr or b""

    def _kill(self) -> bytes:
        """End the child; what it had written to stderr by then."""
        err = b""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        # A process stuck inside a dead driver cannot be reaped: give up on it rather than hang with it.
        with suppress(subprocess.TimeoutExpired):
            _, err = self._process.communicate(timeout=2)
        for pipe in (self._telling, self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()
        return err


def write_what_fits(pipe: int, text: bytes) -> bytes:
    """Write as much as a pipe that does not block has room for; the rest, nothing for a reader that is gone."""
    try:
        return text[os.write(pipe, text) :]
    except BlockingIOError:
        return text
    except BrokenPipeError:
        return b""


def note(doing: str) -> None:
    """Called in the child: what it is about to do ("asking GPU 3"), in case that it never ends."""
    # Not print: whatever buffer it goes through is lost when the process is killed.
    os.write(2, f"{_MARK}{doing}\n".encode())


def _parse(out: bytes) -> tuple[tuple[dict[str, Any], ...], dict[str, Any] | None]:
    """What the child said before its answer, and the answer; None where it did not come to it.

    Other lines are those of a sitecustomize: Python runs it before the channel is taken from what prints.
    """
    before: list[dict[str, Any]] = []
    for line in out.splitlines():
        said = _load(line)
        if "answer" in said:
            return tuple(before), said["answer"]
        if "before" in said:
            before.append(said["before"])
    return tuple(before), None


def _load(line: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        said = json.loads(line)
        if isinstance(said, dict):
            return said
    return {}


def _doing(stderr: bytes) -> str:
    """', while asking GPU 3', from the last note; nothing where there is none."""
    notes = [line.removeprefix(_MARK) for line in _lines(stderr) if line.startswith(_MARK)]
    return f", while {notes[-1]}" if notes else ""


def _lines(stderr: bytes) -> list[str]:
    return [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]


def describe_death(returncode: int, stderr: bytes) -> str:
    """'killed by SIGSEGV ...' or 'exit status 1: <last line of stderr>'."""
    lines = [line for line in _lines(stderr) if not line.startswith(_MARK)]
    if returncode < 0:
        where = next((line for line in lines if line.startswith("File ")), "")
        return f"killed by {_signal_name(-returncode)}" + (f" in {where}" if where else "") + _doing(stderr)
    return f"exit status {returncode}" + (f": {lines[-1]}" if lines else "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def serve(target: str, parent: int) -> None:
    """Run in the child: call the probe function, write its answer, and leave at once."""
    die_with(parent)
    channel = os.dup(1)
    os.dup2(2, 1)
    arguments = _read_arguments()
    module, _, function = target.partition(":")
    answer = getattr(import_module(module), function)(**arguments)
    with os.fdopen(channel, "w") as out:
        out.write("\n")  # whatever stands there already, this begins a line
        if isinstance(answer, Generator):
            answer = _write_before(answer, out)
        out.write(json.dumps({"answer": answer}) + "\n")
    # No interpreter shutdown: libraries such as torch take time for it, and may crash in it.
    os._exit(0)


def _read_arguments() -> dict[str, Any]:
    """What the parent tells; whatever reads the standard input later finds it empty."""
    with open(0, "rb", closefd=False) as told:
        arguments: dict[str, Any] = json.loads(told.readline())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return arguments


def _write_before(answers: Generator[Any, None, Any], out: IO[str]) -> Any:
    """Write each of them at once, whatever comes after; what the generator returns."""
    while True:
        try:
            said = next(answers)
        except StopIteration as end:
            return end.value
        out.write(json.dumps({"before": said}) + "\n")
        out.flush()


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that could be said
        os._exit(1)
