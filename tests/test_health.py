"""Whole nodes and their health: nothing to complain of, a driver that says nonsense, an old driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pynvml
import pytest

from conftest import Rig, Run
from faults.health import bare_metal, kernel_says, recovery, xid
from faults.injections import both, machine, shown
from standin import H100_MIG, MIB, PROFILES, H100x8, Node, RTX4090x1, T4x1
from standin.torch_package import StandinTorch

GIB = 1024 * MIB
NO_NUMBER = (2**32 - 1, 2**64 - 1)
HAS_NEW_BINDING = hasattr(pynvml, "nvmlDeviceGetGpuFabricInfoV")


def findings(run: Run) -> list[str]:
    """Of health alone."""
    return [check for check in run.blockers + run.warnings if check.startswith("health::")]


def outcomes(run: Run) -> dict[str, str]:
    ids = [check["id"].removeprefix("bionemo/") for check in run.bionemo["checks"] if check["topic"] == "health"]
    return {check: run.outcome(check) for check in ids}


def torch_for(node: Node) -> StandinTorch:
    """One that the node's driver and GPUs can use."""
    is_old = node.driver.startswith("550")
    if node.gpus[0].compute_capability == (7, 0):
        return StandinTorch(arch_list=("sm_70", "sm_80", "sm_90"))
    return StandinTorch(version="2.10.0", cuda="12.8") if is_old else StandinTorch()


@pytest.mark.parametrize("name", PROFILES)
def test_a_healthy_node_has_nothing_to_complain_of(rig: Rig, name: str) -> None:
    rig.node, rig.torch = PROFILES[name], torch_for(PROFILES[name])
    run = rig.validate()
    assert (run.verdict, run.blockers, run.warnings) == ("READY_FOR_INSTALL", [], []), run.stdout
    assert run.bionemo["not_run"] == []
    assert set(outcomes(run).values()) == {"passed", "not_applicable"}
    # Even the least of them says something, and is judged by it.
    assert outcomes(run)["health::can_be_read[gpu2]" if "job" in name else "health::can_be_read[gpu0]"] == "passed"


@pytest.mark.parametrize("name", ["T4", "A100 80 GB", "H100", "B200", "MIG slices", "workstation"])
def test_an_old_driver_library_gives_the_verdict_of_a_new_one(rig: Rig, name: str) -> None:
    runs = []
    for is_old in (False, True):
        rig.node, rig.torch = replace(PROFILES[name], old_library=is_old), torch_for(PROFILES[name])
        runs.append(rig.validate())
    new, old = runs
    assert (old.verdict, old.returncode) == (new.verdict, new.returncode) == ("READY_FOR_INSTALL", 0)
    assert findings(old) == findings(new) == []
    # It has less to say, and what it does not say is no pass.
    fewer = {check for check in outcomes(new) if outcomes(old)[check] != outcomes(new)[check]}
    assert {(outcomes(new)[check], outcomes(old)[check]) for check in fewer} <= {("passed", "not_applicable")}
    assert {check.partition("[")[0] for check in fewer} <= {"health::needs_no_recovery"}


def test_an_old_driver_library_still_shows_faults(healthy_rig: Rig) -> None:
    sick = H100x8.with_gpu(3, clock_reasons=0x40, used_bytes=30 * GIB).with_health(5, fabric_state=2, ecc_volatile=1)
    healthy_rig.node = replace(sick, old_library=True)
    assert findings(healthy_rig.validate()) == [
        "health::has_no_memory_errors[gpu5]",
        "health::is_not_slowed_down[gpu3]",
        "health::fabric_is_ready[gpu5]",
        "health::memory_is_free[gpu3]",
    ]


# ---- garbage


