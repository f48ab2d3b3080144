"""The fixtures run_in_worker and freest_gpu in somebody else's suite: what comes back, and every way not to."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Rig
from standin import H100_MIG, MIB, H100x8, Node

JOBS = """
import asyncio
import ctypes
import io
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


class Batch:
    def __init__(self, rows):
        self.rows = rows


class Poisoned(Exception):
    pass


class Particular(Exception):
    def __init__(self, code, where):
        super().__init__(f"code {code} at {where}")
        self.code = code


class Missing(OSError):
    def __init__(self, name):
        super().__init__(2, "not there", name)


class Unlike(Exception):
    def __new__(cls, first, second):
        return super().__new__(cls, first)

    def __init__(self, first, second):
        super().__init__(first)


class Whole:
    def __new__(cls, rows):
        return super().__new__(cls)


class Job:
    @staticmethod
    def double(batch):
        return Batch(batch.rows * 2)


def add(a, b=0):
    return a + b


def where():
    return {"pid": os.getpid(), "visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "cwd": os.getcwd(),
            "mark": os.environ.get("MARK"), "group": os.getpgid(0), "input": sys.stdin.read(),
            "argv": sys.argv, "bytecode": sys.flags.dont_write_bytecode, "warnings": sys.warnoptions}


def poison():
    try:
        raise KeyError("the first cause")
    except KeyError as error:
        raise Poisoned("the loss is nan") from error


def fail_particularly(how):
    if how == "inside":
        raise type("Inside", (Exception,), {})("only there")
    if how == "unlike":
        raise Unlike("one", "two")
    if how == "group":
        raise ExceptionGroup("several", [Particular(7, "step 3"), KeyError("other")])
    if how == "errno":
        raise Missing("name")
    raise Particular(7, "step 3")


def fill_the_memory():
    resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
    bytearray(1 << 40)


def hold(text):
    if text == "assert":
        assert text == "something else"
    if text == "unittest":
        import unittest
        raise unittest.SkipTest("theirs")
    getattr(pytest, text)("because")


def leave(status):
    os._exit(status)


def call_exit():
    raise SystemExit("enough")


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)


def die(number):
    os.kill(os.getpid(), number)
    time.sleep(5)


def crash():
    ctypes.string_at(0)


def hang_with_a_child(note):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(note).write_text(f"{os.getpid()} {child.pid}")
    while True:
        time.sleep(60)


def leave_a_child(note):
    Path(note).write_text(str(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid))
    return "done"


def talk():
    print("said by Python")
    os.write(1, b"said by C\\n")
    os.write(2, b"an error of C \\xff\\n")
    ctypes.CDLL(None).printf(b"kept by the C library\\n")
    for number in range(3, 64):
        try:
            os.write(number, b"nonsense")
        except OSError:
            continue
    return 42


def give(what):
    return {"lambda": lambda: 1, "much": b"x" * (64 << 20), "file": sys.stdout, "whole": Whole(1)}[what]


def generate():
    yield 1


async def wait():
    return 1


def once():
    return os.getpid()


def wrapped(function):
    return lambda: function()


hidden = wrapped(once)
small = lambda: 1
"""

SUITE = (
    JOBS
    + """

def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def is_gone(pid):
    deadline = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_alive(pid)


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert not {"torch", "pynvml"} & set(sys.modules)


def test_what_goes_to_and_fro(run_in_worker, monkeypatch):
    monkeypatch.setenv("MARK", "of this test")
    assert run_in_worker(add, 1, b=2) == 3
    doubled = run_in_worker(Job.double, Batch([1, 2]))
    assert (type(doubled), doubled.rows) == (Batch, [1, 2, 1, 2])
    here = run_in_worker(where)
    assert here["pid"] == here["group"] != os.getpid()
    assert (here["cwd"], here["mark"], here["input"]) == (os.getcwd(), "of this test", "")
    assert here["visible"] == os.environ.get("CUDA_VISIBLE_DEVICES")
    assert (here["argv"], here["warnings"]) == (sys.argv, sys.warnoptions)
    assert here["bytecode"] == sys.flags.dont_write_bytecode
    assert len(run_in_worker(give, "much")) == 64 << 20
    assert run_in_worker(os.path.basename, "/a/b") == "b"
    assert run_in_worker(Batch, rows=3).rows == 3


