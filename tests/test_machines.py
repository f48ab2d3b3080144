"""Whole machines and their verdicts, with the real torch (a build for the CPU) and without any."""

from __future__ import annotations

import pytest

from conftest import REPORT, Rig, Run
from standin import B200x8, H100x8, T4x1
from standin.torch_package import StandinTorch


def checks_of(run: Run, topic: str) -> list[str]:
    return [check["id"].removeprefix("bionemo/") for check in run.bionemo["checks"] if check["topic"] == topic]


@pytest.mark.parametrize("machine", ["rig", "torch_rig"])
def test_a_machine_without_a_gpu_has_exactly_one_blocker(request: pytest.FixtureRequest, machine: str) -> None:
    rig: Rig = request.getfixturevalue(machine)
    run = rig.validate()
    assert run.verdict == "BLOCKED"
    assert run.returncode == 1
    assert run.blockers == ["driver::loads"]
    assert run.finding("driver::loads")["fix"]
    dependants = [check for topic in ("driver", "health", "torch") for check in checks_of(run, topic)]
    dependants.remove("driver::loads")
    dependants.append("host::is_near_its_gpus")
    assert {run.gap(check)["waits_for"] for check in dependants} == {"bionemo/driver::loads"}
    # The platform has one that counts the GPUs.
    dependants.append("platform::has_all_gpus")
    assert {gap["check"] for gap in run.bionemo["not_run"]} == {f"bionemo/{check}" for check in dependants}
    assert (run.bionemo["environment"]["torch"] is not None) == (machine == "torch_rig")


def test_a_run_writes_nothing_but_its_report(rig: Rig) -> None:
    rig.validate("-p", "no:cacheprovider")
    assert [path.name for path in rig.project.iterdir()] == [REPORT]


def test_healthy_gpus_are_of_no_use_to_a_torch_for_the_cpu(torch_rig: Rig) -> None:
    torch_rig.node = H100x8
    run = torch_rig.validate()
    assert run.verdict == "BLOCKED"
    assert run.blockers == ["torch::is_cuda_build"]
    assert "sees none of the 8 NVIDIA GPUs" in run.finding("torch::is_cuda_build")["message"]
    outcomes = {check: run.outcome(check) for check in checks_of(run, "driver")}
    for_torch = {check for check in outcomes if outcomes[check] == "not_run"}
    assert {run.gap(check)["waits_for"] for check in for_torch} == {"bionemo/torch::is_cuda_build"}
    assert for_torch == {f"driver::{name}" for name in FOR_TORCH}
    assert {outcomes[check] for check in outcomes.keys() - for_torch} == {"passed", "not_applicable"}
    assert [check for check in outcomes if outcomes[check] == "not_applicable"] == ["driver::expected_count"]


FOR_TORCH = ("supports_torch_cuda", "has_all_features_for_torch", "meets_bionemo_minimum")


@pytest.mark.parametrize(("node", "number"), [(H100x8, 8), (T4x1, 1), (B200x8, 8)], ids=["H100", "T4", "B200"])
def test_a_healthy_node_with_a_torch_for_it_is_ready_for_install(rig: Rig, node: object, number: int) -> None:
    rig.node = node  # type: ignore[assignment]
    rig.torch = StandinTorch()
    run = rig.validate(f"--bionemo-expect-gpus={number}")
    assert (run.verdict, run.returncode) == ("READY_FOR_INSTALL", 0)
    assert "no GPU kernel was run" in run.stdout
    assert len(run.bionemo["gpus"]) == number
    assert {run.outcome(check) for check in checks_of(run, "driver")} == {"passed"}


def test_gpus_that_are_not_ours_are_named_on_the_first_line(rig: Rig) -> None:
    rig.node = H100x8.with_gpu_fault(7, "nvmlDeviceGetHandleByIndex_v2", 4)
    run = rig.validate()
    assert "7 GPUs (NVIDIA H100 80GB HBM3) and 1 that this user may not use, driver 580.95.05" in run.stdout
    assert run.bionemo["environment"]["hidden_gpus"] == 1
