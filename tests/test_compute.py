"""Devices at work: which there are, what becomes of a workload without an answer, and numbers in the report."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from conftest import REPORT, Rig, assert_valid
from faults import proves
from pytest_bionemo.compute import Compute, ComputeDevice, devices_of
from pytest_bionemo.model import Gpu, GpuEnv, MigDevice
from pytest_bionemo.options import Options
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.torch_build import TorchBuild, TorchDevice
from pytest_bionemo.worker import Device, Workers
from standin.torch_package import StandinTorch

COMPUTES = "torch::computes"
WHOLE = Gpu(0, "GPU-a", "NVIDIA H100 80GB HBM3", memory_bytes=1 << 36, compute_capability=(9, 0))
SLICES = (MigDevice("MIG-x", "NVIDIA H100 MIG 3g.40gb", 1 << 35), MigDevice("MIG-y", "NVIDIA H100 MIG 3g.40gb", 1))
SLICED = replace(WHOLE, index=1, uuid="GPU-b", mig_enabled=True, mig_devices=SLICES)
SILENT = replace(WHOLE, index=2, uuid=None)


# ---- which devices there are


def devices(
    gpus: tuple[Gpu, ...], variables: Mapping[str, str] | None = None, **options: Any
) -> list[tuple[str, str]]:
    """Names and labels; torch sees the GPUs in the opposite order."""
    seen = [TorchDevice(gpu.uuid, "", (9, 0), 0) for gpu in reversed(gpus)]
    machine = SimpleNamespace(
        gpu_env=GpuEnv("580.95.05", gpus=gpus), variables=variables or {}, torch_build=TorchBuild(devices=tuple(seen))
    )
    settings = Options(True, "standard", "cuda", "install", REPORT, 60.0, None)
    found = devices_of(cast(Machine, machine), settings._replace(**options))
    return [(device.name, device.label) for device in found]


def test_each_gpu_is_a_device() -> None:
    other = replace(WHOLE, index=1, uuid="GPU-b")
    assert devices((WHOLE, other)) == [("gpu0", "GPU-a"), ("gpu1", "GPU-b")]


def test_a_gpu_in_mig_mode_gives_its_slices() -> None:
    assert devices((WHOLE, SLICED)) == [("gpu0", "GPU-a"), ("gpu1-mig0", "MIG-x"), ("gpu1-mig1", "MIG-y")]


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("GPU-a", ["gpu0"]),
        ("MIG-y", ["gpu1-mig1"]),
        ("GPU-b", ["gpu1-mig0", "gpu1-mig1"]),
        ("", []),
        ("GPU-unknown", []),
    ],
)
def test_only_visible_devices_are_used(value: str, names: list[str]) -> None:
    found = devices((WHOLE, SLICED), {"CUDA_VISIBLE_DEVICES": value})
    assert [name for name, _ in found] == names


def test_indices_are_those_of_cuda() -> None:
    other = replace(WHOLE, index=1, uuid="GPU-b")
    by_bus = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert devices((WHOLE, other), by_bus) == [("gpu1", "GPU-b")]
    # Which GPU is CUDA's first is told by torch alone.
    assert devices((WHOLE, other), {"CUDA_VISIBLE_DEVICES": "0,1"}) == [("gpu1", "GPU-b"), ("gpu0", "GPU-a")]


def test_a_gpu_that_does_not_say_who_it_is_stays_in_the_list() -> None:
    assert devices((WHOLE, SILENT)) == [("gpu0", "GPU-a"), ("gpu2", "gpu2")]


@pytest.mark.parametrize(("expected", "names"), [(None, ["cpu0"]), (3, ["cpu0", "cpu1", "cpu2"])])
def test_a_rehearsal_has_as_many_devices_as_it_is_told(expected: int | None, names: list[str]) -> None:
    assert [name for name, _ in devices((WHOLE,), device="cpu", expect_gpus=expected)] == names


def test_a_worker_of_a_gpu_never_falls_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_bionemo.workloads import device

    variables = ComputeDevice("gpu0", "GPU-a", WHOLE).device.variables
    monkeypatch.setenv("PYTEST_BIONEMO_DEVICE", variables["PYTEST_BIONEMO_DEVICE"])
    assert device().type == "cuda"
    assert variables["CUDA_VISIBLE_DEVICES"] == "GPU-a"


# ---- a workload without an answer

SECOND_PRODUCT = """
multiply, calls = torch.Tensor.__matmul__, []
def faulty(a, b):
    calls.append(1)
    if len(calls) > 1:
        {fault}
    return multiply(a, b)
