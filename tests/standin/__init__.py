"""Stand-ins for what tests cannot have: nodes full of GPUs, broken drivers, other hosts and builds of torch.

Nothing here patches the code under test. ``nvml.c`` is compiled into a ``libnvidia-ml.so.1`` that plays a
:class:`Node`, and the real ``pynvml`` is pointed at it; ``host.c`` becomes a library that is preloaded::

    libraries = build(folder)                      # once a session
    node = H100x8.with_gpu_fault(3, "nvmlDeviceGetHandleByIndex_v2", 15)
    subprocess.run([...], env={**os.environ, **libraries.playing(node, tmp_path)})

A fault is an NVML return code, or ``hang``, ``crash`` (SIGSEGV) or ``noise`` (prints, then goes on).
"""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

__all__ = [
    "EMPTY",
    "FUNCTIONS",
    "H100_MIG",
    "HEALTH",
    "PROFILES",
    "A10Gx1",
    "A100_40x8",
    "A100_80x8",
    "B200x8",
    "BuildError",
    "Fault",
    "GB200x4",
    "H100x1",
    "H100x8",
    "H200x8",
    "L4x1",
    "L40Sx4",
    "LAPTOPx1",
    "Libraries",
    "Node",
    "RTX4090x1",
    "StandinGpu",
    "StandinMig",
    "T4x1",
    "V100x1",
    "V100x2",
    "V100x4",
    "VGPUx1",
    "build",
]

Fault = str | int
"""An NVML return code, or one of ``hang``, ``crash``, ``noise``."""

MIB = 1 << 20

_HERE = Path(__file__).parent

FUNCTIONS: tuple[str, ...] = tuple(
    re.findall(r"^    X\((nvml\w+)\)", (_HERE / "nvml.c").read_text("utf-8"), flags=re.MULTILINE)
)
"""The functions of the stand-in driver, in its own order: those after the count concern one device."""

HEALTH: tuple[str, ...] = tuple(
    re.findall(r"^    X\((\w+), .+\)", (_HERE / "nvml.c").read_text("utf-8"), flags=re.MULTILINE)
)
"""What a GPU says of its health: a healthy H100 unless a node says otherwise. None is "not supported"."""

_OF_ONE_DEVICE = FUNCTIONS[FUNCTIONS.index("nvmlDeviceGetCount_v2") + 1 :]


def _check_faults(faults: Mapping[str, Fault], functions: tuple[str, ...]) -> None:
    """Refuse a fault that could never strike."""
    for function, fault in faults.items():
        if function not in functions:
            raise ValueError(f"the stand-in driver has no function {function!r} that can fail here")
        is_code = isinstance(fault, int) and fault > 0 and function != "nvmlErrorString"
        if not is_code and fault not in ("hang", "crash", "noise"):
            raise ValueError(f"{fault!r} is no fault for {function}")


@dataclass(frozen=True)
class StandinMig:
    """One MIG slice of a GPU."""

    uuid: str
    name: str
    memory_bytes: int
    gpu_instance: int
    compute_instance: int = 0


@dataclass(frozen=True)
class StandinGpu:
    """One GPU. ``mig_enabled`` is None where the device knows no MIG; ``minor`` is its index unless given.

    ``clock_reasons`` are NVML's bits for why the clock is held down, ``clock_reasons_later`` those that it gives from
    the second time on, where they differ; ``sm_clock`` is where, in MHz. ``health`` has keys of ``HEALTH``.
    ``processes`` compute on it: their ids, and the bytes they hold (None: NVML does not know). ``graphics`` draw on
    it. ``odd_link`` is an NVLink of which it says that it has none.
    """

    name: str
    uuid: str
    pci: str
    memory_bytes: int
    compute_capability: tuple[int, int]
    mig_enabled: bool | None = None
    migs: tuple[StandinMig, ...] = ()
    faults: Mapping[str, Fault] = field(default_factory=dict)
    used_bytes: int = 0
    minor: int | None = None
    clock_reasons: int = 0
    clock_reasons_later: int | None = None
    sm_clock: int = 1980
    vbios: str = "96.00.99.00.01"
    health: Mapping[str, int | None] = field(default_factory=dict)
    processes: tuple[tuple[int, int | None], ...] = ()
    graphics: tuple[tuple[int, int | None], ...] = ()
    odd_link: int | None = None

    def __post_init__(self) -> None:
        _check_faults(self.faults, _OF_ONE_DEVICE)
        if unknown := self.health.keys() - set(HEALTH):
            raise ValueError(f"a GPU of the stand-in driver says nothing of {', '.join(sorted(unknown))}")