@pytest.mark.parametrize(
    ("key", "value", "check"),
    [
        *[("ecc_volatile", value, "has_no_memory_errors") for value in NO_NUMBER],
        ("ecc_aggregate", 2**63, "has_no_memory_errors"),
        ("sram_threshold_exceeded", 17, "has_no_memory_errors"),
        ("row_remap_pending", 2**32 - 1, "rows_are_remapped"),
        ("rows_remapped_correctable", 2**32 - 1, "rows_are_remapped"),
        ("temperature", 2**32 - 1, "is_cool"),
        ("temperature", 4000, "is_cool"),
        ("temperature", 0, "is_cool"),
        ("clock_reasons", 0xFFFFFFF0, "is_not_slowed_down"),
        ("clock_reasons", 2**64 - 1, "is_not_slowed_down"),
        ("fabric_state", 77, "fabric_is_ready"),
        ("fabric_health", 0x1AB, "fabric_is_ready"),
        ("fabric_health", 0xFAA, "fabric_is_ready"),
        ("compute_mode", 9, "allows_compute"),
        ("recovery_action", 2**32 - 1, "needs_no_recovery"),
        ("recovery_action", 99, "needs_no_recovery"),
    ],
)
def test_nonsense_of_the_driver_is_never_a_pass(healthy_rig: Rig, key: str, value: int, check: str) -> None:
    if key in ("sram_threshold_exceeded", "fabric_health") and not HAS_NEW_BINDING:
        pytest.skip("this nvidia-ml-py has no question for it")
    is_said_of_health = key != "clock_reasons"
    healthy_rig.node = (H100x8.with_health if is_said_of_health else H100x8.with_gpu)(3, **{key: value})
    run = healthy_rig.validate()
    assert run.outcome(f"health::{check}[gpu3]") == "not_run"
    assert run.verdict == "INCONCLUSIVE"
    assert findings(run) == []
    assert "GPU 3" in run.gap(f"health::{check}[gpu3]")["reason"]


@pytest.mark.parametrize(
    ("key", "value", "check"),
    [
        ("persistence", 2**32 - 1, "stays_initialised"),
        ("power_limit", 0, "has_full_power"),
        ("clock_application_default", 2**32 - 1, "has_full_clock"),
        ("pcie_width", 3, "host_link_is_wide"),
        ("pcie_replays", 2**32 - 1, "host_link_is_clean"),
        ("nvlink_recoveries", 2**64 - 1, "nvlinks_are_clean"),
    ],
)
def test_nonsense_about_what_only_warns_is_a_gap(healthy_rig: Rig, key: str, value: int, check: str) -> None:
    healthy_rig.node = H100x8.with_health(3, **{key: value})
    run = healthy_rig.validate()
    assert run.outcome(f"health::{check}[gpu3]") == "not_run"
    assert (run.verdict, findings(run)) == ("READY_FOR_INSTALL", [])


@pytest.mark.parametrize(
    "health",
    [
        {"temperature_slowdown": 5},
        {"temperature_shutdown": 20, "temperature_operating": 1},
        {"temperature_margin": -300},
        {"temperature_slowdown_tlimit": 90},
        {"temperature_operating_tlimit": 2**31},
    ],
)
def test_a_limit_that_cannot_be_is_not_judged_by(healthy_rig: Rig, health: dict[str, int]) -> None:
    healthy_rig.node = H100x8.with_health(3, **health)
    run = healthy_rig.validate()
    assert (run.verdict, findings(run)) == ("READY_FOR_INSTALL", [])
    assert run.outcome("health::is_cool[gpu3]") == "passed"


def test_without_any_limit_that_can_be_heat_is_not_judged(healthy_rig: Rig) -> None:
    none = {"temperature_margin": None, "temperature_shutdown": 5, "temperature_slowdown": 5}
    healthy_rig.node = H100x8.with_health(3, temperature_operating=None, **none)
    run = healthy_rig.validate()
    assert run.verdict == "INCONCLUSIVE"
    assert run.outcome("health::is_cool[gpu3]") == "not_run"


@pytest.mark.parametrize("function", ["nvmlDeviceGetRemappedRows", "nvmlDeviceGetTotalEccErrors"])
def test_an_unknown_error_is_no_answer(healthy_rig: Rig, function: str) -> None:
    healthy_rig.node = H100x8.with_gpu_fault(3, function, 999)
    run = healthy_rig.validate()
    assert run.verdict == "INCONCLUSIVE"
    (gap,) = run.bionemo["not_run"]
    assert gap["reason"] == f"GPU 3: {function}: Unknown Error"


def test_names_that_are_no_text_are_a_finding(healthy_rig: Rig) -> None:
    healthy_rig.node = H100x8.with_gpu(3, name="NVIDIA \udcff\udcfe", vbios="\udcff96")
    run = healthy_rig.validate()
    assert run.blockers == ["driver::answers[gpu3]"]
    assert "nvmlDeviceGetName: its answer is no text" in run.finding("driver::answers[gpu3]")["message"]


def test_more_gpus_than_there_can_be_are_not_believed(healthy_rig: Rig) -> None:
    machine(replace(H100x8, counts=(2**32 - 1, 8)), devices=shown(H100x8.gpus))(healthy_rig)
    run = healthy_rig.validate()
    assert run.blockers == ["driver::loads"]
    assert "it counts 4294967295 GPUs" in run.finding("driver::loads")["message"]


