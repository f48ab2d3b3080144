"""Runs with a baseline: the same machine is unchanged, one that works slower is named, another is never compared."""

from __future__ import annotations

import json
import re
from typing import Any

from conftest import Rig, Run
from faults import proves
from histories import run as made_run
from histories import save
from pytest_bionemo.history.store import VARIABLE

COPIES = "bionemo/benchmark::memory_at_full_speed[cpu0]"
COMPARABLE = "bionemo/benchmark::baseline_is_comparable"

# In the worker, so that the workload itself takes longer: after each copy it sleeps thirty times as long.
COPIES_SLEEP = """
import time
copy = torch.Tensor.copy_
def slow(self, *arguments, **options):
    began = time.perf_counter()
    result = copy(self, *arguments, **options)
    time.sleep(30 * (time.perf_counter() - began))
    return result
torch.Tensor.copy_ = slow
"""


def kept(rig: Rig) -> list[str]:
    """What is in the store, by machine and file."""
    return sorted(str(path.relative_to(rig.folder / "store")) for path in (rig.folder / "store").rglob("*.json"))


def number(run: Run, name: str) -> dict[str, Any]:
    return next(entry for entry in run.bionemo["measurements"] if entry["name"] == name)


@proves("benchmark::memory_at_full_speed", "a device at a thirtieth of its own earlier speed", "kernel")
def test_a_machine_is_compared_with_its_own_past(compute_rig: Rig) -> None:
    rig = compute_rig
    rig.variables[VARIABLE] = str(rig.folder / "store")

    first = rig.rehearse(COPIES, COMPARABLE, "--bionemo-baseline=last", "--bionemo-save")
    machine = f"{first.bionemo['environment']['hostname']}-cpu"
    assert kept(rig) == [f"{machine}/0001_standard.json"]
    assert json.loads((rig.folder / "store" / kept(rig)[0]).read_text()) == first.report
    assert f"kept     {rig.folder / 'store' / machine / '0001_standard.json'}" in first.stdout
    # There was nothing to compare with yet: that is said, and nobody's fault.
    assert first.bionemo["baseline"]["refused"] == "no run of level standard of this machine is kept there"
    assert first.warnings == ["benchmark::baseline_is_comparable"]
    assert number(first, "memory_copy")["baseline"] is None

    same = rig.rehearse(COPIES, COMPARABLE, "--bionemo-baseline=last", "--bionemo-save=again")
    assert [same.outcome(check.removeprefix("bionemo/")) for check in (COPIES, COMPARABLE)] == ["passed", "passed"]
    assert same.bionemo["baseline"] | {"started": ""} == {
        "name": "0001_standard.json", "started": "", "compared": 2, "refused": None, "differences": [], "skipped": [],
    }  # fmt: skip
    for name in ("memory_copy", "memory_read"):
        assert number(same, name)["baseline"] == number(first, name)["value"]
        assert number(same, name)["judgement"] == "good"
    assert re.search(r"baseline 0001_standard\.json of \d{4}-\d\d-\d\d: 2 numbers compared", same.stdout)
    assert kept(rig) == [f"{machine}/0001_standard.json", f"{machine}/0002_again.json"]

    rig.spoil_workers(COPIES_SLEEP)
    slow = rig.rehearse(COPIES, "--bionemo-baseline=last", "--bionemo-save")
    finding = slow.finding("benchmark::memory_at_full_speed[cpu0]")
    assert re.search(r"memory.*, 0\.\d\d x its own earlier value \(earlier value [\d.]+, bound", finding["message"])
    assert slow.verdict == "BLOCKED"
    assert number(slow, "memory_copy")["judgement"] == "low"

    compared = rig.run("-m", "pytest_bionemo", "history", "compare", "again", "last")
    assert compared.returncode == 1
    assert re.search(r"^WORSE +device  before +after +change \(95 %\)\n  memory copy +cpu0 ", compared.stdout, re.M)


def test_a_run_is_in_the_circumstances_that_its_report_tells(healthy_rig: Rig) -> None:
    rig = healthy_rig
    assert rig.node
    uuids = [gpu.uuid for gpu in rig.node.gpus]
    rig.variables["CUDA_VISIBLE_DEVICES"] = ",".join(reversed(uuids))
    made = rig.validate("--bionemo-level=standard", COMPARABLE).report
    made["bionemo"]["measurements"] = made_run(uuids=uuids)["bionemo"]["measurements"]
    save(rig.folder / "before.json", made)
    arguments = ("--bionemo-level=standard", COMPARABLE, "--bionemo-baseline", str(rig.folder / "before.json"))
    assert rig.validate(*arguments).outcome("benchmark::baseline_is_comparable") == "passed"
    rig.variables["CUDA_VISIBLE_DEVICES"] = uuids[0]
    (difference,) = rig.validate(*arguments).bionemo["baseline"]["differences"]
    assert difference.startswith(f"CUDA_VISIBLE_DEVICES: {uuids[-1]}")