@dataclass(frozen=True)
class Node:
    """A machine as its NVIDIA driver describes it.

    ``counts`` is how many GPUs the driver says there are, at first and from then on, where it lies. A driver with an
    ``old_library`` lacks the functions of newer ones.
    """

    driver: str = "580.95.05"
    cuda_driver: int = 13000
    gpus: tuple[StandinGpu, ...] = ()
    faults: Mapping[str, Fault] = field(default_factory=dict)
    counts: tuple[int, int] | None = None
    old_library: bool = False

    def __post_init__(self) -> None:
        _check_faults(self.faults, FUNCTIONS)

    def with_faults(self, **faults: Fault) -> Node:
        """The node on which these functions fail, whatever device they ask about."""
        return replace(self, faults={**self.faults, **faults})

    def with_fault(self, function: str, fault: Fault) -> Node:
        """The node on which this function fails. A fault of one ``nvmlInit*`` is a fault of each of them."""
        return self.with_faults(**{function: fault})

    def with_gpu(self, index: int, **changes: Any) -> Node:
        """The node with other facts about one GPU, such as ``used_bytes=10 * MIB``."""
        gpus = list(self.gpus)
        gpus[index] = replace(gpus[index], **changes)
        return replace(self, gpus=tuple(gpus))

    def with_health(self, index: int, **health: int | None) -> Node:
        """The node on which one GPU says this of its health."""
        return self.with_gpu(index, health={**self.gpus[index].health, **health})

    def with_every_health(self, **health: int | None) -> Node:
        """The node on which each GPU says this of its health."""
        return replace(self, gpus=tuple(replace(gpu, health={**gpu.health, **health}) for gpu in self.gpus))

    def with_gpu_fault(self, index: int, function: str, fault: Fault) -> Node:
        """The node on which this function fails for one GPU, its slices included."""
        return self.with_gpu(index, faults={**self.gpus[index].faults, function: fault})

    def with_driver(self, driver: str, cuda_driver: int) -> Node:
        """The node under another driver, such as ``("550.144.03", 12040)``."""
        return replace(self, driver=driver, cuda_driver=cuda_driver)

    def without_gpu(self, index: int) -> Node:
        """The node from which one GPU is gone; the others keep their minor numbers."""
        gpus = [
            replace(gpu, minor=position if gpu.minor is None else gpu.minor) for position, gpu in enumerate(self.gpus)
        ]
        del gpus[index]
        return replace(self, gpus=tuple(gpus))

    def text(self) -> str:
        """The description that the stand-in driver reads."""
        lines: dict[str, object] = {
            "driver": self.driver,
            "nvml": f"{self.cuda_driver // 1000}.{self.driver}",
            "cuda_driver": self.cuda_driver,
        }
        if self.counts:
            lines["count"], lines["count_later"] = self.counts
        lines.update({f"fault.{function}": fault for function, fault in self.faults.items()})
        for index, gpu in enumerate(self.gpus):
            of_gpu: dict[str, object] = {
                "name": gpu.name,
                "uuid": gpu.uuid,
                "pci": gpu.pci,
                "memory": gpu.memory_bytes,
                "used": gpu.used_bytes,
                "compute_capability": "{}.{}".format(*gpu.compute_capability),
                "minor": index if gpu.minor is None else gpu.minor,
                "clock_reasons": gpu.clock_reasons,
                "sm_clock": gpu.sm_clock,
                "mig": {None: "unsupported", False: "disabled", True: "enabled"}[gpu.mig_enabled],
            }
            of_gpu["vbios"] = gpu.vbios
            for key, said in gpu.health.items():
                of_gpu[f"health.{key}"] = "unsupported" if said is None else said
            for kind, processes in (("process", gpu.processes), ("graphics", gpu.graphics)):
                for number, (pid, held) in enumerate(processes):
                    of_gpu[f"{kind}.{number}"] = f"{pid} {'unknown' if held is None else held}"
            if gpu.clock_reasons_later is not None:
                of_gpu["clock_reasons_later"] = gpu.clock_reasons_later
            if gpu.odd_link is not None:
                of_gpu["odd_link"] = gpu.odd_link
            for number, mig in enumerate(gpu.migs):
                of_gpu[f"mig.{number}.name"] = mig.name
                of_gpu[f"mig.{number}.uuid"] = mig.uuid
                of_gpu[f"mig.{number}.memory"] = mig.memory_bytes
                of_gpu[f"mig.{number}.gpu_instance"] = mig.gpu_instance
                of_gpu[f"mig.{number}.compute_instance"] = mig.compute_instance
            of_gpu.update({f"fault.{function}": fault for function, fault in gpu.faults.items()})
            lines.update({f"gpu.{index}.{key}": value for key, value in of_gpu.items()})
        for key, value in lines.items():
            if str(value) != str(value).strip() or len(str(value).splitlines()) > 1:
                raise ValueError(f"{key}: {value!r} does not fit on a line")
        return "".join(f"{key} = {value}\n" for key, value in lines.items())

    def write(self, path: Path) -> None:
        """Write the description to the file that ``STANDIN_NODE`` is to name."""
        # A driver may well give bytes that are not UTF-8.
        path.write_text(self.text(), "utf-8", errors="surrogateescape")


