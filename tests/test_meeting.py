"""Meetings of ranks: who is there, and who is named when one is missed. Processes and signals are real."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_bionemo.desk import _LINGER_S, Desk, DeskError
from pytest_bionemo.needs.meetings import place_of
from pytest_bionemo.probes.child import Child
from pytest_bionemo.probes.job import Job
from pytest_bionemo.ranks import leaving_out
from pytest_bionemo.worker import Device, Trouble, Workers, WorkloadFailed
from pytest_bionemo.workloads.meeting import _MARGIN_S, GREETING, PORTS, Place, arrive, say_absent, staying
from pytest_bionemo.workloads.parallel_checkpoint import path_of

HOSTS = ("node1", "node2", "node3")
DEVICES = (2, 1, 1)  # of each node
# Of a worker that has to import torch, too: on a busy machine that takes half a minute.
TIMEOUT = 180.0
DEADLINE = 16.0
Answer = Any


class Cluster:
    """Three nodes as they are in a job, with their workers; each node's are started from a thread of its own."""

    def __init__(self) -> None:
        self.desk = Desk(0, "job 7")
        self._meetings = 0
        # The children of a thread end with it.
        self._threads = [ThreadPoolExecutor(1) for _ in HOSTS]
        self._workers = [Workers([Device.cpu(f"cpu{i}") for i in range(number)], TIMEOUT) for number in DEVICES]

    def place(self, node: int, nodes: int = len(HOSTS)) -> dict[str, Any]:
        return Place(node, nodes, "127.0.0.1", self.desk.port, list(HOSTS[:nodes]), "job 7").to_json()

    def run(
        self,
        workload: str = "exchange",
        nodes: Sequence[int] = (0, 1, 2),
        of: int = 3,
        name: str = "",
        **parameters: Any,
    ) -> dict[tuple[int, int], Answer]:
        """The answers by node and device, with the seconds that they took; all start at once."""
        self._meetings += 1
        name = name or str(self._meetings)
        started = [
            self._threads[node].submit(
                self._run, node, f"meeting_faults:{workload}", place=self.place(node, of), name=name, **parameters
            )
            for node in nodes
        ]
        return {key: answer for one in started for key, answer in one.result().items()}

    def _run(self, node: int, workload: str, /, **parameters: Any) -> dict[tuple[int, int], Answer]:
        answers: dict[tuple[int, int], Answer] = {}
        for local, label in enumerate(self._workers[node].labels):
            try:
                answers[node, local] = self._workers[node].run(label, workload, **parameters)
            except WorkloadFailed as failure:
                answers[node, local] = failure
        return answers

    def close(self) -> None:
        for workers in self._workers:
            workers.close()
        for thread in self._threads:
            thread.shutdown()
        self.desk.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()


def expect_missed(answers: dict[tuple[int, int], Answer], culprit: tuple[int, int], host: str) -> str:
    """All but the culprit blame this host, in the same words; those."""
    others = {key: answer for key, answer in answers.items() if key != culprit}
    assert others
    for answer in others.values():
        assert isinstance(answer, WorkloadFailed), answer
        assert answer.trouble is Trouble.MISSED, answer
        assert answer.blames == (host,)
    (text,) = {answer.text for answer in others.values()}
    assert "\n" not in text
    return str(text)


def test_ranks_meet_in_the_order_of_their_nodes_and_sum_over_gloo(cluster: Cluster) -> None:
    answers = cluster.run()
    assert {key: answer["rank"] for key, answer in answers.items()} == {(0, 0): 0, (0, 1): 1, (1, 0): 2, (2, 0): 3}
    for answer in answers.values():
        assert answer["sums"] == [[1.0 + 2 + 3 + 4]] * 4
        assert answer["hosts"] == ["node1", "node1", "node2", "node3"]
    again = cluster.run()
    assert [answer["sums"] for answer in again.values()] == [[[10.0]] * 4] * 4, "the same processes meet once more"


