"""What the probes see: child processes, the driver, torch, libraries, the host, installed distributions."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from pytest_bionemo.model import Gpu, GpuEnv, MigDevice, NvmlFailure
from pytest_bionemo.probes import child as child_module
from pytest_bionemo.probes import host, libraries, nvml, packages, toolkit, visible
from pytest_bionemo.probes import torch_build as torch_probe
from pytest_bionemo.probes.child import Answer, Child, describe_death
from pytest_bionemo.probes.torch_build import TorchBuild, TorchDevice
from standin import EMPTY, H100_MIG, MIB, A10Gx1, H100x8, Libraries, Node, T4x1
from standin.distributions import remove_file, write_distribution
from standin.environment import Environment
from standin.torch_package import StandinTorch, write_torch

Json = dict[str, Any]


def wait_until(holds: Callable[[], object], seconds: float = 20) -> None:
    """Wait for a condition, for as long as a busy machine may need."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


def is_gone(pid: int) -> bool:
    """Whether this process has ended; nobody may be there to reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def open_files() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


# ---- child processes


ACTS = """
import ctypes, os, resource, signal, subprocess, sys
from pathlib import Path

def _tell(*pids):
    scratch = Path("{folder}/scratch")
    scratch.write_text(" ".join(map(str, pids)))
    scratch.rename("{folder}/pids")

def _no_core():
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))

def path(): return {{"path": sys.path, "stdin": sys.stdin.read()}}
def large(): return {{"text": "x" * 1_000_000}}
def count(names): return {{"count": len(names)}}
def hang():
    _tell(os.getpid())
    signal.pause()
def hang_with_a_child():
    grandchild = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    _tell(os.getpid(), grandchild.pid)
    signal.pause()
def crash():
    _no_core()
    os.kill(os.getpid(), signal.SIGSEGV)
def killed(): os.kill(os.getpid(), signal.SIGKILL)
def odd(): raise ValueError("odd")
def leave(): sys.exit(3)
def leave_silently(): os._exit(0)
def say_no_json():
    return {{"a set": {{1}}}}
def hang_after_notes():
    from pytest_bionemo.probes.child import note
    note("asking GPU 2")
    note("asking GPU 3")
    signal.pause()
def crash_after_a_note():
    from pytest_bionemo.probes.child import note
    note("asking GPU 3")
    crash()
def fail_after_a_note():
    from pytest_bionemo.probes.child import note
    note("asking GPU 3")
    raise ValueError("odd")
def variable(): return {{"value": os.environ.get("STANDIN_OF_A_CHILD")}}
def noise():
    libc = ctypes.CDLL(None)
    libc.puts(b"NVRM: noise")
    libc.fflush(None)
    os.write(1, b"noise " * 100_000)
    print("noise")
    return {{"value": 1}}
def crash_at_the_end():
    import atexit
    atexit.register(os.abort)
    return {{"value": 1}}
"""


@pytest.fixture
def acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of probe functions; only sys.path leads to it."""
    folder = tmp_path / "acts"
    folder.mkdir()
    (folder / "standin_acts.py").write_text(ACTS.format(folder=folder))
    monkeypatch.syspath_prepend(folder)
    return folder


def answer_of(act: str, deadline: float = 30) -> Answer:
    child = Child(f"standin_acts:{act}", deadline)
    try:
        return child.answer()
    finally:
        child.close()


def pids_of(acts: Path) -> list[int]:
    wait_until((acts / "pids").exists)
    return [int(pid) for pid in (acts / "pids").read_text().split()]


def test_a_child_has_the_path_of_its_parent_and_an_empty_stdin(acts: Path) -> None:
    assert answer_of("path") == Answer({"path": sys.path, "stdin": ""})


def test_a_large_answer_arrives_whole(acts: Path) -> None:
    assert answer_of("large") == Answer({"text": "x" * 1_000_000})


# The nodes of a large job: more than a line of commands holds, and than a pipe does that anybody may have.
NAMES = [f"node{number}" for number in range(200_000)]


def test_long_arguments_arrive_whole(acts: Path) -> None:
    assert Child("standin_acts:count", 60, arguments={"names": NAMES}).answer() == Answer({"count": len(NAMES)})


def test_long_arguments_arrive_though_nobody_has_asked_for_the_answer_yet(acts: Path) -> None:
    child = Child("standin_acts:count", 60, arguments={"names": NAMES})
    wait_until(lambda: child.is_done(within=0.01), 60)
    assert child.answer() == Answer({"count": len(NAMES)})


