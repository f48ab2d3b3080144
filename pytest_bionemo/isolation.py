"""One function of a test module in a process of its own: its result or its exception comes back, in a deadline.

The function is found by its name, so that the child imports its module anew and shares nothing with pytest's
process. What goes to and fro are files without a name, which no library that prints can spoil and which are gone
with the last process that holds them, however that ends. With the child ends its process group.
"""

from __future__ import annotations

import faulthandler
import inspect
import io
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib import import_module, util
from numbers import Real
from pathlib import Path
from types import FunctionType, ModuleType
from typing import IO, Any, TextIO

from pytest_bionemo.probes.child import describe_death, die_with
from pytest_bionemo.waiting import Wait, waiting
from pytest_bionemo.worker import Device, Trouble, WorkloadFailed, classify, settle

# The label is there to be read in a list of processes.
_START = (
    "import sys; parent, label, request, answer, alive, deadline, *sys.path[:] = sys.argv[1:]; "
    "from pytest_bionemo.isolation import serve; "
    "serve(int(parent), int(request), int(answer), int(alive), float(deadline))"
)
_MARK = b"pytest-bionemo:"
_LONGEST_TIMEOUT_S = 24 * 60 * 60
_GRACE_S = 2.0
_LONGEST_PAUSE_S = 0.02
# Before the deadline a child that still runs writes down where it is.
_TELLING_S = 0.3
_SHOWN = 1 << 16
_NOT_MET = "NotMet"

Part = tuple[str, "str | None", "list[str] | None"]
"""A module or one of the packages around it: its name, its file, and the folders of its modules."""


