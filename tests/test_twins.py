"""Every shipped check has its pair: a healthy machine where it passes, and injected faults where it fails.

The faults go in at the lowest level that can be reached: the driver library, the C library, the files of an
installed distribution, the environment.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conftest import Rig
from faults import LAYERS, layer_of, matrix
from faults.base import BESIDE_MIG
from faults.injections import closed_gpus, libcuda, machine, no_gpus, shown
from faults.proof import Pairs
from pytest_bionemo.checks import shipped
from pytest_bionemo.suite import declared_checks, import_checks, topic_of
from standin import H100_MIG, A10Gx1, H100x8
from standin.torch_package import StandinTorch

COMPUTES = "torch::computes"

# Their twins are in test_check_<topic>.py.
ELSEWHERE = (
    "numerics", "precision", "forward", "lightning", "benchmark", "interconnect", "collectives", "training", "stack",
    "packages", "targets",
)  # fmt: skip
IN_FILES = {
    "torch": ("compute",),
    "interconnect": ("check_collectives",),
    "collectives": ("check_collectives", "check_no_slow_link"),
}


def test_every_fault_says_where_it_goes_in() -> None:
    assert [f"{check}: {name}" for check, twin in matrix.twins().items() for name, fault in twin.faults.items()
            if layer_of(fault) not in LAYERS] == []  # fmt: skip


def test_every_shipped_check_has_its_pair() -> None:
    shipped_checks = [
        (topic_of(module), name) for module in shipped() for name in declared_checks(import_checks(module), "full")
    ]
    here = {"::".join(check) for check in shipped_checks if check[0] not in ELSEWHERE} - {COMPUTES}
    assert sorted(matrix.twins()) == sorted(here)
    assert all(twin.faults for twin in matrix.twins().values())


@pytest.mark.parametrize("topic", [*ELSEWHERE, "torch"])
def test_every_check_that_computes_is_tested(topic: str) -> None:
    files = IN_FILES.get(topic, (f"check_{topic}",))
    text = "".join(Path(__file__).with_name(f"test_{file}.py").read_text() for file in files)
    module = import_checks(f"pytest_bionemo.checks.{topic}")
    names = [COMPUTES.partition("::")[2]] if topic == "torch" else declared_checks(module, "full")
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


class TestPairs(Pairs):
    tables = ("base",)


def test_four_driver_problems_have_four_findings(healthy_rig: Rig) -> None:
    findings = []
    for code in (None, 9, 18, 4):
        healthy_rig.node = H100x8.with_fault("nvmlInitWithFlags", code) if code else None
        finding = healthy_rig.validate().finding("driver::loads")
        findings.append((finding["message"], tuple(finding["fix"])))
    assert len({message for message, _ in findings}) == 4
    assert len({fix for _, fix in findings}) == 4


def test_a_mig_gpu_is_healthy_where_torch_sees_its_slice(healthy_rig: Rig) -> None:
    healthy_rig.node = H100_MIG
    run = healthy_rig.validate()
    assert run.verdict == "READY_FOR_INSTALL"
    assert run.bionemo["gpus"][0]["mig_enabled"] is True
    assert len(run.bionemo["gpus"][0]["mig_devices"]) == 2


def test_mig_slices_can_be_named_in_the_variable(healthy_rig: Rig) -> None:
    healthy_rig.node = H100_MIG
    healthy_rig.variables["CUDA_VISIBLE_DEVICES"] = H100_MIG.gpus[0].migs[1].uuid
    assert healthy_rig.validate().verdict == "READY_FOR_INSTALL"


@pytest.mark.parametrize("version", ["550.54.15", "1.1"])
def test_a_libcuda_that_cuda_starts_with_is_no_fault(healthy_rig: Rig, version: str) -> None:
    libcuda(version)(healthy_rig)
    assert healthy_rig.validate().verdict == "READY_FOR_INSTALL"


def test_a_libcuda_without_a_driver_version_is_not_called_stale(healthy_rig: Rig) -> None:
    libcuda("1.1", error="Error 999")(healthy_rig)
    assert healthy_rig.validate().blockers == ["torch::sees_same_gpus"]


def test_a_gpu_without_memory_of_its_own_answers(healthy_rig: Rig) -> None:
    healthy_rig.node = H100x8.with_gpu_fault(0, "nvmlDeviceGetMemoryInfo", 3)
    run = healthy_rig.validate()
    assert run.outcome("driver::answers[gpu0]") == "passed"
    assert run.bionemo["gpus"][0]["memory_bytes"] is None


@pytest.mark.parametrize("kind", ["GPU-", "MIG-", ""])
def test_a_slice_may_be_reported_by_its_own_uuid_or_by_its_gpus(healthy_rig: Rig, kind: str) -> None:
    (gpu,) = H100_MIG.gpus
    uuid = gpu.uuid if kind == "GPU-" else gpu.migs[0].uuid.removeprefix("MIG-" if not kind else "")
    machine(H100_MIG, devices=[(uuid, "NVIDIA H100 80GB HBM3 MIG 3g.40gb", 9, 0, 1 << 35)])(healthy_rig)
    assert healthy_rig.validate().verdict == "READY_FOR_INSTALL"


def test_whole_gpus_beside_one_in_mig_mode_are_healthy(healthy_rig: Rig) -> None:
    healthy_rig.node = BESIDE_MIG
    assert healthy_rig.validate().verdict == "READY_FOR_INSTALL"


def test_gpus_of_other_jobs_are_no_fault(healthy_rig: Rig) -> None:
    closed_gpus(2, 3, 4, 5, 6, 7)(healthy_rig)
    healthy_rig.variables["CUDA_VISIBLE_DEVICES"] = "0,1"
    run = healthy_rig.validate("--bionemo-expect-gpus=2")
    assert run.verdict == "READY_FOR_INSTALL"
    assert [gpu["index"] for gpu in run.bionemo["gpus"]] == [0, 1]


def test_the_parent_of_a_slice_need_not_show_its_memory(healthy_rig: Rig) -> None:
    healthy_rig.node = H100_MIG.with_gpu_fault(0, "nvmlDeviceGetMemoryInfo", 4)
    assert healthy_rig.validate().verdict == "READY_FOR_INSTALL"


@pytest.mark.parametrize("value", ["0,1,", "0,-1,1"])
def test_a_list_of_devices_may_have_an_end_mark(healthy_rig: Rig, value: str) -> None:
    healthy_rig.variables["CUDA_VISIBLE_DEVICES"] = value
    assert healthy_rig.validate().verdict == "READY_FOR_INSTALL"


@pytest.mark.parametrize("driver", ["580.95.05-open", "580.95.05 Release Build"])
def test_a_decorated_driver_version_is_read(healthy_rig: Rig, driver: str) -> None:
    healthy_rig.node = H100x8.with_driver(driver, 13000)
    assert healthy_rig.validate().verdict == "READY_FOR_INSTALL"


def test_without_nvml_outside_a_container_both_ways_are_named(healthy_rig: Rig) -> None:
    healthy_rig.node = None
    healthy_rig.torch = StandinTorch(devices=shown(H100x8.gpus[:1]))
    finding = healthy_rig.validate().finding("driver::loads")
    assert finding["fix"][-1].endswith("start the container with NVIDIA_DRIVER_CAPABILITIES=compute,utility "
                                       "(docker run -e ...)")  # fmt: skip


def test_no_gpu_at_all_is_one_finding_that_expects_none_away(healthy_rig: Rig) -> None:
    no_gpus(healthy_rig)
    run = healthy_rig.validate("--bionemo-expect-gpus=8")
    assert run.blockers == ["driver::devices_present"]
    assert "--bionemo-expect-gpus" not in str(run.bionemo["blockers"])


def test_a_driver_too_old_for_torch_is_one_finding(healthy_rig: Rig) -> None:
    machine(A10Gx1)(healthy_rig)
    run = healthy_rig.validate()
    assert run.blockers == ["driver::supports_torch_cuda"]
    assert "driver::meets_bionemo_minimum" not in run.warnings
    assert run.gap("driver::meets_bionemo_minimum")["waits_for"] == "bionemo/driver::supports_torch_cuda"


@pytest.mark.parametrize("options", [(), ("-n2",)])
def test_checks_read_the_variables_that_the_children_saw(healthy_rig: Rig, options: tuple[str, ...]) -> None:
    healthy_rig.write(
        "conftest.py",
        "import os, pytest\n"
        "@pytest.fixture(scope='session', autouse=True)\n"
        "def one_gpu():\n"
        "    os.environ.update(CUDA_VISIBLE_DEVICES='0', LD_LIBRARY_PATH='/elsewhere')\n",
    )
    healthy_rig.write("test_mine.py", "import os\ndef test_it(): assert os.environ['CUDA_VISIBLE_DEVICES'] == '0'\n")
    run = healthy_rig.validate(*options, ".")
    assert run.verdict == "READY_FOR_INSTALL", run.stdout


def test_no_list_of_fixes_begins_with_or(healthy_rig: Rig) -> None:
    for node in (None, A10Gx1.with_driver("470.256.02", 11040), A10Gx1):
        healthy_rig.node = node
        for finding in healthy_rig.validate().bionemo["blockers"]:
            assert not finding["fix"][0].startswith("or")
