"""The network between nodes: adapters for RDMA, and the libraries with which NCCL uses EFA.

Sources: Linux, Documentation/ABI/stable/sysfs-class-infiniband; the layout of AWS' EFA installer (/opt/amazon/efa,
/opt/amazon/ofi-nccl, /opt/amazon/efa_installed_packages) and of builds of aws-ofi-nccl before it was part of that.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_bionemo.probes import files, libraries
from pytest_bionemo.probes.child import note

_AMAZON = "0x1d0f"
_EFA = re.compile(r"0xefa[0-9a-f]")
# Where the loader looks without being told.
_DEFAULT = (
    "lib", "lib64", "usr/lib", "usr/lib64", "usr/local/lib",
    *(f"{folder}/{machine}-linux-gnu" for folder in ("lib", "usr/lib") for machine in ("x86_64", "aarch64")),
)  # fmt: skip
# Where the installers put them, which ld.so.conf or LD_LIBRARY_PATH has to name.
_INSTALLED = (
    "opt/amazon/efa/lib", "opt/amazon/efa/lib64", "opt/amazon/ofi-nccl/lib", "opt/amazon/ofi-nccl/lib64",
    "opt/amazon/ofi-nccl/lib/x86_64-linux-gnu", "opt/amazon/ofi-nccl/lib/aarch64-linux-gnu",
    "opt/aws-ofi-nccl/lib", "opt/aws-ofi-nccl/install/lib", "opt/gdrcopy/lib", "opt/gdrcopy/lib64",
)  # fmt: skip
_PLUGIN = re.compile(r"libnccl-net[\w-]*\.so(\.\d+)*")
_PLUGIN_VERSION = re.compile(rb"aws-ofi-nccl v?([0-9][0-9.]*)")
_LIBRARY_LIMIT = 32 << 20
_PC_VERSION = re.compile(r"^Version:\s*(\d[\d.]*)", re.MULTILINE)
_INSTALLER_VERSION = re.compile(r"EFA installer version:\s*(\d[\d.]*)")


@dataclass(frozen=True)
class Port:
    """``state`` and ``physical`` are words (ACTIVE, LinkUp), ``link`` InfiniBand or Ethernet.

    ``rate`` is that of the link as the kernel words it, "400 Gb/sec (4X NDR)"; empty where it tells none.
    """

    number: str
    state: str
    physical: str
    link: str
    rate: str = ""


@dataclass(frozen=True)
class Adapter:
    """One device of /sys/class/infiniband. ``node`` is its file in /dev; that and ``firmware`` can be None."""

    name: str
    driver: str
    ports: tuple[Port, ...]
    node: str | None
    is_open: bool
    firmware: str | None = None

    @property
    def is_efa(self) -> bool:
        """Whether it is an adapter of AWS."""
        return self.driver == "efa"


@dataclass(frozen=True)
class Library:
    """A library: where it is, whether the loader finds it there, and its version, None where that is not told."""

    path: Path
    is_found: bool
    version: str | None


@dataclass(frozen=True)
class Fabric:
    """``pci_efa`` counts the EFA adapters on the PCI bus, None where that cannot be read."""

    adapters: tuple[Adapter, ...]
    pci_efa: int | None
    libfabric: Library | None
    plugin: Library | None
    gdrcopy: Library | None
    gdrcopy_node: str | None
    gdrcopy_is_open: bool
    installer: str | None

    @property
    def efa(self) -> tuple[Adapter, ...]:
        """The adapters of AWS."""
        return tuple(adapter for adapter in self.adapters if adapter.is_efa)

    @property
    def firmware(self) -> tuple[str, ...]:
        """What the adapters run, each once with its driver: "mlx5_core 28.39.1002"."""
        return tuple(sorted({f"{one.driver} {one.firmware}".strip() for one in self.adapters if one.firmware}))

    @property
    def links(self) -> tuple[str, ...]:
        """The links of the adapters: "7 x InfiniBand 400 Gb/sec (4X NDR)", "1 x InfiniBand DOWN"."""
        found = Counter(
            f"{'EFA' if adapter.is_efa else port.link} {port.rate if port.state == 'ACTIVE' else port.state}".strip()
            for adapter in self.adapters
            for port in adapter.ports
        )
        return tuple(
            f"{number} x {link}" for link, number in sorted(found.items(), key=lambda one: (-one[1], one[0]))
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Fabric:
        """Read back what a child process said."""
        found = {name: _library_of(data[name]) for name in ("libfabric", "plugin", "gdrcopy")}
        return cls(**{**data, **found, "adapters": tuple(_adapter(one) for one in data["adapters"])})


def _library_of(data: Mapping[str, Any] | None) -> Library | None:
    return Library(**{**data, "path": Path(data["path"])}) if data else None


def _adapter(data: Mapping[str, Any]) -> Adapter:
    return Adapter(**{**data, "ports": tuple(Port(**port) for port in data["ports"])})


def read(variables: Mapping[str, str], root: Path = Path("/")) -> Fabric:
    """Look at the adapters and libraries of this machine."""
    note("looking at the network adapters")
    adapters = tuple(_adapters(root))
    gdrdrv = root / "dev/gdrdrv"
    # Libraries of AWS are of no interest where there is no such adapter, and looking for them takes time.
    has_efa = any(adapter.is_efa for adapter in adapters)
    folders = _folders(variables, root) if has_efa else {}
    installer = _INSTALLER_VERSION.search(files.text(root / "opt/amazon/efa_installed_packages")) if has_efa else None
    return Fabric(
        adapters,
        _pci_efa(root),
        _library(folders, re.compile(r"libfabric\.so\.1")),
        _library(folders, _PLUGIN, is_plugin=True),
        _library(folders, re.compile(r"libgdrapi\.so(\.2)?")),
        "/dev/gdrdrv" if files.exists(gdrdrv) else None,
        os.access(gdrdrv, os.R_OK | os.W_OK),
        installer[1] if installer else None,
    )


def _adapters(root: Path) -> Iterator[Adapter]:
    folder = root / "sys/class/infiniband"
    nodes = _nodes(root)
    for name in files.names(folder):
        node = nodes.get(name)
        path = root / node.lstrip("/") if node else None
        has_node = bool(path and files.exists(path))
        yield Adapter(
            name,
            _driver(folder / name),
            tuple(_ports(folder / name / "ports")),
            node if has_node else None,
            bool(path and os.access(path, os.R_OK | os.W_OK)),
            files.line(folder / name / "fw_ver") or None,
        )


def _driver(device: Path) -> str:
    try:
        return (device / "device/driver").readlink().name
    except OSError:
        return ""


def _nodes(root: Path) -> Mapping[str, str]:
    """The file in /dev through which programs use each device."""
    folder = root / "sys/class/infiniband_verbs"
    return {
        files.line(folder / name / "ibdev"): f"/dev/infiniband/{name}"
        for name in files.names(folder)
        if name.startswith("uverbs")
    }


def _ports(folder: Path) -> Iterator[Port]:
    for number in files.names(folder):
        # "4: ACTIVE", "5: LinkUp"
        state, physical = (_word(folder / number / name) for name in ("state", "phys_state"))
        link, rate = (files.line(folder / number / name) for name in ("link_layer", "rate"))
        yield Port(number, state, physical, link, rate)


def _word(path: Path) -> str:
    return files.line(path).rpartition(":")[2].strip()


def _pci_efa(root: Path) -> int | None:
    devices = root / "sys/bus/pci/devices"
    if not files.is_folder(devices):
        return None
    return sum(
        files.line(devices / name / "vendor") == _AMAZON
        and bool(_EFA.fullmatch(files.line(devices / name / "device")))
        for name in files.names(devices)
    )


def _folders(variables: Mapping[str, str], root: Path) -> dict[Path, bool]:
    """Folders with libraries, in the loader's order, and whether it looks there."""
    told = [root / str(folder).lstrip("/") for folder in libraries.search_path(variables)]
    configured = [
        root / line.strip().lstrip("/")
        for name in files.names(root / "etc/ld.so.conf.d")
        if name.endswith(".conf")
        for line in files.text(root / "etc/ld.so.conf.d" / name).splitlines()
        if line.strip().startswith("/")
    ]
    searched = [*told, *configured, *(root / folder for folder in _DEFAULT)]
    found = dict.fromkeys(searched, True)
    for folder in _INSTALLED:
        found.setdefault(root / folder, False)
    return found


