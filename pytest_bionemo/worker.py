"""The processes in which workloads run: one child for each device, alive for the run, killed at a deadline.

The pytest process imports no torch and opens no CUDA context. A workload that is asked for starts on all
devices at once; each check then collects the answer of its own device. A child that hangs, dies or breaks
its CUDA context is killed, the check says which device and which workload, and the next workload gets a
fresh child.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn

from pytest_bionemo.probes.child import describe_death, die_with, write_what_fits
from pytest_bionemo.probes.host import usable_cores
from pytest_bionemo.waiting import Wait, waiting
from pytest_bionemo.workloads import DEADLINE, KIND, LOCAL_RANK, LOCAL_SIZE, NAME, meeting

Numbers = Mapping[str, Any]

# The label is there to be read in a list of processes.
_START = (
    "import sys; parent, label, channel, *sys.path[:] = sys.argv[1:]; "
    "from pytest_bionemo.worker import serve; serve(int(parent), int(channel))"
)
# Waits for the end of the process that holds the other end of its input, however that ends.
_JANITOR = 'read -r _; rm -rf -- "$0"'
_GRACE_S = 2.0
# A child of the child can hold the pipe open: so its process is looked at, too.
_GLANCE_S = 0.5
_LAST_WORDS = 4000
# Of the 107 characters of a socket's path (unix(7)), our folder takes 24 and multiprocessing 32: a data loader whose
# sockets do not fit hangs.
_LONGEST_BASE = 50
# A device on which two workloads have hung is given no third: every one would cost a whole deadline.
_MOST_HANGS = 2
# Nothing is downloaded; and matrix products of one shape are the same every time (cuBLAS documentation, "Results
# reproducibility").
_VARIABLES = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# Where libraries put what they compile or download: below the worker's own folder, which goes when it goes.
_FOLDERS = ("TMPDIR", "XDG_CACHE_HOME", "CUDA_CACHE_PATH", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
_NO_MEMORY = re.compile(r"out of memory|STATUS_ALLOC_FAILED|DefaultCPUAllocator: ", re.IGNORECASE)
_LIBRARY_ERROR = re.compile(
    r"(CUBLAS|CUDNN|CUSOLVER|CUSPARSE)_STATUS_|CUFFT_|NVRTC_ERROR|(cuDNN|cuFFT|cusolver|nvrtc|NCCL) error",
    re.IGNORECASE,
)


class Trouble(str, Enum):
    """How a workload can end without an answer."""

    HANG = "hang"
    DEATH = "death"
    OUT_OF_MEMORY = "out of memory"
    CUDA_ERROR = "CUDA error"
    LIBRARY_ERROR = "CUDA library error"
    MISSED = "missed rank"
    ERROR = "error"
    NOT_STARTED = "not started"


class WorkloadFailed(Exception):
    """A workload that gave no answer: which, on which device, and how it ended.

    ``blames`` are the hosts that are at fault where it is another rank's (``Trouble.MISSED``).
    """

    def __init__(self, workload: str, device: str, trouble: Trouble, text: str, blames: Sequence[str] = ()) -> None:
        super().__init__(f"{workload} on {device}: {text}")
        self.workload = workload
        self.device = device
        self.trouble = trouble
        self.text = text
        self.blames = tuple(blames)


@dataclass(frozen=True)
class Device:
    """Where a worker runs: ``label`` as it is shown, and the variables that give it this device alone.

    ``name`` is what other nodes read of it ("gpu0"): the label unless given.
    """

    label: str
    variables: Mapping[str, str] = field(default_factory=dict)
    name: str = ""

    @classmethod
    def of_gpu(cls, uuid: str, name: str = "") -> Device:
        """One GPU or MIG slice, by its UUID: indices mean different GPUs to CUDA and to NVML."""
        return cls(uuid, {"CUDA_VISIBLE_DEVICES": uuid, KIND: "cuda"}, name)

    @classmethod
    def cpu(cls, label: str = "cpu") -> Device:
        """The processor, for a rehearsal: no GPU is visible."""
        return cls(label, {"CUDA_VISIBLE_DEVICES": "", KIND: "cpu"})


class Workers:
    """The workers of one run, one for each device; a child starts when a workload is first asked for.

    ``timeout`` is the deadline of one workload in seconds, the start of its child included. ``locks`` is a folder
    that other processes use too, each with its own Workers: then one workload at a time runs on a device, and
    only on the device that asks.
    """

    def __init__(self, devices: Sequence[Device], timeout: float, locks: Path | None = None) -> None:
        self._folder = _Folder()
        threads = max(1, usable_cores() // max(1, len(devices)))
        self._workers = {
            device.label: _Worker(device, timeout, self._folder, threads, _Hangs(locks, device.label), place)
            for device, place in zip(devices, _places(devices), strict=True)
        }
        self._answers: dict[str, dict[str, Numbers | WorkloadFailed]] = {}
        self._locks = locks

    @property
    def labels(self) -> tuple[str, ...]:
        """The devices."""
        return tuple(self._workers)

    def run(self, device: str, workload: str, /, **parameters: Any) -> Numbers:
        """The numbers of a workload on one device.

        The first request starts it on every device. Asked again with the same parameters, it is not run again.

        :param device: the label of the device.
        :param workload: ``"package.module:function"``; the function takes the parameters and returns numbers.
        :raises WorkloadFailed: if it gave no answer on this device.
        """
        request = json.dumps({"workload": workload, "parameters": parameters}, sort_keys=True)
        if self._locks:
            self._run_alone(device, request, workload, self._locks)
        elif request not in self._answers:
            self._start(request, workload)
        if device not in self._answers[request]:
            self._answers[request][device] = self._collect(device)
        answer = self._answers[request][device]
        if isinstance(answer, WorkloadFailed):
            raise answer
        return answer

    def rest(self) -> None:
        """End every child, once it is done; the next workload starts a fresh one. Some GPUs take one process."""
        self._collect_what_is_running()
        for worker in self._workers.values():
            worker.close()

    def close(self) -> None:
        """End every child."""
        for worker in self._workers.values():
            worker.close()
        self._folder.remove()

    def _run_alone(self, device: str, request: str, workload: str, locks: Path) -> None:
        answers = self._answers.setdefault(request, {})
        if device not in answers:
            with _locked(locks / device):
                self._workers[device].submit(request, workload, time.monotonic())
                self._hand_over([self._workers[device]])
                answers[device] = self._workers[device].collect()

    def _start(self, request: str, workload: str) -> None:
        self._collect_what_is_running()
        self._answers[request] = {}
        now = time.monotonic()
        for worker in self._workers.values():
            worker.submit(request, workload, now)
        self._hand_over(self._workers.values())

    def _hand_over(self, workers: Collection[_Worker]) -> None:
        """Wait until all have read their requests, or their time is over: those that have not are found to hang.

        A request that names the nodes of a large job is longer than a pipe, and a child that hangs does not read it.
        All are written to at once, since they wait for each other where they meet.
        """
        with waiting(lambda: self._wait(late[0])) as look:
            while late := [worker for worker in workers if worker.is_owed()]:
                _write_to(late)
                look()

    def _collect_what_is_running(self) -> None:
        for answers in self._answers.values():
            for label in self._workers:
                if label not in answers:
                    answers[label] = self._collect(label)

    def _collect(self, device: str) -> Numbers | WorkloadFailed:
        with waiting(lambda: self._wait(self._workers[device])) as look:
            return self._workers[device].collect(look)

    def _wait(self, worker: _Worker) -> Wait:
        """What is waited for while this one has not answered: others may not have, either."""
        places = tuple(one.name for one in self._workers.values() if one is worker or one.is_at_work())
        return Wait(_phrase(worker.workload), worker.since, worker.timeout, places, len(self._workers))


class _Folder:
    """A temporary folder that is made when it is needed, and goes with this process, however that ends."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._janitor: subprocess.Popen[bytes] | None = None

    def path(self) -> Path:
        if self._path is None:
            self._path = Path(tempfile.mkdtemp(prefix="pytest-bionemo-", dir=_short_base()))
            self._janitor = subprocess.Popen(
                ["/bin/sh", "-c", _JANITOR, str(self._path)], stdin=subprocess.PIPE, start_new_session=True
            )
        return self._path

    def remove(self) -> None:
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
            self._path = None
        if self._janitor is not None:
            self._janitor.communicate()
            self._janitor = None