def test_more_memory_than_there_can_be_is_not_believed(healthy_rig: Rig) -> None:
    healthy_rig.node = H100x8.with_gpu(3, memory_bytes=2**64 - 1)
    assert healthy_rig.validate().blockers == ["driver::answers[gpu3]"]


# ---- one root cause, in any order


@pytest.mark.parametrize("options", [(), ("-n2",)])
def test_a_gpu_that_hangs_costs_itself_and_those_after_it(healthy_rig: Rig, options: tuple[str, ...]) -> None:
    healthy_rig.node = H100x8.with_gpu_fault(3, "nvmlDeviceGetPersistenceMode", "hang")
    run = healthy_rig.validate("--bionemo-timeout=3", *options)
    assert run.blockers == ["health::can_be_read[gpu3]"], run.stdout
    assert run.outcome("driver::loads") == "passed"
    assert run.outcome("health::is_cool[gpu2]") == "passed"
    for index in range(3, 8):
        assert run.gap(f"health::is_cool[gpu{index}]")["waits_for"] == "bionemo/health::can_be_read[gpu3]"
    assert run.gap("health::can_be_read[gpu4]")["reason"].endswith("GPU 3 stopped answering")


def test_the_workers_of_xdist_judge_what_was_read_once(healthy_rig: Rig) -> None:
    healthy_rig.node = H100x8.with_health(3, row_remap_pending=1).with_gpu(5, used_bytes=20 * GIB)
    run = healthy_rig.validate("-n2")
    assert findings(run) == ["health::rows_are_remapped[gpu3]", "health::memory_is_free[gpu5]"]


def test_what_is_in_the_log_of_others_is_not_judged(healthy_rig: Rig) -> None:
    kernel_says(xid(79, address="0000:db:00"))(healthy_rig)
    healthy_rig.files.write("/.dockerenv", "")
    run = healthy_rig.validate()
    assert (run.verdict, findings(run)) == ("READY_FOR_INSTALL", [])
    assert run.outcome("health::no_gpu_is_lost") == "not_applicable"


def test_what_the_driver_has_taken_back_is_over(healthy_rig: Rig) -> None:
    back = xid(154, "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)")
    kernel_says(xid(95), recovery("GPU Reset Required"), back)(healthy_rig)
    healthy_rig.node = H100x8.with_every_health(recovery_action=None)
    assert findings(healthy_rig.validate()) == []


def test_a_log_that_cannot_be_read_is_said_to_be_one(healthy_rig: Rig) -> None:
    healthy_rig.files.remove("/dev/kmsg")
    run = healthy_rig.validate()
    assert run.verdict == "READY_FOR_INSTALL"
    for check in ("has_no_xid[gpu3]", "no_switch_failed", "no_gpu_is_lost"):
        assert run.outcome(f"health::{check}") == "not_applicable"


def test_in_a_rehearsal_nothing_is_asked_of_a_gpu(healthy_rig: Rig) -> None:
    run = healthy_rig.validate("--bionemo-device=cpu")
    assert set(outcomes(run).values()) == {"not_run"}


# ---- whose memory it is


@pytest.mark.skipif(not HAS_NEW_BINDING, reason="this nvidia-ml-py misreads the list of processes")
def test_memory_of_the_run_itself_is_not_somebody_elses(rig: Rig) -> None:
    script = (
        "import json, os, sys, subprocess\n"
        "from pathlib import Path\n"
        "from pytest_bionemo.probes.machine import Machine\n"
        "child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
        "path = Path(os.environ['STANDIN_NODE'])\n"
        "lines = [f'gpu.0.process.0 = {child.pid} 30000', f'gpu.0.process.1 = {os.getpid()} 500',\n"
        "         'gpu.0.process.2 = 1 7000']\n"
        "path.write_text(path.read_text() + '\\n'.join(lines) + '\\n')\n"
        "found = Machine(30).health.gpus[0]\n"
        "child.communicate()\n"
        "print(json.dumps([found.own_bytes, [process.pid for process in found.processes or ()]]))\n"
    )
    rig.node = T4x1
    assert json.loads(rig.run("-c", script).stdout) == [30500, [1]]