def _library(folders: Mapping[Path, bool], name: re.Pattern[str], is_plugin: bool = False) -> Library | None:
    """The first that the loader finds, else the first that is installed."""
    found = [
        Library(folder / file, is_searched, None)
        for folder, is_searched in folders.items()
        for file in _listed(folder)
        if name.fullmatch(file)
    ]
    for library in sorted(found, key=lambda library: not library.is_found):
        if not is_plugin:
            return Library(library.path, library.is_found, _declared_version(library.path.parent, library.path.stem))
        version = _plugin_version(library.path)
        if version is not None:
            return Library(library.path, library.is_found, version or None)
    return None


def _listed(folder: Path) -> tuple[str, ...]:
    note(f"looking at {folder}")  # LD_LIBRARY_PATH can name any
    return files.names(folder)


def _declared_version(folder: Path, stem: str) -> str | None:
    match = _PC_VERSION.search(files.text(folder / "pkgconfig" / f"{stem.partition('.')[0]}.pc"))
    return match[1].rstrip(".") if match else None


def _plugin_version(path: Path) -> str | None:
    """The version of aws-ofi-nccl; empty where it says none, None where it is the plugin of another network."""
    data = files.content(path, _LIBRARY_LIMIT)
    match = _PLUGIN_VERSION.search(data)
    if match:
        return match[1].decode().rstrip(".")
    return "" if "ofi" in str(path.resolve()).lower() else None
