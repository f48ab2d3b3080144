"""Nodes on a network, each with a process that runs workloads: started once, used by many tests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.namespaces import Network

_NODE = Path(__file__).with_name("node.py")
_PORT = 29400
_JOB = "rehearsal"


class Rehearsal:
    """The nodes of a network at work. The first one keeps the desk at which they meet."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._nodes: dict[str, subprocess.Popen[str]] = {}
        self._meetings = 0
        for host in network.hosts:
            self._start(host, {})
        self._tell(network.hosts[0], desk={"port": _PORT, "job": _JOB})
        self._hear(network.hosts[0])

    def run(self, hosts: Sequence[str], workload: str, **parameters: Any) -> dict[str, dict[str, Any]]:
        """What a workload of ours that meets gives on each of these nodes; the first one is among them."""
        self._meetings += 1
        for number, host in enumerate(hosts):
            place = {"node_rank": number, "nodes": len(hosts), "address": self.network.hosts[0], "port": _PORT,
                     "hosts": list(hosts), "job": _JOB}  # fmt: skip
            wanted = {"deadline_s": 50, **parameters, "place": place, "name": f"meeting {self._meetings}"}
            self._tell(host, workload=f"pytest_bionemo.workloads.{workload}", parameters=wanted)
        return {host: self._hear(host)[0] for host in hosts}

    def restart(self, host: str, variables: Mapping[str, str]) -> None:
        """Give a node another process, with these variables besides its own."""
        self._stop(host)
        self._start(host, variables)

    def close(self) -> None:
        """End the processes, not the network."""
        for host in self._nodes:
            self._stop(host)

    def _start(self, host: str, variables: Mapping[str, str]) -> None:
        self._nodes[host] = self.network.start(
            host, ["env", *(f"{name}={value}" for name, value in variables.items()), sys.executable, str(_NODE)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def _stop(self, host: str) -> None:
        self._nodes[host].communicate()

    def _tell(self, host: str, **request: Any) -> None:
        stdin = self._nodes[host].stdin
        assert stdin
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()

    def _hear(self, host: str) -> Any:
        stdout = self._nodes[host].stdout
        assert stdout
        return json.loads(stdout.readline())
