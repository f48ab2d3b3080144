"""The fixture gpu_env in somebody else's test suite, where nobody asked for a validation."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import REPORT, Rig
from pytest_bionemo.model import Gpu, GpuEnv, NvmlFailure
from standin import H100_MIG, H100x8, Node

SUITE = """
import sys
from pathlib import Path

def test_it_is_what_the_driver_says(gpu_env):
    assert gpu_env.has_driver
    assert len(gpu_env.gpus) == 8
    assert gpu_env.gpus[0].name == "NVIDIA H100 80GB HBM3"
    assert gpu_env.capabilities == ((9, 0),)
    assert repr(gpu_env) == "<GpuEnv: 8 GPUs (NVIDIA H100 80GB HBM3), driver 580.95.05>"

def test_it_is_the_same_for_every_test(gpu_env, request):
    assert request.getfixturevalue("gpu_env") is gpu_env

def test_it_is_frozen(gpu_env):
    try:
        gpu_env.driver = "1"
    except AttributeError:
        return
    raise AssertionError("it can be changed")

def test_nothing_was_imported_here(gpu_env):
    assert not {"torch", "pynvml", "pytest_bionemo.validation", "pytest_bionemo.suite"} & set(sys.modules)
"""

# Notes every interpreter that is started, with its arguments.
NOTE_STARTS = """
import os, sys
with open(os.environ["STARTS"], "a") as starts:
    starts.write(" ".join(sys.orig_argv) + "\\n")