class WorkerTraceback(Exception):
    """The traceback of the child process, as text: the cause of the exception that came back."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def run(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    keywords: Mapping[str, Any],
    timeout: float,
    device: Device,
) -> Any:
    """What the function returns in a process of its own; an exception is raised here as itself.

    :param timeout: seconds from the start of the process, its imports included.
    :param device: what the function sees.
    :raises WorkloadFailed: if it exited, crashed, was killed or missed the deadline.
    :raises TypeError: for a function that cannot be found by its name, and what cannot be pickled.
    """
    __tracebackhide__ = True
    request = {
        "chain": _chain(function),
        "name": function.__qualname__,
        "argv": sys.argv,
        "arguments": _sent((tuple(arguments), dict(keywords)), f"the arguments of {function.__qualname__}"),
    }
    answer = _Process(function.__qualname__, _checked(timeout), device).answer(pickle.dumps(request))
    if "result" in answer:
        return _built(answer["result"], f"what {function.__qualname__} returned")
    error = _outcome(answer["outcome"]) or _loaded(answer["exception"])
    if error is None:
        text, trouble = answer["text"], Trouble(answer["trouble"])
        error = WorkloadFailed(function.__qualname__, device.label, trouble, text)
    told = f"{function.__qualname__} on {device.label}:\n{answer['traceback']}"
    raise error from (WorkerTraceback(told) if answer["traceback"] else None)


def _checked(timeout: float) -> float:
    __tracebackhide__ = True
    is_number = isinstance(timeout, Real) and not isinstance(timeout, bool)
    if not is_number or not 0 < timeout <= _LONGEST_TIMEOUT_S:
        raise ValueError(
            f"run_in_worker: timeout={timeout!r} is not a number of seconds above 0 and up to {_LONGEST_TIMEOUT_S}, "
            "such as 60."
        )
    return float(timeout)


def _chain(function: Callable[..., Any]) -> list[Part]:
    """The module of the function after the packages around it, for a child to import.

    :raises TypeError: one line, if a child could not find the function there, or calling it would run nothing.
    """
    __tracebackhide__ = True
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not callable(function) or not isinstance(module, str) or not isinstance(name, str):
        raise TypeError(f"run_in_worker: {function!r} is no function: give the function first, then its arguments.")
    if problem := _problem(function, module, name):
        raise TypeError(f"run_in_worker: {module}.{name} {problem}.")
    dots = [index for index, letter in enumerate(module) if letter == "."]
    return [_part(module[:dot]) for dot in [*dots, None]]


def _problem(function: Callable[..., Any], module: str, name: str) -> str | None:
    top = "a child process finds a function by its name, at the top of a module"
    if "<lambda>" in name:
        return f"is a lambda: {top}; write it with def there"
    if "<locals>" in name:
        return f"is defined inside another function: {top}; move it there"
    if module == "__main__":
        return f"is in the script that was started: {top} that it can import; move it to one"
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        return "yields or awaits: calling it would run nothing; call it in a function that returns a value"
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return None if found is function else f"is not what stands there under this name: {top}"


def _part(name: str) -> Part:
    module = sys.modules.get(name)
    folders = getattr(module, "__path__", None)
    return name, getattr(module, "__file__", None), None if folders is None else [str(folder) for folder in folders]


def _outcome(outcome: tuple[str, str] | None) -> BaseException | None:
    """What pytest.skip, pytest.fail or pytest.xfail raised: pickle cannot, since they say to be of another module."""
    if outcome is None:
        return None
    kind, reason = outcome
    if kind == _NOT_MET:
        from pytest_bionemo.unmet import NotMet

        return NotMet(reason, pytrace=False)
    found: BaseException = getattr(import_module("pytest"), kind).Exception(reason)
    return found


def _loaded(pickled: bytes | None) -> BaseException | None:
    """The exception; None where its class is not to be found here."""
    with suppress(Exception):
        error = pickle.loads(pickled) if pickled else None  # noqa: S301 - of this very test
        return error if isinstance(error, BaseException) else None
    return None


class _Process:
    """The child for one call."""

    def __init__(self, name: str, timeout: float, device: Device) -> None:
        self._name = name
        self._timeout = timeout
        self._device = device

    def answer(self, request: bytes) -> dict[str, Any]:
        """What it said. Nothing of it is left when this returns, or is interrupted."""
        __tracebackhide__ = True
        with ExitStack() as stack:
            asked, answer, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(4))
            asked.write(request)
            asked.seek(0)
            deadline = time.monotonic() + self._timeout
            alive, held = map(io.FileIO, os.pipe(), "rw")  # held by this process alone, until it ends
            stack.enter_context(alive)
            stack.enter_context(held)
            process = self._start((asked, answer, alive), out, err, deadline)
            try:
                with waiting(self._wait(deadline)) as look:
                    in_time = _ends(process, deadline, look)
            finally:
                _end(process)
                _show(out, sys.stdout)
                _show(err, sys.stderr)
            if not in_time:
                where = _where_it_hung(_tail(err))
                raise self._failure(Trouble.HANG, f"no answer within {self._timeout:g} s{where}")
            answer.seek(0)
            said = answer.read()
            if process.returncode != 0 or not said.startswith(_MARK):
                raise self._failure(Trouble.DEATH, _describe_end(process.returncode, _tail(err)))
            found: dict[str, Any] = pickle.loads(said.removeprefix(_MARK))  # noqa: S301 - our own words
            return found

    def _wait(self, deadline: float) -> Callable[[], Wait]:
        place = self._device.name or self._device.label
        return lambda: Wait(self._name, deadline - self._timeout, self._timeout, (place,), 1)

    def _start(
        self, files: Sequence[IO[bytes] | io.FileIO], out: IO[bytes], err: IO[bytes], deadline: float
    ) -> subprocess.Popen[bytes]:
        __tracebackhide__ = True
        numbers = [file.fileno() for file in files]
        try:
            return subprocess.Popen(
                [sys.executable, *_interpreter_options(), "-X", "faulthandler", "-c", _START, str(os.getpid()),
                 self._device.label, *map(str, numbers), str(deadline), *map(str, sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=numbers,
                env={**os.environ, **self._device.variables},
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:  # no process, no memory or no file descriptor left
            text = f"its process could not be started: {error}"
            raise self._failure(Trouble.NOT_STARTED, text) from None

    def _failure(self, trouble: Trouble, text: str) -> WorkloadFailed:
        return WorkloadFailed(self._name, self._device.label, trouble, text)


def _interpreter_options() -> list[str]:
    """Those that this process was started with: -O, -W error, -X dev; as multiprocessing hands them on."""
    found: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return found


def _ends(process: subprocess.Popen[bytes], deadline: float, look: Callable[[], None]) -> bool:
    """Wait for its end, and say whether it came in time. It keeps its number, by which its group can be killed."""
    pause = 0.001
    while True:
        with suppress(ChildProcessError):  # somebody else has asked how it ended
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                look()
                time.sleep(min(pause, left))
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                continue
        return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the child and its process group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    # A process stuck inside a dead driver cannot be reaped: give up on it rather than hang with it.
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)


def _tail(file: IO[bytes]) -> bytes:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _SHOWN))
    return file.read()


def _show(file: IO[bytes], stream: TextIO) -> None:
    """What the child wrote there is written here: pytest captures it as what the test itself prints."""
    tail = _tail(file)
    if left_out := file.tell() - len(tail):
        stream.write(f"({left_out} bytes before this are left out)\n")
    encoding = stream.encoding or "utf-8"
    stream.write(tail.decode(errors="replace").encode(encoding, "backslashreplace").decode(encoding))


def _describe_end(status: int | None, stderr: bytes) -> str:
    if not status:
        return "it ended the process with exit status 0 before it returned"
    because = ", as the kernel does when memory runs out" if status == -signal.SIGKILL else ""
    return describe_death(status, stderr) + because


def _where_it_hung(stderr: bytes) -> str:
    """', in File "test_it.py", line 7 in wait', from what faulthandler wrote, which ends with the main thread."""
    _, _, threads = stderr.decode(errors="replace").rpartition("Timeout (")
    lines = [line.strip() for line in threads.rpartition("(most recent call first)")[2].splitlines()]
    where = next((line for line in lines if line.startswith("File ")), "")
    return f", in {where}" if where else ""


# ------------------------------------------------------------------------------------------- in the child


def serve(parent: int, request: int, answer: int, alive: int, deadline: float) -> None:
    """Run in the child: call the function, write down what came of it, and leave at once."""
    die_with(parent)
    _end_group_after(alive)
    for descriptor in (request, answer):
        os.set_inheritable(descriptor, False)
    faulthandler.dump_traceback_later(max(0.01, deadline - time.monotonic() - _TELLING_S))
    with os.fdopen(request, "rb") as file:
        asked = pickle.load(file)  # noqa: S301 - our own words
    said = pickle.dumps(_answer(**asked))
    faulthandler.cancel_dump_traceback_later()
    _flush()
    with os.fdopen(answer, "wb") as file:
        file.seek(0)
        file.truncate()  # whoever may have written into every descriptor
        file.write(_MARK + said)
    # No interpreter shutdown: libraries such as torch take time for it, and may crash in it.
    os._exit(0)


def _end_group_after(alive: int) -> None:
    """Leave somebody who kills this process group as soon as nobody holds the other end of the pipe ``alive``.

    So what the function has started ends with a run that is killed, too: the kernel ends this process alone.
    """
    if between := os.fork():
        os.close(alive)
        os.waitpid(between, 0)
    elif os.fork():  # a grandchild is none that the function could come to wait for
        os._exit(0)
    else:
        os.read(alive, 1)
        os.killpg(0, signal.SIGKILL)


def _answer(chain: Sequence[Part], name: str, argv: Sequence[str], arguments: bytes) -> dict[str, Any]:
    sys.argv[:] = argv
    try:
        function: Any = _import(chain)
        for part in name.split("."):
            function = getattr(function, part)
        positional, keywords = _built(arguments, f"the arguments of {name}")
        result = function(*positional, **keywords)
        settle()
        return {"result": _sent(result, f"what {name} returned")}
    except BaseException as error:  # also the exit() of a library
        return _failure(error)


def _failure(error: BaseException) -> dict[str, Any]:
    if isinstance(error, AssertionError) and not error.args:
        # Nobody has rewritten it here: its line says more than nothing.
        error.args = tuple(filter(None, [traceback.extract_tb(error.__traceback__)[-1].line]))
    if isinstance(error, SystemExit):
        text = f"it called exit({error.code!r})"
    else:
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
    return {
        "outcome": _pytest_outcome(error),
        "exception": _exception(error),
        "trouble": classify(error).value,
        "text": text,
        "traceback": _traceback(error),
    }


def _pytest_outcome(error: BaseException) -> tuple[str, str] | None:
    # Where the function has not imported pytest, it has not called it. What xfail raises is what fail raises, too.
    pytest: Any = sys.modules.get("pytest")
    unmet: Any = sys.modules.get("pytest_bionemo.unmet")
    if unmet and isinstance(error, unmet.NotMet):
        return _NOT_MET, str(error.msg)
    for kind in ("skip", "xfail", "fail") if pytest else ():
        if isinstance(error, getattr(pytest, kind).Exception):
            return kind, str(getattr(error, "msg", error))
    return None


def _exception(error: BaseException) -> bytes | None:
    """The exception, unless it would end more than a test: exit() and Ctrl-C of a child are its own."""
    pytest: Any = sys.modules.get("pytest")
    ends_the_run = pytest is not None and isinstance(error, pytest.exit.Exception)
    if ends_the_run or not isinstance(error, Exception):
        return None
    with suppress(Exception):
        sent = _sent(error, "the exception")
        # One that the other process would build as another says less than the line that tells of it.
        if _told(pickle.loads(sent)) == _told(error):  # noqa: S301 - our own words
            return sent
    return None


def _told(error: BaseException) -> tuple[type, str, list[Any]]:
    """What an exception says, and each of its group."""
    parts = getattr(error, "exceptions", ())
    return type(error), str(error), [_told(one) for one in parts if isinstance(one, BaseException)]


def _traceback(error: BaseException) -> str:
    """From the function on; nothing where the error is not in it."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    if frames is None:
        return ""
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()