torch.Tensor.__matmul__ = faulty
"""
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20)); torch.zeros(1 << 24)"
TROUBLES = {
    "killed": ("import os; os.kill(os.getpid(), 9)", r"the workload smoke:run died: killed by SIGKILL", "oom"),
    "crashed": ("import os; os.kill(os.getpid(), 11)", r"smoke:run died: killed by SIGSEGV", "reinstall PyTorch"),
    "hung at its start": ("import time; time.sleep(600)", r"gave no answer within 20 s and was killed", "timeout"),
    "out of memory": (
        f"torch.tensor = lambda *a, **k: exec({LIMIT!r})",
        r"smoke:run ran out of memory: .*allocate",
        "more memory",
    ),
    "a library in pieces": (
        "torch.tensor = lambda *a, **k: torch._C._fail() if 0 else (_ for _ in ()).throw("
        "RuntimeError('CUBLAS_STATUS_NOT_INITIALIZED when calling cublasCreate(handle)'))",
        r"failed in a CUDA library: RuntimeError: CUBLAS_STATUS_NOT_INITIALIZED",
        "LD_LIBRARY_PATH",
    ),
}


TROUBLE_ROWS = [
    pytest.param(*trouble, id=name, marks=proves("torch::computes", f"the worker is {name}", "process"))
    for name, trouble in TROUBLES.items()
]


@pytest.mark.parametrize(("code", "message", "fix"), TROUBLE_ROWS)
def test_a_worker_in_trouble_is_a_finding(compute_rig: Rig, code: str, message: str, fix: str) -> None:
    compute_rig.spoil_workers(code, "cpu1")
    run = compute_rig.rehearse("bionemo/torch::computes", "--bionemo-expect-gpus=2", "--bionemo-timeout=20")
    assert run.outcome(f"{COMPUTES}[cpu0]") == "passed", run.stdout
    finding = run.finding(f"{COMPUTES}[cpu1]")
    assert finding["device"] == "cpu1"
    assert finding["message"].startswith("cpu1: the workload smoke:run")
    assert re.search(message, finding["message"]), finding["message"]
    assert fix in "\n".join(finding["fix"])
    assert run.verdict == "BLOCKED"


@proves("torch::computes", "a product is wrong", "kernel")
def test_a_wrong_product_is_found_at_once(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(
        "multiply = torch.Tensor.__matmul__\n"
        "def faulty(a, b):\n    result = multiply(a, b)\n    result[3, 5] += 1\n    return result\n"
        "torch.Tensor.__matmul__ = faulty"
    )
    finding = compute_rig.rehearse("bionemo/torch::computes").finding(f"{COMPUTES}[cpu0]")
    assert finding["message"].startswith("cpu0: 1 of 4096 elements")


THEIRS = """
import pytest
from pytest_bionemo import check, fail

@check(level="standard")
def works(worker):
    \"\"\"A check that asks for a worker.\"\"\"
    worker.run("smoke:run", **{parameters})
"""


def with_checks(rig: Rig, name: str, text: str) -> str:
    """A topic of the project's own; returns its id."""
    rig.write(f"{name}.py", text)
    rig.write("conftest.py", f"import sys\nsys.path.insert(0, {str(rig.project)!r})\n"
                             f"def pytest_bionemo_checks(config):\n    return [{name!r}]\n")  # fmt: skip
    return f"bionemo/{name}"


def test_what_rests_on_a_device_that_does_not_compute_waits_for_it(compute_rig: Rig) -> None:
    topic = with_checks(compute_rig, "theirs", THEIRS.format(parameters={}))
    compute_rig.spoil_workers("import os; os.kill(os.getpid(), 9)", "cpu1")
    run = compute_rig.rehearse(topic, "bionemo/torch::computes", "--bionemo-expect-gpus=2")
    assert run.outcome("theirs::works[cpu0]") == "passed"
    assert run.gap("theirs::works[cpu1]")["waits_for"] == "bionemo/torch::computes[cpu1]"
    assert run.blockers == [f"{COMPUTES}[cpu1]"]


def test_a_workload_that_breaks_off_with_an_error_of_its_own_is_no_finding(compute_rig: Rig) -> None:
    topic = with_checks(compute_rig, "theirs", THEIRS.format(parameters={"no_such": 1}))
    run = compute_rig.rehearse(topic, "bionemo/torch::computes")
    assert "smoke:run on cpu0: TypeError" in run.gap("theirs::works[cpu0]")["reason"]
    assert run.verdict == "INCONCLUSIVE"


def test_a_workload_that_returns_nothing_is_an_error_that_names_it(compute_rig: Rig) -> None:
    topic = with_checks(compute_rig, "theirs", THEIRS.replace("smoke:run", "smoke:_nothing").format(parameters={}))
    compute_rig.spoil_workers("import pytest_bionemo.workloads.smoke as s; s._nothing = lambda: None")
    run = compute_rig.rehearse(topic, "bionemo/torch::computes")
    reason = run.gap("theirs::works[cpu0]")["reason"]
    assert "smoke:_nothing on cpu0: it returned None, not numbers by name" in reason


