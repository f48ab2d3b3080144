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
    "A10Gx1",
    "B200x8",
    "BuildError",
    "Fault",
    "H100x8",
    "Libraries",
    "Node",
    "RTX4090x1",
    "StandinGpu",
    "StandinMig",
    "T4x1",
    "V100x1",
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

    ``clock_reasons`` are NVML's bits for why the clock is held down, ``sm_clock`` is where, in MHz.
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
    sm_clock: int = 1980

    def __post_init__(self) -> None:
        _check_faults(self.faults, _OF_ONE_DEVICE)


@dataclass(frozen=True)
class Node:
    """A machine as its NVIDIA driver describes it."""

    driver: str = "580.95.05"
    cuda_driver: int = 13000
    gpus: tuple[StandinGpu, ...] = ()
    faults: Mapping[str, Fault] = field(default_factory=dict)

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
        path.write_text(self.text(), "utf-8")


class BuildError(RuntimeError):
    """The compiler refused a stand-in, or there is none."""


@dataclass(frozen=True)
class Libraries:
    """The compiled stand-ins, and the environment variables that put them in a process's way."""

    driver_folder: Path
    host: Path

    def playing(self, node: Node | Path, folder: Path, *, calls: Path | None = None) -> dict[str, str]:
        """The environment of a process on that node, whose description is kept in ``folder``.

        ``calls`` names a file to which the name of every driver function called is appended.
        """
        if isinstance(node, Path):
            path = node
        else:
            path = folder / f"{uuid.uuid4().hex}.node"
            node.write(path)
        environ = {"LD_LIBRARY_PATH": str(self.driver_folder), "STANDIN_NODE": str(path)}
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
    folder.mkdir(parents=True, exist_ok=True)
    driver_folder = folder / "driver"
    driver_folder.mkdir(exist_ok=True)
    libraries = Libraries(driver_folder=driver_folder, host=folder / "libstandin_host.so")
    _compile(_HERE / "nvml.c", driver_folder / "libnvidia-ml.so.1")
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
) -> tuple[StandinGpu, ...]:
    return tuple(
        StandinGpu(
            name=name,
            uuid=_uuid("GPU", name, address),
            pci=address,
            memory_bytes=mib * MIB,
            compute_capability=compute_capability,
            mig_enabled=mig_enabled,
        )
        for address in addresses
    )


_EIGHT = tuple(f"00000000:{bus}:00.0" for bus in _BUSES_OF_EIGHT)

H100x8 = Node(gpus=_gpus("NVIDIA H100 80GB HBM3", 81559, (9, 0), addresses=_EIGHT, mig_enabled=False))
B200x8 = Node(gpus=_gpus("NVIDIA B200", 183359, (10, 0), addresses=_EIGHT, mig_enabled=False))
T4x1 = Node(gpus=_gpus("Tesla T4", 15360, (7, 5)))
A10Gx1 = Node("550.144.03", 12040, gpus=_gpus("NVIDIA A10G", 23028, (8, 6)))
RTX4090x1 = Node(gpus=_gpus("NVIDIA GeForce RTX 4090", 24564, (8, 9), addresses=("00000000:01:00.0",)))
V100x1 = Node(gpus=_gpus("Tesla V100-SXM2-16GB", 16384, (7, 0)))
EMPTY = Node()
"""The driver loads and finds no GPU."""

H100_MIG = Node(
    gpus=(
        replace(
            H100x8.gpus[0],
            uuid=_uuid("GPU", "H100 with MIG"),
            mig_enabled=True,
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
