"""The processors: who sets their frequency, and how near they are to the GPUs.

Source: Linux, Documentation/admin-guide/pm/cpufreq.rst, Documentation/admin-guide/mm/numaperf.rst and
Documentation/ABI/stable/sysfs-devices-node; ``numa_node`` of a device in Documentation/ABI/testing/sysfs-bus-pci.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_LONGEST = 1 << 16
_MOST_CPUS = 1 << 16


@dataclass(frozen=True)
class Scaling:
    """Which driver sets the frequency of how many processors, by which governor."""

    driver: str
    governor: str
    processors: int


@dataclass(frozen=True)
class Placement:
    """The NUMA node of a GPU, and how far the nearest processor is that this process may use.

    ``distance`` is 10 on the same node; None where the kernel does not say.
    """

    node: int
    distance: int | None


def scaling(root: Path = Path("/")) -> tuple[Scaling, ...]:
    """Every pair of driver and governor; empty where the frequency is nobody's business here, as in most VMs."""
    seen: Counter[tuple[str, str]] = Counter()
    for policy in _entries(root / "sys/devices/system/cpu/cpufreq", r"policy\d+"):
        driver, governor = _text(policy / "scaling_driver"), _text(policy / "scaling_governor")
        if driver and governor:
            seen[driver, governor] += max(1, len(_cpus(_text(policy / "affected_cpus").replace(" ", ","))))
    return tuple(Scaling(*pair, processors) for pair, processors in sorted(seen.items()))


def placement(
    pci_address: str | None, root: Path = Path("/"), allowed: Iterable[int] | None = None
) -> Placement | None:
    """Where this GPU is; None where the machine has no nodes, or does not say (a ``numa_node`` of -1).

    ``allowed`` are the processors that may be used, those of this process unless given.
    """
    node = _node_of(pci_address, root)
    nodes = {int(entry.name[4:]): entry for entry in _entries(root / "sys/devices/system/node", r"node\d{1,6}")}
    if node is None or node not in nodes:
        return None
    processors = {number: _cpus(_text(entry / "cpulist")) for number, entry in nodes.items()}
    if not processors[node]:
        return None  # a node of memory alone
    mine = frozenset(os.sched_getaffinity(0) if allowed is None else allowed)
    # One distance for each node that is online, in the order of their numbers.
    distances = dict(zip(sorted(nodes), _numbers(_text(nodes[node] / "distance")), strict=False))
    near = [distances.get(number) for number, cpus in processors.items() if cpus & mine]
    known = [distance for distance in near if distance is not None]
    return Placement(node, min(known) if known and len(known) == len(near) else None)


def _node_of(pci_address: str | None, root: Path) -> int | None:
    """NVML says 00000000:1A:00.0, sysfs 0000:1a:00.0."""
    match = re.fullmatch(r"(?:0000)?([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f])", (pci_address or "").lower())
    text = _text(root / "sys/bus/pci/devices" / match[1] / "numa_node") if match else ""
    return int(text) if re.fullmatch(r"\d{1,6}", text, re.ASCII) else None


def _cpus(text: str) -> frozenset[int]:
    """Of a list such as "0-3,8"; empty if it is none."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip(), re.ASCII)
        if match is None:
            return frozenset()
        first, last = int(match[1]), int(match[2] or match[1])
        found.update(range(first, min(last, _MOST_CPUS) + 1))
    return frozenset(found)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split() if re.fullmatch(r"\d{1,6}", word, re.ASCII)]


def _entries(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if re.fullmatch(pattern, entry.name, re.ASCII))
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        with path.open(errors="replace") as file:
            return file.read(_LONGEST).strip()
    except OSError:
        return ""
