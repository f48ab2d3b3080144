"""The topics interconnect and collectives, rehearsed: pretend devices of one node, and several nodes at once.

The nodes are pytest runs of their own on this machine, with the variables that a step of Slurm has. Faults are put
into the worker of one rank.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from conftest import RUNS, Rig, Run
from faults import proves
from ports import free_ports
from pytest_bionemo.checking import CheckFailed, NotApplicable, NotRun
from pytest_bionemo.checks import collectives, interconnect
from pytest_bionemo.exchanging import _fail_wrong, judge_network, suspects
from pytest_bionemo.facts.gpus import find
from pytest_bionemo.model import Action
from pytest_bionemo.probes.fabric import Adapter, Fabric, Port
from pytest_bionemo.workloads import KIND, network
from pytest_bionemo.workloads.collectives import OPERATIONS, _listen_to_nccl
from pytest_bionemo.workloads.meeting import Place

NODES = ("node1", "node2", "node3")
VALUES = [f"values_are_exact[{operation}]" for operation in OPERATIONS]

# What a rank does in the step of one collective; the others are in it, too.
ON_NODE_2 = (
    "import os, signal, time\nimport torch.distributed as dist\nif os.environ['SLURMD_NODENAME'] == 'node2':\n"
)
MAKES_A_MISTAKE = """
    def mistake(*given):
        raise ValueError("a shape that does not fit")

    dist.all_gather_into_tensor = mistake
"""
IS_KILLED = "    dist.all_gather_into_tensor = lambda *given: os.kill(os.getpid(), signal.SIGKILL)\n"
SENDS_WRONG_PARTS = """
    right = dist.all_to_all_single

    def spoilt(output, given):
        # On its way out of this rank one number of what goes to the others changes, and none of its own part.
        sent, part = given.clone(), given.numel() // dist.get_world_size()
        for rank in range(dist.get_world_size()):
            if rank != dist.get_rank():
                sent[rank * part] += 1
        right(output, sent)

    dist.all_to_all_single = spoilt
"""
SPOILT = """
import time
import torch.distributed as dist
right_sum, right_send = dist.all_reduce, dist.send

def one_bit_of_a_long_sum(tensor, *how):
    right_sum(tensor, *how)
    if tensor.numel() > 100_000:
        tensor.view(torch.int32)[3] ^= 1 << 20

def slow(tensor, target):
    time.sleep(0.5)
    right_send(tensor, target)

dist.all_reduce, dist.send = one_bit_of_a_long_sum, slow
"""
NO_GROUP = """
import torch.distributed as dist

def refused(*given, **options):
    raise RuntimeError("NCCL error: unhandled system error: no socket interface found")

