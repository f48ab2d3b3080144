"""Which network the ranks talk over: what NCCL says of it in its log, and the interface that gloo was given.

Sources: NCCL, src/net.cc and src/plugin/net.cc ("Using network %s"), src/transport/net_ib.cc and net_socket.cc
("Using [0]eth0:10.0.0.1<0>"), p2p.cc and shm.cc ("Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM"); aws-ofi-nccl, which
calls itself "AWS Libfabric" up to 1.11.0 and "Libfabric" since.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_bionemo.workloads import device

_CHOSEN = re.compile(r"Using network (?:AWS )?(?P<name>[\w .-]+?)\s*$", re.MULTILINE)
_SOCKET = re.compile(r"NET/Socket\s*: Using (?P<list>.+)$", re.MULTILINE)
_INTERFACE = re.compile(r"\[\d+\](?P<name>[^\s:]+):")
_CHANNEL = re.compile(
    r"Channel \d+(?:/\d+)? : (?P<source>\d+)\[\w+\] -> (?P<target>\d+)\[\w+\](?: \[\w+\])? via (?P<way>\S+)"
)
_NOT_FOUND = re.compile(
    r"NET/Plugin: (?P<said>Could not find: [\w.-]*\w|Failed to .+?)\.?(?: Using internal .*)?$", re.MULTILINE
)


def used(log: str, heard: int = 0) -> dict[str, Any]:
    """The network of this process.

    :param log: of NCCL, at NCCL_DEBUG=INFO; empty where gloo is used or nobody wrote one.
    :param heard: so many characters of it are of groups before this one, whose ranks were others.
    :return: ``name`` ("Socket", "IB", "Libfabric", "gloo"; None where it is not known), ``interfaces`` over which
        sockets go, ``speeds`` (Mbit/s of every interface that is up and says it), ``plugin`` (why NCCL has no plugin
        for the network; None) and ``ways`` (from rank to rank of this process, "0-1", how NCCL goes there:
        "P2P/CUMEM").
    """
    if device().type != "cuda":
        own = os.environ.get("GLOO_SOCKET_IFNAME", "")
        return {
            "name": "gloo",
            "interfaces": own.split(",") if own else [],
            "speeds": speeds(),
            "plugin": None,
            "ways": {},
        }
    return {**parse(log), "ways": parse(log[heard:])["ways"], "speeds": speeds()}


def parse(log: str) -> dict[str, Any]:
    """What NCCL's log says of it: see :func:`used`."""
    chosen = _CHOSEN.findall(log)
    sockets = _SOCKET.search(log)
    missing = _NOT_FOUND.search(log)
    return {
        "name": chosen[-1] if chosen else None,
        "interfaces": _INTERFACE.findall(sockets["list"]) if sockets else [],
        "plugin": missing["said"] if missing else None,
        "ways": {f"{one['source']}-{one['target']}": one["way"] for one in _CHANNEL.finditer(log)},
    }


def speeds(root: Path = Path("/sys/class/net")) -> dict[str, int]:
    """Mbit/s of every interface that is up; those that do not say it (a loopback, many virtual ones) are left out."""
    found = {}
    for interface in sorted(root.iterdir()) if root.is_dir() else ():
        # Linux, Documentation/ABI/testing/sysfs-class-net: reading it of one that is down is an error.
        with suppress(OSError, ValueError):
            speed = int((interface / "speed").read_text())
            if speed > 0 and (interface / "operstate").read_text().strip() == "up":
                found[interface.name] = speed
    return found
