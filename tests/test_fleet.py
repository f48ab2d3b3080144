"""The fleet verdict as a pure function of the reports of its nodes."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest

from fleets import HOUR, MINUTE, NOW, Json, begun, blaming, fleet, job, node, reasons, report, save, status
from pytest_bionemo.fleet.counting import choose
from pytest_bionemo.fleet.folding import is_enough
from pytest_bionemo.fleet.node import read
from pytest_bionemo.verdict import ReportError

GPU: Json = {
    "index": 0,
    "name": "Tesla T4",
    "pci_address": None,
    "memory_bytes": 1,
    "mig_devices": [],
    "compute_capability": [7, 5],
    "mig_enabled": None,
}

# ---- the table of verdicts


@pytest.mark.parametrize(
    ("kinds", "verdict"),
    [
        (["ready", "ready"], "READY"),
        (["ready", "install"], "READY_FOR_INSTALL"),
        (["install", "install"], "READY_FOR_INSTALL"),
        (["ready", "gap"], "INCONCLUSIVE"),
        (["ready", "rehearsal"], "INCONCLUSIVE"),
        (["ready", "blocked"], "BLOCKED"),
        (["gap", "blocked"], "BLOCKED"),
        ([], "INCONCLUSIVE"),
    ],
)
def test_the_table_of_fleet_verdicts_holds(kinds: list[str], verdict: str) -> None:
    found = fleet(*(report(f"node{number}", kind) for number, kind in enumerate(kinds)))
    assert found["verdict"] == verdict
    assert is_enough(found, "install") is verdict.startswith("READY")
    assert is_enough(found, "ready") is (verdict == "READY")
    words = {"ready": "passing", "install": "passing", "blocked": "failing"}
    assert list(status(found).values()) == [words.get(kind, "unknown") for kind in kinds]
    assert sum(found["counts"].values()) == sum(found["statuses"].values()) == len(kinds)


def test_a_verdict_is_formed_again_and_never_believed() -> None:
    liar = report("node2", "blocked")
    liar["bionemo"] |= {"verdict": "READY", "blockers": [], "summary": "READY", "action": "NONE"}
    found = fleet(report("node1"), liar)
    assert (found["verdict"], found["exclude"]) == ("BLOCKED", "node2")
    assert reasons(found, "node2")[0] == "bionemo/driver::loads: no driver"


def test_the_order_of_the_reports_makes_no_difference() -> None:
    newest = job("7", 0, "node[1-9]", 9)
    reports = [
        *(report(f"node{number}", job=newest, driver=f"58{number % 3}") for number in range(5)),
        *(report(f"node{number}", "blocked", age=5 * HOUR, job=job("5", number)) for number in range(3)),
        report("node3", age=MINUTE),
        blaming("node6", "node1", "node9"),
    ]  # fmt: skip
    folded = set()
    for seed in range(20):
        shuffled = [(f"r/{number}.json", one) for number, one in enumerate(reports)]
        random.Random(seed).shuffle(shuffled)
        folded.add(json.dumps(fleet(*shuffled, unreadable=[("b", "x"), ("a", "y")][:: 1 if seed % 2 else -1])))
    assert len(folded) == 1


# ---- which report counts


def test_the_newest_report_of_a_host_counts() -> None:
    old, new = ("job-1/node1.json", report("node1", "blocked", age=2 * HOUR)), ("node1.json", report("node1"))
    for pair in itertools.permutations([old, new]):
        found = fleet(*pair)
        assert (found["verdict"], found["duplicates"]) == ("READY", [])
        assert [entry["path"] for entry in found["outdated"]] == ["job-1/node1.json"]


def test_a_node_that_the_newest_job_names_and_that_has_no_report_is_missing() -> None:
    found = fleet(*(report(f"node{number}", job=job("7", number - 1)) for number in (1, 2, 4)))
    assert (found["verdict"], found["missing"], found["exclude"]) == ("INCONCLUSIVE", ["node3"], "node3")
    assert "1 node has not reported: node3" in found["summary"]
    assert "HEALTH_CHECK_RESULT:node3:Skipped:none:it has no report" in found["hyperpod"]


@pytest.mark.parametrize("age", [90, 100, 103])
def test_a_task_of_an_array_that_did_not_end_has_reported(age: float) -> None:
    task: dict[str, Any] = {"task": 3, "tasks": 1}
    others = [report(f"node{number}", age=100, job=job("77", number - 1, **task)) for number in (1, 2, 4)]
    found = fleet(*others, ("reports/job-77/node3.json", begun("node3", age)))
    assert (found["missing"], found["exclude"], found["doubts"]) == ([], "node3", [])
    assert reasons(found, "node3")[0] == "its run did not end"


def test_a_job_of_a_strange_name_is_known_by_its_folder() -> None:
    others = [report(f"node{number}", job=job("a/b c", number, None)) for number in range(3)]
    (entry,) = (
        one
        for one in fleet(*others, ("reports/job-a%2Fb%20c/node3.json", begun("node3")))["nodes"]
        if one["host"] == "node3"
    )
    assert (entry["job"], entry["status"]) == ("a/b c", "unknown")


def test_an_older_report_does_not_stand_in_for_a_missing_one() -> None:
    older = [report(f"node{number}", age=5 * HOUR, job=job("5", number - 1)) for number in (1, 2, 3, 4)]
    newer = [report(f"node{number}", job=job("7", number - 1)) for number in (1, 2, 4)]
    found = fleet(*older, *newer)
    assert (found["verdict"], found["missing"]) == ("INCONCLUSIVE", ["node3"])
    assert "node3" not in status(found)
    assert {entry["job"] for entry in found["nodes"]} == {"7"}
    # A newer one does, of whatever job or of none.
    for later in (report("node3", age=MINUTE), report("node3", age=MINUTE, job=job("9", 0, "node3", 1))):
        found = fleet(*older, *newer, later)
        assert (found["verdict"], found["missing"]) == ("READY", [])


def test_a_clock_that_is_off_does_not_make_a_job_older() -> None:
    older = [report(f"node{number}", "blocked", age=2 * HOUR, job=job("5", number)) for number in (1, 2, 3, 4)]
    newer = [report(f"node{number}", age=HOUR, job=job("7", number)) for number in (1, 2, 3)]
    behind = report("node4", age=3 * HOUR, job=job("7", 4))
    found = fleet(*older, *newer, behind)
    assert found["verdict"] == "READY"
    assert {entry["job"] for entry in found["nodes"]} == {"7"}


@pytest.mark.parametrize("started", [[0.0, 3 * 24 * HOUR], [400 * 24 * HOUR]])
def test_a_wrong_clock_lets_no_older_report_stand_for_one_that_is_blocked(started: list[float]) -> None:
    older = [report(f"node{number}", age=24 * HOUR, job=job("100", number)) for number in (1, 2, 3, 4)]
    hosts = ["node4", "node3"][: len(started)]
    kinds = {"node3": "ready", "node4": "blocked"}
    part = job("101", 0, ",".join(hosts), len(hosts))
    newer = [report(host, kinds[host], age=age, job=part) for host, age in zip(hosts, started, strict=True)]
    found = fleet(*older, *newer)
    assert (found["verdict"], status(found)["node4"]) == ("INCONCLUSIVE", "unknown")
    said = "job 101, which has a higher number, says otherwise; by the clocks it is older"
    assert reasons(found, "node4") == [said]
    assert fleet(*older, *newer, job="100")["verdict"] == "READY"
    assert fleet(*older, *newer, job="101")["verdict"] == "BLOCKED"


def test_a_job_that_may_be_the_newer_one_and_has_no_report_of_a_host_is_a_doubt() -> None:
    older = [report(f"node{number}", age=HOUR, job=job("100", number)) for number in (1, 2, 3, 4)]
    found = fleet(*older, report("node1", age=2 * HOUR, job=job("101", 0, "node[1-2]", 2)))
    said = "job 101 has a higher number and no report of it; by the clocks it began before"
    assert (found["verdict"], reasons(found, "node1"), reasons(found, "node2")) == ("INCONCLUSIVE", [], [said])


def test_without_numbers_of_jobs_the_own_clock_of_a_host_is_asked() -> None:
    older = [report(f"node{rank}", age=8 * HOUR, job=job("a", rank, None, 3)) for rank in range(3)]
    # Two of three clocks are behind, so that the job seems to be older.
    ages, kinds = (9, 1, 9), ("ready", "blocked", "ready")
    newer = [
        report(f"node{rank}", kinds[rank], age=ages[rank] * HOUR, job=job("b", rank, None, 3)) for rank in range(3)
    ]
    found = fleet(*older, *newer)
    assert found["verdict"] == "INCONCLUSIVE"
    assert reasons(found, "node1") == ["job b says otherwise, and began later by the clock of this node"]


def test_one_job_can_be_asked_for() -> None:
    reports = [
        report("node1", "blocked", job=job("5", 0, "node1", 1)),
        report("node1", age=9, job=job("7", 0, "node1", 1)),
    ]
    assert fleet(*reports, job="5")["verdict"] == "BLOCKED"
    assert fleet(*reports, job="7")["verdict"] == "READY"
    found = fleet(*reports, job="9")
    assert (found["verdict"], found["doubts"]) == ("INCONCLUSIVE", ["no report of job 9"])


def test_a_job_that_names_no_host_is_held_to_its_number_of_nodes() -> None:
    torchrun = [report(f"pod-{rank}", job=job("t", rank, None)) for rank in (0, 1, 3)]
    found = fleet(*torchrun)
    assert (found["verdict"], found["doubts"]) == ("INCONCLUSIVE", ["job t: 3 of 4 nodes have reported, not rank 2"])
    assert fleet(*torchrun, report("pod-2", job=job("t", 2, None)))["verdict"] == "READY"
    # Once all of its nodes have reported for a later job, nobody waits for the rest.
    later = [report(f"pod-{rank}", age=MINUTE, job=job("u", rank, None, 3)) for rank in (0, 1, 2)]
    assert fleet(*torchrun[:2], *later)["verdict"] == "READY"


def test_a_job_array_is_held_to_its_number_of_tasks() -> None:
    def task(number: int, tasks: int = 4) -> Json:
        return report(f"n{number}", job=job("77", 0, f"n{number}", 1, task=number, tasks=tasks))

    found = fleet(task(0), task(1), task(3))
    assert (found["verdict"], found["doubts"]) == ("INCONCLUSIVE", ["job array 77: 3 of 4 tasks have reported"])
    found = fleet(task(0), task(1), task(2), task(3))
    assert (found["verdict"], found["missing"], found["duplicates"]) == ("READY", [], [])
    assert fleet(task(0), task(1), job="77_1")["nodes"][0]["job"] == "77_1"


def test_an_array_in_whose_place_another_one_counts_lacks_nothing() -> None:
    former = [report(f"node{task}", age=9 * HOUR, job=job("77", 0, f"node{task}", 1, task=task, tasks=4))
              for task in (0, 1, 2)]  # fmt: skip
    latter = [report(f"node{task}", job=job("78", 0, f"node{task}", 1, task=task, tasks=4)) for task in range(4)]
    assert fleet(*former)["doubts"] == ["job array 77: 3 of 4 tasks have reported"]
    found = fleet(*former, *latter)
    assert (found["verdict"], found["doubts"]) == ("READY", [])


def test_a_run_that_did_not_end_has_a_rank_that_nobody_knows() -> None:
    here = [report(f"pod-{rank}", job=job("t", rank, None)) for rank in (1, 2)]
    found = fleet(*here, ("r/job-t/pod-3.json", begun("pod-3")))
    assert found["doubts"] == ["job t: 3 of 4 nodes have reported"]
    again = fleet(*here, ("r/job-t/pod-2.json", begun("pod-2")))
    assert again["doubts"] == ["job t: 2 of 4 nodes have reported, not rank 0, 3"]


def test_lists_of_jobs_cannot_name_more_hosts_than_a_fleet_has() -> None:
    reports = [report(f"node{number}", job=job(f"{number}", 0, f"x{number}-[1-90000]", 9)) for number in (1, 2, 3)]
    found = fleet(*reports)
    assert found["verdict"] == "INCONCLUSIVE"
    assert len(found["missing"]) == 90_000
    said = "which nodes it has is not known: the lists of all jobs name more than 100,000 hosts"
    assert [f"job {number}: {said}" for number in (2, 3)] == [one for one in found["doubts"] if "lists" in one]


def test_the_hosts_of_a_list_must_report_and_so_must_as_many_as_are_asked_for() -> None:
    found = fleet(report("node1"), hosts=("node1", "node2"))
    assert (found["verdict"], found["missing"]) == ("INCONCLUSIVE", ["node2"])
    assert fleet(report("node1"), nodes=2)["doubts"] == ["1 of 2 nodes have reported"]
    assert fleet(report("node1"), hosts=("node1",), nodes=1)["verdict"] == "READY"


def test_a_list_of_nodes_that_cannot_be_read_leaves_a_doubt() -> None:
    found = fleet(report("node1", job=job("7", 0, "node[1-99999999999]", 1)))
    assert found["verdict"] == "INCONCLUSIVE"
    assert "which nodes it has is not known" in found["doubts"][0]


def test_slurms_name_of_a_node_is_the_one_to_drain() -> None:
    found = fleet(report("ip-10-0-0-1", "blocked", job=job("7", 0, "gpu-st-1", 1, node="gpu-st-1")))
    assert (found["exclude"], found["missing"]) == ("gpu-st-1", [])


def test_two_reports_of_a_host_in_one_job_are_named() -> None:
    gpus = [{**GPU, "uuid": uuid} for uuid in ("GPU-1", "GPU-2")]
    twice = [report("node1", age=age, job=job("7", 0, "node1", 1)) for age in (9.0, 60.0)]
    found = fleet(("a.json", twice[0]), ("b.json", twice[1]))
    assert found["duplicates"] == [{"host": "node1", "paths": ["a.json", "b.json"]}]
    assert found["verdict"] == "READY"
    for one, gpu in zip(twice, gpus, strict=True):
        one["bionemo"]["gpus"] = [gpu]
    found = fleet(("a.json", twice[0]), ("b.json", twice[1]))
    assert found["verdict"] == "INCONCLUSIVE"
    assert "2 machines call themselves node1" in reasons(found, "node1")[0]


def test_two_machines_of_one_name_are_no_history_of_one_another() -> None:
    kinds = ((HOUR, "ready"), (2 * HOUR, "blocked"))
    for other, verdict in (("GPU-2", "INCONCLUSIVE"), ("GPU-1", "READY")):
        found = [report("localhost", kind, age=age) for age, kind in kinds]
        for one, uuid in zip(found, ("GPU-1", other), strict=True):
            one["bionemo"]["gpus"] = [{**GPU, "uuid": uuid}]
        assert fleet(("a.json", found[0]), ("b.json", found[1]))["verdict"] == verdict


def test_of_two_reports_of_a_host_in_one_job_the_one_that_is_not_ready_counts() -> None:
    of_one_job = job("7", 0, "node1", 1)
    for age, part in ((HOUR, of_one_job), (2 * HOUR, of_one_job), (HOUR, None)):
        pair = [report("node1", "blocked", age=age, job=part), report("node1", age=HOUR, job=part)]
        for paths in itertools.permutations(["a.json", "b.json"]):
            assert fleet(*zip(paths, pair, strict=True))["verdict"] == "BLOCKED"


def test_two_reports_of_one_moment_are_told_apart_by_what_they_say() -> None:
    pair = [report("node1", driver=driver) for driver in ("580.1", "580.2")]
    kept = {
        next(iter(counted.nodes.values())).facts
        for paths in itertools.permutations(["a.json", "b.json"])
        for counted in [choose([node(one, path) for one, path in zip(pair, paths, strict=True)])]
    }
    assert len(kept) == 1


def test_two_nodes_of_a_job_that_are_called_alike_are_no_proof() -> None:
    pods = [report("pod", job=job("t", rank, None, 2)) for rank in (0, 1)]
    found = fleet(*pods)
    assert (found["verdict"], reasons(found, "pod")) == ("INCONCLUSIVE", ["2 nodes of the job call themselves pod"])


def test_reports_of_two_jobs_of_one_name_do_not_mix() -> None:
    today = [report(f"node{rank}", job=job("readiness", rank, None)) for rank in (0, 1, 2)]
    found = fleet(*today, report("node3", age=30 * 24 * HOUR, job=job("readiness", 3, None)))
    assert found["verdict"] == "INCONCLUSIVE"
    (doubt,) = found["doubts"]
    assert doubt.startswith("the reports of job readiness began 30 days apart")
    assert fleet(*today, report("node3", age=9 * HOUR, job=job("readiness", 3, None)))["verdict"] == "READY"


# ---- what makes a ready node unknown


def test_a_run_that_did_not_end_is_named_with_its_host() -> None:
    found = fleet(report("node1"), ("job-7/node2.json", begun("node2")))
    assert (found["verdict"], status(found)["node2"]) == ("INCONCLUSIVE", "unknown")
    assert reasons(found, "node2")[0] == "its run did not end"
    assert found["exclude"] == "node2"
    assert found["nodes"][1]["job"] == "7"
    assert any(line.startswith("HEALTH_CHECK_RESULT:node2:Skipped:") for line in found["hyperpod"])


def test_a_file_that_is_called_as_all_are_names_no_host() -> None:
    with pytest.raises(ReportError, match="does not say of which host it is"):
        read(json.dumps(begun()).encode(), "somewhere/bionemo_validation_report.json")


@pytest.mark.parametrize(
    ("changes", "asked", "said"),
    [
        ({"age": 25 * HOUR}, {"max_age_s": 24 * HOUR}, "it is 25 h old, and 24 h is asked for"),
        ({"age": -2 * HOUR}, {}, "it began 2 h from now: its clock is ahead, or this one behind"),
        ({}, {"level": "standard"}, "its level is quick, and standard is asked for"),
    ],
)
def test_what_is_too_old_too_shallow_or_from_the_future_is_no_proof(changes: Json, asked: Json, said: str) -> None:
    found = fleet(report("node1"), report("node2", **{"age": HOUR, **changes}), **asked)
    assert found["verdict"] == "INCONCLUSIVE"
    assert said in reasons(found, "node2")


def test_what_is_young_enough_deep_enough_and_on_time_is_one() -> None:
    asked: dict[str, Any] = {"max_age_s": 2 * HOUR, "level": "quick"}
    assert fleet(report("node1"), report("node2", age=-MINUTE), **asked)["verdict"] == "READY"


def test_a_run_that_ended_otherwise_than_well_is_no_proof() -> None:
    failed = report("node2")
    failed["exitcode"] = 1  # a test of its own
    found = fleet(report("node1"), failed)
    assert (found["verdict"], reasons(found, "node2")) == ("INCONCLUSIVE", ["its run ended with exit status 1"])


def test_the_fleet_is_ready_at_its_lowest_level() -> None:
    deep = report("node2")
    deep["bionemo"]["level"] = "full"
    found = fleet(report("node1"), deep)
    assert found["summary"] == "READY at level quick: 2 nodes, 2 passing"
    assert found["levels"] == {"full": 1, "quick": 1}


def test_an_unreadable_report_is_named_and_the_fleet_is_not_ready() -> None:
    found = fleet(report("node1"), unreadable=[("r/node2.json", "is empty")])
    assert found["verdict"] == "INCONCLUSIVE"
    assert found["unreadable"] == [{"path": "r/node2.json", "why": "is empty"}]
    assert status(found) == {"node1": "passing"}


# ---- blame


def test_the_blamed_node_fails_and_not_the_ones_that_blame_it() -> None:
    found = fleet(blaming("node1", "node3"), blaming("node2", "node3"), report("node3"), report("node4"))
    assert found["verdict"] == "BLOCKED"
    assert status(found) == {"node1": "unknown", "node2": "unknown", "node3": "failing", "node4": "passing"}
    assert found["exclude"] == "node3"
    assert found["nodes"][2]["blamed_by"] == ["node1", "node2"]
    assert reasons(found, "node3") == ["blamed by node[1-2]"]
    assert [entry["action"] for entry in found["nodes"]] == ["NONE", "NONE", "REBOOT_NODE", "NONE"]
    said = [line.split(":", 2)[2] for line in found["hyperpod"]]
    assert said[0] == "Skipped:none:BLOCKED at level quick: bionemo/driver::loads"
    assert said[2:] == ["Failed:reboot:READY at level quick, blamed by node[1-2]", "Passed:none:READY at level quick"]


def test_a_blamed_node_without_a_report_fails_and_is_missing() -> None:
    found = fleet(*(blaming(f"node{number}", "node4", job=job("7", number)) for number in (1, 2, 3)))
    assert (found["missing"], status(found)["node4"], found["exclude"]) == (["node4"], "failing", "node4")
    assert len([line for line in found["hyperpod"] if ":node4:" in line]) == 1


def test_a_node_that_misses_all_others_is_the_one_that_fails() -> None:
    cut_off = blaming("node4", "node1", "node2", "node3")
    found = fleet(*(blaming(f"node{number}", "node4") for number in (1, 2, 3)), cut_off)
    assert [host for host, word in status(found).items() if word == "failing"] == ["node4"]


def test_two_that_blame_each_other_both_fail() -> None:
    found = fleet(blaming("node1", "node2"), blaming("node2", "node1"))
    assert set(status(found).values()) == {"failing"}


def test_a_node_that_blames_itself_or_has_a_fault_of_its_own_fails() -> None:
    assert status(fleet(blaming("node1", "node1"), report("node2")))["node1"] == "failing"
    both = blaming("node1", "node2")
    own = report("node1", "blocked")
    both["tests"] += [test for test in own["tests"] if test["nodeid"] != "bionemo/driver::loads"]
    both["bionemo"]["checks"] += [check for check in own["bionemo"]["checks"] if check["name"] != "loads"]
    both["bionemo"]["checks"][1]["severity"] = "blocker"
    assert status(fleet(both, report("node2"))) == {"node1": "failing", "node2": "failing"}


def test_a_node_that_has_met_others_since_is_no_longer_blamed() -> None:
    missed = [blaming(f"node{number}", "node4", age=9 * HOUR, job=job("100", number)) for number in (1, 2, 3)]
    ill = report("node4", age=9 * HOUR, job=job("100", 4))
    again = [report(host, job=job("101", rank, "node1,node4", 2)) for rank, host in enumerate(("node1", "node4"))]
    found = fleet(*missed, ill, *again)
    assert status(found) == {"node1": "passing", "node2": "unknown", "node3": "unknown", "node4": "passing"}
    assert (found["verdict"], found["exclude"]) == ("INCONCLUSIVE", "")
    # Alone it meets nobody; and who is blamed again since then is not well.
    for since in ([report("node4", job=job("101", 0, "node4", 1))], [report("node4")],
                  [blaming("node1", "node4", job=job("101", 0, "node1,node4", 2)), again[1]]):  # fmt: skip
        assert status(fleet(*missed, ill, *since))["node4"] == "failing"


def test_what_a_report_says_of_others_is_as_old_as_the_report() -> None:
    reports = [blaming("node1", "node2", age=8 * 24 * HOUR, job=job("5", 0, "node[1-2]", 2)), report("node2")]
    assert status(fleet(*reports)) == {"node1": "unknown", "node2": "failing"}
    assert status(fleet(*reports, max_age_s=24 * HOUR)) == {"node1": "unknown", "node2": "passing"}


def test_nobody_is_drained_by_a_name_that_no_job_knows() -> None:
    found = fleet(blaming("node1", "elsewhere", "$(reboot)"), report("node2"))
    assert status(found) == {"node1": "unknown", "node2": "passing"}
    assert (found["exclude"], found["verdict"]) == ("", "INCONCLUSIVE")


# ---- drift


def test_drift_is_told_by_majority() -> None:
    drivers = ["580.95.05", "580.95.05", "580.95.05", "570.1", "570.1"]
    found = fleet(*(report(f"node{number}", driver=driver) for number, driver in enumerate(drivers)))
    assert found["drift"] == [
        {"fact": "driver", "majority": "580.95.05", "nodes": 3, "others": {"node3": "570.1", "node4": "570.1"}}
    ]
    assert found["verdict"] == "READY"


def test_packages_gpus_and_facts_of_the_site_drift_too() -> None:
    other = report("node3", torch="2.12.0", extra={"rack": 7}, nccl="2.27")
    other["bionemo"]["packages"][0]["version"] = "2.4.4"
    other["bionemo"]["gpus"] = []
    found = fleet(report("node1", extra={"rack": 6}), report("node2", extra={"rack": 6}), other)
    told = {entry["fact"]: (entry["majority"], entry["others"]) for entry in found["drift"]}
    assert told == {
        "bionemo-core": ("2.4.5", {"node3": "2.4.4"}),
        "extra.rack": ("6", {"node3": "7"}),
        "gpus": ("1 GPU (Tesla T4)", {"node3": "no GPU"}),
        "torch": ("2.13.0", {"node3": "2.12.0"}),
    }


def test_firmware_and_network_software_drift_where_they_are_told() -> None:
    usual: Json = {
        "vbios": "96.00.99.00.01",
        "adapter_firmware": "mlx5_core 28.39.1002",
        "adapter_links": "8 x InfiniBand 400 Gb/sec (4X NDR)",
        "libfabric": "2.4.0",
        "aws_ofi_nccl": "1.18.0",
    }
    nodes = [report(f"node{number}", **usual) for number in range(3)]
    slower = "7 x InfiniBand 400 Gb/sec (4X NDR) and 1 x InfiniBand 200 Gb/sec (2X NDR)"
    differing = {
        "vbios": "96.00.5E.00.01",
        "adapter_firmware": "mlx5_core 28.36.1010",
        "adapter_links": slower,
        "aws_ofi_nccl": None,
    }
    odd = report("node3", **{**usual, **differing})
    found = fleet(*nodes, odd, report("node4"))
    assert {entry["fact"]: (entry["nodes"], entry["others"]) for entry in found["drift"]} == {
        "adapter_firmware": (3, {"node3": "mlx5_core 28.36.1010"}),
        "adapter_links": (3, {"node3": slower}),
        "aws_ofi_nccl": (3, {"node3": "none"}),
        "vbios": (3, {"node3": "96.00.5E.00.01"}),
    }


def test_a_fleet_of_one_kind_has_no_drift() -> None:
    assert fleet(*(report(f"node{number}") for number in range(4)))["drift"] == []


def test_a_node_can_be_read_from_a_file_that_its_host_names(tmp_path: Any) -> None:
    (path,) = save(tmp_path, report("node1"))
    assert node(json.loads(path.read_text()), str(path)).started == NOW - HOUR