def _short_base() -> str:
    """The folder for temporary files; /tmp where that is so long that no socket of multiprocessing fits below it."""
    base = tempfile.gettempdir()
    return "/tmp" if len(base) > _LONGEST_BASE and os.access("/tmp", os.W_OK) else base  # noqa: S108


class _Hangs:
    """The workloads that hung on a device; in a folder of locks, those of the other processes too."""

    def __init__(self, locks: Path | None, label: str) -> None:
        self._file = locks / f"{label}.hung" if locks else None
        self._names: list[str] = []

    def add(self, workload: str) -> None:
        self._names.append(workload)
        if self._file:
            with self._file.open("a") as file:
                file.write(f"{workload}\n")

    def names(self) -> list[str]:
        if self._file and self._file.exists():
            return self._file.read_text().splitlines()
        return self._names


def _phrase(workload: str) -> str:
    """A workload for people: "exact gemm", "collectives: say hello"."""
    module, _, function = workload.rpartition(".")[2].replace("_", " ").partition(":")
    return module if function == "run" else f"{module}: {function}"


def _places(devices: Sequence[Device]) -> list[dict[str, str]]:
    """What each worker is told of its place among those of this node."""
    return [
        {NAME: device.name or device.label, LOCAL_RANK: str(index), LOCAL_SIZE: str(len(devices))}
        for index, device in enumerate(devices)
    ]


