"""Rules of compatibility that a check states and that the needs of other checks ask about."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from enum import Enum

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from pytest_bionemo.facts import drivers, family, gpus, instances, versions, wheels, xids
from pytest_bionemo.facts import host as host_facts
from pytest_bionemo.facts.instances import Instance
from pytest_bionemo.model import GpuEnv
from pytest_bionemo.probes import kernel_log, mounts, packages, storage
from pytest_bionemo.probes.fabric import Fabric
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.kernel_log import KernelLog, PciAddress, Xid
from pytest_bionemo.probes.libraries import CudaLibrary
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.mounts import Mount
from pytest_bionemo.probes.platforms import Platform
from pytest_bionemo.probes.torch_build import TorchBuild


def is_linux(host: Host) -> bool:
    """Whether the operating system is the one that PyTorch for CUDA and BioNeMo are made for."""
    return host.system == "Linux"


def has_torch_processor(host: Host) -> bool:
    """Whether PyTorch for CUDA is built for this processor."""
    return host.machine in wheels.supported_machines()


def has_torch_glibc(host: Host) -> bool:
    """Whether the C library can load PyTorch's wheels."""
    if host.glibc is None or not versions.is_version(host.glibc):
        return False
    return versions.leading(host.glibc) >= versions.leading(wheels.minimum_glibc())


def python_problem(host: Host) -> str | None:
    """Why PyTorch has no wheel for this Python, as in "Python 3.9"; None where it has one."""
    if host.python_bits != 64:
        return f"a {host.python_bits}-bit Python"
    version = versions.leading(host.python)
    too_new = version.release[:2] > Version(host_facts.newest_python()).release[:2]
    admitted = any(SpecifierSet(wheel.python).contains(version, prereleases=True) for wheel in wheels.releases())
    return None if admitted and not too_new else f"Python {host.python}"


def has_package_with_cache() -> bool:
    """Whether a BioNeMo package is installed that makes its cache folder when it is imported."""
    return any(known.makes_cache and packages.find(known.name) for known in family.packages())


class LibcudaProblem(Enum):
    """What can be wrong with a libcuda that comes before the driver's own."""

    STUB = "stub"
    STALE = "stale"
    FORWARD_COMPATIBILITY_UNSUPPORTED = "forward compatibility unsupported"


def driver_runs(env: GpuEnv, torch: TorchBuild, library: CudaLibrary | None) -> bool | None:
    """Whether this driver runs the CUDA that torch was built for; None where no table knows that CUDA.

    The family's minimum decides (minor-version compatibility), of the driver or of a fitting ``library`` that
    comes before its own (forward compatibility). A torch that has read its devices has initialised CUDA, which
    proves more than a table: so families newer than the table pass too.
    """
    if torch.devices:
        return True
    minimum = drivers.family_minimum(torch.cuda or "")
    driver = effective_driver(env, torch, library)
    if minimum is None or driver is None:
        return None
    return not drivers.is_older(driver, minimum)


def effective_driver(env: GpuEnv, torch: TorchBuild, library: CudaLibrary | None) -> str | None:
    """The driver whose CUDA programs get: that of this machine, or a newer libcuda that fits and comes before."""
    if library is None or library.version is None or libcuda_problem(library, env, torch):
        return env.driver
    is_newer = env.driver is not None and drivers.is_older(env.driver, library.version)
    return library.version if is_newer else env.driver


def libcuda_problem(library: CudaLibrary | None, env: GpuEnv, torch: TorchBuild) -> LibcudaProblem | None:
    """What is wrong with the libcuda that LD_LIBRARY_PATH puts first, None if nothing is known to be.

    A torch that has read its devices has used it: that proves more than its name.
    """
    if library is None or torch.devices:
        return None
    if library.is_stub:
        return LibcudaProblem.STUB
    if library.version is None or env.driver is None:
        return None
    if drivers.is_older(library.version, env.driver):
        return LibcudaProblem.STALE
    if drivers.is_older(env.driver, library.version) and not are_data_centre_gpus(env):
        return LibcudaProblem.FORWARD_COMPATIBILITY_UNSUPPORTED
    return None


