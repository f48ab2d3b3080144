"""What NVML says under load: bits decoded as bits, the right GPU asked, and no answer is no excuse to hang."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_bionemo.facts import gpus
from pytest_bionemo.workloads import telemetry
from standin import H100_MIG, H100x8, Libraries, Node
from standin.environment import Environment

GPU = H100x8.gpus[3].uuid
WATCH = """
import json, time
from pytest_bionemo.workloads import telemetry
with telemetry.watching(0.01) as watch:
    time.sleep(0.3)
print(json.dumps(watch.report()))
"""
CLOCKS = """
import json
from pytest_bionemo.workloads import properties
print(json.dumps(properties.clocks()))
"""


class Machine:
    """Runs a script in a process that sees one device of a node."""

    def __init__(self, environment: Environment, libraries: Libraries, folder: Path) -> None:
        self.environment, self.libraries, self.folder = environment, libraries, folder

    def ask(self, script: str, node: Node | None, visible: str = GPU) -> dict[str, Any]:
        playing = self.libraries.playing(node, self.folder) if node else {}
        done = self.environment.run(["-c", script], self.folder, {**playing, "CUDA_VISIBLE_DEVICES": visible}, 30)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture
def machine(plain_environment: Environment, libraries: Libraries, tmp_path: Path) -> Machine:
    return Machine(plain_environment, libraries, tmp_path)


@pytest.mark.parametrize(
    ("reasons", "names"),
    [
        (0, []),
        (0x1, ["idle"]),
        (0x4 | 0x40, ["software power cap", "hardware thermal slowdown"]),
        (0x8 | 0x80, ["hardware slowdown", "hardware power brake"]),
        (0x2 | 0x1000, ["applications clock setting", "reason 0x1000"]),
    ],
)
def test_reasons_are_bits(reasons: int, names: list[str]) -> None:
    assert telemetry.names(reasons) == names


def test_every_named_bit_is_what_nvml_calls_it() -> None:
    import pynvml

    theirs = {
        "idle": pynvml.nvmlClocksThrottleReasonGpuIdle,
        "applications clock setting": pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting,
        "software power cap": pynvml.nvmlClocksThrottleReasonSwPowerCap,
        "hardware slowdown": pynvml.nvmlClocksThrottleReasonHwSlowdown,
        "sync boost": pynvml.nvmlClocksThrottleReasonSyncBoost,
        "software thermal slowdown": pynvml.nvmlClocksThrottleReasonSwThermalSlowdown,
        "hardware thermal slowdown": pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
        "hardware power brake": pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
        "display clock setting": pynvml.nvmlClocksThrottleReasonDisplayClockSetting,
    }
    assert {name: bit for bit, name in telemetry.REASONS.items()} == theirs


def test_a_healthy_gpu_under_load(machine: Machine) -> None:
    found = machine.ask(WATCH, H100x8)
    assert found["samples"] > 5
    assert (found["reasons"], found["hardware_share"], found["hot_share"]) == (0, 0, 0)
    assert (found["sm_clock_hz"], found["temperature_c"], found["power_w"]) == (1.98e9, 61, 640.0)
    assert found["silent"] is None


def test_the_gpu_that_is_asked_is_the_one_of_this_uuid(machine: Machine) -> None:
    node = H100x8.with_gpu(3, clock_reasons=0x44, sm_clock=1095)
    found = machine.ask(WATCH, node)
    assert found["reason_names"] == ["software power cap", "hardware thermal slowdown"]
    assert (found["hardware_share"], found["hot_share"], found["sm_clock_hz"]) == (1.0, 1.0, 1.095e9)
    assert machine.ask(WATCH, node, H100x8.gpus[2].uuid)["reasons"] == 0


def test_a_power_cap_is_no_fault(machine: Machine) -> None:
    found = machine.ask(WATCH, H100x8.with_gpu(3, clock_reasons=0x4))
    assert (found["hardware_share"], found["hot_share"]) == (0, 0)
    assert found["reason_names"] == ["software power cap"]


def test_of_a_slice_its_gpu_is_asked(machine: Machine) -> None:
    node = H100_MIG.with_gpu(0, clock_reasons=0x8)
    found = machine.ask(WATCH, node, node.gpus[0].migs[1].uuid)
    assert found["reason_names"] == ["hardware slowdown"]


def test_an_older_driver_has_the_older_name(machine: Machine) -> None:
    function_not_found = 13
    node = H100x8.with_gpu(3, clock_reasons=0x80)
    node = node.with_fault("nvmlDeviceGetCurrentClocksEventReasons", function_not_found)
    assert machine.ask(WATCH, node)["reason_names"] == ["hardware power brake"]


@pytest.mark.parametrize(
    ("fault", "denied", "text"), [(3, True, "Not Supported"), (4, True, "Insufficient Permissions"), (999, False, "")]
)
def test_reasons_that_nvml_does_not_give(machine: Machine, fault: int, denied: bool, text: str) -> None:
    found = machine.ask(WATCH, H100x8.with_fault("nvmlDeviceGetCurrentClocksEventReasons", fault))
    assert (found["samples"], found["hardware_share"], found["denied"]) == (0, None, denied)
    assert text in found["silent"]
    # And what it gives is still told.
    assert found["temperature_c"] == 61


def test_a_value_that_nvml_does_not_give_is_none(machine: Machine) -> None:
    found = machine.ask(WATCH, H100x8.with_fault("nvmlDeviceGetPowerUsage", 3))
    assert found["power_w"] is None
    assert found["samples"] > 5


@pytest.mark.parametrize(
    ("visible", "text"), [("", "no GPU is named"), ("0", "no GPU is named"), ("GPU-nobody", "Not Found")]
)
def test_a_gpu_that_is_not_found_is_silent(machine: Machine, visible: str, text: str) -> None:
    found = machine.ask(WATCH, H100x8, visible)
    assert (found["samples"], found["denied"]) == (0, False)
    assert text in found["silent"]


def test_without_a_driver_there_is_silence(machine: Machine) -> None:
    found = machine.ask(WATCH, None)
    assert (found["samples"], found["sm_clock_hz"]) == (0, None)
    assert "NVML Shared Library Not Found" in found["silent"]


def test_a_driver_that_hangs_does_not_hold_the_workload(machine: Machine) -> None:
    started = time.monotonic()
    found = machine.ask(WATCH, H100x8.with_fault("nvmlDeviceGetPowerUsage", "hang"))
    assert time.monotonic() - started < 20
    assert found["samples"] == 1


def test_an_error_in_the_block_ends_the_watch(machine: Machine) -> None:
    script = """