@proves("numerics::products_are_exact", "a workload hangs", "process")
def test_a_hang_in_the_middle_is_named_and_the_run_goes_on(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(SECOND_PRODUCT.format(fault="import time; time.sleep(600)"))
    product, memory = "numerics::products_are_exact[cpu0-fp32]", "numerics::memory_holds_patterns[cpu0]"
    ids = [f"bionemo/{check}" for check in (f"{COMPUTES}[cpu0]", product, memory)]
    run = compute_rig.rehearse(*ids, "--bionemo-timeout=20")
    assert run.blockers == [product]
    assert run.finding(product)["message"] == (
        "cpu0: the workload exact_gemm:run gave no answer within 20 s and was killed"
    )
    assert [run.outcome(check) for check in (f"{COMPUTES}[cpu0]", memory)] == ["passed", "passed"]


def test_a_torch_that_only_says_that_it_sees_gpus_is_never_ready(healthy_rig: Rig) -> None:
    run = healthy_rig.validate("--bionemo-level=standard", "bionemo/torch")
    assert run.verdict == "INCONCLUSIVE"
    assert "smoke:run on GPU-" in run.gap(f"{COMPUTES}[gpu0]")["reason"]
    assert [run.outcome(f"{COMPUTES}[gpu{index}]") for index in range(8)] == ["not_run"] * 8


@pytest.mark.parametrize(
    ("torch", "waits_for"),
    [
        (StandinTorch(arch_list=("sm_75",)), "torch::covers[gpu0]"),
        (StandinTorch(devices=[]), "torch::sees_same_gpus"),
        (StandinTorch(cuda=None), "torch::is_cuda_build"),
        (StandinTorch(import_error="ImportError: no"), "torch::imports"),
        (None, "torch::installed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_worker_is_started_for_a_device_that_torch_cannot_use(
    healthy_rig: Rig, torch: StandinTorch | None, waits_for: str
) -> None:
    healthy_rig.torch = torch
    run = healthy_rig.validate("--bionemo-level=standard", "bionemo/torch")
    assert run.gap(f"{COMPUTES}[gpu0]")["waits_for"] == f"bionemo/{waits_for}"


def test_a_variable_that_is_not_valid_is_waited_for(healthy_rig: Rig) -> None:
    healthy_rig.variables["CUDA_VISIBLE_DEVICES"] = "nonsense"
    run = healthy_rig.validate("--bionemo-level=standard", "bionemo/torch")
    assert run.gap(f"{COMPUTES}[no-gpu]")["waits_for"] == "bionemo/driver::visible_devices_valid"


# ---- the end of a run


def children_of(pid: int) -> list[int]:
    stats = [(path, path.joinpath("stat")) for path in Path("/proc").iterdir() if path.name.isdigit()]
    found = []
    for path, stat in stats:
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def temporary_folder_of(pid: int) -> Path | None:
    """That of a worker; None for another process, and for one that has ended."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    except OSError:
        return None
    named = dict(variable.partition("=")[::2] for variable in variables)
    return Path(named["TMPDIR"]) if "PYTEST_BIONEMO_DEVICE" in named else None


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 2), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_a_run_that_is_stopped_leaves_a_report_and_no_process(
    compute_rig: Rig, sent: signal.Signals, status: int
) -> None:
    rig = compute_rig
    note = rig.folder / "note"
    rig.spoil_workers(f"open({str(note)!r}, 'w').write('x'); import time; time.sleep(600)")
    environ = {"PATH": os.defpath, "HOME": str(rig.folder), "TMPDIR": str(rig.folder), **rig.environ()}
    options = ["--bionemo-validate", "--bionemo-device=cpu", "-p", "no:cacheprovider", "bionemo/torch::computes"]
    process = subprocess.Popen(
        [str(rig.environment.python), "-m", "pytest", *options],
        cwd=rig.project, env=environ, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not note.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    children = children_of(process.pid)
    assert children, "the worker hangs where the signal finds it"
    folders = {folder for child in children for folder in [temporary_folder_of(child)] if folder}
    assert folders
    assert all(folder.exists() for folder in folders)
    process.send_signal(sent)
    assert process.wait(30) == status
    while not all(map(is_gone, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(map(is_gone, children))
    report = json.loads((rig.project / REPORT).read_text())
    assert_valid(report)
    assert report["bionemo"]["verdict"] == "INCONCLUSIVE"
    while any(folder.exists() for folder in folders) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(folder.exists() for folder in folders)


@pytest.mark.parametrize("options", [(), ("-n2",)], ids=str)
def test_a_run_leaves_no_file_but_its_report(compute_rig: Rig, options: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory() as tmp:  # a short path: see the next test
        compute_rig.variables["TMPDIR"] = tmp
        run = compute_rig.rehearse("bionemo/torch::computes", "--bionemo-expect-gpus=2", *options)
        assert run.outcome(f"{COMPUTES}[cpu1]") == "passed"
        assert [path.name for path in compute_rig.project.iterdir()] == [REPORT]
        assert list(Path(tmp).glob("pytest-bionemo*")) == []


def test_a_long_folder_for_temporary_files_leaves_room_for_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("folder" * 10)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    workers = Workers([Device.cpu()], 60)
    try:
        where = Path(str(workers.run("cpu", "misbehaving:where")["folder"]))
        name = tempfile.mkdtemp(dir=where, prefix="pymp-")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{name}/listener-12345678")
    finally:
        workers.close()
    assert not where.exists()


def test_a_hang_costs_no_more_in_several_processes(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(SECOND_PRODUCT.format(fault="import time; time.sleep(600)"))
    run = compute_rig.rehearse("bionemo/torch::computes", "bionemo/numerics::products_are_exact", "-n2",
                               "--bionemo-timeout=20")  # fmt: skip
    reasons = [gap["reason"] for gap in run.bionemo["not_run"] if "hung here before" in gap["reason"]]
    assert len(run.blockers) == 2
    assert reasons == ["cpu0: exact_gemm was not started: exact_gemm:run hung here before"] * 2


# ---- numbers

MEASURES = """
from pytest_bionemo import check

@check(level="standard", needs=["undisturbed"])
def measures(worker):
    \"\"\"Numbers come into the report.\"\"\"
    worker.measure("rate", 3.5, "GB/s", samples=30, ci95=(3.4, 3.6), bound=4.0, peer_median=3.5, judgement="good")
    worker.measure("broken", float("nan"), "1")
"""


def test_numbers_come_into_the_report(compute_rig: Rig) -> None:
    topic = with_checks(compute_rig, "theirs", MEASURES)
    run = compute_rig.rehearse(topic, "bionemo/torch::computes", "--bionemo-expect-gpus=2")
    found = run.bionemo["measurements"]
    assert [(entry["name"], entry["device"]) for entry in found] == [
        ("rate", "cpu0"), ("broken", "cpu0"), ("rate", "cpu1"), ("broken", "cpu1"),
    ]  # fmt: skip
    assert found[0] == {
        "name": "rate", "value": 3.5, "unit": "GB/s", "device": "cpu0", "samples": 30, "ci95": [3.4, 3.6],
        "bound": 4.0, "reference": None, "peer_median": 3.5, "baseline": None, "judgement": "good",
    }  # fmt: skip
    assert found[1]["value"] is None
    assert not any("bionemo_measurement" in str(test.get("user_properties")) for test in run.report["tests"])


@pytest.mark.parametrize("name", ["esm2_650M_tokens", "matmul bf16", ""])
def test_a_number_has_a_name_that_the_schema_allows(name: str) -> None:
    options = Options(True, "standard", "cpu", "install", REPORT, 60.0, None)
    compute = Compute(ComputeDevice("cpu0", "cpu0"), cast(Any, None), cast(Any, None), options, [])
    with pytest.raises(ValueError, match="is no name of a number"):
        compute.measure(name, 1.0, "1")


def test_nothing_is_timed_beside_other_processes(compute_rig: Rig) -> None:
    topic = with_checks(compute_rig, "theirs", MEASURES)
    run = compute_rig.rehearse(topic, "bionemo/torch::computes", "-n2")
    assert "under pytest-xdist" in run.gap("theirs::measures[cpu0]")["reason"]
    assert run.outcome(f"{COMPUTES}[cpu0]") == "passed"


LOWERED = """
from pytest_bionemo import check, fail

@check()
def is_fast():
    \"\"\"It is fast.\"\"\"
    fail("slower than it should be", severity="warning")
"""


def test_a_blocker_can_find_something_that_is_only_worth_a_warning(healthy_rig: Rig) -> None:
    topic = with_checks(healthy_rig, "theirs", LOWERED)
    run = healthy_rig.validate()
    assert (run.verdict, run.returncode) == ("READY_FOR_INSTALL", 0), run.stdout
    assert f"{topic.removeprefix('bionemo/')}::is_fast" in run.warnings
    assert run.bionemo["sections"]["theirs"] == "WARNING"


def test_a_severity_that_does_not_exist_is_refused() -> None:
    from pytest_bionemo import fail

    with pytest.raises(ValueError, match="'low' is not a severity"):
        fail("something", severity=cast(Any, "low"))