def test_an_exception_comes_back_as_itself(run_in_worker):
    with pytest.raises(Poisoned, match="^the loss is nan$") as caught:
        run_in_worker(poison)
    cause = str(caught.value.__cause__)
    assert "poison on the visible devices:" in cause
    assert "KeyError: 'the first cause'" in cause and 'raise Poisoned("the loss is nan") from error' in cause
    assert "isolation.py" not in cause
    with pytest.raises(Particular, match="^code 7 at step 3$") as caught:
        run_in_worker(fail_particularly, "")
    assert caught.value.code == 7
    with pytest.raises(Missing) as caught:
        run_in_worker(fail_particularly, "errno")
    assert (caught.value.errno, caught.value.filename) == (2, "name")
    if sys.version_info >= (3, 11):
        with pytest.raises(ExceptionGroup, match="several") as caught:
            run_in_worker(fail_particularly, "group")
        assert [str(one) for one in caught.value.exceptions] == ["code 7 at step 3", "'other'"]
    with pytest.raises(MemoryError) as caught:
        run_in_worker(fill_the_memory)
    assert "in fill_the_memory" in str(caught.value.__cause__)
    with pytest.raises(AssertionError, match='assert text == "something else"'):
        run_in_worker(hold, "assert")
    for outcome in ("skip", "fail", "xfail"):
        with pytest.raises(getattr(pytest, outcome).Exception, match="because") as caught:
            run_in_worker(hold, outcome)
        assert type(caught.value) is getattr(pytest, outcome).Exception
    with pytest.raises(__import__("unittest").SkipTest, match="theirs"):
        run_in_worker(hold, "unittest")


def ends(run_in_worker, *arguments, **keywords):
    from pytest_bionemo import WorkloadFailed

    with pytest.raises(WorkloadFailed) as caught:
        run_in_worker(*arguments, **keywords)
    assert "\\n" not in str(caught.value)
    return str(caught.value), caught.value.trouble.value


def test_a_child_that_does_not_come_to_its_end_is_attributed(run_in_worker):
    on = "on the visible devices: "
    assert ends(run_in_worker, fail_particularly, "inside") == (f"fail_particularly {on}Inside: only there", "error")
    assert ends(run_in_worker, fail_particularly, "unlike") == (f"fail_particularly {on}Unlike: one", "error")
    assert ends(run_in_worker, leave, 7) == (f"leave {on}exit status 7", "death")
    assert ends(run_in_worker, leave, 0) == (
        f"leave {on}it ended the process with exit status 0 before it returned", "death")
    assert ends(run_in_worker, call_exit) == (f"call_exit {on}it called exit('enough')", "error")
    assert ends(run_in_worker, interrupt) == (f"interrupt {on}KeyboardInterrupt", "error")
    assert ends(run_in_worker, hold, "exit")[0] == f"hold {on}Exit: because"
    assert ends(run_in_worker, die, signal.SIGKILL) == (
        f"die {on}killed by SIGKILL, as the kernel does when memory runs out", "death")
    text, trouble = ends(run_in_worker, crash, device="cpu")
    assert text.startswith('crash on cpu: killed by SIGSEGV in File "') and trouble == "death"


def test_a_hang_ends_at_its_deadline_with_all_that_it_started(run_in_worker, tmp_path):
    started = time.monotonic()
    text, trouble = ends(run_in_worker, hang_with_a_child, tmp_path / "note", timeout=2)
    assert time.monotonic() - started < 20
    assert text.startswith("hang_with_a_child on the visible devices: no answer within 2 s, in File ")
    assert text.endswith("in hang_with_a_child") and trouble == "hang"
    child, grandchild = map(int, (tmp_path / "note").read_text().split())
    assert not Path(f"/proc/{child}").exists(), "no zombie either"
    assert is_gone(grandchild)