@pytest.mark.parametrize("is_asked", [True, False], ids=["asked", "closed"])
def test_a_child_that_never_reads_its_long_arguments_is_ended(
    acts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asked: bool
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    before, began = open_files(), time.monotonic()
    child = Child("standin_acts:count", 1.5, arguments={"names": NAMES})
    assert not child.is_done(within=0.1)
    if is_asked:
        assert child.answer() == Answer(None, "no answer within 1.5 s")
    child.close()
    assert time.monotonic() - began < 30
    assert open_files() <= before


def test_an_answer_that_comes_while_nobody_looks_is_read(acts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks at the pipe the child can answer and end, all the more on a machine that is busy."""
    monkeypatch.setattr(child_module, "_GLANCE_S", 1e-6)
    assert [answer_of("variable") for _ in range(20)] == [Answer({"value": None})] * 20


def test_an_answer_is_given_again_without_asking_again(acts: Path) -> None:
    child = Child("standin_acts:path", 30)
    assert child.answer() is child.answer()
    child.close()
    assert child.answer().value is not None


@pytest.mark.parametrize("act", ["noise", "crash_at_the_end"])
def test_noise_and_a_bad_end_do_not_spoil_the_answer(acts: Path, act: str) -> None:
    assert answer_of(act) == Answer({"value": 1})


@pytest.mark.parametrize(
    ("act", "failure"),
    [
        ("odd", "exit status 1: ValueError: odd"),
        ("leave", "exit status 3"),
        ("leave_silently", "its answer is not JSON: b''"),
        ("say_no_json", "exit status 1: TypeError: Object of type set is not JSON serializable"),
        ("no_such_probe", "exit status 1: AttributeError: module 'standin_acts' has no attribute 'no_such_probe'"),
        ("killed", "killed by SIGKILL"),
    ],
)
def test_a_child_that_gives_no_answer_says_how_it_ended(acts: Path, act: str, failure: str) -> None:
    answer = answer_of(act)
    assert answer.value is None
    # Newer Pythons say more of what cannot be serialized.
    assert (answer.failure or "").startswith(failure)


def test_a_crash_is_named_with_its_place(acts: Path) -> None:
    failure = answer_of("crash").failure or ""
    assert failure.startswith("killed by SIGSEGV in File ")
    assert failure.endswith(" in crash")


@pytest.mark.parametrize(
    ("returncode", "stderr", "text"),
    [
        (1, b"", "exit status 1"),
        (1, b"one\n\n two \n\n", "exit status 1: two"),
        (1, b"\xff\n", "exit status 1: \N{REPLACEMENT CHARACTER}"),
        (-9, b"one", "killed by SIGKILL"),
        (-11, b'Fatal\n  File "a.py", line 1 in f\n  File "b.py"', 'killed by SIGSEGV in File "a.py", line 1 in f'),
        (-35, b"", "killed by signal 35"),
    ],
)
def test_a_death_is_one_phrase(returncode: int, stderr: bytes, text: str) -> None:
    assert describe_death(returncode, stderr) == text


@pytest.mark.parametrize(
    ("act", "failure"),
    [
        ("hang_after_notes", r"no answer within 2 s, while asking GPU 3"),
        ("crash_after_a_note", r"killed by SIGSEGV in File .*, while asking GPU 3"),
        ("fail_after_a_note", r"exit status 1: ValueError: odd"),
    ],
)
def test_what_a_child_was_doing_is_told(acts: Path, act: str, failure: str) -> None:
    assert re.fullmatch(failure, answer_of(act, 2 if act.startswith("hang") else 30).failure or "")


def test_an_answer_that_came_in_time_is_read_however_late_it_is_asked_for(acts: Path) -> None:
    child = Child("standin_acts:path", 0.5)
    try:
        child._process.wait(30)
        child._started -= 60
        assert child.answer().failure is None
    finally:
        child.close()


def test_a_child_can_be_given_its_environment(acts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {**os.environ, "STANDIN_OF_A_CHILD": "mine"}
    monkeypatch.setenv("STANDIN_OF_A_CHILD", "another")
    child = Child("standin_acts:variable", 30, given)
    assert child.answer().value == {"value": "mine"}
    child.close()


@pytest.mark.parametrize("printed", ["Loading the configuration of this site", "{}", "[1]", '"x"'])
def test_what_python_prints_at_its_start_is_no_answer(
    acts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"print({printed!r}, end='')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert Child("standin_acts:variable", 30).answer().value == {"value": None}


def test_the_deadline_ends_a_child_and_its_own_children(acts: Path) -> None:
    child = Child("standin_acts:hang_with_a_child", 1.5)
    pids = pids_of(acts)
    assert len(pids) == 2
    assert child.answer() == Answer(None, "no answer within 1.5 s")
    wait_until(lambda: all(map(is_gone, pids)))


def test_closing_leaves_no_process_and_no_pipe(acts: Path) -> None:
    before = open_files()
    child = Child("standin_acts:hang_with_a_child", 600)
    pids = pids_of(acts)
    child.close()
    child.close()
    wait_until(lambda: all(map(is_gone, pids)))
    assert child.answer() == Answer(None, "it was stopped before it answered")
    assert open_files() <= before


def test_a_child_dies_with_its_parent(acts: Path) -> None:
    script = (
        f"import sys, signal; sys.path.insert(0, {str(acts)!r})\n"
        "from pytest_bionemo.probes.child import Child\n"
        "child = Child('standin_acts:hang', 600)\n"
        "signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as parent:
        (child,) = pids_of(acts)
        assert not is_gone(child)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: is_gone(child))


def test_files_of_the_current_folder_are_not_for_a_child(
    acts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "pytest_bionemo", "ctypes", "signal"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hostile')")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    assert answer_of("path").failure is None


# ---- NVML, through the real pynvml


class Asker:
    """Asks probes in an environment of its own, in processes that see a node and other variables."""

    def __init__(self, environment: Environment, libraries: Libraries, folder: Path) -> None:
        self.environment, self.libraries, self.folder = environment, libraries, folder
        self.site = folder / "asked_site"
        self.site.mkdir()

    def ask(self, expression: str, node: Node | None = None, env: Mapping[str, str] | None = None) -> Any:
        playing = self.libraries.playing(node, self.folder) if node else {}
        environ = {"PYTHONPATH": str(self.site), **playing, **(env or {})}
        script = (
            "import dataclasses, json\n"
            "from pytest_bionemo.probes import host, nvml, packages\n"
            "from pytest_bionemo.probes.machine import Machine\n"
            f"print(json.dumps({expression}))"
        )
        done = self.environment.run(["-c", script], self.folder, environ, 60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def gpu_env(self, node: Node | None, timeout: float = 30, env: Mapping[str, str] | None = None) -> GpuEnv:
        return GpuEnv.from_json(self.ask(f"Machine({timeout}).gpu_env.to_json()", node, env))

    def torch(self, spec: StandinTorch | None = None, node: Node | None = None, timeout: float = 30) -> TorchBuild:
        if spec:
            write_torch(self.site, spec)
        return TorchBuild.from_json(self.ask(f"Machine({timeout}).torch_build.to_json()", node))


@pytest.fixture
def asker(plain_environment: Environment, libraries: Libraries, tmp_path: Path) -> Asker:
    return Asker(plain_environment, libraries, tmp_path)


def test_a_healthy_node_is_read_whole(asker: Asker) -> None:
    env = asker.gpu_env(H100x8)
    assert (env.driver, env.nvml, env.cuda_driver, env.failure) == ("580.95.05", "13.580.95.05", "13.0", None)
    assert env.has_driver
    assert env.capabilities == ((9, 0),)
    assert env.gpus == tuple(
        Gpu(
            index=index,
            uuid=gpu.uuid,
            name=gpu.name,
            pci_address=gpu.pci,
            memory_bytes=gpu.memory_bytes,
            free_memory_bytes=gpu.memory_bytes,
            compute_capability=(9, 0),
            mig_enabled=False,
        )
        for index, gpu in enumerate(H100x8.gpus)
    )


def test_a_driver_without_a_gpu_is_a_driver(asker: Asker) -> None:
    env = asker.gpu_env(EMPTY)
    assert env.has_driver
    assert env.gpus == ()
    assert env.describe() == "no GPU, driver 580.95.05"


def test_used_memory_is_not_free(asker: Asker) -> None:
    (gpu,) = asker.gpu_env(T4x1.with_gpu(0, used_bytes=600 * MIB)).gpus
    assert gpu.free_memory_bytes == T4x1.gpus[0].memory_bytes - 600 * MIB


def test_an_older_cuda_version_is_read_as_nvidia_writes_it(asker: Asker) -> None:
    env = asker.gpu_env(A10Gx1.with_driver("550.144.03", 12040))
    assert (env.driver, env.cuda_driver) == ("550.144.03", "12.4")


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (4, "Insufficient Permissions"),
        (9, "Driver Not Loaded"),
        (12, "NVML Shared Library Not Found"),
        (15, "GPU is lost"),
        (18, "RM has detected an NVML/RM version mismatch."),
        (999, "Unknown Error"),
    ],
)
def test_what_keeps_the_driver_from_answering_is_told_with_its_code(asker: Asker, fault: int, text: str) -> None:
    env = asker.gpu_env(H100x8.with_fault("nvmlInit_v2", fault))
    assert env == GpuEnv(failure=NvmlFailure(fault, text))
    assert not env.has_driver


def test_a_machine_without_the_library_says_so(asker: Asker) -> None:
    assert asker.gpu_env(None).failure == NvmlFailure(12, "NVML Shared Library Not Found")


@pytest.mark.parametrize(
    "function",
    [
        "nvmlSystemGetDriverVersion",
        "nvmlDeviceGetCount_v2",
    ],
)
def test_a_driver_that_cannot_say_what_it_is_does_not_answer(asker: Asker, function: str) -> None:
    assert asker.gpu_env(H100x8.with_fault(function, 999)).failure == NvmlFailure(999, "Unknown Error")


def test_a_library_that_hides_its_own_version_is_no_dead_driver(asker: Asker) -> None:
    env = asker.gpu_env(H100x8.with_fault("nvmlSystemGetNVMLVersion", 999))
    assert (env.nvml, len(env.gpus), env.has_driver) == (None, 8, True)


@pytest.mark.parametrize("text", ["Not Supported", "N/A", "open-580"])
def test_a_driver_whose_version_is_none_does_not_answer(asker: Asker, text: str) -> None:
    env = asker.gpu_env(H100x8.with_driver(text, 13000))
    assert env.failure == NvmlFailure(None, f"it gives '{text}' for its version")
    assert not env.has_driver


def test_gpus_of_others_are_left_out_and_counted(asker: Asker) -> None:
    node = H100x8
    for index in (0, 1, 4):
        node = node.with_gpu_fault(index, "nvmlDeviceGetHandleByIndex_v2", 4)
    env = asker.gpu_env(node)
    assert [gpu.index for gpu in env.gpus] == [2, 3, 5, 6, 7]
    assert (env.hidden_gpus, env.failure) == (3, None)
    assert GpuEnv.from_json(json.loads(json.dumps(env.to_json()))) == env
    assert visible.read(env.gpus, {"CUDA_VISIBLE_DEVICES": "0"}).uuids == (H100x8.gpus[2].uuid,)


def test_a_machine_of_which_no_gpu_is_open_is_a_matter_of_permission(asker: Asker) -> None:
    env = asker.gpu_env(H100x8.with_fault("nvmlDeviceGetHandleByIndex_v2", 4))
    assert (env.failure, env.hidden_gpus) == (NvmlFailure(4, "Insufficient Permissions"), 8)


def test_memory_that_may_not_be_read_is_no_error(asker: Asker) -> None:
    (gpu,) = asker.gpu_env(H100_MIG.with_gpu_fault(0, "nvmlDeviceGetMemoryInfo", 4)).gpus
    assert (gpu.memory_bytes, gpu.errors, gpu.answers) == (None, None, True)
    assert [mig.memory_bytes for mig in gpu.mig_devices] == [0, 0]


def test_slices_of_others_are_left_out(asker: Asker) -> None:
    (gpu,) = asker.gpu_env(H100_MIG.with_gpu_fault(0, "nvmlDeviceGetMigDeviceHandleByIndex", 4)).gpus
    assert (gpu.mig_enabled, gpu.mig_devices, gpu.errors) == (True, (), None)


def test_a_gpu_that_hangs_is_named(asker: Asker) -> None:
    env = asker.gpu_env(H100x8.with_gpu_fault(3, "nvmlDeviceGetName", "hang"), timeout=3)
    assert env.failure == NvmlFailure(None, "no answer within 3 s, while asking GPU 3")


def test_a_driver_without_its_cuda_library_still_shows_its_gpus(asker: Asker) -> None:
    env = asker.gpu_env(H100x8.with_fault("nvmlSystemGetCudaDriverVersion", 999))
    assert (env.cuda_driver, len(env.gpus), env.failure) == (None, 8, None)
    assert env.has_driver


def test_a_gpu_that_shares_the_memory_of_its_host_answers(asker: Asker) -> None:
    (gpu,) = asker.gpu_env(T4x1.with_gpu_fault(0, "nvmlDeviceGetMemoryInfo", 3)).gpus
    assert (gpu.memory_bytes, gpu.errors) == (None, None)
    assert gpu.answers


def test_a_driver_that_hangs_is_given_up(asker: Asker) -> None:
    env = asker.gpu_env(H100x8.with_fault("nvmlInitWithFlags", "hang"), timeout=3)
    assert env.failure == NvmlFailure(None, "no answer within 3 s")


def test_a_driver_that_crashes_is_survived(asker: Asker) -> None:
    failure = asker.gpu_env(H100x8.with_gpu_fault(3, "nvmlDeviceGetName", "crash")).failure
    assert failure is not None
    assert failure.code is None
    assert failure.text.startswith("killed by SIGSEGV in File ")


def test_a_driver_that_prints_is_read_all_the_same(asker: Asker) -> None:
    noisy = H100x8.with_faults(nvmlInit_v2="noise", nvmlDeviceGetUUID="noise")
    assert asker.gpu_env(noisy) == asker.gpu_env(H100x8)


def test_a_gpu_without_a_handle_is_listed_with_its_error(asker: Asker) -> None:
    env = asker.gpu_env(H100x8.with_gpu_fault(3, "nvmlDeviceGetHandleByIndex_v2", 15))
    assert env.gpus[3] == Gpu(3, errors={"nvmlDeviceGetHandleByIndex": "GPU is lost"})
    assert [gpu.index for gpu in env.gpus if not gpu.answers] == [3]
    assert env.gpus[3].label == "gpu3"


@pytest.mark.parametrize(
    ("function", "attributes", "answers"),
    [
        ("nvmlDeviceGetUUID", ["uuid"], False),
        ("nvmlDeviceGetName", ["name"], False),
        ("nvmlDeviceGetMemoryInfo", ["memory_bytes", "free_memory_bytes"], False),
        ("nvmlDeviceGetCudaComputeCapability", ["compute_capability"], False),
        ("nvmlDeviceGetPciInfo_v3", ["pci_address"], True),
        ("nvmlDeviceGetMigMode", ["mig_enabled"], True),
    ],
)
def test_a_call_that_fails_takes_one_value_of_one_gpu(
    asker: Asker, function: str, attributes: list[str], answers: bool
) -> None:
    gpus = asker.gpu_env(H100x8.with_gpu_fault(3, function, 999)).gpus
    assert [name for name, value in vars(gpus[3]).items() if value is None] == attributes
    assert gpus[3].errors == {function.partition("_")[0]: "Unknown Error"}
    assert gpus[3].answers is answers
    assert all(gpu.answers and gpu.errors is None for gpu in gpus if gpu.index != 3)


def test_what_a_gpu_does_not_support_is_no_error(asker: Asker) -> None:
    (gpu,) = asker.gpu_env(T4x1).gpus
    assert gpu.mig_enabled is None
    assert gpu.errors is None
    assert gpu.answers


def test_the_slices_of_a_gpu_are_read(asker: Asker) -> None:
    (gpu,) = asker.gpu_env(H100_MIG).gpus
    assert gpu.mig_enabled is True
    assert gpu.errors is None
    assert gpu.mig_devices == tuple(
        MigDevice(mig.uuid, mig.name, mig.memory_bytes, mig.gpu_instance, mig.compute_instance, mig.memory_bytes)
        for mig in H100_MIG.gpus[0].migs
    )


@pytest.mark.parametrize(
    ("function", "slices"),
    [
        ("nvmlDeviceGetMaxMigDeviceCount", 0),
        ("nvmlDeviceGetMigDeviceHandleByIndex", 0),
        ("nvmlDeviceGetGpuInstanceId", 2),
        ("nvmlDeviceGetComputeInstanceId", 2),
    ],
)
def test_a_slice_that_cannot_be_read_is_an_error_of_its_gpu(asker: Asker, function: str, slices: int) -> None:
    env = asker.gpu_env(H100_MIG.with_gpu_fault(0, function, 999))
    assert env.failure is None
    assert env.gpus[0].errors == {function: "Unknown Error"}
    assert len(env.gpus[0].mig_devices) == slices


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise RuntimeError('half installed')", "nvidia-ml-py does not import: RuntimeError: half installed"),
        ("def", "nvidia-ml-py does not import: SyntaxError: "),
        ("raise SystemExit('no licence')", "exit status 1: no licence"),
    ],
)
def test_a_broken_binding_is_told_as_one(asker: Asker, text: str, said: str) -> None:
    write_distribution(asker.site, "nvidia-ml-py", "0.1", {"pynvml.py": text})
    failure = asker.gpu_env(H100x8).failure
    assert failure is not None
    assert failure.code is None
    assert failure.text.startswith(said)


def test_another_package_of_that_name_is_no_driver(asker: Asker) -> None:
    write_distribution(
        asker.site, "pynvml", "0.1", {"pynvml.py": "def nvmlInit(): pass\nclass NVMLError(Exception): ..."}
    )
    failure = asker.gpu_env(H100x8).failure
    assert failure is not None
    assert "module 'pynvml' has no attribute 'nvmlSystemGet" in failure.text


# ---- torch


def test_the_real_torch_is_described_without_importing_it_here(
    torch_environment: Environment, libraries: Libraries, tmp_path: Path
) -> None:
    asker = Asker(torch_environment, libraries, tmp_path)
    build = asker.torch()
    assert build.version == metadata.version("torch")
    assert build.import_error is None
    assert build.is_installed
    assert build.location is not None
    assert build.location.endswith("torch/__init__.py")
    if build.cuda is None:
        assert (build.arch_list, build.devices, build.device_error, build.nccl) == ((), (), None, None)


def test_a_cuda_build_is_described_with_its_devices(asker: Asker) -> None:
    build = asker.torch(StandinTorch(), H100x8)
    assert (build.version, build.cuda, build.hip, build.cudnn, build.nccl) == (
        "2.14.1",
        "13.0",
        None,
        92400,
        "2.30.7",
    )
    assert build.arch_list == StandinTorch().arch_list
    assert build.devices == tuple(TorchDevice(gpu.uuid, gpu.name, (9, 0), gpu.memory_bytes) for gpu in H100x8.gpus)
    assert build.import_error is build.device_error is None


def test_a_slice_keeps_the_prefix_that_torch_leaves_out(asker: Asker) -> None:
    build = asker.torch(StandinTorch(devices=[("MIG-abc", "one", 9, 0, 1), ("GPU-def", "two", 9, 0, 2)]))
    # torch prints a UUID without its prefix, and NVML's form for a GPU is what is made of it
    assert [device.uuid for device in build.devices] == ["GPU-abc", "GPU-def"]


def test_a_torch_that_is_not_there_is_not_installed(asker: Asker) -> None:
    build = asker.torch()
    assert build == TorchBuild(import_error="ModuleNotFoundError: No module named 'torch'")
    assert not build.is_installed


def test_a_build_for_the_cpu_is_no_error(asker: Asker) -> None:
    build = asker.torch(StandinTorch(cuda=None), H100x8)
    assert build.is_installed
    assert (build.cuda, build.cudnn, build.nccl, build.arch_list) == (None, None, None, ())
    assert (build.devices, build.import_error, build.device_error) == ((), None, None)


def test_a_build_for_rocm_is_known_as_one(asker: Asker) -> None:
    assert asker.torch(StandinTorch(cuda=None, hip="6.4")).hip == "6.4"


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (
            StandinTorch(import_error="ImportError: libcudart.so.12: cannot open shared object file"),
            "ImportError: libcudart.so.12: cannot open shared object file",
        ),
        (StandinTorch(import_error="SystemExit: 3"), "SystemExit: 3"),
        (
            StandinTorch(import_error="ModuleNotFoundError: No module named 'sympy'"),
            "ModuleNotFoundError: No module named 'sympy'",
        ),
        (StandinTorch(import_hangs=True), "no answer within 1.5 s"),
        (StandinTorch(import_crashes=True), "killed by SIGSEGV in File "),
    ],
    ids=["library", "exit", "dependency", "hang", "crash"],
)
def test_an_import_that_fails_is_told_exactly(asker: Asker, spec: StandinTorch, error: str) -> None:
    build = asker.torch(spec, timeout=1.5 if spec.import_hangs else 30)
    assert build.import_error is not None
    assert build.import_error.startswith(error)
    assert build.is_installed
    assert build.version is None


def test_a_torch_that_prints_is_described_all_the_same(asker: Asker) -> None:
    assert asker.torch(StandinTorch(prints_on_import="hello {}")).version == "2.14.1"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("try:\n open('/no/lib.so')\nexcept OSError as e:\n try: raise ImportError('b') from e\n"
         " except ImportError as f: raise RuntimeError('c') from f", "FileNotFoundError: "),
        ("try:\n open('/no/lib.so')\nexcept OSError: raise ImportError('no libtorch')", "ImportError: no libtorch"),
    ],
    ids=["caused", "merely in the course of"],
)  # fmt: skip
def test_the_first_cause_of_an_import_error_is_the_one(asker: Asker, text: str, error: str) -> None:
    write_distribution(asker.site, "torch", "2.14.1", {"torch/__init__.py": text})
    assert (asker.torch().import_error or "").startswith(error)


def test_a_folder_that_an_uninstalled_torch_left_is_no_torch(asker: Asker) -> None:
    (asker.site / "torch" / "lib").mkdir(parents=True)
    build = asker.torch()
    assert not build.is_installed


@pytest.mark.parametrize(
    ("spec", "node", "error"),
    [
        (StandinTorch(), None, "RuntimeError: Found no NVIDIA driver on your system."),
        (StandinTorch(), EMPTY, "RuntimeError: No CUDA GPUs are available"),
        (StandinTorch(init_error="CUDA error: initialization error"), H100x8, "RuntimeError: CUDA error: init"),
        (StandinTorch(warns="CUDA initialization: Error 802"), H100x8, "RuntimeError: Error 802"),
        (StandinTorch(), A10Gx1, "RuntimeError: The NVIDIA driver on your system is too old (found version 12040)"),
        (StandinTorch(), H100x8.with_fault("nvmlInit_v2", 18), "RuntimeError: Unexpected error from cudaGetDevice"),
    ],
)
def test_why_torch_sees_no_device_is_told(asker: Asker, spec: StandinTorch, node: Node | None, error: str) -> None:
    build = asker.torch(spec, node)
    assert build.devices == ()
    assert (build.device_error or "").startswith(error)
    assert build.import_error is None
    assert build.arch_list == spec.arch_list


def test_the_answers_travel_as_json_and_come_back(asker: Asker) -> None:
    env = asker.gpu_env(H100_MIG.with_gpu_fault(0, "nvmlDeviceGetPciInfo_v3", 999))
    failed = GpuEnv(failure=NvmlFailure(9, "Driver Not Loaded"))
    build = TorchBuild("2.14", "13.0", devices=(TorchDevice("GPU-1", "T4", (7, 5), 1),), arch_list=("sm_75",))
    assert env.gpus[0].mig_devices
    for value in (env, failed, GpuEnv(gpus=(Gpu(0),))):
        assert GpuEnv.from_json(json.loads(json.dumps(value.to_json()))) == value
    for gpu in (*env.gpus, Gpu(3)):
        assert Gpu.from_json(json.loads(json.dumps(gpu.to_json()))) == gpu
    for one in (build, TorchBuild(), TorchBuild(import_error="ImportError: x")):
        assert TorchBuild.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_a_child_without_an_answer_is_a_failure_of_what_it_asked() -> None:
    assert nvml.from_answer(Answer(None, "it died")) == GpuEnv(failure=NvmlFailure(None, "it died"))
    assert nvml.from_answer(Answer(None)).failure == NvmlFailure(None, "no answer")
    assert torch_probe.from_answer(Answer(None, "it died")).import_error == "it died"


def test_a_machine_that_is_closed_leaves_no_child(plain_environment: Environment, tmp_path: Path) -> None:
    script = (
        "import subprocess\n"
        "from pytest_bionemo.probes.machine import Machine\n"
        "machine = Machine(60); machine.start(); machine.start()\n"
        "pids = [child._process.pid for child in machine._children.values()]\n"
        "machine.close()\n"
        "print(4 + bool(machine.shared_mounts), *pids)"
    )
    done = plain_environment.run(["-c", script], tmp_path)
    expected, *pids = [int(number) for number in done.stdout.split()]
    assert len(pids) == expected
    assert all(map(is_gone, pids))


# ---- CUDA_VISIBLE_DEVICES


A, B, C, D = (f"GPU-{letter * 8}-0000-0000-0000-000000000000" for letter in "abcd")
TWIN = "GPU-abababab-0000-0000-0000-000000000000"
MIG = "MIG-11111111-2222-3333-4444-555555555555"
FOUR = tuple(Gpu(index, uuid) for index, uuid in enumerate((A, B, C, D)))
SLICED = (
    Gpu(0, A, mig_enabled=True, mig_devices=(MigDevice(MIG, "3g", 1, 9, 0), MigDevice("MIG-12", "3g", 1, 5, 0))),
)


@pytest.mark.parametrize(
    ("value", "uuids", "problem"),
    [
        (None, (A, B, C, D), None),
        ("", (), "it is empty, which hides every GPU"),
        (",", (), "it is empty, which hides every GPU"),
        (",0", (), "its first entry is empty, which hides every GPU"),
        ("0,,1", (A,), "it has an empty entry, which hides those after it"),
        ("0,1,", (A, B), None),
        ("0,1,,", (A, B), None),
        (f"{B},-1,{A}", (B,), None),
        ("0,-1,all", (A,), None),
        ("-1,0", (), "-1 hides every GPU"),
        ("0,-2", (A,), "there is no GPU -2 (they are 0 to 3)"),
        ("NoDevFiles", (), "Slurm gave this job no GPU"),
        ("  ", (), "it is empty, which hides every GPU"),
        ("0", (A,), None),
        ("0,1", (A, B), None),
        ("1,0", (B, A), None),
        (" 1 , 0 ", (B, A), None),
        ("3", (D,), None),
        ("0,2,-1,1", (A, C), None),
        ("-1", (), "-1 hides every GPU"),
        ("9", (), "there is no GPU 9 (they are 0 to 3)"),
        ("0,9,1", (A,), "there is no GPU 9 (they are 0 to 3)"),
        ("0,0", (), "it names 0 twice, which hides every GPU"),
        ("1,2,1", (), "it names 1 twice, which hides every GPU"),
        (B, (B,), None),
        (f"{B},{A}", (B, A), None),
        ("GPU-b", (B,), None),
        (f"{A},GPU-c", (A, C), None),
        ("GPU-", (), "GPU- is the beginning of 4 devices' UUIDs"),
        ("GPU-e", (), "no device has the UUID GPU-e"),
        (f"{C},GPU-e,{A}", (C,), "no device has the UUID GPU-e"),
        (f"{A},GPU-a", (), "it names GPU-a twice, which hides every GPU"),
        (MIG, (), f"no device has the UUID {MIG}"),
        (f"0,{A}", (), "it mixes indices, GPU UUIDs and MIG UUIDs"),
        (f"{A},{MIG}", (), "it mixes indices, GPU UUIDs and MIG UUIDs"),
        (f"0,{MIG}", (), "it mixes indices, GPU UUIDs and MIG UUIDs"),
        ("all", (), "'all' is neither an index nor a UUID (GPU-..., MIG-...)"),
        ("0,all", (A,), "'all' is neither an index nor a UUID (GPU-..., MIG-...)"),
        ("--1", (), "'--1' is neither an index nor a UUID (GPU-..., MIG-...)"),
        ("\N{SUPERSCRIPT TWO}", (), "'\N{SUPERSCRIPT TWO}' is neither an index nor a UUID (GPU-..., MIG-...)"),
        ("0,", (A,), None),
        ("0;1", (), "'0;1' is neither an index nor a UUID (GPU-..., MIG-...)"),
    ],
)
def test_the_variable_leaves_what_cuda_would_leave(
    value: str | None, uuids: tuple[str, ...], problem: str | None
) -> None:
    seen = visible.read(FOUR, {} if value is None else {"CUDA_VISIBLE_DEVICES": value})
    assert (seen.value, seen.uuids, seen.problem) == (value, uuids, problem)


@pytest.mark.parametrize(
    ("value", "uuids", "problem"),
    [
        (MIG, (MIG,), None),
        ("MIG-11", (MIG,), None),
        ("MIG-1", (), "MIG-1 is the beginning of 2 devices' UUIDs"),
        ("MIG-9", (), "no device has the UUID MIG-9"),
        (f"MIG-{A}/9/0", (MIG,), None),
        (f"MIG-{A}/9/1", (), f"no MIG device is MIG-{A}/9/1"),
        (f"MIG-{B}/9/0", (), f"no MIG device is MIG-{B}/9/0"),
        (f"{MIG},MIG-12", (MIG, "MIG-12"), None),
        (f"{MIG},MIG-{A}/9/0", (), f"it names MIG-{A}/9/0 twice, which hides every GPU"),
        ("1", (), "there is no GPU 1 (there is only GPU 0)"),
    ],
)
def test_slices_are_named_in_both_forms(value: str, uuids: tuple[str, ...], problem: str | None) -> None:
    seen = visible.read(SLICED, {"CUDA_VISIBLE_DEVICES": value})
    assert (seen.uuids, seen.problem) == (uuids, problem)


def test_a_beginning_of_two_uuids_is_ambiguous() -> None:
    seen = visible.read((Gpu(0, A), Gpu(1, TWIN)), {"CUDA_VISIBLE_DEVICES": "GPU-a"})
    assert seen.problem == "GPU-a is the beginning of 2 devices' UUIDs"


def test_gpus_without_a_uuid_are_still_counted() -> None:
    silent = (Gpu(0), Gpu(1, B))
    assert visible.read(silent, {}).uuids == ("", B)
    assert visible.read(silent, {"CUDA_VISIBLE_DEVICES": "0,1"}).uuids == ("0", B)
    assert visible.read(silent, {"CUDA_VISIBLE_DEVICES": "GPU-b"}).uuids == (B,)
    assert visible.read((), {"CUDA_VISIBLE_DEVICES": "0"}).problem == "there is no GPU 0 (there is none at all)"


@pytest.mark.parametrize(
    ("value", "order", "exact"),
    [
        (None, None, True),
        ("", None, True),
        ("0,1", None, False),
        ("0,1", "FASTEST_FIRST", False),
        ("0,1", "PCI_BUS_ID", True),
        (" 1", None, False),
        ("0,9", None, False),
        (A, None, True),
        ("GPU-e", None, True),
    ],
)
def test_indices_are_exact_only_in_the_order_of_the_bus(value: str | None, order: str | None, exact: bool) -> None:
    named = {"CUDA_VISIBLE_DEVICES": value, "CUDA_DEVICE_ORDER": order}
    assert visible.read(FOUR, {name: text for name, text in named.items() if text is not None}).exact is exact


@pytest.mark.parametrize(
    ("environment", "indices"),
    [
        ({}, [0, 1]),
        ({"CUDA_VISIBLE_DEVICES": B}, [1]),
        ({"CUDA_VISIBLE_DEVICES": MIG}, [0]),
        ({"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, [0, 1]),  # only CUDA knows which is its 1
    ],
)
def test_the_gpus_behind_what_is_visible(environment: dict[str, str], indices: list[int]) -> None:
    gpus = (*SLICED, Gpu(1, B))
    assert [gpu.index for gpu in visible.holders(visible.read(gpus, environment), gpus)] == indices


def test_a_bare_uuid_has_no_kind() -> None:
    assert {visible.bare(f"{kind}AB-cd") for kind in ("GPU-", "MIG-", "")} == {"ab-cd"}


# ---- libraries on LD_LIBRARY_PATH


def put(path: Path, target: Path | None = None) -> Path:
    """A file, or a link to one, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if target is None:
        path.write_text("")
    else:
        path.symlink_to(target)
    return path


def search(monkeypatch: pytest.MonkeyPatch, *folders: Path | str) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", ":".join(map(str, folders)))


def test_a_libcuda_on_the_path_is_found_with_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = put(tmp_path / "compat" / "libcuda.so.570.133.20")
    path = put(tmp_path / "compat" / "libcuda.so.1", real)
    search(monkeypatch, "", tmp_path / "nowhere", tmp_path / "compat", tmp_path)
    assert libraries.libcuda() == libraries.CudaLibrary(path, "570.133.20", False)


def test_the_first_libcuda_on_the_path_is_the_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, version in (("a", "550.54.14"), ("b", "580.95")):
        put(tmp_path / name / "libcuda.so.1", put(tmp_path / name / f"libcuda.so.{version}"))
    put(tmp_path / "dangling" / "libcuda.so.1", tmp_path / "gone")
    search(monkeypatch, tmp_path / "dangling", tmp_path / "b", tmp_path / "a")
    found = libraries.libcuda()
    assert found is not None
    assert found.version == "580.95"


@pytest.mark.parametrize(
    ("target", "version", "is_stub"),
    [
        ("lib64/stubs/libcuda.so", None, True),
        ("lib64/libcuda.so", None, False),
        ("compat/libcuda.so.1.1", None, False),
        ("compat/libcuda.so.545", None, False),
    ],
)
def test_a_libcuda_is_judged_by_the_file_it_leads_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, version: str | None, is_stub: bool
) -> None:
    path = put(tmp_path / "first" / "libcuda.so.1", put(tmp_path / target))
    search(monkeypatch, tmp_path / "first")
    assert libraries.libcuda() == libraries.CudaLibrary(path, version, is_stub)


def test_without_a_libcuda_on_the_path_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "libcuda.so")
    search(monkeypatch, tmp_path)
    assert libraries.libcuda() is None
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert libraries.libcuda() is None
    assert libraries.search_path() == ()


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site folder with two NVIDIA wheels and one of somebody else."""
    site = tmp_path / "site"
    site.mkdir()
    files = {"nvidia/cublas/lib/libcublas.so.12": "wheel", "nvidia/cublas/lib/libnvblas.so.12": "wheel",
             "nvidia/cublas/include/cublas.h": ""}  # fmt: skip
    write_distribution(site, "nvidia-cublas-cu12", "12.8.4.1", files)
    write_distribution(site, "NVIDIA-NCCL-cu12", "2.27.5", {"nvidia/nccl/lib/libnccl.so.2": "wheel"})
    write_distribution(site, "somebody", "1.0", {"somebody/libcudart.so.12": "", "somebody/libcublas.so.12": ""})
    monkeypatch.syspath_prepend(site)
    return site


def test_a_foreign_library_before_a_wheel_is_a_shadow(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cublas = put(tmp_path / "cuda" / "libcublas.so.12")
    nccl = put(tmp_path / "ours" / "libnccl.so.2")
    for harmless in ("libcudart.so.12", "cublas.h", "libcublas.so"):
        put(tmp_path / "cuda" / harmless)
    put(tmp_path / "ours" / "libcublas.so.12")
    search(monkeypatch, tmp_path / "cuda", tmp_path / "ours")
    assert sorted(libraries.shadows(), key=lambda shadow: shadow.library) == [
        libraries.Shadow("nvidia-cublas-cu12 12.8.4.1", "libcublas.so.12", cublas),
        libraries.Shadow("NVIDIA-NCCL-cu12 2.27.5", "libnccl.so.2", nccl),
    ]


def test_a_path_to_the_wheels_own_library_shadows_nothing(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "links" / "libnccl.so.2", wheels / "nvidia/nccl/lib/libnccl.so.2")
    search(monkeypatch, wheels / "nvidia/cublas/lib", tmp_path / "links", tmp_path)
    assert libraries.shadows() == ()
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert libraries.shadows() == ()


# ---- the CUDA toolkit


def write_nvcc(folder: Path, script: str) -> Path:
    path = folder / "bin" / "nvcc"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def nvcc_of(release: str) -> str:
    return f'echo "NVIDIA (R) Cuda compiler driver"; echo "Cuda compilation tools, release {release}, V{release}.48"'


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No variable leads to a toolkit."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return monkeypatch


def test_the_toolkit_is_found_in_the_order_of_torch(tmp_path: Path, bare: pytest.MonkeyPatch) -> None:
    homes = {name: write_nvcc(tmp_path / name, nvcc_of(release)) for name, release in
             {"on_path": "12.1", "cuda_path": "12.8", "cuda_home": "13.0"}.items()}  # fmt: skip
    bare.setenv("PATH", f"{homes['on_path'].parent}:/usr/bin:/bin")
    assert toolkit.find() == toolkit.Toolkit(str(homes["on_path"]), "PATH", "12.1")
    bare.setenv("CUDA_PATH", str(tmp_path / "cuda_path"))
    assert toolkit.find() == toolkit.Toolkit(str(homes["cuda_path"]), "CUDA_PATH", "12.8")
    bare.setenv("CUDA_HOME", str(tmp_path / "cuda_home"))
    assert toolkit.find() == toolkit.Toolkit(str(homes["cuda_home"]), "CUDA_HOME", "13.0")
    bare.setenv("CUDA_HOME", "")
    found = toolkit.find()
    assert found is not None
    assert found.named_by == "CUDA_PATH"


def test_without_a_hint_the_default_folder_decides(bare: pytest.MonkeyPatch) -> None:
    default = Path("/usr/local/cuda/bin/nvcc")
    found = toolkit.find()
    assert (found.nvcc if found else None) == (str(default) if default.exists() else None)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("echo broken >&2; exit 3", "returned non-zero exit status 3."),
        ("echo not a compiler", "not a compiler"),
        (r"printf '\377\376 release'", "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} release"),
        ("true", ""),
        ("exec sleep 60", "timed out after 0.3 seconds"),
    ],
    ids=["fails", "garbage", "no text", "silent", "hangs"],
)
def test_an_nvcc_that_does_not_work_is_told_with_its_error(
    tmp_path: Path, bare: pytest.MonkeyPatch, script: str, error: str
) -> None:
    bare.setattr(toolkit, "_DEADLINE_S", 0.3)
    nvcc = write_nvcc(tmp_path, script)
    bare.setenv("CUDA_HOME", str(tmp_path))
    found = toolkit.find()
    assert found is not None
    assert (found.nvcc, found.named_by, found.cuda) == (str(nvcc), "CUDA_HOME", None)
    assert found.error is not None
    assert found.error.endswith(error)


def test_a_variable_that_names_no_toolkit_is_told(tmp_path: Path, bare: pytest.MonkeyPatch) -> None:
    bare.setenv("CUDA_HOME", str(tmp_path))
    found = toolkit.find()
    assert found is not None
    assert (found.cuda, found.named_by) == (None, "CUDA_HOME")
    assert "No such file" in (found.error or "")


def test_the_deadline_of_nvcc_is_short() -> None:
    assert toolkit._DEADLINE_S <= 10


# ---- the host


HOST = "dataclasses.asdict(host.read())"


@pytest.mark.parametrize(("said", "glibc"), [("glibc 2.17", "2.17"), ("none", None), ("musl 1.2", None), ("", None)])
def test_the_c_library_is_named_if_it_is_glibc(asker: Asker, said: str, glibc: str | None) -> None:
    assert asker.ask("host.glibc()", env=asker.libraries.on_host(glibc=said)) == glibc


def test_the_host_is_what_its_kernel_says(asker: Asker) -> None:
    seen = asker.ask(HOST, env=asker.libraries.on_host(sysname="Darwin", machine="aarch64"))
    assert not host.read().is_wsl
    assert (seen["system"], seen["machine"]) == ("Darwin", "aarch64")
    assert seen["hostname"] == os.uname().nodename
    assert seen["kernel"] == os.uname().release
    assert seen["python"] == sys.version.split()[0].rstrip("+")


def test_linux_inside_windows_has_no_bus_to_look_at(asker: Asker) -> None:
    there = asker.libraries.on_host(release="5.15.167.4-microsoft-standard-WSL2")
    assert asker.ask("[host.read().is_wsl, host.read().pci_gpus]", env=there) == [True, None]


def test_a_machine_keeps_the_variables_of_its_children(asker: Asker) -> None:
    write_torch(asker.site, StandinTorch())
    script = (
        "[os.environ.update(CUDA_VISIBLE_DEVICES='0', LD_LIBRARY_PATH='/elsewhere'), "
        "[machine.variables, len(machine.torch_build.devices), Machine.from_json(machine.to_json()).variables]][1]"
    )
    expression = f"(lambda os, machine: {script})(__import__('os'), Machine(30))"
    env = {"CUDA_VISIBLE_DEVICES": "2,1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "SECRET_TOKEN": "x"}
    variables, devices, carried = asker.ask(expression, H100x8, env)
    folder = str(asker.libraries.driver_folder)
    assert variables == carried == {
        "CUDA_VISIBLE_DEVICES": "2,1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "LD_LIBRARY_PATH": folder,
    }  # fmt: skip
    assert devices == 2


CONTAINERS: dict[str, tuple[dict[str, str], dict[str, str], str | None]] = {
    "none": ({}, {}, None),
    "a host": ({}, {"proc/1/cgroup": "0::/init.scope\n"}, None),
    "docker": ({}, {".dockerenv": ""}, "docker"),
    "podman": ({}, {"run/.containerenv": ""}, "podman"),
    "systemd": ({}, {"run/systemd/container": "systemd-nspawn\n"}, "systemd-nspawn"),
    "empty systemd": ({}, {"run/systemd/container": "\n"}, None),
    "kubernetes": ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {".dockerenv": ""}, "kubernetes"),
    "apptainer": ({"APPTAINER_CONTAINER": "x.sif"}, {}, "apptainer"),
    "singularity": ({"SINGULARITY_CONTAINER": "x.sif"}, {}, "singularity"),
    "pod by cgroup": ({}, {"proc/1/cgroup": "0::/kubepods.slice/docker-1"}, "kubernetes"),
    "docker by cgroup": ({}, {"proc/1/cgroup": "12:memory:/docker/4f5e"}, "docker"),
    "containerd by cgroup": ({}, {"proc/1/cgroup": "0::/system.slice/containerd/1"}, "containerd"),
    "lxc by cgroup": ({}, {"proc/1/cgroup": "0::/lxc/box"}, "lxc"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_kind_of_container_is_known(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables, files, kind = CONTAINERS[name]
    for variable in ("KUBERNETES_SERVICE_HOST", "APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    for path, text in files.items():
        put(tmp_path / path).write_text(text)
    assert host.container(tmp_path) == kind


@pytest.mark.parametrize(
    ("devices", "count"),
    [
        ([], 0),
        ([("0x10de", "0x030200"), ("0x10de", "0x030000")], 2),
        ([("0x10de", "0x040300"), ("0x10de", "0x068000"), ("0x1002", "0x030000"), ("0x8086", "0x060400")], 0),
        ([("0x10de", None), ("0x10de", "0x030200")], 1),
    ],
    ids=["empty", "gpus", "others", "unreadable"],
)
def test_gpus_on_the_bus_are_counted(tmp_path: Path, devices: list[tuple[str, str | None]], count: int) -> None:
    bus = tmp_path / "sys/bus/pci/devices"
    bus.mkdir(parents=True)
    for number, (vendor, kind) in enumerate(devices):
        put(bus / f"0000:0{number}:00.0" / "vendor").write_text(f"{vendor}\n")
        if kind is not None:
            put(bus / f"0000:0{number}:00.0" / "class").write_text(f"{kind}\n")
    assert host.pci_gpus(tmp_path) == count


def test_without_a_bus_nobody_can_say_how_many_gpus_are_there(tmp_path: Path) -> None:
    assert host.pci_gpus(tmp_path) is None


# ---- installed distributions


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed distributions, first on sys.path."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


FILES = {
    "bionemo/core/__init__.py": "",
    "bionemo/core/a, b.py": "",
    "bionemo/core/_native.so": "",
    "bionemo/core/data.yaml": "a: 1",
    "bionemo/core/tests/test_it.py": "",
}


def test_a_package_that_is_not_installed_is_not_found(site: Path) -> None:
    assert packages.find("bionemo-core") is None
    assert packages.version("bionemo-core") is None


def test_a_whole_package_lacks_nothing(site: Path) -> None:
    write_distribution(site, "bionemo-core", "2.4.5", FILES, ">=3.10")
    assert packages.find("bionemo-core") == packages.Package("bionemo-core", "2.4.5", ">=3.10", (), ())
    assert packages.version("bionemo-core") == "2.4.5"


def test_a_package_may_be_made_for_any_python(site: Path) -> None:
    write_distribution(site, "bionemo-core", "2.4.5", FILES)
    found = packages.find("bionemo-core")
    assert found is not None
    assert found.requires_python is None


@pytest.mark.parametrize("gone", FILES)
def test_a_module_that_is_gone_is_missed(site: Path, gone: str) -> None:
    write_distribution(site, "bionemo-core", "2.4.5", FILES)
    remove_file(site, "bionemo-core", gone)
    found = packages.find("bionemo-core")
    assert found is not None
    # Images leave out tests and data to be small.
    assert found.missing == (() if "tests" in gone or gone.endswith(".yaml") else (gone,))


def test_every_module_that_is_gone_is_missed(site: Path) -> None:
    write_distribution(site, "bionemo-core", "2.4.5", FILES)
    for gone in ("bionemo/core/_native.so", "bionemo/core/__init__.py"):
        remove_file(site, "bionemo-core", gone)
    found = packages.find("bionemo-core")
    assert found is not None
    assert found.missing == ("bionemo/core/__init__.py", "bionemo/core/_native.so")


def test_a_package_without_a_list_of_files_lacks_none(site: Path) -> None:
    info = write_distribution(site, "bionemo-core", "2.4.5", FILES)
    (info / "RECORD").unlink()
    found = packages.find("bionemo-core")
    assert found is not None
    assert found.missing == ()


def test_the_rest_of_an_interrupted_installation_is_named_with_its_version(site: Path) -> None:
    for version in ("2.4.5", "2.4.4"):
        write_distribution(site, "bionemo-core", version, {f"bionemo/core/of_{version.replace('.', '_')}.py": ""})
    found = packages.find("bionemo-core")
    assert found is not None
    assert {found.version, *found.duplicates} == {"2.4.4", "2.4.5"}
    assert len(found.duplicates) == 1


def test_a_package_in_a_later_folder_is_a_layer_and_no_duplicate(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_distribution(site, "bionemo-core", "2.4.4", FILES)
    write_distribution(other, "bionemo-core", "2.4.5", FILES)
    monkeypatch.setattr(sys, "path", [*sys.path, str(other), str(site)])
    found = packages.find("bionemo-core")
    assert found is not None
    assert (found.version, found.duplicates) == ("2.4.4", ())


def test_a_package_whose_metadata_are_gone_has_no_version(site: Path) -> None:
    info = write_distribution(site, "bionemo-core", "2.4.5", FILES)
    (info / "METADATA").unlink()
    found = packages.find("bionemo-core")
    assert found is not None
    assert (found.version, found.requires_python) == (None, None)


def test_wheels_for_cuda_are_known_by_suffix_or_by_their_runtime(site: Path) -> None:
    for name, version in {
        "nvidia-cublas-cu12": "12.8.4.1",
        "transformer_engine_cu12": "2.9.0",
        "Cupy.Cuda-cu11": "13.0",
        "nvidia-cuda-runtime": "13.0.96",
        "nvidia-cufft": "12.0.0.61",
        "nvidia_nvtx": "13.0.85",
        "nvidia-ml-py": "13.580.82",
        "nvidia-modelopt": "0.37",
        "curious-cu1": "1.0",
        "focus": "1.0",
    }.items():
        write_distribution(site, name, version)
    found = {name: major for name, major in packages.cuda_majors().items() if name not in installed_here(site)}
    assert found == {
        "nvidia-cublas-cu12": 12,
        "transformer-engine-cu12": 12,
        "cupy-cuda-cu11": 11,
        "nvidia-cuda-runtime": 13,
        "nvidia-cufft": 13,
        "nvidia-nvtx": 13,
    }


def test_wheels_without_a_suffix_say_nothing_without_their_runtime(site: Path) -> None:
    write_distribution(site, "nvidia-cufft", "12.0.0.61")
    if packages.version("nvidia-cuda-runtime") is None:
        assert "nvidia-cufft" not in packages.cuda_majors()


def test_a_runtime_without_a_readable_version_is_survived(site: Path) -> None:
    info = write_distribution(site, "nvidia-cuda-runtime", "13.0.96")
    write_distribution(site, "nvidia-cufft", "12.0.0.61")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nvidia-cuda-runtime\n")
    assert "nvidia-cufft" not in packages.cuda_majors()


def installed_here(site: Path) -> set[str]:
    """The distributions of the environment that runs the tests."""
    others = [entry for entry in sys.path if entry != str(site)]
    return {found.metadata["Name"].lower() for found in metadata.distributions(path=others)}


def test_a_child_that_cannot_be_started_is_an_answer_too() -> None:
    script = """
import resource
from pytest_bionemo.probes.child import Child
resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5))
child = Child("pytest_bionemo.probes.nvml:read", 10)
child.close()
print(child.answer().failure)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "its process could not be started: [Errno 24] Too many open files"
