"""Which torch build runs on a machine, and how to install it, from ``wheels.toml``.

The architectures in the table are those of the Linux x86-64 builds; those of PyPI's CUDA builds for aarch64 are
taken to be the same. Every function raises FactsError when the table cannot be read.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from pytest_bionemo.facts import architectures, drivers, load
from pytest_bionemo.facts.versions import leading

__all__ = [
    "Wheel",
    "best_for",
    "install",
    "is_cuda_build",
    "minimum_glibc",
    "releases",
    "supported_machines",
]


@dataclass(frozen=True)
class Wheel:
    """One torch build. Versions are text; None stands for "not recorded", never for "not in the build"."""

    torch: str
    python: str
    """The Python versions that it admits, as a version specifier (">=3.10")."""
    cuda: str
    channel: str
    """The PyTorch wheel index's name for this CUDA build ("cu130")."""
    index: Literal["pypi", "pytorch"]
    cudnn: str | None
    nccl: str | None
    triton: str | None
    architectures: tuple[str, ...] | None
    """Compute capabilities with a binary in the build ("8.6")."""
    ptx: tuple[str, ...]
    """Compute capabilities recorded as PTX; empty where none is recorded."""

    def covers(self, capability: tuple[int, int]) -> bool:
        """Whether a recorded binary serves this device.

        PTX does not count: it needs a driver as new as the toolkit, which the family rule does not promise.
        """
        names = [architectures.binary(one) for one in self.architectures or ()]
        return architectures.match(names, capability) is not None


@functools.cache
def releases() -> tuple[Wheel, ...]:
    """Every recorded torch build, in the table's order."""
    return tuple(_wheel(row) for row in load("wheels")["release"])


def best_for(driver: str | None, capabilities: Iterable[tuple[int, int]], python: str, machine: str) -> Wheel | None:
    """The build to recommend for this driver (None: any), these devices, this Python ("3.11") and processor.

    None when no recorded build is known to fit. A build fits when the driver reaches the minimum of its CUDA
    family, its specifier admits the Python, it is a CUDA build on that processor and its recorded architectures
    serve every device. A build whose architectures are not recorded is never recommended.

    The newest fitting release on PyPI wins. A build that only the PyTorch wheel index has is the last resort,
    even when it is newer: PyPI holds a build of the same version for another CUDA, so the next plain
    ``pip install`` that changes torch would bring in the one that this driver or device cannot run.

    Specifiers of torch name no highest Python, so a Python newer than the release may pass here and find no
    wheel. Raises ValueError when ``driver`` or ``python`` is no version.
    """
    return _best(releases(), _Place(python, machine, driver), tuple(capabilities))


def install(wheel: Wheel, installed: str | None = None, *, is_broken: bool = False) -> str:
    """How to install the build: a command ("$ pip install ...") for PyPI, a sentence for the wheel index.

    ``installed`` is the version that it replaces, which may be a broken one. Where pip would be content with what
    is there, it must be forced.
    """
    torch = _minor(wheel.torch)
    force = is_broken or (installed is not None and _minor(installed) == torch)
    if wheel.index == "pypi":
        return f'$ pip install {"--force-reinstall " if force else ""}"torch=={torch}.*"'
    return (
        f"install torch {torch} for CUDA {_minor(wheel.cuda)} from the PyTorch wheel index, "
        f"channel {wheel.channel}{', with --force-reinstall' if force else ''} "
        "(see pytorch.org/get-started/previous-versions)"
    )


def is_cuda_build(wheel: Wheel, machine: str) -> bool:
    """Whether the build for this processor is known to be one for CUDA."""
    before = [row["before"] for row in load("wheels")["cpu_only"] if row["machine"] == machine]
    if wheel.index != "pypi":
        return not before  # what the index holds for such a processor is not recorded
    return all(Version(wheel.torch) >= Version(release) for release in before)


def minimum_glibc() -> str:
    """The oldest glibc that current torch wheels for Linux run on."""
    return str(load("wheels")["wheel_platform"]["glibc"])


def supported_machines() -> tuple[str, ...]:
    """The processors that current torch wheels for Linux exist for, named as by ``platform.machine()``."""
    return tuple(load("wheels")["wheel_platform"]["machines"])


@dataclass(frozen=True)
class _Place:
    """Where a build is to run: the Python ("3.11"), the processor ("x86_64") and the driver, None for any."""

    python: str
    machine: str
    driver: str | None


def _best(wheels: Sequence[Wheel], place: _Place, capabilities: Sequence[tuple[int, int]]) -> Wheel | None:
    Version(place.python)  # raises for what is no version; a specifier would only say that it does not match
    fitting = [wheel for wheel in wheels if _fits(wheel, place, capabilities)]
    return max(fitting, key=lambda wheel: (wheel.index == "pypi", Version(wheel.torch)), default=None)


def _fits(wheel: Wheel, place: _Place, capabilities: Sequence[tuple[int, int]]) -> bool:
    minimum = drivers.family_minimum(wheel.cuda)
    return (
        wheel.architectures is not None
        and minimum is not None
        and (place.driver is None or not drivers.is_older(place.driver, minimum))
        and SpecifierSet(wheel.python).contains(place.python, prereleases=True)
        and is_cuda_build(wheel, place.machine)
        and all(wheel.covers(capability) for capability in capabilities)
    )


def _wheel(row: Mapping[str, Any]) -> Wheel:
    channel = _channel(row["channel"], row["torch"])
    recorded = channel.get("architectures")
    return Wheel(
        torch=row["torch"],
        python=row["python"],
        cuda=row["cuda"],
        channel=row["channel"],
        index=row["index"],
        cudnn=row.get("cudnn"),
        nccl=row.get("nccl"),
        triton=row.get("triton"),
        architectures=None if recorded is None else tuple(recorded),
        ptx=tuple(channel.get("ptx", ())),
    )


def _channel(name: str, torch: str) -> Mapping[str, Any]:
    """The row that says what this channel held for this torch; an empty one when there is none."""
    rows: Sequence[Mapping[str, Any]] = load("wheels")["channel"]
    return next((row for row in rows if row["name"] == name and _in_range(torch, row)), {})


def _in_range(torch: str, channel: Mapping[str, Any]) -> bool:
    """Both ends of a channel's range are minor releases and belong to it; without ``to`` it is open."""
    release = Version(torch).release[:2]
    after_start = Version(channel["from"]).release[:2] <= release
    return after_start and ("to" not in channel or release <= Version(channel["to"]).release[:2])


def _minor(version: str) -> str:
    return ".".join(str(number) for number in leading(version).release[:2])
