"""Ports of this machine for what the tests start."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from pathlib import Path

# Above those that services have, and below the one that PyTorch takes by default.
_OURS = range(10_000, 29_000)


def free_ports(number: int) -> list[int]:
    """So many that are free now, and that no connection of another test is given before they are taken.

    The kernel gives outgoing connections ports of its own range: one of those, once let go, is soon somebody's.
    """
    first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    found: list[int] = []
    with ExitStack() as taken:
        while len(found) < number:
            # Below that range there are none where somebody has widened it.
            port = random.choice([port for port in _OURS if port < int(first)] or _OURS)
            try:
                taken.enter_context(socket.create_server(("", port)))
            except OSError:  # somebody has it
                continue
            found.append(port)
    return found
