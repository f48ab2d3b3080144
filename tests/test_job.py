"""The job of a node, from the variables of its launcher, and where its reports go."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace

import pytest

from conftest import Rig
from pytest_bionemo.needs.meetings import place_of
from pytest_bionemo.probes import job as jobs
from pytest_bionemo.probes.job import Job, JobError
from standin import H100x8

# What a task of srun -N2 -w node3,node4 got from Slurm 22.05 inside a job of four nodes.
STEP = {
    "SLURMD_NODENAME": "node4",
    "SLURM_GTIDS": "1",
    "SLURM_JOBID": "3",
    "SLURM_JOB_ID": "3",
    "SLURM_JOB_NAME": "b.sh",
    "SLURM_JOB_NODELIST": "node[1-4]",
    "SLURM_JOB_NUM_NODES": "4",
    "SLURM_LOCALID": "0",
    "SLURM_NNODES": "2",
    "SLURM_NODEID": "1",
    "SLURM_NODELIST": "node[1-4]",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_PROCID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "node[3-4]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_TASKS_PER_NODE": "1(x2)",
}
# The batch script of the same job, as task 5 of an array.
BATCH = {
    "SLURMD_NODENAME": "node1",
    "SLURM_ARRAY_JOB_ID": "2",
    "SLURM_ARRAY_TASK_COUNT": "2",
    "SLURM_ARRAY_TASK_ID": "5",
    "SLURM_JOB_ID": "3",
    "SLURM_JOB_NODELIST": "node[1-4]",
    "SLURM_LOCALID": "0",
    "SLURM_NNODES": "4",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "node[1-4]",
    "SLURM_PROCID": "0",
    "SLURM_TASKS_PER_NODE": "1(x4)",
}
# What srun --het-group=0,1 gave its tasks inside of salloc -w node3 : -w node[1-2], but for what differs from node to
# node: its list is sorted by name, and SLURM_NODEID counts through one component after the other.
COMPONENTS = {
    "SLURM_HET_SIZE": "2",
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NODELIST": "node[1-3]",
    "SLURM_JOB_NODELIST_HET_GROUP_0": "node3",
    "SLURM_JOB_NODELIST_HET_GROUP_1": "node[1-2]",
    "SLURM_JOB_NODELIST_PACK_GROUP_0": "node3",
    "SLURM_JOB_NODELIST_PACK_GROUP_1": "node[1-2]",
    "SLURM_LOCALID": "0",
    "SLURM_NNODES": "3",
    "SLURM_NODELIST": "node[1-3]",
    "SLURM_NTASKS": "3",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "node[1-3]",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_TASKS_PER_NODE": "1(x3)",
}
HETEROGENEOUS = [
    COMPONENTS | {"SLURM_NODEID": str(rank), "SLURM_PROCID": str(rank), "SLURMD_NODENAME": name}
    for rank, name in enumerate(("node3", "node1", "node2"))
]
TORCHRUN = {
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "3",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29400",
    "RANK": "1",
    "TORCHELASTIC_RUN_ID": "nightly",
    "WORLD_SIZE": "3",
}
KUBEFLOW = {
    "JOB_NAME": "validate",
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "MASTER_ADDR": "validate-master-0",
    "MASTER_PORT": "23456",
    "RANK": "2",
    "WORLD_SIZE": "4",
}
# A PyTorchJob of two pods with nprocPerNode: "8": torchrun is meant to start the processes that WORLD_SIZE counts.
PYTORCHJOB = {
    **KUBEFLOW,
    "PET_MASTER_ADDR": "validate-master-0",
    "PET_NNODES": "2",
    "PET_NODE_RANK": "1",
    "PET_NPROC_PER_NODE": "8",
    "RANK": "1",
    "WORLD_SIZE": "16",
}
# By DeepSpeed, or a shell script below mpirun: the twelfth process, on the second of two nodes.
BY_HAND = {
    "LOCAL_RANK": "3",
    "LOCAL_WORLD_SIZE": "8",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "RANK": "11",
    "WORLD_SIZE": "16",
}


def without(variables: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name not in names}


def test_no_variables_are_no_job() -> None:
    assert jobs.read({}) is None
    assert jobs.read({"HOME": "/root", "RANK": "0"}) is None, "a rank alone says nothing"
    assert jobs.read({"RANK": "", "WORLD_SIZE": "", "MASTER_ADDR": ""}) is None


def test_a_step_of_slurm_is_a_job_of_its_own_nodes() -> None:
    assert jobs.read(STEP) == Job(
        launcher="slurm",
        id="3",
        node_rank=1,
        nodes=2,
        node_list="node[3-4]",
        address="node3",
        port=15003,
        node="node4",
        step="0",
    )


@pytest.mark.parametrize(("said", "step"), [("", None), ("4294967291", "4294967291"), ("extern", "extern")])
def test_a_step_may_be_called_anything(said: str, step: str | None) -> None:
    found = jobs.read(STEP | {"SLURM_STEP_ID": said})
    assert found
    assert (found.step, found.nodes) == (step, 2)


def test_an_id_that_is_no_text_names_a_folder_all_the_same() -> None:
    found = jobs.read(TORCHRUN | {"TORCHELASTIC_RUN_ID": "\udcff"})
    assert found
    assert found.folder == "job-%FF"


def test_a_batch_script_runs_on_one_node_and_belongs_to_its_array() -> None:
    found = jobs.read(BATCH)
    assert found == Job(
        launcher="slurm",
        id="2",
        node_rank=0,
        nodes=1,
        node_list="node1",
        hosts=("node1",),
        address="node1",
        port=15003,
        task=5,
        tasks=2,
        node="node1",
    )
    assert found.is_one_of_many, "the other tasks of the array are other nodes"


def test_a_prolog_knows_its_job_and_no_rank() -> None:
    found = jobs.read({"SLURM_JOB_ID": "77", "SLURMD_NODENAME": "node2"})
    assert found
    assert (found.id, found.nodes, found.node, found.is_one_of_many) == ("77", 1, "node2", False)


def test_torchrun_comes_before_the_slurm_that_started_it() -> None:
    found = jobs.read(STEP | TORCHRUN)
    assert found == Job(
        launcher="torchrun", id="nightly", node_rank=1, nodes=3, address="node1", port=29400, node="node4"
    )
    anonymous = TORCHRUN | {"TORCHELASTIC_RUN_ID": "none"}
    assert [job.id for job in map(jobs.read, [anonymous, STEP | anonymous]) if job] == [None, "3"]


def test_an_operator_or_a_hand_sets_the_variables_of_torch() -> None:
    assert jobs.read(KUBEFLOW) == Job(
        launcher="kubeflow", id="validate", node_rank=2, nodes=4, address="validate-master-0", port=23456
    )
    by_hand = {name: value for name, value in KUBEFLOW.items() if name != "KUBERNETES_SERVICE_HOST"}
    found = jobs.read(by_hand)
    assert found
    assert found.id is None, "outside Kubernetes others call something JOB_NAME"


@pytest.mark.parametrize("unknown", ["HET", "PACK", ""])
def test_the_nodes_of_a_heterogeneous_job_follow_its_components(unknown: str) -> None:
    """In a job that srun itself has started, steps of Slurm 22.05 know its components by their older name alone."""
    for rank, variables in enumerate(HETEROGENEOUS):
        known = {name: value for name, value in variables.items() if not unknown or f"{unknown}_GROUP" not in name}
        found = jobs.read(known)
        assert found
        assert found == jobs.with_hosts(found, {"hosts": ["node1", "node2", "node3"]}), "that is no order of ranks"
        assert (found.hosts, found.address) == (("node3", "node1", "node2"), "node3")
        place = place_of(found, "ip-10-0-0-1")
        assert (place.node_rank, place.host, place.first_host) == (rank, variables["SLURMD_NODENAME"], "node3")


def test_a_step_can_have_parts_of_the_components_or_one_alone() -> None:
    parts = {"SLURM_STEP_NODELIST": "node[2-3]", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    found = jobs.read(HETEROGENEOUS[2] | parts | {"SLURM_NODEID": "1"})
    assert found
    assert (found.hosts, found.address) == (("node3", "node2"), "node3")
    alone = {**parts, "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_JOB_NODELIST": "node[1-2]"}
    found = jobs.read(HETEROGENEOUS[2] | alone | {"SLURM_NODEID": "1"})
    assert found
    assert (found.node_rank, found.address) == (1, "node1")


def test_the_tasks_of_a_heterogeneous_step_are_listed_by_the_names_of_its_nodes() -> None:
    told = {"SLURM_STEP_TASKS_PER_NODE": "3,1(x2)"}
    assert jobs.read(HETEROGENEOUS[0] | told), "node3 has one, and comes first"
    with pytest.raises(JobError, match=r"^3 tasks were started on this node\. "):
        jobs.read(HETEROGENEOUS[1] | told)


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ({"SLURM_STEP_NODELIST": "node[1-2]", "MASTER_ADDR": "node1-ib0"}, "node1-ib0"),
        ({"SLURM_STEP_NODELIST": "node[1-2]", "MASTER_ADDR": "node1.cluster"}, "node1.cluster"),
        ({"SLURM_STEP_NODELIST": "node[1-2]", "MASTER_ADDR": "node4"}, "node1"),
        ({"SLURM_STEP_NODELIST": "node[1-2]", "MASTER_ADDR": "127.0.0.1"}, "node1"),
        ({"MASTER_ADDR": "node1"}, "node3"),
        ({"MASTER_ADDR": "node1.cluster"}, "node3"),
        ({"MASTER_ADDR": "10.0.0.1"}, "node3"),
        ({"MASTER_ADDR": "localhost"}, "node3"),
        ({"SLURM_STEP_NODELIST": "rack[1-2]n[1-4]", "MASTER_ADDR": "rack1n2"}, "rack1n1"),
    ],
)
def test_what_a_batch_script_exports_is_the_first_node_of_the_job_and_not_of_the_step(
    told: dict[str, str], address: str
) -> None:
    found = jobs.read(without(STEP, "SLURMD_NODENAME") | told | {"MASTER_PORT": "29501"})
    assert found
    assert (found.address, found.port) == (address, 29501)


def test_a_pytorchjob_has_as_many_nodes_as_pods() -> None:
    for variables, place in (
        (PYTORCHJOB, (1, 2)),
        (PYTORCHJOB | {"PET_NODE_RANK": "0"}, (0, 2)),
        (PYTORCHJOB | {"PET_NNODES": "2:2"}, (1, 2)),
        (PYTORCHJOB | {"PET_NNODES": "1:2", "PET_NPROC_PER_NODE": "1", "WORLD_SIZE": "2"}, (1, 2)),
        (PYTORCHJOB | {"PET_NNODES": "1:2", "PET_NPROC_PER_NODE": "auto", "WORLD_SIZE": "2"}, (1, 2)),
        (BY_HAND | {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}, (11, 16)),
    ):
        found = jobs.read(variables)
        assert found
        assert (found.node_rank, found.nodes) == place


def test_torchrun_has_met_at_its_address_before() -> None:
    found = jobs.read(TORCHRUN | {"MASTER_ADDR": "127.0.0.1"})
    assert found
    assert found.address == "127.0.0.1", "several of its nodes can be one machine"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (STEP | {"SLURM_NODEID": "x"}, "SLURM_NODEID: 'x' is not a number from 0 on. "),
        (STEP | {"SLURM_NODEID": "-1"}, "SLURM_NODEID: '-1' is not a number from 0 on. "),
        (STEP | {"SLURM_NODEID": "2"}, "slurm: node 2 of a job of 2. "),
        (STEP | {"SLURM_JOB_ID": "9" * 5000}, "SLURM_JOB_ID: "),
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "1(x"}, "SLURM_STEP_TASKS_PER_NODE: '1(x' is no list such as 1(x4). "),
        (STEP | {"MASTER_PORT": "70000"}, "MASTER_PORT: '70000' is not a number from 1 to 65535. "),
        (TORCHRUN | {"GROUP_WORLD_SIZE": "0"}, "GROUP_WORLD_SIZE: '0' is not a number from 1 on. "),
        (KUBEFLOW | {"RANK": "\u0664"}, "RANK: '\u0664' is not a number from 0 on. "),
        (KUBEFLOW | {"WORLD_SIZE": "2"}, "kubeflow: node 2 of a job of 2. "),
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "1,8"}, "8 tasks were started on this node. "),
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "2(x999999999)"}, "2 tasks were started on this node. "),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "8"}, "8 tasks were started on this node. "),
        (BY_HAND, "8 tasks were started on this node. "),
        (without(BY_HAND, "LOCAL_WORLD_SIZE"), "4 tasks were started on this node. "),
        (without(BY_HAND, "LOCAL_WORLD_SIZE", "LOCAL_RANK") | {"LOCAL_SIZE": "2"}, "2 tasks were started on this "),
        (STEP | {"SLURM_NODEID": ""}, "SLURM_NODEID: '' is not a number from 0 on. "),
        (without(STEP, "SLURM_NODEID"), "SLURM_NODEID is not set, and should be a number from 0 on. "),
        (STEP | {"SLURM_STEP_NUM_NODES": "", "SLURM_NNODES": ""}, "SLURM_STEP_NUM_NODES: '' is not a number from 1 "),
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "", "SLURM_TASKS_PER_NODE": ""}, "SLURM_STEP_TASKS_PER_NODE: '' is "),
        (STEP | {"SLURM_NODEID": "0"}, "SLURM_NODEID: 0 is node3 in the list of the step, and this is node4: "),
        (without(STEP, "SLURM_STEP_NODELIST", "SLURM_NODELIST"), "MASTER_ADDR: '' is not where the first of 2 "),
        (TORCHRUN | {"GROUP_RANK": ""}, "GROUP_RANK: '' is not a number from 0 on. "),
        (TORCHRUN | {"GROUP_RANK": "0", "GROUP_WORLD_SIZE": ""}, "GROUP_WORLD_SIZE: '' is not a number from 1 on. "),
        (without(TORCHRUN, "GROUP_WORLD_SIZE"), "GROUP_WORLD_SIZE is not set, and should be a number from 1 on. "),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": ""}, "LOCAL_WORLD_SIZE: '' is not a number from 1 on. "),
        (TORCHRUN | {"MASTER_ADDR": ""}, "MASTER_ADDR: '' is not where the first of 3 nodes is met: "),
        (KUBEFLOW | {"MASTER_ADDR": "localhost"}, "MASTER_ADDR: 'localhost' is not where the first of 4 nodes is "),
        (KUBEFLOW | {"MASTER_ADDR": "::1"}, "MASTER_ADDR: '::1' is not where the first of 4 nodes is met: "),
        (KUBEFLOW | {"MASTER_ADDR": ""}, "MASTER_ADDR: '' is not where the first of 4 nodes is met: "),
        (KUBEFLOW | {"RANK": ""}, "RANK: '' is not a number from 0 on. "),
        (PYTORCHJOB | {"PET_NNODES": "1:2"}, "PET_NNODES: '1:2' is no number of nodes, and a WORLD_SIZE of 16 may "),
    ],
)
def test_what_makes_no_sense_is_one_line_that_names_it(variables: Mapping[str, str], said: str) -> None:
    with pytest.raises(JobError) as caught:
        jobs.read(variables)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_the_first_node_may_look_at_itself_as_the_operator_tells_it() -> None:
    found = jobs.read(KUBEFLOW | {"RANK": "0", "MASTER_ADDR": "localhost"})
    assert found
    assert (found.node_rank, found.nodes, found.address) == (0, 4, "localhost")


def test_several_tasks_of_a_node_are_told_how_to_be_one() -> None:
    for variables, option in (
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 pytest"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "4"}, "torchrun --nproc-per-node=1 pytest"),
        (BY_HAND, "start it once on each node, with RANK and WORLD_SIZE that count nodes: pytest"),
    ):
        with pytest.raises(JobError, match=option):
            jobs.read(variables)
    others = STEP | {"SLURM_STEP_TASKS_PER_NODE": "8,1"}
    assert jobs.read(others), "what other nodes have is none of this one's business"


def test_the_folder_of_a_job_leads_nowhere_else() -> None:
    for run_id, folder in (("nightly", "job-nightly"), ("../../etc", "job-..%2F..%2Fetc"), ("a b", "job-a%20b")):
        found = jobs.read(TORCHRUN | {"TORCHELASTIC_RUN_ID": run_id})
        assert found
        assert found.folder == folder
    assert Job("kubeflow", None, 0, 2).folder is None


def test_a_job_comes_back_from_json() -> None:
    found = Job("slurm", "3", 1, 2, hosts=("a", "b"), task=4)
    assert Job.from_json(json.loads(json.dumps(found.to_json()))) == found


# ---------------------------------------------------------------------------------------------- in child processes

TOLD_WHERE = STEP | {"MASTER_ADDR": "10.0.0.9", "MASTER_PORT": "5000"}
REFUSED = {name: value for name, value in STEP.items() if name != "SLURM_NTASKS_PER_NODE"}
# One process: importing Lightning is what takes the time.
_ASK = """
import json, os, sys
from pytest_bionemo.probes import job
for variables in json.loads(sys.argv[1]):
    os.environ.update(variables)
    print(json.dumps(job.of_lightning(**job.asking_lightning(job.read(variables), "pytorch-lightning"))))
    for name in variables:
        os.environ.pop(name)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
