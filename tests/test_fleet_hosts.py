"""Lists of hosts as Slurm writes them, held against ClusterShell's."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from pytest_bionemo.fleet.hosts import MOST_HOSTS, HostsError, compress, expand, in_order, is_host


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("node1", ["node1"]),
        ("node[1-3]", ["node1", "node2", "node3"]),
        ("node[3,1-2,2]", ["node3", "node1", "node2"]),
        ("node[08-11]", ["node08", "node09", "node10", "node11"]),
        ("a1,b[2-3],c", ["a1", "b2", "b3", "c"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("n[1-2].example.org", ["n1.example.org", "n2.example.org"]),
        ("node1\nnode2  node3,\n", ["node1", "node2", "node3"]),
        ("ip-10-1-2-[3-4]", ["ip-10-1-2-3", "ip-10-1-2-4"]),
    ],
)
def test_a_list_is_expanded_in_its_order(text: str, hosts: list[str]) -> None:
    assert list(expand(text)) == hosts


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no host"),
        (" , ", "names no host"),
        ("node[1-2", "a bracket is missing"),
        ("node]1[", "is no"),
        ("node[]", "is no range"),
        ("node[1-]", "is no range"),
        ("node[a-b]", "is no range"),
        ("node[3-1]", "no range of numbers that can be listed"),
        ("node[1-999999999999]", "no range of numbers that can be listed"),
        ("a[1-99999]b[1-99999]", f"more than {MOST_HOSTS:,} hosts"),
        ("a[1-60000],b[1-60000]", f"more than {MOST_HOSTS:,} hosts"),
        (",".join(["a[1-50000]"] * 20_000), f"more than {MOST_HOSTS:,} hosts"),
        ("../etc/passwd", "is no name that a host can have"),
        ("node1;reboot", "is no name that a host can have"),
        ("node$(reboot)", "is no name that a host can have"),
        ("x" * 300, "..."),
    ],
)
def test_what_is_no_list_is_refused_in_one_line_that_quotes_it(text: str, said: str) -> None:
    with pytest.raises(HostsError, match=re.escape(said)) as caught:
        expand(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_long_list_of_names_takes_no_longer_than_one_in_brackets() -> None:
    names = [f"node{number}" for number in range(MOST_HOSTS)]
    started = time.process_time()
    assert expand(",".join(names)) == expand("\n".join(names)) == tuple(names)
    assert time.process_time() - started < 30  # a pass over the rest of the list for each name would be minutes


@pytest.mark.skipif(not shutil.which("scontrol"), reason="needs Slurm's scontrol")
def test_slurm_itself_reads_every_list_that_is_written(tmp_path: Path) -> None:
    names = [
        "n1.x",
        "n2.x",
        "n08",
        "n09",
        "n10",
        "n3",
        "n4",
        "r1n1",
        "r1n2",
        "ip-10-0-0-1.ec2.internal",
        "g1-ib",
        "g2-ib",
    ]
    (tmp_path / "slurm.conf").write_text("ClusterName=x\nSlurmctldHost=localhost\nNodeName=n1\n")
    words = ["scontrol", "show", "hostnames", compress(names)]
    variables = {**os.environ, "SLURM_CONF": str(tmp_path / "slurm.conf")}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=variables)
    assert set(done.stdout.split()) == set(names), done.stderr


def test_lists_are_as_short_as_slurm_reads_them() -> None:
    assert compress([]) == ""
    assert compress(["node3", "node1", "node2", "login"]) == "login,node[1-3]"
    assert compress(["node08", "node09", "node10", "node7"]) == "node7,node[08-10]"
    assert compress([f"node{number}" for number in range(12)]) == "node[0-11]"
    assert compress(["n2.x.org", "n1.x.org", "n3"]) == "n1.x.org,n2.x.org,n3"
    assert compress(["node10", "node2"]) == "node[2,10]"
    assert in_order(["node10", "node9", "a", "10", "node09"]) == ["10", "a", "node09", "node9", "node10"]


def test_a_compressed_list_expands_to_the_same_hosts_here_and_in_clustershell() -> None:
    node_sets = pytest.importorskip("ClusterShell.NodeSet")
    chosen = random.Random(7)
    for _ in range(300):
        width = chosen.choice([1, 1, 2, 3])
        hosts = {
            f"{chosen.choice(['node', 'r1n'])}{chosen.randrange(120):0{width}d}{chosen.choice(['', '', '.x'])}"
            for _ in range(chosen.randrange(1, 40))
        }
        text = compress(hosts)
        assert set(expand(text)) == hosts, text
        assert set(node_sets.NodeSet(text)) == hosts, text
        assert set(expand(str(node_sets.NodeSet.fromlist(sorted(hosts))))) == hosts


@pytest.mark.parametrize("name", ["node-1", "a", "10.1.2.3", "ip-10-0-0-1.ec2.internal", "n_1"])
def test_names_of_hosts_are_known(name: str) -> None:
    assert is_host(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a..b", "../a", "a/b", "-a", "a b", "a\n", "a\x1b[2J", "<b>", "x" * 254, "ä", None, 3],
)
def test_what_no_host_is_called_is_none(name: object) -> None:
    assert not is_host(name)