def test_health_is_asked_for_in_a_validation_only_and_handles_once(rig: Rig) -> None:
    rig.node = H100x8
    calls = rig.folder / "calls"
    rig.variables["STANDIN_CALLS"] = str(calls)
    rig.write("test_user.py", "def test_of_the_user(gpu_env): assert len(gpu_env.gpus) == 8\n")
    assert rig.pytest("-q").returncode == 0
    assert "nvmlDeviceGetRemappedRows" not in calls.read_text()
    rig.validate()
    asked = calls.read_text().split()
    assert "nvmlDeviceGetRemappedRows" in asked
    assert asked.count("nvmlDeviceGetHandleByIndex_v2") == 16  # eight in each of the two runs


def test_mig_slices_leave_their_gpu_to_be_judged(healthy_rig: Rig) -> None:
    healthy_rig.node = H100_MIG.with_health(0, ecc_volatile=1)
    assert findings(healthy_rig.validate()) == ["health::has_no_memory_errors[gpu0]"]


def test_a_card_that_was_given_more_memory_lacks_none(healthy_rig: Rig) -> None:
    healthy_rig.node = RTX4090x1.with_gpu(0, memory_bytes=49140 * MIB)
    assert healthy_rig.validate().outcome("health::has_all_its_memory[gpu0]") == "passed"