def _write_to(workers: Collection[_Worker]) -> None:
    """Go on with the requests of those that read, as soon as one of them does."""
    by_pipe = {worker.pipe: worker for worker in workers}
    poll = select.poll()
    for pipe in by_pipe:
        poll.register(pipe, select.POLLOUT)
    for pipe, _ in poll.poll(min(_GLANCE_S, *(worker.left_s() for worker in workers)) * 1000):
        by_pipe[pipe].write_on()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # Whoever holds it has a deadline, and the lock goes with its process: this wait ends.
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Worker:
    """One device's child."""

    def __init__(
        self, device: Device, timeout: float, folder: _Folder, threads: int, hangs: _Hangs, place: Mapping[str, str]
    ) -> None:
        self.name = device.name or device.label
        self.timeout = timeout
        self.workload = ""
        self.since = 0.0
        self._device = device
        self._folder = folder
        # One that waits gives its core to the others: spinning is a third of the time of a busy machine.
        self._threads = {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        self._hangs = hangs
        self._place = place
        self._is_given_up = False
        self._is_awaited = False
        self._process: subprocess.Popen[bytes] | None = None
        self._unsent = b""
        self._answers: int = -1
        self._last_words: IO[bytes] | None = None
        self._deadline = 0.0

    def submit(self, request: str, workload: str, now: float) -> None:
        self.workload = workload
        self.since = now
        self._deadline = now + self.timeout
        self._is_given_up = len(self._hangs.names()) >= _MOST_HANGS
        self._is_awaited = not self._is_given_up
        if self._is_given_up:
            return
        if self._process is None:
            self._start()
        self._unsent = f"{self._deadline!r} {request}\n".encode()

    @property
    def pipe(self) -> int:
        """Where its requests are written to."""
        assert self._process
        assert self._process.stdin
        return self._process.stdin.fileno()

    def is_owed(self) -> bool:
        """Whether a part of its request is not written yet, and may be. One that is gone is found later."""
        return bool(self._unsent) and self.left_s() > 0 and self._process is not None and self._process.poll() is None

    def left_s(self) -> float:
        """Seconds until its deadline."""
        return max(0.0, self._deadline - time.monotonic())

    def write_on(self) -> None:
        """Write as much of its request as its pipe has room for."""
        self._unsent = write_what_fits(self.pipe, self._unsent)

    def collect(self, look: Callable[[], None] = lambda: None) -> Numbers | WorkloadFailed:
        """Its answer. While that is waited for, ``look`` is called again and again."""
        if self._is_given_up:
            hung = " and ".join(dict.fromkeys(self._hangs.names()))
            return self._failure(Trouble.NOT_STARTED, f"not started: {hung} hung here before")
        line, trouble = self._read_line(look)
        self._is_awaited = False
        answer = self._understand(line) if trouble is None else trouble
        if isinstance(answer, WorkloadFailed):
            self.close()
            if answer.trouble is Trouble.HANG:
                self._hangs.add(self.workload.rpartition(".")[2])
        return answer

    def is_at_work(self) -> bool:
        """Whether it has neither answered nor ended."""
        if not self._is_awaited:
            return False
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        if self._process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        # A process stuck inside a dead driver cannot be reaped: give up on it rather than hang with it.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        for file in (self._process.stdin, self._last_words):
            assert file
            with suppress(BrokenPipeError):
                file.close()
        os.close(self._answers)
        self._process = None
        self._unsent = b""

    def _start(self) -> None:
        self._answers, channel = os.pipe()
        self._last_words = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
        folder = self._folder.path()
        path = [str(Path(entry).absolute()) for entry in sys.path]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-c", _START, str(os.getpid()), self._device.label,
                 str(channel), *path],
                stdin=subprocess.PIPE,
                stdout=self._last_words,  # what a library prints is no answer
                stderr=self._last_words,
                pass_fds=(channel,),
                cwd=folder,
                env=self._environment(str(folder)),
                start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(channel)
        os.set_blocking(self.pipe, False)

    def _environment(self, folder: str) -> dict[str, str]:
        # All workers at once must not ask for more threads than there are cores: they would wait for each other.
        folders = dict.fromkeys(_FOLDERS, folder)
        return {**os.environ, **_VARIABLES, **folders, **self._threads, **self._place, **self._device.variables}

    def _read_line(self, look: Callable[[], None]) -> tuple[bytes, WorkloadFailed | None]:
        assert self._process
        received = b""
        started, deadline = time.monotonic(), self._deadline
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        while not received.endswith(b"\n"):
            # An answer that is there counts, however late it is collected.
            left = max(0.0, deadline - time.monotonic())
            if not poll.poll(min(left, _GLANCE_S) * 1000):
                if self._process.poll() is not None and not poll.poll(0):
                    return b"", self._failure(Trouble.DEATH, self._describe_end())
                if left == 0:
                    return b"", self._failure(Trouble.HANG, f"no answer within {self.timeout:g} s")
                look()
                continue
            chunk = os.read(self._answers, 1 << 16)
            if not chunk:
                return b"", self._failure(Trouble.DEATH, self._describe_end())
            received += chunk
            # A long answer does not fit into the pipe at once: its end came in time if its beginning did.
            deadline = max(deadline, started + _GRACE_S)
        return received, None

    def _understand(self, line: bytes) -> Numbers | WorkloadFailed:
        try:
            answer = json.loads(line)
            return (
                answer["numbers"]
                if "numbers" in answer
                else self._failure(Trouble(answer["trouble"]), answer["text"], answer["blames"])
            )
        except (ValueError, KeyError, TypeError):
            return self._failure(Trouble.DEATH, f"its answer is damaged: {line[:200]!r}")

    def _failure(self, trouble: Trouble, text: str, blames: Sequence[str] = ()) -> WorkloadFailed:
        return WorkloadFailed(self.workload, self._device.label, trouble, text, blames)

    def _describe_end(self) -> str:
        assert self._process
        assert self._last_words
        try:
            status = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            return "its answers ended, but the process goes on"
        size = self._last_words.seek(0, os.SEEK_END)
        self._last_words.seek(max(0, size - _LAST_WORDS))
        return describe_death(status, self._last_words.read())