def _import(chain: Sequence[Part]) -> ModuleType:
    """The module as pytest's own process has it, which may have found it where ``sys.path`` does not lead."""
    for name, file, folders in chain:
        if not _is_found(name, file, folders):
            _load(name, file, folders)
    return import_module(chain[-1][0])


def _is_found(name: str, file: str | None, folders: list[str] | None) -> bool:
    spec = util.find_spec(name)
    if spec is None:
        return False
    if file is None:
        # A namespace package; what has neither file nor folder is built into Python, or was made up by pytest.
        return list(spec.submodule_search_locations or ()) == folders if folders else not spec.has_location
    return spec.origin is not None and Path(spec.origin).exists() and Path(spec.origin).samefile(file)


def _load(name: str, file: str | None, folders: list[str] | None) -> None:
    if file is None:
        module = ModuleType(name)
        module.__path__ = folders or []
        sys.modules[name] = module
    else:
        spec = util.spec_from_file_location(name, file, submodule_search_locations=folders)
        if spec is None or spec.loader is None:
            raise ImportError(f"{name} cannot be imported from {file}")
        module = util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)


def _flush() -> None:
    import ctypes

    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    ctypes.CDLL(None).fflush(None)


# ------------------------------------------------------------------------------------------- on both sides


class _Pickler(pickle.Pickler):
    """Takes no tensor of a GPU: reading it would open a CUDA context in the other process."""

    def persistent_id(self, value: Any) -> None:
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor) and value.device.type not in ("cpu", "meta"):
            raise TypeError(f"it holds a tensor on {value.device}; use a plain number, or tensor.cpu()")

    def reducer_override(self, value: Any) -> Any:
        """Pickle would call an exception's own __init__ with what that has handed on: see _rebuilt."""
        kind = type(value)
        if not isinstance(value, BaseException) or not _is_own(kind.__init__):
            return NotImplemented
        if _is_own(kind.__reduce__) or _is_own(kind.__reduce_ex__):
            return NotImplemented
        reduced: Any = value.__reduce__()
        _, args, *state = reduced
        return (_rebuilt, (kind, args), *state)


def _is_own(method: object) -> bool:
    """Whether it is written in Python: no exception that is built in has such a one."""
    return isinstance(method, FunctionType)


def _rebuilt(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """The exception without its own __init__: with that of the built-in one which it is derived from."""
    error = kind.__new__(kind, *args)
    inits = (vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base))
    next(init for init in inits if not _is_own(init))(error, *args)
    return error


def _sent(value: Any, what: str) -> bytes:
    __tracebackhide__ = True
    file = io.BytesIO()
    try:
        _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    except Exception as error:
        text = f"run_in_worker: {what} cannot be sent to another process: {error}"
        raise TypeError(text) from None
    return file.getvalue()


def _built(pickled: bytes, what: str) -> Any:
    __tracebackhide__ = True
    try:
        return pickle.loads(pickled)  # noqa: S301 - of this very test
    except Exception as error:
        text = f"run_in_worker: {what} cannot be built again from its pickle: {type(error).__name__}: {error}"
        raise TypeError(text) from None