def test_what_ranks_share_comes_in_their_order(cluster: Cluster) -> None:
    for answer in cluster.run("tell").values():
        assert answer["said"] == [[0, "cpu0"], [1, "cpu1"], [2, "cpu0"], [3, "cpu0"]]


def test_a_rank_that_is_killed_in_a_collective_is_named_by_all_others(cluster: Cluster) -> None:
    answers = cluster.run(fault="killed", on=2, deadline_s=DEADLINE)
    text = expect_missed(answers, (1, 0), "node2")
    assert text == "rank 2 (node2, cpu0) in the step 'sum 2': died"
    assert answers[1, 0].trouble is Trouble.DEATH
    assert answers[1, 0].blames == ()


def test_rank_0_can_be_killed_too(cluster: Cluster) -> None:
    answers = cluster.run(fault="killed", on=0, deadline_s=DEADLINE)
    assert expect_missed(answers, (0, 0), "node1") == "rank 0 (node1, cpu0) in the step 'sum 2': died"


def test_a_rank_that_breaks_off_is_named_with_its_error_and_has_the_error_itself(cluster: Cluster) -> None:
    answers = cluster.run(fault="mistake", on=3, deadline_s=DEADLINE)
    text = expect_missed(answers, (2, 0), "node3")
    assert text.endswith("'sum 2': broke off: ValueError: a shape that does not fit")
    assert answers[2, 0].trouble is Trouble.ERROR
    assert answers[2, 0].text == "ValueError: a shape that does not fit"


def test_a_rank_that_stays_behind_is_found_by_where_it_is(cluster: Cluster) -> None:
    answers = cluster.run(fault="behind", on=1, deadline_s=DEADLINE)
    text = expect_missed(answers, (0, 1), "node1")
    assert text.startswith("rank 1 (node1, cpu1) in the step 'sum 2': stays at stay_behind (meeting_faults.py:")


def test_a_node_that_never_starts_is_named_by_all_others(cluster: Cluster) -> None:
    started = time.monotonic()
    text = expect_missed(cluster.run("tell", nodes=(0, 1), deadline_s=4), (-1, -1), "node3")
    assert text.startswith("node3 did not arrive within ")
    assert time.monotonic() - started < TIMEOUT


def test_a_node_that_says_that_it_does_not_take_part_is_not_waited_for() -> None:
    cluster = Cluster()
    assert say_absent(cluster.place(2), "no driver answers") == {"told": True}
    started = time.monotonic()
    text = expect_missed(cluster.run("tell", nodes=(0, 1), deadline_s=TIMEOUT), (-1, -1), "node3")
    assert text == "node3 does not take part: no driver answers"
    assert time.monotonic() - started < TIMEOUT / 2
    os.kill(cluster.desk.pid, signal.SIGKILL)
    text = expect_missed(cluster.run("tell", nodes=(1,), deadline_s=3), (-1, -1), "node1")
    assert "node1 did not arrive: its desk was not found within" in text
    assert say_absent(cluster.place(2), "no driver answers", 0.5) == {"told": False}
    cluster.close()


def test_a_rank_that_is_stopped_is_named_by_all_others(cluster: Cluster) -> None:
    """The last of the cluster: its worker waits for its own deadline, as it would in a run."""
    child = Child("test_meeting:stopped_rank", TIMEOUT, arguments={"place": cluster.place(2)})
    answers = cluster.run(nodes=(0, 1), name="stopped", fault="stopped", on=3, deadline_s=DEADLINE)
    child.close()
    text = expect_missed(answers, (-1, -1), "node3")
    assert text.startswith("rank 3 (node3, cpu0) in the step 'sum 2': hangs: not a sign of life for ")