def test_what_a_function_leaves_running_ends_with_it(run_in_worker, tmp_path):
    assert run_in_worker(leave_a_child, str(tmp_path / "note")) == "done"
    assert is_gone(int((tmp_path / "note").read_text()))


def test_what_it_prints_is_output_of_the_test_and_no_answer(run_in_worker, capsys, monkeypatch):
    assert run_in_worker(talk) == 42
    out, err = capsys.readouterr()
    assert sorted(out.splitlines()) == ["kept by the C library", "said by C", "said by Python"]
    assert "an error of C \\ufffd" in err
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert run_in_worker(talk) == 42
    sys.stderr.seek(0)
    assert "an error of C \\\\ufffd" in sys.stderr.read()


def refused(run_in_worker, kind, *arguments, **keywords):
    with pytest.raises(kind) as caught:
        run_in_worker(*arguments, **keywords)
    assert "\\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_run_is_refused_in_one_line(run_in_worker, request):
    def inside():
        pass

    module = __name__
    line = refused(run_in_worker, TypeError, inside)
    assert line.startswith(f"run_in_worker: {module}.test_what_cannot_be_run_is_refused_in_one_line.<locals>.inside "
                           "is defined inside another function:") and "move it" in line
    assert "<lambda> is a lambda:" in refused(run_in_worker, TypeError, lambda: 1)
    assert "<lambda> is a lambda:" in refused(run_in_worker, TypeError, small)
    assert "<lambda> is a lambda:" in refused(run_in_worker, TypeError, hidden)
    assert "'add' is no function: give the function first" in refused(run_in_worker, TypeError, "add")
    assert "yields or awaits" in refused(run_in_worker, TypeError, generate)
    assert "yields or awaits" in refused(run_in_worker, TypeError, wait)
    assert "is not what stands there" in refused(run_in_worker, TypeError, Path("/").exists)
    for bad in (0, -1, float("nan"), float("inf"), True, "60", 1e9):
        line = refused(run_in_worker, ValueError, add, 1, timeout=bad)
        assert line.startswith(f"run_in_worker: timeout={bad!r} is not a number of seconds above 0")
    for bad in ("cuda:0", 0, "", ("GPU-a",)):
        line = refused(run_in_worker, ValueError, add, 1, device=bad)
        assert line.startswith(f"run_in_worker: device={bad!r} is neither a Gpu of gpu_env.gpus")
    line = refused(run_in_worker, TypeError, add, lambda: 1)
    assert line.startswith("run_in_worker: the arguments of add cannot be sent to another process: ")
    line = refused(run_in_worker, TypeError, give, "lambda")
    assert line.startswith("run_in_worker: what give returned cannot be sent to another process: ")
    assert "what give returned" in refused(run_in_worker, TypeError, give, "file")
    for what, arguments in (("what give returned", (give, "whole")), ("the arguments of add", (add, Whole(1)))):
        line = refused(run_in_worker, TypeError, *arguments)
        assert line.startswith(f"run_in_worker: {what} cannot be built again from its pickle: TypeError: ")
    assert run_in_worker(add, 1, 2) == 3
"""
)


@pytest.mark.parametrize("arguments", [("-W", "error", "--strict-markers"), ("-n", "2")], ids=str)
def test_every_way_to_end_is_attributed_and_nothing_is_left(rig: Rig, arguments: tuple[str, ...]) -> None:
    rig.write("test_theirs.py", SUITE)
    interpreter = ("-B", "-W", "ignore::UserWarning:theirs", "-m", "pytest")
    run = rig.run(*interpreter, "-q", "-p", "no:cacheprovider", *arguments)
    assert run.returncode == 0, run.stdout
    assert "7 passed" in run.stdout


TESTS = """
import os
import pytest
from {helpers} import helper

class Mine(Exception):
    pass

def work(value):
    if value is None:
        raise Mine("none")
    return helper(value), {name!r}

