"""Healthy platforms, on which the topic raises nothing; what the report says of them; HyperPod's line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from conftest import REPORT, Rig, Run
from faults import Change
from faults.injections import both, closed_gpus, machine, no_driver, no_gpus, no_torch, variable
from faults.platform import (
    H100x1,
    azure,
    bare,
    databricks,
    dmi,
    ec2,
    efa,
    enroot,
    hyperpod,
    hyperpod_pod,
    infiniband,
    pci,
    pod,
    pyxis,
    removed,
    shared,
    slurm_job,
    written,
)
from pytest_bionemo.report import hyperpod as line_of
from standin import H100_MIG, A10Gx1, H100x8, T4x1

PROFILES: dict[str, tuple[Change, str | None]] = {
    "Databricks classic": (databricks(), "Databricks classic, AWS g5.xlarge"),
    "Databricks serverless GPU": (
        both(
            machine(A10Gx1.with_driver("580.95.05", 13000)),
            variable("DATABRICKS_ACCELERATOR", "GPU_1xA10"),
            variable("DATABRICKS_ENV_VERSION", "5"),
        ),
        "Databricks serverless GPU",
    ),
    "HyperPod on Slurm": (both(hyperpod(), shared()), "HyperPod with Slurm, AWS p5.48xlarge"),
    "HyperPod on EKS": (hyperpod_pod, "HyperPod with Kubernetes, AWS p5.48xlarge"),
    "half a node of Slurm": (both(bare, closed_gpus(4, 5, 6, 7), slurm_job(gpus=4)), "Slurm"),
    "one GPU of eight, the others closed": (
        both(bare, ec2("p5.48xlarge"), closed_gpus(1, 2, 3, 4, 5, 6, 7), slurm_job(gpus=1)),
        "Slurm, AWS p5.48xlarge",
    ),
    "one GPU of eight in a pod": (pod(H100x1), "Kubernetes, AWS p5.48xlarge"),
    "one GPU of eight in a container of Slurm": (
        both(
            bare,
            machine(H100x1),
            ec2("p5.48xlarge"),
            pci(8),
            slurm_job(gpus=8),
            variable("NVIDIA_VISIBLE_DEVICES", "0"),
        ),
        "Slurm, AWS p5.48xlarge",
    ),
    "two slices of one GPU, which Slurm counts": (both(bare, machine(H100_MIG), slurm_job(gpus=2)), "Slurm"),
    "one GPU of eight for each task": (
        both(
            bare, ec2("p5.48xlarge"), pci(8), machine(H100x1), slurm_job(gpus=8), variable("SLURM_GPUS_PER_TASK", "1")
        ),
        "Slurm, AWS p5.48xlarge",
    ),
    "a shell that Slurm lets see a part": (
        both(bare, ec2("p5.48xlarge"), pci(8), machine(H100x1), pyxis),
        "Slurm, AWS p5.48xlarge",
    ),
    "file systems that programs serve": (
        both(shared("/s3", source="mountpoint-s3", kind="fuse"), shared("/far", kind="fuse.sshfs")),
        None,
    ),
    "InfiniBand without cables": (
        both(bare, infiniband(2, state="1: DOWN", physical="3: Disabled")),
        None,
    ),
    "EC2 without EFA": (both(bare, ec2("p5.48xlarge")), "AWS p5.48xlarge"),
    "EC2 of a type that is not sure": (both(bare, ec2("g4dn.12xlarge"), machine(T4x1)), "AWS g4dn.12xlarge"),
    "Azure": (azure(), "Azure Standard_ND96isr_H100_v5"),
    "Google Cloud": (dmi(sys_vendor="Google", product_name="Google Compute Engine"), "Google Cloud"),
}


FIRMWARE = ("vbios", "adapter_firmware", "adapter_links", "efa_installer", "libfabric", "aws_ofi_nccl")


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_is_raised_on_a_healthy_platform(healthy_rig: Rig, profile: str) -> None:
    inject, name = PROFILES[profile]
    inject(healthy_rig)
    run = healthy_rig.validate()
    assert (run.blockers, run.warnings, run.bionemo["not_run"]) == ([], [], []), run.stdout
    assert run.verdict == "READY_FOR_INSTALL"
    assert run.bionemo["environment"]["platform"] == name
    assert (f"bionemo: platform {name}\n" in run.stdout) is (name is not None)


def test_off_every_platform_nothing_applies_and_each_check_says_why(healthy_rig: Rig) -> None:
    run = healthy_rig.validate()
    checks = [check["id"] for check in run.bionemo["checks"] if check["topic"] == "platform"]
    reasons = {entry["check"]: entry["reason"] for entry in run.bionemo["not_applicable"]}
    if run.bionemo["environment"]["platform"]:
        pytest.skip("the machine that runs the tests is one itself")
    assert len(checks) >= 15
    assert [check for check in checks if not reasons.get(check)] == []
    assert "bionemo: platform" not in run.stdout
    assert run.bionemo["environment"]["scheduler"] is None


def test_the_report_names_the_platform_and_no_user(healthy_rig: Rig) -> None:
    hyperpod()(healthy_rig)
    healthy_rig.variables |= {
        "SLURM_JOB_USER": "somebody-unusual", "SLURM_JOB_ACCOUNT": "account-unusual",
        "DATABRICKS_RUNTIME_VERSION": "17.3", "HF_HOME": "/Workspace/Users/user-unusual@example.org/hf",
    }  # fmt: skip
    run = healthy_rig.validate()
    environment = run.bionemo["environment"]
    assert environment["platforms"] == ["databricks", "hyperpod", "slurm", "aws"]
    assert (environment["scheduler"], environment["instance_type"]) == ("slurm", "p5.48xlarge")
    assert environment["databricks_runtime"] == "17.3"
    assert "platform::databricks_storage_suits_training" in run.warnings
    assert "unusual" not in run.report_path.read_text() + run.stdout


@pytest.mark.parametrize("options", [(), ("-n2",)])
def test_the_report_tells_firmware_and_network_software(healthy_rig: Rig, options: tuple[str, ...]) -> None:
    hyperpod()(healthy_rig)
    healthy_rig.files.write("/sys/class/infiniband/rdmap0s27/fw_ver", "0.0.0.1\n")
    healthy_rig.files.write("/sys/class/infiniband/rdmap1s27/fw_ver", "0.0.0.1\n")
    healthy_rig.node = H100x8.with_gpu(3, vbios="96.00.5E.00.01")
    told = healthy_rig.validate(*options).bionemo["environment"]
    assert {name: told[name] for name in FIRMWARE} == {
        "vbios": "96.00.5E.00.01 and 96.00.99.00.01",
        "adapter_firmware": "efa 0.0.0.1",
        "adapter_links": "32 x EFA 100 Gb/sec (4X EDR)",
        "efa_installer": "1.47.0",
        "libfabric": "2.4.0",
        "aws_ofi_nccl": "1.18.0",
    }


def test_software_that_is_not_there_is_told_and_what_cannot_be_is_left_out(healthy_rig: Rig) -> None:
    both(bare, efa(1))(healthy_rig)
    told = healthy_rig.validate().bionemo["environment"]
    assert {name: told[name] for name in FIRMWARE if name in told} == {
        "vbios": "96.00.99.00.01",
        "adapter_links": "1 x EFA 100 Gb/sec (4X EDR)",
        "efa_installer": None,
        "libfabric": None,
        "aws_ofi_nccl": None,
    }


def test_without_a_driver_and_adapters_no_firmware_is_told(healthy_rig: Rig) -> None:
    both(bare, no_driver)(healthy_rig)
    assert set(FIRMWARE).isdisjoint(healthy_rig.validate().bionemo["environment"])


@pytest.mark.parametrize("variables", [{"DATABRICKS_ENV_VERSION": "4"}, {"DATABRICKS_RUNTIME_VERSION": "17.3"}])
def test_databricks_without_a_gpu_is_one_blocker_that_installs_no_driver(
    healthy_rig: Rig, variables: dict[str, str]
) -> None:
    no_driver(healthy_rig)
    healthy_rig.variables |= variables
    run = healthy_rig.validate()
    assert run.blockers == ["driver::loads"]
    fix = "\n".join(run.finding("driver::loads")["fix"])
    assert "GPU" in fix
    assert "install the NVIDIA driver" not in fix


def test_a_lost_gpu_is_one_finding_where_its_number_was_given(healthy_rig: Rig) -> None:
    hyperpod(gpus=7)(healthy_rig)
    run = healthy_rig.validate("--bionemo-expect-gpus=8")
    assert run.blockers == ["driver::expected_count"]


@pytest.mark.parametrize("text", ["", "\n"])
def test_a_table_of_mounts_that_says_nothing_proves_nothing(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_bionemo.checking import NotRun
    from pytest_bionemo.needs.platforms import mount_table
    from pytest_bionemo.probes import files
    from pytest_bionemo.probes.machine import Machine

    monkeypatch.setattr(files, "text", lambda *args, **options: text)  # /proc itself cannot be written
    with pytest.raises(NotRun, match="names no mount"):
        mount_table.__wrapped__(None, Machine(timeout=1))  # type: ignore[attr-defined]


def test_a_node_without_gpus_needs_no_enroot_outside_a_job(healthy_rig: Rig) -> None:
    both(bare, pyxis, removed("/usr/local/bin/enroot"), no_gpus)(healthy_rig)
    run = healthy_rig.validate()
    reasons = {entry["check"]: entry["reason"] for entry in run.bionemo["not_applicable"]}
    assert "containers are started on other nodes" in reasons["bionemo/platform::slurm_starts_containers"]


@pytest.mark.parametrize("options", [(), ("-n2",)])
def test_a_hung_file_system_with_a_cache_on_it_is_one_finding(healthy_rig: Rig, options: tuple[str, ...]) -> None:
    both(hyperpod(), shared(answer="never"), variable("HF_HOME", "/fsx/hf"))(healthy_rig)
    run = healthy_rig.validate("--bionemo-timeout=2", *options)
    assert (run.blockers, run.warnings) == (["platform::shared_file_systems_answer"], [])
    assert run.bionemo["action"] == "FIX_SOFTWARE"
    waiting = {gap["check"] for gap in run.bionemo["not_run"]}
    assert {"bionemo/host::folders_answer", "bionemo/host::caches_can_be_written"} <= waiting


@pytest.mark.parametrize("options", [(), ("-n2",)])
def test_a_configuration_of_slurm_that_hangs_stops_nobody(healthy_rig: Rig, options: tuple[str, ...]) -> None:
    both(bare, ec2("p5.48xlarge"), shared("/opt/slurm", "never"))(healthy_rig)
    run = healthy_rig.validate("--bionemo-timeout=4", *options, timeout=60)
    assert (run.verdict, run.blockers) == ("INCONCLUSIVE", [])
    assert run.warnings == ["platform::shared_file_systems_answer"]
    gap = run.gap("platform::has_all_gpus")
    assert (gap["waits_for"], gap["reason"]) == (
        "bionemo/platform::shared_file_systems_answer", "/opt/slurm does not answer",
    )  # fmt: skip
    assert run.bionemo["environment"]["platform"] == "AWS p5.48xlarge"
    assert "bionemo: platform not known yet\n" in run.stdout


def test_a_folder_of_no_shared_file_system_that_hangs_is_named(healthy_rig: Rig) -> None:
    healthy_rig.files.hang("/opt/slurm")
    run = healthy_rig.validate("--bionemo-timeout=3", timeout=60)
    assert (run.verdict, run.blockers, run.warnings) == ("INCONCLUSIVE", [], [])
    gap = run.gap("platform::has_all_gpus")
    assert gap["waits_for"] is None
    assert gap["reason"].endswith("no answer within 3 s, while looking at /opt/slurm/etc")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop what root may")
def test_folders_that_are_closed_to_this_user_break_nothing(healthy_rig: Rig) -> None:
    healthy_rig.files.folder("/closed", 0)
    healthy_rig.files.folder("/var/run/secrets", 0)
    both(slurm_job(gpus=8), pyxis, enroot(data="/closed/a/data"))(healthy_rig)
    for capability in (1, 2):
        healthy_rig.files.without_capability(capability)
    run = healthy_rig.validate()
    assert (run.verdict, run.warnings) == ("READY_FOR_INSTALL", ["platform::slurm_starts_containers"])
    assert "may not write in /closed" in run.finding("platform::slurm_starts_containers")["message"]


# ---------------------------------------------------------------------------------------------- HyperPod's line


def last_line(run: Run) -> str:
    return run.stdout.rstrip("\n").splitlines()[-1]


@pytest.mark.parametrize(
    ("inject", "status", "remediation", "reason"),
    [
        (lambda rig: None, "Passed", "none", "READY_FOR_INSTALL at level quick"),
        (no_torch, "Failed", "none", "BLOCKED at level quick: bionemo/torch::installed"),
        (hyperpod(gpus=7), "Failed", "reboot", "BLOCKED at level quick: bionemo/platform::has_all_gpus"),
    ],
)
def test_a_run_ends_with_the_line_that_hyperpod_reads(
    healthy_rig: Rig, inject: Callable[[Rig], Any], status: str, remediation: str, reason: str
) -> None:
    inject(healthy_rig)
    run = healthy_rig.validate("--bionemo-hyperpod-line")
    hostname = run.bionemo["environment"]["hostname"]
    assert last_line(run) == f"HEALTH_CHECK_RESULT:{hostname}:{status}:{remediation}:{reason}"
    assert run.stdout.count("HEALTH_CHECK_RESULT:") == 1
    assert "HEALTH_CHECK_RESULT" not in run.report_path.read_text()


def test_the_line_comes_from_the_ini_file_and_once_from_several_processes(healthy_rig: Rig) -> None:
    healthy_rig.write("pytest.ini", "[pytest]\nbionemo_hyperpod_line = true\n")
    run = healthy_rig.validate("-n2", "-q")
    assert last_line(run).startswith("HEALTH_CHECK_RESULT:")
    assert run.stdout.count("HEALTH_CHECK_RESULT:") == 1


def test_without_the_option_there_is_no_line(healthy_rig: Rig) -> None:
    assert "HEALTH_CHECK_RESULT" not in healthy_rig.validate().stdout


def test_a_run_that_proves_nothing_is_skipped_and_touches_no_node(healthy_rig: Rig) -> None:
    run = healthy_rig.validate("--bionemo-hyperpod-line", "--deselect=bionemo/host::runs_linux")
    assert run.verdict == "INCONCLUSIVE"
    assert ":Skipped:none:INCONCLUSIVE at level quick: bionemo/host::runs_linux" in last_line(run)


def test_a_run_that_only_lists_proves_nothing(healthy_rig: Rig) -> None:
    run = healthy_rig.validate("--bionemo-hyperpod-line", "--collect-only")
    assert ":Skipped:none:the run ended without a report" in last_line(run)
    assert not (healthy_rig.project / REPORT).exists()


def test_the_line_is_refused_where_nothing_is_validated(healthy_rig: Rig) -> None:
    run = healthy_rig.pytest("--bionemo-hyperpod-line")
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--bionemo-hyperpod-line needs --bionemo-validate" in run.stderr
    healthy_rig.write("pytest.ini", "[pytest]\nbionemo_hyperpod_line = true\n")
    healthy_rig.write("test_mine.py", "def test_mine(): pass\n")
    run = healthy_rig.pytest()
    assert (run.returncode, "HEALTH_CHECK_RESULT" in run.stdout) == (0, False)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(("--bionemo-require=ready",), 1), (("test_mine.py",), 1), (("stop.py",), 7)],
    ids=["not ready", "a test of the user's", "ended by another plugin"],
)
def test_only_a_run_that_exits_0_has_passed(healthy_rig: Rig, arguments: tuple[str, ...], status: int) -> None:
    healthy_rig.write("test_mine.py", "def test_mine(): assert 0\n")
    if arguments == ("stop.py",):
        healthy_rig.write("stop.py", "")
        stop = "import pytest\ndef pytest_sessionfinish(): pytest.exit('enough', returncode=7)\n"
        healthy_rig.write("conftest.py", stop)
    run = healthy_rig.validate("--bionemo-hyperpod-line", *arguments)
    assert (run.verdict, run.returncode) == ("READY_FOR_INSTALL", status)
    reason = f"READY_FOR_INSTALL at level quick, and the run ends with exit status {status}"
    assert last_line(run).endswith(f":Skipped:none:{reason}")


@pytest.mark.parametrize(
    ("action", "remediation"),
    [("NONE", "none"), ("FIX_SOFTWARE", "none"), ("FREE_GPU", "none"), ("RESET_GPU", "reboot"),
     ("REBOOT_NODE", "reboot"), ("REPLACE_NODE", "replace")],
)  # fmt: skip
def test_the_strongest_action_of_the_blockers_decides_what_is_done_to_a_failed_node(
    action: str, remediation: str
) -> None:
    said = {"check": "bionemo/health::x[gpu0]", "message": "NVRM: Xid (PCI:0000:53:00): 79,\nlost"}
    blockers = [{**said, "action": "NONE"}, {**said, "action": action}]
    warnings = [{**said, "action": "REPLACE_NODE"}]
    run = {"verdict": "BLOCKED", "level": "full", "blockers": blockers, "warnings": warnings, "not_run": []}
    assert line_of.line({"bionemo": run}, "node-1") == (
        f"HEALTH_CHECK_RESULT:node-1:Failed:{remediation}:BLOCKED at level full: bionemo/health::x[gpu0]"
    )
    passed = {**run, "verdict": "READY", "blockers": []}
    assert line_of.line({"bionemo": passed}, "node-1") == "HEALTH_CHECK_RESULT:node-1:Passed:none:READY at level full"


def test_the_line_is_one_line_whatever_is_in_it() -> None:
    blockers = [{"check": f"ours/topic::check[a\nb{number}]", "action": "NONE"} for number in range(9)]
    run = {"verdict": "BLOCKED", "level": "quick", "blockers": blockers, "not_run": []}
    line = line_of.line({"bionemo": run}, "")
    assert line.startswith("HEALTH_CHECK_RESULT:unknown:Failed:none:")
    assert line.endswith(" and 4 more")
    assert "\n" not in line
    assert line_of.line(None, "n") == "HEALTH_CHECK_RESULT:n:Skipped:none:the run ended without a report"


def test_the_action_for_a_node_is_the_strongest_of_all_its_findings(healthy_rig: Rig) -> None:
    azure(7)(healthy_rig)
    run = healthy_rig.validate()
    assert run.verdict == "READY_FOR_INSTALL"
    assert (run.blockers, run.warnings) == ([], ["platform::infiniband_is_active"])
    assert run.bionemo["action"] == "REBOOT_NODE"
    assert "1 warning, reboot the node, level quick" in run.stdout
    assert json.loads(run.report_path.read_text())["bionemo"]["warnings"][0]["action"] == "REBOOT_NODE"


def test_a_damaged_description_off_hyperpod_is_told_on_any_machine(healthy_rig: Rig) -> None:
    written("/opt/ml/config/resource_config.json", "{")(healthy_rig)
    run = healthy_rig.validate()
    assert run.warnings == ["platform::cluster_description_is_readable"]
    assert run.verdict == "READY_FOR_INSTALL"
