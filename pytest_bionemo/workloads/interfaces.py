"""The network interface over which the nodes of a job see each other, which gloo has to be told."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_SIOCGIFADDR = 0x8915  # netdevice(7)
_GLOO = "GLOO_SOCKET_IFNAME"
_STEERED = "PYTEST_BIONEMO_GLOO_INTERFACE"  # what of it is our own choice


def steer_gloo(addresses: list[str]) -> None:
    """Let gloo use the interface over which the nodes see each other, unless somebody chose one.

    It would take the one that the machine's own name stands for, which on many is the loopback. The choice is for
    this meeting: the next one of this process may be of other nodes.
    """
    if os.environ.get(_GLOO) not in (None, os.environ.get(_STEERED)):
        return
    outside = next((address for address in addresses if not is_loopback(address)), None)
    if name := _interface_to(outside or "127.0.0.1"):
        os.environ[_GLOO] = os.environ[_STEERED] = name


def bare(end: Sequence[Any]) -> str:
    """The address of one end of a connection, an IPv4 one also where it came to a socket of IPv6."""
    return str(end[0]).removeprefix("::ffff:")


def is_loopback(address: str) -> bool:
    """Whether it leads to no other machine."""
    return address.startswith("127.") or address == "::1"


def _interface_to(address: str) -> str | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # of a datagram socket: nothing is sent
        own = probe.getsockname()[0]
        if family == socket.AF_INET6:
            return _interfaces6().get(own)
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                found = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(found[20:24]) == own:
                    return name
    return None


def _interfaces6() -> dict[str, str]:
    """The interface of each address of IPv6 that this machine has (proc(5), /proc/net/if_inet6)."""
    lines = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
    return {socket.inet_ntop(socket.AF_INET6, bytes.fromhex(fields[0])): fields[-1] for fields in lines}
