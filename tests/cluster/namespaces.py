"""A network of nodes on one machine: each in a network namespace of its own, all on a bridge, each link with a rate.

Nothing of it is seen by the machine that it runs on, and nothing is left behind: the namespaces go with the processes
that hold them, and those with this one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

_TOOLS = ("unshare", "nsenter", "ip", "tc")
_SUBNET = "10.77.0."
# It lives until its standard input ends, with this process at the latest.
_HOLD = """
hostname {name} && mount --bind {hosts} /etc/hosts && ip link set lo up && echo held && exec cat >/dev/null
"""
# A token bucket filter: a bucket that is small beside a message, and a queue that drops nothing of a window.
_BUCKET = "burst 4kb limit 2mb"


class Network:
    """Nodes of these names, on links of this rate (as tc(8) writes it)."""

    def __init__(self, hosts: Sequence[str], rate: str) -> None:
        self.hosts = list(hosts)
        self.rate = rate
        self._folder = Path(tempfile.mkdtemp(prefix="bionemo-network-"))
        lines = [f"{self.address(host)} {host}" for host in hosts]
        (self._folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        self._holders: dict[str, subprocess.Popen[str]] = {}
        try:
            for name in ("switch", *hosts):
                self._holders[name] = self._hold(name)
            for name in ("switch", *hosts):
                assert self._holders[name].stdout.readline() == "held\n", f"no namespace for {name}"  # type: ignore[union-attr]
            self._wire()
        except BaseException:
            self.close()
            raise

    def address(self, host: str) -> str:
        """The node's address in the network, which its name stands for."""
        return f"{_SUBNET}{1 + self.hosts.index(host)}"

    def start(self, host: str, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a program on a node."""
        return subprocess.Popen([*self._enter(host), *command], text=True, **options)

    def run(self, host: str, command: Sequence[str]) -> str:
        """What a program on a node, or on the switch, prints; it must end well."""
        done = subprocess.run([*self._enter(host), *command], text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"{host}: {' '.join(command)}: {done.stderr}"
        return done.stdout

    def set_rate(self, host: str, rate: str | None = None, *, sends: bool = True, receives: bool = True) -> None:
        """Give the link of a node another rate, or that of the network back, in these directions."""
        if sends:
            self._limit(host, "eth0", rate)
        if receives:
            self._limit("switch", f"port{self.hosts.index(host)}", rate)

    def cut(self, one: str, other: str) -> None:
        """Let nothing through between two nodes, which goes on with all others."""
        for here, there in ((one, other), (other, one)):
            self.run(here, ["ip", "route", "add", "blackhole", f"{self.address(there)}/32"])

    def mend(self, one: str, other: str) -> None:
        """Undo it."""
        for here, there in ((one, other), (other, one)):
            self.run(here, ["ip", "route", "del", "blackhole", f"{self.address(there)}/32"])

    def close(self) -> None:
        """End every node, and what still runs there."""
        for holder in self._holders.values():
            holder.stdin.close()  # type: ignore[union-attr]
        for holder in self._holders.values():
            holder.wait()
            holder.stdout.close()  # type: ignore[union-attr]
        shutil.rmtree(self._folder)

    def _hold(self, name: str) -> subprocess.Popen[str]:
        script = _HOLD.format(name=name, hosts=self._folder / "hosts")
        return subprocess.Popen(
            ["unshare", "--net", "--uts", "--mount", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _enter(self, host: str) -> list[str]:
        return [
            "nsenter",
            "--target",
            str(self._holders[host].pid),
            "--net",
            "--uts",
            "--mount",
            f"--wdns={Path.cwd()}",
        ]

    def _wire(self) -> None:
        lines = ["link add br0 type bridge", "link set br0 up"]
        for number, host in enumerate(self.hosts):
            pid = self._holders[host].pid
            lines += [
                f"link add port{number} type veth peer name eth0 netns {pid}",
                f"link set port{number} master br0",
                f"link set port{number} up",
            ]
        self._ip("switch", lines)
        for host in self.hosts:
            self._ip(host, [f"addr add {self.address(host)}/24 dev eth0", "link set eth0 up"])
            self.set_rate(host)

    def _ip(self, host: str, lines: Iterable[str]) -> None:
        for line in lines:
            self.run(host, ["ip", *line.split()])

    def _limit(self, host: str, interface: str, rate: str | None) -> None:
        bucket = f"qdisc replace dev {interface} root tbf rate {rate or self.rate} {_BUCKET}"
        self.run(host, ["tc", *bucket.split()])


def require() -> None:
    """Skip the test where there can be no such network; fail it where there must be one (CI=true)."""
    if missing := _missing():
        complain = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        complain(f"a network of namespaces needs {missing}")


def _missing() -> str | None:
    tools = [tool for tool in _TOOLS if not shutil.which(tool)]
    if tools:
        return f"{' and '.join(tools)} (packages util-linux and iproute2)"
    try:
        with_one = Network(["node1"], "1mbit")
    except (AssertionError, OSError) as error:
        return f"the right to make one, and the kernel's token bucket filter: {error}"
    with_one.close()
    return None