def are_data_centre_gpus(env: GpuEnv) -> bool:
    """Whether all GPUs are of the kind on which NVIDIA supports forward compatibility."""
    # A model that the table does not know is given the benefit of the doubt: torch will say what it sees.
    models = [gpus.find(gpu.name, gpu.memory_bytes) for gpu in env.gpus if gpu.name]
    return all(model is None or model.segment == "datacenter" for model in models)


def is_given_efa(fabric: Fabric, host: Host) -> bool:
    """Whether this run may use EFA adapters: a container is often given none, or fewer than its machine has."""
    return not host.container or any(adapter.node for adapter in fabric.efa)


_HERE = "the current folder"


def users_of(found: Collection[Mount], machine: Machine) -> dict[str, str]:
    """What of this run comes to one of these mounts: names ("HF_HOME"), and the place of the mount."""
    variables = machine.environment
    wanted = [
        (name, path)
        for path, names in storage.folders(variables, variables.get("HOME") or "/").items()
        for name in names
        if name not in (storage.SHARED_MEMORY, storage.SPARE)
    ]
    with suppress(OSError):  # it has been removed
        wanted.append((_HERE, os.getcwd()))  # noqa: PTH109
    return {name: on[0].path for name, path in wanted if (on := mounts.touched(_absolute(path, wanted), found))}


def _absolute(path: str, wanted: Collection[tuple[str, str]]) -> str:
    return os.path.join(dict(wanted).get(_HERE, "/"), path)  # noqa: PTH118


def unwell_folder(machine: Machine) -> str | None:
    """The place of a shared file system that does not answer as it should, and that training writes to."""
    unwell = {
        *mounts.silent(machine.shared_mounts, machine.mount_answers),
        *mounts.broken(machine.shared_mounts, machine.mount_answers),
    }
    users = users_of(unwell, machine) if unwell else {}
    return next((place for name, place in users.items() if name != _HERE), None)


def unwell_surrounding(machine: Machine) -> str | None:
    """The place of a shared file system that keeps silent, and at which whoever looked around the machine hung."""
    folder = machine.surroundings.silent_folder
    silent = mounts.silent(machine.shared_mounts, machine.mount_answers) if folder else ()
    return next((mount.path for mount in mounts.touched(folder or "/", silent)), None)


def instance_of(platform: Platform) -> tuple[Instance | None, str]:
    """The type of this instance as the table has it, or why nothing can be judged by that."""
    if platform.instance_type is None:
        where = "no file tells it" if platform.cloud or platform.hyperpod else "no cloud is recognised"
        return None, f"the instance type is not known: {where}, and no metadata service is asked"
    found = instances.find(platform.instance_type)
    if found is None:
        return None, f"the instance type {platform.instance_type} is not on record"
    if not found.is_sure:
        return None, f"what is on record for {found.name} is not sure enough to judge by it"
    return found, ""


def open_xids(log: KernelLog, address: PciAddress) -> list[tuple[Xid, xids.Class | None]]:
    """Those of this GPU, with what each asks for; without what the driver has taken back since then (Xid 154).

    None where the driver says what it wants in words that are not on record.
    """
    found: list[tuple[Xid, xids.Class | None]] = []
    for xid in log.xids:
        if xid.address != address:
            continue
        kind: xids.Class | None = xids.find(xid.code).kind
        if kind == "told":
            kind = xids.told(xid.text)
            if kind == "none":
                found.clear()
                continue
        found.append((xid, kind))
    return found


def sees_part(env: GpuEnv, host: Host) -> bool:
    """Whether the machine may have GPUs that are not this user's, of which the kernel's log tells all the same."""
    return bool(env.hidden_gpus or host.container)


def lost_gpus(env: GpuEnv, log: KernelLog, host: Host) -> dict[PciAddress, list[Xid]]:
    """The GPUs that the driver no longer shows, by their address: those Xids of theirs that ask for something."""
    known = [kernel_log.address_of(gpu.pci_address) for gpu in env.gpus]
    if None in known or not known or sees_part(env, host):
        return {}
    lost: dict[PciAddress, list[Xid]] = {}
    for address in dict.fromkeys(xid.address for xid in log.xids if xid.address not in known):
        found = [xid for xid, kind in open_xids(log, address) if kind in ("drain", "reset", "reboot", "replace")]
        if found:
            lost[address] = found
    return lost