"""


def noting_starts(rig: Rig) -> Path:
    rig.site.joinpath("sitecustomize.py").write_text(NOTE_STARTS)
    rig.variables["STARTS"] = str(rig.folder / "starts")
    return rig.folder / "starts"


def test_a_suite_sees_the_gpus_through_one_child(rig: Rig) -> None:
    starts = noting_starts(rig)
    rig.node = H100x8
    rig.write("test_user.py", SUITE)
    run = rig.pytest("-q", "-W", "error")
    assert run.returncode == 0, run.stdout
    assert "4 passed" in run.stdout
    probes = [line for line in starts.read_text().splitlines() if "pytest_bionemo.probes" in line]
    assert len(probes) == 1
    assert "pytest_bionemo.probes.nvml:read" in probes[0]


def test_no_report_is_written_and_no_verdict_given(rig: Rig) -> None:
    rig.node = H100x8
    rig.write("test_user.py", SUITE)
    run = rig.pytest("-p", "no:cacheprovider")
    assert not (rig.project / REPORT).exists()
    assert sorted(path.name for path in rig.project.iterdir() if path.name != "__pycache__") == ["test_user.py"]
    assert "readiness" not in run.stdout
    assert "bionemo: level" not in run.stdout


def test_a_suite_that_does_not_use_it_starts_no_child(rig: Rig) -> None:
    starts = noting_starts(rig)
    rig.write("test_user.py", "def test_of_the_user(): pass")
    assert rig.pytest("-q").returncode == 0
    assert "pytest_bionemo.probes" not in starts.read_text()


@pytest.mark.parametrize(
    ("node", "code", "text"),
    [
        (None, 12, "NVML Shared Library Not Found"),
        (H100x8.with_fault("nvmlInit_v2", 9), 9, "Driver Not Loaded"),
        (H100x8.with_fault("nvmlDeviceGetCount_v2", "hang"), None, "no answer within 1.5 s"),
    ],
    ids=["no library", "no driver", "hang"],
)
def test_without_a_driver_it_says_why(rig: Rig, node: Node | None, code: int | None, text: str) -> None:
    rig.node = node
    rig.write(
        "test_user.py",
        "def test_of_the_user(gpu_env):\n"
        "    assert not gpu_env.has_driver\n"
        "    assert gpu_env.gpus == ()\n"
        f"    assert (gpu_env.failure.code, gpu_env.failure.text) == ({code!r}, {text!r})\n"
        f"    assert repr(gpu_env) == '<GpuEnv: no NVIDIA driver answers ({text})>'\n",
    )
    run = rig.pytest("-q", "--bionemo-timeout", "1.5" if code is None else "60")
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=str)
def test_it_can_decide_what_a_suite_skips(rig: Rig, arguments: tuple[str, ...]) -> None:
    rig.node = H100_MIG
    rig.write(
        "test_user.py",
        "import pytest\n"
        "@pytest.mark.parametrize('number', range(4))\n"
        "def test_on_two_gpus(gpu_env, number):\n"
        "    if len(gpu_env.gpus) < 2:\n"
        "        pytest.skip(gpu_env.describe())\n",
    )
    run = rig.pytest("-rs", *arguments)
    assert run.returncode == 0
    assert "4 skipped" in run.stdout
    assert "1 GPU (NVIDIA H100 80GB HBM3), driver 580.95.05" in " ".join(run.stdout.split())


def test_its_manual_is_one_command_away(rig: Rig) -> None:
    run = rig.pytest("--fixtures")
    text = " ".join(run.stdout.split())
    assert "gpu_env [session scope]" in text
    assert "What the NVIDIA driver says about this machine" in text


def test_a_suite_may_have_a_gpu_env_of_its_own(rig: Rig) -> None:
    rig.write("conftest.py", "import pytest\n@pytest.fixture\ndef gpu_env(): return 'ours'")
    rig.write("test_user.py", "def test_of_the_user(gpu_env): assert gpu_env == 'ours'")
    starts = noting_starts(rig)
    assert rig.pytest("-q").returncode == 0
    assert "pytest_bionemo.probes" not in starts.read_text()


# ----------------------------------------------------------------------------------------------- what it compares

T4 = Gpu(0, "GPU-t4", "Tesla T4", memory_bytes=16_106_127_360, free_memory_bytes=10**9, compute_capability=(7, 5))
H100 = Gpu(1, "GPU-h100", "NVIDIA H100", memory_bytes=85_520_809_984, free_memory_bytes=85 * 10**9,
           compute_capability=(9, 0))  # fmt: skip
SILENT = Gpu(2, errors={"nvmlDeviceGetHandleByIndex": "GPU is lost"})
HERE = GpuEnv(driver="580.95.05-open", cuda_driver="13.0", gpus=(T4, H100, SILENT))
NOWHERE = GpuEnv(failure=NvmlFailure(12, "NVML Shared Library Not Found"))


@pytest.mark.parametrize(
    ("specifier", "driver", "cuda"),
    [(">=580", True, False), (">=580.95.05,<590", True, False), (">=1000", False, False), ("==13.*", False, True)],
)
def test_versions_compare_as_versions(specifier: str, driver: bool, cuda: bool) -> None:
    assert (HERE.driver_is(specifier), HERE.cuda_is(specifier)) == (driver, cuda)
    assert not NOWHERE.driver_is(specifier)
    assert not NOWHERE.cuda_is(specifier)


def test_gpus_are_chosen_by_all_that_is_asked_of_them() -> None:
    assert HERE.gpus_with() == (T4, H100, SILENT)
    assert HERE.gpus_with(min_memory_gb=16) == (T4, H100)
    assert HERE.gpus_with(min_memory_gb=16.2) == (H100,)
    assert HERE.gpus_with(free_memory_gb=2) == (H100,)
    assert HERE.gpus_with(compute_capability=">=7.5,<9") == (T4,)
    assert HERE.gpus_with(dtype="fp16") == (T4, H100)
    assert HERE.gpus_with(dtype="bf16") == (H100,)
    assert HERE.gpus_with(min_memory_gb=16, dtype="nvfp4") == ()
    assert NOWHERE.gpus_with(min_memory_gb=1) == ()


def test_what_cannot_be_compared_is_refused_even_where_there_is_nothing_to_compare() -> None:
    for env in (HERE, NOWHERE):
        with pytest.raises(ValueError, match=r"'580' is not a specifier such as '>=8\.0'"):
            env.driver_is("580")
        with pytest.raises(ValueError, match="'' is not a specifier"):
            env.cuda_is("")
        with pytest.raises(ValueError, match=r"'8\.0' is not a specifier"):
            env.gpus_with(compute_capability="8.0")
        with pytest.raises(ValueError, match=r"no rule for the format 'bfloat16'\. Choose from: fp16, bf16, tf32"):
            env.gpus_with(dtype="bfloat16")


def test_what_a_failed_comparison_shows_is_what_there_is(rig: Rig) -> None:
    rig.node = H100x8
    rig.write(
        "test_user.py",
        "def test_driver(gpu_env): assert gpu_env.driver_is('>=590')\n"
        "def test_memory(gpu_env): assert gpu_env.gpus_with(min_memory_gb=100)\n"
        "def test_gpus(gpu_env): assert gpu_env.gpus[:1] == ()\n",
    )
    run = rig.pytest("-q")
    assert run.returncode == 1
    assert "<GpuEnv: 8 GPUs (NVIDIA H100 80GB HBM3), driver 580.95.05>.driver_is" in run.stdout
    assert "<GpuEnv: 8 GPUs (NVIDIA H100 80GB HBM3), driver 580.95.05>.gpus_with" in run.stdout
    assert "<Gpu 0: NVIDIA H100 80GB HBM3, 85.5 GB, compute capability 9.0>" in run.stdout
    assert repr(SILENT) == "<Gpu 2: unreadable>"