# ------------------------------------------------------------------------------------------- in the child


def serve(parent: int, channel: int) -> None:
    """Run in the child: answer one request a line until there are no more."""
    die_with(parent)
    os.set_inheritable(channel, False)
    with os.fdopen(channel, "w") as answers:
        meeting.last_resort = _answering_for(answers)
        for line in sys.stdin:
            # Only this request's: a workload that meets others has to be told that one is missed before it is killed.
            os.environ[DEADLINE], _, request = line.partition(" ")
            answers.write(json.dumps(_answer(**json.loads(request))) + "\n")
            answers.flush()
    os._exit(0)


def _answering_for(answers: IO[str]) -> Callable[[BaseException], NoReturn]:
    """How a thread ends this process with an error as its answer, when the main thread is stuck in a library."""

    def answer_and_end(error: BaseException) -> NoReturn:
        answers.write(json.dumps(_describe(error)) + "\n")
        answers.flush()
        os._exit(1)

    return answer_and_end


def _answer(workload: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    try:
        numbers = _find(workload)(**parameters)
        if not isinstance(numbers, Mapping) or not numbers:
            return _trouble(Trouble.ERROR, f"it returned {numbers!r}, not numbers by name")
        json.dumps(numbers)
        settle()
    except BaseException as error:  # also the exit() of a library
        return _describe(error)
    return {"numbers": numbers}


def settle() -> None:
    """Let nothing of a workload reach the next one: neither its memory nor an error that CUDA has not told yet."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
        gc.collect()
        torch.cuda.empty_cache()


def _describe(error: BaseException) -> dict[str, Any]:
    if isinstance(error, meeting.Missed):
        return _trouble(Trouble.MISSED, str(error), error.hosts)
    return _trouble(classify(error), f"{type(error).__name__}: {error}")


def _trouble(trouble: Trouble, text: str, blames: Sequence[str] = ()) -> dict[str, Any]:
    return {"trouble": trouble.value, "text": text, "blames": list(blames)}


def _find(workload: str) -> Callable[..., object]:
    module, _, name = workload.partition(":")
    function: Callable[..., object] = getattr(import_module(module), name)
    return function


def classify(error: BaseException) -> Trouble:
    """How an exception of a workload ended it."""
    # By name: torch is not imported here, and its classes have moved from release to release.
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    if names & {"OutOfMemoryError", "MemoryError"} or _NO_MEMORY.search(text):
        return Trouble.OUT_OF_MEMORY
    # Before CUDA's own errors: torch begins the texts of cuBLAS and cuSPARSE with "CUDA error: " too.
    if _LIBRARY_ERROR.search(text):
        return Trouble.LIBRARY_ERROR
    if "AcceleratorError" in names or "CUDA error" in text or "CUDA driver error" in text:
        return Trouble.CUDA_ERROR
    return Trouble.ERROR