def test_a_desk_takes_the_next_port_when_another_program_has_the_one_of_the_job() -> None:
    with socket.create_server(("", 0)) as busy:
        port = busy.getsockname()[1]
        desk = Desk(port, "job 1")
        assert port < desk.port < port + PORTS
        place = Place(0, 1, "127.0.0.1", port, ["node1"], "job 1").to_json()
        assert say_absent(place, "only to be greeted") == {"told": True}
        stranger = Place(0, 1, "127.0.0.1", port, ["node1"], "job 2").to_json()
        assert say_absent(stranger, "this is another job", 0.5) == {"told": False}
        desk.close()


def test_what_a_desk_says_to_a_rank_that_leaves_cuts_off_no_last_word() -> None:
    """Otherwise the desk takes it for one that died, and blames it to all that are still on their way."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        desk = threading.Thread(target=keep_a_desk_that_talks_on, args=(listening, heard), daemon=True)
        desk.start()
        place = Place(0, 1, "127.0.0.1", listening.getsockname()[1], ["node1"], "job 1").to_json()
        began = time.monotonic()
        assert arrive(place, 30) == {"missed": None, "blames": []}
        assert time.monotonic() - began < 10
        desk.join(30)
    assert heard, "the connection was reset"
    assert b'{"left": true}' in heard[0].splitlines()


def keep_a_desk_that_talks_on(listening: socket.socket, heard: list[bytes]) -> None:
    """It has told all that they have met, and talks on before it hears that the rank has left."""
    connection, _ = listening.accept()
    with connection, suppress(ConnectionError):
        connection.sendall(json.dumps({"desk": GREETING, "job": "job 1"}).encode() + b"\n")
        received = connection.recv(1 << 16)
        rank = {"rank": 0, "node": 0, "local": 0, "host": "node1", "device": "cpu0"}
        connection.sendall(json.dumps({"met": [rank]}).encode() + b"\n")
        while b'"left"' not in connection.recv(1 << 16, socket.MSG_PEEK):
            time.sleep(0.01)
        for _ in range(2):  # at once, and when a rank that waits for nobody is gone: well within the patience of one
            connection.sendall(b'{"here": true}\n' * 50)
            time.sleep(0.2)
        while chunk := connection.recv(1 << 16):
            received += chunk
        heard.append(received)


def test_a_desk_without_a_port_says_so() -> None:
    with pytest.raises(DeskError, match="could not be started on port 70000: "):
        Desk(70000, "job 1")


def test_a_first_node_that_says_nothing_is_named_before_the_deadline_of_the_worker() -> None:
    """One that is switched off costs a second a port: a worker that is killed for it would accuse its device."""
    silent: list[socket.socket] = []
    while len(silent) < PORTS:  # the kernel takes the connections, and nobody greets
        port = silent[-1].getsockname()[1] + 1 if silent else 0
        try:
            silent.append(socket.create_server(("127.0.0.1", port)))
        except OSError:
            for one in silent:
                one.close()
            silent = []
    place = Place(1, 2, "127.0.0.1", silent[0].getsockname()[1], ["node1", "node2"], "job 1").to_json()
    started = time.monotonic()
    assert arrive(place, 2.0)["blames"] == ["node1"]
    assert time.monotonic() - started < 2.0 + _MARGIN_S
    for one in silent:
        one.close()


def test_a_first_node_that_is_done_waits_for_those_that_are_not() -> None:
    """Else whoever comes late finds no desk, and blames a node that is well."""
    desk = Desk(0, "job 1", patience_s=60)
    late = Place(1, 3, "127.0.0.1", desk.port, ["node1", "node2", "node3"], "job 1").to_json()
    with ThreadPoolExecutor(1) as first, staying(late):
        closing = first.submit(desk.close)
        with pytest.raises(TimeoutError):
            closing.result(_LINGER_S + 1)
        assert say_absent({**late, "node_rank": 2}, "no driver answers") == {"told": True}
        assert arrive(late, 10) == {"missed": "node3 does not take part: no driver answers", "blames": ["node3"]}
    assert closing.done()


def test_only_a_scheduler_that_names_its_nodes_is_told_which_to_leave_out() -> None:
    by_hand = Place(1, 2, "10.0.0.1", 29500, [])
    assert leaving_out(by_hand, ["10.0.0.1"]) == "leave it out of the job"
    assert leaving_out(replace(by_hand, hosts=["a", "b"]), ["a", "b"]) == "leave it out: $ srun --exclude=a,b"


def test_jobs_of_one_id_or_of_none_do_not_meet_at_one_desk(tmp_path: Path) -> None:
    one, other = (Job("slurm", "70", 0, 2, address="node1", port=port, task=port) for port in (15071, 15072))
    nameless = [
        Job("torchrun", None, rank, 2, address="node1", port=port) for port in (29500, 29505) for rank in (0, 1)
    ]
    meetings = [place_of(job, "node1").job for job in (one, other, *nameless)]
    assert meetings == ["70_15071:15071", "70_15072:15072", ":29501", ":29501", ":29506", ":29506"]
    steps = [replace(one, task=None, step=step) for step in ("0", "1")]
    assert [place_of(job, "node1").job for job in steps] == ["70:0:15071", "70:1:15071"]
    folders = {path_of(str(tmp_path), place_of(job, "node1").to_json()) for job in (one, other, *steps)}
    assert len(folders) == 4, "one would remove the other's checkpoint"
    endless = replace(one, id="\udcff" * 300)
    path_of(str(tmp_path), place_of(endless, "node1").to_json()).mkdir()


def test_tasks_of_an_array_with_one_port_do_not_meet_and_nodes_of_torchrun_do() -> None:
    tasks = [Job("slurm", "70", 0, 2, address="node1", port=29500, task=task, step="0") for task in (0, 1)]
    assert [place_of(job, "node1").job for job in tasks] == ["70_0:0:29500", "70_1:0:29500"]
    nodes = [Job("torchrun", "70", task, 2, address="node1", port=29500, task=task) for task in (0, 1)]
    assert [place_of(job, "node1").job for job in nodes] == ["70:29501", "70:29501"], "one task starts one node"


def test_a_node_is_called_what_its_scheduler_calls_it() -> None:
    job = Job("slurm", "7", 0, 2, hosts=("node1", "node3"), address="node1", port=29500, node="node1")
    place = place_of(job, "ip-10-0-0-1")
    assert (place.host, place.first_host, place.hosts) == ("node1", "node1", ["node1", "node3"])
    unnamed = place_of(replace(job, node_rank=1, node=None), "ip-10-0-0-3")
    assert (unnamed.host, unnamed.first_host) == ("node3", "node1")
    unsorted = place_of(replace(job, node="node3", address="node3"), "ip-10-0-0-3")
    assert (unsorted.host, unsorted.first_host, unsorted.hosts) == ("node3", "node3", []), "no order of the ranks"
    by_hand = Job("kubeflow", None, 0, 2, address="10.0.0.1", port=29500)
    assert [place_of(replace(by_hand, node_rank=rank), "gpu7").first_host for rank in (0, 1)] == ["gpu7", "10.0.0.1"]


def test_the_first_node_finds_its_own_desk_where_the_address_leads_others_only() -> None:
    desk = Desk(0, "job 1")
    for address in ("192.0.2.1", "no-such-name.invalid"):
        place = Place(0, 1, address, desk.port, ["node1"], "job 1")
        assert arrive(place.to_json(), 20) == {"missed": None, "blames": []}
    desk.close()


def test_a_node_that_was_sent_to_itself_blames_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        place = Place(1, 2, "localhost", nobody.getsockname()[1], [], "job 1", "node2")
    told = arrive(place.to_json(), 1)
    assert told["missed"].startswith("the desk was not found within ")
    assert "MASTER_ADDR is localhost, by which each node means itself. " in told["missed"]
    assert told["blames"] == []


def stopped_rank(place: dict[str, Any]) -> dict[str, Any]:
    import meeting_faults

    os.environ["PYTEST_BIONEMO_DEVICE_NAME"] = "cpu0"
    return meeting_faults.exchange(place, "stopped", "stopped", 3, DEADLINE)
