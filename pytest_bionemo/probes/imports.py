"""What importing an installed package does, seen in a process of its own.

An import is a program of somebody else: it can fail, exit, crash, hang, fork and print. All of these are answers
here. One process a package, several at a time.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pytest_bionemo.probes.child import Child, note

TARGET = f"{__name__}:read"
_SHOWN = 200
# What they leave behind goes with the process: below a folder of its own. BioNeMo makes its cache at import.
_FOLDERS = (
    "BIONEMO_CACHE_DIR", "CUDA_CACHE_PATH", "HF_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR", "TMPDIR",
    "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME",
)  # fmt: skip
_VARIABLES = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass(frozen=True)
class ImportFailure:
    """An import that raised: ``cause`` is what was raised first, at ``place``, and ``error`` what came of it."""

    module: str
    error: str
    cause: str
    place: str | None
    missing: str | None
    """The module that was not found, if that is the cause."""

    @property
    def reason(self) -> str:
        """What was raised first, where, and what came of it if that is something else."""
        place = f" (in {self.place})" if self.place else ""
        told = "" if self.error == self.cause else f", told as {self.error}"
        return f"{self.cause}{place}{told}"


@dataclass(frozen=True)
class Imported:
    """What the imports of one package did.

    ``end`` is a phrase that says how the process ended before it came through them, ``cuda_error`` what went wrong
    when it then computed, ``trial_error`` why the package could not be tried, each None where nothing did. ``noise``
    is what the imports wrote to stdout, ``forks`` how often they copied the process, ``trial`` what the package was
    seen to do.
    """

    failures: tuple[ImportFailure, ...] = ()
    end: str | None = None
    noise: str = ""
    forks: int = 0
    cuda_error: str | None = None
    trial: Mapping[str, Any] | None = None
    trial_error: str | None = None

    @property
    def is_usable(self) -> bool:
        """Whether every module came in."""
        return not self.failures and self.end is None


@dataclass(frozen=True)
class Program:
    """What is done with one package: import these modules, compute a little, then try what it is for.

    ``trial`` is a workload ("package.module:function") that takes a folder of its own. ``on_gpu`` tells where to
    compute.
    """

    modules: tuple[str, ...]
    trial: str | None = None
    on_gpu: bool = False


class Imports:
    """The programs of several packages by name, each in a process of its own, as many at a time as there are cores.

    ``timeout`` is the deadline of each in seconds, from its own start. With ``ahead``, the first question starts all
    of them; else each starts when it is asked for.
    """

    def __init__(
        self, programs: Mapping[str, Program], timeout: float, environment: Mapping[str, str], *, ahead: bool = True
    ) -> None:
        self._programs = programs
        self._timeout = timeout
        self._environment = environment
        self._waiting = deque(programs if ahead else ())
        self._running: dict[str, Child] = {}
        self._done: dict[str, Imported] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def of(self, name: str) -> Imported:
        """What the imports of this package did. Raises LookupError for a package without a program."""
        if name not in self._programs:
            raise LookupError(f"{name} is not among what is imported: {', '.join(self._programs)}")
        if name not in (*self._waiting, *self._running, *self._done):
            self._waiting.append(name)
        self._start()
        while name not in self._done:
            # The oldest first: its place goes to one that waits.
            oldest = name if name in self._running else next(iter(self._running))
            self._done[oldest] = _understand(self._running.pop(oldest))
            self._start()
        return self._done[name]

    def close(self) -> None:
        """End what still runs, and remove what it wrote."""
        self._waiting.clear()
        for child in self._running.values():
            child.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _start(self) -> None:
        while self._waiting and len(self._running) < max(2, len(os.sched_getaffinity(0))):
            name = self._waiting.popleft()
            told = asdict(self._programs[name])
            self._running[name] = Child(TARGET, self._timeout, self._variables(name), told, f"importing {name}")

    def _variables(self, name: str) -> dict[str, str]:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="pytest-bionemo-", ignore_cleanup_errors=True)
        own = Path(self._folder.name) / name
        own.mkdir()
        return {**self._environment, **_VARIABLES, **dict.fromkeys(_FOLDERS, str(own))}


def _understand(child: Child) -> Imported:
    answer = child.answer()
    seen: dict[str, Any] = {}
    for stage in (*answer.before, answer.value or {}):
        seen |= stage
    if answer.value is None:
        seen[("end", "cuda_error", "trial_error")[len(answer.before)]] = _phrase(answer.failure)
    failures = tuple(ImportFailure(**failure) for failure in seen.pop("failures", ()))
    return Imported(failures=failures, **seen)


def _phrase(failure: str | None) -> str:
    # A process that ends well without an answer was ended by what it ran.
    ended_well = failure is None or failure.startswith("its answer is not JSON")
    return "it ends the process with exit status 0" if ended_well else str(failure)


# ------------------------------------------------------------------------------------------- in the child


def read(modules: Sequence[str], trial: str | None, on_gpu: bool) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Run a program in this process. It yields what it saw after each step: a later one can be the last."""
    process = os.getpid()
    forks: list[int] = []
    os.register_at_fork(after_in_parent=lambda: forks.append(1))
    with _caught_stdout() as noise:
        failures = [failure for module in modules if (failure := _import(module))]
    if os.getpid() != process:  # a copy that an import has made of it comes by here, too
        os._exit(0)
    seen = {"failures": [asdict(failure) for failure in failures], "forks": len(forks)}
    yield {**seen, "noise": b"".join(noise).decode(errors="replace").strip()[:_SHOWN]}
    yield {"cuda_error": None if failures else _compute(on_gpu)}
    return {} if trial is None or failures else _try(trial)


