"""The slow node among several, on links of which one is really slow: found by name, and nobody on healthy ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster import namespaces
from cluster.namespaces import Network
from cluster.rehearsal import Rehearsal
from conftest import RUNS, Run
from faults import proves
from pytest_bionemo import slow_paths
from pytest_bionemo.blaming import judge_pairs
from pytest_bionemo.checking import CheckFailed
from pytest_bionemo.model import Action, Finding
from pytest_bionemo.ranks import Ranks
from pytest_bionemo.slow_paths import Culprit
from pytest_bionemo.workloads.meeting import Place
from standin.environment import Environment
from standin.workers import write_spoiler

CHECK = "collectives::no_slow_link"
RATE, TENTH = "12mbit", "1200kbit"
HOSTS = [f"node{number}" for number in range(1, 9)]
LIMIT = 0.5


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    namespaces.require()
    network = Network(HOSTS, RATE)
    yield network
    network.close()


@pytest.fixture(scope="module")
def rehearsal(network: Network) -> Iterator[Rehearsal]:
    rehearsal = Rehearsal(network)
    rehearsal.run(HOSTS, "pairs:run", limit=LIMIT, budget_s=0.0)  # each has imported what it needs
    yield rehearsal
    rehearsal.close()


def measure(rehearsal: Rehearsal, nodes: int, **limits: float) -> dict[str, Any]:
    """What all of them say, which is the same."""
    hosts = HOSTS[:nodes]
    answers = rehearsal.run(hosts, "pairs:run", limit=LIMIT, budget_s=0.1, **limits)
    first = answers[hosts[0]]
    assert first.get("hosts") == hosts, first
    assert all(answer == first for answer in answers.values())
    return first


def culprits(found: dict[str, Any]) -> list[Culprit]:
    return slow_paths.culprits(found["hosts"], found["paths"], limit=LIMIT)


@pytest.mark.parametrize("nodes", [4, 8])
def test_a_link_slowed_tenfold_is_found_twenty_times_of_twenty_and_none_on_healthy_links(
    network: Network, rehearsal: Rehearsal, nodes: int
) -> None:
    for attempt in range(20):
        healthy = measure(rehearsal, nodes)
        assert culprits(healthy) == [], f"healthy, attempt {attempt}: {healthy}"
        slow = HOSTS[attempt % nodes]
        network.set_rate(slow, TENTH)
        found = measure(rehearsal, nodes)
        network.set_rate(slow)
        named = culprits(found)
        assert [culprit.hosts for culprit in named] == [(slow,)], f"attempt {attempt}: {found}"
        assert named[0].text.startswith(f"{slow} sends and receives slowly: "), f"attempt {attempt}: {found}"


def test_a_link_that_is_slow_in_one_direction_says_which(network: Network, rehearsal: Rehearsal) -> None:
    for ways, said in (({"receives": False}, "sends"), ({"sends": False}, "receives")):
        network.set_rate("node3", TENTH, **ways)
        (found,) = culprits(measure(rehearsal, 4))
        network.set_rate("node3")
        assert found.text.startswith(f"node3 {said} slowly: ")


def test_a_first_node_that_has_its_own_name_on_the_loopback_is_reached_all_the_same(
    network: Network, rehearsal: Rehearsal, tmp_path: Path
) -> None:
    """Debian and Ubuntu write such a line: the others would connect to themselves, and the node would be replaced."""
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n127.0.1.1 node1\n")
    network.run("node1", ["mount", "--bind", str(tmp_path / "hosts"), "/etc/hosts"])
    try:
        assert not culprits(measure(rehearsal, 4))
        said = rehearsal.run(HOSTS[:2], "collectives:say_hello")
        assert [answer["sum"] for answer in said.values()] == [2.0, 2.0]
        assert {tuple(answer["network"]["interfaces"]) for answer in said.values()} == {("eth0",)}
    finally:
        network.run("node1", ["umount", "/etc/hosts"])


def test_gloo_is_led_to_the_network_of_each_meeting(network: Network) -> None:
    """In a worker whose devices have met by themselves before: the loopback leads to no other node."""
    program = (
        "import os; from pytest_bionemo.workloads.interfaces import steer_gloo as steer\n"
        "for addresses in (['127.0.0.1'], ['127.0.0.1', '10.77.0.2'], ['::1'], ['::1', 'fd77::2']):\n"
        "    steer(addresses); print(os.environ['GLOO_SOCKET_IFNAME'])\n"
        "os.environ['GLOO_SOCKET_IFNAME'] = 'mine'; steer(['10.77.0.2']); print(os.environ['GLOO_SOCKET_IFNAME'])"
    )
    network.run("node1", ["ip", "address", "add", "fd77::1/64", "dev", "eth0", "nodad"])
    said = network.run("node1", [sys.executable, "-c", program])
    assert said.split() == ["lo", "eth0", "lo", "eth0", "mine"]


def test_a_path_that_carries_nothing_is_told_from_its_two_nodes(network: Network, rehearsal: Rehearsal) -> None:
    network.cut("node3", "node4")
    found = measure(rehearsal, 4, deadline_s=25)  # a fifth of it for each round
    network.mend("node3", "node4")
    (path,) = culprits(found)
    assert path.hosts == ("node3", "node4")
    assert path.text.startswith("the path between node3 and node4 carries no data, and each is fast with others: ")
    assert culprits(measure(rehearsal, 4)) == [], "what broke leaves nothing behind"


CORRUPTS = """
import torch.distributed as dist
class Corrupting(dist.ProcessGroupGloo):
    def send(self, tensors, *to):
        if tensors[0].numel() > 1000:
            tensors = [tensors[0].clone()]
            tensors[0][17] ^= 64
        return super().send(tensors, *to)