import json, threading
from pytest_bionemo.workloads import telemetry
try:
    with telemetry.watching(0.01):
        raise ValueError
except ValueError:
    print(json.dumps({"threads": threading.active_count()}))
"""
    assert machine.ask(script, H100x8) == {"threads": 1}


# ---- the bounds that follow from clocks


def test_the_bandwidth_that_follows_from_the_clocks_is_that_of_the_datasheet(machine: Machine) -> None:
    model = gpus.find("NVIDIA H100 80GB HBM3")
    assert model
    found = machine.ask(CLOCKS, H100x8)
    assert found["max_sm_clock_hz"] == 1.98e9
    assert found["bandwidth_bound_gbs"] == pytest.approx(model.bandwidth_gbs, rel=0.01)


def test_a_slice_has_the_clocks_of_its_gpu(machine: Machine) -> None:
    assert machine.ask(CLOCKS, H100_MIG, H100_MIG.gpus[0].migs[0].uuid) == machine.ask(CLOCKS, H100x8)


@pytest.mark.parametrize(
    ("function", "missing"),
    [("nvmlDeviceGetMaxClockInfo", {"max_sm_clock_hz", "bandwidth_bound_gbs"}),
     ("nvmlDeviceGetMemoryBusWidth", {"bandwidth_bound_gbs"}),
     ("nvmlDeviceGetHandleByUUID", {"max_sm_clock_hz", "bandwidth_bound_gbs"})],
)  # fmt: skip
def test_a_bound_that_nvml_does_not_give_is_none(machine: Machine, function: str, missing: set[str]) -> None:
    found = machine.ask(CLOCKS, H100x8.with_fault(function, 3))
    assert {name for name, value in found.items() if value is None} == missing


def test_a_stand_in_is_described_as_it_is() -> None:
    node = replace(H100x8, gpus=H100x8.gpus[:1]).with_gpu(0, clock_reasons=0x40, sm_clock=345)
    assert "gpu.0.clock_reasons = 64\n" in node.text()
    assert "gpu.0.sm_clock = 345\n" in node.text()