@proves("benchmark::baseline_is_comparable", "a driver that was replaced since", "driver library", "NONE")
def test_another_driver_or_machine_is_said_and_no_number_of_another_gpu_is_used(healthy_rig: Rig) -> None:
    rig = healthy_rig
    assert rig.node
    uuids = [gpu.uuid for gpu in rig.node.gpus]
    now = rig.node.driver

    def against(*options: str, **changes: Any) -> Run:
        save(rig.folder / "before.json", made_run(**{"uuids": uuids, "driver": now, **changes}))
        arguments = ("--bionemo-baseline", str(rig.folder / "before.json"), *options)
        return rig.validate("--bionemo-level=standard", COMPARABLE, *arguments)

    def message(run: Run) -> str:
        return str(run.finding("benchmark::baseline_is_comparable")["message"])

    other = against(driver="570.86.15")
    assert f"driver: 570.86.15 before, {now} now" in message(other)
    assert other.bionemo["baseline"]["refused"] is None
    assert other.bionemo["baseline"]["differences"][0] == f"driver: 570.86.15 before, {now} now"
    assert "baseline before.json of 2026-11-02: no number compared" in other.stdout

    refused = against(uuids=["GPU-a", "GPU-b", "GPU-c"])
    why = "it is of another machine: of GPU-a, GPU-b and 1 more, and this one has GPU-"
    assert message(refused).startswith(f"no number is compared with before.json of 2026-11-02: {why}")
    assert refused.bionemo["baseline"]["refused"].startswith(why)
    assert all(entry["baseline"] is None for entry in refused.bionemo["measurements"])


# In every process of the run: a folder on a server that is gone, as the first file of it is opened.
SERVER_IS_GONE = """
import os, time
open_file, make_folder = os.open, os.mkdir
def waits(call):
    def wait(path, *arguments, **options):
        if "gone" in str(path):
            time.sleep(600)
        return call(path, *arguments, **options)
    return wait
os.open, os.mkdir = waits(open_file), waits(make_folder)
"""


def test_a_file_system_that_hangs_costs_the_comparison_and_not_the_run(healthy_rig: Rig) -> None:
    rig = healthy_rig
    rig.variables[VARIABLE] = str(rig.folder / "gone" / "store")
    save(rig.folder / "gone.json", made_run())
    (rig.site / "sitecustomize.py").write_text(SERVER_IS_GONE)
    baseline = str(rig.folder / "gone.json")
    run = rig.validate(
        "--bionemo-timeout=5", "-k", "loads", "--bionemo-save", "--bionemo-baseline", baseline, timeout=100
    )
    assert run.returncode == 1
    assert run.outcome("driver::loads") == "passed"
    assert run.bionemo["baseline"]["refused"] == "it could not be read: no answer within 5 s"
    assert "KEPT in no history: no answer within 5 s" in " ".join(run.stdout.split())


def test_the_name_of_a_run_takes_no_path_from_those_that_are_to_be_tested(rig: Rig) -> None:
    rig.write("test_own.py", "def test_own(): pass")
    rig.write("nightly/test_more.py", "def test_more(): pass")
    for name in ("test_own.py", "nightly"):
        run = rig.validate("--bionemo-save", name)
        assert run.returncode == 4
        asked = f"is '{name}' the name of the run, or a path to test? Write --bionemo-save={name}, or --bionemo-save "
        assert asked in run.stderr
    # Where it can only be the name, it is: no GPU is here whose history could be kept.
    for arguments in (["--bionemo-save=nightly"], ["--bionemo-save", "weekly"], ["nightly", "--bionemo-save"]):
        run = rig.validate(*arguments, "-k", "loads or test_more")
        assert "KEPT" in run.stdout, run.stderr
    assert "1 passed" in run.stdout


def test_a_wrong_baseline_or_name_ends_the_run_on_one_line_and_costs_nothing(rig: Rig) -> None:
    future = made_run()
    future["bionemo"]["schema_version"] = 2
    save(rig.project / "future.json", future)
    (rig.project / "bionemo_validation_report.json").write_text("yesterday's")
    before = {path.name: path.read_bytes() for path in rig.project.iterdir()}
    for arguments, said in (
        (["--bionemo-baseline=none.json"], "none.json: cannot be read: No such file or directory"),
        (["--bionemo-baseline=future.json"], "future.json: its schema version is 2, and this pytest-bionemo reads 1"),
        (
            ["--bionemo-baseline=../project/bionemo_validation_report.json"],
            "report.json is the place of the report. Copy it, and compare with the copy.",
        ),
        (["--bionemo-baseline="], "--bionemo-baseline: '' is no run to compare with."),
        (["--bionemo-save", "tests/"], "'tests/' is not a name for a run, such as before-update"),
    ):
        run = rig.validate("-p", "no:cacheprovider", *arguments)
        assert run.returncode == 4, run.stdout
        assert len(run.stderr.strip().splitlines()) == 1, run.stderr
        assert said in run.stderr
        assert {path.name: path.read_bytes() for path in rig.project.iterdir()} == before


def test_what_cannot_be_kept_is_said_and_no_such_run_exits_0(healthy_rig: Rig) -> None:
    rig = healthy_rig
    (rig.folder / "file").write_text("")
    rig.variables[VARIABLE] = str(rig.folder / "file" / "store")
    run = rig.validate("--bionemo-save", "--bionemo-baseline=last", "-k", "loads")
    said = " ".join(run.stdout.split())
    assert run.returncode == 1
    assert re.search(r"KEPT in no history: .*: Not a directory\. Set PYTEST_BIONEMO_STORE to another folder\.", said)
    # Level quick runs no check of speed that could say so.
    assert re.search(r"baseline .*: no number compared: no run of level quick of this machine is kept there", said)


def test_nothing_is_stored_unless_it_is_asked_for(rig: Rig) -> None:
    rig.variables |= {VARIABLE: str(rig.folder / "store"), "XDG_STATE_HOME": str(rig.folder / "state")}
    blocked = rig.validate("-k", "loads", "--bionemo-baseline=last")
    assert "baseline" in blocked.bionemo
    assert not [name for name in ("store", "state") if (rig.folder / name).exists()]
    # A machine without a driver names no GPU: there is nothing that it could be the history of.
    asked = rig.validate("-k", "loads", "--bionemo-save")
    assert "KEPT in no history: the report names no GPU, whose history could be kept" in " ".join(
        asked.stdout.split()
    )
    assert not (rig.folder / "store").exists()