def test_the_codes_are_those_of_nvml() -> None:
    script = (
        "import pynvml as n\n"
        "from pytest_bionemo.probes import health as h\n"
        "from pytest_bionemo.checks.health import heat as c, settings as s\n"
        "assert (h.CORRUPTED_INFOROM, h.GPU_IS_LOST, h.RESET_REQUIRED) == (\n"
        "    n.NVML_ERROR_CORRUPTED_INFOROM, n.NVML_ERROR_GPU_IS_LOST, n.NVML_ERROR_RESET_REQUIRED)\n"
        "named = {code: n.NVMLError(code).__class__.__name__ for code in h._UNSUPPORTED}\n"
        "assert named[3] == 'NVMLError_NotSupported' and named[13] == 'NVMLError_FunctionNotFound', named\n"
        "assert (c._HW_SLOWDOWN, c._SW_THERMAL, c._HW_THERMAL, c._HW_POWER_BRAKE) == (\n"
        "    n.nvmlClocksThrottleReasonHwSlowdown, n.nvmlClocksThrottleReasonSwThermalSlowdown,\n"
        "    n.nvmlClocksThrottleReasonHwThermalSlowdown, n.nvmlClocksThrottleReasonHwPowerBrakeSlowdown)\n"
        "assert (s._PROHIBITED, h._EXCLUSIVE_PROCESS) == (\n"
        "    n.NVML_COMPUTEMODE_PROHIBITED, n.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS)\n"
        "fields = ('SLOWDOWN', 194), ('GPU_MAX', 196)\n"
        "assert (h._SLOWDOWN_TLIMIT_FIELD, h._OPERATING_TLIMIT_FIELD) == tuple(\n"
        "    getattr(n, f'NVML_FI_DEV_TEMPERATURE_{name}_TLIMIT', number) for name, number in fields)\n"
        "assert h._RECOVERY_ACTION_FIELD == getattr(n, 'NVML_FI_DEV_GET_GPU_RECOVERY_ACTION', 230)\n"
        "assert (h._REPLAY, h._RECOVERY, h._CRC_FLIT) == (\n"
        "    n.NVML_NVLINK_ERROR_DL_REPLAY, n.NVML_NVLINK_ERROR_DL_RECOVERY, n.NVML_NVLINK_ERROR_DL_CRC_FLIT)\n"
        "for shift, name in ((0, 'DEGRADED_BW'), (2, 'ROUTE_RECOVERY'), (4, 'ROUTE_UNHEALTHY'),\n"
        "                    (6, 'ACCESS_TIMEOUT_RECOVERY'), (8, 'INCORRECT_CONFIGURATION')):\n"
        "    assert getattr(n, f'NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_{name}', shift) == shift, name\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# ---- no answer where there has to be one


def silent(function: str, code: int, *indices: int) -> Node:
    node = H100x8
    for index in indices:
        node = node.with_gpu_fault(index, function, code)
    return node


@pytest.mark.parametrize(
    ("function", "check", "code"),
    [
        ("nvmlDeviceGetNvLinkState", "nvlinks_are_up", 2),
        ("nvmlDeviceGetTotalEccErrors", "has_no_memory_errors", 3),
        ("nvmlDeviceGetRemappedRows", "rows_are_remapped", 4),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", "is_not_slowed_down", 2),
        ("nvmlDeviceGetTemperature", "is_cool", 3),
        ("nvmlDeviceGetComputeMode", "allows_compute", 4),
    ],
)
def test_what_every_gpu_of_a_model_tells_is_not_left_out(
    healthy_rig: Rig, function: str, check: str, code: int
) -> None:
    bare_metal(healthy_rig)
    node = silent(function, code, *range(8))
    if "ClocksThrottle" in function:  # of which there are two, the newer one first
        for index in range(8):
            node = node.with_gpu_fault(index, "nvmlDeviceGetCurrentClocksEventReasons", code)
    healthy_rig.node = node
    run = healthy_rig.validate()
    assert run.verdict == "INCONCLUSIVE"
    assert {run.outcome(f"health::{check}[gpu{index}]") for index in range(8)} == {"not_run"}
    assert findings(run) == []


def test_a_fabric_that_eight_gpus_must_have_is_not_left_out(healthy_rig: Rig) -> None:
    healthy_rig.node = H100x8.with_every_health(fabric_state=None)
    run = healthy_rig.validate()
    assert run.verdict == "INCONCLUSIVE"
    assert run.gap("health::fabric_is_ready[gpu3]")["reason"].endswith("and every NVIDIA H100 80GB HBM3 does")


def test_what_a_container_may_not_ask_is_not_missed(healthy_rig: Rig) -> None:
    healthy_rig.files.write("/.dockerenv", "")
    healthy_rig.node = silent("nvmlDeviceGetTotalEccErrors", 4, 3)
    run = healthy_rig.validate()
    assert run.outcome("health::has_no_memory_errors[gpu3]") == "not_applicable"
    assert run.verdict == "READY_FOR_INSTALL"


def test_error_correction_that_is_off_has_no_errors_to_tell(healthy_rig: Rig) -> None:
    healthy_rig.node = H100x8.with_health(3, ecc_mode=0, ecc_volatile=None, row_remap_pending=None)
    run = healthy_rig.validate()
    assert findings(run) == ["health::corrects_memory_errors[gpu3]"]
    assert run.verdict == "READY_FOR_INSTALL"


def test_a_link_in_the_middle_is_not_the_last_one(healthy_rig: Rig) -> None:
    healthy_rig.node = H100x8.with_gpu(3, odd_link=5)
    run = healthy_rig.validate()
    assert run.verdict == "INCONCLUSIVE"
    assert run.gap("health::nvlinks_are_up[gpu3]")["reason"].endswith("tells of link 17, and not of link 5")


def test_what_follows_the_state_of_the_fabric_is_not_a_part_of_it(healthy_rig: Rig) -> None:
    healthy_rig.node = H100x8.with_health(3, fabric_state=0xABCD03)
    assert healthy_rig.validate().outcome("health::fabric_is_ready[gpu3]") == "passed"


@pytest.mark.parametrize("text", ["Something New", "Recover Everything"])
def test_what_the_driver_wants_in_new_words_is_no_pass(healthy_rig: Rig, text: str) -> None:
    both(bare_metal, kernel_says(recovery(text)))(healthy_rig)
    healthy_rig.node = H100x8.with_every_health(recovery_action=None)
    run = healthy_rig.validate()
    assert run.verdict == "INCONCLUSIVE"
    assert "not on record" in run.gap("health::has_no_xid[gpu3]")["reason"]


def test_a_gpu_on_no_bus_has_no_line_in_the_log(healthy_rig: Rig) -> None:
    both(bare_metal, kernel_says(xid(13)))(healthy_rig)
    healthy_rig.node = H100x8.with_gpu_fault(3, "nvmlDeviceGetPciInfo_v3", 3)
    run = healthy_rig.validate()
    assert run.verdict == "READY_FOR_INSTALL"
    for check in ("has_no_xid[gpu3]", "no_gpu_is_lost"):
        assert run.outcome(f"health::{check}") == "not_applicable"


def test_a_log_that_was_not_read_to_its_end_is_no_pass(healthy_rig: Rig) -> None:
    bare_metal(healthy_rig)
    log = healthy_rig.folder / "kmsg"
    log.touch()
    os.truncate(log, 80 << 20)
    healthy_rig.files.bind("/dev/kmsg", log)
    run = healthy_rig.validate()
    assert run.verdict == "INCONCLUSIVE"
    for check in ("has_no_xid[gpu3]", "no_gpu_is_lost", "no_switch_failed"):
        assert run.gap(f"health::{check}")["reason"] == "the kernel's log is longer than what was read of it"