class BuildError(RuntimeError):
    """The compiler refused a stand-in, or there is none."""


@dataclass(frozen=True)
class Libraries:
    """The compiled stand-ins, and the environment variables that put them in a process's way."""

    driver_folder: Path
    old_driver_folder: Path
    host: Path

    def playing(self, node: Node | Path, folder: Path, *, calls: Path | None = None) -> dict[str, str]:
        """The environment of a process on that node, whose description is kept in ``folder``.

        ``calls`` names a file to which the name of every driver function called is appended.
        """
        library = self.driver_folder
        if isinstance(node, Path):
            path = node
        else:
            path = folder / f"{uuid.uuid4().hex}.node"
            node.write(path)
            library = self.old_driver_folder if node.old_library else library
        environ = {"LD_LIBRARY_PATH": str(library), "STANDIN_NODE": str(path)}
        if calls is not None:
            environ["STANDIN_CALLS"] = str(calls)
        return environ

    def on_host(
        self,
        *,
        sysname: str | None = None,
        machine: str | None = None,
        release: str | None = None,
        glibc: str | None = None,
        clock: str | None = None,
        adjtimex: str | None = None,
    ) -> dict[str, str]:
        """The environment of a process that sees another host.

        ``release`` is the kernel's, ``glibc`` such as "glibc 2.17", or "none"; ``clock`` is by how many seconds the
        clock is ahead, ``adjtimex`` what that call returns: "5" where the clock is not synchronised, else "0".
        """
        named = {
            "STANDIN_SYSNAME": sysname,
            "STANDIN_MACHINE": machine,
            "STANDIN_RELEASE": release,
            "STANDIN_GLIBC": glibc,
            "STANDIN_CLOCK": clock,
            "STANDIN_ADJTIMEX": adjtimex,
        }
        changes = {variable: value for variable, value in named.items() if value is not None}
        return {"LD_PRELOAD": str(self.host), **changes}