"""


def test_lightning_reads_the_same_unless_it_refuses() -> None:
    asked = [STEP, TOLD_WHERE, *HETEROGENEOUS, TORCHRUN, KUBEFLOW, PYTORCHJOB, REFUSED]
    command = [sys.executable, "-c", _ASK, json.dumps(asked)]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for variables, told in zip(asked, answers, strict=True):
        found = jobs.read(variables)
        assert found
        assert jobs.with_lightning(found, told) == found
        assert jobs.with_lightning(found, None) == found, "one that says nothing changes nothing"
        if variables is REFUSED:
            assert told["job"] is None
            assert "--ntasks-per-node" in told["refused"]
        else:
            assert told == {"job": {name: getattr(found, name) for name in told["job"]}, "refused": None}


def test_what_lightning_says_is_what_counts() -> None:
    found = jobs.read(STEP)
    assert found
    told = {"job": {"node_rank": 0, "nodes": 2, "local_rank": 0, "address": "other", "port": 7}, "refused": None}
    assert jobs.with_lightning(found, told) == replace(found, node_rank=0, address="other", port=7)


def test_only_as_many_hosts_as_were_started_are_believed() -> None:
    found = jobs.read(STEP)
    assert found
    assert jobs.with_hosts(found, {"hosts": ["node3", "node4"]}).hosts == ("node3", "node4")
    assert jobs.with_hosts(found, {"hosts": ["node3"]}).hosts == ()
    assert jobs.with_hosts(found, None).hosts == ()


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("a", "a"),
        ("a[01-12],b3", "a01"),
        ("a,b[1-2]", "a"),
        ("rack[3,5]n[2-4]-gpu,x", "rack3n2-gpu"),
        ("ip-10-1-[7,9-12]-3", "ip-10-1-7-3"),
    ],
)
def test_the_first_host_of_a_list_is_where_a_job_meets(nodes: str, first: str) -> None:
    found = jobs.read(STEP | {"SLURM_STEP_NODELIST": nodes})
    assert found
    assert found.address == first


# --------------------------------------------------------------------------------------------------------- in a run


def test_each_job_has_a_folder_of_its_own_below_the_one_that_is_given(rig: Rig) -> None:
    rig.node = H100x8
    (rig.project / "reports").mkdir()
    rig.variables = dict(STEP)
    rig.validate("--bionemo-report=reports", "bionemo/driver::loads")
    rig.variables = {**STEP, "SLURM_JOB_ID": "4", "SLURMD_NODENAME": "node3", "SLURM_NODEID": "0"}
    rig.validate("--bionemo-report=reports", "bionemo/driver::loads")
    rig.variables = {}
    rig.validate("--bionemo-report=reports", "bionemo/driver::loads")
    reports = {str(path.relative_to(rig.project)): path for path in rig.project.rglob("*.json")}
    assert set(reports) == {
        "reports/job-3/node4.json",
        "reports/job-4/node3.json",
        f"reports/{socket.gethostname()}.json",
    }
    job = json.loads(reports["reports/job-3/node4.json"].read_text())["bionemo"]["environment"]["job"]
    assert (job["launcher"], job["id"], job["node_rank"], job["nodes"]) == ("slurm", "3", 1, 2)
    assert job["node_list"] == "node[3-4]"


def test_nodes_that_share_a_folder_never_write_the_report_of_another(rig: Rig) -> None:
    rig.variables = dict(STEP)
    rig.validate("bionemo/host::runs_linux")
    assert [str(path.relative_to(rig.project)) for path in rig.project.rglob("*.json")] == ["job-3/node4.json"]
    rig.validate("bionemo/host::runs_linux", "--bionemo-report=mine.json")
    assert (rig.project / "mine.json").exists(), "a file that somebody names is theirs"


def test_nodes_that_are_given_a_folder_that_is_not_there_make_it(rig: Rig) -> None:
    for rank, node in enumerate(("node3", "node4")):
        rig.variables = {**STEP, "SLURM_NODEID": str(rank), "SLURMD_NODENAME": node}
        rig.validate("bionemo/host::runs_linux", "--bionemo-report=reports")
    found = sorted(str(path.relative_to(rig.project)) for path in rig.project.rglob("*.json"))
    assert found == ["reports/job-3/node3.json", "reports/job-3/node4.json"]


def test_a_second_task_of_a_node_is_a_usage_error_that_leaves_no_report(rig: Rig) -> None:
    rig.variables = {**STEP, "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
    run = rig.validate("--bionemo-report=.")
    assert run.returncode == 4
    assert "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 pytest" in run.stderr
    assert list(rig.project.rglob("*.json")) == []


def test_the_report_holds_the_job_under_xdist_too(rig: Rig) -> None:
    rig.variables = dict(TORCHRUN)
    rig.validate("-n", "2", "bionemo/host::runs_linux")
    (path,) = rig.project.rglob("job-nightly/*.json")
    assert json.loads(path.read_text())["bionemo"]["environment"]["job"]["launcher"] == "torchrun"


CHECKS = """
from pytest_bionemo import check, fail

@check(severity="warning")
def meets(job) -> None:
    \"\"\"The job is known.\"\"\"
    fail(f"node {job.node_rank} of {job.nodes} meets at {job.address}:{job.port}")
"""


def test_a_check_that_asks_for_the_job_applies_in_one_of_several_nodes_alone(rig: Rig) -> None:
    rig.site.joinpath("cluster_checks.py").write_text(CHECKS)
    rig.write("conftest.py", "def pytest_bionemo_checks(config): return ['cluster_checks']")
    rig.variables = dict(STEP)
    run = rig.validate("bionemo/cluster_checks", "--bionemo-report=bionemo.json")
    report = json.loads((rig.project / "bionemo.json").read_text())["bionemo"]
    assert [one["message"] for one in report["warnings"]] == ["node 1 of 2 meets at node3:15003"], run.stdout
    for alone in ({}, {name: value for name, value in STEP.items() if "STEP" not in name}):
        rig.variables = dict(alone)
        rig.validate("bionemo/cluster_checks", "--bionemo-report=bionemo.json")
        report = json.loads((rig.project / "bionemo.json").read_text())["bionemo"]
        assert [one["reason"] for one in report["not_applicable"]] == ["this is no job of several nodes"]