dist.ProcessGroupGloo = Corrupting
"""


def test_a_node_that_sends_wrong_data_is_found(rehearsal: Rehearsal, tmp_path: Path) -> None:
    write_spoiler(tmp_path, CORRUPTS, "cpu0")
    rehearsal.restart("node2", {"PYTHONPATH": str(tmp_path)})
    (found,) = culprits(measure(rehearsal, 4))
    rehearsal.restart("node2", {})
    assert found.hosts == ("node2",)
    assert found.text.startswith("node2 sends wrong data: node2 (cpu0) to node1 (cpu0) (1 bytes of a message arrived")


# ---- what the check makes of it


def judged(found: dict[str, Any], node: int, is_rehearsal: bool = True) -> tuple[Finding | None, dict[str, Any]]:
    """The finding on this node, and what it has measured."""
    measured: dict[str, Any] = {}
    first = SimpleNamespace(
        size=lambda **sizes: sizes["rehearsal"],
        measure=lambda name, value, unit, **rulers: measured.update(name=name, value=value, unit=unit, **rulers),
    )
    hosts = found["hosts"]
    ranks = SimpleNamespace(
        is_rehearsal=is_rehearsal,
        first=first,
        place=Place(node, len(hosts), "node1", 29400, hosts),
        nodes=len(hosts),
        meets=lambda workload: True,
        run=lambda workload, **parameters: [found],
    )
    try:
        judge_pairs(cast(Ranks, ranks))
    except CheckFailed as failed:
        return failed.finding, measured
    return None, measured


def test_every_node_blames_the_slow_one_and_that_one_nobody(network: Network, rehearsal: Rehearsal) -> None:
    finding, measured = judged(measure(rehearsal, 4), 0)
    assert finding is None
    assert (measured["name"], measured["unit"], measured["judgement"]) == ("node_to_node", "GB/s", "good")
    network.set_rate("node3", TENTH)
    found = measure(rehearsal, 4)
    network.set_rate("node3")
    for node in (0, 1, 3):
        finding, measured = judged(found, node)
        assert finding
        assert (finding.blames, finding.action, finding.severity) == (("node3",), Action.FIX_SOFTWARE, None)
        assert finding.fix[0] == "leave it out: $ srun --exclude=node3"
        assert measured["judgement"] == "good"
    finding, measured = judged(found, 2)
    assert finding
    assert finding.message.startswith("node3 sends and receives slowly: ")
    assert (finding.blames, measured["judgement"]) == ((), "low")
    assert measured["value"] < 0.2 * measured["peer_median"]
    # On GPUs it is the node that has to go.
    finding, _ = judged(found, 0, is_rehearsal=False)
    assert finding
    assert finding.action is Action.REPLACE_NODE


def test_a_node_that_is_a_little_slower_is_a_warning(network: Network, rehearsal: Rehearsal) -> None:
    network.set_rate("node2", "9mbit")
    found = measure(rehearsal, 4)
    network.set_rate("node2")
    finding, measured = judged(found, 1, is_rehearsal=False)
    assert finding
    assert (finding.severity, finding.action, measured["judgement"]) == ("warning", Action.FIX_SOFTWARE, "degraded")


def test_two_nodes_have_nobody_to_be_compared_with(rehearsal: Rehearsal) -> None:
    finding, measured = judged(measure(rehearsal, 2), 0)
    assert finding is None
    assert (measured["judgement"], measured["peer_median"]) == ("unjudged", None)


# ---- from the command line to the report


@proves(CHECK, "the link of one node is ten times slower", "network")
def test_all_reports_of_a_job_name_the_slow_node(
    network: Network, torch_environment: Environment, tmp_path: Path
) -> None:
    network.set_rate("node2", TENTH)
    runs = validate(network, torch_environment, tmp_path, 3)
    network.set_rate("node2")
    RUNS.extend(runs)
    said = "\n".join(run.stdout for run in runs)  # of the node that stays away the others know little
    assert [run.returncode for run in runs] == [1, 1, 1], said
    for run, blames in zip(runs, (["node2"], None, ["node2"]), strict=True):
        assert run.blockers == [CHECK], said
        finding = run.finding(CHECK)
        assert finding["message"].startswith("node2 sends and receives slowly: node")
        assert finding.get("blames") == blames


def validate(network: Network, environment: Environment, folder: Path, nodes: int) -> list[Run]:
    """Run the check on these nodes at once, as an operator of Kubernetes starts a job."""
    started = []
    for number, host in enumerate(network.hosts[:nodes]):
        report = folder / f"{host}.json"
        variables = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(folder), "RANK": str(number),
                     "WORLD_SIZE": str(nodes), "MASTER_ADDR": network.hosts[0], "MASTER_PORT": "29500"}  # fmt: skip
        command = [str(environment.python), "-m", "pytest", "-p", "no:cacheprovider", "--bionemo-validate",
                   "--bionemo-device=cpu", f"--bionemo-report={report}", "--bionemo-timeout=90",
                   f"bionemo/{CHECK}"]  # fmt: skip
        child = network.start(
            host, command, env=variables, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        started.append((child, report))
    outputs = [(child.communicate(timeout=500)[0], child.returncode, report) for child, report in started]
    return [Run(status, output, "", report) for output, status, report in outputs]


def test_the_report_of_a_healthy_rehearsal_is_written_on_every_node(
    network: Network, torch_environment: Environment, tmp_path: Path
) -> None:
    runs = validate(network, torch_environment, tmp_path, 2)
    assert [run.outcome(CHECK) for run in runs] == ["passed", "passed"], runs[0].stdout
    assert {json.loads(run.report_path.read_text())["bionemo"]["verdict"] for run in runs} == {"INCONCLUSIVE"}
