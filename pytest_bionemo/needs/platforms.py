"""The platform around the machine, its networks and its file systems."""

from __future__ import annotations

import pytest

from pytest_bionemo import rules
from pytest_bionemo.checking import not_applicable, wait_for
from pytest_bionemo.facts.instances import Instance
from pytest_bionemo.needs.established import ESTABLISHED_BY
from pytest_bionemo.probes.child import Answer
from pytest_bionemo.probes.fabric import Fabric
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.mounts import Mount
from pytest_bionemo.probes.platforms import Databricks, HyperPod, Platform, Slurm
from pytest_bionemo.probes.platforms.slurm import Containers


def _require_told(what: str, machine: Machine) -> None:
    if what in machine.surroundings.said:
        return
    if place := rules.unwell_surrounding(machine):
        wait_for(ESTABLISHED_BY["shared_folders"], f"{place} does not answer")
    wait_for(None, f"the {what} could not be looked at: {machine.surroundings.failure}")


@pytest.fixture(scope="session")
def platform(linux: Host, machine: Machine) -> Platform:
    """The platforms that this is, none or several."""
    _require_told("platform", machine)
    return machine.platform


@pytest.fixture(scope="session")
def fabric(linux: Host, machine: Machine) -> Fabric:
    """The network between nodes."""
    _require_told("fabric", machine)
    assert machine.fabric, "it was told"
    return machine.fabric


@pytest.fixture(scope="session")
def instance(platform: Platform) -> Instance:
    """The type of this instance, as the table has it."""
    found, unknown = rules.instance_of(platform)
    if found is None:
        not_applicable(unknown)
    return found


@pytest.fixture(scope="session")
def efa(fabric: Fabric) -> Fabric:
    """A machine with adapters of AWS for traffic between nodes (EFA)."""
    if not fabric.efa:
        not_applicable("there is no EFA adapter here (/sys/class/infiniband has none of the driver efa)")
    return fabric


@pytest.fixture(scope="session")
def libfabric(efa: Fabric, host: Host) -> Fabric:
    """The same with a libfabric that programs find."""
    if not rules.is_given_efa(efa, host):
        not_applicable("this container was given no EFA adapter: /dev/infiniband has none")
    if efa.libfabric is None or not efa.libfabric.is_found:
        wait_for(ESTABLISHED_BY["libfabric"], "programs do not find libfabric")
    return efa


@pytest.fixture(scope="session")
def hyperpod(platform: Platform) -> HyperPod:
    """A node of SageMaker HyperPod."""
    if platform.hyperpod is None:
        not_applicable("this is no SageMaker HyperPod")
    return platform.hyperpod


@pytest.fixture(scope="session")
def slurm(platform: Platform) -> Slurm:
    """A node of Slurm."""
    if platform.slurm is None:
        not_applicable("this is no node of Slurm")
    return platform.slurm


@pytest.fixture(scope="session")
def slurm_containers(slurm: Slurm, machine: Machine) -> Containers:
    """How this node of Slurm starts containers."""
    _require_told("containers", machine)
    found = machine.surroundings.containers
    if found is None:
        not_applicable("Slurm's configuration has no pyxis (plugstack.conf)")
    return found


@pytest.fixture(scope="session")
def databricks(platform: Platform) -> Databricks:
    """Databricks compute."""
    if platform.databricks is None:
        not_applicable("this is not Databricks")
    return platform.databricks


@pytest.fixture(scope="session")
def mount_table(linux: Host, machine: Machine) -> tuple[Mount, ...]:
    """Every mount of this process."""
    if machine.mount_table is None:
        wait_for(None, "/proc/self/mountinfo names no mount, so that nobody knows which file systems there are")
    return machine.mount_table


@pytest.fixture(scope="session")
def shared_mounts(mount_table: tuple[Mount, ...], machine: Machine) -> tuple[Mount, ...]:
    """The file systems that this machine shares with others, at least one."""
    if not machine.shared_mounts:
        not_applicable("no file system is mounted that machines share")
    return machine.shared_mounts


@pytest.fixture(scope="session")
def mount_answers(shared_mounts: tuple[Mount, ...], machine: Machine) -> Answer:
    """What each of them answered, asked in a child process."""
    return machine.mount_answers