dist.init_process_group = refused
"""


def step_of_slurm(node: str, number: int) -> dict[str, str]:
    rank = str(NODES.index(node))
    return {
        "SLURM_JOB_ID": "71", "SLURM_STEP_ID": "0", "SLURM_NODEID": rank, "SLURM_PROCID": rank, "SLURM_LOCALID": "0",
        "SLURM_NNODES": str(number), "SLURM_STEP_NUM_NODES": str(number), "SLURM_STEP_NODELIST": f"node[1-{number}]",
        "SLURM_STEP_TASKS_PER_NODE": f"1(x{number})", "SLURM_NTASKS": str(number), "SLURMD_NODENAME": node,
    }  # fmt: skip


def pod_of_kubernetes(node: str, number: int) -> dict[str, str]:
    rank = str(NODES.index(node))
    return {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_NAME": "readiness", "NODE_NAME": node, "RANK": rank,
            "WORLD_SIZE": str(number)}  # fmt: skip


def together(
    rig: Rig,
    nodes: Sequence[str],
    *args: str,
    of: int | None = None,
    started_by: Callable[[str, int], dict[str, str]] = step_of_slurm,
) -> dict[str, Run]:
    """Run the nodes of one job at once, and return what each left behind; ``of`` counts those that were started."""
    (port,) = free_ports(1)
    variables = rig.environ()
    number = of or len(nodes)

    def run(node: str) -> Run:
        folder = rig.project / node
        folder.mkdir()
        job = {**started_by(node, number), "MASTER_ADDR": socket.gethostname(), "MASTER_PORT": str(port)}
        # Nodes that share a processor are slow by chance: test_check_no_slow_link gives them links of a known rate.
        command = ["-m", "pytest", "-p", "no:cacheprovider", "--bionemo-validate", "--bionemo-device=cpu",
                   "--bionemo-report=report.json", "--deselect=bionemo/collectives::no_slow_link", *args]  # fmt: skip
        done = rig.environment.run(command, folder, env={**variables, **job}, timeout=300)
        return Run(done.returncode, done.stdout, done.stderr, folder / "report.json")

    with ThreadPoolExecutor(len(nodes)) as pool:
        runs = dict(zip(nodes, pool.map(run, nodes), strict=True))
    RUNS.extend(runs.values())
    return runs


def test_devices_of_a_healthy_node_exchange_what_they_should(torch_rig: Rig) -> None:
    run = torch_rig.rehearse("bionemo/interconnect", "bionemo/collectives", "--bionemo-expect-gpus=2")
    passed = ["devices_meet", "pairs_at_full_speed", *VALUES]
    assert [run.outcome(f"interconnect::{name}") for name in passed] == ["passed"] * len(passed), run.stdout
    assert run.outcome("interconnect::peers_are_reached_directly") == "not_applicable"
    assert run.bionemo["sections"]["collectives"] == "NOT_APPLICABLE"
    measured = {(entry["name"], entry["device"]): entry for entry in run.bionemo["measurements"]}
    for operation in OPERATIONS:
        bus = measured[f"node_{operation}_bus", "cpu0"]
        assert bus["unit"] == "GB/s"
        assert 0 < bus["ci95"][0] <= bus["value"] <= bus["ci95"][1] < bus["bound"]
        assert 0 < measured[f"node_{operation}_latency", "cpu0"]["value"] < 1
    assert measured["send_to_cpu1", "cpu0"]["peer_median"] == measured["send_to_cpu0", "cpu1"]["peer_median"]


@proves("interconnect::values_are_exact", "one bit of a long sum flips on one device", "worker")
@proves("interconnect::pairs_at_full_speed", "one device sends at a fraction of the speed of the others", "worker")
@proves("interconnect::devices_meet", "no process group can be made", "worker")
def test_a_device_is_named_that_is_slow_or_adds_wrongly_or_forms_no_group(torch_rig: Rig) -> None:
    torch_rig.spoil_workers(SPOILT, "cpu2")
    own = ("bionemo/interconnect::pairs_at_full_speed", "bionemo/interconnect::values_are_exact[all_reduce]")
    run = torch_rig.rehearse(*own, "--bionemo-expect-gpus=3")
    finding = run.finding("interconnect::values_are_exact[all_reduce]")
    assert "all_reduce of 4194300 bytes: rank 2 (" in finding["message"], "the shorter messages were right"
    assert "got 1 of 1048575 numbers wrong: " in finding["message"]
    assert "blames" not in finding, "this node is at fault itself"
    finding = run.finding("interconnect::pairs_at_full_speed")
    assert finding["message"].startswith("from cpu2 to cpu0: ")
    assert finding["message"].endswith("and so for 2 of 6 pairs: all of them have cpu2")
    torch_rig.spoil_workers(NO_GROUP, "cpu1")
    run = torch_rig.rehearse("bionemo/interconnect", "--bionemo-expect-gpus=2", "--bionemo-timeout=20")
    finding = run.finding("interconnect::devices_meet")
    assert finding["message"].startswith("cpu1: the workload collectives:say_hello failed in a CUDA library: ")
    assert "no socket interface found" in finding["message"]
    assert run.blockers == ["interconnect::devices_meet"], "one root cause"
    assert run.gap("interconnect::pairs_at_full_speed")["waits_for"] == "bionemo/interconnect::devices_meet"


@proves("collectives::values_are_exact", "one node spoils a number of each part that it sends", "worker")
def test_a_node_that_sends_wrong_values_is_named_by_the_others_and_by_itself(torch_rig: Rig) -> None:
    torch_rig.spoil_workers(ON_NODE_2 + SENDS_WRONG_PARTS)
    runs = together(torch_rig, NODES, "bionemo/collectives")
    for node, run in runs.items():
        assert run.blockers == ["collectives::values_are_exact[all_to_all]"], run.stdout
        finding = run.finding(run.blockers[0])
        assert "from rank 1 (node2)" in finding["message"]
        assert finding["message"].endswith("mistakes have rank 1 (node2) in common")
        assert finding.get("blames") == (None if node == "node2" else ["node2"])
        assert run.bionemo["action"] == ("FIX_SOFTWARE" if node == "node2" else "NONE"), "nothing to do about others"
        assert "blames" in run.stdout or node == "node2"
        assert run.outcome("collectives::every_node_arrives") == "passed"
        assert run.outcome("collectives::uses_the_fastest_network") == "passed"
        measured = {entry["name"] for entry in run.bionemo["measurements"]}
        assert "collective_all_reduce_bus" in measured


@proves("collectives::values_are_exact", "a rank is killed in the middle of a collective", "process")
def test_a_rank_that_is_killed_in_a_collective_is_one_finding_on_every_node(torch_rig: Rig) -> None:
    torch_rig.spoil_workers(ON_NODE_2 + IS_KILLED)
    runs = together(torch_rig, NODES, "bionemo/collectives")
    for node, run in runs.items():
        assert run.blockers == ["collectives::values_are_exact[all_gather]"], run.stdout
        finding = run.finding(run.blockers[0])
        if node == "node2":
            assert "cpu0: the workload collectives:run died: killed by SIGKILL" in finding["message"]
            assert "blames" not in finding
        else:
            assert finding["message"] == (
                "collectives: rank 1 (node2, cpu0) in the step 'all_gather of 1020 B': died"
            )
            assert finding["blames"] == ["node2"]
        gap = run.gap("collectives::values_are_exact[broadcast]")
        assert gap["reason"] == "the ranks did not come to the end of collectives"


@proves("collectives::every_node_arrives", "a node of the job never starts", "process", "REBOOT_NODE")
@pytest.mark.skipif(
    not shutil.which("scontrol"), reason="Slurm's scontrol is not here to tell the names of the nodes"
)
def test_a_node_that_never_starts_is_named_and_nothing_else_is_tried(rig: Rig) -> None:
    # The name of one that never came is known from Slurm alone, whose program needs a configuration to start.
    conf = rig.write("slurm.conf", "ClusterName=none\nSlurmctldHost=localhost\nNodeName=none\n")
    rig.variables["SLURM_CONF"] = str(conf)
    runs = together(rig, NODES[:2], "bionemo/collectives", "--bionemo-timeout=4", of=3)
    for run in runs.values():
        assert run.blockers == ["collectives::every_node_arrives"], run.stdout
        finding = run.finding("collectives::every_node_arrives")
        assert finding["message"].startswith("node3 did not arrive within ")
        assert finding["blames"] == ["node3"]
        assert "or leave it out: $ srun --exclude=node3" in finding["fix"]


def test_a_node_of_which_nobody_knows_the_name_takes_no_other_one_out_of_use(rig: Rig) -> None:
    arrives = "collectives::every_node_arrives"
    runs = together(rig, NODES[:2], f"bionemo/{arrives}", "--bionemo-timeout=4", of=3, started_by=pod_of_kubernetes)
    for run in runs.values():
        assert run.blockers == [], run.stdout
        assert run.gap(arrives)["reason"].startswith("node 2 of the 3 (counted from 0) did not arrive within ")
    paths = [str(rig.project / node / "report.json") for node in NODES[:2]]
    command = ["-m", "pytest_bionemo", "fleet", *paths, "--print", "json"]
    document = json.loads(rig.environment.run(command, rig.project, env=rig.environ()).stdout)
    assert document["exclude"] == ""
    assert document["doubts"] == ["job readiness: 2 of 3 nodes have reported, not rank 2"]


@proves("collectives::values_are_exact", "a rank breaks off with an error", "package", "FIX_SOFTWARE")
def test_a_rank_that_breaks_off_is_the_finding_of_its_own_node_and_accuses_nobody(torch_rig: Rig) -> None:
    torch_rig.spoil_workers(ON_NODE_2 + MAKES_A_MISTAKE)
    runs = together(torch_rig, NODES[:2], "bionemo/collectives")
    said = {node: run.finding("collectives::values_are_exact[all_gather]") for node, run in runs.items()}
    mistake = "broke off: ValueError: a shape that does not fit"
    assert said["node2"]["message"] == f"cpu0: the workload collectives {mistake}"
    assert "blames" not in said["node2"]
    assert (
        said["node1"]["message"] == f"collectives: rank 1 (node2, cpu0) in the step 'all_gather of 1 KiB': {mistake}"
    )
    assert said["node1"]["blames"] == ["node2"]
    for run in runs.values():
        assert run.blockers == ["collectives::values_are_exact[all_gather]"]
        gap = run.gap("collectives::values_are_exact[broadcast]")
        assert gap["reason"] == "the ranks did not come to the end of collectives"


@proves("collectives::ranks_meet", "a node has no PyTorch that imports", "PyTorch", "FIX_SOFTWARE")
def test_a_node_that_cannot_take_part_says_so_and_nobody_waits_for_it(torch_rig: Rig) -> None:
    (torch_rig.site / "broken").mkdir()
    (torch_rig.site / "broken" / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open')")
    write = "import os, sys\nif os.environ.get('SLURMD_NODENAME') == 'node2':\n    sys.path.insert(0, {!r})\n"
    (torch_rig.site / "sitecustomize.py").write_text(write.format(str(torch_rig.site / "broken")))
    runs = together(torch_rig, NODES[:2], "bionemo/collectives", "bionemo/torch")
    finding = runs["node1"].finding("collectives::ranks_meet")
    assert finding["message"] == "collectives: node2 does not take part: PyTorch does not import"
    assert finding["blames"] == ["node2"]
    assert runs["node1"].blockers == ["collectives::ranks_meet"]
    assert runs["node2"].blockers == ["torch::imports"]
    assert runs["node2"].gap("collectives::ranks_meet")["waits_for"] == "bionemo/torch::imports"


def test_who_takes_part_in_every_mistake_is_suspected() -> None:
    def wrong(rank: int, source: int | None) -> dict[str, Any]:
        return {"rank": rank, "source": source}

    assert suspects([wrong(0, 2), wrong(1, 2), wrong(3, 2)]) == [2], "it sends them wrong"
    assert suspects([wrong(1, 0), wrong(1, 2), wrong(1, 3)]) == [1], "it receives them wrong"
    assert suspects([wrong(0, 1)]) == [0, 1], "either"
    assert suspects([wrong(0, None)]) == [0]
    assert suspects([wrong(0, None), wrong(1, None)]) == [], "a sum that all have wrong is nobody's"
    assert suspects([]) == []


# ------------------------------------------------------------------------------------------------- the network

SOCKETS = """\
node1:71:71 [0] NCCL INFO NET/Plugin: Could not find: libnccl-net.so. Using internal network plugin.
node1:71:71 [0] NCCL INFO NET/IB : No device found.
node1:71:71 [0] NCCL INFO NET/Socket : Using [0]ens5:10.1.2.3<0> [1]ens6:10.1.2.4<0>
node1:71:71 [0] NCCL INFO Using network Socket
"""
LIBFABRIC = """\
node1:71:71 [0] NCCL INFO NET/OFI Initializing aws-ofi-nccl 1.13.2-aws
node1:71:71 [0] NCCL INFO NET/OFI Selected Provider is efa (found 1 nics)
node1:71:71 [0] NCCL INFO Using network AWS Libfabric
node1:71:71 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] [send] via NET/AWS Libfabric/0
"""
PEERS = """\
node1:71:71 [0] NCCL INFO Using network Socket
node1:71:71 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM
node1:71:71 [0] NCCL INFO Channel 01/0 : 0[0] -> 1[1] via P2P/CUMEM
node1:71:71 [0] NCCL INFO Channel 00 : 0[1b0] -> 2[1d0] via SHM/direct/direct
"""


def fabric(*adapters: Adapter) -> Fabric:
    return Fabric(adapters, None, None, None, None, None, False, None)


def test_what_nccl_says_of_its_network_is_read() -> None:
    assert network.parse(SOCKETS) == {
        "name": "Socket",
        "interfaces": ["ens5", "ens6"],
        "plugin": "Could not find: libnccl-net.so",
        "ways": {},
    }
    assert network.parse(LIBFABRIC) == {
        "name": "Libfabric", "interfaces": [], "plugin": None, "ways": {"0-1": "NET/AWS"},
    }  # fmt: skip
    assert network.parse(PEERS)["ways"] == {"0-1": "P2P/CUMEM", "0-2": "SHM/direct/direct"}
    assert network.parse("") == {"name": None, "interfaces": [], "plugin": None, "ways": {}}


@proves("collectives::uses_the_fastest_network", "NCCL goes over sockets beside EFA, RDMA or a faster one", "worker")
def test_a_network_that_is_slower_than_the_node_has_is_a_finding() -> None:
    efa = Adapter("rdmap0s6", "efa", (Port("1", "ACTIVE", "LinkUp", "Unspecified"),), None, False)
    mlx = Adapter("mlx5_0", "mlx5_core", (Port("1", "ACTIVE", "LinkUp", "InfiniBand"),), None, False)
    down = Adapter("mlx5_1", "mlx5_core", (Port("1", "DOWN", "Polling", "InfiniBand"),), None, False)
    used = {**network.parse(SOCKETS), "speeds": {"ens5": 10_000, "ens6": 10_000}}

    def judge(found: dict[str, Any], own: Fabric) -> None:
        collectives.uses_the_fastest_network(cast("Any", _Told("NVIDIA H100 80GB HBM3", found)), own)

    with pytest.raises(CheckFailed, match=r"uses TCP sockets \(Could not find: libnccl-net.so\); .* 1 EFA adapter"):
        judge(used, fabric(efa))
    with pytest.raises(CheckFailed, match="RDMA adapters with a link: mlx5_0"):
        judge(used, fabric(mlx, down))
    judge(used, fabric(down))
    judge(network.parse(LIBFABRIC), fabric(efa))
    with pytest.raises(CheckFailed, match="talk over ens5, ens6 at 10 Gbit/s; bond0 of this node has 100 Gbit/s"):
        judge({**used, "speeds": {"ens5": 10_000, "bond0": 100_000}}, fabric())
    with pytest.raises(NotApplicable, match="NCCL_DEBUG"):
        judge(network.parse(""), fabric())


def test_a_rehearsal_is_not_blamed_for_the_sockets_of_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KIND, "cpu")
    efa = Adapter("rdmap0s6", "efa", (Port("1", "ACTIVE", "LinkUp", "Unspecified"),), None, False)
    found = {**network.used(""), "interfaces": ["eth0"], "speeds": {"eth0": 10_000}}
    judge_network(found, fabric(efa))
    with pytest.raises(CheckFailed, match="talk over eth0 at 10 Gbit/s; eth1 of this node has 100 Gbit/s"):
        judge_network({**found, "speeds": {"eth0": 10_000, "eth1": 100_000}}, fabric(efa))


def test_nccl_is_heard_in_every_meeting_of_a_worker_and_each_is_told_of_its_own_ranks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The devices of a node meet among themselves first, in the same process."""
    monkeypatch.setenv(KIND, "cuda")
    for name in ("NCCL_DEBUG", "NCCL_DEBUG_SUBSYS", "NCCL_DEBUG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with monkeypatch.context() as variables:
        variables.setattr(os, "environ", dict(os.environ))  # what the worker sets is gone in the end
        path, heard = _listen_to_nccl()
        assert path
        assert heard == 0
        path.write_text(PEERS)
        again, heard = _listen_to_nccl()
        assert again == path
        log = PEERS + LIBFABRIC
        assert network.used(log, heard)["name"] == "Libfabric"
        assert network.used(log, heard)["ways"] == {"0-1": "NET/AWS"}
        os.environ["NCCL_DEBUG_FILE"] = "/somebody's.log"
        assert _listen_to_nccl() == (None, 0)
        del os.environ["NCCL_DEBUG_FILE"]
        assert _listen_to_nccl() == (None, 0), "somebody reads NCCL's words on his own screen"


def test_what_all_nodes_say_of_nobody_takes_none_of_them_out_of_use() -> None:
    """Else one rank that spoils a sum would have every node of the job replaced."""
    wrong = [{"rank": rank, "source": None, "bytes": 8, "elements": 1, "of": 2, "expected": 1.0, "got": "2.0"}
             for rank in (0, 1)]  # fmt: skip

    def action_of(nodes: int, mistakes: list[dict[str, Any]]) -> Action:
        told = _Told("NVIDIA H100 80GB HBM3", {})
        told.place = Place(0, nodes, "", 0, ["node1", "node2"][:nodes])
        with pytest.raises(CheckFailed) as failed:
            _fail_wrong(cast("Any", told), "all_reduce", mistakes, ["node1", "node2"])
        return failed.value.finding.action

    assert action_of(2, wrong) is Action.FIX_SOFTWARE
    assert action_of(2, wrong[:1]) is Action.REPLACE_NODE
    assert action_of(1, wrong) is Action.REPLACE_NODE, "whichever of its devices it is"


def test_every_node_runs_what_they_do_together_in_the_same_order(rig: Rig) -> None:
    """Nodes whose pytest shuffles would each wait in another meeting, and accuse each other."""
    asked = ("bionemo/collectives", "bionemo/training", "bionemo/host")

    (rig.site / "mixing.py").write_text("def pytest_collection_modifyitems(items):\n    items.reverse()\n")

    def listed(*options: str) -> list[str]:
        said = rig.rehearse("--collect-only", "-q", *options, *asked).stdout
        return [line for line in said.splitlines() if "::" in line]

    straight, mixed = listed(), listed("-p", "mixing")
    assert mixed != straight
    assert sorted(mixed) == sorted(straight)
    together = [line for line in straight if "bionemo/host" not in line]
    start = mixed.index(together[0])
    assert mixed[start : start + len(together)] == together, "and nothing comes between"


def test_speeds_are_those_of_interfaces_that_are_up(tmp_path: Path) -> None:
    for name, speed, state in (("eth0", "10000", "up"), ("eth1", "100000", "down"), ("veth", "-1", "up")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "speed").write_text(f"{speed}\n")
        (tmp_path / name / "operstate").write_text(f"{state}\n")
    (tmp_path / "lo").mkdir()
    assert network.speeds(tmp_path) == {"eth0": 10_000}
    assert network.speeds(tmp_path / "missing") == {}


class _Told:
    """Ranks whose first meeting gave this log of NCCL's: what only a node of several GPUs can be asked."""

    is_rehearsal = False
    place: Place

    def __init__(self, model: str, found: dict[str, Any]) -> None:
        self.first = type("Device", (), {"model": find(model), "__str__": lambda _: "gpu0"})()
        self._found = [{"network": found}]

    def run(self, _: str) -> list[dict[str, Any]]:
        return self._found


@proves(
    "interconnect::peers_are_reached_directly", "NCCL goes through the memory of the host", "worker", "REBOOT_NODE"
)
def test_peers_that_nvlink_joins_and_that_are_not_reached_over_it_are_a_finding() -> None:
    def judge(model: str, log: str) -> None:
        interconnect.peers_are_reached_directly(cast("Any", _Told(model, network.parse(log))))

    with pytest.raises(CheckFailed, match="from rank 0 to rank 2 via SHM/direct/direct, and so for 1 of 2 pairs"):
        judge("NVIDIA H100 80GB HBM3", PEERS)
    judge("NVIDIA H100 80GB HBM3", PEERS.replace("SHM/direct/direct", "P2P/CUMEM"))
    with pytest.raises(NotRun, match="does not say how"):
        judge("NVIDIA H100 80GB HBM3", "Using network Socket\n")
    with pytest.raises(NotApplicable, match="not on record"):
        judge("NVIDIA A10G", PEERS)