def test_work(run_in_worker):
    assert run_in_worker(work, 20) == (40, {name!r})
    with pytest.raises(Mine):
        run_in_worker(work, None)
"""
HELPER = "def helper(value): return 2 * value\n"


@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
def test_the_child_finds_the_module_that_pytest_has(rig: Rig, mode: str) -> None:
    """Also where two are of one name, and another package of the name of theirs is installed."""
    if mode != "append":  # there pytest itself finds the other one
        write_installed_twin(rig)
    # pytest 8.0 does not import the packages around such a module.
    can_be_relative = mode != "importlib" or pytest.version_tuple >= (8, 1)
    helpers = ".helpers" if can_be_relative else "helpers_of_loose"
    rig.write("tests/__init__.py", "")
    rig.write("tests/unit/__init__.py", "")
    rig.write("tests/unit/helpers.py", HELPER)
    rig.write("tests/unit/test_in_package.py", TESTS.format(helpers=helpers, name="package"))
    rig.write("loose/helpers_of_loose.py", HELPER)
    rig.write("loose/test_loose.py", TESTS.format(helpers="helpers_of_loose", name="loose"))
    rig.write("pytest.ini", "[pytest]\npythonpath = loose\n")
    number = 2
    if mode == "importlib":
        rig.write("other/test_loose.py", TESTS.format(helpers="helpers_of_loose", name="other"))
        number = 3
    run = rig.pytest("-q", "-p", "no:cacheprovider", f"--import-mode={mode}")
    assert f"{number} passed" in run.stdout, run.stdout


def write_installed_twin(rig: Rig) -> None:
    """Someone's wheel that brings its tests along, as too many do."""
    (rig.site / "tests").mkdir()
    (rig.site / "tests/__init__.py").write_text("")


CHOICES = """
import os
import pytest

def visible():
    return os.environ["CUDA_VISIBLE_DEVICES"]

def test_it_is_the_freest(freest_gpu, gpu_env, run_in_worker):
    assert freest_gpu.index == {index}
    assert run_in_worker(visible, device=freest_gpu) == {label!r}
    assert run_in_worker(visible, device={label!r}) == {label!r}
    assert run_in_worker(visible, device="cpu") == ""

def test_another_is_not_visible_here(gpu_env, run_in_worker):
    for hidden in ({hidden!r}, gpu_env.gpus[-1]):
        with pytest.raises(ValueError, match="^run_in_worker: device [^ ]+ is not visible here: .*{label}") as caught:
            run_in_worker(visible, device=hidden)
        assert "\\n" not in str(caught.value)
"""


