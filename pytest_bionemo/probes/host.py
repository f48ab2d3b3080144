"""The machine around Python: operating system, processor, C library, container, NVIDIA devices on its bus."""

from __future__ import annotations

import math
import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_bionemo.probes import cgroups, files

_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"  # PCI base class of GPUs, with (VGA) or without (3D) a display


@dataclass(frozen=True)
class Host:
    """What kind of machine this is.

    ``glibc`` is None where the C library is another one (musl). ``container`` is the kind of container, None
    outside one. ``pci_gpus`` counts the NVIDIA GPUs on the PCI bus, None where the bus cannot be read.
    ``device_nodes`` are the NVIDIA files in /dev. ``kernel`` is its release. ``memory_bytes`` is all of its memory,
    None where the kernel does not say. ``python_bits`` are those of an address of this Python.
    """

    hostname: str
    system: str
    distribution: str | None
    kernel: str
    machine: str
    glibc: str | None
    python: str
    container: str | None
    pci_gpus: int | None
    device_nodes: tuple[str, ...]
    memory_bytes: int | None = None
    python_bits: int = 64

    @property
    def is_wsl(self) -> bool:
        """Whether this is Linux inside Windows (WSL 2), whose driver is that of Windows."""
        return _is_wsl(self.kernel)


def _is_wsl(kernel: str) -> bool:
    return "microsoft" in kernel.lower()


def read() -> Host:
    """Look at this machine."""
    uname = os.uname()
    return Host(
        hostname=uname.nodename,
        system=uname.sysname,
        distribution=distribution(),
        kernel=uname.release,
        machine=uname.machine,
        glibc=glibc(),
        python=platform.python_version().rstrip("+"),  # a build from a checkout ends in one
        container=container(),
        # WSL 2 passes the GPUs of Windows on by another way than its bus.
        pci_gpus=None if _is_wsl(uname.release) else pci_gpus(),
        device_nodes=tuple(sorted(str(path) for path in Path("/dev").glob("nvidia*"))),
        memory_bytes=memory_bytes(),
        python_bits=64 if sys.maxsize > 1 << 32 else 32,
    )


def distribution() -> str | None:
    """'Ubuntu 24.04.2 LTS', None where there is no os-release file."""
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


def glibc() -> str | None:
    """'2.36', None where the C library is not glibc."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (OSError, ValueError):
        return None
    return version if name == "glibc" else None


def container(root: Path = Path("/")) -> str | None:
    """The kind of container this is, from the first source that knows; None outside one."""
    sources: tuple[Callable[[Path], str | None], ...] = (
        _container_from_environment,
        _container_from_marker_files,
        _container_from_systemd,
        _container_from_cgroup,
    )
    return next((kind for source in sources if (kind := source(root))), None)


def _container_from_environment(root: Path) -> str | None:
    kinds = {
        "KUBERNETES_SERVICE_HOST": "kubernetes",
        "APPTAINER_CONTAINER": "apptainer",
        "SINGULARITY_CONTAINER": "singularity",
    }
    return next((kind for variable, kind in kinds.items() if variable in os.environ), None)


def _container_from_marker_files(root: Path) -> str | None:
    kinds = {".dockerenv": "docker", "run/.containerenv": "podman"}
    return next((kind for marker, kind in kinds.items() if files.exists(root / marker)), None)


def _container_from_systemd(root: Path) -> str | None:
    return _read(root / "run/systemd/container") or None


def _container_from_cgroup(root: Path) -> str | None:
    text = _read(root / "proc/1/cgroup")
    kinds = {"kubepods": "kubernetes", "docker": "docker", "containerd": "containerd", "lxc": "lxc"}
    return next((kind for word, kind in kinds.items() if word in text), None)


def pci_gpus(root: Path = Path("/")) -> int | None:
    """How many NVIDIA GPUs are on the PCI bus; None where sysfs does not say."""
    devices = root / "sys/bus/pci/devices"
    if not files.is_folder(devices):
        return None
    return sum(
        _read(device / "vendor") == _NVIDIA_VENDOR and _read(device / "class").startswith(_DISPLAY_CLASS)
        for device in devices.iterdir()
    )


def memory_bytes(root: Path = Path("/")) -> int | None:
    """All memory of this machine, None where the kernel does not say (proc(5), /proc/meminfo)."""
    match = re.search(r"^MemTotal:\s+(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def usable_cores(root: Path = cgroups.MOUNT) -> int:
    """How many processor cores this process may use at once, by its affinity and by its control groups' quotas.

    ``root`` is where control groups are mounted.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroups.cores(root)
    return max(1, min(cores, math.ceil(quota))) if quota else cores
