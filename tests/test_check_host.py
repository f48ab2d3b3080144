"""The host on machines that are healthy, or small, or merely odd: nothing of it is found, and nothing waits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Rig, Run
from faults import Change
from faults.host import (
    GIB,
    YEAR_S,
    governor,
    group,
    hung_cache,
    locked_memory,
    meminfo,
    mounted,
    no_shared_memory,
    numa,
    unset_clock,
    used_for,
)
from faults.injections import both, machine, no_driver, on_host, variable
from pytest_bionemo.checking import CheckFailed, NotRun
from pytest_bionemo.checks import host as checks
from pytest_bionemo.facts import host as facts
from pytest_bionemo.model import GpuEnv
from pytest_bionemo.probes.cgroups import Limit
from pytest_bionemo.probes.clock import Clock
from pytest_bionemo.probes.limits import Limits
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.storage import Folder, Storage
from standin import H100_MIG, A10Gx1, B200x8, H100x8, T4x1
from standin.files import is_possible as can_lay_files

OPTIONAL = {
    "locks_memory_for_rdma": "no RDMA device",
    "processors_are_not_held_slow": "nothing here sets the frequency",
    "is_near_its_gpus": "the machine does not say which NUMA node",
    "clock_is_kept_right": "no service is seen that sets the clock",
}


def of_the_host(run: Run, kind: str) -> list[str]:
    """The ids in that list of the report; what concerns the run as a whole has none."""
    return [str(entry["check"]) for entry in run.bionemo[kind] if str(entry["check"]).startswith("bionemo/host::")]


def roomy(rig: Rig) -> None:
    """What a container that runs these tests may lack."""
    rig.files.mount("/dev/shm", "tmpfs", "size=1g")


MACHINES: dict[str, Change] = {
    "eight H100": machine(H100x8),
    "eight B200": machine(B200x8),
    "T4": machine(T4x1),
    "A10G": machine(A10Gx1),
    "MIG": machine(H100_MIG),
    "no driver": no_driver,
    "a pod": both(machine(T4x1), variable("KUBERNETES_SERVICE_HOST", "10.0.0.1")),
    "a container with all its limits off": group(memory_max="max", pids_max="max", cpu_max="max 100000"),
    "a small virtual machine": both(machine(T4x1), meminfo(4 * GIB, 2 * GIB)),
    "two sockets": numa(20, gpus="53 64", node=0),
    "two nodes of a socket": numa(12),
    "Intel's own powersave": governor("powersave", "intel_pstate"),
    "AMD's own powersave": governor("powersave", "amd-pstate-epp"),
    "a clock that nobody sets": on_host(adjtimex="5"),
    "a clock that chrony sets": unset_clock("0"),
    "a cache on tmpfs": used_for("HF_HOME", "size=8g"),
}


@pytest.mark.parametrize("name", MACHINES)
def test_nothing_is_found_on_a_healthy_machine(healthy_rig: Rig, name: str) -> None:
    MACHINES[name](healthy_rig)
    roomy(healthy_rig)
    run = healthy_rig.validate("bionemo/host")
    assert of_the_host(run, "blockers") == of_the_host(run, "warnings") == [], run.stdout
    waiting = of_the_host(run, "not_run")
    assert waiting == (["bionemo/host::is_near_its_gpus"] if name == "no driver" else []), run.stdout
    for entry in run.bionemo["not_applicable"]:
        topic, _, check = entry["check"].partition("::")
        if topic == "bionemo/host":
            assert entry["reason"].startswith(OPTIONAL[check])


def test_a_rehearsal_finds_nothing_on_the_host(rig: Rig) -> None:
    roomy(rig)
    run = rig.validate("bionemo/host", "--bionemo-device=cpu")
    assert of_the_host(run, "blockers") == of_the_host(run, "warnings") == [], run.stdout
    assert of_the_host(run, "not_run") == ["bionemo/host::is_near_its_gpus"]


@pytest.mark.parametrize("options", [(), ("-n2",)])
def test_processes_of_xdist_find_the_same(healthy_rig: Rig, options: tuple[str, ...]) -> None:
    both(mounted("/dev/shm", "size=64m"), used_for("HF_HOME", "ro"))(healthy_rig)
    run = healthy_rig.validate("bionemo/host", *options)
    assert sorted(run.warnings) == ["host::caches_can_be_written", "host::shared_memory_is_enough"]


def test_a_hung_folder_is_one_finding_and_the_others_wait_for_it(healthy_rig: Rig) -> None:
    hung_cache(healthy_rig)
    run = healthy_rig.validate("--bionemo-timeout=2", "bionemo/host")
    assert (run.blockers, run.warnings) == (["host::folders_answer"], [])
    assert {entry["waits_for"] for entry in run.bionemo["not_run"] if entry["check"].startswith("bionemo/host")} == {
        "bionemo/host::folders_answer"
    }


def test_no_shared_memory_is_one_finding(healthy_rig: Rig) -> None:
    no_shared_memory(healthy_rig)
    run = healthy_rig.validate("bionemo/host")
    assert (run.blockers, run.warnings) == (["host::shared_memory_works"], [])


def test_a_home_that_cannot_be_written_is_not_named_in_the_report(healthy_rig: Rig) -> None:
    used_for("HOME", "ro")(healthy_rig)
    roomy(healthy_rig)
    run = healthy_rig.validate("bionemo/host")
    assert "/opt/place" not in str(run.bionemo["warnings"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop what root may")
def test_nothing_is_found_for_a_user_who_is_not_root(healthy_rig: Rig) -> None:
    if not can_lay_files():
        pytest.skip("this user may make no mount namespace here")
    roomy(healthy_rig)
    # What root may and others may not is in capabilities: without any, this is a user with the files of root.
    for capability in range(41):
        healthy_rig.files.without_capability(capability)
    run = healthy_rig.validate("bionemo/host")
    assert of_the_host(run, "blockers") == of_the_host(run, "warnings") == [], run.stdout


# ---- what a twin cannot inject


def seen(**probes: object) -> Machine:
    """A machine whose probes say this."""
    machine = Machine(timeout=0)
    machine.__dict__.update(probes)
    return machine


def message(check: Callable[..., None], *arguments: object) -> str | None:
    try:
        check(*arguments)
    except CheckFailed as failed:
        return failed.finding.message
    return None


HOUR = 3600.0


@pytest.mark.parametrize(("hours_before", "is_wrong"), [(0, False), (1, False), (23, False), (25, True)])
def test_a_clock_before_its_own_files_is_wrong(hours_before: int, is_wrong: bool) -> None:
    newest = facts.clock().earliest + YEAR_S
    found = message(checks.clock_is_right, seen(clock=Clock(newest - hours_before * HOUR, newest, None, None)))
    assert ("before the newest file of this Python" in (found or "")) is is_wrong


@pytest.mark.parametrize("now", [-1e18, -1.0, 0.0, 1e18, float("inf")])
def test_absurd_clocks_are_findings(now: float) -> None:
    assert message(checks.clock_is_right, seen(clock=Clock(now, None, None, None)))


def test_a_folder_whose_file_system_counts_nothing_has_room() -> None:
    folders = tuple(Folder(f"/{name}", (name,), f"/{name}") for name in ("HOME", "TMPDIR", "/dev/shm"))
    storage = Storage(tuple(folders))
    assert message(checks.disk_has_room, storage) is None
    assert message(checks.temporary_folder_works, storage) is None


def test_a_user_with_too_few_processes_is_found() -> None:
    found = message(checks.starts_enough_processes, seen(limits=Limits(processes=50), gpu_env=GpuEnv()))
    assert found == "this user may start 50 processes and threads (ulimit -u), expected 64 or more for 1 GPU"


@pytest.mark.parametrize(("hard", "advised"), [(4096, 4096), (1 << 30, 65536), (None, 65536)])
def test_the_limit_of_files_is_raised_to_what_helps(hard: int | None, advised: int) -> None:
    with pytest.raises(CheckFailed) as failed:
        checks.opens_enough_files(seen(limits=Limits(open_files=256, open_files_hard=hard)))
    assert failed.value.finding.fix == (f"$ ulimit -n {advised}",)


def test_too_few_cores_are_one_finding(healthy_rig: Rig) -> None:
    both(numa(32), group(cpu_max="100000 100000"))(healthy_rig)
    run = healthy_rig.validate("bionemo/host")
    assert run.warnings == ["host::may_use_enough_cores"]
    assert run.gap("host::is_near_its_gpus")["waits_for"] == "bionemo/host::may_use_enough_cores"


def test_chrony_that_tells_the_kernel_nothing_is_no_fault(healthy_rig: Rig) -> None:
    unset_clock("5", "makestep 1 3")(healthy_rig)
    run = healthy_rig.validate("bionemo/host")
    reasons = {entry["check"]: entry["reason"] for entry in run.bionemo["not_applicable"]}
    assert reasons["bionemo/host::clock_is_kept_right"].startswith("chrony does not tell the kernel")


def test_an_adapter_that_a_container_was_not_given_needs_no_locked_memory(healthy_rig: Rig) -> None:
    locked_memory(64 << 10, is_given=False)(healthy_rig)
    run = healthy_rig.validate("bionemo/host")
    assert run.outcome("host::locks_memory_for_rdma") == "not_applicable"


def test_a_gpu_that_answers_in_part_is_placed_all_the_same(healthy_rig: Rig) -> None:
    both(machine(H100x8.with_gpu_fault(0, "nvmlDeviceGetMigMode", 999)), numa(32, gpus="53"))(healthy_rig)
    finding = healthy_rig.validate("bionemo/host").finding("host::is_near_its_gpus")
    assert finding["message"].startswith("1 GPU (0) of NUMA node 1")


def test_only_visible_gpus_count(healthy_rig: Rig) -> None:
    both(group(cpu_max="200000 100000"), variable("CUDA_VISIBLE_DEVICES", "3"))(healthy_rig)
    roomy(healthy_rig)
    assert healthy_rig.validate("bionemo/host").warnings == []


def test_a_probe_that_dies_is_no_folder_that_hangs() -> None:
    found = seen(storage=Storage(failure="exit status 3"))
    with pytest.raises(NotRun, match="exit status 3"):
        checks.folders_answer(found)


@pytest.mark.parametrize("failure", ["no answer within 20 s", "killed by SIGSEGV, while asking about /x (HOME)"])
def test_only_a_folder_that_was_asked_and_kept_silent_hangs(failure: str) -> None:
    assert not Storage(failure=failure).hangs
    assert Storage(failure="no answer within 20 s, while asking about /x (HOME)").hangs


def test_a_fault_of_the_folder_for_temporary_files_is_stated_once() -> None:
    places = [("TMPDIR", "/t"), ("TORCHINDUCTOR_CACHE_DIR", "/t/torchinductor_x"), ("HF_HOME", "/tea")]
    folders = [Folder(path, (name,), path, "it is gone") for name, path in places]
    found = message(checks.caches_can_be_written, Storage((*folders, Folder("/tmp", ("temporary files",), "/tmp"))))
    assert found == "HF_HOME cannot be written: /tea (it is gone)"


def test_a_group_that_is_too_small_is_stated_once() -> None:
    small = Limits(memory=Limit(GIB, 10), memory_total=64 * GIB, memory_available=32 * GIB)
    found = seen(limits=small, gpu_env=GpuEnv())
    assert message(checks.may_use_enough_memory, found)
    assert message(checks.memory_is_available, found) is None


def test_files_are_not_left_behind_by_looking(healthy_rig: Rig) -> None:
    home = healthy_rig.folder / "empty"
    home.mkdir()
    healthy_rig.variables["HOME"] = str(home)
    healthy_rig.validate("bionemo/host")
    assert list(Path(home).iterdir()) == []