def _import(module: str) -> ImportFailure | None:
    note(f"importing {module}")
    try:
        import_module(module)
    except BaseException as error:  # exit() and KeyboardInterrupt, too
        return explain(module, error)
    return None


def explain(module: str, error: BaseException) -> ImportFailure:
    """An import error with what was raised first, where that was, and which module was missing."""
    first = _first(error)
    return ImportFailure(
        module=module,
        error=_text(error),
        cause=_text(first),
        place=_place(first),
        missing=first.name if isinstance(first, ModuleNotFoundError) else None,
    )


def _first(error: BaseException) -> BaseException:
    seen = [error]
    while True:
        last = seen[-1]
        before = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if before is None or before in seen:
            return last
        seen.append(before)


def _text(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it calls exit({'' if error.code is None else error.code!r})"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _place(error: BaseException) -> str | None:
    """The last line of a file that the import came to, relative to its folder of ``sys.path``."""
    frames = traceback.extract_tb(error.__traceback__)
    files = [frame for frame in frames if not frame.filename.startswith("<") and frame.filename != __file__]
    files = [frame for frame in files if Path(frame.filename).parent.name != "importlib"]
    if not files:
        return None
    path = files[-1].filename
    folders = [folder for folder in sys.path if folder and path.startswith(f"{folder}/")]
    shown = path.removeprefix(f"{max(folders, key=len)}/") if folders else path
    return f"{shown}, line {files[-1].lineno}"


@contextmanager
def _caught_stdout() -> Iterator[list[bytes]]:
    """Catch what is written to descriptor 1, by whatever language."""
    caught: list[bytes] = []
    before = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        try:
            yield caught
        finally:
            _flush()
            os.dup2(before, 1)
            os.close(before)
            file.seek(0)
            caught.append(file.read(_SHOWN * 4))


def _flush() -> None:
    import ctypes

    sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)


def _compute(on_gpu: bool) -> str | None:
    """Multiply small matrices; what went wrong, None if nothing did."""
    if "torch" not in sys.modules:
        return None
    import torch

    note("using the GPU after the import" if on_gpu else "computing after the import")
    try:
        ones = torch.ones(64, 64, device="cuda" if on_gpu else "cpu")
        total = float((ones @ ones).sum())
    except Exception as error:  # whatever a damaged CUDA raises
        return _text(error)
    return None if total == 64.0**3 else f"the sum of a product is {total:g}, expected {64**3}"


def _try(trial: str) -> dict[str, Any]:
    note("trying what it does")
    module, _, name = trial.partition(":")
    try:
        with tempfile.TemporaryDirectory() as folder:
            return {"trial": getattr(import_module(module), name)(folder)}
    except BaseException as error:  # of the package: our own part is proven with the real one
        return {"trial_error": explain(trial, error).reason}