def busy(node: Node, *free: int) -> Node:
    """The node with all memory of its GPUs in use, but for those, whose share of free memory falls one by one."""
    for index, gpu in enumerate(node.gpus):
        part = 0.9 - 0.1 * free.index(index) if index in free else 0.01
        node = node.with_gpu(index, used_bytes=int(gpu.memory_bytes * (1 - part)) // MIB * MIB)
    return node


@pytest.mark.parametrize(
    ("visible", "free", "index"),
    [("", (5, 2), 5), ("0,2,3", (5, 2), 2), ("{3}", (5, 2), 3), ("1,0,2,3,4,5,6,7", (5, 2), 5)],
    ids=["all", "by index", "by UUID", "all by index"],
)
def test_the_freest_gpu_is_one_of_those_that_are_visible(
    rig: Rig, visible: str, free: tuple[int, ...], index: int
) -> None:
    rig.node = busy(H100x8, *free)
    uuids = [gpu.uuid for gpu in H100x8.gpus]
    is_all = visible.count(",") in (0, 7) and "{" not in visible
    if visible:
        rig.variables["CUDA_VISIBLE_DEVICES"] = visible.format(*uuids)
    if visible and not is_all:
        rig.variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    tests = CHOICES.format(index=index, label=uuids[index], hidden=uuids[7])
    rig.write("test_theirs.py", tests.partition("def test_another")[0] if is_all else tests)
    run = rig.pytest("-q", "-p", "no:cacheprovider", "-W", "error", "--bionemo-strict")
    assert run.returncode == 0, run.stdout
    if not visible:
        # One that does not answer is no choice, however free it was.
        rig.node = rig.node.with_gpu_fault(5, "nvmlDeviceGetMemoryInfo", 15)
        rig.node = rig.node.with_gpu_fault(5, "nvmlDeviceGetMemoryInfo_v2", 15)
        rig.write("test_theirs.py", "def test_theirs(freest_gpu): assert freest_gpu.index == 2")
        run = rig.pytest("-q", "-p", "no:cacheprovider")
        assert run.returncode == 0, run.stdout


def test_of_a_gpu_in_mig_mode_a_worker_gets_a_slice(rig: Rig) -> None:
    rig.node = H100_MIG
    first, second, *_ = (mig.uuid for mig in H100_MIG.gpus[0].migs)
    rig.write(
        "test_theirs.py",
        "import os\n"
        "def visible(): return os.environ['CUDA_VISIBLE_DEVICES']\n"
        "def test_theirs(freest_gpu, run_in_worker):\n"
        f"    assert run_in_worker(visible, device=freest_gpu) == {first!r}\n"
        f"    assert run_in_worker(visible, device=freest_gpu.mig_devices[1]) == {second!r}\n",
    )
    run = rig.pytest("-q", "-p", "no:cacheprovider")
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize(
    ("node", "visible", "reason"),
    [
        (None, None, "needs a GPU: no NVIDIA driver answers (NVML Shared Library Not Found)"),
        (Node(), None, "needs a GPU: here is no GPU, driver 580.95.05"),
        (H100x8, "-1", "needs a GPU: CUDA_VISIBLE_DEVICES=-1: -1 hides every GPU"),
        (H100x8, "2", "needs a GPU: CUDA_VISIBLE_DEVICES=2 leaves 1 of 8 GPUs, and which is left only CUDA knows: "
                      "set CUDA_DEVICE_ORDER=PCI_BUS_ID"),
    ],
    ids=["no driver", "no GPU", "hidden", "by index"],
)  # fmt: skip
def test_without_a_gpu_the_test_is_skipped_or_fails(
    rig: Rig, node: Node | None, visible: str | None, reason: str
) -> None:
    rig.node = node
    if visible:
        rig.variables["CUDA_VISIBLE_DEVICES"] = visible
    rig.write("test_theirs.py", "import pytest\n@pytest.mark.xfail\ndef test_theirs(freest_gpu): pass\n")
    rig.variables["COLUMNS"] = "200"
    run = rig.pytest("-rs", "-p", "no:cacheprovider")
    assert run.returncode == 0
    assert f": {reason}\n" in run.stdout, run.stdout
    strict = rig.pytest("-p", "no:cacheprovider", "--bionemo-strict")
    assert strict.returncode == 1
    assert f"{reason}\n" in strict.stdout, strict.stdout
    assert "Traceback" not in strict.stdout


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(holds: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_no_child_outlives_a_run_that_is_broken_off(rig: Rig, end: signal.Signals) -> None:
    note = rig.folder / "note"
    test = "def test_theirs(run_in_worker): run_in_worker(hang_with_a_child, NOTE)\n"
    rig.write("test_theirs.py", f"{JOBS}\nNOTE = {str(note)!r}\n{test}")
    run = subprocess.Popen(
        [rig.environment.python, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=rig.project,
        env={**os.environ, **rig.environ()},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert wait_until(lambda: note.exists() and len(note.read_text().split()) == 2)
    child, grandchild = map(int, note.read_text().split())
    assert is_alive(child)
    run.send_signal(end)
    out, _ = run.communicate(timeout=60)
    assert wait_until(lambda: not is_alive(child))
    assert wait_until(lambda: not is_alive(grandchild))
    if end == signal.SIGINT:
        assert run.returncode == pytest.ExitCode.INTERRUPTED, out