def build(folder: Path) -> Libraries:
    """Compile the stand-in libraries into ``folder``."""
    libraries = Libraries(folder / "driver", folder / "old_driver", folder / "libstandin_host.so")
    for place, flags in ((libraries.driver_folder, []), (libraries.old_driver_folder, ["-DOLD_DRIVER"])):
        place.mkdir(parents=True, exist_ok=True)
        _compile(_HERE / "nvml.c", place / "libnvidia-ml.so.1", *flags)
    _compile(_HERE / "host.c", libraries.host, "-ldl")
    return libraries


def _compile(source: Path, library: Path, *arguments: str) -> None:
    compiler = os.environ.get("CC", "cc")
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror"]
    command = [*compiler.split(), *flags, str(source), "-o", str(library), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except OSError as error:
        raise BuildError(f"the stand-ins need a C compiler, and {compiler!r} cannot be run: {error}") from error
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def _uuid(kind: str, *place: object) -> str:
    """A UUID that is the same in every run."""
    return f"{kind}-{uuid.uuid5(uuid.NAMESPACE_OID, ' '.join(map(str, place)))}"


_BUSES_OF_EIGHT = ("53", "64", "75", "86", "97", "A8", "B9", "CA")


def _gpus(
    name: str,
    mib: int,
    compute_capability: tuple[int, int],
    *,
    addresses: tuple[str, ...] = ("00000000:00:1E.0",),
    mig_enabled: bool | None = None,
    vbios: str = "96.00.99.00.01",
    health: Mapping[str, int | None] | None = None,
) -> tuple[StandinGpu, ...]:
    return tuple(
        StandinGpu(
            name=name,
            uuid=_uuid("GPU", name, address),
            pci=address,
            memory_bytes=mib * MIB,
            compute_capability=compute_capability,
            mig_enabled=mig_enabled,
            vbios=vbios,
            health=health or {},
        )
        for address in addresses
    )


Health = Mapping[str, int | None]


def _power(watts: int) -> Health:
    return {"power_limit": watts * 1000, "power_limit_default": watts * 1000}


def _clocks(mhz: int, application: int | None) -> Health:
    """The highest clock, and the applications clock of a new board; None where there is no such setting."""
    return {
        "clock_max": mhz,
        "clock_application": application,
        "clock_application_default": application,
    }


def _hot_at(operating: int, slowdown: int, shutdown: int) -> Health:
    return {
        "temperature": 41,
        "temperature_operating": operating,
        "temperature_slowdown": slowdown,
        "temperature_shutdown": shutdown,
        "temperature_margin": None,
        "temperature_slowdown_tlimit": None,
        "temperature_operating_tlimit": None,
    }


_NO_FABRIC: Health = {"fabric_state": None}
_NO_NVLINK: Health = {**_NO_FABRIC, "nvlinks": None, "nvlinks_up": 0}
_NO_NVLINK_COUNTERS: Health = {"nvlink_replays": None, "nvlink_recoveries": None, "nvlink_crc_errors": None}
_BEFORE_R565: Health = {"recovery_action": None}
# Before Ampere, memory that is bad is retired by the page, and no row takes its place.
_PAGES: Health = {
    **_BEFORE_R565,
    "row_remap_pending": None,
    "pages_retired_single": 0,
    "pages_retired_double": 0,
    "page_retirement_pending": 0,
    "sram_threshold_exceeded": None,
}
_A100: Health = {
    **_NO_FABRIC,
    **_BEFORE_R565,
    **_power(400),
    **_clocks(1410, 1095),
    **_hot_at(85, 89, 92),
    "nvlinks": 12,
    "nvlinks_up": 0xFFF,
    "pcie_generation_max": 4,
}
_DESKTOP: Health = {
    **_NO_NVLINK,
    **_BEFORE_R565,
    **_clocks(3105, None),
    **_hot_at(84, 90, 92),
    "ecc_mode": None,
    "ecc_volatile": None,
    "ecc_aggregate": None,
    "sram_threshold_exceeded": None,
    "row_remap_pending": None,
    "pcie_generation_max": 4,
    "persistence": 0,
    "inforom": None,
}

_EIGHT = tuple(f"00000000:{bus}:00.0" for bus in _BUSES_OF_EIGHT)

H100x8 = Node(gpus=_gpus("NVIDIA H100 80GB HBM3", 81559, (9, 0), addresses=_EIGHT, mig_enabled=False))
# One of the eight, with a machine of its own: its links lead nowhere.
H100x1 = Node(
    gpus=_gpus(
        "NVIDIA H100 80GB HBM3",
        81559,
        (9, 0),
        addresses=("00000000:30:00.0",),
        mig_enabled=False,
        health={"nvlinks_up": 0, "fabric_state": 0, "temperature": 34},
    )
)
H200x8 = Node(
    gpus=_gpus("NVIDIA H200", 143771, (9, 0), addresses=_EIGHT, mig_enabled=False, health={"temperature": 33})
)
B200x8 = Node(
    gpus=_gpus(
        "NVIDIA B200",
        183359,
        (10, 0),
        addresses=_EIGHT,
        mig_enabled=False,
        vbios="97.00.B9.00.76",
        health={**_NO_NVLINK_COUNTERS, **_power(1000), **_clocks(1965, None), "temperature": 35},
    )
)
GB200x4 = Node(
    gpus=_gpus(
        "NVIDIA GB200",
        189471,
        (10, 0),
        addresses=tuple(f"0000{domain}:01:00.0" for domain in ("0008", "0009", "0018", "0019")),
        mig_enabled=False,
        vbios="97.00.82.00.2F",
        health={
            **_NO_NVLINK_COUNTERS,
            **_power(1200),
            **_clocks(2062, None),
            "temperature": 37,
            "fabric_health": 0x51AA,
            "pcie_width": 1,
            "pcie_replays": None,
        },
    )
)
A100_40x8 = Node(
    gpus=_gpus(
        "NVIDIA A100-SXM4-40GB",
        40960,
        (8, 0),
        addresses=_EIGHT,
        mig_enabled=False,
        vbios="92.00.45.00.03",
        health=_A100,
    )
)
A100_80x8 = Node(
    gpus=_gpus(
        "NVIDIA A100-SXM4-80GB",
        81920,
        (8, 0),
        addresses=_EIGHT,
        mig_enabled=False,
        vbios="92.00.45.00.05",
        health=_A100,
    )
)
# As in AWS's machines: a slot of eight lanes for a card of sixteen.
T4x1 = Node(
    gpus=_gpus(
        "Tesla T4",
        15360,
        (7, 5),
        vbios="90.04.A7.00.01",
        health={
            **_NO_NVLINK,
            **_PAGES,
            **_power(70),
            **_clocks(1590, 585),
            **_hot_at(85, 93, 96),
            "pcie_generation_max": 3,
            "pcie_width": 8,
        },
    )
)
A10Gx1 = Node(
    "550.144.03",
    12040,
    gpus=_gpus(
        "NVIDIA A10G",
        23028,
        (8, 6),
        vbios="94.02.75.00.01",
        health={
            **_NO_NVLINK,
            **_BEFORE_R565,
            **_power(300),
            **_clocks(1710, 1710),
            **_hot_at(88, 95, 98),
            "pcie_generation_max": 4,
            "pcie_width": 8,
        },
    ),
)
L4x1 = Node(
    gpus=_gpus(
        "NVIDIA L4",
        23034,
        (8, 9),
        vbios="95.04.29.00.06",
        health={
            **_NO_NVLINK,
            **_power(72),
            **_clocks(2040, 2040),
            **_hot_at(85, 92, 95),
            "pcie_generation_max": 4,
        },
    )
)
L40Sx4 = Node(
    gpus=_gpus(
        "NVIDIA L40S",
        46068,
        (8, 9),
        addresses=_EIGHT[:4],
        vbios="95.02.66.00.02",
        health={
            **_NO_NVLINK,
            **_power(350),
            **_clocks(2520, 2520),
            **_hot_at(88, 95, 98),
            "pcie_generation_max": 4,
        },
    )
)
RTX4090x1 = Node(
    gpus=_gpus(
        "NVIDIA GeForce RTX 4090",
        24564,
        (8, 9),
        addresses=("00000000:01:00.0",),
        vbios="95.02.3C.00.92",
        health={**_DESKTOP, **_power(450)},
    )
)
LAPTOPx1 = Node(
    gpus=_gpus(
        "NVIDIA GeForce RTX 4070 Laptop GPU",
        8188,
        (8, 9),
        addresses=("00000000:01:00.0",),
        vbios="95.06.1F.00.5B",
        health={**_DESKTOP, "power_limit": None, "power_limit_default": None, "pcie_width": 8, "pcie_width_max": 8},
    )
)
_V100: Health = {
    **_PAGES,
    **_NO_FABRIC,
    **_power(300),
    **_clocks(1530, 1312),
    **_hot_at(83, 87, 90),
    "pcie_generation_max": 3,
    "nvlinks": 6,
    "nvlinks_up": 0,
}


def _v100s(number: int, links_up: int) -> Node:
    """A board for fewer of them than eight leaves some of their links unused."""
    addresses = ("00000000:00:1E.0",) if number == 1 else _EIGHT[:number]
    health = {**_V100, "nvlinks_up": links_up}
    return Node(
        gpus=_gpus("Tesla V100-SXM2-16GB", 16384, (7, 0), addresses=addresses, vbios="88.00.4F.00.09", health=health)
    )


V100x1 = _v100s(1, 0)
V100x2 = _v100s(2, 0b000101)
V100x4 = _v100s(4, 0b001111)
# A virtual GPU says next to nothing of the board that it is a part of.
_SAID_OF_A_PART = ("memory_reserved", "mig_pending", "nvlinks_up")
VGPUx1 = Node(
    gpus=_gpus(
        "NVIDIA A100-2-10C",
        10240,
        (8, 0),
        vbios="00.00.00.00.00",
        health={**{key: None for key in HEALTH if key not in _SAID_OF_A_PART}, "nvlinks_up": 0},
    )
)
EMPTY = Node()
"""The driver loads and finds no GPU."""

H100_MIG = Node(
    gpus=(
        replace(
            H100x8.gpus[0],
            uuid=_uuid("GPU", "H100 with MIG"),
            mig_enabled=True,
            # With instances on it, NVML tells neither of its rows nor of its links.
            health={"row_remap_pending": None, "nvlinks": None, "fabric_state": None},
            migs=tuple(
                StandinMig(
                    uuid=_uuid("MIG", "H100", instance),
                    name="NVIDIA H100 80GB HBM3 MIG 3g.40gb",
                    memory_bytes=40448 * MIB,
                    gpu_instance=instance,
                )
                for instance in (1, 2)
            ),
        ),
    )
)

PROFILES = {
    "T4": T4x1,
    "V100, one of its node": V100x1,
    "V100, two on a board": V100x2,
    "V100, four on a board": V100x4,
    "A10G": A10Gx1.with_driver("580.95.05", 13000),
    "L4": L4x1,
    "L40S": L40Sx4,
    "A100 40 GB": A100_40x8,
    "A100 80 GB": A100_80x8,
    "H100": H100x8,
    "H100, one of its node": H100x1,
    "H200": H200x8,
    "B200": B200x8,
    "GB200": GB200x4,
    "MIG slices": H100_MIG,
    "MIG slices, their GPU closed": H100_MIG.with_gpu_fault(0, "nvmlDeviceGetMemoryInfo", 4),
    "container with one GPU of eight": replace(H100x8, gpus=H100x8.gpus[3:4]),
    "job with two GPUs of eight": replace(
        H100x8,
        gpus=tuple(
            replace(gpu, faults={} if index in (2, 3) else {"nvmlDeviceGetHandleByIndex_v2": 4})
            for index, gpu in enumerate(H100x8.gpus)
        ),
    ),
    "workstation": RTX4090x1,
    "laptop": LAPTOPx1,
    "virtual GPU": VGPUx1,
}
"""Healthy nodes: no check finds fault with one of them."""
